//! Hashing of passphrases takes 19 MiB and some tens of milliseconds on purpose: one at a time for strangers, one for those
//! whose browser is known, few that wait, and each for a bounded time. So whoever sends many keeps nobody else from the CPU, and
//! no stranger keeps a member from their turn.

use std::time::Duration;

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::{
    model::{PassphraseHash, Secret},
    secret::random,
    sign_in::passphrase,
};

/// Passphrases that wait, and how long.
const WAITING: usize = 8;
const PATIENCE: Duration = Duration::from_secs(10);

/// There is no room: too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy;

/// Who it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Stranger,
    Known,
}

struct Lane {
    /// Permits to be hashed or to wait.
    room: Semaphore,
    turn: Semaphore,
}

/// Where passphrases are hashed.
pub(super) struct Hashing([Lane; 2]);

impl Default for Hashing {
    fn default() -> Self {
        Self([For::Stranger, For::Known].map(|_| Lane {
            room: Semaphore::new(WAITING + 1),
            turn: Semaphore::new(1),
        }))
    }
}

impl Hashing {
    /// Whether a passphrase is the one of this hash; without one it takes as long.
    pub(super) async fn matches(&self, who: For, given: &str, kept: Option<PassphraseHash>) -> Result<bool, Busy> {
        let given = Secret::new(given);
        self.run(who, move || passphrase::matches(given.expose(), kept.as_ref()))
            .await
    }

    /// The hash of a new one.
    pub(super) async fn hash(&self, who: For, given: &str) -> Result<PassphraseHash, Busy> {
        let (given, salt) = (Secret::new(given), random().map_err(|_| Busy)?);
        let hashed = self.run(who, move || passphrase::hash(given.expose(), salt)).await?;
        hashed.ok_or(Busy)
    }

    async fn run<T: Send + 'static>(&self, who: For, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let lane = &self.0[who as usize];
        let _room = lane.room.try_acquire().map_err(|_| Busy)?;
        let turn = timeout(PATIENCE, lane.turn.acquire()).await;
        let _turn = turn.map_err(|_| Busy)?.map_err(|_| Busy)?;
        spawn_blocking(work).await.map_err(|_| Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn strangers_wait_in_a_short_line_and_hold_up_nobody_who_is_known() {
        let hashing = Hashing::default();
        let kept = hashing.hash(For::Known, "correct horse battery").await.unwrap();
        let all = (0..WAITING + 6).map(|_| hashing.matches(For::Stranger, "wrong", None));
        let strangers = futures_util::future::join_all(all);
        let ada = hashing.matches(For::Known, "correct horse battery", Some(kept));
        let (strangers, ada) = tokio::join!(strangers, ada);
        assert_eq!(strangers.iter().filter(|r| **r == Err(Busy)).count(), 5);
        assert_eq!(ada, Ok(true));
    }
}
