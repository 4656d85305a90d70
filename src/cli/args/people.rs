//! The arguments of the verbs about people: members, teams, grants.

use clap::{Subcommand, ValueEnum};

use crate::model::{Grantee, MemberName, Role, TeamId, WorkspaceName};

/// A role as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum RoleArg {
    /// Of the box: everything
    Owner,
    /// Of a workspace: everything in it but its quota
    Admin,
    /// Of a workspace: what they are granted
    Member,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Role {
        match role {
            RoleArg::Owner => Role::Owner,
            RoleArg::Admin => Role::Admin,
            RoleArg::Member => Role::Member,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum MemberVerb {
    /// Make a member; give them a token with `berth token create --member NAME`
    Add {
        name: MemberName,
        #[command(flatten)]
        role: RoleArgs,
    },
    /// List the members, with their roles and when they were last seen
    List,
    /// Show one member
    Show { name: MemberName },
    /// Give a member a role in a workspace, which they join by it, in place of the one that they have there; or make them
    /// an owner, or one no longer
    Set {
        name: MemberName,
        /// What they are from now on
        #[arg(long, value_enum)]
        role: RoleArg,
        /// In which workspace [default: default]
        #[arg(long)]
        workspace: Option<WorkspaceName>,
    },
    /// Take a member out of a workspace, with what they were granted in it
    Leave {
        name: MemberName,
        #[arg(long)]
        workspace: WorkspaceName,
    },
    /// End everything that a member has open, and let them in nowhere. Instances go on for the others
    Disable { name: MemberName },
    /// Check that a report of `disable --json` is as this box signed it
    Verify {
        /// The file that holds it, or - for standard input
        file: String,
    },
    /// Let a member in again; they need a new token
    Enable { name: MemberName },
    /// Make a link by which a member sets a passphrase for the console. It works once, within three days
    Invite { name: MemberName },
    /// Take a member's passphrase and second step away, end their sessions, and make such a link
    ResetSignIn { name: MemberName },
    /// Remove a member, with their tokens, roles and grants
    Rm { name: MemberName },
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct RoleArgs {
    /// What they are
    #[arg(long, value_enum, default_value = "member")]
    pub(in crate::cli) role: RoleArg,
    /// In which workspace [default: default]
    #[arg(long)]
    pub(in crate::cli) workspace: Option<WorkspaceName>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TeamVerb {
    /// Make a team
    Add {
        /// NAME, or WORKSPACE/NAME for one of another workspace than default
        #[arg(value_name = "TEAM")]
        team: TeamId,
    },
    /// List the teams with their members
    List,
    /// Show one team
    Show {
        #[arg(value_name = "TEAM")]
        team: TeamId,
    },
    /// Take members of its workspace into a team
    Join {
        #[arg(value_name = "TEAM")]
        team: TeamId,
        #[arg(required = true, value_name = "MEMBER")]
        members: Vec<MemberName>,
    },
    /// Take members out of a team
    Leave {
        #[arg(value_name = "TEAM")]
        team: TeamId,
        #[arg(required = true, value_name = "MEMBER")]
        members: Vec<MemberName>,
    },
    /// Remove a team, with what it was granted
    Rm {
        #[arg(value_name = "TEAM")]
        team: TeamId,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum GrantVerb {
    /// Grant an instance to a member or a team, in place of what they were granted of it
    Add {
        /// A member's name, or team:NAME
        #[arg(value_name = "WHO")]
        to: Grantee,
        /// The instance's id or name
        #[arg(value_name = "INSTANCE")]
        instance: String,
        /// To manage it: also its logs, credentials and tokens, and to stop and remove it
        #[arg(long)]
        manage: bool,
        /// When it ends: at the beginning of a day such as 2027-01-31 (UTC), at a time, or in 30d, 12h or 45m
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
    /// List what is granted, and when it was last used
    List {
        /// Grants and tokens that nobody used for so long, such as 30d
        #[arg(long, value_name = "TIME")]
        unused: Option<String>,
    },
    /// Take a grant away: what is open by it alone is cut
    Rm {
        #[arg(value_name = "WHO")]
        to: Grantee,
        #[arg(value_name = "INSTANCE")]
        instance: String,
    },
}
