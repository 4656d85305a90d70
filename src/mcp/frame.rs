//! Cuts the byte stream of a pipe into lines (MCP stdio transport: one JSON-RPC message a line, no newline inside).
//!
//! Never holds more than the limit it was given, and never allocates while whole lines arrive in one chunk.

use memchr::memchr;

/// How much of the start and the end of an oversized line is kept, so that its id may still be found.
const KEPT: usize = 256;
/// Above this capacity the carry-over buffer is given back once it is empty.
const RETAIN: usize = 64 * 1024;

/// One line, without its line end.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole line; a trailing `\r` is cut off.
    Whole(&'a [u8]),
    /// A line over the limit: its first and last bytes, at most 256 of each. Given once its end was seen.
    TooLong {
        /// How it began.
        head: &'a [u8],
        /// How it ended.
        tail: &'a [u8],
    },
}

/// The splitter's state between chunks.
#[derive(Debug)]
pub struct Splitter {
    carry: Vec<u8>,
    max: usize,
    skipping: Option<Vec<u8>>,
}

impl Splitter {
    /// A splitter whose lines are at most `max` bytes long.
    pub fn new(max: usize) -> Self {
        Self {
            carry: Vec::new(),
            max,
            skipping: None,
        }
    }

    /// Takes a chunk and calls `each` for every line that it completes, in order.
    pub fn feed(&mut self, mut chunk: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(end) = memchr(b'\n', chunk) {
            let (line, rest) = chunk.split_at(end);
            chunk = &rest[1..];
            if self.skipping.is_some() || self.carry.len() + line.len() > self.max {
                self.skip(line);
                let head = self.skipping.take().unwrap_or_default();
                each(Line::TooLong {
                    head: &head,
                    tail: trim(&self.carry),
                });
            } else if self.carry.is_empty() {
                each(Line::Whole(trim(line)));
            } else {
                self.carry.extend_from_slice(line);
                each(Line::Whole(trim(&self.carry)));
            }
            self.release();
        }
        if chunk.is_empty() {
            return;
        }
        if self.skipping.is_some() || self.carry.len() + chunk.len() > self.max {
            self.skip(chunk);
        } else {
            self.carry.extend_from_slice(chunk);
        }
    }

    /// Bytes that wait for their line end.
    pub fn pending(&self) -> usize {
        self.carry.len()
    }

    /// Adds bytes of a line that is over the limit: its head is kept apart, `carry` becomes its last bytes.
    fn skip(&mut self, more: &[u8]) {
        if self.skipping.is_none() {
            let mut head: Vec<u8> = self.carry.iter().copied().take(KEPT).collect();
            let room = KEPT - head.len();
            head.extend_from_slice(&more[..more.len().min(room)]);
            self.skipping = Some(head);
        }
        let tail = &more[more.len().saturating_sub(KEPT)..];
        let keep = KEPT - tail.len();
        let from = self.carry.len().saturating_sub(keep);
        self.carry.drain(..from);
        self.carry.extend_from_slice(tail);
    }

    fn release(&mut self) {
        self.carry.clear();
        if self.carry.capacity() > RETAIN {
            self.carry = Vec::new();
        }
    }
}

fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Cut = Result<Vec<u8>, (Vec<u8>, Vec<u8>)>;

    fn lines(max: usize, chunks: &[&[u8]]) -> Vec<Cut> {
        let mut s = Splitter::new(max);
        let mut out = Vec::new();
        for c in chunks {
            s.feed(c, |l| {
                out.push(match l {
                    Line::Whole(b) => Ok(b.to_vec()),
                    Line::TooLong { head, tail } => Err((head.to_vec(), tail.to_vec())),
                })
            });
            assert!(s.pending() <= max.max(KEPT));
        }
        out
    }

    #[test]
    fn splits_across_chunks() {
        assert_eq!(
            lines(99, &[b"ab", b"c\r\nd", b"\n\n"]),
            [Ok(b"abc".to_vec()), Ok(b"d".to_vec()), Ok(vec![])]
        );
    }

    #[test]
    fn says_how_an_oversized_line_began_and_ended() {
        assert_eq!(
            lines(4, &[b"abc", b"def", b"g\nok\n"]),
            [Err((b"abcdef".to_vec(), b"abcdefg".to_vec())), Ok(b"ok".to_vec())]
        );
    }

    proptest! {
        /// However the bytes are cut into chunks, the lines are the same as those of one `split`.
        #[test]
        fn chunking_does_not_matter(text in "[a-c\n]{0,200}", cuts in proptest::collection::vec(1usize..9, 0..60)) {
            let bytes = text.as_bytes();
            let (mut chunks, mut at) = (Vec::new(), 0);
            for c in cuts {
                let to = (at + c).min(bytes.len());
                chunks.push(&bytes[at..to]);
                at = to;
            }
            chunks.push(&bytes[at..]);
            let got = lines(12, &chunks);
            let mut want: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
            want.pop();
            prop_assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(want) {
                match g {
                    Ok(line) => prop_assert_eq!(&line[..], w),
                    Err((_, tail)) => {
                        prop_assert!(w.len() > 12);
                        prop_assert!(w.ends_with(tail));
                    }
                }
            }
        }

        #[test]
        fn garbage_never_breaks_it(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..99), 0..20)) {
            let views: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            lines(64, &views);
        }
    }
}
