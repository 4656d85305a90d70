//! Figures by hand, and leaks: `cargo test --release --test load -- --ignored --nocapture`.

mod rig;

use std::time::{Duration, Instant};

use rig::{Rig, call, initialize, order, order_for};
use serde_json::{Value, json};

fn usage(pid: i32) -> (u64, u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("rss");
    let rss = rss.trim().trim_end_matches(" kB").parse().expect("number");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").count();
    (rss, ticks * 10, fds)
}

/// Sessions that are opened and never used again leave nothing behind.
#[tokio::test]
async fn abandoned_sessions_leave_nothing() {
    let mut o = order("legacy", "shared");
    o["mcp"]["max_sessions"] = json!(100_000);
    o["mcp"]["idle_timeout_ms"] = json!(1500);
    let rig = Rig::ready(&o).await;
    let count: u64 = std::env::var("SESSIONS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2000);
    let round = async |n: u64| {
        for _ in 0..n {
            assert_eq!(rig.post(&[], &initialize("2025-11-25")).await.status, 200);
        }
        rig.status_until(|s| s["sessions"] == 0).await;
    };
    round(count / 10).await;
    let before = usage(rig.pid());
    round(count).await;
    let after = usage(rig.pid());
    eprintln!("rss {} -> {} kB, fds {} -> {}", before.0, after.0, before.2, after.2);
    assert!(after.0 < before.0 + 2048, "{before:?} {after:?}");
    assert!(after.2 <= before.2 + 2, "{before:?} {after:?}");
    assert_eq!(rig.status().await["processes"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "figures, not a test"]
async fn echo() {
    let command: Vec<String> = match std::env::var("SERVER") {
        Ok(text) => text.split(' ').map(str::to_owned).collect(),
        Err(_) => rig::fixture("legacy"),
    };
    let rig = std::sync::Arc::new(Rig::ready(&order_for(command, "shared")).await);
    let session = rig.initialize().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    eprintln!("idle: rss {} kB", usage(rig.pid()).0);
    let seconds = 5;
    for connections in [1, 16] {
        let before = usage(rig.pid());
        let mut tasks = tokio::task::JoinSet::new();
        let end = Instant::now() + Duration::from_secs(seconds);
        for c in 0..connections {
            let (rig, session) = (rig.clone(), session.clone());
            tasks.spawn(async move {
                let (mut n, mut times) = (0u64, Vec::new());
                while Instant::now() < end {
                    let at = Instant::now();
                    let body: Value = call(c * 1_000_000 + n, "echo", json!({"message": "hello"}));
                    let got = rig.post(&[("mcp-session-id", &session)], &body).await;
                    assert_eq!(got.status, 200);
                    times.push(at.elapsed());
                    n += 1;
                }
                times
            });
        }
        let mut times: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
        times.sort();
        let after = usage(rig.pid());
        let n = times.len() as u64;
        eprintln!(
            "{connections} connections: {} calls/s, median {:?}, p99 {:?}, agent {} us of CPU a call, rss {} kB",
            n / seconds,
            times[times.len() / 2],
            times[times.len() * 99 / 100],
            (after.1 - before.1) * 1000 / n.max(1),
            after.0
        );
    }
}
