//! A word of whoever asks for something once, by which they can ask again without its being done again
//! (draft-ietf-httpapi-idempotency-key-header).

/// 1 to 255 visible ASCII characters, quotes among them: programs write it with quotes or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Its characters, at most.
    pub const LONGEST: usize = 255;

    /// The texts that are one, as a regular expression (ECMA-262).
    pub const PATTERN: &str = "^[!-~]{1,255}$";

    /// Reads one.
    pub fn parse(text: &str) -> Option<Self> {
        let good = (1..=Self::LONGEST).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        good.then(|| Self(text.to_owned()))
    }

    /// The key itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_a_length_and_an_alphabet() {
        let longest = "~".repeat(IdempotencyKey::LONGEST);
        for good in ["!", "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"", &longest] {
            assert_eq!(IdempotencyKey::parse(good).expect(good).as_str(), good);
        }
        for bad in ["", " ", "a b", "a\t", "ä", "a\u{7f}", &format!("{longest}~")] {
            assert_eq!(IdempotencyKey::parse(bad), None, "{bad}");
        }
    }
}
