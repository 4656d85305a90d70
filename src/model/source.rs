//! What a generic type runs: a package of npm or of PyPI, an image, or a server elsewhere. Given with `berth run`,
//! kept with the instance; holds no secret (a remote's is sealed with the environment).

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Refusal;

/// The name under which a remote's secret is sealed; nobody can give a variable of that name.
pub const REMOTE_SECRET: &str = "BERTH_REMOTE_SECRET";

/// What an instance of a generic type runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Source {
    Npx(PackageSource),
    Uvx(PackageSource),
    Image(ImageSource),
    Remote(RemoteSource),
}

/// A package, installed once into an image of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackageSource {
    /// `@scope/name`, `name`, for uvx also `name[extra]`.
    pub package: String,
    /// An exact version, or for npm a tag or range, which is settled at the first deploy; the newest where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Which of its programs; needed where it has several and none is called like the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bin: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
}

/// An image that holds an MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSource {
    /// `name`, `name:tag` or `name@sha256:…`.
    pub image: String,
    /// Replaces the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the image's own arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Where it serves Streamable HTTP; without it it speaks on stdin and stdout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpPlace>,
}

/// A port and a path on the container's loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpPlace {
    pub port: u16,
    pub path: String,
}

/// A server elsewhere, by its Streamable HTTP address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoteSource {
    pub url: String,
    #[serde(default)]
    pub auth: RemoteAuth,
}

/// How Berth proves itself to a remote server. The secret itself travels apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "auth", deny_unknown_fields)]
pub enum RemoteAuth {
    #[default]
    None,
    /// `Authorization: Bearer …`
    Bearer,
    /// A field of this name.
    Header { name: String },
    /// Fields of these names, 2 to 8 ([`MAX_REMOTE_HEADERS`]); the secret has a line for the value of each, in their order.
    Headers { names: Vec<String> },
}

impl RemoteAuth {
    /// By header fields: none, one, or several.
    pub fn of(mut names: Vec<String>) -> Self {
        match names.len() {
            0 => Self::None,
            1 => Self::Header { name: names.remove(0) },
            _ => Self::Headers { names },
        }
    }
}

/// So many header fields prove Berth to a remote server at most.
pub const MAX_REMOTE_HEADERS: usize = 8;

/// What a source came to when it was installed or fetched: the bytes that every start of the instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolved {
    /// The package's exact version; of an image its digest or id.
    pub version: String,
    /// The image that is run.
    pub image: String,
    /// The engine's id of it.
    pub image_id: String,
    /// SHA-256 of the lock: the whole tree with its hashes. Empty for an image.
    #[serde(default)]
    pub lock: String,
    /// Program and first arguments.
    pub command: Vec<String>,
    /// Everything that was installed, as `name@version`.
    #[serde(default)]
    pub tree: Arc<[String]>,
}

impl Source {
    /// The word of its type.
    pub fn kind(&self) -> &'static str {
        match self {
            Source::Npx(_) => "npx",
            Source::Uvx(_) => "uvx",
            Source::Image(_) => "image",
            Source::Remote(_) => "remote",
        }
    }

    /// What is to be run, in a word or two.
    pub fn summary(&self) -> String {
        match self {
            Source::Npx(p) | Source::Uvx(p) => p.wanted(),
            Source::Image(i) => i.image.clone(),
            Source::Remote(r) => r.url.clone(),
        }
    }

    /// The package, where it is one.
    pub fn package(&self) -> Option<&PackageSource> {
        match self {
            Source::Npx(p) | Source::Uvx(p) => Some(p),
            Source::Image(_) | Source::Remote(_) => None,
        }
    }

    /// The same with another version; nothing where it has none.
    #[must_use]
    pub fn at_version(&self, version: Option<String>) -> Self {
        let mut other = self.clone();
        match &mut other {
            Source::Npx(p) | Source::Uvx(p) => p.version = version,
            Source::Image(_) | Source::Remote(_) => {}
        }
        other
    }
}

impl PackageSource {
    /// `name` or `name@version`, as it was asked for.
    pub fn wanted(&self) -> String {
        match &self.version {
            Some(v) => format!("{}@{v}", self.package),
            None => self.package.clone(),
        }
    }
}

/// Why an address is not that of a remote server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteUrlError {
    #[error("{given:?} is not the address of a server: {rule}")]
    Form { given: String, rule: &'static str },
    #[error("the address holds a user or a password; give the secret beside it")]
    Secret,
}

impl From<RemoteUrlError> for Refusal {
    fn from(e: RemoteUrlError) -> Self {
        match e {
            RemoteUrlError::Form { .. } => Refusal::BadAddress { reason: e.to_string() },
            RemoteUrlError::Secret => Refusal::SecretInAddress,
        }
    }
}

/// Whether a remote server can be reached by this address: https, or http where the configuration allows private
/// addresses (that is found out when it is reached), a host, no user and no fragment.
///
/// # Errors
/// [`RemoteUrlError`], which says what to write instead.
pub fn check_remote_url(url: &str) -> Result<(), RemoteUrlError> {
    let wrong = |rule| {
        let given = url.to_owned();
        Err(RemoteUrlError::Form { given, rule })
    };
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
        return wrong("it begins with https://");
    };
    if url.len() > 2048 || url.bytes().any(|b| b <= b' ' || b >= 0x7f) {
        return wrong("it holds 2048 visible ASCII characters at most");
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if url.contains('#') {
        return wrong("it has no fragment");
    }
    if authority.contains('@') {
        // Never quote it: what stands before the @ is a secret.
        return Err(RemoteUrlError::Secret);
    }
    if authority.is_empty() || authority.starts_with(':') || authority.contains(['\\', '"', '<', '>']) {
        return wrong("it names a host");
    }
    Ok(())
}

/// `NAME[@VERSION]`; the name of an npm package may begin with an `@` of its own.
pub fn split_package(text: &str) -> (String, Option<String>) {
    let from = usize::from(text.starts_with('@'));
    match text[from..].find('@') {
        Some(at) => (text[..from + at].to_owned(), Some(text[from + at + 1..].to_owned())),
        None => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_split_at_their_version() {
        let check = |t: &str, name: &str, version: Option<&str>| {
            assert_eq!(split_package(t), (name.to_owned(), version.map(str::to_owned)), "{t}");
        };
        check("a", "a", None);
        check("a@1", "a", Some("1"));
        check("@s/a", "@s/a", None);
        check("@s/a@1.2.3", "@s/a", Some("1.2.3"));
        check("", "", None);
    }

    #[test]
    fn addresses() {
        for good in [
            "https://a.example/mcp",
            "http://10.0.0.1:8080/mcp?x=1",
            "https://[::1]:1/",
        ] {
            assert_eq!(check_remote_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a.example",
            "ftp://a",
            "https://",
            "https:///x",
            "https://u:hunter2@h/",
            "https://a/#x",
            "https://a b",
        ] {
            let said = check_remote_url(bad).expect_err(bad).to_string();
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn sources_read_back() {
        for text in [
            r#"{"kind":"npx","package":"@s/a","version":"1.2.3","args":["--x"]}"#,
            r#"{"kind":"uvx","package":"a"}"#,
            r#"{"kind":"image","image":"a/b:1","http":{"port":8080,"path":"/mcp"}}"#,
            r#"{"kind":"remote","url":"https://x/mcp","auth":{"auth":"header","name":"X-Key"}}"#,
        ] {
            let source: Source = serde_json::from_str(text).expect(text);
            let again = serde_json::to_string(&source).expect("serializes");
            assert_eq!(serde_json::from_str::<Source>(&again).expect("reads"), source);
        }
        assert!(serde_json::from_str::<Source>(r#"{"kind":"npx","package":"a","url":"x"}"#).is_err());
    }
}
