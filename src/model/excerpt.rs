//! What somebody said, line by line, within a bound: the first lines and the last ones. The first line of a stack often
//! says what to do, the last one where it happened.

use std::collections::VecDeque;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// So many of the first lines, and characters of each.
    pub first: (usize, usize),
    /// So many of the last lines, and characters of each.
    pub last: (usize, usize),
}

/// A bounded record of lines.
#[derive(Debug)]
pub struct Excerpt {
    bounds: Bounds,
    first: Vec<String>,
    last: VecDeque<String>,
    /// The last line that names an error, by its number, where it is none of the first ones: what follows it may be more
    /// than is kept.
    error: Option<(usize, String)>,
    total: usize,
}

impl Excerpt {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            first: Vec::new(),
            last: VecDeque::new(),
            error: None,
            total: 0,
        }
    }

    /// Takes a line; its end and empty lines count for nothing.
    pub fn push(&mut self, line: &str) {
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        let cut = |characters| line.chars().take(characters).collect::<String>();
        let (lines, characters) = self.bounds.first;
        if self.first.len() < lines {
            self.first.push(cut(characters));
        } else {
            let (lines, characters) = self.bounds.last;
            let word = cut(characters);
            if word.contains("rror:") && !word.starts_with(char::is_whitespace) {
                self.error = Some((self.total, word.clone()));
            }
            if self.last.len() == lines {
                self.last.pop_front();
            }
            self.last.push_back(word);
        }
        self.total += 1;
    }

    /// What is kept, joined, with a mark where lines fell out.
    pub fn text(&self) -> String {
        let kept_from = self.total - self.last.len();
        let left_out = kept_from - self.first.len();
        let error = self
            .error
            .as_ref()
            .filter(|(at, _)| *at < kept_from)
            .map(|(_, line)| line);
        let mut all: Vec<&str> = self.first.iter().map(String::as_str).collect();
        let mark = format!("… {} lines left out …", left_out - usize::from(error.is_some()));
        if left_out > usize::from(error.is_some()) {
            all.push(&mark);
        }
        all.extend(error.map(String::as_str));
        all.extend(self.last.iter().map(String::as_str));
        all.join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: impl IntoIterator<Item = String>) -> String {
        let mut excerpt = Excerpt::new(Bounds {
            first: (2, 40),
            last: (3, 12),
        });
        lines.into_iter().for_each(|l| excerpt.push(&l));
        excerpt.text()
    }

    fn steps(n: usize) -> impl Iterator<Item = String> {
        (0..n).map(|n| format!("   at step {n}"))
    }

    #[test]
    fn both_ends_are_kept() {
        let lines = |n| std::iter::once("Install libicu, or set X=1.\n".to_owned()).chain(steps(n));
        assert_eq!(of(lines(0)), "Install libicu, or set X=1.");
        assert_eq!(
            of(lines(4)),
            "Install libicu, or set X=1. |    at step 0 |    at step 1 |    at step 2 |    at step 3"
        );
        assert_eq!(
            of(lines(50)),
            "Install libicu, or set X=1. |    at step 0 | … 46 lines left out … |    at step 4 |    at step 4 |    at step 4"
        );
    }

    #[test]
    fn the_last_error_is_not_lost_behind_its_stack() {
        let begin = ["starting", "listening", "ready", "Error: bad", "   Error: it"];
        let lines = begin.map(str::to_owned).into_iter().chain(steps(5));
        assert_eq!(
            of(lines),
            "starting | listening | … 4 lines left out … | Error: bad |    at step 2 |    at step 3 |    at step 4"
        );
    }

    #[test]
    fn empty_lines_count_for_nothing() {
        assert_eq!(of(["a\r\n", "", "  \n", "b"].map(str::to_owned)), "a | b");
        assert_eq!(of([]), "");
    }
}
