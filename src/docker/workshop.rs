//! What installing a package takes of the engine: containers that install into one volume, their files in and out, and
//! an image from what came out. Everything made here carries the label [`LABEL_BUILD`], so that the reconciler leaves it
//! alone and a supervisor that was killed finds it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::ControlFlow,
    time::Duration,
};

use bollard::{
    models::{
        ContainerCreateBody, HostConfig, HostConfigLogConfig, ImageSummary, Mount, MountType, MountVolumeOptions,
        ResourcesUlimits, VolumeCreateRequest,
    },
    query_parameters::{
        ImportImageOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
        ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, LogsOptionsBuilder, RemoveImageOptionsBuilder,
        StartContainerOptions, UploadToContainerOptionsBuilder, WaitContainerOptions,
    },
};
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};

use super::{
    Engine, EngineError, EngineInfo,
    adapter::{Docker, QUICK, SLOW},
    inherit::{self, VolumesError},
    translate::map,
};
use crate::{
    model::BoxId,
    plan::spec::{LABEL_BOX, LABEL_INSTANCE},
};

/// Loading an archive may take so long, however large it is.
const LOAD: Duration = Duration::from_secs(3600);

/// Label of containers, networks and volumes: an installation.
pub const LABEL_BUILD: &str = "berth.build";
/// Labels of images: what was installed, and for which box. Containers inherit an image's labels, so these are others
/// than those that say whose a container is.
pub const LABEL_BUILT: &str = "berth.built";
pub const LABEL_BUILT_BOX: &str = "berth.built.box";

/// The options of `/tmp` in a container that installs: in memory and bounded. Scripts may run programs there.
const SCRATCH: &str = "rw,exec,nosuid,nodev,mode=1777,size=256m,nr_inodes=16384";
/// The user of every container.
const USER: u32 = 10001;

/// Whose a volume in memory is, as options of its mount: the kernel takes the host's numbers, which are others than the
/// container's where the engine maps users (`userns-remap`). Its folder is then called by where they begin.
fn volume_owner(info: &EngineInfo) -> String {
    let mapped = info.security.iter().any(|s| s.split(',').any(|w| w == "name=userns"));
    let begin = || {
        let (uid, gid) = info
            .root_dir
            .trim_end_matches('/')
            .rsplit('/')
            .next()?
            .split_once('.')?;
        Some((
            uid.parse::<u32>().ok()?.checked_add(USER)?,
            gid.parse::<u32>().ok()?.checked_add(USER)?,
        ))
    };
    match (mapped, begin()) {
        (false, _) => format!("uid={USER},gid={USER},mode=755"),
        (true, Some((uid, gid))) => format!("uid={uid},gid={gid},mode=755"),
        (true, None) => "mode=1777".to_owned(),
    }
}

/// A container that installs something.
#[derive(Debug, Clone)]
pub struct InstallContainer {
    pub name: String,
    pub image: String,
    pub labels: BTreeMap<String, String>,
    pub command: Vec<String>,
    /// A network, or `none`.
    pub network: String,
    /// The bridge that the network is on.
    pub bridge: String,
    /// A volume, and where it is seen.
    pub volume: (String, Vec<String>),
    /// Nothing can be written but to the volume and `/tmp`.
    pub read_only: bool,
    pub cgroup_parent: String,
    pub memory: i64,
    pub cpus: i64,
    /// The largest file that it may write, in bytes.
    pub file_size: i64,
}

/// A piece of what a container says.
#[derive(Debug, Clone)]
pub enum Said {
    Out(Bytes),
    Err(Bytes),
}

/// An image as it is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenImage {
    pub id: String,
    pub tags: Vec<String>,
    /// `name@sha256:…`, where it came from a registry.
    pub digests: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// Where it declares volumes; or why it can be no container's.
    pub volumes: Result<Vec<String>, VolumesError>,
}

fn by_label(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, Vec<String>> {
    let labels = pairs.iter().map(|(k, v)| {
        if v.is_empty() {
            (*k).to_owned()
        } else {
            format!("{k}={v}")
        }
    });
    std::collections::HashMap::from([("label".to_owned(), labels.collect())])
}

impl Docker {
    /// Makes a volume in memory, which the kernel bounds in bytes and in files. It is empty again whenever no container
    /// that runs has it.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn bounded_volume(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        bytes: u64,
        files: u64,
    ) -> Result<(), EngineError> {
        let owner = volume_owner(&self.info().await?);
        let options = format!("size={bytes},nr_inodes={files},{owner},nosuid,nodev");
        let pairs = [("type", "tmpfs"), ("device", "tmpfs"), ("o", options.as_str())];
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            driver: Some("local".to_owned()),
            driver_opts: Some(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            labels: Some(map(labels)),
            ..VolumeCreateRequest::default()
        };
        let call = |c: bollard::Docker| async move { c.create_volume(request).await.map(drop) };
        self.call("create the volume", SLOW, call).await
    }

    /// Makes the container of an installation, not yet started: no capabilities, no new privileges, not root, bounded.
    ///
    /// # Errors
    /// [`EngineError`]; `NotFound` where its image is not here.
    pub async fn start_install_container(&self, b: &InstallContainer) -> Result<String, EngineError> {
        let limit = |name: &str, n: i64| ResourcesUlimits {
            name: Some(name.to_owned()),
            soft: Some(n),
            hard: Some(n),
        };
        let mount = |target: &String| Mount {
            typ: Some(MountType::VOLUME),
            source: Some(b.volume.0.clone()),
            target: Some(target.clone()),
            volume_options: Some(MountVolumeOptions {
                no_copy: Some(true),
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        };
        let body = ContainerCreateBody {
            image: Some(b.image.clone()),
            labels: Some(map(&b.labels)),
            user: Some(format!("{USER}:{USER}")),
            entrypoint: Some(b.command.clone()),
            working_dir: Some("/".to_owned()),
            host_config: Some(HostConfig {
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                privileged: Some(false),
                network_mode: Some(b.network.clone()),
                readonly_rootfs: Some(b.read_only),
                tmpfs: Some(std::collections::HashMap::from([(
                    "/tmp".to_owned(),
                    SCRATCH.to_owned(),
                )])),
                mounts: Some(b.volume.1.iter().map(mount).collect()),
                ipc_mode: Some("private".to_owned()),
                cgroup_parent: Some(b.cgroup_parent.clone()),
                memory: Some(b.memory),
                memory_swap: Some(b.memory),
                nano_cpus: Some(b.cpus * 1_000_000_000),
                pids_limit: Some(512),
                oom_score_adj: Some(700),
                ulimits: Some(vec![
                    limit("nofile", 8192),
                    limit("fsize", b.file_size),
                    limit("core", 0),
                ]),
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".to_owned()),
                    config: Some(std::collections::HashMap::from([
                        ("max-size".to_owned(), "20m".to_owned()),
                        ("max-file".to_owned(), "1".to_owned()),
                    ])),
                }),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        self.make("create the installing container", &b.name, body).await
    }

    /// Unpacks an archive at the root of a container that does not run.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn put(&self, container: &str, archive: Bytes) -> Result<(), EngineError> {
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        let call = |c: bollard::Docker| async move {
            c.upload_to_container(container, Some(options), bollard::body_full(archive))
                .await
        };
        self.call("put files into the container", SLOW, call).await
    }

    /// Starts it and hands out what it says, until it ends: its exit status, and whether memory ran out. None where
    /// `each` has heard enough before that: it goes on.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn work(
        &self,
        container: &str,
        mut each: impl FnMut(Said) -> ControlFlow<()>,
    ) -> Result<Option<(i64, bool)>, EngineError> {
        let start =
            |c: bollard::Docker| async move { c.start_container(container, None::<StartContainerOptions>).await };
        self.call("start the container", SLOW, start).await?;
        let client = self.client().await?.clone();
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).follow(true).build();
        let mut said = client.logs(container, Some(options));
        while let Some(piece) = said.next().await {
            let heard = match piece.map_err(|e| self.error("give the log", e))? {
                bollard::container::LogOutput::StdOut { message } => each(Said::Out(message)),
                bollard::container::LogOutput::StdErr { message } => each(Said::Err(message)),
                _ => ControlFlow::Continue(()),
            };
            if heard.is_break() {
                return Ok(None);
            }
        }
        // The log has ended: so has the container, or very nearly.
        let mut ended = client.wait_container(container, None::<WaitContainerOptions>);
        let wait = async { while let Some(Ok(_)) = ended.next().await {} };
        let _ = tokio::time::timeout(QUICK, wait).await;
        let exit = self.exit(container).await?;
        Ok(Some((exit.code, exit.out_of_memory)))
    }

    /// Whether a container runs.
    ///
    /// # Errors
    /// [`EngineError`]; `NotFound` where there is none.
    pub async fn runs(&self, container: &str) -> Result<bool, EngineError> {
        let call =
            |c: bollard::Docker| async move { c.inspect_container(container, None::<InspectContainerOptions>).await };
        let found = self.call("inspect the container", QUICK, call).await?;
        Ok(found.state.and_then(|s| s.running).unwrap_or(false))
    }

    /// An image by its name or id; none where it is not here.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn image(&self, reference: &str) -> Result<Option<SeenImage>, EngineError> {
        let call = |c: bollard::Docker| async move { c.inspect_image(reference).await };
        // It waits while the engine takes in a large layer.
        match self.call("inspect the image", SLOW, call).await {
            Ok(found) => {
                let config = found.config.unwrap_or_default();
                let volumes = inherit::volumes(&config);
                Ok(Some(SeenImage {
                    id: found.id.unwrap_or_default(),
                    tags: found.repo_tags.unwrap_or_default(),
                    digests: found.repo_digests.unwrap_or_default(),
                    labels: config.labels.unwrap_or_default().into_iter().collect(),
                    entrypoint: config.entrypoint.unwrap_or_default(),
                    command: config.cmd.unwrap_or_default(),
                    volumes,
                }))
            }
            Err(EngineError::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Loads an archive of images, as `docker save` makes them, compressed or not; the names that the engine says it loaded.
    ///
    /// # Errors
    /// [`EngineError`]; that an archive is none, or ends early, in the engine's words.
    pub async fn load(&self, archive: BoxStream<'static, io::Result<Bytes>>) -> Result<Vec<String>, EngineError> {
        let call = |c: bollard::Docker| async move {
            let options = ImportImageOptionsBuilder::new().quiet(true).build();
            let mut said = std::pin::pin!(c.import_image_stream(options, archive, None));
            let mut loaded = Vec::new();
            while let Some(line) = said.next().await {
                let text = line?.stream.unwrap_or_default();
                let named = text
                    .lines()
                    .filter_map(|l| l.strip_prefix("Loaded image")?.split_once(": "));
                loaded.extend(named.map(|(_, name)| name.trim().to_owned()));
            }
            Ok(loaded)
        };
        self.call("load the images", LOAD, call).await
    }

    /// The names of all images that are here, with their sizes in bytes (layers that they share counted for each).
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn image_names(&self) -> Result<BTreeMap<String, u64>, EngineError> {
        let options = ListImagesOptionsBuilder::new().build();
        let call = |c: bollard::Docker| async move { c.list_images(Some(options)).await };
        let found = self.call("list images", QUICK, call).await?;
        let named = |i: ImageSummary| {
            let size = u64::try_from(i.size).unwrap_or(0);
            i.repo_tags.into_iter().map(move |name| (name, size))
        };
        Ok(found.into_iter().flat_map(named).collect())
    }

    /// The images that installations of this box left.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn built_images(&self, box_id: &BoxId) -> Result<Vec<SeenImage>, EngineError> {
        let filters = by_label(&[(LABEL_BUILT_BOX, box_id.as_str()), (LABEL_BUILT, "")]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let call = |c: bollard::Docker| async move { c.list_images(Some(options)).await };
        let found = self.call("list images", QUICK, call).await?;
        let seen = found.into_iter().map(|i| SeenImage {
            id: i.id,
            tags: i.repo_tags,
            digests: i.repo_digests,
            labels: i.labels.into_iter().collect(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            volumes: Ok(Vec::new()),
        });
        Ok(seen.collect())
    }

    /// Removes an image. One that is gone, or that a container still uses, is no error.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn remove_image(&self, reference: &str) -> Result<(), EngineError> {
        let options = RemoveImageOptionsBuilder::new().force(false).build();
        let call = |c: bollard::Docker| async move { c.remove_image(reference, Some(options), None).await.map(drop) };
        match self.call("remove the image", SLOW, call).await {
            Err(EngineError::NotFound { .. } | EngineError::Conflict { .. }) => Ok(()),
            other => other,
        }
    }

    /// Removes the containers, networks and volumes of this box's installations, but for those of these names.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn sweep_install_containers(
        &self,
        box_id: &BoxId,
        keep: &BTreeSet<String>,
    ) -> Result<usize, EngineError> {
        let filters = by_label(&[(LABEL_BOX, box_id.as_str()), (LABEL_BUILD, "")]);
        let listed = {
            let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
            let call = |c: bollard::Docker| async move { c.list_containers(Some(options)).await };
            self.call("list containers", QUICK, call).await?
        };
        let mut n = 0;
        let instance = |labels: &std::collections::HashMap<String, String>| labels.contains_key(LABEL_INSTANCE);
        let kept = |c: &bollard::models::ContainerSummary| {
            let names = c.names.iter().flatten();
            names.map(|n| n.trim_start_matches('/')).any(|n| keep.contains(n))
        };
        let ours = listed
            .into_iter()
            .filter(|c| !c.labels.as_ref().is_some_and(instance) && !kept(c));
        for id in ours.filter_map(|c| c.id) {
            self.remove(&id).await?;
            n += 1;
        }
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let call = |c: bollard::Docker| async move { c.list_networks(Some(options)).await };
        for name in self
            .call("list networks", QUICK, call)
            .await?
            .into_iter()
            .filter_map(|n| n.name.filter(|n| !keep.contains(n)))
        {
            self.remove_network(&name).await?;
        }
        let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let call = |c: bollard::Docker| async move { c.list_volumes(Some(options)).await };
        let volumes = self.call("list volumes", QUICK, call).await?.volumes;
        for name in volumes
            .into_iter()
            .flatten()
            .map(|v| v.name)
            .filter(|n| !keep.contains(n))
        {
            self.remove_volume(&name).await?;
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_belongs_to_the_user_as_the_host_numbers_it() {
        let of = |security: &str, root_dir: &str| {
            volume_owner(&EngineInfo {
                security: vec!["name=seccomp,profile=default".to_owned(), security.to_owned()],
                root_dir: root_dir.to_owned(),
                ..EngineInfo::default()
            })
        };
        assert_eq!(of("name=cgroupns", "/var/lib/docker"), "uid=10001,gid=10001,mode=755");
        assert_eq!(
            of("name=userns", "/var/lib/docker/100000.200000"),
            "uid=110001,gid=210001,mode=755"
        );
        assert_eq!(of("name=userns", "/var/lib/docker"), "mode=1777");
    }
}
