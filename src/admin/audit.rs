//! The audit, as it is asked for over the API: the query, and which rows whoever asks may see.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{Timestamp, tz::TimeZone};

use super::{
    Backend,
    answers::{AdminResponse, pairs, plain},
};
use crate::{
    api::unescaped,
    audit::{Query, Sees},
    model::{AuditRow, Principal, Refusal, UsageBy, UsageRow, Who, date, date_time},
    policy::{self, Access, Known, Target, Verb},
};

/// So many rows, the last ones, where nothing else is said.
const TAIL: usize = 100;

/// The rows that a query names, as JSON Lines.
pub(super) fn rows<B: Backend>(backend: &B, by: &Principal, query: &str) -> AdminResponse {
    let reading = backend.audit(asked(query), sees(by, backend.live_access()), by);
    let frames = futures_util::stream::unfold(reading, |mut reading| async move {
        let piece = match reading.recv().await? {
            Ok(lines) => lines,
            Err(e) => {
                log::error!("{e}");
                return None;
            }
        };
        Some((Ok(Frame::data(piece)), reading))
    });
    plain(StatusCode::OK, "application/jsonl", StreamBody::new(frames).boxed())
}

/// A query whose parameters are known to be right.
fn asked(query: &str) -> Query {
    let pairs = pairs(query);
    let number = |name: &str| pairs.get(name).and_then(|n| n.parse::<u64>().ok());
    let size = |name: &str| number(name).and_then(|n| usize::try_from(n).ok());
    let time = |name: &str| pairs.get(name).and_then(|t| date_time(&unescaped(t)?));
    let mut asked = Query {
        since: time("since"),
        until: time("until"),
        after: number("after"),
        tail: size("tail"),
        limit: size("limit"),
        follow: pairs.get("follow") == Some(&"1"),
        columns: Vec::new(),
    };
    let columns = pairs.iter().filter(|(name, _)| AuditRow::COLUMNS.contains(name));
    asked.columns = columns
        .filter_map(|(name, value)| Some(((*name).to_owned(), unescaped(value)?)))
        .collect();
    let bounded = asked.tail.is_some() || asked.limit.is_some() || asked.after.is_some() || asked.since.is_some();
    if !bounded {
        asked.tail = Some(TAIL);
    }
    asked
}

/// What was used, of what somebody sees.
pub(super) async fn usage<B: Backend>(
    backend: &B,
    by: &Principal,
    known: Known<'_>,
    query: &str,
) -> Result<Vec<UsageRow>, Refusal> {
    let pairs = pairs(query);
    let day = |name: &str| pairs.get(name).and_then(|d| date(d));
    let sum = pairs.get("by").and_then(|w| UsageBy::parse(w)).unwrap_or(UsageBy::All);
    let seen = Seen::of(by, known);
    let sees = |row: &UsageRow| {
        // A day is known whole: by its end.
        let after = row.day.and_then(|d| d.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok());
        let at = after.map_or(Timestamp::MIN, |day| day.timestamp());
        seen.holds(at, row.workspace.as_deref(), row.member.as_deref())
    };
    backend.usage((day("since"), day("until")), sum, &sees).await
}

/// What somebody sees of rows that may come for hours: by what they may at that moment.
fn sees(by: &Principal, access: Arc<ArcSwap<Access>>) -> Sees {
    let by = by.clone();
    let of = move |access: &Access| {
        let now = Timestamp::now();
        Seen::of(&by, Known { access, now })
    };
    let first = access.load_full();
    let seen = Mutex::new((of(&first), first));
    Arc::new(move |row: &AuditRow<'_>| {
        let now = access.load();
        let (seen, judged_by) = &mut *seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&now, judged_by) {
            (*seen, *judged_by) = (of(&now), Arc::clone(&now));
        }
        seen.holds(row.time, row.workspace.as_deref(), row.member.as_deref())
    })
}

/// What somebody sees of what the audit knows. Names are given again: what was before a workspace or a member was made is of
/// another one.
enum Seen {
    All,
    /// What is of the workspaces that they administer, and their own.
    Theirs {
        workspaces: BTreeMap<String, Timestamp>,
        own: Option<(String, Timestamp)>,
    },
}

impl Seen {
    fn of(by: &Principal, known: Known<'_>) -> Seen {
        let may = |target: Target<'_>| policy::may(known, by, Verb::ReadAudit, target).is_allowed();
        if may(Target::Box) {
            return Seen::All;
        }
        let record = match by.who() {
            Who::Member(name) => known.access.member(name),
            _ => None,
        };
        let Some(record) = record else {
            return Seen::Theirs {
                workspaces: BTreeMap::new(),
                own: None,
            };
        };
        let theirs = record.workspaces.keys().filter(|w| may(Target::Workspace(w)));
        let since = |w| known.access.workspace_since(w).unwrap_or(Timestamp::MAX);
        let own = may(Target::Member(&record.name)).then(|| (record.name.to_string(), record.created_at));
        Seen::Theirs {
            workspaces: theirs.map(|w| (w.to_string(), since(w))).collect(),
            own,
        }
    }

    fn holds(&self, at: Timestamp, workspace: Option<&str>, member: Option<&str>) -> bool {
        match self {
            Seen::All => true,
            Seen::Theirs { workspaces, own } => {
                let administered = workspace.and_then(|w| workspaces.get(w));
                let own = own
                    .as_ref()
                    .filter(|(name, _)| member == Some(name))
                    .map(|(_, since)| since);
                administered.is_some_and(|since| at >= *since) || own.is_some_and(|since| at >= *since)
            }
        }
    }
}
