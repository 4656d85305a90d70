//! F1: reads TOML strictly and tells every problem at once, each with its line and what to write instead.
//!
//! A [`Section`] hands out its keys one by one; whatever is left when it is finished is an unknown key. Nothing
//! here stops at the first mistake, and nothing here guesses a value.

use std::{cell::RefCell, collections::BTreeMap, fmt, rc::Rc, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// One mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub file: String,
    /// From 1.
    pub line: usize,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

/// All mistakes of one or more files, in the order of their lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, p) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{p}")?;
        }
        Ok(())
    }
}

struct Source<'i> {
    file: String,
    text: &'i str,
    problems: RefCell<Vec<Problem>>,
}

/// A document being read.
pub struct Document<'i> {
    source: Rc<Source<'i>>,
    root: Section<'i>,
    well_formed: bool,
}

impl<'i> Document<'i> {
    /// Parses `text`; `file` is only for messages. Syntax errors are collected like any other problem.
    pub fn parse(file: &str, text: &'i str) -> Self {
        let source = Rc::new(Source {
            file: file.into(),
            text,
            problems: RefCell::new(Vec::new()),
        });
        let (table, errors) = DeTable::parse_recoverable(text);
        let well_formed = errors.is_empty();
        for e in errors {
            let at = e.span().map_or(0, |s| s.start);
            source.add(at, format!("not valid TOML: {}", e.message()));
        }
        let root = Section::new(source.clone(), String::new(), table.span().start, table.into_inner());
        Self {
            source,
            root,
            well_formed,
        }
    }

    /// The top level.
    pub fn root(&mut self) -> &mut Section<'i> {
        &mut self.root
    }

    /// Flags what nobody asked for and returns the problems, if there are any.
    ///
    /// # Errors
    /// Every problem found since [`Document::parse`], sorted by line.
    pub fn finish(self) -> Result<(), Vec<Problem>> {
        // In a text that is not TOML, what was recovered says nothing about which keys were meant.
        if self.well_formed {
            self.root.finish();
        }
        let mut problems = self.source.problems.take();
        problems.sort();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

impl Source<'_> {
    fn add(&self, at: usize, text: String) {
        let line = self.text.as_bytes()[..at.min(self.text.len())]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        self.problems.borrow_mut().push(Problem {
            file: self.file.clone(),
            line,
            text,
        });
    }
}

/// A value together with where it stands, so that a later check can point at it.
#[derive(Debug, Clone)]
pub struct Found<T> {
    pub value: T,
    at: usize,
}

/// A table being read.
pub struct Section<'i> {
    source: Rc<Source<'i>>,
    path: String,
    at: usize,
    table: DeTable<'i>,
    known: Vec<&'static str>,
}

impl<'i> Section<'i> {
    fn new(source: Rc<Source<'i>>, path: String, at: usize, table: DeTable<'i>) -> Self {
        Self {
            source,
            path,
            at,
            table,
            known: Vec::new(),
        }
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        want: &str,
        read: impl FnOnce(DeValue<'i>) -> Result<T, Option<String>>,
    ) -> Option<Found<T>> {
        let value = self.take(key)?;
        let at = value.span().start;
        let kind = value.get_ref().type_str();
        match read(value.into_inner()) {
            Ok(value) => Some(Found { value, at }),
            Err(said) => {
                let said = said.unwrap_or_else(|| format!("it is a TOML {kind}"));
                self.source.add(at, format!("{}: write {want}; {said}", self.full(key)));
                None
            }
        }
    }

    /// Reports a problem with a value that was read.
    pub fn wrong<T>(&self, found: &Found<T>, text: impl fmt::Display) {
        self.source.add(found.at, text.to_string());
    }

    /// Reports a problem with the table itself.
    pub fn wrong_here(&self, text: impl fmt::Display) {
        self.source.add(self.at, text.to_string());
    }

    /// Reports that `key` is absent.
    pub fn missing(&self, key: &str, want: &str) {
        let place = if self.path.is_empty() {
            String::new()
        } else {
            format!(" in [{}]", self.path)
        };
        self.source
            .add(self.at, format!("{key} is missing{place}: write {want}"));
    }

    /// A string.
    pub fn string(&mut self, key: &'static str) -> Option<Found<String>> {
        self.typed(key, "a text in quotes", |v| match v {
            DeValue::String(s) => Ok(s.into_owned()),
            _ => Err(None),
        })
    }

    /// A string parsed by `T`'s own rules.
    pub fn parsed<T: std::str::FromStr>(&mut self, key: &'static str, want: &str) -> Option<Found<T>>
    where
        T::Err: fmt::Display,
    {
        self.typed(key, want, |v| match v {
            DeValue::String(s) => s.parse().map_err(|e: T::Err| Some(e.to_string())),
            _ => Err(None),
        })
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<Found<T>> {
        let all: Vec<String> = words.iter().map(|(w, _)| format!("{w:?}")).collect();
        self.typed(key, &format!("one of {}", all.join(", ")), |v| match v {
            DeValue::String(s) => words
                .iter()
                .find(|(w, _)| *w == s)
                .map(|(_, t)| *t)
                .ok_or_else(|| Some(format!("{s:?} is not one of them"))),
            _ => Err(None),
        })
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str) -> Option<Found<bool>> {
        self.typed(key, "true or false", |v| match v {
            DeValue::Boolean(b) => Ok(b),
            _ => Err(None),
        })
    }

    /// A whole number within bounds.
    pub fn integer(&mut self, key: &'static str, min: i64, max: i64) -> Option<Found<i64>> {
        self.typed(key, &format!("a whole number from {min} to {max}"), |v| match v {
            DeValue::Integer(n) => {
                let n = i64::from_str_radix(n.as_str(), n.radix()).map_err(|e| Some(e.to_string()))?;
                if (min..=max).contains(&n) {
                    Ok(n)
                } else {
                    Err(Some(format!("{n} is outside")))
                }
            }
            _ => Err(None),
        })
    }

    /// A duration such as `"500ms"`, `"15s"`, `"30m"` or `"2h"`, within bounds.
    pub fn duration(&mut self, key: &'static str, min: Duration, max: Duration) -> Option<Found<Duration>> {
        let want = format!(
            "a duration with its unit (ms, s, m or h), such as \"15s\", from {} to {}",
            show_duration(min),
            show_duration(max)
        );
        self.typed(key, &want, |v| match v {
            DeValue::String(s) => {
                let d = parse_duration(&s).ok_or_else(|| Some(format!("{s:?} is not one")))?;
                if (min..=max).contains(&d) {
                    Ok(d)
                } else {
                    Err(Some(format!("{s:?} is outside")))
                }
            }
            _ => Err(None),
        })
    }

    /// A list of strings.
    pub fn strings(&mut self, key: &'static str) -> Option<Found<Vec<String>>> {
        self.typed(key, "a list of texts, such as [\"node\", \"index.js\"]", |v| match v {
            DeValue::Array(items) => items
                .into_iter()
                .map(|i| match i.into_inner() {
                    DeValue::String(s) => Ok(s.into_owned()),
                    other => Err(Some(format!("one of them is a TOML {}", other.type_str()))),
                })
                .collect(),
            _ => Err(None),
        })
    }

    /// A table of strings, such as an environment.
    pub fn string_map(&mut self, key: &'static str) -> Option<Found<BTreeMap<String, String>>> {
        self.typed(key, "a table of texts, such as { KEY = \"value\" }", |v| match v {
            DeValue::Table(items) => items
                .into_iter()
                .map(|(k, v)| match v.into_inner() {
                    DeValue::String(s) => Ok((k.into_inner().into_owned(), s.into_owned())),
                    other => Err(Some(format!("{} is a TOML {}", k.into_inner(), other.type_str()))),
                })
                .collect(),
            _ => Err(None),
        })
    }

    /// A table.
    pub fn section(&mut self, key: &'static str) -> Option<Section<'i>> {
        let path = self.full(key);
        let found = self.typed(key, "a table", |v| match v {
            DeValue::Table(t) => Ok(t),
            _ => Err(None),
        })?;
        Some(Section::new(self.source.clone(), path, found.at, found.value))
    }

    /// An array of tables, `[[key]]`.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section<'i>> {
        let path = self.full(key);
        let found = self.typed(key, "one or more tables headed [[…]]", |v| match v {
            DeValue::Array(items) => items
                .into_iter()
                .map(|i| {
                    let at = i.span().start;
                    match i.into_inner() {
                        DeValue::Table(t) => Ok((at, t)),
                        _ => Err(None),
                    }
                })
                .collect::<Result<Vec<_>, _>>(),
            _ => Err(None),
        });
        let tables = found.map(|f| f.value).unwrap_or_default();
        tables
            .into_iter()
            .map(|(at, t)| Section::new(self.source.clone(), path.clone(), at, t))
            .collect()
    }

    /// Flags every key that was not asked for, with the nearest known one.
    pub fn finish(mut self) {
        self.known.sort_unstable();
        for (key, value) in &self.table {
            let name = key.get_ref().as_ref();
            let at = key
                .span()
                .start
                .max(if key.span().is_empty() { value.span().start } else { 0 });
            let near = self.known.iter().map(|k| (distance(k, name), k)).min();
            let near = near.filter(|(d, _)| *d <= 2 && d * 2 < name.len()).map(|(_, k)| k);
            let advice = match near {
                Some(k) => format!("did you mean {k}?"),
                None if self.known.is_empty() => "no keys are known here".into(),
                None => format!("known here: {}", self.known.join(", ")),
            };
            self.source
                .add(at, format!("unknown key {}: {advice}", self.full(name)));
        }
    }
}

/// Reads a duration with its unit.
pub fn parse_duration(s: &str) -> Option<Duration> {
    let digits = s.bytes().take_while(u8::is_ascii_digit).count();
    let (n, unit) = s.split_at(digits);
    let n: u64 = n.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(n.checked_mul(ms)?))
}

/// The shortest text that [`parse_duration`] reads back as `d` (whole milliseconds).
pub fn show_duration(d: Duration) -> String {
    let ms = d.as_millis();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

/// Levenshtein distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip() {
        for s in ["1ms", "500ms", "15s", "90s", "30m", "2h"] {
            let d = parse_duration(s).expect(s);
            assert_eq!(parse_duration(&show_duration(d)), Some(d));
        }
        for s in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "5d",
            "1.5s",
            "99999999999999999999h",
            "18446744073709551615h",
        ] {
            assert_eq!(parse_duration(s), None, "{s}");
        }
    }

    #[test]
    fn all_problems_come_at_once_with_their_lines() {
        let text = "a = 1\nb = \"x\"\n[t]\nintervall = \"5s\"\nn = 99\n";
        let mut doc = Document::parse("f.toml", text);
        assert!(doc.root().string("a").is_none());
        let mut t = doc.root().section("t").expect("table");
        assert!(t.integer("n", 1, 9).is_none());
        assert!(t.duration("interval", Duration::ZERO, Duration::from_secs(9)).is_none());
        t.finish();
        let said: Vec<String> = doc
            .finish()
            .expect_err("problems")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            said,
            [
                "f.toml:1: a: write a text in quotes; it is a TOML integer",
                "f.toml:2: unknown key b: known here: a, t",
                "f.toml:4: unknown key t.intervall: did you mean interval?",
                "f.toml:5: t.n: write a whole number from 1 to 9; 99 is outside",
            ]
        );
    }

    #[test]
    fn syntax_errors_have_a_line() {
        let p = Document::parse("f.toml", "a = 1\nb = = 2\n")
            .finish()
            .expect_err("problems");
        assert_eq!(p[0].line, 2, "{p:?}");
    }
}
