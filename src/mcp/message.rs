//! Reads a JSON-RPC message only as deep as routing needs, and rewrites ids by splicing text.
//!
//! The whole text is checked to be JSON on the way, so what is passed on to a server is always one valid line.
//! Nothing below the top level (and `params`, where asked) is ever turned into values.

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::codes;

/// What is wrong with a text that is no JSON-RPC message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON (-32700).
    #[error("the message is not valid JSON")]
    NotJson,
    /// JSON, but no request, notification or response (-32600).
    #[error("the message is not a JSON-RPC 2.0 request, notification or response")]
    NotRpc,
}

impl Malformed {
    /// The JSON-RPC error code that says so.
    pub fn code(self) -> i64 {
        match self {
            Self::NotJson => codes::PARSE_ERROR,
            Self::NotRpc => codes::INVALID_REQUEST,
        }
    }
}

/// The three kinds of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Has a method and an id.
    Request,
    /// Has a method and no id.
    Notification,
    /// Has an id and a result or an error (or an error alone).
    Response,
}

/// An object of which only some members are looked at, and those as they stand in the text: name, then field. What is
/// absent is `None`, a member that stands there twice is an error.
macro_rules! raw_object {
    ($(#[$about:meta])* $vis:vis struct $name:ident { $($(#[$doc:meta])* $key:literal => $own:vis $field:ident,)* }) => {
        $(#[$about])*
        #[derive(Debug, Default, serde::Deserialize)]
        $vis struct $name<'a> {
            $(
                $(#[$doc])*
                #[serde(rename = $key, borrow, default, deserialize_with = "crate::mcp::message::present")]
                $own $field: Option<&'a serde_json::value::RawValue>,
            )*
        }
    };
}
pub(super) use raw_object;

raw_object! {
    struct Wire {
        "jsonrpc" => jsonrpc,
        "id" => id,
        "method" => method,
        "params" => params,
        "result" => result,
        "error" => error,
    }
}

/// A string that is borrowed where it can be.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Tells `null` from absent, which a plain `Option` does not.
pub(super) fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(d).map(Some)
}

/// A message and where its parts stand.
#[derive(Debug)]
pub struct Message<'a> {
    /// The text that was parsed.
    pub text: &'a str,
    /// Which kind it is.
    pub kind: Kind,
    /// The id as it stands in the text: a number or a string with its quotes. Empty when there is none.
    pub id: &'a str,
    /// The method; empty in a response.
    pub method: Cow<'a, str>,
    /// The text of `params`, `result` or `error`, where present.
    pub params: Option<&'a str>,
    /// The text of `result`.
    pub result: Option<&'a str>,
    /// The text of `error`.
    pub error: Option<&'a str>,
}

/// Parses one message. Duplicate keys at the top level are refused.
///
/// # Errors
/// [`Malformed`]
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::NotJson)?;
    if !text.trim_ascii_start().starts_with('{') {
        let valid = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        return Err(if valid { Malformed::NotRpc } else { Malformed::NotJson });
    }
    let wire: Wire<'_> = serde_json::from_str(text).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => Malformed::NotRpc,
        _ => Malformed::NotJson,
    })?;
    if wire.jsonrpc.map(RawValue::get) != Some("\"2.0\"") {
        return Err(Malformed::NotRpc);
    }
    let answer = wire.result.is_some() != wire.error.is_some();
    let id = wire.id.map_or("", RawValue::get);
    let method = match wire.method.map(RawValue::get).filter(|raw| *raw != "null") {
        Some(raw) => Some(serde_json::from_str::<Text<'_>>(raw).map_err(|_| Malformed::NotRpc)?.0),
        None => None,
    };
    let kind = match (&method, id, answer) {
        (Some(_), "", false) => Kind::Notification,
        (Some(_), id, false) if is_id(id) => Kind::Request,
        (None, id, true) if is_id(id) || (wire.error.is_some() && (id.is_empty() || id == "null")) => Kind::Response,
        _ => return Err(Malformed::NotRpc),
    };
    Ok(Message {
        text,
        kind,
        id: if id == "null" { "" } else { id },
        method: method.unwrap_or_default(),
        params: wire.params.map(RawValue::get),
        result: wire.result.map(RawValue::get),
        error: wire.error.map(RawValue::get),
    })
}

/// What a server wrote, as it must have meant it: without a byte order mark, with what is no UTF-8 replaced, and an answer
/// without the `null` that stands beside its result or its error. None where nothing of that makes it a message.
pub fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    let bare = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = String::from_utf8_lossy(bare);
    if parse(text.as_bytes()).is_ok() {
        return (text.as_bytes() != bytes).then(|| text.into_owned().into_bytes());
    }
    let wire: Wire<'_> = serde_json::from_str(&text).ok()?;
    let (result, error) = (wire.result.map(RawValue::get)?, wire.error.map(RawValue::get)?);
    let id = wire.id.map(RawValue::get).filter(|id| is_id(id))?;
    let (name, value) = match (result, error) {
        (result, "null") => ("result", result),
        ("null", error) => ("error", error),
        _ => return None,
    };
    Some(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"{name}\":{value}}}").into_bytes())
}

/// Whether the raw text of an `id` (or of a progress token) may be one: a string or a number, at most 1 KiB.
pub fn is_id(raw: &str) -> bool {
    raw.len() <= 1024
        && raw
            .as_bytes()
            .first()
            .is_some_and(|b| *b == b'"' || *b == b'-' || b.is_ascii_digit())
}

/// Where `part`, a slice of `whole`, stands in it.
pub fn place(whole: &str, part: &str) -> Range<usize> {
    let at = part.as_ptr() as usize - whole.as_ptr() as usize;
    at..at + part.len()
}

/// Copies `text` with some places replaced (in ascending order, not overlapping), as one line: raw line ends, which
/// valid JSON has only between its parts, become spaces, and a newline is put behind it.
pub fn splice_line(out: &mut Vec<u8>, text: &str, cuts: &[(Range<usize>, &[u8])]) {
    let from = out.len();
    splice(out, text, cuts);
    for b in &mut out[from..] {
        if *b == b'\n' || *b == b'\r' {
            *b = b' ';
        }
    }
    out.push(b'\n');
}

/// Copies `text` with some places replaced (in ascending order, not overlapping).
pub fn splice(out: &mut Vec<u8>, text: &str, cuts: &[(Range<usize>, &[u8])]) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 24);
    let mut at = 0;
    for (range, new) in cuts {
        out.extend_from_slice(&bytes[at..range.start]);
        out.extend_from_slice(new);
        at = range.end;
    }
    out.extend_from_slice(&bytes[at..]);
}

/// The number, if the raw text of an id is a plain non-negative integer: what our own ids look like. Servers that give it back
/// as a string or with a point mean the same.
pub fn own_id(raw: &str) -> Option<u64> {
    let raw = raw.strip_prefix('"').and_then(|r| r.strip_suffix('"')).unwrap_or(raw);
    let raw = raw.strip_suffix(".0").unwrap_or(raw);
    if raw.len() > 1 && raw.starts_with('0') {
        return None;
    }
    raw.parse().ok()
}

/// The id of an oversized answer, guessed from how it began and ended; only ever trusted for ids that we handed out.
pub fn guess_id(head: &[u8], tail: &[u8]) -> Option<u64> {
    let digits = |b: &[u8]| -> Option<u64> {
        let b = b.trim_ascii_start();
        let n = b.iter().take_while(|c| c.is_ascii_digit()).count();
        std::str::from_utf8(&b[..n]).ok()?.parse().ok()
    };
    if let Some(at) = memchr::memmem::rfind(tail, b"\"id\":") {
        let rest = &tail[at + 5..];
        if rest
            .trim_ascii()
            .strip_suffix(b"}")
            .is_some_and(|r| r.trim_ascii().iter().all(u8::is_ascii_digit))
        {
            return digits(rest);
        }
    }
    let at = memchr::memmem::find(head, b"\"id\":")?;
    let before = &head[..at];
    (memchr::memchr2(b'[', b'{', before.get(1..)?).is_none()).then(|| digits(&head[at + 5..]))?
}

/// An error response as text. `id` is raw; empty for none.
pub fn error(id: &str, code: i64, message: &str, data: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(96 + message.len());
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(if id.is_empty() { b"null" } else { id.as_bytes() });
    out.extend_from_slice(b",\"error\":{\"code\":");
    out.extend_from_slice(itoa::Buffer::new().format(code).as_bytes());
    out.extend_from_slice(b",\"message\":");
    out.extend_from_slice(quote(message).as_bytes());
    if let Some(data) = data {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(data.as_bytes());
    }
    out.extend_from_slice(b"}}");
    out
}

/// A result response as text; `id` and `result` are raw.
pub fn result(id: &str, result: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(40 + id.len() + result.len());
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b",\"result\":");
    out.extend_from_slice(result.as_bytes());
    out.push(b'}');
    out
}

/// A string as a JSON string.
pub fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

raw_object! {
    /// What routing asks of `params`: see [`params`].
    pub struct Params {
        /// `_meta`
        "_meta" => pub meta,
        /// `name` of a tool or prompt
        "name" => pub name,
        /// `uri` of a resource
        "uri" => pub uri,
        /// `arguments` of a call
        "arguments" => pub arguments,
        /// `requestId` of a cancellation
        "requestId" => pub request_id,
        /// `progressToken` of a progress notification
        "progressToken" => pub token,
        /// `requestState` of a retried request (MCP 2026-07-28, multi round-trip requests)
        "requestState" => pub state,
        /// `inputResponses` of a retried request
        "inputResponses" => pub responses,
        /// `protocolVersion` of `initialize`
        "protocolVersion" => pub version,
        /// `capabilities` of `initialize`
        "capabilities" => pub capabilities,
        /// `clientInfo` of `initialize`
        "clientInfo" => pub client,
        /// `notifications` of `subscriptions/listen`, and of its acknowledgement
        "notifications" => pub notifications,
        /// `level` of `logging/setLevel`
        "level" => pub level,
    }
}

/// The parts of `params` that routing knows; `None` when it is not an object or names a part twice.
pub fn params(raw: Option<&str>) -> Option<Params<'_>> {
    object(raw.unwrap_or("{}"))
}

/// Reads an object's known members; `None` for anything but an object.
pub fn object<'a, T: Deserialize<'a>>(raw: &'a str) -> Option<T> {
    if !raw.trim_ascii_start().starts_with('{') {
        return None;
    }
    serde_json::from_str(raw).ok()
}

/// An object's members in their order, names read and values raw; `None` for anything but an object.
pub fn members(raw: &str) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    struct All;
    impl<'de> serde::de::Visitor<'de> for All {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut all = Vec::new();
            while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                all.push((name, value));
            }
            Ok(all)
        }
    }
    serde_json::Deserializer::from_str(raw).deserialize_map(All).ok()
}

/// Puts a member behind others of an object that is being written.
pub fn put_member(out: &mut String, name: &str, raw: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    out.push_str(&quote(name));
    out.push(':');
    out.push_str(raw);
}

/// The value of a raw JSON string.
pub fn string(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tells_the_kinds_apart() {
        let kind = |s: &str| parse(s.as_bytes()).map(|m| m.kind);
        assert_eq!(kind(r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#), Ok(Kind::Request));
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","method":"a","params":{}}"#),
            Ok(Kind::Notification)
        );
        assert_eq!(kind(r#"{"result":null,"jsonrpc":"2.0","id":"x"}"#), Ok(Kind::Response));
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}"#),
            Ok(Kind::Response)
        );
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#),
            Err(Malformed::NotRpc)
        );
        assert_eq!(
            kind(r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}"#),
            Err(Malformed::NotRpc)
        );
        assert_eq!(kind(r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#), Err(Malformed::NotRpc));
        assert_eq!(kind(r#"{"jsonrpc":"2.0","id":1,"method":"a""#), Err(Malformed::NotJson));
        assert_eq!(kind("[]"), Err(Malformed::NotRpc));
        assert_eq!(kind("hello"), Err(Malformed::NotJson));
    }

    #[test]
    fn what_servers_write_is_taken_as_they_mean_it() {
        let mend = |bytes: &[u8]| mended(bytes).map(|b| String::from_utf8(b).expect("utf-8"));
        let plain = r#"{"jsonrpc":"2.0","id":7,"result":{"a":1}}"#;
        assert_eq!(mend(plain.as_bytes()), None, "nothing to mend");
        assert_eq!(mend(format!("\u{feff}{plain}").as_bytes()).as_deref(), Some(plain));
        assert_eq!(
            mend(br#"{"id":7,"error":null,"result":{"a":1},"jsonrpc":"2.0"}"#).as_deref(),
            Some(plain)
        );
        let error = r#"{"jsonrpc":"2.0","id":"7","error":{"code":1,"message":"m"}}"#;
        assert_eq!(
            mend(br#"{"jsonrpc":"2.0","id":"7","result":null,"error":{"code":1,"message":"m"}}"#).as_deref(),
            Some(error)
        );
        assert_eq!(
            mend(b"{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"\xff\"}").as_deref(),
            Some("{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"\u{fffd}\"}")
        );
        for bytes in [
            &b"INFO starting"[..],
            b"{}",
            br#"{"jsonrpc":"2.0","id":7,"result":NaN}"#,
            b"\xff",
            b"",
        ] {
            assert_eq!(mend(bytes), None);
        }
        for (raw, own) in [
            ("17", Some(17)),
            ("\"17\"", Some(17)),
            ("17.0", Some(17)),
            ("\"x\"", None),
            ("017", None),
        ] {
            assert_eq!(own_id(raw), own, "{raw}");
        }
    }

    #[test]
    fn members_keep_their_order_and_text() {
        let all = members(r#" {"b": [1, 2], "a\u0041":null,"b":{}} "#).expect("an object");
        let seen: Vec<(&str, &str)> = all.iter().map(|(k, v)| (&**k, v.get())).collect();
        assert_eq!(seen, [("b", "[1, 2]"), ("aA", "null"), ("b", "{}")]);
        assert!(members("[]").is_none() && members("{").is_none());
        let mut out = "{".to_owned();
        all[..2].iter().for_each(|(k, v)| put_member(&mut out, k, v.get()));
        assert_eq!(out, r#"{"b":[1, 2],"aA":null"#);
    }

    #[test]
    fn ids_are_bounded() {
        let long = "x".repeat(1100);
        for m in [
            format!(r#"{{"jsonrpc":"2.0","id":"{long}","method":"a"}}"#),
            format!(r#"{{"jsonrpc":"2.0","id":"{long}","result":{{}}}}"#),
        ] {
            assert_eq!(parse(m.as_bytes()).map(|m| m.kind), Err(Malformed::NotRpc));
        }
        assert!(!is_id(&format!("\"{long}\"")), "nor does a progress token get longer");
    }

    #[test]
    fn an_id_is_found_at_either_end_of_a_long_line() {
        assert_eq!(guess_id(br#"{"jsonrpc":"2.0","id":17,"result":{"a"#, b"aaaa"), Some(17));
        assert_eq!(
            guess_id(br#"{"result":{"id":3,"#, br#"xx"},"jsonrpc":"2.0","id":18}"#),
            Some(18)
        );
        assert_eq!(guess_id(br#"{"result":{"id":3,"#, br#"xxx"#), None);
    }

    proptest! {
        #[test]
        fn an_id_that_is_replaced_and_put_back_is_the_same(
            id in prop_oneof!["[0-9]{1,9}", "\"[a-z \\\\u00e4]{0,9}\""].prop_filter("id", |s| {
                serde_json::from_str::<serde_json::Value>(s).is_ok()
            }),
            method in "[a-z/]{1,12}", own in any::<u64>(), pad in "[ \n\t]{0,3}",
        ) {
            let text = format!("{{{pad}\"jsonrpc\":\"2.0\",\"id\":{pad}{id}{pad},\"method\":\"{method}\"}}");
            let m = parse(text.as_bytes()).expect("valid");
            let own = own.to_string();
            let mut line = Vec::new();
            splice_line(&mut line, m.text, &[(place(m.text, m.id), own.as_bytes())]);
            prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            let there = parse(&line[..line.len() - 1]).expect("still valid");
            prop_assert_eq!(there.id, &own);
            let mut back = Vec::new();
            splice(&mut back, there.text, &[(place(there.text, there.id), id.as_bytes())]);
            prop_assert_eq!(String::from_utf8(back).expect("utf-8"), text.replace(['\n', '\r'], " "));
        }

        #[test]
        fn garbage_is_refused_not_fatal(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = guess_id(&bytes, &bytes);
        }
    }
}
