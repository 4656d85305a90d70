//! Tokens and grants beside the actions on them: when they were last used, kept from time to time; those that expired, cut at
//! once and forgotten after a while.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{committer::NotKept, task::Task, views};
use crate::{
    model::TokenId,
    plan::people::holders,
    record::{GrantKey, GrantRecord, Table, TokenRecord},
    store::Change,
};

/// When a token was last used is kept this often, and expired ones are looked for.
const EVERY: Duration = Duration::from_secs(60);
/// An expired token is listed, and its holder told that it expired, for so many seconds more.
const EXPIRED_KEPT: i64 = 3600;
/// So many expired tokens are forgotten at once; the rest follows after a pause.
const AT_ONCE: usize = 256;
const PAUSE: Duration = Duration::from_secs(1);

/// Which tokens and grants were looked at for those that have expired.
#[derive(Default)]
pub(super) struct Expiries {
    tokens: Arc<Table<TokenId, TokenRecord>>,
    grants: Arc<Table<GrantKey, GrantRecord>>,
    /// What had expired by then was ended.
    since: Option<jiff::Timestamp>,
    /// When the next of them expires.
    next: Option<jiff::Timestamp>,
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
    pub(super) fn end_expired(&mut self) -> Option<Duration> {
        let now = jiff::Timestamp::now();
        let (seen, books) = (&self.expiries, &self.books);
        // After a clock was set back all of them are looked at anew.
        let since = seen.since.filter(|since| *since <= now);
        let same = Arc::ptr_eq(&seen.tokens, &books.tokens) && Arc::ptr_eq(&seen.grants, &books.grants);
        if !(same && since.is_some()) || seen.next.is_some_and(|at| at <= now) {
            let mut next: Option<jiff::Timestamp> = None;
            // Whether it has expired since it was looked at; else when it is to be looked at.
            let mut over = |ends: Option<jiff::Timestamp>| match ends {
                Some(at) if at > now => {
                    next = Some(next.map_or(at, |next| next.min(at)));
                    false
                }
                Some(at) => since.is_none_or(|since| at > since),
                None => false,
            };
            for token in books.tokens.values() {
                if over(token.expires_at) {
                    self.table.end(&token.id);
                }
            }
            let mut narrowed = BTreeSet::new();
            for grant in books.grants.values().filter(|g| over(g.until)) {
                narrowed.extend(holders(&books.teams, &grant.key.0));
            }
            if !narrowed.is_empty() {
                self.table.narrow(&narrowed, &self.access.load());
            }
            self.expiries = Expiries {
                tokens: Arc::clone(&books.tokens),
                grants: Arc::clone(&books.grants),
                since: Some(now),
                next,
            };
        }
        let next = self.expiries.next?;
        Some(Duration::try_from(next.duration_since(now)).unwrap_or_default())
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
        self.commit(books, changes).await
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
