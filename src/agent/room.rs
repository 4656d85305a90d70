//! The container's memory: what of it is in use, how large the server's processes are, and which processes the kernel has
//! killed since there was no more. Reads, never decides: the bridge does (`mcp::bridge`, `Memory`).
//!
//! Both generations of cgroups are read: the container sees its own at `/sys/fs/cgroup`. Where nothing is to be read there,
//! there is no limit, and nothing is counted.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::reap::Ended;
use super::status::Board;
use crate::mcp::bridge::{Memory, ProcId};

/// A process that runs for less than this still loads its program.
const SETTLED: Duration = Duration::from_secs(10);

/// A server process, as it is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server {
    /// The leader of its session: all that it starts is in it.
    pub(super) pid: i32,
    pub(super) born: Instant,
    /// It was told to end.
    pub(super) leaving: bool,
}

/// The container's cgroup.
#[derive(Debug)]
pub(super) struct Group(PathBuf);

impl Group {
    /// That of the container that this process is in.
    pub(super) fn of_container() -> Self {
        Self("/sys/fs/cgroup".into())
    }

    fn read(&self, files: [&str; 2]) -> Option<String> {
        files
            .into_iter()
            .find_map(|f| std::fs::read_to_string(self.0.join(f)).ok())
    }

    fn number(&self, files: [&str; 2]) -> Option<u64> {
        self.read(files)?.trim().parse().ok()
    }

    /// Processes that the kernel killed for want of memory, since the cgroup is there.
    pub(super) fn kills(&self) -> Option<u64> {
        let text = self.read(["memory.events", "memory/memory.oom_control"])?;
        number_of(&text, "oom_kill")
    }

    /// The limit, where there is one.
    pub(super) fn limit(&self) -> Option<u64> {
        // What the first generation calls no limit is next to the largest number.
        self.number(["memory.max", "memory/memory.limit_in_bytes"])
            .filter(|n| *n < 1 << 60)
    }

    /// The memory, with these server processes; `waiting` more are about to be started.
    pub(super) fn measure(&self, servers: &[Server], waiting: usize) -> Memory {
        let Some(limit) = self.limit() else {
            return Memory::default();
        };
        let current = self.number(["memory.current", "memory/memory.usage_in_bytes"]);
        let stat = self.read(["memory.stat", "memory/memory.stat"]).unwrap_or_default();
        let used = current.unwrap_or_default().saturating_sub(reclaimable(&stat));
        estimate(limit, used, servers, &sizes(Path::new("/proc"), servers), waiting)
    }
}

/// The server's processes, as far as the container's memory is measured by them.
#[derive(Debug)]
pub(super) struct Running {
    group: Group,
    pub(super) servers: HashMap<ProcId, Server>,
    /// So many more are about to be started.
    pub(super) waiting: usize,
}

impl Running {
    /// No process yet.
    pub(super) fn new(group: Group) -> Self {
        Self {
            group,
            servers: HashMap::new(),
            waiting: 0,
        }
    }

    /// A process was told to end.
    pub(super) fn leaves(&mut self, id: ProcId) {
        if let Some(server) = self.servers.get_mut(&id) {
            server.leaving = true;
        }
    }

    /// The container's memory with them.
    pub(super) fn measure(&self) -> Memory {
        let all: Vec<Server> = self.servers.values().copied().collect();
        self.group.measure(&all, self.waiting)
    }
}

/// Who was killed for want of memory: server processes and services alike.
#[derive(Debug)]
pub(super) struct Kills {
    group: Group,
    /// Of the kernel's count, those that are accounted for.
    accounted: Cell<u64>,
    board: Rc<Board>,
}

impl Kills {
    /// Counts from now on.
    pub(super) fn of_container(board: Rc<Board>) -> Rc<Self> {
        Rc::new(Self::of(Group::of_container(), board))
    }

    fn of(group: Group, board: Rc<Board>) -> Self {
        Self {
            accounted: Cell::new(group.kills().unwrap_or(0)),
            group,
            board,
        }
    }

    /// Whether the kernel killed a child that ended without being told to, in words: it has counted one that is not
    /// accounted for yet.
    pub(super) fn account(&self, ended: Ended) -> Option<String> {
        let counted = self.group.kills().unwrap_or(0);
        let accounted = self.accounted.get();
        if ended != Ended::Signal(Signal::SIGKILL) || counted <= accounted {
            return None;
        }
        self.accounted.set(accounted + 1);
        self.board.killed_for_memory();
        let limit = self.group.limit().map(|n| format!(" ({} MiB)", n >> 20));
        let limit = limit.unwrap_or_default();
        Some(format!(
            "was killed by the kernel: the container's memory{limit} is used up"
        ))
    }
}

/// The value of a line `name value`.
fn number_of(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|l| l.split_once(' '));
    lines.find(|(n, _)| *n == name)?.1.trim().parse().ok()
}

/// What the kernel can have back at once by a cgroup's `memory.stat`: the page cache but for what is mapped, which is the
/// programs that run, and caches of its own.
fn reclaimable(stat: &str) -> u64 {
    // The first generation has the sums of a group in lines of their own.
    let of = |name: &str, old: &str| number_of(stat, old).or_else(|| number_of(stat, name)).unwrap_or(0);
    let cache = of("inactive_file", "total_inactive_file") + of("active_file", "total_active_file");
    let mapped = of("file_mapped", "total_mapped_file");
    cache.saturating_sub(mapped) + number_of(stat, "slab_reclaimable").unwrap_or(0)
}

/// The memory that each server holds for itself, with all that it started, by its leader.
fn sizes(proc: &Path, servers: &[Server]) -> HashMap<i32, u64> {
    let mut sizes: HashMap<i32, u64> = servers.iter().map(|s| (s.pid, 0)).collect();
    if sizes.is_empty() {
        return sizes;
    }
    for entry in std::fs::read_dir(proc).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // One may have ended a moment ago.
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if let Some(size) = session(&read("stat")).and_then(|s| sizes.get_mut(&s)) {
            *size += own_memory(&read("status"));
        }
    }
    sizes
}

/// The session of a process by its `stat` (proc(5)).
fn session(stat: &str) -> Option<i32> {
    // After the name, which may hold anything: state, parent, group, session.
    stat.rsplit_once(") ")?.1.split(' ').nth(3)?.parse().ok()
}

/// What a process holds for itself by its `status` (proc(5)), in bytes.
fn own_memory(status: &str) -> u64 {
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// What the kernel holds for a process beside its own memory (page tables, stacks, pipes) and what its program's pages take: a
/// part of its own memory. Each alone is little; of as many processes as fit, it is more than the margin.
const BESIDE: u64 = 8;

/// What one process more is likely to take: as much as those that have settled do on average, or as the largest where none
/// has, and what comes beside. Those that have not settled are taken to grow to that.
fn estimate(limit: u64, used: u64, servers: &[Server], sizes: &HashMap<i32, u64>, waiting: usize) -> Memory {
    let size = |s: &Server| sizes.get(&s.pid).copied().unwrap_or(0);
    let stays = || servers.iter().filter(|s| !s.leaving);
    let (settled, young): (Vec<&Server>, Vec<&Server>) = stays().partition(|s| s.born.elapsed() >= SETTLED);
    let one = match settled.len() as u64 {
        0 => young.iter().map(|s| size(s)).max().unwrap_or(0),
        n => settled.iter().map(|s| size(s)).sum::<u64>() / n,
    };
    let one = one + one / BESIDE;
    let grows: u64 = young.iter().map(|s| one.saturating_sub(size(s))).sum();
    Memory {
        limit: Some(limit),
        used,
        leaving: servers.iter().filter(|s| s.leaving).map(size).sum(),
        growing: grows.saturating_add(one.saturating_mul(waiting as u64)),
        one,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "anon 100\nfile 90\nfile_mapped 30\nshmem 5\ninactive_anon 1\ninactive_file 50\nactive_file 40\n\
                      slab_reclaimable 7\nslab_unreclaimable 3\n";
    const V1: &str = "cache 9\nmapped_file 1\ninactive_file 1\nactive_file 1\ntotal_mapped_file 30\n\
                      total_inactive_file 50\ntotal_active_file 40\n";

    #[test]
    fn the_page_cache_is_no_use_but_programs_are() {
        assert_eq!(reclaimable(V2), 67);
        assert_eq!(reclaimable(V1), 60);
        assert_eq!(reclaimable(""), 0);
    }

    #[test]
    fn cgroups_of_both_generations_are_read() {
        for files in [
            [
                ("memory.max", "536870912\n"),
                ("memory.current", "1000\n"),
                ("memory.stat", V2),
                ("memory.events", "low 0\noom 2\noom_kill 3\noom_group_kill 0\n"),
            ],
            [
                ("memory/memory.limit_in_bytes", "536870912\n"),
                ("memory/memory.usage_in_bytes", "993\n"),
                ("memory/memory.stat", V1),
                (
                    "memory/memory.oom_control",
                    "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
                ),
            ],
        ] {
            let dir = tempfile::tempdir().expect("tempdir");
            std::fs::create_dir(dir.path().join("memory")).expect("folder");
            for (name, text) in files {
                std::fs::write(dir.path().join(name), text).expect("file");
            }
            let group = Group(dir.path().to_owned());
            assert_eq!(group.kills(), Some(3));
            let memory = group.measure(&[], 0);
            assert_eq!((memory.limit, memory.used, memory.one), (Some(512 << 20), 933, 0));
        }
        let unlimited = tempfile::tempdir().expect("tempdir");
        std::fs::write(unlimited.path().join("memory.max"), "max\n").expect("file");
        let group = Group(unlimited.path().to_owned());
        assert_eq!((group.measure(&[], 0), group.kills()), (Memory::default(), None));
    }

    #[test]
    fn a_kill_is_accounted_for_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let killed = |n: u32| std::fs::write(dir.path().join("memory.events"), format!("oom 9\noom_kill {n}\n"));
        std::fs::write(dir.path().join("memory.max"), "268435456\n").expect("file");
        killed(2).expect("file");
        let board = Rc::new(Board::new());
        let kills = Kills::of(Group(dir.path().to_owned()), Rc::clone(&board));
        let sigkill = Ended::Signal(Signal::SIGKILL);
        assert_eq!(kills.account(sigkill), None, "what was before");
        killed(3).expect("file");
        assert_eq!(kills.account(Ended::Signal(Signal::SIGTERM)), None);
        assert_eq!(kills.account(Ended::Status(137)), None);
        let why = "was killed by the kernel: the container's memory (256 MiB) is used up";
        assert_eq!(kills.account(sigkill).as_deref(), Some(why));
        assert_eq!(kills.account(sigkill), None, "by somebody else");
        assert_eq!(board.status().oom_kills, 1);
    }

    #[test]
    fn the_young_are_taken_to_grow() {
        let now = Instant::now();
        let old = now.checked_sub(SETTLED).expect("the machine runs for longer");
        let server = |pid, born, leaving| Server { pid, born, leaving };
        let sizes = HashMap::from([(1, 50), (2, 70), (3, 10), (4, 100), (5, 30)]);
        let all = [
            server(1, old, false),
            server(2, old, false),
            server(3, now, false),
            server(4, now, false),
            server(5, old, true),
        ];
        let memory = estimate(1000, 300, &all, &sizes, 2);
        assert_eq!((memory.one, memory.growing, memory.leaving), (67, 57 + 2 * 67, 30));
        let young = estimate(1000, 300, &all[2..4], &sizes, 0);
        assert_eq!(
            (young.one, young.growing),
            (112, 102 + 12),
            "the largest where none has settled"
        );
        assert_eq!(estimate(1000, 300, &[], &sizes, 0).one, 0);
    }

    #[test]
    fn a_server_is_as_large_as_all_that_it_started() {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "sleep 1000 & echo; wait"]).process_group(0);
        command.stdout(std::process::Stdio::piped());
        let own = std::fs::read_to_string("/proc/self/stat").expect("stat");
        assert_eq!(session("7 (a) b) S 1 7 5 0 -1"), Some(5));
        let server = Server {
            pid: session(&own).expect("a session"),
            born: Instant::now(),
            leaving: false,
        };
        let before = sizes(Path::new("/proc"), &[server])[&server.pid];
        assert!(before >= own_memory(&std::fs::read_to_string("/proc/self/status").expect("status")) / 2);
        let mut child = command.spawn().expect("sh");
        let id = child.id();
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().expect("pipe"), &mut line).expect("it has begun");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("status");
        assert!(own_memory(&status) > 0);
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("stat");
        assert_eq!(session(&stat), Some(server.pid), "what is started is of its session");
        nix::sys::signal::killpg(
            nix::unistd::Pid::from_raw(id.cast_signed()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("kill");
        child.wait().expect("wait");
    }
}
