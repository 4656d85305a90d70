//! What screens need of the rest of the supervisor.

use std::fmt;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::model::{InstanceId, Principal, State};

/// An instance, as its screen's page shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub name: String,
    pub state: State,
    pub reason: Option<String>,
}

/// The instances that have a screen, as they are now.
pub type Looks = Box<dyn Fn(&InstanceId) -> Option<Look> + Send + Sync>;

/// Gives an instance a new container, for whoever asks, if they may; the error is for people.
pub type Recreate =
    Box<dyn Fn(InstanceId, Principal) -> BoxFuture<'static, Result<(), crate::model::Refusal>> + Send + Sync>;

/// What screens need of the rest of the supervisor.
pub struct Screens {
    /// The instance, if it exists and has a screen.
    pub look: Looks,
    /// Ticks when any `look` may have changed.
    pub changed: watch::Receiver<u64>,
    pub recreate: Recreate,
}

impl Default for Screens {
    /// No instance has a screen.
    fn default() -> Self {
        Self {
            look: Box::new(|_| None),
            changed: watch::channel(0).1,
            recreate: Box::new(|_, _| {
                Box::pin(async { Err(crate::model::Refusal::fault("there is nothing to recreate")) })
            }),
        }
    }
}

impl fmt::Debug for Screens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Screens")
    }
}
