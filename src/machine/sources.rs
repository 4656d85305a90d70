//! Finds the site file: a credential that the firmware or hypervisor gave, the ESP, a NoCloud seed disk; the first that
//! is there counts. Also what was set at the console, which lies on the ESP.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount, umount},
};

use super::{MachineError, OWN, failed};
use crate::site::{self, Seed, Site};
use crate::strict_toml::{Problem, Problems};

/// What SMBIOS or fw_cfg gave, as systemd hands it to the unit.
const CREDENTIAL: &str = "berth.site";
/// The ESP of the disk that this box runs from.
const ESP: &str = "/dev/berth/esp";

/// A site file's place, and what it says.
pub(super) struct Found {
    /// `none`, `credential`, `esp` or `seed`.
    pub(super) source: &'static str,
    pub(super) site: Result<Site, Problems>,
}

/// Looks in every place in its order.
pub(super) fn site_file() -> Found {
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY").map(|d| Path::new(&d).join(CREDENTIAL));
    if let Some(path) = credential.filter(|p| p.exists()) {
        let site = read(&path, CREDENTIAL).and_then(|t| site::parse(CREDENTIAL, &t));
        return Found {
            source: "credential",
            site,
        };
    }
    let found = on_esp(Access::Read, |esp| {
        let path = esp.join("berth/site.toml");
        Ok(path
            .exists()
            .then(|| read(&path, "site.toml").and_then(|t| site::parse("site.toml", &t))))
    });
    match found {
        Ok(Some(site)) => return Found { source: "esp", site },
        Ok(None) => {}
        Err(e) => log::warn!("whether the ESP has a site file is not known: {e}"),
    }
    // Nothing so far: a seed disk may still be on its way into /dev.
    let _ = Command::new("/usr/bin/udevadm")
        .args(["settle", "--timeout=10"])
        .status();
    for label in ["cidata", "CIDATA"] {
        let device = PathBuf::from(format!("/dev/disk/by-label/{label}"));
        if !device.exists() {
            continue;
        }
        let site = seed(&device).unwrap_or_else(|e| {
            Err(Problems(vec![Problem {
                file: device.display().to_string(),
                line: 1,
                text: e.to_string(),
            }]))
        });
        return Found { source: "seed", site };
    }
    Found {
        source: "none",
        site: Ok(Site::default()),
    }
}

/// The `[[network]]` tables that were set at the console, where there are any.
pub(super) fn console_network() -> Option<String> {
    let read = on_esp(Access::Read, |esp| {
        let path = esp.join("berth/network.toml");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("read", path)(e)),
        }
    });
    read.unwrap_or_else(|e| {
        log::warn!("what was set at the console is not known: {e}");
        None
    })
}

/// A text of bounded length; what cannot be read is a problem of line 1.
fn read(path: &Path, name: &str) -> Result<String, Problems> {
    let problem = |text: String| {
        Problems(vec![Problem {
            file: name.into(),
            line: 1,
            text,
        }])
    };
    let bytes = fs::read(path).map_err(|e| problem(format!("cannot be read: {e}")))?;
    if bytes.len() > site::MAX_TEXT {
        return Err(problem(format!(
            "{} bytes are too many; {} are the most",
            bytes.len(),
            site::MAX_TEXT
        )));
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        Problems(vec![Problem {
            file: name.into(),
            line,
            text: "not UTF-8: save the file as UTF-8".into(),
        }])
    })
}

fn seed(device: &Path) -> Result<Result<Site, Problems>, MachineError> {
    mounted(device, &["iso9660", "vfat"], Access::Read, |dir| {
        let mut seed = Seed::default();
        for (name, place) in [
            ("user-data", &mut seed.user_data),
            ("meta-data", &mut seed.meta_data),
            ("network-config", &mut seed.network_config),
        ] {
            let path = dir.join(name);
            if path.exists() {
                match read(&path, name) {
                    Ok(text) => *place = Some(text),
                    Err(problems) => return Ok(Err(problems)),
                }
            }
        }
        Ok(site::from_seed(&seed))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Runs `then` with the ESP mounted.
pub(super) fn on_esp<T>(
    access: Access,
    then: impl FnOnce(&Path) -> Result<T, MachineError>,
) -> Result<T, MachineError> {
    mounted(Path::new(ESP), &["vfat"], access, then)
}

fn mounted<T>(
    device: &Path,
    kinds: &[&str],
    access: Access,
    then: impl FnOnce(&Path) -> Result<T, MachineError>,
) -> Result<T, MachineError> {
    let dir = Path::new(OWN).join("disk");
    fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if access == Access::Read {
        flags |= MsFlags::MS_RDONLY;
    }
    let mut last = io::Error::other("no file system was tried");
    for kind in kinds {
        let mut tried = mount(Some(device), &dir, Some(*kind), flags, Some(""));
        if tried == Err(Errno::EBUSY) && access == Access::Read {
            // The kernel has it open for writing, a moment ago or elsewhere, and wants everybody to do the same.
            let writable = flags & !MsFlags::MS_RDONLY;
            tried = mount(Some(device), &dir, Some(*kind), writable, Some(""));
        }
        match tried {
            Ok(()) => {
                let result = then(&dir);
                // Writes reach the disk before anybody is told that they are there.
                umount(&dir).map_err(|e| failed("unmount", &dir)(e.into()))?;
                return result;
            }
            Err(e) => last = e.into(),
        }
    }
    Err(failed("mount", device)(last))
}
