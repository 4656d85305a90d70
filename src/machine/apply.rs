//! Writes what a site file says for those who read it, and a report of where it came from and what was wrong with it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde::{Deserialize, Serialize};

use super::{MachineError, OWN, failed, sources};
use crate::{
    replace::{self, Durable},
    site::{self, Output, Site},
};

/// The supervisor's configuration as the image ships it.
const BASE: &str = "/usr/lib/berth/berth.toml";
/// Debian's authorities.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where the site file came from, and what was wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `none`, `credential`, `esp` or `seed`.
    pub source: String,
    /// Each `FILE:LINE: TEXT`. The file that they are of is not used at all.
    pub problems: Vec<String>,
    /// The domain that it names.
    pub domain: Option<String>,
    /// Whether the network is what was set at the console.
    pub console_network: bool,
}

/// Finds the site file and writes what follows from it below `/run`. With a mistake in it, the box gets what it would
/// get without a file.
///
/// # Errors
/// Only what keeps the files from being written.
pub fn apply() -> Result<Report, MachineError> {
    apply_with(sources::console_network())
}

/// The same with `[[network]]` tables that were just entered at the console.
pub(super) fn apply_with(network: Option<String>) -> Result<Report, MachineError> {
    let found = sources::site_file();
    let mut report = Report {
        source: found.source.into(),
        ..Report::default()
    };
    let mut site = found.site.unwrap_or_else(|problems| {
        report.problems.extend(problems.0.iter().map(ToString::to_string));
        Site::default()
    });
    if let Some(text) = network {
        match site::network("network.toml", &text) {
            Ok(ports) => {
                site.ports = ports;
                report.console_network = true;
            }
            Err(problems) => report.problems.extend(problems.0.iter().map(ToString::to_string)),
        }
    }
    report.domain = site.domain.clone();
    let base = fs::read_to_string(BASE).map_err(failed("read", BASE))?;
    clear_network()?;
    for output in site::outputs(&site, &base) {
        write(&output)?;
    }
    if let Some(ca) = &site.ca {
        let mut bundle = fs::read_to_string(BUNDLE).map_err(failed("read", BUNDLE))?;
        bundle.push_str(ca);
        let path = format!("{OWN}/ca-bundle.pem");
        write(&Output {
            path,
            text: bundle,
            private: false,
        })?;
    }
    nix::unistd::sethostname(site::host_name(&site))
        .map_err(|e| failed("set the name", "of this machine")(e.into()))?;
    let text = serde_json::to_string_pretty(&report).unwrap_or_default();
    let path = format!("{OWN}/report.json");
    write(&Output {
        path,
        text,
        private: false,
    })?;
    Ok(report)
}

/// What [`apply`] found; nothing on a machine without it.
pub fn report() -> Report {
    fs::read(Path::new(OWN).join("report.json"))
        .ok()
        .and_then(|b| serde_json::from_slice(&b).ok())
        .unwrap_or_default()
}

/// What an earlier run wrote must not add to this one.
fn clear_network() -> Result<(), MachineError> {
    let dir = Path::new("/run/systemd/network");
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("10-berth-") {
            fs::remove_file(entry.path()).map_err(failed("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// Whole or not at all: whoever reads it may be running.
pub(super) fn write(output: &Output) -> Result<(), MachineError> {
    let path = Path::new(&output.path);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed("make", dir))?;
        // Programs with users of their own (networkd, timesyncd) read below it, whatever the mask.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(failed("open up", dir))?;
    }
    let mode = if output.private { 0o600 } else { 0o644 };
    replace::file(path, output.text.as_bytes(), mode, Durable::Later).map_err(failed("write", path))
}
