//! Another machine on a network with this one: a network namespace at the end of a wire. It goes with the value.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

pub struct Host {
    name: String,
    /// This machine's address on the wire, and the other's.
    pub ours: Ipv4Addr,
    pub theirs: Ipv4Addr,
}

pub fn ip(words: &[&str]) {
    let out = Command::new("ip")
        .args(words)
        .output()
        .expect("ip, of the package iproute2");
    assert!(
        out.status.success(),
        "ip {words:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

impl Host {
    /// A wire with four addresses below `a.b.c`; the other machine's way out is this one.
    pub fn new([a, b, c]: [u8; 3]) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let [ours, theirs] = [1, 2].map(|last| Ipv4Addr::new(a, b, c, 4 * n + last));
        let host = Self {
            name: format!("bt{}-{n}", std::process::id()),
            ours,
            theirs,
        };
        let (name, near, far) = (&host.name, host.near(), "berth0");
        ip(&["netns", "add", name]);
        ip(&["link", "add", &near, "type", "veth", "peer", "name", far, "netns", name]);
        ip(&["address", "add", &format!("{ours}/30"), "dev", &near]);
        ip(&["link", "set", &near, "up"]);
        host.ip(&["link", "set", "lo", "up"]);
        host.ip(&["address", "add", &format!("{theirs}/30"), "dev", far]);
        host.ip(&["link", "set", far, "up"]);
        host.ip(&["route", "add", "default", "via", &ours.to_string()]);
        host
    }

    /// This machine's end of the wire.
    pub fn near(&self) -> String {
        format!("{}a", self.name)
    }

    pub fn ip(&self, words: &[&str]) {
        ip(&[&["-n", &self.name], words].concat());
    }

    /// Gives it a further address, behind its own, to which this machine knows the way.
    pub fn also(&self, address: Ipv4Addr) {
        self.ip(&["address", "add", &format!("{address}/32"), "dev", "berth0"]);
        ip(&[
            "route",
            "add",
            &format!("{address}/32"),
            "via",
            &self.theirs.to_string(),
        ]);
    }

    /// What its /etc/hosts says (ip-netns(8)).
    pub fn hosts(&self, text: &str) {
        std::fs::create_dir_all(self.etc()).unwrap();
        std::fs::write(self.etc().join("hosts"), text).unwrap();
    }

    fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }

    /// A program that runs there.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The wire goes with one of its ends, the other with its namespace.
        for words in [["link", "delete", &self.near()], ["netns", "delete", &self.name]] {
            let _ = Command::new("ip").args(words).stderr(Stdio::null()).status();
        }
        let _ = std::fs::remove_dir_all(self.etc());
    }
}
