//! `berth doctor`: what the supervisor needs, checked from here, each with how to mend it. Changes nothing.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use serde::Serialize;

use super::{client::Supervisor, print};
use crate::{
    api::{Route, Status},
    config::{Config, Tls},
    firewall, load,
    plan::subnet::Count,
};

/// The oldest engine API that has every option we set (Docker 20.10).
const MIN_API: (u32, u32) = (1, 41);
const MIB: u64 = 1 << 20;

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

fn check(name: &'static str, verdict: Verdict, found: impl Into<String>, mend: impl Into<String>) -> Check {
    let mend = (verdict != Verdict::Ok).then(|| mend.into());
    Check {
        name,
        verdict,
        found: found.into(),
        mend,
    }
}

/// Checks everything and prints the report. Status 1 when a check failed; warnings alone are 0.
pub(super) async fn run(file: Option<&Path>, hardening: bool, as_json: bool) -> Result<ExitCode> {
    let mut checks = Vec::new();
    let config = configuration(file, &mut checks);
    if hardening {
        return super::hardening::run(&config.docker.socket, as_json).await;
    }
    types(&config, &mut checks);
    let supervisor: Option<Status> = Supervisor::new(&config.admin_socket())
        .get(Route::Status.path())
        .await
        .ok();
    checks.push(match &supervisor {
        Some(s) => check("supervisor", Verdict::Ok, format!("version {} answers", s.version), ""),
        None => check(
            "supervisor",
            Verdict::Warn,
            format!("none answers on {}", config.admin_socket().display()),
            "start it: `systemctl start berth`, or `berth serve --config FILE`",
        ),
    });
    // Doctor looks at the firewall itself.
    let notes = supervisor
        .iter()
        .flat_map(|s| &s.notes)
        .filter(|n| !n.starts_with(firewall::OPEN));
    checks.extend(notes.map(|n| check("supervisor says", Verdict::Warn, n, MEND_NOTE)));
    engine(&config, supervisor.is_none(), &mut checks).await;
    checks.push(networks(&config.runtime_dir).await);
    cgroups(&mut checks);
    disk("state folder's disk", &config.state_dir, &mut checks);
    clock(&mut checks);
    certificates(&config, &mut checks);
    if supervisor.is_none() {
        listeners(&config, &mut checks);
    }
    report(&checks, as_json)
}

fn report(checks: &[Check], as_json: bool) -> Result<ExitCode> {
    if as_json {
        print::json(&checks)?;
    } else {
        for c in checks {
            let word = match c.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            print::out(&format!("{word}  {}: {}\n", c.name, c.found))?;
            if let Some(mend) = &c.mend {
                print::out(&format!("      -> {mend}\n"))?;
            }
        }
    }
    let failed = checks.iter().any(|c| c.verdict == Verdict::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn configuration(file: Option<&Path>, checks: &mut Vec<Check>) -> Config {
    let path = file.map_or_else(|| PathBuf::from(crate::supervise::DEFAULT_CONFIG), Path::to_owned);
    if file.is_none() && !path.exists() {
        checks.push(check("configuration", Verdict::Ok, "no file; defaults are used", ""));
        return Config::default();
    }
    match load::config(&path) {
        Ok(c) => {
            checks.push(check("configuration", Verdict::Ok, path.display().to_string(), ""));
            c
        }
        Err(e) => {
            checks.push(check(
                "configuration",
                Verdict::Fail,
                e.to_string(),
                "correct the lines above",
            ));
            Config::default()
        }
    }
}

fn types(config: &Config, checks: &mut Vec<Check>) {
    checks.push(match load::types(&config.types_dir) {
        Ok(c) => check(
            "instance types",
            Verdict::Ok,
            format!("{} in {}", c.types.len(), config.types_dir.display()),
            "",
        ),
        Err(e) => check(
            "instance types",
            Verdict::Fail,
            e.to_string(),
            "correct the lines above, or set types_dir",
        ),
    });
}

/// What a note of the supervisor asks for.
const MEND_NOTE: &str =
    "repair what it names, then run `systemctl reload berth` (type files) or `systemctl restart berth`";

/// `alone`: no supervisor answers, who would say it.
async fn engine(config: &Config, alone: bool, checks: &mut Vec<Check>) {
    let socket = config.docker.socket.display().to_string();
    let found = match crate::docker::probe(&config.docker.socket, Duration::from_secs(5)).await {
        Ok(found) => found,
        Err(e) => {
            let mend = "start Docker (`systemctl start docker`), or set [docker] socket to where it listens";
            checks.push(check("engine", Verdict::Fail, format!("{socket}: {e}"), mend));
            return;
        }
    };
    checks.push(check(
        "engine",
        Verdict::Ok,
        format!("Docker {} on {socket}", found.version),
        "",
    ));
    let api = found
        .api_version
        .split_once('.')
        .and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
    let verdict = if api.is_some_and(|v| v >= MIN_API) {
        Verdict::Ok
    } else {
        Verdict::Fail
    };
    let mend = format!("install Docker Engine 20.10 or newer (API {}.{})", MIN_API.0, MIN_API.1);
    checks.push(check("engine API", verdict, found.api_version, mend));
    let limits = found.memory_limit && found.cpu_quota && found.pids_limit;
    let verdict = if limits { Verdict::Ok } else { Verdict::Fail };
    let said = format!(
        "memory {}, CPU {}, pids {}",
        found.memory_limit, found.cpu_quota, found.pids_limit
    );
    checks.push(check(
        "engine limits",
        verdict,
        said,
        "boot with the memory, cpu and pids cgroup controllers on",
    ));
    let seccomp = found.security.iter().any(|s| s.contains("seccomp"));
    let verdict = if seccomp { Verdict::Ok } else { Verdict::Fail };
    checks.push(check(
        "seccomp",
        verdict,
        if seccomp { "on" } else { "off" },
        "use a kernel with CONFIG_SECCOMP_FILTER and an engine with it on",
    ));
    if alone && !found.volume_sizes {
        let mend = "keep the engine's data on XFS mounted with prjquota";
        checks.push(check("volume sizes", Verdict::Warn, "not bounded", mend));
    }
    checks.push(subnets(config).await);
    disk("engine's disk", Path::new(&found.root_dir), checks);
}

/// How many networks there can still be. What is taken is everybody's: another box's on this machine, too.
async fn subnets(config: &Config) -> Check {
    let name = "container subnets";
    let range = config.network.subnets;
    match crate::docker::count_subnets(&config.docker.socket, &config.network).await {
        Ok(count) => subnets_verdict(name, &range.to_string(), count, config.limits.instances),
        Err(e) => check(
            name,
            Verdict::Warn,
            e.to_string(),
            "check why the engine does not list its networks",
        ),
    }
}

fn subnets_verdict(name: &'static str, range: &str, count: Count, instances: usize) -> Check {
    let mut found = format!("{} of {} in {range} are taken", count.taken, count.all);
    let few = usize::try_from(count.all).is_ok_and(|all| all < instances);
    if few {
        found.push_str(&format!("; [limits] instances allows {instances}"));
    }
    let verdict = match few || count.is_near_the_end() {
        true => Verdict::Warn,
        false => Verdict::Ok,
    };
    let mend = "give [network] subnets in berth.toml a larger range, or one that no other network or route of this machine overlaps, and `systemctl restart berth`; or remove instances that have a network";
    check(name, verdict, found, mend)
}

async fn networks(runtime_dir: &Path) -> Check {
    let name = "container networks";
    match firewall::seen(runtime_dir).await.note() {
        None => check(
            name,
            Verdict::Ok,
            "containers reach neither this machine nor its networks",
            "",
        ),
        Some(open) => check(name, Verdict::Warn, open, firewall::MEND),
    }
}

fn cgroups(checks: &mut Vec<Check>) {
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let v1 = Path::new("/sys/fs/cgroup/memory").exists() && Path::new("/sys/fs/cgroup/pids").exists();
    checks.push(match (v2, v1) {
        (true, _) => check("cgroups", Verdict::Ok, "version 2", ""),
        (_, true) => check(
            "cgroups",
            Verdict::Warn,
            "version 1",
            "boot with systemd.unified_cgroup_hierarchy=1: version 2 holds workspace quotas better",
        ),
        _ => check(
            "cgroups",
            Verdict::Fail,
            "not mounted",
            "mount cgroup2 on /sys/fs/cgroup",
        ),
    });
}

fn disk(name: &'static str, path: &Path, checks: &mut Vec<Check>) {
    let there = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let Ok(vfs) = nix::sys::statvfs::statvfs(there) else {
        checks.push(check(
            name,
            Verdict::Warn,
            format!("{} cannot be checked", there.display()),
            "run this as root",
        ));
        return;
    };
    let free = vfs.blocks_available().saturating_mul(vfs.fragment_size()) / MIB;
    let verdict = match free {
        0..100 => Verdict::Fail,
        100..1024 => Verdict::Warn,
        _ => Verdict::Ok,
    };
    checks.push(check(
        name,
        verdict,
        format!("{free} MiB free at {}", path.display()),
        "free some space, or move the folder to a larger disk",
    ));
}

fn clock(checks: &mut Vec<Check>) {
    let now = jiff::Timestamp::now();
    // Certificates and token expiry go by the clock; a box without a battery starts in 1970.
    let sane = now.as_second() > 1_767_225_600;
    let said = print::short(now);
    let mend = "set the clock, or let systemd-timesyncd do it (`timedatectl set-ntp true`)";
    checks.push(check(
        "clock",
        if sane { Verdict::Ok } else { Verdict::Fail },
        said,
        mend,
    ));
}

fn certificates(config: &Config, checks: &mut Vec<Check>) {
    let path = match &config.tls {
        Tls::LocalCa => {
            let path = config.state_dir.join("tls").join("ca.pem");
            if !path.exists() {
                checks.push(check(
                    "certificates",
                    Verdict::Ok,
                    "the box's own CA; the supervisor makes it at its first start",
                    "",
                ));
                return;
            }
            path
        }
        Tls::Files { cert, key } => {
            if let Err(e) = std::fs::read(key) {
                checks.push(check(
                    "certificates",
                    Verdict::Fail,
                    format!("{}: {e}", key.display()),
                    "correct [tls] key",
                ));
                return;
            }
            cert.clone()
        }
    };
    checks.push(match expiry(&path) {
        Ok(days) if days < 0 => check(
            "certificates",
            Verdict::Fail,
            format!("{} ended {} days ago", path.display(), -days),
            "replace it; the supervisor reads the new file by itself",
        ),
        Ok(days) if days < 14 => check(
            "certificates",
            Verdict::Warn,
            format!("{} ends in {days} days", path.display()),
            "replace it soon; the supervisor reads the new file by itself",
        ),
        Ok(days) => check(
            "certificates",
            Verdict::Ok,
            format!("{} ends in {days} days", path.display()),
            "",
        ),
        Err(e) => check(
            "certificates",
            Verdict::Fail,
            format!("{}: {e}", path.display()),
            "correct [tls] cert: a PEM file, leaf first",
        ),
    });
}

/// Days until the first certificate of a PEM file ends.
fn expiry(path: &Path) -> Result<i64, String> {
    let pem = std::fs::read(path).map_err(|e| e.to_string())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|e| e.to_string())?;
    let cert = pem.parse_x509().map_err(|e| e.to_string())?;
    Ok((cert.validity().not_after.timestamp() - jiff::Timestamp::now().as_second()).div_euclid(86_400))
}

fn listeners(config: &Config, checks: &mut Vec<Check>) {
    for address in [config.listen.https, config.listen.http] {
        checks.push(match TcpListener::bind(address) {
            Ok(_) => check("port", Verdict::Ok, format!("{address} is free"), ""),
            Err(e) => check(
                "port",
                Verdict::Fail,
                format!("{address}: {e}"),
                "stop the program that listens there (`ss -ltnp` shows it), or set [listen] to another address",
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_subnets_are_told_before_there_is_none() {
        let said = |taken, all, instances| {
            let c = subnets_verdict("n", "10.0.0.0/16", Count { all, taken }, instances);
            (c.verdict, c.found, c.mend.is_some())
        };
        let found = |text: &str| text.to_owned();
        assert_eq!(
            said(3, 8192, 1000),
            (Verdict::Ok, found("3 of 8192 in 10.0.0.0/16 are taken"), false)
        );
        assert_eq!(said(6600, 8192, 1000).0, Verdict::Warn);
        assert_eq!(
            said(0, 2, 1000),
            (
                Verdict::Warn,
                found("0 of 2 in 10.0.0.0/16 are taken; [limits] instances allows 1000"),
                true
            )
        );
    }
}
