//! The hardening list, run on the box: nothing fails, and what is waived, set-uid or listening is what stands here.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{claimed::claimed, machine::Setup, say};

/// Every waiver; its reason is in the program's output.
const WAIVED: [&str; 19] = [
    "/var is mounted nodev",
    "/var/lib/docker has a partition of its own",
    "/var/log has a partition of its own",
    "auditd records system calls",
    "auditd watches the engine's files",
    "client commands are authorised by a plugin",
    "instances: a CPU limit of their workspace without one in [workspace]",
    "instances: a health check of Docker's",
    "kernel command line: mitigations=auto,nosmt",
    "logs go to a central place",
    "no module overlay",
    "no module usb-storage",
    "sysctl kernel.modules_disabled = 1",
    "sysctl kernel.unprivileged_userns_clone = 0",
    "sysctl net.ipv4.ip_forward = 0",
    "sysctl net.ipv6.conf.all.accept_ra = 0",
    "sysctl user.max_user_namespaces = 0",
    "the boot loader asks for a password",
    "the engine does not run as root",
];

/// What listens, without the addresses that DHCP gave.
const LISTENING: [&str; 6] = [
    "tcp 127.0.0.53:53",
    "tcp 127.0.0.54:53",
    "tcp [::]:443",
    "tcp [::]:80",
    "udp 127.0.0.53:53",
    "udp 127.0.0.54:53",
];

#[test]
fn the_hardening_list_holds_on_the_box() {
    let c = claimed();
    let (mut m, _) = c.resume_with(Setup::new("hardening"));
    let laptop = c.laptop(&m);
    // It says so by its status, too.
    let done = m.try_sh("berth doctor --hardening --json");
    let findings: Vec<Value> = serde_json::from_str(&done.text).unwrap_or_else(|e| panic!("{e}: {}", done.text));
    let of = |verdict: &str| -> Vec<&Value> { findings.iter().filter(|f| f["verdict"] == verdict).collect() };
    let failed: Vec<String> = of("fail")
        .iter()
        .map(|f| format!("{}: {} ({})", f["reference"], f["title"], f["found"]))
        .collect();
    assert!(
        failed.is_empty() && done.status == 0,
        "status {}, failed:\n{}",
        done.status,
        failed.join("\n")
    );
    let waived: BTreeSet<&str> = of("waived").iter().filter_map(|f| f["title"].as_str()).collect();
    assert_eq!(waived, BTreeSet::from(WAIVED), "the waivers");
    say(format!("hardening: {} pass, {} waived", of("pass").len(), waived.len()));
    // An administrator asks from elsewhere: the supervisor's sandbox is not taken for the box.
    let seen = laptop.json(&["doctor", "--hardening"]);
    let verdicts =
        |all: &[Value]| -> Vec<String> { all.iter().map(|f| format!("{} {}", f["verdict"], f["title"])).collect() };
    assert_eq!(verdicts(seen.as_array().unwrap()), verdicts(&findings));
    let disk = laptop.json(&["status"])["disk"].as_str().unwrap().to_owned();
    let on_screen = m.sh("berth status --json | sed -n 's/^ *\"disk\": \"\\(.*\\)\".*/\\1/p'");
    assert!(disk.starts_with("encrypted: ") || disk.starts_with("plain: "), "{disk}");
    assert_eq!(disk, on_screen.trim());
    let doctor = laptop.json(&["doctor"]);
    let failed: Vec<&Value> = doctor
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["verdict"] != "ok")
        .collect();
    say(format!("doctor from the laptop, what is not ok: {failed:?}"));
    assert!(!failed.iter().any(|c| c["verdict"] == "fail"), "{failed:#?}");
    // The lists, by other means than the program's own.
    let set_uid = m.sh("find / -xdev -perm /6000 -type f");
    assert_eq!(set_uid.trim(), "", "set-uid files");
    let found = m.sh("ss --no-header --listening --tcp --udp --numeric | awk '{ print $1, $5 }'");
    let listening: BTreeSet<String> = found
        .lines()
        .map(|l| l.replace("%lo", "").replace("*:", "[::]:"))
        // DHCP's clients.
        .filter(|l| !l.is_empty() && !(l.starts_with("udp") && (l.ends_with(":68") || l.ends_with(":546"))))
        .collect();
    assert_eq!(
        listening,
        LISTENING.iter().map(|s| (*s).to_owned()).collect(),
        "what listens"
    );
    let exposure = m.sh("SYSTEMD_COLORS=0 systemd-analyze security --no-pager berth.service | tail -n 1");
    let level: f64 = exposure.split_whitespace().find_map(|w| w.parse().ok()).unwrap_or(10.0);
    assert!(level <= 3.0, "{exposure}");
    m.check();
}
