//! The first page: how the box is, what needs attention, and its instances by state; of each as much as whoever asks may see.

use std::collections::BTreeMap;

use http::StatusCode;

use super::{
    answers::{Answer, page as answer_page},
    asked::{Asked, Backend},
    pages::{Attention, InstanceRow, OverviewPage, Shell, Stat, Tone, bytes, state_tone},
};
use crate::{
    api::{Route, Status, Whoami},
    model::{Health, InstanceView, MemberName, State},
    session::Session,
};

/// Instances that are listed; those that need attention first.
const LISTED: usize = 20;
/// Characters of a reason.
const REASON: usize = 240;

pub(super) async fn page<B: Backend>(asked: &Asked<'_, B>, (member, _): (MemberName, Session)) -> Answer {
    let whoami: Option<Whoami> = asked.read(Route::Whoami.path()).await;
    let owner = whoami.is_some_and(|w| w.owner);
    let status: Option<Status> = match owner {
        true => asked.read(Route::Status.path()).await,
        false => None,
    };
    let instances: Vec<InstanceView> = asked.read(Route::Instances.path()).await.unwrap_or_default();
    let second = asked.backend.sign_in(&member).is_some_and(|r| r.totp.is_some());
    let template = OverviewPage {
        shell: Shell::of(asked, &member, "overview"),
        stats: stats(&instances, status.as_ref()),
        attention: attention(&instances, status.as_ref(), second),
        total: instances.len(),
        states: states(&instances),
        instances: rows(&instances),
    };
    answer_page(StatusCode::OK, &template)
}

/// Whether somebody has to look at it.
fn troubled(v: &InstanceView) -> bool {
    v.state == State::Failed || v.state == State::Running && v.health == Health::Unhealthy
}

fn stats(instances: &[InstanceView], status: Option<&Status>) -> Vec<Stat> {
    let running = instances.iter().filter(|v| v.state == State::Running).count();
    let failed = instances.iter().filter(|v| troubled(v)).count();
    let mut all = vec![Stat {
        label: "Running",
        value: running.to_string(),
        of: format!("of {}", instances.len()),
        note: match failed {
            0 => "none needs attention".to_owned(),
            n => format!("{n} need attention"),
        },
    }];
    let Some(status) = status else { return all };
    all.push(Stat {
        label: "Container engine",
        value: if status.engine == "ok" { "Ready" } else { "Down" }.to_owned(),
        of: String::new(),
        note: if status.engine == "ok" {
            "answers".to_owned()
        } else {
            short(&status.engine)
        },
    });
    if let Some(room) = &status.room {
        all.push(Stat {
            label: "Room for instances",
            value: bytes(room.room_bytes.saturating_sub(room.promised_bytes)),
            of: format!("of {}", bytes(room.room_bytes)),
            note: "not promised to an instance".to_owned(),
        });
    }
    // The one with the least room.
    if let Some(disk) = status.disks.iter().min_by_key(|d| d.free_bytes) {
        all.push(Stat {
            label: "Disk",
            value: bytes(disk.free_bytes),
            of: format!("of {}", bytes(disk.size_bytes)),
            note: format!("free: {}", short(&disk.holds)),
        });
    }
    all
}

fn attention(instances: &[InstanceView], status: Option<&Status>, second: bool) -> Vec<Attention> {
    let mut all = Vec::new();
    if let Some(status) = status {
        if status.engine != "ok" {
            all.push(Attention::new(
                Tone::Bad,
                "The container engine does not answer",
                short(&status.engine),
            ));
        }
        all.extend(
            status
                .notes
                .iter()
                .map(|n| Attention::new(Tone::Warn, "The box", short(n))),
        );
    }
    for v in instances.iter().filter(|v| troubled(v)).take(LISTED) {
        let what = match v.state {
            State::Failed => format!("{} has failed", v.name),
            _ => format!("{} is not healthy", v.name),
        };
        all.push(Attention::new(
            Tone::Bad,
            &what,
            short(v.reason.as_deref().unwrap_or_default()),
        ));
    }
    if !second {
        let what = "Your account has no second step";
        let mut one = Attention::new(
            Tone::Warn,
            what,
            "Whoever learns your passphrase can sign in.".to_owned(),
        );
        one.link = Some(("/account/second-step", "Set it up"));
        all.push(one);
    }
    all
}

fn states(instances: &[InstanceView]) -> Vec<(String, usize, Tone)> {
    let mut counts: BTreeMap<String, (usize, Tone)> = BTreeMap::new();
    for v in instances {
        let (word, tone) = state_tone(v);
        counts.entry(word.to_owned()).or_insert((0, tone)).0 += 1;
    }
    counts.into_iter().map(|(word, (n, tone))| (word, n, tone)).collect()
}

fn rows(instances: &[InstanceView]) -> Vec<InstanceRow> {
    let mut all: Vec<&InstanceView> = instances.iter().collect();
    all.sort_by_key(|v| (!troubled(v), v.name.to_string()));
    let row = |v: &&InstanceView| {
        let (word, tone) = state_tone(v);
        InstanceRow {
            name: v.name.to_string(),
            id: v.id.to_string(),
            kind: v.type_name.to_string(),
            workspace: v.workspace.to_string(),
            state: word,
            tone,
            reason: short(v.reason.as_deref().unwrap_or_default()),
        }
    };
    all.iter().take(LISTED).map(row).collect()
}

/// One line of what a server or the engine said, without what would change how it reads.
fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(REASON).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    crate::escape::line(&short).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_one_line_that_reads_as_it_stands() {
        assert_eq!(short("exit 1\nstack"), "exit 1");
        assert_eq!(short("a\u{202e}b\u{1b}[31m"), "a\\u{202e}b\\x1b[31m");
        let long = short(&"é".repeat(100_000));
        assert_eq!(long.chars().count(), REASON + 1);
    }
}
