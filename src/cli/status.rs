//! `berth status`: what the supervisor says of itself and of its box.

use anyhow::Result;

use super::{client::Supervisor, print};
use crate::api::{Route, Status};

pub(super) async fn run(supervisor: &Supervisor, as_json: bool) -> Result<()> {
    let s: Status = supervisor.get(Route::Status.path()).await?;
    if as_json {
        return print::json(&s);
    }
    let count: Vec<String> = s.instances.iter().map(|(state, n)| format!("{n} {state}")).collect();
    let mut pairs = vec![
        ("version", s.version),
        ("box", s.box_id),
        ("domain", s.domain.unwrap_or_else(|| "none".to_owned())),
        ("https", s.https),
        ("since", print::short(s.started_at)),
        ("engine", s.engine),
        (
            "instances",
            if count.is_empty() {
                "none".into()
            } else {
                count.join(", ")
            },
        ),
        ("certificate", format!("SHA-256 {}", s.certificate_sha256)),
        ("sealed by", s.own.sealed_by),
        ("CA", format!("SHA-256 {}", s.own.ca_fingerprint)),
        ("claimed", if s.own.claimed { "yes" } else { "no" }.into()),
    ];
    if let Some(code) = &s.own.claim_code {
        pairs.push(("claim code", code.expose().to_owned()));
    }
    if let Some(disk) = s.disk {
        pairs.push(("data", disk));
    }
    let mib = |bytes: u64| bytes >> 20;
    for d in &s.disks {
        let (free, size) = (mib(d.free_bytes), mib(d.size_bytes));
        pairs.push(("disk", format!("{}: {free} of {size} MiB are free", d.holds)));
    }
    if let Some(room) = s.room {
        let (promised, all) = (mib(room.promised_bytes), mib(room.room_bytes));
        pairs.push((
            "room",
            format!("instances may write {all} MiB together; {promised} are promised"),
        ));
    }
    if let Some(ca) = s.ca_file {
        pairs.push(("ca file", ca));
    }
    if let Some(audit) = &s.audit {
        pairs.push(("audit", format!("{} rows in {} MiB", audit.head.seq, mib(audit.bytes))));
        pairs.push(("audit head", format!("{}:{}", audit.head.seq, audit.head.hash)));
    }
    for f in &s.forwards {
        let sent = match f.behind {
            0 => format!("up to row {}", f.sent),
            n => format!("up to row {}, {n} behind", f.sent),
        };
        pairs.push(("forwarded", format!("to {}, {sent}", f.to)));
    }
    pairs.extend(s.notes.into_iter().map(|n| ("note", n)));
    print::fields(&pairs)
}
