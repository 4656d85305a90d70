//! Verbs of the host image's own units, and `install`. They need no supervisor.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Result, bail};

use super::{args::BoxVerb, client::Supervisor, console, print};
use crate::{admin::Status, config::Config, machine, systemd};

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
        BoxVerb::Obey => machine::obey()?,
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
        BoxVerb::MendEngine => {
            for path in machine::engine::mend(Path::new(machine::engine::DATA))? {
                log::warn!(
                    "{} could not be read after a power cut, and was removed",
                    path.display()
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until the supervisor answers and its engine works.
async fn healthy(supervisor: &Supervisor) -> Result<()> {
    let began = std::time::Instant::now();
    loop {
        let last = match supervisor.get::<Status>("/v1/status").await {
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
