//! Facts as text: lines for a serial port, a whole page for a screen.

use super::{Claim, Dialog, Facts, Supervisor};
use crate::{
    escape,
    plan::room::{SAID, URGENT},
};

/// The facts as lines that a program can read: each begins with `berth: ` and a fixed word.
pub fn lines(f: &Facts) -> Vec<String> {
    let mut out = vec![format!("version {}", f.version)];
    for problem in &f.site_problems {
        out.push(format!("site-problem {}", problem));
    }
    out.push(format!("site {}", f.site));
    if let Some(disk) = &f.disk {
        out.push(format!("disk {disk}"));
    }
    // Told when it matters: a port prints what changed.
    if let Some(space) = f.space.filter(|s| s.used() >= SAID) {
        out.push(format!("space {} % of {} MiB are used", space.used(), space.size));
    }
    if let Some(memory) = &f.memory {
        out.push(format!("memory {memory}"));
    }
    if f.addresses.is_empty() {
        out.push("address none".into());
    }
    out.extend(f.addresses.iter().map(|a| format!("address {a}")));
    out.push(match &f.supervisor {
        Supervisor::Starting => "state starting".into(),
        Supervisor::Ready => "state ready".into(),
        Supervisor::Stopped(why) => format!("state stopped: {}", why),
    });
    if let Some(url) = &f.url {
        out.push(format!("url {url}"));
    }
    if let Some(fingerprint) = &f.fingerprint {
        out.push(format!("ca-fingerprint SHA-256 {fingerprint}"));
    }
    match &f.claim {
        Claim::Unknown => {}
        Claim::Code(code) => out.push(format!("claim code {}", code)),
        Claim::Key => out.push("claim key".into()),
        Claim::Done => out.push("claim done".into()),
    }
    if f.supervisor == Supervisor::Ready {
        out.push(format!(
            "instances {} running, {} failed, {} other",
            f.running, f.failed, f.other
        ));
    }
    out.iter().map(|l| format!("berth: {}", escape::line(l))).collect()
}

/// The same for people, with the dialogue below. `said` is what the last command answered.
pub fn page(f: &Facts, dialog: &Dialog, said: &[String], typed: &str) -> Vec<String> {
    let mut out = vec![String::new(), format!("  Berth {}", f.version), String::new()];
    let mut row = |name: &str, value: String| out.push(format!("  {name:<12}{value}"));
    row(
        "state",
        match &f.supervisor {
            Supervisor::Starting => "starting".into(),
            Supervisor::Ready => "ready".into(),
            Supervisor::Stopped(why) => format!("not serving: {}", why),
        },
    );
    for (i, address) in f.addresses.iter().enumerate() {
        row(if i == 0 { "address" } else { "" }, address.clone());
    }
    if f.addresses.is_empty() {
        row(
            "address",
            "none: no cable, or no DHCP server answered. Type network to set one".into(),
        );
    }
    if let Some(url) = &f.url {
        row("open", url.clone());
    }
    if let Some(fingerprint) = &f.fingerprint {
        // Two rows of sixteen bytes: it does not fit one row of a text screen.
        let middle = fingerprint.len().div_ceil(2);
        row("CA SHA-256", fingerprint.get(..middle).unwrap_or(fingerprint).into());
        row("", fingerprint.get(middle..).unwrap_or_default().into());
    }
    match &f.claim {
        Claim::Unknown => {}
        Claim::Code(code) => row(
            "claim code",
            format!("{}   (for a browser or berth login; works once)", code),
        ),
        Claim::Key => row("claim", "with the key in the site file".into()),
        Claim::Done => row("claim", "done: this box has an administrator".into()),
    }
    if f.supervisor == Supervisor::Ready {
        row(
            "instances",
            format!("{} running, {} failed, {} other", f.running, f.failed, f.other),
        );
    }
    if let Some((seq, hash)) = &f.audit {
        row("audit", format!("{seq}:{hash}"));
    }
    if let Some(disk) = &f.disk {
        row("data", disk.clone());
    }
    if let Some(space) = f.space {
        let urgent = if space.used() >= URGENT {
            ": remove instances"
        } else {
            ""
        };
        let (used, free, size) = (space.used(), space.free, space.size);
        row("space", format!("{used} % used, {free} of {size} MiB are free{urgent}"));
    }
    if let Some(memory) = &f.memory {
        // Two rows: it does not fit one.
        let (first, rest) = memory.split_once(": ").unwrap_or((memory, ""));
        row("memory", first.to_owned());
        row("", rest.to_owned());
    }
    for problem in &f.site_problems {
        row("site file", problem.clone());
    }
    if !f.site_problems.is_empty() {
        row("", "Until it is corrected, the box uses DHCP, not this file.".into());
    }
    out.push(String::new());
    out.extend(dialog.menu(f).into_iter().map(|l| format!("  {l}")));
    out.push(String::new());
    out.extend(said.iter().map(|l| format!("  {}", l)));
    out.push(format!("  {}{typed}", dialog.prompt()));
    // A console acts on control characters; no fact, problem or answer may hold one.
    out.iter().map(|l| escape::line(l).into_owned()).collect()
}
