//! How what an instance of a generic type runs lies on disk: an optional part of the instance's row.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    table::Broken,
    words::{egress, egress_word, ms, processes, processes_word, text},
};
use crate::{model, record};

#[derive(Serialize, Deserialize)]
pub(super) struct Sourced {
    source: Source,
    resolved: Option<Resolved>,
    network: Option<String>,
    volume: Option<String>,
    processes: Option<String>,
    /// Absent: as its type has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    call_timeout_ms: Option<u64>,
    pinned: bool,
    trial_of: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Source {
    Npx {
        package: String,
        version: Option<String>,
        bin: Option<String>,
        args: Vec<String>,
    },
    Uvx {
        package: String,
        version: Option<String>,
        bin: Option<String>,
        args: Vec<String>,
    },
    Image {
        image: String,
        command: Vec<String>,
        args: Vec<String>,
        http: Option<Http>,
    },
    Remote {
        url: String,
        auth: Auth,
    },
}

#[derive(Serialize, Deserialize)]
struct Http {
    port: u16,
    path: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "auth")]
pub(super) enum Auth {
    None,
    Bearer,
    Header { name: String },
    Headers { names: Vec<String> },
}

#[derive(Serialize, Deserialize)]
struct Resolved {
    version: String,
    image: String,
    image_id: String,
    lock: String,
    command: Vec<String>,
    tree: Vec<String>,
}

impl Sourced {
    pub(super) fn from_domain(g: &record::Sourced) -> Self {
        Self {
            source: Source::from_domain(&g.source),
            resolved: g.resolved.as_ref().map(|r| Resolved {
                version: r.version.clone(),
                image: r.image.clone(),
                image_id: r.image_id.clone(),
                lock: r.lock.clone(),
                command: r.command.clone(),
                tree: r.tree.to_vec(),
            }),
            network: g.network.map(egress_word),
            volume: g.volume.clone(),
            processes: g.processes.map(processes_word),
            call_timeout_ms: g.call_timeout.map(ms),
            pinned: g.pinned,
            trial_of: g.trial_of.as_ref().map(ToString::to_string),
        }
    }

    pub(super) fn into_domain(self) -> Result<record::Sourced, Broken> {
        Ok(record::Sourced {
            source: self.source.into_domain(),
            resolved: self.resolved.map(|r| model::Resolved {
                version: r.version,
                image: r.image,
                image_id: r.image_id,
                lock: r.lock,
                command: r.command,
                tree: r.tree.into(),
            }),
            network: self.network.as_deref().map(egress).transpose()?,
            volume: self.volume,
            processes: self.processes.as_deref().map(processes).transpose()?,
            call_timeout: self.call_timeout_ms.map(Duration::from_millis),
            pinned: self.pinned,
            trial_of: self
                .trial_of
                .map(|id| model::InstanceId::parse(&id).map_err(text))
                .transpose()?,
        })
    }
}

impl Source {
    fn from_domain(s: &model::Source) -> Self {
        match s.clone() {
            model::Source::Npx(p) => Source::Npx {
                package: p.package,
                version: p.version,
                bin: p.bin,
                args: p.args,
            },
            model::Source::Uvx(p) => Source::Uvx {
                package: p.package,
                version: p.version,
                bin: p.bin,
                args: p.args,
            },
            model::Source::Image(i) => Source::Image {
                image: i.image,
                command: i.command,
                args: i.args,
                http: i.http.map(|h| Http {
                    port: h.port,
                    path: h.path,
                }),
            },
            model::Source::Remote(r) => Source::Remote {
                auth: Auth::from_domain(&r.auth),
                url: r.url,
            },
        }
    }

    fn into_domain(self) -> model::Source {
        let of = |package, version, bin, args| model::PackageSource {
            package,
            version,
            bin,
            args,
        };
        match self {
            Source::Npx {
                package,
                version,
                bin,
                args,
            } => model::Source::Npx(of(package, version, bin, args)),
            Source::Uvx {
                package,
                version,
                bin,
                args,
            } => model::Source::Uvx(of(package, version, bin, args)),
            Source::Image {
                image,
                command,
                args,
                http,
            } => model::Source::Image(model::ImageSource {
                image,
                command,
                args,
                http: http.map(|h| model::HttpPlace {
                    port: h.port,
                    path: h.path,
                }),
            }),
            Source::Remote { url, auth } => model::Source::Remote(model::RemoteSource {
                url,
                auth: auth.into_domain(),
            }),
        }
    }
}

impl Auth {
    pub(super) fn from_domain(a: &model::RemoteAuth) -> Self {
        match a.clone() {
            model::RemoteAuth::None => Auth::None,
            model::RemoteAuth::Bearer => Auth::Bearer,
            model::RemoteAuth::Header { name } => Auth::Header { name },
            model::RemoteAuth::Headers { names } => Auth::Headers { names },
        }
    }

    pub(super) fn into_domain(self) -> model::RemoteAuth {
        match self {
            Auth::None => model::RemoteAuth::None,
            Auth::Bearer => model::RemoteAuth::Bearer,
            Auth::Header { name } => model::RemoteAuth::Header { name },
            Auth::Headers { names } => model::RemoteAuth::Headers { names },
        }
    }
}
