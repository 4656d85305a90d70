//! Generic types: what may be asked for, what the allowlist says to it, and what the type of one instance becomes once
//! its package is installed or its image fetched. Pure.

use std::time::Duration;

use crate::{
    catalog::{CALL_TIMEOUT, HealthContract, ImageRef, InstanceType, Kind, Service, Transport, check_volume, millis},
    config::Allow,
    model::{
        Allowed, HealthKind, MAX_REMOTE_HEADERS, PackageSource, Processes, Ready, Refusal, RemoteAuth, RestartPolicy,
        RunRequest, Source, TypeName, check_remote_url,
    },
    plan::image,
    record::Sourced,
};

const ARGUMENTS: usize = 64;
const ARGUMENT: usize = 4096;
/// The secret of a remote server, in bytes.
const SECRET: usize = 8192;

/// Whether the type may be run at all.
///
/// # Errors
/// [`Refusal::SwitchedOff`], [`Refusal::NotAllowed`].
pub fn check_type(allow: &Allow, name: &TypeName, kind: Kind) -> Result<(), Refusal> {
    let off = match kind {
        Kind::Fixed => false,
        Kind::Npx => !allow.npx,
        Kind::Uvx => !allow.uvx,
        Kind::Image => !allow.image,
        Kind::Remote => !allow.remote,
    };
    if off {
        return Err(Refusal::SwitchedOff {
            type_name: name.to_string(),
            key: kind.as_str().to_owned(),
        });
    }
    match &allow.types {
        Some(types) if !image::allowed(name.as_str(), types) => Err(Refusal::NotAllowed {
            what: Allowed::Type,
            name: name.to_string(),
            allowed: types.clone(),
        }),
        _ => Ok(()),
    }
}

/// Checks what a request says of a generic type, and takes it; nothing for a type with an image of its own.
///
/// # Errors
/// A [`Refusal`] for what cannot be, and [`Refusal::NotAllowed`] for what may not be.
pub fn take(allow: &Allow, t: &InstanceType, request: &RunRequest) -> Result<Option<Sourced>, Refusal> {
    let (kind, type_name) = (t.kind, t.name.to_string());
    let Some(source) = &request.source else {
        if kind != Kind::Fixed {
            return Err(Refusal::NoSource {
                type_name,
                kind: kind.as_str().to_owned(),
            });
        }
        if request.network.is_some() || request.volume.is_some() || request.processes.is_some() {
            return Err(Refusal::OwnSettings { type_name });
        }
        if request.call_timeout_ms.is_some() {
            return Err(Refusal::OwnCallTimeout { type_name });
        }
        return Ok(None);
    };
    if source.kind() != kind.as_str() {
        return Err(match kind {
            Kind::Fixed => Refusal::OwnImage { type_name },
            _ => Refusal::OtherSource {
                type_name,
                kind: kind.as_str().to_owned(),
                given: source.kind().to_owned(),
            },
        });
    }
    check_source(source, request)?;
    check_sealed(source, |key| {
        request.env.contains_key(key) || t.credentials.iter().any(|c| c.key == key)
    })?;
    check_allowed(allow, source)?;
    if let Some(path) = &request.volume {
        check_volume(path).map_err(|e| Refusal::BadVolume { reason: e.to_string() })?;
    }
    let call_timeout = request.call_timeout_ms.map(Duration::from_millis);
    if call_timeout.is_some_and(|d| !CALL_TIMEOUT.contains(&d)) {
        return Err(Refusal::BadCallTimeout {
            least: millis(*CALL_TIMEOUT.start()),
            most: millis(*CALL_TIMEOUT.end()),
        });
    }
    Ok(Some(Sourced {
        source: source.clone(),
        resolved: None,
        network: request.network,
        volume: request.volume.clone(),
        processes: request.processes,
        call_timeout,
        pinned: false,
        trial_of: None,
    }))
}

/// Whether patterns allow a package: they match its name, or its kind, a colon and its name.
///
/// # Errors
/// [`Refusal::NotAllowed`].
pub fn check_allowed(allow: &Allow, source: &Source) -> Result<(), Refusal> {
    let (what, name) = named(source);
    let patterns = match source {
        Source::Npx(_) | Source::Uvx(_) => &allow.packages,
        Source::Image(_) => &allow.images,
        Source::Remote(_) => &allow.remotes,
    };
    let long = format!("{}:{name}", source.kind());
    if image::allowed(name, patterns) || image::allowed(&long, patterns) {
        return Ok(());
    }
    Err(Refusal::NotAllowed {
        what,
        name: name.to_owned(),
        allowed: patterns.clone(),
    })
}

/// What a source is, and its name, as lists of what is allowed have them.
pub(super) fn named(source: &Source) -> (Allowed, &str) {
    match source {
        Source::Npx(p) | Source::Uvx(p) => (Allowed::Package, bare(&p.package)),
        Source::Image(i) => (Allowed::Image, i.image.as_str()),
        Source::Remote(r) => (Allowed::Address, r.url.as_str()),
    }
}

/// A Python package without its extras.
fn bare(package: &str) -> &str {
    package.split('[').next().unwrap_or(package)
}

fn check_source(source: &Source, request: &RunRequest) -> Result<(), Refusal> {
    if request.remote_secret.is_some() && !matches!(source, Source::Remote(_)) {
        return Err(Refusal::NotRemote);
    }
    match source {
        Source::Remote(r) => check_remote(&r.url, &r.auth, request),
        other => check_form(other),
    }
}

/// Whether a package or an image is named as it must be; nothing is said of a remote server.
///
/// # Errors
/// A [`Refusal`] that says which part is not as it must be.
pub fn check_form(source: &Source) -> Result<(), Refusal> {
    match source {
        Source::Npx(p) => {
            if !npm_name(&p.package) {
                let given = p.package.clone();
                return Err(Refusal::BadNpmPackage { given });
            }
            check_package(p)
        }
        Source::Uvx(p) => {
            if !python_name(&p.package) {
                let given = p.package.clone();
                return Err(Refusal::BadPythonPackage { given });
            }
            let exact = |v: &String| v.starts_with(|c: char| c.is_ascii_digit());
            if let Some(given) = p.version.clone().filter(|v| !exact(v)) {
                return Err(Refusal::InexactVersion { given });
            }
            check_package(p)
        }
        Source::Image(i) => {
            if !image_name(&i.image) {
                let given = i.image.clone();
                return Err(Refusal::BadImage { given });
            }
            if let Some(http) = &i.http
                && (http.port == 0
                    || !http.path.starts_with('/')
                    || http.path.contains(|c: char| c <= ' ' || c == '\x7f'))
            {
                return Err(Refusal::BadHttpPlace);
            }
            check_arguments(i.command.iter().chain(&i.args))
        }
        Source::Remote(_) => Ok(()),
    }
}

/// That each `${secret:KEY}` of the arguments names a variable that the instance has.
fn check_sealed(source: &Source, has: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    let args = match source {
        Source::Npx(p) | Source::Uvx(p) => &p.args,
        Source::Image(i) => &i.args,
        Source::Remote(_) => return Ok(()),
    };
    let mut keys = args.iter().flat_map(|a| crate::model::sealed_keys(a));
    match keys.find(|key| !has(key)) {
        Some(key) => Err(Refusal::NoSuchVariable { key: key.to_owned() }),
        None => Ok(()),
    }
}

fn check_package(p: &PackageSource) -> Result<(), Refusal> {
    let plain = |v: &str, more: &[u8]| {
        (1..=128).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    if let Some(v) = &p.version
        && !plain(v, b".-+~^*_!")
    {
        return Err(Refusal::BadVersion { given: v.clone() });
    }
    if let Some(bin) = &p.bin
        && (!plain(bin, b"._-") || bin.starts_with(['.', '-']))
    {
        return Err(Refusal::BadProgram { given: bin.clone() });
    }
    check_arguments(p.args.iter())
}

fn check_arguments<'a>(all: impl Iterator<Item = &'a String>) -> Result<(), Refusal> {
    let mut n = 0;
    for argument in all {
        n += 1;
        if n > ARGUMENTS || argument.len() > ARGUMENT || argument.contains('\0') {
            return Err(Refusal::BadArguments {
                count: ARGUMENTS,
                bytes: ARGUMENT,
            });
        }
    }
    Ok(())
}

/// `@scope/name` or `name` as npm takes new ones; never one that begins with what could be an option or a path.
fn npm_name(name: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && !p.starts_with(['.', '_', '-'])
            && p.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-~".contains(&b))
    };
    name.len() <= 214
        && match name.strip_prefix('@').and_then(|n| n.split_once('/')) {
            Some((scope, rest)) => part(scope) && part(rest),
            None => part(name),
        }
}

/// PEP 508: a name and, in brackets, extras.
fn python_name(name: &str) -> bool {
    let part = |p: &str| {
        let b = p.as_bytes();
        b.first().is_some_and(u8::is_ascii_alphanumeric)
            && b.last().is_some_and(u8::is_ascii_alphanumeric)
            && b.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
    };
    name.len() <= 214
        && match name.split_once('[') {
            None => part(name),
            Some((name, extras)) => {
                part(name)
                    && extras
                        .strip_suffix(']')
                        .is_some_and(|e| e.split(',').all(|x| part(x.trim())))
            }
        }
}

fn image_name(reference: &str) -> bool {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    let hex = |d: &str| d.len() == 64 && d.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (1..=255).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.contains("//")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:/".contains(&b))
        && digest.is_none_or(|d| d.strip_prefix("sha256:").is_some_and(hex))
}

fn check_remote(url: &str, auth: &RemoteAuth, request: &RunRequest) -> Result<(), Refusal> {
    if request.network.is_some() || request.volume.is_some() || request.processes.is_some() || !request.env.is_empty() {
        return Err(Refusal::RunsElsewhere);
    }
    check_remote_url(url)?;
    match (auth, &request.remote_secret) {
        (RemoteAuth::None, Some(_)) => return Err(Refusal::UnusedSecret),
        (RemoteAuth::None, None) => {}
        (_, None) => return Err(Refusal::NoSecret),
        (_, Some(secret)) => check_secret(auth, secret.expose())?,
    }
    match auth {
        RemoteAuth::None | RemoteAuth::Bearer => Ok(()),
        RemoteAuth::Header { name } => check_header(name),
        RemoteAuth::Headers { names } => {
            if !(2..=MAX_REMOTE_HEADERS).contains(&names.len()) {
                let limit = MAX_REMOTE_HEADERS;
                return Err(Refusal::TooManyHeaders { limit });
            }
            for (n, name) in names.iter().enumerate() {
                check_header(name)?;
                if names[..n].iter().any(|other| other.eq_ignore_ascii_case(name)) {
                    return Err(Refusal::HeaderTwice { name: name.clone() });
                }
            }
            Ok(())
        }
    }
}

/// One value, or a line for each header field.
fn check_secret(auth: &RemoteAuth, secret: &str) -> Result<(), Refusal> {
    let values: Vec<&str> = match auth {
        RemoteAuth::Headers { names } => {
            let lines: Vec<&str> = secret.split('\n').collect();
            if lines.len() != names.len() {
                return Err(Refusal::SecretLines {
                    headers: names.len(),
                    values: lines.len(),
                });
            }
            lines
        }
        _ => vec![secret],
    };
    let visible = |s: &&str| !s.is_empty() && s.len() <= SECRET && s.bytes().all(|b| (0x20..0x7f).contains(&b));
    match values.iter().all(visible) {
        true => Ok(()),
        false => Err(Refusal::BadSecret { limit: SECRET }),
    }
}

fn check_header(name: &str) -> Result<(), Refusal> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let ours = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "upgrade",
        "te",
        "trailer",
        "accept",
        "content-type",
    ];
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || name.len() > 128 || !name.bytes().all(token) {
        return Err(Refusal::BadHeader { name: name.to_owned() });
    }
    if ours.contains(&lower.as_str()) || lower.starts_with("mcp-") {
        return Err(Refusal::HeaderOfTheProtocol { name: name.to_owned() });
    }
    Ok(())
}

/// The type of one instance: its template with what was settled for it.
pub fn concrete(template: &InstanceType, sourced: &Sourced) -> InstanceType {
    let mut t = template.clone();
    if let Some(network) = sourced.network {
        t.egress = network;
    }
    if sourced.volume.is_some() {
        t.volume.clone_from(&sourced.volume);
    }
    if let Some(limit) = sourced.call_timeout {
        t.mcp.call_timeout = limit;
    }
    let resolved = sourced.resolved.as_ref();
    if let Some(r) = resolved {
        t.image = ImageRef {
            reference: r.image.clone(),
            digest: None,
        };
    } else if let Source::Image(i) = &sourced.source {
        t.image.reference.clone_from(&i.image);
    }
    let base = resolved.map(|r| r.command.clone()).unwrap_or_default();
    match &sourced.source {
        Source::Npx(p) | Source::Uvx(p) => set_stdio(&mut t, [base, p.args.clone()].concat(), sourced.processes),
        Source::Image(i) => match &i.http {
            None => set_stdio(&mut t, base, sourced.processes),
            Some(http) => {
                let limit = t.health.start_timeout;
                t.services = vec![Service {
                    name: "server".to_owned(),
                    command: base,
                    env: stdio_env(&t.mcp.transport),
                    ready: Ready::Port {
                        port: http.port,
                        timeout_ms: millis(limit),
                    },
                    restart: RestartPolicy::Never,
                }];
                t.mcp.transport = Transport::Http {
                    port: http.port,
                    path: http.path.clone(),
                };
            }
        },
        Source::Remote(r) => {
            t.mcp.transport = Transport::Remote {
                url: r.url.clone(),
                auth: r.auth.clone(),
            };
            t.health = HealthContract {
                kind: HealthKind::Mcp,
                ..t.health
            };
            t.image.reference = String::new();
        }
    }
    t
}

fn stdio_env(t: &Transport) -> std::collections::BTreeMap<String, String> {
    match t {
        Transport::Stdio { env, .. } => env.clone(),
        Transport::Http { .. } | Transport::Remote { .. } => std::collections::BTreeMap::new(),
    }
}

fn set_stdio(t: &mut InstanceType, command: Vec<String>, chosen: Option<Processes>) {
    let (env, own) = match &t.mcp.transport {
        Transport::Stdio { env, processes, .. } => (env.clone(), *processes),
        _ => (std::collections::BTreeMap::new(), Processes::Session),
    };
    t.mcp.transport = Transport::Stdio {
        command,
        env,
        processes: chosen.unwrap_or(own),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "@s/a", "server-x.y", "@modelcontextprotocol/server-everything"] {
            assert!(npm_name(good), "{good}");
        }
        for bad in [
            "",
            "@s",
            "@/a",
            "A",
            "a b",
            "../a",
            "-g",
            "git+https://x",
            "@s/../a",
            "a/b",
            "file:x",
            "http://x",
        ] {
            assert!(!npm_name(bad), "{bad}");
        }
        for good in ["mcp-server-time", "A_b.c", "x[cli]", "x[a,b]"] {
            assert!(python_name(good), "{good}");
        }
        for bad in ["", "-r", "x @ https://y", "x==1", "./x", "x[", "x[]", "x y"] {
            assert!(!python_name(bad), "{bad}");
        }
        let digest = format!("a/b@sha256:{}", "0a".repeat(32));
        for good in ["a", "a/b:1", "host:5000/a/b:1.2", digest.as_str()] {
            assert!(image_name(good), "{good}");
        }
        for bad in ["", "/a", "a//b", "a b", "-a", "a@sha256:0", "a@md5:x"] {
            assert!(!image_name(bad), "{bad}");
        }
    }

    #[test]
    fn refusals_name_the_key() {
        let allow = Allow {
            types: Some(vec!["time".into(), "npx".into()]),
            packages: vec!["npx:@modelcontextprotocol/*".into()],
            images: vec!["ghcr.io/*".into()],
            uvx: false,
            ..Allow::default()
        };
        let name = |n: &str| TypeName::parse(n).expect(n);
        assert_eq!(check_type(&allow, &name("npx"), Kind::Npx), Ok(()));
        let said = |r: Result<(), Refusal>| r.expect_err("refused").to_string();
        assert!(said(check_type(&allow, &name("memory"), Kind::Fixed)).contains("types in [allow]"));
        assert!(said(check_type(&allow, &name("uvx"), Kind::Uvx)).contains("uvx = false in [allow]"));
        let package = |p: &str| PackageSource {
            package: p.into(),
            version: None,
            bin: None,
            args: vec![],
        };
        assert_eq!(
            check_allowed(&allow, &Source::Npx(package("@modelcontextprotocol/x"))),
            Ok(())
        );
        for source in [
            Source::Npx(package("left-pad")),
            Source::Uvx(package("@modelcontextprotocol/x")),
        ] {
            assert!(said(check_allowed(&allow, &source)).contains("packages in [allow]"));
        }
        let image = Source::Image(crate::model::ImageSource {
            image: "evil/x".into(),
            command: vec![],
            args: vec![],
            http: None,
        });
        assert!(said(check_allowed(&allow, &image)).contains("images in [allow]"));
    }

    #[test]
    fn a_call_timeout_is_taken_within_bounds_and_by_generic_types_alone() {
        let package = || {
            Some(Source::Npx(PackageSource {
                package: "a".into(),
                version: None,
                bin: None,
                args: vec![],
            }))
        };
        let asked = |kind: Kind, source, ms| {
            let mut t = crate::plan::admit_tests::a_type("npx", "berth/npx:1");
            t.kind = kind;
            let request = RunRequest {
                source,
                call_timeout_ms: Some(ms),
                ..RunRequest::of(t.name.clone())
            };
            let taken = take(&Allow::default(), &t, &request)?;
            Ok(concrete(&t, &taken.expect("generic")).mcp.call_timeout)
        };
        assert_eq!(asked(Kind::Npx, package(), 1_200_000), Ok(Duration::from_secs(1200)));
        for ms in [0, 999, 86_400_001] {
            let (least, most) = (1_000, 86_400_000);
            let refused = Err(Refusal::BadCallTimeout { least, most });
            assert_eq!(asked(Kind::Npx, package(), ms), refused);
        }
        let type_name = "npx".to_owned();
        let refused = Err(Refusal::OwnCallTimeout { type_name });
        assert_eq!(asked(Kind::Fixed, None, 1000), refused);
    }
}
