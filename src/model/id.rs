//! Identifiers, parsed once: private fields, fallible constructors, ordered so that plans compare as text.

use std::{
    borrow::Cow,
    hash::{Hash, Hasher},
    sync::{Arc, LazyLock},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Why a text is not an identifier. The message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not valid: {rule}")]
pub struct ParseError {
    what: &'static str,
    given: String,
    rule: &'static str,
}

fn slug(s: &str, min: usize, max: usize) -> bool {
    let b = s.as_bytes();
    (min..=max).contains(&b.len())
        && b.iter()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
        && b.first().is_some_and(|c| *c != b'-')
        && b.last().is_some_and(|c| *c != b'-')
}

/// The texts that [`slug`] takes from 1 to 40 characters, as a regular expression.
const SLUG: &str = "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$";

/// The text of an id of fixed length: there are many, and each lies where it is used. Its characters are ASCII.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Fixed<const N: usize>([u8; N]);

impl<const N: usize> Fixed<N> {
    /// Of a text that was checked; one of another length would be cut or filled up.
    fn of(text: &str) -> Self {
        let mut bytes = [b'a'; N];
        bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        Self(bytes)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// As the text, which it can be looked up by.
impl<const N: usize> Hash for Fixed<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text().hash(state);
    }
}

/// The text of a name, which its copies share.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Shared(Arc<str>);

impl Shared {
    fn of(text: &str) -> Self {
        Self(text.into())
    }

    fn text(&self) -> &str {
        &self.0
    }
}

macro_rules! id {
    ($(#[doc = $doc:literal])+ $name:ident($text:ty), $what:literal, $rule:literal, $pattern:expr, |$s:ident| $valid:expr) => {
        $(#[doc = $doc])+
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name($text);

        impl $name {
            /// The texts that [`Self::parse`] takes, as a regular expression (ECMA-262).
            pub const PATTERN: &str = $pattern;

            /// Checks and wraps a text.
            ///
            /// # Errors
            /// [`ParseError`] with the rule that the text breaks.
            pub fn parse($s: &str) -> Result<Self, ParseError> {
                if $valid {
                    Ok(Self(<$text>::of($s)))
                } else {
                    Err(ParseError { what: $what, given: $s.chars().take(80).collect(), rule: $rule })
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                self.0.text()
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.as_str()).finish()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseError;
            fn from_str(s: &str) -> Result<Self, ParseError> {
                Self::parse(s)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseError;
            fn try_from(s: String) -> Result<Self, ParseError> {
                Self::parse(&s)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": Self::PATTERN, "description": concat!($($doc),+).trim() })
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
    };
}

id!(
    /// An instance's id: 10 characters of `a-z2-7`, the first a letter; safe in a hostname label.
    InstanceId(Fixed<10>), "instance id", "an id is 10 characters of a-z and 2-7, starting with a letter; `berth list` shows them",
    "^[a-z][a-z2-7]{9}$",
    |s| s.len() == 10 && s.bytes().all(|c| c.is_ascii_lowercase() || (b'2'..=b'7').contains(&c)) && s.as_bytes()[0].is_ascii_lowercase()
);
id!(
    /// A box's id, made at first start: tells one supervisor's containers from another's.
    BoxId(Fixed<16>), "box id", "a box id is 16 hexadecimal digits in lower case",
    "^[0-9a-f]{16}$",
    |s| s.len() == 16 && s.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
);
id!(
    /// A token's public id (the secret itself is stored only as a hash): 12 characters of `a-z2-7`.
    TokenId(Fixed<12>), "token id", "a token id is 12 characters of a-z and 2-7; `berth token list` shows them",
    "^[a-z2-7]{12}$",
    |s| s.len() == 12 && s.bytes().all(|c| c.is_ascii_lowercase() || (b'2'..=b'7').contains(&c))
);
id!(
    /// An instance type's name, also the stem of its file.
    TypeName(Shared), "type name", "use 1 to 40 of a-z, 0-9 and '-', neither first nor last a '-'",
    SLUG,
    |s| slug(s, 1, 40)
);
id!(
    /// A workspace's name.
    WorkspaceName(Shared), "workspace name", "use 1 to 40 of a-z, 0-9 and '-', neither first nor last a '-'",
    SLUG,
    |s| slug(s, 1, 40)
);
id!(
    /// What a person calls an instance; unique in its workspace.
    InstanceName(Shared), "instance name", "use 1 to 40 of a-z, 0-9 and '-', neither first nor last a '-'",
    SLUG,
    |s| slug(s, 1, 40)
);

id!(
    /// A member's name; unique on the box. The first one is `admin`, who claimed it.
    MemberName(Shared), "member name", "use 1 to 40 of a-z, 0-9 and '-', neither first nor last a '-'",
    SLUG,
    |s| slug(s, 1, 40)
);

id!(
    /// A team's name; unique in its workspace.
    TeamName(Shared), "team name", "use 1 to 40 of a-z, 0-9 and '-', neither first nor last a '-'",
    SLUG,
    |s| slug(s, 1, 40)
);

/// What an instance's token starts with, so that scanners for leaked secrets can tell it.
pub const INSTANCE_TOKEN_PREFIX: &str = "brt_i_";
/// What a member's token starts with.
pub const MEMBER_TOKEN_PREFIX: &str = "brt_m_";

/// The digits of ids.
pub const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl InstanceId {
    /// An id from 10 random bytes; the first maps to a letter.
    pub fn from_random(bytes: [u8; 10]) -> Self {
        let mut text = bytes.map(|b| BASE32[usize::from(b % 32)]);
        text[0] = BASE32[usize::from(bytes[0] % 26)];
        Self(Fixed(text))
    }
}

impl TokenId {
    /// An id from 12 random bytes.
    pub fn from_random(bytes: [u8; 12]) -> Self {
        Self(Fixed(bytes.map(|b| BASE32[usize::from(b % 32)])))
    }
}

impl MemberName {
    /// The administrator's: `admin`.
    pub fn admin() -> Self {
        static ADMIN: LazyLock<MemberName> = LazyLock::new(|| MemberName(Shared::of("admin")));
        ADMIN.clone()
    }

    /// The text, shared with this name.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0.0)
    }
}

impl WorkspaceName {
    /// The workspace that is meant where none is named: `default`.
    pub fn meant() -> &'static Self {
        static DEFAULT: LazyLock<WorkspaceName> = LazyLock::new(|| WorkspaceName(Shared::of("default")));
        &DEFAULT
    }
}

/// The workspace that is meant where none is named: `default`.
impl Default for WorkspaceName {
    fn default() -> Self {
        Self::meant().clone()
    }
}

impl BoxId {
    /// An id from 8 random bytes.
    pub fn from_random(bytes: [u8; 8]) -> Self {
        Self(Fixed::of(&super::hex(&bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_parse() {
        for b in 0..=255u8 {
            let id = InstanceId::from_random([b; 10]);
            assert_eq!(InstanceId::parse(id.as_str()), Ok(id));
            let id = TokenId::from_random([b; 12]);
            assert_eq!(TokenId::parse(id.as_str()), Ok(id));
            let id = BoxId::from_random([b; 8]);
            assert_eq!(BoxId::parse(id.as_str()), Ok(id));
        }
    }

    /// A text that comes near to an identifier.
    fn texts() -> impl proptest::strategy::Strategy<Value = String> {
        proptest::string::string_regex("[a-z0-9A-Z2-7-]{0,3}[a-f0-7]{5,15}[a-z-]{0,2}|[a-z0-9-]{0,42}|.{0,12}").unwrap()
    }

    proptest::proptest! {
        #[test]
        fn a_pattern_takes_what_its_parser_takes(text in texts()) {
            agree(&text);
        }
    }

    fn agree(text: &str) {
        let takes = |pattern: &str| regex_lite::Regex::new(pattern).unwrap().is_match(text);
        for (pattern, parsed) in [
            (InstanceId::PATTERN, InstanceId::parse(text).is_ok()),
            (BoxId::PATTERN, BoxId::parse(text).is_ok()),
            (TokenId::PATTERN, TokenId::parse(text).is_ok()),
            (TypeName::PATTERN, TypeName::parse(text).is_ok()),
            (WorkspaceName::PATTERN, WorkspaceName::parse(text).is_ok()),
            (InstanceName::PATTERN, InstanceName::parse(text).is_ok()),
            (MemberName::PATTERN, MemberName::parse(text).is_ok()),
            (TeamName::PATTERN, TeamName::parse(text).is_ok()),
        ] {
            assert_eq!(takes(pattern), parsed, "{text:?} {pattern}");
        }
    }

    #[test]
    fn patterns_and_parsers_agree_at_their_bounds() {
        let long = |n: usize| "a".repeat(n);
        for text in [
            "",
            "a",
            "-",
            "a-",
            "-a",
            "a-b",
            "A",
            "ä",
            "a b",
            "a\n",
            "\na",
            "abcdefghij",
            "2bcdefghij",
            "abcdefgh1j",
            "0123456789abcdef",
            "0123456789abcdeg",
            "abcdefghijkl",
            "a/b",
        ] {
            agree(text);
        }
        for n in [9, 10, 11, 12, 13, 15, 16, 17, 39, 40, 41] {
            agree(&long(n));
        }
    }

    #[test]
    fn bad_ids_are_refused_with_the_rule() {
        for bad in [
            "",
            "abc",
            "2bcdefghij",
            "ABCDEFGHIJ",
            "abcdefgh1j",
            "abcdefghijk",
            "../../etc/",
        ] {
            let e = InstanceId::parse(bad).expect_err(bad).to_string();
            assert!(e.contains("berth list"), "{e}");
        }
        for bad in ["", "-a", "a-", "A", "a b", "ä", &"a".repeat(41)] {
            assert!(TypeName::parse(bad).is_err(), "{bad}");
        }
    }
}
