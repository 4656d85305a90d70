//! For tests of desktops: an assistant (the official SDK's client, one session) and a person's browser (headless
//! Chromium in the image of the type `playwright`), both driven line by line.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{Appliance, Instance, root, wait_for};

pub const IMAGE: &str = "berth/mcp-playwright:0.0.83";

/// A child that answers each line with a line.
struct Lines {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    what: &'static str,
}

impl Lines {
    fn start(what: &'static str, command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self {
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
            what,
        }
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.stdin.as_mut().unwrap(), "{question}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}: {question} was answered {line:?}: {e}", self.what))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if std::thread::panicking() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// An assistant with a session of its own.
pub struct Assistant(Lines);

/// What a tool answered.
#[derive(Debug)]
pub struct Said {
    pub text: String,
    pub error: bool,
    pub data: Value,
    pub progress: Vec<String>,
}

impl Assistant {
    pub fn of(a: &Appliance, i: &Instance) -> Self {
        let mut c = Command::new(root().join("tests/clients/run"));
        c.args(["ts1", "calls"])
            .env("BERTH_URL", &i.path_url)
            .env("BERTH_TOKEN", &i.token)
            .env("NODE_EXTRA_CA_CERTS", a.ca());
        Self(Lines::start("the assistant", &mut c))
    }

    /// Calls a tool; its answer, be it an error of the tool.
    pub fn try_call(&mut self, tool: &str, arguments: Value) -> Result<Said, String> {
        let answer = self.0.ask(&json!({ "tool": tool, "arguments": arguments }));
        if let Some(why) = answer["failed"].as_str() {
            return Err(why.to_owned());
        }
        let progress = answer["progress"].as_array().unwrap();
        Ok(Said {
            text: answer["text"].as_str().unwrap().to_owned(),
            error: answer["error"] == true,
            data: answer["data"].clone(),
            progress: progress.iter().filter_map(|p| p.as_str().map(str::to_owned)).collect(),
        })
    }

    /// Calls a tool that must answer.
    pub fn call(&mut self, tool: &str, arguments: Value) -> Said {
        let shown = arguments.to_string();
        self.try_call(tool, arguments)
            .unwrap_or_else(|e| panic!("{tool} {shown}: {e}"))
    }
}

/// Names browsers apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A person's browser.
pub struct Browser {
    lines: Option<Lines>,
    name: String,
    engine: String,
}

impl Browser {
    /// Starts it; removed with the test, however that ends.
    pub fn start(a: &Appliance) -> Self {
        let name = format!(
            "berth-test-viewer-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let engine = format!("unix://{}", super::engine_socket());
        let seccomp = root().join("src/docker/seccomp-browser.json");
        let socket = a.dir().join(format!("view-{}.sock", NEXT.fetch_add(1, Relaxed)));
        forward(&socket, a.https);
        let mut c = Command::new("docker");
        c.args([
            "-H",
            &engine,
            "create",
            "--rm",
            "--interactive",
            "--network",
            "none",
            "--read-only",
        ])
        .args([
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
            "--shm-size",
            "256m",
            "--name",
            &name,
        ])
        .args(["--tmpfs", "/tmp:rw,nosuid,nodev,mode=1777,size=512m"])
        .arg(format!("--security-opt=seccomp={}", seccomp.display()))
        .arg(format!("--volume={}:/t:ro", root().join("tests/screen").display()))
        .arg(format!("--volume={}:/edge.sock", socket.display()))
        .args([IMAGE, "node", "/t/view.mjs", &a.https.to_string()]);
        let mut browser = Self {
            lines: None,
            name,
            engine,
        };
        // Made before it is started: whatever fails from here on, there is something to be removed.
        let made = c.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut start = Command::new("docker");
        start.args([
            "-H",
            &browser.engine,
            "start",
            "--attach",
            "--interactive",
            &browser.name,
        ]);
        browser.lines = Some(Lines::start("the browser", &mut start));
        browser
    }

    pub fn ask(&mut self, question: Value) -> Value {
        let answer = self.lines.as_mut().unwrap().ask(&question);
        assert!(answer.get("error").is_none(), "{question}: {}", answer["error"]);
        answer
    }

    /// Opens a page under a name; its status.
    pub fn open(&mut self, name: &str, url: &str) -> u64 {
        let answer = self.ask(json!({ "do": "open", "name": name, "url": url }));
        answer["status"].as_u64().unwrap()
    }

    /// Stops all of the browser's processes, or lets them go on. By signals: the freezer of control groups gives up on
    /// a busy machine.
    pub fn pause(&self, a: &Appliance, on: bool) {
        let signal = if on { Signal::SIGSTOP } else { Signal::SIGCONT };
        let mut reached = BTreeSet::new();
        // Again, until no process is there that was born meanwhile.
        loop {
            let listed = a.docker_lines(&["top", &self.name, "-o", "pid"]);
            let born: Vec<i32> = listed
                .iter()
                .filter_map(|l| l.trim().parse().ok())
                .filter(|pid| !reached.contains(pid))
                .collect();
            if born.is_empty() {
                break;
            }
            for pid in born {
                let _ = kill(Pid::from_raw(pid), signal);
                reached.insert(pid);
            }
        }
        assert!(!reached.is_empty(), "the browser has no process");
    }

    pub fn eval(&mut self, name: &str, js: &str) -> Value {
        self.ask(json!({ "do": "eval", "name": name, "js": js }))["value"].take()
    }

    pub fn wait(&mut self, name: &str, js: &str) {
        self.ask(json!({ "do": "wait", "name": name, "js": js, "timeout": 60_000 }));
    }

    pub fn wait_phase(&mut self, name: &str, phase: &str) {
        self.wait(name, &format!("document.documentElement.dataset.phase === '{phase}'"));
    }

    pub fn wait_control(&mut self, name: &str, control: &str) {
        self.wait(
            name,
            &format!("document.documentElement.dataset.control === '{control}'"),
        );
    }

    pub fn click(&mut self, name: &str, selector: &str) {
        self.ask(json!({ "do": "click", "name": name, "selector": selector }));
    }

    /// Clicks a point of the remote screen.
    pub fn mouse(&mut self, name: &str, x: u32, y: u32) {
        self.ask(json!({ "do": "mouse", "name": name, "x": x, "y": y }));
    }

    pub fn type_text(&mut self, name: &str, text: &str) {
        self.ask(json!({ "do": "type", "name": name, "text": text }));
    }

    pub fn press(&mut self, name: &str, key: &str) {
        self.ask(json!({ "do": "press", "name": name, "key": key }));
    }

    /// Waits until noVNC shows this colour at a point of the remote screen.
    pub fn wait_colour(&mut self, name: &str, at: (u32, u32), want: [u8; 3]) {
        let mut seen = Value::Null;
        let start = std::time::Instant::now();
        // Compressed pictures are near, not equal.
        let near = |seen: &Value| {
            // None yet where the page has no picture.
            seen.as_array().is_some_and(|all| {
                all.iter()
                    .zip(want)
                    .all(|(s, w)| s.as_i64().unwrap().abs_diff(i64::from(w)) <= 6)
            })
        };
        while start.elapsed() < Duration::from_secs(90) {
            seen = self.ask(json!({ "do": "colour", "name": name, "x": at.0, "y": at.1 }))["value"].take();
            if near(&seen) {
                return;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        panic!("{at:?} of {name} is {seen}, not {want:?}");
    }

    /// What went wrong in the page, by its own console.
    pub fn errors(&mut self, name: &str) -> Value {
        self.ask(json!({ "do": "errors", "name": name }))["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.lines.take());
        let _ = Command::new("docker")
            .args(["-H", &self.engine, "rm", "-f", &self.name])
            .output();
    }
}

/// Carries what comes to a Unix socket on to the edge: a browser on the machine's own network would drop its connections
/// whenever a container's network comes or goes.
fn forward(socket: &Path, port: u16) {
    let listener = UnixListener::bind(socket).unwrap();
    std::fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    std::thread::spawn(move || {
        for inside in listener.incoming().map_while(Result::ok) {
            let Ok(outside) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            let _ = outside.set_nodelay(true);
            let (mut up_from, mut up_to) = (inside.try_clone().unwrap(), outside.try_clone().unwrap());
            let (mut down_from, mut down_to) = (outside, inside);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut up_from, &mut up_to);
                let _ = up_to.shutdown(Shutdown::Both);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut down_from, &mut down_to);
                let _ = down_to.shutdown(Shutdown::Both);
            });
        }
    });
}

/// A link to a screen.
pub fn link(a: &Appliance, id: &str, more: &[&str]) -> String {
    let mut args = vec!["screen", id];
    args.extend(more);
    a.cli(&args).trim().to_owned()
}

/// The numbers and command lines of what runs in an instance's container, from outside.
pub fn inside(a: &Appliance, id: &str) -> Vec<(u32, String)> {
    let out = a.docker_lines(&["top", &a.container_of(id), "-eo", "pid,stat,args"]);
    let rows = out
        .iter()
        .skip(1)
        .filter_map(|l| l.trim().split_once(char::is_whitespace));
    rows.filter_map(|(pid, rest)| Some((pid.parse().ok()?, rest.trim().to_owned())))
        .collect()
}

/// Kills what runs in an instance's container under a command line that contains these words.
pub fn kill_inside(a: &Appliance, id: &str, words: &str) {
    let all = inside(a, id);
    let found: Vec<u32> = all.iter().filter(|(_, c)| c.contains(words)).map(|(p, _)| *p).collect();
    assert!(!found.is_empty(), "nothing runs as {words:?}: {all:?}");
    for pid in found {
        super::signal(pid, nix::sys::signal::Signal::SIGKILL);
    }
    let gone = |old: u32| !Path::new(&format!("/proc/{old}")).exists();
    wait_for("the killed are gone", Duration::from_secs(30), || {
        all.iter().filter(|(_, c)| c.contains(words)).all(|(p, _)| gone(*p))
    });
}
