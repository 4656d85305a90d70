//! Actions: admitted, committed, and only then true. A refusal or a store that fails leaves everything as it was.

use super::{live::Live, task::Task};
use crate::{
    model::{Action, Desired, InstanceId, Outcome, Refusal, Secret, State, Subject, TokenCreated, TokenId},
    plan::admit::{Book, Decision, admit},
    record::{InstanceRecord, TokenRecord},
    store::Change,
};

fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|_| Refusal::Invalid("the operating system gives no random bytes".to_owned()))?;
    Ok(bytes)
}

impl Task {
    pub(super) async fn accept(&mut self, action: Action) -> Result<Outcome, Refusal> {
        let book = Book {
            instances: &self.instances,
            tokens: &self.tokens,
            members: &self.members,
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
                log::info!(member = member.name.as_str(); "the box is claimed");
                self.members.insert(member.name.clone(), member);
                Ok(self.token_made(token, secret))
            }
            Decision::ResetAdmin => self.reset_admin().await,
        }
    }

    fn token_made(&mut self, token: TokenRecord, secret: Secret) -> Outcome {
        self.table.insert(&token);
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
        log::warn!("the administrator was reset: the box is unclaimed");
        Ok(Outcome::Done)
    }

    pub(super) async fn keep(&self, changes: Vec<Change>) -> Result<(), Refusal> {
        self.keeper.commit(changes).await.map_err(Refusal::Store)
    }

    pub(super) fn outcome(&self, id: &InstanceId) -> Result<Outcome, Refusal> {
        let record = self.instances.get(id);
        let record = record.ok_or_else(|| Refusal::NoInstance(id.to_string()))?;
        let seen = self.container_of(record).map(|(_, c)| c.run);
        Ok(Outcome::Instance(Box::new(self.view(record, seen))))
    }

    fn new_token(
        &self,
        subject: Subject,
        name: String,
        expires_at: Option<jiff::Timestamp>,
    ) -> Result<(TokenRecord, Secret), Refusal> {
        let (secret, hash) = self.table.mint(&subject).map_err(Refusal::Invalid)?;
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
        env: std::collections::BTreeMap<String, Secret>,
    ) -> Result<Outcome, Refusal> {
        for (name, value) in env {
            let sealed = self.key.seal(&record.id, &name, &value);
            let sealed = sealed.map_err(|e| Refusal::Invalid(e.to_string()))?;
            record.env.insert(name, sealed);
        }
        let (token, secret) = self.new_token(Subject::Instance(record.id.clone()), "first".to_owned(), None)?;
        self.keep(vec![
            Change::PutInstance(Box::new(record.clone())),
            Change::PutToken(token.clone()),
        ])
        .await?;
        log::info!(instance = record.id.as_str(), kind = record.type_name().as_str(); "accepted to run");
        self.table.insert(&token);
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
