//! Why something is not done: each cause has a code, which is a word for programs that stays as it is, and fields. What
//! speaks to people makes its own words of them; those here name no verb and no option of the CLI.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Credential, Etag, InstanceId, MemberName, Record, State, TeamId, TokenId, WorkspaceName};

/// Declares errors that travel as JSON objects: `code` and the fields beside it. For each: its attributes, its code, its
/// name, its fields.
macro_rules! coded {
    ($(#[$meta:meta])* pub enum $all:ident {
        $($(#[$doc:meta])* $code:literal $name:ident $({ $($(#[$about:meta])* $field:ident: $type:ty),* $(,)? })?,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(tag = "code")]
        pub enum $all {
            $($(#[$doc])* #[serde(rename = $code)] $name $({ $($(#[$about])* $field: $type),* })?,)*
        }

        impl $all {
            /// Every code, with the fields beside it.
            pub const CODES: &[(&'static str, &'static [&'static str])] =
                &[$(($code, &[$($(stringify!($field)),*)?])),*];

            /// A word for programs, which stays as it is whatever the sentence says.
            pub fn code(&self) -> &'static str {
                match self {
                    $($all::$name { .. } => $code,)*
                }
            }
        }
    };
}

pub(crate) use coded;

coded! {
    /// Why something was not done. Nothing has changed.
    pub enum Refusal {
        // What is not there.

        #[error("there is no instance {name}")]
        "no-instance" NoInstance {
            /// The id or the name that was asked for.
            name: String,
        },
        #[error("no instance of the workspace default has the name {name:?}; elsewhere there is {}", listed(instances))]
        "name-elsewhere" NameElsewhere {
            name: String,
            /// Each as `WORKSPACE/NAME`, which asks for it.
            instances: Vec<String>,
        },
        #[error("there is no token {id}")]
        "no-token" NoToken { id: String },
        #[error("there is no member {member}")]
        "no-member" NoMember { member: MemberName },
        #[error("there is no team {team}")]
        "no-team" NoTeam { team: TeamId },
        #[error("{to} was not granted {of}")]
        "no-grant" NoGrant {
            /// `NAME`, or `team:WORKSPACE/NAME`.
            to: String,
            /// The instance.
            of: InstanceId,
        },
        #[error("there is no instance type {name:?}; known types: {}", listed(known))]
        "no-type" NoType { name: String, known: Vec<String> },
        #[error("there is no workspace {name:?}; this box has: {}", listed(known))]
        "no-workspace" NoWorkspace { name: String, known: Vec<String> },

        // Who may, and when.

        #[error("this box has no administrator yet: claim it with the code that it shows on its screen")]
        "unclaimed" Unclaimed,
        #[error("this box is claimed already; log in with a token of its administrator")]
        "claimed" Claimed,
        #[error("the claim code is wrong; the box's screen shows the right one")]
        "wrong-code" WrongCode,
        #[error("the signature is not by the key that may claim this box, or came too late; try again")]
        "wrong-key" WrongKey,
        #[error("this box was given no key that may claim it: use the code on its screen")]
        "no-key" NoKey,
        #[error("only possible on the box itself")]
        "on-the-box-only" OnTheBoxOnly,
        /// Who asks may not, and is told no more.
        #[error("you are not permitted to do this; ask an owner of this box")]
        "not-permitted" NotPermitted,
        #[error("the type {type_name} is switched off here: {key} = false in [allow] of berth.toml")]
        "switched-off" SwitchedOff { type_name: String, key: String },
        #[error(
            "the {what} {name} may not be run here: add {} to {} in [allow] of berth.toml, which has {}",
            what.entry(), what.key(), listed(allowed)
        )]
        "not-allowed" NotAllowed {
            what: Allowed,
            name: String,
            /// The patterns that the configuration has.
            allowed: Vec<String>,
        },
        #[error("the {what} {name} may not be run in the workspace {workspace}, which allows: {}", listed(allowed))]
        "not-allowed-there" NotAllowedThere {
            workspace: WorkspaceName,
            what: Allowed,
            name: String,
            /// The patterns that the workspace has.
            allowed: Vec<String>,
        },
        #[error(
            "[docker] images of berth.toml does not allow the image {image}. To allow it, write `images = [{}]` there and \
             restart the supervisor",
            quoted(allowed.iter().chain([image]))
        )]
        "image-not-allowed" ImageNotAllowed { image: String, allowed: Vec<String> },

        // What stands in the way.

        #[error(
            "the name {name:?} is taken in workspace {workspace:?} by {by}; choose another, or remove that instance"
        )]
        "name-taken" NameTaken { name: String, workspace: String, by: InstanceId },
        #[error("there is a workspace {name:?} already")]
        "workspace-exists" WorkspaceExists { name: WorkspaceName },
        #[error("the workspace {name:?} still has instances: {}; remove them first", ids(instances))]
        "workspace-in-use" WorkspaceInUse { name: WorkspaceName, instances: Vec<InstanceId> },
        #[error("the workspace {name:?} stays: it is the one of all instances that name no other")]
        "workspace-stays" WorkspaceStays { name: WorkspaceName },
        #[error(
            "{running} instances of the workspace {workspace:?} run, and its quota is {limit}: stop one of them, or raise \
             the quota"
        )]
        "workspace-full" WorkspaceFull { workspace: WorkspaceName, running: usize, limit: u32 },
        #[error(
            "the workspace {workspace:?} may write {limit} MiB on the disk, {promised} MiB are promised to its other instances, \
             and this one may write {wanted}: {} MiB would fit. Remove an instance, choose a smaller size, or raise the quota",
            limit.saturating_sub(*promised)
        )]
        "workspace-disk" WorkspaceDisk {
            workspace: WorkspaceName,
            /// In MiB, as the others: what this instance may write.
            wanted: u64,
            /// What the others may.
            promised: u64,
            limit: u64,
        },
        #[error("there is a member {member} already; choose another name")]
        "member-exists" MemberExists { member: MemberName },
        #[error("no member can be called {member}: the log names others so. Choose another name")]
        "reserved-name" ReservedName { member: MemberName },
        #[error("there is a team {team} already")]
        "team-exists" TeamExists { team: TeamId },
        #[error("{member} is the only owner who is let in: make another member an owner first")]
        "last-owner" LastOwner { member: MemberName },
        #[error("{member} is disabled: enable them first")]
        "member-disabled" MemberDisabled { member: MemberName },
        #[error("{member} signs in with a passphrase already; reset their sign-in if they have lost it")]
        "has-sign-in" HasSignIn { member: MemberName },
        #[error("{member} is not in the workspace {workspace}: give them a role in it first")]
        "not-in-workspace" NotInWorkspace { member: MemberName, workspace: WorkspaceName },
        #[error("{member} is not in the team {team}")]
        "not-in-team" NotInTeam { member: MemberName, team: TeamId },
        #[error("{member} is an owner of the box: every instance is open to them without a grant")]
        "owner-has-all" OwnerHasAll { member: MemberName },
        #[error("the team {team} is not of the workspace {workspace}, and only teams of it can be granted what is in it")]
        "team-elsewhere" TeamElsewhere { team: TeamId, workspace: WorkspaceName },
        #[error("no name is free for it: give it one")]
        "no-free-name" NoFreeName,
        #[error("{}; load {} first", absent(type_name, images), them(images))]
        "no-image" NoImage {
            type_name: String,
            /// What it needs and the box has not.
            images: Vec<String>,
        },
        #[error("{}", changed(etag.is_some(), by.as_deref(), *at))]
        "changed" Changed {
            /// The tag of the record as it stands; none where it is not there.
            etag: Option<Etag>,
            /// Who changed it last, and when, where that is noted.
            by: Option<String>,
            at: Option<jiff::Timestamp>,
            /// The record as whoever asks may see it.
            current: Option<Box<Record>>,
        },
        #[error("the first request with this idempotency key is still under way: ask again in a second")]
        "key-in-use" KeyInUse,
        #[error("the idempotency key was used with another request: give each request a key of its own")]
        "key-reused" KeyReused,
        #[error("an If-Match says which version of a record is meant, and this changes no single record that is there: leave it out")]
        "no-single-record" NoSingleRecord,
        #[error("instance {id} is being removed")]
        "removing" Removing { id: InstanceId },
        #[error("the screen of {id} cannot be had: the instance is {state}")]
        "not-ready" NotReady { id: InstanceId, state: State },
        #[error("{id} does not run: its server cannot be asked")]
        "not-running" NotRunning { id: InstanceId },
        #[error("the box is full: {limit} {what} at most; remove some first")]
        "full" Full { what: Counted, limit: usize },
        #[error(
            "the disk has no room for it: it may write {wanted} MiB, and {promised} of the {room} MiB for all instances are \
             promised already; remove an instance, choose a smaller size, or make the disk larger"
        )]
        "no-room" NoRoom {
            /// In MiB, as the others: what this instance may write.
            wanted: u64,
            /// What other instances may.
            promised: u64,
            /// What all may together.
            room: u64,
        },
        #[error(
            "the type {type_name} is of another kind than it was when this instance was run; remove the instance and run it \
             again"
        )]
        "kind-changed" KindChanged { type_name: String },

        // Variables.

        #[error("{}", credentials(missing, wrong))]
        "credentials" Credentials {
            /// The instance that lacks them; none when it is about to be run.
            of: Option<InstanceId>,
            /// Required, and not given.
            missing: Vec<Credential>,
            /// Given, but not of the form that they must have.
            wrong: Vec<Credential>,
        },
        #[error("{reason}")]
        "bad-variable" BadVariable { key: String, reason: String },
        #[error("{count} variables; {limit} at most")]
        "too-many-variables" TooManyVariables { count: usize, limit: usize },
        #[error("the variables come to {bytes} bytes; {limit} at most")]
        "variables-too-long" VariablesTooLong { bytes: usize, limit: usize },
        #[error("the value of {key} is longer than {limit} bytes; put it in the instance's volume instead")]
        "value-too-long" ValueTooLong { key: String, limit: usize },
        #[error("the value of {key} holds a NUL byte; remove it")]
        "value-holds-nul" ValueHoldsNul { key: String },
        #[error("the value of {key} is empty; a variable that has no value is taken away instead")]
        "empty-value" EmptyValue { key: String },
        #[error("{id} has no value of that name")]
        "no-value" NoValue { id: InstanceId, key: String },
        #[error("{key} is required: give another value, or stop the instance first")]
        "value-required" ValueRequired { id: InstanceId, key: String },
        #[error("the file {key} has no content")]
        "no-content" NoContent { key: String },
        #[error("an argument takes the value of {key}, and no such variable is given")]
        "no-such-variable" NoSuchVariable { key: String },

        #[error("a quota's {what} is from {least} to {most}")]
        "bad-quota" BadQuota { what: String, least: String, most: String },
        #[error(
            "this box cannot set CPU, memory and processes of a workspace: systemd holds all of them to what the box \
             allows. How many instances may run can be set"
        )]
        "quota-of-the-box" QuotaOfTheBox,

        #[error("an allowlist has {count} patterns at most in each list, of 1 to {length} characters")]
        "bad-pattern" BadPattern { count: usize, length: usize },

        // Tokens.

        #[error("the token would have expired already; give a later time")]
        "expired-already" ExpiredAlready,
        #[error("the token {id} has expired; make another")]
        "token-over" TokenOver { id: TokenId },
        #[error("a token that rotates itself goes on for a while, or nobody would see the new one: give it some seconds")]
        "rotates-itself" RotatesItself,
        #[error("a token that is rotated goes on for {limit} seconds at most")]
        "overlap-too-long" OverlapTooLong { limit: u64 },
        #[error("a token either expires at a time or never: give one of expires_at and never")]
        "expires-and-never" ExpiresAndNever,
        #[error("the grant would have ended already; give a later time")]
        "grant-over" GrantOver,
        #[error("an owner is one of the whole box: leave the workspace out")]
        "owner-of-all" OwnerOfAll,
        #[error("only a member's token has a scope: that of an instance opens this instance")]
        "no-scope" NoScope,
        #[error("a token's scope names 1 to {limit} instances")]
        "bad-scope" BadScope { limit: usize },
        #[error("a token cannot make one that reaches further: this one reaches the API alone")]
        "wider-scope" WiderScope,
        #[error("a token's name has 1 to 80 characters, none of them control characters")]
        "bad-token-name" BadTokenName,

        // What a generic type is to run.

        #[error("say what the type {type_name} is to run: it takes a source of the kind {kind}")]
        "no-source" NoSource { type_name: String, kind: String },
        #[error("the type {type_name} runs no {given}: it takes a source of the kind {kind}")]
        "other-source" OtherSource { type_name: String, kind: String, given: String },
        #[error("the type {type_name} runs its own image: it takes no package, image or address")]
        "own-image" OwnImage { type_name: String },
        #[error("the type {type_name} defines its network, volume and processes: only npx, uvx and image take others")]
        "own-settings" OwnSettings { type_name: String },
        #[error("the type {type_name} defines its call timeout: only npx, uvx, image and remote take another")]
        "own-call-timeout" OwnCallTimeout { type_name: String },
        #[error("a call timeout is from {least} to {most} milliseconds")]
        "bad-call-timeout" BadCallTimeout { least: u64, most: u64 },
        #[error("{reason}")]
        "bad-volume" BadVolume { reason: String },
        #[error("{given:?} is not the name of an npm package: write name or @scope/name, in lower case")]
        "bad-npm-package" BadNpmPackage { given: String },
        #[error("{given:?} is not the name of a Python package: write name or name[extra]")]
        "bad-python-package" BadPythonPackage { given: String },
        #[error("a Python package's version is an exact one, such as 1.2.3; leave it out for the newest")]
        "inexact-version" InexactVersion { given: String },
        #[error("{given:?} is not a version: write one such as 1.2.3")]
        "bad-version" BadVersion { given: String },
        #[error("{given:?} is not the name of a program")]
        "bad-program" BadProgram { given: String },
        #[error("{given:?} is not an image: write NAME, NAME:TAG or NAME@sha256:…")]
        "bad-image" BadImage { given: String },
        #[error("an HTTP server in an image has a port and a path that begins with a slash")]
        "bad-http-place" BadHttpPlace,
        #[error("{count} arguments at most, of {bytes} bytes each and without a NUL byte")]
        "bad-arguments" BadArguments { count: usize, bytes: usize },

        // Servers elsewhere.

        #[error("only the type remote takes a bearer token or a header")]
        "not-remote" NotRemote,
        #[error("a remote server runs elsewhere: it takes no variables, network, volume or processes")]
        "runs-elsewhere" RunsElsewhere,
        #[error("{reason}")]
        "bad-address" BadAddress { reason: String },
        #[error("the address holds a user or a password; give the secret beside it")]
        "secret-in-address" SecretInAddress,
        #[error("there is a secret, but nothing says how to send it")]
        "unused-secret" UnusedSecret,
        #[error("the secret is missing")]
        "no-secret" NoSecret,
        #[error("the secret has 1 to {limit} visible ASCII characters")]
        "bad-secret" BadSecret { limit: usize },
        #[error("{headers} header fields have {values} values: the secret has a line for each")]
        "secret-lines" SecretLines { headers: usize, values: usize },
        #[error("a remote server takes at most {limit} headers")]
        "too-many-headers" TooManyHeaders { limit: usize },
        #[error("the header field {name} is given twice")]
        "header-twice" HeaderTwice { name: String },
        #[error("{name:?} is not the name of a header field")]
        "bad-header" BadHeader { name: String },
        #[error("the header field {name} is set by the protocol: a secret cannot travel in it")]
        "header-of-the-protocol" HeaderOfTheProtocol { name: String },

        // Versions.

        #[error("{}", no_package(id, type_name, *runs))]
        "no-package" NoPackage { id: InstanceId, type_name: String, runs: Runs },
        #[error("{id} is pinned{}", version.as_ref().map(|v| format!(" to {v}")).unwrap_or_default())]
        "pinned" Pinned {
            id: InstanceId,
            /// None where the version is of no interest.
            version: Option<String>,
        },
        #[error("{trial} is not an installed trial of {id}")]
        "no-trial" NoTrial { id: InstanceId, trial: InstanceId },

        // Screens and images.

        #[error("instances of the type {type_name} have no screen")]
        "no-screen" NoScreen { type_name: String },
        #[error("{reason}. An archive is what `docker save` makes")]
        "bad-archive" BadArchive { reason: String },
        #[error("there is no image in it; an archive is what `docker save` makes")]
        "empty-archive" EmptyArchive,

        // What is not the asker's fault.

        /// What Berth stands on does not answer, or does not do what it must.
        #[error("{reason}")]
        "unavailable" Unavailable { reason: String },
        #[error("the id drawn is in use; try again")]
        "id-in-use" IdInUse,
        #[error("doctor cannot be run on the box: {reason}")]
        "no-doctor" NoDoctor { reason: String },
        #[error("the screen of {id} cannot be had: {reason}")]
        "no-picture" NoPicture { id: InstanceId, reason: String },
        /// The instance's server does not say which tools it has.
        #[error("{reason}")]
        "no-tools" NoTools { reason: String },
        /// A fault of Berth's own.
        #[error("{reason}; this is a fault of the box, see its log (`journalctl -u berth`)")]
        "fault" Fault { reason: String },
        #[error("the supervisor is shutting down; try again when it is back")]
        "stopping" Stopping,
        #[error("the store could not keep the change ({reason}); nothing was changed. Check the disk")]
        "store" Store { reason: String },
    }
}

impl Refusal {
    /// A fault of Berth's own, by the error that shows it.
    pub fn fault(e: impl fmt::Display) -> Self {
        Refusal::Fault { reason: e.to_string() }
    }

    /// What Berth stands on fails, by its error.
    pub fn unavailable(e: impl fmt::Display) -> Self {
        Refusal::Unavailable { reason: e.to_string() }
    }

    /// No instance has this id or name.
    pub fn no_instance(asked: impl fmt::Display) -> Self {
        Refusal::NoInstance {
            name: asked.to_string(),
        }
    }
}

/// What `[allow]` of the configuration has patterns for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Allowed {
    Type,
    Package,
    Image,
    Address,
}

impl Allowed {
    /// Its key in `[allow]`.
    pub fn key(self) -> &'static str {
        match self {
            Allowed::Type => "types",
            Allowed::Package => "packages",
            Allowed::Image => "images",
            Allowed::Address => "remotes",
        }
    }

    fn entry(self) -> &'static str {
        match self {
            Allowed::Type => "it",
            Allowed::Package | Allowed::Image | Allowed::Address => "a pattern for it",
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Allowed::Type => "type",
            Allowed::Package => "package",
            Allowed::Image => "image",
            Allowed::Address => "address",
        })
    }
}

/// What a box holds so many of at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    Instances,
    Workspaces,
    /// Tokens of one instance.
    InstanceTokens,
    /// Tokens of one member.
    MemberTokens,
    Members,
    Teams,
    /// Members of one team.
    TeamMembers,
    Grants,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Counted::Instances => "instances",
            Counted::Workspaces => "workspaces",
            Counted::InstanceTokens => "tokens of one instance",
            Counted::MemberTokens => "tokens of one member",
            Counted::Members => "members",
            Counted::Teams => "teams",
            Counted::TeamMembers => "members of one team",
            Counted::Grants => "grants",
        })
    }
}

/// What an instance runs that has no package whose version can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Runs {
    /// What its type has.
    Fixed,
    /// It is a trial of another version itself.
    Trial,
    Image,
    Remote,
}

fn ids(all: &[InstanceId]) -> String {
    listed(&all.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn changed(there: bool, by: Option<&str>, at: Option<jiff::Timestamp>) -> String {
    if !there {
        return "the record is not there any more".to_owned();
    }
    let whom = by.map(|by| format!(" by {by}")).unwrap_or_default();
    let when = at.map(|at| format!(" at {at:.0}")).unwrap_or_default();
    format!("the record was changed{whom}{when}: look at it as it is now, and ask again with its ETag")
}

fn listed(all: &[String]) -> String {
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}

fn quoted<'a>(all: impl Iterator<Item = &'a String>) -> String {
    all.map(|p| format!("{p:?}")).collect::<Vec<_>>().join(", ")
}

fn absent(type_name: &str, images: &[String]) -> String {
    let (all, are) = match images {
        [one] => (format!("the image {one}"), "is"),
        many => (format!("the images {}", many.join(" and ")), "are"),
    };
    format!("the type {type_name} cannot run: {all} {are} not on this box")
}

fn them(images: &[String]) -> &'static str {
    match images {
        [_] => "it",
        _ => "them",
    }
}

/// Names each credential with its help; never a value.
fn credentials(missing: &[Credential], wrong: &[Credential]) -> String {
    let name = |c: &Credential| format!("  {} ({}): {}", c.key, c.label, c.help);
    let mut lines = Vec::new();
    if !missing.is_empty() {
        lines.push("these credentials are required and were not given:".to_owned());
        lines.extend(missing.iter().map(name));
    }
    if !wrong.is_empty() {
        lines.push("these values do not have the required form:".to_owned());
        lines.extend(wrong.iter().map(|c| {
            let form = c.pattern.as_deref().unwrap_or("not empty");
            format!("{} [{form}]", name(c))
        }));
    }
    lines.join("\n")
}

fn no_package(id: &InstanceId, type_name: &str, runs: Runs) -> String {
    match runs {
        Runs::Fixed => {
            format!(
                "{id} is of the type {type_name}, whose version comes with Berth: a new release brings new versions"
            )
        }
        Runs::Trial => format!("{id} is itself a trial of another version"),
        Runs::Image => format!("{id} runs an image, by digest: run the newer image beside it, then remove this one"),
        Runs::Remote => format!("{id} runs elsewhere: its version is not Berth's to choose"),
    }
}
