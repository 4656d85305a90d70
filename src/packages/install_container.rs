//! The containers that install: made, filled, watched, emptied into an image, removed. Also when it is broken off.
//!
//! ```text
//! fetch   network, the site's files and credentials; npm and uv only, no code of a package: what has only source is put
//!   |     aside with what building it takes
//!   |     its report (versions, programs, lock) is what Berth knows and keeps
//!   v     the volume: in memory, bounded by the kernel in bytes and in files
//! build   no network, nothing of the site, nothing else writable; install scripts of npm packages, builds and bytecode of
//!   |     Python's
//!   |     what it says is shown to people and believed by nobody
//!   v
//! image   the volume's content on the runtime's image
//! ```
//!
//! The first container waits, asleep, until the image is made: the volume is there as long as one runs that has it.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};

use super::{Inner, PrepareError, Wanted, Words, missing, site};
use crate::{
    docker::{
        Assembly, Docker, Engine, EngineError, InstallContainer, LABEL_BUILD, LABEL_BUILT, LABEL_BUILT_BOX, Said,
        tar::Archive,
    },
    model::{Bounds, Excerpt, hex},
    plan::spec::{LABEL_BOX, Traffic, bridge_name},
};

/// What a report may have, in bytes.
const REPORT: usize = 16 << 20;
/// Of its words those that go into an error: its first lines and its last ones, and characters of each.
const WORDS: Bounds = Bounds {
    first: (4, LINE),
    last: (8, LINE),
};
/// Where the programs of a Python package are found.
const PYTHON_PATH: &str = "/opt/mcp/bin:/usr/local/bin:/usr/bin:/bin";
/// A longer line is cut, in characters.
const LINE: usize = 400;
/// What a container may say on one line, in bytes, before it is cut.
const PENDING: usize = 64 << 10;
/// An installation may have one file, folder or link for so many of the bytes that it may write.
const BYTES_PER_FILE: u64 = 8 << 10;
/// What a file adds to an archive at most, in bytes: its header, and what fills its last block.
const TAR_PER_FILE: u64 = 2048;
/// An installation has at most so many hundredths of the box's memory: what it writes is there, too.
const MEMORY_PERCENT: i64 = 75;
/// What known runtimes are told in every image that is made. .NET, which some npm packages bring along, ends without ICU
/// or this; a variable of the instance's own wins.
const RUNTIMES: (&str, &str) = ("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1");
/// The folder that becomes the layer: the volume is seen there at the path that it has in the image.
const LAYER: &str = "/srv/layer/opt";
/// How long after its time is up a container that waits ends by itself: longer than an image takes to be made.
const LINGER: Duration = Duration::from_secs(900);

/// What was installed, as it was before any code of a package ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) version: String,
    pub(super) bins: Vec<String>,
    pub(super) tree: Vec<String>,
    pub(super) lock: String,
}

/// What the container that fetches says at its end.
#[derive(Debug, Deserialize)]
struct Fetched {
    #[serde(flatten)]
    report: Report,
    /// The packages that have install scripts, or are to be built from source.
    scripts: Vec<String>,
}

/// Which of the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Asks for a version, and ends.
    Ask,
    /// Fetches, says what it fetched on one line, and waits.
    Fetch,
    /// Runs what was fetched, and ends.
    Build,
}

/// The containers, the network and the volume of an installation, all of one name, which go with this value: also when
/// it is dropped while the engine is still making them.
struct Place {
    inner: Arc<Inner>,
    wanted: Wanted,
    site: site::Site,
    name: String,
    labels: BTreeMap<String, String>,
    cgroup_parent: String,
    cpus: i64,
    /// In bytes.
    memory: i64,
    /// When its time is up.
    deadline: Instant,
    making: Option<JoinHandle<()>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let (inner, names, making) = (self.inner.clone(), self.names(), self.making.take());
        // What cannot be removed now is swept when the supervisor starts again.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Some(making) = making {
                    let _ = making.await;
                }
                for container in &names {
                    if let Err(e) = inner.docker.remove(container).await {
                        log::warn!("an installing container is left until the next start: {e}");
                    }
                }
                let [name, _] = &names;
                if let Err(e) = inner.docker.remove_volume(name).await {
                    log::warn!("the volume of an installation is left until the next start: {e}");
                }
                if let Err(e) = inner.docker.remove_network(name).await {
                    log::warn!("the network of an installation is left until the next start: {e}");
                }
                let mut active = inner.active();
                active.retain(|n| !names.contains(n));
            });
        }
    }
}

/// The memory of an installation on a box that has `whole`; 0 where that is not known.
fn memory(asked: usize, whole: i64) -> i64 {
    let asked = i64::try_from(asked).unwrap_or(i64::MAX);
    match whole / 100 * MEMORY_PERCENT {
        0 => asked,
        most => asked.min(most),
    }
}

/// The container, and before the first one its network and volume. One of before that is still being removed gives way.
async fn make(docker: &Docker, container: &InstallContainer, bounds: Option<(u64, u64)>) -> Result<(), PrepareError> {
    if let Some((bytes, files)) = bounds {
        docker
            .create_network(&container.name, &container.bridge, &container.labels)
            .await?;
        docker
            .bounded_volume(&container.name, &container.labels, bytes, files)
            .await?;
    }
    match docker.start_install_container(container).await {
        Ok(_) => Ok(()),
        Err(EngineError::NotFound { .. }) => Err(missing(&container.image)),
        Err(EngineError::Conflict { .. }) => {
            docker.remove(&container.name).await?;
            Ok(docker.start_install_container(container).await.map(drop)?)
        }
        Err(e) => Err(e.into()),
    }
}

impl Place {
    async fn new(inner: &Arc<Inner>, wanted: &Wanted, key: &str) -> Result<Self, PrepareError> {
        inner.permitted(&wanted.builder)?;
        let site = site::read(&inner.install, &site::Here).map_err(PrepareError::Final)?;
        let info = inner.docker.info().await?;
        let box_id = inner.box_id.as_str();
        Ok(Self {
            site,
            // Never the same twice: what goes away by its name is not what somebody else has just begun.
            name: format!("berth-{}-build-{}", &box_id[..8], &random_key()?[..12]),
            labels: BTreeMap::from([
                (LABEL_BOX.to_owned(), box_id.to_owned()),
                (LABEL_BUILD.to_owned(), key.to_owned()),
            ]),
            cgroup_parent: crate::plan::spec::cgroup_parent(&inner.box_id, "_installing", info.systemd_cgroups),
            cpus: info.cpus.clamp(1, 2),
            memory: memory(inner.install.memory_bytes, info.memory),
            deadline: Instant::now() + inner.install.timeout,
            inner: inner.clone(),
            wanted: wanted.clone(),
            making: None,
        })
    }

    /// The container that fetches, after which network and volume are named, and the one that builds.
    fn names(&self) -> [String; 2] {
        [self.name.clone(), format!("{}-code", self.name)]
    }

    /// Where the volume is seen. A Python environment knows its own path.
    fn folder(&self) -> &'static str {
        if self.wanted.node { "/srv/build/mcp" } else { "/opt/mcp" }
    }

    fn tool(&self) -> &'static str {
        if self.wanted.node { "npm" } else { "uv" }
    }

    /// How many bytes and files the kernel lets it have.
    fn bounds(&self) -> (u64, u64) {
        let bytes = self.inner.install.disk_bytes as u64;
        (bytes, bytes / BYTES_PER_FILE)
    }

    async fn make(&mut self, stage: Stage, command: Vec<String>) -> Result<(), PrepareError> {
        let [fetch, build] = self.names();
        let first = stage != Stage::Build;
        let mut seen = vec![self.folder().to_owned()];
        if first {
            seen.push(format!("{LAYER}/mcp"));
        }
        let container = InstallContainer {
            name: if first { fetch } else { build },
            image: self.wanted.builder.clone(),
            labels: self.labels.clone(),
            command,
            bridge: bridge_name(&self.inner.box_id, Traffic::Installation, &self.name),
            network: if first { self.name.clone() } else { "none".to_owned() },
            volume: (self.name.clone(), seen),
            // The files that the first one begins with are put into it by the engine, for root.
            read_only: !first,
            cgroup_parent: self.cgroup_parent.clone(),
            memory: self.memory,
            cpus: self.cpus,
            file_size: i64::try_from(self.inner.install.disk_bytes).unwrap_or(i64::MAX),
        };
        let bounds = first.then(|| self.bounds());
        // A task of its own: what the engine has begun to make is made, and then known by its name.
        self.inner.active().extend(self.names());
        let (tell, made) = oneshot::channel();
        let docker = self.inner.docker.clone();
        self.making = Some(tokio::spawn(async move {
            let _ = tell.send(make(&docker, &container, bounds).await);
        }));
        made.await.unwrap_or_else(|_| {
            Err(PrepareError::Final(
                "the installation ended in a fault of berth's own".to_owned(),
            ))
        })
    }

    /// Asks or fetches; what the container printed.
    async fn fetch(
        &mut self,
        stage: Stage,
        asked: &str,
        lock: Option<&str>,
        words: &Words,
    ) -> Result<Vec<u8>, PrepareError> {
        self.inner.firewall.open_sources(&self.site.sources()).await;
        let verb = if stage == Stage::Ask { "resolve" } else { "install" };
        let hold = (self.inner.install.timeout + LINGER).as_secs().to_string();
        let command = ["sh", "/srv/build/fetch.sh", verb, asked, &hold].map(str::to_owned);
        self.make(stage, command.into()).await?;
        let [container, _] = self.names();
        let files = files(&self.wanted, asked, lock, &self.site);
        self.inner.docker.put(&container, files).await?;
        self.watch(stage, &container, words).await
    }

    /// Runs what was fetched.
    async fn build(&mut self, words: &Words) -> Result<(), PrepareError> {
        let command = if self.wanted.node {
            ["node", "-e", include_str!("npm-build.cjs")]
        } else {
            ["sh", "-c", include_str!("uv-build.sh")]
        };
        self.make(Stage::Build, command.map(str::to_owned).into()).await?;
        let [_, container] = self.names();
        self.watch(Stage::Build, &container, words).await.map(drop)
    }

    async fn watch(&self, stage: Stage, container: &str, words: &Words) -> Result<Vec<u8>, PrepareError> {
        let mut heard = Heard::default();
        let what = &self.wanted.package;
        let install = &self.inner.install;
        let each = |piece: Said| match piece {
            // Nobody believes what a stranger's code says.
            Said::Out(_) if stage == Stage::Build => ControlFlow::Continue(()),
            Said::Out(bytes) => heard.out(&bytes, stage == Stage::Fetch),
            Said::Err(bytes) => {
                heard.err(&bytes, &self.site, |line| words(&format!("{}: {line}", self.tool())));
                ControlFlow::Continue(())
            }
        };
        let ended = tokio::select! {
            ended = self.inner.docker.work(container, each) => ended?,
            () = tokio::time::sleep_until(self.deadline) => return Err(PrepareError::Final(format!(
                "installing {what} took longer than {} s; raise timeout in [install] of berth.toml if the registry is that slow",
                install.timeout.as_secs()
            ))),
        };
        if heard.full && (stage != Stage::Build || ended != Some((0, false))) {
            let (bytes, files) = self.bounds();
            return Err(PrepareError::Final(format!(
                "installing {what} writes more than {bytes} bytes or {files} files; raise disk_bytes in [install] of berth.toml if it needs them"
            )));
        }
        match ended {
            _ if heard.out.len() > REPORT => Err(PrepareError::Final(format!(
                "{what} could not be installed: the list of what it needs has more than {REPORT} bytes"
            ))),
            None | Some((0, _)) => Ok(heard.out),
            Some((_, true)) => Err(PrepareError::Final(format!(
                "installing {what} needs more than {} bytes of memory, with what it writes: as memory_bytes in [install] of berth.toml says, or {MEMORY_PERCENT} % of what this box has",
                self.memory
            ))),
            Some((code, _)) => Err(PrepareError::Final(match stage {
                Stage::Build if !self.wanted.node => format!(
                    "{what} could not be installed: what has no wheel for this machine is built from source, and that ended with an error (status {code}). Builds run without a network and without a compiler; choose a version with wheels (--package NAME@VERSION), or run an image that has the server: {}",
                    heard.told()
                ),
                Stage::Build => format!(
                    "{what} could not be installed: an install script ended with an error (status {code}). Install scripts run without a network, so that one that downloads something fails: {}",
                    heard.told()
                ),
                _ => format!(
                    "{what} could not be installed; {} ended with status {code}: {}",
                    self.tool(),
                    heard.told()
                ),
            })),
        }
    }
}

/// What a container said so far.
struct Heard {
    out: Vec<u8>,
    /// A line of standard error without its end.
    pending: Vec<u8>,
    words: Excerpt,
    /// Something was told that there is no space. npm goes on after that and ends well.
    full: bool,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            out: Vec::new(),
            pending: Vec::new(),
            words: Excerpt::new(WORDS),
            full: false,
        }
    }
}

impl Heard {
    fn out(&mut self, bytes: &[u8], one_line: bool) -> ControlFlow<()> {
        self.out.extend_from_slice(bytes);
        if self.out.len() > REPORT || (one_line && bytes.contains(&b'\n')) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn err(&mut self, bytes: &[u8], site: &site::Site, say: impl Fn(&str)) {
        self.pending.extend_from_slice(bytes);
        while let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            // Before it is cut: a half of a password is none that is known.
            let line = site.redact(&String::from_utf8_lossy(&line));
            let line: String = line.trim().chars().take(LINE).collect();
            // What is new about npm itself concerns nobody here.
            if line.is_empty() || line.starts_with("npm notice") {
                continue;
            }
            self.full |= no_space(&line);
            say(&line);
            if telling(&line) {
                self.words.push(&line);
            }
        }
        self.pending.truncate(PENDING);
    }

    fn told(self) -> String {
        self.words.text()
    }
}

/// Whether a line says that a bound of the volume was met, in the words of npm, of uv or of the shell.
fn no_space(line: &str) -> bool {
    [
        "ENOSPC",
        "EFBIG",
        "os error 28",
        "os error 27",
        "File size limit exceeded",
    ]
    .iter()
    .any(|w| line.contains(w))
}

/// The exact version that a tag, a range or nothing at all stands for today.
pub(super) async fn resolve(
    inner: &Arc<Inner>,
    wanted: &Wanted,
    asked: &str,
    words: &Words,
) -> Result<String, PrepareError> {
    let mut place = Place::new(inner, wanted, &random_key()?).await?;
    let out = place.fetch(Stage::Ask, asked, None, words).await?;
    drop(place);
    let text = String::from_utf8_lossy(&out);
    let version = if wanted.node {
        // One version, or those that a range holds, as the registry lists them.
        match serde_json::from_str::<serde_json::Value>(text.trim()) {
            Ok(serde_json::Value::String(v)) => Some(v),
            Ok(serde_json::Value::Array(all)) => {
                super::highest(all.iter().filter_map(|v| v.as_str())).map(str::to_owned)
            }
            _ => None,
        }
    } else {
        let line = text.lines().find_map(|l| l.trim().split_once("=="));
        line.map(|(_, v)| v.split([' ', ';', '\\']).next().unwrap_or_default().to_owned())
    };
    version
        .filter(|v| !v.is_empty() && v.len() <= 128)
        .ok_or_else(|| PrepareError::Final(format!("the registry knows no version of {asked}")))
}

/// Installs and makes the image `tag`.
pub(super) async fn install(
    inner: &Arc<Inner>,
    wanted: &Wanted,
    key: &str,
    tag: &str,
    lock: Option<&str>,
    words: &Words,
) -> Result<(), PrepareError> {
    let mut place = Place::new(inner, wanted, key).await?;
    let out = place.fetch(Stage::Fetch, &wanted.package, lock, words).await?;
    let Fetched { report, scripts } = serde_json::from_slice(out.trim_ascii()).map_err(|e| {
        PrepareError::Final(format!(
            "the installation did not say what it installed ({e}); this is a fault of berth's own"
        ))
    })?;
    if !scripts.is_empty() {
        let what = if wanted.node {
            "running install scripts"
        } else {
            "building from source"
        };
        words(&format!("{what}, without a network: {}", scripts.join(", ")));
    }
    // Python's is always compiled.
    if !wanted.node || !scripts.is_empty() {
        place.build(words).await?;
    }
    words(&format!("{} packages; making the image", report.tree.len()));
    let (bytes, files) = place.bounds();
    let limit = bytes + files * TAR_PER_FILE;
    let [container, _] = place.names();
    let kind = if wanted.node { "npx" } else { "uvx" };
    let mut env = vec![RUNTIMES];
    if !wanted.node {
        env.extend([("VIRTUAL_ENV", "/opt/mcp"), ("PATH", PYTHON_PATH)]);
    }
    let assembly = Assembly {
        container: &container,
        folder: LAYER,
        limit,
        from: &wanted.runtime,
        tag,
        labels: BTreeMap::from([
            (LABEL_BUILT_BOX.to_owned(), inner.box_id.to_string()),
            (LABEL_BUILT.to_owned(), key.to_owned()),
            (
                "berth.package".to_owned(),
                format!("{kind}:{}@{}", wanted.package, report.version),
            ),
        ]),
        env,
        scratch: &inner.dir,
    };
    inner.docker.assemble(&assembly).await.map_err(|e| match e {
        e @ EngineError::Unreachable { .. } => PrepareError::Engine(e),
        e => PrepareError::Final(format!("{}: {e}", wanted.package)),
    })?;
    // Without the container that waits there was nothing on the volume any more.
    if !inner.docker.runs(&container).await? {
        inner.docker.remove_image(tag).await?;
        return Err(PrepareError::Final(format!(
            "installing {} was broken off from outside: its container was ended before the image was made; `berth start` the instance to try again",
            wanted.package
        )));
    }
    inner.touch(tag);
    let (shared, name) = (Arc::clone(inner), key.to_owned());
    let kept = tokio::task::spawn_blocking(move || shared.keep_report(&name, &report))
        .await
        .unwrap_or_else(|e| Err(std::io::Error::other(e)));
    kept.map_err(|e| PrepareError::Final(format!("the lock of {} could not be kept: {e}", wanted.package)))
}

fn random_key() -> Result<String, PrepareError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|_| PrepareError::Final("the operating system gave no random bytes".to_owned()))?;
    Ok(hex(&bytes))
}

/// The files that the container which fetches begins with. Root's: nothing that runs in it changes them.
fn files(wanted: &Wanted, asked: &str, lock: Option<&str>, site: &site::Site) -> bytes::Bytes {
    let own = |a: Archive, path: &str, content: &[u8]| a.file(&format!("srv/build/{path}"), 0o444, 0, content);
    let mut a = Archive::default().folder("srv/build/", 0o755, 0);
    a = own(a, "ca.pem", &site.ca);
    a = own(a, "env", site.script().as_bytes());
    if wanted.node {
        let version = wanted.version.as_deref().unwrap_or("latest");
        let manifest = serde_json::json!({
            "name": "berth-instance", "private": true, "dependencies": { wanted.package.as_str(): version }
        });
        a = own(a, "npmrc", site.npmrc.as_bytes());
        a = own(a, "fetch.sh", include_bytes!("npm-fetch.sh"));
        a = own(a, "report.mjs", include_bytes!("report.mjs"));
        a = own(a, "package.json", manifest.to_string().as_bytes());
        if let Some(lock) = lock {
            a = own(a, "package-lock.json", lock.as_bytes());
        }
    } else {
        let line = match &wanted.version {
            Some(v) => format!("{}=={v}\n", wanted.package),
            None => format!("{asked}\n"),
        };
        a = own(a, "fetch.sh", include_bytes!("uv-fetch.sh"));
        a = own(a, "settle.py", include_bytes!("settle.py"));
        a = own(a, "report.py", include_bytes!("report.py"));
        a = own(a, "requirements.in", line.as_bytes());
        if let Some(lock) = lock {
            a = own(a, "requirements.txt", lock.as_bytes());
        }
    }
    a.finish()
}

/// Whether a line says something about the trouble.
fn telling(line: &str) -> bool {
    let empty = line.strip_prefix("npm error").is_some_and(|rest| rest.trim().len() < 4);
    !line.contains("A complete log of this run") && !empty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_holds_no_secret_and_tells_that_the_volume_is_full() {
        let site = site::Site {
            secrets: vec!["pa55word".to_owned()],
            ..site::Site::default()
        };
        let mut heard = Heard::default();
        let said = std::cell::RefCell::new(Vec::new());
        // At the end of a line that is cut, and over two pieces.
        let line = format!("{}pa55word\n", "x".repeat(LINE - 4));
        heard.err(line.as_bytes(), &site, |l| said.borrow_mut().push(l.to_owned()));
        heard.err(b"npm notice new version\nby pa55", &site, |l| {
            said.borrow_mut().push(l.to_owned())
        });
        heard.err(b"word\n", &site, |l| said.borrow_mut().push(l.to_owned()));
        let said = said.into_inner();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said.iter().all(|l| !l.contains("pa55")), "{said:?}");
        assert_eq!(said[1], "by ***");
        assert!(!heard.full);
        heard.err(
            b"npm warn tar TAR_ENTRY_ERROR ENOSPC: no space left on device, write\n",
            &site,
            |_| (),
        );
        assert!(heard.full);
    }

    #[test]
    fn a_source_is_read_for_what_it_needs_and_no_host_but_the_index_gets_its_password() {
        let ran = std::process::Command::new("python3")
            .args(["-I", "settle_tests.py", "settle.py"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/packages"))
            .output()
            .expect("python3 is there");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    #[test]
    fn an_installation_leaves_memory_to_the_box() {
        assert_eq!(memory(2 << 30, 16 << 30), 2 << 30);
        assert!(memory(2 << 30, 2 << 30) < 1_700_000_000);
        assert_eq!(memory(2 << 30, 0), 2 << 30);
    }

    #[test]
    fn a_report_is_one_line_and_bounded() {
        let mut heard = Heard::default();
        assert!(heard.out(b"{\"version\":", true).is_continue());
        assert!(heard.out(b"1}\n", true).is_break());
        let mut heard = Heard::default();
        assert!(heard.out(b"[\n1]\n", false).is_continue(), "this one ends by itself");
        assert!(heard.out(&vec![b'x'; REPORT], true).is_break());
    }
}
