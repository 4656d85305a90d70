//! F3: installs packages of npm and PyPI, once, each into an image of its own, and fetches images that are asked for by
//! name. A restart or a recreate then runs the same bytes and needs no registry.
//!
//! ```text
//! wanted -> exact version -> image there? -- yes --> resolved
//!             (a container    | no
//!              asks the        v
//!              registry)   a container fetches -> another runs install scripts -> a layer on the runtime's image -> resolved
//! ```
//!
//! One installation per package and version at a time; whoever asks meanwhile waits for the same one, and it is broken
//! off when nobody waits any more. So many at once as `[install]` says. What a supervisor that was killed left behind
//! carries the label `berth.build` and is removed by the next. Images that no instance uses any more are removed.
//!
//! The container that fetches has a network and the site's certificates, addresses and credentials, and runs no code of
//! a package. The one that runs such code has neither, and nothing that it says is believed: what was installed is known
//! before it starts. Both write into one volume only, which the kernel bounds, and have no capability and no secret of an
//! instance. See [`install_container`].

mod entry;
mod install_container;
mod job;
mod site;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, Semaphore, watch};

use crate::{
    config::Install,
    docker::{Docker, EngineError},
    firewall::Firewall,
    model::{BoxId, ImageSource, PackageSource, Resolved, Source, hex},
    plan::image,
};
use install_container::Report;
use job::Job;

/// How an image that was just made is kept from being cleared away before its instance says that it uses it.
const FRESH: Duration = Duration::from_secs(60);
/// How often what could not be cleared away is tried again.
const AGAIN: Duration = Duration::from_secs(15);
/// A registry's word on which version is wanted holds for so long, as with npm: ten of the same are run at once.
const ANSWER: Duration = Duration::from_secs(300);
/// So many such words are remembered.
const ANSWERS: usize = 256;
/// When what an earlier supervisor left is looked for again: the engine may still have been at making it.
const SWEEPS: [u64; 3] = [3, 15, 60];
/// Part of every key: a change of how packages are installed makes new images.
const RECIPE: &str = "3";

/// Why there is nothing to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// Waiting cannot mend it.
    #[error("{0}")]
    Final(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What is to be prepared.
#[derive(Debug, Clone)]
pub struct Order {
    pub source: Source,
    /// The image that a package runs on.
    pub runtime: String,
    /// The image that it is installed in.
    pub builder: String,
    /// What it came to before, where its image was lost: the same is made again.
    pub before: Option<Resolved>,
    /// What the registry said a few minutes ago is not enough.
    pub newest: bool,
}

/// Where the words go that are said on the way.
pub type Words = Arc<dyn Fn(&str) + Send + Sync>;

/// The installer. Cheap to clone.
#[derive(Clone)]
pub struct Packages(Arc<Inner>);

struct Inner {
    docker: Docker,
    /// Opens the way to what the site names.
    firewall: Arc<Firewall>,
    box_id: BoxId,
    dir: PathBuf,
    install: Install,
    /// Patterns of images that may be pulled or run here.
    images: Vec<String>,
    /// What containers of installations share: the kernel bounds them together.
    permits: Semaphore,
    jobs: Mutex<BTreeMap<String, Weak<Job>>>,
    fresh: Mutex<BTreeMap<String, Instant>>,
    answers: Mutex<Answers>,
    swept: OnceCell<()>,
    /// Containers of installations that go on, or are being removed.
    active: Mutex<BTreeSet<String>>,
    keep: watch::Sender<Option<BTreeSet<String>>>,
}

/// One package, as it is installed.
#[derive(Debug, Clone)]
struct Wanted {
    node: bool,
    package: String,
    /// Exact, or for npm a tag or a range; the newest where none is given.
    version: Option<String>,
    runtime: String,
    builder: String,
}

impl Packages {
    /// An installer that keeps locks in `dir`. Nothing is done until [`Packages::tend`] runs or something is prepared.
    pub fn new(
        docker: Docker,
        firewall: Arc<Firewall>,
        box_id: BoxId,
        dir: PathBuf,
        install: Install,
        images: Vec<String>,
    ) -> Packages {
        Packages(Arc::new(Inner {
            docker,
            firewall,
            box_id,
            dir,
            permits: Semaphore::new(install.at_once),
            install,
            images,
            jobs: Mutex::default(),
            fresh: Mutex::default(),
            answers: Mutex::default(),
            swept: OnceCell::new(),
            active: Mutex::default(),
            keep: watch::Sender::new(None),
        }))
    }

    /// Clears away what nobody uses; runs as long as the process does.
    pub async fn tend(self) {
        let mut kept = self.0.keep.subscribe();
        while self.0.sweep().await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
        let mut sweeps = SWEEPS.iter();
        let mut sweep_at = sweeps
            .next()
            .map(|s| tokio::time::Instant::now() + Duration::from_secs(*s));
        loop {
            let wanted = kept.borrow_and_update().clone();
            let left = match &wanted {
                Some(keep) => self.0.clear(keep).await.unwrap_or_else(|e| {
                    log::debug!("images are cleared away later: {e}");
                    1
                }),
                None => 0,
            };
            let again = async {
                if left > 0 {
                    tokio::time::sleep(AGAIN).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                changed = kept.changed() => if changed.is_err() { return },
                () = again => {}
                () = tokio::time::sleep_until(sweep_at.unwrap_or_else(tokio::time::Instant::now)), if sweep_at.is_some() => {
                    if let Err(e) = self.0.sweep_others().await {
                        log::debug!("broken-off installations are looked for later: {e}");
                    }
                    sweep_at = sweeps.next().map(|s| tokio::time::Instant::now() + Duration::from_secs(*s));
                }
            }
        }
    }

    /// The images that instances use; others of ours go.
    pub fn keep(&self, images: BTreeSet<String>) {
        self.0.keep.send_if_modified(|k| {
            let news = k.as_ref() != Some(&images);
            *k = Some(images);
            news
        });
    }

    /// Installs or fetches. Dropping the future breaks it off, unless somebody else waits for the same.
    ///
    /// # Errors
    /// [`PrepareError`], with the last words of npm or uv where one of them failed.
    pub async fn prepare(&self, order: Order, words: Words) -> Result<Resolved, PrepareError> {
        self.0.sweep().await?;
        match &order.source {
            Source::Npx(p) => self.package(p, true, &order, &words).await,
            Source::Uvx(p) => self.package(p, false, &order, &words).await,
            Source::Image(i) => self.image(i, &order, &words).await,
            Source::Remote(_) => Err(PrepareError::Final("a remote server needs no preparation".to_owned())),
        }
    }

    async fn package(
        &self,
        p: &PackageSource,
        node: bool,
        order: &Order,
        words: &Words,
    ) -> Result<Resolved, PrepareError> {
        let mut wanted = Wanted {
            node,
            package: p.package.clone(),
            version: p.version.clone(),
            runtime: order.runtime.clone(),
            builder: order.builder.clone(),
        };
        if let Some(before) = &order.before {
            wanted.version = Some(before.version.clone());
        } else if !wanted.version.as_deref().is_some_and(|v| is_exact(v, node)) {
            let asked = p.wanted();
            let version = self.exact(&wanted, &asked, order.newest, words).await?;
            words(&format!("{asked} is {version}"));
            wanted.version = Some(version);
        }
        let inner = &self.0;
        inner.permitted(&wanted.runtime)?;
        let runtime = inner
            .docker
            .image(&wanted.runtime)
            .await?
            .ok_or_else(|| missing(&wanted.runtime))?;
        let key = wanted.key(&runtime.id);
        let tag = format!("berth/built-{}:{key}", &inner.box_id.as_str()[..8]);
        let found = inner.docker.image(&tag).await?;
        let found = found.filter(|i| i.labels.get(crate::docker::LABEL_BUILT) == Some(&key));
        let (report, image_id) = match (found, inner.report(&key)) {
            (Some(image), Some(report)) => {
                words(&format!("{} {} is installed already", p.package, report.version));
                (report, image.id)
            }
            (_, lock) => self.install(&wanted, &key, &tag, lock, words).await?,
        };
        inner.touch(&tag);
        let command = entry::command(p, node, &report.bins).map_err(PrepareError::Final)?;
        Ok(Resolved {
            version: report.version,
            image: tag,
            image_id,
            lock: hex(&Sha256::digest(report.lock.as_bytes())),
            command,
            tree: report.tree.into(),
        })
    }

    /// Waits for the one installation of this package and version.
    async fn install(
        &self,
        wanted: &Wanted,
        key: &str,
        tag: &str,
        lock: Option<Report>,
        words: &Words,
    ) -> Result<(Report, String), PrepareError> {
        let job = self.job(key, || {
            let (inner, wanted) = (self.0.clone(), wanted.clone());
            let (key, tag) = (key.to_owned(), tag.to_owned());
            let lock = lock.map(|r| r.lock);
            Box::new(move |words| {
                Box::pin(async move {
                    let _permit = inner.permits.acquire().await;
                    install_container::install(&inner, &wanted, &key, &tag, lock.as_deref(), &words).await
                })
            })
        });
        job.wait(words).await?;
        let inner = &self.0;
        let image = inner.docker.image(tag).await?;
        let image =
            image.ok_or_else(|| PrepareError::Final(format!("the image {tag} vanished right after it was made")))?;
        let report = inner.report(key).ok_or_else(|| {
            PrepareError::Final("the lock of the installation could not be kept; is the disk full?".to_owned())
        })?;
        Ok((report, image.id))
    }

    async fn exact(&self, wanted: &Wanted, asked: &str, newest: bool, words: &Words) -> Result<String, PrepareError> {
        let answers = || self.0.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = answers().get(wanted.node, asked, Instant::now());
        if let Some(version) = known.filter(|_| !newest) {
            words(&format!(
                "the registry was asked for the version of {asked} a few minutes ago"
            ));
            return Ok(version);
        }
        words(&format!("asking the registry for the version of {asked}"));
        let _permit = self.0.permits.acquire().await;
        let version = install_container::resolve(&self.0, wanted, asked, words).await?;
        answers().put(wanted.node, asked, &version, Instant::now());
        Ok(version)
    }

    /// The job of this key: the one that runs, or a new one.
    fn job(&self, key: &str, start: impl FnOnce() -> job::Work) -> Arc<Job> {
        let mut jobs = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, j| j.strong_count() > 0);
        if let Some(job) = jobs.get(key).and_then(Weak::upgrade).filter(|j| !j.failed()) {
            return job;
        }
        let job = Arc::new(Job::start(start()));
        jobs.insert(key.to_owned(), Arc::downgrade(&job));
        job
    }

    async fn image(&self, i: &ImageSource, order: &Order, words: &Words) -> Result<Resolved, PrepareError> {
        let docker = &self.0.docker;
        self.0.permitted(&i.image)?;
        // The very image of before, where it was settled once.
        let pinned = order.before.as_ref().map(|b| b.version.clone());
        let reference = match &pinned {
            Some(digest) if digest.starts_with("sha256:") && i.image.contains('@') => i.image.clone(),
            Some(digest) => digest.clone(),
            None => i.image.clone(),
        };
        let found = match docker.image(&reference).await? {
            Some(found) => found,
            None => {
                // The engine may know the same bytes by another name, too.
                self.0.permitted(&reference)?;
                let name = image::fetched_as(&reference).map_err(|why| {
                    let how = image::HOW_TO_GET;
                    PrepareError::Final(format!(
                        "the image {reference} is not on this box, and {why}: {how}, then `berth start` the instance"
                    ))
                })?;
                words(&format!("fetching the image {name}"));
                let fetched = docker.fetch(&name, |line| words(line)).await;
                fetched.map_err(|e| match e {
                    e @ EngineError::Unreachable { .. } => PrepareError::Engine(e),
                    e => PrepareError::Final(format!(
                        "the image {reference} is not on this box and could not be fetched ({e}); check its name, or load it with `berth image load`, then `berth start` the instance"
                    )),
                })?;
                docker
                    .image(&reference)
                    .await?
                    .ok_or_else(|| PrepareError::Final(format!("the image {reference} was fetched and is not there")))?
            }
        };
        let command = entry::image_command(i, &found.entrypoint, &found.command).map_err(PrepareError::Final)?;
        let volumes = found.volumes.map_err(|e| PrepareError::Final(e.to_string()))?;
        if !volumes.is_empty() {
            words(&format!(
                "the image declares volumes ({}): each is a small memory file system, empty at every start; --volume PATH keeps one",
                volumes.join(", ")
            ));
        }
        let version = found.digests.first().cloned().unwrap_or_else(|| found.id.clone());
        words(&format!("{} is {version}", i.image));
        Ok(Resolved {
            version,
            image: i.image.clone(),
            image_id: found.id,
            lock: String::new(),
            command,
            tree: Arc::default(),
        })
    }
}

impl Inner {
    /// Whether an image may be pulled or run here.
    fn permitted(&self, reference: &str) -> Result<(), PrepareError> {
        image::permitted(reference, &self.images)
            .map_err(|why| PrepareError::Final(format!("{why}, then `berth start` the instance")))
    }

    /// Removes what an earlier supervisor's installations left, once.
    async fn sweep(&self) -> Result<(), EngineError> {
        self.swept.get_or_try_init(|| self.sweep_others()).await.copied()
    }

    /// Removes the containers of installations that are none of this supervisor's.
    async fn sweep_others(&self) -> Result<(), EngineError> {
        let active = self.active().clone();
        let n = self.docker.sweep_install_containers(&self.box_id, &active).await?;
        if n > 0 {
            log::info!("{n} installations that were broken off are cleared away");
        }
        Ok(())
    }

    fn active(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the images that are not to be kept. How many are left to be tried again.
    async fn clear(&self, keep: &BTreeSet<String>) -> Result<usize, EngineError> {
        let now = Instant::now();
        let fresh: BTreeSet<String> = {
            let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
            fresh.retain(|_, at| now.duration_since(*at) < FRESH);
            fresh.keys().cloned().collect()
        };
        let mut left = 0;
        for image in self.docker.built_images(&self.box_id).await? {
            if image.tags.iter().any(|t| keep.contains(t)) {
                continue;
            }
            if image.tags.iter().any(|t| fresh.contains(t)) {
                left += 1;
                continue;
            }
            let name = image.tags.first().unwrap_or(&image.id);
            self.docker.remove_image(name).await?;
            if self.docker.image(name).await?.is_some() {
                left += 1;
                continue;
            }
            log::info!(image = name.as_str(); "no instance uses it any more: removed");
            if let Some(key) = image.labels.get(crate::docker::LABEL_BUILT) {
                let _ = std::fs::remove_file(self.report_file(key));
            }
        }
        Ok(left)
    }

    fn touch(&self, tag: &str) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.insert(tag.to_owned(), Instant::now());
    }

    fn report_file(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.json"))
    }

    /// What was installed under this key, as far as it is known.
    fn report(&self, key: &str) -> Option<Report> {
        let bytes = std::fs::read(self.report_file(key)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps it once the image is on the disk: the engine does not flush what it makes, and after a power cut an image
    /// could be known whose files are empty. The engine's data lie on the same file system on a box. Blocks.
    fn keep_report(&self, key: &str, report: &Report) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        nix::unistd::syncfs(std::fs::File::open(&self.dir)?)?;
        let fresh = self.dir.join(format!("{key}.new"));
        let file = std::fs::File::create(&fresh)?;
        serde_json::to_writer(&file, report)?;
        file.sync_all()?;
        std::fs::rename(&fresh, self.report_file(key))
    }
}

/// What registries said of versions, for a while.
#[derive(Debug, Default)]
struct Answers(BTreeMap<(bool, String), (String, Instant)>);

impl Answers {
    fn get(&self, node: bool, asked: &str, now: Instant) -> Option<String> {
        let (version, at) = self.0.get(&(node, asked.to_owned()))?;
        (now.duration_since(*at) < ANSWER).then(|| version.clone())
    }

    fn put(&mut self, node: bool, asked: &str, version: &str, now: Instant) {
        self.0.retain(|_, (_, at)| now.duration_since(*at) < ANSWER);
        let oldest = self.0.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest.filter(|_| self.0.len() >= ANSWERS) {
            self.0.remove(&oldest);
        }
        self.0.insert((node, asked.to_owned()), (version.to_owned(), now));
    }
}

impl Wanted {
    /// What the image is called by: the same for the same package and version on the same runtime.
    fn key(&self, runtime_id: &str) -> String {
        let mut hash = Sha256::new();
        let kind = if self.node { "npx" } else { "uvx" };
        for part in [
            RECIPE,
            kind,
            &self.package,
            self.version.as_deref().unwrap_or_default(),
            runtime_id,
        ] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hex(&hash.finalize())[..32].to_owned()
    }
}

fn missing(image: &str) -> PrepareError {
    PrepareError::Final(format!(
        "the image {image} is not on this box; {}, then `berth start` the instance",
        image::HOW_TO_GET
    ))
}

/// Whether a version names one release and no other.
fn is_exact(version: &str, node: bool) -> bool {
    if !node {
        return !version.contains('*');
    }
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = core.split('.').collect();
    parts.len() == 3
        && parts
            .iter()
            .all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// The version of the highest precedence (Semantic Versioning 2.0.0, section 11). A release that was mended later stands
/// last in a list, and is not the highest.
fn highest<'v>(versions: impl Iterator<Item = &'v str>) -> Option<&'v str> {
    let number = |part: &str| part.parse::<u64>().unwrap_or(0);
    versions.max_by_key(|version| {
        let plain = version.split('+').next().unwrap_or_default();
        let (core, before) = match plain.split_once('-') {
            Some((core, before)) => (core, Some(before)),
            None => (plain, None),
        };
        let core: Vec<u64> = core.split('.').map(number).collect();
        // Numbers come before words; a release comes after all that were before it.
        let before: Vec<(bool, u64, &str)> = before
            .into_iter()
            .flat_map(|b| b.split('.'))
            .map(|part| match part.parse::<u64>() {
                Ok(n) => (false, n, ""),
                Err(_) => (true, 0, part),
            })
            .collect();
        (core, before.is_empty(), before)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_is_taken_and_not_the_last() {
        for (all, wanted) in [
            (&["1.2.0", "2.0.0", "1.2.1"] as &[&str], "2.0.0"),
            (&["1.9.0", "1.10.0", "1.2.0"], "1.10.0"),
            (&["1.0.0-rc.1", "1.0.0", "1.0.0-rc.2"], "1.0.0"),
            (
                &["1.0.0-alpha.10", "1.0.0-alpha.9", "1.0.0-alpha.beta"],
                "1.0.0-alpha.beta",
            ),
            (&["1.0.0+b", "0.9.9+z"], "1.0.0+b"),
        ] {
            assert_eq!(highest(all.iter().copied()), Some(wanted));
        }
        assert_eq!(highest(std::iter::empty()), None);
    }

    #[test]
    fn a_registrys_word_holds_for_a_while_and_not_all_are_remembered() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        answers.put(true, "a", "1.0.0", now);
        assert_eq!(answers.get(true, "a", now).as_deref(), Some("1.0.0"));
        assert_eq!(answers.get(false, "a", now), None, "the other registry's");
        assert_eq!(answers.get(true, "a@2", now), None);
        assert_eq!(answers.get(true, "a", now + ANSWER), None);
        for n in 0..ANSWERS {
            answers.put(true, &n.to_string(), "1", now + Duration::from_secs(1));
        }
        assert_eq!(answers.0.len(), ANSWERS);
        assert_eq!(answers.get(true, "a", now), None, "the oldest went");
    }

    #[test]
    fn exact_versions() {
        for exact in ["1.2.3", "2026.8.31", "1.0.0-beta.1", "1.0.0+x"] {
            assert!(is_exact(exact, true), "{exact}");
        }
        for open in ["1", "1.2", "^1.2.3", "~1.2.3", "latest", "1.x", "1.2.x", "*"] {
            assert!(!is_exact(open, true), "{open}");
        }
        assert!(is_exact("1.2", false) && !is_exact("1.*", false));
    }
}
