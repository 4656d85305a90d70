//! How records lie on disk, in schema 2: JSON values with every field named and unknown ones refused. These types are
//! nobody else's: a change of the domain or of the wire does not reach the disk unless it is written here, and then
//! it takes a migration.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::generic::{Auth, Generic};
use crate::{catalog, model, record};

/// Why a stored value is not a record.
pub(super) type Broken = String;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Instance {
    name: String,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generic: Option<Generic>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    at: jiff::Timestamp,
    by: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    hash: String,
    subject: Subject,
    name: String,
    created_at: jiff::Timestamp,
    expires_at: Option<jiff::Timestamp>,
    last_used_at: Option<jiff::Timestamp>,
}

/// `{"instance": ID}` or `{"member": NAME}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Subject {
    Instance(String),
    Member(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    role: String,
    created_at: jiff::Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields)]
struct Sandbox {
    seccomp: String,
    tmp_mib: u32,
    shm_mib: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Credential {
    key: String,
    label: String,
    kind: String,
    help: String,
    required: bool,
    pattern: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    name: String,
    command: Vec<String>,
    env: BTreeMap<String, String>,
    ready: Ready,
    restart: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
enum Ready {
    Started,
    Port { port: u16, timeout_ms: u64 },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
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
#[serde(deny_unknown_fields)]
struct Health {
    probe: Probe,
    interval_ms: u64,
    timeout_ms: u64,
    failures: u32,
    start_timeout_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
enum Probe {
    Mcp,
    Http { port: u16, path: String },
}

/// Pairs of a domain value and its word on disk, read in both directions.
macro_rules! words {
    ($to:ident, $from:ident, $t:ty, $what:literal, { $($v:path => $w:literal),+ $(,)? }) => {
        pub(super) fn $to(v: $t) -> String {
            match v { $($v => $w,)+ }.to_owned()
        }
        pub(super) fn $from(s: &str) -> Result<$t, Broken> {
            match s { $($w => Ok($v),)+ other => Err(format!(concat!($what, " {:?} is unknown"), other)) }
        }
    };
}
words!(role_word, role, model::Role, "role", { model::Role::Owner => "owner" });
words!(desired_word, desired, model::Desired, "desired state", {
    model::Desired::Running => "running", model::Desired::Stopped => "stopped", model::Desired::Removed => "removed" });
words!(size_word, size, model::Size, "size", {
    model::Size::Small => "small", model::Size::Medium => "medium", model::Size::Large => "large", model::Size::Xlarge => "xlarge" });
words!(restart_word, restart, model::RestartPolicy, "restart policy", {
    model::RestartPolicy::Always => "always", model::RestartPolicy::OnFailure => "on-failure", model::RestartPolicy::Never => "never" });
words!(processes_word, processes, model::Processes, "process mode", {
    model::Processes::Session => "session", model::Processes::Shared => "shared" });
words!(kind_word, kind, catalog::Kind, "kind of type", {
    catalog::Kind::Fixed => "fixed", catalog::Kind::Npx => "npx", catalog::Kind::Uvx => "uvx",
    catalog::Kind::Image => "image", catalog::Kind::Remote => "remote" });
words!(credential_word, credential_kind, model::CredentialKind, "kind of credential", {
    model::CredentialKind::Text => "text", model::CredentialKind::Password => "password",
    model::CredentialKind::File => "file" });
words!(egress_word, egress, catalog::Egress, "egress", {
    catalog::Egress::None => "none", catalog::Egress::Internet => "internet" });
words!(seccomp_word, seccomp, catalog::Seccomp, "seccomp profile", {
    catalog::Seccomp::Default => "default", catalog::Seccomp::Browser => "browser" });

pub(super) fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut s = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        let _ = write!(s, "{b:02x}");
    }
    s
}

fn unhex(s: &str) -> Result<Vec<u8>, Broken> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = s.as_bytes().chunks(2);
    pairs
        .map(|p| match p {
            [a, b] => digit(*a).zip(digit(*b)).map(|(a, b)| a << 4 | b),
            _ => None,
        })
        .collect::<Option<_>>()
        .ok_or_else(|| "a value is not hexadecimal".to_owned())
}

pub(super) fn text(e: impl std::fmt::Display) -> Broken {
    e.to_string()
}

impl Instance {
    pub(super) fn from_record(r: &record::InstanceRecord) -> Self {
        Self {
            name: r.name.to_string(),
            workspace: r.workspace.to_string(),
            size: size_word(r.size),
            desired: desired_word(r.desired),
            generation: r.generation,
            spec_hash: r.spec_hash.clone(),
            created_at: r.created_at,
            env: r.env.iter().map(|(k, v)| (k.clone(), hex(&v.0))).collect(),
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
            generic: r.generic.as_deref().map(Generic::from_domain),
        }
    }

    pub(super) fn into_record(self, id: &str) -> Result<record::InstanceRecord, Broken> {
        Ok(record::InstanceRecord {
            id: model::InstanceId::parse(id).map_err(text)?,
            name: model::InstanceName::parse(&self.name).map_err(text)?,
            workspace: model::WorkspaceName::parse(&self.workspace).map_err(text)?,
            size: size(&self.size)?,
            desired: desired(&self.desired)?,
            generation: self.generation,
            spec_hash: self.spec_hash,
            created_at: self.created_at,
            env: self
                .env
                .into_iter()
                .map(|(k, v)| Ok((k, record::Sealed(unhex(&v)?))))
                .collect::<Result<_, Broken>>()?,
            marks: record::Marks {
                revision: self.revision,
                set: self
                    .marks
                    .into_iter()
                    .map(|(k, m)| (k, record::Mark { at: m.at, by: m.by }))
                    .collect(),
            },
            spec: Arc::new(self.spec.into_domain()?),
            failure: self.failure,
            generic: self.generic.map(Generic::into_domain).transpose()?.map(Box::new),
        })
    }
}

impl Token {
    pub(super) fn from_record(r: &record::TokenRecord) -> Self {
        Self {
            hash: hex(&r.hash),
            subject: match &r.subject {
                model::Subject::Instance(id) => Subject::Instance(id.to_string()),
                model::Subject::Member(name) => Subject::Member(name.to_string()),
            },
            name: r.name.clone(),
            created_at: r.created_at,
            expires_at: r.expires_at,
            last_used_at: r.last_used_at,
        }
    }

    pub(super) fn into_record(self, id: &str) -> Result<record::TokenRecord, Broken> {
        Ok(record::TokenRecord {
            id: model::TokenId::parse(id).map_err(text)?,
            hash: unhex(&self.hash)?
                .try_into()
                .map_err(|_| "a token hash is not 32 bytes".to_owned())?,
            subject: match self.subject {
                Subject::Instance(id) => model::Subject::Instance(model::InstanceId::parse(&id).map_err(text)?),
                Subject::Member(name) => model::Subject::Member(model::MemberName::parse(&name).map_err(text)?),
            },
            name: self.name,
            created_at: self.created_at,
            expires_at: self.expires_at,
            last_used_at: self.last_used_at,
        })
    }
}

impl Member {
    pub(super) fn from_record(r: &record::MemberRecord) -> Self {
        Self {
            role: role_word(r.role),
            created_at: r.created_at,
        }
    }

    pub(super) fn into_record(self, name: &str) -> Result<record::MemberRecord, Broken> {
        Ok(record::MemberRecord {
            name: model::MemberName::parse(name).map_err(text)?,
            role: role(&self.role)?,
            created_at: self.created_at,
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
