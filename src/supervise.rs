//! F4: `berth serve`: parse, build, run, wait, drain. Each boot phase is consumed by the next.
//!
//! ```text
//! Config -> Parts (store, keys, certificates, sockets) -> Running (tasks) -> drained
//! ```
//!
//! The tasks, all owned here: `reconcile` (all mutable state), `edge` (connections), `admin` (the Unix socket),
//! `certificates` (reload, renewal) and `watchdog`. A task that ends by itself ends the process: systemd starts a new
//! one, which adopts what runs.

mod backend;
mod exposition;
mod watchdog;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    admin,
    authz::TokenTable,
    catalog::{self, Catalog},
    config::{self, Config},
    docker, edge, link, reconcile, route, secret, store, systemd, tls,
};

/// Where the appliance's configuration lies.
pub const DEFAULT_CONFIG: &str = "/etc/berth/berth.toml";

/// Link events that wait for the reconciler; past it the links wait.
const LINK_EVENTS: usize = 1024;

/// Runs the supervisor until SIGTERM or SIGINT. Status 2 when the configuration is wrong, 1 when it cannot run.
pub fn main(file: Option<&Path>) -> ExitCode {
    systemd::init_log();
    let config = match read_config(file) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("berth").build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(serve(config));
            // What is still blocked (a commit on a dead disk, say) must not keep the process.
            runtime.shutdown_timeout(Duration::from_secs(2));
            ended
        }
        Err(e) => Err(e.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn read_config(file: Option<&Path>) -> Result<Config, crate::strict::Problems> {
    match file {
        Some(file) => config::load(file),
        None if Path::new(DEFAULT_CONFIG).exists() => config::load(Path::new(DEFAULT_CONFIG)),
        None => Ok(Config::default()),
    }
}
