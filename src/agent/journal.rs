//! The agent's stderr, which is the container's log: lines `name: text`, and the last words of each child.
//!
//! Never lets a value of the order's environment through: what a child prints is cleaned by [`redact`] before anything
//! else looks at it.
//!
//! [`redact`]: super::redact

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::unix::pipe;
use tokio::sync::Notify;

use super::redact::{Patterns, Redactor};
use crate::mcp::frame::{Line, Splitter};
use crate::model::{Bounds, Excerpt};

/// A longer line is cut into its first and last bytes.
const MAX_LINE: usize = 4096;
/// What is remembered of each child: its first lines, which may be long since they say what to do, and its last ones.
const WORDS: Bounds = Bounds {
    first: (4, 480),
    last: (12, 240),
};

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

/// What a child said first and last, and whether its stderr has ended.
#[derive(Debug)]
pub(super) struct LastWords {
    lines: RefCell<Excerpt>,
    ended: Cell<bool>,
    end: Notify,
}

impl Default for LastWords {
    fn default() -> Self {
        Self {
            lines: RefCell::new(Excerpt::new(WORDS)),
            ended: Cell::default(),
            end: Notify::default(),
        }
    }
}

impl LastWords {
    /// The lines, joined.
    pub(super) fn text(&self) -> String {
        self.lines.borrow().text()
    }

    /// Waits until the child's stderr has ended.
    pub(super) async fn ended(&self) {
        while !self.ended.get() {
            self.end.notified().await;
        }
    }
}

/// Copies a child's output to the log, line by line, until it ends.
pub(super) fn drain(name: Rc<str>, pipe: pipe::Receiver, secrets: Arc<Patterns>, words: Rc<LastWords>) {
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
                words.lines.borrow_mut().push(&text);
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
    fn the_first_line_of_a_stack_stays_and_all_is_within_the_bound() {
        let words = LastWords::default();
        let advice = "Process terminated. Couldn't find a valid ICU package installed on the system. Please install \
                      libicu (or icu-libs) using your package manager and try again. Alternatively you can set the \
                      configuration flag System.Globalization.Invariant to true if you want to run with no support.";
        words.lines.borrow_mut().push(advice);
        for n in 0..1000 {
            words
                .lines
                .borrow_mut()
                .push(&format!("    at step {n} {}", "x".repeat(9999)));
        }
        let text = words.text();
        assert!(text.starts_with(advice), "{text}");
        assert!(text.contains("at step 999") && !text.contains("at step 500 "), "{text}");
        assert!(text.len() < 5000, "{}", text.len());
    }
}
