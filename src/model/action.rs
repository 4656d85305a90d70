//! What anybody may ask of the supervisor, as one closed enum: the admin API, the CLI and later the console all
//! end here. Admission answers at once, with a typed refusal.

use std::{collections::BTreeMap, net::IpAddr};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::{
    Allowlist, Etag, GrantView, Grantee, InstanceId, InstanceName, InstanceView, MemberName, MemberView, Network,
    NewAccount, Offboarded, Processes, Role, Secret, SignInLink, Size, Source, Subject, TeamName, TeamView, TokenId,
    TokenScope, TypeName, WorkspaceLimits, WorkspaceName, WorkspaceView, date_time,
};

/// A member's token ends so many days after it was made, where nothing else is said.
pub const MEMBER_TOKEN_DAYS: i64 = 90;

/// A token that was rotated goes on for so many seconds, where nothing else is said: a working day for those who use it.
pub const OVERLAP: u64 = 24 * 3600;
/// It may go on for so many seconds at most.
pub const MAX_OVERLAP: u64 = 30 * 24 * 3600;

/// A request that changes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "action")]
// [`unknown_field`] refuses what is in no variant.
#[schemars(deny_unknown_fields)]
pub enum Action {
    Run(Box<RunRequest>),
    Stop {
        id: InstanceId,
    },
    Start {
        id: InstanceId,
    },
    Recreate {
        id: InstanceId,
    },
    Remove {
        id: InstanceId,
    },
    CreateToken {
        #[serde(flatten)]
        subject: Subject,
        name: Option<String>,
        /// Default: after 90 days ([`MEMBER_TOKEN_DAYS`]) for a member's token, never for an instance's.
        expires_at: Option<jiff::Timestamp>,
        /// It never expires.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        never: bool,
        /// How far it reaches; a member's only.
        #[serde(default, skip_serializing_if = "TokenScope::is_all")]
        scope: TokenScope,
    },
    RevokeToken {
        id: TokenId,
    },
    /// Makes another token in place of one, of the same owner, name and lifetime; the one there is goes on for a while.
    RotateToken {
        id: TokenId,
        /// For so many seconds, 30 days ([`MAX_OVERLAP`]) at most; 0: it is revoked at once. Default: a day ([`OVERLAP`]).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        overlap_s: Option<u64>,
    },
    /// Makes the administrator, and the first token of theirs. Whoever asks has shown that they may.
    Claim {
        /// What the token is for.
        name: Option<String>,
        /// With a browser: the account, which takes the place of the token. It comes from no client.
        #[serde(skip)]
        account: Option<Box<NewAccount>>,
    },
    /// Removes every owner with all their tokens: the box is unclaimed then. Only on the box itself.
    ResetAdmin,
    /// Keeps the version of an instance of `npx` or `uvx` (or lets it go again).
    Pin {
        id: InstanceId,
        pinned: bool,
    },
    /// Runs another version of such an instance beside it, for a short while, with the same variables: to see what it
    /// would change. Answers the trial, which is an instance like any other.
    Try {
        id: InstanceId,
        /// The newest where none is given.
        version: Option<String>,
    },
    /// Gives such an instance what its trial was installed with.
    Upgrade {
        id: InstanceId,
        trial: InstanceId,
    },
    /// Gives a variable of the server's environment a value, sealed at rest; a server that runs is restarted with it.
    SetCredential {
        id: InstanceId,
        key: String,
        value: Secret,
    },
    /// Takes it away again.
    UnsetCredential {
        id: InstanceId,
        key: String,
    },
    /// Makes a workspace.
    AddWorkspace {
        name: WorkspaceName,
        /// Default: the configuration's holds.
        #[serde(default)]
        quota: Option<WorkspaceLimits>,
        /// Default: whatever the configuration allows may be run.
        #[serde(default, skip_serializing_if = "Allowlist::is_open")]
        allow: Allowlist,
    },
    /// Gives a workspace another quota, which holds for what runs as well.
    SetQuota {
        workspace: WorkspaceName,
        /// All of it; `null`: the configuration's holds from now on.
        #[serde(deserialize_with = "present")]
        #[schemars(schema_with = "present_schema")]
        quota: Option<WorkspaceLimits>,
    },
    /// Says what may be run in a workspace from now on; what runs goes on.
    SetAllowlist {
        workspace: WorkspaceName,
        /// All of it.
        allow: Allowlist,
    },
    /// Removes a workspace that has no instances, with its teams; its members stay on the box.
    RemoveWorkspace {
        name: WorkspaceName,
    },
    /// Makes a member: an owner of the box, or one of a workspace.
    AddMember {
        name: MemberName,
        /// Default: [`Role::Member`].
        #[serde(default)]
        role: Role,
        /// Default: `default`; an owner has none.
        #[serde(default)]
        workspace: Option<WorkspaceName>,
    },
    /// Makes a member an owner, or gives them a role in a workspace, which they join by it. An owner is none afterwards.
    SetRole {
        member: MemberName,
        role: Role,
        /// Default: `default`; an owner has none.
        #[serde(default)]
        workspace: Option<WorkspaceName>,
    },
    /// Takes a member out of a workspace, with what they were granted there and their teams.
    LeaveWorkspace {
        member: MemberName,
        workspace: WorkspaceName,
    },
    /// Ends everything that a member has open, and lets them in nowhere; their roles, teams and grants stay.
    DisableMember {
        name: MemberName,
    },
    /// Lets them in again, with new tokens.
    EnableMember {
        name: MemberName,
    },
    /// Removes a member, with their tokens, grants and roles.
    RemoveMember {
        name: MemberName,
    },
    /// Makes a link by which a member who cannot sign in yet sets a passphrase; an earlier one of theirs ends.
    InviteMember {
        name: MemberName,
    },
    /// Takes a member's passphrase and second step away, ends their sessions, and makes such a link.
    ResetSignIn {
        name: MemberName,
    },
    /// Makes a team.
    AddTeam {
        /// Default: `default`.
        #[serde(default)]
        workspace: WorkspaceName,
        name: TeamName,
    },
    /// Removes a team, with what it was granted.
    RemoveTeam {
        #[serde(default)]
        workspace: WorkspaceName,
        name: TeamName,
    },
    /// Takes a member of the workspace into a team.
    JoinTeam {
        #[serde(default)]
        workspace: WorkspaceName,
        name: TeamName,
        member: MemberName,
    },
    LeaveTeam {
        #[serde(default)]
        workspace: WorkspaceName,
        name: TeamName,
        member: MemberName,
    },
    /// Grants an instance to a member or a team, in place of what they were granted of it.
    AddGrant {
        #[serde(flatten)]
        to: Grantee,
        instance: InstanceId,
        /// To manage it, rather than to use it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        manage: bool,
        /// Default: until it is taken away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<jiff::Timestamp>,
    },
    RemoveGrant {
        #[serde(flatten)]
        to: Grantee,
        instance: InstanceId,
    },
}

/// The fields of each action, beside `action`.
pub const ACTION_FIELDS: [(&str, &[&str]); 33] = [
    (
        "run",
        &[
            "type",
            "name",
            "workspace",
            "size",
            "env",
            "files",
            "source",
            "remote_secret",
            "network",
            "volume",
            "processes",
            "call_timeout_ms",
        ],
    ),
    ("stop", &["id"]),
    ("start", &["id"]),
    ("recreate", &["id"]),
    ("remove", &["id"]),
    (
        "create_token",
        &["instance", "member", "name", "expires_at", "never", "scope"],
    ),
    ("revoke_token", &["id"]),
    ("rotate_token", &["id", "overlap_s"]),
    ("claim", &["name"]),
    ("reset_admin", &[]),
    ("pin", &["id", "pinned"]),
    ("try", &["id", "version"]),
    ("upgrade", &["id", "trial"]),
    ("set_credential", &["id", "key", "value"]),
    ("unset_credential", &["id", "key"]),
    ("add_workspace", &["name", "quota", "allow"]),
    ("set_quota", &["workspace", "quota"]),
    ("set_allowlist", &["workspace", "allow"]),
    ("remove_workspace", &["name"]),
    ("add_member", &["name", "role", "workspace"]),
    ("set_role", &["member", "role", "workspace"]),
    ("leave_workspace", &["member", "workspace"]),
    ("disable_member", &["name"]),
    ("enable_member", &["name"]),
    ("remove_member", &["name"]),
    ("invite_member", &["name"]),
    ("reset_sign_in", &["name"]),
    ("add_team", &["workspace", "name"]),
    ("remove_team", &["workspace", "name"]),
    ("join_team", &["workspace", "name", "member"]),
    ("leave_team", &["workspace", "name", "member"]),
    ("add_grant", &["member", "team", "instance", "manage", "until"]),
    ("remove_grant", &["member", "team", "instance"]),
];
/// The fields of what a generic type is to run, beside `kind`.
const SOURCE_FIELDS: [(&str, &[&str]); 4] = [
    ("npx", &["package", "version", "bin", "args"]),
    ("uvx", &["package", "version", "bin", "args"]),
    ("image", &["image", "command", "args", "http"]),
    ("remote", &["url", "auth"]),
];

/// The fields of a workspace's allowlist.
const ALLOW_FIELDS: &[&str] = &["types", "packages", "images", "remotes"];

/// The fields of a workspace's quota.
const QUOTA_FIELDS: &[&str] = &[
    "cpus",
    "memory_bytes",
    "processes",
    "disk_bytes",
    "instances",
    "calls_per_second",
    "calls_at_once",
];

/// A field that a request has and its action has not: a misspelt one would silently be the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// The action, or the kind of its source.
    pub of: String,
    pub field: String,
    /// The fields that there are.
    pub known: &'static [&'static str],
}

/// Two fields of a request of which it may have one: either names whom it is about, and nobody could tell which is meant.
pub fn both_of(request: &serde_json::Value) -> Option<(&'static str, &'static str)> {
    let (first, second) = match request.get("action")?.as_str()? {
        "create_token" => ("instance", "member"),
        "add_grant" | "remove_grant" => ("member", "team"),
        _ => return None,
    };
    (request.get(first).is_some() && request.get(second).is_some()).then_some((first, second))
}

/// A field of a request that is to be a time and is another text: readers of times take more forms than RFC 3339 has.
pub fn other_time(request: &serde_json::Value) -> Option<&'static str> {
    let other = |field: &&str| {
        request
            .get(field)
            .and_then(|v| v.as_str())
            .is_some_and(|t| date_time(t).is_none())
    };
    ["expires_at", "until"].into_iter().find(other)
}

/// Fields of requests that are lists.
const LISTS: [&str; 9] = [
    "args",
    "command",
    "files",
    "images",
    "instances",
    "names",
    "packages",
    "remotes",
    "types",
];

/// Whether a request, or an object in it, is given as a list of its values: no field of such a list has a name.
pub fn holds_fields_as_list(request: &serde_json::Value) -> bool {
    match request {
        serde_json::Value::Array(_) => true,
        serde_json::Value::Object(fields) => {
            let mut own = fields
                .iter()
                .filter(|(name, value)| !value.is_array() || !LISTS.contains(&name.as_str()));
            own.any(|(_, value)| holds_fields_as_list(value))
        }
        _ => false,
    }
}

/// The first field of a request that its action has not. Never a value.
pub fn unknown_field(request: &serde_json::Value) -> Option<UnknownField> {
    unknown(request, "action", &ACTION_FIELDS)
        .or_else(|| unknown(request.get("source")?, "kind", &SOURCE_FIELDS))
        .or_else(|| unknown_in("quota", request.get("quota")?, QUOTA_FIELDS))
        .or_else(|| unknown_in("allow", request.get("allow")?, ALLOW_FIELDS))
}

fn unknown(object: &serde_json::Value, tag: &str, known: &[(&str, &'static [&'static str])]) -> Option<UnknownField> {
    let name = object.get(tag)?.as_str()?;
    let (_, fields) = known.iter().find(|(n, _)| *n == name)?;
    unknown_beside(tag, name, object, fields)
}

fn unknown_in(name: &str, object: &serde_json::Value, fields: &'static [&'static str]) -> Option<UnknownField> {
    unknown_beside("", name, object, fields)
}

fn unknown_beside(
    tag: &str,
    name: &str,
    object: &serde_json::Value,
    fields: &'static [&'static str],
) -> Option<UnknownField> {
    let is_known = |f: &&String| *f == tag || fields.contains(&f.as_str());
    let field = object.as_object()?.keys().find(|f| !is_known(f))?;
    Some(UnknownField {
        of: name.to_owned(),
        field: field.clone(),
        known: fields,
    })
}

/// A field that must be there, though it may be `null`.
fn present<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(d)
}

/// Of a field that must be there, though it may be `null`: the derived schema of an `Option` may be left out.
fn present_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Option<WorkspaceLimits>>()
}

/// What `berth run` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    #[serde(rename = "type")]
    pub type_name: TypeName,
    /// Default: the type's name, with a number where that is taken.
    #[serde(default)]
    pub name: Option<InstanceName>,
    /// Default: `default`.
    #[serde(default)]
    pub workspace: Option<WorkspaceName>,
    /// Default: the type's own.
    #[serde(default)]
    pub size: Option<Size>,
    /// Added to the server's environment; sealed at rest.
    #[serde(default)]
    pub env: BTreeMap<String, Secret>,
    /// Those of `env` that are what a file holds: the server finds the file in memory, and its path in the variable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// What a generic type (`npx`, `uvx`, `image`, `remote`) is to run; for no other type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The bearer token, or the value of the header, that a remote server wants; sealed at rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_secret: Option<Secret>,
    /// For generic types only; the type's own otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// For generic types only: where a volume of the instance's own is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// For generic types only: a server process for each session, or one for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<Processes>,
    /// For generic types only: how long one call may take without progress, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_timeout_ms: Option<u64>,
}

impl RunRequest {
    /// Runs a type with everything else as the type has it.
    pub fn of(type_name: TypeName) -> Self {
        Self {
            type_name,
            name: None,
            workspace: None,
            size: None,
            env: BTreeMap::new(),
            files: Vec::new(),
            source: None,
            remote_secret: None,
            network: None,
            volume: None,
            processes: None,
            call_timeout_ms: None,
        }
    }
}

/// What an accepted action came to. It is durable when this is returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// The instance as it stands now; with its token after `Run`.
    Instance(Box<InstanceView>),
    Token(TokenCreated),
    /// A workspace that is new, or has another quota.
    Workspace(WorkspaceView),
    /// A member who is new, or something else than before.
    Member(MemberView),
    /// A member who was disabled.
    Offboarded(Box<Offboarded>),
    /// A link that sets a passphrase; this once.
    SignInLink(SignInLink),
    Team(TeamView),
    Grant(GrantView),
    /// Nothing to show (removal accepted, token revoked).
    Done,
}

/// A token, the one time that its secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenCreated {
    #[serde(flatten)]
    pub view: TokenView,
    pub token: Secret,
}

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenView {
    pub id: TokenId,
    #[serde(flatten)]
    pub subject: Subject,
    pub name: String,
    pub created_at: jiff::Timestamp,
    pub last_used_at: Option<jiff::Timestamp>,
    /// The address that it was last used from.
    #[serde(default)]
    pub last_used_from: Option<IpAddr>,
    pub expires_at: Option<jiff::Timestamp>,
    /// How far it reaches; of an instance's token always [`TokenScope::All`], which is that instance.
    #[serde(default)]
    pub scope: TokenScope,
    /// Who made it; none where an older berth did not note it.
    #[serde(default)]
    pub by: Option<String>,
    /// Which version of the record this is.
    #[serde(default)]
    pub etag: Etag,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_have_every_field() {
        for (schema, known) in [
            (schemars::schema_for!(crate::model::WorkspaceLimits), QUOTA_FIELDS),
            (schemars::schema_for!(crate::model::Allowlist), ALLOW_FIELDS),
        ] {
            let fields = schema.get("properties").and_then(|p| p.as_object()).unwrap();
            let mut fields: Vec<&str> = fields.keys().map(String::as_str).collect();
            let mut known = known.to_vec();
            fields.sort_unstable();
            known.sort_unstable();
            assert_eq!(fields, known);
        }
    }

    #[test]
    fn times_are_written_in_one_form() {
        for (field, text, other) in [
            ("until", "2027-01-31T10:00:00+01:00", false),
            ("until", "2027-01-31", true),
            ("expires_at", "2027-01-31 10:00:00Z", true),
            ("expires_at", "", true),
            ("name", "now", false),
        ] {
            let request = serde_json::json!({ "action": "x", field: text });
            assert_eq!(other_time(&request), other.then_some(field), "{request}");
        }
        assert_eq!(other_time(&serde_json::json!({ "until": null, "expires_at": 5 })), None);
    }

    #[test]
    fn a_field_that_an_action_has_not_is_named() {
        let check = |text: &str, of: &str, field: &str, known: usize| {
            let found = unknown_field(&serde_json::from_str(text).unwrap()).expect(text);
            assert_eq!((found.of.as_str(), found.field.as_str()), (of, field));
            assert_eq!(found.known.len(), known, "{text}");
        };
        let token = r#"{"action":"create_token","member":"admin","expiry":60}"#;
        check(token, "create_token", "expiry", 6);
        check(r#"{"action":"reset_admin","x":1}"#, "reset_admin", "x", 0);
        let source = r#"{"action":"run","type":"npx","source":{"kind":"npx","package":"a","pin":true}}"#;
        check(source, "npx", "pin", 4);
        let quota = r#"{"action":"set_quota","workspace":"a","quota":{"cpu":1}}"#;
        check(quota, "quota", "cpu", QUOTA_FIELDS.len());
        let without = serde_json::from_str::<Action>(r#"{"action":"set_quota","workspace":"a"}"#);
        assert!(without.is_err(), "nothing said is not everything taken away");
        let none = serde_json::from_str::<Action>(r#"{"action":"set_quota","workspace":"a","quota":null}"#);
        assert!(matches!(none, Ok(Action::SetQuota { quota: None, .. })));
        for known in [r#"{"action":"no_such_action","x":1}"#, "[]"] {
            assert_eq!(unknown_field(&serde_json::from_str(known).unwrap()), None);
        }
    }

    #[test]
    fn an_object_is_no_list_of_its_values() {
        let holds = |text: &str| holds_fields_as_list(&serde_json::from_str(text).unwrap());
        for text in [
            r#"["stop","abcdefghij"]"#,
            r#"{"action":"set_quota","workspace":"a","quota":[1.5]}"#,
            r#"{"action":"run","type":"image","source":{"kind":"image","image":"a","http":[80,"/"]}}"#,
        ] {
            // Or it need not be looked for.
            assert!(serde_json::from_str::<Action>(text).is_ok(), "{text}");
            assert!(holds(text), "{text}");
        }
        for text in [
            r#"{"action":"run","type":"npx","files":["A"],"source":{"kind":"npx","package":"a","args":["x"]}}"#,
            r#"{"action":"create_token","member":"admin","scope":{"instances":["abcdefghij"]}}"#,
            r#"{"action":"set_allowlist","workspace":"a","allow":{"types":[],"packages":[],"images":[],"remotes":[]}}"#,
        ] {
            assert!(!holds(text), "{text}");
        }
    }

    /// The table knows every field that the types have: what they write is taken.
    #[test]
    fn every_action_is_taken_as_it_is_written() {
        let id = InstanceId::from_random([1; 10]);
        let name = || Some("n".to_owned());
        let package = crate::model::PackageSource {
            package: "a".into(),
            version: name(),
            bin: name(),
            args: vec!["x".into()],
        };
        let image = crate::model::ImageSource {
            image: "a".into(),
            command: vec!["x".into()],
            args: vec!["x".into()],
            http: Some(crate::model::HttpPlace {
                port: 1,
                path: "/".into(),
            }),
        };
        let remote = crate::model::RemoteSource {
            url: "https://a/".into(),
            auth: crate::model::RemoteAuth::Bearer,
        };
        let run = |source| {
            Action::Run(Box::new(RunRequest {
                name: InstanceName::parse("a").ok(),
                workspace: WorkspaceName::parse("a").ok(),
                size: Some(Size::Small),
                source: Some(source),
                remote_secret: Some(Secret::new("x")),
                network: Some(Network::None),
                volume: Some("/x".into()),
                processes: Some(Processes::Shared),
                call_timeout_ms: Some(1_200_000),
                files: vec!["A".into()],
                ..RunRequest::of(TypeName::parse("a").unwrap())
            }))
        };
        let subjects = [
            Subject::Instance(id.clone()),
            Subject::Member(crate::model::MemberName::admin()),
        ];
        let mut all: Vec<Action> = subjects
            .map(|subject| Action::CreateToken {
                subject,
                name: name(),
                expires_at: Some(jiff::Timestamp::UNIX_EPOCH),
                never: true,
                scope: TokenScope::Api,
            })
            .into();
        all.extend([
            run(Source::Npx(package.clone())),
            run(Source::Uvx(package)),
            run(Source::Image(image)),
            run(Source::Remote(remote)),
            Action::Stop { id: id.clone() },
            Action::Start { id: id.clone() },
            Action::Recreate { id: id.clone() },
            Action::Remove { id: id.clone() },
            Action::Claim {
                name: name(),
                account: None,
            },
            Action::ResetAdmin,
            Action::RotateToken {
                id: TokenId::from_random([1; 12]),
                overlap_s: Some(60),
            },
            Action::Pin {
                id: id.clone(),
                pinned: true,
            },
            Action::Try {
                id: id.clone(),
                version: name(),
            },
            Action::Upgrade {
                id: id.clone(),
                trial: id.clone(),
            },
            Action::SetCredential {
                id: id.clone(),
                key: "k".into(),
                value: Secret::new("x"),
            },
            Action::UnsetCredential { id, key: "k".into() },
            Action::AddWorkspace {
                name: WorkspaceName::default(),
                quota: Some(WorkspaceLimits::default()),
                allow: Allowlist {
                    types: Some(vec!["memory".to_owned()]),
                    ..Allowlist::default()
                },
            },
            Action::SetAllowlist {
                workspace: WorkspaceName::default(),
                allow: Allowlist {
                    packages: Some(Vec::new()),
                    ..Allowlist::default()
                },
            },
            Action::SetQuota {
                workspace: WorkspaceName::default(),
                quota: Some(WorkspaceLimits::default()),
            },
            Action::RemoveWorkspace {
                name: WorkspaceName::default(),
            },
        ]);
        all.extend(of_people());
        for action in all {
            let value = serde_json::to_value(&action).unwrap();
            assert_eq!(unknown_field(&value), None);
            assert!(!holds_fields_as_list(&value), "{value}");
            assert_eq!(serde_json::from_value::<Action>(value).unwrap(), action);
        }
    }

    fn of_people() -> Vec<Action> {
        let (member, team) = (MemberName::admin(), TeamName::parse("eng").unwrap());
        let workspace = WorkspaceName::default();
        let instance = InstanceId::from_random([1; 10]);
        let to = [
            Grantee::Member(member.clone()),
            Grantee::Team("acme/eng".parse().unwrap()),
        ];
        let mut all: Vec<Action> = Vec::new();
        for to in to {
            all.push(Action::AddGrant {
                to: to.clone(),
                instance: instance.clone(),
                manage: true,
                until: Some(jiff::Timestamp::UNIX_EPOCH),
            });
            let instance = instance.clone();
            all.push(Action::RemoveGrant { to, instance });
        }
        for join in [true, false] {
            let (workspace, name, member) = (workspace.clone(), team.clone(), member.clone());
            all.push(match join {
                true => Action::JoinTeam {
                    workspace,
                    name,
                    member,
                },
                false => Action::LeaveTeam {
                    workspace,
                    name,
                    member,
                },
            });
        }
        let (name, of) = (member.clone(), || Some(WorkspaceName::default()));
        all.extend([
            Action::AddMember {
                name: name.clone(),
                role: Role::Admin,
                workspace: of(),
            },
            Action::SetRole {
                member: name.clone(),
                role: Role::Owner,
                workspace: of(),
            },
            Action::LeaveWorkspace {
                member,
                workspace: workspace.clone(),
            },
            Action::DisableMember { name: name.clone() },
            Action::EnableMember { name: name.clone() },
            Action::RemoveMember { name: name.clone() },
            Action::InviteMember { name: name.clone() },
            Action::ResetSignIn { name },
            Action::AddTeam {
                workspace: workspace.clone(),
                name: team.clone(),
            },
            Action::RemoveTeam { workspace, name: team },
        ]);
        all
    }

    #[test]
    fn a_subject_is_one_field_of_its_action() {
        for (text, member) in [
            (
                r#"{"action":"create_token","instance":"abcdefghij","name":null,"expires_at":null}"#,
                false,
            ),
            (
                r#"{"action":"create_token","member":"admin","name":"laptop","expires_at":null}"#,
                true,
            ),
        ] {
            let action: Action = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&action).unwrap(), text);
            assert!(matches!(action, Action::CreateToken { subject, .. } if subject.member().is_some() == member));
        }
        for both in [
            r#"{"action":"create_token","instance":"abcdefghij","member":"admin"}"#,
            r#"{"action":"add_grant","team":"default/eng","member":"admin","instance":"abcdefghij"}"#,
            r#"{"action":"remove_grant","member":"admin","team":"default/eng","instance":"abcdefghij"}"#,
        ] {
            assert!(both_of(&serde_json::from_str(both).unwrap()).is_some(), "{both}");
        }
        let one = r#"{"action":"add_grant","member":"admin","instance":"abcdefghij"}"#;
        assert_eq!(both_of(&serde_json::from_str(one).unwrap()), None);
        for bad in [
            r#"{"action":"create_token","name":null}"#,
            r#"{"action":"create_token","member":"Not A Name"}"#,
            r#"{"action":"create_token","instance":"../../etc"}"#,
        ] {
            assert!(serde_json::from_str::<Action>(bad).is_err(), "{bad}");
        }
    }
}
