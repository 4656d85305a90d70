//! The official SDKs' clients against a real instance, by host name and by path: TypeScript 1.x and 2.x, and Python.

use crate::support;

use std::process::Command;

use serde_json::Value;
use support::{Appliance, INITIALIZE, Instance, Options, root};

/// Runs a scenario of `tests/clients/run`; the JSON line that it printed.
fn client(a: &Appliance, url: &str, token: &str, era: &str, words: &[&str]) -> Value {
    let mut said = client_by(a, "", url, token, era, words);
    said.pop().unwrap()
}

/// Runs one scenario or several; the JSON line that each printed, at least one.
fn client_by(a: &Appliance, transport: &str, url: &str, token: &str, era: &str, words: &[&str]) -> Vec<Value> {
    let out = Command::new(root().join("tests/clients/run"))
        .args(words)
        .env("BERTH_URL", url)
        .env("BERTH_TOKEN", token)
        .env("BERTH_ERA", era)
        .env("BERTH_TRANSPORT", transport)
        .env("NODE_EXTRA_CA_CERTS", a.ca())
        .env("SSL_CERT_FILE", a.ca())
        .output()
        .unwrap();
    let (said, wrong) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    assert!(
        out.status.success() && !said.trim().is_empty(),
        "{words:?} against {url} failed:\n{said}{wrong}\n--- supervisor\n{}",
        support::tail(&a.log(), 30)
    );
    said.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{words:?}: {e}: {line}")))
        .collect()
}

/// Each of these scenarios went well, and ran.
fn went_well(name: &str, scenarios: &[&str], said: &[Value]) {
    let ran: Vec<_> = said.iter().map(|line| line["scenario"].as_str().unwrap()).collect();
    assert_eq!(ran, scenarios, "{name}");
    for done in said {
        assert_eq!(done["ok"], true, "{name}: {done}");
    }
}

/// What a client does in each era. In the modern one the level of log messages is part of each request.
const LEGACY: [&str; 8] = [
    "list-call",
    "many",
    "progress",
    "sampling",
    "elicitation",
    "roots",
    "logging",
    "cancel",
];
const MODERN: [&str; 7] = [
    "list-call",
    "many",
    "progress",
    "sampling",
    "elicitation",
    "roots",
    "cancel",
];

fn all(a: &Appliance, i: &Instance, name: &str, era: &str, scenarios: &[&str]) {
    let said = client_by(a, "", &i.url, &i.token, era, &[name, &scenarios.join(",")]);
    went_well(name, scenarios, &said);
    // By path the same endpoint answers.
    let done = client(a, &i.path_url, &i.token, era, &[name, "list-call"]);
    assert_eq!(done["ok"], true, "{name} by path: {done}");
}

#[test]
fn typescript_1() {
    let a = Appliance::start();
    let i = a.run("everything", &["--size", "large"]);
    all(&a, &i, "ts1", "legacy", &LEGACY);
    all(&a, &i, "ts1", "legacy", &["resume", "subscribe-legacy"]);
    let done = client(&a, &i.url, &i.token, "legacy", &["ts1", "list-call"]);
    assert_eq!(done["session"], true, "the legacy era has sessions: {done}");
    assert_eq!(done["deleted"], 204, "DELETE ends it: {done}");
}

/// HTTP with SSE, by all addresses: the official clients that still speak it.
#[test]
fn the_transport_of_2024_11_05() {
    let a = Appliance::start();
    let i = a.run("everything", &["--size", "large"]);
    let by_host = format!("{}/sse", i.url.strip_suffix("/mcp").unwrap());
    let by_path = i.path_url.replace(&format!("/mcp/{}", i.id), &format!("/{}/sse", i.id));
    for name in ["ts1", "py"] {
        let said = client_by(&a, "sse", &by_host, &i.token, "legacy", &[name, &LEGACY.join(",")]);
        went_well(name, &LEGACY, &said);
        // Where a client knows the newer address alone, GET says which transport it means.
        for url in [&by_path, &i.url, &i.path_url] {
            let said = client_by(&a, "sse", url, &i.token, "legacy", &[name, "list-call"]);
            let done = said.last().unwrap();
            assert_eq!(
                (&done["ok"], &done["session"]),
                (&true.into(), &false.into()),
                "{name} {url}: {done}"
            );
        }
    }
}

#[test]
fn typescript_2_in_both_eras() {
    let a = Appliance::start();
    let i = a.run("everything", &["--size", "large"]);
    all(&a, &i, "ts2", "legacy", &LEGACY);
    all(&a, &i, "ts2", "modern", &MODERN);
    all(&a, &i, "ts2", "auto", &["list-call", "modern"]);
}

#[test]
fn python_in_both_eras() {
    let a = Appliance::start();
    let i = a.run("everything", &["--size", "large"]);
    all(&a, &i, "py", "legacy", &LEGACY);
    all(&a, &i, "py", "modern", &MODERN);
}

/// A server of the modern era itself: what it sends to subscribers reaches them.
#[test]
fn subscriptions_of_the_modern_era() {
    let a = Appliance::start();
    let i = a.run("fixture-conformance", &["--size", "large"]);
    let words = [
        "ts2",
        "subscribe",
        r#"{"toolsListChanged":true}"#,
        "test_trigger_tool_change",
    ];
    assert_eq!(client(&a, &i.url, &i.token, "modern", &words)["ok"], true);
}

/// Clients that know nothing of the modern era, and a server that knows nothing else: all that they can do works, and
/// the server hears nothing that has no place in its version.
#[test]
fn legacy_clients_of_a_modern_server() {
    let a = Appliance::start();
    for name in ["fixture-modern", "fixture-modern-shared"] {
        let i = a.run(name, &[]);
        all(&a, &i, "ts1", "legacy", &LEGACY);
        all(
            &a,
            &i,
            "ts1",
            "legacy",
            &["resume", "subscribe-legacy", "rounds", "changed"],
        );
        all(&a, &i, "py", "legacy", &LEGACY);
        // Its schema of the output and its output are no objects, which the legacy era does not know.
        let done = client(&a, &i.url, &i.token, "legacy", &["ts1", "call", "list"]);
        assert_eq!(done["result"]["content"][0]["text"], "[1]", "{done}");
        let faults = client(&a, &i.url, &i.token, "legacy", &["ts1", "call", "faults"]);
        assert_eq!(faults["result"]["content"][0]["text"], "[]", "{faults}");
        // Modern clients are served by the same instance as before.
        all(&a, &i, "ts2", "modern", &["list-call", "sampling"]);
    }
}

/// Servers that speak HTTP themselves, before clients of the era or the transport that they lack.
#[test]
fn clients_that_an_http_server_does_not_speak_to() {
    let a = Appliance::start();
    let i = a.run("fixture-everything-http", &[]);
    all(&a, &i, "ts2", "modern", &MODERN);
    all(&a, &i, "py", "modern", &["sampling", "elicitation"]);
    all(&a, &i, "ts1", "legacy", &["list-call"]);
    a.cli(&["rm", &i.id]);

    // HTTP with SSE: nobody reaches the address that its first event names.
    let i = a.run("fixture-everything-sse", &[]);
    all(&a, &i, "ts1", "legacy", &LEGACY);
    all(&a, &i, "ts2", "modern", &["list-call", "progress", "sampling"]);
    let old = format!("{}/sse", i.url.strip_suffix("/mcp").unwrap());
    for url in [&old, &i.url] {
        let said = client_by(&a, "sse", url, &i.token, "legacy", &["ts1", "list-call,sampling"]);
        went_well(url, &["list-call", "sampling"], &said);
    }
    a.cli(&["rm", &i.id]);

    let i = a.run("fixture-conformance-modern", &[]);
    all(&a, &i, "ts1", "legacy", &["many", "progress", "cancel", "resume"]);
    all(&a, &i, "py", "legacy", &["progress"]);
}

#[test]
fn a_wrong_token_and_a_wrong_ca_are_refused_in_words() {
    let a = Appliance::start();
    let i = a.run("time", &[]);
    let run = |token: &str, ca: &std::path::Path| {
        let out = Command::new(root().join("tests/clients/run"))
            .args(["ts1", "list-call"])
            .env("BERTH_URL", &i.url)
            .env("BERTH_TOKEN", token)
            .env("NODE_EXTRA_CA_CERTS", ca)
            .output()
            .unwrap();
        assert!(!out.status.success());
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let said = run("brt_i_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &a.ca());
    assert!(said.contains("The bearer token is not valid"), "{said}");
    let b = Appliance::start();
    let said = run(&i.token, &b.ca());
    assert!(
        said.to_lowercase().contains("certificate") || said.contains("fetch failed"),
        "{said}"
    );
}

/// Through a whole supervisor: the configuration's origins, and an answer that says which bodies are read.
#[test]
fn pages_and_encoded_bodies() {
    let a = Appliance::with(Options {
        extra: "[edge]\nallowed_origins = [\"https://tools.example.org\"]\n".into(),
        ..Options::default()
    });
    let i = a.run("time", &[]);
    for (origin, want) in [
        ("https://tools.example.org", 204),
        ("http://localhost:6274", 204),
        ("https://example.org", 403),
    ] {
        let header = format!("Origin: {origin}");
        let asked = a.curl(&[
            "-X",
            "OPTIONS",
            "-H",
            &header,
            "-H",
            "Access-Control-Request-Method: POST",
            &i.url,
        ]);
        assert_eq!(asked.status, want, "{origin}");
        assert_eq!(
            asked.header("access-control-allow-origin"),
            Some(origin).filter(|_| want == 204)
        );
        let answer = a.post(&i.url, &i.token, INITIALIZE, &["-H", &header]);
        assert_eq!(answer.status, if want == 204 { 200 } else { 403 }, "{origin}");
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some(origin).filter(|_| want == 204)
        );
    }
    let answer = a.post(&i.url, &i.token, INITIALIZE, &["-H", "Content-Encoding: gzip"]);
    assert_eq!(
        (answer.status, answer.header("accept-encoding")),
        (415, Some("identity"))
    );
    assert!(answer.body.contains("without Content-Encoding"), "{}", answer.body);
}
