//! The people of a box: their roles, their teams, what they were granted; and whom a token speaks for.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{Etag, InstanceId, InstanceName, MemberName, ParseError, SignIn, TeamName, WorkspaceName};

/// What a member is: of the box, or of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Of a workspace: may do there what they were granted, and nothing else.
    #[default]
    Member,
    /// Of a workspace: everything in it but its quota.
    Admin,
    /// Of the box: everything.
    Owner,
}

impl Role {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Member => "member",
            Role::Admin => "admin",
            Role::Owner => "owner",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What somebody is in a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceRole {
    Member,
    Admin,
}

impl From<WorkspaceRole> for Role {
    fn from(role: WorkspaceRole) -> Role {
        match role {
            WorkspaceRole::Member => Role::Member,
            WorkspaceRole::Admin => Role::Admin,
        }
    }
}

/// A team, by its workspace and its name; as text `WORKSPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TeamId {
    pub workspace: WorkspaceName,
    pub name: TeamName,
}

impl std::fmt::Display for TeamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.workspace, self.name)
    }
}

/// `WORKSPACE/NAME`, or the name alone for one of `default`.
impl std::str::FromStr for TeamId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Ok(match text.split_once('/') {
            Some((workspace, name)) => TeamId {
                workspace: workspace.parse()?,
                name: name.parse()?,
            },
            None => TeamId {
                workspace: WorkspaceName::default(),
                name: text.parse()?,
            },
        })
    }
}

impl TeamId {
    /// The texts that are one, as a regular expression (ECMA-262).
    pub const PATTERN: &str = "^([a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?/)?[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$";
}

impl JsonSchema for TeamId {
    fn schema_name() -> Cow<'static, str> {
        "TeamId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": Self::PATTERN,
            "description": "A team: `WORKSPACE/NAME`. In a request the name alone means one of the workspace `default`."
        })
    }
}

impl TryFrom<String> for TeamId {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<TeamId> for String {
    fn from(id: TeamId) -> String {
        id.to_string()
    }
}

/// Who is granted something. As JSON one field: `"member": NAME` or `"team": "WORKSPACE/NAME"`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grantee {
    Member(MemberName),
    Team(TeamId),
}

impl Grantee {
    /// The texts that are one, as a regular expression (ECMA-262).
    pub const PATTERN: &str = "^(team:([a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?/)?)?[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$";
}

/// As the command line writes it: `NAME`, `team:NAME` or `team:WORKSPACE/NAME`.
impl std::fmt::Display for Grantee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Grantee::Member(name) => f.write_str(name.as_str()),
            Grantee::Team(team) => write!(f, "team:{team}"),
        }
    }
}

impl std::str::FromStr for Grantee {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.strip_prefix("team:") {
            Some(team) => Ok(Grantee::Team(team.parse()?)),
            None => Ok(Grantee::Member(text.parse()?)),
        }
    }
}

/// How much of an instance a grant opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// To see it, to call its server, to look at its screen and to steer it.
    Use,
    /// Besides, everything else that can be done with it, but to grant it to others.
    Manage,
}

/// A member as they are listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberView {
    pub name: MemberName,
    /// `owner`, or the highest that they are in a workspace.
    pub role: Role,
    /// What they are in each workspace; an owner needs none.
    pub workspaces: BTreeMap<WorkspaceName, WorkspaceRole>,
    pub teams: BTreeSet<TeamId>,
    pub created_at: jiff::Timestamp,
    /// Which version of the record this is.
    #[serde(default)]
    pub etag: Etag,
    /// Since when they are let in nowhere.
    pub disabled_at: Option<jiff::Timestamp>,
    /// How they sign in with a browser.
    #[serde(default)]
    pub sign_in: SignIn,
    /// Their tokens that are valid.
    pub tokens: usize,
    pub last_used_at: Option<jiff::Timestamp>,
}

/// A team as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TeamView {
    pub workspace: WorkspaceName,
    pub name: TeamName,
    pub members: BTreeSet<MemberName>,
    pub created_at: jiff::Timestamp,
    /// Which version of the record this is.
    #[serde(default)]
    pub etag: Etag,
}

/// A grant as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GrantView {
    #[serde(flatten)]
    pub to: Grantee,
    pub instance: InstanceId,
    /// The instance's, for people.
    pub instance_name: InstanceName,
    pub workspace: WorkspaceName,
    pub level: Level,
    /// From then on it opens nothing.
    pub until: Option<jiff::Timestamp>,
    pub created_at: jiff::Timestamp,
    /// Who made it.
    pub by: String,
    /// Which version of the record this is.
    #[serde(default)]
    pub etag: Etag,
    /// When a call was let through by it.
    pub last_used_at: Option<jiff::Timestamp>,
}

/// How far a member's token reaches at most, whatever its member may.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenScope {
    /// As far as the member: the API, and the endpoints of what they were granted.
    #[default]
    All,
    /// The API, and no instance's endpoint.
    Api,
    /// The endpoints of these instances, and not the API.
    Instances(Arc<BTreeSet<InstanceId>>),
}

impl TokenScope {
    /// Instances that one token may name.
    pub const MAX_INSTANCES: usize = 64;

    /// Whether it reaches nowhere that the other one does not.
    pub fn within(&self, other: &TokenScope) -> bool {
        match (self, other) {
            (_, TokenScope::All) | (TokenScope::Api, TokenScope::Api) => true,
            (TokenScope::Instances(these), TokenScope::Instances(those)) => these.is_subset(those),
            _ => false,
        }
    }

    /// Whether it is [`TokenScope::All`].
    pub fn is_all(&self) -> bool {
        *self == TokenScope::All
    }
}

/// Whom a token speaks for. As JSON one field: `"instance": ID` or `"member": NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Opens this instance's endpoints, and nothing else.
    Instance(InstanceId),
    /// Opens what this member may reach, within the token's scope.
    Member(MemberName),
}

impl Subject {
    /// The instance, where it is one.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Subject::Instance(id) => Some(id),
            Subject::Member(_) => None,
        }
    }

    /// The member, where it is one.
    pub fn member(&self) -> Option<&MemberName> {
        match self {
            Subject::Instance(_) => None,
            Subject::Member(name) => Some(name),
        }
    }

    /// Whether it is this instance.
    pub fn is_instance(&self, id: &InstanceId) -> bool {
        self.instance() == Some(id)
    }

    /// Whether it is this member.
    pub fn is_member(&self, name: &MemberName) -> bool {
        self.member() == Some(name)
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Instance(id) => f.write_str(id.as_str()),
            Subject::Member(name) => f.write_str(name.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_granted_something_is_written_and_read_alike() {
        let team = |text: &str| Grantee::Team(text.parse().unwrap());
        for (text, who) in [
            ("ada", Grantee::Member(MemberName::parse("ada").unwrap())),
            ("team:default/eng", team("eng")),
            ("team:acme/eng", team("acme/eng")),
        ] {
            assert_eq!(text.parse::<Grantee>().as_ref(), Ok(&who));
            assert_eq!(who.to_string(), text);
            let json = serde_json::to_string(&who).unwrap();
            assert_eq!(serde_json::from_str::<Grantee>(&json).unwrap(), who, "{json}");
        }
        for bad in ["", "team:", "team:a/b/c", "team:/b", "Team:a", "a/b"] {
            assert!(bad.parse::<Grantee>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_pattern_of_teams_takes_what_is_read_as_one() {
        let pattern = regex_lite::Regex::new(TeamId::PATTERN).unwrap();
        let long = "a".repeat(41);
        for text in [
            "eng", "acme/eng", "a/b/c", "/b", "a/", "", "a-/b", "a/-b", "A/b", "a b", "0/9", "a\n", &long,
        ] {
            assert_eq!(pattern.is_match(text), text.parse::<TeamId>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_scope_is_within_another_or_not() {
        let ids =
            |n: &[u8]| TokenScope::Instances(Arc::new(n.iter().map(|n| InstanceId::from_random([*n; 10])).collect()));
        let (all, api) = (TokenScope::All, TokenScope::Api);
        for (inner, outer, within) in [
            (&all, &all, true),
            (&api, &all, true),
            (&ids(&[1]), &all, true),
            (&all, &api, false),
            (&ids(&[1]), &api, false),
            (&api, &ids(&[1]), false),
            (&ids(&[1]), &ids(&[1, 2]), true),
            (&ids(&[1, 3]), &ids(&[1, 2]), false),
        ] {
            assert_eq!(inner.within(outer), within, "{inner:?} in {outer:?}");
        }
        assert_eq!(serde_json::to_string(&api).unwrap(), "\"api\"");
        assert!(
            serde_json::to_string(&ids(&[1]))
                .unwrap()
                .starts_with("{\"instances\":[")
        );
    }
}
