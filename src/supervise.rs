//! F4: `berth serve`: parse, build, run, wait, drain. Each boot phase is consumed by the next.
//!
//! ```text
//! Config -> Parts (store, keys, certificates, sockets) -> Running (tasks) -> drained
//! ```
//!
//! The tasks, all owned here: `ledger` (what shall be), `reconcile` (what is), `edge` (connections), `admin` (the Unix
//! socket), `certificates` (reload, renewal), `events` (what changed) and `watchdog`. A task that ends by itself ends the process: systemd starts a new
//! one, which adopts what runs.

mod adapt;
mod addresses;
mod backend;
mod call_limits;
mod console;
mod descriptors;
mod doctor;
mod doors;
mod engine;
mod events;
mod exposition;
mod memory;
mod meter;
mod offboard;
mod screen;
mod space;
mod tools;
mod watchdog;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    admin, audit,
    authz::{SessionTable, TokenTable},
    catalog::Catalog,
    config::{Config, Limits},
    deploy_log, docker, door, edge,
    events::Events,
    firewall, forward, ledger, link, load, machine,
    model::{AuditOutcome, BoxId},
    output, packages,
    plan::exchange::Shown,
    reconcile, remote, secret, store, systemd, tls, usage,
};

/// Where the appliance's configuration lies.
pub const DEFAULT_CONFIG: &str = "/etc/berth/berth.toml";

/// Link events that wait for the reconciler; past it the links wait.
const LINK_EVENTS: usize = 1024;
/// A disk that does not take what is kept by then is not waited for: systemd would end the supervisor later and harder.
const KEEP: Duration = Duration::from_secs(20);
/// Calls in flight that have not ended this long after the supervisor was told to stop keep it no longer from giving up
/// what the next one needs.
const RELEASE_AFTER: Duration = Duration::from_millis(500);
/// Requests on the admin socket get this long to end.
const ADMIN_DRAIN: Duration = Duration::from_secs(2);

/// Runs the supervisor until SIGTERM or SIGINT. Status 2 when the configuration is wrong, 1 when it cannot run.
pub fn main(file: Option<&Path>) -> ExitCode {
    systemd::init_log();
    memory::stays_here();
    let config = match read_config(file) {
        Ok(config) => config,
        Err(problems) => {
            output::error_line(&problems.to_string());
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("berth")
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(serve(config, file));
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

fn read_config(file: Option<&Path>) -> Result<Config, crate::strict_toml::Problems> {
    match file {
        Some(file) => load::config(file),
        None if Path::new(DEFAULT_CONFIG).exists() => load::config(Path::new(DEFAULT_CONFIG)),
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
    key: Arc<secret::BoxKey>,
    audit: audit::Audit,
    forwards: forward::Forwards,
    usage: usage::Usage,
    router: Arc<door::Router>,
    certificates: tls::Certificates,
    https: std::net::TcpListener,
    http: std::net::TcpListener,
    admin: tokio::net::UnixListener,
    agent: PathBuf,
    /// Where the configuration came from, where that was said.
    file: Option<PathBuf>,
}

async fn serve(config: Config, file: Option<&Path>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let built = build(config, file)?;
    let firewall = firewall::Firewall::set(firewall::Facts {
        box_id: built.store.box_id().clone(),
        engine: built.config.docker.socket.clone(),
        network: built.config.network.clone(),
        runtime_dir: built.config.runtime_dir.clone(),
    });
    let firewall = Arc::new(firewall.await);
    let mut running = built.run(firewall)?;
    let why = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => running.reload().await,
            ended = running.tasks.join_next() => break Err(ended_early(ended)),
        }
    };
    running.drain().await;
    why
}

fn ended_early(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok(name)) => anyhow!("the task {name} ended by itself"),
        Some(Err(e)) => anyhow!("a task ended in a panic: {e}"),
        None => anyhow!("no task is left"),
    }
}

fn build(config: Config, file: Option<&Path>) -> Result<Built> {
    let catalog = Arc::new(load::types(&config.types_dir).context("the instance types cannot be used")?);
    // The store's lock comes first: it says that no other supervisor works on this state.
    let store = store::Store::open(&config.state_dir, &fresh_box()?)?;
    let key = secret::BoxKey::find(&config.state_dir.join("keys"), systemd::credentials().as_deref())?;
    let key = Arc::new(key);
    let audit = open_audit(&config, store.box_id(), &key)?;
    let forwards = open_forwards(&config, store.box_id(), &audit)?;
    let usage = usage::Usage::open(config.state_dir.join("usage"), audit.clone())?;
    let passed = systemd::passed_sockets()?;
    let https = listener(passed.https, config.listen.https)?;
    let http = listener(passed.http, config.listen.http)?;
    let at = https.local_addr()?;
    let router = Arc::new(door::Router::new(config.domain.as_deref(), at.port()).listening_at(at.ip()));
    let names = tls::Names {
        domain: config.domain.clone(),
        loopback: match config.domain.as_deref() {
            Some(domain) => domain == "localhost",
            None => at.ip().is_loopback(),
        },
        title: format!("box {}", &store.box_id().as_str()[..8]),
        addresses: addresses::of_this_box,
    };
    let certificates = tls::Certificates::open(&config.tls, &config.state_dir, names, std::time::SystemTime::now())?;
    let admin = admin::bind(&config.admin_socket())?;
    let agent = std::env::current_exe().context("the path of this program is not known")?;
    Ok(Built {
        config,
        catalog,
        store,
        key,
        audit,
        forwards,
        usage,
        router,
        certificates,
        https,
        http,
        admin,
        agent,
        file: file.map(Path::to_owned),
    })
}

/// Where the rows of the audit are on the way to the disk: below `runtime_dir`, which is no disk.
fn open_audit(config: &Config, box_id: &BoxId, key: &Arc<secret::BoxKey>) -> Result<audit::Audit> {
    Ok(audit::Audit::open(audit::Settings {
        dir: config.state_dir.join("audit"),
        spool: config.runtime_dir.join("audit"),
        box_id: box_id.clone(),
        key: key.clone(),
        retain: jiff::SignedDuration::from_hours(24 * i64::from(config.audit.retain_days)),
        most: config.audit.max_bytes,
        on_full: match config.audit.refuse_when_full {
            true => audit::OnFull::Refuse,
            false => audit::OnFull::GoOn,
        },
    })?)
}

fn open_forwards(config: &Config, box_id: &BoxId, audit: &audit::Audit) -> Result<forward::Forwards> {
    let settings = forward::Settings {
        dir: config.state_dir.join("forward"),
        host: match &config.domain {
            Some(domain) => domain.clone(),
            None => format!("berth-{box_id}"),
        },
        syslog: config.audit.syslog.clone(),
        file: config.audit.file.clone(),
    };
    forward::Forwards::open(settings, audit).context("the audit cannot be forwarded")
}

fn listener(passed: Option<std::net::TcpListener>, address: std::net::SocketAddr) -> Result<std::net::TcpListener> {
    let listener = match passed {
        Some(passed) => passed,
        None => std::net::TcpListener::bind(address).with_context(|| {
            format!(
                "cannot listen on {address}: stop what listens there (`ss -ltnp`), or set [listen] to another address"
            )
        })?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Everything that runs.
struct Running {
    /// The named set: a task that ends in it ends the process.
    tasks: JoinSet<&'static str>,
    parts: Arc<backend::Parts>,
    stop: watch::Sender<bool>,
    types_dir: PathBuf,
    drain_timeout: Duration,
}

impl Built {
    /// Starts every task. Ready means: instances known, edge and admin socket open.
    fn run(self, firewall: Arc<firewall::Firewall>) -> Result<Running> {
        let mut limits = self.config.limits.clone();
        let for_links = descriptors::share(descriptors::raise(), &mut limits);
        let (events, link_events) = mpsc::channel(LINK_EVENTS);
        let links = link::Registry::within(self.config.runtime_dir.clone(), events, for_links);
        let (tokens, sessions) = (TokenTable::new(), SessionTable::default());
        let doctor = doctor::Doctor {
            program: self.agent.clone(),
            config: self.file,
            disk: tokio::sync::OnceCell::new(),
        };
        let routes = self.router.clone();
        let docker = docker::Docker::new(&self.config.docker.socket).in_network(&self.config.network);
        let deploys = deploy_log::Deploys::new(self.config.state_dir.join("deploys"));
        let installer = packages::Packages::new(
            docker.clone(),
            firewall.clone(),
            self.store.box_id().clone(),
            self.config.state_dir.join("packages"),
            self.config.install.clone(),
            self.config.docker.images.clone(),
        );
        let (catalog, key) = (Arc::new(ArcSwap::from(self.catalog)), self.key);
        let audit = self.audit;
        let box_id = self.store.box_id().clone();
        let (show, shown) = watch::channel(Shown::default());
        let (ledger, ledger_task) = spawn_ledger(
            self.store,
            key.clone(),
            (&self.config, &limits),
            (adapt::RealTokens(tokens.clone(), sessions.clone()), audit.clone()),
            catalog.clone(),
            shown,
        )?;
        let (reconcile, reconcile_task) = reconcile::spawn(reconcile::Deps {
            box_id,
            key: key.clone(),
            desired: ledger.desired(),
            ledger: Arc::new(adapt::RealLedger(ledger.clone())),
            shown: show,
            engine: Arc::new(engine::Both {
                docker: docker.clone(),
                remotes: remote::Remotes::new(&self.config.remote)?,
            }),
            links: Arc::new(adapt::RealLinks(links.clone())),
            link_events,
            catalog: catalog.clone(),
            agent: self.agent,
            images: self.config.docker.images.clone(),
            installer: Arc::new(adapt::RealInstaller(installer.clone())),
            deploys: deploys.clone(),
            max_message: limits.body_bytes,
            install_bytes: self.config.install.disk_bytes as u64,
            quotas: Arc::new(adapt::RealQuotas::default()),
            workspace: self.config.workspace,
            endpoints: Box::new(move |id| routes.endpoints(id, &addresses::host(&routes))),
        });
        let events = Events::new()?;
        // Before anybody can ask: what changes from here on is told.
        let watcher = events::Watcher::new(&ledger, &reconcile, &events);
        let known = reconcile.clone();
        let doors = doors::Doors::new(self.config.claim.required, reconcile.clone());
        let claims = Arc::new(doors::Claims::new(
            self.config.claim.clone(),
            reconcile.snapshot().claimed,
        )?);
        let edge = edge::Edge::spawn(
            edge::EdgeConfig {
                router: self.router.clone(),
                limits: limits.clone(),
                allowed_origins: self.config.edge.allowed_origins.clone(),
                workers: edge::Workers::HalfTheCores,
                screens: Arc::new(screen::screens(&reconcile, &ledger)),
                sessions: sessions.clone(),
                access: ledger.live_access(),
                audit: Some(audit.clone()),
            },
            edge::Listeners {
                https: vec![self.https],
                http: vec![self.http],
            },
            links.clone(),
            tokens.clone(),
            Box::new(move |id| known.views().get(id).map(|v| v.state)),
            Some(doors.clone()),
            &self.certificates,
        )?;
        let parts = Arc::new(backend::Parts {
            ledger,
            reconcile,
            catalog,
            catalog_trouble: arc_swap::ArcSwapOption::empty(),
            allow: self.config.allow.clone(),
            space: space::Space {
                state_dir: self.config.state_dir.clone(),
                docker: docker.clone(),
                engine: tokio::sync::OnceCell::new(),
            },
            docker,
            images: self.config.docker.images.clone(),
            deploys,
            links,
            edge,
            sessions,
            console: Arc::default(),
            tokens,
            audit: audit.clone(),
            forwards: self.forwards.clone(),
            usage: self.usage,
            events,
            router: self.router,
            certificates: self.certificates,
            claims,
            doctor,
            started_at: jiff::Timestamp::now(),
            key,
            firewall,
        });
        doors.open(&parts);
        let (stop, stopped) = watch::channel(false);
        let mut tasks = spawn_tasks(
            &parts,
            ledger_task,
            reconcile_task,
            self.admin,
            self.config.admin_socket(),
            stopped,
        );
        tasks.spawn(async move {
            installer.tend().await;
            "packages"
        });
        let usage = parts.usage.clone();
        tasks.spawn(async move {
            usage.run().await;
            "usage"
        });
        tasks.spawn(async move {
            self.forwards.run().await;
            "forwards"
        });
        tasks.spawn(async move {
            watcher.run().await;
            "events"
        });
        let metered = Arc::clone(&parts);
        tasks.spawn(async move {
            meter::run(metered).await;
            "meter"
        });
        let limits_of_calls = call_limits::keep(Arc::clone(&parts), self.config.workspace);
        tasks.spawn(async move {
            limits_of_calls.await;
            "call limits"
        });
        let host = addresses::host(&parts.router);
        audit.note(
            "start",
            AuditOutcome::Ok,
            format!("berth {}", env!("CARGO_PKG_VERSION")),
        );
        log::info!(box_id = parts.reconcile.box_id().as_str(), host = host.as_str(); "serving");
        systemd::ready(&format!("serving {host}"));
        Ok(Running {
            tasks,
            parts,
            stop,
            types_dir: self.config.types_dir,
            drain_timeout: limits.drain_timeout,
        })
    }
}

fn spawn_ledger(
    mut store: store::Store,
    key: Arc<secret::BoxKey>,
    (config, limits): (&Config, &Limits),
    (tokens, audit): (adapt::RealTokens, audit::Audit),
    catalog: Arc<ArcSwap<Catalog>>,
    shown: watch::Receiver<Shown>,
) -> Result<(ledger::Handle, tokio::task::JoinHandle<()>)> {
    let spawned = ledger::spawn(ledger::Deps {
        loaded: store.load()?,
        box_id: store.box_id().clone(),
        storage: Box::new(store),
        key,
        tokens: Arc::new(tokens),
        journal: Arc::new(audit),
        catalog,
        images: config.docker.images.clone(),
        allow: config.allow.clone(),
        max_instances: limits.instances,
        max_tokens_per_instance: limits.tokens_per_instance,
        install_bytes: config.install.disk_bytes as u64,
        workspace: config.workspace,
        removed: config.runtime_dir.join(machine::engine::REMOVED),
        shown,
    });
    memory::give_back();
    spawned.context("cannot start the store's thread")
}

/// Everything that runs besides the edge's own threads.
fn spawn_tasks(
    parts: &Arc<backend::Parts>,
    ledger: tokio::task::JoinHandle<()>,
    reconcile: tokio::task::JoinHandle<()>,
    listener: tokio::net::UnixListener,
    socket: PathBuf,
    stopped: watch::Receiver<bool>,
) -> JoinSet<&'static str> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ = ledger.await;
        "ledger"
    });
    tasks.spawn(async move {
        let _ = reconcile.await;
        "reconcile"
    });
    let served = admin::serve(listener, socket, parts.clone(), stopped.clone(), ADMIN_DRAIN);
    tasks.spawn(async move {
        served.await;
        "admin"
    });
    let certificates = parts.certificates.clone();
    tasks.spawn(async move {
        certificates.keep().await;
        "certificates"
    });
    let firewall = parts.firewall.clone();
    tasks.spawn(async move {
        firewall.keep().await;
        "firewall"
    });
    let watched = parts.clone();
    tasks.spawn(async move {
        watchdog::run(watched, stopped).await;
        "watchdog"
    });
    tasks
}

impl Running {
    /// SIGHUP: type files and certificate files are read again. What cannot be used changes nothing.
    async fn reload(&self) {
        systemd::reloading();
        self.reload_catalog().await;
        match self.parts.certificates.refresh(std::time::SystemTime::now()) {
            Ok(true) => log::info!("certificates were read again"),
            Ok(false) => log::info!("certificates are the same"),
            Err(e) => log::error!("certificates were not read again; the old ones stay: {e}"),
        }
        systemd::ready(&format!("serving {}", addresses::host(&self.parts.router)));
    }

    /// Instances keep the type that they were made of until they are recreated.
    async fn reload_catalog(&self) {
        let dir = self.types_dir.clone();
        let loaded = tokio::task::spawn_blocking(move || load::types(&dir)).await;
        let loaded = loaded
            .map_err(|e| e.to_string())
            .and_then(|l| l.map_err(|e| e.to_string()));
        match loaded {
            Ok(catalog) => {
                log::info!("{} instance types were read", catalog.types.len());
                // Ledger and reconciler look there too.
                self.parts.catalog.store(Arc::new(catalog));
                self.parts.catalog_trouble.store(None);
            }
            Err(why) => {
                log::error!("instance types were not read again; the old ones stay: {why}");
                self.parts.catalog_trouble.store(Some(Arc::new(why)));
            }
        }
    }

    /// Takes nothing new, ends what clients take up again elsewhere, and lets calls in flight end within the bound. These
    /// keep nobody else waiting: store, sockets and links are given up before, so that another supervisor can serve
    /// meanwhile. Instances run on.
    async fn drain(mut self) {
        systemd::stopping();
        log::info!("draining");
        let parts = Arc::clone(&self.parts);
        // Whoever follows goes on at the next supervisor: nothing waits for them.
        parts.events.close();
        let mut draining = std::pin::pin!(parts.edge.drain(self.drain_timeout));
        let soon = tokio::time::timeout(RELEASE_AFTER, draining.as_mut()).await;
        self.release().await;
        let clean = match soon {
            Ok(clean) => clean,
            Err(_) => draining.await,
        };
        self.parts.audit.finish().await;
        if !clean {
            log::warn!("calls were cut: they took longer than {:?}", self.drain_timeout);
        }
        log::info!("stopped");
    }

    /// Keeps what is only in memory, and gives up what only one supervisor can have.
    async fn release(&mut self) {
        let _ = self.stop.send(true);
        self.parts.audit.note("stop", AuditOutcome::Ok, String::new());
        // The reconciler ends last: it shows what the ledger has kept, for whoever waits for an answer.
        if tokio::time::timeout(KEEP, self.parts.ledger.shutdown()).await.is_err() {
            log::error!("the disk does not take what is to be kept: what nobody was answered for yet may be lost");
        }
        self.parts.audit.flush().await;
        self.parts.forwards.drain().await;
        // The next supervisor may begin now, and waits for the audit. Rows that come from here on are in the spool.
        self.parts.usage.save().await;
        self.parts.audit.close().await;
        self.parts.reconcile.shutdown().await;
        self.parts.links.release();
        let ended = async {
            let mut left = 4;
            while left > 0 && self.tasks.join_next().await.is_some() {
                left -= 1;
            }
        };
        // ledger, reconcile, admin and watchdog end by themselves; certificates and firewall never do.
        let _ = tokio::time::timeout(ADMIN_DRAIN * 2, ended).await;
        self.tasks.abort_all();
    }
}
