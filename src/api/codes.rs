//! The table of all codes that the API's errors have: for each its status and its title. What is wrong with a request is
//! 4xx, faults of the box and of what it stands on are 5xx. `docs/api-errors.md` has the same table.

use super::RequestError;
use crate::model::Refusal;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// A word for programs, which stays as it is.
    pub code: &'static str,
    /// The HTTP status that goes with it.
    pub status: u16,
    /// What it is about, in a few words that stay as they are.
    pub title: &'static str,
}

impl Code {
    /// The row of a code.
    pub fn find(code: &str) -> Option<&'static Code> {
        CODES.iter().find(|row| row.code == code)
    }

    /// The fields that an error of this code has beside those of every problem.
    pub fn fields(&self) -> &'static [&'static str] {
        let mut all = RequestError::CODES.iter().chain(Refusal::CODES);
        all.find(|(code, _)| *code == self.code)
            .map_or(&[], |(_, fields)| fields)
    }
}

macro_rules! codes {
    ($($status:literal { $($code:literal $title:literal,)* })*) => {
        /// All of them, by status.
        pub const CODES: &[Code] = &[$($(Code { code: $code, status: $status, title: $title },)*)*];
    };
}

codes! {
    400 {
        "bad-host" "The host of the request is not valid",
        "bad-idempotency-key" "Not an idempotency key",
        "bad-parameter" "A parameter of the path or the query has a wrong value",
        "bad-path" "The path is malformed",
        "bad-precondition" "A header field with entity tags is malformed",
        "bad-time" "Not a time as RFC 3339 has it",
        "body-broken" "The body ended early or is malformed",
        "body-unread" "The body cannot be read",
        "both-of" "Two fields of which there may be one",
        "no-action" "The body is not an action",
        "no-claim" "The body is not a claim",
        "no-screen-request" "The body does not ask for a screen",
        "no-single-record" "The request changes no single record",
        "no-such-parameter" "The route has no such parameter",
        "unknown-field" "The action has no such field",
    }
    401 {
        "bad-token" "The bearer token is not valid",
        "expired-token" "The bearer token has expired",
        "revoked-token" "The bearer token was revoked",
        "session-over" "The session has ended",
        "unauthenticated" "A bearer token is needed",
        "wrong-code" "The claim code is wrong",
        "wrong-key" "The signature of the claim is wrong",
    }
    403 {
        "bad-origin" "Pages of that origin may not call the box",
        "bad-ticket" "The link to the screen opens nothing",
        "image-not-allowed" "The configuration does not allow the image",
        "no-key" "No key may claim the box",
        "no-session" "A link to the screen is needed",
        "not-allowed" "The configuration does not allow it",
        "not-allowed-there" "The workspace does not allow it",
        "not-permitted" "Whoever asks may not",
        "on-the-box-only" "Possible only on the box itself",
        "switched-off" "The type is switched off",
        "wider-scope" "The token would reach further than the one that makes it",
        "wrong-token" "The bearer token is not for this address",
    }
    404 {
        "name-elsewhere" "The name is that of instances in other workspaces",
        "no-ca" "The box has no CA of its own",
        "no-grant" "No such grant",
        "no-instance" "No such instance",
        "no-member" "No such member",
        "no-route" "No such route",
        "no-team" "No such team",
        "no-token" "No such token",
        "no-type" "No such type",
        "no-workspace" "No such workspace",
        "unknown-path" "Nothing is at this address",
    }
    405 {
        "bad-method" "The method is not allowed",
    }
    408 {
        "body-too-slow" "The body did not arrive in time",
        "not-yet" "What was waited for has not come",
    }
    409 {
        "changed" "The record was changed meanwhile",
        "claimed" "The box is claimed already",
        "has-sign-in" "The member can sign in already",
        "key-in-use" "The first request with the key is under way",
        "last-owner" "The box keeps an owner who is let in",
        "member-disabled" "The member is disabled",
        "member-exists" "The name is taken by a member",
        "name-taken" "The name is taken",
        "no-image" "An image is not on the box",
        "not-in-team" "The member is not in the team",
        "not-in-workspace" "The member is not in the workspace",
        "not-ready" "The instance is not in a state for it",
        "not-running" "The instance does not run",
        "owner-has-all" "An owner needs no grant",
        "quota-of-the-box" "The box cannot set this quota",
        "removing" "The instance is being removed",
        "team-elsewhere" "The team is of another workspace",
        "team-exists" "The name is taken by a team",
        "token-over" "The token has expired",
        "unclaimed" "The box has no administrator",
        "workspace-exists" "The name is taken by a workspace",
        "workspace-disk" "The workspace's instances may write as much as its quota allows",
        "workspace-full" "The workspace runs as many instances as its quota allows",
        "workspace-in-use" "The workspace has instances",
        "workspace-stays" "The workspace cannot be removed",
    }
    410 {
        "gone" "The instance is being removed",
    }
    413 {
        "body-too-large" "The body is too large",
    }
    421 {
        "unknown-host" "The box does not serve that host",
    }
    422 {
        "bad-address" "Not the address of a server",
        "bad-archive" "Not an archive of images",
        "bad-arguments" "Too many arguments, or one that is too long",
        "bad-call-timeout" "A call timeout out of bounds",
        "bad-header" "Not the name of a header field",
        "bad-http-place" "Not a port and a path",
        "bad-image" "Not the name of an image",
        "bad-npm-package" "Not the name of an npm package",
        "bad-pattern" "Not the patterns of an allowlist",
        "bad-program" "Not the name of a program",
        "bad-python-package" "Not the name of a Python package",
        "bad-quota" "A quota out of bounds",
        "bad-scope" "Not the scope of a token",
        "bad-secret" "A secret that cannot be sent",
        "bad-token-name" "Not a name for a token",
        "bad-variable" "Not the name of a variable",
        "bad-version" "Not a version",
        "bad-volume" "Not a place for a volume",
        "credentials" "Credentials are missing or have a wrong form",
        "empty-archive" "The archive has no image",
        "empty-value" "The value is empty",
        "expired-already" "The token would have expired",
        "expires-and-never" "The token has an end and none",
        "grant-over" "The grant would have ended already",
        "header-of-the-protocol" "The protocol sets this header field",
        "header-twice" "A header field is given twice",
        "inexact-version" "Not an exact version",
        "key-reused" "The key was used with another request",
        "kind-changed" "The type is of another kind now",
        "no-content" "A file has no content",
        "no-free-name" "No name is free",
        "no-package" "The instance has no package whose version can be chosen",
        "no-scope" "Only a member's token has a scope",
        "no-screen" "The type has no screen",
        "no-secret" "The secret of the server is missing",
        "no-source" "A generic type was given nothing to run",
        "no-such-variable" "An argument takes a variable that is not given",
        "no-trial" "Not a trial of the instance",
        "no-value" "The instance has no such value",
        "not-remote" "Only a remote server takes a secret",
        "other-source" "The type runs sources of another kind",
        "overlap-too-long" "The overlap is too long",
        "own-call-timeout" "The type defines its call timeout",
        "own-image" "The type runs its own image",
        "own-settings" "The type defines its network, volume and processes",
        "owner-of-all" "An owner has no workspace",
        "pinned" "The version is pinned",
        "reserved-name" "The name is kept for the box itself",
        "rotates-itself" "A token that rotates itself needs an overlap",
        "runs-elsewhere" "A remote server takes no variables, network, volume or processes",
        "secret-in-address" "The address holds a secret",
        "secret-lines" "The secret has not one line for each header field",
        "too-many-headers" "Too many header fields",
        "too-many-variables" "Too many variables",
        "unused-secret" "Nothing says how to send the secret",
        "value-holds-nul" "The value holds a NUL byte",
        "value-required" "The type requires the value",
        "value-too-long" "The value is too long",
        "variables-too-long" "The variables are too long together",
    }
    426 {
        "not-websocket" "Only WebSockets are taken here",
    }
    429 {
        "too-fast" "Calls come too fast",
        "too-many-at-once" "Too many calls are under way",
        "too-many-failures" "Too many failed attempts from this address",
        "too-many-streams" "Too many streams of events are open",
    }
    431 {
        "head-too-large" "The header section is too large",
    }
    500 {
        "fault" "A fault of the box",
        "store" "The change could not be stored",
    }
    502 {
        "garbled" "The instance does not speak HTTP",
        "lost" "The instance went away",
        "no-tools" "The instance's server does not list its tools",
    }
    503 {
        "busy" "All connections are in use",
        "crowded" "The token has too many connections",
        "id-in-use" "The id drawn is in use",
        "locked" "The box serves nothing before it is claimed",
        "no-audit" "The audit takes no rows",
        "no-doctor" "Doctor cannot be run",
        "no-picture" "The screen gives no picture",
        "not-serving" "The instance is not serving",
        "starting" "The box is starting or stopping",
        "stopping" "The supervisor is shutting down",
        "unavailable" "What the box stands on does not answer",
    }
    504 {
        "too-late" "No answer in time",
    }
    507 {
        "full" "The box is full",
        "no-room" "The disk has no room",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page's table, as it must be.
    fn page() -> String {
        let row = |row: &Code| {
            let fields: Vec<String> = row.fields().iter().map(|f| format!("`{f}`")).collect();
            format!(
                "| {} | `{}` | {} | {} |\n",
                row.status,
                row.code,
                row.title,
                fields.join(", ")
            )
        };
        CODES.iter().map(row).collect::<String>().replace(" |  |\n", " | |\n")
    }

    /// Those of the CLI are added by the CLI, which alone knows them.
    #[test]
    fn no_sentence_of_an_error_names_a_verb_or_an_option() {
        for text in [include_str!("../model/refusal.rs"), include_str!("problem.rs")] {
            let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
            for line in code.take_while(|l| *l != "#[cfg(test)]") {
                assert!(!line.contains("`berth ") && !line.contains(" --"), "{line}");
            }
        }
    }

    #[test]
    fn every_code_has_one_row_and_every_row_is_on_the_page() {
        let mut seen = std::collections::BTreeSet::new();
        for row in CODES {
            assert!(seen.insert(row.code), "{} has two rows", row.code);
            assert!((400..600).contains(&row.status) && !row.title.is_empty(), "{row:?}");
        }
        let mut named = std::collections::BTreeSet::new();
        for (code, fields) in RequestError::CODES.iter().chain(Refusal::CODES) {
            assert!(named.insert(code), "two errors have the code {code}");
            assert!(Code::find(code).is_some(), "src/api/codes.rs has no row for {code}");
            for field in *fields {
                let reserved = ["type", "title", "status", "detail", "instance", "code"];
                assert!(
                    !reserved.contains(field),
                    "{code}: {field} is a member of every problem"
                );
            }
        }
        let text = include_str!("../../docs/api-errors.md");
        let rows: String = text
            .lines()
            .filter(|l| l.starts_with("| 4") || l.starts_with("| 5"))
            .flat_map(|l| [l, "\n"])
            .collect();
        assert!(rows == page(), "the table of docs/api-errors.md must be:\n{}", page());
    }
}
