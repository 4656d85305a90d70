//! A glance at a JSON-RPC message as it passes: its method, what it calls, what its client is called, and how an answer went.
//! Reads bytes as they come, keeps no more than those few words, and never holds the message up: what is no JSON says nothing.

use memchr::memchr2;

use super::meta;

/// Longer words are cut, in bytes.
const WORD: usize = 128;
/// Members deeper than that are not looked at.
const DEPTH: usize = 4;
/// Messages of a batch that are told apart; the bridge takes no more.
const BATCH: usize = 256;
/// How far the end of a string is looked for byte by byte.
const NEAR: usize = 16;
/// Longer names of members are none of ours, however they are escaped.
const NAME: usize = 256;

/// What one message asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    pub method: Option<String>,
    /// `params.name`. What it is the method says.
    pub name: Option<String>,
}

impl Message {
    /// The tool or the prompt that it calls; a name of anything else is what somebody sent.
    pub fn called(&self) -> Option<&str> {
        let calls = matches!(self.method.as_deref(), Some("tools/call" | "prompts/get"));
        self.name.as_deref().filter(|_| calls)
    }
}

/// What was said, by a message or by those of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    pub message: Message,
    /// Those before it, of a batch.
    pub more: Vec<Message>,
    /// The name in `clientInfo`, of `initialize` or of a request's `_meta`.
    pub client: Option<String>,
    /// It has a `result`.
    pub result: bool,
    /// It has an `error`.
    pub error: bool,
    /// The result says of itself that it is an error (`isError`).
    pub is_error: bool,
}

impl Said {
    /// The messages of a batch so far, but for one of them.
    pub fn further(&self) -> u16 {
        u16::try_from(self.more.len()).unwrap_or(u16::MAX)
    }
}

/// The members that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Other,
    Method,
    Params,
    Name,
    ClientInfo,
    Meta,
    MetaClient,
    Result,
    Error,
    IsError,
}

impl Key {
    fn of(raw: &[u8]) -> Key {
        let unescaped = raw.contains(&b'\\').then(|| word(raw)).flatten();
        match unescaped.as_ref().map_or(raw, |text| text.as_bytes()) {
            b"method" => Key::Method,
            b"params" => Key::Params,
            b"name" => Key::Name,
            b"clientInfo" => Key::ClientInfo,
            b"_meta" => Key::Meta,
            name if name == meta::CLIENT.as_bytes() => Key::MetaClient,
            b"result" => Key::Result,
            b"error" => Key::Error,
            b"isError" => Key::IsError,
            _ => Key::Other,
        }
    }
}

/// Where in a message we are, of the places that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Other,
    Method,
    /// `params.name`
    Called,
    /// `clientInfo.name`, wherever it may stand.
    Client,
    Result,
    Error,
    IsError,
}

impl Place {
    /// By the names of the members that we are in.
    fn of(path: &[Key]) -> Place {
        match path {
            [Key::Method] => Place::Method,
            [Key::Result] => Place::Result,
            [Key::Error] => Place::Error,
            [Key::Params, Key::Name] => Place::Called,
            [Key::Result, Key::IsError] => Place::IsError,
            [Key::Params, Key::ClientInfo, Key::Name] => Place::Client,
            [Key::Params, Key::Meta, Key::MetaClient, Key::Name] => Place::Client,
            _ => Place::Other,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a member's name, or an element, or behind a value.
    Between,
    /// In a member's name.
    Name,
    /// Behind a name.
    Colon,
    /// Before a value.
    Value,
    /// In a string, of which nothing is kept.
    Text,
    /// In a string that is kept.
    Word,
}

/// Reads one message after the other.
#[derive(Debug)]
pub struct Glance {
    said: Said,
    at: At,
    escaped: bool,
    /// How many brackets are open, but for that of a batch.
    depth: usize,
    batch: bool,
    /// Which of the outermost are objects.
    objects: [bool; DEPTH],
    path: [Key; DEPTH],
    /// That of the value behind the newest name; elements have none.
    place: Place,
    word: Vec<u8>,
}

impl Default for Glance {
    fn default() -> Self {
        Self {
            said: Said::default(),
            at: At::Between,
            escaped: false,
            depth: 0,
            batch: false,
            objects: [false; DEPTH],
            path: [Key::Other; DEPTH],
            place: Place::Other,
            word: Vec::new(),
        }
    }
}

impl Glance {
    /// What a whole message says.
    pub fn at(message: &[u8]) -> Said {
        let mut glance = Glance::default();
        glance.read(message);
        glance.said
    }

    /// What was said so far, of all messages.
    pub fn said(&self) -> &Said {
        &self.said
    }

    /// The next bytes.
    pub fn read(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            match self.at {
                At::Name | At::Text | At::Word => bytes = self.text(bytes),
                _ => {
                    self.structure(*byte);
                    bytes = rest;
                }
            }
        }
    }

    /// A message has ended, whole or not.
    pub fn end_message(&mut self) {
        let said = std::mem::take(&mut self.said);
        *self = Self {
            said,
            ..Self::default()
        };
    }

    /// In a string, up to its end or the end of what has come. What is behind it.
    fn text<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        if self.escaped {
            self.escaped = false;
            self.keep(&bytes[..1]);
            return &bytes[1..];
        }
        let is_end = |b: &u8| matches!(b, b'"' | b'\\');
        // Most are names, and too short to begin a search for.
        let near = bytes.iter().take(NEAR).position(is_end);
        let end = near.or_else(|| Some(NEAR + memchr2(b'"', b'\\', bytes.get(NEAR..)?)?));
        let Some(end) = end else {
            self.keep(bytes);
            return &[];
        };
        if bytes[end] == b'\\' {
            self.escaped = true;
            self.keep(&bytes[..=end]);
        } else {
            self.end_of_text(&bytes[..end]);
        }
        &bytes[end + 1..]
    }

    /// So many bytes of a string are kept.
    fn most(&self) -> usize {
        match self.at {
            // One more than any of ours has.
            At::Name => NAME + 1,
            At::Word => WORD,
            _ => 0,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.most().saturating_sub(self.word.len()).min(bytes.len());
        self.word.extend_from_slice(&bytes[..room]);
    }

    /// A string ends with these bytes.
    fn end_of_text(&mut self, last: &[u8]) {
        if self.word.is_empty() {
            self.is_text(&last[..last.len().min(self.most())]);
        } else {
            self.keep(last);
            let mut word = std::mem::take(&mut self.word);
            self.is_text(&word);
            word.clear();
            self.word = word;
        }
    }

    fn is_text(&mut self, raw: &[u8]) {
        match self.at {
            At::Name => {
                self.place = Place::Other;
                if let Some(path) = self.path.get_mut(..self.depth)
                    && let Some((name, _)) = path.split_last_mut()
                {
                    *name = Key::of(raw);
                    if *name != Key::Other {
                        self.place = Place::of(path);
                    }
                }
                self.at = At::Colon;
            }
            At::Word => {
                let word = word(raw);
                match self.place {
                    Place::Method => self.said.message.method = word,
                    Place::Called => self.said.message.name = word,
                    _ => self.said.client = word,
                }
                self.at = At::Between;
            }
            _ => self.at = At::Between,
        }
    }

    /// Of what is deeper than we look it is all the same.
    fn in_object(&self) -> bool {
        let innermost = self.depth.checked_sub(1).and_then(|d| self.objects.get(d));
        innermost.is_some_and(|object| *object)
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b'[' if self.depth == 0 && !self.batch => self.batch = true,
            b'{' | b'[' => {
                if self.depth == 0 && self.batch && self.said.more.len() < BATCH {
                    let before = std::mem::take(&mut self.said.message);
                    self.said.more.extend(Some(before).filter(|m| *m != Message::default()));
                }
                self.value();
                if self.depth < DEPTH {
                    self.objects[self.depth] = byte == b'{';
                    self.path[self.depth] = Key::Other;
                }
                self.depth += 1;
                self.place = Place::Other;
                self.at = At::Between;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.place = Place::Other;
                self.at = At::Between;
            }
            b'"' if self.at == At::Between && self.in_object() => self.at = At::Name,
            b'"' => {
                let wanted = matches!(self.place, Place::Method | Place::Called | Place::Client);
                self.value();
                self.at = if wanted { At::Word } else { At::Text };
            }
            b':' if self.at == At::Colon => self.at = At::Value,
            b' ' | b'\t' | b'\r' | b'\n' | b',' => {}
            _ if self.at == At::Value => {
                if self.place == Place::IsError && byte == b't' {
                    self.said.is_error = true;
                }
                if byte != b'n' {
                    self.value();
                }
                self.at = At::Between;
            }
            _ => {}
        }
    }

    /// A value begins that is not `null`.
    fn value(&mut self) {
        match self.place {
            Place::Result => self.said.result = true,
            Place::Error => self.said.error = true,
            _ => {}
        }
    }
}

/// A string of JSON without its quotes, cut where it is long; none where it is no text.
fn word(raw: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(raw);
    if !text.contains('\\') {
        return Some(text.into_owned());
    }
    // An escape that was cut at the end is not shown.
    (0..12).find_map(|cut| {
        let text = text.get(..text.len().checked_sub(cut)?)?;
        serde_json::from_str(&format!("\"{text}\"")).ok()
    })
}

/// The messages of a batch, whole, but for one of them. One message is none.
pub fn further(sent: &[u8]) -> u16 {
    let begin = sent.iter().find(|b| !b.is_ascii_whitespace());
    match begin {
        Some(b'[') => Glance::at(sent).further(),
        _ => 0,
    }
}

/// The same for an answer that may be a stream of events (`text/event-stream`), of which each is a message.
#[derive(Debug, Default)]
pub struct Events {
    glance: Glance,
    /// The beginning of the line that we are in, up to where it is known what it is.
    line: Vec<u8>,
    data: bool,
}

impl Events {
    /// What was said so far.
    pub fn said(&self) -> &Said {
        self.glance.said()
    }

    /// The next bytes.
    pub fn read(&mut self, mut bytes: &[u8]) {
        const DATA: &[u8] = b"data:";
        while !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let (line, rest) = match end {
                Some(end) => (&bytes[..end], &bytes[end + 1..]),
                None => (bytes, &[][..]),
            };
            if self.data {
                self.glance.read(line);
            } else if self.line.len() < DATA.len() {
                let (begin, more) = line.split_at(line.len().min(DATA.len() - self.line.len()));
                self.line.extend_from_slice(begin);
                if self.line == DATA {
                    self.data = true;
                    self.glance.read(more);
                }
            }
            if end.is_some() {
                // An empty line ends the event.
                if self.line.trim_ascii().is_empty() {
                    self.glance.end_message();
                }
                self.line.clear();
                self.data = false;
            }
            bytes = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(text: &str) -> Said {
        Glance::at(text.as_bytes())
    }

    #[test]
    fn what_a_message_says_is_seen() {
        let call = said(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"name":"no","method":"no"},"name":"say \"hi\""}}"#,
        );
        assert_eq!(call.message.method.as_deref(), Some("tools/call"));
        assert_eq!(call.message.called(), Some("say \"hi\""));
        assert!(!call.result && !call.error);
        let init = said(r#"{"method":"initialize","params":{"clientInfo":{"version":"1","name":"c"}}}"#);
        assert_eq!(init.client.as_deref(), Some("c"));
        let modern = said(
            r#"{"params":{"_meta":{"io.modelcontextprotocol/clientInfo":{"name":"m"},"name":"x"}},"method":"tools/list"}"#,
        );
        assert_eq!((modern.client.as_deref(), modern.message.name), (Some("m"), None));
        let batch = said(
            r#"[{"method":"tools/call","params":{"name":"x","arguments":[{"method":"no"}]}},{"method":"b","params":{"name":"secret"}},{"method":"c"}]"#,
        );
        let told: Vec<_> = batch.more.iter().chain([&batch.message]).collect();
        let told: Vec<_> = told.iter().map(|m| (m.method.as_deref(), m.called())).collect();
        assert_eq!(
            told,
            [(Some("tools/call"), Some("x")), (Some("b"), None), (Some("c"), None)]
        );
        let hidden = said(r#"{"m\u0065thod":"tools/call","params":{"n\u0061me":"x"}}"#);
        assert_eq!(
            (hidden.message.method.as_deref(), hidden.message.called()),
            (Some("tools/call"), Some("x"))
        );
        let deep = format!(
            r#"{{"params":{{"a":{}{},"name":"x"}},"method":"m"}}"#,
            "[".repeat(500),
            "]".repeat(500)
        );
        assert_eq!(
            (
                said(&deep).message.method.as_deref(),
                said(&deep).message.name.as_deref()
            ),
            (Some("m"), Some("x"))
        );
    }

    #[test]
    fn how_an_answer_went_is_seen() {
        let how = |text: &str| {
            let said = said(text);
            (said.result, said.error, said.is_error)
        };
        assert_eq!(how(r#"{"id":1,"result":{"content":[]}}"#), (true, false, false));
        assert_eq!(
            how(r#"{"id":1,"result":{"content":[],"isError":true}}"#),
            (true, false, true)
        );
        assert_eq!(how(r#"{"id":1,"result":{"isError":false}}"#), (true, false, false));
        assert_eq!(
            how(r#"{"id":1,"result":{"content":[{"text":"\"isError\":true","isError":true}]}}"#),
            (true, false, false),
            "what a tool says is not what its answer says"
        );
        assert_eq!(
            how(r#"{"id":1,"error":{"code":1,"message":"m"}}"#),
            (false, true, false)
        );
        assert_eq!(
            how(r#"{"id":1,"result":null,"error":{"code":1}}"#),
            (false, true, false)
        );
        assert_eq!(how(r#"{"id":1,"result":{"error":{"code":1}}}"#), (true, false, false));
        assert_eq!(how(r#"{"result":"x"}"#), (true, false, false));
        assert_eq!(how(r#"{"result":1}"#), (true, false, false));
        assert_eq!(how("hello"), (false, false, false));
    }

    #[test]
    fn events_are_messages() {
        let text = "id: 1\r\ndata: {\"method\":\"notifications/progress\",\"params\":{\"name\":\"x\"}}\n\n: \"error\":\nevent: message\ndata: {\"id\":1,\ndata: \"result\":{\"isError\":true}}\n\n";
        for size in [1, 2, 7, text.len()] {
            let mut events = Events::default();
            for piece in text.as_bytes().chunks(size) {
                events.read(piece);
            }
            let said = events.said();
            assert!(said.result && said.is_error && !said.error, "{size}: {said:?}");
        }
    }

    proptest! {
        /// Read in pieces or whole, and beside what a parser of JSON says.
        #[test]
        fn it_sees_what_is_there(
            method in "[ -~]{0,20}", name in any::<String>(), text in any::<String>(), error in any::<bool>(), size in 1usize..40,
        ) {
            let message = serde_json::json!({
                "result": {"isError": error, "content": [{"text": text, "name": text}]},
                "params": {"x": [text, {"name": "no"}], "name": name},
                "method": method,
            });
            let bytes = message.to_string();
            let mut glance = Glance::default();
            bytes.as_bytes().chunks(size).for_each(|piece| glance.read(piece));
            let said = glance.said().clone();
            prop_assert_eq!(&said, &Glance::at(bytes.as_bytes()));
            prop_assert_eq!((said.message.method.as_deref(), said.is_error), (Some(method.as_str()), error));
            if serde_json::Value::from(name.as_str()).to_string().len() < WORD {
                prop_assert_eq!(said.message.name, Some(name));
            }
        }

        #[test]
        fn it_takes_whatever_comes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut glance = Glance::default();
            glance.read(&bytes);
            let mut events = Events::default();
            events.read(&bytes);
        }
    }
}
