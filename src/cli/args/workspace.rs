//! The arguments of the verb `workspace`.

use clap::Subcommand;

use crate::model::WorkspaceName;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum WorkspaceVerb {
    /// Make a workspace
    Add {
        name: WorkspaceName,
        #[command(flatten)]
        quota: QuotaArgs,
        #[command(flatten)]
        allow: AllowArgs,
    },
    /// List the workspaces, with what each may use
    List,
    /// Show one workspace
    Show { name: WorkspaceName },
    /// Change what a workspace may use, which holds for what runs as well, and what may be run in it from now on
    Set {
        name: WorkspaceName,
        #[command(flatten)]
        quota: QuotaArgs,
        #[command(flatten)]
        allow: AllowArgs,
    },
    /// Remove a workspace that has no instances
    Rm { name: WorkspaceName },
}

/// What all instances of a workspace may use together. `default` gives a limit back to the configuration and the box.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct QuotaArgs {
    /// How many instances may run, such as 3 or 20; or default
    #[arg(long, value_name = "N")]
    pub(in crate::cli) instances: Option<String>,
    /// CPUs, such as 1.5; or default
    #[arg(long, value_name = "N")]
    pub(in crate::cli) cpus: Option<String>,
    /// Memory, such as 4GiB; or default
    #[arg(long, value_name = "SIZE")]
    pub(in crate::cli) memory: Option<String>,
    /// Processes and threads; or default
    #[arg(long, value_name = "N")]
    pub(in crate::cli) processes: Option<String>,
    /// What its instances may write on the disk, such as 50GiB; or default
    #[arg(long, value_name = "SIZE")]
    pub(in crate::cli) disk: Option<String>,
    /// Calls a second to its instances, 0 for no limit; or default
    #[arg(long, value_name = "N")]
    pub(in crate::cli) calls_per_second: Option<String>,
    /// Calls to its instances at a time, 0 for no limit; or default
    #[arg(long, value_name = "N")]
    pub(in crate::cli) calls_at_once: Option<String>,
}

/// What may be run in a workspace, of what the configuration allows: patterns with `*`, separated by commas. `any` gives a
/// list back to the configuration, `none` allows nothing of its kind.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct AllowArgs {
    /// Types, such as memory,time; or any, or none
    #[arg(long, value_name = "PATTERNS")]
    pub(in crate::cli) allow_types: Option<String>,
    /// Packages, such as @scope/* or npx:*; or any, or none
    #[arg(long, value_name = "PATTERNS")]
    pub(in crate::cli) allow_packages: Option<String>,
    /// Images that the type image may run; or any, or none
    #[arg(long, value_name = "PATTERNS")]
    pub(in crate::cli) allow_images: Option<String>,
    /// Addresses that the type remote may reach, such as https://*.example.org/*; or any, or none
    #[arg(long, value_name = "PATTERNS")]
    pub(in crate::cli) allow_remotes: Option<String>,
}

impl AllowArgs {
    pub(in crate::cli) fn is_empty(&self) -> bool {
        let given = [
            &self.allow_types,
            &self.allow_packages,
            &self.allow_images,
            &self.allow_remotes,
        ];
        given.iter().all(|g| g.is_none())
    }
}

impl QuotaArgs {
    pub(in crate::cli) fn is_empty(&self) -> bool {
        let given = [
            &self.instances,
            &self.cpus,
            &self.memory,
            &self.processes,
            &self.disk,
            &self.calls_per_second,
            &self.calls_at_once,
        ];
        given.iter().all(|g| g.is_none())
    }
}
