//! How full the disks are that the box lives on: said before they are full, since then nothing can be kept any more.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use tokio::sync::OnceCell;

use crate::docker::{Docker, Engine};

/// From so many hundredths on it is said, and from so many on it is urgent.
const SAID: u64 = 80;
const URGENT: u64 = 90;

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    /// What lies on it.
    pub(super) holds: &'static str,
    /// In bytes.
    pub(super) size: u64,
    /// In bytes, of what anybody but root may still use.
    pub(super) free: u64,
}

/// Where to look.
pub(super) struct Space {
    pub(super) state_dir: PathBuf,
    pub(super) docker: Docker,
    /// The engine's folder, once it has said so.
    pub(super) engine: OnceCell<PathBuf>,
}

impl Space {
    /// The disks, each once. One that cannot be looked at is left out.
    pub(super) async fn disks(&self) -> Vec<Disk> {
        let asked = self.engine.get_or_try_init(|| async {
            let info = self.docker.info().await?;
            Ok::<_, crate::docker::EngineError>(PathBuf::from(info.root_dir))
        });
        let engine = asked.await.ok();
        let device = |path: &Path| std::fs::metadata(path).ok().map(|m| m.dev());
        let apart = engine.filter(|e| device(e) != device(&self.state_dir));
        let holds = if apart.is_some() {
            "the supervisor's state"
        } else {
            "the box's data"
        };
        let state = look(holds, &self.state_dir);
        let engine = apart.and_then(|e| look("the engine's data", e));
        state.into_iter().chain(engine).collect()
    }

    /// What is to be said of them.
    pub(super) async fn notes(&self) -> Vec<String> {
        self.disks().await.iter().filter_map(Disk::note).collect()
    }
}

fn look(holds: &'static str, path: &Path) -> Option<Disk> {
    let seen = nix::sys::statvfs::statvfs(path).ok()?;
    let free = seen.blocks_available().saturating_mul(seen.fragment_size());
    let used = seen.blocks().saturating_sub(seen.blocks_free());
    // What only root may use counts neither as used nor as free, as df(1) has it.
    let size = used.saturating_mul(seen.fragment_size()).saturating_add(free);
    Some(Disk { holds, size, free })
}

impl Disk {
    fn note(&self) -> Option<String> {
        let used = (self.size.saturating_sub(self.free)).saturating_mul(100) / self.size.max(1);
        let mib = |bytes: u64| bytes >> 20;
        let consequence = match used {
            0..SAID => return None,
            SAID..URGENT => "",
            _ => "; soon nothing can be kept any more, and instances fail",
        };
        Some(format!(
            "the disk with {} is {used} % full, {} of {} MiB are free{consequence}: remove instances that nobody needs, or make it larger",
            self.holds,
            mib(self.free),
            mib(self.size),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_said_to_fill_up_before_it_is_full() {
        let disk = |free: u64| Disk {
            holds: "the box's data",
            size: 1000 << 20,
            free: free << 20,
        };
        assert_eq!(disk(201).note(), None);
        let said = disk(200).note().expect("80 %");
        assert!(
            said.contains("80 % full, 200 of 1000 MiB") && !said.contains("soon"),
            "{said}"
        );
        assert!(disk(100).note().expect("90 %").contains("soon"));
        assert!(disk(0).note().expect("100 %").contains("100 % full"));
        let none = Disk { size: 0, ..disk(0) };
        assert_eq!(none.note(), None, "a file system that says nothing of itself");
    }

    #[test]
    fn this_machines_disk_is_read() {
        let disk = look("x", Path::new("/")).expect("a file system");
        assert!(disk.size > 0 && disk.free <= disk.size);
        assert_eq!(look("x", Path::new("/nowhere/at/all")), None);
    }
}
