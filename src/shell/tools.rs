//! The server as MCP sees it: seven tools, their schemas, and what each answers. A tool that cannot do what it was
//! asked answers with an error in words, never with one of the protocol, so that the assistant can mend it.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, DiscoverRequestMethod, DiscoverResult,
        Implementation, JsonObject, ListToolsResult, PaginatedRequestParams, ProgressNotificationParam,
        ProtocolVersion, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
    },
    service::RequestContext,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{sleep, sleep_until};

use super::{
    files,
    jobs::{Job, Jobs},
};

/// A command's time, in seconds: unless it says otherwise, and at most.
const TIMEOUT: u64 = 120;
const MAX_TIMEOUT: u64 = 3600;
/// How long `read_job` may wait for news, in seconds.
const MAX_WAIT: u64 = 300;
/// Progress is told at most this often, with so many of the last characters.
const TELL: Duration = Duration::from_millis(250);
const TELL_CHARS: usize = 2000;

const INSTRUCTIONS: &str = "A Debian machine of your own: you are a user without rights, and your home folder ~ lasts. \
    run_command runs `bash -c` and returns its output when it has ended; everything it started ends with it. For what \
    shall go on (servers, watchers, long builds) use start_job. Commands get no terminal and no input. People can watch \
    the screen and may type there themselves.";

/// The MCP server.
#[derive(Debug)]
pub(super) struct Tools {
    jobs: Arc<Jobs>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunCommand {
    command: String,
    cwd: Option<String>,
    timeout_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StartJob {
    command: String,
    cwd: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadJob {
    job: u64,
    since: Option<u64>,
    wait_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StopJob {
    job: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadFile {
    path: String,
    offset: Option<u64>,
    limit: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteFile {
    path: String,
    content: String,
    #[serde(default)]
    append: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// What a tool answers: text, the same for programs, and whether it went wrong.
struct ToolResult {
    text: String,
    data: Value,
    failed: bool,
}

impl Tools {
    pub(super) fn new(jobs: Arc<Jobs>) -> Self {
        Self { jobs }
    }

    async fn call(
        &self,
        request: CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<ToolResult, String> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        match request.name.as_ref() {
            "run_command" => self.run_command(take(arguments)?, context).await,
            "start_job" => {
                let asked: StartJob = take(arguments)?;
                let job = self.jobs.start_job(&asked.command, asked.cwd.as_deref())?;
                Ok(fine(format!("job {} runs", job.number), json!({ "job": job.number })))
            }
            "list_jobs" => {
                let Nothing {} = take(arguments)?;
                Ok(self.list_jobs())
            }
            "read_job" => self.read_job(take(arguments)?, context).await,
            "stop_job" => {
                let asked: StopJob = take(arguments)?;
                let job = self.jobs.job(asked.job)?;
                let (ended, _) = job.stop().await;
                Ok(fine(format!("job {}: {ended}", job.number), state(&job)))
            }
            "read_file" => {
                let asked: ReadFile = take(arguments)?;
                let path = self.jobs.path(&asked.path);
                let piece = files::read(&path, asked.offset.unwrap_or(0), asked.limit.unwrap_or(files::MAX_READ))?;
                let data = json!({ "size": piece.size, "end": piece.end });
                Ok(fine(piece.text, data))
            }
            "write_file" => {
                let asked: WriteFile = take(arguments)?;
                let path = self.jobs.path(&asked.path);
                let size = files::write(&path, &asked.content, asked.append)?;
                Ok(fine(
                    format!("{} has {size} bytes now", path.display()),
                    json!({ "size": size }),
                ))
            }
            other => Err(format!("there is no tool {other}")),
        }
    }

    async fn run_command(&self, asked: RunCommand, context: &RequestContext<RoleServer>) -> Result<ToolResult, String> {
        let seconds = asked.timeout_seconds.unwrap_or(TIMEOUT).clamp(1, MAX_TIMEOUT);
        let job = self.jobs.start(&asked.command, asked.cwd.as_deref())?;
        // Whoever calls off the call ends the command: also when this future is dropped.
        let leash = Leash(Arc::clone(&job));
        let over = tokio::time::Instant::now() + Duration::from_secs(seconds);
        let (mut late, mut called_off) = (false, false);
        let ended = tokio::select! {
            ended = job.wait() => Some(ended),
            () = sleep_until(over) => { late = true; None }
            () = context.ct.cancelled() => { called_off = true; None }
            () = tell(&job, context) => None,
        };
        let (ended, took) = match ended {
            Some(ended) => ended,
            None => {
                job.kill();
                job.wait().await
            }
        };
        drop(leash);
        let (output, dropped) = job.text();
        let how = match (late, called_off) {
            (true, _) => format!("stopped after {seconds} s: its time was over"),
            (_, true) => "stopped: the call was called off".to_owned(),
            _ => ended.to_string(),
        };
        let status = match ended {
            super::process::Ended::Status(code) if !late && !called_off => Some(code),
            _ => None,
        };
        let good = status == Some(0);
        let text = if good { output } else { format!("{output}\n[{how}]") };
        let data = json!({
            "exit_status": status, "ended": how, "timed_out": late, "seconds": took.as_secs_f64(), "left_out_bytes": dropped,
        });
        Ok(ToolResult {
            text,
            data,
            failed: !good,
        })
    }

    fn list_jobs(&self) -> ToolResult {
        let all = self.jobs.all();
        let lines: Vec<String> = all
            .iter()
            .map(|j| {
                let how = j.ended().map_or_else(|| "runs".to_owned(), |(e, _)| e.to_string());
                format!("{}\t{how}\t{:.0} s\t{}", j.number, j.age().as_secs_f64(), j.command)
            })
            .collect();
        let text = if lines.is_empty() {
            "no jobs".to_owned()
        } else {
            lines.join("\n")
        };
        fine(
            text,
            json!({ "jobs": all.iter().map(|j| state(j)).collect::<Vec<_>>() }),
        )
    }

    async fn read_job(&self, asked: ReadJob, context: &RequestContext<RoleServer>) -> Result<ToolResult, String> {
        let job = self.jobs.job(asked.job)?;
        let since = asked.since.unwrap_or(0);
        let until = tokio::time::Instant::now() + Duration::from_secs(asked.wait_seconds.unwrap_or(0).min(MAX_WAIT));
        let mut bell = job.bell();
        let news = async {
            while job.ended().is_none() && job.since(since).1 <= since {
                tokio::select! {
                    rung = bell.changed() => if rung.is_err() { return },
                    _ = job.wait() => return,
                }
            }
        };
        tokio::select! {
            () = news => {}
            () = sleep_until(until) => {}
            () = context.ct.cancelled() => {}
        }
        let (text, total) = job.since(since);
        let mut data = state(&job);
        data["end"] = json!(total);
        Ok(fine(text, data))
    }
}

/// Ends a command whose call is gone.
struct Leash(Arc<Job>);

impl Drop for Leash {
    fn drop(&mut self) {
        if self.0.ended().is_none() {
            self.0.kill();
        }
    }
}

/// Tells the caller what its command prints, if it wants to hear; never ends.
async fn tell(job: &Job, context: &RequestContext<RoleServer>) {
    let Some(token) = context.meta.get_progress_token() else {
        return std::future::pending().await;
    };
    let mut bell = job.bell();
    let (mut told, mut last) = (0, Instant::now());
    while bell.changed().await.is_ok() {
        sleep(TELL.saturating_sub(last.elapsed())).await;
        bell.mark_unchanged();
        let (text, total) = job.since(told);
        if total > told {
            let skip = text.chars().count().saturating_sub(TELL_CHARS);
            let message: String = text.chars().skip(skip).collect();
            let progress = ProgressNotificationParam::new(token.clone(), total as f64).with_message(message);
            if context.peer.notify_progress(progress).await.is_err() {
                break;
            }
            told = total;
        }
        last = Instant::now();
    }
    std::future::pending().await
}

fn take<T: DeserializeOwned>(arguments: Value) -> Result<T, String> {
    serde_json::from_value(arguments).map_err(|e| format!("the arguments are not right: {e}"))
}

fn fine(text: String, data: Value) -> ToolResult {
    ToolResult {
        text,
        data,
        failed: false,
    }
}

fn state(job: &Job) -> Value {
    let ended = job.ended();
    json!({
        "job": job.number, "command": job.command, "running": ended.is_none(),
        "ended": ended.map(|(e, _)| e.to_string()), "seconds": job.age().as_secs_f64(),
    })
}

fn schema(properties: Value, required: &[&str]) -> JsonObject {
    let whole =
        json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false });
    whole.as_object().cloned().unwrap_or_default()
}

fn tools() -> Vec<Tool> {
    let cwd = json!({ "type": "string", "description": "Folder to run in; from the home folder where it is relative. Default: home." });
    let job = json!({ "type": "integer", "minimum": 1, "description": "The job's number." });
    let path = json!({ "type": "string", "description": "From the home folder where it is relative." });
    let tool = |name: &'static str, what: &'static str, reads: bool, properties: Value, required: &[&str]| {
        let mut tool = Tool::new(name, what, schema(properties, required));
        tool.annotations = Some(ToolAnnotations::from_raw(
            None,
            Some(reads),
            Some(!reads),
            None,
            Some(!reads),
        ));
        tool
    };
    vec![
        tool(
            "run_command",
            "Runs a command with `bash -c` and returns what it printed (stdout and stderr together) when it has ended. Whatever it left running in the background is ended too. Long output keeps its beginning and its end.",
            false,
            json!({
                "command": { "type": "string" }, "cwd": cwd,
                "timeout_seconds": { "type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT, "default": TIMEOUT },
            }),
            &["command"],
        ),
        tool(
            "start_job",
            "Starts a command that goes on in the background, and returns its number at once. It outlives this session.",
            false,
            json!({ "command": { "type": "string" }, "cwd": cwd }),
            &["command"],
        ),
        tool(
            "list_jobs",
            "Lists the jobs that run and those that have ended.",
            true,
            json!({}),
            &[],
        ),
        tool(
            "read_job",
            "Returns what a job has printed. `end` in the result is where to read on: give it as `since`. With wait_seconds it waits for something new, or the job's end.",
            true,
            json!({
                "job": job, "since": { "type": "integer", "minimum": 0, "default": 0 },
                "wait_seconds": { "type": "integer", "minimum": 0, "maximum": MAX_WAIT, "default": 0 },
            }),
            &["job"],
        ),
        tool(
            "stop_job",
            "Ends a job and everything it started: SIGTERM first, then SIGKILL.",
            false,
            json!({ "job": job }),
            &["job"],
        ),
        tool(
            "read_file",
            "Reads a text file, or a piece of it. `end` in the result is where the next piece begins.",
            true,
            json!({
                "path": path, "offset": { "type": "integer", "minimum": 0, "default": 0, "description": "In bytes." },
                "limit": { "type": "integer", "minimum": 1, "maximum": files::MAX_READ, "description": "In bytes." },
            }),
            &["path"],
        ),
        tool(
            "write_file",
            "Writes a text file, and the folders above it where they are missing. Replaces the file unless append is true.",
            false,
            json!({ "path": path, "content": { "type": "string" }, "append": { "type": "boolean", "default": false } }),
            &["path", "content"],
        ),
    ]
}

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        let mut info = ServerConfig::new(ServerCapabilities::builder().enable_tools().build());
        info.server_info = Implementation::new("berth-linux-command-line", env!("CARGO_PKG_VERSION"));
        info.instructions = Some(INSTRUCTIONS.to_owned());
        info
    }

    /// Up to the last version with a handshake: one process then serves clients of both eras, by the agent's bridge, and
    /// they all see the same jobs.
    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        ProtocolVersion::known_up_to(&ProtocolVersion::LATEST_WITH_INITIALIZE).into()
    }

    async fn discover(&self, _: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        Err(ErrorData::method_not_found::<DiscoverRequestMethod>())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let answer = self.call(request, &context).await.unwrap_or_else(|why| ToolResult {
            data: json!({ "error": why }),
            text: why,
            failed: true,
        });
        let content = vec![ContentBlock::text(answer.text)];
        let mut result = if answer.failed {
            CallToolResult::error(content)
        } else {
            CallToolResult::success(content)
        };
        result.structured_content = Some(answer.data);
        Ok(result.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_has_a_schema_that_says_what_it_takes() {
        let all = tools();
        assert_eq!(all.len(), 7);
        for t in all {
            let schema = Value::Object((*t.input_schema).clone());
            assert_eq!(schema["additionalProperties"], json!(false), "{}", t.name);
            for name in schema["required"].as_array().unwrap() {
                assert!(
                    schema["properties"][name.as_str().unwrap()].is_object(),
                    "{}: {name}",
                    t.name
                );
            }
        }
    }
}
