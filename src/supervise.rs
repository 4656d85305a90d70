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

/// A fresh box id, for a store that does not exist yet.
fn fresh_box() -> Result<BoxId> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).context("the operating system gives no random numbers")?;
    Ok(BoxId::from_random(bytes))
}

/// Everything that can fail before anything runs.
struct Built {
    config: Config,
    catalog: Arc<Catalog>,
    store: store::Store,
    key: secret::BoxKey,
    router: Arc<route::Router>,
    certificates: tls::Certificates,
    https: std::net::TcpListener,
    http: std::net::TcpListener,
    admin: tokio::net::UnixListener,
    agent: PathBuf,
}

async fn serve(config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let running = build(config)?.run()?;
    let mut running = running;
    let why = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => running.reload(),
            ended = running.tasks.join_next() => {
                let name = ended.map(|e| e.unwrap_or("a task that panicked")).unwrap_or("every task");
                break Err(anyhow::anyhow!("{name} ended by itself; starting anew"));
            }
        }
    };
    running.drain().await;
    why
}

fn build(config: Config) -> Result<Built> {
    let catalog = Arc::new(catalog::load_dir(&config.types_dir).context("the instance types cannot be used")?);
    // The store's lock comes first: it says that no other supervisor works on this state.
    let store = store::Store::open(&config.state_dir, &fresh_box()?)?;
    let key = secret::BoxKey::load_or_create(&config.state_dir.join("keys"))?;
    let passed = systemd::passed_sockets()?;
    let https = listener(passed.https, config.listen.https)?;
    let http = listener(passed.http, config.listen.http)?;
    let port = https.local_addr()?.port();
    let router = Arc::new(route::Router::new(&config.domain, port));
    let names = tls::Names { domain: config.domain.clone(), loopback: config.domain == "localhost" };
    let certificates =
        tls::Certificates::open(&config.tls, &config.state_dir, names, std::time::SystemTime::now())?;
    let admin = admin::bind(&config.admin_socket())?;
    let agent = std::env::current_exe().context("the path of this program is not known")?;
    Ok(Built { config, catalog, store, key, router, certificates, https, http, admin, agent })
}

fn listener(passed: Option<std::net::TcpListener>, address: std::net::SocketAddr) -> Result<std::net::TcpListener> {
    let listener = match passed {
        Some(passed) => passed,
        None => std::net::TcpListener::bind(address).with_context(|| {
            format!("cannot listen on {address}: stop what listens there (`ss -ltnp`), or set [listen] to another address")
        })?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}
