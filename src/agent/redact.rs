//! Replaces credentials in what a server prints, before it leaves the container: the values of its start order, their
//! lines, and the ways in which programs write values down (base64, hexadecimal, percent and JSON escapes).
//!
//! Works on a stream: a value that is cut by a read is found all the same, since bytes that may begin one are held back
//! until the next ones tell. Never holds back more than the longest value, and never what can be none.

use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::model::Secret;

/// A value shorter than this is not looked for: it would be found everywhere.
const SHORT: usize = 6;
/// A word of a value of several lines that is shorter than this says nothing: it is one like any other.
const TELLING: usize = 12;
/// Beyond this length, values are looked for as they are, and encoded ones by their beginning.
const ENCODED: usize = 4096;
/// What stands in the place of a value.
const MARK: &[u8] = b"***";

/// What must not show.
#[derive(Default)]
pub(super) struct Patterns {
    /// By their first two bytes; the longest first.
    by_start: HashMap<[u8; 2], Vec<Secret>>,
    longest: usize,
}

impl std::fmt::Debug for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Patterns(…)")
    }
}

/// What a place in a text turns out to be.
enum Place {
    /// The first byte belongs to no value.
    Plain,
    /// A value of so many bytes.
    Value(usize),
    /// The text ends within what may be one.
    Open,
}

impl Patterns {
    /// The patterns of these values.
    pub(super) fn of<'a>(values: impl Iterator<Item = &'a Secret>) -> Self {
        let mut all = Self::default();
        for value in values {
            let value = value.expose();
            all.add_forms(value.trim());
            if value.trim().contains('\n') {
                // A key file, say: its lines may be printed one by one, and the values of a configuration by themselves.
                value.lines().for_each(|line| all.add_forms(line.trim()));
                let words = value.split(|c: char| c.is_whitespace() || "\"',:;{}[]".contains(c));
                words.filter(|w| w.len() >= TELLING).for_each(|w| all.add_forms(w));
            }
        }
        for list in all.by_start.values_mut() {
            list.sort_by_key(|p| std::cmp::Reverse(p.expose().len()));
            list.dedup();
        }
        all
    }

    fn add_forms(&mut self, value: &str) {
        if value.len() < SHORT {
            return;
        }
        self.add(value.to_owned());
        let mut end = value.len().min(ENCODED);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = &value[..end];
        if let Ok(quoted) = serde_json::to_string(value) {
            self.add(quoted[1..quoted.len() - 1].to_owned());
        }
        let (mut lower, mut upper, mut percent) = (String::new(), String::new(), String::new());
        for b in value.bytes() {
            let _ = write!(lower, "{b:02x}");
            let _ = write!(upper, "{b:02X}");
            if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
                percent.push(char::from(b));
            } else {
                let _ = write!(percent, "%{b:02X}");
            }
        }
        for form in [lower, upper, percent] {
            self.add(form);
        }
        // In a longer text its letters depend on where it begins: three ways, less the letters that its neighbours share.
        for before in 0..3 {
            let bytes = [&[0; 2][..before], value.as_bytes()].concat();
            let whole = bytes.len() * 8 / 6;
            let from = (before * 8).div_ceil(6);
            for text in [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
                self.add(text[from..whole].to_owned());
            }
        }
    }

    fn add(&mut self, form: String) {
        if form.len() < SHORT {
            return;
        }
        self.longest = self.longest.max(form.len());
        if let Some(&[a, b]) = form.as_bytes().get(..2) {
            self.by_start.entry([a, b]).or_default().push(Secret::new(form));
        }
    }

    /// Looks at the beginning of `text`; `last`: nothing follows it.
    fn at(&self, text: &[u8], last: bool) -> Place {
        let Some(&[a, b]) = text.get(..2) else {
            let begins = |start: &[u8; 2]| text.first() == Some(&start[0]);
            let open = !last && self.by_start.keys().any(begins);
            return if open { Place::Open } else { Place::Plain };
        };
        let Some(list) = self.by_start.get(&[a, b]) else {
            return Place::Plain;
        };
        for pattern in list.iter().map(|p| p.expose().as_bytes()) {
            if text.starts_with(pattern) {
                return Place::Value(pattern.len());
            }
            if pattern.starts_with(text) {
                match last {
                    false => return Place::Open,
                    // What was cut off at the very end is no less a part of it.
                    true if text.len() >= SHORT => return Place::Value(text.len()),
                    true => {}
                }
            }
        }
        Place::Plain
    }

    /// Cleans what is settled of `text` into `out`; the number of bytes that are.
    fn clean(&self, text: &[u8], last: bool, out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while at < text.len() {
            match self.at(&text[at..], last) {
                Place::Plain => {
                    out.push(text[at]);
                    at += 1;
                }
                Place::Value(length) => {
                    out.extend_from_slice(MARK);
                    at += length;
                }
                Place::Open => break,
            }
        }
        at
    }

    /// A whole text, cleaned.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut out = Vec::with_capacity(text.len());
        self.clean(text.as_bytes(), true, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Redactor {
    patterns: Rc<Patterns>,
    held: Vec<u8>,
}

impl Redactor {
    pub(super) fn new(patterns: Rc<Patterns>) -> Self {
        Self {
            patterns,
            held: Vec::new(),
        }
    }

    /// Bytes that wait for what follows them.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes a piece and gives what of it is settled.
    pub(super) fn feed(&mut self, chunk: &[u8], mut take: impl FnMut(&[u8])) {
        if self.patterns.by_start.is_empty() {
            return take(chunk);
        }
        self.held.extend_from_slice(chunk);
        self.settle(false, &mut take);
    }

    /// Gives the rest.
    pub(super) fn finish(&mut self, mut take: impl FnMut(&[u8])) {
        self.settle(true, &mut take);
    }

    fn settle(&mut self, last: bool, take: &mut impl FnMut(&[u8])) {
        let mut out = Vec::with_capacity(self.held.len());
        let done = self.patterns.clean(&self.held, last, &mut out);
        // What is held back may be part of a value.
        self.held[..done].fill(0);
        self.held.drain(..done);
        debug_assert!(self.held.len() <= self.patterns.longest);
        if !out.is_empty() {
            take(&out);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterns(values: &[&str]) -> Rc<Patterns> {
        let all: Vec<Secret> = values.iter().map(|v| Secret::new(*v)).collect();
        Rc::new(Patterns::of(all.iter()))
    }

    fn streamed(p: &Rc<Patterns>, text: &[u8], size: usize) -> String {
        let mut r = Redactor::new(Rc::clone(p));
        let mut out = Vec::new();
        for chunk in text.chunks(size) {
            r.feed(chunk, |b| out.extend_from_slice(b));
        }
        r.finish(|b| out.extend_from_slice(b));
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_value_is_found_however_the_stream_is_cut() {
        let p = patterns(&["hunter2hunter2", "a", "hunter2hunter2-and-more"]);
        let text = b"key=hunter2hunter2! hunt hunter2hunter2-and-more; hunter2hunter2-and-less a\n";
        for size in 1..text.len() {
            assert_eq!(
                streamed(&p, text, size),
                "key=***! hunt ***; ***-and-less a\n",
                "in pieces of {size}"
            );
        }
        assert_eq!(streamed(&p, b"it ends in hunter2hun", 4), "it ends in ***");
        assert_eq!(streamed(&p, b"it ends in hunt", 4), "it ends in hunt");
    }

    #[test]
    fn nothing_waits_that_cannot_be_a_value() {
        let p = patterns(&["hunter2hunter2"]);
        let mut r = Redactor::new(p);
        let mut out = Vec::new();
        r.feed(b"ready\n", |b| out.extend_from_slice(b));
        assert_eq!((out.as_slice(), r.held()), (&b"ready\n"[..], 0));
        r.feed(b"hunter2", |b| out.extend_from_slice(b));
        assert_eq!(r.held(), 7);
        r.feed(b"s\n", |b| out.extend_from_slice(b));
        assert_eq!((out.as_slice(), r.held()), (&b"ready\nhunter2s\n"[..], 0));
    }

    #[test]
    fn encoded_values_and_lines_of_long_ones_are_found() {
        let secret = "pä/ss?w\"ord 0123456789";
        let p = patterns(&[
            secret,
            "-----BEGIN KEY-----\nAAAABBBBCCCC\nDDDDEEEE\n-----END KEY-----\n",
        ]);
        let mut said = format!(
            "{} {} AAAABBBBCCCC and DDDDEEEE ",
            serde_json::to_string(secret).unwrap(),
            secret.bytes().map(|b| format!("{b:02x}")).collect::<String>(),
        );
        for before in ["", "u", "us", "user:"] {
            said.push_str(&format!("{} ", STANDARD_NO_PAD.encode(format!("{before}{secret}:x"))));
        }
        let clean = p.redact(&said);
        assert_eq!(clean.matches("***").count(), 8, "{clean}");
        let of_a_file = patterns(&["users:\n  - name: me\n    token: abcdefgh12345678\n"]);
        assert_eq!(
            of_a_file.redact("users: bad token abcdefgh12345678"),
            "*** bad token ***"
        );
        for encoded in [
            "0123456789",
            "MTIzNDU2Nz",
            "EyMzQ1Njc4",
            "xMjM0NTY3OD",
            "AAAABBBB",
            "DDDDEEEE",
        ] {
            assert!(!clean.contains(encoded), "{encoded} in {clean}");
        }
    }

    proptest! {
        #[test]
        fn what_holds_no_value_is_left_as_it_is(text in "[ab \n]{0,80}", size in 1usize..9) {
            let p = patterns(&["aXabab", "bXbbbbb"]);
            prop_assert_eq!(streamed(&p, text.as_bytes(), size), text);
        }

        #[test]
        fn no_value_ever_passes(before in "[ab]{0,20}", after in "[ab]{0,20}", size in 1usize..9) {
            let p = patterns(&["abaabb", "babbab"]);
            let text = format!("{before}abaabb{after}");
            let clean = streamed(&p, text.as_bytes(), size);
            prop_assert!(!clean.contains("abaabb") && !clean.contains("babbab"), "{}", clean);
        }
    }
}
