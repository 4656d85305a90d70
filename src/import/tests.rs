//! Cases in `tests/cases/import/*`: a text in, the plan expected out. `BERTH_BLESS=1` writes what came.

use std::{collections::BTreeMap, fs, path::Path};

use super::*;
use crate::{
    clients::{self, rewrite},
    model::Secret,
};

fn known() -> Vec<Known> {
    let known = |type_name: &str, replaces: &[&str], arguments: &[&str], ignores: bool| Known {
        type_name: type_name.into(),
        rules: ImportRules {
            packages: replaces.iter().map(|s| (*s).into()).collect(),
            arguments: arguments.iter().map(|s| (*s).into()).collect(),
            ignore_arguments: ignores,
            variables: BTreeMap::from([("GITHUB_TOKEN".into(), "GITHUB_PERSONAL_ACCESS_TOKEN".into())]),
        },
    };
    vec![
        known(
            "filesystem",
            &["npm:@modelcontextprotocol/server-filesystem", "oci:mcp/filesystem"],
            &[],
            true,
        ),
        known(
            "postgresql",
            &["npm:@modelcontextprotocol/server-postgres"],
            &["DATABASE_URL"],
            false,
        ),
        known(
            "memory",
            &["npm:@modelcontextprotocol/server-memory", "oci:mcp/memory"],
            &[],
            false,
        ),
        known("time", &["pypi:mcp-server-time", "oci:mcp/time"], &[], false),
    ]
}

/// The plan as text: what a person reads, and nothing of a secret.
fn shown(import: &Import) -> String {
    let mut out = String::new();
    for p in plan(import, &known()) {
        out += &format!("{} (line {}) -> {}\n", p.source, p.line, p.name);
        if let Some(d) = &p.deploy {
            let target = match &d.target {
                Target::Catalog { type_name } => format!("catalog {type_name}"),
                Target::Npx { package, version, bin } => format!("npx {package} {version:?} {bin:?}"),
                Target::Uvx { package, version, bin } => format!("uvx {package} {version:?} {bin:?}"),
                Target::Image {
                    reference,
                    entrypoint,
                    http,
                } => format!("image {reference} {entrypoint:?} {http:?}"),
                Target::Remote { url, headers } => {
                    let headers: Vec<String> = headers
                        .iter()
                        .map(|(k, v)| format!("{k}: {}", v.shown(header_is_secret(k))))
                        .collect();
                    format!("remote {} {headers:?}", shown_url(url))
                }
            };
            out += &format!("  {target}\n");
            for arg in &d.args {
                out += &format!("  arg {}\n", arg.shown(false));
            }
            for (k, v) in &d.env {
                let secret = is_secret(k, v, &import.questions);
                out += &format!("  {}{k}={}\n", if secret { "sealed " } else { "" }, v.shown(secret));
            }
            for (k, path) in &d.files {
                out += &format!("  file {k} from {path}\n");
            }
        }
        for r in &p.refused {
            out += &format!("  REFUSED {}: {}\n", r.what, r.why);
        }
        for n in &p.notes {
            out += &format!("  note {n}\n");
        }
        for f in &p.env_files {
            out += &format!("  env file {f}\n");
        }
    }
    for (id, q) in &import.questions {
        out += &format!("? {id}: {}{}\n", q.label, if q.password { " (unseen)" } else { "" });
    }
    out
}

#[test]
fn cases_come_out_as_expected() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/import");
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|p| p.extension().is_some_and(|x| x != "expected"));
    names.sort();
    assert!(names.len() >= 8, "only {} cases", names.len());
    let bless = std::env::var_os("BERTH_BLESS").is_some();
    for path in names {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let got = match read(&file, &text) {
            Ok(import) => {
                let client = import.client.map(|c| format!("of {}\n", c.name()));
                client.unwrap_or_default() + &shown(&import)
            }
            Err(problems) => format!("{problems}\n"),
        };
        assert!(!got.contains("canary"), "{file} shows a secret:\n{got}");
        // The first of `time.json` and `time.yaml` would have the other's.
        let expected = dir.join(format!("{file}.expected"));
        if bless {
            fs::write(&expected, &got).unwrap();
        }
        assert_eq!(got, fs::read_to_string(&expected).unwrap_or_default(), "{file}");
    }
}

#[test]
fn placeholders_are_filled_from_answers_and_environment() {
    let text = Text::parse("postgres://${env:DB_USER}:${input:pw}@${HOST:-db}/x$y${z");
    let mut answers = Answers::default();
    answers.inputs.insert("pw".into(), Secret::new("s"));
    assert_eq!(text.fill(&answers).unwrap_err(), Missing::Env("DB_USER".into()));
    answers.env.insert("DB_USER".into(), Secret::new("u"));
    assert_eq!(text.fill(&answers).unwrap().expose(), "postgres://u:s@db/x$y${z");
    assert_eq!(
        Text::parse("${workspaceFolder}/x").fill(&answers).unwrap_err(),
        Missing::Place("workspaceFolder".into())
    );
    assert_eq!(format!("{text:?}"), "Text(…)");
}

#[test]
fn names_are_those_of_instances_and_differ() {
    let mut taken = Vec::new();
    let names = ["GitHub MCP!", "github-mcp", "日本", "a".repeat(80).as_str()].map(|n| instance_name(n, &mut taken));
    assert_eq!(names[..3], ["github-mcp", "github-mcp-2", "server"]);
    for name in names {
        crate::model::InstanceName::parse(&name).unwrap();
    }
}

#[test]
fn rewriting_keeps_everything_else() {
    let text = "{\n  // mine\n  \"theme\": \"dark\",\n  \"mcpServers\": {\n    \"a\": { \"command\": \"npx\" }, // first\n    \"b\": {\"command\": \"x\"},\n  },\n}\n";
    let by = BTreeMap::from([(
        vec!["mcpServers".to_owned(), "a".to_owned()],
        serde_json::json!({"url": "https://x/mcp"}),
    )]);
    let out = rewrite("x", text, &by).unwrap();
    assert!(
        out.contains("// mine") && out.contains("// first") && out.contains("\"b\": {\"command\": \"x\"}"),
        "{out}"
    );
    assert!(
        out.contains("\"url\": \"https://x/mcp\"") && !out.contains("npx"),
        "{out}"
    );
    let again = read("x.json", &out).unwrap();
    assert_eq!(again.entries.len(), 2);
}

/// Two projects of one file may each have a server of the same name: one's agent must never get the other's address.
#[test]
fn servers_of_one_name_are_kept_apart_by_their_places() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/import");
    let text = fs::read_to_string(dir.join("field_claude_json_two_projects.json")).unwrap();
    let import = read("x", &text).unwrap();
    let plan = plan(&import, &known());
    let address = |p: &Planned| serde_json::json!({ "url": format!("https://x/mcp/{}", p.name) });
    let by = plan.iter().map(|p| (p.path.clone(), address(p))).collect();
    let written: serde_json::Value = serde_json::from_str(&rewrite("x", &text, &by).unwrap()).unwrap();
    for (project, name) in [("/a", "db"), ("/b", "db-2")] {
        let url = format!("https://x/mcp/{name}");
        assert_eq!(written["projects"][project]["mcpServers"]["db"]["url"], url.as_str());
    }
    assert_eq!(written["numStartups"], 3);
    let gone = BTreeMap::from([(vec!["projects".to_owned(), "/c".to_owned()], serde_json::json!({}))]);
    assert!(rewrite("x", &text, &gone).is_err());
}

/// What is written back is read as what was written: each server at its new address, the rest as it was.
#[test]
fn every_configuration_can_be_written_back() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/import");
    let mut written = 0;
    for path in fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()) {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let Ok(import) = read(&file, &text) else { continue };
        let places: Vec<&Entry> = import.entries.iter().filter(|e| !e.path.is_empty()).collect();
        if import.format != Format::Client || places.is_empty() {
            continue;
        }
        let client = import.client.unwrap_or(Client::Json);
        // One alone, and all of them.
        for chosen in [&places[..1], &places[..]] {
            let urls: Vec<String> = (0..chosen.len())
                .map(|n| format!("https://box.example/{n}/mcp"))
                .collect();
            let entry = |(e, url): (&&Entry, &String)| {
                let target = clients::Target {
                    name: &e.name,
                    url,
                    token: "a-token",
                    ca_file: None,
                };
                (e.path.clone(), clients::entry(client, &target))
            };
            let by = chosen.iter().zip(&urls).map(entry).collect();
            let out = rewrite(&file, &text, &by).unwrap_or_else(|e| panic!("{file}: {e}"));
            let again = read(&file, &out).unwrap_or_else(|e| panic!("{file}: {e}\n{out}"));
            assert_eq!(again.client.unwrap_or(client), client, "{file}: {out}");
            assert_eq!(again.entries.len(), import.entries.len(), "{file}: {out}");
            let plans = plan(&again, &known());
            for (e, url) in chosen.iter().zip(&urls) {
                let now = plans.iter().find(|p| p.path == e.path).unwrap();
                let Some(Deploy {
                    target: Target::Remote { url: found, headers },
                    ..
                }) = &now.deploy
                else {
                    panic!("{file}: {now:?}\n{out}");
                };
                assert_eq!(found.as_literal(), Some(url.as_str()), "{file}");
                assert_eq!(headers["Authorization"].as_literal(), Some("Bearer a-token"), "{file}");
            }
            for before in import
                .entries
                .iter()
                .filter(|e| !chosen.iter().any(|c| c.path == e.path))
            {
                let after = again.entries.iter().find(|e| e.path == before.path).unwrap();
                assert_eq!(
                    (&before.name, &before.launch, &before.env),
                    (&after.name, &after.launch, &after.env),
                    "{file}"
                );
            }
            written += 1;
        }
    }
    assert!(written > 30, "only {written}");
}

#[test]
fn what_points_at_a_box_already_is_not_brought_over_again() {
    for client in [Client::Cursor, Client::ClaudeDesktop, Client::Codex] {
        let target = clients::Target {
            name: "notes",
            url: "https://box.example/mcp",
            token: "brt_i_x",
            ca_file: None,
        };
        let import = read("x", &clients::configuration(client, &target)).unwrap();
        let planned = &plan(&import, &[])[0];
        assert!(planned.deploy.is_none(), "{planned:?}");
        assert!(
            planned.refused[0].why.contains("already uses an instance on Berth"),
            "{planned:?}"
        );
    }
}

/// What a plan says will deploy is what the deploy takes.
#[test]
fn no_plan_promises_what_the_deploy_refuses() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/import");
    let mut deploys = 0;
    for path in fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()) {
        let text = fs::read_to_string(&path).unwrap();
        let Ok(import) = read("x", &text) else { continue };
        for p in plan(&import, &known()) {
            let Some(d) = &p.deploy else { continue };
            let mut again = Planned {
                deploy: None,
                notes: Vec::new(),
                ..p.clone()
            };
            check::deployable(&d.target, &mut again);
            assert_eq!(again.refused, [], "{} of {}", p.source, path.display());
            deploys += 1;
        }
    }
    assert!(deploys > 20, "only {deploys}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[\\PC\\n{}\\[\\]\":,$]{0,200}") {
        let _ = read("x", &text);
        let _ = read("x", &format!("docker {text}"));
        let _ = read("x", &format!("claude mcp add {text}"));
        let _ = Text::parse(&text);
    }

    #[test]
    fn no_arguments_make_it_panic(args in proptest::collection::vec("[-a-z=:@/.$é]{0,12}", 0..8), program in "(npx|uvx|docker|node|python|cmd|npm|uv|env|bash|wsl|sudo|deno|powershell)") {
        let entry = Entry {
            name: "x".into(), line: 1, path: Vec::new(), launch: Launch::Command { program, args },
            env: BTreeMap::new(), env_files: Vec::new(), notes: Vec::new(), refused: Vec::new(),
        };
        let import = Import { format: Format::Client, entries: vec![entry], questions: BTreeMap::new(), client: None };
        let _ = plan(&import, &known());
    }
}
