//! Recovery codes: each stands once for the second step, for somebody whose phone is gone. Eighty random bits each, so that a
//! plain hash keeps them.

use sha2::{Digest, Sha256};

use crate::model::{BASE32, Secret};

/// So many are made at once; new ones take the place of those there were.
pub const CODES: usize = 10;
/// Random bytes of one.
const BYTES: usize = 16;

/// Random bytes for all of them.
pub type Fresh = [u8; CODES * BYTES];

/// The codes, as they are shown once, and what is kept of them.
pub fn codes(fresh: &Fresh) -> Vec<(Secret, [u8; 32])> {
    let one = |bytes: &[u8]| {
        let letters = bytes.iter().map(|b| char::from(BASE32[usize::from(b % 32)]));
        let mut text = String::with_capacity(BYTES + 3);
        for (n, letter) in letters.enumerate() {
            if n > 0 && n % 4 == 0 {
                text.push('-');
            }
            text.push(letter);
        }
        let hash = hash(&text);
        (Secret::new(text), hash)
    };
    fresh.chunks(BYTES).map(one).collect()
}

/// What is kept of a code, however it was typed.
pub fn hash(code: &str) -> [u8; 32] {
    let kept = code.chars().filter(|c| c.is_ascii_alphanumeric()).take(BYTES * 2);
    let plain: String = kept.map(|c| c.to_ascii_lowercase()).collect();
    Sha256::digest(plain.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_ten_and_each_is_known_however_it_is_typed() {
        let mut fresh = [0; CODES * BYTES];
        fresh.iter_mut().enumerate().for_each(|(n, b)| *b = n as u8);
        let all = codes(&fresh);
        assert_eq!(all.len(), 10);
        let (first, kept) = &all[0];
        assert_eq!(first.expose(), "abcd-efgh-ijkl-mnop");
        for typed in ["abcd-efgh-ijkl-mnop", " ABCDEFGHIJKLMNOP ", "abcd efgh ijkl mnop"] {
            assert_eq!(hash(typed), *kept, "{typed}");
        }
        assert_ne!(hash("abcd-efgh-ijkl-mnoq"), *kept);
        let mut hashes: Vec<_> = all.iter().map(|(_, h)| *h).collect();
        hashes.dedup();
        assert_eq!(hashes.len(), 10);
    }
}
