//! Does what was asked at the console. The screen only leaves a [`Request`] in a folder; this runs as a unit of its
//! own, once for each, and trusts nothing in it.

use std::{fs, path::Path, process::Command};

use super::{
    CONSOLE, MachineError, apply, failed, install,
    sources::{Access, on_esp},
};
use crate::{
    site::{self, Output},
    tty::Request,
};

/// Leaves a request for [`apply_request`]. Refused while another one waits.
///
/// # Errors
/// The folder cannot be written, or something waits in it.
pub fn ask(request: &Request) -> Result<(), MachineError> {
    let path = format!("{CONSOLE}/request.json");
    if Path::new(&path).exists() {
        return Err(MachineError::Refused("the last command is still running".into()));
    }
    let _ = fs::remove_file(format!("{CONSOLE}/answer"));
    let text = serde_json::to_string(request).map_err(|e| MachineError::Refused(e.to_string()))?;
    apply::write(&Output {
        path,
        text,
        private: true,
    })
}

/// What came of the last request, once it is done; every console shows it.
pub fn answer() -> Option<String> {
    fs::read_to_string(format!("{CONSOLE}/answer")).ok()
}

/// Takes the request that waits, does it, leaves an answer.
///
/// # Errors
/// There is none, or it is not one.
pub fn apply_request() -> Result<(), MachineError> {
    let path = Path::new(CONSOLE).join("request.json");
    let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
    // Taken before it is done: a request that brings the machine down is not found again after it.
    fs::remove_file(&path).map_err(failed("remove", &path))?;
    let request: Request =
        serde_json::from_str(&text).map_err(|e| MachineError::Refused(format!("{}: {e}", path.display())))?;
    log::info!("asked at the console: {}", name(&request));
    let said = match perform(&request) {
        Ok(said) => said,
        Err(e) => format!("failed: {e}"),
    };
    apply::write(&Output {
        path: format!("{CONSOLE}/answer"),
        text: said,
        private: false,
    })
}

fn name(request: &Request) -> &'static str {
    match request {
        Request::Restart => "restart",
        Request::ResetAdmin => "reset of the administrator",
        Request::FactoryReset => "factory reset",
        Request::Network { .. } => "network set-up",
        Request::Install { .. } => "installation",
    }
}

fn perform(request: &Request) -> Result<String, MachineError> {
    match request {
        Request::Restart => systemctl(&["reboot"]).map(|()| "restarting".into()),
        Request::ResetAdmin => Err(MachineError::Refused(
            "the screen asks the supervisor itself for that".into(),
        )),
        Request::FactoryReset => {
            on_esp(Access::Write, |esp| {
                let dir = esp.join("berth");
                fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
                let _ = fs::remove_file(dir.join("network.toml"));
                fs::write(dir.join("factory-reset"), "").map_err(failed("write", dir))
            })?;
            systemctl(&["reboot"]).map(|()| "restarting; everything is erased at the next start".into())
        }
        Request::Network { text } => network(text),
        Request::Install { disk, erase } => install::install(Path::new(disk), *erase, &mut |_| {}),
    }
}

/// Keeps what was entered, writes networkd's files anew and has it read them.
fn network(text: &str) -> Result<String, MachineError> {
    site::network("network", text).map_err(|p| MachineError::Refused(p.to_string()))?;
    on_esp(Access::Write, |esp| {
        let (dir, path) = (esp.join("berth"), esp.join("berth/network.toml"));
        fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
        if text.is_empty() {
            return match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
                _ => Ok(()),
            };
        }
        fs::write(&path, text).map_err(failed("write", path))
    })?;
    apply::apply_with((!text.is_empty()).then(|| text.to_owned()))?;
    // A new VLAN needs its device made; only a restart of networkd takes away what was there before.
    systemctl(&["restart", "systemd-networkd.service"])?;
    Ok("the network was set; the addresses appear above".into())
}

/// The mark of a factory reset, for the unit that lays out the disk; `true` when it is there.
pub fn factory_reset_is_due() -> bool {
    on_esp(Access::Read, |esp| Ok(esp.join("berth/factory-reset").exists())).unwrap_or(false)
}

/// Takes the mark away, once it was done.
pub fn factory_reset_is_done() -> Result<(), MachineError> {
    on_esp(Access::Write, |esp| {
        let path = esp.join("berth/factory-reset");
        fs::remove_file(&path).map_err(failed("remove", path))
    })
}

fn systemctl(arguments: &[&str]) -> Result<(), MachineError> {
    let status = Command::new("/usr/bin/systemctl")
        .args(arguments)
        .status()
        .map_err(failed("run", "/usr/bin/systemctl"))?;
    if status.success() {
        Ok(())
    } else {
        Err(MachineError::Refused(format!(
            "systemctl {} ended with {status}",
            arguments.join(" ")
        )))
    }
}
