//! The table of routes: method, path, parameters, what is sent and answered, and which errors there may be. What stands in
//! braces in a path is a parameter: `{instance}` stands for an id or a name.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    Claiming, Doctored, Hello, ImageView, ScreenLink, ScreenRequest, Status, TypeView, Whoami,
    events::{Event, Reset},
    query::{AUDIT, EVENTS, MAX_WAIT, Value},
};
use crate::model::{
    Action, AuditVerified, CredentialView, GrantView, InstanceView, MemberView, Outcome, Refusal, TeamView, TokenView,
    UsageBy, UsageRow, WorkspaceView,
};

/// What stands for an instance in a path.
pub(super) const INSTANCE: &str = "{instance}";

/// What travels as the body of a request or an answer.
#[derive(Debug, Clone, Copy)]
pub enum Body {
    Nothing,
    /// JSON of this form.
    Json(Form),
    /// Server-sent events with data of this form.
    Events(Form),
    /// Text of this media type.
    Text(&'static str),
    /// Bytes of this media type.
    Bytes(&'static str),
}

/// Makes the JSON schema of a body.
pub type Form = fn(&mut SchemaGenerator) -> Schema;

/// A route, as the table has it.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub method: &'static str,
    /// Below the root of the API, with its parameters in braces.
    pub path: &'static str,
    pub query: &'static [(&'static str, Value)],
    pub sends: Body,
    /// With the status 200.
    pub answers: Body,
    /// Whether the answer may be 204 instead, without a body.
    pub may_be_empty: bool,
    /// Whether it answers one record, with its tag: whoever has it asks whether there is another.
    pub tagged: bool,
    /// The codes of errors that it has beside those of all routes and of all routes of an instance.
    pub errors: &'static [&'static str],
}

impl Row {
    /// Whether this method asks for it: what can be read can be asked for by HEAD (RFC 9110, section 9.1).
    fn takes(&self, method: &str) -> bool {
        self.method == method || self.method == "GET" && method == "HEAD"
    }
}

/// A route that is read, without parameters.
const fn get(path: &'static str, answers: Body) -> Row {
    Row {
        method: "GET",
        path,
        query: &[],
        sends: Body::Nothing,
        answers,
        may_be_empty: false,
        tagged: false,
        errors: &[],
    }
}

/// A list, in pages where they are asked for.
const fn list(path: &'static str, answers: Body) -> Row {
    Row {
        query: PAGE,
        ..get(path, answers)
    }
}

/// One record of a list.
const fn one(path: &'static str, answers: Body, errors: &'static [&'static str]) -> Row {
    Row {
        tagged: true,
        errors,
        ..get(path, answers)
    }
}

/// A route that something is sent to.
const fn post(path: &'static str, sends: Body, answers: Body) -> Row {
    Row {
        method: "POST",
        sends,
        ..get(path, answers)
    }
}

/// The parameters of lists.
pub(super) const PAGE: &[(&str, Value)] = &[("limit", Value::Limit), ("after", Value::Cursor)];

/// The form of a type.
fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The form of what an instance's server lists as its tools.
fn tools(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "description": "A tool as MCP has it." } })
}

/// The form of the data of events.
fn events(generator: &mut SchemaGenerator) -> Schema {
    let forms = [generator.subschema_for::<Event>(), generator.subschema_for::<Reset>()];
    json_schema!({ "anyOf": forms })
}

/// The form of an OpenAPI document.
fn openapi(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "required": ["openapi", "info", "paths"] })
}

macro_rules! routes {
    ($($(#[doc = $doc:literal])+ $name:ident: $row:expr,)*) => {
        /// All routes of the API, behind the admin socket and below `/api` alike.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Route { $($(#[doc = $doc])+ $name,)* }

        impl Route {
            /// All of them.
            pub const ALL: &[Route] = &[$(Route::$name,)*];

            /// Its row of the table.
            pub const fn row(self) -> Row {
                match self {
                    $(Route::$name => $row,)*
                }
            }

            /// Its name, as the table has it.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Route::$name => stringify!($name),)*
                }
            }

            /// What it is, for people.
            pub(super) const fn about(self) -> &'static str {
                match self {
                    $(Route::$name => concat!($($doc),+),)*
                }
            }
        }
    };
}

const TEXT: Body = Body::Text("text/plain; charset=utf-8");

routes! {
    /// Does what an action says. What comes back is durable.
    Act: Row {
        errors: &["bad-time", "body-unread", "both-of", "no-action", "unknown-field"],
        ..post("/v1/actions", Body::Json(of::<Action>), Body::Json(of::<Outcome>))
    },
    /// What the supervisor says of itself.
    Status: get("/v1/status", Body::Json(of::<Status>)),
    /// Who asks, and which box it is.
    Whoami: get("/v1/whoami", Body::Json(of::<Whoami>)),
    /// This document.
    OpenApi: get("/openapi.json", Body::Json(openapi)),
    /// What can be run.
    Types: list("/v1/types", Body::Json(of::<Vec<TypeView>>)),
    /// The images that are on the box.
    Images: Row {
        errors: &["unavailable"],
        ..list("/v1/images", Body::Json(of::<Vec<ImageView>>))
    },
    /// Loads an archive of images, as `docker save` makes it. The answer has the names of those in it.
    LoadImages: Row {
        errors: &["bad-archive", "empty-archive", "unavailable"],
        ..post("/v1/images", Body::Bytes("application/x-tar"), Body::Json(of::<Vec<String>>))
    },
    /// The tokens that the caller may know of, without their secrets.
    Tokens: list("/v1/tokens", Body::Json(of::<Vec<TokenView>>)),
    /// One token, by its id.
    Token: one("/v1/tokens/{token}", Body::Json(of::<TokenView>), &["no-token"]),
    /// The workspaces that the caller may know of.
    Workspaces: list("/v1/workspaces", Body::Json(of::<Vec<WorkspaceView>>)),
    /// One workspace.
    Workspace: one("/v1/workspaces/{workspace}", Body::Json(of::<WorkspaceView>), &["no-workspace"]),
    /// The members that the caller may know of.
    Members: list("/v1/members", Body::Json(of::<Vec<MemberView>>)),
    /// One member.
    Member: one("/v1/members/{member}", Body::Json(of::<MemberView>), &["no-member"]),
    /// The teams that the caller may know of.
    Teams: list("/v1/teams", Body::Json(of::<Vec<TeamView>>)),
    /// One team.
    Team: one("/v1/teams/{team}", Body::Json(of::<TeamView>), &["no-team"]),
    /// The grants that the caller may know of.
    Grants: list("/v1/grants", Body::Json(of::<Vec<GrantView>>)),
    /// What one member or team was granted of one instance.
    Grant: one("/v1/grants/{grantee}/{id}", Body::Json(of::<GrantView>), &["no-grant"]),
    /// Rows of the audit, as JSON Lines in the order in which they were written: of those that the caller may know of, those that
    /// the parameters name, and the last 100 where they name none. With `follow` those that come as well.
    Audit: Row {
        query: AUDIT,
        ..get("/v1/audit", Body::Text("application/jsonl"))
    },
    /// What changes on the box, as server-sent events, of what the caller may know of: `instance-added`, `member-removed` and so
    /// on, with an `Event` as data; and `reset`, with a `Reset`, which tells to read the lists again. After a break the header
    /// `Last-Event-ID` or `last_event_id` says from where to go on. Only these kinds, or what is of this instance, where they are
    /// named. With `follow` 0 what there is by now, and no more.
    Events: Row {
        query: EVENTS,
        errors: &["name-elsewhere", "no-instance", "too-many-streams"],
        ..get("/v1/events", Body::Events(events))
    },
    /// Looks whether every row of the audit is as it was written.
    AuditVerify: get("/v1/audit/verify", Body::Json(of::<AuditVerified>)),
    /// What was used on days from `since` to `until` (UTC, both included), of what the caller may know of.
    Usage: Row {
        query: &[
            ("since", Value::Date),
            ("until", Value::Date),
            ("by", Value::OneOf(UsageBy::WORDS)),
        ],
        ..get("/v1/usage", Body::Json(of::<Vec<UsageRow>>))
    },
    /// The certificate of the box's own CA, in PEM.
    Ca: Row {
        errors: &["no-ca"],
        ..get("/v1/ca", Body::Text("application/x-pem-file"))
    },
    /// What the checks of the box find.
    Doctor: Row {
        query: &[("json", Value::Flag), ("hardening", Value::Flag)],
        errors: &["no-doctor"],
        ..get("/v1/doctor", Body::Json(of::<Doctored>))
    },
    /// Counters in the text format of Prometheus.
    Metrics: get("/metrics", Body::Text("text/plain; version=0.0.4")),
    /// The instances that the caller may know of.
    Instances: list("/v1/instances", Body::Json(of::<Vec<InstanceView>>)),
    /// One instance.
    Instance: one("/v1/instances/{instance}", Body::Json(of::<InstanceView>), &[]),
    /// Waits until an instance is settled, stopped or gone, for `ms` milliseconds at most (60000 where nothing is said). To wait
    /// longer, ask again. 204: it is gone.
    Wait: Row {
        query: &[("for", Value::OneOf(&["settled", "stopped", "gone"])), ("ms", Value::UpTo(MAX_WAIT))],
        may_be_empty: true,
        errors: &["not-yet"],
        ..get("/v1/instances/{instance}/wait", Body::Json(of::<InstanceView>))
    },
    /// The variables of an instance, without their values.
    Credentials: get("/v1/instances/{instance}/credentials", Body::Json(of::<Vec<CredentialView>>)),
    /// The log of an instance, streamed: its last `tail` lines, and with `follow` what comes.
    Logs: Row {
        query: &[("follow", Value::Flag), ("tail", Value::Number)],
        ..get("/v1/instances/{instance}/logs", TEXT)
    },
    /// The log of an instance's latest deploy, streamed; with `follow` until it ends.
    DeployLog: Row {
        query: &[("follow", Value::Flag)],
        ..get("/v1/instances/{instance}/deploy", TEXT)
    },
    /// What an instance's server lists as tools now.
    Tools: Row {
        errors: &["no-tools", "not-running"],
        ..get("/v1/instances/{instance}/tools", Body::Json(tools))
    },
    /// Makes a link that opens an instance's screen once.
    ScreenLink: Row {
        errors: &["no-screen", "no-screen-request"],
        ..post("/v1/instances/{instance}/screen", Body::Json(of::<ScreenRequest>), Body::Json(of::<ScreenLink>))
    },
    /// An instance's screen as it is now.
    Screenshot: Row {
        errors: &["no-picture", "no-screen", "not-ready"],
        ..get("/v1/instances/{instance}/screen.png", Body::Bytes("image/png"))
    },
}

/// Claiming, at a door of its own: for whoever has no token yet, and only over the network.
pub(super) const CLAIM: &[(&str, Row)] = &[
    (
        "Hello",
        Row {
            errors: &[
                "bad-host",
                "bad-origin",
                "fault",
                "head-too-large",
                "starting",
                "too-late",
            ],
            ..get("/claim", Body::Json(of::<Hello>))
        },
    ),
    (
        "Claim",
        Row {
            errors: &[
                "bad-host",
                "bad-origin",
                "bad-token-name",
                "body-broken",
                "body-too-large",
                "body-too-slow",
                "claimed",
                "fault",
                "head-too-large",
                "no-claim",
                "no-key",
                "not-permitted",
                "starting",
                "stopping",
                "store",
                "too-late",
                "too-many-failures",
                "unavailable",
                "wrong-code",
                "wrong-key",
            ],
            ..post("/claim", Body::Json(of::<Claiming>), Body::Json(of::<Outcome>))
        },
    ),
];

/// Errors that every route may answer with: of the edge, before it is asked; and of its own.
pub(super) const COMMON: &[&str] = &[
    "bad-host",
    "bad-origin",
    "bad-parameter",
    "bad-token",
    "body-broken",
    "body-too-large",
    "body-too-slow",
    "crowded",
    "expired-token",
    "fault",
    "head-too-large",
    "locked",
    "no-such-parameter",
    "not-permitted",
    "revoked-token",
    "starting",
    "too-fast",
    "too-late",
    "too-many-at-once",
    "too-many-failures",
    "unauthenticated",
    "wrong-token",
];

/// Errors of every route of an instance.
const OF_INSTANCES: &[&str] = &["bad-path", "name-elsewhere", "no-instance"];

/// Errors of every route that something is sent to: of what a write may say beside what it asks for.
const OF_WRITES: &[&str] = &[
    "bad-idempotency-key",
    "bad-precondition",
    "key-in-use",
    "key-reused",
    "no-single-record",
];

/// Errors of every route that answers one record with its tag.
const OF_TAGGED: &[&str] = &["bad-precondition"];

/// Refusals that no action comes to.
const NOT_OF_ACTIONS: &[&str] = &[
    "bad-archive",
    "empty-archive",
    "name-elsewhere",
    "no-doctor",
    "no-key",
    "no-picture",
    "no-screen",
    "no-tools",
    "not-ready",
    "not-running",
    "wrong-code",
    "wrong-key",
];

impl Route {
    /// Its path below the API's root, as the table has it.
    pub const fn path(self) -> &'static str {
        self.row().path
    }

    /// Its path for one instance, by id or name.
    pub fn of(self, instance: &str) -> String {
        self.with(&[instance])
    }

    /// Its path with these parameters, in their order.
    pub fn with(self, parameters: &[&str]) -> String {
        let mut left = parameters.iter();
        let parts = self.path().split('/').map(|part| match parameter(part) {
            Some(_) => left.next().copied().unwrap_or(part),
            None => part,
        });
        parts.collect::<Vec<_>>().join("/")
    }

    /// Whether it is of one instance, which its path names first.
    pub fn is_of_instance(self) -> bool {
        self.path().contains(INSTANCE)
    }

    /// The names of the parameters in its path.
    pub(super) fn parameters(self) -> impl Iterator<Item = &'static str> {
        self.path().split('/').filter_map(parameter)
    }

    /// Whether an error of this code may be its answer.
    pub fn may_answer(self, code: &str) -> bool {
        let row = self.row();
        let refused = || Refusal::CODES.iter().any(|(c, _)| *c == code) && !NOT_OF_ACTIONS.contains(&code);
        COMMON.contains(&code)
            || row.errors.contains(&code)
            || row.path.contains(INSTANCE) && OF_INSTANCES.contains(&code)
            || row.method == "POST" && OF_WRITES.contains(&code)
            || row.tagged && OF_TAGGED.contains(&code)
            || self == Route::Act && refused()
    }

    /// The route of a request, and the parameters in its path, in their order.
    pub fn find<'p>(method: &str, path: &'p str) -> Option<(Route, Vec<&'p str>)> {
        let matching = |route: &Route| {
            let row = route.row();
            let named = row.takes(method).then(|| matched(row.path, path)).flatten()?;
            Some((*route, named))
        };
        Route::ALL.iter().find_map(matching)
    }

    /// The methods of the routes at a path; none where there is no route.
    pub fn methods(path: &str) -> &'static [&'static str] {
        let there = Route::ALL.iter().map(|route| route.row());
        let there: Vec<Row> = there.filter(|row| matched(row.path, path).is_some()).collect();
        let takes = |method| there.iter().any(|row| row.takes(method));
        match (takes("GET"), takes("POST")) {
            (true, true) => &["GET", "HEAD", "POST"],
            (true, false) => &["GET", "HEAD"],
            (false, true) => &["POST"],
            (false, false) => &[],
        }
    }
}

/// The name of a parameter, where a part of a path's form is one.
fn parameter(part: &'static str) -> Option<&'static str> {
    part.strip_prefix('{')?.strip_suffix('}')
}

/// What stands for the parameters in a path of this form; `None` where it is of another.
fn matched<'p>(form: &'static str, path: &'p str) -> Option<Vec<&'p str>> {
    let mut named = Vec::new();
    let mut parts = path.split('/');
    for wanted in form.split('/') {
        match (parameter(wanted), parts.next()?) {
            (Some(_), part) if !part.is_empty() => named.push(part),
            (None, part) if wanted == part => {}
            _ => return None,
        }
    }
    parts.next().is_none().then_some(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_is_asked_by_each_of_its_columns() {
        let known = Route::Audit.row().query;
        for column in crate::model::AuditRow::COLUMNS {
            assert!(known.iter().any(|(name, _)| name == column), "{column}");
        }
    }

    #[test]
    fn every_route_is_found_by_its_row_and_no_other() {
        for route in Route::ALL {
            let row = route.row();
            let path = route.with(&["abc", "def"]);
            let named = || ["abc", "def"][..route.parameters().count()].to_vec();
            assert_eq!(Route::find(row.method, &path), Some((*route, named())));
            assert_eq!(Route::find("PATCH", &path), None);
            if row.method == "GET" {
                assert_eq!(Route::find("HEAD", &path), Some((*route, named())));
            }
            assert!(Route::methods(&path).contains(&row.method), "{path}");
            for other in [
                format!("{path}/"),
                format!("{path}/x"),
                format!("/{path}"),
                path[1..].to_owned(),
            ] {
                assert!(
                    Route::find(row.method, &other).is_none_or(|(r, _)| r != *route),
                    "{other}"
                );
            }
        }
        assert_eq!(Route::methods("/v1/images"), ["GET", "HEAD", "POST"]);
        assert_eq!(Route::methods("/v1/actions"), ["POST"]);
        assert!(Route::methods("/v1/no-such-route").is_empty());
        assert_eq!(Route::find("GET", "/v1/instances//logs"), None);
        assert_eq!(Route::find("GET", "/v1/instances/"), None);
    }

    #[test]
    fn values_are_written_in_one_way() {
        for (value, good, bad) in [
            (Value::Flag, &["0", "1"][..], &["", "2", "01", "true"][..]),
            (
                Value::Number,
                &["0", "7", "4294967295"],
                &["", "+7", "-1", "7.0", "4294967296", "x", " 7"],
            ),
            (Value::UpTo(50), &["0", "50"], &["", "51", "-1", "x"]),
            (
                Value::Words(&["a", "b"]),
                &["a", "a,b", "b%2Ca"],
                &["", "c", "a,", "a b", "a,c"],
            ),
            (
                Value::Time,
                &["2027-01-31T10:00:00Z", "2027-01-31T10:00:00%2B02:00"],
                &["2027-01-31", "2027-01-31T10:00:00+02:00", "2027-01-31 10:00:00Z"],
            ),
            (
                Value::Date,
                &["2027-01-31"],
                &["2027-1-31", "20270131", "2027-01-31T00:00:00Z"],
            ),
            (Value::Limit, &["1", "1000"], &["", "0", "1001", "+1"]),
            (Value::Cursor, &["YQ", "a-_9"], &["", "a=", "a+", "a/", "ä"]),
            (Value::OneOf(&["a", "b"]), &["a", "b"], &["", "c", "A"]),
        ] {
            assert!(good.iter().all(|text| value.fits(text)), "{value:?}");
            assert!(!bad.iter().any(|text| value.fits(text)), "{value:?}");
        }
    }
}
