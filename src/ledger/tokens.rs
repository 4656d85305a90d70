//! Tokens and grants beside the actions on them: when they were last used, kept from time to time; those that expired, cut at
//! once and forgotten after a while.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{committer::NotKept, task::Task, views};
use crate::{
    model::{MemberName, TokenId},
    plan::people::holders,
    record::{
        GrantKey, GrantRecord, TokenRecord,
        tables::{Grants, Tokens},
    },
    store::Change,
};

/// When a token was last used is kept this often, and expired ones are looked for.
const EVERY: Duration = Duration::from_secs(60);
/// An expired token is listed, and its holder told that it expired, for so many seconds more.
const EXPIRED_KEPT: i64 = 3600;
/// So many expired tokens are forgotten at once; the rest follows after a pause.
const AT_ONCE: usize = 256;
const PAUSE: Duration = Duration::from_secs(1);

/// Those that end within so long are known by their times; all of them are looked through as often.
const AHEAD: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);

/// What ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Token(TokenId),
    Grant(GrantKey),
}

/// Which tokens and grants were looked at for those that have expired, and which of them expire soon.
#[derive(Default)]
pub(super) struct Expiries {
    tokens: Arc<Tokens>,
    grants: Arc<Grants>,
    /// What had expired by then was ended.
    since: Option<jiff::Timestamp>,
    /// All that expire until `until`, and some that do not any more.
    soon: BTreeSet<(jiff::Timestamp, Ending)>,
    until: jiff::Timestamp,
}

impl Expiries {
    /// What has expired by now and was not said before: of these tables, which follow those of the last time.
    pub(super) fn over(&mut self, tokens: &Arc<Tokens>, grants: &Arc<Grants>, now: jiff::Timestamp) -> Over {
        // After a clock was set back all of them are looked at anew.
        let since = self.since.filter(|since| *since <= now);
        let looked = since.is_some() && now < self.until;
        if !looked {
            (self.tokens, self.grants) = <_>::default();
            self.soon.clear();
            self.until = now.checked_add(AHEAD).unwrap_or(jiff::Timestamp::MAX);
        }
        let soon = |at: &jiff::Timestamp| *at <= self.until && since.is_none_or(|since| *at > since);
        for (id, _, is) in self.tokens.differing(tokens) {
            let at = is.and_then(|t| t.expires_at).filter(soon);
            self.soon.extend(at.map(|at| (at, Ending::Token(id.clone()))));
        }
        for (key, _, is) in self.grants.differing(grants) {
            let at = is.and_then(|g| g.until).filter(soon);
            self.soon.extend(at.map(|at| (at, Ending::Grant(key.clone()))));
        }
        (self.tokens, self.grants) = (Arc::clone(tokens), Arc::clone(grants));
        self.since = Some(now);
        let mut over = Over::default();
        while self.soon.first().is_some_and(|(at, _)| *at <= now) {
            match self.soon.pop_first() {
                // One that is gone, or was given another time, is none.
                Some((at, Ending::Token(id))) => {
                    over.tokens
                        .extend(tokens.get(&id).filter(|t| t.expires_at == Some(at)).map(|_| id));
                }
                Some((at, Ending::Grant(key))) => {
                    over.grants
                        .extend(grants.get(&key).filter(|g| g.until == Some(at)).map(|_| key));
                }
                None => {}
            }
        }
        over
    }

    /// When to look again.
    fn next(&self) -> jiff::Timestamp {
        self.soon.first().map_or(self.until, |(at, _)| *at)
    }
}

/// What has expired.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Over {
    pub(super) tokens: Vec<TokenId>,
    pub(super) grants: Vec<GrantKey>,
}

impl Task {
    /// What is due of tokens; no harm where it fails, it is tried again.
    pub(super) async fn keep_tokens(&mut self) {
        self.flush_at = Instant::now() + EVERY;
        let mut changes = Vec::new();
        for token in self.books.tokens.values() {
            let live = self.table.last_use(&token.id);
            let used = live.and_then(|l| jiff::Timestamp::from_second(l.at).ok());
            if used > token.last_used_at {
                changes.push(Change::PutToken(TokenRecord {
                    last_used_at: used,
                    last_used_from: live.and_then(|l| l.from),
                    ..token.clone()
                }));
            }
        }
        changes.extend(self.used_grants());
        if let Err(e) = self.make(changes).await {
            log::warn!("when tokens were last used was not kept: {e}");
        }
        self.purge(jiff::Timestamp::now().as_second()).await;
        self.forget_answers().await;
    }

    /// Ends what tokens and grants have opened that have expired by now; how long until the next one does.
    pub(super) fn end_expired(&mut self) -> Duration {
        let now = jiff::Timestamp::now();
        let over = self.expiries.over(&self.books.tokens, &self.books.grants, now);
        over.tokens.iter().for_each(|id| self.table.end(id));
        let narrowed: BTreeSet<MemberName> = over
            .grants
            .iter()
            .flat_map(|(to, _)| holders(&self.books.teams, to))
            .collect();
        if !narrowed.is_empty() {
            self.table.narrow(&narrowed, &self.access.load());
        }
        Duration::try_from(self.expiries.next().duration_since(now)).unwrap_or_default()
    }

    /// The grants that were used since that was kept.
    fn used_grants(&self) -> Vec<Change> {
        let access = self.access.load();
        let uses = views::uses(&access, &*self.table);
        let used = |(key, at): (GrantKey, jiff::Timestamp)| {
            let grant = self.books.grants.get(&key).filter(|g| g.last_used_at < Some(at))?;
            Some(Change::PutGrant(GrantRecord {
                last_used_at: Some(at),
                ..grant.clone()
            }))
        };
        uses.into_iter().filter_map(used).collect()
    }

    pub(super) async fn make(&mut self, changes: Vec<Change>) -> Result<(), NotKept> {
        let mut books = self.books.clone();
        changes.iter().for_each(|change| books.make(change));
        self.commit(books, changes).await?;
        self.publish();
        Ok(())
    }

    async fn purge(&mut self, now: i64) {
        let over = |ends: Option<jiff::Timestamp>| ends.is_some_and(|at| at.as_second() + EXPIRED_KEPT <= now);
        let all = self.books.tokens.values().filter(|t| over(t.expires_at)).take(AT_ONCE);
        let expired: Vec<TokenId> = all.map(|t| t.id.clone()).collect();
        let grants = self.books.grants.values().filter(|g| over(g.until)).take(AT_ONCE);
        let grants: Vec<GrantKey> = grants.map(|g| g.key.clone()).collect();
        if expired.is_empty() && grants.is_empty() {
            return;
        }
        if expired.len().max(grants.len()) == AT_ONCE {
            self.flush_at = Instant::now() + PAUSE;
        }
        let (tokens, ended) = (expired.len(), grants.len());
        let changes = expired.iter().cloned().map(Change::RemoveToken);
        let changes = changes.chain(grants.into_iter().map(Change::RemoveGrant)).collect();
        if let Err(e) = self.make(changes).await {
            log::warn!("what has expired was not forgotten: {e}");
            return;
        }
        log::info!("forgot {tokens} expired tokens and {ended} grants that had ended");
        expired.iter().for_each(|id| drop(self.table.remove(id)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Grantee, InstanceId, Level, Subject, TokenScope};

    fn at(seconds: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(seconds).unwrap()
    }

    fn token(n: u8, ends: Option<i64>) -> TokenRecord {
        TokenRecord {
            id: TokenId::from_random([n; 12]),
            hash: [n; 32],
            subject: Subject::Instance(InstanceId::from_random([1; 10])),
            name: "t".into(),
            created_at: at(0),
            expires_at: ends.map(at),
            last_used_at: None,
            last_used_from: None,
            scope: TokenScope::All,
            by: None,
            edited: None,
        }
    }

    fn grant(n: u8, ends: Option<i64>) -> GrantRecord {
        let who = format!("m{n}").parse().unwrap();
        GrantRecord {
            key: (Grantee::Member(who), InstanceId::from_random([1; 10])),
            level: Level::Use,
            until: ends.map(at),
            created_at: at(0),
            by: "root".into(),
            last_used_at: None,
            edited: None,
        }
    }

    proptest! {
        /// Whatever is made, changed and removed while time passes, by little and by much, and is set back: what is said to be
        /// over is what a look at all of them says.
        #[test]
        fn what_expires_is_said_once_and_none_is_missed(
            steps in proptest::collection::vec((-400i64..2000, 0u8..8, proptest::option::weighted(0.8, -300i64..3000), any::<bool>()), 1..60),
        ) {
            let (mut expiries, mut now) = (Expiries::default(), 10_000);
            let (mut tokens, mut grants) = (Arc::<Tokens>::default(), Arc::<Grants>::default());
            let mut since = None::<i64>;
            for (passed, n, ends, there) in steps {
                now += passed;
                since = since.filter(|since| *since <= now);
                let ends = ends.map(|ends| now + ends);
                match there {
                    true => {
                        Arc::make_mut(&mut tokens).put(token(n, ends));
                        let grant = grant(n, ends);
                        Arc::make_mut(&mut grants).insert(grant.key.clone(), grant);
                    }
                    false => {
                        Arc::make_mut(&mut tokens).remove(&token(n, None).id);
                        Arc::make_mut(&mut grants).remove(&grant(n, None).key);
                    }
                }
                let over = |ends: Option<jiff::Timestamp>| {
                    ends.is_some_and(|ends| ends <= at(now) && since.is_none_or(|since| ends > at(since)))
                };
                let mut all = Over {
                    tokens: tokens.values().filter(|t| over(t.expires_at)).map(|t| t.id.clone()).collect(),
                    grants: grants.values().filter(|g| over(g.until)).map(|g| g.key.clone()).collect(),
                };
                let mut said = expiries.over(&tokens, &grants, at(now));
                let next = expiries.next();
                let ends = tokens.values().filter_map(|t| t.expires_at).filter(|ends| *ends > at(now)).min();
                prop_assert!(next > at(now) && ends.is_none_or(|ends| next <= ends), "{next} {ends:?}");
                for over in [&mut said, &mut all] {
                    over.tokens.sort();
                    over.grants.sort();
                }
                prop_assert_eq!(said, all);
                since = Some(now);
            }
        }
    }
}
