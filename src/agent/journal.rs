//! The agent's stderr, which is the container's log: lines `name: text`, and the last words of each child.
//!
//! Never lets a value of the order's environment through: what a child prints is cleaned by [`redact`] before anything
//! else looks at it.
//!
//! [`redact`]: super::redact

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::Write;
use std::rc::Rc;

use tokio::net::unix::pipe;
use tokio::sync::Notify;

use super::redact::{Patterns, Redactor};
use crate::mcp::frame::{Line, Splitter};

/// A longer line is cut into its first and last bytes.
const MAX_LINE: usize = 4096;
/// Lines remembered of each child.
const WORDS: usize = 20;
/// Characters of each remembered line.
const WORD_LEN: usize = 240;

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
    /// The last line that names an error, and how many came after it: a stack may be longer than what is kept.
    error: RefCell<Option<(String, usize)>>,
    ended: Cell<bool>,
    end: Notify,
}

impl LastWords {
    /// The lines, joined.
    pub(super) fn text(&self) -> String {
        let lines = self.lines.borrow();
        let error = self.error.borrow();
        let lost = error
            .iter()
            .filter(|(_, after)| *after >= lines.len())
            .map(|(line, _)| line);
        lost.chain(lines.iter())
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" | ")
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
        let word: String = line.trim_end().chars().take(WORD_LEN).collect();
        let mut error = self.error.borrow_mut();
        if word.contains("rror:") && !word.starts_with(char::is_whitespace) {
            *error = Some((word.clone(), 0));
        } else if let Some((_, after)) = &mut *error {
            *after += 1;
        }
        lines.push_back(word);
    }
}

/// Copies a child's output to the log, line by line, until it ends.
pub(super) fn drain(name: Rc<str>, pipe: pipe::Receiver, secrets: Rc<Patterns>, words: Rc<LastWords>) {
    tokio::task::spawn_local(async move {
        let mut redactor = Redactor::new(secrets);
        let mut splitter = Splitter::new(MAX_LINE);
        let mut chunk = [0u8; 1024];
        let unended = Cell::new(false);
        let mut take = |clean: &[u8]| {
            unended.set(clean.last().is_some_and(|b| *b != b'\n'));
            splitter.feed(clean, |line| {
                let text = match line {
                    Line::Whole(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    Line::TooLong { head, tail } => {
                        format!("{} … {}", String::from_utf8_lossy(head), String::from_utf8_lossy(tail))
                    }
                };
                words.add(&text);
                say(&name, &text);
            });
        };
        while pipe.readable().await.is_ok() {
            match pipe.try_read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => redactor.feed(&chunk[..n], &mut take),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        redactor.finish(&mut take);
        if unended.get() {
            take(b"\n");
        }
        words.ended.set(true);
        words.end.notify_waiters();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_not_lost_behind_its_stack() {
        let words = LastWords::default();
        words.add("starting");
        words.add("Fatal error: password authentication failed");
        assert_eq!(words.text(), "starting | Fatal error: password authentication failed");
        for n in 0..WORDS {
            words.add(&format!("    at step {n}"));
        }
        let text = words.text();
        assert!(text.starts_with("Fatal error: password"), "{text}");
        assert!(text.ends_with("at step 19") && !text.contains("starting"), "{text}");
    }
}
