//! The second step: codes that an app makes of a shared secret and the time (TOTP, RFC 6238: HMAC-SHA-1, six digits, thirty
//! seconds, which are what every app knows).

use ring::hmac;
use subtle::ConstantTimeEq;

use crate::model::Secret;

/// Bytes of a secret (RFC 4226 section 4: 160 bits are recommended).
pub const SECRET: usize = 20;
/// A code is one of a step of so many seconds.
const STEP: u64 = 30;
/// Clocks may be so many steps apart, either way (RFC 6238 section 5.2).
const APART: u64 = 1;
/// The letters of base32 (RFC 4648 section 6).
const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A secret as apps take it, made of random bytes.
pub fn secret(random: [u8; SECRET]) -> Secret {
    let mut text = String::with_capacity(SECRET / 5 * 8);
    for five in random.chunks(5) {
        let bits = five.iter().fold(0u64, |bits, b| bits << 8 | u64::from(*b));
        text.extend(
            (0..8)
                .rev()
                .map(|i| char::from(LETTERS[(bits >> (i * 5)) as usize & 31])),
        );
    }
    Secret::new(text)
}

fn bytes(secret: &Secret) -> Option<Vec<u8>> {
    let digit = |b: u8| LETTERS.iter().position(|l| *l == b).map(|n| n as u64);
    let mut out = Vec::with_capacity(SECRET);
    for eight in secret.expose().as_bytes().chunks_exact(8) {
        let mut bits = 0;
        for b in eight {
            bits = bits << 5 | digit(*b)?;
        }
        out.extend((0..5).rev().map(|i| (bits >> (i * 8)) as u8));
    }
    Some(out)
}

fn code(key: &hmac::Key, step: u64) -> u32 {
    let tag = hmac::sign(key, &step.to_be_bytes());
    let tag = tag.as_ref();
    let at = usize::from(tag.last().copied().unwrap_or_default() & 15);
    let four = tag.get(at..at + 4).unwrap_or_default();
    let number = four.iter().fold(0u32, |n, b| n << 8 | u32::from(*b));
    (number & 0x7fff_ffff) % 1_000_000
}

/// The step that a code is of, where it is one of now and later than the last one that was used; `now` in Unix seconds.
pub fn step_of(secret: &Secret, given: &str, last: u64, now: u64) -> Option<u64> {
    let digits: String = given.chars().filter(|c| !c.is_whitespace()).collect();
    if digits.len() != 6 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &bytes(secret)?);
    let now = now / STEP;
    let right = |step: &u64| {
        let code = format!("{:06}", code(&key, *step));
        bool::from(code.as_bytes().ct_eq(digits.as_bytes()))
    };
    (now.saturating_sub(APART)..=now + APART)
        .filter(right)
        .find(|step| *step > last)
}

/// What an app reads from a QR code (the Key URI Format).
pub fn uri(secret: &Secret, member: &str, host: &str) -> Secret {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let host: String = host.chars().map(|c| if plain(c) { c } else { '-' }).collect();
    Secret::new(format!(
        "otpauth://totp/Berth%20{host}:{member}?secret={}&issuer=Berth%20{host}&algorithm=SHA1&digits=6&period={STEP}",
        secret.expose()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238 appendix B, the last six of its eight digits.
    #[test]
    fn codes_are_those_of_the_rfc() {
        let secret = secret(*b"12345678901234567890");
        assert_eq!(secret.expose(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        for (now, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(step_of(&secret, code, 0, now), Some(now / 30), "{now}");
        }
    }

    #[test]
    fn a_code_is_good_for_its_time_and_once() {
        let secret = secret(*b"12345678901234567890");
        let at = |code: &str, last, now| step_of(&secret, code, last, now);
        assert_eq!(at("287 082", 0, 59), Some(1), "as it was typed");
        for (now, good) in [(29, true), (0, true), (89, true), (90, false), (119, false)] {
            assert_eq!(at("287082", 0, now).is_some(), good, "{now}");
        }
        assert_eq!(at("287082", 1, 59), None, "used");
        for wrong in ["287083", "", "28708", "2870822", "28708x", "２８７０８２"] {
            assert_eq!(at(wrong, 0, 59), None, "{wrong}");
        }
    }

    #[test]
    fn the_address_for_apps_has_nothing_unescaped() {
        let uri = uri(&secret([0; 20]), "ada", "192.0.2.7:8443/<x>");
        assert_eq!(
            uri.expose(),
            "otpauth://totp/Berth%20192.0.2.7-8443--x-:ada?secret=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&issuer=Berth%20192.0.2.7-8443--x-&algorithm=SHA1&digits=6&period=30"
        );
    }
}
