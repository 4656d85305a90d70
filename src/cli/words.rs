//! What the CLI says of an error of the box: its own words, made of the code and the fields, with the verb that helps.
//! Of what it does not know, or has nothing to add to, it says what the box says.

use crate::{
    api::{Error, Problem, RequestError},
    model::{Credential, InstanceId, Refusal, Runs},
};

/// What an answer with an error status says.
pub(super) fn of_answer(status: http::StatusCode, body: &[u8]) -> String {
    if let Ok(e) = serde_json::from_slice::<Error>(body) {
        return of_error(&e);
    }
    if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
        return of_problem(&problem);
    }
    // An endpoint's answer, or that of an earlier build.
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(body)
        && let Some(said) = value["error"].as_str().or(value["error"]["message"].as_str())
    {
        return said.to_owned();
    }
    // Something on the way, such as a proxy.
    match String::from_utf8_lossy(body).trim() {
        "" => format!("the answer was {status}, without a word"),
        text if text.starts_with('<') => format!("the answer was {status}, with a page for browsers"),
        text => text.to_owned(),
    }
}

fn of_problem(problem: &Problem) -> String {
    let Problem { code, detail, .. } = problem;
    match code.as_str() {
        "unknown-host" => "This box does not serve that host; `berth list` shows its addresses.".to_owned(),
        "locked" => "This box is not claimed yet: `berth login` claims it, with the code on its screen.".to_owned(),
        _ if detail.is_empty() => format!("{} ({code})", problem.title),
        _ => detail.clone(),
    }
}

fn of_error(e: &Error) -> String {
    match e {
        Error::Request(RequestError::NotYet { id, .. }) => format!("{e}; `berth show {id}` says where it is"),
        Error::Request(e) => e.to_string(),
        Error::Refused(refusal) => of_refusal(refusal),
    }
}

/// Why something was not done, and which verb helps.
pub(super) fn of_refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoInstance { .. } => format!("{refusal}; `berth list` shows what there is"),
        Refusal::NoToken { .. } => format!("{refusal}; `berth token list` shows what there is"),
        Refusal::Unclaimed => "this box has no administrator yet: claim it with `berth login` and the code that \
                               `berth status` shows on the box"
            .to_owned(),
        Refusal::Claimed => format!("{refusal}: `berth login URL --token -`"),
        Refusal::WrongCode => {
            "the claim code is wrong; the box's screen and `berth status` on it show the right one".to_owned()
        }
        Refusal::OnTheBoxOnly => format!("{refusal}: on its screen, or as root with `berth reset-admin`"),
        Refusal::NameTaken { name, workspace, by } => format!(
            "the name {name:?} is taken in workspace {workspace:?} by {by}; choose another with --name, or remove that \
             one with `berth rm {by}`"
        ),
        Refusal::NameElsewhere { .. } => format!("{refusal}: write WORKSPACE/NAME"),
        Refusal::NoWorkspace { .. } => format!("{refusal}; `berth workspace add` makes one"),
        Refusal::NoMember { .. } => format!("{refusal}; `berth member list` shows them"),
        Refusal::NoTeam { .. } => format!("{refusal}; `berth team list` shows them"),
        Refusal::NoGrant { .. } => format!("{refusal}; `berth grant list` shows what was granted"),
        Refusal::TeamExists { team } => format!("{refusal}; `berth team show {team}` shows who is in it"),
        Refusal::NotInTeam { team, .. } => format!("{refusal}; `berth team show {team}` shows who is"),
        Refusal::MemberExists { member } => {
            format!(
                "{refusal}; an owner takes them in with `berth member set {member} --role member --workspace WORKSPACE`"
            )
        }
        Refusal::WiderScope => format!("{refusal}; give --scope api, or use a token that was made without --scope"),
        Refusal::LastOwner { .. } => format!("{refusal} with `berth member set NAME --role owner`"),
        Refusal::MemberDisabled { member } => format!("{refusal} with `berth member enable {member}`"),
        Refusal::HasSignIn { member } => format!(
            "{member} signs in with a passphrase already; if they have lost it, reset it with `berth member reset-sign-in {member}`"
        ),
        Refusal::NotInWorkspace { member, workspace } => {
            format!("{refusal} with `berth member set {member} --role member --workspace {workspace}`")
        }
        Refusal::OwnerOfAll => "an owner is one of the whole box: leave --workspace out".to_owned(),
        Refusal::NotAllowedThere { workspace, .. } => {
            format!("{refusal}; an owner changes that with `berth workspace set {workspace}`")
        }
        Refusal::WorkspaceInUse { .. } => format!("{refusal} with `berth rm`"),
        Refusal::WorkspaceFull { workspace, .. } => {
            format!("{refusal}: `berth stop` one of them, or `berth workspace set {workspace} --instances N`")
        }
        Refusal::WorkspaceDisk { workspace, .. } => format!(
            "{refusal}: `berth rm` one, give a smaller --size, or `berth workspace set {workspace} --disk SIZE`"
        ),
        Refusal::NoFreeName => "give it a name with --name".to_owned(),
        Refusal::NoImage { type_name, images } => no_image(type_name, images),
        Refusal::Removing { .. } => format!("{refusal}; wait until `berth list` no longer shows it"),
        Refusal::NoRoom { wanted, promised, room } => format!(
            "the disk has no room for it: it may write {wanted} MiB, and {promised} of the {room} MiB for all instances \
             are promised already; remove an instance (`berth rm`), choose a smaller --size, or make the disk larger"
        ),
        Refusal::Credentials { of, missing, wrong } => credentials(of.as_ref(), missing, wrong),
        Refusal::EmptyValue { key } => {
            format!("the value of {key} is empty; `berth credential unset` takes one away")
        }
        Refusal::NoValue { id, .. } => format!("{refusal}; `berth credential list {id}` shows what it has"),
        Refusal::ValueRequired { id, key } => format!(
            "{key} is required: give another value with `berth credential set {id} {key}`, or stop the instance first"
        ),
        Refusal::NoContent { key } => format!("{refusal}; give it with --file {key}=PATH"),
        Refusal::NoSuchVariable { key } => format!("{refusal}: give it with --env {key}"),
        Refusal::NoSource { type_name, kind } => format!("say what the type {type_name} is to run: {}", usage(kind)),
        Refusal::OtherSource { type_name, kind, given } => {
            format!("the type {type_name} runs no {given}: {}", usage(kind))
        }
        Refusal::OwnSettings { type_name } => format!(
            "the type {type_name} defines its network, volume and processes: only npx, uvx and image take --network, \
             --volume and --processes"
        ),
        Refusal::OwnCallTimeout { type_name } => format!(
            "the type {type_name} defines its call timeout: only npx, uvx, image and remote take --call-timeout; for \
             others set call_timeout in [mcp] of the type file, then run `berth recreate`"
        ),
        Refusal::BadCallTimeout { .. } => {
            "a call timeout is from 1s to 24h: write a number with its unit, such as 20m".to_owned()
        }
        Refusal::BadHttpPlace => "--http takes a port and a path, such as 8080/mcp".to_owned(),
        Refusal::SecretInAddress => {
            "the address holds a user or a password; give the secret with --bearer or --header".to_owned()
        }
        Refusal::NoSecret => {
            format!("{refusal}: `--bearer -` and `--header NAME=-` read it from standard input")
        }
        Refusal::NoPackage { runs: Runs::Fixed, .. } => format!("{refusal}, and `berth recreate` takes them"),
        Refusal::Pinned { id, .. } => format!("{refusal}; `berth types pin {id} --off` lets it go"),
        Refusal::NoScreen { .. } => format!("{refusal}; `berth types show` tells which have one"),
        Refusal::Store { .. } => format!("{refusal} with `berth doctor`"),
        other => other.to_string(),
    }
}

fn no_image(type_name: &str, images: &[String]) -> String {
    let (all, are, them) = match images {
        [one] => (format!("the image {one}"), "is", "it"),
        many => (format!("the images {}", many.join(" and ")), "are", "them"),
    };
    format!(
        "the type {type_name} cannot run: {all} {are} not on this box; load {them} with `berth image load`, or build \
         {them} in a checkout with `make images`"
    )
}

/// Names each credential with its help; never a value.
fn credentials(of: Option<&InstanceId>, missing: &[Credential], wrong: &[Credential]) -> String {
    let (missing, wrong) = (missing.to_vec(), wrong.to_vec());
    let which = Refusal::Credentials {
        of: None,
        missing,
        wrong,
    };
    let how = match of {
        Some(id) => format!("give each with `berth credential set {id} KEY`"),
        None => "on a terminal `berth run` asks for them; --env-file - reads KEY=VALUE lines from a pipe".to_owned(),
    };
    format!("{which}\n{how}")
}

/// How a type of a kind is run.
fn usage(kind: &str) -> &'static str {
    match kind {
        "npx" => "write `berth run npx --package NAME[@VERSION] -- ARGUMENTS`",
        "uvx" => "write `berth run uvx --package NAME[@VERSION] -- ARGUMENTS`",
        "image" => "write `berth run image --image NAME[:TAG|@DIGEST] [--http PORT/PATH] -- ARGUMENTS`",
        "remote" => "write `berth run remote --url https://… [--bearer - | --header NAME=-]`",
        _ => "write its name alone",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::CODES, model::CredentialKind};
    use http::StatusCode;

    fn answer(e: impl Into<Error>) -> String {
        let body = serde_json::to_vec(&Problem::from(&e.into())).unwrap();
        of_answer(StatusCode::BAD_REQUEST, &body)
    }

    fn id() -> InstanceId {
        InstanceId::parse("abcdefghij").unwrap()
    }

    /// The box's words, as they travel, name no verb; those of the CLI do.
    #[test]
    fn the_cli_adds_the_verb_that_helps() {
        let key = Credential {
            key: "KEY".into(),
            label: "a key".into(),
            kind: CredentialKind::Password,
            help: "Ask.".into(),
            required: true,
            pattern: None,
        };
        let cases: Vec<(Error, &str)> = vec![
            (
                Refusal::no_instance("x").into(),
                "there is no instance x; `berth list` shows what there is",
            ),
            (
                Refusal::Claimed.into(),
                "this box is claimed already; log in with a token of its administrator: `berth login URL --token -`",
            ),
            (
                Refusal::Removing { id: id() }.into(),
                "instance abcdefghij is being removed; wait until `berth list` no longer shows it",
            ),
            (
                Refusal::Credentials {
                    of: Some(id()),
                    missing: vec![key],
                    wrong: Vec::new(),
                }
                .into(),
                "these credentials are required and were not given:\n  KEY (a key): Ask.\ngive each with `berth credential \
                 set abcdefghij KEY`",
            ),
            (
                Refusal::NoSource {
                    type_name: "npx".into(),
                    kind: "npx".into(),
                }
                .into(),
                "say what the type npx is to run: write `berth run npx --package NAME[@VERSION] -- ARGUMENTS`",
            ),
            (
                Refusal::Store { reason: "full".into() }.into(),
                "the store could not keep the change (full); nothing was changed. Check the disk with `berth doctor`",
            ),
            (
                Refusal::Pinned {
                    id: id(),
                    version: Some("1.2".into()),
                }
                .into(),
                "abcdefghij is pinned to 1.2; `berth types pin abcdefghij --off` lets it go",
            ),
            (
                Refusal::NoRoom {
                    wanted: 3,
                    promised: 2,
                    room: 4,
                }
                .into(),
                "the disk has no room for it: it may write 3 MiB, and 2 of the 4 MiB for all instances are promised \
                 already; remove an instance (`berth rm`), choose a smaller --size, or make the disk larger",
            ),
            (
                Refusal::BadCallTimeout {
                    least: 1_000,
                    most: 86_400_000,
                }
                .into(),
                "a call timeout is from 1s to 24h: write a number with its unit, such as 20m",
            ),
            (
                Refusal::OwnCallTimeout {
                    type_name: "time".into(),
                }
                .into(),
                "the type time defines its call timeout: only npx, uvx, image and remote take --call-timeout; for others \
                 set call_timeout in [mcp] of the type file, then run `berth recreate`",
            ),
            (
                RequestError::NotYet { id: id(), ms: 5 }.into(),
                "abcdefghij did not get there within 5 ms; `berth show abcdefghij` says where it is",
            ),
            (
                RequestError::NoCa.into(),
                "this box uses your own certificate files: trust their CA",
            ),
        ];
        for (e, said) in cases {
            assert!(!e.to_string().contains("`berth"), "{e}");
            assert_eq!(answer(e), said);
        }
    }

    /// A code of a newer box, and what is no problem at all.
    #[test]
    fn what_the_cli_does_not_know_is_said_as_it_came() {
        let said = |text: &str| of_answer(StatusCode::BAD_GATEWAY, text.as_bytes());
        let newer =
            r#"{"type":"urn:berth:problem:x","title":"X","status":409,"detail":"not today","code":"x","when":1}"#;
        assert_eq!(said(newer), "not today");
        let untold = r#"{"type":"t","title":"Not today","status":409,"detail":"","code":"x"}"#;
        assert_eq!(said(untold), "Not today (x)");
        assert_eq!(said(r#"{"error":"as it was"}"#), "as it was");
        let endpoint = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-31001,"message":"no such host"}}"#;
        assert_eq!(said(endpoint), "no such host");
        assert_eq!(said("upstream timed out\n"), "upstream timed out");
        assert_eq!(said(""), "the answer was 502 Bad Gateway, without a word");
        assert_eq!(
            said("<html>…"),
            "the answer was 502 Bad Gateway, with a page for browsers"
        );
    }

    #[test]
    fn the_codes_that_have_words_here_exist() {
        for code in ["unknown-host", "locked"] {
            assert!(CODES.iter().any(|row| row.code == code), "{code}");
        }
    }
}
