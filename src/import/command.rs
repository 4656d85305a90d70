//! The commands that clients start servers with: npx and its likes, uvx and its likes, docker, node, python. A
//! package is brought over; a file of somebody's laptop cannot be.

use std::collections::BTreeMap;

use crate::model::split_package;

use super::{Launch, Package, Planned, Refused, Registry, docker, shell, text::Text};

/// Programs that start programs that start programs: no more of them than this.
const DEPTH: usize = 8;

/// What a command would become.
pub(super) fn read(
    program: &str,
    args: &[String],
    planned: &mut Planned,
    env: &mut BTreeMap<String, Text>,
) -> Result<Launch, Refused> {
    read_at(program, args, planned, env, DEPTH)
}

fn read_at(
    program: &str,
    args: &[String],
    planned: &mut Planned,
    env: &mut BTreeMap<String, Text>,
    depth: usize,
) -> Result<Launch, Refused> {
    let name = base(program);
    if depth == 0 {
        return Err(foreign(program));
    }
    // All in one string, as some write it.
    if args.is_empty() && program.contains(' ') && !program.contains(['/', '\\']) {
        let line = shell::handed_on("command", program)?;
        return read_line(line, planned, env, depth);
    }
    let rest = |n: usize| args.get(n..).unwrap_or_default();
    let first = args.first().map(String::as_str).unwrap_or_default();
    match (name.as_str(), first) {
        ("cmd", _) if first.eq_ignore_ascii_case("/c") || first.eq_ignore_ascii_case("/k") => {
            started(&name, rest(1), planned, env, depth)
        }
        ("bash" | "sh" | "zsh" | "dash" | "fish" | "ksh", _) => {
            let at = args
                .iter()
                .position(|a| a.starts_with('-') && !a.starts_with("--") && a.contains('c'));
            let Some(text) = at.and_then(|at| args.get(at + 1)) else {
                return Err(foreign(program));
            };
            read_line(shell::handed_on(&name, text)?, planned, env, depth)
        }
        ("powershell" | "pwsh", _) => {
            let at = args
                .iter()
                .position(|a| ["-command", "-c"].contains(&a.to_ascii_lowercase().as_str()));
            let Some(at) = at else { return Err(foreign(program)) };
            read_line(shell::handed_on(&name, &rest(at + 1).join(" "))?, planned, env, depth)
        }
        ("env", _) => {
            let flags = args.iter().take_while(|a| a.starts_with('-')).count();
            let words = rest(flags);
            let given = words
                .iter()
                .take_while(|w| !w.starts_with('=') && w.contains('='))
                .count();
            for (key, value) in words[..given].iter().filter_map(|w| w.split_once('=')) {
                env.insert(key.to_owned(), Text::parse(value));
            }
            started(&name, &words[given..], planned, env, depth)
        }
        ("sudo" | "nohup" | "exec" | "time" | "command" | "wsl" | "nice" | "doas", _) => {
            let mut skip = 0;
            while let Some(flag) = args.get(skip).filter(|a| a.starts_with('-')) {
                let valued = ["-u", "-g", "-d", "--distribution", "--user", "-n"].contains(&flag.as_str())
                    && !(flag == "-n" && name == "sudo");
                skip += if valued { 2 } else { 1 };
            }
            started(&name, rest(skip), planned, env, depth)
        }
        ("npx" | "bunx" | "pnpx", _) => npx(args),
        ("npm", "exec" | "x") | ("pnpm" | "yarn", "dlx") | ("bun", "x") => npx(rest(1)),
        ("deno", "run") => deno(rest(1)),
        ("uvx", _) => match args
            .iter()
            .position(|a| a == "mcp-proxy" || a.starts_with("mcp-proxy@"))
        {
            Some(at) if args[..at].iter().all(|a| a.starts_with('-')) => {
                carrier("mcp-proxy", &rest(at + 1).iter().collect::<Vec<_>>())
            }
            _ => uvx(args, planned).map(Launch::Package),
        },
        ("pipx", "run") => uvx(rest(1), planned).map(Launch::Package),
        ("uv", "tool") if args.get(1).is_some_and(|a| a == "run") => uvx(rest(2), planned).map(Launch::Package),
        ("uv", "x") => uvx(rest(1), planned).map(Launch::Package),
        ("uv", "run") => uv_run(rest(1), planned).map(Launch::Package),
        ("docker" | "podman", _) => docker::read(args, planned, env).map(Launch::Package),
        ("node", _) => node(args, planned).map(Launch::Package),
        ("python" | "python3" | "py", _) => python(args).map(Launch::Package),
        _ => Err(foreign(program)),
    }
}

/// What a program starts that only starts another.
fn started(
    by: &str,
    words: &[String],
    planned: &mut Planned,
    env: &mut BTreeMap<String, Text>,
    depth: usize,
) -> Result<Launch, Refused> {
    match words {
        [] => Err(refused(by, "it starts nothing")),
        [line] if line.contains(' ') => read_line(shell::handed_on(by, line)?, planned, env, depth),
        [program, args @ ..] => read_at(program, args, planned, env, depth - 1),
    }
}

fn read_line(
    line: shell::Line,
    planned: &mut Planned,
    env: &mut BTreeMap<String, Text>,
    depth: usize,
) -> Result<Launch, Refused> {
    env.extend(line.env);
    started("a shell", &line.words, planned, env, depth)
}

/// A program that only the laptop has.
pub(super) fn foreign(program: &str) -> Refused {
    Refused {
        what: format!("command {:?}", base(program)),
        why: "it is a program of the laptop; import the server as an npm or PyPI package (npx, uvx) or as an image (docker run)".into(),
    }
}

/// The program without its folder and what Windows puts at its end.
fn base(program: &str) -> String {
    let name = shell::file_name(program).to_ascii_lowercase();
    let name = without_ending(&name);
    // python3.12
    match name.strip_prefix("python3.") {
        Some(minor) if minor.bytes().all(|c| c.is_ascii_digit()) => "python3".into(),
        _ => name.to_owned(),
    }
}

fn without_ending(name: &str) -> &str {
    let endings = [".exe", ".cmd", ".bat", ".ps1"];
    endings.iter().find_map(|e| name.strip_suffix(e)).unwrap_or(name)
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
    if ["mcp-remote", "supergateway"].contains(&name.as_str()) {
        return carrier(&name, &rest);
    }
    Ok(Launch::Package(Package {
        registry: Registry::Npm,
        name,
        version,
        bin,
        args: rest.iter().map(|a| Text::parse(a)).collect(),
        http: None,
        guessed: None,
    }))
}

/// `name@version`, with or without scope. The newest is what one gets without a version.
fn npm_spec(spec: &str) -> Result<(String, Option<String>), Refused> {
    let spec = spec.strip_prefix("npm:").unwrap_or(spec);
    let repository = !spec.starts_with('@') && spec.contains('/');
    if spec.starts_with(['.', '/', '~']) || spec.contains(':') || spec.ends_with(".tgz") || repository {
        return Err(refused(
            format!("package {spec:?}"),
            "it is a folder, a repository or a file; only packages of the npm registry are installed",
        ));
    }
    let (name, version) = split_package(spec);
    Ok((name, newest(version)))
}

fn newest(version: Option<String>) -> Option<String> {
    version.filter(|v| !v.is_empty() && v != "latest" && v != "*")
}

/// `deno run … npm:name`
fn deno(args: &[String]) -> Result<Launch, Refused> {
    let at = args.iter().position(|a| !a.starts_with('-'));
    match at.map(|at| (at, args[at].as_str())) {
        Some((at, spec)) if spec.starts_with("npm:") => npx(&args[at..]),
        _ => Err(refused(
            "deno run",
            "only packages of the npm registry (npm:NAME) come along",
        )),
    }
}

/// Programs that carry stdio to a URL: on Berth that is a remote server itself.
fn carrier(name: &str, args: &[&String]) -> Result<Launch, Refused> {
    let mut url = None;
    let mut headers = BTreeMap::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let (flag, inline) = shell::flag(word);
        let mut value = || inline.clone().or_else(|| words.next().map(|w| (*w).clone()));
        match flag {
            // mcp-proxy has name and value as two words.
            "-H" | "--headers" => {
                if let (Some(key), Some(given)) = (value(), words.next()) {
                    headers.insert(key, Text::parse(given));
                }
            }
            "--header" => {
                if let Some((key, given)) = value().as_deref().and_then(|h| h.split_once(':')) {
                    headers.insert(key.trim().to_owned(), Text::parse(given.trim()));
                }
            }
            "--oauth2Bearer" => {
                if let Some(token) = value() {
                    headers.insert("Authorization".into(), Text::parse(&token).after("Bearer "));
                }
            }
            "--transport" => drop(value()),
            "--streamableHttp" | "--sse" => url = value(),
            "--stdio" => {
                return Err(refused(
                    format!("{name} --stdio"),
                    "it serves another program over HTTP, as Berth does itself: import the program behind it",
                ));
            }
            w if w.starts_with("http://") || w.starts_with("https://") || w.starts_with("${") => {
                url.get_or_insert_with(|| (*word).clone());
            }
            _ => {}
        }
    }
    let url = url.ok_or_else(|| refused(name, "it names no URL"))?;
    Ok(Launch::Remote {
        url: Text::parse(&url),
        headers,
    })
}

fn uvx(args: &[String], planned: &mut Planned) -> Result<Package, Refused> {
    let mut from = None;
    let mut words = args.iter();
    let mut positional = None;
    while let Some(word) = words.next() {
        let (flag, inline) = shell::flag(word);
        let mut value = || inline.clone().or_else(|| words.next().cloned());
        match flag {
            "-q" | "--quiet" | "--refresh" | "--isolated" | "--no-cache" | "-n" | "--offline" | "--native-tls"
            | "-U" | "--upgrade" | "--no-config" | "--" => {}
            "--from" | "--spec" => from = value(),
            "-p" | "--python" => {
                value();
                planned.notes.push("the choice of a Python is left out".into());
            }
            "--prerelease" => {
                value();
                planned.notes.push("--prerelease is left out; name the version".into());
            }
            "--refresh-package" | "--cache-dir" | "--directory" | "--project" => drop(value()),
            "--with" | "-w" | "--with-requirements" | "--with-editable" => {
                return Err(refused(
                    format!("uvx {flag}"),
                    "an instance has one package with what it depends on; where the package has an extra for it, write NAME[extra]",
                ));
            }
            "--index-url" | "-i" | "--index" | "--extra-index-url" | "--default-index" | "--find-links" => {
                return Err(refused(
                    format!("uvx {flag}"),
                    "where packages come from is set for the whole box: python_index in [install] of berth.toml",
                ));
            }
            w if w.starts_with('-') => {
                return Err(refused(
                    format!("uvx {}", flag_only(w)),
                    "this option is not known here; leave it out",
                ));
            }
            _ => {
                positional = Some(word.clone());
                break;
            }
        }
    }
    let (spec, bin) = match (from, positional) {
        (Some(from), bin) => (from, bin),
        (None, Some(spec)) => (spec, None),
        (None, None) => return Err(refused("uvx", "it names no package")),
    };
    let args: Vec<Text> = words.map(|a| Text::parse(a)).collect();
    python_package(&spec, bin, args)
}

/// `uv run --with PACKAGE … PROGRAM ARGUMENTS`: the package that has the program.
fn uv_run(args: &[String], planned: &mut Planned) -> Result<Package, Refused> {
    let mut with = Vec::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let (flag, inline) = shell::flag(word);
        let mut value = || inline.clone().or_else(|| words.next().cloned()).unwrap_or_default();
        match flag {
            "--with" | "-w" => with.extend(value().split(',').map(str::to_owned)),
            "-p" | "--python" => {
                value();
                planned.notes.push("the choice of a Python is left out".into());
            }
            "-q" | "--quiet" | "--isolated" | "--no-project" | "--no-cache" | "--refresh" | "--" => {}
            w if w.starts_with('-') => {
                return Err(refused(
                    format!("uv run {w}"),
                    "it runs a project of the laptop; publish it as a PyPI package or build an image of it",
                ));
            }
            _ => {
                let program = without_ending(word);
                let bare = |spec: &String| python_spec(spec).map(|(name, _)| bare_name(&name));
                let named = |spec: &&String| bare(spec).is_ok_and(|name| name == bare_name(program));
                let spec = with.iter().find(named).or(match with.as_slice() {
                    [only] if !program.ends_with(".py") && !program.contains(['/', '\\']) => Some(only),
                    _ => None,
                });
                let Some(spec) = spec else {
                    return Err(refused(
                        format!("uv run {}", shell::file_name(program)),
                        "it runs a file or a project of the laptop; publish it as a PyPI package or build an image of it",
                    ));
                };
                let args: Vec<Text> = words.map(|a| Text::parse(a)).collect();
                if let Some(file) = args.iter().filter_map(Text::as_literal).find(|a| a.ends_with(".py")) {
                    return Err(refused(
                        format!("uv run {program} {}", shell::file_name(file)),
                        "it runs a file of the laptop; publish it as a PyPI package or build an image of it",
                    ));
                }
                return python_package(spec, Some(program.to_owned()), args);
            }
        }
    }
    Err(refused("uv run", "it names no program"))
}

fn python_package(spec: &str, bin: Option<String>, args: Vec<Text>) -> Result<Package, Refused> {
    let (name, version) = python_spec(spec)?;
    let bin = bin.map(|b| without_ending(&b).to_owned());
    if bin.as_deref().is_some_and(|b| base(b).starts_with("python")) {
        return Err(refused(
            format!("python with the package {name}"),
            "a module is no program of the package; name the program that it installs",
        ));
    }
    Ok(Package {
        registry: Registry::Pypi,
        bin: bin.filter(|b| bare_name(b) != bare_name(&name)),
        name,
        version,
        args,
        http: None,
        guessed: None,
    })
}

/// A requirement of Python (PEP 508) or `name@version`, as uvx takes it, in a name with its extras and one version.
fn python_spec(spec: &str) -> Result<(String, Option<String>), Refused> {
    if spec.contains("://") || spec.starts_with(['.', '/', '~']) || spec.ends_with(".whl") || spec.contains('\\') {
        return Err(refused(
            format!("package {spec:?}"),
            "it is a folder, a repository or a file; only packages of PyPI are installed",
        ));
    }
    let (name, version) = match spec.split_once("==").or_else(|| spec.split_once('@')) {
        Some((name, version)) => (name.trim().to_owned(), newest(Some(version.trim().to_owned()))),
        None => (spec.trim().to_owned(), None),
    };
    if name.contains(['<', '>', '~', '!', '=', ' ', ';']) {
        return Err(refused(
            format!("package {name:?}"),
            "name one version with ==, or none",
        ));
    }
    Ok((name, version))
}

/// As PyPI compares names (PEP 503), without extras.
fn bare_name(name: &str) -> String {
    let name = name.split('[').next().unwrap_or(name);
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

/// `node …/node_modules/@scope/name/dist/index.js` is that package; any other file is the laptop's own.
fn node(args: &[String], planned: &mut Planned) -> Result<Package, Refused> {
    let at = args.iter().position(|a| !a.starts_with('-')).unwrap_or(args.len());
    let file = args.get(at).map(|f| f.replace('\\', "/")).unwrap_or_default();
    let Some((_, inner)) = file.rsplit_once("node_modules/") else {
        return Err(refused(
            format!("node {}", file.rsplit('/').next().unwrap_or_default()),
            "it runs a file of the laptop; publish it as an npm package or build an image of it",
        ));
    };
    let mut parts = inner.split('/');
    let first = parts.next().unwrap_or_default();
    if first.starts_with('.') {
        return Err(refused(
            format!("node {}", inner.rsplit('/').next().unwrap_or_default()),
            "which package has this program is not to be seen; write `npx PACKAGE` in the file and import again",
        ));
    }
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
        guessed: None,
    })
}

/// `python -m mcp_server_time` may be the package mcp-server-time, and may be a folder of the laptop: only what the catalog
/// knows is taken for it. Any other file is the laptop's own.
fn python(args: &[String]) -> Result<Package, Refused> {
    let at = args.iter().position(|a| a == "-m");
    let Some((module, rest)) = at.and_then(|at| args[at + 1..].split_first()) else {
        let file = args
            .iter()
            .find(|a| !a.starts_with('-'))
            .map(String::as_str)
            .unwrap_or_default();
        return Err(refused(
            format!("python {}", shell::file_name(file)),
            "it runs a file of the laptop; publish it as a PyPI package or build an image of it",
        ));
    };
    let name = module.split('.').next().unwrap_or(module).replace('_', "-");
    Ok(Package {
        registry: Registry::Pypi,
        name,
        version: None,
        bin: None,
        args: rest.iter().map(|a| Text::parse(a)).collect(),
        http: None,
        guessed: Some(format!("python -m {module}")),
    })
}

/// An option without its value, which might be a secret.
fn flag_only(word: &str) -> &str {
    word.split('=').next().unwrap_or(word)
}
