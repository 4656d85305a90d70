//! F3: the one task that owns what shall be: instances, workspaces, members, teams, grants, tokens, and the store that keeps them. It
//! admits actions, commits them, and only then answers and publishes. It knows nothing of containers and links; a commit
//! that waits for the disk keeps nobody waiting but those who asked for one.
//!
//! ```text
//!            actions, reports                  changes                    DesiredState
//! everybody -----------------> queue --> Task: admit --> store's thread --> Task --watch--> reconciler: compare, act
//!     ^                                    ^            (fsync)              |                   |
//!     |                                    | disk                            | version           |
//!     +---- answer, once it is shown ------+------------- Shown -------------+-------watch-------+
//! ```
//!
//! What waits when a commit ends is admitted together and committed in one transaction: whoever asked for a refused
//! action is told so, everybody else has their answer after that commit. An answer with an instance in it waits until the
//! reconciler shows that instance as of this commit or a later one: whoever has the answer finds it in the list as well.
//!
//! Tasks: `ledger` (this), thread `store`. Channels: requests (64), commits (1), desired state and what is shown (the
//! newest value each).

mod answers;
mod books;
mod changes;
mod committer;
mod credentials;
mod decide;
mod news;
mod ports;
mod revisions;
mod rows;
mod sign_ins;
mod task;
mod tokens;
mod views;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

pub use news::{Step, ended, next_end};
pub use ports::{Cut, InstanceUse, Journal, LastUse, NoRandom, Storage, Tokens};
pub use rows::row;
pub use sign_ins::AccountError;

use crate::{
    catalog::Catalog,
    config::Allow,
    model::{
        Action, BoxId, InstanceId, MemberName, Offboarded, OffboardingReport, Outcome, Principal, Refusal, Secret,
        SignInLink, TeamId, TokenCreated, WorkspaceLimits, WorkspaceName,
    },
    plan::{
        exchange::{DesiredState, Report, Shown},
        sign_in::{AccountChange, AccountDenial},
    },
    policy::{self, Access, Denial, Known, Signed},
    record::{GrantKey, SignInRecord, Table},
    secret::BoxKey,
    store::Loaded,
    writes::{Answers, Keyed, Keys, Write},
};

/// Requests that wait; past it callers wait.
const REQUESTS: usize = 64;
/// The reconciler takes a commit up within milliseconds. One that has not after this long is told of.
const SHOWN: Duration = Duration::from_secs(30);
/// Whoever is told of another's change waits so long at most until the reconciler shows it.
const CAUGHT_UP: Duration = Duration::from_secs(2);

/// What the ledger is built from.
pub struct Deps {
    /// What the store held at the start.
    pub loaded: Loaded,
    pub storage: Box<dyn Storage>,
    pub box_id: BoxId,
    pub key: Arc<BoxKey>,
    pub tokens: Arc<dyn Tokens>,
    pub journal: Arc<dyn Journal>,
    /// The types as they are now.
    pub catalog: Arc<ArcSwap<Catalog>>,
    /// Patterns of images that may run here.
    pub images: Vec<String>,
    pub allow: Allow,
    /// What a workspace may use whose record says nothing else.
    pub workspace: WorkspaceLimits,
    pub max_instances: usize,
    pub max_tokens_per_instance: usize,
    /// What the installation of a package may write, in bytes.
    pub install_bytes: u64,
    /// Where the volumes of removed instances are noted down, for whoever empties them without the engine.
    pub removed: PathBuf,
    /// What the reconciler shows.
    pub shown: watch::Receiver<Shown>,
}

enum Request {
    Act(Box<Write>, oneshot::Sender<Result<Kept, Refusal>>),
    Report(Report, oneshot::Sender<Result<(), Refusal>>),
    /// What people change of how they sign in.
    Account(Box<(Principal, AccountChange)>, oneshot::Sender<Result<Kept, Refusal>>),
    /// What was answered to a request with an idempotency key.
    Keep(Box<(Keyed, Secret)>, oneshot::Sender<Result<(), Refusal>>),
    Shutdown(oneshot::Sender<()>),
}

/// What an action came to. It is durable, and part of the desired state of this version.
#[derive(Debug)]
struct Kept {
    version: u64,
    what: Came,
    /// What was cut by it.
    cut: Cut,
}

#[derive(Debug, Serialize, Deserialize)]
enum Came {
    /// With its first token, where it is new.
    Instance(InstanceId, Option<Secret>),
    Token(Box<TokenCreated>),
    Workspace(WorkspaceName),
    Member(MemberName),
    /// One who was disabled; what was cut is still to be filled in.
    Disabled(Box<OffboardingReport>),
    Team(TeamId),
    Grant(GrantKey),
    SignInLink(Box<SignInLink>),
    /// Nothing was changed of how somebody signs in.
    Denied(AccountDenial),
    Done,
}

/// The way to the ledger, for everybody.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    desired: watch::Receiver<DesiredState>,
    shown: watch::Receiver<Shown>,
    access: Arc<ArcSwap<Access>>,
    access_changed: watch::Receiver<u64>,
    tokens: Arc<dyn Tokens>,
    workspace: WorkspaceLimits,
    /// What an installation may write, in bytes.
    install_bytes: u64,
    heartbeat: Arc<AtomicU64>,
    keys: Arc<Keys>,
    sign_ins: Arc<ArcSwap<SignIns>>,
}

/// How members sign in, for whoever looks at what one shows.
type SignIns = Table<MemberName, SignInRecord>;

/// Fills the token table and starts the task. The task ends only after [`Handle::shutdown`]; that it ends otherwise is for
/// the assembly to notice.
///
/// # Errors
/// The store's thread cannot be started.
pub fn spawn(deps: Deps) -> std::io::Result<(Handle, JoinHandle<()>)> {
    let (requests, asked) = mpsc::channel(REQUESTS);
    let heartbeat = Arc::new(AtomicU64::new(0));
    let shown = deps.shown.clone();
    let (workspace, install_bytes) = (deps.workspace, deps.install_bytes);
    let (access, tokens) = (Arc::<ArcSwap<Access>>::default(), deps.tokens.clone());
    let (changes, access_changed) = watch::channel(0);
    let keys = Arc::new(Keys::new(Answers::default(), deps.key.clone()));
    let sign_ins = Arc::<ArcSwap<SignIns>>::default();
    let shared = (access.clone(), changes, keys.clone(), sign_ins.clone());
    let (task, desired) = task::Task::build(deps, shared, asked, heartbeat.clone())?;
    let handle = Handle {
        requests,
        desired,
        shown,
        access,
        access_changed,
        tokens,
        workspace,
        install_bytes,
        heartbeat,
        keys,
        sign_ins,
    };
    Ok((handle, tokio::spawn(task.run())))
}

impl Handle {
    /// Admits an action. What it answers is durable, and shown by the reconciler.
    ///
    /// # Errors
    /// A typed [`Refusal`]; nothing has changed then, but where it says so.
    pub async fn submit(&self, action: Signed<Action>) -> Result<Outcome, Refusal> {
        Ok(self.submit_and_tell(action.into()).await?.0)
    }

    /// The same; with what was cut.
    ///
    /// # Errors
    /// As [`Handle::submit`]; [`Refusal::Changed`] once the other change is shown.
    pub async fn submit_and_tell(&self, write: Write) -> Result<(Outcome, Cut), Refusal> {
        let done = self.ask(|reply| Request::Act(Box::new(write), reply)).await?;
        if let Err(Refusal::Changed { .. }) = done {
            let version = self.desired.borrow().version;
            let mut shown = self.shown.clone();
            // What is shown by then is what is told.
            let _ = timeout(CAUGHT_UP, shown.wait_for(|s| s.version >= version)).await;
        }
        self.shown_as(done?).await
    }

    /// What something came to, once the reconciler shows it.
    async fn shown_as(&self, kept: Kept) -> Result<(Outcome, Cut), Refusal> {
        let mut shown = self.shown.clone();
        let seen = timeout(SHOWN, shown.wait_for(|s| s.version >= kept.version)).await;
        let seen = seen.map_err(|_| {
            let why =
                "the change was saved, but the box has not acted on it yet; look at its state before you ask again";
            Refusal::Unavailable { reason: why.to_owned() }
        })?;
        let seen = seen.map_err(|_| Refusal::Stopping)?;
        let outcome = match kept.what {
            Came::Done => Outcome::Done,
            Came::SignInLink(link) => Outcome::SignInLink(*link),
            // It answers no action.
            Came::Denied(why) => return Err(Refusal::fault(why)),
            Came::Token(made) => Outcome::Token(*made),
            Came::Workspace(name) => {
                let view = self.workspace(&name).ok_or_else(|| Refusal::NoWorkspace {
                    name: name.to_string(),
                    known: Vec::new(),
                })?;
                Outcome::Workspace(view)
            }
            Came::Member(name) => Outcome::Member(self.member(&name)?),
            Came::Disabled(mut report) => {
                let open = kept.cut.ways.iter().filter(|w| w.open > 0);
                report.cut = open.cloned().collect();
                report.screen_sessions = kept.cut.screens;
                Outcome::Offboarded(Box::new(Offboarded {
                    member: self.member(&report.member)?,
                    report: *report,
                    signed: String::new(),
                    signature: String::new(),
                    signing_key: String::new(),
                }))
            }
            Came::Team(id) => Outcome::Team(self.team(&id)?),
            Came::Grant(key) => Outcome::Grant(self.grant(&key)?),
            Came::Instance(id, token) => {
                let view = seen.views.get(&id).cloned();
                let mut view = view.ok_or_else(|| Refusal::no_instance(id))?;
                view.token = token;
                Outcome::Instance(Box::new(view))
            }
        };
        Ok((outcome, kept.cut))
    }

    /// Keeps what the reconciler found out; durable and published when it returns Ok. What somebody's action has made
    /// pointless is dropped.
    ///
    /// # Errors
    /// [`Refusal::Store`], and nothing has changed then.
    pub async fn report(&self, report: Report) -> Result<(), Refusal> {
        self.ask(|reply| Request::Report(report, reply)).await?
    }

    /// What shall be: the newest that is durable.
    pub fn desired(&self) -> watch::Receiver<DesiredState> {
        self.desired.clone()
    }

    /// What policy looks at, as of the newest that is durable.
    pub fn access(&self) -> Arc<Access> {
        self.access.load_full()
    }

    /// Signs an action for whoever may ask for it now.
    ///
    /// # Errors
    /// [`Denial`].
    pub fn sign(&self, by: Principal, action: Action) -> Result<Signed<Action>, Denial> {
        let access = self.access.load();
        let now = jiff::Timestamp::now();
        policy::sign(Known { access: &access, now }, by, action)
    }

    /// The same for whoever looks at every request.
    pub fn live_access(&self) -> Arc<ArcSwap<Access>> {
        self.access.clone()
    }

    /// A count that rises whenever [`Handle::access`] is another.
    pub fn access_changed(&self) -> watch::Receiver<u64> {
        self.access_changed.clone()
    }

    /// Rises at least once a second while the task makes progress, so not during a commit: the watchdog is fed by it.
    pub fn heartbeat(&self) -> u64 {
        self.heartbeat.load(Ordering::Relaxed)
    }

    /// Keeps what is only in memory, closes the store and ends the task.
    pub async fn shutdown(&self) {
        // Refused only where it has ended already.
        let _ = self.ask(Request::Shutdown).await;
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| Refusal::Stopping)?;
        answer.await.map_err(|_| Refusal::Stopping)
    }
}

#[cfg(test)]
mod tests;
