//! Server-sent events as bytes, and event ids (MCP 2025-11-25, basic/transports, "Resumability and Redelivery").
//!
//! Never writes a line end inside `data`: what it is given is JSON, in which raw line ends become spaces.

/// A comment that only keeps the connection open.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// The id of an event: which stream, and its place in it. Globally unique within an agent's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// The stream it was sent on.
    pub lane: u64,
    /// Its place, counted from 1.
    pub seq: u32,
}

impl EventId {
    /// Reads `Last-Event-ID`; `None` when it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let (lane, seq) = text.trim().split_once('-')?;
        Some(Self {
            lane: u64::from_str_radix(lane, 16).ok()?,
            seq: u32::from_str_radix(seq, 16).ok()?,
        })
    }
}

/// One `message` event with a JSON text as its data.
pub fn event(id: Option<EventId>, json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() + 48);
    out.extend_from_slice(b"event: message\n");
    put_id(&mut out, id);
    out.extend_from_slice(b"data: ");
    let from = out.len();
    out.extend(json.iter().map(|b| if *b == b'\n' || *b == b'\r' { b' ' } else { *b }));
    if memchr::memchr2(0xc2, 0xe2, json).is_some() {
        escape_separators(&mut out, from);
    }
    out.extend_from_slice(b"\n\n");
    out
}

/// Line separators of Unicode, which JSON has in strings alone: some clients take them for line ends, and lose the event.
fn escape_separators(out: &mut Vec<u8>, from: usize) {
    const SIGNS: [(&[u8], &[u8]); 3] = [
        (b"\xe2\x80\xa8", b"\\u2028"),
        (b"\xe2\x80\xa9", b"\\u2029"),
        (b"\xc2\x85", b"\\u0085"),
    ];
    let text = out.split_off(from);
    let mut rest = text.as_slice();
    while let Some(at) = memchr::memchr2(0xc2, 0xe2, rest) {
        let (before, after) = rest.split_at(at);
        out.extend_from_slice(before);
        rest = match SIGNS.iter().find(|(raw, _)| after.starts_with(raw)) {
            Some((raw, escaped)) => {
                out.extend_from_slice(escaped);
                &after[raw.len()..]
            }
            None => {
                out.push(after[0]);
                &after[1..]
            }
        };
    }
    out.extend_from_slice(rest);
}

/// The first event of a stream of 2024-11-05: where its client posts to, as a reference relative to the stream's own URI.
pub fn endpoint(uri: &str) -> Vec<u8> {
    format!("event: endpoint\ndata: {uri}\n\n").into_bytes()
}

/// An event with an id and no data: gives the client something to resume from, and says how soon to try
/// (2025-11-25 and later).
pub fn prime(id: EventId) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    put_id(&mut out, Some(id));
    out.extend_from_slice(b"retry: 1000\ndata: \n\n");
    out
}

fn put_id(out: &mut Vec<u8>, id: Option<EventId>) {
    if let Some(id) = id {
        out.extend_from_slice(format!("id: {:x}-{:x}\n", id.lane, id.seq).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_of_unicode_are_no_line_ends() {
        let text =
            String::from_utf8(event(None, "{\"a\":\"x\u{2028}y\u{2029}\u{85}é–\u{2027}\"}".as_bytes())).expect("utf-8");
        let data = text
            .lines()
            .nth(1)
            .and_then(|l| l.strip_prefix("data: "))
            .expect("data");
        assert!(!text.contains(['\u{2028}', '\u{2029}', '\u{85}']));
        let value: serde_json::Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(value["a"], "x\u{2028}y\u{2029}\u{85}é–\u{2027}");
    }

    #[test]
    fn ids_come_back() {
        let id = EventId { lane: 0x1f, seq: 10 };
        let text = String::from_utf8(event(Some(id), b"{\"a\":\n1}")).expect("utf-8");
        assert_eq!(text, "event: message\nid: 1f-a\ndata: {\"a\": 1}\n\n");
        assert_eq!(EventId::parse("1f-a"), Some(id));
        assert_eq!(EventId::parse("1f"), None);
        assert_eq!(EventId::parse("-"), None);
    }
}
