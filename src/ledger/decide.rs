//! What a request comes to: the changes that keep it, what is true once they are durable, and the answer. Nothing is
//! done here; a refusal, or a commit that fails, leaves everything as it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Came, answers, books::Books, ports::Cut, revisions, sign_ins, task::Task, views};
use crate::{
    model::{
        Action, Desired, EndedToken, InstanceId, KnownCredential, KnownToken, MemberName, OffboardingReport, Principal,
        Refusal, Secret, Subject, TokenCreated, TokenId, TokenScope,
    },
    plan::{
        admit::{Book, Decision, NewToken, admit},
        exchange::{Asked, Report},
        order::spec_hash_of,
        people::{self, People},
        sourced::concrete,
    },
    policy::{self, Access, Known, Signed, Target, Verb},
    record::{InstanceRecord, Mark, Sourced, TokenRecord},
    secret::random,
    store::Change,
    writes::Write,
};

/// What a request comes to, once its changes are durable.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) changes: Vec<Change>,
    pub(super) then: Vec<Then>,
    pub(super) came: Came,
}

/// What is done when the changes are durable.
#[derive(Debug)]
pub(super) enum Then {
    /// The edge knows a token.
    Open(Box<TokenRecord>),
    /// The edge refuses a token.
    Close(TokenId),
    /// The edge refuses a token from this time on, and lets what it opened go on until then.
    Shorten(TokenId, jiff::Timestamp),
    /// The edge refuses every token of an instance.
    CloseAll(InstanceId),
    /// These members may do less than before.
    Narrow(BTreeSet<MemberName>),
    /// Sessions of this member end.
    SignOut(MemberName),
    /// The instance's volume can be emptied without the engine, or (false) it is gone.
    Removed(Box<InstanceRecord>, bool),
    /// An instance shall be something else.
    ShallBe(InstanceId, u64, Desired),
    /// Its credentials changed, for so many times by now.
    Changed(InstanceId, u64),
    Gone(InstanceId),
}

impl Decided {
    pub(super) fn nothing(came: Came) -> Self {
        Self {
            changes: Vec::new(),
            then: Vec::new(),
            came,
        }
    }
}

impl Task {
    /// Admits an action by the books as they would be when everything before it is durable.
    pub(super) fn decide(&self, books: &Books, access: &Access, write: &Write) -> Result<Decided, Refusal> {
        let action = &write.action;
        // It was valid at the door, and may have been revoked while the action waited for a commit.
        if action.by().token().is_some_and(|t| !books.tokens.contains_key(t)) {
            return Err(Refusal::NotPermitted);
        }
        let now = jiff::Timestamp::now();
        let (verb, target) = policy::asked(action.what());
        let by = action.by().clone();
        let known = Known { access, now };
        if let policy::Decision::Deny(why) = policy::may(known, action.by(), verb, target) {
            return Err(why.into());
        }
        answers::check(books, write.key.as_ref(), now)?;
        revisions::check(books, action.what(), write.if_match.as_ref())?;
        let mut decided = self.admitted(books, action.clone(), known)?;
        revisions::count(books, &mut decided, &by, now);
        answers::add(books, &mut decided, write.key.as_ref(), (&self.keys, now))?;
        Ok(decided)
    }

    fn admitted(&self, books: &Books, action: Signed<Action>, known: Known<'_>) -> Result<Decided, Refusal> {
        let (by, now) = (action.by().clone(), known.now);
        let catalog = self.catalog.load();
        let book = Book {
            instances: &books.instances,
            tokens: &books.tokens,
            members: &books.members,
            workspaces: &books.workspaces,
            teams: &books.teams,
            grants: &books.grants,
            sign_ins: &books.sign_ins,
            fixed_quotas: self.shown.borrow().fixed_quotas,
            configured: &self.workspace,
            catalog: &catalog,
            max_instances: self.limits.instances,
            max_tokens_per_instance: self.limits.tokens_per_instance,
            images: &self.images,
            allow: &self.allow,
            disk: self.shown.borrow().disk,
            install_bytes: self.limits.install_bytes,
            now,
        };
        let disabled = match action.what() {
            Action::DisableMember { name } => Some(self.offboarding(books, name, &by, known)),
            _ => None,
        };
        match admit(&book, action, InstanceId::from_random(random()?))? {
            Decision::Run { record, env, env_of } => self.new_instance(books, *record, env, env_of, &by),
            Decision::Update(record) => Ok(update(record)),
            Decision::Credential { record, value } => self.credential(*record, value),
            Decision::Already(id) => Ok(Decided::nothing(match books.instances.get(&id).map(|r| r.desired) {
                Some(Desired::Removed) | None => Came::Done,
                Some(_) => Came::Instance(id, None),
            })),
            Decision::CreateToken(new) => self.token(new, &by),
            Decision::RevokeToken(id) => Ok(Decided {
                changes: vec![Change::RemoveToken(id.clone())],
                then: vec![Then::Close(id)],
                came: Came::Done,
            }),
            Decision::RotateToken { old, ends, new } => {
                let mut made = self.token(new, &by)?;
                match (ends, books.tokens.get(&old)) {
                    (Some(ends), Some(record)) => {
                        made.changes.push(Change::PutToken(TokenRecord {
                            expires_at: Some(ends),
                            ..record.clone()
                        }));
                        made.then.push(Then::Shorten(old, ends));
                    }
                    _ => {
                        made.changes.push(Change::RemoveToken(old.clone()));
                        made.then.push(Then::Close(old));
                    }
                }
                Ok(made)
            }
            Decision::Claim {
                member,
                token,
                sign_in,
                before,
            } => {
                let mut decided = of_people(*before, Vec::new());
                decided.came = Came::Member(member.name.clone());
                decided.changes.push(Change::PutMember(member));
                decided.changes.extend(sign_in.map(Change::PutSignIn));
                let Some(token) = token else { return Ok(decided) };
                let made = self.token(token, &by)?;
                decided.changes.extend(made.changes);
                decided.then.extend(made.then);
                Ok(Decided {
                    came: made.came,
                    ..decided
                })
            }
            Decision::People(people) => {
                let mut decided = of_people(*people, Vec::new());
                if let Some(report) = disabled {
                    decided.then.push(Then::SignOut(report.member.clone()));
                    decided.came = Came::Disabled(Box::new(report));
                }
                Ok(decided)
            }
            Decision::SignInLink { record, reset } => sign_ins::link(*record, reset, now),
            Decision::Workspace(record) => Ok(Decided {
                came: Came::Workspace(record.name.clone()),
                changes: vec![Change::PutWorkspace(record)],
                then: Vec::new(),
            }),
            Decision::RemoveWorkspace(name, people) => Ok(of_people(*people, vec![Change::RemoveWorkspace(name)])),
        }
    }

    fn new_instance(
        &self,
        books: &Books,
        mut record: InstanceRecord,
        env: BTreeMap<String, Secret>,
        env_of: Option<InstanceId>,
        by: &Principal,
    ) -> Result<Decided, Refusal> {
        for (name, value) in self.with_env_of(books, env, env_of)? {
            let sealed = self.key.seal(&record.id, &name, &value);
            let sealed = sealed.map_err(Refusal::fault)?;
            record.env.insert(name, sealed);
        }
        let id = record.id.clone();
        let first = NewToken {
            subject: Subject::Instance(id.clone()),
            name: "first".to_owned(),
            expires_at: None,
            scope: TokenScope::All,
        };
        let (token, secret) = self.new_token(first, by)?;
        Ok(Decided {
            changes: vec![Change::PutInstance(Box::new(record)), Change::PutToken(token.clone())],
            then: vec![Then::Open(Box::new(token))],
            came: Came::Instance(id, Some(secret)),
        })
    }

    /// The values of another instance, for its trial, and those given.
    fn with_env_of(
        &self,
        books: &Books,
        mut env: BTreeMap<String, Secret>,
        of: Option<InstanceId>,
    ) -> Result<BTreeMap<String, Secret>, Refusal> {
        let Some(original) = of.and_then(|id| books.instances.get(&id)) else {
            return Ok(env);
        };
        for (name, sealed) in &original.env {
            let value = self.key.open(&original.id, name, sealed);
            let value = value.map_err(Refusal::fault)?;
            env.entry(name.clone()).or_insert(value);
        }
        Ok(env)
    }

    fn token(&self, new: NewToken, by: &Principal) -> Result<Decided, Refusal> {
        let (token, secret) = self.new_token(new, by)?;
        let view = views::token(&token, &*self.table);
        Ok(Decided {
            changes: vec![Change::PutToken(token.clone())],
            then: vec![Then::Open(Box::new(token))],
            came: Came::Token(Box::new(TokenCreated { view, token: secret })),
        })
    }

    fn new_token(&self, new: NewToken, by: &Principal) -> Result<(TokenRecord, Secret), Refusal> {
        let (secret, hash) = self.table.mint(&new.subject).map_err(Refusal::fault)?;
        let token = TokenRecord {
            id: TokenId::from_random(random()?),
            hash,
            subject: new.subject,
            name: new.name.into(),
            created_at: jiff::Timestamp::now(),
            expires_at: new.expires_at,
            last_used_at: None,
            last_used_from: None,
            by: Some(by.name().into()),
            scope: new.scope,
            edited: None,
        };
        Ok((token, secret))
    }

    /// Does what follows from changes that are durable.
    pub(super) fn follow(&self, then: Then) -> Cut {
        match then {
            Then::Close(id) => return self.table.remove(&id),
            Then::SignOut(member) => return self.table.sign_out(&member),
            Then::Narrow(members) => return self.table.narrow(&members, &self.access.load()),
            Then::Open(token) => match self.books.principal_of(&token) {
                Some(principal) => self.table.insert(&token, principal),
                None => log::warn!(token = token.id.as_str(); "a token of a member who is not there opens nothing"),
            },
            Then::Shorten(id, ends) => self.table.shorten(&id, ends),
            Then::CloseAll(id) => self.table.remove_instance(&id),
            Then::Removed(record, removed) => self.note_removed(&record, removed),
            Then::ShallBe(id, generation, desired) => {
                log::info!(instance = id.as_str(), generation; "shall be {desired}");
            }
            Then::Changed(id, revision) => log::info!(instance = id.as_str(), revision; "its credentials changed"),
            Then::Gone(id) => log::info!(instance = id.as_str(); "removed"),
        }
        Cut::default()
    }

    /// What is reported of a member who is disabled, by the books from before.
    fn offboarding(&self, books: &Books, member: &MemberName, by: &Principal, known: Known<'_>) -> OffboardingReport {
        // Of what whoever asks may see.
        let sees = |verb, id: &InstanceId| policy::may(known, by, verb, Target::Instance(id)).is_allowed();
        let tokens = books.tokens.of_member(member);
        let token = |t: &TokenRecord| EndedToken {
            id: t.id.clone(),
            name: t.name.to_string(),
            last_used_at: views::token(t, &*self.table).last_used_at,
        };
        let made = |t: &TokenRecord| {
            let instance = t.subject.instance().filter(|id| sees(Verb::ReadToken, id))?.clone();
            let theirs = t.by.as_deref() == Some(member.as_str());
            theirs.then(|| KnownToken {
                id: t.id.clone(),
                instance,
                name: t.name.to_string(),
            })
        };
        let of_instances = books.instances.keys().map(|id| Subject::Instance(id.clone()));
        let of_instances = of_instances.flat_map(|of| books.tokens.of(&of).filter_map(made).collect::<Vec<_>>());
        let instance_tokens = of_instances.collect();
        let seen = books.instances.values().filter(|r| sees(Verb::ReadCredentials, &r.id));
        let set_by = |r: &Arc<InstanceRecord>| {
            let (instance, instance_name, workspace) = (r.id.clone(), r.name.clone(), r.workspace.clone());
            let set = r.marks.set.iter().filter(|(_, mark)| mark.by == member.as_str());
            let one = |(key, mark): (&String, &Mark)| KnownCredential {
                instance: instance.clone(),
                instance_name: instance_name.clone(),
                workspace: workspace.clone(),
                key: key.clone(),
                set_at: mark.at,
            };
            set.map(one).collect::<Vec<_>>()
        };
        OffboardingReport {
            box_id: self.box_id.clone(),
            member: member.clone(),
            at: known.now,
            by: by.name(),
            tokens: tokens.map(token).collect(),
            instance_tokens,
            cut: Vec::new(),
            mcp_sessions: Vec::new(),
            screen_sessions: 0,
            credentials: seen.flat_map(set_by).collect(),
        }
    }
}

fn update(record: Box<InstanceRecord>) -> Decided {
    let id = record.id.clone();
    let mut then = vec![Then::ShallBe(id.clone(), record.generation, record.desired)];
    let came = match record.desired {
        Desired::Removed => {
            then.push(Then::CloseAll(id));
            then.push(Then::Removed(record.clone(), true));
            Came::Done
        }
        Desired::Running | Desired::Stopped => Came::Instance(id, None),
    };
    Decided {
        changes: vec![Change::PutInstance(record)],
        then,
        came,
    }
}

/// What an action on people comes to, beside other changes.
fn of_people(people: People, mut changes: Vec<Change>) -> Decided {
    let mut then: Vec<Then> = people.gone_tokens.iter().cloned().map(Then::Close).collect();
    then.extend(people.gone_members.iter().cloned().map(Then::SignOut));
    if !people.narrowed.is_empty() {
        then.push(Then::Narrow(people.narrowed));
    }
    changes.extend(people.gone_tokens.into_iter().map(Change::RemoveToken));
    changes.extend(people.gone_grants.into_iter().map(Change::RemoveGrant));
    changes.extend(people.gone_teams.into_iter().map(Change::RemoveTeam));
    changes.extend(people.gone_members.into_iter().map(Change::RemoveMember));
    changes.extend(people.members.into_iter().map(Change::PutMember));
    changes.extend(people.teams.into_iter().map(Change::PutTeam));
    changes.extend(people.grants.into_iter().map(Change::PutGrant));
    Decided {
        changes,
        then,
        came: match people.came {
            people::Came::Member(name) => Came::Member(name),
            people::Came::Team(id) => Came::Team(id),
            people::Came::Grant(key) => Came::Grant(key),
            people::Came::Done => Came::Done,
        },
    }
}

/// What keeps a report; nothing where somebody has asked for something else since.
pub(super) fn of_report(books: &Books, report: Report) -> Decided {
    let none = Decided::nothing(Came::Done);
    let Some(record) = books.instances.get(report.id()) else {
        return none;
    };
    let mut fresh = (**record).clone();
    match report {
        Report::Prepared {
            source,
            before,
            resolved,
            ..
        } => {
            let same = |g: &&mut Box<Sourced>| g.source == source && g.resolved.as_ref() == before.as_deref();
            let Some(sourced) = fresh.sourced.as_mut().filter(same) else {
                return none;
            };
            sourced.resolved = Some(*resolved);
            fresh.spec = Arc::new(concrete(&fresh.spec, sourced));
            fresh.spec_hash = spec_hash_of(&fresh);
        }
        Report::GivenUp { asked, why, .. } => {
            if asked != Asked::of(record) || record.desired != Desired::Running {
                return none;
            }
            fresh.failure = Some(why);
        }
        Report::Gone { id } => {
            if record.desired != Desired::Removed {
                return none;
            }
            return Decided {
                changes: vec![Change::RemoveInstance(id.clone())],
                then: vec![
                    Then::CloseAll(id.clone()),
                    Then::Removed(Box::new(fresh), false),
                    Then::Gone(id),
                ],
                came: Came::Done,
            };
        }
    }
    Decided {
        changes: vec![Change::PutInstance(Box::new(fresh))],
        ..none
    }
}
