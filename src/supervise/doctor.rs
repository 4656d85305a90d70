//! What is to be said of this machine to somebody who is not on it. The host image has a unit that sees the box as it is;
//! elsewhere the supervisor has no sandbox, and looks itself.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::sync::OnceCell;

use crate::{
    api::Doctored,
    machine::look::{self, Question},
    model::Refusal,
};

/// All its checks together.
const PATIENCE: Duration = Duration::from_secs(60);
const QUICK: Duration = Duration::from_secs(5);

/// What to run, and on which configuration.
pub(super) struct Doctor {
    pub(super) program: PathBuf,
    pub(super) config: Option<PathBuf>,
    pub(super) disk: OnceCell<Option<String>>,
}

impl Doctor {
    /// How what must last is kept, on a box of ours. It stays as it is while the machine is up.
    pub(super) async fn disk(&self) -> Option<String> {
        let asked = self.disk.get_or_try_init(|| async {
            let answer = look::ask(Question::Disk, QUICK).await.transpose()?;
            Ok::<_, std::io::Error>(answer.filter(|a| !a.is_empty()))
        });
        match asked.await {
            Ok(known) => known.clone(),
            Err(e) => {
                log::warn!("how the box keeps its data cannot be seen: {e}");
                None
            }
        }
    }

    pub(super) async fn look(&self, json: bool, hardening: bool) -> Result<Doctored, Refusal> {
        let refused = |why: &dyn std::fmt::Display| Refusal::NoDoctor {
            reason: why.to_string(),
        };
        if let Some(answer) = look::ask(Question::Doctor { json, hardening }, PATIENCE).await {
            let answer = answer.map_err(|e| refused(&e))?;
            let status = answer
                .split_once('\n')
                .and_then(|(status, rest)| Some((status.parse().ok()?, rest)));
            let (status, output) = status.ok_or_else(|| refused(&"it gave no answer; see its journal on the box"))?;
            let output = output.to_owned();
            return Ok(Doctored { status, output });
        }
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
