//! What the running parts count, as Prometheus text. Reads; never resets or decides.

use super::backend::Parts;
use crate::{
    api::DiskView,
    link::{LinkStats, stats::BUCKETS_US},
    metrics::{Kind, Text},
    model::{BoxId, ForwardStatus, Health, InstanceView, State},
};

/// A number as a sample's value: exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn value(n: u64) -> f64 {
    n as f64
}

/// One family of samples, one per instance.
fn each<'a>(
    text: &mut Text,
    (name, kind, help): (&str, Kind, &str),
    samples: impl Iterator<Item = (&'a InstanceView, f64)>,
) {
    text.family(name, kind, help);
    for (view, value) in samples {
        text.sample(name, &labels(view), value);
    }
}

fn labels(view: &InstanceView) -> [(&str, &str); 3] {
    [
        ("instance", view.id.as_str()),
        ("type", view.type_name.as_str()),
        ("workspace", view.workspace.as_str()),
    ]
}

pub(super) async fn text(parts: &Parts) -> String {
    let snapshot = parts.reconcile.snapshot();
    let views = &snapshot.views;
    let mut t = Text::default();
    t.family("berth_build_info", Kind::Gauge, "The supervisor's version.")
        .sample("berth_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let up = f64::from(u8::from(snapshot.engine.is_none()));
    t.family("berth_engine_up", Kind::Gauge, "Whether the container engine answers.")
        .sample("berth_engine_up", &[], up);
    let disks = parts.space.disks().await;
    for (name, help, of) in [
        (
            "berth_disk_size_bytes",
            "How large the disk is.",
            (|d| d.size_bytes) as fn(&DiskView) -> u64,
        ),
        ("berth_disk_free_bytes", "What of it is free.", |d| d.free_bytes),
    ] {
        t.family(name, Kind::Gauge, help);
        for disk in &disks {
            t.sample(name, &[("holds", &disk.holds)], value(of(disk)));
        }
    }
    if let Some(room) = snapshot.room {
        let help = "What instances may write on the disk, all together.";
        t.family("berth_room_bytes", Kind::Gauge, help)
            .sample("berth_room_bytes", &[], value(room.room_bytes));
        let help = "What the instances that are there were promised of it.";
        t.family("berth_room_promised_bytes", Kind::Gauge, help).sample(
            "berth_room_promised_bytes",
            &[],
            value(room.promised_bytes),
        );
    }
    t.family("berth_event_streams", Kind::Gauge, "Streams of events that are open.")
        .sample("berth_event_streams", &[], value(parts.events.open() as u64));
    let help = "Reports of browsers that a page of the console was not allowed something.";
    t.family("berth_console_reports_total", Kind::Counter, help).sample(
        "berth_console_reports_total",
        &[],
        value(parts.console.reports()),
    );
    t.family("berth_instances", Kind::Gauge, "Instances by state.");
    for state in State::ALL {
        let n = views.values().filter(|v| v.state == state).count();
        t.sample("berth_instances", &[("state", &state.to_string())], value(n as u64));
    }
    let healthy = |v: &InstanceView| f64::from(u8::from(v.health == Health::Healthy));
    let family = (
        "berth_instance_healthy",
        Kind::Gauge,
        "Whether the health contract was last met.",
    );
    each(&mut t, family, views.values().map(|v| (v, healthy(v))));
    let family = (
        "berth_instance_restarts_total",
        Kind::Counter,
        "Restarts since the instance was last asked to run.",
    );
    each(&mut t, family, views.values().map(|v| (v, f64::from(v.restarts))));
    let family = (
        "berth_instance_oom_kills_total",
        Kind::Counter,
        "Processes of the server and of services that the kernel killed because memory was used up, since the instance was last asked to run.",
    );
    each(&mut t, family, views.values().map(|v| (v, f64::from(v.oom_kills))));
    requests(&mut t, parts, &views.values().collect::<Vec<_>>());
    sessions(&mut t, parts, &views.values().collect::<Vec<_>>()).await;
    usage(&mut t, parts.reconcile.box_id(), &snapshot);
    edge(&mut t, parts);
    audit(&mut t, parts);
    t.finish()
}

/// The record of what was asked, and how far it is known elsewhere.
fn audit(t: &mut Text, parts: &Parts) {
    let status = parts.audit.status();
    for (name, kind, help, n) in [
        (
            "berth_audit_rows_total",
            Kind::Counter,
            "Rows of the audit that there ever were.",
            status.head.seq,
        ),
        (
            "berth_audit_bytes",
            Kind::Gauge,
            "Bytes of the audit on the disk.",
            status.bytes,
        ),
        (
            "berth_audit_waiting_rows",
            Kind::Gauge,
            "Rows of the audit that wait for the disk.",
            status.waiting,
        ),
        (
            "berth_audit_lost_total",
            Kind::Counter,
            "Rows of the audit that were lost because the disk took none.",
            status.lost,
        ),
    ] {
        t.family(name, kind, help).sample(name, &[], value(n));
    }
    let forwards = parts.forwards.status();
    if forwards.is_empty() {
        return;
    }
    let up = |f: &ForwardStatus| u64::from(f.trouble.is_none());
    for (name, kind, help, of) in [
        (
            "berth_audit_forward_up",
            Kind::Gauge,
            "Whether rows of the audit can be forwarded to the receiver.",
            up as fn(&ForwardStatus) -> u64,
        ),
        (
            "berth_audit_forward_behind_rows",
            Kind::Gauge,
            "Rows of the audit that were not sent to the receiver yet.",
            |f| f.behind,
        ),
        (
            "berth_audit_forward_lost_total",
            Kind::Counter,
            "Rows of the audit that were removed before they were sent to the receiver.",
            |f| f.lost,
        ),
    ] {
        t.family(name, kind, help);
        for f in &forwards {
            t.sample(name, &[("to", &f.to)], value(of(f)));
        }
    }
}

fn requests(t: &mut Text, parts: &Parts, views: &[&InstanceView]) {
    let stats: Vec<(&InstanceView, LinkStats)> = views
        .iter()
        .filter_map(|v| Some((*v, parts.links.get(v.id.as_str())?.stats())))
        .collect();
    t.family(
        "berth_requests_total",
        Kind::Counter,
        "Answered requests by class of status.",
    );
    for (view, s) in &stats {
        for (i, n) in s.by_class.iter().enumerate() {
            let class = format!("{}xx", i + 1);
            let [a, b, c] = labels(view);
            t.sample("berth_requests_total", &[a, b, c, ("code", &class)], value(*n));
        }
    }
    let family = (
        "berth_requests_in_flight",
        Kind::Gauge,
        "Requests whose answer has not ended.",
    );
    each(t, family, stats.iter().map(|(v, s)| (*v, value(s.in_flight))));
    let family = (
        "berth_agent_connections",
        Kind::Gauge,
        "Connections that the agent keeps open.",
    );
    each(t, family, stats.iter().map(|(v, s)| (*v, value(s.connections as u64))));
    let name = "berth_request_duration_seconds";
    t.histogram_family(name, "Time to the head of the answer.");
    let bounds: Vec<f64> = BUCKETS_US.iter().map(|us| value(*us) / 1e6).collect();
    for (view, s) in &stats {
        t.histogram(name, &labels(view), &bounds, &s.buckets, value(s.sum_us) / 1e6);
    }
}

async fn sessions(t: &mut Text, parts: &Parts, views: &[&InstanceView]) {
    let asked = views.iter().filter(|v| v.state == State::Running).map(|v| async move {
        let status = parts.links.get(v.id.as_str())?.status(ASK).await.ok()?;
        Some((*v, status))
    });
    let known: Vec<_> = futures_util::future::join_all(asked)
        .await
        .into_iter()
        .flatten()
        .collect();
    let family = ("berth_sessions", Kind::Gauge, "Live MCP sessions.");
    each(t, family, known.iter().map(|(v, s)| (*v, f64::from(s.sessions))));
    let family = ("berth_server_processes", Kind::Gauge, "Live MCP server processes.");
    each(t, family, known.iter().map(|(v, s)| (*v, f64::from(s.processes))));
}

/// An agent gets this long to answer a scrape.
const ASK: std::time::Duration = std::time::Duration::from_secs(1);

fn usage(t: &mut Text, box_id: &BoxId, snapshot: &crate::reconcile::Snapshot) {
    let used: Vec<_> = super::meter::used(box_id, snapshot).map(|(v, _, u)| (v, u)).collect();
    let family = (
        "berth_instance_cpu_seconds_total",
        Kind::Counter,
        "CPU time that the container used.",
    );
    each(t, family, used.iter().map(|(v, u)| (*v, value(u.cpu_usec) / 1e6)));
    let family = (
        "berth_instance_memory_bytes",
        Kind::Gauge,
        "Memory of the container, page cache included.",
    );
    each(t, family, used.iter().map(|(v, u)| (*v, value(u.memory_bytes))));
    let family = (
        "berth_instance_pids",
        Kind::Gauge,
        "Processes and threads of the container.",
    );
    each(t, family, used.iter().map(|(v, u)| (*v, value(u.pids))));
}

fn edge(t: &mut Text, parts: &Parts) {
    let s = parts.edge.stats();
    t.family("berth_edge_connections", Kind::Gauge, "Open client connections.")
        .sample("berth_edge_connections", &[], value(s.connections as u64));
    for (name, help, n) in [
        ("berth_edge_accepted_total", "Connections accepted.", s.accepted),
        (
            "berth_edge_handshakes_failed_total",
            "TLS handshakes that failed or took too long.",
            s.handshakes_failed,
        ),
        ("berth_edge_unauthorized_total", "Answers 401 and 403.", s.unauthorized),
        (
            "berth_edge_slowed_total",
            "Answers 429 after repeated wrong tokens.",
            s.slowed,
        ),
    ] {
        t.family(name, Kind::Counter, help).sample(name, &[], value(n));
    }
    let name = "berth_edge_limited_total";
    t.family(
        name,
        Kind::Counter,
        "Answers 429 to calls, by whose bound it was and which.",
    );
    for (why, counts) in [("rate", s.too_fast), ("at_once", s.too_many)] {
        for (whose, n) in counts {
            t.sample(name, &[("of", whose.as_str()), ("why", why)], value(n));
        }
    }
    let name = "berth_edge_under_way";
    t.family(name, Kind::Gauge, "Calls and streams that count for a bound, by whose.");
    for u in s.under_way {
        for (what, n) in [("calls", u.calls), ("streams", u.streams)] {
            t.sample(name, &[("of", u.whose.as_str()), ("what", what)], value(n));
        }
    }
    let name = "berth_edge_refused_total";
    t.family(name, Kind::Counter, "Connections closed by the edge, by why.");
    t.sample(name, &[("why", "full")], value(s.refused_full));
    t.sample(name, &[("why", "gave_way")], value(s.evicted));
    t.sample(name, &[("why", "flood")], value(s.flooded));
}
