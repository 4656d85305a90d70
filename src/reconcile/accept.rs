//! Actions: admitted, committed, and only then true. A refusal or a store that fails leaves everything as it was.

use std::collections::BTreeMap;

use super::{live::Live, task::Task};
use crate::{
    model::{
        Action, Desired, InstanceId, MemberName, Outcome, Principal, Refusal, Secret, State, Subject, TokenCreated,
        TokenId,
    },
    plan::admit::{Book, Decision, admit},
    policy::{self, Signed, Target, Verb},
    record::{InstanceRecord, MemberRecord, TokenRecord},
    store::Change,
};

fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Refusal::fault("the operating system gives no random bytes"))?;
    Ok(bytes)
}

/// An action, as the log names it once it is accepted: who, how, what, on what. Never a value.
struct Note {
    by: Principal,
    verb: Verb,
    on: String,
}

impl Note {
    fn of(action: &Signed<Action>) -> Self {
        let (verb, target) = policy::asked(action.what());
        let on = match target {
            Target::Box => "box".to_owned(),
            Target::Instance(id) => id.to_string(),
            Target::Member(name) => name.to_string(),
            Target::Token(id) => id.to_string(),
        };
        let by = action.by().clone();
        Self { by, verb, on }
    }

    /// What is new by it is named as well: an instance, or a token by its public id.
    fn accepted(&self, outcome: &Outcome) {
        let made = match outcome {
            Outcome::Instance(view) if view.token.is_some() => view.id.as_str(),
            Outcome::Token(made) => made.view.id.as_str(),
            Outcome::Instance(_) | Outcome::Done => "",
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

/// Whoever shows a token; none where its member is not there.
pub(super) fn principal_of(token: &TokenRecord, members: &BTreeMap<MemberName, MemberRecord>) -> Option<Principal> {
    Some(match &token.subject {
        Subject::Instance(id) => Principal::instance(id.clone(), token.id.clone()),
        Subject::Member(name) => Principal::member(name.clone(), members.get(name)?.role, token.id.clone()),
    })
}

impl Task {
    /// Admits an action, has it kept, and answers. Whoever asked for what was accepted stands in the log.
    pub(super) async fn accept(&mut self, action: Signed<Action>) -> Result<Outcome, Refusal> {
        let note = Note::of(&action);
        let outcome = self.decide(action).await?;
        note.accepted(&outcome);
        Ok(outcome)
    }

    async fn decide(&mut self, action: Signed<Action>) -> Result<Outcome, Refusal> {
        let book = Book {
            instances: &self.instances,
            tokens: &self.tokens,
            members: &self.members,
            workspaces: &self.workspaces.records,
            catalog: &self.catalog,
            max_instances: self.limits.instances,
            max_tokens_per_instance: self.limits.tokens_per_instance,
            images: &self.tools.images,
            allow: &self.allow,
            disk: self.observed.as_ref().and_then(|o| o.disk),
            install_bytes: self.limits.install_bytes,
            now: jiff::Timestamp::now(),
        };
        match admit(&book, action, InstanceId::from_random(random()?))? {
            Decision::Run { record, env, env_of } => {
                let env = self.with_env_of(env, env_of)?;
                self.accept_run(*record, env).await
            }
            Decision::Update(record) => self.accept_update(*record).await,
            Decision::Credential { record, value } => self.accept_credential(*record, value).await,
            Decision::Already(id) => match self.instances.get(&id).map(|r| r.desired) {
                Some(Desired::Removed) | None => Ok(Outcome::Done),
                Some(_) => self.outcome(&id),
            },
            Decision::CreateToken {
                subject,
                name,
                expires_at,
            } => {
                let (token, secret) = self.new_token(subject, name, expires_at)?;
                self.keep(vec![Change::PutToken(token.clone())]).await?;
                Ok(self.token_made(token, secret))
            }
            Decision::RevokeToken(id) => {
                self.keep(vec![Change::RemoveToken(id.clone())]).await?;
                self.table.remove(&id);
                self.tokens.remove(&id);
                Ok(Outcome::Done)
            }
            Decision::Claim {
                member,
                token_name,
                expires_at,
            } => {
                let (token, secret) = self.new_token(Subject::Member(member.name.clone()), token_name, expires_at)?;
                self.keep(vec![Change::PutMember(member.clone()), Change::PutToken(token.clone())])
                    .await?;
                self.members.insert(member.name.clone(), member);
                Ok(self.token_made(token, secret))
            }
            Decision::ResetAdmin => self.reset_admin().await,
        }
    }

    /// Lets the edge know a token.
    fn open_for(&self, token: &TokenRecord) {
        match principal_of(token, &self.members) {
            Some(principal) => self.table.insert(token, principal),
            None => log::warn!(token = token.id.as_str(); "a token of a member who is not there opens nothing"),
        }
    }

    fn token_made(&mut self, token: TokenRecord, secret: Secret) -> Outcome {
        self.open_for(&token);
        let view = self.token_view(&token);
        self.tokens.insert(token.id.clone(), token);
        Outcome::Token(TokenCreated { view, token: secret })
    }

    /// Instances and their tokens stay as they are.
    async fn reset_admin(&mut self) -> Result<Outcome, Refusal> {
        let of_members = self.tokens.values().filter(|t| t.subject.is_member());
        let tokens: Vec<TokenId> = of_members.map(|t| t.id.clone()).collect();
        let members = self.members.keys().cloned().map(Change::RemoveMember);
        let changes = members.chain(tokens.iter().cloned().map(Change::RemoveToken));
        self.keep(changes.collect()).await?;
        for id in &tokens {
            self.table.remove(id);
            self.tokens.remove(id);
        }
        self.members.clear();
        Ok(Outcome::Done)
    }

    pub(super) async fn keep(&self, changes: Vec<Change>) -> Result<(), Refusal> {
        self.keeper
            .commit(changes)
            .await
            .map_err(|reason| Refusal::Store { reason })
    }

    pub(super) fn outcome(&self, id: &InstanceId) -> Result<Outcome, Refusal> {
        let record = self.instances.get(id);
        let record = record.ok_or_else(|| Refusal::no_instance(id))?;
        let seen = self.container_of(record).map(|(_, c)| c.run);
        Ok(Outcome::Instance(Box::new(self.view(record, seen))))
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

    async fn accept_run(
        &mut self,
        mut record: InstanceRecord,
        env: BTreeMap<String, Secret>,
    ) -> Result<Outcome, Refusal> {
        for (name, value) in env {
            let sealed = self.key.seal(&record.id, &name, &value);
            let sealed = sealed.map_err(Refusal::fault)?;
            record.env.insert(name, sealed);
        }
        let (token, secret) = self.new_token(Subject::Instance(record.id.clone()), "first".to_owned(), None)?;
        self.keep(vec![
            Change::PutInstance(Box::new(record.clone())),
            Change::PutToken(token.clone()),
        ])
        .await?;
        self.open_for(&token);
        self.tokens.insert(token.id.clone(), token);
        let id = record.id.clone();
        self.begin_deploy(&record, "run");
        self.lives.insert(id.clone(), Live::default());
        let mut view = self.view(&record, None);
        self.instances.insert(id, record);
        view.token = Some(secret);
        Ok(Outcome::Instance(Box::new(view)))
    }

    async fn accept_update(&mut self, record: InstanceRecord) -> Result<Outcome, Refusal> {
        self.keep(vec![Change::PutInstance(Box::new(record.clone()))]).await?;
        let id = record.id.clone();
        log::info!(instance = id.as_str(), generation = record.generation; "shall be {}", record.desired);
        let before = self.instances.insert(id.clone(), record.clone());
        let live = self.lives.entry(id.clone()).or_default();
        live.forgive();
        live.break_off_pull();
        if before.as_ref().is_none_or(|b| b.spec_hash != record.spec_hash) {
            // What runs is of an earlier spec; it will be replaced, and its end is no death.
            live.run_ended();
        }
        match record.desired {
            Desired::Running => {
                if before.as_ref().is_none_or(|b| b.generation != record.generation) {
                    self.begin_deploy(&record, "start");
                }
                self.keep_images();
            }
            Desired::Stopped => {
                live.not_ready();
                self.deploys.end(&id, "stopped");
            }
            Desired::Removed => {
                live.not_ready();
                self.deploys.end(&id, "removed");
                self.table.remove_instance(&id);
                self.tools.links.set_state(&id, State::Removing, None);
                self.note_removed(&record, true);
                return Ok(Outcome::Done);
            }
        }
        self.outcome(&id)
    }
}
