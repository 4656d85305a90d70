//! `berth import`: what a laptop runs, brought over. The plan is shown first; then each server is run, and the client's
//! configuration is written back if that was asked.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::{args::ImportArgs, environment, print, prompt, verbs::Verbs};
use crate::{
    api::{Route, TypeView},
    clients::{self, Client, Replaced},
    escape,
    import::{self, Answers, Deploy, Format, Import, Known, Planned, Target, Text},
    model::{
        Action, HttpPlace, ImageSource, InstanceName, InstanceView, Outcome, PackageSource, RemoteAuth, RemoteSource,
        RunRequest, Secret, Source, State, TypeName,
    },
    output,
};

/// What one server came to.
struct Brought {
    source: String,
    /// Where the text has it.
    path: Vec<String>,
    result: Result<Box<InstanceView>>,
}

impl Verbs {
    pub(super) async fn import(&self, what: ImportArgs) -> Result<ExitCode> {
        let (file, text) = read(&what)?;
        let import = import::read(&file, &text).map_err(|problems| anyhow!("{problems}"))?;
        // Before anything runs: what cannot be written back is said now.
        let client = match what.write {
            true => Some(client_of(&file, &import, &what)?),
            false => None,
        };
        let types: Vec<TypeView> = self.supervisor.list(Route::Types.path()).await?;
        let known: Vec<Known> = types.iter().filter_map(known).collect();
        let mut plan = import::plan(&import, &known);
        if !what.only.is_empty() {
            if let Some(name) = what.only.iter().find(|n| !plan.iter().any(|p| p.source == **n)) {
                bail!("{file} has no server {name:?}");
            }
            plan.retain(|p| what.only.contains(&p.source));
        }
        if let Some(name) = &what.name {
            let [only] = plan.as_mut_slice() else {
                bail!(
                    "--name is for one server, and there are {}: choose one with --only",
                    plan.len()
                );
            };
            name.as_str().clone_into(&mut only.name);
        }
        if !self.json {
            print::out(&shown(&plan, &import))?;
        }
        let runs = plan.iter().filter(|p| p.deploy.is_some()).count();
        if runs == 0 || !what.yes && !agreed(runs, self.json)? {
            if self.json {
                print::json(&json!({ "plan": plan.iter().map(|p| as_json(p, &import)).collect::<Vec<_>>() }))?;
            } else if runs > 0 {
                output::error_line("Nothing was done. Use --yes to execute the plan");
            }
            return Ok(if runs == 0 {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            });
        }
        let brought = self.run_all(&plan, &import, &what).await?;
        self.tell(&plan, &import, &brought, &what).await?;
        if let Some(client) = client {
            self.write_back(client, &file, &text, &brought, &what).await?;
        }
        let failed = brought.iter().any(|b| b.result.is_err()) || plan.iter().any(|p| p.deploy.is_none());
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Runs each server of the plan; one failure does not keep the others from being run.
    async fn run_all(&self, plan: &[Planned], import: &Import, what: &ImportArgs) -> Result<Vec<Brought>> {
        let answers = answers(plan, import, what)?;
        let mut brought = Vec::new();
        for p in plan {
            let Some(deploy) = &p.deploy else { continue };
            if !self.json {
                output::error_line(&format!("==> {}", p.name));
            }
            let result = match request(p, deploy, &answers, what) {
                Ok(request) => self.run_one(request, what).await,
                Err(e) => Err(e),
            };
            if let Err(e) = &result {
                print::problem(&format_args!("{}: {e:#}", p.source));
            }
            brought.push(Brought {
                source: p.source.clone(),
                path: p.path.clone(),
                result,
            });
        }
        Ok(brought)
    }

    async fn run_one(&self, request: RunRequest, what: &ImportArgs) -> Result<Box<InstanceView>> {
        let Outcome::Instance(mut view) = self.supervisor.act(&Action::Run(Box::new(request))).await? else {
            bail!("the answer of the supervisor was not understood; does it have another version?");
        };
        if what.wait.no_wait {
            return Ok(view);
        }
        let token = view.token.take();
        match self.wait_watching(&view.id, &what.wait).await? {
            Some(settled) => *view = settled,
            None => bail!("instance {} was removed meanwhile", view.id),
        }
        view.token = token;
        if view.state != State::Running {
            let why = view.reason.clone().unwrap_or_else(|| "no reason is known".into());
            bail!(
                "instance {} is {}: {why}\nIt was not removed. Correct the cause and run `berth start {}`, or run `berth rm {}`",
                view.id,
                view.state,
                view.id,
                view.id
            );
        }
        Ok(view)
    }

    async fn tell(&self, plan: &[Planned], import: &Import, brought: &[Brought], what: &ImportArgs) -> Result<()> {
        if !self.json {
            for view in brought.iter().filter_map(|b| b.result.as_ref().ok()) {
                let endpoint = &view.endpoints.mcp;
                let url = if what.path { &endpoint.path_url } else { &endpoint.url };
                print::out(&format!("{}  {}  {url}\n", view.id, view.name))?;
            }
            return Ok(());
        }
        let done: Vec<Value> = brought
            .iter()
            .map(|b| match &b.result {
                Ok(view) => json!({ "source": b.source, "instance": view }),
                Err(e) => json!({ "source": b.source, "error": format!("{e:#}") }),
            })
            .collect();
        let plan: Vec<Value> = plan.iter().map(|p| as_json(p, import)).collect();
        print::json(&json!({ "plan": plan, "brought": done }))
    }

    /// Puts the addresses on Berth in place of what was brought over; the file as it was stays beside it.
    async fn write_back(
        &self,
        client: Client,
        file: &str,
        text: &str,
        brought: &[Brought],
        what: &ImportArgs,
    ) -> Result<()> {
        let ca_file = self.ca_file().await?;
        let mut by = Replaced::new();
        for b in brought {
            let Ok(view) = &b.result else { continue };
            let Some(token) = &view.token else { continue };
            let endpoint = &view.endpoints.mcp;
            let target = clients::Target {
                name: &b.source,
                url: if what.path { &endpoint.path_url } else { &endpoint.url },
                token: token.expose(),
                ca_file: ca_file.as_deref(),
            };
            by.insert(b.path.clone(), clients::entry(client, &target));
        }
        if by.is_empty() {
            output::error_line(&format!("{file} was not changed: no server was imported"));
            return Ok(());
        }
        let written = clients::rewrite(file, text, &by).map_err(|e| anyhow!("{file} cannot be written back: {e}"))?;
        let target = what.output.clone().unwrap_or_else(|| PathBuf::from(file));
        if target.exists() {
            let kept = beside(&target, ".before-berth");
            save(
                &kept,
                &std::fs::read(&target).with_context(|| format!("{} cannot be read", target.display()))?,
            )?;
            output::error_line(&format!(
                "{} has the old file, with the old secrets. Remove it when everything works",
                kept.display()
            ));
        }
        save(&target, written.as_bytes())?;
        output::error_line(&format!(
            "{} now uses Berth for {} of its servers, each with its own token",
            target.display(),
            by.len()
        ));
        Ok(())
    }
}

/// The text, and what it is called in messages.
fn read(what: &ImportArgs) -> Result<(String, String)> {
    if !what.command.is_empty() {
        return Ok(("command line".into(), shell_words::join(&what.command)));
    }
    let Some(file) = &what.file else {
        bail!("name a file (- for standard input), or write the command line after --");
    };
    let mut input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?)
    };
    let mut bytes = Vec::new();
    input
        .by_ref()
        .take(import::MAX_TEXT as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("{} cannot be read", file.display()))?;
    let text = decoded(bytes).with_context(|| format!("{} is not text", file.display()))?;
    Ok((file.display().to_string(), text))
}

/// UTF-8, or UTF-16 with its mark, as Windows writes it.
fn decoded(bytes: Vec<u8>) -> Result<String> {
    let wide = |rest: &[u8], of: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = rest.chunks_exact(2).map(|c| of([c[0], c[1]])).collect();
        String::from_utf16(&units).context("it is not valid UTF-16")
    };
    match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => String::from_utf8(bytes).context("it is not valid UTF-8"),
    }
}

fn known(t: &TypeView) -> Option<Known> {
    Some(Known {
        type_name: t.name.clone(),
        rules: t.import.clone()?,
    })
}

fn agreed(runs: usize, json: bool) -> Result<bool> {
    if json || !prompt::person() {
        return Ok(false);
    }
    prompt::yes(&format!("Run {runs} of them on Berth?"))
}

/// The plan for a person. Secrets are dots.
fn shown(plan: &[Planned], import: &Import) -> String {
    let mut out = String::new();
    for p in plan {
        let what = match &p.deploy {
            Some(d) => describe(d),
            None => "cannot be imported".into(),
        };
        // A name or a value that holds a newline must not look like a row of the plan.
        out += &format!("{:<24} {}\n", escape::line(&p.source), escape::line(&what));
        let mut line = |text: String| out += &format!("{:<24}   {}\n", "", escape::line(&text));
        if let Some(d) = &p.deploy {
            for (key, value) in &d.env {
                if import::is_secret(key, value, &import.questions) {
                    line(format!("{key}: a secret, will be sealed"));
                } else {
                    line(format!("{key}={}", value.shown(false)));
                }
            }
        }
        for (key, path) in p.deploy.iter().flat_map(|d| &d.files) {
            line(format!("{key}: the file {path} of this machine, will be sealed"));
        }
        for file in &p.env_files {
            line(format!("variables of {file}, will be sealed"));
        }
        for r in &p.refused {
            line(format!("refused: {}: {}", r.what, r.why));
        }
        for note in &p.notes {
            line(format!("note: {note}"));
        }
    }
    out
}

fn describe(d: &Deploy) -> String {
    let at = |name: &str, version: &Option<String>| match version {
        Some(v) => format!("{name}@{v}"),
        None => name.to_owned(),
    };
    let what = match &d.target {
        Target::Catalog { type_name } => return format!("type {type_name}"),
        Target::Npx { package, version, .. } | Target::Uvx { package, version, .. } => at(package, version),
        Target::Image { reference, .. } => reference.clone(),
        Target::Remote { url, headers } => {
            let mut what = import::shown_url(url);
            for (name, value) in headers {
                let secret = import::header_is_secret(name);
                what += &format!(
                    ", {name}: {}",
                    if secret {
                        "a secret, will be sealed".into()
                    } else {
                        value.shown(false)
                    }
                );
            }
            what
        }
    };
    let args: Vec<String> = d.args.iter().map(|a| a.shown(false)).collect();
    format!("type {} {what} {}", d.target.type_name(), args.join(" "))
        .trim_end()
        .to_owned()
}

fn as_json(p: &Planned, import: &Import) -> Value {
    let refused: Vec<Value> = p
        .refused
        .iter()
        .map(|r| json!({ "what": r.what, "why": r.why }))
        .collect();
    let deploy = p.deploy.as_ref().map(|d| {
        let secrets: Vec<&String> = d
            .env
            .iter()
            .filter(|(k, v)| import::is_secret(k, v, &import.questions))
            .map(|(k, _)| k)
            .collect();
        json!({
            "type": d.target.type_name(),
            "what": describe(d),
            "variables": d.env.keys().collect::<Vec<_>>(),
            "secrets": secrets,
            "files": d.files,
        })
    });
    json!({
        "source": p.source, "line": p.line, "name": p.name, "deploy": deploy, "refused": refused, "notes": p.notes,
    })
}

/// Everything that the plan still needs: from --env and --env-file, this shell, and the person.
fn answers(plan: &[Planned], import: &Import, what: &ImportArgs) -> Result<Answers> {
    let mut answers = Answers::default();
    let given = environment::read(&what.env, what.env_file.as_deref())?;
    let texts: Vec<&Text> = plan
        .iter()
        .filter_map(|p| p.deploy.as_ref())
        .flat_map(|d| {
            let remote: Vec<&Text> = match &d.target {
                Target::Remote { url, headers } => std::iter::once(url).chain(headers.values()).collect(),
                _ => Vec::new(),
            };
            d.args.iter().chain(d.env.values()).chain(remote)
        })
        .collect();
    for name in texts.iter().flat_map(|t| t.variables()) {
        if let Some(value) = given
            .get(name)
            .cloned()
            .or_else(|| std::env::var(name).ok().map(Secret::new))
        {
            answers.env.insert(name.to_owned(), value);
        }
    }
    for id in texts.iter().flat_map(|t| t.inputs()) {
        if answers.inputs.contains_key(id) {
            continue;
        }
        let value = match given.get(id) {
            Some(value) => Some(value.clone()),
            None => ask(id, import)?,
        };
        // What is not answered keeps only those from being run that need it.
        answers.inputs.extend(value.map(|v| (id.to_owned(), v)));
    }
    Ok(answers)
}

/// None where there is nobody to be asked.
fn ask(id: &str, import: &Import) -> Result<Option<Secret>> {
    let question = import.questions.get(id);
    let default = question.and_then(|q| q.default.clone());
    if !prompt::person() {
        return Ok(default.map(Secret::new));
    }
    let label = question.map_or(id, |q| &q.label);
    let typed = if question.is_none_or(|q| q.password) {
        prompt::unseen(&format!("{label}: "))?
    } else {
        prompt::seen(&match &default {
            Some(default) => format!("{label} [{default}]: "),
            None => format!("{label}: "),
        })?
    };
    Ok(Some(Secret::new(match (typed.is_empty(), default) {
        (true, Some(default)) => default,
        _ => typed,
    })))
}

/// The request for one server, everything filled.
fn request(p: &Planned, d: &Deploy, answers: &Answers, what: &ImportArgs) -> Result<RunRequest> {
    let mut request = RunRequest::of(TypeName::parse(d.target.type_name())?);
    request.name = Some(InstanceName::parse(&p.name)?);
    request.workspace.clone_from(&what.workspace);
    for file in &p.env_files {
        request.env.extend(environment::read(&[], Some(Path::new(file)))?);
    }
    for (key, value) in &d.env {
        let value = value.fill(answers).with_context(|| key.clone())?;
        // Clients hand on an empty variable where nobody filled it in.
        if !value.expose().is_empty() {
            request.env.insert(key.clone(), value);
        }
    }
    for (key, path) in &d.files {
        let given = what.files.iter().filter_map(|pair| pair.split_once('='));
        let path = given
            .rev()
            .find(|(k, _)| k == key)
            .map_or(path.as_str(), |(_, path)| path);
        let held =
            environment::file(Path::new(path)).with_context(|| format!("{key}: give it with --file {key}=PATH"))?;
        request.env.insert(key.clone(), held);
        request.files.push(key.clone());
    }
    let args: Vec<String> = d
        .args
        .iter()
        .map(|a| Ok(a.fill(answers)?.expose().to_owned()))
        .collect::<Result<_>>()?;
    let package = |package: &String, version: &Option<String>, bin: &Option<String>| PackageSource {
        package: package.clone(),
        version: version.clone(),
        bin: bin.clone(),
        args: args.clone(),
    };
    request.source = match &d.target {
        Target::Catalog { .. } => None,
        Target::Npx {
            package: name,
            version,
            bin,
        } => Some(Source::Npx(package(name, version, bin))),
        Target::Uvx {
            package: name,
            version,
            bin,
        } => Some(Source::Uvx(package(name, version, bin))),
        Target::Image {
            reference,
            entrypoint,
            http,
        } => Some(Source::Image(ImageSource {
            image: reference.clone(),
            command: entrypoint.iter().cloned().collect(),
            args: args.clone(),
            http: http.as_ref().map(|(port, path)| HttpPlace {
                port: *port,
                path: path.clone(),
            }),
        })),
        Target::Remote { url, headers } => {
            let auth = remote_auth(headers, answers, &mut request)?;
            Some(Source::Remote(RemoteSource {
                url: url.fill(answers)?.expose().to_owned(),
                auth,
            }))
        }
    };
    Ok(request)
}

/// What a remote server is given: a bearer token, or header fields.
fn remote_auth(headers: &BTreeMap<String, Text>, answers: &Answers, request: &mut RunRequest) -> Result<RemoteAuth> {
    let mut given = Vec::new();
    for (name, value) in headers.iter().filter(|(name, _)| import::header_is_own(name)) {
        let value = value.fill(answers).with_context(|| format!("header {name}"))?;
        // Who is asked for a token may type the scheme before it, where that stands already.
        let text = value.expose();
        let text = text
            .strip_prefix("Bearer Bearer ")
            .map_or(text.to_owned(), |t| format!("Bearer {t}"));
        if text.contains('\n') {
            bail!("the value of the header {name} has more than one line");
        }
        given.push((name.clone(), Secret::new(text)));
    }
    if let [(name, value)] = given.as_slice()
        && name.eq_ignore_ascii_case("authorization")
        && let Some(token) = value.expose().strip_prefix("Bearer ")
    {
        request.remote_secret = Some(Secret::new(token));
        return Ok(RemoteAuth::Bearer);
    }
    if !given.is_empty() {
        let values: Vec<&str> = given.iter().map(|(_, value)| value.expose()).collect();
        request.remote_secret = Some(Secret::new(values.join("\n")));
    }
    Ok(RemoteAuth::of(given.into_iter().map(|(name, _)| name).collect()))
}

/// Whose configuration is written back: the person's word, the text's, its place's, or an answer.
fn client_of(file: &str, import: &Import, what: &ImportArgs) -> Result<Client> {
    if import.format != Format::Client {
        bail!("--write changes the configuration of a client, and this is none");
    }
    if import.entries.iter().all(|e| e.path.is_empty()) {
        bail!("--write has no file to change: this is one server without a configuration around it");
    }
    let told = what.client.or(import.client).or_else(|| Client::of_path(file));
    if let Some(client) = told {
        return Ok(client);
    }
    let words: Vec<&str> = Client::ALL.iter().map(|c| c.word()).collect();
    if what.yes || !prompt::person() {
        bail!(
            "the client of {file} is not known, and each client has its own form: name it with --client ({})",
            words.join(", ")
        );
    }
    let typed = prompt::seen(&format!("Which client reads {file}? ({}): ", words.join(", ")))?;
    let typed = typed.trim();
    Client::ALL
        .into_iter()
        .find(|c| c.word() == typed)
        .ok_or_else(|| anyhow!("{typed:?} is not one of them"))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Whole or not at all, and for its owner's eyes only: it holds tokens.
fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let new = beside(path, ".new");
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()))
        .and_then(|()| std::fs::rename(&new, path));
    written.with_context(|| format!("{} cannot be written", path.display()))
}
