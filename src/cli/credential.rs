//! Asking for secrets and listing them. A value comes from a terminal, unseen, or from standard input; it is never
//! printed, and what stood on the command line is wiped from it.

use std::{
    collections::BTreeMap,
    io::{BufRead, IsTerminal, Read, Seek, SeekFrom, Write},
};

use anyhow::{Context, Result, bail};

use super::{client::Supervisor, environment, print, prompt, words};
use crate::{
    api::{Route, TypeView},
    catalog,
    model::{Action, Credential, CredentialKind, CredentialView, InstanceView, Refusal, Secret, TypeName},
    output,
};

/// A value may be this long, in bytes.
const MAX_VALUE: u64 = 64 * 1024;

/// On a terminal, asks for what the type requires and was not given. Elsewhere the supervisor says what is missing.
pub(super) async fn ask_missing(
    supervisor: &Supervisor,
    type_name: &TypeName,
    env: &mut BTreeMap<String, Secret>,
) -> Result<()> {
    if !prompt::person() {
        return Ok(());
    }
    let types: Vec<TypeView> = supervisor.list(Route::Types.path()).await?;
    let Some(t) = types.into_iter().find(|t| t.name == type_name.as_str()) else {
        return Ok(());
    };
    if !t.absent.is_empty() {
        // Before anybody looks for a credential.
        let (type_name, images) = (t.name, t.absent);
        bail!(words::of_refusal(&Refusal::NoImage { type_name, images }));
    }
    let given = |env: &BTreeMap<String, Secret>, key: &str| env.get(key).is_some_and(|v| !v.expose().is_empty());
    for c in t.credentials.iter().filter(|c| c.required) {
        while !given(env, &c.key) {
            output::error_line(&format!("{}: {}", c.label, c.help));
            let value = ask(&c.key, c.kind)?;
            if catalog::fits(c, value.expose()) {
                env.insert(c.key.clone(), value);
            } else {
                let form = c.pattern.as_deref().unwrap_or("\"anything at all\"");
                output::error_line(&format!("The value does not match {form}."));
            }
        }
    }
    Ok(())
}

/// The action that gives a value to an instance, read from the terminal or from standard input.
pub(super) async fn set(supervisor: &Supervisor, view: &InstanceView, key: String) -> Result<Action> {
    let known = views(supervisor, view).await?;
    let known = known.iter().find(|c| c.key == key);
    let value = if std::io::stdin().is_terminal() {
        if let Some(c) = known.filter(|c| !c.label.is_empty()) {
            output::error_line(&format!("{}: {}", c.label, c.help));
        }
        ask(&key, known.map_or(CredentialKind::Password, |c| c.kind))?
    } else {
        let mut text = String::new();
        std::io::stdin()
            .take(MAX_VALUE)
            .read_to_string(&mut text)
            .context("standard input cannot be read")?;
        // A line end is the pipe's, not the value's; but of a file, it is the file's.
        let file = known.is_some_and(|c| c.kind == CredentialKind::File);
        let value = match text.strip_suffix('\n') {
            Some(line) if !file => line.strip_suffix('\r').unwrap_or(line),
            _ => text.as_str(),
        };
        let value = Secret::new(value);
        drop(Secret::new(text));
        value
    };
    Ok(Action::SetCredential {
        id: view.id.clone(),
        key,
        value,
    })
}

async fn views(supervisor: &Supervisor, view: &InstanceView) -> Result<Vec<CredentialView>> {
    supervisor.get(&Route::Credentials.of(view.id.as_str())).await
}

/// Prints what an instance has, without values.
pub(super) async fn list(supervisor: &Supervisor, view: &InstanceView, json: bool) -> Result<()> {
    let views = views(supervisor, view).await?;
    if json {
        return print::json(&views);
    }
    let row = |c: CredentialView| {
        let state = match (c.set, c.required) {
            (true, _) => "set",
            (false, true) => "missing",
            (false, false) => "not set",
        };
        let at = c.set_at.map_or_else(String::new, print::short);
        vec![c.key, state.to_owned(), at, c.set_by.unwrap_or_default(), c.label]
    };
    let rows: Vec<_> = views.into_iter().map(row).collect();
    print::table(&["KEY", "VALUE", "SET", "BY", "WHAT IT IS"], &rows)
}

/// One line from the terminal; of a file, its path.
fn ask(key: &str, kind: CredentialKind) -> Result<Secret> {
    let seen = |question: &str| -> Result<String> {
        output::error(question);
        let mut line = String::new();
        std::io::stdin().lock().take(MAX_VALUE).read_line(&mut line)?;
        Ok(line.trim().to_owned())
    };
    let line = match kind {
        CredentialKind::Password => prompt::unseen(&format!("{key}:"))?,
        CredentialKind::Text => seen(&format!("{key}: "))?,
        CredentialKind::File => {
            let path = seen(&format!("{key}, a file: "))?;
            if path.is_empty() {
                bail!("no file was named for {key}");
            }
            return environment::file(std::path::Path::new(&path));
        }
    };
    if line.is_empty() {
        bail!("{key} has no value");
    }
    Ok(Secret::new(line))
}

/// Wipes the values of `--env KEY=VALUE` from this process's command line, which everybody on the machine may read.
pub(super) fn wipe_arguments(pairs: &[String]) {
    let values = pairs.iter().filter_map(|p| p.split_once('=')).map(|(_, v)| v);
    // Best effort: without /proc there is nobody to read it there either.
    let _ = wipe(values.filter(|v| !v.is_empty()));
}

fn wipe<'a>(values: impl Iterator<Item = &'a str>) -> Option<()> {
    // proc(5): the name, in parentheses, may hold anything; arg_start and arg_end are fields 48 and 49.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(45);
    let start: u64 = fields.next()?.parse().ok()?;
    let end: u64 = fields.next()?.parse().ok()?;
    let mut memory = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem")
        .ok()?;
    let mut bytes = vec![0; usize::try_from(end.checked_sub(start)?).ok()?];
    memory.seek(SeekFrom::Start(start)).ok()?;
    memory.read_exact(&mut bytes).ok()?;
    for value in values {
        let mut from = 0;
        while let Some(at) = memchr::memmem::find(&bytes[from..], value.as_bytes()) {
            bytes[from + at..from + at + value.len()].fill(b'*');
            from += at + value.len();
        }
    }
    memory.seek(SeekFrom::Start(start)).ok()?;
    memory.write_all(&bytes).ok()
}

/// How a type's credentials are shown.
pub(super) fn describe(credentials: &[Credential]) -> String {
    let one = |c: &Credential| {
        let need = if c.required { "" } else { ", optional" };
        format!("{} ({}{need}): {}", c.key, c.label, c.help)
    };
    match credentials {
        [] => "none".to_owned(),
        all => all.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}
