//! Questions to the person at the terminal. Secrets are typed unseen, and the terminal is as it was afterwards, also when
//! the person breaks off.

use std::{
    fs::File,
    io::{self, BufRead, IsTerminal, Read},
};

use anyhow::{Context, Result, bail};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::output;

/// A secret may be this long, in bytes.
const MAX_SECRET: u64 = 4096;

/// Whether there is a person to ask.
pub(super) fn person() -> bool {
    io::stdin().is_terminal() && output::errors_are_seen()
}

/// A question with yes or no for an answer; nothing is no.
pub(super) fn yes(question: &str) -> Result<bool> {
    output::error(&format!("{question} [yes/no] "));
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("no answer came")?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// A line that is typed for all to see.
pub(super) fn seen(question: &str) -> Result<String> {
    output::error(question);
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("no answer came")?;
    Ok(line.trim().to_owned())
}

/// The first line of standard input.
pub(super) fn piped() -> Result<String> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .take(MAX_SECRET)
        .read_line(&mut line)
        .context("standard input cannot be read")?;
    let line = line.trim();
    if line.is_empty() {
        bail!("standard input is empty");
    }
    Ok(line.to_owned())
}

struct Restore<'a>(&'a File, Termios);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.0, SetArg::TCSANOW, &self.1);
        output::error_line("");
    }
}

/// A line that is typed unseen.
pub(super) fn unseen(question: &str) -> Result<String> {
    let terminal = File::open("/dev/tty").context("there is no terminal to ask at")?;
    let before = tcgetattr(&terminal).context("the terminal cannot be asked")?;
    let mut quiet = before.clone();
    // Without signals from keys: Ctrl-C must not leave the terminal mute.
    quiet
        .local_flags
        .remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
    // Muted before it asks: what is typed from then on is neither shown nor lost.
    let _restore = Restore(&terminal, before);
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &quiet).context("the terminal cannot be muted")?;
    output::error(&format!("{question} "));
    let mut typed = Vec::new();
    for byte in io::BufReader::new(&terminal).bytes() {
        match byte.context("the terminal is gone")? {
            b'\r' | b'\n' => break,
            3 | 4 => bail!("interrupted"),
            8 | 127 => {
                typed.pop();
            }
            21 => typed.clear(),
            other if typed.len() < MAX_SECRET as usize => typed.push(other),
            _ => {}
        }
    }
    Ok(String::from_utf8_lossy(&typed).trim().to_owned())
}
