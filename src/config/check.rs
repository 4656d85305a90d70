//! Raw TOML -> checked configuration; every problem with its file, its line and what to write instead.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{Claim, Config, Docker, Edge, Limits, Listen, Tls};
use crate::{
    claim::PublicKey,
    door::origin::Origin,
    model::{CallLimit, WorkspaceLimits},
    strict_toml::{Document, Problems, Section},
};

/// Checks the text of a configuration. `file` is only for messages.
///
/// # Errors
/// All problems of the text at once.
pub fn parse(file: &str, text: &str) -> Result<Config, Problems> {
    let mut doc = Document::parse(file, text);
    let mut config = Config::default();
    let root = doc.root();
    if let Some(d) = root.string("domain") {
        match domain(&d.value) {
            Some(ok) => config.domain = Some(ok),
            None => root.wrong(
                &d,
                format!(
                    "domain: write a host name such as \"mcp.example.org\"; {:?} is not one",
                    d.value
                ),
            ),
        }
    }
    for (key, place) in [
        ("state_dir", &mut config.state_dir),
        ("runtime_dir", &mut config.runtime_dir),
        ("types_dir", &mut config.types_dir),
    ] {
        absolute(root, key, place);
    }
    if let Some(mut s) = root.section("listen") {
        listen(&mut s, &mut config.listen);
        s.finish();
    }
    if let Some(mut s) = root.section("docker") {
        docker(&mut s, &mut config.docker);
        s.finish();
    }
    if let Some(mut s) = root.section("edge") {
        edge(&mut s, &mut config.edge);
        s.finish();
    }
    if let Some(mut s) = root.section("tls") {
        tls(&mut s, &mut config.tls);
        s.finish();
    }
    if let Some(mut s) = root.section("claim") {
        claim(&mut s, &mut config.claim);
        s.finish();
    }
    if let Some(mut s) = root.section("limits") {
        limits(&mut s, &mut config.limits);
        s.finish();
    }
    if let Some(mut s) = root.section("workspace") {
        workspace(&mut s, &mut config.workspace);
        s.finish();
    }
    if let Some(mut s) = root.section("audit") {
        super::audit::read(&mut s, &mut config.audit);
        s.finish();
    }
    super::sources::read(root, &mut config);
    doc.finish().map(|()| config).map_err(Problems)
}

/// RFC 1123 host name, lower-cased, without a trailing dot; leaves room for a label in front.
pub(crate) fn domain(s: &str) -> Option<String> {
    let s = s.strip_suffix('.').unwrap_or(s).to_ascii_lowercase();
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let numeric = s
        .rsplit('.')
        .next()
        .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    (s.len() <= 200 && !numeric && s.split('.').all(label)).then_some(s)
}

pub(super) fn absolute(s: &mut Section<'_>, key: &'static str, place: &mut PathBuf) {
    if let Some(p) = s.string(key) {
        if p.value.starts_with('/') && !p.value.contains('\0') {
            *place = p.value.into();
        } else {
            s.wrong(&p, format!("{key}: write an absolute path; {:?} is not one", p.value));
        }
    }
}

/// An absolute path, where there is one.
pub(super) fn file(s: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    absolute(s, key, &mut path);
    (!path.as_os_str().is_empty()).then_some(path)
}

fn listen(s: &mut Section<'_>, listen: &mut Listen) {
    const WANT: &str = "an address with a port, such as \"0.0.0.0:443\" or \"[::]:443\"";
    if let Some(a) = s.parsed::<SocketAddr>("https", WANT) {
        listen.https = a.value;
    }
    if let Some(a) = s.parsed::<SocketAddr>("http", WANT) {
        listen.http = a.value;
    }
}

fn docker(s: &mut Section<'_>, docker: &mut Docker) {
    absolute(s, "socket", &mut docker.socket);
    if let Some(images) = s.strings("images") {
        if images.value.iter().any(|p| p.is_empty() || p == "*") {
            s.wrong(
                &images,
                "docker.images: a pattern that allows every image defends nothing; name a prefix, such as \"berth/*\"",
            );
        }
        docker.images = images.value;
    }
}

/// Origins that may be allowed: each request of a page is compared with all of them.
const MAX_ORIGINS: usize = 64;

fn edge(s: &mut Section<'_>, edge: &mut Edge) {
    let Some(given) = s.strings("allowed_origins") else {
        return;
    };
    if given.value.len() > MAX_ORIGINS {
        s.wrong(
            &given,
            format!("edge.allowed_origins: at most {MAX_ORIGINS} may be named"),
        );
    }
    for text in &given.value {
        match text.parse::<Origin>() {
            Ok(origin) => edge.allowed_origins.push(origin.as_str().to_owned()),
            Err(e) => s.wrong(
                &given,
                format!("edge.allowed_origins: write origins such as \"https://inspector.example.org\"; {e}"),
            ),
        }
    }
}

fn tls(s: &mut Section<'_>, tls: &mut Tls) {
    let mode = s.choice("mode", &[("local-ca", false), ("files", true)]);
    let (mut cert, mut key) = (PathBuf::new(), PathBuf::new());
    absolute(s, "cert", &mut cert);
    absolute(s, "key", &mut key);
    match mode.as_ref().map(|m| m.value) {
        Some(true) => {
            for (name, path) in [("cert", &cert), ("key", &key)] {
                if path.as_os_str().is_empty() {
                    s.missing(name, "the absolute path of a PEM file");
                }
            }
            *tls = Tls::Files { cert, key };
        }
        _ if !cert.as_os_str().is_empty() || !key.as_os_str().is_empty() => {
            s.wrong_here("tls.cert and tls.key need mode = \"files\"");
        }
        _ => {}
    }
}

fn claim(s: &mut Section<'_>, claim: &mut Claim) {
    if let Some(required) = s.boolean("required") {
        claim.required = required.value;
    }
    if let Some(line) = s.string("public_key") {
        match PublicKey::parse(&line.value) {
            Ok(key) => claim.public_key = Some(key),
            Err(e) => s.wrong(
                &line,
                format!("claim.public_key: write a line such as \"ssh-ed25519 AAAA…\"; {e}"),
            ),
        }
    }
}

fn limits(s: &mut Section<'_>, l: &mut Limits) {
    for (key, place, min, max) in [
        ("connections", &mut l.connections, 16, 1_000_000),
        (
            "connections_without_token",
            &mut l.connections_without_token,
            8,
            1_000_000,
        ),
        ("connections_per_address", &mut l.connections_per_address, 1, 1_000_000),
        ("header_bytes", &mut l.header_bytes, 8 * 1024, 1024 * 1024),
        ("body_bytes", &mut l.body_bytes, 1024, 1024 * 1024 * 1024),
        ("instances", &mut l.instances, 1, 10_000),
        ("tokens_per_instance", &mut l.tokens_per_instance, 1, 10_000),
    ] {
        if let Some(n) = s.integer(key, min, max) {
            *place = usize::try_from(n.value).unwrap_or(usize::MAX);
        }
    }
    for (key, place) in [
        ("member_calls_per_second", &mut l.member_calls.per_second),
        ("member_calls_at_once", &mut l.member_calls.at_once),
        ("instance_calls_per_second", &mut l.instance_calls.per_second),
        ("instance_calls_at_once", &mut l.instance_calls.at_once),
    ] {
        if let Some(n) = calls(s, key) {
            *place = n;
        }
    }
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    for (key, place) in [
        ("client_timeout", &mut l.client_timeout),
        ("first_byte_timeout", &mut l.first_byte_timeout),
        ("idle_timeout", &mut l.idle_timeout),
        ("upgraded_idle_timeout", &mut l.upgraded_idle_timeout),
        ("drain_timeout", &mut l.drain_timeout),
    ] {
        if let Some(d) = s.duration(key, second, hour) {
            *place = d.value;
        }
    }
}

/// A bound of calls; 0 is none.
fn calls(s: &mut Section<'_>, key: &'static str) -> Option<u32> {
    let given = s.integer(key, 0, i64::from(CallLimit::MOST))?;
    u32::try_from(given.value).ok()
}

/// CPUs such as `"1.5"`, in billionths of one.
pub struct Cpus(pub i64);

/// Why a text is not an amount of something.
#[derive(Debug, thiserror::Error)]
pub enum AmountError {
    #[error("{0:?} is outside")]
    Outside(String),
    #[error("{0:?} is not one")]
    Form(String),
}

impl std::str::FromStr for Cpus {
    type Err = AmountError;
    fn from_str(s: &str) -> Result<Self, AmountError> {
        let plain = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let cpus = if plain { s.parse::<f64>().ok() } else { None };
        match cpus {
            // Exact enough: thousandths of a CPU.
            #[allow(clippy::cast_possible_truncation)]
            Some(n) if (0.1..=1024.0).contains(&n) => Ok(Cpus((n * 1000.0).round() as i64 * 1_000_000)),
            Some(_) => Err(AmountError::Outside(s.to_owned())),
            None => Err(AmountError::Form(s.to_owned())),
        }
    }
}

/// Memory such as `"512MiB"`, in bytes.
pub struct Bytes(pub i64);

impl std::str::FromStr for Bytes {
    type Err = AmountError;
    fn from_str(s: &str) -> Result<Self, AmountError> {
        let wrong = || AmountError::Form(s.to_owned());
        let digits = s.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = match &s[digits.len()..] {
            "MiB" => 1i64 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(wrong()),
        };
        let n: i64 = digits.parse().map_err(|_| wrong())?;
        let bytes = n.checked_mul(unit).filter(|b| WorkspaceLimits::MEMORY.contains(b));
        bytes.map(Bytes).ok_or_else(|| AmountError::Outside(s.to_owned()))
    }
}

fn workspace(s: &mut Section<'_>, w: &mut WorkspaceLimits) {
    if let Some(n) = s.parsed::<Cpus>("cpu", "CPUs in quotes, such as \"1.5\", from 0.1 to 1024") {
        w.nano_cpus = Some(n.value.0);
    }
    if let Some(n) = s.parsed::<Bytes>(
        "memory",
        "memory with its unit (MiB, GiB or TiB), such as \"4GiB\", from 64MiB",
    ) {
        w.memory = Some(n.value.0);
    }
    let pids = WorkspaceLimits::PIDS;
    if let Some(n) = s.integer("pids", *pids.start(), *pids.end()) {
        w.pids = Some(n.value);
    }
    if let Some(n) = s.parsed::<Bytes>(
        "disk",
        "an amount with its unit (MiB, GiB or TiB), such as \"50GiB\", from 64MiB",
    ) {
        w.disk = Some(n.value.0);
    }
    if let Some(n) = s.integer("instances", 0, i64::from(u32::MAX)) {
        w.instances = u32::try_from(n.value).ok();
    }
    w.calls_per_second = calls(s, "calls_per_second");
    w.calls_at_once = calls(s, "calls_at_once");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspaces_quota() {
        let good = "[workspace]\ncpu = \"1.5\"\nmemory = \"4GiB\"\npids = 500\ninstances = 3\n";
        let w = parse("b.toml", good).expect("valid").workspace;
        assert_eq!(
            (w.nano_cpus, w.memory, w.pids, w.instances),
            (Some(1_500_000_000), Some(4 << 30), Some(500), Some(3))
        );
        for (line, said) in [
            ("cpu = 2", "b.toml:2: workspace.cpu: write CPUs in quotes"),
            ("cpu = \"0\"", "is outside"),
            ("cpu = \"1e3\"", "is not one"),
            ("cpu = \"NaN\"", "is not one"),
            (
                "memory = \"4GB\"",
                "b.toml:2: workspace.memory: write memory with its unit",
            ),
            ("memory = \"1MiB\"", "is outside"),
            ("memory = \"99999999999TiB\"", "is outside"),
            ("memory = 1073741824", "write memory with its unit"),
            ("pids = 1", "is outside"),
            ("pid = 100", "did you mean pids?"),
        ] {
            let all = parse("b.toml", &format!("[workspace]\n{line}\n"))
                .expect_err(line)
                .to_string();
            assert!(all.contains(said), "{line}: {all}");
        }
    }

    #[test]
    fn bounds_of_calls() {
        let text =
            "[limits]\nmember_calls_per_second = 5\ninstance_calls_at_once = 0\n[workspace]\ncalls_at_once = 7\n";
        let c = parse("b.toml", text).expect("valid");
        let (member, instance) = (CallLimit::OF_A_MEMBER, CallLimit::OF_AN_INSTANCE);
        assert_eq!(
            c.limits.member_calls,
            CallLimit {
                per_second: 5,
                ..member
            }
        );
        assert_eq!(c.limits.instance_calls, CallLimit { at_once: 0, ..instance });
        let workspace = CallLimit::OF_A_WORKSPACE;
        assert_eq!(
            c.workspace.calls(),
            CallLimit {
                at_once: 7,
                ..workspace
            }
        );
        for wrong in [
            "[limits]\nmember_calls_at_once = -1\n",
            "[workspace]\ncalls_per_second = 1000001\n",
        ] {
            let said = parse("b.toml", wrong).expect_err(wrong).to_string();
            assert!(
                said.contains("b.toml:2:") && said.contains("from 0 to 1000000"),
                "{said}"
            );
        }
    }

    #[test]
    fn origins_that_may_call() {
        let good = "[edge]\nallowed_origins = [\"https://Tools.Example.org:443\", \"http://tools.example.org:8080\"]\n";
        assert_eq!(
            parse("b.toml", good).expect("valid").edge.allowed_origins,
            ["https://tools.example.org", "http://tools.example.org:8080"]
        );
        for (line, said) in [
            (
                "allowed_origins = [\"*\"]",
                "b.toml:2: edge.allowed_origins: write origins such as",
            ),
            ("allowed_origins = [\"https://*.example.org\"]", "name each origin"),
            ("allowed_origins = [\"https://example.org/\"]", "has a path"),
            ("allowed_origins = \"https://example.org\"", "edge.allowed_origins"),
            ("origins = []", "unknown key"),
        ] {
            let all = parse("b.toml", &format!("[edge]\n{line}\n"))
                .expect_err(line)
                .to_string();
            assert!(all.contains(said), "{line}: {all}");
        }
        let many = vec!["\"https://a.example.org\""; 65].join(",");
        let said = parse("b.toml", &format!("[edge]\nallowed_origins = [{many}]\n")).expect_err("many");
        assert!(said.to_string().contains("at most 64"), "{said}");
    }

    #[test]
    fn nothing_is_the_default() {
        assert_eq!(parse("berth.toml", "").expect("valid"), Config::default());
    }

    #[test]
    fn a_whole_file() {
        let text = "domain = \"MCP.Example.org.\"\nstate_dir = \"/s\"\n[listen]\nhttps = \"127.0.0.1:8443\"\n\
                    [tls]\nmode = \"files\"\ncert = \"/c.pem\"\nkey = \"/k.pem\"\n[limits]\ndrain_timeout = \"5s\"\n";
        let c = parse("berth.toml", text).expect("valid");
        assert_eq!(c.domain.as_deref(), Some("mcp.example.org"));
        assert_eq!(
            c.tls,
            Tls::Files {
                cert: "/c.pem".into(),
                key: "/k.pem".into()
            }
        );
        assert_eq!(c.limits.drain_timeout, Duration::from_secs(5));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let text = "domain = \"not a host\"\nstate_dir = \"relative\"\nstat_dir = \"/x\"\n[listen]\nhttps = \"443\"\n\
                    [docker]\nimages = [\"*\"]\n[tls]\nmode = \"files\"\n[limits]\nbody_bytes = 1\nidle_timeout = 30\n";
        let said = parse("b.toml", text).expect_err("problems").to_string();
        for line in [
            "b.toml:1:",
            "b.toml:2:",
            "b.toml:3: unknown key stat_dir: did you mean state_dir?",
            "b.toml:5:",
            "b.toml:7:",
            "cert is missing",
            "key is missing",
            "b.toml:11:",
            "b.toml:12: limits.idle_timeout: write a duration",
        ] {
            assert!(said.contains(line), "{line} not in:\n{said}");
        }
    }

    #[test]
    fn who_may_claim() {
        let c = parse(
            "b.toml",
            "[claim]\nrequired = true\npublic_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINYvAlRK8HUJCmi1BHxw4fTiYECZCuntkVuYTR1rZHK5\"\n",
        );
        let c = c.expect("valid");
        assert!(c.claim.required && c.claim.public_key.is_some());
        let said = parse("b.toml", "[claim]\nrequired = 1\npublic_key = \"ssh-rsa AAAA\"\n");
        let said = said.expect_err("problems").to_string();
        assert!(
            said.contains("b.toml:2: claim.required") && said.contains("b.toml:3: claim.public_key"),
            "{said}"
        );
    }

    #[test]
    fn addresses_are_not_domains() {
        for bad in ["", "127.0.0.1", "a..b", "-a.b", "a_b", &"a".repeat(64)] {
            assert_eq!(domain(bad), None, "{bad}");
        }
    }
}
