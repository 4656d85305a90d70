//! Passphrases: which are taken (NIST SP 800-63B section 3.1.1: a least length, no rules of composition, none that everybody
//! guesses first), and their hashes: Argon2id (RFC 9106) with the parameters that OWASP's Password Storage Cheat Sheet names first.

use argon2::{Algorithm, Argon2, Params, Version};
use subtle::ConstantTimeEq;

use crate::model::{MemberName, PassphraseHash};

/// A passphrase has so many characters at least.
pub const LEAST: usize = 12;
/// And so many bytes at most.
pub const MOST: usize = 1024;

/// Memory in KiB, passes over it, and lanes. Hashes keep those that they were made with.
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What guesses begin with, where it is as good as all of a passphrase. In lower case, and letters only.
const COMMON: [&str; 24] = [
    "abc",
    "admin",
    "administrator",
    "berth",
    "changeme",
    "default",
    "dragon",
    "football",
    "hello",
    "iloveyou",
    "letmein",
    "login",
    "master",
    "monkey",
    "pass",
    "passphrase",
    "password",
    "princess",
    "qwerty",
    "qwertyuiop",
    "root",
    "secret",
    "test",
    "welcome",
];

/// Why a passphrase is not taken. It never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Weak {
    #[error(
        "The passphrase is too short. Use at least {LEAST} characters; a few words that do not belong together are good."
    )]
    Short,
    #[error("The passphrase is too long. Use at most {MOST} bytes.")]
    Long,
    #[error("This passphrase is one of the first that somebody would guess. Choose another.")]
    Common,
}

/// Whether a passphrase is taken for this member.
///
/// # Errors
/// [`Weak`].
pub fn check(passphrase: &str, member: &MemberName) -> Result<(), Weak> {
    if passphrase.len() > MOST {
        return Err(Weak::Long);
    }
    if passphrase.chars().count() < LEAST {
        return Err(Weak::Short);
    }
    match is_common(passphrase, member) {
        true => Err(Weak::Common),
        false => Ok(()),
    }
}

/// Few characters again and again, a row of neighbours, or one common word with what people add to it.
fn is_common(passphrase: &str, member: &MemberName) -> bool {
    let lower = passphrase.to_lowercase();
    let all: Vec<u32> = lower.chars().map(u32::from).collect();
    let mut distinct = all.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let neighbours = all.windows(2).filter(|w| w[0].abs_diff(w[1]) <= 1).count();
    if distinct.len() <= 3 || neighbours * 4 >= (all.len() - 1) * 3 {
        return true;
    }
    let words: String = lower.chars().filter(|c| c.is_alphabetic()).collect();
    let name: String = member.as_str().chars().filter(|c| c.is_alphabetic()).collect();
    let mut common = COMMON.into_iter().chain([name.as_str()]).filter(|w| !w.is_empty());
    // Nothing but it: once, or again and again.
    common.any(|word| !words.is_empty() && words.replace(word, "").is_empty()) || words.is_empty() && all.len() < 16
}

/// The hash of a passphrase, with this salt.
pub fn hash(passphrase: &str, salt: [u8; 16]) -> Option<PassphraseHash> {
    let (memory, passes, lanes) = (MEMORY, PASSES, LANES);
    Some(PassphraseHash {
        memory,
        passes,
        lanes,
        salt,
        hash: derive(passphrase, &salt, (memory, passes, lanes))?,
    })
}

/// Whether a passphrase is the one of this hash. Without a hash it takes as long, and is not.
pub fn matches(passphrase: &str, kept: Option<&PassphraseHash>) -> bool {
    let by = kept.map_or((MEMORY, PASSES, LANES), |k| (k.memory, k.passes, k.lanes));
    let salt = kept.map_or([0; 16], |k| k.salt);
    let derived = derive(passphrase, &salt, by);
    match (derived, kept) {
        (Some(derived), Some(kept)) => derived.ct_eq(&kept.hash).into(),
        _ => false,
    }
}

fn derive(passphrase: &str, salt: &[u8], (memory, passes, lanes): (u32, u32, u32)) -> Option<[u8; 32]> {
    let params = Params::new(memory, passes, lanes, Some(32)).ok()?;
    let mut out = [0; 32];
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(passphrase.as_bytes(), salt, &mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> MemberName {
        MemberName::parse("ada-lovelace").unwrap()
    }

    #[test]
    fn a_passphrase_has_a_length_and_no_other_rule() {
        let long = "horse ".repeat(170) + "more";
        for (passphrase, said) in [
            ("correct horse battery", Ok(())),
            ("nur kleine buchstaben", Ok(())),
            ("долгая фраза", Ok(())),
            ("tr0ub4dor&3x", Ok(())),
            ("elevenchars", Err(Weak::Short)),
            ("日本語日本語", Err(Weak::Short)),
            ("", Err(Weak::Short)),
            (long.as_str(), Ok(())),
            ("aaaaaaaaaaaaaaaa", Err(Weak::Common)),
            ("123456789012", Err(Weak::Common)),
            ("abcdefghijklmnop", Err(Weak::Common)),
            ("Password1234!", Err(Weak::Common)),
            ("PasswordPassword", Err(Weak::Common)),
            ("adalovelace1815", Err(Weak::Common)),
            ("240519870612", Err(Weak::Common)),
        ] {
            assert_eq!(check(passphrase, &ada()), said, "{passphrase:?}");
        }
        assert_eq!(check(&"ab c".repeat(257), &ada()), Err(Weak::Long));
    }

    #[test]
    fn a_hash_is_of_one_passphrase_and_says_nothing() {
        let kept = hash("correct horse battery", [7; 16]).unwrap();
        assert!(matches("correct horse battery", Some(&kept)));
        assert!(!matches("correct horse batterz", Some(&kept)));
        assert!(!matches("correct horse battery", None));
        assert_ne!(hash("correct horse battery", [8; 16]).unwrap().hash, kept.hash);
        assert_eq!(format!("{kept:?}"), "PassphraseHash(…)");
        assert_eq!((kept.memory, kept.passes, kept.lanes), (19456, 2, 1));
        let other = PassphraseHash {
            memory: 64,
            passes: 1,
            ..kept.clone()
        };
        let other = PassphraseHash {
            hash: derive("x", &[7; 16], (64, 1, 1)).unwrap(),
            ..other
        };
        assert!(matches("x", Some(&other)), "by the parameters that it was made with");
    }
}
