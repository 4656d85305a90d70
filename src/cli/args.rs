//! The command line as types. Only what works is listed.

pub(super) mod audit;
pub(super) mod events;
pub(super) mod people;
pub(super) mod workspace;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum, builder::PossibleValue};

use self::{
    audit::AuditArgs,
    events::EventsArgs,
    people::{GrantVerb, MemberVerb, TeamVerb},
    workspace::WorkspaceVerb,
};
use crate::clients::Client;
use crate::model::{InstanceName, MemberName, Network, Size, WorkspaceName};

/// Runs MCP servers: each in its own sandbox, behind one HTTPS address that needs a token.
#[derive(Debug, Parser)]
#[command(name = "berth", version, max_term_width = 100, disable_help_subcommand = true)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) place: Place,
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// Which supervisor.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// Use the supervisor at this socket [or BERTH_SOCKET; /run/berth/admin.sock if no context is in use]
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "context")]
    pub(super) socket: Option<PathBuf>,
    /// Use the box with this name from `berth login` [or BERTH_CONTEXT; `local` is this machine]
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) context: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the supervisor
    Serve {
        /// The configuration file [default: /etc/berth/berth.toml; without that file, the defaults]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Process 1 of every container
    #[command(hide = true)]
    Agent,
    /// Steps of the host image's own units
    #[command(hide = true)]
    Box {
        #[command(subcommand)]
        what: BoxVerb,
    },
    /// Copy the running image to a disk, for example from a USB stick
    Install {
        /// The whole disk, such as /dev/sda
        #[arg(long, value_name = "DEVICE")]
        disk: PathBuf,
        /// Erase the disk first, with all data on it
        #[arg(long)]
        erase: bool,
    },
    /// The MCP server of the type linux-command-line
    #[command(hide = true)]
    Shell,
    /// Show the supervisor's version, health and settings
    Status,
    /// List the instance types, show one, or check a type file
    Types {
        #[command(subcommand)]
        what: Option<TypesVerb>,
    },
    /// Run an instance of a type
    Run {
        /// The type; `berth types` lists them
        #[arg(value_name = "TYPE")]
        type_name: String,
        /// The name of the instance [default: the name of the type]
        #[arg(long)]
        name: Option<InstanceName>,
        /// The workspace of the instance
        #[arg(long)]
        workspace: Option<WorkspaceName>,
        /// CPU, memory and volume: small, medium, large or xlarge
        #[arg(long)]
        size: Option<Size>,
        /// Set a variable of the server; KEY alone takes the value from this shell
        #[arg(long, value_name = "KEY=VALUE")]
        env: Vec<String>,
        /// Read KEY=VALUE lines from a file, or from standard input with -
        #[arg(long, value_name = "FILE")]
        env_file: Option<PathBuf>,
        /// Give the server this file, in memory; the variable has its path
        #[arg(long, value_name = "KEY=PATH")]
        file: Vec<String>,
        #[command(flatten)]
        what: Box<What>,
        #[command(flatten)]
        wait: Wait,
    },
    /// List the instances
    #[command(visible_alias = "ls")]
    List,
    /// Show one instance
    Show { id: String },
    /// Print the log of an instance: the server's stderr and the agent's lines
    Logs {
        id: String,
        /// Continue to print new lines
        #[arg(long, short)]
        follow: bool,
        /// Print only the last N lines
        #[arg(long, short = 'n', value_name = "N")]
        tail: Option<u32>,
        /// Print the log of the latest deploy: installation, start, and the server's stderr until it was healthy
        #[arg(long, conflicts_with = "tail")]
        deploy: bool,
        /// Print the server's bytes unchanged; control sequences in them can act on your terminal
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Stop instances; their volumes, tokens and addresses stay
    Stop {
        #[arg(required = true)]
        id: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Start stopped or failed instances
    Start {
        #[arg(required = true)]
        id: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Make new containers from the types as they are now; volumes, tokens and addresses stay
    Recreate {
        #[arg(required = true)]
        id: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Remove instances with everything they have: container, network, volume, tokens, secrets
    Rm {
        #[arg(required = true)]
        id: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Print the configuration for a client, with a new token
    Connect {
        id: String,
        /// The client
        #[arg(long, value_enum, default_value = "json")]
        client: Client,
        /// Use this token; without it, the command makes a new one
        #[arg(long, env = "BERTH_TOKEN", hide_env_values = true)]
        token: Option<String>,
        /// Use the address by path, for networks without wildcard DNS
        #[arg(long)]
        path: bool,
    },
    /// Print a link that opens an instance's live screen, or take a picture of it
    Screen {
        id: String,
        /// Write a picture of the screen to this file, or to standard output with -
        #[arg(long, value_name = "FILE")]
        png: Option<PathBuf>,
        /// Make a link for looking only
        #[arg(long, conflicts_with = "png")]
        view_only: bool,
        /// Use the address by path, for networks without wildcard DNS
        #[arg(long, conflicts_with = "png")]
        path: bool,
    },
    /// Import servers from a laptop: a client's configuration, a server.json of the MCP registry, a command line
    Import(Box<ImportArgs>),
    /// List or load the images of the instances
    Image {
        #[command(subcommand)]
        what: ImageVerb,
    },
    /// Make, list and revoke tokens
    Token {
        #[command(subcommand)]
        what: TokenVerb,
    },
    /// Print who asked for what and what came of it, or check that this record is unchanged
    Audit(Box<AuditArgs>),
    /// Print what changes on the box, as it changes: instances, members, grants, tokens and so on
    Events(EventsArgs),
    /// Print what was used: calls, bytes, CPU time and memory
    Usage(super::usage::UsageArgs),
    /// Make, list and remove workspaces, and say what each may use
    Workspace {
        #[command(subcommand)]
        what: WorkspaceVerb,
    },
    /// Make, list, disable and remove members: the people of the box
    Member {
        #[command(subcommand)]
        what: MemberVerb,
    },
    /// Make, list and remove teams, and say who is in them
    Team {
        #[command(subcommand)]
        what: TeamVerb,
    },
    /// Grant instances to members and teams, and list what is granted
    Grant {
        #[command(subcommand)]
        what: GrantVerb,
    },
    /// Log in to a box, or claim it if nobody has; every command then works on that box
    Login(Login),
    /// List and choose the boxes where you are logged in
    Context {
        #[command(subcommand)]
        what: Option<ContextVerb>,
    },
    /// On the box, as root: remove the owners with their tokens and make a new claim code
    ResetAdmin,
    /// Set, list and unset the secrets and settings of an instance; values are never shown
    Credential {
        #[command(subcommand)]
        what: CredentialVerb,
    },
    /// Print the CA certificate that clients must trust
    Ca,
    /// Check what the supervisor needs, and say how to repair it
    Doctor {
        /// The supervisor's configuration file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Check the hardening instead: one line for each recommendation of CIS Docker, CIS Debian and KSPP
        #[arg(long)]
        hardening: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum BoxVerb {
    /// Find the site file and write what follows from it
    ApplySite,
    /// Show the status screen on this terminal
    Screen {
        /// Draw a page, for a screen; without it print lines, for a serial port
        #[arg(long)]
        page: bool,
    },
    /// Do what was asked at the console
    ApplyRequest,
    /// Whether a partition, such as sda3, lies on the disk that the root came from
    BesideRoot { partition: String },
    /// Whether a factory reset was asked for
    FactoryReset {
        /// It was done: forget it
        #[arg(long)]
        done: bool,
    },
    /// Wait until the supervisor serves
    Healthy,
    /// Answer the supervisor's question on standard input, from outside of its sandbox
    Look,
    /// Set the limits of a workspace that the supervisor asks for on standard input, from outside of its sandbox
    SetQuota,
    /// Keep room on the data partition for the box itself
    KeepRoom,
    /// Mend what a power cut left of Docker's files, before Docker starts
    MendEngine,
}

/// What is brought over, and how.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The file; - reads standard input
    #[arg(required_unless_present = "command", conflicts_with = "command")]
    pub(super) file: Option<PathBuf>,
    /// Only this server; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(super) only: Vec<String>,
    /// The name of the instance, if only one server is imported
    #[arg(long)]
    pub(super) name: Option<InstanceName>,
    /// The workspace of the instances
    #[arg(long)]
    pub(super) workspace: Option<WorkspaceName>,
    /// Execute the plan without asking
    #[arg(long, short)]
    pub(super) yes: bool,
    /// Change the client's configuration so that it uses Berth; the old file is kept beside it
    #[arg(long)]
    pub(super) write: bool,
    /// Write the new configuration to this file instead
    #[arg(long, value_name = "FILE", requires = "write")]
    pub(super) output: Option<PathBuf>,
    /// The client of the configuration, if the file name does not say
    #[arg(long, value_enum)]
    pub(super) client: Option<Client>,
    /// Use the addresses by path, for networks without wildcard DNS
    #[arg(long)]
    pub(super) path: bool,
    /// A value for ${KEY} or for an input with that name; KEY alone takes the value from this shell
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) env: Vec<String>,
    /// Read KEY=VALUE lines from a file, or from standard input with -
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Option<PathBuf>,
    /// The path of a file that a server reads, if it is not where the configuration says
    #[arg(long = "file", value_name = "KEY=PATH")]
    pub(super) files: Vec<String>,
    #[command(flatten)]
    pub(super) wait: Wait,
    /// Instead of a file: docker run …, npx …, uvx …, claude mcp add …
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,
}

/// What a generic type is to run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "For the types npx, uvx, image and remote")]
pub(super) struct What {
    /// npx, uvx: the package [default version: the newest]
    #[arg(long, value_name = "NAME[@VERSION]", conflicts_with_all = ["image", "url"])]
    pub(super) package: Option<String>,
    /// npx, uvx: the program, if the package has several
    #[arg(long, value_name = "NAME", requires = "package")]
    pub(super) bin: Option<String>,
    /// image: the image that holds the server
    #[arg(long, value_name = "NAME[:TAG|@DIGEST]", conflicts_with = "url")]
    pub(super) image: Option<String>,
    /// image: where the server speaks HTTP, such as 8080/mcp [default: stdin and stdout]
    #[arg(long, value_name = "PORT/PATH", requires = "image")]
    pub(super) http: Option<String>,
    /// image: run this program instead of the image's own
    #[arg(long, value_name = "PROGRAM", requires = "image")]
    pub(super) command: Option<String>,
    /// remote: the server's address
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// remote: send a bearer token; - reads it from standard input, or asks on a terminal
    #[arg(long, value_name = "-", requires = "url", conflicts_with = "header")]
    pub(super) bearer: Option<String>,
    /// remote: send this header, its value read from standard input, or asked for on a terminal; may be repeated, with a
    /// line of input for each
    #[arg(long, value_name = "NAME=-", requires = "url")]
    pub(super) header: Vec<String>,
    /// npx, uvx, image: none, or internet (the default)
    #[arg(long)]
    pub(super) network: Option<Network>,
    /// npx, uvx, image: mount a volume here, for data that must last
    #[arg(long, value_name = "PATH")]
    pub(super) volume: Option<String>,
    /// npx, uvx, image: a server process for each session, or one shared by all
    #[arg(long, value_enum)]
    pub(super) processes: Option<ProcessesArg>,
    /// npx, uvx, image, remote: how long a call may take without progress, such as 90s or 20m [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) call_timeout: Option<std::time::Duration>,
    /// npx, uvx, image: arguments of the server
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(super) args: Vec<String>,
}

/// A time with its unit.
fn time(text: &str) -> Result<std::time::Duration, String> {
    crate::strict_toml::parse_duration(text)
        .ok_or_else(|| "write a number with its unit, such as 90s, 20m or 2h".to_owned())
}

/// `--processes`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ProcessesArg {
    Session,
    Shared,
}

#[derive(Debug, clap::Args)]
pub(super) struct Wait {
    /// Return as soon as the request is accepted
    #[arg(long)]
    pub(super) no_wait: bool,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) timeout: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct Login {
    /// The box: https://HOST or https://HOST:PORT
    pub(super) url: String,
    /// The name of the context [default: from the host name]
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Compare with this fingerprint, from the box's screen, instead of asking
    #[arg(long, value_name = "SHA256")]
    pub(super) fingerprint: Option<String>,
    /// Read the claim code from standard input
    #[arg(long, value_name = "-", value_parser = ["-"], conflicts_with_all = ["key", "token"])]
    pub(super) code: Option<String>,
    /// Claim with the key that the box's configuration names: Ed25519, OpenSSH or PKCS #8
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(super) key: Option<PathBuf>,
    /// Log in to a claimed box with an administrator's token, read from standard input
    #[arg(long, value_name = "-", value_parser = ["-"])]
    pub(super) token: Option<String>,
    /// Trust the CA certificates in this file, for a box with its own certificate files
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ContextVerb {
    /// List the boxes; a star marks the one in use
    List,
    /// Use this box from now on; `local` is the supervisor of this machine
    Use { name: String },
    /// Show a box, or the one in use; never its token
    Show { name: Option<String> },
    /// Remove a box from the list; its token stays valid
    Rm { name: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum ImageVerb {
    /// List the images on the box, and the types that need each
    List,
    /// Load an archive of images (`docker save`, compressed or not); - reads standard input
    Load { file: PathBuf },
}

#[derive(Debug, Subcommand)]
pub(super) enum TypesVerb {
    /// Show one type
    Show { name: String },
    /// Check a type file; prints each problem with its line
    Check { file: PathBuf },
    /// Keep the package version of an npx or uvx instance
    Pin {
        id: String,
        /// Allow upgrades again
        #[arg(long)]
        off: bool,
    },
    /// Show what a newer package version of an npx or uvx instance changes; --yes takes it
    Upgrade {
        /// The instance
        id: String,
        /// Try this version [default: the newest]
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
        /// Take the version
        #[arg(long)]
        yes: bool,
        /// How long to wait until the newer version is installed and runs, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=3600))]
        timeout: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenVerb {
    /// Make a token; it is shown only once
    Create {
        /// The instance that the token opens
        #[arg(
            long,
            value_name = "ID",
            required_unless_present = "member",
            conflicts_with = "member"
        )]
        instance: Option<String>,
        /// The member whose rights the token has; the administrator is `admin`
        #[arg(long, value_name = "NAME")]
        member: Option<MemberName>,
        /// A note about what the token is for
        #[arg(long)]
        name: Option<String>,
        /// When the token expires: in 30d, 12h or 45m, on a date such as 2027-01-31, or never [default: 90d for a member,
        /// never for an instance]
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// How far a member's token reaches: api (and no instance), or the ids or names of instances (and not the API),
        /// separated by commas [default: as far as the member]
        #[arg(long, value_name = "SCOPE", conflicts_with = "instance")]
        scope: Option<String>,
    },
    /// List the tokens, without their secrets
    List,
    /// Make another token in place of one, which still works for a while; the new one is shown only once
    Rotate {
        #[arg(value_name = "TOKEN-ID")]
        id: String,
        /// How long the old token still works: 7d, 12h or 45m, or 0 to revoke it at once
        #[arg(long, value_name = "TIME", default_value = "24h")]
        overlap: String,
    },
    /// Revoke a token: the next request is refused, and open streams are cut
    Revoke {
        #[arg(value_name = "TOKEN-ID")]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CredentialVerb {
    /// Set a value: asked for on a terminal without echo, else read from standard input. A running server is restarted
    /// in its container
    Set {
        id: String,
        /// The name of the variable; `berth credential list` shows those of the type
        key: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// List the variables: if each is set, when and by whom; never a value
    List { id: String },
    /// Remove a value
    Unset {
        id: String,
        key: String,
        #[command(flatten)]
        wait: Wait,
    },
}

impl ValueEnum for Client {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.word()).help(self.name()))
    }
}
