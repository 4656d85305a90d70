//! F1: claiming a box: the code on its screen, or a signature by the administrator's own key. Pure: randomness and time
//! come as arguments. A code is never written down anywhere but on the box's own screen and admin socket.
//!
//! ```text
//! open(code) --right, and durable--> closed (claimed)
//!    ^  `--wrong--> open(the same code)    |
//!    `-- reset of the administrator -------'
//! ```
//!
//! A wrong try changes nothing here: 78 random bits need no renewal, and a stranger who tries must not make the code on
//! the screen stale. The edge slows down addresses that keep trying.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::{hmac, signature};
use subtle::ConstantTimeEq;

use crate::model::Secret;

/// A nonce is good for so many seconds.
pub const NONCE_LIFE: u64 = 120;
/// What a key signs begins with this: a signature made for claiming is good for nothing else, and the other way round.
const DOMAIN: &[u8] = b"berth claim v1\0";
/// Without 0 O 1 I L U: nothing that could be read for another, and few words.
const ALPHABET: &[u8; 30] = b"23456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of a code: 16 of 30, 78 bits.
const LENGTH: usize = 16;
const GROUP: usize = 4;
const TAG: usize = 16;

/// A code as it is shown: `XXXX-XXXX-XXXX-XXXX`.
pub fn new_code(random: [u8; 16]) -> Secret {
    // The remainder's bias is below 2^-49.
    let mut n = u128::from_le_bytes(random);
    let mut text = String::with_capacity(LENGTH + LENGTH / GROUP);
    for i in 0..LENGTH {
        if i > 0 && i % GROUP == 0 {
            text.push('-');
        }
        text.push(char::from(ALPHABET[(n % 30) as usize]));
        n /= 30;
    }
    Secret::new(text)
}

/// Upper case, without dashes and spaces: how it was typed makes no difference.
fn plain(code: &str) -> String {
    let kept = code.chars().filter(|c| !c.is_whitespace() && *c != '-');
    kept.take(LENGTH * 2).map(|c| c.to_ascii_uppercase()).collect()
}

/// What came of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    Right,
    Wrong,
    /// There is no code: the box is claimed.
    Closed,
}

/// Random bytes for it: the code's, and those of the key that its nonces are made with.
pub type Fresh = [u8; 48];

/// Where claims are decided.
#[derive(Debug)]
pub struct ClaimState {
    code: Option<Secret>,
    nonces: hmac::Key,
}

impl ClaimState {
    /// Open, with a fresh code.
    pub fn open(fresh: &Fresh) -> ClaimState {
        let (code, key) = fresh.split_at(16);
        let mut random = [0; 16];
        random.copy_from_slice(code);
        ClaimState {
            code: Some(new_code(random)),
            nonces: hmac::Key::new(hmac::HMAC_SHA256, key),
        }
    }

    /// Closed: the box is claimed.
    pub fn close(&mut self) {
        self.code = None;
    }

    /// The code to show; none when the box is claimed.
    pub fn code(&self) -> Option<&Secret> {
        self.code.as_ref()
    }

    /// Tries a code. A right one does not close it: only a durable claim does.
    pub fn try_code(&self, given: &str) -> Tried {
        let Some(code) = &self.code else { return Tried::Closed };
        let (want, given) = (plain(code.expose()), plain(given));
        if bool::from(want.as_bytes().ct_eq(given.as_bytes())) {
            return Tried::Right;
        }
        Tried::Wrong
    }

    /// A nonce for a key to sign: time, randomness, and a tag by which it is known again.
    pub fn nonce(&self, now: u64, random: [u8; 16]) -> Vec<u8> {
        let mut nonce = now.to_be_bytes().to_vec();
        nonce.extend(random);
        let tag = hmac::sign(&self.nonces, &nonce);
        nonce.extend(&tag.as_ref()[..TAG]);
        nonce
    }

    /// Whether a key's signature claims this box: over a nonce of this one that is not old, for this certificate.
    pub fn try_key(&self, key: &PublicKey, nonce: &[u8], signed: &[u8], certificate: &[u8; 32], now: u64) -> Tried {
        if self.code.is_none() {
            return Tried::Closed;
        }
        let Some((head, tag)) = nonce.len().checked_sub(TAG).map(|at| nonce.split_at(at)) else {
            return Tried::Wrong;
        };
        let own = hmac::sign(&self.nonces, head);
        let made = head.first_chunk().map(|at| u64::from_be_bytes(*at));
        let fresh = made.is_some_and(|at| at <= now && now - at <= NONCE_LIFE);
        let known = bool::from(own.as_ref()[..TAG].ct_eq(tag));
        if known && fresh && key.verifies(&message(certificate, nonce), signed) {
            Tried::Right
        } else {
            Tried::Wrong
        }
    }
}

/// What a key signs to claim the box that shows this certificate (its SHA-256). Bound to it, so that somebody in
/// between, who shows another, gets a signature that is worth nothing.
pub fn message(certificate: &[u8; 32], nonce: &[u8]) -> Vec<u8> {
    [DOMAIN, certificate, nonce].concat()
}

/// Why a line is not the public key of an administrator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("{0} keys are not read here: make one with `ssh-keygen -t ed25519`")]
    Kind(String),
    #[error("it does not begin with ssh-ed25519")]
    Begin,
    #[error("what follows ssh-ed25519 is not base64")]
    Base64,
    #[error("it is cut short or altered: copy the whole line of the .pub file")]
    Altered,
}

/// An administrator's Ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads a line of OpenSSH's: `ssh-ed25519 AAAA… comment` (RFC 8709 section 4, RFC 4253 section 6.6).
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(line: &str) -> Result<PublicKey, KeyError> {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("ssh-ed25519") => {}
            Some(other) if other.starts_with("ssh-") || other.starts_with("ecdsa-") || other.starts_with("sk-") => {
                return Err(KeyError::Kind(other.to_owned()));
            }
            _ => return Err(KeyError::Begin),
        }
        let blob = words.next().and_then(|b| BASE64.decode(b).ok());
        let blob = blob.ok_or(KeyError::Base64)?;
        let mut rest = blob.as_slice();
        let (kind, key) = (ssh_string(&mut rest), ssh_string(&mut rest));
        match (kind, key.map(<[u8; 32]>::try_from)) {
            (Some(b"ssh-ed25519"), Some(Ok(key))) if rest.is_empty() => Ok(PublicKey(key)),
            _ => Err(KeyError::Altered),
        }
    }

    fn verifies(&self, message: &[u8], signed: &[u8]) -> bool {
        let key = signature::UnparsedPublicKey::new(&signature::ED25519, self.0);
        key.verify(message, signed).is_ok()
    }
}

/// A `string` of RFC 4251 section 5: its length in four bytes, and that many bytes.
pub fn ssh_string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk()?;
    let (string, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *from = rest;
    Some(string)
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn pair(seed: u8) -> (Ed25519KeyPair, PublicKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let key = PublicKey(pair.public_key().as_ref().try_into().unwrap());
        (pair, key)
    }

    #[test]
    fn codes_can_be_read_out_and_typed() {
        for byte in 0..=255 {
            let code = new_code([byte; 16]);
            let text = code.expose();
            assert_eq!(text.len(), 19);
            assert_eq!(text.matches('-').count(), 3);
            assert!(!text.contains(['0', 'O', '1', 'I', 'L', 'U']), "{text}");
        }
        assert_ne!(new_code([1; 16]).expose(), new_code([2; 16]).expose());
        let state = ClaimState::open(&[9; 48]);
        let typed = state.code().unwrap().expose().replace('-', " ").to_lowercase();
        assert_eq!(state.try_code(&typed), Tried::Right);
    }

    #[test]
    fn wrong_codes_change_nothing() {
        let mut state = ClaimState::open(&[1; 48]);
        let code = state.code().unwrap().clone();
        let nonce = state.nonce(1000, [5; 16]);
        for n in 0..1000 {
            let guess = new_code([(n % 200) as u8 + 2; 16]);
            for wrong in ["", "2222-2222-2222-2222", guess.expose()] {
                assert_eq!(state.try_code(wrong), Tried::Wrong);
            }
        }
        assert_eq!(state.code().unwrap().expose(), code.expose());
        let (pair, key) = pair(1);
        let signed = pair.sign(&message(&[7; 32], &nonce));
        let tried = state.try_key(&key, &nonce, signed.as_ref(), &[7; 32], 1000);
        assert_eq!(tried, Tried::Right, "a nonce given out before is good still");
        assert_eq!(state.try_code(code.expose()), Tried::Right);
        state.close();
        assert!(state.code().is_none());
        assert_eq!(state.try_code(code.expose()), Tried::Closed);
    }

    #[test]
    fn a_key_claims_this_box_now_and_no_other() {
        let ((pair, key), (other, _)) = (pair(1), pair(2));
        let mut state = ClaimState::open(&[1; 48]);
        let nonce = state.nonce(1000, [5; 16]);
        let sign = |pair: &Ed25519KeyPair, certificate: &[u8; 32], nonce: &[u8]| {
            pair.sign(&message(certificate, nonce)).as_ref().to_vec()
        };
        let good = sign(&pair, &[7; 32], &nonce);
        let check =
            |state: &ClaimState, nonce: &[u8], signed: &[u8], now| state.try_key(&key, nonce, signed, &[7; 32], now);
        assert_eq!(check(&state, &nonce, &good, 1000), Tried::Right);
        assert_eq!(check(&state, &nonce, &good, 1000 + NONCE_LIFE), Tried::Right);
        assert_eq!(
            check(&state, &nonce, &good, 1001 + NONCE_LIFE),
            Tried::Wrong,
            "too late"
        );
        assert_eq!(check(&state, &nonce, &good, 999), Tried::Wrong, "from the future");
        assert_eq!(
            check(&state, &nonce, &sign(&other, &[7; 32], &nonce), 1000),
            Tried::Wrong
        );
        assert_eq!(
            check(&state, &nonce, &sign(&pair, &[8; 32], &nonce), 1000),
            Tried::Wrong,
            "of another box"
        );
        assert_eq!(
            check(&state, &nonce, pair.sign(&nonce).as_ref(), 1000),
            Tried::Wrong,
            "bare"
        );
        let foreign = ClaimState::open(&[2; 48]).nonce(1000, [5; 16]);
        assert_eq!(
            check(&state, &foreign, &sign(&pair, &[7; 32], &foreign), 1000),
            Tried::Wrong
        );
        for short in [&[][..], &nonce[..10], &nonce[..TAG]] {
            assert_eq!(check(&state, short, &good, 1000), Tried::Wrong);
        }
        state.close();
        assert_eq!(check(&state, &nonce, &good, 1000), Tried::Closed);
    }

    #[test]
    fn public_keys_as_ssh_keygen_writes_them() {
        // ssh-keygen -t ed25519 -N "" -C me@laptop
        let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINYvAlRK8HUJCmi1BHxw4fTiYECZCuntkVuYTR1rZHK5 me@laptop\n";
        let key = PublicKey::parse(line).unwrap();
        assert_eq!(key.0[..4], [0xd6, 0x2f, 0x02, 0x54]);
        for (bad, why) in [
            ("", "begin with"),
            ("ssh-rsa AAAA", "ssh-keygen -t ed25519"),
            ("ssh-ed25519", "base64"),
            ("ssh-ed25519 ????", "base64"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINYvAlRK8HUJCmi1", "whole line"),
        ] {
            let said = PublicKey::parse(bad).unwrap_err();
            assert!(said.to_string().contains(why), "{bad}: {said}");
        }
    }
}
