//! The container that installs: made, filled, watched, emptied into an image, removed. Also when it is broken off.

use std::{collections::BTreeMap, collections::VecDeque, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinHandle};

use super::{Inner, PrepareError, Wanted, Words, missing, site};
use crate::{
    docker::{Bench, Docker, Engine, EngineError, LABEL_BUILD, LABEL_BUILT, LABEL_BUILT_BOX, Said, tar::Archive},
    plan::spec::LABEL_BOX,
};

/// The user of every container.
const USER: u32 = 10001;
/// What a report may have, in bytes.
const REPORT: usize = 16 << 20;
/// Last words: lines, and characters of each.
const LINES: usize = 12;
const LINE: usize = 400;
/// How often is measured what was written.
const MEASURE: Duration = Duration::from_secs(5);

/// What an installation says of itself at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) version: String,
    pub(super) bins: Vec<String>,
    pub(super) tree: Vec<String>,
    pub(super) lock: String,
}

/// A container with its network, both of one name, which go with this value: also when it is dropped while the engine
/// is still making them.
struct Guard {
    inner: Arc<Inner>,
    name: String,
    making: Option<JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (inner, name, making) = (self.inner.clone(), std::mem::take(&mut self.name), self.making.take());
        // What cannot be removed now is swept when the supervisor starts again.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Some(making) = making {
                    let _ = making.await;
                }
                if let Err(e) = inner.docker.remove(&name).await {
                    log::warn!("an installing container is left until the next start: {e}");
                }
                if let Err(e) = inner.docker.remove_network(&name).await {
                    log::warn!("the network of an installation is left until the next start: {e}");
                }
                inner.active().remove(&name);
            });
        }
    }
}

/// The container and its network. One of before that is still being removed gives way.
async fn make(docker: &Docker, bench: &Bench) -> Result<(), PrepareError> {
    docker.create_network(&bench.name, &bench.labels).await?;
    match docker.bench(bench).await {
        Ok(_) => Ok(()),
        Err(EngineError::NotFound { .. }) => Err(missing(&bench.image)),
        Err(EngineError::Conflict { .. }) => {
            docker.remove(&bench.name).await?;
            Ok(docker.bench(bench).await.map(drop)?)
        }
        Err(e) => Err(e.into()),
    }
}

/// The exact version that a tag, a range or nothing at all stands for today.
pub(super) async fn resolve(inner: &Arc<Inner>, wanted: &Wanted, words: &Words) -> Result<String, PrepareError> {
    let asked = match &wanted.version {
        Some(v) => format!("{}@{v}", wanted.package),
        None => wanted.package.clone(),
    };
    let key = random_key()?;
    let (guard, out) = run(inner, wanted, &key, ["resolve", &asked], None, words).await?;
    drop(guard);
    let text = String::from_utf8_lossy(&out);
    let version = if wanted.node {
        // One version, or those that a range holds, in their order.
        match serde_json::from_str::<serde_json::Value>(text.trim()) {
            Ok(serde_json::Value::String(v)) => Some(v),
            Ok(serde_json::Value::Array(all)) => all.last().and_then(|v| v.as_str()).map(str::to_owned),
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
    let (guard, out) = run(inner, wanted, key, ["install", &wanted.package], lock, words).await?;
    let report: Report = serde_json::from_slice(out.trim_ascii()).map_err(|e| {
        PrepareError::Final(format!(
            "the installation did not say what it installed ({e}); this is a fault of berth's own"
        ))
    })?;
    words(&format!("{} packages; making the image", report.tree.len()));
    let folder = if wanted.node { "/srv/build/mcp" } else { "/opt/mcp" };
    let container = guard.name.clone();
    let limit = inner.install.disk_bytes as u64;
    let dockerfile = dockerfile(inner, wanted, key, &report);
    inner
        .docker
        .assemble(&container, folder, &dockerfile, tag, limit)
        .await
        .map_err(|e| match e {
            e @ EngineError::Unreachable { .. } => PrepareError::Engine(e),
            e => PrepareError::Final(format!("{}: {e}", wanted.package)),
        })?;
    inner.touch(tag);
    let (keeper, name) = (Arc::clone(inner), key.to_owned());
    let kept = tokio::task::spawn_blocking(move || keeper.keep_report(&name, &report))
        .await
        .unwrap_or_else(|e| Err(std::io::Error::other(e)));
    kept.map_err(|e| PrepareError::Final(format!("the lock of {} could not be kept: {e}", wanted.package)))
}

fn random_key() -> Result<String, PrepareError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|_| PrepareError::Final("the operating system gave no random bytes".to_owned()))?;
    Ok(super::hex(&bytes))
}

fn dockerfile(inner: &Inner, wanted: &Wanted, key: &str, report: &Report) -> String {
    let kind = if wanted.node { "npx" } else { "uvx" };
    let plain = |s: &str| s.replace(['"', '\\', '\n', '$'], "");
    let mut text = format!(
        "FROM {}\nLABEL {LABEL_BUILT_BOX}=\"{}\" {LABEL_BUILT}=\"{key}\" berth.package=\"{kind}:{}@{}\"\nCOPY mcp /opt/mcp\n",
        wanted.runtime,
        inner.box_id,
        plain(&wanted.package),
        plain(&report.version),
    );
    if !wanted.node {
        text += "ENV VIRTUAL_ENV=/opt/mcp PATH=/opt/mcp/bin:/usr/local/bin:/usr/bin:/bin\n";
    }
    text
}

/// The files that the container begins with.
fn files(wanted: &Wanted, asked: &str, lock: Option<&str>, site: &site::Site) -> bytes::Bytes {
    let own = |a: Archive, path: &str, content: &[u8]| a.file(&format!("srv/build/{path}"), 0o600, USER, content);
    let mut a = Archive::default()
        .folder("srv/build/", 0o700, USER)
        .folder("srv/build/mcp/", 0o755, USER)
        .folder("opt/mcp/", 0o755, if wanted.node { 0 } else { USER });
    a = own(a, "ca.pem", &site.ca);
    a = own(a, "env", site.script().as_bytes());
    if wanted.node {
        let version = wanted.version.as_deref().unwrap_or("latest");
        let manifest = serde_json::json!({
            "name": "berth-instance", "private": true, "dependencies": { wanted.package.as_str(): version }
        });
        a = own(a, "npmrc", site.npmrc.as_bytes());
        a = own(a, "install.sh", include_bytes!("npm.sh"));
        a = own(a, "report.mjs", include_bytes!("report.mjs"));
        a = a.file(
            "srv/build/mcp/package.json",
            0o644,
            USER,
            manifest.to_string().as_bytes(),
        );
        if let Some(lock) = lock {
            a = a.file("srv/build/mcp/package-lock.json", 0o644, USER, lock.as_bytes());
        }
    } else {
        let line = match &wanted.version {
            Some(v) => format!("{}=={v}\n", wanted.package),
            None => format!("{asked}\n"),
        };
        a = own(a, "install.sh", include_bytes!("uv.sh"));
        a = own(a, "report.py", include_bytes!("report.py"));
        a = own(a, "requirements.in", line.as_bytes());
        if let Some(lock) = lock {
            a = own(a, "requirements.txt", lock.as_bytes());
        }
    }
    a.finish()
}

/// Runs the script; what it printed, and the container that it ran in.
async fn run(
    inner: &Arc<Inner>,
    wanted: &Wanted,
    key: &str,
    arguments: [&str; 2],
    lock: Option<&str>,
    words: &Words,
) -> Result<(Guard, Vec<u8>), PrepareError> {
    let site = site::read(&inner.install, &site::Here).map_err(PrepareError::Final)?;
    let labels = BTreeMap::from([
        (LABEL_BOX.to_owned(), inner.box_id.to_string()),
        (LABEL_BUILD.to_owned(), key.to_owned()),
    ]);
    // Never the same twice: what goes away by its name is not what somebody else has just begun.
    let name = format!("berth-{}-build-{}", &inner.box_id.as_str()[..8], &random_key()?[..12]);
    let docker = &inner.docker;
    let info = docker.info().await?;
    let bench = Bench {
        name: name.clone(),
        image: wanted.builder.clone(),
        labels,
        command: ["sh", "/srv/build/install.sh"]
            .into_iter()
            .chain(arguments)
            .map(str::to_owned)
            .collect(),
        env: Vec::new(),
        network: name.clone(),
        cgroup_parent: crate::plan::spec::cgroup_parent(&inner.box_id, "_installing", info.systemd_cgroups),
        memory: i64::try_from(inner.install.memory_bytes).unwrap_or(i64::MAX),
        cpus: info.cpus.clamp(1, 2),
        file_size: i64::try_from(inner.install.disk_bytes).unwrap_or(i64::MAX),
    };
    // A task of its own: what the engine has begun to make is made, and then known by its name.
    inner.active().insert(name.clone());
    let (tell, made) = oneshot::channel();
    let own = docker.clone();
    let making = tokio::spawn(async move {
        let _ = tell.send(make(&own, &bench).await);
    });
    let guard = Guard {
        inner: inner.clone(),
        name: name.clone(),
        making: Some(making),
    };
    made.await.unwrap_or_else(|_| {
        Err(PrepareError::Final(
            "the installation ended in a fault of berth's own".to_owned(),
        ))
    })?;
    let container = name;
    docker.put(&container, files(wanted, arguments[1], lock, &site)).await?;
    let out = watched(inner, wanted, &container, &site, words).await?;
    Ok((guard, out))
}

async fn watched(
    inner: &Arc<Inner>,
    wanted: &Wanted,
    container: &str,
    site: &site::Site,
    words: &Words,
) -> Result<Vec<u8>, PrepareError> {
    let tool = if wanted.node { "npm" } else { "uv" };
    let (mut out, mut pending) = (Vec::new(), Vec::new());
    let mut last: VecDeque<String> = VecDeque::new();
    let mut said = |piece: Said| match piece {
        Said::Out(bytes) if out.len() + bytes.len() <= REPORT => out.extend_from_slice(&bytes),
        Said::Out(_) => {}
        Said::Err(bytes) => {
            pending.extend_from_slice(&bytes);
            while let Some(end) = pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let line: String = String::from_utf8_lossy(&line).trim().chars().take(LINE).collect();
                // What is new about npm itself concerns nobody here.
                if line.is_empty() || line.starts_with("npm notice") {
                    continue;
                }
                let line = site.redact(&line);
                words(&format!("{tool}: {line}"));
                if last.len() == LINES {
                    last.pop_front();
                }
                last.push_back(line);
            }
            pending.truncate(64 * 1024);
        }
    };
    let limit = inner.install.disk_bytes;
    let full = async {
        loop {
            tokio::time::sleep(MEASURE).await;
            let written = inner.docker.written(container).await.unwrap_or(0);
            if usize::try_from(written).is_ok_and(|w| w > limit) {
                return;
            }
        }
    };
    let what = &wanted.package;
    let ended = tokio::select! {
        ended = inner.docker.work(container, &mut said) => ended?,
        () = full => return Err(PrepareError::Final(format!(
            "installing {what} wrote more than {limit} bytes; raise disk_bytes in [install] of berth.toml if it needs them"
        ))),
        () = tokio::time::sleep(inner.install.timeout) => return Err(PrepareError::Final(format!(
            "installing {what} took longer than {} s; raise timeout in [install] of berth.toml if the registry is that slow",
            inner.install.timeout.as_secs()
        ))),
    };
    match ended {
        (0, _) => Ok(out),
        (_, true) => Err(PrepareError::Final(format!(
            "installing {what} needs more memory than memory_bytes in [install] of berth.toml allows"
        ))),
        (code, _) => {
            let told: Vec<String> = last.into_iter().filter(|l| telling(l)).collect();
            Err(PrepareError::Final(format!(
                "{what} could not be installed; {tool} ended with status {code}: {}",
                told.join(" | ")
            )))
        }
    }
}

/// Whether a line says something about the trouble.
fn telling(line: &str) -> bool {
    let empty = line.strip_prefix("npm error").is_some_and(|rest| rest.trim().len() < 4);
    !line.contains("A complete log of this run") && !empty
}
