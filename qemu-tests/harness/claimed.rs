//! A box after its first boot: claimed, with instances that hold data. Made once from the image by the way a user goes,
//! saved while it runs (disk, firmware variables, memory and devices), and started from there by every test that needs a
//! working box: seconds in place of a boot. It is kept for the next run, too, as long as image and harness are the same.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    boxes_dir, image, image_dir,
    laptop::Laptop,
    machine::{Disk, Machine, Setup},
    mcp::{Address, Instance},
    qemu, root, say,
};

/// What the first boot left, and what it took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// Where the image was, above which the box's disk lies.
    image: PathBuf,
    pub ca: String,
    pub everything: Instance,
    /// Holds [`NOTE`] in its graph.
    pub memory: Instance,
    pub figures: Figures,
}

/// Seconds since power-on, and memory in MB; told, never asserted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    pub accelerator: String,
    pub https: f64,
    pub up: f64,
    pub instance: f64,
    pub memory_total: u64,
    pub memory_used: u64,
    pub analyze: String,
}

pub const NOTE: &str = "the lighthouse keeper counts the ships";

pub struct Claimed {
    dir: PathBuf,
    pub facts: Facts,
}

/// How many boxes are kept, of the images that were tested last.
const KEPT: usize = 2;

/// What a saved box depends on: the image, bit for bit, and how it is set up.
fn key() -> String {
    let mut hash = Sha256::new();
    hash.update(fs::read(image_dir().join("SHA256SUMS")).unwrap());
    for file in ["claimed", "laptop", "lever", "machine", "qemu"] {
        hash.update(fs::read(root().join(format!("qemu-tests/harness/{file}.rs"))).unwrap());
    }
    hash.finalize()[..12].iter().map(|b| format!("{b:02x}")).collect()
}

/// Removes the boxes that were used longest ago.
fn prune(keep: &Path) {
    let mut others: Vec<(SystemTime, PathBuf)> = fs::read_dir(boxes_dir())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir() && p != keep)
        .map(|p| {
            (
                fs::metadata(p.join("used"))
                    .and_then(|m| m.modified())
                    .unwrap_or(SystemTime::UNIX_EPOCH),
                p,
            )
        })
        .collect();
    others.sort();
    for (_, dir) in others.iter().rev().skip(KEPT - 1) {
        fs::remove_dir_all(dir).unwrap();
    }
}

/// The claimed box, made by the first test that asks.
pub fn claimed() -> Claimed {
    // In this process and among others.
    static HERE: Mutex<()> = Mutex::new(());
    let _here = HERE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = boxes_dir().join(key());
    let lock = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(boxes_dir().join("lock"))
        .unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap();
    let kept = fs::read(dir.join("facts.json"))
        .ok()
        .and_then(|b| serde_json::from_slice::<Facts>(&b).ok());
    if let Some(mut facts) = kept {
        if facts.image != image() {
            // The same image, in another checkout.
            let (image, disk) = (
                image().display().to_string(),
                dir.join("disk.qcow2").display().to_string(),
            );
            qemu::run_tool("qemu-img", &["rebase", "-u", "-b", &image, "-F", "raw", &disk]);
            facts.image = super::image();
            fs::write(dir.join("facts.json"), serde_json::to_vec_pretty(&facts).unwrap()).unwrap();
        }
        fs::write(dir.join("used"), "").unwrap();
        return Claimed { dir, facts };
    }
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    prune(&dir);
    let mut m = Machine::boot(Setup::new("first-boot"));
    let facts = first_boot(&mut m, &dir);
    say("saving the running box");
    m.save(&dir.join("memory"));
    // Perhaps to another file system.
    fs::copy(m.disk_file(), dir.join("disk.qcow2")).unwrap();
    fs::copy(m.dir.join("vars.fd"), dir.join("vars.fd")).unwrap();
    fs::write(dir.join("used"), "").unwrap();
    fs::write(dir.join("facts.json"), serde_json::to_vec_pretty(&facts).unwrap()).unwrap();
    Claimed { dir, facts }
}

/// From an empty box to a tool call of an official client.
fn first_boot(m: &mut Machine, dir: &Path) -> Facts {
    let ca_file = dir.join("ca.pem");
    let up = m.await_up();
    say(format!("first boot: up after {up:.0} s"));
    let ca = m.sh("berth ca");
    fs::write(&ca_file, &ca).unwrap();
    let address = Address::new(m.port, &ca_file);
    address.await_answer();
    let https = m.age();
    let (memory_total, memory_used) = memory(m);
    // Claimed with what the box's screen shows; from here on as a person does it who has no way in but the network.
    let mut screen = |words: &str| {
        m.await_serial(words, super::patience(120));
        m.serial.after(words).unwrap()
    };
    let fingerprint = screen("berth: ca-fingerprint SHA-256 ");
    let code = screen("berth: claim code ");
    let laptop = Laptop::at(&dir.join("laptop"));
    laptop.claim(m.port, &fingerprint, &code);
    let everything = Instance::made(&laptop.json(&["run", "everything"]));
    let instance = m.age();
    say(format!("first boot: an instance runs after {instance:.0} s"));
    let done = address.official_client(&everything, "ts1", "list-call");
    assert_eq!(done["ok"], true, "{done}");
    let memory = Instance::made(&laptop.json(&["run", "memory"]));
    let session = address.session(&memory);
    let entity = json!({"entities": [{"name": "lighthouse", "entityType": "place", "observations": [NOTE]}]});
    session.call("create_entities", entity);
    m.check();
    let analyze = m.sh("systemd-analyze time | head -n 1");
    Facts {
        image: image(),
        ca,
        everything,
        memory,
        figures: Figures {
            accelerator: super::qemu::accelerator().to_owned(),
            https,
            up,
            instance,
            memory_total,
            memory_used,
            analyze: analyze.trim().to_owned(),
        },
    }
}

/// Total and used memory of the box, in MB.
pub fn memory(m: &mut Machine) -> (u64, u64) {
    let text = m.sh("cat /proc/meminfo");
    let of = |key: &str| -> u64 {
        let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1000
    };
    (of("MemTotal:"), of("MemTotal:") - of("MemAvailable:"))
}

impl Claimed {
    /// The box as it ran when it was saved, with a disk layer of this machine's own.
    pub fn resume(&self, name: &str) -> (Machine, Address) {
        self.resume_with(Setup::new(name))
    }

    pub fn resume_with(&self, mut setup: Setup) -> (Machine, Address) {
        if matches!(setup.disk, Disk::Image) {
            setup.disk = Disk::Above(self.dir.join("disk.qcow2"));
        }
        let (mut m, address) = self.prepare(setup);
        self.start(&mut m);
        address.await_answer();
        (m, address)
    }

    /// A machine like the saved one, not started.
    pub fn prepare(&self, mut setup: Setup) -> (Machine, Address) {
        setup.vars = Some(self.dir.join("vars.fd"));
        let m = Machine::new(setup);
        let address = Address::new(m.port, &self.dir.join("ca.pem"));
        (m, address)
    }

    /// Starts a machine at the moment when the box was saved; its disk must hold what the saved one held.
    pub fn start(&self, m: &mut Machine) {
        m.start(Some(&self.dir.join("memory")));
    }

    /// The administrator's machine, for a box on this port.
    pub fn laptop(&self, m: &Machine) -> Laptop {
        Laptop::copy(&self.dir.join("laptop"), &m.dir.join("laptop"), m.port)
    }

    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// Both instances answer with their tokens, and the graph has its note.
    pub fn holds(&self, address: &Address) {
        address
            .session(&self.facts.everything)
            .echo("still here", super::patience(60));
        let graph = address.session(&self.facts.memory).call("read_graph", json!({}));
        assert!(graph.contains(NOTE), "the graph lost its note: {graph}");
    }
}

/// The container of an instance: id, process and when it started.
pub fn container(m: &mut Machine, instance: &Instance) -> String {
    m.sh(&format!(
        "docker inspect --format '{{{{.Id}}}} {{{{.State.Pid}}}} {{{{.State.StartedAt}}}}' \
         $(docker ps -q --no-trunc --filter label=berth.instance={})",
        instance.id
    ))
}

/// One value of `berth show`.
pub fn state(m: &mut Machine, id: &str) -> Value {
    m.berth(&format!("show {id}"))
}
