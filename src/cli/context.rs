//! The boxes that this person logged in to, kept in `$XDG_CONFIG_HOME/berth/contexts.toml` (0600: it holds tokens), and
//! which supervisor a verb speaks to:
//!
//! `--socket`, else `--context`, else `BERTH_SOCKET`, else `BERTH_CONTEXT`, else the context in use, else the socket of
//! this machine. The name `local` always means that socket.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::{
    args::{ContextVerb, Place},
    client::Supervisor,
    print,
    remote::{Address, Trust},
};
use crate::model::Secret;

/// The supervisor's socket on this machine.
const SOCKET: &str = "/run/berth/admin.sock";
/// Not a box, but the socket.
const LOCAL: &str = "local";

/// A box, and how to be let in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    /// `https://HOST[:PORT]`
    pub(super) url: String,
    /// The name that its certificate is for.
    pub(super) tls_name: String,
    /// SHA-256 of the CA certificate, as it was compared.
    pub(super) ca_fingerprint: String,
    /// The CA certificates to trust, in PEM, and none else.
    pub(super) ca: String,
    pub(super) token: Secret,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contexts {
    /// The one in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<String>,
    #[serde(default)]
    pub(super) contexts: BTreeMap<String, Context>,
}

/// `$XDG_CONFIG_HOME/berth`, else `~/.config/berth`; none where there is no home.
fn folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME")
        .filter(|p| p.is_absolute())
        .or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(base.join("berth"))
}

fn need_folder() -> Result<PathBuf> {
    folder().ok_or_else(|| anyhow!("there is no folder for contexts: set HOME or XDG_CONFIG_HOME"))
}

/// Where a context's CA certificate lies, for clients that want a file.
pub(super) fn ca_file(name: &str) -> Option<PathBuf> {
    folder().map(|f| f.join(format!("{name}-ca.pem")))
}

impl Contexts {
    /// What is kept; nothing where there is no file.
    pub(super) fn load() -> Result<Contexts> {
        let Some(file) = folder().map(|f| f.join("contexts.toml")) else {
            return Ok(Contexts::default());
        };
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Contexts::default()),
            Err(e) => return Err(anyhow!(e).context(format!("{} cannot be read", file.display()))),
        };
        // The parser's own words quote the line, which may be the token's.
        toml::from_str(&text).map_err(|e: toml::de::Error| {
            anyhow!(
                "{} is damaged: {}; move it away and log in again",
                file.display(),
                e.message()
            )
        })
    }

    /// Keeps all, whole or not at all, readable by this person only.
    pub(super) fn save(&self) -> Result<()> {
        let folder = need_folder()?;
        for (name, context) in &self.contexts {
            let file = folder.join(format!("{name}-ca.pem"));
            if fs::read_to_string(&file).ok().as_deref() != Some(&context.ca) {
                write(&file, &context.ca)?;
            }
        }
        let text = toml::to_string(self).context("the contexts cannot be written down")?;
        write(&folder.join("contexts.toml"), &text)
    }

    pub(super) fn get(&self, name: &str) -> Result<&Context> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).chain([LOCAL]).collect();
            anyhow!(
                "there is no context {name}; there are: {}. `berth login https://BOX` makes one",
                known.join(", ")
            )
        })
    }
}

/// Fails while nothing is lost yet, where keeping a context would fail.
pub(super) fn check_writable() -> Result<()> {
    let probe = need_folder()?.join(".probe");
    write(&probe, "")?;
    let _ = fs::remove_file(probe);
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let fail = || format!("{} cannot be written", path.display());
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(fail)?;
    }
    let aside = path.with_extension(format!("new-{}", std::process::id()));
    let done = (|| {
        let _ = fs::remove_file(&aside);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, path)
    })();
    done.inspect_err(|_| drop(fs::remove_file(&aside))).with_context(fail)
}

/// Whether a name can be a context's: it is part of a file's name.
pub(super) fn valid_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['-', '.']) && name != LOCAL
}

/// A name for a box that was given none.
pub(super) fn name_for(address: &Address) -> String {
    let host = address.host.trim_matches(['[', ']']);
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = host.chars().map(plain).take(60).collect();
    let name = name.trim_matches('-');
    match name {
        "" | LOCAL => "box".to_owned(),
        name => name.to_owned(),
    }
}

/// Whom a verb speaks to.
enum Chosen {
    Socket(PathBuf),
    Context(String),
}

fn choose(place: &Place, contexts: impl FnOnce() -> Result<Option<String>>) -> Result<Chosen> {
    let env = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
    let named = |name: String| match name.as_str() {
        LOCAL => Chosen::Socket(SOCKET.into()),
        _ => Chosen::Context(name),
    };
    Ok(match (&place.socket, &place.context) {
        (Some(socket), _) => Chosen::Socket(socket.clone()),
        (None, Some(name)) => named(name.clone()),
        (None, None) => match (env("BERTH_SOCKET"), env("BERTH_CONTEXT")) {
            (Some(socket), _) => Chosen::Socket(socket.into()),
            (None, Some(name)) => named(name),
            (None, None) => named(contexts()?.unwrap_or_else(|| LOCAL.to_owned())),
        },
    })
}

/// The supervisor that the command line, the environment and the contexts mean.
pub(super) fn supervisor(place: &Place) -> Result<Supervisor> {
    let name = match choose(place, || Ok(Contexts::load()?.current))? {
        Chosen::Socket(socket) => return Ok(Supervisor::new(&socket)),
        Chosen::Context(name) => name,
    };
    let contexts = Contexts::load()?;
    let context = contexts.get(&name)?;
    let trust = Trust::Pinned {
        ca: context.ca.clone(),
        name: context.tls_name.clone(),
    };
    let address = context.url.parse()?;
    Ok(Supervisor::remote(&name, address, trust, Some(context.token.clone())))
}

/// `berth context …`
pub(super) fn run(what: Option<ContextVerb>, place: &Place, json: bool) -> Result<()> {
    let mut contexts = Contexts::load()?;
    match what.unwrap_or(ContextVerb::List) {
        ContextVerb::List => list(&contexts, json),
        ContextVerb::Use { name } => {
            if name == LOCAL {
                contexts.current = None;
            } else {
                contexts.get(&name)?;
                contexts.current = Some(name.clone());
            }
            contexts.save()?;
            done(json, "in_use", &name, &format!("{name} is in use"))
        }
        ContextVerb::Show { name } => {
            let name = match name {
                Some(name) => name,
                None => match choose(place, || Ok(contexts.current.clone()))? {
                    Chosen::Context(name) => name,
                    Chosen::Socket(socket) => bail!("no context is in use: commands use {}", socket.display()),
                },
            };
            show(&name, contexts.get(&name)?, json)
        }
        ContextVerb::Rm { name } => {
            contexts.get(&name)?;
            contexts.contexts.remove(&name);
            contexts.current.take_if(|c| *c == name);
            contexts.save()?;
            if let Some(file) = ca_file(&name) {
                let _ = fs::remove_file(file);
            }
            let hint = "its token is still valid; to end it, run `berth token revoke` on the box";
            done(json, "removed", &name, &format!("{name} is removed from here; {hint}"))
        }
    }
}

fn done(json: bool, key: &str, name: &str, said: &str) -> Result<()> {
    if json {
        print::json(&serde_json::json!({ key: name }))
    } else {
        print::out(&format!("{said}\n"))
    }
}

fn list(contexts: &Contexts, json: bool) -> Result<()> {
    let in_use = |name: &str| contexts.current.as_deref().unwrap_or(LOCAL) == name;
    let all = contexts.contexts.iter().map(|(n, c)| (n.as_str(), c.url.as_str()));
    let all: Vec<(&str, &str)> = all.chain([(LOCAL, SOCKET)]).collect();
    if json {
        let rows = all
            .iter()
            .map(|(n, url)| serde_json::json!({ "name": n, "url": url, "in_use": in_use(n) }));
        return print::json(&rows.collect::<Vec<_>>());
    }
    let mark = |n: &str| if in_use(n) { "*" } else { "" }.to_owned();
    let rows: Vec<_> = all
        .iter()
        .map(|(n, url)| vec![mark(n), (*n).to_owned(), (*url).to_owned()])
        .collect();
    print::table(&["", "NAME", "BOX"], &rows)
}

/// Never the token.
fn show(name: &str, c: &Context, json: bool) -> Result<()> {
    let file = ca_file(name).map(|f| f.display().to_string()).unwrap_or_default();
    if json {
        return print::json(&serde_json::json!({
            "name": name, "url": c.url, "tls_name": c.tls_name, "ca_fingerprint": c.ca_fingerprint, "ca_file": file,
        }));
    }
    print::fields(&[
        ("name", name.to_owned()),
        ("box", c.url.clone()),
        ("certificate for", c.tls_name.clone()),
        ("CA", format!("SHA-256 {}", c.ca_fingerprint)),
        ("CA file", file),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_make_good_file_names() {
        for (address, want) in [
            ("https://192.0.2.7", "192-0-2-7"),
            ("https://[2001:db8::7]", "2001-db8--7"),
            ("https://box.example.org", "box-example-org"),
            ("https://local", "box"),
        ] {
            let name = name_for(&address.parse().unwrap());
            assert_eq!(name, want);
            assert!(valid_name(&name));
        }
        for bad in ["", "local", "../x", "a/b", ".hidden", "-x", "a b"] {
            assert!(!valid_name(bad), "{bad}");
        }
    }
}
