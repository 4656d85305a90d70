//! The Docker engine: how it is configured, and what it says of itself.

use serde_json::Value;

use super::{Facts, List};

pub(super) fn check(facts: &Facts, list: &mut List) {
    configuration(facts.daemon.as_ref().unwrap_or(&Value::Null), list);
    information(facts.engine.as_ref().unwrap_or(&Value::Null), list);
    let reason =
        "the engine makes user namespaces, networks and quotas for others; containers' root is remapped instead (2.9)";
    list.waive(
        "CIS Docker 2.1",
        "the engine does not run as root",
        false,
        "root",
        reason,
    );
    let reason = "its one client is the supervisor, whose admission decides";
    list.waive(
        "CIS Docker 2.12",
        "client commands are authorised by a plugin",
        false,
        "none",
        reason,
    );
    let reason = "logs of instances are the supervisor's to hand out; a site ships them by its API";
    list.waive(
        "CIS Docker 2.13",
        "logs go to a central place",
        false,
        "json-file, bounded",
        reason,
    );
    let reason =
        "there is no shell whose commands could be watched; what administrators do is in Berth's own audit trail";
    list.waive(
        "CIS Docker 1.1.3 to 1.1.18",
        "auditd watches the engine's files",
        false,
        "not installed",
        reason,
    );
}

fn configuration(daemon: &Value, list: &mut List) {
    let wanted: [(&'static str, &str, Value); 8] = [
        ("CIS Docker 2.2", "icc", Value::Bool(false)),
        ("CIS Docker 2.3", "log-level", Value::from("info")),
        ("CIS Docker 2.9", "userns-remap", Value::from("dockremap")),
        ("CIS Docker 2.14", "no-new-privileges", Value::Bool(true)),
        ("CIS Docker 2.15", "live-restore", Value::Bool(true)),
        ("CIS Docker 2.16", "userland-proxy", Value::Bool(false)),
        ("CIS Docker 2.18", "experimental", Value::Bool(false)),
        ("CIS Docker 5.30", "bridge", Value::from("none")),
    ];
    for (reference, key, value) in wanted {
        let found = &daemon[key];
        list.check(
            reference,
            format!("daemon.json: {key} = {value}"),
            *found == value,
            found.to_string(),
        );
    }
    // Where the default is the wish: what must not be said.
    for (reference, key) in [
        ("CIS Docker 2.4", "iptables"),
        ("CIS Docker 2.5", "insecure-registries"),
        ("CIS Docker 2.7", "hosts"),
        ("CIS Docker 2.10", "cgroup-parent"),
        ("CIS Docker 2.17", "seccomp-profile"),
    ] {
        let found = &daemon[key];
        list.check(
            reference,
            format!("daemon.json: nothing on {key}"),
            found.is_null(),
            found.to_string(),
        );
    }
    let core = &daemon["default-ulimits"]["core"]["Hard"];
    list.check(
        "CIS Docker 2.8",
        "daemon.json: no core dumps by default",
        *core == 0,
        core.to_string(),
    );
    let (size, files) = (&daemon["log-opts"]["max-size"], &daemon["log-opts"]["max-file"]);
    let bounded = size.is_string() && files.is_string();
    list.check(
        "berth: bounded logs",
        "daemon.json: logs have a bound",
        bounded,
        format!("{size} in {files} files"),
    );
}

fn information(info: &Value, list: &mut List) {
    let text = |key: &str| info[key].as_str().unwrap_or("unreadable").to_owned();
    let security: Vec<&str> = info["SecurityOptions"]
        .as_array()
        .map_or(Vec::new(), |a| a.iter().filter_map(Value::as_str).collect());
    for (reference, word) in [
        ("CIS Docker 5.22", "name=seccomp,profile=builtin"),
        ("CIS Docker 5.2", "name=apparmor"),
        ("CIS Docker 2.9", "name=userns"),
        ("CIS Docker 5.25", "name=cgroupns"),
    ] {
        list.check(
            reference,
            format!("engine: {word}"),
            security.contains(&word),
            super::words(&security),
        );
    }
    list.check(
        "CIS Docker 2.6",
        "engine: storage by overlay2",
        text("Driver") == "overlay2",
        text("Driver"),
    );
    list.check(
        "berth: one hierarchy",
        "engine: cgroup version 2",
        text("CgroupVersion") == "2",
        text("CgroupVersion"),
    );
    list.check(
        "berth: slices",
        "engine: cgroups by systemd",
        text("CgroupDriver") == "systemd",
        text("CgroupDriver"),
    );
    let live = info["LiveRestoreEnabled"] == true;
    list.check(
        "CIS Docker 2.15",
        "engine: live restore is on",
        live,
        info["LiveRestoreEnabled"].to_string(),
    );
    let swarm = info["Swarm"]["LocalNodeState"].as_str().unwrap_or_default();
    list.check(
        "CIS Docker 5.1",
        "engine: swarm mode is off",
        swarm == "inactive",
        swarm,
    );
    let registries = &info["RegistryConfig"]["InsecureRegistryCIDRs"];
    // Docker lists loopback always.
    let local = |v: &Value| {
        v.as_str()
            .is_some_and(|s| s.starts_with("127.") || s.starts_with("::1"))
    };
    let plain = registries.as_array().is_some_and(|a| a.iter().all(local));
    list.check(
        "CIS Docker 2.5",
        "engine: no insecure registries",
        plain,
        registries.to_string(),
    );
}
