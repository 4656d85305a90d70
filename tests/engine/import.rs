//! `berth import`: a laptop's configuration becomes instances, and the file points at them afterwards.

use crate::support;

use serde_json::{Value, json};
use support::{Appliance, INITIALIZE};

const CANARY: &str = "ghp_canary0000000000000000";

const CONFIGURATION: &str = r#"{
  // what I use
  "theme": "dark",
  "mcpServers": {
    "Notes": { "command": "npx", "args": ["-y", "@modelcontextprotocol/server-memory"] },
    "clock": {
      "command": "docker",
      "args": ["run", "-i", "--rm", "-e", "LOCAL_TIMEZONE", "-e", "API_TOKEN", "mcp/time"],
      "env": { "LOCAL_TIMEZONE": "Europe/Berlin", "API_TOKEN": "ghp_canary0000000000000000" },
    },
    "risky": { "command": "docker", "args": ["run", "-i", "--privileged", "-v", "/:/host", "mcp/risky"] },
    "mine": { "command": "node", "args": ["/home/me/server.js"] }, // stays
  },
}
"#;

fn kept(a: &Appliance, name: &str, text: &str) -> String {
    let file = a.dir().join(name);
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn the_plan_comes_first_and_shows_no_secret() {
    let a = Appliance::start();
    let file = kept(&a, "claude_desktop_config.json", CONFIGURATION);
    // Nobody to ask, and no --yes: the plan is all.
    let out = a.cli(&["import", &file]);
    for words in [
        "type memory",
        "API_TOKEN: a secret, will be sealed",
        "LOCAL_TIMEZONE=Europe/Berlin",
        "refused: --privileged",
        "refused: -v /:/host",
        "refused: node server.js",
    ] {
        assert!(out.contains(words), "{words} is not in:\n{out}");
    }
    assert!(!out.contains("canary"), "{out}");
    assert_eq!(a.json(&["list"]), json!([]));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), CONFIGURATION);
    let said = a.cli_fails(1, &["import", &kept(&a, "bad.json", "{\n  \"mcpServers\": [\n")]);
    assert!(said.contains("bad.json:"), "{said}");
    let said = a.cli_fails(
        1,
        &[
            "import",
            "--yes",
            "--",
            "docker",
            "run",
            "--network",
            "host",
            "mcp/time",
        ],
    );
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(a.json(&["list"]), json!([]));
}

#[test]
fn servers_run_and_the_file_points_at_them() {
    let a = Appliance::start();
    let file = kept(&a, "claude_desktop_config.json", CONFIGURATION);
    let args = ["import", &file, "--yes", "--write", "--client", "cursor", "--json"];
    // Two of the four cannot come over, and the status says so.
    let out = a.try_cli(&args);
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(!text.contains(CANARY), "{text}");
    let done: Value = serde_json::from_str(&text).unwrap();
    let brought = done["brought"].as_array().unwrap();
    assert_eq!(brought.len(), 2, "{text}");
    for b in brought {
        assert_eq!(b["instance"]["state"], "running", "{text}");
    }
    let listed = a.json(&["list"]);
    let mut names: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["clock", "notes"]);

    let written = std::fs::read_to_string(&file).unwrap();
    assert!(
        written.contains("// what I use") && written.contains("// stays"),
        "{written}"
    );
    assert!(
        written.contains("\"theme\": \"dark\"") && written.contains("/home/me/server.js"),
        "{written}"
    );
    assert!(
        !written.contains(CANARY) && !written.contains("server-memory"),
        "{written}"
    );
    let before = std::fs::read_to_string(format!("{file}.before-berth")).unwrap();
    assert_eq!(before, CONFIGURATION);
    use std::os::unix::fs::PermissionsExt;
    for kept in [file.clone(), format!("{file}.before-berth")] {
        assert_eq!(std::fs::metadata(kept).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // The address and the token that the file holds now are those of the instance.
    let url = between(&written, "\"url\": \"", "\"");
    let token = between(&written, "\"Authorization\": \"Bearer ", "\"");
    let answer = a.post(url, token, INITIALIZE, &[]);
    assert_eq!(answer.status, 200);
    // What was sealed is listed as set, and never shown.
    let credentials = a.json(&["credential", "list", "clock"]).to_string();
    assert!(
        credentials.contains("API_TOKEN") && !credentials.contains("canary"),
        "{credentials}"
    );
}

#[test]
fn whose_file_it_is_is_settled_before_anything_runs() {
    let a = Appliance::start();
    // Many clients read this one, and each wants another entry in it.
    let text =
        r#"{ "mcpServers": { "notes": { "command": "npx", "args": ["-y", "@modelcontextprotocol/server-memory"] } } }"#;
    let file = kept(&a, "mcp.json", text);
    let said = a.cli_fails(1, &["import", &file, "--yes", "--write"]);
    assert!(said.contains("--client") && said.contains("windsurf"), "{said}");
    assert_eq!(a.json(&["list"]), json!([]));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    // What is no client's configuration has nothing to be written back into.
    let compose = kept(
        &a,
        "compose.yaml",
        "services:\n  notes-mcp:\n    image: mcp/memory\n    stdin_open: true\n",
    );
    let said = a.cli_fails(1, &["import", &compose, "--yes", "--write"]);
    assert!(said.contains("this is none"), "{said}");
    assert_eq!(a.json(&["list"]), json!([]));

    // This one says itself whose it is.
    let codex = "model = \"x\" # mine\n\n[mcp_servers.notes] # kept\ncommand = \"npx\"\nargs = [\"-y\", \"@modelcontextprotocol/server-memory\"]\n\n[profiles.fast]\nmodel = \"y\"\n";
    let file = kept(&a, "config.toml", codex);
    a.cli(&["import", &file, "--yes", "--write"]);
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(
        written.contains("# mine") && written.contains("[profiles.fast]") && !written.contains("npx"),
        "{written}"
    );
    let url = between(&written, "url = \"", "\"");
    let token = between(&written, "Authorization = \"Bearer ", "\"");
    assert_eq!(a.post(url, token, INITIALIZE, &[]).status, 200, "{written}");
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = &text[text.find(before).unwrap_or_else(|| panic!("{before} is not in {text}")) + before.len()..];
    &rest[..rest.find(after).unwrap()]
}
