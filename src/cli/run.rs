//! `berth run` for generic types: what they are to run, and the deploy watched as it goes.

use std::{io::IsTerminal, io::Read, time::Duration};

use anyhow::{Context, Result, anyhow, bail};

use super::{
    args::{ProcessesArg, Wait, What},
    client::Supervisor,
    print, prompt,
    verbs::{Verbs, segment},
};
use crate::{
    api::{Route, TypeView},
    model::{
        HttpPlace, ImageSource, InstanceId, InstanceView, PackageSource, Processes, RemoteAuth, RemoteSource,
        RunRequest, Secret, Source, split_package,
    },
    output::{Stream, To},
};

/// A secret from standard input has so many bytes at most.
const MAX_SECRET: u64 = 64 * 1024;
/// The last lines of a deploy's log arrive at most so much later than its end is known.
const LAST_LINES: Duration = Duration::from_millis(500);
/// A longer line of a log is printed in parts, in bytes.
const LONGEST_LINE: usize = 1 << 20;

/// Whether a type's packages are of PyPI: a type of another name than npx and uvx may be of either kind.
async fn is_uvx(supervisor: &Supervisor, type_name: &str) -> Result<bool> {
    if matches!(type_name, "npx" | "uvx") {
        return Ok(type_name == "uvx");
    }
    let types: Vec<TypeView> = supervisor.list(Route::Types.path()).await?;
    Ok(types.iter().any(|t| t.name == type_name && t.kind == "uvx"))
}

/// Puts what a generic type is to run into the request.
pub(super) async fn take(supervisor: &Supervisor, what: What, request: &mut RunRequest) -> Result<()> {
    request.network = what.network;
    request.volume = what.volume;
    request.processes = what.processes.map(|p| match p {
        ProcessesArg::Session => Processes::Session,
        ProcessesArg::Shared => Processes::Shared,
    });
    request.call_timeout_ms = what.call_timeout.map(crate::catalog::millis);
    if let Some(package) = what.package {
        let (package, version) = split_package(&package);
        let source = PackageSource {
            package,
            version,
            bin: what.bin,
            args: what.args,
        };
        request.source = Some(if is_uvx(supervisor, request.type_name.as_str()).await? {
            Source::Uvx(source)
        } else {
            Source::Npx(source)
        });
    } else if let Some(image) = what.image {
        request.source = Some(Source::Image(ImageSource {
            image,
            command: what.command.into_iter().collect(),
            args: what.args,
            http: what.http.as_deref().map(place).transpose()?,
        }));
    } else if let Some(url) = what.url {
        let auth = if let Some(from) = what.bearer {
            if from != "-" {
                bail!("--bearer takes -: the token is read from standard input, never from the command line");
            }
            request.remote_secret = Some(secret(&["bearer token"])?);
            RemoteAuth::Bearer
        } else {
            headers(&what.header, &mut request.remote_secret)?
        };
        if !what.args.is_empty() {
            bail!("a remote server takes no arguments");
        }
        request.source = Some(Source::Remote(RemoteSource { url, auth }));
    } else if !what.args.is_empty() {
        bail!("only the types npx, uvx and image take arguments of the server after --");
    }
    Ok(())
}

/// `PORT/PATH`
fn place(text: &str) -> Result<HttpPlace> {
    let bad = || anyhow!("--http {text:?}: write a port and a path, such as 8080/mcp");
    let (port, path) = text.split_once('/').ok_or_else(bad)?;
    Ok(HttpPlace {
        port: port.parse().ok().filter(|p| *p > 0).ok_or_else(bad)?,
        path: format!("/{path}"),
    })
}

/// `NAME=-`, none, one or several.
fn headers(given: &[String], secret_of: &mut Option<Secret>) -> Result<RemoteAuth> {
    let name = |header: &String| match header.split_once('=') {
        Some((name, "-")) => Ok(name.to_owned()),
        _ => bail!("--header takes NAME=-: the value is read from standard input, never from the command line"),
    };
    let names: Vec<String> = given.iter().map(name).collect::<Result<_>>()?;
    if names.is_empty() {
        return Ok(RemoteAuth::None);
    }
    let labels: Vec<&str> = names.iter().map(String::as_str).collect();
    *secret_of = Some(secret(&labels)?);
    Ok(RemoteAuth::of(names))
}

/// Standard input, a line for each; in a terminal they are asked for, unseen.
fn secret(whats: &[&str]) -> Result<Secret> {
    let stdin = std::io::stdin();
    let mut text = String::new();
    if stdin.is_terminal() {
        let typed: Vec<String> = whats
            .iter()
            .map(|what| prompt::unseen(&format!("{what}:")))
            .collect::<Result<_>>()?;
        text = typed.join("\n");
    } else {
        stdin
            .take(MAX_SECRET)
            .read_to_string(&mut text)
            .context("the secret cannot be read from standard input")?;
    }
    let value = text.trim_end_matches(['\r', '\n']).replace("\r\n", "\n");
    if value.is_empty() {
        bail!("no {} came from standard input", whats.join(" and "));
    }
    Ok(Secret::new(value))
}

impl Verbs {
    /// Waits until the instance has settled; its deploy's log goes to standard error meanwhile.
    pub(super) async fn wait_watching(&self, id: &InstanceId, wait: &Wait) -> Result<Option<InstanceView>> {
        if self.json {
            return self.wait(id, "settled", wait).await;
        }
        let path = format!("{}?follow=1", Route::DeployLog.of(id.as_str()));
        let mut shown = Stream::new(To::Error);
        let watching = self.supervisor.stream(&path, |piece| shown.write(piece));
        let mut watching = std::pin::pin!(watching);
        let settled = self.wait(id, "settled", wait);
        let mut settled = std::pin::pin!(settled);
        let mut watched = false;
        loop {
            tokio::select! {
                _ = &mut watching, if !watched => watched = true,
                view = &mut settled => {
                    if !watched {
                        // No deploy goes on any more; its last lines are on their way.
                        let _ = tokio::time::timeout(LAST_LINES, watching).await;
                    }
                    return view;
                }
            }
        }
    }

    /// Prints an instance's log, or that of its latest deploy.
    pub(super) async fn logs(&self, id: &str, follow: bool, tail: Option<u32>, deploy: bool, raw: bool) -> Result<()> {
        let route = if deploy { Route::DeployLog } else { Route::Logs };
        let mut path = format!("{}?follow={}", route.of(&segment(id)?), u8::from(follow));
        if let Some(n) = tail {
            path += &format!("&tail={n}");
        }
        if self.json {
            let mut lines = Lines::default();
            let print = |line: &[u8]| {
                let line = String::from_utf8_lossy(line);
                let line = if deploy { line.trim_start() } else { &line };
                print::json(&serde_json::json!({ "line": line.trim_end() })).map_err(std::io::Error::other)
            };
            self.supervisor.stream(&path, |piece| lines.next(piece, print)).await?;
            return Ok(lines.end(print)?);
        }
        let mut shown = if raw {
            Stream::raw(To::Out)
        } else {
            Stream::new(To::Out)
        };
        self.supervisor.stream(&path, |piece| shown.write(piece)).await?;
        Ok(shown.end()?)
    }
}

/// Bytes that come piece by piece, line by line.
#[derive(Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    pub(super) fn next(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        self.0.extend_from_slice(piece);
        let mut from = 0;
        while let Some(n) = memchr::memchr(b'\n', &self.0[from..]) {
            each(&self.0[from..from + n])?;
            from += n + 1;
        }
        self.0.drain(..from);
        if self.0.len() > LONGEST_LINE {
            each(&std::mem::take(&mut self.0))?;
        }
        Ok(())
    }

    /// A last line that has no end.
    pub(super) fn end(self, mut each: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
        if self.0.is_empty() { Ok(()) } else { each(&self.0) }
    }
}
