//! Leaks: what comes and goes leaves the agent as it was.

use crate::rig;

use std::time::Duration;

use rig::{Rig, initialize, order};
use serde_json::json;

fn usage(pid: i32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("a field");
        line.trim().trim_end_matches(" kB").parse().expect("number")
    };
    // The pages of the program file are shared by all agents; those of a debug build are beside the point.
    let rss = if std::env::var_os("BERTH_BIN").is_some() {
        field("VmRSS:")
    } else {
        field("RssAnon:")
    };
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").count();
    (rss, fds)
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
        // Until the agent has noticed that nobody asks for anything.
        tokio::time::sleep(Duration::from_secs(4)).await;
    };
    round(count / 10).await;
    let before = usage(rig.pid());
    round(count).await;
    let after = usage(rig.pid());
    eprintln!("rss {} -> {} kB, fds {} -> {}", before.0, after.0, before.1, after.1);
    assert!(after.0 < before.0 + 2048, "{before:?} {after:?}");
    assert!(after.1 <= before.1 + 2, "{before:?} {after:?}");
    assert_eq!(rig.status().await["processes"], 1);
}
