//! What a deploy would refuse is refused in the plan: its own checks, as far as everything is known by then.

use std::collections::BTreeMap;

use super::{Planned, Refused, Target, Text, host_of};
use crate::{
    model::{
        HttpPlace, INSTANCE_TOKEN_PREFIX, ImageSource, MAX_REMOTE_HEADERS, MEMBER_TOKEN_PREFIX, PackageSource,
        RemoteUrlError, Source, check_remote_url,
    },
    plan::sourced::check_form,
};

/// Headers that every MCP client sends by itself.
const OF_EVERY_CLIENT: [&str; 3] = ["accept", "content-type", "user-agent"];

/// Whether a header is more than what the protocol sends anyway.
pub fn header_is_own(name: &str) -> bool {
    !OF_EVERY_CLIENT.contains(&name.to_ascii_lowercase().as_str())
}

pub(super) fn deployable(target: &Target, planned: &mut Planned) {
    let package = |name: &String, version: &Option<String>, bin: &Option<String>| PackageSource {
        package: name.clone(),
        version: version.clone(),
        bin: bin.clone(),
        args: Vec::new(),
    };
    let source = match target {
        Target::Catalog { .. } => return,
        Target::Remote { url, headers } => {
            let own = headers.keys().filter(|name| header_is_own(name)).count();
            if own > MAX_REMOTE_HEADERS {
                planned.refused.push(Refused {
                    what: format!("{own} headers"),
                    why: format!(
                        "a remote server is given at most {MAX_REMOTE_HEADERS}; leave out what it does not need"
                    ),
                });
            }
            already(headers, planned);
            return remote(url, planned);
        }
        Target::Npx {
            package: name,
            version,
            bin,
        } => Source::Npx(package(name, version, bin)),
        Target::Uvx {
            package: name,
            version,
            bin,
        } => Source::Uvx(package(name, version, bin)),
        Target::Image {
            reference,
            entrypoint,
            http,
        } => Source::Image(ImageSource {
            image: reference.clone(),
            command: entrypoint.iter().cloned().collect(),
            args: Vec::new(),
            http: http.as_ref().map(|(port, path)| HttpPlace {
                port: *port,
                path: path.clone(),
            }),
        }),
    };
    if let Err(refusal) = check_form(&source) {
        planned.refused.push(Refused {
            what: source.kind().to_owned(),
            why: refusal.to_string(),
        });
    }
}

/// A file that was written back points at a box already.
fn already(headers: &BTreeMap<String, Text>, planned: &mut Planned) {
    let token = |value: &Text| {
        let text = value.as_literal().unwrap_or_default();
        let token = text.strip_prefix("Bearer ").unwrap_or(text);
        [INSTANCE_TOKEN_PREFIX, MEMBER_TOKEN_PREFIX]
            .iter()
            .any(|p| token.starts_with(p))
    };
    if headers.values().any(token) {
        planned.refused.push(Refused {
            what: "a token of Berth's".into(),
            why: "the entry already uses an instance on Berth; there is nothing to import".into(),
        });
    }
}

fn remote(url: &Text, planned: &mut Planned) {
    let Some(url) = url.as_literal() else { return };
    let mut refuse = |why: String| {
        planned.refused.push(Refused {
            what: "url".into(),
            why,
        });
    };
    match check_remote_url(url) {
        Err(RemoteUrlError::Secret) => {
            return refuse("the address holds a user or a password; give the secret with --bearer or --header".into());
        }
        Err(e) => return refuse(e.to_string()),
        Ok(()) => {}
    }
    let host = host_of(url);
    let loopback = host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified());
    if loopback {
        refuse(format!(
            "{host} is the laptop itself: the server runs there, and Berth cannot reach it; import the command that starts it"
        ));
    }
}
