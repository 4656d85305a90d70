//! What every container gets, whatever its type asks (design.md, "What every container gets"). Pure: a record and the
//! box's facts in, the container's specification out; `docker/` only translates it. Never widens a sandbox: there is
//! no field here through which a type could.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use crate::{
    catalog::Egress,
    model::{BoxId, InstanceId},
    record::InstanceRecord,
};

/// Label: whose a thing is.
pub const LABEL_BOX: &str = "berth.box";
/// Label: the instance.
pub const LABEL_INSTANCE: &str = "berth.instance";
/// Label: the instance's type.
pub const LABEL_TYPE: &str = "berth.type";
/// Label: the hash of what the container is made of.
pub const LABEL_SPEC: &str = "berth.spec";

/// The user that everything in a container runs as.
const USER: &str = "10001:10001";
/// `/tmp`, within the memory limit of its container. It belongs to the user: some runtimes give it the mode that the
/// image has there.
const TMP: &str = "rw,noexec,nosuid,nodev,mode=1777,uid=10001,gid=10001,size=64m";

/// Facts of this box that containers are made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxFacts {
    pub box_id: BoxId,
    /// The berth binary on the host, mounted as the agent.
    pub agent: PathBuf,
    pub systemd_cgroups: bool,
    /// CPUs of the host; a size larger than that gets them all.
    pub cpus: i64,
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
    pub security_opt: Vec<String>,
    pub readonly_rootfs: bool,
    pub tmpfs: BTreeMap<String, String>,
    /// Host path and path inside; always read-only.
    pub binds: Vec<(PathBuf, String)>,
    /// Volume name and path inside.
    pub volume: Option<(String, String)>,
    pub volume_labels: BTreeMap<String, String>,
    pub network_mode: String,
    pub ipc_mode: String,
    pub cgroup_parent: String,
    pub memory: i64,
    pub memory_swap: i64,
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

/// The labels that say whose a network or a volume is.
pub fn owner_labels(box_id: &BoxId, id: &InstanceId) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL_BOX.to_owned(), box_id.to_string()),
        (LABEL_INSTANCE.to_owned(), id.to_string()),
    ])
}

/// The cgroup that holds a workspace's containers. Under systemd a `-` would nest slices, so that one workspace's
/// quota could hold another's: it becomes `_`, which no workspace name has.
pub fn cgroup_parent(workspace: &str, systemd: bool) -> String {
    if systemd {
        format!("berth-{}.slice", workspace.replace('-', "_"))
    } else {
        format!("/berth/{workspace}")
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

/// The container of an instance whose socket lies in `socket_dir` on the host.
pub fn container_spec(record: &InstanceRecord, facts: &BoxFacts, socket_dir: PathBuf) -> ContainerSpec {
    let limits = record.size.limits();
    let name = resource_name(&facts.box_id, &record.id);
    let mut labels = owner_labels(&facts.box_id, &record.id);
    let volume_labels = labels.clone();
    labels.insert(LABEL_TYPE.to_owned(), record.type_name().to_string());
    labels.insert(LABEL_SPEC.to_owned(), record.spec_hash.clone());
    ContainerSpec {
        image: image_reference(&record.spec.image.reference, record.spec.image.digest.as_deref()),
        labels,
        user: USER.to_owned(),
        entrypoint: vec!["/berth/bin/berth".to_owned(), "agent".to_owned()],
        env: vec!["BERTH_AGENT_SOCKET=/berth/run/agent.sock".to_owned()],
        cap_drop: vec!["ALL".to_owned()],
        security_opt: vec!["no-new-privileges".to_owned()],
        readonly_rootfs: true,
        tmpfs: BTreeMap::from([("/tmp".to_owned(), TMP.to_owned())]),
        binds: vec![
            (facts.agent.clone(), "/berth/bin/berth".to_owned()),
            (socket_dir, "/berth/run".to_owned()),
        ],
        volume: record.spec.volume.clone().map(|path| (name.clone(), path)),
        volume_labels,
        network_mode: match record.spec.egress {
            Egress::None => "none".to_owned(),
            Egress::Internet => name.clone(),
        },
        ipc_mode: "private".to_owned(),
        cgroup_parent: cgroup_parent(record.workspace.as_str(), facts.systemd_cgroups),
        memory: limits.memory,
        memory_swap: limits.memory,
        nano_cpus: limits.nano_cpus.min(facts.cpus.max(1) * 1_000_000_000),
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
        assert_eq!(cgroup_parent("a-b", true), "berth-a_b.slice");
        assert_eq!(cgroup_parent("a-b", false), "/berth/a-b");
    }
}
