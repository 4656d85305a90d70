//! Verbs of the host image's own units, and `install`. They need no supervisor.

use std::{
    io::Read,
    path::Path,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Result, bail};

use super::{args::BoxVerb, client::Supervisor, console, print};
use crate::{
    api::{Route, Status},
    cgroup::outside,
    config::Config,
    machine::{
        self,
        look::{self, Question},
    },
    systemd,
};

/// How long a new version has to serve, before it counts as one that does not.
const HEALTHY_WITHIN: Duration = Duration::from_secs(300);

pub(super) async fn run(verb: BoxVerb) -> Result<ExitCode> {
    systemd::init_log();
    // This box's own, whatever contexts there are.
    let supervisor = &Supervisor::new(&Config::default().admin_socket());
    match verb {
        BoxVerb::ApplySite => {
            let report = machine::apply()?;
            print::out(&format!("site file: {}\n", report.source))?;
            for problem in &report.problems {
                print::out(&format!("site file: {problem}\n"))?;
            }
            if !report.problems.is_empty() {
                print::out("site file: it is not used; the box comes up by DHCP\n")?;
            }
        }
        BoxVerb::Screen { page } => return console::run(supervisor, page).await,
        BoxVerb::ApplyRequest => machine::apply_request()?,
        BoxVerb::BesideRoot { partition } => {
            return Ok(if machine::disk::beside_root(&partition) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        BoxVerb::FactoryReset { done: false } => {
            return Ok(if machine::factory_reset_is_due() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        BoxVerb::FactoryReset { done: true } => machine::factory_reset_is_done()?,
        BoxVerb::Healthy => healthy(supervisor).await?,
        BoxVerb::Look => look().await?,
        BoxVerb::SetQuota => {
            let mut line = String::new();
            std::io::stdin().take(outside::MAX_LINE).read_to_string(&mut line)?;
            print::out(&format!("{}\n", outside::answer(&line)))?;
        }
        BoxVerb::KeepRoom => machine::room::keep()?,
        BoxVerb::MendEngine => {
            let data = Path::new(machine::engine::DATA);
            for path in machine::engine::mend(data)? {
                log::warn!(
                    "{} could not be read after a power cut, and was removed",
                    path.display()
                );
            }
            let removed = Config::default().runtime_dir.join(machine::engine::REMOVED);
            for path in machine::engine::empty(data, &removed)? {
                log::warn!("{} was emptied: its instance was removed", path.display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Answers one question of the supervisor's.
async fn look() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().take(look::MAX_QUESTION).read_to_string(&mut line)?;
    let (json, hardening) = match line.parse().map_err(anyhow::Error::msg)? {
        Question::Disk => {
            let state = Config::default().state_dir;
            return print::out(&machine::storage(&state).unwrap_or_default());
        }
        Question::Doctor { json, hardening } => (json, hardening),
    };
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.args(["doctor", "--context", "local"]);
    command
        .args(json.then_some("--json"))
        .args(hardening.then_some("--hardening"));
    let done = command.stdin(Stdio::null()).output().await?;
    let status = done.status.code().unwrap_or(1);
    print::out(&format!("{status}\n{}", String::from_utf8_lossy(&done.stdout)))
}

/// Waits until the supervisor answers and its engine works.
async fn healthy(supervisor: &Supervisor) -> Result<()> {
    let began = std::time::Instant::now();
    loop {
        let last = match supervisor.get::<Status>(Route::Status.path()).await {
            Ok(s) if s.engine == "ok" => return Ok(()),
            Ok(s) => s.engine,
            Err(e) => format!("{e:#}"),
        };
        if began.elapsed() > HEALTHY_WITHIN {
            bail!("not serving after {} s: {last}", HEALTHY_WITHIN.as_secs());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// `berth install`.
pub(super) fn install(disk: &Path, erase: bool) -> Result<()> {
    let next = machine::install::install(disk, erase, &mut |said| print::problem(&said))?;
    print::out(&format!("{next}\n"))
}
