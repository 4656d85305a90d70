//! Reads what people are told: README, SECURITY and the pages in `docs/`. Their fenced blocks and the commands in these, so
//! that tests can hold each to what the code does.
//!
//! | block | holds |
//! | --- | --- |
//! | `sh` | commands, one a line; `\` at the end continues, `#` begins a comment |
//! | `toml` | a file or a part of one; its first line says which |
//! | no word | a picture |

use std::{fs, path::Path};

/// A file that people read.
#[derive(Debug)]
pub struct Page {
    /// Its path in the checkout.
    pub name: String,
    pub text: String,
}

/// What stands between two fences.
#[derive(Debug)]
pub struct Block {
    /// The word after the first fence; empty where there is none.
    pub language: String,
    /// `docs/types.md:12`, of its first line.
    pub at: String,
    pub text: String,
}

/// A command of an `sh` block.
#[derive(Debug)]
pub struct Command {
    /// `docs/types.md:12`
    pub at: String,
    /// One line, without its comment.
    pub line: String,
}

/// The README first, then the rest by name.
pub fn pages() -> Vec<Page> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = vec!["README.md".to_owned()];
    let docs = fs::read_dir(root.join("docs")).expect("a folder docs");
    let mut found: Vec<String> = docs
        .map(|e| format!("docs/{}", e.expect("an entry").file_name().to_string_lossy()))
        .filter(|name| name.ends_with(".md"))
        .collect();
    found.extend([
        "SECURITY.md".to_owned(),
        "ARCHITECTURE.md".into(),
        "CHANGELOG.md".into(),
    ]);
    found.sort();
    names.extend(found);
    let read = |name: String| Page {
        text: fs::read_to_string(root.join(&name)).expect("readable"),
        name,
    };
    names.into_iter().map(read).collect()
}

impl Page {
    /// One by its name.
    pub fn of(name: &str) -> Page {
        pages().into_iter().find(|p| p.name == name).expect("a page")
    }

    pub fn blocks(&self) -> Vec<Block> {
        let mut out = Vec::new();
        let mut open: Option<Block> = None;
        for (i, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), open.take()) {
                (Some(_), Some(block)) => out.push(block),
                (Some(language), None) => {
                    open = Some(Block {
                        language: language.to_owned(),
                        at: format!("{}:{}", self.name, i + 2),
                        text: String::new(),
                    });
                }
                (None, Some(mut block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                    open = Some(block);
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block without an end", self.name);
        out
    }

    /// What stands outside of blocks, by its line number.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        let mut inside = false;
        let mut out = Vec::new();
        for (i, line) in self.text.lines().enumerate() {
            if line.starts_with("```") {
                inside = !inside;
            } else if !inside {
                out.push((i + 1, line));
            }
        }
        out
    }

    /// The commands of its `sh` blocks, in order.
    pub fn commands(&self) -> Vec<Command> {
        let shell = self.blocks().into_iter().filter(|b| b.language == "sh");
        shell.flat_map(|b| b.commands()).collect()
    }
}

impl Block {
    fn commands(&self) -> Vec<Command> {
        let (page, first) = self.at.rsplit_once(':').expect("a line number");
        let first: usize = first.parse().expect("a line number");
        let (mut out, mut begun) = (Vec::new(), None::<Command>);
        for (i, text) in self.text.lines().enumerate() {
            let text = without_comment(text).trim();
            let mut command = begun.take().unwrap_or(Command {
                at: format!("{page}:{}", first + i),
                line: String::new(),
            });
            match text.strip_suffix('\\') {
                Some(part) => {
                    command.line.push_str(part);
                    begun = Some(command);
                }
                None => {
                    command.line.push_str(text);
                    out.extend(Some(command).filter(|c| !c.line.is_empty()));
                }
            }
        }
        assert!(begun.is_none(), "{}: the last command does not end", self.at);
        out
    }
}

/// A comment begins at a `#` before which there is nothing or a space, outside of quotes.
fn without_comment(line: &str) -> &str {
    let (mut quote, mut before) = (None, ' ');
    for (at, c) in line.char_indices() {
        match quote {
            Some(q) if c == q => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == '#' && before == ' ' => return &line[..at],
            _ => {}
        }
        before = c;
    }
    line
}
