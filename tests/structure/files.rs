//! The files within a module: who imports whom, in no circle. A file that declares others is above them, and what they share
//! has a file of its own below.

use std::collections::BTreeMap;

use crate::{
    floors::{Floors, Imports, circles},
    sources::{Source, all, paths},
};

/// The modules of which that does not hold: they are still to be taken apart. None is added.
const TANGLED: &[&str] = &[
    "admin",
    "agent",
    "api",
    "catalog",
    "cli",
    "clients",
    "config",
    "docker",
    "hardening",
    "import",
    "ledger",
    "link",
    "machine",
    "mcp",
    "model",
    "packages",
    "plan",
    "policy",
    "reconcile",
    "site",
    "store",
    "supervise",
    "tls",
    "translator",
    "tty",
];

/// The path of a file's module, from the crate's root: `edge::screen` for `edge/screen.rs`.
fn module_path(name: &str) -> Vec<&str> {
    name.strip_suffix(".rs").unwrap_or(name).split('/').collect()
}

/// The file that a path leads to, as it stands in this file: that of the innermost module that it names. None for what is
/// of another module of the root, or of no module of ours.
fn leads_to<'a>(path: &str, from: &Source, files: &BTreeMap<Vec<&str>, &'a str>) -> Option<&'a str> {
    let own = module_path(&from.name);
    let mut names: Vec<&str> = path.split("::").collect();
    let mut at = own.clone();
    if names[0] == "crate" {
        at.clear();
        names.remove(0);
    } else {
        let ups = names.iter().take_while(|n| **n == "super").count();
        at.truncate(own.len().checked_sub(ups)?);
        names.drain(..ups);
        if ups == 0 && names.first() == Some(&"self") {
            names.remove(0);
        } else if ups == 0 && !files.contains_key(&[&own[..], &names[..1]].concat()) {
            return None;
        }
    }
    at.extend(names);
    let inner = (1..=at.len()).rev().find_map(|n| files.get(&at[..n]))?;
    (at[0] == from.module() && **inner != from.name).then_some(*inner)
}

/// The files of its own module that each file imports.
fn imports(sources: &[Source]) -> Imports {
    let files: BTreeMap<Vec<&str>, &str> = sources
        .iter()
        .map(|s| (module_path(&s.name), s.name.as_str()))
        .collect();
    let of = |source: &Source| {
        let imported = paths(&source.code());
        let files = imported.iter().filter_map(|p| leads_to(p, source, &files));
        let files = files.map(|f| (f.to_owned(), source.name.clone()));
        (source.name.clone(), files.collect())
    };
    sources.iter().map(of).collect()
}

/// All files on one floor, and imports within modules only: every circle counts.
fn of_one_floor(imports: &Imports) -> Floors {
    imports.keys().map(|file| (file.clone(), 0)).collect()
}

#[test]
fn files_of_a_module_import_each_other_in_no_circle() {
    let imports = imports(&all());
    let seen: usize = imports.values().map(BTreeMap::len).sum();
    assert!(seen > 200, "only {seen} imports found: does this test still read them?");
    let module = |file: &str| file.split(['/', '.']).next().unwrap_or_default().to_owned();
    let circles_of = |wanted: &dyn Fn(&str) -> bool| {
        let some = imports.iter().filter(|(file, _)| wanted(&module(file)));
        let some: Imports = some.map(|(file, all)| (file.clone(), all.clone())).collect();
        circles(&some, &of_one_floor(&some))
    };
    let found = circles_of(&|m| !TANGLED.contains(&m));
    assert!(found.is_empty(), "circles:\n{}", found.join("\n"));
    let free: Vec<_> = TANGLED
        .iter()
        .filter(|t| circles_of(&|m| m == **t).is_empty())
        .collect();
    assert!(
        free.is_empty(),
        "without circles by now, take them out of the list: {free:?}"
    );
}

#[test]
fn circles_among_files_are_found() {
    let source = |name: &str, text: &str| Source {
        name: name.into(),
        text: text.into(),
    };
    let sources = [
        source("a.rs", "mod b;\nmod c;\nmod d;\nuse b::X;\npub struct A;\n"),
        source("a/b.rs", "use super::{c::Y, d};\n"),
        source("a/c.rs", "mod deep;\nfn f() { deep::g(); }\n"),
        source("a/c/deep.rs", "use super::super::b::X;\nuse std::fs;\n"),
        source("a/d.rs", "use crate::{a::A, other::b};\n"),
        source("other.rs", "mod b;\npub use self::b::Z;\n"),
        source("other/b.rs", "use crate::a::b::X;\n"),
    ];
    let all = imports(&sources);
    let expected = [
        ("a.rs", vec!["a/b.rs"]),
        ("a/b.rs", vec!["a/c.rs", "a/d.rs"]),
        ("a/c.rs", vec!["a/c/deep.rs"]),
        ("a/c/deep.rs", vec!["a/b.rs"]),
        ("a/d.rs", vec!["a.rs"]),
        ("other.rs", vec!["other/b.rs"]),
        ("other/b.rs", vec![]),
    ];
    for (file, wanted) in expected {
        assert_eq!(all[file].keys().collect::<Vec<_>>(), wanted, "{file}");
    }
    let found = circles(&all, &of_one_floor(&all));
    assert!(
        found[0].starts_with("a.rs (src/a.rs) -> a/b.rs (src/a/b.rs) -> a/d.rs"),
        "{found:?}"
    );
    assert_eq!(found.len(), 5, "{found:?}");
}
