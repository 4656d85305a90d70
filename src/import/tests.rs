//! Cases in `tests/import/*`: a text in, the plan expected out. `BERTH_BLESS=1` writes what came.

use std::{collections::BTreeMap, fs, path::Path};

use super::*;
use crate::model::Secret;

fn known() -> Vec<Known> {
    let known = |type_name: &str, replaces: &[&str], arguments: &[&str], ignores: bool| Known {
        type_name: type_name.into(),
        rules: Rules {
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
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|p| p.extension().is_some_and(|x| x != "expected"));
    names.sort();
    assert!(names.len() >= 8, "only {} cases", names.len());
    let bless = std::env::var_os("BERTH_BLESS").is_some();
    for path in names {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let got = match read(&file, &text) {
            Ok(import) => shown(&import),
            Err(problems) => format!("{problems}\n"),
        };
        assert!(!got.contains("canary"), "{file} shows a secret:\n{got}");
        let expected = path.with_extension("expected");
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
    let out = rewrite(text, &by).unwrap();
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
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    let text = fs::read_to_string(dir.join("field_claude_json_two_projects.json")).unwrap();
    let import = read("x", &text).unwrap();
    let plan = plan(&import, &known());
    let address = |p: &Planned| serde_json::json!({ "url": format!("https://x/mcp/{}", p.name) });
    let by = plan.iter().map(|p| (p.path.clone(), address(p))).collect();
    let written: serde_json::Value = serde_json::from_str(&rewrite(&text, &by).unwrap()).unwrap();
    for (project, name) in [("/a", "db"), ("/b", "db-2")] {
        let url = format!("https://x/mcp/{name}");
        assert_eq!(written["projects"][project]["mcpServers"]["db"]["url"], url.as_str());
    }
    assert_eq!(written["numStartups"], 3);
    let gone = BTreeMap::from([(vec!["projects".to_owned(), "/c".to_owned()], serde_json::json!({}))]);
    assert!(rewrite(&text, &gone).is_err());
}

/// What a plan says will deploy is what the deploy takes.
#[test]
fn no_plan_promises_what_the_deploy_refuses() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
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
        let import = Import { format: Format::Client, entries: vec![entry], questions: BTreeMap::new() };
        let _ = plan(&import, &known());
    }
}
