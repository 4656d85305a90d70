//! The serial log, read as it grows, and the words in it that fail a test.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
};

/// What must not stand in any log of a box, whatever a test does to it.
const FATAL: [&str; 12] = [
    "Kernel panic",
    "Oops:",
    "BUG: ",
    "general protection fault",
    "Call Trace:",
    "Found ordering cycle",
    "ordering cycle",
    "Failed with result",
    "[FAILED]",
    "emergency mode",
    "could not find or verify its root",
    "XFS (vda7): Corruption",
];

/// The kernel's out-of-memory killer.
const OOM: [&str; 2] = ["Out of memory", "oom-kill"];

/// All boots of a machine go to one file; what is asked of it is asked of the running boot.
pub struct Serial {
    path: PathBuf,
    /// Where the running boot begins.
    from: Cell<usize>,
}

impl Serial {
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            from: Cell::new(0),
        }
    }

    /// The machine is about to be started.
    pub fn boots(&self) {
        self.from
            .set(std::fs::metadata(&self.path).map_or(0, |m| m.len() as usize));
    }

    pub fn text(&self) -> String {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        let boot = bytes.get(self.from.get()..).unwrap_or_default();
        String::from_utf8_lossy(boot).replace('\r', "")
    }

    pub fn has(&self, words: &str) -> bool {
        self.text().contains(words)
    }

    /// The rest of the first line that has these words.
    pub fn after(&self, words: &str) -> Option<String> {
        let text = self.text();
        let at = text.find(words)? + words.len();
        Some(text[at..].lines().next().unwrap_or_default().trim().to_owned())
    }

    /// The last lines, for a failure's words.
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// The first line of a log that must fail its test, with what a test expects left out.
pub fn fatal_line(text: &str, expected: &[&str]) -> Option<String> {
    text.lines()
        .find(|line| {
            let bad = FATAL.iter().chain(&OOM).any(|word| line.contains(word));
            bad && !expected.iter().any(|word| line.contains(word))
        })
        .map(str::to_owned)
}
