//! F2: standard output and standard error of the supervisor and of the verbs. The only place that writes to either
//! (`tests/structure.rs` checks it), so that whatever is printed has passed [`escape`]: nothing that a server, a package or
//! a file says reaches a terminal as a command. [`Stream::raw`] is for whoever asked for it by name.

use std::io::{self, IsTerminal, Write};

use crate::escape::{self, Pieces};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    Out,
    Error,
}

fn write(to: To, bytes: &[u8]) -> io::Result<()> {
    let written = match to {
        To::Out => {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        To::Error => io::stderr().lock().write_all(bytes),
    };
    match written {
        // `| head`: nobody reads on.
        Err(e) if to == To::Out && e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

/// Prints text to standard output; a closed pipe ends the program quietly.
///
/// # Errors
/// Standard output cannot be written.
pub fn out(text: &str) -> io::Result<()> {
    write(To::Out, escape::text(text).as_bytes())
}

/// Prints a JSON document to standard output: escaped, and the same to whoever parses it.
///
/// # Errors
/// Standard output cannot be written.
pub fn json(document: &str) -> io::Result<()> {
    write(To::Out, escape::json(document).as_bytes())
}

/// Prints text to standard error, without a newline of its own. Where that fails there is nobody to tell.
pub fn error(text: &str) {
    let _ = write(To::Error, escape::text(text).as_bytes());
}

/// The same with a newline.
pub fn error_line(text: &str) {
    let _ = write(To::Error, format!("{}\n", escape::text(text)).as_bytes());
}

/// Prints what comes piece by piece.
#[derive(Debug)]
pub struct Stream {
    to: To,
    /// None: as it is.
    pieces: Option<Pieces>,
}

impl Stream {
    pub fn new(to: To) -> Self {
        Self {
            to,
            pieces: Some(Pieces::default()),
        }
    }

    /// One that escapes nothing, for whoever asked for that.
    pub fn raw(to: To) -> Self {
        Self { to, pieces: None }
    }

    /// # Errors
    /// It cannot be written.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match &mut self.pieces {
            Some(pieces) => write(self.to, pieces.next(piece).as_bytes()),
            None => write(self.to, piece),
        }
    }

    /// Prints what was held back because the rest of a character was to come.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn end(mut self) -> io::Result<()> {
        match &mut self.pieces {
            Some(pieces) => write(self.to, pieces.end().as_bytes()),
            None => Ok(()),
        }
    }
}

/// Whether standard error is a terminal, at which a person may sit.
pub fn errors_are_seen() -> bool {
    io::stderr().is_terminal()
}

/// Writes a file's bytes, such as a picture, to standard output.
///
/// # Errors
/// Standard output is a terminal, or cannot be written.
pub fn file(bytes: &[u8]) -> io::Result<()> {
    if io::stdout().is_terminal() {
        return Err(io::Error::other(
            "standard output is a terminal: send it to a file or a pipe",
        ));
    }
    write(To::Out, bytes)
}

/// Draws a whole screen from its first row; the sequences that place the rows are this function's own.
///
/// # Errors
/// Standard output cannot be written.
pub fn screen(rows: &[String]) -> io::Result<()> {
    let rows: Vec<_> = rows.iter().map(|r| escape::line(r)).collect();
    write(
        To::Out,
        format!("\x1b[H{}\x1b[K\x1b[J", rows.join("\x1b[K\n")).as_bytes(),
    )
}

/// Takes the last character off the screen again.
///
/// # Errors
/// Standard output cannot be written.
pub fn rub_out() -> io::Result<()> {
    write(To::Out, b"\x08 \x08")
}

/// Lets panics speak through this module, too: their messages may quote anything.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| error_line(&format!("berth: {panic}"))));
}
