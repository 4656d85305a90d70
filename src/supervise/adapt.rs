//! Fits the ledger, the links, the token table and the slices to what ledger and reconciler ask of them. Decides nothing.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    authz::{self, SessionTable, TokenHash, TokenTable},
    cgroup::Slices,
    ledger::{self, Cut, InstanceUse, LastUse, NoRandom, Tokens},
    link::{LinkError, Patience, Registry},
    model::{
        EndedWay, InstanceId, MemberName, Principal, Refusal, Resolved, Scope, Secret, StartOrder, State, Subject,
        TokenId, User, Who,
    },
    packages::{self, Packages, PrepareError},
    plan::{exchange::Report, quota::WorkspaceQuota},
    policy::{self, Access, Known, Target, Verb},
    reconcile::{Installer, Ledger, Links, Preparation, QuotaError, Quotas, Unprepared},
    record::TokenRecord,
};

pub(super) struct RealLedger(pub(super) ledger::Handle);

impl Ledger for RealLedger {
    fn report(&self, report: Report) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(self.0.report(report))
    }
}

pub(super) struct RealInstaller(pub(super) Packages);

impl Installer for RealInstaller {
    fn prepare<'a>(
        &'a self,
        what: Preparation,
        words: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> BoxFuture<'a, Result<Resolved, Unprepared>> {
        Box::pin(async move {
            let order = packages::Order {
                source: what.source,
                runtime: what.runtime,
                builder: what.builder,
                before: what.before,
                newest: what.newest,
            };
            self.0.prepare(order, words).await.map_err(|e| match e {
                PrepareError::Final(why) => Unprepared::Final(why),
                PrepareError::Engine(e) => Unprepared::Engine(e),
            })
        })
    }

    fn keep(&self, images: BTreeSet<String>) {
        self.0.keep(images);
    }
}

pub(super) struct RealLinks(pub(super) Registry);

impl RealLinks {
    fn missing(id: &InstanceId) -> LinkError {
        LinkError::NotOpen(id.clone())
    }
}

impl Links for RealLinks {
    fn open<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<PathBuf, LinkError>> {
        Box::pin(async move {
            let link = self.0.open(id).await?;
            Ok(link.socket_dir().to_owned())
        })
    }

    fn close<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, ()> {
        Box::pin(self.0.close(id))
    }

    fn renew(&self, id: &InstanceId) -> u64 {
        self.0.renew(id)
    }

    fn set_agents(&self, user: User) -> Result<(), LinkError> {
        self.0.set_agents(user)
    }

    fn prove(&self, id: &InstanceId, pid: u32) {
        self.0.prove(id, pid);
    }

    fn set_patience(&self, id: &InstanceId, patience: Patience) {
        if let Some(link) = self.0.get(id.as_str()) {
            link.set_patience(patience);
        }
    }

    fn set_state(&self, id: &InstanceId, state: State, retry_after: Option<u32>) {
        if let Some(link) = self.0.get(id.as_str()) {
            link.set_state(state, retry_after);
        }
    }

    fn start<'a>(&'a self, id: &'a InstanceId, order: &'a StartOrder) -> BoxFuture<'a, Result<(), LinkError>> {
        Box::pin(async move {
            let link = self.0.get(id.as_str()).ok_or_else(|| Self::missing(id))?;
            link.start(order).await
        })
    }

    fn health<'a>(&'a self, id: &'a InstanceId, limit: Duration) -> BoxFuture<'a, Result<(), LinkError>> {
        Box::pin(async move {
            let link = self.0.get(id.as_str()).ok_or_else(|| Self::missing(id))?;
            link.health(limit).await
        })
    }
}

/// Writing to cgroups, or running `systemctl`, blocks: it is done on a thread for that.
#[derive(Default)]
pub(super) struct RealQuotas(Arc<Slices>);

impl Quotas for RealQuotas {
    fn hold<'a>(
        &'a self,
        parent: &'a str,
        quota: WorkspaceQuota,
        systemd: bool,
    ) -> BoxFuture<'a, Result<(), QuotaError>> {
        Box::pin(async move {
            let (slices, parent) = (self.0.clone(), parent.to_owned());
            let held = tokio::task::spawn_blocking(move || slices.hold(&parent, &quota, systemd));
            Ok(held.await??)
        })
    }

    fn may_set(&self) -> bool {
        crate::rights::may_administer() || crate::cgroup::outside::there()
    }

    fn release(&self, parent: &str, systemd: bool) {
        let (slices, parent) = (self.0.clone(), parent.to_owned());
        tokio::task::spawn_blocking(move || slices.release(&parent, systemd));
    }
}

pub(super) struct RealTokens(pub(super) TokenTable, pub(super) SessionTable);

/// Ways of a token that have ended.
fn ways(token: &TokenId, ended: authz::Ended) -> impl Iterator<Item = EndedWay> {
    ended.into_iter().map(|(instance, open)| EndedWay {
        token: token.clone(),
        instance,
        open,
    })
}

impl Tokens for RealTokens {
    fn mint(&self, of: &Subject) -> Result<(Secret, [u8; 32]), NoRandom> {
        let mut random = [0; 32];
        getrandom::fill(&mut random)?;
        let token = match of {
            Subject::Instance(_) => authz::new_instance_token(random),
            Subject::Member(_) => authz::new_member_token(random),
        };
        let hash = *TokenHash::of(token.expose()).as_bytes();
        Ok((token, hash))
    }

    fn insert(&self, token: &TokenRecord, principal: Principal) {
        self.0.insert(authz::TokenEntry {
            id: token.id.clone(),
            hash: TokenHash::from_bytes(token.hash),
            principal,
            expires_at: token.expires_at.map(jiff::Timestamp::as_second),
            last_used: token.last_used_at.map(jiff::Timestamp::as_second),
        });
    }

    fn remove(&self, id: &TokenId) -> Cut {
        let ended = self.0.remove(id).unwrap_or_default();
        Cut {
            ways: ways(id, ended).collect(),
            screens: self.1.end_with_token(id),
        }
    }

    fn remove_instance(&self, id: &InstanceId) {
        self.0.remove_instance(id);
    }

    fn shorten(&self, id: &TokenId, expires_at: jiff::Timestamp) {
        self.0.shorten(id, expires_at.as_second());
    }

    fn end(&self, id: &TokenId) {
        self.0.end(id);
        self.1.end_with_token(id);
    }

    fn narrow(&self, members: &BTreeSet<MemberName>, access: &Access) -> Cut {
        let now = jiff::Timestamp::now();
        let known = Known { access, now };
        let theirs = |by: &Principal| matches!(by.who(), Who::Member(name) if members.contains(name));
        let may =
            |by: &Principal, verb, id: &InstanceId| policy::may(known, by, verb, Target::Instance(id)).is_allowed();
        // What the API answers is not known here: whoever still may asks again.
        let ends = |by: &Principal, to: Option<&InstanceId>| theirs(by) && to.is_none_or(|id| !may(by, Verb::Call, id));
        let tokens = members.iter().flat_map(|name| access.tokens.of_member(name));
        let ended = self.0.narrow_these(tokens.map(|t| &t.id), ends).into_iter();
        let screens = self.1.narrow(|by| match by.scope() {
            Scope::Screen { instance, .. } => theirs(by) && !may(by, Verb::ViewScreen, instance),
            _ => false,
        });
        Cut {
            ways: ended
                .flat_map(|(id, ended)| ways(&id, ended).collect::<Vec<_>>())
                .collect(),
            screens,
        }
    }

    fn sign_out(&self, member: &MemberName) -> Cut {
        let theirs = |by: &Principal| by.token().is_none() && *by.who() == Who::Member(member.clone());
        Cut {
            screens: self.1.narrow(theirs),
            ..Cut::default()
        }
    }

    fn last_use(&self, id: &TokenId) -> Option<LastUse> {
        let (at, from) = self.0.last_use(id)?;
        Some(LastUse { at, from })
    }

    fn used(&self, token: &TokenId, instance: &InstanceId) -> Option<i64> {
        self.0.used(token, instance)
    }

    fn uses(&self) -> Vec<InstanceUse> {
        let all = self.0.uses().into_iter();
        all.map(|(token, instance, at)| InstanceUse { token, instance, at })
            .collect()
    }
}
