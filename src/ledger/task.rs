//! The task itself: what it holds, how it starts, its loop, and commits. What a request comes to is in `decide`.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    Deps, Kept, Request, SignIns, answers,
    books::Books,
    committer::{Committer, NotKept},
    decide::{Decided, of_report},
    ports::{Cut, Journal, Tokens},
    rows::Note,
    sign_ins,
    tokens::Expiries,
};
use crate::{
    catalog::Catalog,
    config::Allow,
    machine,
    model::{Action, BoxId, Desired, InstanceId, Principal, Refusal, Secret, WorkspaceLimits},
    plan::{
        exchange::{DesiredState, Report, Shown},
        sign_in::AccountChange,
        spec::resource_name,
        trial::TRIAL_SECONDS,
    },
    policy::{self, Access, Known},
    record::InstanceRecord,
    secret::BoxKey,
    store::Change,
    writes::{Keyed, Keys, Write},
};

/// The loop turns at least this often, for the watchdog.
const TURN: Duration = Duration::from_secs(1);
/// A commit that takes longer stops the heartbeat.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often trials are looked at.
const TRIALS_EVERY: Duration = Duration::from_secs(5);
/// So many requests at most are committed together; the next ones are the next commit's.
const GROUP: usize = 64;

pub(super) struct Limits {
    pub(super) instances: usize,
    pub(super) tokens_per_instance: usize,
    pub(super) install_bytes: u64,
}

/// A request that may change something, and who waits for it.
enum Entry {
    /// Nobody waits for what the ledger itself asks for.
    Act(Box<Write>, Option<oneshot::Sender<Result<Kept, Refusal>>>),
    Report(Report, oneshot::Sender<Result<(), Refusal>>),
    Account(Box<(Principal, AccountChange)>, oneshot::Sender<Result<Kept, Refusal>>),
    Keep(Box<(Keyed, Secret)>, oneshot::Sender<Result<(), Refusal>>),
}

pub(super) struct Task {
    committer: Committer,
    pub(super) box_id: BoxId,
    pub(super) key: Arc<BoxKey>,
    pub(super) table: Arc<dyn Tokens>,
    journal: Arc<dyn Journal>,
    /// What policy looks at: of the same books as are durable.
    pub(super) access: Arc<ArcSwap<Access>>,
    /// Which of them it is, and which one others were told of.
    accesses: u64,
    access_changed: watch::Sender<u64>,
    pub(super) catalog: Arc<ArcSwap<Catalog>>,
    pub(super) images: Vec<String>,
    pub(super) allow: Allow,
    pub(super) workspace: WorkspaceLimits,
    pub(super) limits: Limits,
    removed: PathBuf,

    /// All of it is durable.
    pub(super) books: Books,
    version: u64,
    desired: watch::Sender<DesiredState>,
    pub(super) shown: watch::Receiver<Shown>,

    requests: mpsc::Receiver<Request>,
    heartbeat: Arc<AtomicU64>,
    pub(super) flush_at: Instant,
    trials_at: Instant,
    pub(super) expiries: Expiries,
    pub(super) keys: Arc<Keys>,
    sign_ins: Arc<ArcSwap<SignIns>>,
}

/// What others read of it, or hear from it.
type Shared = (
    Arc<ArcSwap<Access>>,
    watch::Sender<u64>,
    Arc<Keys>,
    Arc<ArcSwap<SignIns>>,
);

impl Task {
    pub(super) fn build(
        deps: Deps,
        (access, access_changed, keys, sign_ins): Shared,
        requests: mpsc::Receiver<Request>,
        heartbeat: Arc<AtomicU64>,
    ) -> std::io::Result<(Self, watch::Receiver<DesiredState>)> {
        let books = Books::from(deps.loaded);
        access.store(Arc::new(books.access()));
        keys.publish(&books.answers);
        sign_ins.store(books.sign_ins.clone());
        for token in books.tokens.values().filter(|t| books.owner_stays(t)) {
            if let Some(principal) = books.principal_of(token) {
                deps.tokens.insert(token, principal);
            }
        }
        let version = 1;
        let (desired, published) = watch::channel(books.desired(version));
        let task = Self {
            committer: Committer::spawn(deps.storage)?,
            box_id: deps.box_id,
            key: deps.key,
            table: deps.tokens,
            journal: deps.journal,
            access,
            accesses: 0,
            access_changed,
            catalog: deps.catalog,
            images: deps.images,
            allow: deps.allow,
            workspace: deps.workspace,
            limits: Limits {
                instances: deps.max_instances,
                tokens_per_instance: deps.max_tokens_per_instance,
                install_bytes: deps.install_bytes,
            },
            removed: deps.removed,
            books,
            version,
            desired,
            shown: deps.shown,
            requests,
            heartbeat,
            flush_at: Instant::now(),
            trials_at: Instant::now(),
            expiries: Expiries::default(),
            keys,
            sign_ins,
        };
        for record in task.books.instances.values().filter(|r| r.desired == Desired::Removed) {
            task.note_removed(record, true);
        }
        Ok((task, published))
    }

    pub(super) async fn run(mut self) {
        loop {
            self.heartbeat.fetch_add(1, Ordering::Relaxed);
            if Instant::now() >= self.flush_at {
                self.keep_tokens().await;
            }
            if Instant::now() >= self.trials_at {
                self.end_trials().await;
            }
            let ends = self.end_expired().min(TURN);
            let wake_at = (Instant::now() + ends).min(self.flush_at).min(self.trials_at);
            tokio::select! {
                request = self.requests.recv() => {
                    let Some(request) = request else { return };
                    if let Some(reply) = self.take_all(request).await {
                        self.keep_tokens().await;
                        self.committer.close().await;
                        let _ = reply.send(());
                        return;
                    }
                }
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    /// Takes a request and those that wait behind it. Whoever told the task to end waits for what is returned.
    async fn take_all(&mut self, first: Request) -> Option<oneshot::Sender<()>> {
        let (mut entries, mut next) = (Vec::new(), Some(first));
        let (mut end, mut taken) = (None, 0);
        while let Some(request) = next {
            taken += 1;
            match request {
                Request::Act(action, reply) => entries.push(Entry::Act(action, Some(reply))),
                Request::Account(change, reply) => entries.push(Entry::Account(change, reply)),
                Request::Report(report, reply) => entries.push(Entry::Report(report, reply)),
                Request::Keep(answer, reply) => entries.push(Entry::Keep(answer, reply)),
                Request::Shutdown(reply) => {
                    end = Some(reply);
                    break;
                }
            }
            next = match taken {
                GROUP.. => None,
                _ => self.requests.try_recv().ok(),
            };
        }
        self.keep_entries(entries).await;
        end
    }

    /// Admits entries, each by the books as those before it leave them, commits what they change in one transaction, and
    /// answers. Where one of them is what the store refuses, each is kept by itself. What they change is told before it is
    /// done, each time that it is tried: nothing is ever done that was not told.
    async fn keep_entries(&mut self, entries: Vec<Entry>) {
        let mut books = self.books.clone();
        let mut decided = Vec::with_capacity(entries.len());
        let mut changes = Vec::new();
        for entry in &entries {
            let access = books.access();
            let one = self.admit(&books, &access, entry);
            if let (Entry::Act(write, _), Ok(one)) = (entry, &one) {
                self.journal
                    .append(&Note::of(&write.action, &access).begins(&books, &one.changes));
            }
            if let (Entry::Account(asked, _), Ok(one)) = (entry, &one) {
                sign_ins::told(&*self.journal, (&books, &access), asked, &one.changes);
            }
            for change in one.iter().flat_map(|d| &d.changes) {
                books.make(change);
                changes.push(change.clone());
            }
            decided.push(one);
        }
        match self.commit(books, changes).await {
            Ok(()) => {
                let all = entries.into_iter().zip(decided);
                let answered: Vec<_> = all.map(|(entry, one)| (entry, one.map(|d| self.done(d)))).collect();
                // Whoever has an answer finds it published, and its tokens open or closed.
                self.publish();
                answered
                    .into_iter()
                    .for_each(|(entry, answer)| self.answer(entry, answer));
            }
            Err(NotKept::OneOfThem(_)) if entries.len() > 1 => {
                for entry in entries {
                    Box::pin(self.keep_entries(vec![entry])).await;
                }
            }
            Err(e) => {
                for entry in entries {
                    // What needs nothing to be kept is answered by the books as they are.
                    let answer = match self.admit(&self.books, &self.access.load(), &entry) {
                        Ok(one) if !one.changes.is_empty() => Err(Refusal::Store { reason: e.to_string() }),
                        other => other.map(|one| self.done(one)),
                    };
                    self.answer(entry, answer);
                }
            }
        }
    }

    fn admit(&self, books: &Books, access: &Access, entry: &Entry) -> Result<Decided, Refusal> {
        match entry {
            Entry::Act(write, _) => self.decide(books, access, write),
            Entry::Report(report, _) => Ok(of_report(books, report.clone())),
            Entry::Account(asked, _) => Ok(sign_ins::changed(books, &asked.1, jiff::Timestamp::now())),
            Entry::Keep(kept, _) => {
                let ((keyed, answer), now) = (&**kept, jiff::Timestamp::now());
                answers::answered(books, keyed, answer, (&self.keys, now))
            }
        }
    }

    /// Makes changes durable; the books are those with them from then on.
    pub(super) async fn commit(&mut self, books: Books, changes: Vec<Change>) -> Result<(), NotKept> {
        if !changes.is_empty() {
            self.kept(changes).await?;
        }
        if !self.books.same_desired(&books) {
            self.version += 1;
        }
        // Before anything is opened or cut by it.
        if !self.books.same_access(&books) {
            self.access.store(Arc::new(books.access()));
            self.accesses += 1;
        }
        if !Arc::ptr_eq(&self.books.answers, &books.answers) {
            self.keys.publish(&books.answers);
        }
        if !Arc::ptr_eq(&self.books.sign_ins, &books.sign_ins) {
            self.sign_ins.store(books.sign_ins.clone());
        }
        self.books = books;
        Ok(())
    }

    /// Waits until changes are durable. A slow disk is no reason to start anew, so that the heart beats meanwhile: everything
    /// else goes on, and another process would be no better off.
    async fn kept(&self, changes: Vec<Change>) -> Result<(), NotKept> {
        let kept = self.committer.commit(changes);
        let mut beats = tokio::time::interval(TURN);
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(kept, patience);
        while !patience.is_elapsed() {
            tokio::select! {
                done = &mut kept => return done,
                _ = beats.tick() => drop(self.heartbeat.fetch_add(1, Ordering::Relaxed)),
                () = &mut patience => {}
            }
        }
        kept.await
    }

    /// Does what follows from an entry that is durable.
    fn done(&self, decided: Decided) -> Kept {
        let mut cut = Cut::default();
        decided.then.into_iter().for_each(|then| cut.add(self.follow(then)));
        Kept {
            version: self.version,
            what: decided.came,
            cut,
        }
    }

    /// Tells others of what was made durable and done. Not before: what looks by itself at what its asker may would end
    /// before it is counted among what was cut.
    pub(super) fn publish(&self) {
        self.access_changed
            .send_if_modified(|n| std::mem::replace(n, self.accesses) != self.accesses);
        self.desired.send_if_modified(|d| {
            let news = d.version != self.version;
            if news {
                *d = self.books.desired(self.version);
            }
            news
        });
    }

    fn answer(&self, entry: Entry, answer: Result<Kept, Refusal>) {
        match entry {
            Entry::Act(write, reply) => {
                let note = Note::of(&write.action, &self.access.load());
                match &answer {
                    Ok(kept) => note.accepted(&kept.what),
                    Err(why) => self.journal.append(&note.failed(why)),
                }
                // Whoever has the answer may use its key again.
                drop(write);
                match (reply, answer) {
                    (Some(reply), answer) => drop(reply.send(answer)),
                    (None, Err(e)) => log::warn!("a trial is not removed yet: {e}"),
                    (None, Ok(_)) => {}
                }
            }
            Entry::Report(_, reply) => drop(reply.send(answer.map(drop))),
            Entry::Account(_, reply) => drop(reply.send(answer)),
            Entry::Keep(kept, reply) => {
                drop(kept);
                drop(reply.send(answer.map(drop)));
            }
        }
    }

    /// Removes trials whose time is over, and those whose instance is gone.
    async fn end_trials(&mut self) {
        self.trials_at = Instant::now() + TRIALS_EVERY;
        let oldest = jiff::Timestamp::now().as_second() - TRIAL_SECONDS;
        let instances = &self.books.instances;
        let over = |r: &&InstanceRecord| {
            let of = r.sourced.as_ref().and_then(|g| g.trial_of.as_ref());
            let gone = |of: &InstanceId| instances.get(of).is_none_or(|o| o.desired == Desired::Removed);
            r.desired != Desired::Removed && of.is_some_and(|of| gone(of) || r.created_at.as_second() < oldest)
        };
        let mut entries = Vec::new();
        for record in instances.values().map(|r| &**r).filter(over) {
            let id = record.id.clone();
            log::info!(instance = id.as_str(); "the trial is over");
            let access = self.access.load();
            let now = jiff::Timestamp::now();
            match policy::sign(
                Known { access: &access, now },
                Principal::berth(),
                Action::Remove { id },
            ) {
                Ok(signed) => entries.push(Entry::Act(Box::new(signed.into()), None)),
                Err(denial) => log::warn!("a trial is not removed yet: {denial}"),
            }
        }
        if !entries.is_empty() {
            self.keep_entries(entries).await;
        }
    }

    /// Notes that the instance's volume can be emptied, or that it is gone. The engine removes it; one that cannot start
    /// finds it emptied.
    pub(super) fn note_removed(&self, record: &InstanceRecord, removed: bool) {
        if record.spec.volume.is_none() {
            return;
        }
        let volume = resource_name(&self.box_id, &record.id);
        if let Err(e) = machine::engine::note_removed(&self.removed, &volume, removed) {
            log::warn!(instance = record.id.as_str(); "its volume is emptied by the engine alone: {e}");
        }
    }
}
