//! Who is at the other end of a connection. Only process 1 of the instance's own container is its agent, and the
//! engine says which process that is, a moment after it was started: until then its connections wait here. A
//! connection that is not proven is never read, written, or put into the pool.
//!
//! ```text
//! dialled --of the proven process--> pool
//!    | of any other, or none is proven yet
//!    v
//! waits --it is proven--> pool
//!    | another is, the container is another, or too many wait
//!    v
//! closed
//! ```

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::net::UnixStream;

/// Connections that may wait; the oldest gives way. An agent that was just started has two.
const WAITING: usize = 16;

/// A process of this machine as the kernel knew it when it connected (unix(7), `SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// 0: it has none that this process could know, which happens where the engine's processes are in a namespace apart.
    pub pid: u32,
    pub uid: u32,
}

/// What becomes of a connection.
#[derive(Debug)]
pub(super) enum Admission {
    Proven(UnixStream),
    /// `true`: it is the first to wait, and somebody should find out who the agent is.
    Waits(bool),
}

#[derive(Debug, Default)]
struct State {
    proven: Option<Peer>,
    waiting: VecDeque<(Peer, UnixStream)>,
    /// That somebody waits was told.
    told: bool,
}

/// Held by one link. The lock is held for a few instructions.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    note: Note,
}

impl Gate {
    /// Of the process that an earlier supervisor noted down, if this machine has not booted since: so an instance serves
    /// on while the engine is away. The engine is asked all the same.
    pub(super) fn open(note: Note) -> Self {
        let state = State {
            proven: note.read(),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            note,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that was just accepted.
    pub(super) fn admit(&self, peer: Peer, stream: UnixStream) -> Admission {
        let mut state = self.state();
        if state.proven == Some(peer) {
            return Admission::Proven(stream);
        }
        if state.waiting.len() >= WAITING {
            state.waiting.pop_front();
        }
        state.waiting.push_back((peer, stream));
        Admission::Waits(!std::mem::replace(&mut state.told, true))
    }

    /// This process is the agent, and nobody else. Its connections that waited, and whether it was another before.
    pub(super) fn prove(&self, peer: Peer) -> (Vec<UnixStream>, bool) {
        let mut state = self.state();
        state.told = false;
        let before = state.proven.replace(peer);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        if before != Some(peer) {
            self.note.write(peer);
        }
        let (own, strange): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(p, _)| *p == peer);
        for (p, _) in strange {
            log::warn!(
                "{}: process {} of user {} is not its agent (process {} of user {}): refused",
                self.note.name(),
                p.pid,
                p.uid,
                peer.pid,
                peer.uid
            );
        }
        (
            own.into_iter().map(|(_, s)| s).collect(),
            before.is_some_and(|b| b != peer),
        )
    }

    /// A new container is about to start: whoever was proven is not its agent.
    pub(super) fn renew(&self) {
        *self.state() = State::default();
        self.note.remove();
    }
}

/// Where it is noted down which process was proven, and of which boot this is.
#[derive(Debug)]
pub(super) struct Note {
    path: PathBuf,
    boot: String,
}

impl Note {
    /// `boot` is the kernel's number of this boot; without one nothing is noted.
    pub(super) fn new(path: PathBuf, boot: &str) -> Self {
        Self {
            path,
            boot: boot.trim().to_owned(),
        }
    }

    fn name(&self) -> std::borrow::Cow<'_, str> {
        self.path.file_stem().unwrap_or_default().to_string_lossy()
    }

    fn read(&self) -> Option<Peer> {
        let text = fs::read_to_string(&self.path).ok()?;
        let mut words = text.strip_suffix('\n')?.split(' ');
        let mut next = || words.next();
        if self.boot.is_empty() || next()? != self.boot {
            return None;
        }
        Some(Peer {
            pid: next()?.parse().ok()?,
            uid: next()?.parse().ok()?,
        })
    }

    fn write(&self, peer: Peer) {
        if self.boot.is_empty() {
            return;
        }
        let line = format!("{} {} {}\n", self.boot, peer.pid, peer.uid);
        // Without it the next supervisor asks the engine before it serves: nothing worse.
        if let Err(e) = fs::write(&self.path, line) {
            log::debug!("cannot write {}: {e}", self.path.display());
        }
    }

    fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The kernel's number of this boot.
pub(super) fn boot() -> String {
    fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(dir: &Path, boot: &str) -> Gate {
        Gate::open(Note::new(dir.join("aaaaaaaaaa.peer"), boot))
    }

    fn dial() -> UnixStream {
        UnixStream::pair().unwrap().0
    }

    fn waits(a: Admission) -> bool {
        match a {
            Admission::Waits(first) => first,
            Admission::Proven(_) => panic!("let in"),
        }
    }

    #[tokio::test]
    async fn only_the_proven_process_gets_in() {
        let dir = tempfile::tempdir().unwrap();
        let g = gate(dir.path(), "b1\n");
        let (agent, other) = (Peer { pid: 7, uid: 10_000 }, Peer { pid: 8, uid: 10_000 });
        assert!(waits(g.admit(agent, dial())));
        assert!(!waits(g.admit(other, dial())), "told once");
        let root = Peer { pid: 7, uid: 0 };
        assert!(!waits(g.admit(root, dial())));
        let (own, changed) = g.prove(agent);
        assert_eq!((own.len(), changed), (1, false), "and the others are closed");
        assert!(matches!(g.admit(agent, dial()), Admission::Proven(_)));
        // The right user is not enough, nor the right number.
        assert!(waits(g.admit(other, dial())) && !waits(g.admit(root, dial())));
        let (own, changed) = g.prove(other);
        assert_eq!((own.len(), changed), (1, true));
        g.renew();
        assert!(waits(g.admit(other, dial())), "of an earlier container");
        for _ in 0..2 * WAITING {
            g.admit(other, dial());
        }
        assert_eq!(g.prove(other).0.len(), WAITING);
    }

    #[tokio::test]
    async fn the_next_supervisor_knows_the_process_until_the_machine_boots() {
        let dir = tempfile::tempdir().unwrap();
        let agent = Peer { pid: 7, uid: 110_000 };
        gate(dir.path(), "b1\n").prove(agent);
        assert!(matches!(
            gate(dir.path(), "b1\n").admit(agent, dial()),
            Admission::Proven(_)
        ));
        assert!(waits(gate(dir.path(), "b2\n").admit(agent, dial())));
        assert!(waits(gate(dir.path(), "").admit(agent, dial())));
        // One that was cut short is none.
        let note = dir.path().join("aaaaaaaaaa.peer");
        fs::write(&note, "b1 7 11").unwrap();
        assert!(waits(gate(dir.path(), "b1\n").admit(agent, dial())));
        gate(dir.path(), "b1\n").renew();
        assert!(!note.exists());
    }
}
