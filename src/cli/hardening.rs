//! `berth doctor --hardening`: reads what the list of `hardening` judges, and prints it, one line a check. Changes
//! nothing. What cannot be read is left out, and its checks fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::Result;

use super::print;
use crate::{
    docker,
    hardening::{self, Facts, FileFacts, Finding, Verdict},
};

/// Reads, checks and prints. Status 1 when a check failed that nothing waives.
pub(super) async fn run(engine: &Path, as_json: bool) -> Result<ExitCode> {
    let mut facts = read();
    facts.firewall = crate::firewall::images_table().await;
    if let Ok((info, containers)) = docker::inspect::everything(engine, Duration::from_secs(30)).await {
        facts.engine = Some(info);
        facts.containers = containers;
    }
    let findings = hardening::check(&facts);
    if as_json {
        print::json(&findings)?;
    } else {
        print_list(&findings)?;
    }
    let failed = findings.iter().any(|f| f.verdict == Verdict::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print_list(findings: &[Finding]) -> Result<()> {
    let count = |v: Verdict| findings.iter().filter(|f| f.verdict == v).count();
    for f in findings {
        let word = match f.verdict {
            Verdict::Pass => "pass  ",
            Verdict::Fail => "FAIL  ",
            Verdict::Waived => "waived",
        };
        let why = f.reason.map(|r| format!("; {r}")).unwrap_or_default();
        print::out(&format!("{word}  {}  {}  ({}{why})\n", f.reference, f.title, f.found))?;
    }
    let (pass, waived, fail) = (count(Verdict::Pass), count(Verdict::Waived), count(Verdict::Fail));
    print::out(&format!("{pass} pass, {waived} waived, {fail} fail\n"))
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn read() -> Facts {
    let mut facts = Facts {
        command_line: text("/proc/cmdline"),
        // Process 1 sees the box's mounts, whatever namespace asks.
        mounts: fs::read_to_string("/proc/1/mounts").unwrap_or_else(|_| text("/proc/self/mounts")),
        modules: text("/proc/modules"),
        loadable: loadable(),
        lsm: text("/sys/kernel/security/lsm"),
        lockdown: text("/sys/kernel/security/lockdown"),
        profiles: text("/sys/kernel/security/apparmor/profiles"),
        daemon: serde_json::from_str(&text("/etc/docker/daemon.json")).ok(),
        listening: listening(),
        ..Facts::default()
    };
    for name in hardening::sysctls() {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        if let Ok(value) = fs::read_to_string(path) {
            facts.sysctls.insert(name.to_owned(), value.trim().replace('\t', " "));
        }
    }
    for path in hardening::FILES
        .iter()
        .map(|(_, path, _)| *path)
        .chain(hardening::absent())
    {
        if let Ok(m) = fs::symlink_metadata(path) {
            facts.files.insert(path.to_owned(), owner(&m));
        }
    }
    for path in hardening::TEXTS {
        facts.texts.insert(path.to_owned(), text(path));
    }
    for (_, unit) in hardening::UNITS {
        let asked = Command::new("/usr/bin/systemctl")
            .args(["--quiet", "is-active", unit])
            .status();
        if let Ok(status) = asked {
            facts.units.insert(unit.to_owned(), status.success());
        }
    }
    walk(&mut facts);
    facts
}

fn owner(m: &fs::Metadata) -> FileFacts {
    FileFacts {
        uid: m.uid(),
        gid: m.gid(),
        mode: m.permissions().mode() & 0o7777,
    }
}

/// Names of the modules that the running kernel could load or has built in.
fn loadable() -> Vec<String> {
    let release = text("/proc/sys/kernel/osrelease");
    let folder = Path::new("/usr/lib/modules").join(release.trim());
    let both = ["modules.dep", "modules.builtin"].map(|name| text(folder.join(name)));
    let mut names: Vec<String> = both
        .iter()
        .flat_map(|t| t.lines())
        .filter_map(|l| l.split(':').next()?.rsplit('/').next()?.split(".ko").next())
        .map(|n| n.to_owned())
        .collect();
    names.sort();
    names
}

/// Looks at every file of the root's own file system.
fn walk(facts: &mut Facts) {
    let known = |texts: &BTreeMap<String, String>, path: &str| -> BTreeSet<u32> {
        let lines = texts.get(path).map_or("", |t| t).lines();
        lines.filter_map(|l| l.split(':').nth(2)?.parse().ok()).collect()
    };
    let (users, groups) = (known(&facts.texts, "/etc/passwd"), known(&facts.texts, "/etc/group"));
    let Ok(root) = fs::metadata("/") else { return };
    let mut folders = vec![PathBuf::from("/")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(m) = entry.metadata() else { continue };
            if m.dev() != root.dev() || m.is_symlink() {
                continue;
            }
            let (path, mode) = (entry.path(), m.permissions().mode());
            let name = path.display().to_string();
            if m.is_file() && mode & 0o6000 != 0 {
                facts.set_uid.push(name.clone());
            }
            if mode & 0o002 != 0 && !(m.is_dir() && mode & 0o1000 != 0) {
                facts.world_writable.push(name.clone());
            }
            if !users.contains(&m.uid()) || !groups.contains(&m.gid()) {
                facts.unowned.push(name);
            }
            if m.is_dir() {
                folders.push(path);
            }
        }
    }
    for all in [&mut facts.set_uid, &mut facts.world_writable, &mut facts.unowned] {
        all.sort();
    }
}

/// What listens, from the kernel's tables.
fn listening() -> Vec<String> {
    let mut all = BTreeSet::new();
    // The states of a listening TCP socket and of a UDP socket without a peer.
    for (file, protocol, state) in [
        ("tcp", "tcp", "0A"),
        ("tcp6", "tcp", "0A"),
        ("udp", "udp", "07"),
        ("udp6", "udp", "07"),
    ] {
        for line in text(Path::new("/proc/net").join(file)).lines().skip(1) {
            let mut words = line.split_whitespace().skip(1);
            let (local, found) = (words.next().unwrap_or_default(), words.nth(1));
            if found == Some(state)
                && let Some(address) = address(local)
            {
                all.insert(format!("{protocol} {address}"));
            }
        }
    }
    all.into_iter().collect()
}

/// `0100007F:1F90` and its IPv6 kin, as the kernel prints words of this machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = (0..address.len() / 8)
        .map(|n| {
            Some(
                u32::from_str_radix(address.get(n * 8..n * 8 + 8)?, 16)
                    .ok()?
                    .to_ne_bytes(),
            )
        })
        .collect();
    let bytes = words?.concat();
    match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => Some((Ipv4Addr::from(v4), port).into()),
        Err(_) => Some((Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?), port).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_kernel_are_read() {
        let read = |t: &str| address(t).map(|a| a.to_string());
        assert_eq!(read("0100007F:1F90").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(
            read("00000000000000000000000000000000:01BB").as_deref(),
            Some("[::]:443")
        );
        assert_eq!(
            read("00000000000000000000000001000000:0050").as_deref(),
            Some("[::1]:80")
        );
        assert_eq!(read("nonsense"), None);
    }
}
