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
    out.extend(json.iter().map(|b| if *b == b'\n' || *b == b'\r' { b' ' } else { *b }));
    out.extend_from_slice(b"\n\n");
    out
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
    fn ids_come_back() {
        let id = EventId { lane: 0x1f, seq: 10 };
        let text = String::from_utf8(event(Some(id), b"{\"a\":\n1}")).expect("utf-8");
        assert_eq!(text, "event: message\nid: 1f-a\ndata: {\"a\": 1}\n\n");
        assert_eq!(EventId::parse("1f-a"), Some(id));
        assert_eq!(EventId::parse("1f"), None);
        assert_eq!(EventId::parse("-"), None);
    }
}
