//! Tokens beside the actions on them: when they were last used, kept from time to time; those that expired, forgotten
//! after a while.

use super::task::Task;
use crate::{
    model::{TokenId, TokenView},
    plan::Millis,
    record::TokenRecord,
    store::Change,
};

/// When a token was last used is kept this often, and expired ones are looked for.
const EVERY: Millis = 60_000;
/// An expired token is listed, and its holder told that it expired, for so many seconds more.
const EXPIRED_KEPT: i64 = 3600;
/// So many expired tokens are forgotten at once; the rest follows.
const AT_ONCE: usize = 256;

impl Task {
    /// What is due of tokens; no harm where it fails, it is tried again.
    pub(super) async fn keep_tokens(&mut self) {
        self.flush_at = self.now() + EVERY;
        let mut changes = Vec::new();
        for token in self.tokens.values_mut() {
            let used = self.table.last_used(&token.id);
            let used = used.and_then(|s| jiff::Timestamp::from_second(s).ok());
            if used > token.last_used_at {
                token.last_used_at = used;
                changes.push(Change::PutToken(token.clone()));
            }
        }
        if !changes.is_empty()
            && let Err(e) = self.keeper.commit(changes).await
        {
            log::warn!("when tokens were last used was not kept: {e}");
        }
        self.purge(jiff::Timestamp::now().as_second()).await;
    }

    async fn purge(&mut self, now: i64) {
        let over = |t: &&TokenRecord| t.expires_at.is_some_and(|at| at.as_second() + EXPIRED_KEPT <= now);
        let expired: Vec<TokenId> = self
            .tokens
            .values()
            .filter(over)
            .take(AT_ONCE)
            .map(|t| t.id.clone())
            .collect();
        if expired.is_empty() {
            return;
        }
        if expired.len() == AT_ONCE {
            self.flush_at = self.now() + 1_000;
        }
        let changes = expired.iter().cloned().map(Change::RemoveToken).collect();
        if let Err(e) = self.keeper.commit(changes).await {
            log::warn!("expired tokens were not forgotten: {e}");
            return;
        }
        log::info!("forgot {} expired tokens", expired.len());
        for id in &expired {
            self.table.remove(id);
            self.tokens.remove(id);
        }
    }

    pub(super) fn token_views(&self) -> Vec<TokenView> {
        let views = self.tokens.values();
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
