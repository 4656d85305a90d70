//! Table `instances`: what instances shall be, by id. The types here are nobody else's: a change of the domain or of the
//! wire does not reach the disk unless it is written here, by the rules of `table` and `migrate`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    sourced::{Auth, Sourced},
    table::{Broken, Table},
    words::{
        Edit, credential_kind, credential_word, desired, desired_word, edit, edit_row, egress, egress_word, kind,
        kind_word, ms, processes, processes_word, restart, restart_word, seccomp, seccomp_word, size, size_word, text,
        unhex,
    },
};
use crate::{catalog, model, record};

#[derive(Serialize, Deserialize)]
pub(super) struct Instance {
    name: String,
    #[serde(default = "default_workspace")]
    workspace: String,
    size: String,
    desired: String,
    generation: u64,
    spec_hash: String,
    created_at: jiff::Timestamp,
    /// Sealed values, in hexadecimal.
    env: BTreeMap<String, String>,
    /// How often a value changed since the instance was run.
    #[serde(default, skip_serializing_if = "is_zero")]
    revision: u64,
    /// When each value was set, and by whom.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    marks: BTreeMap<String, Mark>,
    spec: Type,
    failure: Option<String>,
    #[serde(rename = "generic", default, skip_serializing_if = "Option::is_none")]
    sourced: Option<Sourced>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edited: Option<Edit>,
}

#[derive(Serialize, Deserialize)]
struct Mark {
    at: jiff::Timestamp,
    by: String,
}

fn default_workspace() -> String {
    model::WorkspaceName::default().to_string()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Serialize, Deserialize)]
struct Type {
    name: String,
    title: String,
    description: String,
    homepage: Option<String>,
    /// Absent: a type with an image of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    builder: Option<String>,
    image: String,
    digest: Option<String>,
    services: Vec<Service>,
    transport: Transport,
    max_sessions: u32,
    idle_timeout_ms: u64,
    call_timeout_ms: u64,
    health: Health,
    size: String,
    egress: String,
    volume: Option<String>,
    /// The port of its screen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    screen: Option<u16>,
    /// Left out where it is every container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sandbox: Option<Sandbox>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    credentials: Vec<Credential>,
}

#[derive(Serialize, Deserialize)]
struct Sandbox {
    seccomp: String,
    tmp_mib: u32,
    shm_mib: u32,
}

#[derive(Serialize, Deserialize)]
struct Credential {
    key: String,
    label: String,
    kind: String,
    help: String,
    required: bool,
    pattern: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Service {
    name: String,
    command: Vec<String>,
    env: BTreeMap<String, String>,
    ready: Ready,
    restart: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Ready {
    Started,
    Port { port: u16, timeout_ms: u64 },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Transport {
    Stdio {
        command: Vec<String>,
        env: BTreeMap<String, String>,
        processes: String,
    },
    Http {
        port: u16,
        path: String,
    },
    Remote {
        url: String,
        auth: Auth,
    },
}

#[derive(Serialize, Deserialize)]
struct Health {
    probe: Probe,
    interval_ms: u64,
    timeout_ms: u64,
    failures: u32,
    start_timeout_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Probe {
    Mcp,
    Http { port: u16, path: String },
}

pub(super) struct Instances;

impl Table for Instances {
    const NAME: &'static str = "instances";
    /// The list of what a package brought along has megabytes in the worst case.
    const MAX_ROW: usize = 64 << 20;
    type Key = model::InstanceId;
    type Record = record::InstanceRecord;
    type Row = Instance;

    fn key(r: &record::InstanceRecord) -> &model::InstanceId {
        &r.id
    }

    fn key_text(id: &model::InstanceId) -> std::borrow::Cow<'_, str> {
        id.as_str().into()
    }

    fn encode(r: &record::InstanceRecord) -> Instance {
        Instance {
            name: r.name.to_string(),
            workspace: r.workspace.to_string(),
            size: size_word(r.size),
            desired: desired_word(r.desired),
            generation: r.generation,
            spec_hash: r.spec_hash.clone(),
            created_at: r.created_at,
            env: r.env.iter().map(|(k, v)| (k.clone(), model::hex(&v.0))).collect(),
            revision: r.marks.revision,
            marks: r
                .marks
                .set
                .iter()
                .map(|(k, m)| {
                    let mark = Mark {
                        at: m.at,
                        by: m.by.clone(),
                    };
                    (k.clone(), mark)
                })
                .collect(),
            spec: Type::from_domain(&r.spec),
            failure: r.failure.clone(),
            sourced: r.sourced.as_deref().map(Sourced::from_domain),
            edited: edit_row(r.edited.as_ref()),
        }
    }

    fn decode(id: &str, row: Instance) -> Result<record::InstanceRecord, Broken> {
        Ok(record::InstanceRecord {
            id: model::InstanceId::parse(id).map_err(text)?,
            name: model::InstanceName::parse(&row.name).map_err(text)?,
            workspace: model::WorkspaceName::parse(&row.workspace).map_err(text)?,
            size: size(&row.size)?,
            desired: desired(&row.desired)?,
            generation: row.generation,
            spec_hash: row.spec_hash,
            created_at: row.created_at,
            env: row
                .env
                .into_iter()
                .map(|(k, v)| Ok((k, record::Sealed(unhex(&v)?))))
                .collect::<Result<_, Broken>>()?,
            marks: record::Marks {
                revision: row.revision,
                set: row
                    .marks
                    .into_iter()
                    .map(|(k, m)| (k, record::Mark { at: m.at, by: m.by }))
                    .collect(),
            },
            spec: Arc::new(row.spec.into_domain()?),
            failure: row.failure,
            sourced: row.sourced.map(Sourced::into_domain).transpose()?.map(Box::new),
            edited: edit(row.edited),
        })
    }
}

impl Type {
    fn from_domain(t: &catalog::InstanceType) -> Self {
        Self {
            name: t.name.to_string(),
            title: t.title.clone(),
            description: t.description.clone(),
            homepage: t.homepage.clone(),
            kind: (t.kind != catalog::Kind::Fixed).then(|| kind_word(t.kind)),
            builder: t.builder.clone(),
            image: t.image.reference.clone(),
            digest: t.image.digest.clone(),
            services: t.services.iter().map(Service::from_domain).collect(),
            transport: match &t.mcp.transport {
                catalog::Transport::Stdio {
                    command,
                    env,
                    processes,
                } => Transport::Stdio {
                    command: command.clone(),
                    env: env.clone(),
                    processes: processes_word(*processes),
                },
                catalog::Transport::Http { port, path } => Transport::Http {
                    port: *port,
                    path: path.clone(),
                },
                catalog::Transport::Remote { url, auth } => Transport::Remote {
                    url: url.clone(),
                    auth: Auth::from_domain(auth),
                },
            },
            max_sessions: t.mcp.max_sessions,
            idle_timeout_ms: ms(t.mcp.idle_timeout),
            call_timeout_ms: ms(t.mcp.call_timeout),
            health: Health {
                probe: match &t.health.kind {
                    model::HealthKind::Mcp => Probe::Mcp,
                    model::HealthKind::Http { port, path } => Probe::Http {
                        port: *port,
                        path: path.clone(),
                    },
                },
                interval_ms: ms(t.health.interval),
                timeout_ms: ms(t.health.timeout),
                failures: t.health.failures,
                start_timeout_ms: ms(t.health.start_timeout),
            },
            size: size_word(t.size),
            egress: egress_word(t.egress),
            volume: t.volume.clone(),
            screen: t.screen.map(|s| s.port),
            sandbox: (t.sandbox != catalog::Sandbox::default()).then(|| Sandbox {
                seccomp: seccomp_word(t.sandbox.seccomp),
                tmp_mib: t.sandbox.tmp_mib,
                shm_mib: t.sandbox.shm_mib,
            }),
            credentials: t.credentials.iter().map(Credential::from_domain).collect(),
        }
    }

    fn into_domain(self) -> Result<catalog::InstanceType, Broken> {
        Ok(catalog::InstanceType {
            name: model::TypeName::parse(&self.name).map_err(text)?,
            title: self.title,
            description: self.description,
            homepage: self.homepage,
            kind: self.kind.as_deref().map_or(Ok(catalog::Kind::Fixed), kind)?,
            builder: self.builder,
            image: catalog::ImageRef {
                reference: self.image,
                digest: self.digest,
            },
            services: self
                .services
                .into_iter()
                .map(Service::into_domain)
                .collect::<Result<_, _>>()?,
            mcp: catalog::Mcp {
                transport: match self.transport {
                    Transport::Stdio {
                        command,
                        env,
                        processes: mode,
                    } => catalog::Transport::Stdio {
                        command,
                        env,
                        processes: processes(&mode)?,
                    },
                    Transport::Http { port, path } => catalog::Transport::Http { port, path },
                    Transport::Remote { url, auth } => catalog::Transport::Remote {
                        url,
                        auth: auth.into_domain(),
                    },
                },
                max_sessions: self.max_sessions,
                idle_timeout: Duration::from_millis(self.idle_timeout_ms),
                call_timeout: Duration::from_millis(self.call_timeout_ms),
            },
            health: catalog::HealthContract {
                kind: match self.health.probe {
                    Probe::Mcp => model::HealthKind::Mcp,
                    Probe::Http { port, path } => model::HealthKind::Http { port, path },
                },
                interval: Duration::from_millis(self.health.interval_ms),
                timeout: Duration::from_millis(self.health.timeout_ms),
                failures: self.health.failures,
                start_timeout: Duration::from_millis(self.health.start_timeout_ms),
            },
            size: size(&self.size)?,
            egress: egress(&self.egress)?,
            volume: self.volume,
            screen: self.screen.map(|port| catalog::Screen { port }),
            import: Default::default(),
            sandbox: match self.sandbox {
                None => catalog::Sandbox::default(),
                Some(s) => catalog::Sandbox {
                    seccomp: seccomp(&s.seccomp)?,
                    tmp_mib: s.tmp_mib,
                    shm_mib: s.shm_mib,
                },
            },
            credentials: self
                .credentials
                .into_iter()
                .map(Credential::into_domain)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Credential {
    fn from_domain(c: &model::Credential) -> Self {
        Self {
            key: c.key.clone(),
            label: c.label.clone(),
            kind: credential_word(c.kind),
            help: c.help.clone(),
            required: c.required,
            pattern: c.pattern.clone(),
        }
    }

    fn into_domain(self) -> Result<model::Credential, Broken> {
        Ok(model::Credential {
            key: self.key,
            label: self.label,
            kind: credential_kind(&self.kind)?,
            help: self.help,
            required: self.required,
            pattern: self.pattern,
        })
    }
}

impl Service {
    fn from_domain(s: &catalog::Service) -> Self {
        Self {
            name: s.name.clone(),
            command: s.command.clone(),
            env: s.env.clone(),
            ready: match s.ready {
                model::Ready::Started => Ready::Started,
                model::Ready::Port { port, timeout_ms } => Ready::Port { port, timeout_ms },
            },
            restart: restart_word(s.restart),
        }
    }

    fn into_domain(self) -> Result<catalog::Service, Broken> {
        Ok(catalog::Service {
            name: self.name,
            command: self.command,
            env: self.env,
            ready: match self.ready {
                Ready::Started => model::Ready::Started,
                Ready::Port { port, timeout_ms } => model::Ready::Port { port, timeout_ms },
            },
            restart: restart(&self.restart)?,
        })
    }
}
