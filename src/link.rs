//! F2: the supervisor's side of the instances' sockets. One [`Link`] an instance: a Unix socket that its agent dials,
//! a pool of the connections so made, and HTTP/1.1 as a client on each. The container behind them is not trusted:
//! everything it sends is bounded, and it can only ever answer what it was asked. And only its process 1 is heard at all:
//! the socket opens for the agent's group alone, and who dialled is proven before a byte is read ([`gate`]).
//!
//! Tasks, two a link, ended by [`Registry::close`]: `accept` puts connections into the pool; `watch` keeps
//! `GET /.berth/events` open and forwards what the agent says. Requests run in their caller's task: there is no task a
//! connection, and no hand-over between threads on the way.
//!
//! It never reads the store, and never decides who may call.

mod agent;
mod body;
mod exchange;
mod gate;
pub mod pace;
mod pool;
pub mod stats;
pub mod wire;

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{net::UnixListener, sync::mpsc, task::JoinHandle};

use crate::model::{AgentStatus, InstanceId, State, User};

pub use body::ReplyBody;
pub use exchange::{BodySource, CallError, NoBody, Payload, Reply, Request, Switched};
pub use gate::Peer;
pub use pool::set_reactor;
pub use stats::LinkStats;

/// The longest `sun_path` (unix(7)), its end included.
const SUN_PATH: usize = 108;
const SOCKET: &str = "agent.sock";

/// Why a link could not do what was asked. Names the operation.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the socket of {0} is not open")]
    NotOpen(InstanceId),
    #[error("cannot {what} {path}: {source}")]
    Socket {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot {what}: no connection from the agent of {id}")]
    NoAgent { what: &'static str, id: InstanceId },
    #[error("cannot {what}: the agent of {id} did not answer in {seconds} s")]
    Timeout {
        what: &'static str,
        id: InstanceId,
        seconds: f32,
    },
    #[error("cannot {what}: {why}")]
    Protocol { what: &'static str, why: String },
    /// The agent answered, and the answer is no.
    #[error("cannot {what}: the agent answered {status}: {reason}")]
    Refused {
        what: &'static str,
        status: u16,
        reason: String,
    },
}

/// What a link reports, and of which time: a number that rises with every new container of the instance
/// ([`Registry::renew`]), so that the word of an earlier one cannot be taken for that of the present one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    pub id: InstanceId,
    pub generation: u64,
    pub event: LinkEvent,
}

/// What happened on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Somebody connected who is not known to be the agent: [`Registry::prove`] decides. Told once, until it was called.
    Unproven(Peer),
    /// An agent connected, the first of its life.
    Up,
    /// What it says of itself.
    Status(AgentStatus),
    /// All its connections are gone.
    Down,
}

/// How long the head of the answer to one call may take: a limit of the edge, with what the instance makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// At least this.
    pub least: Duration,
    /// At most this.
    pub most: Duration,
}

impl Patience {
    /// Nothing is made of it.
    pub const ANY: Patience = Patience {
        least: Duration::ZERO,
        most: Duration::MAX,
    };

    /// What becomes of a limit.
    pub fn of(self, limit: Duration) -> Duration {
        limit.max(self.least).min(self.most)
    }
}

/// All links of this supervisor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime_dir: PathBuf,
    events: mpsc::Sender<LinkReport>,
    descriptors: Arc<pool::Descriptors>,
    generations: AtomicU64,
    /// Agents as the host sees them, once that is known.
    agents: Mutex<Option<User>>,
    boot: String,
    links: ArcSwap<HashMap<InstanceId, Arc<Link>>>,
    /// Held by who changes `links`; never across an await.
    writing: Mutex<()>,
}

impl Registry {
    /// No links yet. `events` is bounded by its receiver; a full channel holds up only the link that reports.
    pub fn new(runtime_dir: PathBuf, events: mpsc::Sender<LinkReport>) -> Registry {
        Registry::within(runtime_dir, events, usize::MAX)
    }

    /// The same, with so many descriptors for all connections of all agents.
    pub fn within(runtime_dir: PathBuf, events: mpsc::Sender<LinkReport>, descriptors: usize) -> Registry {
        Registry(Arc::new(Inner {
            runtime_dir,
            events,
            descriptors: pool::Descriptors::new(descriptors),
            generations: AtomicU64::new(0),
            agents: Mutex::default(),
            boot: gate::boot(),
            links: ArcSwap::default(),
            writing: Mutex::new(()),
        }))
    }

    /// Makes the instance's folder and socket and starts its tasks; what is open already stays. A folder that is there
    /// (a running container has it mounted) is kept, a stale socket in it replaced. The socket is for the agent's group;
    /// before that is known ([`Registry::set_agents`]), for the one that an earlier supervisor gave the folder.
    ///
    /// # Errors
    /// [`LinkError::Socket`] with the path.
    // Async for its callers' sake: it must run within a tokio runtime.
    #[allow(clippy::unused_async)]
    pub async fn open(&self, id: &InstanceId) -> Result<Arc<Link>, LinkError> {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = self.get(id.as_str()) {
            return Ok(link);
        }
        let parent = self.0.runtime_dir.join("i");
        let dir = parent.join(id.as_str());
        // No user of the host gets past this one: an agent is told secrets.
        make_dir(&parent, 0o700)?;
        make_dir(&dir, 0o710)?;
        let listener = listen(&dir)?;
        let earlier = fs::metadata(&dir).map_err(failed("look at", &dir))?.gid();
        give(&dir, self.agents().map_or(earlier, |a| a.gid))?;
        let link = Arc::new(Link {
            id: id.clone(),
            dir,
            pool: Arc::new(pool::Pool::new(Arc::clone(&self.0.descriptors))),
            gate: gate::Gate::open(gate::Note::new(note(&parent, id), &self.0.boot)),
            counters: Arc::default(),
            generation: AtomicU64::new(self.next_generation()),
            state: AtomicU64::new(pack(State::Pending, None)),
            patience: ArcSwap::from_pointee(Patience::ANY),
            tasks: Mutex::default(),
        });
        let tasks = vec![
            tokio::spawn(agent::accept(Arc::clone(&link), listener, self.0.events.clone())),
            tokio::spawn(agent::watch(Arc::clone(&link), self.0.events.clone())),
        ];
        *link.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        let mut links = HashMap::clone(&self.0.links.load());
        links.insert(id.clone(), Arc::clone(&link));
        self.0.links.store(Arc::new(links));
        Ok(link)
    }

    fn next_generation(&self) -> u64 {
        self.0.generations.fetch_add(1, Ordering::Relaxed)
    }

    /// No container of the instance runs, and one is about to start: connections of earlier ones are dropped, and
    /// reports carry the generation that is returned, or a higher one, from now on.
    pub fn renew(&self, id: &InstanceId) -> u64 {
        let generation = self.next_generation();
        if let Some(link) = self.get(id.as_str()) {
            link.generation.store(generation, Ordering::Release);
            link.gate.renew();
            link.pool.clear();
        }
        generation
    }

    fn agents(&self) -> Option<User> {
        *self.0.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which user of this machine all agents are; every socket is given to its group.
    ///
    /// # Errors
    /// [`LinkError::Socket`] with the first path whose group could not be set; the others are done.
    pub fn set_agents(&self, user: User) -> Result<(), LinkError> {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        *self.0.agents.lock().unwrap_or_else(PoisonError::into_inner) = Some(user);
        let links = self.0.links.load();
        let each = links.values().map(|link| give(&link.dir, user.gid));
        each.fold(Ok(()), Result::and)
    }

    /// The engine says that this process is the container's first, so it is the agent (or it is this very process, which
    /// relays a remote server): connections of it that waited serve from now on, all others are closed.
    pub fn prove(&self, id: &InstanceId, pid: u32) {
        let Some(link) = self.get(id.as_str()) else { return };
        let uid = match self.agents() {
            _ if pid == std::process::id() => nix::unistd::geteuid().as_raw(),
            Some(agents) => agents.uid,
            // The engine, which knows the process, was asked for its users first.
            None => return,
        };
        let (streams, changed) = link.gate.prove(Peer { pid, uid });
        if changed {
            link.pool.clear();
        }
        for stream in streams {
            link.pool.add(stream);
        }
    }

    /// Ends an instance's tasks, drops its idle connections (busy ones end with their request), removes socket and
    /// folder. Nothing happens if there is none.
    #[allow(clippy::unused_async)]
    pub async fn close(&self, id: &InstanceId) {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut links = HashMap::clone(&self.0.links.load());
        if let Some(link) = links.remove(id) {
            self.0.links.store(Arc::new(links));
            link.end();
        }
        // Also for what an earlier supervisor left behind.
        let parent = self.0.runtime_dir.join("i");
        let dir = parent.join(id.as_str());
        let _ = fs::remove_file(note(&parent, id));
        if let Err(e) = fs::remove_dir_all(&dir)
            && e.kind() != io::ErrorKind::NotFound
        {
            log::warn!("cannot remove {}: {e}", dir.display());
        }
    }

    /// Gives all links up to another supervisor: their sockets, and connections that are idle, are closed, so that agents
    /// dial anew. Requests under way go on. Folders and sockets' names stay.
    pub fn release(&self) {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for link in self.0.links.load().values() {
            link.end();
        }
    }

    /// The link of an instance. Takes no lock.
    pub fn get(&self, id: &str) -> Option<Arc<Link>> {
        self.0.links.load().get(id).cloned()
    }

    /// Instances with a link, in order.
    pub fn ids(&self) -> Vec<InstanceId> {
        let mut ids: Vec<_> = self.0.links.load().keys().cloned().collect();
        ids.sort_unstable();
        ids
    }
}

/// One instance's link.
#[derive(Debug)]
pub struct Link {
    id: InstanceId,
    dir: PathBuf,
    pool: Arc<pool::Pool>,
    gate: gate::Gate,
    counters: Arc<stats::Counters>,
    generation: AtomicU64,
    state: AtomicU64,
    patience: ArcSwap<Patience>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Link {
    /// Whose link it is.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// The folder to mount into the container; `agent.sock` is in it.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// What the edge shall answer from now on, and after how many seconds trying again makes sense.
    pub fn set_state(&self, state: State, retry_after_s: Option<u32>) {
        self.state.store(pack(state, retry_after_s), Ordering::Release);
    }

    /// The state as last set; `pending` at first.
    pub fn state(&self) -> State {
        unpack(self.state.load(Ordering::Acquire)).0
    }

    /// Seconds for `Retry-After`, as last set.
    pub fn retry_after(&self) -> Option<u32> {
        unpack(self.state.load(Ordering::Acquire)).1
    }

    /// How long calls of this instance may take, from now on.
    pub fn set_patience(&self, patience: Patience) {
        self.patience.store(Arc::new(patience));
    }

    /// As last set; [`Patience::ANY`] at first.
    pub fn patience(&self) -> Patience {
        **self.patience.load()
    }

    /// Counters and the pool's size.
    pub fn stats(&self) -> LinkStats {
        let (connections, idle) = self.pool.sizes();
        LinkStats {
            connections,
            idle,
            ..self.counters.read()
        }
    }

    /// Where the edge counts this instance's requests.
    pub fn counters(&self) -> &Arc<stats::Counters> {
        &self.counters
    }

    fn end(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        self.pool.close();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end();
    }
}

/// State in the upper half, `Retry-After` plus one in the lower (0: none).
fn pack(state: State, retry: Option<u32>) -> u64 {
    let index = State::ALL.iter().position(|s| *s == state).unwrap_or(0) as u64;
    index << 32 | u64::from(retry.map_or(0, |s| s.saturating_add(1)))
}

fn unpack(packed: u64) -> (State, Option<u32>) {
    let state = State::ALL[(packed >> 32) as usize % State::ALL.len()];
    (state, (packed as u32).checked_sub(1))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LinkError {
    let path = path.to_owned();
    move |source| LinkError::Socket { what, path, source }
}

fn make_dir(dir: &Path, mode: u32) -> Result<(), LinkError> {
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", dir))
}

/// Where it is noted down which process is the instance's agent: beside the folder that its container sees.
fn note(parent: &Path, id: &InstanceId) -> PathBuf {
    parent.join(format!("{id}.peer"))
}

/// Gives an instance's folder and socket to a group.
fn give(dir: &Path, group: u32) -> Result<(), LinkError> {
    for path in [dir.to_owned(), dir.join(SOCKET)] {
        let now = fs::metadata(&path).map_err(failed("look at", &path))?.gid();
        if now != group {
            chown(&path, None, Some(group)).map_err(failed("set the group of", &path))?;
        }
    }
    Ok(())
}

/// Binds the socket, 0660: for this user and the group that it is given to. On the host nobody but root gets as far,
/// since the folder above is closed; in the container the folder itself is mounted.
fn listen(dir: &Path) -> Result<UnixListener, LinkError> {
    let path = dir.join(SOCKET);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove the stale", &path)(e)),
        _ => {}
    }
    let listener = if path.as_os_str().len() < SUN_PATH {
        UnixListener::bind(&path)
    } else {
        // A path too long for sun_path, by way of the open folder.
        use std::os::fd::AsRawFd;
        let handle = fs::File::open(dir).map_err(failed("open", dir))?;
        UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd()))
    }
    .map_err(failed("listen on", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).map_err(failed("set the mode of", &path))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_pack() {
        for state in State::ALL {
            for retry in [None, Some(0), Some(7)] {
                assert_eq!(unpack(pack(state, retry)), (state, retry));
            }
        }
    }

    #[tokio::test]
    async fn folders_sockets_and_their_modes() {
        let dir = tempfile::tempdir().unwrap();
        // Longer than sun_path, as a checkout's state folder may be.
        let runtime = dir.path().join("a-rather-long-name".repeat(5));
        let (tx, _rx) = mpsc::channel(8);
        let registry = Registry::new(runtime.clone(), tx);
        let id = InstanceId::from_random([1; 10]);
        let link = registry.open(&id).await.unwrap();
        assert!(Arc::ptr_eq(&link, &registry.open(&id).await.unwrap()));
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        let (folder, socket) = (link.socket_dir(), link.socket_dir().join(SOCKET));
        assert_eq!((mode(folder), mode(&socket)), (0o710, 0o660));
        let groups = |p: &Path| (fs::metadata(p).unwrap().uid(), fs::metadata(p).unwrap().gid());
        let own = groups(dir.path());
        assert_eq!((groups(folder), groups(&socket)), (own, own), "nobody's yet");
        let root = nix::unistd::geteuid().is_root();
        let agents = User {
            uid: if root { 110_000 } else { own.0 },
            gid: if root { 110_000 } else { own.1 },
        };
        registry.set_agents(agents).unwrap();
        let given = (own.0, agents.gid);
        assert_eq!((groups(folder), groups(&socket)), (given, given));
        assert_eq!(registry.ids(), std::slice::from_ref(&id));
        // Another supervisor over the same folder replaces the socket, not the folder.
        let (tx, _rx2) = mpsc::channel(8);
        let again = Registry::new(runtime, tx);
        again.open(&id).await.unwrap();
        assert_eq!(groups(&socket), given, "before anybody says whose it is");
        again.close(&id).await;
        assert!(!link.socket_dir().exists());
        registry.close(&id).await;
        assert!(registry.get(id.as_str()).is_none());
    }

    /// Somebody of the right user who is not process 1 of the container gets no word, and is sent away.
    #[tokio::test]
    async fn the_right_user_of_another_process_is_not_heard() {
        use tokio::{io::AsyncReadExt, net::UnixStream, time::timeout};
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
        let dir = tempfile::tempdir().unwrap();
        let own = fs::metadata(dir.path()).unwrap();
        let (tx, mut events) = mpsc::channel(8);
        let registry = Registry::new(dir.path().to_owned(), tx);
        let agents = User {
            uid: own.uid(),
            gid: own.gid(),
        };
        registry.set_agents(agents).unwrap();
        let id = InstanceId::from_random([2; 10]);
        let link = registry.open(&id).await.unwrap();
        registry.prove(&id, 1);
        let socket = link.socket_dir().join(SOCKET);
        let mut stranger = UnixStream::connect(&socket).await.unwrap();
        let report = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        let me = Peer {
            pid: std::process::id(),
            uid: agents.uid,
        };
        assert_eq!(report.event, LinkEvent::Unproven(me));
        assert_eq!(link.stats().connections, 0);
        registry.prove(&id, 1);
        let end = timeout(PATIENCE, stranger.read(&mut [0; 10])).await.unwrap();
        assert_eq!(end.unwrap(), 0, "closed without a word");
        // Proven, it is heard: also what dialled before.
        let _waits = UnixStream::connect(&socket).await.unwrap();
        let report = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        assert_eq!(report.event, LinkEvent::Unproven(me));
        registry.prove(&id, me.pid);
        let report = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        assert_eq!((report.event, link.stats().connections), (LinkEvent::Up, 1));
        // And not in the name of the next container.
        registry.renew(&id);
        let _late = UnixStream::connect(&socket).await.unwrap();
        loop {
            let report = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
            if report.event == LinkEvent::Unproven(me) {
                break;
            }
        }
        assert_eq!(link.stats().idle, 0);
    }
}
