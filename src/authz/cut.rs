//! A signal that fires once: whoever waits for it ends.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{Notify, futures::OwnedNotified};

/// Fires once: the token is revoked.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    fired: Arc<AtomicBool>,
    notify: Arc<Notify>,
}

impl Cut {
    /// Whether it has fired.
    pub fn is_cut(&self) -> bool {
        self.fired.load(Ordering::Acquire)
    }

    /// Ends when it fires. Ask [`Cut::is_cut`] after making this future, lest it fired before.
    pub fn fired(&self) -> OwnedNotified {
        Arc::clone(&self.notify).notified_owned()
    }

    /// Fires it.
    pub fn fire(&self) {
        self.fired.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }
}
