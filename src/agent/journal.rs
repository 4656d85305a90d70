//! The agent's stderr, which is the container's log: lines `name: text`, and the last words of each child.
//!
//! Never lets a value of the order's environment through: a child that prints one has it replaced.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::Write;
use std::rc::Rc;

use tokio::net::unix::pipe;
use tokio::sync::Notify;

use crate::mcp::frame::{Line, Splitter};
use crate::model::Secret;

/// A longer line is cut into its first and last bytes.
const MAX_LINE: usize = 4096;
/// Lines remembered of each child.
const WORDS: usize = 20;
/// Characters of each remembered line.
const WORD_LEN: usize = 240;
/// A secret shorter than this is not looked for: it would be found everywhere.
const SHORT: usize = 6;

/// Writes one line.
pub(super) fn say(name: &str, text: &str) {
    let mut line = Vec::with_capacity(name.len() + text.len() + 3);
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b": ");
    line.extend(text.bytes().map(|b| if b == b'\n' || b == b'\r' { b' ' } else { b }));
    line.push(b'\n');
    // Nobody is left to be told when stderr is closed.
    let _ = std::io::stderr().write_all(&line);
}

/// What a child said last, and whether its stderr has ended.
#[derive(Debug, Default)]
pub(super) struct LastWords {
    lines: RefCell<VecDeque<String>>,
    ended: Cell<bool>,
    end: Notify,
}

impl LastWords {
    /// The lines, joined.
    pub(super) fn text(&self) -> String {
        self.lines.borrow().iter().cloned().collect::<Vec<_>>().join(" | ")
    }

    /// Waits until the child's stderr has ended.
    pub(super) async fn ended(&self) {
        while !self.ended.get() {
            self.end.notified().await;
        }
    }

    fn add(&self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        let mut lines = self.lines.borrow_mut();
        if lines.len() == WORDS {
            lines.pop_front();
        }
        lines.push_back(line.trim_end().chars().take(WORD_LEN).collect());
    }
}

/// Copies a child's output to the log, line by line, until it ends.
pub(super) fn drain(name: Rc<str>, pipe: pipe::Receiver, secrets: Rc<[Secret]>, words: Rc<LastWords>) {
    tokio::task::spawn_local(async move {
        let mut splitter = Splitter::new(MAX_LINE);
        let mut chunk = [0u8; 1024];
        while pipe.readable().await.is_ok() {
            match pipe.try_read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => splitter.feed(&chunk[..n], |line| {
                    let text = match line {
                        Line::Whole(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                        Line::TooLong { head, tail } => {
                            format!("{} … {}", String::from_utf8_lossy(head), String::from_utf8_lossy(tail))
                        }
                    };
                    let text = redact(text, &secrets);
                    words.add(&text);
                    say(&name, &text);
                }),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        words.ended.set(true);
        words.end.notify_waiters();
    });
}

pub(super) fn redact(mut text: String, secrets: &[Secret]) -> String {
    for secret in secrets.iter().map(Secret::expose).filter(|s| s.len() >= SHORT) {
        if text.contains(secret) {
            text = text.replace(secret, "***");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_do_not_reach_the_log() {
        let secrets = [Secret::new("hunter2hunter2"), Secret::new("a")];
        assert_eq!(redact("a key=hunter2hunter2!".to_owned(), &secrets), "a key=***!");
    }
}
