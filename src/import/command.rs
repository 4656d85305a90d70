//! The commands that clients start servers with: npx and its likes, uvx and its likes, docker, node, python. A
//! package is brought over; a file of somebody's laptop cannot be.

use std::collections::BTreeMap;

use super::{Launch, Package, Planned, Refused, Registry, docker, text::Text};

/// What a command would become.
pub(super) fn read(
    program: &str,
    args: &[String],
    planned: &mut Planned,
    env: &mut BTreeMap<String, Text>,
) -> Result<Launch, Refused> {
    let name = base(program);
    let rest = |n: usize| args.get(n..).unwrap_or_default();
    let first = args.first().map(String::as_str).unwrap_or_default();
    match (name.as_str(), first) {
        ("cmd", _) if first.eq_ignore_ascii_case("/c") && args.len() > 1 => read(&args[1], rest(2), planned, env),
        ("npx" | "bunx" | "pnpx", _) => npx(args),
        ("npm", "exec" | "x") | ("pnpm" | "yarn", "dlx") | ("bun", "x") => npx(rest(1)),
        ("uvx", _) => uvx(args, planned).map(Launch::Package),
        ("pipx", "run") => uvx(rest(1), planned).map(Launch::Package),
        ("uv", "tool") if args.get(1).is_some_and(|a| a == "run") => uvx(rest(2), planned).map(Launch::Package),
        ("docker" | "podman", _) => docker::read(args, planned, env).map(Launch::Package),
        ("node", _) => node(args, planned).map(Launch::Package),
        ("python" | "python3" | "py", _) => python(args, planned).map(Launch::Package),
        _ => Err(foreign(program)),
    }
}

/// A program that only that machine has.
pub(super) fn foreign(program: &str) -> Refused {
    Refused {
        what: format!("command {:?}", base(program)),
        why: "it is a program of that machine; bring the server over as an npm or PyPI package (npx, uvx) or as an image (docker run)".into(),
    }
}

fn base(program: &str) -> String {
    let name = program
        .rsplit(['/', '\\'])
        .next()
        .unwrap_or(program)
        .to_ascii_lowercase();
    let name = name
        .strip_suffix(".exe")
        .or_else(|| name.strip_suffix(".cmd"))
        .unwrap_or(&name);
    // python3.12
    match name.strip_prefix("python3.") {
        Some(minor) if minor.bytes().all(|c| c.is_ascii_digit()) => "python3".into(),
        _ => name.to_owned(),
    }
}

fn refused(what: impl Into<String>, why: &str) -> Refused {
    Refused {
        what: what.into(),
        why: why.into(),
    }
}

fn npx(args: &[String]) -> Result<Launch, Refused> {
    let mut spec = None;
    let mut words = args.iter();
    let mut bin = None;
    while let Some(word) = words.next() {
        match word.as_str() {
            "-y" | "--yes" | "-q" | "--quiet" | "--silent" | "--prefer-offline" | "--prefer-online" | "--bun"
            | "--" => {}
            "-p" | "--package" => spec = words.next().cloned(),
            "-c" | "--call" => return Err(refused("npx -c", "it runs a shell line; name the package instead")),
            w if w.starts_with("--package=") => spec = Some(w["--package=".len()..].to_owned()),
            w if w.starts_with('-') => {
                return Err(refused(
                    format!("npx {}", flag_only(w)),
                    "this option is not known here; leave it out",
                ));
            }
            w => {
                match spec {
                    Some(_) => bin = Some(w.to_owned()),
                    None => spec = Some(w.to_owned()),
                }
                break;
            }
        }
    }
    let spec = spec.ok_or_else(|| refused("npx", "it names no package"))?;
    let (name, version) = npm_spec(&spec)?;
    let rest: Vec<&String> = words.collect();
    if name == "mcp-remote" {
        return mcp_remote(&rest);
    }
    Ok(Launch::Package(Package {
        registry: Registry::Npm,
        name,
        version,
        bin,
        args: rest.iter().map(|a| Text::parse(a)).collect(),
        http: None,
    }))
}

/// `name@version`, with or without scope.
fn npm_spec(spec: &str) -> Result<(String, Option<String>), Refused> {
    if spec.starts_with(['.', '/', '~']) || spec.contains("://") || spec.contains(':') || spec.ends_with(".tgz") {
        return Err(refused(
            format!("package {spec:?}"),
            "it is a folder, a repository or a file; only packages of the npm registry are installed",
        ));
    }
    let at = spec.char_indices().skip(1).find(|(_, c)| *c == '@').map(|(i, _)| i);
    Ok(match at {
        Some(at) => (spec[..at].into(), Some(spec[at + 1..].into())),
        None => (spec.into(), None),
    })
}

/// mcp-remote carries stdio to a URL: on Berth that is a remote server itself.
fn mcp_remote(args: &[&String]) -> Result<Launch, Refused> {
    let mut url = None;
    let mut headers = BTreeMap::new();
    let mut sse = false;
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--header" => {
                if let Some((key, value)) = words.next().and_then(|h| h.split_once(':')) {
                    headers.insert(key.trim().to_owned(), Text::parse(value.trim()));
                }
            }
            "--transport" => sse = words.next().is_some_and(|t| t.as_str() == "sse-only"),
            w if w.starts_with("http://") || w.starts_with("https://") || w.starts_with("${") => {
                url.get_or_insert_with(|| w.to_owned());
            }
            _ => {}
        }
    }
    let url = url.ok_or_else(|| refused("mcp-remote", "it names no URL"))?;
    Ok(Launch::Remote {
        url: Text::parse(&url),
        sse,
        headers,
    })
}

fn uvx(args: &[String], planned: &mut Planned) -> Result<Package, Refused> {
    let mut from = None;
    let mut words = args.iter();
    let mut positional = None;
    while let Some(word) = words.next() {
        match word.as_str() {
            "-q" | "--quiet" | "--refresh" | "--isolated" | "--no-cache" | "-n" | "--offline" | "--" => {}
            "--from" | "--spec" => from = words.next().cloned(),
            "-p" | "--python" => {
                words.next();
                planned.notes.push("the choice of a Python is left out".into());
            }
            "--prerelease" => {
                words.next();
                planned.notes.push("--prerelease is left out; name the version".into());
            }
            w if w.starts_with("--from=") => from = Some(w["--from=".len()..].to_owned()),
            w if w.starts_with("--python=") => planned.notes.push("the choice of a Python is left out".into()),
            w if w.starts_with('-') => {
                return Err(refused(
                    format!("uvx {}", flag_only(w)),
                    "this option is not known here; leave it out",
                ));
            }
            w => {
                positional = Some(w.to_owned());
                break;
            }
        }
    }
    let (spec, bin) = match (from, positional) {
        (Some(from), bin) => (from, bin),
        (None, Some(spec)) => (spec, None),
        (None, None) => return Err(refused("uvx", "it names no package")),
    };
    if spec.contains("://") || spec.starts_with(['.', '/', '~']) || spec.ends_with(".whl") {
        return Err(refused(
            format!("package {spec:?}"),
            "it is a folder, a repository or a file; only packages of PyPI are installed",
        ));
    }
    let (name, version) = match spec.split_once("==").or_else(|| spec.split_once('@')) {
        Some((name, version)) => (name.to_owned(), Some(version.to_owned())),
        None => (spec, None),
    };
    if name.contains(['<', '>', '~', '!', ' ']) {
        return Err(refused(
            format!("package {name:?}"),
            "name one version with ==, or none",
        ));
    }
    let bin = bin.filter(|b| *b != name);
    Ok(Package {
        registry: Registry::Pypi,
        name,
        version,
        bin,
        args: words.map(|a| Text::parse(a)).collect(),
        http: None,
    })
}

/// `node …/node_modules/@scope/name/dist/index.js` is that package; any other file is the laptop's own.
fn node(args: &[String], planned: &mut Planned) -> Result<Package, Refused> {
    let at = args.iter().position(|a| !a.starts_with('-')).unwrap_or(args.len());
    let file = args.get(at).map(|f| f.replace('\\', "/")).unwrap_or_default();
    let Some((_, inner)) = file.rsplit_once("node_modules/") else {
        return Err(refused(
            format!("node {}", file.rsplit('/').next().unwrap_or_default()),
            "it runs a file of that machine; publish it as an npm package or build an image of it",
        ));
    };
    let mut parts = inner.split('/');
    let first = parts.next().unwrap_or_default();
    let name = match parts.next() {
        Some(second) if first.starts_with('@') => format!("{first}/{second}"),
        _ => first.to_owned(),
    };
    planned.notes.push(format!(
        "taken as the npm package {name}, whose file it runs; the installed version is not known here"
    ));
    Ok(Package {
        registry: Registry::Npm,
        name,
        version: None,
        bin: None,
        args: args[at + 1..].iter().map(|a| Text::parse(a)).collect(),
        http: None,
    })
}

/// `python -m mcp_server_time` is the package mcp-server-time; any other file is the laptop's own.
fn python(args: &[String], planned: &mut Planned) -> Result<Package, Refused> {
    let at = args.iter().position(|a| a == "-m");
    let Some((module, rest)) = at.and_then(|at| args[at + 1..].split_first()) else {
        let file = args
            .iter()
            .find(|a| !a.starts_with('-'))
            .map(String::as_str)
            .unwrap_or_default();
        return Err(refused(
            format!("python {}", file.rsplit(['/', '\\']).next().unwrap_or_default()),
            "it runs a file of that machine; publish it as a PyPI package or build an image of it",
        ));
    };
    let name = module.split('.').next().unwrap_or(module).replace('_', "-");
    planned
        .notes
        .push(format!("the module {module} is taken as the PyPI package {name}"));
    Ok(Package {
        registry: Registry::Pypi,
        name,
        version: None,
        bin: None,
        args: rest.iter().map(|a| Text::parse(a)).collect(),
        http: None,
    })
}

/// An option without its value, which might be a secret.
fn flag_only(word: &str) -> &str {
    word.split('=').next().unwrap_or(word)
}
