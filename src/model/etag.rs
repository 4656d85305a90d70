//! Entity tags (RFC 9110, section 8.8.3): which version of a record somebody knows, and which one they ask for.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::hex;

/// So many tags at most are read of one field.
const MOST: usize = 64;

/// The tag of a record as it stands. In JSON it is the same text as in a header, quotes included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Etag(String);

impl Etag {
    /// The tag of what has this hash.
    pub fn of(hash: &[u8]) -> Self {
        Self(hex(hash.get(..8).unwrap_or(hash)))
    }
}

impl std::fmt::Display for Etag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

impl Serialize for Etag {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Etag {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Ok(Self(text.trim_matches('"').to_owned()))
    }
}

impl JsonSchema for Etag {
    fn schema_name() -> Cow<'static, str> {
        "Etag".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "The entity tag of the record, quotes included: what `If-Match` takes. It changes when settings \
                            of the record change, and not with its live state."
        })
    }
}

/// Which versions of a record a request is for: the value of `If-Match` or `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntityTags {
    /// `*`: any that there is.
    Any,
    These(Vec<EntityTag>),
}

/// A tag that somebody sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag {
    weak: bool,
    opaque: String,
}

impl EntityTags {
    /// Reads `*` or a list of tags (RFC 9110, section 13.1.1); none where it is neither, or has too many.
    pub fn parse(field: &str) -> Option<Self> {
        let blank = |c| matches!(c, ' ' | '\t');
        let mut rest = field.trim_matches(blank);
        if rest == "*" {
            return Some(Self::Any);
        }
        let mut tags = Vec::new();
        loop {
            // A list may have empty elements (section 5.6.1.2).
            rest = rest.trim_start_matches(|c| blank(c) || c == ',');
            if rest.is_empty() {
                break;
            }
            let (weak, quoted) = match rest.strip_prefix("W/") {
                Some(quoted) => (true, quoted),
                None => (false, rest),
            };
            let (opaque, after) = quoted.strip_prefix('"')?.split_once('"')?;
            if !opaque.bytes().all(|b| b.is_ascii_graphic()) || tags.len() == MOST {
                return None;
            }
            let opaque = opaque.to_owned();
            tags.push(EntityTag { weak, opaque });
            rest = after.trim_start_matches(blank);
            if !rest.is_empty() && !rest.starts_with(',') {
                return None;
            }
        }
        (!tags.is_empty()).then_some(Self::These(tags))
    }

    /// Whether the record as it stands is one of these, by the strong comparison that writes take; `None`: it is not there.
    pub fn has(&self, current: Option<&Etag>) -> bool {
        match (self, current) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::These(tags), Some(current)) => tags.iter().any(|t| !t.weak && t.opaque == current.0),
        }
    }

    /// The same by the weak comparison that reads take.
    pub fn has_weakly(&self, current: &Etag) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|t| t.opaque == current.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_star_or_a_list_of_tags() {
        let tag = Etag::of(&[0xab; 32]);
        assert_eq!(tag.to_string(), r#""abababababababab""#);
        for (field, strongly, weakly) in [
            ("*", true, true),
            (r#" "abababababababab" "#, true, true),
            (r#""x", W/"y",,"abababababababab","#, true, true),
            (r#"W/"abababababababab""#, false, true),
            (r#""", "abababababababa""#, false, false),
        ] {
            let tags = EntityTags::parse(field).expect(field);
            assert_eq!(
                (tags.has(Some(&tag)), tags.has_weakly(&tag)),
                (strongly, weakly),
                "{field}"
            );
            assert!(!tags.has(None), "{field}");
        }
        let many = vec![r#""x""#; MOST + 1].join(",");
        for bad in [
            "",
            " ",
            ",",
            "x",
            r#""x"#,
            r#"x""#,
            r#"w/"x""#,
            r#""x" "y""#,
            r#""a b""#,
            r#"*, "x""#,
            r#""x", *"#,
            "\"ä\"",
            &many,
        ] {
            assert_eq!(EntityTags::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn it_is_the_same_text_in_json() {
        let tag = Etag::of(&[1; 32]);
        let json = serde_json::to_value(&tag).unwrap();
        assert_eq!(json, tag.to_string());
        assert_eq!(serde_json::from_value::<Etag>(json).unwrap(), tag);
    }
}
