//! Workspaces as they are asked for and shown, and what one may use.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Allowed, CallLimit, Etag, WorkspaceName};

/// What all containers of one workspace may use together, as it was asked for; None: as the box allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct WorkspaceLimits {
    /// CPU time per wall time, in billionths of a CPU; in JSON `cpus`, a number of CPUs.
    #[serde(rename = "cpus", default, with = "cpus", skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<f64>",
        description = "CPU time per wall time: 1.5 is that of one CPU and a half."
    )]
    pub nano_cpus: Option<i64>,
    /// Memory in bytes.
    #[serde(rename = "memory_bytes", default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<i64>,
    /// Processes and threads.
    #[serde(rename = "processes", default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<i64>,
    /// Bytes that its instances may write on the disk together: their volumes, and what is kept beside them. Berth holds it
    /// when one is run or grows; each volume the file system holds, where it can (XFS with project quotas).
    #[serde(rename = "disk_bytes", default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<i64>,
    /// Instances that run or shall run. Berth holds it when one is run or started; the others the kernel holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
    /// Calls a second to its instances; 0: no bound. The edge holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_per_second: Option<u32>,
    /// Calls to its instances that are under way at a time; 0: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_at_once: Option<u32>,
}

impl WorkspaceLimits {
    /// The bound of the calls to its instances.
    pub fn calls(&self) -> CallLimit {
        let default = CallLimit::OF_A_WORKSPACE;
        CallLimit {
            per_second: self.calls_per_second.unwrap_or(default.per_second),
            at_once: self.calls_at_once.unwrap_or(default.at_once),
        }
    }

    /// What CPU time may be, in billionths of a CPU.
    pub const NANO_CPUS: RangeInclusive<i64> = 100_000_000..=1_024_000_000_000;
    /// What memory may be, in bytes.
    pub const MEMORY: RangeInclusive<i64> = 64 << 20..=64 << 40;
    /// Billionths of a CPU as people write CPUs: `1.5`.
    pub fn cpus(nano: i64) -> String {
        let text = format!("{}.{:03}", nano / 1_000_000_000, nano / 1_000_000 % 1000);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    /// How many processes and threads there may be.
    pub const PIDS: RangeInclusive<i64> = 64..=4_000_000;
}

/// What may be run in a workspace, of what the configuration allows. Patterns are shell-style, with `*`; each list that is
/// not given allows whatever the configuration does, and an empty one nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allowlist {
    /// Names of types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    /// Packages, by name (`@scope/*`) or by kind and name (`npx:@scope/*`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<Vec<String>>,
    /// Images that the type `image` may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<String>>,
    /// Addresses that the type `remote` may reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remotes: Option<Vec<String>>,
}

impl Allowlist {
    /// Patterns in one list, at most.
    pub const MAX_PATTERNS: usize = 200;
    /// Characters of one pattern, at most.
    pub const MAX_PATTERN: usize = 200;

    /// Whether it allows all that the configuration does.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// The patterns for what is named.
    pub fn of(&self, what: Allowed) -> Option<&Vec<String>> {
        match what {
            Allowed::Type => self.types.as_ref(),
            Allowed::Package => self.packages.as_ref(),
            Allowed::Image => self.images.as_ref(),
            Allowed::Address => self.remotes.as_ref(),
        }
    }

    /// All lists that there are.
    pub fn lists(&self) -> impl Iterator<Item = &Vec<String>> {
        [&self.types, &self.packages, &self.images, &self.remotes]
            .into_iter()
            .flatten()
    }
}

/// A workspace as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkspaceView {
    pub name: WorkspaceName,
    pub created_at: jiff::Timestamp,
    /// Which version of the record this is.
    #[serde(default)]
    pub etag: Etag,
    /// Its own quota, which may have some of the limits.
    pub quota: Option<WorkspaceLimits>,
    /// What holds: each limit its own, or the configuration's, whatever that is today. What is not in it is as the box
    /// allows.
    pub limits: WorkspaceLimits,
    /// Instances that it has.
    pub instances: usize,
    /// Of these, those that run or shall run.
    pub running: usize,
    /// Bytes that its instances may write on the disk together, as it was promised to each.
    #[serde(default)]
    pub promised_bytes: u64,
    /// Members who are in it; owners are in all.
    #[serde(default)]
    pub members: usize,
    /// What may be run in it.
    #[serde(default, skip_serializing_if = "Allowlist::is_open")]
    pub allow: Allowlist,
}

/// CPUs as a number, 1.5 for one and a half.
mod cpus {
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::ref_option, reason = "serde asks for it")]
    pub(super) fn serialize<S: Serializer>(nano: &Option<i64>, s: S) -> Result<S::Ok, S::Error> {
        match nano {
            // Exact enough: it was read from thousandths.
            #[allow(clippy::cast_precision_loss)]
            Some(nano) => s.serialize_some(&(*nano as f64 / 1e9)),
            None => s.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
        let cpus = Option::<f64>::deserialize(d)?;
        // What is out of bounds stays so, and is refused with them.
        #[allow(clippy::cast_possible_truncation)]
        let nano = |n: f64| ((n * 1000.0).round() as i64).saturating_mul(1_000_000);
        Ok(cpus.map(nano))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_written_as_people_count() {
        let quota = WorkspaceLimits {
            nano_cpus: Some(1_500_000_000),
            memory: Some(1 << 30),
            pids: None,
            disk: Some(5 << 30),
            instances: Some(3),
            calls_per_second: Some(0),
            calls_at_once: None,
        };
        let text = serde_json::to_string(&quota).unwrap();
        assert_eq!(
            text,
            r#"{"cpus":1.5,"memory_bytes":1073741824,"disk_bytes":5368709120,"instances":3,"calls_per_second":0}"#
        );
        assert_eq!(serde_json::from_str::<WorkspaceLimits>(&text).unwrap(), quota);
        assert_eq!(
            serde_json::from_str::<WorkspaceLimits>("{}").unwrap(),
            WorkspaceLimits::default()
        );
        for (text, nano) in [("-1", -1_000_000_000), ("1e300", i64::MAX), ("0.1234567", 123_000_000)] {
            let read: WorkspaceLimits = serde_json::from_str(&format!("{{\"cpus\":{text}}}")).unwrap();
            assert_eq!(read.nano_cpus, Some(nano), "{text}");
        }
    }
}
