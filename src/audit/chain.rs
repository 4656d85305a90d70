//! The chain: each row's hash covers its text and the hash of the row before. Pure.
//!
//! A row on disk is one line, an object of JSON that begins with `seq` and ends with `hash`:
//! `hash = base64url(SHA-256(hash before, 32 bytes || the line up to the comma in front of "hash"))`. The first row follows
//! on SHA-256 of `berth audit ` and the box's id.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use sha2::{Digest, Sha256};

use crate::model::BoxId;

/// What a line ends with: `,"hash":"`, 43 characters, `"}`.
const HASH: &[u8] = b",\"hash\":\"";
const TEXT: usize = 43;
const TAIL: usize = HASH.len() + TEXT + 2;
const SEQ: &[u8] = b"{\"seq\":";

/// The hash of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hash([u8; 32]);

impl Hash {
    /// What the first row of a box follows on.
    pub(super) fn first(of: &BoxId) -> Hash {
        Hash(Sha256::digest(format!("berth audit {of}").as_bytes()).into())
    }

    fn next(&self, text: &[u8]) -> Hash {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(text);
        Hash(hasher.finalize().into())
    }

    /// From the text of one.
    pub(super) fn parse(text: &str) -> Option<Hash> {
        let bytes = BASE64URL.decode(text).ok()?;
        Some(Hash(bytes.try_into().ok()?))
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&BASE64URL.encode(self.0))
    }
}

/// Where a chain is: the number of its newest row, and that row's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) hash: Hash,
}

impl Head {
    /// A chain without rows.
    pub(super) fn empty(of: &BoxId) -> Head {
        let hash = Hash::first(of);
        Head { seq: 0, hash }
    }

    /// Puts a row behind this one: `row` is an object of JSON with at least one field, without a line's end. Adds its line to
    /// `out`, and is at that row then.
    pub(super) fn chain(&mut self, row: &[u8], out: &mut Vec<u8>) {
        let begin = out.len();
        self.seq += 1;
        out.extend_from_slice(SEQ);
        out.extend_from_slice(itoa::Buffer::new().format(self.seq).as_bytes());
        out.push(b',');
        out.extend_from_slice(&row[1..row.len() - 1]);
        self.hash = self.hash.next(&out[begin..]);
        out.extend_from_slice(HASH);
        let at = out.len();
        out.resize(at + TEXT, 0);
        let written = BASE64URL.encode_slice(self.hash.0, &mut out[at..]);
        debug_assert_eq!(written, Ok(TEXT));
        out.extend_from_slice(b"\"}\n");
    }

    /// Whether a line (without its end) is the row that follows; is at that row then.
    ///
    /// # Errors
    /// [`Broken`].
    pub(super) fn follow(&mut self, line: &[u8]) -> Result<(), Broken> {
        let found = seq(line).ok_or(Broken::Changed)?;
        if found != self.seq + 1 {
            return Err(Broken::Missing);
        }
        let (text, hash) = split(line).ok_or(Broken::Changed)?;
        let expected = self.hash.next(text);
        let mut encoded = [0; TEXT];
        let written = BASE64URL.encode_slice(expected.0, &mut encoded);
        if written != Ok(TEXT) || encoded != hash {
            return Err(Broken::Changed);
        }
        *self = Head {
            seq: found,
            hash: expected,
        };
        Ok(())
    }

    /// The row that a line says it is, unchecked.
    pub(super) fn of_line(line: &[u8]) -> Option<Head> {
        let (_, hash) = split(line)?;
        Some(Head {
            seq: seq(line)?,
            hash: Hash::parse(std::str::from_utf8(hash).ok()?)?,
        })
    }
}

/// Why a line is not the row that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// Its text, or its hash.
    Changed,
    /// It has another number.
    Missing,
}

/// The text that the hash covers, and the hash's own.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (text, tail) = line.split_at_checked(line.len().checked_sub(TAIL)?)?;
    let hash = tail.strip_prefix(HASH)?.strip_suffix(b"\"}")?;
    Some((text, hash))
}

/// The number of a row.
pub(super) fn seq(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(SEQ)?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn box_id() -> BoxId {
        BoxId::from_random([7; 8])
    }

    fn chained(rows: &[String]) -> Vec<Vec<u8>> {
        let (mut head, mut out) = (Head::empty(&box_id()), Vec::new());
        for row in rows {
            head.chain(row.as_bytes(), &mut out);
        }
        let lines = out.split(|b| *b == b'\n').filter(|l| !l.is_empty());
        lines.map(<[u8]>::to_vec).collect()
    }

    fn verify(lines: &[Vec<u8>]) -> Result<Head, (u64, Broken)> {
        let mut head = Head::empty(&box_id());
        for line in lines {
            let seq = head.seq + 1;
            head.follow(line).map_err(|why| (seq, why))?;
        }
        Ok(head)
    }

    #[test]
    fn a_line_is_an_object_with_its_number_and_its_hash() {
        let lines = chained(&[r#"{"a":1}"#.to_owned()]);
        let value: serde_json::Value = serde_json::from_slice(&lines[0]).unwrap();
        assert_eq!((&value["seq"], &value["a"]), (&1.into(), &1.into()));
        // printf 'berth audit %s' ID | sha256sum, and so on by hand: the chain is no secret.
        let first = Sha256::digest(format!("berth audit {}", box_id()).as_bytes());
        let hash = Sha256::digest([&first[..], br#"{"seq":1,"a":1"#].concat());
        assert_eq!(value["hash"], BASE64URL.encode(hash));
        assert_eq!(Head::of_line(&lines[0]), verify(&lines).ok());
    }

    proptest! {
        /// Whatever is done to one row is found at that row.
        #[test]
        fn what_is_done_to_a_row_is_found_there(
            rows in 3usize..20, at in 0usize..20, byte in 0usize..500, bit in 0u32..8, what in 0u8..4,
        ) {
            let rows: Vec<String> = (0..rows).map(|n| format!(r#"{{"n":{n},"text":"row {n}"}}"#)).collect();
            let mut lines = chained(&rows);
            prop_assert!(verify(&lines).is_ok());
            let at = at % (lines.len() - 1);
            match what {
                0 => {
                    let byte = byte % lines[at].len();
                    lines[at][byte] ^= 1 << bit;
                }
                1 => drop(lines.remove(at)),
                2 => lines.swap(at, at + 1),
                _ => lines.insert(at, lines[at].clone()),
            }
            let (seq, _) = verify(&lines).unwrap_err();
            // One that is there twice is a fault where the next one should be.
            let expected = if what == 3 { at as u64 + 2 } else { at as u64 + 1 };
            prop_assert_eq!(seq, expected);
        }
    }
}
