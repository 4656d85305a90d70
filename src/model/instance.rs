//! What an instance is to a person: its desired and observed state, its size, and the JSON that verbs print.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Etag, InstanceId, InstanceName, Secret, TypeName, WorkspaceName};

/// What was asked for, as the store keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// A container runs and its server answers.
    Running,
    /// No process runs; volume, tokens and address stay.
    Stopped,
    /// Everything that belongs to the instance goes, its record last.
    Removed,
}

/// Where an instance is.
///
/// ```text
/// pending -> preparing -> starting -> running
///     ^          |            |          |
///     |          +------------+----------+--> failed   (restarts used up, or a cause that waiting cannot mend)
///     +---- start, recreate ------- stopped <--- stop  (from any state)
/// removing (from any state) -> gone
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Accepted; nothing done yet.
    Pending,
    /// Image, network, volume and container are being made.
    Preparing,
    /// The container runs; its services are not all ready, or it waits to be restarted.
    Starting,
    /// The server answered its health contract at least once since it started.
    Running,
    /// Stopped on request.
    Stopped,
    /// Given up; `reason` says why. `berth start` or `berth recreate` tries again.
    Failed,
    /// Being removed.
    Removing,
}

impl State {
    /// All states, in the order of an instance's life.
    pub const ALL: [State; 7] = [
        State::Pending,
        State::Preparing,
        State::Starting,
        State::Running,
        State::Stopped,
        State::Failed,
        State::Removing,
    ];
}

/// What the health contract last said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not asked, or not since the last start.
    Unknown,
    /// The last probe was answered.
    Healthy,
    /// As many probes in a row as the type allows went unanswered.
    Unhealthy,
}

/// A size: how much CPU, memory and how many processes an instance may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// 0.25 CPU, 256 MiB
    Small,
    /// 0.5 CPU, 512 MiB
    Medium,
    /// 1 CPU, 1 GiB
    Large,
    /// 2 CPU, 2 GiB
    Xlarge,
}

/// The kernel limits that a size stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeLimits {
    /// CPU time per wall time, in billionths of a CPU.
    pub nano_cpus: i64,
    /// Memory, in bytes; no swap beyond it.
    pub memory: i64,
    /// Processes and threads.
    pub pids: i64,
    /// Its volume, in bytes, where the box's file system can bound it.
    pub volume: i64,
}

impl Size {
    /// All sizes, smallest first.
    pub const ALL: [Size; 4] = [Size::Small, Size::Medium, Size::Large, Size::Xlarge];

    /// The limits of this size.
    pub fn limits(self) -> SizeLimits {
        const MIB: i64 = 1 << 20;
        const GIB: i64 = 1 << 30;
        match self {
            Size::Small => SizeLimits {
                nano_cpus: 250_000_000,
                memory: 256 * MIB,
                pids: 256,
                volume: GIB,
            },
            Size::Medium => SizeLimits {
                nano_cpus: 500_000_000,
                memory: 512 * MIB,
                pids: 512,
                volume: 2 * GIB,
            },
            Size::Large => SizeLimits {
                nano_cpus: 1_000_000_000,
                memory: 1024 * MIB,
                pids: 1024,
                volume: 5 * GIB,
            },
            Size::Xlarge => SizeLimits {
                nano_cpus: 2_000_000_000,
                memory: 2048 * MIB,
                pids: 2048,
                volume: 10 * GIB,
            },
        }
    }

    /// The size's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Size::Small => "small",
            Size::Medium => "medium",
            Size::Large => "large",
            Size::Xlarge => "xlarge",
        }
    }
}

/// A text is none of the words that there are for something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a {what}: write {words}")]
pub struct WordError {
    given: String,
    what: &'static str,
    words: &'static str,
}

impl std::str::FromStr for Size {
    type Err = WordError;
    fn from_str(s: &str) -> Result<Self, WordError> {
        Size::ALL
            .into_iter()
            .find(|z| z.as_str() == s)
            .ok_or_else(|| WordError {
                given: s.to_owned(),
                what: "size",
                words: "small, medium, large or xlarge",
            })
    }
}

/// What an instance may reach outside its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Loopback only.
    None,
    /// A bridge network of its own, shared with nobody.
    Internet,
}

impl std::str::FromStr for Network {
    type Err = WordError;
    fn from_str(s: &str) -> Result<Self, WordError> {
        match s {
            "none" => Ok(Network::None),
            "internet" => Ok(Network::Internet),
            _ => Err(WordError {
                given: s.to_owned(),
                what: "network",
                words: "none or internet",
            }),
        }
    }
}

macro_rules! lower_display {
    ($($t:ty),*) => {$(
        impl std::fmt::Display for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&format!("{self:?}").to_lowercase())
            }
        }
    )*};
}
lower_display!(State, Health, Size, Desired);

/// An address, in both of its forms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// The address by host name: `https://mcp-{id}.{domain}/mcp`.
    pub url: String,
    /// The address by path, for sites without wildcard DNS: `https://{domain}/mcp/{id}`.
    pub path_url: String,
}

/// An instance's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoints {
    /// The MCP endpoint.
    pub mcp: Endpoint,
    /// The live screen, where the type has one; `berth screen` makes a link that opens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen: Option<Endpoint>,
}

/// An instance as verbs and the admin API print it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceView {
    pub id: InstanceId,
    pub name: InstanceName,
    #[serde(rename = "type")]
    pub type_name: TypeName,
    pub workspace: WorkspaceName,
    pub size: Size,
    pub state: State,
    pub health: Health,
    /// The image reference that the instance runs.
    pub image: String,
    /// RFC 3339, UTC.
    pub created_at: jiff::Timestamp,
    /// Which version of the record this is.
    #[serde(default)]
    pub etag: Etag,
    pub endpoints: Endpoints,
    /// Why the instance is in its state, where that needs saying; a server's own last words included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often the supervisor restarted it since it was last asked to run.
    pub restarts: u32,
    /// Processes of the server and of services that the kernel killed since the container's memory was used up, since the
    /// instance was last asked to run.
    #[serde(default)]
    pub oom_kills: u32,
    /// What an instance of a generic type runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<PackageView>,
    /// The token, in the answer to `run` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
}

impl InstanceView {
    /// As a list shows it: without all that a package brought along.
    #[must_use]
    pub fn listed(&self) -> InstanceView {
        let mut view = self.clone();
        if let Some(package) = &mut view.package {
            package.tree = Arc::default();
        }
        view
    }
}

/// What an instance of a generic type runs, as verbs print it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackageView {
    /// `npx`, `uvx`, `image` or `remote`.
    pub kind: String,
    /// As it was asked for.
    pub wanted: String,
    /// The exact version (of an image its digest or id), once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// SHA-256 of the lock that names the whole tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// Whether `berth types pin` holds its version.
    pub pinned: bool,
    /// The instance that this is a trial of; it goes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_of: Option<InstanceId>,
    /// Everything that was installed, as `name@version`; `berth list` leaves it out.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub tree: Arc<[String]>,
}

fn is_empty(tree: &Arc<[String]>) -> bool {
    tree.is_empty()
}

/// What the instances of a box may write on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RoomView {
    /// All together, in bytes.
    pub room_bytes: u64,
    /// What those that are there were promised of it, in bytes: more than there is where something else fills the disk.
    pub promised_bytes: u64,
}
