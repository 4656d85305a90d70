//! `berth box screen`: the status screen on its terminal. Lines for a serial port, a page that is drawn again for a
//! screen. Reads keys itself (no signals, no line discipline), hands whole lines to the dialogue, and leaves what was
//! asked for to a unit of its own. There is no way from here to a shell.

use std::{
    io::Read,
    os::fd::AsFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::termios::{InputFlags, LocalFlags, SetArg, tcgetattr, tcsetattr},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::client::Supervisor;
use crate::{
    api::Route,
    machine,
    model::Action,
    output,
    tty::{self, Claim, Dialog, Facts, Request, Supervisor as State},
};

/// Facts are gathered this often.
const EVERY: Duration = Duration::from_secs(2);
/// The supervisor gets this long to say how it does.
const PATIENCE: Duration = Duration::from_secs(3);
/// A box that starts may take this long to be ready; then what is missing is said.
const STARTING: Duration = Duration::from_secs(180);
/// A question that nobody answers is taken back.
const FORGET: Duration = Duration::from_secs(300);
/// A typed line may be this long.
const LONGEST: usize = 400;

struct Screen {
    page: bool,
    facts: Facts,
    shown: Vec<String>,
    dialog: Dialog,
    said: Vec<String>,
    typed: String,
    touched: Instant,
    answer: Option<String>,
}

pub(super) async fn run(supervisor: &Supervisor, page: bool) -> Result<ExitCode> {
    raw().context("standard input is not a terminal")?;
    let mut screen = Screen {
        page,
        facts: Facts::default(),
        shown: Vec::new(),
        dialog: Dialog::default(),
        said: Vec::new(),
        typed: String::new(),
        touched: Instant::now(),
        // Of an earlier screen's time.
        answer: machine::answer(),
    };
    let born = Instant::now();
    let mut gathered: Option<Instant> = None;
    loop {
        if gathered.is_none_or(|g| g.elapsed() > EVERY) {
            screen.facts = gather(supervisor, &screen.facts, born).await;
            gathered = Some(Instant::now());
            let answer = machine::answer();
            if answer != screen.answer {
                screen.answer = answer.clone();
                screen.say(answer.unwrap_or_default().lines().map(str::to_owned).collect())?;
            }
            if !screen.dialog.idle() && screen.touched.elapsed() > FORGET {
                screen.dialog.cancel();
                screen.say(vec!["No answer for five minutes. Nothing was changed.".into()])?;
            }
            screen.refresh()?;
        }
        for key in keys()? {
            if let Some(request) = screen.key(key)? {
                let said = ask(supervisor, &request).await;
                screen.answer = None;
                screen.say(vec![said])?;
                gathered = None;
            }
        }
    }
}

/// No echo, no line editing, no signals from the keyboard; what is printed is still cooked.
fn raw() -> nix::Result<()> {
    let stdin = std::io::stdin();
    let mut t = tcgetattr(stdin.as_fd())?;
    t.local_flags
        .remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG | LocalFlags::IEXTEN);
    t.input_flags.remove(InputFlags::IXON | InputFlags::BRKINT);
    t.input_flags.insert(InputFlags::ICRNL | InputFlags::IGNBRK);
    tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &t)
}

/// What was typed within half a second.
fn keys() -> Result<Vec<u8>> {
    let stdin = std::io::stdin();
    let mut wait = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    if poll(&mut wait, PollTimeout::from(500u16))? == 0 {
        return Ok(Vec::new());
    }
    let mut buffer = [0; 256];
    let n = stdin.lock().read(&mut buffer)?;
    anyhow::ensure!(n > 0, "the terminal was closed");
    Ok(buffer[..n].to_vec())
}

async fn ask(supervisor: &Supervisor, request: &Request) -> String {
    let asked = match request {
        Request::ResetAdmin => supervisor.act(&Action::ResetAdmin).await.map(|_| ()),
        other => machine::ask(other).map_err(Into::into),
    };
    match asked {
        Ok(()) if *request == Request::ResetAdmin => "done".into(),
        Ok(()) => "working …".into(),
        Err(e) => format!("failed: {e:#}"),
    }
}

impl Screen {
    /// Takes one key; a finished line may end in a request.
    fn key(&mut self, key: u8) -> Result<Option<Request>> {
        self.touched = Instant::now();
        match key {
            b'\n' | b'\r' => {
                let typed = std::mem::take(&mut self.typed);
                self.print("\n")?;
                let reply = self.dialog.line(&typed, &self.facts);
                if typed.trim() == "status" && self.dialog.idle() {
                    self.shown.clear();
                    self.refresh()?;
                } else {
                    self.say(reply.said)?;
                }
                return Ok(reply.request);
            }
            0x7f | 0x08 if self.typed.pop().is_some() && !self.page => output::rub_out()?,
            // Ctrl-C and Ctrl-U: the line is thrown away.
            0x03 | 0x15 => {
                self.typed.clear();
                self.print(&format!("\n{}", self.dialog.prompt()))?;
            }
            b' '..=b'~' if self.typed.len() < LONGEST => {
                self.typed.push(char::from(key));
                self.print(&char::from(key).to_string())?;
            }
            _ => {}
        }
        self.draw()?;
        Ok(None)
    }

    fn say(&mut self, said: Vec<String>) -> Result<()> {
        let mut text: String = said.iter().map(|l| format!("{l}\n")).collect();
        self.said = said;
        if !text.is_empty() && !self.shown.is_empty() && !self.typed.is_empty() {
            text.insert(0, '\n');
        }
        self.print(&format!("{text}{}{}", self.dialog.prompt(), self.typed))?;
        self.draw()
    }

    /// On a serial port: what is new since the last time.
    fn refresh(&mut self) -> Result<()> {
        let now = tty::lines(&self.facts);
        let new: String = now
            .iter()
            .filter(|l| !self.shown.contains(l))
            .map(|l| format!("{l}\n"))
            .collect();
        if !new.is_empty() {
            self.shown = now;
            self.print(&format!("\n{new}{}{}", self.dialog.prompt(), self.typed))?;
        }
        self.draw()
    }

    fn print(&self, text: &str) -> Result<()> {
        if self.page {
            return Ok(());
        }
        Ok(output::out(text)?)
    }

    /// On a screen: everything again, over whatever the kernel wrote meanwhile.
    fn draw(&self) -> Result<()> {
        if !self.page {
            return Ok(());
        }
        let rows = tty::page(&self.facts, &self.dialog, &self.said, &self.typed);
        Ok(output::screen(&rows)?)
    }
}

/// `born`: when the screen was.
async fn gather(supervisor: &Supervisor, before: &Facts, born: Instant) -> Facts {
    let starting = before.supervisor == State::Starting && born.elapsed() < STARTING;
    let report = machine::report();
    let disks = if machine::disk::on_removable() {
        machine::disk::others()
            .iter()
            .map(|d| format!("{} {} GB {}", d.path.display(), d.bytes / 1_000_000_000, d.model))
            .collect()
    } else {
        Vec::new()
    };
    let mut facts = Facts {
        version: env!("CARGO_PKG_VERSION").into(),
        addresses: machine::addresses(),
        ports: machine::wired(),
        site: report.source,
        site_problems: report.problems,
        disk: machine::storage(std::path::Path::new("/var")),
        disks,
        space: space(),
        memory: machine::memory::note(),
        fingerprint: before.fingerprint.clone(),
        url: before.url.clone(),
        claim: before.claim.clone(),
        ..Facts::default()
    };
    let status = tokio::time::timeout(PATIENCE, supervisor.get::<Value>(Route::Status.path())).await;
    match status {
        Ok(Ok(status)) => told(&mut facts, &status, starting),
        // Silent since the start: it is not there yet. Silent now: say so.
        Ok(Err(_)) if starting => {}
        Ok(Err(e)) => facts.supervisor = State::Stopped(format!("{e:#}")),
        Err(_) => facts.supervisor = State::Stopped("the supervisor does not answer".into()),
    }
    if facts.fingerprint.is_none()
        && let Ok(Ok(pem)) = tokio::time::timeout(PATIENCE, supervisor.text(Route::Ca.path())).await
    {
        facts.fingerprint = fingerprint(&pem);
    }
    facts
}

/// How full the data partition is.
fn space() -> Option<tty::Space> {
    let seen = nix::sys::statvfs::statvfs("/var").ok()?;
    let mib = |blocks: u64| blocks.saturating_mul(seen.fragment_size()) >> 20;
    Some(tty::Space {
        size: mib(seen.blocks()),
        free: mib(seen.blocks_available()),
    })
}

/// What the supervisor says of itself. A box that starts is ready when its engine answered and its instances had their
/// time to come up.
fn told(facts: &mut Facts, status: &Value, starting: bool) {
    let engine = status["engine"].as_str().unwrap_or("ok");
    let coming = ["pending", "preparing", "starting"];
    let settled = coming
        .iter()
        .all(|state| status["instances"][state].as_u64().unwrap_or(0) == 0);
    facts.supervisor = match engine {
        "ok" if settled || !starting => State::Ready,
        _ if starting => State::Starting,
        why => State::Stopped(why.to_owned()),
    };
    let count = |state: &str| {
        status["instances"][state]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(0)
    };
    let all = status["instances"]
        .as_object()
        .map_or(0, |m| m.values().filter_map(Value::as_u64).sum());
    (facts.running, facts.failed) = (count("running"), count("failed"));
    facts.other = usize::try_from(all)
        .unwrap_or(0)
        .saturating_sub(facts.running + facts.failed);
    let first = facts.addresses.first().and_then(|a| a.split('/').next());
    facts.url = match (status["domain"].as_str(), first) {
        (None, Some(address)) if address.contains(':') => Some(format!("https://[{address}]/")),
        (None, Some(address)) => Some(format!("https://{address}/")),
        _ => status["https"].as_str().map(str::to_owned),
    };
    let claim = &status["box"];
    let head = &claim["audit_head"];
    facts.audit = head["seq"].as_u64().zip(head["hash"].as_str().map(str::to_owned));
    facts.claim = match (claim["claimed"].as_bool(), claim["claim_code"].as_str()) {
        (Some(true), _) => Claim::Done,
        (Some(false), Some(code)) => Claim::Code(code.to_owned()),
        (Some(false), None) => Claim::Key,
        (None, _) => Claim::Unknown,
    };
}

/// SHA-256 of the certificate, in hexadecimal with colons.
fn fingerprint(pem: &str) -> Option<String> {
    let pem = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()?;
    let parts: Vec<String> = Sha256::digest(&pem.contents)
        .iter()
        .map(|b| format!("{b:02X}"))
        .collect();
    Some(parts.join(":"))
}
