//! Between our specification and the engine's own words. Pure; adds nothing that the specification does not say, but
//! for what closes a default that is open.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, ContainerSummary, ContainerSummaryStateEnum, HostConfig, HostConfigLogConfig, Mount,
    MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};

use crate::{
    catalog::Seccomp,
    model::User,
    plan::{
        Owner, Run, SeenContainer,
        spec::{ContainerSpec, LABEL_BOX, LABEL_INSTANCE, LABEL_SPEC},
    },
};

pub(super) fn map(from: &BTreeMap<String, String>) -> HashMap<String, String> {
    from.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

pub(super) fn owner(labels: &HashMap<String, String>) -> Owner {
    let get = |key| labels.get(key).cloned().unwrap_or_default();
    Owner {
        box_id: get(LABEL_BOX),
        instance: get(LABEL_INSTANCE),
    }
}

pub(super) fn seen(summary: ContainerSummary) -> Option<(String, SeenContainer)> {
    let labels = summary.labels.unwrap_or_default();
    let run = match summary.state {
        // A restarting one has no restart policy of ours: somebody restarts it by hand; it will run.
        Some(ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::RESTARTING) => Run::Running,
        Some(ContainerSummaryStateEnum::PAUSED) => Run::Paused,
        Some(ContainerSummaryStateEnum::CREATED) => Run::Created,
        Some(ContainerSummaryStateEnum::EXITED) => Run::Exited,
        _ => Run::Dead,
    };
    let container = SeenContainer {
        owner: owner(&labels),
        spec: labels.get(LABEL_SPEC).cloned().unwrap_or_default(),
        run,
    };
    Some((summary.id?, container))
}

/// The host's user that containers' root is, by the engine's security options and its data folder: where it remaps users
/// (`userns-remap`), that folder is named after the first of them. None when it cannot be told.
pub(super) fn users_from(security: &[String], root_dir: &str) -> Option<User> {
    let remaps = |option: &String| option.split(',').next() == Some("name=userns");
    if !security.iter().any(remaps) {
        return Some(User::default());
    }
    let (uid, gid) = root_dir.rsplit('/').next()?.split_once('.')?;
    Some(User {
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
    })
}

pub(super) fn create_body(spec: &ContainerSpec) -> ContainerCreateBody {
    let mut mounts: Vec<Mount> = spec
        .binds
        .iter()
        .map(|(host, inside)| Mount {
            typ: Some(MountType::BIND),
            source: Some(host.display().to_string()),
            target: Some(inside.clone()),
            read_only: Some(true),
            ..Mount::default()
        })
        .collect();
    mounts.extend(spec.volume.iter().map(|(name, inside)| Mount {
        typ: Some(MountType::VOLUME),
        source: Some(name.clone()),
        target: Some(inside.clone()),
        read_only: Some(false),
        volume_options: Some(MountVolumeOptions {
            labels: Some(map(&spec.volume_labels)),
            driver_config: spec.volume_size.map(|size| MountVolumeOptionsDriverConfig {
                name: Some("local".to_owned()),
                options: Some(sized(size)),
            }),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }));
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        labels: Some(map(&spec.labels)),
        user: Some(spec.user.clone()),
        entrypoint: Some(spec.entrypoint.clone()),
        env: Some(spec.env.clone()),
        stop_signal: Some("SIGTERM".to_owned()),
        stop_timeout: Some(spec.stop_timeout),
        host_config: Some(host_config(spec, mounts)),
        ..ContainerCreateBody::default()
    }
}

/// The option that bounds a volume, or a writable layer.
fn sized(bytes: i64) -> HashMap<String, String> {
    HashMap::from([("size".to_owned(), bytes.to_string())])
}

/// A profile travels inline: the engine needs no file of ours.
fn security_opt(spec: &ContainerSpec) -> Vec<String> {
    let mut all = spec.security_opt.clone();
    match spec.seccomp {
        None | Some(Seccomp::Default) => {}
        Some(Seccomp::Browser) => all.push(format!("seccomp={}", include_str!("seccomp-browser.json"))),
    }
    all
}

fn host_config(spec: &ContainerSpec, mounts: Vec<Mount>) -> HostConfig {
    HostConfig {
        mounts: Some(mounts),
        storage_opt: spec.layer_size.map(sized),
        tmpfs: Some(map(&spec.tmpfs)),
        cap_drop: Some(spec.cap_drop.clone()),
        cap_add: Some(spec.cap_add.clone()),
        // Process 1 is the agent, whatever the engine puts there by default.
        init: Some(false),
        security_opt: Some(security_opt(spec)),
        readonly_rootfs: Some(spec.readonly_rootfs),
        privileged: Some(false),
        network_mode: Some(spec.network_mode.clone()),
        publish_all_ports: Some(false),
        ipc_mode: Some(spec.ipc_mode.clone()),
        shm_size: Some(spec.shm_size),
        cgroup_parent: Some(spec.cgroup_parent.clone()),
        memory: Some(spec.memory),
        memory_swap: Some(spec.memory_swap),
        nano_cpus: Some(spec.nano_cpus),
        pids_limit: Some(spec.pids),
        oom_score_adj: Some(spec.oom_score_adj),
        ulimits: Some(vec![ResourcesUlimits {
            name: Some("nofile".to_owned()),
            soft: Some(spec.nofile),
            hard: Some(spec.nofile),
        }]),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(map(&spec.log_options)),
        }),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        ..HostConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_of_containers_are_known_or_it_is_an_error() {
        let check = |security: &[&str], root: &str, is: Option<(u32, u32)>| {
            let security: Vec<String> = security.iter().map(|s| (*s).to_owned()).collect();
            let is = is.map(|(uid, gid)| User { uid, gid });
            assert_eq!(users_from(&security, root), is, "{security:?} {root}");
        };
        let seccomp = "name=seccomp,profile=builtin";
        check(&[seccomp], "/var/lib/docker", Some((0, 0)));
        check(&[], "/srv/100000.100000", Some((0, 0)));
        check(
            &[seccomp, "name=userns"],
            "/var/lib/docker/100000.100001",
            Some((100_000, 100_001)),
        );
        check(&["name=userns"], "/var/lib/docker", None);
        check(&["name=userns"], "/var/lib/docker/a.b", None);
    }
}
