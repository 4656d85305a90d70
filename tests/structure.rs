//! What must be true of the tree itself: floors, opening words, sizes, and what must be absent.

#[allow(
    dead_code,
    unreachable_pub,
    reason = "each test program reads other parts of the pages"
)]
#[path = "documents/reader.rs"]
mod reader;

#[path = "structure/errors.rs"]
mod errors;
#[path = "structure/files.rs"]
mod files;
#[path = "structure/floors.rs"]
mod floors;
#[path = "structure/sources.rs"]
mod sources;

use std::{fs, path::Path};

use sources::all;

#[test]
fn every_file_says_what_it_is_for() {
    let bad: Vec<_> = all()
        .into_iter()
        .filter(|s| !s.text.starts_with("//!"))
        .map(|s| s.name)
        .collect();
    assert!(bad.is_empty(), "files that do not open with //!: {bad:?}");
}

/// A module with others below it is `x.rs` beside the folder `x`, everywhere.
#[test]
fn folders_are_of_one_style() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "tests", "qemu-tests", "benches", "fuzz/checks", "fuzz/targets"] {
        sources::files(&root.join(folder), &mut paths);
    }
    assert!(paths.len() > 400, "only {} files found", paths.len());
    paths.retain(|p| p.ends_with("mod.rs"));
    assert!(paths.is_empty(), "write x.rs for x/mod.rs: {paths:?}");
}

#[test]
fn files_stay_small() {
    let bad: Vec<_> = all()
        .into_iter()
        .map(|s| (s.text.lines().count(), s.name))
        .filter(|(lines, _)| *lines > 600)
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
    for source in all() {
        if ["output", "agent", "shell"].contains(&source.module()) {
            continue;
        }
        let name = &source.name;
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
            if !ours && holds_word(&source.text, word) {
                bad.push(format!("src/{name}: {word} (print by src/output.rs)"));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn what_must_be_absent() {
    let mut bad = Vec::new();
    for source in all() {
        let (name, code) = (&source.name, &source.text);
        for word in ["utils", "common", "helpers", "manager", "misc"] {
            if name.split(['/', '.']).any(|p| p == word) {
                bad.push(format!("src/{name}: a module named {word}"));
            }
        }
        // What names a file of tests is behind `#[cfg(test)]`, with that in front of its other attributes; and every test
        // lies in such a file or module.
        for word in ["tests.rs\"]", "tests;", "mod tests", "#[test]"] {
            if code.contains(word) {
                bad.push(format!("src/{name}: {word} outside a test module"));
            }
        }
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
