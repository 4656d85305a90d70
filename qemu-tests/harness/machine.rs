//! One virtual machine: how it is set up, started, asked, stopped. Every wait has a deadline and ends early when the
//! machine is gone or its log has words that fail a test.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::Child,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use super::{
    image,
    lever::{self, Done, Lever},
    log::{self, Serial},
    patience, qemu,
    qmp::Qmp,
    say, state_dir,
    tpm::{self, Tpm},
    wait,
};

/// The network card's address.
pub(super) const MAC: &str = "52:54:00:be:01:01";

/// What the firmware calls the machine.
const UUID: &str = "7c0c4e1e-6d7a-4f4a-9a3e-0d6f1c1f2b3a";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    Uefi,
    Bios,
}

/// What the machine's disk is.
#[derive(Debug, Clone)]
pub enum Disk {
    /// A new layer above the image.
    Image,
    /// A new layer above this qcow2 file.
    Above(PathBuf),
    /// A raw file, written in place.
    Raw(PathBuf),
    /// An NBD server's `disk.sock` in the machine's folder.
    Nbd,
}

#[derive(Debug, Clone)]
pub struct Setup {
    /// Names the folder.
    pub name: String,
    pub firmware: Firmware,
    pub disk: Disk,
    pub disk_size: &'static str,
    /// The machine's UUID in its firmware, from which the machine id follows.
    pub uuid: &'static str,
    /// UEFI's variables to begin with, when not empty ones.
    pub vars: Option<PathBuf>,
    pub network: bool,
    /// With a TPM 2.0.
    pub tpm: bool,
    /// Where the forwarded port leads, when not to the address that DHCP gives.
    pub guest_address: Option<&'static str>,
    /// More of `-netdev user`, such as a rule for what the guest may reach.
    pub netdev: String,
    /// The clock at the start, in QEMU's words; now where none is given.
    pub clock: Option<&'static str>,
    /// systemd credentials.
    pub credentials: Vec<(String, String)>,
    /// Without it, nothing of the tests' own runs in the box.
    pub lever: bool,
    /// Words that stand in this machine's log because of what the test does to it.
    pub expected: Vec<&'static str>,
}

impl Setup {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            firmware: Firmware::Uefi,
            disk: Disk::Image,
            disk_size: "16G",
            uuid: UUID,
            vars: None,
            network: true,
            tpm: false,
            guest_address: None,
            netdev: String::new(),
            clock: None,
            credentials: Vec::new(),
            lever: true,
            expected: Vec::new(),
        }
    }
}

pub struct Machine {
    pub setup: Setup,
    pub dir: PathBuf,
    /// The box's port 443 on 127.0.0.1.
    pub port: u16,
    pub serial: Serial,
    running: Option<Running>,
}

struct Running {
    child: Child,
    qmp: Qmp,
    lever: Lever,
    /// The serial port's other end.
    console: UnixStream,
    _tpm: Option<Tpm>,
    began: Instant,
    _turn: Flock<fs::File>,
}

/// One machine at a time: two on two processors take longer than one after the other.
fn turn() -> Flock<fs::File> {
    let path = std::env::var_os("BERTH_QEMU_LOCK").map_or_else(|| state_dir().join("lock"), PathBuf::from);
    let mut file = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .unwrap();
    let mut told = false;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return lock,
            Err((f, _)) => {
                if !told {
                    say("another machine runs; waiting for it");
                    told = true;
                }
                file = f;
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Machine {
    /// Makes its folder and disk; nothing runs yet.
    pub fn new(setup: Setup) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = state_dir().join(format!("{}-{}-{n}", setup.name, std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let backing = match &setup.disk {
            Disk::Image => Some((image(), "raw")),
            Disk::Above(file) => Some((file.clone(), "qcow2")),
            Disk::Raw(_) | Disk::Nbd => None,
        };
        if let Some((file, format)) = backing {
            let (file, own) = (file.display().to_string(), dir.join("disk.qcow2").display().to_string());
            let mut args = vec!["create", "-q", "-f", "qcow2", "-b", &file, "-F", format, &own];
            if format == "raw" {
                args.push(setup.disk_size);
            }
            qemu::run_tool("qemu-img", &args);
        }
        let vars = setup
            .vars
            .clone()
            .unwrap_or_else(|| qemu::tools_file("usr/share/OVMF/OVMF_VARS_4M.fd"));
        fs::copy(vars, dir.join("vars.fd")).unwrap();
        Self {
            serial: Serial::new(&dir.join("serial.log")),
            port: free_port(),
            running: None,
            dir,
            setup,
        }
    }

    /// Makes and starts one.
    pub fn boot(setup: Setup) -> Self {
        let mut m = Self::new(setup);
        m.start(None);
        m
    }

    pub fn disk_file(&self) -> PathBuf {
        match &self.setup.disk {
            Disk::Raw(file) => file.clone(),
            _ => self.dir.join("disk.qcow2"),
        }
    }

    fn arguments(&self, state: Option<&Path>) -> Vec<String> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let s = &self.setup;
        let accelerator = qemu::accelerator();
        // Five levels of page tables would make every look-up of the emulated processor's longer.
        let processor = if accelerator == "kvm" { "host" } else { "max,la57=off" };
        let disk = match &s.disk {
            Disk::Image | Disk::Above(_) => {
                format!("file={},format=qcow2,cache=unsafe,discard=unmap", path("disk.qcow2"))
            }
            Disk::Raw(file) => format!("file={},format=raw,cache=unsafe", file.display()),
            Disk::Nbd => format!("file=nbd+unix:///?socket={},format=raw,cache=none", super::nbd::SOCKET),
        };
        let mut a: Vec<String> = Vec::new();
        let mut add = |name: &str, value: String| a.extend([format!("-{name}"), value]);
        add("machine", format!("q35,accel={accelerator}"));
        add("cpu", processor.into());
        add("smp", "2".into());
        add("m", "2048".into());
        add("uuid", s.uuid.into());
        add("rtc", format!("base={}", s.clock.unwrap_or("utc")));
        add("drive", format!("if=none,id=disk,{disk}"));
        add("device", "virtio-blk-pci,drive=disk,bootindex=0".into());
        add("device", "virtio-rng-pci".into());
        add("device", "VGA".into());
        add("device", "pcie-root-port,id=slot0,chassis=1,slot=1".into());
        add("device", "virtio-serial-pci,id=ports".into());
        add("chardev", "socket,id=lever,path=lever.sock,server=on,wait=off".into());
        add("device", format!("virtserialport,chardev=lever,name={}", lever::PORT));
        add(
            "chardev",
            format!(
                "socket,id=console,path=console.sock,server=on,wait=off,logfile={},logappend=on",
                path("serial.log")
            ),
        );
        add("serial", "chardev:console".into());
        add("qmp", "unix:qmp.sock,server=on,wait=off".into());
        if s.firmware == Firmware::Uefi {
            let code = qemu::tools_file("usr/share/OVMF/OVMF_CODE_4M.fd");
            add(
                "drive",
                format!("if=pflash,format=raw,unit=0,readonly=on,file={}", code.display()),
            );
            add("drive", format!("if=pflash,format=raw,unit=1,file={}", path("vars.fd")));
        }
        if s.tpm {
            add("chardev", format!("socket,id=tpm,path={}", tpm::SOCKET));
            add("tpmdev", "emulator,id=tpm0,chardev=tpm".into());
            add("device", "tpm-crb,tpmdev=tpm0".into());
        }
        if s.network {
            add("netdev", self.netdev("net"));
            add("device", format!("virtio-net-pci,netdev=net,mac={MAC}"));
        }
        for (name, _) in self.credentials() {
            add(
                "fw_cfg",
                format!(
                    "name=opt/io.systemd.credentials/{name},file={}",
                    path(&format!("cred.{name}"))
                ),
            );
        }
        // For looking into a boot that goes wrong, such as `systemd.journald.forward_to_console=1`.
        if let Ok(words) = std::env::var("BERTH_QEMU_APPEND") {
            let words = words.replace(',', ",,");
            add(
                "smbios",
                format!("type=11,value=io.systemd.stub.kernel-cmdline-extra={words}"),
            );
        }
        if let Some(state) = state {
            add("incoming", format!("file:{}", state.display()));
        }
        // A reset ends the process: every boot is one that the test asked for.
        a.extend(["-nodefaults", "-no-reboot", "-display", "none"].map(str::to_owned));
        a
    }

    pub(super) fn netdev(&self, id: &str) -> String {
        let (more, to) = (&self.setup.netdev, self.setup.guest_address.unwrap_or_default());
        format!(
            "user,id={id},restrict=on,hostfwd=tcp:127.0.0.1:{}-{to}:443{more}",
            self.port
        )
    }

    fn credentials(&self) -> Vec<(String, String)> {
        let mut all = self.setup.credentials.clone();
        if self.setup.lever {
            all.push(("tmpfiles.extra".into(), lever::credential()));
        }
        all
    }

    /// Starts QEMU, from power-on or from a saved state, and connects to it.
    pub fn start(&mut self, state: Option<&Path>) {
        assert!(self.running.is_none(), "already running");
        let turn = turn();
        for (name, value) in self.credentials() {
            fs::write(self.dir.join(format!("cred.{name}")), value).unwrap();
        }
        self.serial.boots();
        for socket in ["qmp.sock", "lever.sock", "console.sock"] {
            let _ = fs::remove_file(self.dir.join(socket));
        }
        let tpm = self.setup.tpm.then(|| Tpm::start(&self.dir));
        let said = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("qemu.log"))
            .unwrap();
        let mut child = qemu::emulator()
            .args(self.arguments(state))
            // Socket paths are 107 bytes at most; a checkout's may be longer.
            .current_dir(&self.dir)
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        let began = Instant::now();
        // The same for our side of them.
        let dir = fs::File::open(&self.dir).unwrap();
        let near = |name: &str| PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
        let connected = wait(patience(60), || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "QEMU ended at once: {}", self.said());
            Some((
                Qmp::connect(&near("qmp.sock")).ok()?,
                Lever::connect(&near("lever.sock")).ok()?,
                UnixStream::connect(near("console.sock")).ok()?,
            ))
        });
        let (mut qmp, mut lever, console) =
            connected.unwrap_or_else(|| panic!("QEMU does not answer: {}", self.said()));
        // What the box says there is in the log; unread, it would stop the box. It ends with QEMU.
        let mut said = console.try_clone().unwrap();
        std::thread::spawn(move || while said.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {});
        if state.is_some() {
            let loaded = wait(patience(120), || {
                let status = qmp.call("query-status", json!({}))["status"].take();
                (status != "inmigrate").then_some(())
            });
            assert!(loaded.is_some(), "the saved state does not load: {}", self.said());
            qmp.call("cont", json!({}));
            lever.resumed();
        }
        self.running = Some(Running {
            child,
            qmp,
            lever,
            console,
            _tpm: tpm,
            began,
            _turn: turn,
        });
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default()
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("the machine runs")
    }

    /// Seconds since QEMU started.
    pub fn age(&self) -> f64 {
        self.running.as_ref().map_or(0.0, |r| r.began.elapsed().as_secs_f64())
    }

    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.running().qmp
    }

    pub fn process(&self) -> u32 {
        self.running.as_ref().expect("the machine runs").child.id()
    }

    /// Panics when the machine is gone or its log fails the test.
    fn watch(&mut self) {
        let ended = self.running().child.try_wait().unwrap();
        let bad = log::fatal_line(&self.serial.text(), &self.setup.expected);
        if ended.is_some() || bad.is_some() {
            let why = bad.unwrap_or_else(|| format!("QEMU ended: {ended:?} {}", self.said()));
            panic!("{}: {why}\n--- serial log\n{}", self.setup.name, self.serial.tail(50));
        }
    }

    /// Waits for words in the serial log.
    pub fn await_serial(&mut self, words: &str, deadline: Duration) -> f64 {
        let end = Instant::now() + deadline;
        while !self.serial.has(words) {
            self.watch();
            let tail = || self.serial.tail(50);
            assert!(
                Instant::now() < end,
                "no '{words}' within {deadline:?}\n--- serial log\n{}",
                tail()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        self.age()
    }

    /// Types a line at the serial console.
    pub fn type_line(&mut self, words: &str) {
        self.running()
            .console
            .write_all(format!("{words}\r").as_bytes())
            .unwrap();
    }

    /// Runs a script in the box as root; its status and words.
    pub fn try_sh_within(&mut self, script: &str, limit: Duration) -> Done {
        let nonce = self.running().lever.send(script, limit);
        let mut text = Vec::new();
        let end = Instant::now() + limit + patience(30);
        loop {
            let status = self.running().lever.collect(&nonce, &mut text, Duration::from_secs(1));
            let words = || String::from_utf8_lossy(&text).replace('\r', "");
            if let Some(status) = status {
                return Done { status, text: words() };
            }
            self.watch();
            let tail = || self.serial.tail(30);
            assert!(
                Instant::now() < end,
                "no end within {limit:?} of:\n{script}\n--- said\n{}\n--- serial log\n{}",
                words(),
                tail()
            );
        }
    }

    pub fn try_sh(&mut self, script: &str) -> Done {
        self.try_sh_within(script, patience(60))
    }

    /// A script that must succeed; its words.
    pub fn sh(&mut self, script: &str) -> String {
        let done = self.try_sh(script);
        assert_eq!(done.status, 0, "{script}\n--- said\n{}", done.text);
        done.text
    }

    /// Asks by a script until it succeeds.
    pub fn until(&mut self, what: &str, script: &str, deadline: Duration) -> String {
        let end = Instant::now() + deadline;
        loop {
            let done = self.try_sh(script);
            if done.status == 0 {
                return done.text;
            }
            assert!(
                Instant::now() < end,
                "waited {deadline:?} for: {what}\n{script}\n--- said\n{}",
                done.text
            );
            // Every look costs an emulated box time.
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// `berth ARGS --json` in the box, which must succeed.
    pub fn berth(&mut self, args: &str) -> Value {
        let done = self.try_sh_within(&format!("berth {args} --json"), patience(330));
        assert_eq!(done.status, 0, "berth {args}: {}", done.text);
        serde_json::from_str(&done.text).unwrap_or_else(|e| panic!("berth {args} printed no JSON ({e}): {}", done.text))
    }

    /// Starts a script that never ends, and gives what it said until then: `until` sees all of it after each reading. The
    /// machine is to be cut then: its lever is taken.
    pub fn listen(&mut self, script: &str, mut until: impl FnMut(&str) -> bool) -> String {
        let nonce = self.running().lever.send(script, patience(3600));
        let mut text = Vec::new();
        loop {
            let goes_on = self.running().lever.hear(&nonce, &mut text);
            let said = String::from_utf8_lossy(&text).replace('\r', "");
            assert!(goes_on, "it ended: {said}");
            if until(&said) {
                return said;
            }
        }
    }

    /// Waits until the lever answers.
    pub fn await_lever(&mut self) {
        let end = Instant::now() + patience(420);
        while !self.running().lever.greeted(Duration::from_secs(1)) {
            self.watch();
            assert!(
                Instant::now() < end,
                "the box does not come up\n--- serial log\n{}",
                self.serial.tail(50)
            );
        }
    }

    /// Waits until the box is up: the lever answers, then the supervisor. The seconds since power-on.
    pub fn await_up(&mut self) -> f64 {
        self.await_lever();
        let answers = "[ -S /run/berth/admin.sock ] && berth status --json";
        self.until("the supervisor answers", answers, patience(300));
        self.age()
    }

    /// Nothing failed in this boot: units, and what the kernel and systemd wrote to the journal.
    pub fn check(&mut self) {
        let failed = self.sh("systemctl --no-legend --plain list-units --failed");
        let journal = self
            .sh("journalctl --boot --no-pager --output=short-monotonic --priority=warning _TRANSPORT=kernel + _PID=1");
        let bad = log::fatal_line(&journal, &self.setup.expected);
        let tail = || self.serial.tail(20);
        assert!(
            failed.trim().is_empty() && bad.is_none(),
            "failed units: {failed:?}; journal: {bad:?}\n{}",
            tail()
        );
        self.watch();
    }

    /// Sends the box to power-off or reboot and waits until QEMU ended.
    pub fn shut_down(&mut self, how: &str) {
        self.sh(&format!("systemctl --no-block {how}"));
        self.await_end(patience(180));
    }

    /// Waits until QEMU ended by itself.
    pub fn await_end(&mut self, deadline: Duration) {
        let end = Instant::now() + deadline;
        while self.running().child.try_wait().unwrap().is_none() {
            assert!(
                Instant::now() < end,
                "QEMU runs on after {deadline:?}\n{}",
                self.serial.tail(40)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        self.running = None;
        let bad = log::fatal_line(&self.serial.text(), &self.setup.expected);
        assert!(bad.is_none(), "{}: {bad:?}\n{}", self.setup.name, self.serial.tail(50));
    }

    /// The plug pulled: SIGKILL.
    pub fn cut(&mut self) {
        if let Some(mut r) = self.running.take() {
            qemu::end(&mut r.child, Duration::from_secs(20));
        }
    }

    /// Stops the processor, writes all of the machine but its disk to a file, and ends QEMU.
    pub fn save(&mut self, state: &Path) {
        let uri = format!("file:{}", state.display());
        let qmp = self.qmp();
        qmp.call("stop", json!({}));
        qmp.call("migrate-set-parameters", json!({ "max-bandwidth": 1u64 << 40 }));
        qmp.call("migrate", json!({ "uri": uri }));
        let done = wait(patience(180), || {
            let status = qmp.call("query-migrate", json!({}))["status"]
                .as_str()
                .unwrap_or("")
                .to_owned();
            assert_ne!(status, "failed", "the state could not be saved");
            (status == "completed").then_some(())
        });
        assert!(done.is_some(), "the state was not saved in time");
        let _ = qmp.try_call("quit", json!({}));
        self.await_end(patience(60));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut();
        if std::thread::panicking() {
            eprintln!(
                "qemu-tests: what is left of {} is in {}",
                self.setup.name,
                self.dir.display()
            );
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Base64 of a text, for handing files to scripts.
pub fn base64(text: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(text)
}
