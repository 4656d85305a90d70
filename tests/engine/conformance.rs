//! The official conformance suite against a fixture server directly, and the same server through Berth: what passes
//! directly passes through Berth.

use crate::support;

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use support::{Appliance, root};

/// The fixture over plain HTTP on loopback; ended when dropped.
struct Direct {
    child: Child,
    url: String,
}

impl Direct {
    fn start() -> Self {
        let port = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let mut child = Command::new(root().join("tests/clients/node/bin/node"))
            .arg(root().join("tests/fixtures/conformance/server.mjs"))
            .args(["http", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the clients are installed (tests/clients/setup)");
        // It says on stderr when it listens; what it says later is read, so that it never waits for a reader.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next().expect("the fixture says that it listens").unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        assert!(first.contains(&port.to_string()), "{first}");
        Self {
            child,
            url: format!("http://127.0.0.1:{port}/mcp"),
        }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the suite; its checks, a line each, end up in `out`.
fn suite(url: &str, revision: &str, more: &[&str], out: &Path) {
    // A failed check is not an error here: the fixture itself fails some, and what counts is the difference.
    Command::new(root().join("tests/conformance/run"))
        .args([url, "--requirements", revision])
        .args(more)
        .stdout(File::create(out).unwrap())
        .stderr(File::create(out.with_extension("err")).unwrap())
        .status()
        .unwrap();
    let lines = std::fs::read_to_string(out).unwrap().lines().count();
    let wrong = std::fs::read_to_string(out.with_extension("err")).unwrap();
    assert!(
        lines > 50,
        "only {lines} checks ran against {url}:\n{}",
        support::tail(&wrong, 20)
    );
}

#[test]
fn what_passes_directly_passes_through() {
    let direct = Direct::start();
    let a = Appliance::start();
    let i = a.run("fixture-conformance", &["--size", "large"]);
    let ca = a.ca();
    let through = ["--token", &i.token, "--ca", ca.to_str().unwrap()];
    for revision in ["2025-11-25", "2026-07-28"] {
        let (x, y) = (
            a.dir().join(format!("direct-{revision}")),
            a.dir().join(format!("through-{revision}")),
        );
        suite(&direct.url, revision, &[], &x);
        suite(&i.url, revision, &through, &y);
        let out = Command::new(root().join("tests/conformance/compare"))
            .args([&x, &y])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        println!("{revision}: {said}");
        assert!(
            out.status.success(),
            "{revision}: {said}{}\n{}",
            String::from_utf8_lossy(&out.stderr),
            std::fs::read_to_string(y.with_extension("err")).unwrap_or_default()
        );
    }
}
