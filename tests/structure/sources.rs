//! The sources as the tests of the tree see them: which there are, which of their text is no test, which paths it names.
//!
//! Two things are tests, and nothing else: a module behind `#[cfg(test)]`, and a file of such a module, whose name ends
//! in `tests.rs`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A file below `src` that is no file of tests.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its path below `src`.
    pub(crate) name: String,
    /// Its text without its test modules.
    pub(crate) text: String,
}

impl Source {
    /// The module of the crate's root that it belongs to: `plan` for `plan/order.rs`.
    pub(crate) fn module(&self) -> &str {
        self.name.split(['/', '.']).next().unwrap_or_default()
    }

    /// Its text without whole lines of comment.
    pub(crate) fn code(&self) -> String {
        let lines = self.text.lines().filter(|l| !l.trim_start().starts_with("//"));
        lines.flat_map(|l| [l, "\n"]).collect()
    }

    /// Whether it is the file of its module of the crate's root.
    pub(crate) fn is_head(&self) -> bool {
        self.name.strip_suffix(".rs") == Some(self.module())
    }

    /// How many `super::` lead from it to the crate's root.
    pub(crate) fn depth(&self) -> usize {
        self.name.split('/').count()
    }
}

/// Every Rust file below a folder, `tests.rs` and `…_tests.rs` among them.
pub(crate) fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|x| x == "rs") {
            out.push(path);
        }
    }
}

/// All sources, by name.
pub(crate) fn all() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    paths.retain(|p| !p.to_string_lossy().ends_with("tests.rs"));
    paths.sort();
    assert!(paths.len() > 20, "only {} sources found", paths.len());
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("below src").display().to_string();
        let text = fs::read_to_string(&path).expect("readable");
        let text = without_tests(&text).unwrap_or_else(|line| panic!("src/{name}:{line}: where does this module end?"));
        Source { name, text }
    };
    paths.into_iter().map(read).collect()
}

/// A text without its test modules: `#[cfg(test)]`, other attributes, then `mod x;` or `mod x {` up to the brace that
/// stands as far in as the module does, as rustfmt puts it. Any other item behind `#[cfg(test)]` stays.
///
/// # Errors
/// The line of a module that has no end.
pub(crate) fn without_tests(text: &str) -> Result<String, usize> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut kept, mut at) = (String::new(), 0);
    while at < lines.len() {
        if let Some(len) = test_module(&lines[at..]).map_err(|()| at + 1)? {
            at += len;
        } else {
            kept.push_str(lines[at]);
            kept.push('\n');
            at += 1;
        }
    }
    Ok(kept)
}

/// How many lines the test module has that begins here, if one does.
fn test_module(lines: &[&str]) -> Result<Option<usize>, ()> {
    if lines[0].trim_start() != "#[cfg(test)]" {
        return Ok(None);
    }
    let attributes = lines.iter().take_while(|l| l.trim_start().starts_with("#["));
    let before = attributes.count();
    let Some(item) = lines.get(before) else {
        return Ok(None);
    };
    let indent = &item[..item.len() - item.trim_start().len()];
    if !item.trim_start().starts_with("mod ") {
        Ok(None)
    } else if item.ends_with(';') {
        Ok(Some(before + 1))
    } else {
        let last = format!("{indent}}}");
        let end = lines.iter().skip(before).position(|l| *l == last).ok_or(())?;
        Ok(Some(before + end + 1))
    }
}

/// Every path of more than one name that a code holds; those of a `use` with its groups taken apart, and without what a
/// name is called instead.
pub(crate) fn paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let (before, on) = rest.split_at(at);
        inline(before, &mut found);
        let begins = before.rsplit('\n').next().unwrap_or_default().trim();
        let item = on[4..].split_once(';').filter(|(tree, _)| tree.chars().all(in_tree));
        rest = match item {
            Some((tree, after)) if begins.is_empty() || begins.starts_with("pub") => {
                taken_apart("", tree, &mut found);
                after
            }
            _ => &on[4..],
        };
    }
    inline(rest, &mut found);
    found
}

/// Whether a `use` may hold it; the word also begins lines of text.
fn in_tree(c: char) -> bool {
    c.is_alphanumeric() || c.is_whitespace() || "_:{},*".contains(c)
}

/// The paths of a code without `use`.
fn inline(code: &str, found: &mut BTreeSet<String>) {
    let words = code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    let paths = words.map(|w| w.trim_matches(':')).filter(|w| w.contains("::"));
    found.extend(paths.map(str::to_owned));
}

/// The paths of a `use` tree behind `prefix`.
fn taken_apart(prefix: &str, tree: &str, found: &mut BTreeSet<String>) {
    let Some((head, group)) = tree.split_once('{') else {
        let name = tree.trim().split(" as ").next().unwrap_or_default();
        let path = format!("{prefix}{name}");
        found.insert(path.strip_suffix("::self").unwrap_or(&path).to_owned());
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let (mut depth, mut from) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            ',' if depth == 0 => {
                taken_apart(&prefix, &group[from..at], found);
                from = at + 1;
            }
            '}' if depth == 0 => {
                let last = &group[from..at];
                if !last.trim().is_empty() {
                    taken_apart(&prefix, last, found);
                }
                return;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
}

#[test]
fn only_test_modules_are_cut() {
    let check = |text: &str, kept: &str| assert_eq!(without_tests(text).as_deref(), Ok(kept), "{text}");
    let code = "fn a() {\n}\n";
    check(code, code);
    check(
        &format!("#[cfg(test)]\nmod tests {{\n    fn b() {{\n    }}\n}}\n{code}"),
        code,
    );
    check(&format!("#[cfg(test)]\nmod tests;\n{code}"), code);
    check(
        &format!("#[cfg(test)]\n#[path = \"x_tests.rs\"]\nmod x_tests;\n{code}"),
        code,
    );
    let inner = "mod a {\n    #[cfg(test)]\n    mod tests {\n        mod b {\n        }\n    }\n    fn c() {}\n}\n";
    check(inner, "mod a {\n    fn c() {}\n}\n");
    // What is no module is code, and so is all that comes after it.
    let item = format!("#[cfg(test)]\n{code}use std::fs;\n");
    check(&item, &item);
    assert_eq!(without_tests(&format!("{code}#[cfg(test)]\nmod tests {{\n")), Err(3));
}

#[test]
fn paths_are_found_in_groups_and_in_code() {
    let code = "use std::{\n    fs,\n    net::{self, TcpStream as Tcp},\n    time::{Duration, Instant},\n};\n\
                pub(crate) use crate::{model::{A, B}, plan::*};\n\
                fn a() -> io::Result<B> { let reuse = crate::edge::b(Instant::now()); }\n\
                fn c() { use tokio::time; }\n\
                const TEXT: &str = \"\nuse x (or sys::y) {\n\";\n\
                use std::env;\n";
    let expected = [
        "Instant::now",
        "crate::edge::b",
        "crate::model::A",
        "crate::model::B",
        "crate::plan::*",
        "io::Result",
        "std::env",
        "std::fs",
        "std::net",
        "std::net::TcpStream",
        "std::time::Duration",
        "std::time::Instant",
        "sys::y",
        "tokio::time",
    ];
    assert_eq!(paths(code).into_iter().collect::<Vec<_>>(), expected);
}
