//! What every container gets, whatever its type asks (design.md, "What every container gets"). Pure: a record and the
//! box's facts in, the container's specification out; `docker/` only translates it. A type
//! cannot widen its sandbox: it can only choose among the profiles that stand here.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use crate::{
    catalog::{Egress, Seccomp},
    model::{AGENT_CAPABILITIES, BASE32, BoxId, InstanceId, SERVER_USER, Size},
    plan::quota::WorkspaceQuota,
    record::InstanceRecord,
};

/// Label: whose a thing is.
pub const LABEL_BOX: &str = "berth.box";
/// Label: the instance.
pub const LABEL_INSTANCE: &str = "berth.instance";
/// Label: the instance's type.
pub const LABEL_TYPE: &str = "berth.type";
/// Label: what the container is made of, as [`spec_label`] has it.
pub const LABEL_SPEC: &str = "berth.spec";

/// Whom process 1 begins as, to become the agent's user at once (`rights`); all others are the server's user.
const USER: &str = "0:0";
/// `/tmp`, within the memory limit of its container. It belongs to the server's user: some runtimes give it the mode
/// that the image has there.
const TMP: &str = "rw,noexec,nosuid,nodev,mode=1777";
/// Counts the changes of what every container gets: a container of an earlier one is replaced, not adopted.
/// 2: the agent has a user of its own.
const SANDBOX: u32 = 2;

/// The writable layer, in bytes: the root is read-only, so that nothing is ever written there.
const LAYER: i64 = 64 << 20;

/// Facts of this box that containers are made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxFacts {
    pub box_id: BoxId,
    /// The berth binary on the host, mounted as the agent.
    pub agent: PathBuf,
    pub systemd_cgroups: bool,
    /// CPUs of the host; a size larger than that gets them all.
    pub cpus: i64,
    /// Memory of the host, in bytes.
    pub memory: i64,
    /// The engine can bound volumes.
    pub volume_sizes: bool,
    /// The engine can bound writable layers.
    pub layer_sizes: bool,
}

/// So much CPU, in billionths of one, does a container get while it starts: a server's start is a burst of work that
/// its size would stretch. Never more than the box and its workspace have.
const START_CPUS: i64 = 2_000_000_000;

impl BoxFacts {
    /// What one container of a workspace may get at most.
    fn most_cpus(&self, quota: &WorkspaceQuota) -> i64 {
        (self.cpus.max(1) * 1_000_000_000).min(quota.nano_cpus)
    }

    /// The CPU of a container of this size in a workspace of this quota, in billionths of one.
    pub fn size_cpus(&self, size: Size, quota: &WorkspaceQuota) -> i64 {
        size.limits().nano_cpus.min(self.most_cpus(quota))
    }

    /// The same while it starts.
    pub fn start_cpus(&self, size: Size, quota: &WorkspaceQuota) -> i64 {
        self.size_cpus(size, quota).max(START_CPUS.min(self.most_cpus(quota)))
    }
}

/// One container, complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerSpec {
    pub name: String,
    pub image: String,
    pub labels: BTreeMap<String, String>,
    pub user: String,
    pub entrypoint: Vec<String>,
    pub env: Vec<String>,
    pub cap_drop: Vec<String>,
    /// Process 1's alone: it takes them from everything that it starts.
    pub cap_add: Vec<String>,
    /// The engine's words, but for seccomp.
    pub security_opt: Vec<String>,
    /// The profile that replaces the engine's, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    pub readonly_rootfs: bool,
    pub tmpfs: BTreeMap<String, String>,
    /// Host path and path inside; always read-only.
    pub binds: Vec<(PathBuf, String)>,
    /// Volume name and path inside.
    pub volume: Option<(String, String)>,
    /// Bytes that the volume may hold; None where the file system cannot bound it.
    pub volume_size: Option<i64>,
    /// The same of the writable layer.
    pub layer_size: Option<i64>,
    pub volume_labels: BTreeMap<String, String>,
    pub network_mode: String,
    pub ipc_mode: String,
    /// `/dev/shm`, in bytes.
    pub shm_size: i64,
    pub cgroup_parent: String,
    pub memory: i64,
    pub memory_swap: i64,
    /// While it starts; the size's own follows when it is ready ([`BoxFacts::size_cpus`]).
    pub nano_cpus: i64,
    pub pids: i64,
    pub nofile: i64,
    pub oom_score_adj: i64,
    pub log_options: BTreeMap<String, String>,
    /// Seconds between SIGTERM and SIGKILL.
    pub stop_timeout: i64,
}

/// The name of an instance's container, network and volume.
pub fn resource_name(box_id: &BoxId, id: &InstanceId) -> String {
    let short: String = box_id.as_str().chars().take(8).collect();
    format!("berth-{short}-{id}")
}

/// What a network of this box is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    Instance,
    Installation,
}

/// How the names of this box's bridges begin, of all or of those for some traffic: the firewall knows them by it. Bridges
/// of another box on this machine may begin the same, which is one chance in 65536.
pub fn bridge_prefix(box_id: &BoxId, traffic: Option<Traffic>) -> String {
    let kind = match traffic {
        None => "",
        Some(Traffic::Instance) => "i",
        Some(Traffic::Installation) => "p",
    };
    format!("br-{}{kind}", &box_id.as_str()[..4])
}

/// The bridge of a network, by the network's name: as long as the kernel lets an interface's name be (15 bytes).
pub fn bridge_name(box_id: &BoxId, traffic: Traffic, network: &str) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(network.as_bytes());
    let short = digest.iter().take(7).map(|b| char::from(BASE32[usize::from(b % 32)]));
    bridge_prefix(box_id, Some(traffic)).chars().chain(short).collect()
}

/// What the label `berth.spec` says of a container that is made for a record with this hash.
pub fn spec_label(spec_hash: &str) -> String {
    format!("{spec_hash}.{SANDBOX}")
}

/// The labels that say whose a network or a volume is.
pub fn owner_labels(box_id: &BoxId, id: &InstanceId) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL_BOX.to_owned(), box_id.to_string()),
        (LABEL_INSTANCE.to_owned(), id.to_string()),
    ])
}

/// The cgroup that holds a workspace's containers, below one of the box: another supervisor on this machine may have
/// a workspace of the same name. Under systemd a `-` would nest slices, so that one workspace's quota could hold
/// another's: it becomes `_`, which no workspace name has.
pub fn cgroup_parent(box_id: &BoxId, workspace: &str, systemd: bool) -> String {
    let short: String = box_id.as_str().chars().take(8).collect();
    if systemd {
        format!("berth-{short}-{}.slice", workspace.replace('-', "_"))
    } else {
        format!("/berth/{short}/{workspace}")
    }
}

/// The image to create from: by digest where the type pins one, so that a moved tag changes nothing.
pub fn image_reference(reference: &str, digest: Option<&str>) -> String {
    let Some(digest) = digest else {
        return reference.to_owned();
    };
    // A colon after the last slash begins a tag; one before it belongs to the registry's port.
    let path = reference.rfind('/').map_or(0, |i| i + 1);
    let name = reference[path..]
        .find(':')
        .map_or(reference, |i| &reference[..path + i]);
    format!("{name}@{digest}")
}

/// The container of an instance whose socket lies in `socket_dir` on the host, in a workspace of this quota.
pub fn container_spec(
    record: &InstanceRecord,
    facts: &BoxFacts,
    quota: &WorkspaceQuota,
    socket_dir: PathBuf,
) -> ContainerSpec {
    let limits = record.size.limits();
    let sandbox = &record.spec.sandbox;
    let name = resource_name(&facts.box_id, &record.id);
    let mut labels = owner_labels(&facts.box_id, &record.id);
    let volume_labels = labels.clone();
    labels.insert(LABEL_TYPE.to_owned(), record.type_name().to_string());
    labels.insert(LABEL_SPEC.to_owned(), spec_label(&record.spec_hash));
    ContainerSpec {
        image: match record.sourced.as_ref().and_then(|g| g.resolved.as_ref()) {
            // The very bytes that were installed or fetched, whatever their name means by now.
            Some(resolved) => resolved.image_id.clone(),
            None => image_reference(&record.spec.image.reference, record.spec.image.digest.as_deref()),
        },
        labels,
        user: USER.to_owned(),
        entrypoint: vec!["/berth/bin/berth".to_owned(), "agent".to_owned()],
        env: vec!["BERTH_AGENT_SOCKET=/berth/run/agent.sock".to_owned()],
        cap_drop: vec!["ALL".to_owned()],
        cap_add: AGENT_CAPABILITIES.map(str::to_owned).to_vec(),
        security_opt: vec!["no-new-privileges".to_owned()],
        seccomp: (sandbox.seccomp != Seccomp::Default).then_some(sandbox.seccomp),
        readonly_rootfs: true,
        tmpfs: BTreeMap::from([(
            "/tmp".to_owned(),
            format!(
                "{TMP},uid={},gid={},size={}m",
                SERVER_USER.uid, SERVER_USER.gid, sandbox.tmp_mib
            ),
        )]),
        binds: vec![
            (facts.agent.clone(), "/berth/bin/berth".to_owned()),
            (socket_dir, "/berth/run".to_owned()),
        ],
        volume: record.spec.volume.clone().map(|path| (name.clone(), path)),
        volume_size: facts.volume_sizes.then_some(limits.volume),
        layer_size: facts.layer_sizes.then_some(LAYER),
        volume_labels,
        network_mode: match record.spec.egress {
            Egress::None => "none".to_owned(),
            Egress::Internet => name.clone(),
        },
        ipc_mode: "private".to_owned(),
        shm_size: i64::from(sandbox.shm_mib) << 20,
        cgroup_parent: cgroup_parent(&facts.box_id, record.workspace.as_str(), facts.systemd_cgroups),
        memory: limits.memory,
        memory_swap: limits.memory,
        nano_cpus: facts.start_cpus(record.size, quota),
        pids: limits.pids,
        nofile: 4096,
        oom_score_adj: 500,
        log_options: BTreeMap::from([
            ("max-size".to_owned(), "5m".to_owned()),
            ("max-file".to_owned(), "2".to_owned()),
        ]),
        stop_timeout: 10,
        name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_by_digest_where_one_is_pinned() {
        let check = |r, d, is: &str| assert_eq!(image_reference(r, d), is);
        check("berth/x:1", None, "berth/x:1");
        check("berth/x:1", Some("sha256:ab"), "berth/x@sha256:ab");
        check("host:5000/x", Some("sha256:ab"), "host:5000/x@sha256:ab");
        check("host:5000/x:2", Some("sha256:ab"), "host:5000/x@sha256:ab");
    }

    #[test]
    fn workspaces_are_never_nested() {
        let box_id = BoxId::from_random([0xab; 8]);
        assert_eq!(cgroup_parent(&box_id, "a-b", true), "berth-abababab-a_b.slice");
        assert_eq!(cgroup_parent(&box_id, "a-b", false), "/berth/abababab/a-b");
    }

    #[test]
    fn a_start_gets_more_cpu_but_no_more_than_there_is() {
        let check = |size: Size, cpus, workspace: i64, is: (i64, i64)| {
            let facts = BoxFacts {
                box_id: BoxId::from_random([0xab; 8]),
                agent: "/b".into(),
                systemd_cgroups: false,
                cpus,
                memory: 2 << 30,
                volume_sizes: false,
                layer_sizes: false,
            };
            let quota = WorkspaceQuota {
                nano_cpus: workspace * 1_000_000,
                memory: 1 << 30,
                pids: 100,
                by_default: false,
            };
            let milli = |n| n / 1_000_000;
            let got = (
                milli(facts.start_cpus(size, &quota)),
                milli(facts.size_cpus(size, &quota)),
            );
            assert_eq!(got, is, "{size} with {cpus} CPUs, {workspace} for its workspace");
        };
        check(Size::Medium, 16, 16_000, (2000, 500));
        check(Size::Medium, 1, 1_000, (1000, 500));
        check(Size::Medium, 4, 1_500, (1500, 500));
        check(Size::Medium, 4, 300, (300, 300));
        check(Size::Xlarge, 2, 2_000, (2000, 2000));
        check(Size::Xlarge, 1, 1_000, (1000, 1000));
    }
}
