//! Tokens beside the actions on them: when they were last used, kept from time to time; those that expired, forgotten
//! after a while.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{committer::NotKept, task::Task};
use crate::{
    model::{TokenId, TokenView},
    record::TokenRecord,
    store::Change,
};

/// When a token was last used is kept this often, and expired ones are looked for.
const EVERY: Duration = Duration::from_secs(60);
/// An expired token is listed, and its holder told that it expired, for so many seconds more.
const EXPIRED_KEPT: i64 = 3600;
/// So many expired tokens are forgotten at once; the rest follows after a pause.
const AT_ONCE: usize = 256;
const PAUSE: Duration = Duration::from_secs(1);

/// Which tokens were looked at for those that have expired.
#[derive(Default)]
pub(super) struct Expiries {
    tokens: Arc<BTreeMap<TokenId, TokenRecord>>,
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
            let used = self.table.last_used(&token.id);
            let used = used.and_then(|s| jiff::Timestamp::from_second(s).ok());
            if used > token.last_used_at {
                changes.push(Change::PutToken(TokenRecord {
                    last_used_at: used,
                    ..token.clone()
                }));
            }
        }
        if let Err(e) = self.make(changes).await {
            log::warn!("when tokens were last used was not kept: {e}");
        }
        self.purge(jiff::Timestamp::now().as_second()).await;
    }

    /// Ends what tokens have opened that have expired by now; how long until the next one does.
    pub(super) fn end_expired(&mut self) -> Option<Duration> {
        let now = jiff::Timestamp::now();
        let seen = &self.expiries;
        // After a clock was set back all of them are looked at anew.
        let since = seen.since.filter(|since| *since <= now);
        let known = since.is_some() && Arc::ptr_eq(&seen.tokens, &self.books.tokens);
        if !known || seen.next.is_some_and(|at| at <= now) {
            let (mut next, mut over) = (None, Vec::new());
            for token in self.books.tokens.values() {
                match token.expires_at {
                    Some(at) if at > now => next = Some(next.map_or(at, |next: jiff::Timestamp| next.min(at))),
                    Some(at) if since.is_none_or(|since| at > since) => over.push(&token.id),
                    _ => {}
                }
            }
            over.into_iter().for_each(|id| self.table.end(id));
            self.expiries = Expiries {
                tokens: Arc::clone(&self.books.tokens),
                since: Some(now),
                next,
            };
        }
        let next = self.expiries.next?;
        Some(Duration::try_from(next.duration_since(now)).unwrap_or_default())
    }

    async fn make(&mut self, changes: Vec<Change>) -> Result<(), NotKept> {
        let mut books = self.books.clone();
        changes.iter().for_each(|change| books.make(change));
        self.commit(books, changes).await
    }

    async fn purge(&mut self, now: i64) {
        let over = |t: &&TokenRecord| t.expires_at.is_some_and(|at| at.as_second() + EXPIRED_KEPT <= now);
        let all = self.books.tokens.values().filter(over).take(AT_ONCE);
        let expired: Vec<TokenId> = all.map(|t| t.id.clone()).collect();
        if expired.is_empty() {
            return;
        }
        if expired.len() == AT_ONCE {
            self.flush_at = Instant::now() + PAUSE;
        }
        let changes = expired.iter().cloned().map(Change::RemoveToken).collect();
        if let Err(e) = self.make(changes).await {
            log::warn!("expired tokens were not forgotten: {e}");
            return;
        }
        log::info!("forgot {} expired tokens", expired.len());
        expired.iter().for_each(|id| self.table.remove(id));
    }

    pub(super) fn token_views(&self) -> Vec<TokenView> {
        let views = self.books.tokens.values();
        views.map(|t| self.token_view(t)).collect()
    }

    pub(super) fn token_view(&self, t: &TokenRecord) -> TokenView {
        let live = self.table.last_used(&t.id);
        let live = live.and_then(|s| jiff::Timestamp::from_second(s).ok());
        TokenView {
            id: t.id.clone(),
            subject: t.subject.clone(),
            name: t.name.clone(),
            created_at: t.created_at,
            last_used_at: live.max(t.last_used_at),
            expires_at: t.expires_at,
        }
    }
}
