//! An image out of a folder of a container: one layer on another image.
//!
//! ```text
//! container ──archive──► layer (a file without a name) ──► archive of an image ──► the engine loads it
//! ```
//!
//! The engine unpacks such a layer once; its own builds write every file three times, which took ten times as long with a
//! large npm package. What the new image shares with the old one is named and not sent. An engine that wants it all the
//! same, as one with containerd's image store does, builds.

use std::{collections::BTreeMap, io, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use bollard::{
    models::ImageInspect,
    query_parameters::{BuildImageOptionsBuilder, DownloadFromContainerOptions},
};
use bytes::Bytes;
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::{
    EngineError,
    adapter::{Docker, SLOW, within_time},
    layer::Layer,
    tar,
};
use crate::model::hex;

/// Making an image of files that are there takes no longer.
const LIMIT: Duration = Duration::from_secs(300);
/// A file of an archive may have so many bytes, less one: eleven octal digits.
const MAX_FILE: u64 = 8 << 30;
/// A layer is read in pieces of so many bytes.
const PIECE: usize = 256 << 10;
const WHAT: &str = "make the image";

/// An image that is to be made.
#[derive(Debug, Clone)]
pub struct Assembly<'a> {
    /// A container that runs, and a folder in it, which the image gets at `/` by its own name.
    pub container: &'a str,
    pub folder: &'a str,
    /// The archive of the folder has so many bytes at most.
    pub limit: u64,
    /// The image that it is made on, and what it is called.
    pub from: &'a str,
    pub tag: &'a str,
    /// Beside those of that image.
    pub labels: BTreeMap<String, String>,
    pub env: Vec<(&'static str, &'static str)>,
    /// Where a file may lie for as long as it is made.
    pub scratch: &'a Path,
}

/// A layer that is kept in a file.
struct Kept {
    file: tokio::fs::File,
    size: u64,
    digest: String,
}

fn failed(why: impl std::fmt::Display) -> EngineError {
    EngineError::Refused {
        what: WHAT,
        why: why.to_string(),
    }
}

impl Docker {
    /// Makes an image; the folder passes through this process piece by piece.
    ///
    /// # Errors
    /// [`EngineError`]; nothing is left under the tag then.
    pub async fn assemble(&self, a: &Assembly<'_>) -> Result<(), EngineError> {
        within_time(WHAT, LIMIT, async {
            let layer = self.keep_layer(a).await?;
            match self.load_layer(a, layer).await {
                Err(EngineError::Refused { why, .. } | EngineError::NotFound { why, .. }) => {
                    log::info!("the engine does not take a layer by itself, so it builds the image: {why}");
                    self.assemble_by_build(a).await
                }
                other => other,
            }
        })
        .await
    }

    /// Has a layer loaded. `Refused` also where the engine wants the layers below it as well.
    async fn load_layer(&self, a: &Assembly<'_>, layer: Kept) -> Result<(), EngineError> {
        if layer.size >= MAX_FILE {
            return Err(failed("the layer is too large for an archive"));
        }
        let from = self
            .call(
                "inspect the image",
                SLOW,
                |c| async move { c.inspect_image(a.from).await },
            )
            .await?;
        let (config, manifest) = described(a, &from, &layer.digest)?;
        let head = tar::Archive::default()
            .file_head("layer.tar", 0o644, 0, layer.size)
            .open();
        let fill = vec![0; (layer.size.next_multiple_of(tar::BLOCK as u64) - layer.size) as usize];
        let end = tar::Archive::default()
            .file("config.json", 0o644, 0, config.to_string().as_bytes())
            .file("manifest.json", 0o644, 0, manifest.to_string().as_bytes())
            .finish();
        let begin = stream::iter([Ok(head)]);
        let rest = stream::iter([Ok(fill.into()), Ok(end)]);
        let loaded = self.load(begin.chain(pieces(layer.file)).chain(rest).boxed()).await?;
        match loaded.iter().any(|name| name == a.tag) {
            true => Ok(()),
            false => Err(failed("it loaded no image of that name")),
        }
    }

    /// The same by a build, for engines that take no layer by itself.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn assemble_by_build(&self, a: &Assembly<'_>) -> Result<(), EngineError> {
        let head = tar::Archive::default().file("Dockerfile", 0o644, 0, dockerfile(a).as_bytes());
        // The folder's archive follows, with the end that every archive has.
        let first = stream::iter([Ok(head.open())]);
        let options = BuildImageOptionsBuilder::new()
            .dockerfile("Dockerfile")
            .t(a.tag)
            .q(true)
            .nocache(true)
            .rm(true)
            .forcerm(true)
            .networkmode("none")
            .build();
        let body = bollard::body_try_stream(first.chain(self.archive(a).await?));
        let client = self.client().await?.clone();
        let mut said = client.build_image(options, None, Some(body));
        while let Some(info) = said.next().await {
            let info = info.map_err(|e| self.error(WHAT, e))?;
            if let Some(why) = info.error_detail.and_then(|d| d.message) {
                return Err(failed(why));
            }
        }
        Ok(())
    }

    /// The folder's archive, as long as it may be.
    async fn archive(&self, a: &Assembly<'_>) -> Result<BoxStream<'static, io::Result<Bytes>>, EngineError> {
        let client = self.client().await?.clone();
        let options = DownloadFromContainerOptions {
            path: a.folder.to_owned(),
        };
        let (mut passed, limit) = (0, a.limit);
        let pieces = client.download_from_container(a.container, Some(options));
        let bounded = pieces.map(move |piece| {
            let piece = piece.map_err(io::Error::other)?;
            passed += piece.len() as u64;
            match passed > limit {
                true => Err(io::Error::other(format!("it has more than {limit} bytes"))),
                false => Ok(piece),
            }
        });
        Ok(bounded.boxed())
    }

    async fn keep_layer(&self, a: &Assembly<'_>) -> Result<Kept, EngineError> {
        let cannot = |e: io::Error| failed(format!("its files cannot be kept in {}: {e}", a.scratch.display()));
        let mut file = nameless(a.scratch).map_err(cannot)?;
        let mut archive = self.archive(a).await?;
        let (mut layer, mut hash, mut size, mut out) = (Layer::default(), Sha256::new(), 0, Vec::new());
        while let Some(piece) = archive.next().await {
            out.clear();
            layer.feed(&piece.map_err(failed)?, &mut out).map_err(failed)?;
            hash.update(&out);
            size += out.len() as u64;
            file.write_all(&out).await.map_err(cannot)?;
        }
        if !layer.is_whole() {
            return Err(failed("the engine's archive has no end"));
        }
        file.flush().await.map_err(cannot)?;
        file.rewind().await.map_err(cannot)?;
        let digest = format!("sha256:{}", hex(&hash.finalize()));
        Ok(Kept { file, size, digest })
    }
}

/// A file that goes by itself, whatever becomes of this process.
fn nameless(dir: &Path) -> io::Result<tokio::fs::File> {
    std::fs::create_dir_all(dir)?;
    let mut options = std::fs::OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_TMPFILE);
    Ok(tokio::fs::File::from_std(options.open(dir)?))
}

fn pieces(file: tokio::fs::File) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::try_unfold(file, |mut file| async move {
        let mut piece = Vec::with_capacity(PIECE);
        let n = (&mut file).take(PIECE as u64).read_to_end(&mut piece).await?;
        Ok((n > 0).then(|| (Bytes::from(piece), file)))
    })
}

/// What the image is (OCI Image Configuration), and what the archive holds (as `docker save` writes it). Layers that the
/// engine has are named in their order; no file is there for them.
fn described(a: &Assembly<'_>, from: &ImageInspect, layer: &str) -> Result<(Value, Value), EngineError> {
    let below = from.root_fs.as_ref().and_then(|r| r.layers.clone()).unwrap_or_default();
    let mut config = from.config.clone().unwrap_or_default();
    config.labels.get_or_insert_default().extend(a.labels.clone());
    let env = config.env.get_or_insert_default();
    for (key, value) in &a.env {
        env.retain(|line| line.split('=').next() != Some(key));
        env.push(format!("{key}={value}"));
    }
    let config = serde_json::to_value(&config).map_err(failed)?;
    let layers = |own: &str, of: &dyn Fn(usize, &String) -> String| -> Vec<String> {
        let below = below.iter().enumerate().map(|(n, digest)| of(n, digest));
        below.chain([own.to_owned()]).collect()
    };
    let image = json!({
        "architecture": from.architecture,
        "variant": from.variant,
        "os": from.os,
        "created": jiff::Timestamp::now(),
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": layers(layer, &|_, digest| digest.clone()) },
    });
    let manifest = json!([{
        "Config": "config.json",
        "RepoTags": [a.tag],
        "Layers": layers("layer.tar", &|n, _| format!("below-{n}/layer.tar")),
    }]);
    Ok((image, manifest))
}

fn dockerfile(a: &Assembly<'_>) -> String {
    let plain = |s: &str| s.replace(['"', '\\', '\n', '$'], "");
    let mut text = format!("FROM {}\n", a.from);
    for (key, value) in &a.labels {
        text += &format!("LABEL {key}=\"{}\"\n", plain(value));
    }
    for (key, value) in &a.env {
        text += &format!("ENV {key}=\"{}\"\n", plain(value));
    }
    let folder = a.folder.rsplit('/').next().unwrap_or_default();
    text + &format!("COPY {folder} /{folder}\n")
}
