//! The sessions of people in browsers ([`crate::session`]), in one table that tasks share: with their randomness, their clock,
//! and the bell that rings when one ends before its time. Locks are held for a few instructions and never across an await.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use crate::{
    model::{Principal, TokenId},
    session::{Listed, Session, Sessions},
};

/// There are no random bytes to make a secret of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes for a link; try again")]
pub struct NoSecret;

/// All live sessions. Cheap to clone; clones share one table.
#[derive(Debug, Clone, Default)]
pub struct SessionTable(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sessions: Mutex<Sessions>,
    ended: watch::Sender<()>,
}

fn random() -> Result<[u8; 32], NoSecret> {
    let mut bytes = [0; 32];
    // Without randomness nobody gets in.
    getrandom::fill(&mut bytes).map_err(|_| NoSecret)?;
    Ok(bytes)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

impl SessionTable {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ticket for a link, which opens a session of this principal.
    ///
    /// # Errors
    /// [`NoSecret`].
    pub fn ticket(&self, by: Principal) -> Result<String, NoSecret> {
        let random = random()?;
        Ok(self.sessions().ticket(random, by, now()))
    }

    /// A session for a ticket, where its principal `may` come in there; with the secret for its cookie.
    ///
    /// # Errors
    /// [`NoSecret`].
    pub fn open(
        &self,
        ticket: &str,
        may: impl FnOnce(&Principal) -> bool,
    ) -> Result<Option<(String, Session)>, NoSecret> {
        let random = random()?;
        Ok(self.sessions().open(ticket, may, random, now()))
    }

    /// The session of a cookie's secret.
    pub fn find(&self, secret: &str) -> Option<Session> {
        self.sessions().find(secret, now()).cloned()
    }

    /// Begins a session that [`Session`] describes but for its number, where it may `still` begin when it is its turn; with the
    /// secret for its cookie.
    ///
    /// # Errors
    /// [`NoSecret`].
    pub fn begin(
        &self,
        session: impl FnOnce(u64) -> Session,
        still: impl FnOnce() -> bool,
    ) -> Result<Option<(String, Session)>, NoSecret> {
        let (random, now) = (random()?, now());
        // Whoever ends all of somebody's waits for it: by then it is known whether it may.
        let mut sessions = self.sessions();
        Ok(still().then(|| sessions.begin(session(now), random, now)))
    }

    /// The sessions of these.
    pub fn list(&self, theirs: impl Fn(&Principal) -> bool) -> Vec<Listed> {
        self.sessions().list(theirs, now())
    }

    /// Ends these sessions; how many there were.
    pub fn end(&self, gone: impl Fn(&Session) -> bool) -> usize {
        let ended = self.sessions().end_sessions(gone);
        if ended > 0 {
            self.0.ended.send_replace(());
        }
        ended
    }

    /// The token is revoked, with its member perhaps: sessions that were opened by it end now, with all that hangs on them.
    /// How many there were, with links that nobody has followed yet.
    pub fn end_with_token(&self, id: &TokenId) -> usize {
        self.narrow(|by| by.token() == Some(id))
    }

    /// Ends the sessions that are to end, with all that hangs on them; how many there were, with links.
    pub fn narrow(&self, ends: impl Fn(&Principal) -> bool) -> usize {
        let ended = self.sessions().end(ends);
        if ended > 0 {
            self.0.ended.send_replace(());
        }
        ended
    }

    /// Returns when a session ends.
    pub fn ended(&self, session: &Session) -> impl Future<Output = ()> + Send + use<> {
        let (table, number) = (self.clone(), session.number);
        let mut bell = self.0.ended.subscribe();
        async move {
            loop {
                let Some(left) = table.sessions().left(number, now()) else {
                    return;
                };
                let left = Duration::from_secs(left);
                tokio::select! {
                    _ = bell.changed() => {}
                    () = tokio::time::sleep(left) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MemberName, TokenScope};
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_session_ends_at_once_with_its_token() {
        let table = SessionTable::default();
        let token = |n| TokenId::from_random([n; 12]);
        let open = |n| {
            let by = Principal::member(MemberName::parse("ada").unwrap(), token(n), &TokenScope::All);
            let ticket = table.ticket(by).unwrap();
            table.open(&ticket, |_| true).unwrap().unwrap()
        };
        let ((secret, session), (other_secret, other)) = (open(1), open(2));
        let mut ended = Box::pin(table.ended(&session));
        let mut other_ended = Box::pin(table.ended(&other));
        assert!((&mut ended).now_or_never().is_none() && (&mut other_ended).now_or_never().is_none());
        assert_eq!(table.find(&secret), Some(session.clone()));
        table.clone().end_with_token(&token(1));
        ended.await;
        assert_eq!(table.find(&secret), None);
        assert!(other_ended.now_or_never().is_none());
        assert_eq!(table.find(&other_secret), Some(other.clone()));
        table.ended(&session).await;
    }
}
