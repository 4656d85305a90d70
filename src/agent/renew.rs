//! The same spec with other credentials: everything ends, and starts anew in the same container.
//!
//! ```text
//! running ──order of a higher revision──► sessions told and ended ──► processes ended ──► starting
//!                                              └── a still newer order only takes the waiting one's place
//! ```
//!
//! Never starts anything before all that knows the old values is gone: a shared server owns its files.

use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::timeout;

use super::orders::{Endpoint, Orders, hub_empty};
use crate::model::StartOrder;

/// What clients are told.
const WHY: &str = "the server was restarted with changed credentials; send initialize again";
/// How long servers have to end after their stdin was closed (and their own SIGTERM and SIGKILL), then services after
/// SIGTERM, then all after SIGKILL.
const ENDS: (Duration, Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3), Duration::from_secs(1));

impl Orders {
    /// Puts an order in the place of the present one.
    pub(super) fn renew(self: &Rc<Self>, order: StartOrder) {
        self.board.renewing(order.revision);
        *self.next.borrow_mut() = Some(order);
        if self.renewing.replace(true) {
            return;
        }
        self.epoch.set(self.epoch.get() + 1);
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move {
            this.clear().await;
            this.renewing.set(false);
            let next = this.next.borrow_mut().take();
            if let Some(order) = next.filter(|_| !this.stopping()) {
                this.begin(order);
            }
        });
    }

    async fn clear(&self) {
        let endpoint = self.endpoint.borrow_mut().take();
        match endpoint {
            Some(Endpoint::Bridge(hub)) => {
                hub.close(WHY);
                let _ = timeout(ENDS.0, hub_empty(&hub)).await;
            }
            Some(Endpoint::Proxy(place)) => place.translator.close(WHY),
            None => {}
        }
        self.reaper.signal_all(Signal::SIGTERM);
        if timeout(ENDS.1, self.reaper.none_left()).await.is_err() {
            self.reaper.kill_all();
            let _ = timeout(ENDS.2, self.reaper.none_left()).await;
        }
    }
}
