//! Tells the edge how many calls the instances of each workspace take, whenever that changes.

use std::sync::Arc;

use super::backend::Parts;
use crate::model::WorkspaceLimits;

/// Never ends. `configured` is what workspaces have whose records say nothing else.
pub(super) async fn keep(parts: Arc<Parts>, configured: WorkspaceLimits) {
    let mut desired = parts.ledger.desired();
    let mut told = None;
    loop {
        let workspaces = Arc::clone(&desired.borrow_and_update().workspaces);
        if told.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &workspaces)) {
            let own = workspaces
                .iter()
                .map(|(name, record)| (name.clone(), record.limits(&configured).calls()));
            parts.edge.limit_workspaces(configured.calls(), own.collect());
            told = Some(workspaces);
        }
        if desired.changed().await.is_err() {
            // The ledger's end is for others to notice.
            return std::future::pending().await;
        }
    }
}
