//! The terminal on the display: an xterm with a shell for people, on which what the assistant runs is shown as it
//! happens. It is a service to whoever looks: if it ends it is started again, and if it does not take what it is to
//! show (somebody stopped it with Ctrl-S, say), that is left out.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    output::Paint,
    process::{Processes, processes},
};

/// What the image starts as its terminal.
const TERMINAL: &str = "/opt/mcp/terminal";
/// How long an ended terminal is left alone.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a new terminal has to start its shell.
const BIRTH: Duration = Duration::from_millis(50);

/// The terminal, or none where there is no display.
#[derive(Debug)]
pub(super) struct Terminal(Mutex<Option<Shown>>);

/// A terminal that runs.
#[derive(Debug)]
struct Shown {
    device: File,
    shell: i32,
}

impl Terminal {
    /// Starts the terminal if there is a display.
    pub(super) fn start(processes: &Arc<Processes>, home: &Path) -> Arc<Self> {
        let this = Arc::new(Self(Mutex::new(None)));
        if std::env::var_os("DISPLAY").is_some() {
            tokio::spawn(keep(Arc::clone(&this), Arc::clone(processes), home.to_owned()));
        }
        this
    }

    /// Shows a command that begins.
    pub(super) fn begins(&self, command: &str, cwd: &Path, home: &Path) {
        let shown = match cwd.strip_prefix(home) {
            Ok(rest) if rest.as_os_str().is_empty() => "~".to_owned(),
            Ok(rest) => format!("~/{}", rest.display()),
            Err(_) => cwd.display().to_string(),
        };
        let mut text = Vec::new();
        Paint::default().feed(command.as_bytes(), &mut text);
        // What a person has typed so far is drawn again when the command has ended.
        let line = format!(
            "\r\x1b[K\x1b[1;36massistant\x1b[0m:\x1b[1;34m{shown}\x1b[0m$ {}\r\n",
            String::from_utf8_lossy(&text)
        );
        self.write(line.as_bytes());
    }

    /// Shows what a command printed.
    pub(super) fn prints(&self, paint: &mut Paint, bytes: &[u8]) {
        let mut text = Vec::new();
        paint.feed(bytes, &mut text);
        self.write(&text);
    }

    /// Shows that a command has ended, and gives the line back to the person's shell.
    pub(super) fn ends(&self, said: Option<&str>, at_line_start: bool) {
        let gap = if at_line_start { "" } else { "\r\n" };
        let said = said.map(|s| format!("\x1b[2m[{s}]\x1b[0m\r\n")).unwrap_or_default();
        self.write(format!("\x1b[0m{gap}{said}").as_bytes());
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = shown.as_ref() {
            // Its line editor draws prompt and line anew.
            let _ = kill(Pid::from_raw(shown.shell), Signal::SIGWINCH);
        }
    }

    fn write(&self, bytes: &[u8]) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = shown.as_mut() {
            // Not blocking: what does not fit is not shown.
            let _ = shown.device.write(bytes);
        }
    }
}

async fn keep(terminal: Arc<Terminal>, all: Arc<Processes>, home: PathBuf) {
    loop {
        let mut command = Command::new(TERMINAL);
        command
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match all.spawn(command) {
            Ok(xterm) => {
                let shown = async {
                    loop {
                        if let Some(shown) = shell_of(xterm.pid) {
                            *terminal.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
                            return std::future::pending::<()>().await;
                        }
                        tokio::time::sleep(BIRTH).await;
                    }
                };
                tokio::select! {
                    _ = xterm.wait() => {}
                    () = shown => {}
                }
                *terminal.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            Err(e) => eprintln!("the terminal cannot be started: {e}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The shell in a terminal, and the device that both share.
fn shell_of(xterm: i32) -> Option<Shown> {
    let shell = processes().into_iter().find(|p| p.parent == xterm && p.terminal != 0)?;
    // proc(5): the minor number is in bits 31 to 20 and 7 to 0.
    let minor = (shell.terminal & 0xff) | ((shell.terminal >> 12) & 0xfff00);
    let device = File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(format!("/dev/pts/{minor}"))
        .ok()?;
    Some(Shown {
        device,
        shell: shell.pid,
    })
}
