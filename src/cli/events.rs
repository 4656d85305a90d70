//! `berth events`: what changes on the box, as it changes; a line for each change, or JSON Lines.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::{args::events::EventsArgs, print, verbs::Verbs};
use crate::{
    api::{Route, escaped},
    escape,
    mcp::sse,
    output,
};

/// One event has so many bytes at most.
const LONGEST: usize = 16 << 20;

impl Verbs {
    /// Stays until it is ended, or the supervisor ends the stream.
    pub(super) async fn events(&self, args: EventsArgs) -> Result<ExitCode> {
        let mut query = Vec::new();
        if !args.kind.is_empty() {
            query.push(format!("kind={}", args.kind.join(",")));
        }
        if let Some(instance) = &args.instance {
            query.push(format!("instance={}", escaped(instance)));
        }
        let path = format!("{}?{}", Route::Events.path(), query.join("&"));
        let mut reader = sse::Reader::default();
        let each = |piece: &[u8]| {
            let mut events = Vec::new();
            reader.feed(piece, |event| events.push(event));
            events.iter().try_for_each(|event| self.print_event(event))?;
            match reader.held() > LONGEST {
                true => Err(std::io::Error::other("an event of the supervisor is too long")),
                false => Ok(()),
            }
        };
        self.supervisor.stream(&path, each).await?;
        Err(anyhow!(
            "the supervisor has ended the stream: it stops or starts anew, or you are let in no more"
        ))
    }

    fn print_event(&self, event: &sse::Event) -> std::io::Result<()> {
        let text = String::from_utf8_lossy(&event.data);
        if self.json {
            return output::json(&format!("{text}\n"));
        }
        let data: Value = serde_json::from_str(&text).unwrap_or_default();
        output::out(&format!("{}\n", escape::line(&people(&event.kind, &data))))
    }
}

/// An event in one line.
fn people(event: &str, data: &Value) -> String {
    let text = |pointer: &str| data.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if event == "reset" {
        return format!("changes may be missing before this line ({})", text("/why"));
    }
    let at = text("/at")
        .parse::<jiff::Timestamp>()
        .map(print::short)
        .unwrap_or_default();
    let (kind, change, id, name) = (text("/kind"), text("/change"), text("/id"), text("/name"));
    let mut line = format!("{at}  {kind:<10}  {change:<7}  {id}");
    if !id.contains(name) {
        line += &format!("  {name}");
    }
    if kind != "workspace" && !text("/workspace").is_empty() {
        line += &format!("  {}", text("/workspace"));
    }
    if kind == "instance" && !text("/record/state").is_empty() {
        line += &format!("  {}, {}", text("/record/state"), text("/record/health"));
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let instance = json!({
            "kind": "instance", "change": "changed", "id": "abcdefghij", "name": "notes", "workspace": "default",
            "at": "2026-12-01T12:00:00Z", "record": { "state": "running", "health": "healthy" },
        });
        let line = people("instance-changed", &instance);
        assert!(
            line.ends_with("  instance    changed  abcdefghij  notes  default  running, healthy"),
            "{line}"
        );
        let grant = json!({
            "kind": "grant", "change": "removed", "id": "anna abcdefghij", "name": "anna", "workspace": "default",
            "at": "2026-12-01T12:00:00Z", "record": null,
        });
        let line = people("grant-removed", &grant);
        assert!(
            line.ends_with("  grant       removed  anna abcdefghij  default"),
            "{line}"
        );
        assert_eq!(
            people("reset", &json!({ "why": "rights" })),
            "changes may be missing before this line (rights)"
        );
    }
}
