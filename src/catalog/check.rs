//! Raw TOML -> checked instance types; every problem with its file, its line and what to write instead.

use std::{collections::BTreeMap, time::Duration};

use super::{CALL_TIMEOUT, Egress, HealthContract, ImageRef, InstanceType, Kind, Mcp, Screen, Service, Transport};
use crate::{
    model::{HealthKind, Processes, Ready, RestartPolicy, Size, TypeName},
    strict_toml::{Document, Problem, Problems, Section},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Checks the text of a type. `file` is for messages, `stem` is what `name` must be.
///
/// # Errors
/// All problems of the text at once.
pub fn parse(file: &str, stem: &str, text: &str) -> Result<InstanceType, Problems> {
    let mut doc = Document::parse(file, text);
    let read = read_type(doc.root(), stem);
    doc.finish().map_err(Problems)?;
    // A type that could not be put together has said why by now.
    read.ok_or_else(|| {
        Problems(vec![Problem {
            file: file.into(),
            line: 1,
            text: "is not a complete type".into(),
        }])
    })
}

fn read_type(root: &mut Section<'_>, stem: &str) -> Option<InstanceType> {
    let name = root.parsed::<TypeName>("name", "the type's name, which is also its file's");
    match &name {
        Some(n) if n.value.as_str() != stem => {
            root.wrong(
                n,
                format!(
                    "name: write {stem:?}, as the file is called, or rename the file to {}.toml",
                    n.value
                ),
            );
        }
        Some(_) => {}
        None => root.missing("name", &format!("name = {stem:?}")),
    }
    let title = required(root, "title", "title = \"…\", what people call it");
    let description = required(root, "description", "description = \"…\", a sentence on what it does");
    let homepage = root.string("homepage").map(|h| h.value);
    let kind = root
        .choice(
            "kind",
            &[
                ("fixed", Kind::Fixed),
                ("npx", Kind::Npx),
                ("uvx", Kind::Uvx),
                ("image", Kind::Image),
                ("remote", Kind::Remote),
            ],
        )
        .map_or(Kind::Fixed, |k| k.value);
    let image = image(root, kind);
    let services = services(root);
    if kind != Kind::Fixed && !services.is_empty() {
        root.wrong_here(format!(
            "a type of kind {:?} has no [[service]]: remove them",
            kind.as_str()
        ));
    }
    let mcp = mcp(root, kind);
    let health = health(root);
    let size = root.section("limits").and_then(|mut s| {
        let size = s.parsed::<Size>("size", "a size");
        s.finish();
        size
    });
    let egress = root.section("egress").and_then(|mut s| {
        let network = s.choice("network", &[("none", Egress::None), ("internet", Egress::Internet)]);
        s.finish();
        network
    });
    let volume = root.section("volume").and_then(volume);
    let screen = root.section("screen").and_then(|mut s| {
        let port = port(&mut s, "5900");
        s.finish();
        port.map(|port| Screen { port })
    });
    let sandbox = super::extras::sandbox(root);
    let import = super::extras::import(root);
    let credentials = super::credential::read(root);
    let (image, builder) = image?;
    let usual = InstanceType::of(name?.value, image, mcp?);
    Some(InstanceType {
        title: title?,
        description: description?,
        homepage,
        kind,
        builder,
        services,
        health,
        size: size.map_or(usual.size, |s| s.value),
        egress: egress.map_or(usual.egress, |e| e.value),
        volume,
        screen,
        sandbox,
        import,
        credentials,
        ..usual
    })
}

pub(super) fn required(s: &mut Section<'_>, key: &'static str, want: &str) -> Option<String> {
    let found = s.string(key);
    match &found {
        Some(f) if f.value.trim().is_empty() => s.wrong(f, format!("{key} is empty: write {want}")),
        Some(_) => {}
        None => s.missing(key, want),
    }
    found.map(|f| f.value)
}

/// The image, and the one that packages are installed in.
fn image(root: &mut Section<'_>, kind: Kind) -> Option<(ImageRef, Option<String>)> {
    if matches!(kind, Kind::Image | Kind::Remote) {
        // Whoever runs it names it: a section that is there is an unknown key.
        let none = ImageRef {
            reference: String::new(),
            digest: None,
        };
        return Some((none, None));
    }
    let Some(mut s) = root.section("image") else {
        root.missing("[image]", "a table [image] with reference = \"name:tag\"");
        return None;
    };
    let reference = s.string("reference");
    match &reference {
        Some(r) if !valid_reference(&r.value) => s.wrong(
            r,
            format!("image.reference: write a name with a tag, such as \"berth/mcp-memory:1.2.3\" (never \"latest\"); {:?} is not one", r.value),
        ),
        Some(_) => {}
        None => s.missing("reference", "reference = \"name:tag\""),
    }
    let builder = if kind == Kind::Fixed { None } else { s.string("builder") };
    match &builder {
        Some(b) if !valid_reference(&b.value) => s.wrong(
            b,
            format!(
                "image.builder: write a name with a tag, such as \"berth/npm:11\"; {:?} is not one",
                b.value
            ),
        ),
        None if kind != Kind::Fixed => s.missing(
            "builder",
            "builder = \"name:tag\", the image that packages are installed in",
        ),
        _ => {}
    }
    let digest = s.string("digest");
    if let Some(d) = &digest {
        let hex = d.value.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            s.wrong(d, "image.digest: write \"sha256:\" and 64 hexadecimal digits");
        }
    }
    s.finish();
    let image = ImageRef {
        reference: reference?.value,
        digest: digest.map(|d| d.value),
    };
    Some((image, builder.map(|b| b.value)))
}

fn valid_reference(r: &str) -> bool {
    let Some((name, tag)) = r.rsplit_once(':') else {
        return false;
    };
    let part = |p: &str| {
        !p.is_empty()
            && p.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-:".contains(&b))
    };
    r.len() <= 255
        && name.split('/').all(part)
        && tag != "latest"
        && (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn command(s: &mut Section<'_>) -> Option<Vec<String>> {
    let found = s.strings("command");
    match &found {
        Some(c) if c.value.first().is_none_or(String::is_empty) => {
            s.wrong(c, "command: write the program first, then its arguments");
        }
        Some(_) => {}
        None => s.missing("command", "command = [\"program\", \"argument\"]"),
    }
    found.map(|c| c.value)
}

fn env(s: &mut Section<'_>) -> BTreeMap<String, String> {
    let Some(found) = s.string_map("env") else {
        return BTreeMap::new();
    };
    for key in found.value.keys() {
        if let Err(e) = check_env_key(key) {
            s.wrong(&found, format!("env: {e}"));
        }
    }
    found.value
}

/// Why a variable cannot have a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvKeyError {
    #[error("{0:?} is not a variable name: use letters, digits and '_', not first a digit")]
    Form(String),
    #[error("{0:?} is not allowed: names that start with BERTH_ or LD_ are kept back")]
    KeptBack(String),
}

/// A volume cannot be mounted there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write an absolute path outside /berth, /tmp, /proc, /sys and /dev, such as \"/data\"")]
pub struct VolumeError;

/// Whether a name can stand in an environment. `BERTH_` is the agent's own.
///
/// # Errors
/// [`EnvKeyError`].
pub fn check_env_key(key: &str) -> Result<(), EnvKeyError> {
    let ok = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && key.bytes().next().is_some_and(|b| !b.is_ascii_digit())
        && key.len() <= 256;
    if !ok {
        return Err(EnvKeyError::Form(key.to_owned()));
    }
    if key.starts_with("BERTH_") || key.starts_with("LD_") {
        return Err(EnvKeyError::KeptBack(key.to_owned()));
    }
    Ok(())
}

fn services(root: &mut Section<'_>) -> Vec<Service> {
    let mut out: Vec<Service> = Vec::new();
    for mut s in root.sections("service") {
        let name = s.parsed::<TypeName>("name", "the service's name");
        match &name {
            Some(n) if out.iter().any(|o| o.name == n.value.as_str()) => {
                s.wrong(n, format!("service.name: {} stands twice", n.value));
            }
            Some(_) => {}
            None => s.missing("name", "name = \"…\""),
        }
        let command = command(&mut s);
        let env = env(&mut s);
        let timeout = s
            .duration("ready_timeout", SECOND, HOUR)
            .map_or(Duration::from_secs(30), |d| d.value);
        let ready = match s.string("ready") {
            None => Ready::Started,
            Some(r) if r.value == "started" => Ready::Started,
            Some(r) => match r
                .value
                .strip_prefix("port:")
                .and_then(|p| p.parse::<u16>().ok())
                .filter(|p| *p > 0)
            {
                Some(port) => Ready::Port {
                    port,
                    timeout_ms: millis(timeout),
                },
                None => {
                    s.wrong(&r, "service.ready: write \"started\" or \"port:N\"");
                    Ready::Started
                }
            },
        };
        let restart = s.choice(
            "restart",
            &[
                ("always", RestartPolicy::Always),
                ("on-failure", RestartPolicy::OnFailure),
                ("never", RestartPolicy::Never),
            ],
        );
        s.finish();
        if let (Some(name), Some(command)) = (name, command) {
            let restart = restart.map_or(RestartPolicy::Always, |r| r.value);
            out.push(Service {
                name: name.value.to_string(),
                command,
                env,
                ready,
                restart,
            });
        }
    }
    out
}

fn mcp(root: &mut Section<'_>, kind: Kind) -> Option<Mcp> {
    let Some(mut s) = root.section("mcp") else {
        root.missing("[mcp]", "a table [mcp] with transport = \"stdio\" and a command");
        return None;
    };
    let transport = match kind {
        Kind::Fixed => s
            .choice("transport", &[("stdio", true), ("http", false)])
            .map(|t| t.value),
        // What it speaks is told when it is run; by default stdio.
        _ => Some(true),
    };
    let transport = match transport {
        Some(true) if kind == Kind::Remote => Some(Transport::Remote {
            url: String::new(),
            auth: crate::model::RemoteAuth::None,
        }),
        Some(true) => stdio(&mut s, kind),
        Some(false) => {
            let port = port(&mut s, "8080");
            let path = path(&mut s);
            port.zip(path).map(|(port, path)| Transport::Http { port, path })
        }
        None => {
            s.missing("transport", "transport = \"stdio\" or \"http\"");
            None
        }
    };
    let max_sessions = s.integer("max_sessions", 1, 65_536);
    let idle_timeout = s.duration("idle_timeout", SECOND, DAY);
    let call_timeout = s.duration("call_timeout", *CALL_TIMEOUT.start(), *CALL_TIMEOUT.end());
    s.finish();
    let mut mcp = Mcp::of(transport?);
    if let Some(n) = max_sessions.and_then(|n| u32::try_from(n.value).ok()) {
        mcp.max_sessions = n;
    }
    mcp.idle_timeout = idle_timeout.map_or(mcp.idle_timeout, |d| d.value);
    mcp.call_timeout = call_timeout.map_or(mcp.call_timeout, |d| d.value);
    Some(mcp)
}

fn stdio(s: &mut Section<'_>, kind: Kind) -> Option<Transport> {
    // The command of a generic type is what its package or image says.
    let command = if kind == Kind::Fixed {
        command(s)
    } else {
        Some(Vec::new())
    };
    let env = env(s);
    let processes = s.choice(
        "processes",
        &[("session", Processes::Session), ("shared", Processes::Shared)],
    );
    if processes.is_none() {
        s.missing(
            "processes",
            "processes = \"session\" (one per session) or \"shared\" (one for all)",
        );
    }
    command.zip(processes).map(|(command, p)| Transport::Stdio {
        command,
        env,
        processes: p.value,
    })
}

fn port(s: &mut Section<'_>, usual: &str) -> Option<u16> {
    let found = s.integer("port", 1, 65_535);
    if found.is_none() {
        s.missing("port", &format!("port = {usual}, on the container's loopback"));
    }
    found.and_then(|p| u16::try_from(p.value).ok())
}

fn path(s: &mut Section<'_>) -> Option<String> {
    let found = s.string("path");
    match &found {
        Some(p) if !p.value.starts_with('/') || p.value.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            s.wrong(p, "path: write an absolute path, such as \"/mcp\"");
        }
        Some(_) => {}
        None => s.missing("path", "path = \"/…\""),
    }
    found.map(|p| p.value)
}

fn health(root: &mut Section<'_>) -> HealthContract {
    let mut contract = HealthContract::default();
    let Some(mut s) = root.section("health") else {
        return contract;
    };
    if s.choice("kind", &[("mcp", false), ("http", true)])
        .is_some_and(|k| k.value)
        && let (Some(port), Some(path)) = (port(&mut s, "8080"), path(&mut s))
    {
        contract.kind = HealthKind::Http { port, path };
    }
    for (key, place) in [
        ("interval", &mut contract.interval),
        ("timeout", &mut contract.timeout),
        ("start_timeout", &mut contract.start_timeout),
    ] {
        if let Some(d) = s.duration(key, SECOND, HOUR) {
            *place = d.value;
        }
    }
    if let Some(n) = s.integer("failures", 1, 100) {
        contract.failures = u32::try_from(n.value).unwrap_or(3);
    }
    s.finish();
    contract
}

fn volume(mut s: Section<'_>) -> Option<String> {
    let found = s.string("path");
    match &found {
        Some(p) => {
            if let Err(why) = check_volume(&p.value) {
                s.wrong(p, format!("volume.path: {why}"));
            }
        }
        None => s.missing("path", "path = \"/data\""),
    }
    s.finish();
    found.map(|p| p.value)
}

/// Whether a volume can be mounted there.
///
/// # Errors
/// [`VolumeError`], which says what to write instead.
pub fn check_volume(path: &str) -> Result<(), VolumeError> {
    let inner = path.strip_prefix('/').unwrap_or_default();
    let plain = |c: &str| !c.is_empty() && c != "." && c != ".." && !c.contains([':', ',', '\0']);
    if inner.split('/').all(plain)
        && !["berth", "tmp", "proc", "sys", "dev"].contains(&inner.split('/').next().unwrap_or_default())
    {
        return Ok(());
    }
    Err(VolumeError)
}

/// Whole milliseconds, saturating.
pub fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Sandbox, Seccomp};

    const GOOD: &str = r#"
name = "demo"
title = "Demo"
description = "Shows."
[image]
reference = "berth/mcp-demo:1.0.0"
[[service]]
name = "display"
command = ["x"]
ready = "port:5900"
[mcp]
transport = "stdio"
command = ["node", "i.js"]
processes = "session"
idle_timeout = "10m"
[health]
kind = "mcp"
interval = "5s"
[egress]
network = "internet"
[volume]
path = "/data"
[screen]
port = 5900
[sandbox]
seccomp = "browser"
tmp_mib = 256
"#;

    #[test]
    fn a_good_type_reads() {
        let t = parse("demo.toml", "demo", GOOD).expect("valid");
        assert_eq!(
            t.services[0].ready,
            Ready::Port {
                port: 5900,
                timeout_ms: 30_000
            }
        );
        assert_eq!(t.egress, Egress::Internet);
        assert_eq!(t.volume.as_deref(), Some("/data"));
        assert_eq!(t.health.interval, Duration::from_secs(5));
        assert_eq!(t.screen, Some(Screen { port: 5900 }));
        assert_eq!(
            t.sandbox,
            Sandbox {
                seccomp: Seccomp::Browser,
                tmp_mib: 256,
                shm_mib: 64
            }
        );
    }

    /// One mistake at a time: what is replaced in the good type, and what the message must hold.
    #[test]
    fn mistakes_are_told_with_line_and_advice() {
        for (from, to, said) in [
            (
                "interval = \"5s\"",
                "interval = 5",
                "demo.toml:18: health.interval: write a duration with its unit",
            ),
            ("interval = \"5s\"", "intervall = \"5s\"", "did you mean interval?"),
            (
                "name = \"demo\"",
                "name = \"other\"",
                "write \"demo\", as the file is called",
            ),
            (
                "reference = \"berth/mcp-demo:1.0.0\"",
                "reference = \"berth/mcp-demo\"",
                "write a name with a tag",
            ),
            (
                "reference = \"berth/mcp-demo:1.0.0\"",
                "reference = \"berth/mcp-demo:latest\"",
                "never \"latest\"",
            ),
            (
                "reference = \"berth/mcp-demo:1.0.0\"\n",
                "",
                "demo.toml:5: reference is missing in [image]",
            ),
            (
                "[image]\nreference = \"berth/mcp-demo:1.0.0\"\n",
                "",
                "[image] is missing",
            ),
            (
                "command = [\"node\", \"i.js\"]",
                "command = []",
                "write the program first",
            ),
            ("processes = \"session\"", "", "processes is missing in [mcp]"),
            (
                "network = \"internet\"",
                "network = \"host\"",
                "\"host\" is not one of them",
            ),
            ("path = \"/data\"", "path = \"/berth/run\"", "outside /berth"),
            ("path = \"/data\"", "path = \"/da/../ta\"", "absolute path outside"),
            ("port = 5900", "", "port is missing in [screen]"),
            (
                "seccomp = \"browser\"",
                "seccomp = \"unconfined\"",
                "\"unconfined\" is not one of them",
            ),
            ("tmp_mib = 256", "tmp_mib = 9999", "tmp_mib"),
            (
                "title = \"Demo\"",
                "title = \"Demo\"\nkind = \"npx\"",
                "builder is missing in [image]",
            ),
            (
                "title = \"Demo\"",
                "title = \"Demo\"\nkind = \"npx\"",
                "unknown key mcp.command",
            ),
            (
                "title = \"Demo\"",
                "title = \"Demo\"\nkind = \"pip\"",
                "\"pip\" is not one of them",
            ),
            (
                "ready = \"port:5900\"",
                "ready = \"port:0\"",
                "\"started\" or \"port:N\"",
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let e = parse("demo.toml", "demo", &GOOD.replace(from, to))
                .expect_err(to)
                .to_string();
            assert!(e.contains(said), "{to}: {said} not in:\n{e}");
        }
    }

    #[test]
    fn all_mistakes_at_once() {
        let bad = GOOD
            .replace("\"5s\"", "5")
            .replace("internet", "host")
            .replace("title", "titel");
        let e = parse("demo.toml", "demo", &bad).expect_err("bad");
        assert_eq!(e.0.len(), 4, "{e}");
    }

    #[test]
    fn env_names() {
        for ok in ["A", "_x", "API_KEY2"] {
            assert_eq!(check_env_key(ok), Ok(()));
        }
        for bad in ["", "2A", "A-B", "A=B", "BERTH_X", "LD_PRELOAD", "Ä"] {
            assert!(check_env_key(bad).is_err(), "{bad}");
        }
    }
}
