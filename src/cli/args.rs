//! The command line as types. Only what works is listed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::model::{InstanceName, MemberName, Size, WorkspaceName};

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
    },
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
pub(super) enum TypesVerb {
    /// Show one type
    Show { name: String },
    /// Check a type file; every problem with its line
    Check { file: PathBuf },
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
        /// When it ends, such as 30d, 12h or 45m from now
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

/// The clients that `berth connect` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Client {
    ClaudeDesktop,
    ClaudeCode,
    Cursor,
    Vscode,
    /// Plain `mcpServers`
    Json,
}
