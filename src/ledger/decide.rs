//! What a request comes to: the changes that keep it, what is true once they are durable, and the answer. Nothing is
//! done here; a refusal, or a commit that fails, leaves everything as it was.

use std::{collections::BTreeMap, sync::Arc};

use super::{Came, books::Books, task::Task};
use crate::{
    model::{Action, Desired, InstanceId, Principal, Refusal, Secret, Subject, TokenCreated, TokenId},
    plan::{
        admit::{Book, Decision, admit},
        exchange::{Asked, Report},
        order::spec_hash_of,
        sourced::concrete,
    },
    policy::{self, Signed, Target, Verb},
    record::{InstanceRecord, Sourced, TokenRecord},
    secret::random,
    store::Change,
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
    Open(TokenRecord),
    /// The edge refuses a token.
    Close(TokenId),
    /// The edge refuses a token from this time on, and lets what it opened go on until then.
    Shorten(TokenId, jiff::Timestamp),
    /// The edge refuses every token of an instance.
    CloseAll(InstanceId),
    /// The instance's volume can be emptied without the engine, or (false) it is gone.
    Removed(Box<InstanceRecord>, bool),
    /// An instance shall be something else.
    ShallBe(InstanceId, u64, Desired),
    /// Its credentials changed, for so many times by now.
    Changed(InstanceId, u64),
    Gone(InstanceId),
}

impl Decided {
    fn nothing(came: Came) -> Self {
        Self {
            changes: Vec::new(),
            then: Vec::new(),
            came,
        }
    }
}

/// An action, as the log names it once it is accepted: who, how, what, on what. Never a value.
pub(super) struct Note {
    by: Principal,
    verb: Verb,
    on: String,
}

impl Note {
    pub(super) fn of(action: &Signed<Action>) -> Self {
        let (verb, target) = policy::asked(action.what());
        let on = match target {
            Target::Box => "box".to_owned(),
            Target::Instance(id) => id.to_string(),
            Target::Member(name) => name.to_string(),
            Target::Token(id) => id.to_string(),
            Target::Workspace(name) => name.to_string(),
        };
        let by = action.by().clone();
        Self { by, verb, on }
    }

    /// What is new by it is named as well: an instance, or a token by its public id.
    pub(super) fn accepted(&self, came: &Came) {
        let made = match came {
            Came::Instance(id, Some(_)) => id.as_str(),
            Came::Token(made) => made.view.id.as_str(),
            Came::Workspace(name) if self.verb == Verb::AddWorkspace => name.as_str(),
            Came::Instance(_, None) | Came::Workspace(_) | Came::Done => "",
        };
        let token = self.by.token().map_or("", TokenId::as_str);
        let (by, via, verb, on) = (
            self.by.name(),
            self.by.via().as_str(),
            self.verb.as_str(),
            self.on.as_str(),
        );
        log::info!(by = by.as_str(), via, token, verb, on, made; "accepted: {verb} {on}");
    }
}

impl Task {
    /// Admits an action by the books as they would be when everything before it is durable.
    pub(super) fn decide(&self, books: &Books, action: Signed<Action>) -> Result<Decided, Refusal> {
        // It was valid at the door, and may have been revoked while the action waited for a commit.
        if action.by().token().is_some_and(|t| !books.tokens.contains_key(t)) {
            return Err(Refusal::NotPermitted);
        }
        let catalog = self.catalog.load();
        let book = Book {
            instances: &books.instances,
            tokens: &books.tokens,
            members: &books.members,
            workspaces: &books.workspaces,
            fixed_quotas: self.shown.borrow().fixed_quotas,
            configured: &self.workspace,
            catalog: &catalog,
            max_instances: self.limits.instances,
            max_tokens_per_instance: self.limits.tokens_per_instance,
            images: &self.images,
            allow: &self.allow,
            disk: self.shown.borrow().disk,
            install_bytes: self.limits.install_bytes,
            now: jiff::Timestamp::now(),
        };
        match admit(&book, action, InstanceId::from_random(random()?))? {
            Decision::Run { record, env, env_of } => self.new_instance(books, *record, env, env_of),
            Decision::Update(record) => Ok(update(record)),
            Decision::Credential { record, value } => self.credential(*record, value),
            Decision::Already(id) => Ok(Decided::nothing(match books.instances.get(&id).map(|r| r.desired) {
                Some(Desired::Removed) | None => Came::Done,
                Some(_) => Came::Instance(id, None),
            })),
            Decision::CreateToken {
                subject,
                name,
                expires_at,
            } => self.token(subject, name, expires_at, Vec::new()),
            Decision::RevokeToken(id) => Ok(Decided {
                changes: vec![Change::RemoveToken(id.clone())],
                then: vec![Then::Close(id)],
                came: Came::Done,
            }),
            Decision::RotateToken {
                old,
                ends,
                subject,
                name,
                expires_at,
            } => {
                let mut made = self.token(subject, name, expires_at, Vec::new())?;
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
                token_name,
                expires_at,
            } => {
                let subject = Subject::Member(member.name.clone());
                self.token(subject, token_name, expires_at, vec![Change::PutMember(member)])
            }
            Decision::ResetAdmin => Ok(reset_admin(books)),
            Decision::Workspace(record) => Ok(Decided {
                came: Came::Workspace(record.name.clone()),
                changes: vec![Change::PutWorkspace(record)],
                then: Vec::new(),
            }),
            Decision::RemoveWorkspace(name) => Ok(Decided {
                changes: vec![Change::RemoveWorkspace(name)],
                then: Vec::new(),
                came: Came::Done,
            }),
        }
    }

    fn new_instance(
        &self,
        books: &Books,
        mut record: InstanceRecord,
        env: BTreeMap<String, Secret>,
        env_of: Option<InstanceId>,
    ) -> Result<Decided, Refusal> {
        for (name, value) in self.with_env_of(books, env, env_of)? {
            let sealed = self.key.seal(&record.id, &name, &value);
            let sealed = sealed.map_err(Refusal::fault)?;
            record.env.insert(name, sealed);
        }
        let id = record.id.clone();
        let (token, secret) = self.new_token(Subject::Instance(id.clone()), "first".to_owned(), None)?;
        Ok(Decided {
            changes: vec![Change::PutInstance(Box::new(record)), Change::PutToken(token.clone())],
            then: vec![Then::Open(token)],
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

    fn token(
        &self,
        subject: Subject,
        name: String,
        expires_at: Option<jiff::Timestamp>,
        mut changes: Vec<Change>,
    ) -> Result<Decided, Refusal> {
        let (token, secret) = self.new_token(subject, name, expires_at)?;
        let view = self.token_view(&token);
        changes.push(Change::PutToken(token.clone()));
        Ok(Decided {
            changes,
            then: vec![Then::Open(token)],
            came: Came::Token(Box::new(TokenCreated { view, token: secret })),
        })
    }

    fn new_token(
        &self,
        subject: Subject,
        name: String,
        expires_at: Option<jiff::Timestamp>,
    ) -> Result<(TokenRecord, Secret), Refusal> {
        let (secret, hash) = self.table.mint(&subject).map_err(Refusal::fault)?;
        let token = TokenRecord {
            id: TokenId::from_random(random()?),
            hash,
            subject,
            name,
            created_at: jiff::Timestamp::now(),
            expires_at,
            last_used_at: None,
        };
        Ok((token, secret))
    }

    /// Does what follows from changes that are durable.
    pub(super) fn follow(&self, then: Then) {
        match then {
            Then::Open(token) => match self.books.principal_of(&token) {
                Some(principal) => self.table.insert(&token, principal),
                None => log::warn!(token = token.id.as_str(); "a token of a member who is not there opens nothing"),
            },
            Then::Close(id) => self.table.remove(&id),
            Then::Shorten(id, ends) => self.table.shorten(&id, ends),
            Then::CloseAll(id) => self.table.remove_instance(&id),
            Then::Removed(record, removed) => self.note_removed(&record, removed),
            Then::ShallBe(id, generation, desired) => {
                log::info!(instance = id.as_str(), generation; "shall be {desired}");
            }
            Then::Changed(id, revision) => log::info!(instance = id.as_str(), revision; "its credentials changed"),
            Then::Gone(id) => log::info!(instance = id.as_str(); "removed"),
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

/// Instances and their tokens stay as they are.
fn reset_admin(books: &Books) -> Decided {
    let of_members = books.tokens.values().filter(|t| t.subject.is_member());
    let tokens: Vec<TokenId> = of_members.map(|t| t.id.clone()).collect();
    let members = books.members.keys().cloned().map(Change::RemoveMember);
    Decided {
        changes: members.chain(tokens.iter().cloned().map(Change::RemoveToken)).collect(),
        then: tokens.into_iter().map(Then::Close).collect(),
        came: Came::Done,
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
