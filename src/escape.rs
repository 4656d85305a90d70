//! F1: text made safe to show. Servers, packages and files choose much of what Berth prints; whatever a terminal would act
//! on, or would show in another order than it stands in, becomes a visible escape (CWE-150). Pure; `output` is where it is
//! used, and nothing is printed past it.

use std::{borrow::Cow, fmt::Write};

/// Whether a terminal acts on it, or shows text around it in another order or on another line: control characters of both
/// sets (C0, DEL, C1), the marks, embeddings and isolates of the bidirectional algorithm (Unicode Standard Annex 9), and
/// the separators of lines and paragraphs.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text of any number of lines: newlines and tabs stay.
pub fn text(s: &str) -> Cow<'_, str> {
    replace(s, |c| acts(c) && c != '\n' && c != '\t', shown)
}

/// Text that must stay one line, such as a record of the log or a row of a screen: only tabs stay.
pub fn line(s: &str) -> Cow<'_, str> {
    replace(s, |c| acts(c) && c != '\t', shown)
}

/// JSON: the same document with `\u` escapes. Outside of strings, JSON has none of these but newlines and tabs.
pub fn json(s: &str) -> Cow<'_, str> {
    replace(
        s,
        |c| acts(c) && !matches!(c, '\n' | '\r' | '\t'),
        |out, c| {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        },
    )
}

fn replace(s: &str, bad: impl Fn(char) -> bool, instead: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !s.contains(&bad) {
        return Cow::Borrowed(s);
    }
    let mut out = String::with_capacity(s.len() + 16);
    for c in s.chars() {
        if bad(c) {
            instead(&mut out, c);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// `\r`, `\x1b`, `\u{202e}`.
fn shown(out: &mut String, c: char) {
    let _ = match c {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        c if (c as u32) < 0x80 => write!(out, "\\x{:02x}", c as u32),
        c => write!(out, "\\u{{{:x}}}", c as u32),
    };
}

/// Bytes that come piece by piece, wherever a piece is cut. What is not UTF-8 becomes `\xNN`: a terminal that is not set to
/// UTF-8 would take some of these bytes for control characters.
#[derive(Debug, Default)]
pub struct Pieces {
    /// The beginning of a character: three bytes at most.
    cut: Vec<u8>,
}

impl Pieces {
    /// The text of the next piece.
    pub fn next(&mut self, piece: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.cut);
        bytes.extend_from_slice(piece);
        let mut out = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            out.push_str(&text(chunk.valid()));
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && begins_a_character(invalid) {
                self.cut = invalid.to_vec();
            } else {
                push_bytes(&mut out, invalid);
            }
        }
        out
    }

    /// What is left when nothing more comes.
    pub fn end(&mut self) -> String {
        let mut out = String::new();
        push_bytes(&mut out, &std::mem::take(&mut self.cut));
        out
    }
}

fn push_bytes(out: &mut String, bytes: &[u8]) {
    for b in bytes {
        let _ = write!(out, "\\x{b:02x}");
    }
}

/// Whether more bytes may make it a character. At the end of the input only.
fn begins_a_character(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(e) if e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that must never reach a terminal.
    const BAD: &str = "\u{0}\u{7}\u{8}\u{b}\u{c}\r\u{1b}\u{7f}\u{80}\u{85}\u{9b}\u{9d}\u{9f}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";

    #[test]
    fn what_a_terminal_acts_on_is_shown() {
        assert_eq!(text("plain\tü 漢字\n"), "plain\tü 漢字\n");
        assert!(matches!(text("plain"), Cow::Borrowed(_)));
        assert_eq!(text("\x1b]52;c;Zm9v\x07"), "\\x1b]52;c;Zm9v\\x07");
        assert_eq!(text("a\u{9b}2Jb\u{202e}c\r\n"), "a\\u{9b}2Jb\\u{202e}c\\r\n");
        assert_eq!(line("a\nb\tc"), "a\\nb\tc");
        for c in BAD.chars() {
            for out in [text(&c.to_string()), line(&c.to_string())] {
                assert!(out.starts_with('\\') && !out.contains(c), "{c:?} became {out:?}");
            }
        }
    }

    #[test]
    fn json_means_the_same() {
        let value = serde_json::json!({ "k": format!("{BAD}\n\t\"ü"), BAD: [BAD] });
        for whole in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let safe = json(&whole);
            assert!(!safe.chars().any(|c| acts(c) && c != '\n'), "{safe:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }
    }

    #[test]
    fn pieces_may_be_cut_anywhere() {
        let whole = "é\u{9b}漢\u{202e}😀\x1b[31m".as_bytes().to_vec();
        for size in 1..whole.len() {
            let mut pieces = Pieces::default();
            let mut out: String = whole.chunks(size).map(|p| pieces.next(p)).collect();
            out += &pieces.end();
            assert_eq!(out, "é\\u{9b}漢\\u{202e}😀\\x1b[31m", "in pieces of {size}");
        }
        let mut pieces = Pieces::default();
        assert_eq!(pieces.next(b"a\x9b31m\xff\xe2"), "a\\x9b31m\\xff");
        assert_eq!(pieces.next(b"x"), "\\xe2x");
        assert_eq!(pieces.next(b"\xf0\x9f"), "");
        assert_eq!(pieces.end(), "\\xf0\\x9f");
    }
}
