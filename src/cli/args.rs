//! The command line as types. Only what works is listed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum, builder::PossibleValue};

use crate::clients::Client;
use crate::model::{InstanceName, MemberName, Network, Size, WorkspaceName};

/// Hosts MCP servers: each in a sandbox of its own, behind one authenticated HTTPS address.
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
    /// The supervisor's admin socket, or BERTH_SOCKET; /run/berth/admin.sock where no context is in use
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "context")]
    pub(super) socket: Option<PathBuf>,
    /// A box that `berth login` made known, or BERTH_CONTEXT; `local` is this machine's supervisor
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) context: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the supervisor
    Serve {
        /// The configuration file; without it /etc/berth/berth.toml, or the defaults where there is none
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
    /// Copy the image that this box runs from onto a disk (started from a USB stick, say)
    Install {
        /// The whole disk, such as /dev/sda
        #[arg(long, value_name = "DEVICE")]
        disk: PathBuf,
        /// Even if the disk holds data, which is lost
        #[arg(long)]
        erase: bool,
    },
    /// The MCP server of the type linux-command-line
    #[command(hide = true)]
    Shell,
    /// What the supervisor is, and how it does
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
        /// What to call it; the type's name where none is given
        #[arg(long)]
        name: Option<InstanceName>,
        /// The workspace it belongs to
        #[arg(long)]
        workspace: Option<WorkspaceName>,
        /// small, medium, large or xlarge
        #[arg(long)]
        size: Option<Size>,
        /// Add a variable to the server's environment; KEY alone takes it from this shell's
        #[arg(long, value_name = "KEY=VALUE")]
        env: Vec<String>,
        /// Read KEY=VALUE lines from a file, or from standard input with -
        #[arg(long, value_name = "FILE")]
        env_file: Option<PathBuf>,
        /// Give the server this file, in memory: the variable holds its path there
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
    /// Print an instance's log: the server's stderr and the agent's own lines
    Logs {
        id: String,
        /// Go on printing what comes
        #[arg(long, short)]
        follow: bool,
        /// Only the last so many lines
        #[arg(long, short = 'n', value_name = "N")]
        tail: Option<u32>,
        /// The log of the latest deploy: what was installed and started, and what the server said until it was healthy
        #[arg(long, conflicts_with = "tail")]
        deploy: bool,
        /// Print the server's bytes as they are, control sequences included; a terminal obeys those
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Stop instances; volume, tokens and address stay
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
    /// Give instances a new container from their type as it is now; volume, tokens and address stay
    Recreate {
        #[arg(required = true)]
        id: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Remove instances and everything of theirs: container, network, volume, tokens, secrets
    Rm {
        #[arg(required = true)]
        id: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Print client configuration that works, with a token of its own
    Connect {
        id: String,
        /// Which client it is for
        #[arg(long, value_enum, default_value = "json")]
        client: Client,
        /// Use this token; without it, a new one is made for this client
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
        /// The link is for looking only, not for taking control
        #[arg(long, conflicts_with = "png")]
        view_only: bool,
        /// Use the address by path, for networks without wildcard DNS
        #[arg(long, conflicts_with = "png")]
        path: bool,
    },
    /// Bring over what a laptop runs: a client's configuration, a server.json of the MCP registry, a docker run line
    Import(Box<Bring>),
    /// The images that types are made of
    Image {
        #[command(subcommand)]
        what: ImageVerb,
    },
    /// Make, list and revoke tokens
    Token {
        #[command(subcommand)]
        what: TokenVerb,
    },
    /// Log in to a box elsewhere, claiming it where nobody has; it is kept as a context
    Login(Login),
    /// The boxes that you are logged in to
    Context {
        #[command(subcommand)]
        what: Option<ContextVerb>,
    },
    /// On the box, as root: revoke all tokens of its administrator; it can be claimed anew, with a new code
    ResetAdmin,
    /// Give an instance's server a secret or setting, list what it has, or take one away; values are never shown again
    Credential {
        #[command(subcommand)]
        what: CredentialVerb,
    },
    /// Print the CA certificate that clients must trust
    Ca,
    /// Check what the supervisor needs, and say how to mend it
    Doctor {
        /// The supervisor's configuration file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Check the box's hardening instead: one line for each recommendation of CIS Docker, CIS Debian and KSPP
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
    Obey,
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
    /// Keep room on the data partition for the box itself
    KeepRoom,
    /// Mend what a power cut left of Docker's files, before Docker starts
    MendEngine,
}

/// What is brought over, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Bring {
    /// The file; - reads standard input
    #[arg(required_unless_present = "command", conflicts_with = "command")]
    pub(super) file: Option<PathBuf>,
    /// Only the server of this name; again for several
    #[arg(long, value_name = "NAME")]
    pub(super) only: Vec<String>,
    /// What the instance is called, where there is one
    #[arg(long)]
    pub(super) name: Option<InstanceName>,
    /// The workspace that the instances belong to
    #[arg(long)]
    pub(super) workspace: Option<WorkspaceName>,
    /// Do what the plan says, without asking
    #[arg(long, short)]
    pub(super) yes: bool,
    /// Write the client's configuration back, pointing at Berth; what was there stays beside it
    #[arg(long)]
    pub(super) write: bool,
    /// Write it here instead
    #[arg(long, value_name = "FILE", requires = "write")]
    pub(super) output: Option<PathBuf>,
    /// Whose configuration it is, where the file's name does not say
    #[arg(long, value_enum)]
    pub(super) client: Option<Client>,
    /// Use the addresses by path, for networks without wildcard DNS
    #[arg(long)]
    pub(super) path: bool,
    /// A value for ${KEY} or for an input of that name; KEY alone takes it from this shell's
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) env: Vec<String>,
    /// Read such KEY=VALUE lines from a file, or from standard input with -
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Option<PathBuf>,
    /// Where a file is that a server reads, if it is not where the text says
    #[arg(long = "file", value_name = "KEY=PATH")]
    pub(super) files: Vec<String>,
    #[command(flatten)]
    pub(super) wait: Wait,
    /// In place of a file: docker run …, npx …, uvx …, claude mcp add …
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,
}

/// What a generic type is to run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "For the types npx, uvx, image and remote")]
pub(super) struct What {
    /// npx, uvx: the package, with @VERSION for a version of your choice
    #[arg(long, value_name = "NAME[@VERSION]", conflicts_with_all = ["image", "url"])]
    pub(super) package: Option<String>,
    /// npx, uvx: which of the package's programs, where it has several
    #[arg(long, value_name = "NAME", requires = "package")]
    pub(super) bin: Option<String>,
    /// image: the image that holds the server
    #[arg(long, value_name = "NAME[:TAG|@DIGEST]", conflicts_with = "url")]
    pub(super) image: Option<String>,
    /// image: where the server speaks HTTP, such as 8080/mcp; without it, it speaks on stdin and stdout
    #[arg(long, value_name = "PORT/PATH", requires = "image")]
    pub(super) http: Option<String>,
    /// image: a program to run in place of the image's own
    #[arg(long, value_name = "PROGRAM", requires = "image")]
    pub(super) command: Option<String>,
    /// remote: the server's address
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// remote: send a bearer token, read from standard input with - (asked for in a terminal)
    #[arg(long, value_name = "-", requires = "url", conflicts_with = "header")]
    pub(super) bearer: Option<String>,
    /// remote: send this header field, its value read from standard input (asked for in a terminal); again for several, a
    /// line for each
    #[arg(long, value_name = "NAME=-", requires = "url")]
    pub(super) header: Vec<String>,
    /// npx, uvx, image: none or internet
    #[arg(long)]
    pub(super) network: Option<Network>,
    /// npx, uvx, image: where a volume of the instance's own is mounted
    #[arg(long, value_name = "PATH")]
    pub(super) volume: Option<String>,
    /// npx, uvx, image: a server process for each session, or one for all
    #[arg(long, value_enum)]
    pub(super) processes: Option<ProcessesArg>,
    /// npx, uvx, image, remote: how long one call may take without progress, such as 90s or 20m; default 5m
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) call_timeout: Option<std::time::Duration>,
    /// npx, uvx, image: arguments of the server
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(super) args: Vec<String>,
}

/// A time with its unit.
fn time(text: &str) -> Result<std::time::Duration, String> {
    crate::strict::parse_duration(text).ok_or_else(|| "write a number with its unit, such as 90s, 20m or 2h".to_owned())
}

/// `--processes`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ProcessesArg {
    Session,
    Shared,
}

#[derive(Debug, clap::Args)]
pub(super) struct Wait {
    /// Return as soon as it is accepted
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
    /// What to call it here; without it, a name made of the host
    #[arg(long)]
    pub(super) name: Option<String>,
    /// The fingerprint on the box's screen, in place of comparing by eye
    #[arg(long, value_name = "SHA256")]
    pub(super) fingerprint: Option<String>,
    /// Read the claim code from standard input
    #[arg(long, value_name = "-", value_parser = ["-"], conflicts_with_all = ["key", "token"])]
    pub(super) code: Option<String>,
    /// Claim with the key that the box was set up with: OpenSSH or PKCS #8, Ed25519
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(super) key: Option<PathBuf>,
    /// Read a token of the administrator from standard input, for a box that is claimed
    #[arg(long, value_name = "-", value_parser = ["-"])]
    pub(super) token: Option<String>,
    /// Trust the CA certificates in this file, for a box that shows certificates of your own
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ContextVerb {
    /// List them; the one in use has a star
    List,
    /// Speak to this one from now on; `local` is this machine's supervisor
    Use { name: String },
    /// Show one, or the one in use; never its token
    Show { name: Option<String> },
    /// Forget one
    Rm { name: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum ImageVerb {
    /// The images that are on the box, and the types that need each
    List,
    /// Load an archive of images (`docker save`, compressed or not); - reads standard input
    Load { file: PathBuf },
}

#[derive(Debug, Subcommand)]
pub(super) enum TypesVerb {
    /// Show one type
    Show { name: String },
    /// Check a type file; every problem with its line
    Check { file: PathBuf },
    /// Keep the version of an npx or uvx instance
    Pin {
        id: String,
        /// Let it go again
        #[arg(long)]
        off: bool,
    },
    /// Show what a newer version of an npx or uvx instance would change, its tools included; --yes does it
    Upgrade {
        /// The instance
        id: String,
        /// This version; the newest where none is given
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
        /// Do it
        #[arg(long)]
        yes: bool,
        /// How long the newer version gets to be installed and to start, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=3600))]
        timeout: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenVerb {
    /// Make a token; it is shown this once
    Create {
        /// The instance that it opens
        #[arg(
            long,
            value_name = "ID",
            required_unless_present = "member",
            conflicts_with = "member"
        )]
        instance: Option<String>,
        /// The member whom it lets use the box as they may: the administrator is `admin`
        #[arg(long, value_name = "NAME")]
        member: Option<MemberName>,
        /// What it is for
        #[arg(long)]
        name: Option<String>,
        /// When it ends: 30d, 12h or 45m from now, or never. Default: 90d for a member's token, never for an instance's
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
    },
    /// List the tokens (never their secrets)
    List,
    /// Revoke a token: refused from the next request on, and its open streams are cut
    Revoke {
        #[arg(value_name = "TOKEN-ID")]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CredentialVerb {
    /// Give a value: asked for on a terminal, unseen; else read from standard input. A server that runs is restarted with
    /// it in its container
    Set {
        id: String,
        /// The variable's name; `berth credential list` shows what the type asks for
        key: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// List the variables: whether each is set, when and by whom; never a value
    List { id: String },
    /// Take a value away
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
