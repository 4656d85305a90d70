//! [`Docker`]: the engine behind its Unix socket, by `bollard`. A connection per call, so that an engine that was
//! restarted is simply found again; the API version is settled at the first call that gets through.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker as Client,
    errors::Error,
    models::{ContainerCreateBody, ContainerUpdateBody, NetworkCreateRequest, Volume},
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions,
        ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, LogsOptionsBuilder,
        RemoveContainerOptionsBuilder, RemoveVolumeOptions, StartContainerOptions, StopContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    stream::{self, BoxStream},
};
use nix::sys::statvfs::statvfs;
use tokio::sync::OnceCell;

use super::{
    Engine, EngineError, EngineFuture, EngineInfo, Exit, LABEL_BUILD, inherit,
    subnets::Subnets,
    translate::{create_body, map, owner, seen, users_from},
};
use crate::{
    config::Network,
    model::BoxId,
    plan::{
        Observed,
        quota::holds_sizes,
        room::Disk,
        spec::{ContainerSpec, LABEL_BOX, LABEL_INSTANCE},
    },
};

/// A call that reads or writes a little.
pub(super) const QUICK: Duration = Duration::from_secs(20);
/// A call that makes, starts or removes.
pub(super) const SLOW: Duration = Duration::from_secs(60);
/// Fetching an image.
const PULL: Duration = Duration::from_secs(900);
/// Header timeout of `bollard` itself; ours come first.
const CLIENT_TIMEOUT: u64 = 1000;

/// The engine at a Unix socket.
#[derive(Debug, Clone)]
pub struct Docker {
    socket: PathBuf,
    client: OnceCell<Client>,
    /// The engine's folder, where it holds volumes to a size.
    bounded: Arc<OnceLock<PathBuf>>,
    pub(super) subnets: Arc<Subnets>,
}

/// Asks the engine at `socket` what it is, within a bound; for `doctor`.
///
/// # Errors
/// [`EngineError`] when it does not answer.
pub async fn probe(socket: &Path, within: Duration) -> Result<EngineInfo, EngineError> {
    let docker = Docker::new(socket);
    within_time("answer", within, docker.ask_info()).await
}

pub(super) async fn within_time<T>(
    what: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or(Err(EngineError::Slow {
            what,
            seconds: limit.as_secs(),
        }))
}

fn filter(box_id: &BoxId) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{LABEL_BOX}={box_id}")])])
}

impl Docker {
    /// An engine that listens at `socket`; nothing is opened yet.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            client: OnceCell::new(),
            bounded: Arc::default(),
            subnets: Arc::new(Subnets::new(&Network::default())),
        }
    }

    /// With subnets as the configuration says.
    #[must_use]
    pub fn in_network(mut self, network: &Network) -> Self {
        self.subnets = Arc::new(Subnets::new(network));
        self
    }

    pub(super) async fn client(&self) -> Result<&Client, EngineError> {
        let connect = || async {
            let client =
                Client::connect_with_unix(&self.socket.display().to_string(), CLIENT_TIMEOUT, API_DEFAULT_VERSION)
                    .map_err(|e| self.error("connect", e))?;
            client.negotiate_version().await.map_err(|e| self.error("answer", e))
        };
        self.client.get_or_try_init(connect).await
    }

    pub(super) async fn call<T, F>(
        &self,
        what: &'static str,
        limit: Duration,
        f: impl FnOnce(Client) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        within_time(what, limit, async {
            let client = self.client().await?.clone();
            f(client).await.map_err(|e| self.error(what, e))
        })
        .await
    }

    pub(super) fn error(&self, what: &'static str, e: Error) -> EngineError {
        error(&self.socket, what, e)
    }

    async fn ask_info(&self) -> Result<EngineInfo, EngineError> {
        let version = self.call("tell its version", QUICK, |c| async move { c.version().await });
        let info = self.call("describe itself", QUICK, |c| async move { c.info().await });
        let (version, info) = tokio::try_join!(version, info)?;
        let word = |e: Option<String>| e.unwrap_or_default();
        let root_dir = word(info.docker_root_dir);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let volume_sizes = holds_sizes(&mounts, Path::new(&root_dir));
        if volume_sizes {
            let _ = self.bounded.set(PathBuf::from(&root_dir));
        }
        let security = info.security_options.unwrap_or_default();
        let users_from = users_from(&security, &root_dir).ok_or_else(|| EngineError::Refused {
            what: "tell which users containers have",
            why: format!("the engine remaps them, and its folder {root_dir} does not say to which"),
        })?;
        Ok(EngineInfo {
            version: word(version.version),
            api_version: word(version.api_version),
            systemd_cgroups: info.cgroup_driver.is_some_and(|d| d.to_string() == "systemd"),
            cgroup_version: info
                .cgroup_version
                .map_or(1, |v| if v.to_string() == "2" { 2 } else { 1 }),
            cpus: info.ncpu.unwrap_or(1),
            memory: info.mem_total.unwrap_or(0),
            memory_limit: info.memory_limit.unwrap_or(false),
            cpu_quota: info.cpu_cfs_quota.unwrap_or(false),
            pids_limit: info.pids_limit.unwrap_or(false),
            security,
            root_dir,
            volume_sizes,
            users_from,
            layer_sizes: volume_sizes && info.driver.is_some_and(|d| d == "overlay2"),
        })
    }

    async fn ask_list(&self, box_id: &BoxId) -> Result<Observed, EngineError> {
        let labelled = filter(box_id);
        let containers = self.call("list containers", QUICK, |c| {
            let options = ListContainersOptionsBuilder::new().all(true).filters(&labelled).build();
            async move { c.list_containers(Some(options)).await }
        });
        let networks = self.call("list networks", QUICK, |c| {
            let options = ListNetworksOptionsBuilder::new().filters(&labelled).build();
            async move { c.list_networks(Some(options)).await }
        });
        let volumes = self.call("list volumes", QUICK, |c| {
            let options = ListVolumesOptionsBuilder::new().filters(&labelled).build();
            async move { c.list_volumes(Some(options)).await }
        });
        let (containers, networks, volumes) = tokio::try_join!(containers, networks, volumes)?;
        // Installations look after their own.
        // A label of the image does not make a container of an instance one of those.
        let installs =
            |labels: &HashMap<String, String>| labels.contains_key(LABEL_BUILD) && !labels.contains_key(LABEL_INSTANCE);
        let volumes: Vec<Volume> = volumes
            .volumes
            .unwrap_or_default()
            .into_iter()
            .filter(|v| !installs(&v.labels))
            .collect();
        let named = networks
            .into_iter()
            .filter(|n| !n.labels.as_ref().is_some_and(installs))
            .filter_map(|n| Some((n.name?, n.labels.unwrap_or_default())));
        Ok(Observed {
            containers: containers
                .into_iter()
                .filter(|c| !c.labels.as_ref().is_some_and(installs))
                .filter_map(seen)
                .collect(),
            networks: named.map(|(name, labels)| (name, owner(&labels))).collect(),
            volumes: volumes.iter().map(|v| (v.name.clone(), owner(&v.labels))).collect(),
            disk: self.measure(&volumes).await,
        })
    }

    /// The disk of the volumes, where it holds them to a size: a file system with project quotas says of each volume's
    /// folder how much its project has and may have (xfs(5)).
    async fn measure(&self, volumes: &[Volume]) -> Option<Disk> {
        let root = self.bounded.get()?.clone();
        let folders: Vec<PathBuf> = volumes.iter().map(|v| PathBuf::from(&v.mountpoint)).collect();
        let measured = tokio::task::spawn_blocking(move || {
            let space = |path: &Path| {
                let seen = statvfs(path).ok()?;
                let bytes = |blocks: u64| blocks.saturating_mul(seen.fragment_size());
                Some((bytes(seen.blocks()), bytes(seen.blocks_available())))
            };
            let (size, free) = space(&root)?;
            // What it may have more is not told where the disk has less: it counts as empty then, as does one without a
            // size of its own.
            let told = |(own, left): &(u64, u64)| *own < size && *left < free;
            let used = |folder: &PathBuf| space(folder).filter(told).map(|(own, left)| own.saturating_sub(left));
            let volumes = folders.iter().filter_map(used).sum();
            Some(Disk { size, free, volumes })
        });
        measured.await.ok()?
    }

    /// Fetches an image and hands out how it goes, line by line.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn fetch(&self, reference: &str, mut each: impl FnMut(&str)) -> Result<(), EngineError> {
        let call = async |c: Client| {
            let mut options = CreateImageOptionsBuilder::new().from_image(reference);
            // Without a tag the engine would fetch all of them.
            let name = reference.rsplit('/').next().unwrap_or(reference);
            if !name.contains([':', '@']) {
                options = options.tag("latest");
            }
            let mut progress = c.create_image(Some(options.build()), None, None);
            let mut said = String::new();
            while let Some(line) = progress.next().await {
                let line = line?;
                let status = line.status.unwrap_or_default();
                let text = match line.id {
                    Some(layer) => format!("{layer}: {status}"),
                    None => status,
                };
                if text != said {
                    each(&text);
                    said = text;
                }
            }
            Ok(())
        };
        self.call("pull the image", PULL, call).await
    }

    /// Makes a container, with what it takes over from its image named. The only place that makes one.
    pub(super) async fn make(
        &self,
        what: &'static str,
        name: &str,
        mut body: ContainerCreateBody,
    ) -> Result<String, EngineError> {
        let image = body.image.clone().unwrap_or_default();
        let call = |c: Client| async move { c.inspect_image(&image).await };
        let found = self.call(what, QUICK, call).await?;
        let config = found.config.unwrap_or_default();
        inherit::close(&mut body, config).map_err(|e| EngineError::Refused {
            what,
            why: e.to_string(),
        })?;
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let call = |c: Client| async move { c.create_container(Some(options), body).await.map(|r| r.id) };
        self.call(what, SLOW, call).await
    }

    async fn ask_words(&self, container: &str, lines: u32, bytes: usize) -> Result<String, EngineError> {
        let mut log = self.logs(container, false, Some(lines));
        let mut text: Vec<u8> = Vec::new();
        let read = async {
            while let Some(chunk) = log.next().await {
                text.extend_from_slice(&chunk?);
                if text.len() > 4 * bytes {
                    text.drain(..text.len() - bytes);
                }
            }
            Ok(())
        };
        within_time("give the log", QUICK, read).await?;
        let from = text.len().saturating_sub(bytes);
        Ok(String::from_utf8_lossy(&text[from..]).trim().to_owned())
    }
}

fn error(socket: &Path, what: &'static str, e: Error) -> EngineError {
    match e {
        Error::DockerResponseServerError { status_code, message } => match status_code {
            404 => EngineError::NotFound { what, why: message },
            409 => EngineError::Conflict { what, why: message },
            _ => EngineError::Refused { what, why: message },
        },
        Error::DockerStreamError { error } => EngineError::Refused { what, why: error },
        Error::JsonDataError { message, .. } => EngineError::Refused { what, why: message },
        other => EngineError::Unreachable {
            socket: socket.to_owned(),
            why: chain(&other),
        },
    }
}

/// An error with its causes: `bollard` says only "client error" at the top.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn missing_is_fine(result: Result<(), EngineError>) -> Result<(), EngineError> {
    match result {
        Err(EngineError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

impl Engine for Docker {
    fn info(&self) -> EngineFuture<'_, EngineInfo> {
        self.ask_info().boxed()
    }

    fn list<'a>(&'a self, box_id: &'a BoxId) -> EngineFuture<'a, Observed> {
        self.ask_list(box_id).boxed()
    }

    fn create<'a>(&'a self, spec: &'a ContainerSpec) -> EngineFuture<'a, String> {
        self.make("create the container", &spec.name, create_body(spec)).boxed()
    }

    fn start<'a>(&'a self, container: &'a str) -> EngineFuture<'a, ()> {
        let call = move |c: Client| async move { c.start_container(container, None::<StartContainerOptions>).await };
        self.call("start the container", SLOW, call).boxed()
    }

    fn pid<'a>(&'a self, container: &'a str) -> EngineFuture<'a, Option<u32>> {
        let call =
            move |c: Client| async move { c.inspect_container(container, None::<InspectContainerOptions>).await };
        let done = self.call("inspect the container", QUICK, call);
        async move {
            let pid = done.await?.state.and_then(|s| s.pid).unwrap_or(0);
            Ok(u32::try_from(pid).ok().filter(|pid| *pid > 0))
        }
        .boxed()
    }

    fn cpu<'a>(&'a self, container: &'a str) -> EngineFuture<'a, i64> {
        let call =
            move |c: Client| async move { c.inspect_container(container, None::<InspectContainerOptions>).await };
        let done = self.call("inspect the container", QUICK, call);
        async move { Ok(done.await?.host_config.and_then(|h| h.nano_cpus).unwrap_or(0)) }.boxed()
    }

    fn set_cpu<'a>(&'a self, container: &'a str, nano_cpus: i64) -> EngineFuture<'a, ()> {
        let body = ContainerUpdateBody {
            nano_cpus: Some(nano_cpus),
            ..ContainerUpdateBody::default()
        };
        let call = move |c: Client| async move { c.update_container(container, body).await.map(|_| ()) };
        self.call("set the container's CPU", QUICK, call).boxed()
    }

    fn stop<'a>(&'a self, container: &'a str, grace: i32) -> EngineFuture<'a, ()> {
        let options = StopContainerOptionsBuilder::new().t(grace).build();
        let call = move |c: Client| async move { c.stop_container(container, Some(options)).await };
        let done = self.call("stop the container", SLOW, call);
        async move { missing_is_fine(done.await) }.boxed()
    }

    fn remove<'a>(&'a self, container: &'a str) -> EngineFuture<'a, ()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let call = move |c: Client| async move { c.remove_container(container, Some(options)).await };
        let done = self.call("remove the container", SLOW, call);
        async move {
            match missing_is_fine(done.await) {
                // Somebody else removes it already.
                Err(EngineError::Conflict { why, .. }) if why.contains("already in progress") => Ok(()),
                other => other,
            }
        }
        .boxed()
    }

    fn exit<'a>(&'a self, container: &'a str) -> EngineFuture<'a, Exit> {
        let call =
            move |c: Client| async move { c.inspect_container(container, None::<InspectContainerOptions>).await };
        async move {
            let found = self.call("inspect the container", QUICK, call).await?;
            let state = found.state.unwrap_or_default();
            Ok(Exit {
                code: state.exit_code.unwrap_or(0),
                out_of_memory: state.oom_killed.unwrap_or(false),
                error: state.error.unwrap_or_default(),
            })
        }
        .boxed()
    }

    fn create_network<'a>(
        &'a self,
        name: &'a str,
        bridge: &'a str,
        labels: &'a BTreeMap<String, String>,
    ) -> EngineFuture<'a, ()> {
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            attachable: Some(false),
            enable_ipv6: Some(false),
            options: Some(HashMap::from([
                ("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned()),
                ("com.docker.network.bridge.name".to_owned(), bridge.to_owned()),
            ])),
            labels: Some(map(labels)),
            ..NetworkCreateRequest::default()
        };
        self.add_network(request).boxed()
    }

    fn remove_network<'a>(&'a self, name: &'a str) -> EngineFuture<'a, ()> {
        let call = move |c: Client| async move { c.remove_network(name).await };
        let done = self.call("remove the network", SLOW, call);
        async move { missing_is_fine(done.await) }.boxed()
    }

    fn remove_volume<'a>(&'a self, name: &'a str) -> EngineFuture<'a, ()> {
        let call = move |c: Client| async move { c.remove_volume(name, None::<RemoveVolumeOptions>).await };
        let done = self.call("remove the volume", SLOW, call);
        async move { missing_is_fine(done.await) }.boxed()
    }

    fn pull<'a>(&'a self, reference: &'a str) -> EngineFuture<'a, ()> {
        self.fetch(reference, move |said| log::info!(image = reference; "pulling: {said}"))
            .boxed()
    }

    fn last_words<'a>(&'a self, container: &'a str, lines: u32, bytes: usize) -> EngineFuture<'a, String> {
        self.ask_words(container, lines, bytes).boxed()
    }

    fn logs(&self, container: &str, follow: bool, tail: Option<u32>) -> BoxStream<'static, Result<Bytes, EngineError>> {
        let Some(client) = self.client.get().cloned() else {
            let why = "it has not answered since the supervisor started".to_owned();
            let socket = self.socket.clone();
            return stream::once(async { Err(EngineError::Unreachable { socket, why }) }).boxed();
        };
        let tail = tail.map_or("all".to_owned(), |n| n.to_string());
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .follow(follow)
            .tail(&tail)
            .build();
        let socket = self.socket.clone();
        let lines = client.logs(container, Some(options));
        lines
            .map(move |chunk| {
                chunk
                    .map(bollard::container::LogOutput::into_bytes)
                    .map_err(|e| error(&socket, "give the log", e))
            })
            .boxed()
    }

    fn events(&self, box_id: &BoxId) -> BoxStream<'static, Result<(), EngineError>> {
        let Some(client) = self.client.get().cloned() else {
            return stream::empty().boxed();
        };
        let mut filters = filter(box_id);
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        // Only ends: starts are our own, and a listing while a server boots would take time from it.
        let actions = ["die", "destroy", "pause", "unpause"];
        filters.insert("event".to_owned(), actions.map(str::to_owned).to_vec());
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let socket = self.socket.clone();
        let events = client.events(Some(options));
        events
            .map(move |e| e.map(|_| ()).map_err(|e| error(&socket, "tell its events", e)))
            .boxed()
    }
}
