//! How full the disks are that the box lives on: said before they are full, since then nothing can be kept any more.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use tokio::sync::OnceCell;

use crate::{
    api::DiskView,
    docker::{Docker, Engine},
    plan::room::{SAID, URGENT, used},
};

/// Where to look.
pub(super) struct Space {
    pub(super) state_dir: PathBuf,
    pub(super) docker: Docker,
    /// The engine's folder, once it has said so.
    pub(super) engine: OnceCell<PathBuf>,
}

impl Space {
    /// The disks, each once. One that cannot be looked at is left out.
    pub(super) async fn disks(&self) -> Vec<DiskView> {
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
}

fn look(holds: &'static str, path: &Path) -> Option<DiskView> {
    let seen = nix::sys::statvfs::statvfs(path).ok()?;
    let free = seen.blocks_available().saturating_mul(seen.fragment_size());
    let used = seen.blocks().saturating_sub(seen.blocks_free());
    // What only root may use counts neither as used nor as free, as df(1) has it.
    let size = used.saturating_mul(seen.fragment_size()).saturating_add(free);
    Some(DiskView {
        holds: holds.to_owned(),
        size_bytes: size,
        free_bytes: free,
    })
}

/// What is to be said of a disk.
pub(super) fn note(disk: &DiskView) -> Option<String> {
    let (size, free) = (disk.size_bytes, disk.free_bytes);
    let used = used(size, free);
    let mib = |bytes: u64| bytes >> 20;
    let consequence = match used {
        0..SAID => return None,
        SAID..URGENT => "",
        _ => "; soon nothing can be saved, and instances will fail",
    };
    Some(format!(
        "the disk with {} is {used} % full, {} of {} MiB are free{consequence}: remove instances, or make the disk larger",
        disk.holds,
        mib(free),
        mib(size),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_said_to_fill_up_before_it_is_full() {
        let disk = |free: u64| DiskView {
            holds: "the box's data".to_owned(),
            size_bytes: 1000 << 20,
            free_bytes: free << 20,
        };
        assert_eq!(note(&disk(201)), None);
        let said = note(&disk(200)).expect("80 %");
        assert!(
            said.contains("80 % full, 200 of 1000 MiB") && !said.contains("soon"),
            "{said}"
        );
        assert!(note(&disk(100)).expect("90 %").contains("soon"));
        assert!(note(&disk(0)).expect("100 %").contains("100 % full"));
        let none = DiskView {
            size_bytes: 0,
            ..disk(0)
        };
        assert_eq!(note(&none), None, "a file system that says nothing of itself");
    }

    #[test]
    fn this_machines_disk_is_read() {
        let disk = look("x", Path::new("/")).expect("a file system");
        assert!(disk.size_bytes > 0 && disk.free_bytes <= disk.size_bytes);
        assert_eq!(look("x", Path::new("/nowhere/at/all")), None);
    }
}
