//! What servers, packages and files say reaches no terminal as a command: everything that the command line and the
//! supervisor print is looked at, byte by byte.

use crate::support;

use std::time::Duration;

use serde_json::Value;
use support::{Appliance, wait_for};

/// Writes the clipboard (OSC 52), clears the screen (CSI, also as C1), turns text around, forges a line.
const SAYS: &str =
    r"printf '\033]52;c;cm0gLXJm\007\033[2J\302\2332J\342\200\256gnp\342\200\250\r2026 forged\177 end\n' >&2";
/// The words around, by which it is found.
const SIGN: &str = "2026 forged";

/// Nothing here that a terminal acts on.
fn assert_safe(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|e| panic!("{what} is not UTF-8: {e}"));
    let acts = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if let Some(c) = text.chars().find(|c| acts(*c)) {
        panic!("{what} holds {c:?}: {text:?}");
    }
}

/// Runs a verb; what it printed, looked at.
fn both(a: &Appliance, args: &[&str]) -> String {
    let out = a.try_cli(args);
    assert_safe(&format!("stdout of {args:?}"), &out.stdout);
    assert_safe(&format!("stderr of {args:?}"), &out.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

#[test]
fn a_servers_words_are_shown_and_not_obeyed() {
    let a = Appliance::start();
    let script = format!("{SAYS}; exit 1");
    let run = [
        "run",
        "image",
        "--name",
        "loud",
        "--image",
        "berth/base:13",
        "--network",
        "none",
    ];
    let said = both(&a, &[&run[..], &["--command", "sh", "--", "-c", &script]].concat());
    assert!(said.contains(SIGN), "its words are shown: {said}");
    for args in [
        &["show", "loud"][..],
        &["show", "loud", "--json"],
        &["logs", "loud"],
        &["logs", "loud", "--json"],
        &["logs", "loud", "--deploy"],
        &["logs", "loud", "--deploy", "--json"],
    ] {
        let said = both(&a, args);
        assert!(said.contains(SIGN), "{args:?}: {said}");
    }
    both(&a, &["list"]);
    both(&a, &["status"]);
    assert!(
        a.cli(&["logs", "loud"])
            .contains(r"\x1b]52;c;cm0gLXJm\x07\x1b[2J\u{9b}2J\u{202e}gnp\u{2028} 2026 forged\x7f end")
    );

    // A parser reads what the server said.
    let line = a.cli(&["logs", "loud", "--json"]);
    let mut lines = serde_json::Deserializer::from_str(&line).into_iter::<Value>();
    let meant = "\u{1b}]52;c;cm0gLXJm\u{7}\u{1b}[2J\u{9b}2J\u{202e}gnp\u{2028} 2026 forged\u{7f} end";
    assert!(
        lines.any(|l| l.unwrap()["line"].as_str().unwrap().ends_with(meant)),
        "{line}"
    );

    // Whoever asks gets the bytes.
    let raw = a.try_cli(&["logs", "loud", "--raw"]);
    assert!(raw.status.success());
    assert!(String::from_utf8_lossy(&raw.stdout).contains(meant));
    a.cli_fails(2, &["logs", "loud", "--raw", "--json"]);
    a.cli(&["rm", "loud"]);
    wait_for("it is gone", Duration::from_secs(60), || a.containers().is_empty());
    // Its words are in the supervisor's log, too, each record on one line.
    assert_safe("the supervisor's log", a.log().as_bytes());
    assert!(!a.log().lines().any(|l| l.starts_with(SIGN)), "a forged line");
}

#[test]
fn a_files_words_are_shown_and_not_obeyed() {
    let a = Appliance::start();
    let file = a.dir().join("mcp.json");
    let bad = "x\u{1b}]52;c;cm0gLXJm\u{7}\u{9b}2J\u{202e}y";
    let config = serde_json::json!({ "mcpServers": {
        bad: { "command": "npx", "args": ["-y", "left-pad", bad], "env": { "K": bad } },
        "docker": { "command": "docker", "args": ["run", "-v", format!("/{bad}:/x"), "--privileged", "img"] },
        "odd": { "command": bad, "args": [bad] },
    } });
    std::fs::write(&file, config.to_string()).unwrap();
    let path = file.to_str().unwrap();
    for args in [
        &["import", path][..],
        &["import", path, "--json"],
        &["import", path, "--only", bad],
        &["import", path, "--only", "none\u{1b}[2J"],
        &[
            "import",
            "--",
            "docker",
            "run",
            "--privileged",
            "-v",
            "/\u{1b}[2J:/x",
            "im\u{1b}age",
        ],
    ] {
        let said = both(&a, args);
        assert!(said.contains("2J"), "{args:?}: {said}");
    }
    // A name that holds a newline makes no row of its own.
    let forged = serde_json::json!({ "mcpServers": { "a\nmemory                   type memory": { "command": "npx", "args": ["left-pad"] } } });
    let forging = a.dir().join("forging.json");
    std::fs::write(&forging, forged.to_string()).unwrap();
    let plan = both(&a, &["import", forging.to_str().unwrap()]);
    assert!(!plan.lines().any(|l| l.starts_with("memory")), "{plan}");
    // A JSON answer is still the same to a parser.
    let plan: Value = serde_json::from_slice(&a.try_cli(&["import", path, "--json"]).stdout).unwrap();
    assert!(plan.to_string().contains("\u{202e}"), "{plan:#}");

    let types = a.dir().join("odd.toml");
    std::fs::write(&types, "name = \"x\"\n\"a\\u001B]52;c;x\\u0007\\u202E\" = 1\n").unwrap();
    both(&a, &["types", "check", types.to_str().unwrap()]);
    // Errors of the argument parser quote what was written, or leave such characters out.
    for args in [
        &["show", "no\u{1b}[2Jsuch"][..],
        &["nover\u{1b}[2Jb"],
        &["logs", "x", "--tail", "\u{1b}[2J"],
        &["--socket", "/no/\u{1b}[2J.sock", "status"],
    ] {
        let said = both(&a, args);
        assert!(!said.is_empty(), "{args:?}");
    }
    let config = a.dir().join("wrong.toml");
    std::fs::write(&config, "\"a\\u001B[2J\\u202E\" = 1\n").unwrap();
    let said = both(&a, &["serve", "--config", config.to_str().unwrap()]);
    assert!(said.contains("2J"), "{said}");
}
