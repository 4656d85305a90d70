//! What the headers of a Streamable HTTP request say (MCP 2026-07-28, basic/transports/streamable-http).
//!
//! Looks at headers alone; whether they agree with a body is for [`matches()`] and its callers. Never trusts a header
//! over the body.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::HeaderMap;

use super::version::{self, Era};

/// The session header, in lower case.
pub const SESSION: &str = "mcp-session-id";
/// The version header, in lower case.
pub const VERSION: &str = "mcp-protocol-version";

/// Who sends the request, said by the edge to the agent: the public id of the token. Nobody else is believed: the edge
/// replaces what a client says there, and the agent passes it on to no server.
pub const PRINCIPAL: &str = "berth-principal";

/// The path that the client used, said by the edge to the agent with a GET: outside, an endpoint has several. Replaced and
/// kept from servers as [`PRINCIPAL`] is.
pub const PATH: &str = "berth-path";

/// What a client can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// `application/json`
    pub json: bool,
    /// `text/event-stream`
    pub sse: bool,
}

/// Reads `Accept`; no header means everything.
pub fn accepts(headers: &HeaderMap) -> Accepts {
    let mut seen = false;
    let mut out = Accepts {
        json: false,
        sse: false,
    };
    for value in headers.get_all(http::header::ACCEPT) {
        seen = true;
        for part in value.to_str().unwrap_or_default().split(',') {
            let mut bits = part.split(';').map(str::trim);
            let kind = bits.next().unwrap_or_default();
            if bits.any(|p| p == "q=0" || p == "q=0.0") {
                continue;
            }
            let all = kind == "*/*";
            out.json |= all || kind.eq_ignore_ascii_case("application/json") || kind == "application/*";
            out.sse |= all || kind.eq_ignore_ascii_case("text/event-stream") || kind == "text/*";
        }
    }
    if seen { out } else { Accepts { json: true, sse: true } }
}

/// Whether `Accept` names event streams, and not just anything.
pub fn names_sse(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(http::header::ACCEPT).iter();
    let mut kinds = lines.flat_map(|l| l.to_str().unwrap_or_default().split(','));
    kinds.any(|k| {
        let kind = k.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/event-stream")
    })
}

/// Whether the body is declared as JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    let kind = text(headers, "content-type").unwrap_or_default();
    kind.split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .eq_ignore_ascii_case("application/json")
}

/// Whether the body is declared as a stream of events.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE);
    let kind = kind.map_or(&b""[..], http::HeaderValue::as_bytes);
    kind.get(..17)
        .is_some_and(|k| k.eq_ignore_ascii_case(b"text/event-stream"))
}

/// Whether the body is in some encoding: JSON cannot be read from it as it is.
pub fn is_encoded(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(http::header::CONTENT_ENCODING).iter();
    lines
        .flat_map(|l| l.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// The protocol version that is named, and its era; that is `None` for a version that is not served.
pub fn version(headers: &HeaderMap) -> Option<(&str, Option<Era>)> {
    text(headers, VERSION).map(|v| (v, version::era(v)))
}

/// Whether the request names a version of the modern era.
pub fn is_modern(headers: &HeaderMap) -> bool {
    version(headers).is_some_and(|(_, era)| era == Some(Era::Modern))
}

/// Holds a header against what the body means; the text says what is wrong. Some headers are `coded`: see [`decode`].
///
/// # Errors
/// The header, which is called `name`, is missing, or says something else.
pub(super) fn agree(headers: &HeaderMap, name: &str, meant: &str, coded: bool) -> Result<(), String> {
    match text(headers, name) {
        None => Err(format!("{name} is missing")),
        Some(said) if coded && decode(said).as_deref() == Some(meant) => Ok(()),
        Some(said) if !coded && said == meant => Ok(()),
        Some(said) => Err(format!("{name} is {said}, the body says {meant}")),
    }
}

/// A header's text; `None` when absent, empty text when it is not visible ASCII.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|v| v.to_str().unwrap_or_default().trim())
}

/// The value that an `Mcp-Name` or `Mcp-Param-*` header carries: plain, or `=?base64?…?=` decoded. `None` when it
/// cannot be one.
pub fn decode(value: &str) -> Option<String> {
    let Some(inner) = value.strip_prefix("=?base64?").and_then(|v| v.strip_suffix("?=")) else {
        return value
            .bytes()
            .all(|b| (0x20..0x7f).contains(&b) || b == b'\t')
            .then(|| value.to_owned());
    };
    String::from_utf8(BASE64_STANDARD.decode(inner).ok()?).ok()
}

/// A text as an `Mcp-Name` or `Mcp-Param-*` header carries it: see [`decode`], which undoes it.
pub fn encode(text: &str) -> String {
    let plain =
        text.bytes().all(|b| (0x20..0x7f).contains(&b)) && text.trim() == text && !text.starts_with("=?base64?");
    if plain {
        text.to_owned()
    } else {
        format!("=?base64?{}?=", BASE64_STANDARD.encode(text))
    }
}

/// Whether a header's value stands for `value`; integers are compared as numbers.
pub fn matches(header: &str, value: &serde_json::Value) -> bool {
    let Some(said) = decode(header) else { return false };
    match value {
        serde_json::Value::String(s) => said == *s,
        serde_json::Value::Bool(b) => said == if *b { "true" } else { "false" },
        serde_json::Value::Number(n) => match (said.trim().parse::<f64>(), n.as_f64()) {
            (Ok(a), Some(b)) => a == b,
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded() {
        assert_eq!(decode("us-west1").as_deref(), Some("us-west1"));
        assert_eq!(
            decode("=?base64?SGVsbG8sIOS4lueVjA==?=").as_deref(),
            Some("Hello, 世界")
        );
        assert_eq!(
            decode("=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=").as_deref(),
            Some("=?base64?literal?=")
        );
        assert_eq!(decode("=?base64?!!!?="), None);
        assert_eq!(decode("=?base64?SGVsbG8?="), None, "padding is part of it");
        assert!(matches("42.0", &serde_json::json!(42)));
        assert!(!matches("x", &serde_json::json!(42)));
    }

    #[test]
    fn encodings_are_noticed() {
        for (text, encoded) in [
            ("gzip", true),
            ("identity, br", true),
            ("identity", false),
            ("Identity", false),
            ("", false),
        ] {
            let mut h = HeaderMap::new();
            assert!(!is_encoded(&h));
            h.insert("content-encoding", text.parse().expect("header"));
            assert_eq!(is_encoded(&h), encoded, "{text}");
        }
    }

    #[test]
    fn accept_is_read() {
        let mut h = HeaderMap::new();
        assert_eq!(accepts(&h), Accepts { json: true, sse: true });
        h.insert(
            "accept",
            "application/json;q=0.9, text/event-stream;q=0".parse().expect("header"),
        );
        assert_eq!(accepts(&h), Accepts { json: true, sse: false });
        h.insert("accept", "image/png".parse().expect("header"));
        assert_eq!(
            accepts(&h),
            Accepts {
                json: false,
                sse: false
            }
        );
    }
}
