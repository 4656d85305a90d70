//! The floors: who imports whom, and what the pure ones name. The table in `src/lib.rs` says which module has which.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::Path,
};

use crate::sources::{Source, all, paths};

/// Module -> floor.
pub(crate) type Floors = BTreeMap<String, u8>;
/// Module or file -> what it imports -> a file that does.
pub(crate) type Imports = BTreeMap<String, BTreeMap<String, String>>;

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file)
}

/// The names between backticks.
fn names(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The rows of the table of floors: floor, cell of modules, what comes after.
fn rows(text: &str) -> Vec<(u8, String, String)> {
    let row = |line: &str| {
        let line = line.trim_start_matches("//! ").strip_prefix("| F")?;
        let mut cells = line.split('|');
        let floor = cells.next()?.split_whitespace().next()?.parse().ok()?;
        Some((floor, cells.next()?.to_owned(), cells.next()?.to_owned()))
    };
    text.lines().filter_map(row).collect()
}

/// A text without what stands in brackets.
fn without_brackets(text: &str) -> String {
    let parts = text.split('(').enumerate();
    let outside = parts.map(|(n, part)| {
        if n == 0 {
            part
        } else {
            part.split_once(')').map_or("", |p| p.1)
        }
    });
    outside.collect()
}

/// The floors by the table in a text.
fn floors_of(text: &str) -> Floors {
    let mut floors = Floors::new();
    for (floor, modules, _) in rows(text) {
        for module in names(&without_brackets(&modules)) {
            let before = floors.insert(module.clone(), floor);
            assert_eq!(before, None, "{module} has two floors");
        }
    }
    floors
}

/// The floors of this crate.
fn of_the_crate() -> Floors {
    floors_of(&read("src/lib.rs"))
}

/// What a module that runs in a container may import: the names behind it in its row.
fn contained(table: &str, module: &str) -> BTreeSet<String> {
    let row = rows(table)
        .into_iter()
        .find(|(_, modules, _)| names(modules).eq([module.to_owned()]));
    let (.., uses) = row.unwrap_or_else(|| panic!("src/lib.rs: {module} has no row of its own"));
    names(&uses).collect()
}

/// The modules of the crate's root that each imports, itself left out.
fn imports(sources: &[Source]) -> Imports {
    let mut all = Imports::new();
    for source in sources {
        let own = all.entry(source.module().to_owned()).or_default();
        for path in paths(&source.code()) {
            let module = path.strip_prefix("crate::").and_then(|p| p.split("::").next());
            if let Some(module) = module.filter(|m| *m != source.module()) {
                own.entry(module.to_owned()).or_insert_with(|| source.name.clone());
            }
        }
    }
    all
}

/// The shortest way by imports from a module to itself that stays on its floor, if there is one.
fn circle<'a>(start: &'a String, imports: &'a Imports, floors: &Floors) -> Option<Vec<&'a String>> {
    let mut ways = VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        let imported = way.last().and_then(|module| imports.get(*module));
        for next in imported.into_iter().flat_map(BTreeMap::keys) {
            let way = [&way[..], &[next]].concat();
            if next == start {
                return Some(way);
            }
            if floors.get(next) == floors.get(start) && seen.insert(next) {
                ways.push_back(way);
            }
        }
    }
    None
}

/// Circles among modules of one floor, one for each module that lies on one.
pub(crate) fn circles(imports: &Imports, floors: &Floors) -> Vec<String> {
    let told = |way: Vec<&String>| {
        let step = |w: &[&String]| format!("{} (src/{}) -> ", w[0], imports[w[0]][w[1]]);
        let steps: String = way.windows(2).map(step).collect();
        format!("{steps}{}", way[0])
    };
    let all = imports.keys().filter_map(|start| circle(start, imports, floors));
    all.map(told).collect()
}

/// What of the world outside a path of a pure floor names: files, sockets, processes, threads that sleep, the
/// environment, randomness, clocks, the runtime. Plain addresses, durations and points in time it may.
fn is_impure(path: &str) -> bool {
    const ROOTS: [&str; 10] = [
        "std::fs",
        "std::process",
        "std::env",
        "std::thread",
        "std::os::unix",
        "std::os::fd",
        "tokio",
        "rustix",
        "libc",
        "getrandom",
    ];
    const NAMES: [&str; 14] = [
        "TcpStream",
        "TcpListener",
        "TcpSocket",
        "UdpSocket",
        "UnixStream",
        "UnixListener",
        "UnixDatagram",
        "ToSocketAddrs",
        "stdin",
        "stdout",
        "stderr",
        "SystemRandom",
        // Clocks.
        "now",
        "elapsed",
    ];
    let below = |root: &&str| {
        path.strip_prefix(*root)
            .is_some_and(|p| p.is_empty() || p.starts_with("::"))
    };
    ROOTS.iter().any(below) || path.split("::").any(|name| NAMES.contains(&name))
}

#[test]
fn every_module_has_one_floor_and_all_tables_say_the_same() {
    let library = read("src/lib.rs");
    let floors = of_the_crate();
    let declared = library
        .lines()
        .filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';'));
    let declared: Vec<&str> = declared.collect();
    let (mut known, mut there) = (floors.keys().collect::<Vec<_>>(), declared.clone());
    known.sort();
    there.sort();
    assert_eq!(known, there, "src/lib.rs: modules of the table, and modules declared");
    assert_eq!(
        floors_of(&read("ARCHITECTURE.md")),
        floors,
        "the tables of ARCHITECTURE.md and src/lib.rs"
    );
    let mut heads = 0;
    for source in all().iter().filter(|s| floors.contains_key(s.module()) && s.is_head()) {
        heads += 1;
        let begins = format!("//! F{}: ", floors[source.module()]);
        assert!(
            source.text.starts_with(&begins),
            "src/{} opens with {begins}",
            source.name
        );
    }
    assert_eq!(heads, declared.len(), "files of modules");
}

#[test]
fn imports_run_down_the_floors() {
    let (floors, sources, library) = (of_the_crate(), all(), read("src/lib.rs"));
    let inner: Vec<Source> = sources
        .into_iter()
        .filter(|s| !["lib", "main"].contains(&s.module()))
        .collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (module, imported) in imports(&inner) {
        let own = floors[&module];
        let only = ["agent", "shell"]
            .contains(&module.as_str())
            .then(|| contained(&library, &module));
        for (import, file) in imported {
            let theirs = *floors
                .get(&import)
                .unwrap_or_else(|| panic!("src/{file}: crate::{import} has no floor"));
            seen += 1;
            let sideways = own == 3 && theirs == 3;
            if theirs > own || sideways || only.as_ref().is_some_and(|o| !o.contains(&import)) {
                wrong.push(format!("src/{file} (F{own}) imports {import} (F{theirs})"));
            }
        }
    }
    assert!(
        seen > 50,
        "only {seen} imports found: does this test still read the sources?"
    );
    assert!(wrong.is_empty(), "imports that do not run down:\n{}", wrong.join("\n"));
}

/// A path by `super` that leaves its module would be an import that nobody here sees.
#[test]
fn other_modules_are_named_from_the_root() {
    let mut wrong = Vec::new();
    for source in all() {
        for path in paths(&source.code()) {
            let ups = path.split("::").take_while(|p| *p == "super").count();
            if ups >= source.depth() {
                wrong.push(format!("src/{}: {path} (write crate::…)", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_of_a_floor_import_each_other_in_no_circle() {
    let found = circles(&imports(&all()), &of_the_crate());
    assert!(found.is_empty(), "circles:\n{}", found.join("\n"));
}

#[test]
fn the_pure_floors_name_no_files_no_sockets_and_no_clock() {
    let floors = of_the_crate();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for source in all().iter().filter(|s| floors.get(s.module()).is_some_and(|f| *f < 2)) {
        let code = source.code();
        seen += 1;
        let mut named: Vec<String> = paths(&code).into_iter().filter(|p| is_impure(p)).collect();
        named.extend(code.contains(".elapsed(").then(|| ".elapsed()".to_owned()));
        wrong.extend(named.into_iter().map(|path| format!("src/{}: {path}", source.name)));
    }
    assert!(seen > 50, "only {seen} sources found");
    assert!(
        wrong.is_empty(),
        "what is pure takes values instead:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn circles_are_found() {
    let floors = |of: &[(&str, u8)]| of.iter().map(|(m, f)| ((*m).to_owned(), *f)).collect::<Floors>();
    let source = |name: &str, text: &str| Source {
        name: name.into(),
        text: text.into(),
    };
    let sources = [
        source("a.rs", "use crate::{b::x, low::y};\n"),
        source("b.rs", "mod deep;\n"),
        source("b/deep.rs", "fn f() { crate::c::g(); }\n"),
        source("c.rs", "use crate::a::A;\nuse crate::d::D;\n"),
        source("d.rs", "use crate::low;\n"),
        source("low.rs", "use crate::d;\n"),
    ];
    let all = imports(&sources);
    let of_one = floors(&[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("low", 0)]);
    let expected = [
        "a (src/a.rs) -> b (src/b/deep.rs) -> c (src/c.rs) -> a",
        "b (src/b/deep.rs) -> c (src/c.rs) -> a (src/a.rs) -> b",
        "c (src/c.rs) -> a (src/a.rs) -> b (src/b/deep.rs) -> c",
    ];
    assert_eq!(circles(&all, &of_one), expected);
    let of_two = floors(&[("a", 1), ("b", 1), ("c", 2), ("d", 1), ("low", 0)]);
    assert_eq!(circles(&all, &of_two), [""; 0]);
}

#[test]
fn what_is_impure_is_known_by_any_name() {
    let named = |code: &str| paths(code).into_iter().filter(|p| is_impure(p)).collect::<Vec<_>>();
    for (code, path) in [
        ("use std::{collections::BTreeMap, fs};\n", "std::fs"),
        ("use std::fs::File as Text;\n", "std::fs::File"),
        ("use std::net::{IpAddr, TcpStream};\n", "std::net::TcpStream"),
        (
            "use std::net;\nfn f() { net::UdpSocket::bind(a); }\n",
            "net::UdpSocket::bind",
        ),
        (
            "use std::time;\nfn f() { time::Instant::now(); }\n",
            "time::Instant::now",
        ),
        ("fn f() { jiff::Timestamp::now(); }\n", "jiff::Timestamp::now"),
        ("fn f() { std::env::var(\"HOME\"); }\n", "std::env::var"),
        ("fn f() { std::thread::sleep(d); }\n", "std::thread::sleep"),
        ("use tokio::sync::Notify;\n", "tokio::sync::Notify"),
    ] {
        assert_eq!(named(code), [path], "{code}");
    }
    let pure = "use std::{net::{IpAddr, SocketAddr}, time::{Duration, Instant}};\nfn f(now: Instant) { env!(\"X\"); a::known(); }\n";
    assert_eq!(named(pure), [""; 0]);
}
