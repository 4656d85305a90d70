//! A supervisor of the test's own on the real engine: a folder, two loopback ports, a box id. Everything that it made
//! is removed when it is dropped, also when the test panics; nothing else is touched.

pub mod desktop;
pub mod netns;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io::Read,
    net::{IpAddr, TcpListener, ToSocketAddrs},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The binary under test: what cargo built beside this program, or the one that `BERTH_BIN` names.
pub fn berth() -> PathBuf {
    let path = std::env::var_os("BERTH_BIN").map_or_else(|| env!("CARGO_BIN_EXE_berth").into(), PathBuf::from);
    assert!(path.exists(), "{} is missing", path.display());
    path
}

/// Where the engine under test listens: the one that `make test` named, else the default.
pub fn engine_socket() -> String {
    std::env::var("BERTH_TEST_ENGINE").unwrap_or_else(|_| "/var/run/docker.sock".into())
}

/// Two ports that nobody listened on a moment ago.
fn free_ports() -> (u16, u16) {
    let a = TcpListener::bind("127.0.0.1:0").unwrap();
    let b = TcpListener::bind("127.0.0.1:0").unwrap();
    (a.local_addr().unwrap().port(), b.local_addr().unwrap().port())
}

/// Where this machine's npm and pip fetch from, where that is not on the internet: a company's mirror, say. Berth knows of
/// what their configuration names; what they use without one, the administrator opens.
pub fn registries() -> &'static BTreeSet<IpAddr> {
    static FOUND: OnceLock<BTreeSet<IpAddr>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let index =
            "from pip._internal.models.index import PyPI as p\nprint(p.url)\nprint('https://' + p.file_storage_domain)";
        let npm = Command::new("npm")
            .args(["config", "get", "registry"])
            .output()
            .unwrap();
        let pip = Command::new("python3").args(["-c", index]).output().unwrap();
        assert!(npm.status.success() && pip.status.success(), "{npm:?} {pip:?}");
        let addresses = [npm.stdout, pip.stdout].concat();
        let addresses = String::from_utf8(addresses).unwrap();
        let hosts = addresses
            .lines()
            .filter_map(|l| l.split("//").nth(1)?.split(['/', ':']).next());
        hosts
            .flat_map(|host| (host, 443).to_socket_addrs().unwrap())
            .map(|a| a.ip())
            .collect()
    })
}

/// What to start a supervisor with.
pub struct Options {
    /// Folders of type files, merged.
    pub types: Vec<PathBuf>,
    /// Its domain, where it has one.
    pub domain: Option<&'static str>,
    /// The address that its ports are on.
    pub listen: &'static str,
    /// Further lines of configuration.
    pub extra: String,
    /// The engine's socket.
    pub engine: String,
    /// `BERTH_LOG`
    pub log: &'static str,
    /// Further variables of the supervisor's environment.
    pub env: Vec<(&'static str, String)>,
    /// Files that it may open: `soft:hard`, as prlimit(1) takes them.
    pub files: Option<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            types: vec![root().join("instance-types"), root().join("tests/fixtures/types")],
            domain: Some("localhost"),
            listen: "127.0.0.1",
            extra: String::new(),
            engine: engine_socket(),
            log: "debug",
            env: Vec::new(),
            files: None,
        }
    }
}

/// This machine's own address, by which others reach it.
pub fn own_address() -> std::net::IpAddr {
    // Nothing is sent: the kernel chooses the address to send from.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("198.51.100.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

/// A running supervisor.
pub struct Appliance {
    dir: TempDir,
    engine: String,
    log_level: &'static str,
    env: Vec<(&'static str, String)>,
    files: Option<&'static str>,
    pub https: u16,
    pub http: u16,
    child: Option<Child>,
    box_id: String,
}

impl Options {
    /// Instances may reach services of this machine on its own address.
    pub fn beside_services() -> Self {
        Self {
            extra: format!("[network]\nprivate_networks = [\"{}/32\"]\n", own_address()),
            ..Self::default()
        }
    }
}

impl Appliance {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn beside_services() -> Self {
        Self::with(Options::beside_services())
    }

    pub fn with(options: Options) -> Self {
        // Short: socket paths are 107 bytes at most.
        let dir = tempfile::Builder::new().prefix("berth-t").tempdir_in("/tmp").unwrap();
        let types = dir.path().join("types");
        std::fs::create_dir(&types).unwrap();
        for folder in &options.types {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension() == Some(OsStr::new("toml")) {
                    std::fs::copy(&path, types.join(path.file_name().unwrap())).unwrap();
                }
            }
        }
        let (https, http) = free_ports();
        let network = if options.extra.contains("[network]") {
            String::new()
        } else {
            let open: Vec<String> = registries().iter().map(|a| format!("\"{a}\"")).collect();
            format!("\n[network]\nprivate_networks = [{}]\n", open.join(", "))
        };
        let (listen, domain) = (options.listen, options.domain);
        let domain = domain.map(|d| format!("domain = \"{d}\"\n")).unwrap_or_default();
        let config = format!(
            "{domain}state_dir = \"{d}/state\"\nruntime_dir = \"{d}/run\"\ntypes_dir = \"{d}/types\"\n\
             [listen]\nhttps = \"{listen}:{https}\"\nhttp = \"{listen}:{http}\"\n[docker]\nsocket = \"{}\"\n{}{network}",
            options.engine,
            options.extra,
            d = dir.path().display(),
        );
        std::fs::write(dir.path().join("berth.toml"), config).unwrap();
        // Containers of any uid reach their sockets through this folder.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut a = Self {
            dir,
            engine: options.engine,
            log_level: options.log,
            env: options.env,
            files: options.files,
            https,
            http,
            child: None,
            box_id: String::new(),
        };
        a.launch();
        a.box_id = a.json(&["status"])["box_id"].as_str().unwrap().to_owned();
        a
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn box_id(&self) -> &str {
        &self.box_id
    }

    /// The box's table in nftables.
    pub fn table(&self) -> String {
        format!("berth_{}", &self.box_id[..8])
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/admin.sock")
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("berth.toml")
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("state/tls/ca.pem")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Starts the process without waiting for it.
    pub fn spawn(&mut self) {
        self.spawn_with(&[]);
    }

    fn spawn_with(&mut self, env: &[(&str, &str)]) {
        assert!(self.child.is_none(), "already running");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let mut command = match self.files {
            Some(files) => {
                let mut limited = Command::new("prlimit");
                limited.arg(format!("--nofile={files}")).arg(berth());
                limited
            }
            None => Command::new(berth()),
        };
        let child = command
            .args(["serve", "--config"])
            .arg(self.config())
            .env("BERTH_LOG", self.log_level)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Starts the process and waits until it answers.
    pub fn launch(&mut self) {
        self.launch_with(&[]);
    }

    /// The same with more in its environment.
    pub fn launch_with(&mut self, env: &[(&str, &str)]) {
        self.spawn_with(env);
        wait_for("the supervisor answers", Duration::from_secs(30), || {
            let exited = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(exited.is_none(), "the supervisor ended: {exited:?}\n{}", self.log());
            self.try_cli(&["status"]).status.success()
        });
    }

    /// `kill -9`, and the process reaped.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM; the exit status.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("running");
        signal(child.id(), nix::sys::signal::Signal::SIGTERM);
        wait_for("the supervisor ends after SIGTERM", Duration::from_secs(60), || {
            child.try_wait().unwrap().is_some()
        });
        child.wait().unwrap()
    }

    /// SIGTERM, and another supervisor as soon as it can run, while the old one still ends: that one, for the caller to wait
    /// for.
    pub fn supersede(&mut self) -> Ends {
        let before = self.json(&["status"])["started_at"].clone();
        let other =
            |out: &Output| serde_json::from_slice::<Value>(&out.stdout).is_ok_and(|s| s["started_at"] != before);
        let old = Ends(self.child.take().expect("running"));
        signal(old.id(), nix::sys::signal::Signal::SIGTERM);
        wait_for("another supervisor answers", Duration::from_secs(60), || {
            if self.child.is_none() {
                self.spawn();
            }
            let exited = self.child.as_mut().is_some_and(|c| c.try_wait().unwrap().is_some());
            if exited {
                // The old one has the store still.
                self.child = None;
            }
            self.child.is_some() && other(&self.try_cli(&["status", "--json"]))
        });
        old
    }

    /// What the supervisor counts, as Prometheus reads it.
    pub fn metrics(&self) -> String {
        let out = Command::new("curl")
            .args(["--silent", "--max-time", "20", "--unix-socket"])
            .arg(self.socket())
            .arg("http://berth/metrics")
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(berth());
        c.args(args).env("BERTH_SOCKET", self.socket()).stdin(Stdio::null());
        c
    }

    pub fn try_cli(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a verb with something on its standard input.
    pub fn piped(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that refuses before it reads is no failure of the test's own.
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Runs an instance with `KEY=VALUE` lines from a pipe.
    pub fn run_with(&self, type_name: &str, env: &str) -> Instance {
        let out = self.piped(&["run", type_name, "--env-file", "-", "--json"], env);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            out.status.success(),
            "berth run {type_name}: {said}\n{}",
            tail(&self.log(), 40)
        );
        Instance::from(&serde_json::from_slice(&out.stdout).unwrap())
    }

    /// Opens a session; the header to send along.
    pub fn open(&self, i: &Instance) -> String {
        let answer = self.post(&i.url, &i.token, INITIALIZE, &[]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let session = answer.header("mcp-session-id").expect("a session id");
        let header = format!("Mcp-Session-Id: {session}");
        let done = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let done = self.post(&i.url, &i.token, done, &["-H", &header]);
        assert_eq!(done.status, 202, "{}", done.body);
        header
    }

    /// Calls a tool in a session; the answer's body.
    pub fn call(&self, i: &Instance, session: &str, tool: &str, arguments: &Value) -> String {
        let params = serde_json::json!({ "name": tool, "arguments": arguments });
        let body = serde_json::json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params });
        let answer = self.post(&i.url, &i.token, &body.to_string(), &["-H", session]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// Runs a verb that must succeed; its stdout.
    pub fn cli(&self, args: &[&str]) -> String {
        let out = self.try_cli(args);
        assert!(
            out.status.success(),
            "berth {args:?} failed ({}):\n{}{}\n--- log\n{}",
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr),
            tail(&self.log(), 40),
        );
        String::from_utf8(out.stdout).unwrap()
    }

    /// Runs a verb that must fail with this status; its stderr.
    pub fn cli_fails(&self, status: i32, args: &[&str]) -> String {
        let out = self.try_cli(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(
            out.status.code(),
            Some(status),
            "berth {args:?}: {said}\n{}",
            String::from_utf8_lossy(&out.stdout)
        );
        said
    }

    /// Runs a verb with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        let text = self.cli(&all);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("berth {args:?} printed no JSON ({e}): {text}"))
    }

    /// Runs an instance of a type.
    pub fn run(&self, type_name: &str, more: &[&str]) -> Instance {
        let mut args = vec!["run", type_name];
        args.extend(more);
        Instance::from(&self.json(&args))
    }

    pub fn show(&self, id: &str) -> Value {
        self.json(&["show", id])
    }

    /// Waits until an instance is in a state.
    pub fn wait_state(&self, id: &str, state: &str, deadline: Duration) -> Value {
        let mut last = Value::Null;
        wait_for_or(deadline, || {
            last = self.show(id);
            last["state"] == state
        })
        .unwrap_or_else(|()| panic!("{id} is not {state}: {last:#}\n--- log\n{}", tail(&self.log(), 60)));
        last
    }

    pub fn docker(&self, args: &[&str]) -> Output {
        Command::new("docker")
            .arg("-H")
            .arg(format!("unix://{}", self.engine))
            .args(args)
            .output()
            .unwrap()
    }

    /// Lines of a docker listing that must succeed.
    pub fn docker_lines(&self, args: &[&str]) -> Vec<String> {
        let out = self.docker(args);
        assert!(
            out.status.success(),
            "docker {args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Ids of this box's containers, running or not.
    pub fn containers(&self) -> Vec<String> {
        self.docker_lines(&[
            "ps",
            "-aq",
            "--no-trunc",
            "--filter",
            &format!("label=berth.box={}", self.box_id),
        ])
    }

    pub fn container_of(&self, id: &str) -> String {
        let filter = format!("label=berth.instance={id}");
        let mut all = self.docker_lines(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
        assert_eq!(all.len(), 1, "containers of {id}: {all:?}");
        all.remove(0)
    }

    /// Names of the box's networks and volumes.
    pub fn leftovers(&self) -> Vec<String> {
        let filter = format!("label=berth.box={}", self.box_id);
        let mut all = self.containers();
        all.extend(self.docker_lines(&["network", "ls", "-q", "--filter", &filter]));
        all.extend(self.docker_lines(&["volume", "ls", "-q", "--filter", &filter]));
        all
    }

    /// Images that were made for this box's instances.
    pub fn built_images(&self) -> Vec<String> {
        let filter = format!("label=berth.built.box={}", self.box_id);
        self.docker_lines(&["images", "-q", "--no-trunc", "--filter", &filter])
    }

    /// `docker inspect` of an instance's container.
    pub fn inspect(&self, id: &str) -> Value {
        let out = self.docker(&["inspect", &self.container_of(id)]);
        serde_json::from_slice::<Value>(&out.stdout).unwrap()[0].take()
    }
}

impl Appliance {
    /// What the engine was asked for and had not made yet when the supervisor was killed is made all the same: waits for
    /// such a container, or as long as the engine may take for it.
    fn await_unfinished(&self) {
        let log = self.log();
        let mut last = std::collections::BTreeMap::new();
        for step in log.lines().filter_map(|l| l.split_once("] step: ")?.1.split_once(": ")) {
            last.insert(step.0, step.1);
        }
        let unfinished: Vec<_> = last.iter().filter(|(_, step)| **step == "create container").collect();
        for (id, _) in unfinished {
            let filter = format!("label=berth.instance={id}");
            let _ = wait_for_or(Duration::from_secs(10), || {
                !self.docker(&["ps", "-aq", "--filter", &filter]).stdout.is_empty()
            });
        }
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the supervisor's last words\n{}", tail(&self.log(), 60));
        }
        self.kill();
        if self.box_id.is_empty() {
            return;
        }
        self.await_unfinished();
        let filter = format!("label=berth.box={}", self.box_id);
        for (list, remove) in [
            (vec!["ps", "-aq"], vec!["rm", "-f", "-v"]),
            (vec!["network", "ls", "-q"], vec!["network", "rm"]),
            (vec!["volume", "ls", "-q"], vec!["volume", "rm", "-f"]),
            (vec!["images", "-q"], vec!["rmi", "-f"]),
        ] {
            let mut args = list;
            let made = format!("label=berth.built.box={}", self.box_id);
            args.extend(["--filter", if args[0] == "images" { &made } else { &filter }]);
            let out = self.docker(&args);
            let ids = String::from_utf8_lossy(&out.stdout).into_owned();
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if !ids.is_empty() {
                let mut args = remove;
                args.extend(ids);
                let _ = self.docker(&args);
            }
        }
        remove_cgroups(&self.box_id);
        // There is none where the test wanted none.
        let _ = Command::new("nft")
            .args(["delete", "table", "inet", &self.table()])
            .stderr(Stdio::null())
            .status();
    }
}

/// Removes the cgroups of a box that runs nothing any more.
fn remove_cgroups(box_id: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    for hierarchy in entries.map(|e| e.path()).chain([root.to_owned()]) {
        let at = hierarchy.join("berth").join(&box_id[..8]);
        for workspace in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(workspace.path());
        }
        let _ = std::fs::remove_dir(at);
    }
}

/// A process that ends with the test, also when that panics.
pub struct Ends(pub Child);

impl std::ops::Deref for Ends {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Ends {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        // One that has ended is not killed: its number may be another's.
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// An instance that `berth run` made.
#[derive(Debug, Clone)]
pub struct Instance {
    pub id: String,
    pub url: String,
    pub path_url: String,
    pub token: String,
}

impl Instance {
    pub fn from(v: &Value) -> Self {
        let text = |p: &str| {
            v.pointer(p)
                .and_then(Value::as_str)
                .unwrap_or_else(|| panic!("{p} is missing: {v:#}"))
                .to_owned()
        };
        Self {
            id: text("/id"),
            url: text("/endpoints/mcp/url"),
            path_url: text("/endpoints/mcp/path_url"),
            token: text("/token"),
        }
    }
}

/// A plain HTTPS request by curl: status, headers (lower-cased names) and body.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.body))
    }
}

impl Appliance {
    /// curl with this box's CA; `args` are curl's own, the address last.
    pub fn curl(&self, args: &[&str]) -> Answer {
        let out = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "30", "--include", "--cacert"])
            .arg(self.ca())
            .args(args)
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "curl {args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let (mut head, mut body) = text.split_once("\r\n\r\n").expect("a header section");
        while head.starts_with("HTTP/1.1 100") {
            (head, body) = body.split_once("\r\n\r\n").expect("a header section");
        }
        let mut lines = head.lines();
        let status = lines
            .next()
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers = lines
            .filter_map(|l| l.split_once(':'))
            .map(|(n, v)| (n.to_lowercase(), v.trim().to_owned()))
            .collect();
        Answer {
            status,
            headers,
            body: body.to_owned(),
        }
    }

    /// POSTs a JSON-RPC body with a token.
    pub fn post(&self, url: &str, token: &str, body: &str, more: &[&str]) -> Answer {
        let bearer = format!("Authorization: Bearer {token}");
        let mut args = vec![
            "-H",
            "Content-Type: application/json",
            "-H",
            "Accept: application/json, text/event-stream",
            "-H",
            &bearer,
            "-d",
            body,
        ];
        args.extend(more);
        args.push(url);
        self.curl(&args)
    }
}

/// What curl is given to ask for a WebSocket, as a browser does, but for origin and cookie.
pub const WEBSOCKET: [&str; 9] = [
    "--http1.1",
    "-H",
    "Connection: Upgrade",
    "-H",
    "Upgrade: websocket",
    "-H",
    "Sec-WebSocket-Version: 13",
    "-H",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

pub const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#;

/// Waits for a condition with a deadline; panics with what was waited for.
pub fn wait_for(what: &str, deadline: Duration, condition: impl FnMut() -> bool) {
    assert!(
        wait_for_or(deadline, condition).is_ok(),
        "waited {deadline:?} for: {what}"
    );
}

/// A machine may be so many times as slow as those that the deadlines were written on; none is waited for where all is well.
const SLOWNESS: u32 = 3;

fn wait_for_or(deadline: Duration, mut condition: impl FnMut() -> bool) -> Result<(), ()> {
    let end = Instant::now() + deadline * SLOWNESS;
    loop {
        if condition() {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Reads a child's output to its end.
pub fn read_all(from: &mut impl Read) -> String {
    let mut s = String::new();
    from.read_to_string(&mut s).unwrap();
    s
}
