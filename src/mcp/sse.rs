//! Server-sent events as bytes, and event ids (MCP 2025-11-25, basic/transports, "Resumability and Redelivery"); the reader
//! of another server's stream.
//!
//! Never writes a line end inside `data`: what it is given is JSON, in which raw line ends become spaces.

/// A comment that only keeps the connection open.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// A longer id of another server's event is not kept.
const MAX_ID: usize = 1024;

/// The id of an event: which stream, and its place in it. Globally unique within an agent's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// The stream it was sent on.
    pub stream: u64,
    /// Its place, counted from 1.
    pub seq: u32,
}

impl EventId {
    /// Reads `Last-Event-ID`; `None` when it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let (stream, seq) = text.trim().split_once('-')?;
        Some(Self {
            stream: u64::from_str_radix(stream, 16).ok()?,
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
    put_line(&mut out, json);
    out.extend_from_slice(b"\n\n");
    out
}

/// A JSON text as one line of data, which no client takes for several.
pub fn line(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    put_line(&mut out, json);
    out
}

fn put_line(out: &mut Vec<u8>, json: &[u8]) {
    let from = out.len();
    out.extend(json.iter().map(|b| if *b == b'\n' || *b == b'\r' { b' ' } else { *b }));
    if memchr::memchr2(0xc2, 0xe2, json).is_some() {
        escape_separators(out, from);
    }
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
        out.extend_from_slice(format!("id: {:x}-{:x}\n", id.stream, id.seq).as_bytes());
    }
}

/// One event of a stream that is read.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// Its type; `message` where it names none.
    pub kind: String,
    /// Its lines of data, joined by line ends.
    pub data: Vec<u8>,
}

/// Reads a stream in pieces (WHATWG HTML, "Server-sent events", 9.2.6). Events without data, such as those that only give
/// an id, are left out. Holds the unfinished event: how much may be fed is for the caller to bound.
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed after it ends no other line.
    after_return: bool,
    kind: String,
    /// Each line with a line end behind it.
    data: Vec<u8>,
    /// The id that the unfinished event names, and that of the last whole one.
    ids: (Option<String>, Option<String>),
    retry: Option<u64>,
}

impl Reader {
    /// Bytes of the unfinished event.
    pub fn held(&self) -> usize {
        self.line.len() + self.data.len()
    }

    /// The id to take the stream up again from, after the last whole event that named one.
    pub fn last_id(&self) -> Option<&str> {
        self.ids.1.as_deref()
    }

    /// How long to wait before the stream is taken up again, in milliseconds, where the stream has said it.
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Takes a piece and gives the events that end in it.
    pub fn feed(&mut self, piece: &[u8], mut take: impl FnMut(Event)) {
        for byte in piece {
            let second = std::mem::replace(&mut self.after_return, *byte == b'\r');
            match byte {
                b'\n' if second => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    if let Some(event) = self.line(&line) {
                        take(event);
                    }
                }
                other => self.line.push(*other),
            }
        }
    }

    /// Takes one line; the event that it ends.
    fn line(&mut self, line: &[u8]) -> Option<Event> {
        if line.is_empty() {
            if let Some(id) = self.ids.0.take() {
                self.ids.1 = Some(id).filter(|id| !id.is_empty());
            }
            let kind = std::mem::take(&mut self.kind);
            let mut data = std::mem::take(&mut self.data);
            data.pop()?;
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            return Some(Event { kind, data });
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match line[..colon].strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line[..colon]) {
            b"event" => self.kind = String::from_utf8_lossy(value).into_owned(),
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"id" if value.len() <= MAX_ID && !value.contains(&0) => {
                self.ids.0 = Some(String::from_utf8_lossy(value).into_owned());
            }
            b"retry" => {
                let text = std::str::from_utf8(value).ok();
                self.retry = text.and_then(|t| t.parse().ok()).or(self.retry);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_however_it_is_cut() {
        let text = "\u{feff}: hello\nid: 1\nretry: 5\ndata\n\nevent: endpoint\r\ndata: /messages?x=1\r\n\r\n\
                    data:{\"a\":\rdata:1}\r\r: beat\n\nid: 7\n\ndata: unfinished";
        let event = |kind: &str, data: &str| Event {
            kind: kind.to_owned(),
            data: data.as_bytes().to_vec(),
        };
        // Of the first event, the one line of data is empty.
        let want = [
            event("message", ""),
            event("endpoint", "/messages?x=1"),
            event("message", "{\"a\":\n1}"),
        ];
        for size in 1..text.len() {
            let (mut reader, mut got) = (Reader::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                reader.feed(piece, |e| got.push(e));
            }
            assert_eq!(got, want, "in pieces of {size}");
            assert_eq!((reader.last_id(), reader.retry()), (Some("7"), Some(5)));
            assert_eq!(reader.held(), "data: unfinished".len());
        }
    }

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
        let id = EventId { stream: 0x1f, seq: 10 };
        let text = String::from_utf8(event(Some(id), b"{\"a\":\n1}")).expect("utf-8");
        assert_eq!(text, "event: message\nid: 1f-a\ndata: {\"a\": 1}\n\n");
        assert_eq!(EventId::parse("1f-a"), Some(id));
        assert_eq!(EventId::parse("1f"), None);
        assert_eq!(EventId::parse("-"), None);
    }
}
