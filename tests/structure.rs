//! What must be true of the tree itself: floors, opening words, sizes, and what must be absent.

#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test program reads other parts of the pages"
)]
#[path = "documents/reader.rs"]
mod reader;

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|x| x == "rs") && !path.to_string_lossy().ends_with("tests.rs") {
            out.push(path);
        }
    }
}

fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    paths.sort();
    assert!(paths.len() > 20, "only {} sources found", paths.len());
    paths
        .into_iter()
        .map(|p| {
            let name = p.strip_prefix(&root).expect("below src").display().to_string();
            (name, fs::read_to_string(&p).expect("readable"))
        })
        .collect()
}

/// The text before the tests of a file.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]").next().unwrap_or(text)
}

/// A module's floor. The agent stands on its own: model, mcp and nothing else.
fn floor(module: &str) -> Option<u8> {
    Some(match module {
        "model" | "api" => 0,
        "strict" | "config" | "catalog" | "claim" | "policy" | "plan" | "route" | "mcp" | "record" | "hardening"
        | "site" | "tty" | "screen" | "import" | "clients" | "escape" => 1,
        "store" | "authz" | "deploy" | "docker" | "link" | "load" | "secret" | "tls" | "cgroup" | "coredump"
        | "rights" | "sched" | "metrics" | "systemd" | "machine" | "resolve" | "remote" | "output" | "firewall" => 2,
        "reconcile" | "edge" | "admin" | "agent" | "shell" | "packages" => 3,
        "supervise" | "cli" => 4,
        _ => return None,
    })
}

fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code: String = without_tests(text)
        .lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + 7..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 && (c.is_alphanumeric() || c == '_' || c == ':' || c == ',') {
                    word.push(c);
                }
            }
            found.extend(
                word.split(',')
                    .filter_map(|w| w.split(':').next())
                    .filter(|w| !w.is_empty())
                    .map(str::to_owned),
            );
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found
}

#[test]
fn imports_run_down_the_floors() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (name, text) in all() {
        let module = name.split(['/', '.']).next().unwrap_or_default().to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let own =
            floor(&module).unwrap_or_else(|| panic!("src/{name}: module {module} has no floor; give it one here"));
        for import in imports(&text) {
            let Some(theirs) = floor(&import) else { continue };
            seen += 1;
            let sideways = own == 3 && theirs == 3 && import != module;
            let agent = module == "agent"
                && !["model", "mcp", "sched", "coredump", "rights", "agent"].contains(&import.as_str());
            if theirs > own || sideways || agent {
                wrong.push(format!("src/{name} (F{own}) imports {import} (F{theirs})"));
            }
        }
    }
    assert!(
        seen > 50,
        "only {seen} imports found: does this test still read the sources?"
    );
    assert!(wrong.is_empty(), "imports that do not run down:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let bad: Vec<_> = all()
        .into_iter()
        .filter(|(_, t)| !t.starts_with("//!"))
        .map(|(n, _)| n)
        .collect();
    assert!(bad.is_empty(), "files that do not open with //!: {bad:?}");
}

#[test]
fn files_stay_small() {
    let bad: Vec<_> = all()
        .into_iter()
        .map(|(n, t)| (n, without_tests(&t).lines().count()))
        .filter(|(_, lines)| *lines > 600)
        .collect();
    assert!(bad.is_empty(), "files over 600 lines without their tests: {bad:?}");
}

/// Whether the text holds it, not as the end of a longer name.
fn holds_word(text: &str, word: &str) -> bool {
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// What is printed has passed `output`, which escapes it. Agent and shell run in containers: what they say is part of the
/// container's log, and is escaped when that is printed.
#[test]
fn only_output_prints() {
    let mut bad = Vec::new();
    for (name, text) in all() {
        if ["output", "agent", "shell"].contains(&name.split(['/', '.']).next().unwrap_or_default()) {
            continue;
        }
        for word in [
            "print!(",
            "println!(",
            "eprint!(",
            "eprintln!(",
            "stdout()",
            "stderr()",
            "Stdout",
            "Stderr",
            "STDOUT",
            "STDERR",
            ".print()",
            "/dev/stdout",
            "/dev/stderr",
        ] {
            let ours = name == "systemd.rs" && word == "Stderr";
            if !ours && holds_word(without_tests(&text), word) {
                bad.push(format!("src/{name}: {word} (print by src/output.rs)"));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn what_must_be_absent() {
    let mut bad = Vec::new();
    for (name, text) in all() {
        for word in ["utils", "common", "helpers", "manager", "misc"] {
            if name.split(['/', '.']).any(|p| p == word) {
                bad.push(format!("src/{name}: a module named {word}"));
            }
        }
        let code = without_tests(&text);
        // The last three ask the C library for names: in a static binary that loads foreign modules and crashes.
        for word in [
            "todo!(",
            "unimplemented!(",
            "dbg!(",
            ".unwrap()",
            "::from_name(",
            "lookup_host(",
            "to_socket_addrs(",
        ] {
            if code.contains(word) {
                bad.push(format!("src/{name}: {word}"));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// The fuzz targets have a lock of their own, which only `make test-all` builds by.
#[test]
fn the_lock_of_the_fuzz_targets_knows_every_dependency() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).expect(file);
    let manifest: toml::Table = read("Cargo.toml").parse().expect("TOML");
    let lock = read("fuzz/Cargo.lock");
    let (_, own) = lock.split_once("name = \"berth\"\n").expect("this crate");
    let own = own.split("[[package]]").next().unwrap_or_default();
    let wanted = manifest["dependencies"].as_table().expect("a table");
    let missing: Vec<&String> = wanted.keys().filter(|d| !own.contains(&format!("\"{d}"))).collect();
    assert!(
        wanted.len() > 20 && missing.is_empty(),
        "run `cargo metadata --manifest-path fuzz/Cargo.toml`: {missing:?}"
    );
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let plain: String = heading.trim().to_lowercase().chars().filter(kept).collect();
    plain.replace(' ', "-")
}

fn anchors(page: &reader::Page) -> Vec<String> {
    let lines = page.prose().into_iter();
    lines
        .filter_map(|(_, l)| {
            l.trim_start_matches('#')
                .strip_prefix(' ')
                .filter(|_| l.starts_with('#'))
        })
        .map(anchor)
        .collect()
}

/// Where the links of a line lead.
fn links(line: &str) -> Vec<&str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = reader::pages();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in &pages {
        let folder = Path::new(&page.name).parent().unwrap_or(Path::new(""));
        for (line, text) in page.prose() {
            for link in links(text).into_iter().filter(|l| !l.contains("://")) {
                seen += 1;
                let (file, wanted) = link.split_once('#').map_or((link, None), |(f, a)| (f, Some(a)));
                let at = match file {
                    "" => root.join(&page.name),
                    file => root.join(folder).join(file),
                };
                let told = fs::read_to_string(&at).map(|text| reader::Page {
                    name: link.to_owned(),
                    text,
                });
                let there = match (&told, wanted) {
                    (Ok(told), Some(wanted)) => anchors(told).iter().any(|a| a == wanted),
                    (Ok(_), None) => true,
                    (Err(_), _) => false,
                };
                if !there {
                    wrong.push(format!("{}:{line}: {link}", page.name));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} links: are the pages still read?");
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

/// The README is what a newcomer reads: short, and from it every page is found.
#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let pages = reader::pages();
    let (readme, others) = pages.split_first().expect("a README");
    let lines = readme.text.lines().count();
    assert!(lines < 250, "README.md has {lines} lines: move some to docs/");
    let lost: Vec<&str> = others
        .iter()
        .map(|p| p.name.as_str())
        .filter(|name| !readme.text.contains(&format!("]({name})")))
        .collect();
    assert!(lost.is_empty(), "README.md has no link to {lost:?}");
}
