//! The containers of instances, as the engine holds them.

use serde_json::{Value, json};

use super::{Facts, List};
use crate::model::AGENT_CAPABILITIES;

/// A container's part of a check: the words for what is wrong.
type Test = fn(&Value) -> Option<String>;

fn must(holds: bool, found: &Value) -> Option<String> {
    (!holds).then(|| found.to_string())
}

fn empty(v: &Value) -> bool {
    v.is_null() || v.as_array().is_some_and(Vec::is_empty) || v.as_object().is_some_and(serde_json::Map::is_empty)
}

/// A limit that is set.
fn limited(v: &Value) -> Option<String> {
    must(v.as_i64().is_some_and(|n| n > 0), v)
}

/// Whether the container is Berth's agent first of all, which leaves root and its capabilities before it starts anything.
fn begins_with_agent(c: &Value) -> bool {
    let arguments = &c["Config"]["Cmd"];
    c["Config"]["Entrypoint"] == json!(["/berth/bin/berth", "agent"]) && empty(arguments)
}

fn capabilities(c: &Value) -> Option<String> {
    let (drop, add) = (&c["HostConfig"]["CapDrop"], &c["HostConfig"]["CapAdd"]);
    let agents = |name: &Value| {
        let name = name.as_str().unwrap_or_default();
        AGENT_CAPABILITIES.contains(&name.strip_prefix("CAP_").unwrap_or(name))
    };
    let few = empty(add) || begins_with_agent(c) && add.as_array().is_some_and(|a| a.iter().all(agents));
    must(
        drop.as_array().is_some_and(|a| a.iter().any(|v| v == "ALL")) && few,
        add,
    )
}

fn privileges(c: &Value) -> Option<String> {
    let all = &c["HostConfig"]["SecurityOpt"];
    let has = |word: &str| {
        all.as_array()
            .is_some_and(|a| a.iter().filter_map(Value::as_str).any(|s| s.starts_with(word)))
    };
    must(has("no-new-privileges"), all)
}

fn seccomp(c: &Value) -> Option<String> {
    let all = &c["HostConfig"]["SecurityOpt"];
    must(!all.to_string().contains("unconfined"), all)
}

/// Binds are read-only and of Berth's own.
fn mounts(c: &Value) -> Option<String> {
    let all = c["Mounts"].as_array()?;
    let bad: Vec<String> = all
        .iter()
        .filter(|m| m["Type"] == "bind")
        .filter(|m| {
            m["RW"] != false
                || !["/berth/bin/berth", "/berth/run"]
                    .iter()
                    .any(|d| m["Destination"] == *d)
        })
        .map(|m| m["Source"].to_string())
        .collect();
    (!bad.is_empty()).then(|| bad.join(" "))
}

fn socket(c: &Value) -> Option<String> {
    let all = c["Mounts"].as_array()?;
    let bad = all
        .iter()
        .find(|m| m["Source"].as_str().is_some_and(|s| s.ends_with("docker.sock")));
    bad.map(ToString::to_string)
}

fn user(c: &Value) -> Option<String> {
    let u = &c["Config"]["User"];
    let other = |u: &str| !u.is_empty() && !u.starts_with('0') && !u.starts_with("root");
    must(begins_with_agent(c) || u.as_str().is_some_and(other), u)
}

fn profile(c: &Value) -> Option<String> {
    must(c["AppArmorProfile"] == "docker-default", &c["AppArmorProfile"])
}

fn propagation(c: &Value) -> Option<String> {
    let all = c["Mounts"].as_array()?;
    let bad = all
        .iter()
        .find(|m| m["Propagation"].as_str().is_some_and(|p| p.contains("shared")));
    bad.map(ToString::to_string)
}

fn logs(c: &Value) -> Option<String> {
    let config = &c["HostConfig"]["LogConfig"]["Config"];
    must(config["max-size"].is_string() && config["max-file"].is_string(), config)
}

fn network(c: &Value) -> Option<String> {
    let mode = &c["HostConfig"]["NetworkMode"];
    must(
        mode.as_str().is_some_and(|m| m == "none" || m.starts_with("berth-")),
        mode,
    )
}

const TESTS: [(&str, &str, Test); 24] = [
    (
        "CIS Docker 4.1",
        "a user that is not root, but for the agent's first moment",
        user,
    ),
    ("CIS Docker 5.2", "Docker's AppArmor profile", profile),
    ("CIS Docker 5.4", "no capabilities but the agent's own", capabilities),
    ("CIS Docker 5.5", "not privileged", |c| {
        must(c["HostConfig"]["Privileged"] == false, &c["HostConfig"]["Privileged"])
    }),
    (
        "CIS Docker 5.6",
        "no folder of the host but Berth's own, read-only",
        mounts,
    ),
    ("CIS Docker 5.9", "no published port", |c| {
        must(
            empty(&c["HostConfig"]["PortBindings"]),
            &c["HostConfig"]["PortBindings"],
        )
    }),
    ("CIS Docker 5.9", "not all ports published", |c| {
        must(
            c["HostConfig"]["PublishAllPorts"] == false,
            &c["HostConfig"]["PublishAllPorts"],
        )
    }),
    ("CIS Docker 5.10", "a network of its own, or none", network),
    ("CIS Docker 5.11", "a memory limit", |c| {
        limited(&c["HostConfig"]["Memory"])
    }),
    ("CIS Docker 5.11", "no swap beyond it", |c| {
        must(
            c["HostConfig"]["MemorySwap"] == c["HostConfig"]["Memory"],
            &c["HostConfig"]["MemorySwap"],
        )
    }),
    ("CIS Docker 5.12", "a CPU limit", |c| {
        limited(&c["HostConfig"]["NanoCpus"])
    }),
    ("CIS Docker 5.13", "a read-only root", |c| {
        must(
            c["HostConfig"]["ReadonlyRootfs"] == true,
            &c["HostConfig"]["ReadonlyRootfs"],
        )
    }),
    ("CIS Docker 5.15", "no restart behind the supervisor's back", |c| {
        must(
            c["HostConfig"]["RestartPolicy"]["Name"] == "no",
            &c["HostConfig"]["RestartPolicy"],
        )
    }),
    ("CIS Docker 5.16", "processes of its own", |c| {
        must(c["HostConfig"]["PidMode"] == "", &c["HostConfig"]["PidMode"])
    }),
    ("CIS Docker 5.17", "shared memory of its own", |c| {
        must(c["HostConfig"]["IpcMode"] == "private", &c["HostConfig"]["IpcMode"])
    }),
    ("CIS Docker 5.18", "no device of the host", |c| {
        must(empty(&c["HostConfig"]["Devices"]), &c["HostConfig"]["Devices"])
    }),
    ("CIS Docker 5.20", "no shared mount propagation", propagation),
    ("CIS Docker 5.21", "a host name of its own", |c| {
        must(c["HostConfig"]["UTSMode"] == "", &c["HostConfig"]["UTSMode"])
    }),
    ("CIS Docker 5.22", "Docker's seccomp filter or a stricter one", seccomp),
    ("CIS Docker 5.25", "a cgroup of its workspace", |c| {
        let parent = &c["HostConfig"]["CgroupParent"];
        must(
            parent
                .as_str()
                .is_some_and(|p| p.starts_with("berth-") && p.ends_with(".slice")),
            parent,
        )
    }),
    ("CIS Docker 5.26", "no new privileges", privileges),
    ("CIS Docker 5.29", "a limit on processes", |c| {
        limited(&c["HostConfig"]["PidsLimit"])
    }),
    ("CIS Docker 5.31", "the remapped user namespace", |c| {
        must(c["HostConfig"]["UsernsMode"] == "", &c["HostConfig"]["UsernsMode"])
    }),
    ("CIS Docker 5.32", "no engine socket", socket),
];

pub(super) fn check(facts: &Facts, list: &mut List) {
    let all = &facts.containers;
    // No list of containers is not an empty list.
    let silent = facts.engine.is_none().then(|| "the engine does not answer".to_owned());
    let bounded: (&str, &str, Test) = ("berth: bounded logs", "logs have a bound", logs);
    for (reference, title, test) in TESTS.into_iter().chain([bounded]) {
        // The first container that fails speaks for all of them.
        let name = |c: &Value| c["Name"].as_str().unwrap_or("?").to_owned();
        let bad = all
            .iter()
            .find_map(|c| test(c).map(|said| format!("{}: {said}", name(c))));
        let bad = silent.clone().or(bad);
        let holds = bad.is_none();
        let found = bad.unwrap_or_else(|| format!("{} containers", all.len()));
        list.check(reference, format!("instances: {title}"), holds, found);
    }
    let reason = "how many CPUs a box has is known on the box only: [workspace] bounds them, and each instance is bounded; \
                  memory and processes of a workspace always are";
    list.waive(
        "CIS Docker 5.25",
        "instances: a CPU limit of their workspace without one in [workspace]",
        false,
        "all CPUs",
        reason,
    );
    let reason = "the supervisor asks the server itself, through the agent, and replaces what does not answer";
    list.waive(
        "CIS Docker 5.27",
        "instances: a health check of Docker's",
        false,
        "the supervisor's",
        reason,
    );
}
