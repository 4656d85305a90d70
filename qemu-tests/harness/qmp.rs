//! QEMU's monitor (QMP): commands and events as JSON lines on a Unix socket.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    events: VecDeque<Value>,
    line: String,
}

impl Qmp {
    /// Connects and leaves negotiation behind.
    pub fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut q = Self {
            writer: stream.try_clone()?,
            reader: BufReader::new(stream),
            events: VecDeque::new(),
            line: String::new(),
        };
        q.read(Duration::from_secs(60))
            .ok_or_else(|| std::io::Error::other("QEMU's monitor said nothing"))?;
        q.call("qmp_capabilities", json!({}));
        Ok(q)
    }

    /// One message, or `None` at the deadline or when QEMU is gone.
    fn read(&mut self, deadline: Duration) -> Option<Value> {
        let end = Instant::now() + deadline;
        loop {
            match self.reader.read_line(&mut self.line) {
                Ok(0) => return None,
                Ok(_) => {
                    let message = serde_json::from_str(&self.line).unwrap();
                    self.line.clear();
                    return Some(message);
                }
                // What came of a line stays in it.
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= end {
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
    }

    /// A command that must succeed; what it returned.
    pub fn call(&mut self, command: &str, arguments: Value) -> Value {
        self.try_call(command, arguments)
            .unwrap_or_else(|e| panic!("QEMU's {command}: {e}"))
    }

    pub fn try_call(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let mut text = json!({ "execute": command, "arguments": arguments }).to_string();
        text.push('\n');
        self.writer.write_all(text.as_bytes()).map_err(|e| e.to_string())?;
        loop {
            let mut message = self.read(super::patience(120)).ok_or("no answer")?;
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else if let Some(e) = message.get("error") {
                return Err(e.to_string());
            } else {
                return Ok(message["return"].take());
            }
        }
    }

    /// Whether an event of this name came, or comes until the deadline.
    pub fn event(&mut self, name: &str, deadline: Duration) -> Option<Value> {
        if let Some(at) = self.events.iter().position(|e| e["event"] == name) {
            return self.events.remove(at);
        }
        let end = Instant::now() + deadline;
        loop {
            let message = self.read(end.saturating_duration_since(Instant::now()))?;
            if message["event"] == name {
                return Some(message);
            }
            if message.get("event").is_some() {
                self.events.push_back(message);
            }
        }
    }
}
