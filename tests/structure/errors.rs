//! What fails across a module's boundary fails with a type: who asks can tell the causes apart, and makes the words.

use crate::sources::all;

/// What other modules may name: items that are `pub` or `pub(crate)`, and the methods of such traits. Each from its first
/// word to the end of its head.
fn boundary(code: &str) -> Vec<(usize, String)> {
    let (mut found, mut within) = (Vec::new(), None);
    let lines: Vec<&str> = code.lines().collect();
    for (n, line) in lines.iter().enumerate() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        if within == Some(indent) && bare.starts_with('}') {
            within = None;
        }
        let item = ["pub ", "pub(crate) "].iter().find_map(|v| bare.strip_prefix(v));
        if item.is_some_and(|i| i.starts_with("trait ")) {
            within = Some(indent);
        }
        let method = within.is_some_and(|trait_at| indent > trait_at)
            && (bare.starts_with("fn ") || bare.starts_with("async fn "));
        let error = bare.starts_with("type Err = ") || bare.starts_with("type Error = ");
        if method || error || item.is_some_and(|i| !i.starts_with("use ") && !i.starts_with("mod ")) {
            found.push((n + 1, head(&lines[n..])));
        }
    }
    found
}

/// An item without its body.
fn head(lines: &[&str]) -> String {
    let mut head = String::new();
    for line in lines {
        head.push_str(line.trim());
        head.push(' ');
        if line.ends_with(['{', ';', '}']) || line.ends_with(',') && !head.contains("fn ") {
            break;
        }
    }
    head
}

/// Whether a text names a `Result` whose error is a `String`.
fn fails_with_a_text(head: &str) -> bool {
    let of_result = |rest: &str| {
        let (mut depth, mut last) = (0, 0);
        for (at, c) in rest.char_indices() {
            match c {
                '<' | '(' | '[' => depth += 1,
                '>' if rest[..at].ends_with('-') => {}
                '>' if depth == 0 => return last > 0 && rest[last..at].trim() == "String",
                '>' | ')' | ']' => depth -= 1,
                ',' if depth == 0 => last = at + 1,
                _ => {}
            }
        }
        false
    };
    head.match_indices("Result<")
        .any(|(at, word)| of_result(&head[at + word.len()..]))
        || head.contains("type Err = String")
        || head.contains("type Error = String")
}

#[test]
fn no_module_fails_with_a_text() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for source in all() {
        for (line, head) in boundary(&source.text) {
            seen += 1;
            if fails_with_a_text(&head) {
                wrong.push(format!("src/{}:{line}: {head}", source.name));
            }
        }
    }
    assert!(seen > 1000, "only {seen} items found");
    assert!(
        wrong.is_empty(),
        "an error that leaves its module is a type (an enum with a sentence for each cause):\n{}",
        wrong.join("\n")
    );
}

#[test]
fn texts_as_errors_are_found() {
    let wrong = |code: &str| {
        let all = boundary(code);
        all.into_iter()
            .filter(|(_, head)| fails_with_a_text(head))
            .map(|(n, _)| n)
            .collect::<Vec<_>>()
    };
    for (code, lines) in [
        ("pub fn a() -> Result<(), String> {\n", vec![1]),
        (
            "    pub(crate) async fn a(\n        b: B,\n    ) -> Result<Vec<(A, B)>, String> {\n",
            vec![1],
        ),
        (
            "pub type A = Box<dyn Fn(B) -> BoxFuture<'static, Result<(), String>> + Send>;\n",
            vec![1],
        ),
        ("pub struct A {\n    pub b: Result<B, String>,\n}\n", vec![2]),
        (
            "pub trait A {\n    fn a(&self) -> Result<(), String>;\n}\nfn b() -> Result<(), String> {\n",
            vec![2],
        ),
        ("impl FromStr for A {\n    type Err = String;\n", vec![2]),
        ("pub fn a() -> Result<BTreeMap<String, String>, E> {\n", vec![]),
        ("pub fn a(b: impl Fn() -> Result<(), E>) -> Option<String> {\n", vec![]),
        ("pub(super) fn a() -> Result<(), String> {\n", vec![]),
        ("pub fn a() -> io::Result<String> {\n", vec![]),
    ] {
        assert_eq!(wrong(code), lines, "{code}");
    }
}
