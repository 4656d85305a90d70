//! What a command printed, within bounds: the beginning and the end are kept, and how much fell out between them.
//! Also what of it may be shown on a terminal. Pure.

use std::collections::VecDeque;

/// Bytes kept of the beginning, and of the end.
const HEAD: usize = 16 * 1024;
const TAIL: usize = 48 * 1024;

/// A bounded record of a stream of bytes.
#[derive(Debug, Default)]
pub(super) struct Output {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    /// All bytes that ever came.
    total: u64,
}

impl Output {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = HEAD - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        // Of a long piece only its end can stay.
        let rest = &rest[rest.len().saturating_sub(TAIL)..];
        let over = (self.tail.len() + rest.len()).saturating_sub(TAIL);
        self.tail.drain(..over);
        self.tail.extend(rest);
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that fell out.
    pub(super) fn dropped(&self) -> u64 {
        self.total - (self.head.len() + self.tail.len()) as u64
    }

    /// All that is kept, with a line where something fell out.
    pub(super) fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.head).into_owned();
        if self.dropped() > 0 {
            text.push_str(&format!("\n… {} bytes left out …\n", self.dropped()));
        }
        let (a, b) = self.tail.as_slices();
        text.push_str(&String::from_utf8_lossy(&[a, b].concat()));
        text
    }

    /// What came after the first `from` bytes, as far as it is kept.
    pub(super) fn since(&self, from: u64) -> String {
        let tail_at = self.total - self.tail.len() as u64;
        let mut bytes = Vec::new();
        if from < self.head.len() as u64 {
            bytes.extend_from_slice(&self.head[from as usize..]);
        }
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        let missing = tail_at.saturating_sub(from.max(self.head.len() as u64));
        if missing > 0 {
            text.push_str(&format!("\n… {missing} bytes left out …\n"));
        }
        let skip = usize::try_from(from.saturating_sub(tail_at)).unwrap_or(usize::MAX);
        let rest: Vec<u8> = self.tail.iter().skip(skip).copied().collect();
        text.push_str(&String::from_utf8_lossy(&rest));
        text
    }
}

/// Makes text fit for a terminal that other people type in: colours stay, every other escape sequence goes, since a
/// terminal answers some of them as if somebody had typed.
#[derive(Debug, Default)]
pub(super) struct Paint {
    state: Escape,
    held: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// After ESC.
    Started,
    /// After ESC [, and its parameters.
    Csi,
    /// Within a sequence that is no colour.
    Other,
    /// After ESC ] and its like, up to BEL or ESC \.
    Text,
    TextEnd,
}

/// A colour sequence is not longer.
const MAX_CSI: usize = 32;

impl Paint {
    /// Adds to `out` what of `bytes` may be shown, with line ends as a terminal takes them.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &b in bytes {
            self.state = match (self.state, b) {
                (Escape::None, 0x1b) => Escape::Started,
                (Escape::None, b'\n') => {
                    out.extend_from_slice(b"\r\n");
                    Escape::None
                }
                (Escape::None, b'\t' | b'\r' | 8 | 0x20..=0x7e | 0x80..) => {
                    out.push(b);
                    Escape::None
                }
                (Escape::None, _) => Escape::None,
                (Escape::Started, b'[') => {
                    self.held.clear();
                    Escape::Csi
                }
                (Escape::Started, b']' | b'P' | b'X' | b'^' | b'_') => Escape::Text,
                (Escape::Started, 0x1b) => Escape::Started,
                // Two-byte sequences, and those with one intermediate byte.
                (Escape::Started, 0x20..=0x2f) => Escape::Started,
                (Escape::Started, _) => Escape::None,
                (Escape::Csi, b'0'..=b'9' | b';' | b':') if self.held.len() < MAX_CSI => {
                    self.held.push(b);
                    Escape::Csi
                }
                (Escape::Csi, b'm') => {
                    out.extend_from_slice(b"\x1b[");
                    out.append(&mut self.held);
                    out.push(b'm');
                    Escape::None
                }
                (Escape::Csi, 0x40..=0x7e) => Escape::None,
                // Private or too long: swallowed to its end, and not a colour.
                (Escape::Csi | Escape::Other, 0x20..=0x3f) => Escape::Other,
                (Escape::Other, _) => Escape::None,
                (Escape::Csi, _) => Escape::None,
                (Escape::Text, 7) => Escape::None,
                (Escape::Text, 0x1b) => Escape::TextEnd,
                (Escape::Text, _) => Escape::Text,
                (Escape::TextEnd, b'\\') => Escape::None,
                (Escape::TextEnd, _) => Escape::Text,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn painted(bytes: &[u8]) -> String {
        let (mut p, mut out) = (Paint::default(), Vec::new());
        p.feed(bytes, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn colours_stay_and_the_rest_of_the_escapes_goes() {
        assert_eq!(painted(b"a\n\x1b[1;31mred\x1b[0m"), "a\r\n\x1b[1;31mred\x1b[0m");
        assert_eq!(painted("Grüße ✓".as_bytes()), "Grüße ✓");
        for nasty in [
            &b"x\x1b[6ny"[..],
            b"x\x1b[cy",
            b"x\x1b[?1049hy",
            b"x\x1b[>cy",
            b"x\x1b]52;c;aGk=\x07y",
            b"x\x1b]0;title\x1b\\y",
            b"x\x1bP$q\"p\x1b\\y",
            b"x\x1bcy",
            b"x\x1b(0y",
            b"x\x07\x05\x00y",
            b"x\x1b[?31my",
        ] {
            assert_eq!(painted(nasty), "xy", "{nasty:?}");
        }
    }

    #[test]
    fn beginning_and_end_are_kept() {
        let mut o = Output::default();
        o.push(b"first\n");
        for n in 0..40_000 {
            o.push(format!("{n}\n").as_bytes());
        }
        let text = o.text();
        assert!(text.starts_with("first\n0\n1\n") && text.ends_with("39999\n"));
        assert!(text.contains("bytes left out"));
        assert!(text.len() < HEAD + TAIL + 100);
        assert_eq!(o.since(o.total() - 6), "39999\n");
        assert_eq!(o.since(o.total()), "");
    }

    proptest! {
        #[test]
        fn what_fits_is_whole_from_anywhere(pieces in proptest::collection::vec("[a-z]{0,300}", 0..40), from in 0u64..5000) {
            let all: String = pieces.concat();
            let mut o = Output::default();
            pieces.iter().for_each(|p| o.push(p.as_bytes()));
            prop_assert_eq!(o.text(), all.clone());
            let from = from.min(all.len() as u64);
            prop_assert_eq!(o.since(from), &all[from as usize..]);
        }

        #[test]
        fn nothing_but_colours_escapes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let (mut p, mut out) = (Paint::default(), Vec::new());
            p.feed(&bytes, &mut out);
            for (at, _) in out.iter().enumerate().filter(|(_, b)| **b == 0x1b) {
                let rest = &out[at + 1..];
                let end = rest.iter().position(|b| *b == b'm').expect("a colour");
                prop_assert!(rest[0] == b'[' && rest[1..end].iter().all(|b| b.is_ascii_digit() || b";:".contains(b)));
            }
        }
    }
}
