//! The official conformance suite against a fixture server directly, and the same server through Berth: what passes
//! directly passes through Berth.

use crate::support;

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use support::{Appliance, Options, root};

/// The fixture over plain HTTP on loopback; ended when dropped.
struct Direct {
    child: Child,
    url: String,
}

impl Direct {
    /// `era`: the one era that it speaks, if not both.
    fn start(era: &[&str]) -> Self {
        let port = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let mut child = Command::new(root().join("tests/clients/node/bin/node"))
            .arg(root().join("tests/fixtures/conformance/server.mjs"))
            .args(["http", &port.to_string()])
            .args(era)
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

/// What the fixture of both eras passes directly, by revision.
struct Wanted(Vec<(&'static str, PathBuf)>);

const REVISIONS: [&str; 2] = ["2025-11-25", "2026-07-28"];

/// What a server of the legacy era cannot do for modern clients, whoever translates: its questions have no names, come one
/// by one, and are asked without knowing which of them the client can answer.
const NOT_LEGACY: [&str; 7] = [
    "input-required-result-basic-elicitation sep-2322-elicitation-complete",
    "input-required-result-basic-elicitation sep-2322-elicitation-incomplete",
    "input-required-result-ignore-extra-params sep-2322-ignore-unexpected-params",
    "input-required-result-multiple-input-requests sep-2322-multiple-inputs-complete",
    "input-required-result-multiple-input-requests sep-2322-multiple-inputs-incomplete",
    "server-stateless sep-2575-missing-capability-http-400",
    "server-stateless sep-2575-server-rejects-undeclared-capability",
];

impl Wanted {
    fn new(a: &Appliance) -> Self {
        let direct = Direct::start(&[]);
        Self(
            REVISIONS
                .map(|revision| {
                    let out = a.dir().join(format!("direct-{revision}"));
                    suite(&direct.url, revision, &[], &out);
                    (revision, out)
                })
                .into(),
        )
    }

    /// Runs the suite through an instance, for each revision: nothing is lost but this, as `(revision, checks)`.
    fn pass_through(&self, a: &Appliance, name: &str, (url, token): (&str, &str), but: (&str, &[&str])) {
        let ca = a.ca();
        let through = ["--token", token, "--ca", ca.to_str().unwrap()];
        for (revision, direct) in &self.0 {
            let out = a.dir().join(format!("{name}-{revision}"));
            suite(url, revision, &through, &out);
            let compared = Command::new(root().join("tests/conformance/compare"))
                .args([direct, &out])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&compared.stdout);
            println!("{name} {revision}: {said}");
            let lost: Vec<String> = said
                .lines()
                .filter_map(|l| l.strip_prefix("lost: "))
                .map(|l| l.split('\t').take(2).collect::<Vec<_>>().join(" "))
                .collect();
            let may = if *revision == but.0 { but.1 } else { &[] };
            assert!(
                lost == may && compared.status.success() == may.is_empty(),
                "{name} {revision}: {said}{}\n{}",
                String::from_utf8_lossy(&compared.stderr),
                std::fs::read_to_string(out.with_extension("err")).unwrap_or_default()
            );
        }
    }
}

#[test]
fn what_passes_directly_passes_through() {
    let a = Appliance::with(Options {
        extra: "[remote]\nprivate_networks = [\"127.0.0.0/8\"]\n".into(),
        ..Options::default()
    });
    let wanted = Wanted::new(&a);
    let i = a.run("fixture-conformance", &["--size", "large"]);
    wanted.pass_through(&a, "bridged", (&i.url, &i.token), ("", &[]));
    a.cli(&["rm", &i.id]);
    // Servers of one era that speak HTTP themselves, in a container and elsewhere, for clients of both.
    for (era, but) in [("legacy", ("2026-07-28", &NOT_LEGACY[..])), ("modern", ("", &[][..]))] {
        let name = format!("fixture-conformance-{era}");
        let i = a.run(&name, &["--size", "large"]);
        wanted.pass_through(&a, &name, (&i.url, &i.token), but);
        a.cli(&["rm", &i.id]);
    }
    let far = Direct::start(&["legacy"]);
    let i = a.json(&["run", "remote", "--url", &far.url]);
    let (url, token) = (i["endpoints"]["mcp"]["url"].as_str(), i["token"].as_str());
    let at = (url.unwrap(), token.unwrap());
    wanted.pass_through(&a, "remote-legacy", at, ("2026-07-28", &NOT_LEGACY));
}
