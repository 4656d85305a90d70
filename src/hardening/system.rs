//! The system around the engine: mounts, files, accounts, what listens, the firewall, the journal.

use super::{Facts, FileFacts, List, words};

/// Owner, group and the mode bits that may be set: reference, path, mode.
pub const FILES: [(&str, &str, u32); 12] = [
    ("CIS Debian 7.1.1", "/etc/passwd", 0o644),
    ("CIS Debian 7.1.3", "/etc/group", 0o644),
    ("CIS Debian 7.1.5", "/etc/shadow", 0o640),
    ("CIS Debian 7.1.7", "/etc/gshadow", 0o640),
    ("CIS Docker 3.1", "/usr/lib/systemd/system/docker.service", 0o644),
    ("CIS Docker 3.3", "/usr/lib/systemd/system/docker.socket", 0o644),
    ("CIS Docker 3.5", "/etc/docker", 0o755),
    ("CIS Docker 3.15", "/run/docker.sock", 0o660),
    ("CIS Docker 3.17", "/etc/docker/daemon.json", 0o644),
    ("CIS Docker 3.23", "/run/containerd/containerd.sock", 0o660),
    ("berth: sealed state", "/var/lib/berth", 0o700),
    ("berth: administration by root alone", "/run/berth/admin.sock", 0o660),
];

/// Small files that are read.
pub const TEXTS: [&str; 4] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/shadow",
    "/usr/lib/systemd/journald.conf.d/berth.conf",
];

/// Units that must be active.
pub const UNITS: [(&str, &str); 6] = [
    ("CIS Debian 4.3.9", "berth-firewall.service"),
    ("CIS Debian 1.3.1.1", "apparmor.service"),
    ("CIS Debian 2.3.2.1", "systemd-timesyncd.service"),
    ("CIS Debian 6.1.1.1", "systemd-journald.service"),
    ("CIS Docker 2.1", "docker.service"),
    ("berth: one supervisor", "berth.service"),
];

/// What may listen on an address that the network reaches.
const OPEN: [&str; 2] = ["80", "443"];

/// Programs that are ways in or ways up, which the image does not have.
const ABSENT: [(&str, &str); 9] = [
    ("CIS Debian 5.1", "/usr/sbin/sshd"),
    ("CIS Debian 5.2.1", "/usr/bin/sudo"),
    ("CIS Debian 5.2.7", "/usr/bin/su"),
    ("CIS Debian 2.4.1.1", "/usr/sbin/cron"),
    ("CIS Debian 1.5.5", "/usr/share/apport"),
    ("CIS Debian 2.2", "/usr/bin/telnet"),
    ("berth: no log-in", "/usr/bin/login"),
    ("berth: no log-in", "/usr/sbin/agetty"),
    ("berth: no package manager", "/usr/bin/apt-get"),
];

/// The paths whose absence is checked.
pub fn absent() -> impl Iterator<Item = &'static str> {
    ABSENT.iter().map(|(_, path)| *path)
}

pub(super) fn check(facts: &Facts, list: &mut List) {
    mounts(facts, list);
    files(facts, list);
    accounts(facts, list);
    network(facts, list);
    for (reference, unit) in UNITS {
        let active = facts.units.get(unit).copied();
        let found = match active {
            Some(true) => "active",
            Some(false) => "not active",
            None => "unknown",
        };
        list.check(reference, format!("{unit} runs"), active == Some(true), found);
    }
    let journal = facts
        .texts
        .get("/usr/lib/systemd/journald.conf.d/berth.conf")
        .map_or("", |t| t);
    let kept = journal.contains("Storage=persistent") && journal.contains("SystemMaxUse=");
    list.check(
        "CIS Debian 6.1.2.4",
        "the journal is kept on disk, within a bound",
        kept,
        words(&lines_with(journal, "=")),
    );
    let reason =
        "there is no shell whose commands could be watched; what administrators do is in Berth's own audit trail";
    list.waive(
        "CIS Debian 6.2",
        "auditd records system calls",
        false,
        "not installed",
        reason,
    );
    let reason = "the boot menu is hidden and its editor is off; the command line is in the signed kernel image";
    list.waive(
        "CIS Debian 1.4.1",
        "the boot loader asks for a password",
        false,
        "none",
        reason,
    );
}

fn lines_with<'a>(text: &'a str, sign: &str) -> Vec<&'a str> {
    text.lines().filter(|l| l.contains(sign)).collect()
}

/// The options of the mount at a path.
fn options<'a>(facts: &'a Facts, path: &str) -> Option<Vec<&'a str>> {
    let line = facts.mounts.lines().rfind(|l| l.split(' ').nth(1) == Some(path))?;
    Some(line.split(' ').nth(3)?.split(',').collect())
}

fn mounts(facts: &Facts, list: &mut List) {
    let all: [(&str, &str, &[&str]); 5] = [
        ("berth: read-only root", "/", &["ro"]),
        ("CIS Debian 1.1.2.1", "/tmp", &["nodev", "nosuid", "noexec"]),
        ("CIS Debian 1.1.2.2", "/dev/shm", &["nodev", "nosuid", "noexec"]),
        ("CIS Debian 1.1.2.4", "/var", &["nosuid"]),
        ("berth: no programs in /run", "/run", &["nodev", "nosuid"]),
    ];
    for (reference, path, wanted) in all {
        let found = options(facts, path);
        let holds = found.as_ref().is_some_and(|o| wanted.iter().all(|w| o.contains(w)));
        let said = found.map_or("no mount of its own".to_owned(), |o| o.join(","));
        list.check(
            reference,
            format!("{path} is mounted {}", wanted.join(",")),
            holds,
            said,
        );
    }
    let var = options(facts, "/var").unwrap_or_default();
    let reason = "the kernel looks the device of Docker's quotas up as a device node on this file system";
    list.waive(
        "CIS Debian 1.1.2.4",
        "/var is mounted nodev",
        var.contains(&"nodev"),
        words(&var),
        reason,
    );
    let quota = var.contains(&"prjquota");
    list.check(
        "berth: quotas",
        "project quotas bound what containers write",
        quota,
        words(&var),
    );
    let reason =
        "one partition holds all that lasts; quotas, and bounds on journal and logs, keep its parts from each other";
    for (reference, path) in [
        ("CIS Debian 1.1.2.6", "/var/log"),
        ("CIS Docker 1.1.1", "/var/lib/docker"),
    ] {
        let own = options(facts, path).is_some();
        let said = if own { "a mount of its own" } else { "on /var" };
        list.waive(
            reference,
            format!("{path} has a partition of its own"),
            own,
            said,
            reason,
        );
    }
}

fn files(facts: &Facts, list: &mut List) {
    for (reference, path, mode) in FILES {
        let found = facts.files.get(path);
        let holds = found.is_some_and(|f| f.uid == 0 && f.mode & !mode == 0);
        let said = found.map_or("absent".to_owned(), |f: &FileFacts| {
            format!("{}:{} {:o}", f.uid, f.gid, f.mode)
        });
        list.check(reference, format!("{path}: root's, mode {mode:o} at most"), holds, said);
    }
    for (reference, path) in ABSENT {
        let there = facts.files.contains_key(path);
        list.check(
            reference,
            format!("no {path}"),
            !there,
            if there { "there" } else { "absent" },
        );
    }
    let set = &facts.set_uid;
    list.check(
        "CIS Debian 7.1.13",
        "no set-uid or set-gid file",
        set.is_empty(),
        words(set),
    );
    let open = &facts.world_writable;
    list.check(
        "CIS Debian 7.1.11",
        "nothing in the root that anybody may write",
        open.is_empty(),
        words(open),
    );
    list.check(
        "CIS Debian 7.1.12",
        "nothing in the root without an owner",
        facts.unowned.is_empty(),
        words(&facts.unowned),
    );
}

fn accounts(facts: &Facts, list: &mut List) {
    let text = |path: &str| facts.texts.get(path).map_or("", |t| t);
    let field = |line: &str, n: usize| line.split(':').nth(n).unwrap_or_default().to_owned();
    let passwd = text("/etc/passwd");
    let roots: Vec<String> = passwd
        .lines()
        .filter(|l| field(l, 2) == "0")
        .map(|l| field(l, 0))
        .collect();
    list.check(
        "CIS Debian 5.4.2.1",
        "root alone has the id 0",
        roots == ["root"],
        words(&roots),
    );
    let shells: Vec<String> = passwd
        .lines()
        .filter(|l| !["/usr/sbin/nologin", "/bin/false"].contains(&field(l, 6).as_str()))
        .map(|l| field(l, 0))
        .collect();
    list.check(
        "CIS Debian 5.4.2.7",
        "no account has a log-in shell",
        !passwd.is_empty() && shells.is_empty(),
        words(&shells),
    );
    let shadow = text("/etc/shadow");
    let open: Vec<String> = shadow
        .lines()
        .filter(|l| !field(l, 1).starts_with(['!', '*']))
        .map(|l| field(l, 0))
        .collect();
    list.check(
        "CIS Debian 5.4.2.8",
        "every account is locked",
        !shadow.is_empty() && open.is_empty(),
        words(&open),
    );
    let docker = text("/etc/group")
        .lines()
        .find(|l| l.starts_with("docker:"))
        .unwrap_or_default();
    let members = field(docker, 3);
    list.check(
        "CIS Docker 1.1.2",
        "nobody is in the group docker",
        members.is_empty(),
        words(&[members.as_str()]),
    );
}

fn network(facts: &Facts, list: &mut List) {
    let reached: Vec<&String> = facts
        .listening
        .iter()
        .filter(|l| {
            !["127.", "[::1]", "[::ffff:127."]
                .iter()
                .any(|p| l.split(' ').nth(1).is_some_and(|a| a.starts_with(p)))
        })
        .filter(|l| {
            let port = l.rsplit(':').next().unwrap_or_default();
            // DHCP's clients.
            !(l.starts_with("tcp ") && OPEN.contains(&port) || l.starts_with("udp ") && ["68", "546"].contains(&port))
        })
        .collect();
    list.check(
        "CIS Debian 2.1.22",
        "only 80 and 443 listen on the network",
        reached.is_empty() && !facts.listening.is_empty(),
        words(&facts.listening),
    );
    let table = facts.firewall.as_deref();
    let known = table.unwrap_or_default();
    let found = |part: &str| {
        if table.is_none() {
            "could not be asked"
        } else if known.contains(part) {
            "there"
        } else {
            "absent"
        }
    };
    list.check(
        "CIS Debian 4.3.4",
        "the firewall's table is loaded",
        known.contains("table inet berth"),
        found("table inet berth"),
    );
    for (title, chain, policy) in [
        (
            "inbound is refused by default",
            "chain input",
            "hook input priority filter - 10; policy drop;",
        ),
        (
            "forwarding is refused by default",
            "chain forward",
            "hook forward priority filter - 10; policy drop;",
        ),
    ] {
        list.check(
            "CIS Debian 4.3.8",
            title,
            known.contains(chain) && known.contains(policy),
            found(policy),
        );
    }
    let lo = "iif";
    list.check(
        "CIS Debian 4.3.6",
        "loopback is its own",
        known.contains("\"lo\" accept"),
        found(lo),
    );
    let metadata = known.contains("169.254.0.0/16");
    list.check(
        "berth: no metadata for containers",
        "link-local addresses are closed to containers",
        metadata,
        found("169.254.0.0/16"),
    );
}
