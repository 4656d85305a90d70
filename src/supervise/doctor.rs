//! `berth doctor` for somebody who is not on the box: run here, as a child that sees what the supervisor sees, and its
//! words handed over.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use crate::{admin::Doctored, model::Refusal};

/// All its checks together.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to run, and on which configuration.
pub(super) struct Doctor {
    pub(super) program: PathBuf,
    pub(super) config: Option<PathBuf>,
}

impl Doctor {
    pub(super) async fn look(&self, json: bool, hardening: bool) -> Result<Doctored, Refusal> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(["doctor", "--context", "local"]);
        if json {
            command.arg("--json");
        }
        if hardening {
            command.arg("--hardening");
        }
        if let Some(config) = &self.config {
            command.arg("--config").arg::<&Path>(config);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        let refused = |why: &dyn std::fmt::Display| Refusal::Invalid(format!("doctor cannot be run on the box: {why}"));
        let done = tokio::time::timeout(PATIENCE, command.output()).await;
        let out = done
            .map_err(|_| refused(&"it took too long"))?
            .map_err(|e| refused(&e))?;
        Ok(Doctored {
            status: out.status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1),
            output: String::from_utf8_lossy(&out.stdout).into_owned(),
        })
    }
}
