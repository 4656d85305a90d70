//! Looks at what the ledger and the reconciler publish, and tells the events what became different. It is woken by them and
//! keeps neither waiting: what changes while it looks, it finds the next time, together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    api::EventChange,
    events::{Events, News},
    ledger,
    model::{InstanceId, InstanceView, MemberName},
    policy::{Access, Reading},
    reconcile,
};

/// What changes within so long is looked at together.
const TOGETHER: Duration = Duration::from_millis(10);

/// How long until the next grant ends is looked at anew after so long.
const MINUTE: Duration = Duration::from_secs(60);

type Views = Arc<BTreeMap<InstanceId, InstanceView>>;

/// What was published last.
pub(super) struct Watcher {
    ledger: ledger::Handle,
    reconcile: reconcile::Handle,
    events: Events,
    access: Arc<Access>,
    views: Views,
    /// Who could see instances that the ledger has no more and the reconciler shows still.
    leaving: BTreeMap<InstanceId, BTreeSet<MemberName>>,
    /// Grants that had ended by then were told of.
    since: Timestamp,
    /// When the next one ends, of those there were then.
    next_end: Option<Timestamp>,
}

impl Watcher {
    /// From what there is now on.
    pub(super) fn new(ledger: &ledger::Handle, reconcile: &reconcile::Handle, events: &Events) -> Watcher {
        Watcher {
            access: ledger.access(),
            views: reconcile.views(),
            ledger: ledger.clone(),
            reconcile: reconcile.clone(),
            events: events.clone(),
            leaving: BTreeMap::new(),
            since: Timestamp::now(),
            // Not known yet.
            next_end: Some(Timestamp::MIN),
        }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        let (mut settings, mut shown) = (self.ledger.access_changed(), self.reconcile.changed());
        loop {
            settings.mark_unchanged();
            shown.mark_unchanged();
            let next = self.look(Timestamp::now());
            tokio::time::sleep(TOGETHER).await;
            // The clock may be set meanwhile.
            let left = next.map(|at| {
                Duration::try_from(at.duration_since(Timestamp::now()))
                    .unwrap_or_default()
                    .min(MINUTE)
            });
            let ends = async {
                match left {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                changed = settings.changed() => changed,
                changed = shown.changed() => changed,
                () = ends => Ok(()),
            };
            if changed.is_err() {
                // The end of the ledger or the reconciler is for others to notice.
                return std::future::pending().await;
            }
        }
    }

    /// Tells what became different; when the next grant ends.
    fn look(&mut self, now: Timestamp) -> Option<Timestamp> {
        let (access, views) = (self.ledger.access(), self.reconcile.views());
        let step = match Arc::ptr_eq(&self.access, &access) {
            true => ledger::Step::default(),
            false => self.ledger.step(&self.access, &access, now),
        };
        let ledger::Step {
            news,
            mut concerned,
            gone,
        } = step;
        self.leaving.extend(gone);
        let mut all = self.instances(&views, now);
        let first_gone = news.iter().position(|n| n.event.change == EventChange::Removed);
        let at = first_gone.unwrap_or(news.len());
        // What belongs to an instance comes after it, and goes before it.
        let gone_instances = all.split_off(all.partition_point(|n| n.event.change != EventChange::Removed));
        let mut news = news;
        let removed = news.split_off(at);
        all.extend(news);
        all.extend(removed);
        all.extend(gone_instances);
        self.next_end = ledger::next_end(&self.access, &access, self.next_end);
        // After a clock was set back they are told of once more.
        if now < self.since || self.next_end.is_some_and(|at| at <= now) {
            let (ended, next) = ledger::ended(&access, self.since.min(now), now);
            concerned.add(ended);
            self.next_end = next;
        }
        self.events.publish(all, concerned);
        (self.access, self.views, self.since) = (access, views, now);
        self.next_end
    }

    /// Instances that are shown otherwise than before; those that are gone last.
    fn instances(&mut self, views: &Views, now: Timestamp) -> Vec<News> {
        let before = Arc::clone(&self.views);
        if Arc::ptr_eq(&before, views) {
            return Vec::new();
        }
        let mut all = Vec::new();
        for (id, view) in views.iter().filter(|(id, view)| before.get(*id) != Some(*view)) {
            let view = view.listed();
            let was = before.get(id).map(InstanceView::listed);
            if was.as_ref() != Some(&view) {
                let change = was.map_or(EventChange::Added, |_| EventChange::Changed);
                all.push(News::of_instance(view, change, now));
            }
        }
        for (id, view) in before.iter().filter(|(id, _)| !views.contains_key(*id)) {
            let could = self.leaving.remove(id);
            let could = could.unwrap_or_else(|| Reading::Instance(id.clone()).members(&self.access, now));
            all.push(News::of_gone_instance(view, could, now));
        }
        self.leaving.retain(|id, _| views.contains_key(id));
        all
    }
}
