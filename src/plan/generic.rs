//! Generic types: what may be asked for, what the allowlist says to it, and what the type of one instance becomes once
//! its package is installed or its image fetched. Pure.

use std::time::Duration;

use crate::{
    catalog::{CALL_TIMEOUT, HealthContract, ImageRef, InstanceType, Kind, Service, Transport},
    config::Allow,
    model::{
        HealthKind, MAX_REMOTE_HEADERS, PackageSource, Processes, Ready, Refusal, RemoteAuth, RestartPolicy,
        RunRequest, Source, TypeName,
    },
    plan::image,
    record::Generic,
};

const ARGUMENTS: usize = 64;
const ARGUMENT: usize = 4096;

fn refuse<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(text.into()))
}

/// Whether the type may be run at all.
///
/// # Errors
/// [`Refusal::NotAllowed`] with the key of the configuration.
pub fn check_type(allow: &Allow, name: &TypeName, kind: Kind) -> Result<(), Refusal> {
    let off = match kind {
        Kind::Fixed => false,
        Kind::Npx => !allow.npx,
        Kind::Uvx => !allow.uvx,
        Kind::Image => !allow.image,
        Kind::Remote => !allow.remote,
    };
    if off {
        let key = kind.as_str();
        return Err(Refusal::NotAllowed(format!(
            "the type {name} is switched off here: {key} = false in [allow] of berth.toml"
        )));
    }
    match &allow.types {
        Some(types) if !image::allowed(name.as_str(), types) => Err(Refusal::NotAllowed(format!(
            "the type {name} may not be run here: add it to types in [allow] of berth.toml, which has {}",
            shown(types)
        ))),
        _ => Ok(()),
    }
}

fn shown(patterns: &[String]) -> String {
    if patterns.is_empty() {
        "none".to_owned()
    } else {
        patterns.join(", ")
    }
}

/// Checks what a request says of a generic type, and takes it; nothing for a type with an image of its own.
///
/// # Errors
/// [`Refusal::Invalid`] for what cannot be, [`Refusal::NotAllowed`] for what may not be.
pub fn take(allow: &Allow, t: &InstanceType, request: &RunRequest) -> Result<Option<Generic>, Refusal> {
    let kind = t.kind;
    let Some(source) = &request.source else {
        if kind != Kind::Fixed {
            return refuse(format!("say what the type {} is to run: {}", t.name, usage(kind)));
        }
        if request.network.is_some() || request.volume.is_some() || request.processes.is_some() {
            return refuse(format!(
                "the type {} defines its network, volume and processes: only npx, uvx and image take --network, --volume and --processes",
                t.name
            ));
        }
        if request.call_timeout_ms.is_some() {
            return refuse(format!(
                "the type {} defines its call timeout: only npx, uvx, image and remote take --call-timeout; for others set call_timeout in [mcp] of the type file, then run `berth recreate`",
                t.name
            ));
        }
        return Ok(None);
    };
    if source.kind() != kind.as_str() {
        return refuse(match kind {
            Kind::Fixed => format!(
                "the type {} runs its own image: it takes no package, image or address",
                t.name
            ),
            _ => format!("the type {} runs no {}: {}", t.name, source.kind(), usage(kind)),
        });
    }
    check_source(source, request)?;
    check_sealed(source, |key| {
        request.env.contains_key(key) || t.credentials.iter().any(|c| c.key == key)
    })?;
    check_allowed(allow, source)?;
    if let Some(path) = &request.volume {
        crate::catalog::check_volume(path).map_err(Refusal::Invalid)?;
    }
    let call_timeout = request.call_timeout_ms.map(Duration::from_millis);
    if call_timeout.is_some_and(|d| !CALL_TIMEOUT.contains(&d)) {
        return refuse("a call timeout is from 1s to 24h: write a number with its unit, such as 20m");
    }
    Ok(Some(Generic {
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

fn usage(kind: Kind) -> &'static str {
    match kind {
        Kind::Fixed => "write its name alone",
        Kind::Npx => "write `berth run npx --package NAME[@VERSION] -- ARGUMENTS`",
        Kind::Uvx => "write `berth run uvx --package NAME[@VERSION] -- ARGUMENTS`",
        Kind::Image => "write `berth run image --image NAME[:TAG|@DIGEST] [--http PORT/PATH] -- ARGUMENTS`",
        Kind::Remote => "write `berth run remote --url https://… [--bearer - | --header NAME=-]`",
    }
}

/// Whether patterns allow a package: they match its name, or its kind, a colon and its name.
///
/// # Errors
/// [`Refusal::NotAllowed`] with the key of the configuration.
pub fn check_allowed(allow: &Allow, source: &Source) -> Result<(), Refusal> {
    let (what, name, patterns, key) = match source {
        Source::Npx(p) | Source::Uvx(p) => ("package", bare(&p.package), &allow.packages, "packages"),
        Source::Image(i) => ("image", i.image.as_str(), &allow.images, "images"),
        Source::Remote(r) => ("address", r.url.as_str(), &allow.remotes, "remotes"),
    };
    let long = format!("{}:{name}", source.kind());
    if image::allowed(name, patterns) || image::allowed(&long, patterns) {
        return Ok(());
    }
    Err(Refusal::NotAllowed(format!(
        "the {what} {name} may not be run here: add a pattern for it to {key} in [allow] of berth.toml, which has {}",
        shown(patterns)
    )))
}

/// A Python package without its extras.
fn bare(package: &str) -> &str {
    package.split('[').next().unwrap_or(package)
}

fn check_source(source: &Source, request: &RunRequest) -> Result<(), Refusal> {
    if request.remote_secret.is_some() && !matches!(source, Source::Remote(_)) {
        return refuse("only the type remote takes a bearer token or a header");
    }
    match source {
        Source::Remote(r) => check_remote(&r.url, &r.auth, request),
        other => check_form(other),
    }
}

/// Whether a package or an image is named as it must be; nothing is said of a remote server.
///
/// # Errors
/// [`Refusal::Invalid`] with what to write instead.
pub fn check_form(source: &Source) -> Result<(), Refusal> {
    match source {
        Source::Npx(p) => {
            if !npm_name(&p.package) {
                return refuse(format!(
                    "{:?} is not the name of an npm package: write name or @scope/name, in lower case",
                    p.package
                ));
            }
            check_package(p)
        }
        Source::Uvx(p) => {
            if !python_name(&p.package) {
                return refuse(format!(
                    "{:?} is not the name of a Python package: write name or name[extra]",
                    p.package
                ));
            }
            let exact = |v: &String| v.starts_with(|c: char| c.is_ascii_digit());
            if p.version.as_ref().is_some_and(|v| !exact(v)) {
                return refuse(
                    "a Python package's version is an exact one, such as 1.2.3; leave it out for the newest",
                );
            }
            check_package(p)
        }
        Source::Image(i) => {
            if !image_name(&i.image) {
                return refuse(format!(
                    "{:?} is not an image: write NAME, NAME:TAG or NAME@sha256:…",
                    i.image
                ));
            }
            if let Some(http) = &i.http
                && (http.port == 0
                    || !http.path.starts_with('/')
                    || http.path.contains(|c: char| c <= ' ' || c == '\x7f'))
            {
                return refuse("--http takes a port and a path, such as 8080/mcp");
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
        Some(key) => refuse(format!(
            "an argument takes the value of {key}, and no such variable is given: give it with --env {key}"
        )),
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
        return refuse(format!("{v:?} is not a version: write one such as 1.2.3"));
    }
    if let Some(bin) = &p.bin
        && (!plain(bin, b"._-") || bin.starts_with(['.', '-']))
    {
        return refuse(format!("{bin:?} is not the name of a program"));
    }
    check_arguments(p.args.iter())
}

fn check_arguments<'a>(all: impl Iterator<Item = &'a String>) -> Result<(), Refusal> {
    let mut n = 0;
    for argument in all {
        n += 1;
        if n > ARGUMENTS || argument.len() > ARGUMENT || argument.contains('\0') {
            return refuse(format!(
                "{ARGUMENTS} arguments at most, of {ARGUMENT} bytes each and without a NUL byte"
            ));
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
        return refuse("a remote server runs elsewhere: it takes no variables, network, volume or processes");
    }
    if let Err(why) = crate::model::check_remote_url(url) {
        return refuse(why);
    }
    match (auth, &request.remote_secret) {
        (RemoteAuth::None, Some(_)) => return refuse("there is a secret, but nothing says how to send it"),
        (RemoteAuth::None, None) => {}
        (_, None) => {
            return refuse("the secret is missing: `--bearer -` and `--header NAME=-` read it from standard input");
        }
        (_, Some(secret)) => check_secret(auth, secret.expose())?,
    }
    match auth {
        RemoteAuth::None | RemoteAuth::Bearer => Ok(()),
        RemoteAuth::Header { name } => check_header(name),
        RemoteAuth::Headers { names } => {
            if !(2..=MAX_REMOTE_HEADERS).contains(&names.len()) {
                return refuse(format!("a remote server takes at most {MAX_REMOTE_HEADERS} headers"));
            }
            for (n, name) in names.iter().enumerate() {
                check_header(name)?;
                if names[..n].iter().any(|other| other.eq_ignore_ascii_case(name)) {
                    return refuse(format!("the header field {name} is given twice"));
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
                return refuse(format!(
                    "{} header fields have {} values: the secret has a line for each",
                    names.len(),
                    lines.len()
                ));
            }
            lines
        }
        _ => vec![secret],
    };
    let visible = |s: &&str| !s.is_empty() && s.len() <= 8192 && s.bytes().all(|b| (0x20..0x7f).contains(&b));
    match values.iter().all(visible) {
        true => Ok(()),
        false => refuse("the secret has 1 to 8192 visible ASCII characters"),
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
        return refuse(format!("{name:?} is not the name of a header field"));
    }
    if ours.contains(&lower.as_str()) || lower.starts_with("mcp-") {
        return refuse(format!(
            "the header field {name} is set by the protocol: a secret cannot travel in it"
        ));
    }
    Ok(())
}

/// The type of one instance: its template with what was settled for it.
pub fn concrete(template: &InstanceType, generic: &Generic) -> InstanceType {
    let mut t = template.clone();
    if let Some(network) = generic.network {
        t.egress = network;
    }
    if generic.volume.is_some() {
        t.volume.clone_from(&generic.volume);
    }
    if let Some(limit) = generic.call_timeout {
        t.mcp.call_timeout = limit;
    }
    let resolved = generic.resolved.as_ref();
    if let Some(r) = resolved {
        t.image = ImageRef {
            reference: r.image.clone(),
            digest: None,
        };
    } else if let Source::Image(i) = &generic.source {
        t.image.reference.clone_from(&i.image);
    }
    let base = resolved.map(|r| r.command.clone()).unwrap_or_default();
    match &generic.source {
        Source::Npx(p) | Source::Uvx(p) => set_stdio(&mut t, [base, p.args.clone()].concat(), generic.processes),
        Source::Image(i) => match &i.http {
            None => set_stdio(&mut t, base, generic.processes),
            Some(http) => {
                let limit = t.health.start_timeout;
                t.services = vec![Service {
                    name: "server".to_owned(),
                    command: base,
                    env: stdio_env(&t.mcp.transport),
                    ready: Ready::Port {
                        port: http.port,
                        timeout_ms: crate::catalog::millis(limit),
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
            let taken = take(&Allow::default(), &t, &request).map_err(|e| e.to_string())?;
            Ok::<_, String>(concrete(&t, &taken.expect("generic")).mcp.call_timeout)
        };
        assert_eq!(asked(Kind::Npx, package(), 1_200_000), Ok(Duration::from_secs(1200)));
        for ms in [0, 999, 86_400_001] {
            assert!(
                asked(Kind::Npx, package(), ms)
                    .expect_err("refused")
                    .contains("1s to 24h")
            );
        }
        assert!(
            asked(Kind::Fixed, None, 1000)
                .expect_err("refused")
                .contains("call_timeout in [mcp]")
        );
    }
}
