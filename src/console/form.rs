//! Forms, as browsers send them (application/x-www-form-urlencoded).

use std::collections::BTreeMap;

use crate::api::unescaped;

/// Fields of a form at most.
const MOST: usize = 16;

/// The fields of a form. Its values may be secrets: it cannot be printed.
pub(super) struct Form(BTreeMap<String, String>);

impl Form {
    /// None where it is malformed, or a field is there twice.
    pub(super) fn parse(bytes: &[u8]) -> Option<Form> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut fields = BTreeMap::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=')?;
            let before = fields.insert(unescaped(name)?, unescaped(value)?);
            if before.is_some() || fields.len() > MOST {
                return None;
            }
        }
        Some(Form(fields))
    }

    /// Those of a query; none where it is malformed.
    pub(super) fn of_query(query: &str) -> Form {
        Form::parse(query.as_bytes()).unwrap_or(Form(BTreeMap::new()))
    }

    /// A field; empty where it is not there.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_as_they_were_typed() {
        let form = Form::parse(b"member=ada&passphrase=a+b%20%26%C3%A9&next=").unwrap();
        assert_eq!((form.get("member"), form.get("passphrase")), ("ada", "a b &é"));
        assert_eq!((form.get("next"), form.get("other")), ("", ""));
        for bad in [&b"a"[..], b"a=%", b"a=%FF", b"a=1&a=2", b"\xff=1"] {
            assert!(Form::parse(bad).is_none());
        }
        let many: Vec<String> = (0..=MOST).map(|n| format!("f{n}=")).collect();
        assert!(Form::parse(many.join("&").as_bytes()).is_none());
    }
}
