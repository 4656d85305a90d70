//! What Berth promises of the networks that containers are on, and what it says where that does not hold.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{self, Instance};

use support::{Appliance, Options, netns::Host, wait_for};

/// A machine next to this one, where a port is open.
struct Neighbour {
    /// It has a public address, which is closed only because it is next to this machine.
    host: Host,
    /// One of a private network, behind it.
    private: Ipv4Addr,
    server: support::Ends,
}

const PORT: u16 = 8099;

impl Neighbour {
    fn new() -> Self {
        // A public range that nobody's machine has (RFC 7535).
        let host = Host::new([192, 31, 196]);
        let private = Ipv4Addr::new(10, 231, host.theirs.octets()[3], 1);
        host.also(private);
        let server = host
            .command(Path::new("python3"))
            .args(["-m", "http.server", &PORT.to_string(), "--directory", "/var/empty"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let neighbour = Self {
            host,
            private,
            server: support::Ends(server),
        };
        wait_for("the neighbour's port", Duration::from_secs(20), || {
            let open = |ip: Ipv4Addr| {
                let patience = Duration::from_secs(1);
                std::net::TcpStream::connect_timeout(&(ip, PORT).into(), patience).is_ok()
            };
            open(neighbour.host.theirs) && open(private)
        });
        neighbour
    }
}

/// What the container of an instance can connect to.
struct Inside<'a> {
    a: &'a Appliance,
    container: String,
    gateway: Ipv4Addr,
}

impl<'a> Inside<'a> {
    fn of(a: &'a Appliance, i: &Instance) -> Self {
        let seen = a.inspect(&i.id);
        let networks = seen["NetworkSettings"]["Networks"].as_object().unwrap();
        let gateway = networks.values().next().unwrap()["Gateway"].as_str().unwrap();
        Self {
            a,
            container: a.container_of(&i.id),
            gateway: gateway.parse().unwrap(),
        }
    }

    fn python(&self, script: &str) -> Option<i32> {
        let out = self.a.docker(&["exec", &self.container, "python3", "-c", script]);
        out.status.code()
    }

    fn reaches(&self, ip: Ipv4Addr, port: u16) -> bool {
        let script = format!(
            "import socket,sys\ntry: socket.create_connection(('{ip}', {port}), 3)\nexcept OSError: sys.exit(7)"
        );
        match self.python(&script) {
            Some(0) => true,
            Some(7) => false,
            other => panic!("{other:?}"),
        }
    }
}

/// The verdict of `berth doctor` on what containers reach, and what it found.
fn doctors_word(a: &Appliance) -> (String, String) {
    let config = a.config();
    let doctor = a.json(&["doctor", "--config", config.to_str().unwrap()]);
    let checks = doctor.as_array().unwrap();
    let about = checks.iter().find(|c| c["name"] == "container networks").unwrap();
    let text = |key: &str| about[key].as_str().unwrap().to_owned();
    (text("verdict"), text("found"))
}

const SAID: &str = "no firewall of Berth's is in force";

fn status_says(a: &Appliance) -> bool {
    a.json(&["status"])["notes"].to_string().contains(SAID)
}

#[test]
fn containers_reach_neither_the_machine_nor_its_networks() {
    let neighbour = Neighbour::new();
    let a = Appliance::start();
    let i = a.run("fetch", &[]);
    let inside = Inside::of(&a, &i);
    // A service of the machine's on the bridge, which is the nearest, and one on its address elsewhere.
    let on_bridge = TcpListener::bind((inside.gateway, 0)).unwrap();
    let elsewhere = TcpListener::bind((neighbour.host.ours, 0)).unwrap();
    let closed = || {
        let machine = [&on_bridge, &elsewhere].map(|l| match l.local_addr().unwrap() {
            std::net::SocketAddr::V4(at) => inside.reaches(*at.ip(), at.port()),
            std::net::SocketAddr::V6(_) => panic!("IPv4 was asked for"),
        });
        let next = [neighbour.host.theirs, neighbour.private].map(|ip| inside.reaches(ip, PORT));
        [machine, next] == [[false; 2]; 2]
    };
    assert!(closed());
    assert!(!status_says(&a), "{}", a.cli(&["status"]));
    let (verdict, found) = doctors_word(&a);
    assert_eq!((verdict.as_str(), found.contains(SAID)), ("ok", false), "{found}");

    // Names are found all the same: the machine's name servers are asked, wherever they are.
    let registry = Command::new("npm")
        .args(["config", "get", "registry"])
        .output()
        .unwrap();
    let registry = String::from_utf8(registry.stdout).unwrap();
    let host = registry.trim().split("//").nth(1).unwrap().trim_end_matches('/');
    let script = format!("import socket; socket.getaddrinfo('{host}', 443)");
    assert_eq!(inside.python(&script), Some(0), "{host} has no address");

    // Somebody flushes what nftables has: it is set again, and said meanwhile.
    let gone = Command::new("nft")
        .args(["delete", "table", "inet", &a.table()])
        .status();
    assert!(gone.unwrap().success());
    wait_for("the table to be set again", Duration::from_secs(60), &closed);
    let (verdict, found) = doctors_word(&a);
    assert_eq!(verdict, "ok", "{found}");
    a.cli(&["rm", &i.id]);
}

#[test]
fn what_the_administrator_opens_is_open_and_nothing_else() {
    let neighbour = Neighbour::new();
    let a = Appliance::with(Options {
        extra: format!("[network]\nprivate_networks = [\"{}/32\"]\n", neighbour.host.theirs),
        ..Options::default()
    });
    let i = a.run("fetch", &[]);
    let inside = Inside::of(&a, &i);
    let on_bridge = TcpListener::bind((inside.gateway, 0)).unwrap();
    assert!(inside.reaches(neighbour.host.theirs, PORT));
    assert!(!inside.reaches(neighbour.private, PORT));
    assert!(!inside.reaches(inside.gateway, on_bridge.local_addr().unwrap().port()));
    assert!(!status_says(&a));
    a.cli(&["rm", &i.id]);
}

#[test]
fn a_machine_without_the_firewall_says_that_containers_reach_it() {
    let neighbour = Neighbour::new();
    let a = Appliance::with(Options {
        extra: "[network]\nfirewall = false\n".into(),
        ..Options::default()
    });
    let i = a.run("fetch", &[]);
    let inside = Inside::of(&a, &i);
    let on_bridge = TcpListener::bind((inside.gateway, 0)).unwrap();
    assert!(inside.reaches(inside.gateway, on_bridge.local_addr().unwrap().port()));
    assert!(inside.reaches(neighbour.host.theirs, PORT) && inside.reaches(neighbour.private, PORT));
    assert!(status_says(&a));
    let (verdict, found) = doctors_word(&a);
    assert_eq!((verdict.as_str(), found.contains(SAID)), ("warn", true), "{found}");
    a.cli(&["rm", &i.id]);
}

/// A file system of 64 MiB in memory; unmounted with the value.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Self {
        let small = Self(tempfile::Builder::new().prefix("berth-t").tempdir_in("/tmp").unwrap());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(small.0.path())
            .status();
        assert!(mounted.unwrap().success());
        small
    }

    /// Fills it up to so many hundredths.
    fn fill(&self, percent: u64) {
        let file = std::fs::File::create(self.0.path().join("filler")).unwrap();
        let seen = nix::sys::statvfs::statvfs(self.0.path()).unwrap();
        let size = seen.blocks() * seen.fragment_size();
        let free = seen.blocks_available() * seen.fragment_size();
        let more = (size * percent / 100).saturating_sub(size - free);
        nix::fcntl::posix_fallocate(&file, 0, i64::try_from(more).unwrap()).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_that_fills_up_is_said_before_it_is_full() {
    let small = Small::mount();
    let mut a = Appliance::start();
    a.terminate();
    let state = small.0.path().join("state");
    let moved = Command::new("cp")
        .arg("-a")
        .arg(a.dir().join("state"))
        .arg(&state)
        .status();
    assert!(moved.unwrap().success());
    let config = std::fs::read_to_string(a.config()).unwrap();
    let old = format!("state_dir = \"{}/state\"", a.dir().display());
    assert!(config.contains(&old));
    std::fs::write(
        a.config(),
        config.replace(&old, &format!("state_dir = \"{}\"", state.display())),
    )
    .unwrap();
    a.launch();
    let notes = || a.json(&["status"])["notes"].to_string();
    assert!(!notes().contains("the supervisor's state is"), "{}", notes());
    for (percent, soon) in [(85, false), (95, true)] {
        small.fill(percent);
        let said = notes();
        assert!(
            said.contains("the supervisor's state is ") && said.contains("% full"),
            "{said}"
        );
        assert_eq!(said.contains("soon"), soon, "{percent}: {said}");
    }
    let metrics = a.metrics();
    assert!(
        metrics.contains("berth_disk_free_bytes{holds=\"the supervisor's state\"}"),
        "{metrics}"
    );
    small.fill(10);
    assert!(!notes().contains("the supervisor's state is"), "{}", notes());
}
