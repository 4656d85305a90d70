//! Replaces credentials in what a server prints, before it leaves the container: the values of its start order, their
//! lines, and the ways in which programs write values down (base64, hexadecimal, percent and JSON escapes).
//!
//! A value is looked for where hiding it protects something and leaves the text readable:
//!
//! | value | is hidden |
//! | --- | --- |
//! | of eight bytes and more | everywhere, also within a word |
//! | of six or seven | where it stands alone: no letter, digit or underscore beside it |
//! | of six or seven, a word of letters (`server`, `DEBUG`, `Admin`) | nowhere |
//! | shorter (`true`, `8080`) | nowhere |
//!
//! All values of an order are sealed, names of hosts and switches too, so that their kind says nothing. What is hidden
//! nowhere is no secret that would stand up to anybody who tries.
//!
//! Works on a stream: a value that is cut by a read is found all the same, since bytes that may begin one are held back
//! until the next ones tell. Never holds back more than the longest value, and never what can be none.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::model::Secret;

/// A value shorter than this is not looked for: it would be found everywhere.
const SHORT: usize = 6;
/// One shorter than this is looked for where it stands alone.
const LONG: usize = 8;
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
    by_start: HashMap<[u8; 2], Vec<Pattern>>,
    longest: usize,
}

/// One way to write a value.
#[derive(PartialEq, Eq)]
struct Pattern {
    form: Secret,
    /// It counts only where nothing of a word stands beside it.
    alone: bool,
}

/// Whether a byte is of a word: a letter of any script, a digit or an underscore.
fn of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

/// Whether a short value is a word as it stands in any text: letters, written small, large or with a capital.
fn is_plain(value: &str) -> bool {
    let word = value.trim_matches(|c: char| c.is_ascii_punctuation());
    let rest = word.get(1..).unwrap_or_default();
    let small = rest.bytes().all(|b| b.is_ascii_lowercase());
    !word.is_empty()
        && word.bytes().all(|b| b.is_ascii_alphabetic())
        && (small || word.bytes().all(|b| b.is_ascii_uppercase()))
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
            list.sort_by_key(|p| std::cmp::Reverse(p.form.expose().len()));
            list.dedup();
        }
        all
    }

    fn add_forms(&mut self, value: &str) {
        let alone = value.len() < LONG;
        if value.len() < SHORT || (alone && is_plain(value)) {
            return;
        }
        self.add(value.to_owned(), alone);
        let mut end = value.len().min(ENCODED);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = &value[..end];
        if let Ok(quoted) = serde_json::to_string(value) {
            self.add(quoted[1..quoted.len() - 1].to_owned(), alone);
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
        self.add(percent, alone);
        self.add(lower, false);
        self.add(upper, false);
        // In a longer text its letters depend on where it begins: three ways, less the letters that its neighbours share.
        for before in 0..3 {
            let bytes = [&[0; 2][..before], value.as_bytes()].concat();
            let whole = bytes.len() * 8 / 6;
            let from = (before * 8).div_ceil(6);
            for text in [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
                self.add(text[from..whole].to_owned(), false);
            }
        }
    }

    fn add(&mut self, form: String, alone: bool) {
        if form.len() < SHORT {
            return;
        }
        self.longest = self.longest.max(form.len());
        if let Some(&[a, b]) = form.as_bytes().get(..2) {
            let form = Secret::new(form);
            self.by_start.entry([a, b]).or_default().push(Pattern { form, alone });
        }
    }

    /// Looks at the beginning of `text`, which stands behind `before`; `last`: nothing follows it.
    fn at(&self, before: Option<u8>, text: &[u8], last: bool) -> Place {
        let Some(&[a, b]) = text.get(..2) else {
            let begins = |start: &[u8; 2]| text.first() == Some(&start[0]);
            let open = !last && self.by_start.keys().any(begins);
            return if open { Place::Open } else { Place::Plain };
        };
        let Some(list) = self.by_start.get(&[a, b]) else {
            return Place::Plain;
        };
        let within = before.is_some_and(of_word);
        for Pattern { form, alone } in list.iter().filter(|p| !(p.alone && within)) {
            let form = form.expose().as_bytes();
            if text.starts_with(form) {
                match text.get(form.len()) {
                    Some(next) if *alone && of_word(*next) => {}
                    None if *alone && !last => return Place::Open,
                    _ => return Place::Value(form.len()),
                }
            } else if form.starts_with(text) {
                match last {
                    false => return Place::Open,
                    // What was cut off at the very end is no less a part of it.
                    true if text.len() >= SHORT && !alone => return Place::Value(text.len()),
                    true => {}
                }
            }
        }
        Place::Plain
    }

    /// Cleans what is settled of `text`, which stands behind `before`, into `out`; the number of bytes that are.
    fn clean(&self, before: Option<u8>, text: &[u8], last: bool, out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while at < text.len() {
            let before = if at == 0 { before } else { Some(text[at - 1]) };
            match self.at(before, &text[at..], last) {
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
        self.clean(None, text.as_bytes(), true, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Redactor {
    patterns: Arc<Patterns>,
    held: Vec<u8>,
    /// The byte before those.
    before: Option<u8>,
}

impl Redactor {
    pub(super) fn new(patterns: Arc<Patterns>) -> Self {
        Self {
            patterns,
            held: Vec::new(),
            before: None,
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
        let done = self.patterns.clean(self.before, &self.held, last, &mut out);
        if let Some(settled) = done.checked_sub(1) {
            self.before = self.held.get(settled).copied();
        }
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

    fn patterns(values: &[&str]) -> Arc<Patterns> {
        let all: Vec<Secret> = values.iter().map(|v| Secret::new(*v)).collect();
        Arc::new(Patterns::of(all.iter()))
    }

    fn streamed(p: &Arc<Patterns>, text: &[u8], size: usize) -> String {
        let mut r = Redactor::new(Arc::clone(p));
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
    fn short_values_leave_words_as_they_are() {
        let p = patterns(&[
            "server",
            "Server",
            "DEBUG",
            "host",
            "true",
            "8080",
            "\"level\"",
            "abc123",
            "k-9!zx",
            "909090",
            "#?!*+%",
        ]);
        let text = "Server: the server is serverless, DEBUG \"level\" true on host:8080\n";
        let of_tokens =
            "abc123, key=abc123 (k-9!zx) xabc123 abc1234 _abc123 \u{e9}abc123 909090 1909090 #?!*+% abc12 abc123";
        let hidden = "***, key=*** (***) xabc123 abc1234 _abc123 \u{e9}abc123 *** 1909090 *** abc12 ***";
        for size in 1..text.len().max(of_tokens.len()) {
            assert_eq!(streamed(&p, text.as_bytes(), size), text, "in pieces of {size}");
            assert_eq!(streamed(&p, of_tokens.as_bytes(), size), hidden, "in pieces of {size}");
        }
        assert_eq!(p.redact("abc123"), "***");
        assert_eq!(p.redact(&STANDARD_NO_PAD.encode("abc123")), "***");
        // From eight bytes on, any text may be a password.
        let p = patterns(&["password", "localhost"]);
        assert_eq!(p.redact("mypasswords at localhost1"), "my***s at ***1");
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
            "users: bad token ***"
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
            let p = patterns(&["aXababab", "bXbbbbbb", "aX7bab"]);
            prop_assert_eq!(streamed(&p, text.as_bytes(), size), text);
        }

        #[test]
        fn no_value_of_eight_bytes_passes(value in "[!-~]{8,16}", before in "[ -~]{0,9}", after in "[ -~]{0,9}", size in 1usize..9) {
            let p = patterns(&[&value, "abc123"]);
            let text = format!("{before}{value}{after}");
            let clean = streamed(&p, text.as_bytes(), size);
            prop_assert!(!clean.contains(&value), "{}", clean);
        }

        #[test]
        fn no_value_ever_passes(before in "[ab]{0,20}", after in "[ab]{0,20}", size in 1usize..9) {
            let p = patterns(&["abaabbab", "babbabba"]);
            let text = format!("{before}abaabbab{after}");
            let clean = streamed(&p, text.as_bytes(), size);
            prop_assert!(!clean.contains("abaabbab") && !clean.contains("babbabba"), "{}", clean);
        }
    }
}
