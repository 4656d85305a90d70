//! The agent as a process, between a supervisor that the test plays and a real stdio server.

use crate::rig;

use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rig::{PATIENCE, Rig, alive, call, events, initialize, order, until};
use serde_json::{Value, json};

/// Headers, body, status.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, u16);

/// Reads a stream until its text fits.
async fn read_until(body: &mut Incoming, fits: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    while !fits(&text) {
        let frame = tokio::time::timeout(PATIENCE, body.frame())
            .await
            .unwrap_or_else(|_| panic!("only {text:?}"));
        let Some(frame) = frame else {
            panic!("ended after {text:?}")
        };
        text.push_str(std::str::from_utf8(frame.expect("frame").data_ref().expect("data")).expect("utf-8"));
    }
    text
}

#[tokio::test]
async fn a_start_order_is_taken_once() {
    let mut rig = Rig::bare().await;
    assert_eq!(rig.status().await["state"], "waiting");
    assert_eq!(rig.post(&[], &initialize("2025-11-25")).await.status, 503);
    let order1 = order("legacy", "shared");
    for _ in 0..2 {
        assert_eq!(
            rig.send(Method::POST, "/.berth/start", &[], &order1.to_string())
                .await
                .status,
            204
        );
    }
    let mut other = order1.clone();
    other["spec"] = json!("spec-2");
    assert_eq!(
        rig.send(Method::POST, "/.berth/start", &[], &other.to_string())
            .await
            .status,
        409
    );
    rig.state(|s| s["state"] == "ready").await;
    assert_eq!(rig.send(Method::GET, "/.berth/health", &[], "").await.status, 204);
    assert_eq!(rig.send(Method::GET, "/.berth/nothing", &[], "").await.status, 404);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(rig.pid()), nix::sys::signal::Signal::SIGTERM).expect("kill");
    assert_eq!(rig.exit().await, 0);
}

#[tokio::test]
async fn a_session_has_a_process_of_its_own_that_ends_with_it() {
    let rig = Rig::ready(&order("legacy", "session")).await;
    let (a, b) = (rig.initialize().await, rig.initialize().await);
    assert!(a.len() >= 32 && a != b);
    let pid: i32 = rig.text(&a, 1, "pid", json!({})).await.parse().expect("pid");
    let other: i32 = rig.text(&b, 1, "pid", json!({})).await.parse().expect("pid");
    let grandchild: i32 = rig.text(&a, 2, "fork", json!({})).await.parse().expect("pid");
    assert_ne!(pid, other);
    assert!(alive(grandchild));
    let seen: Value = serde_json::from_str(&rig.text(&a, 3, "seen", json!({})).await).expect("json");
    assert_eq!(seen["initialize"]["clientInfo"]["name"], "test");
    assert_eq!(
        rig.send(Method::DELETE, "/mcp", &[("mcp-session-id", &a)], "")
            .await
            .status,
        204
    );
    until("its process and what it started are gone", || {
        !alive(pid) && !alive(grandchild)
    })
    .await;
    assert!(alive(other));
    let gone = rig.call(&a, 4, "echo", json!({})).await;
    assert_eq!(
        (gone.status.as_u16(), gone.json()["error"]["code"].as_i64()),
        (404, Some(-31001))
    );
    assert_eq!(rig.status().await["sessions"], 1);
}

#[tokio::test]
async fn environment_and_secrets() {
    let rig = Rig::ready(&order("legacy", "session")).await;
    let session = rig.initialize().await;
    let env: Value = serde_json::from_str(&rig.text(&session, 1, "env", json!({})).await).expect("json");
    assert_eq!(
        (env["TYPE_VAR"].as_str(), env["API_TOKEN"].as_str()),
        (Some("type"), Some("s3cret-s3cret"))
    );
    assert!(
        env.as_object()
            .expect("object")
            .keys()
            .all(|k| !k.starts_with("BERTH_"))
    );
    let status = rig.status().await.to_string();
    assert!(!status.contains("s3cret"));
}

#[tokio::test]
async fn a_server_that_cannot_start_says_its_last_words() {
    let mut rig = Rig::ordered(&order("dead", "shared")).await;
    let state = rig.state(|s| s["state"] == "failed").await;
    let reason = state["reason"].as_str().expect("reason");
    assert!(reason.contains("exited with status 7"), "{reason}");
    assert!(
        reason.contains("no database here; token=***") && !reason.contains("s3cret"),
        "{reason}"
    );
    assert_eq!(rig.exit().await, 1);
    assert!(!rig.log.lock().expect("log").join("\n").contains("s3cret"));
    let mut absent = order("dead", "shared");
    absent["mcp"]["transport"]["command"] = json!(["/no/such/program"]);
    let mut rig = Rig::ordered(&absent).await;
    let state = rig.state(|s| s["state"] == "failed").await;
    assert!(
        state["reason"]
            .as_str()
            .expect("reason")
            .contains("/no/such/program cannot be started"),
        "{state}"
    );
    assert_eq!(rig.exit().await, 1);
}

#[tokio::test]
async fn every_kind_of_server_gets_ready() {
    for mode in ["legacy", "modern", "dual", "picky", "silent"] {
        let rig = Rig::ready(&order(mode, "shared")).await;
        assert_eq!(
            rig.send(Method::GET, "/.berth/health", &[], "").await.status,
            204,
            "{mode}"
        );
    }
}

#[tokio::test]
async fn a_server_that_ignores_ping_is_healthy_until_it_ignores_everything() {
    let mut o = order("pingless", "shared");
    o["health"]["timeout_ms"] = json!(4000);
    let rig = Rig::ready(&o).await;
    for _ in 0..3 {
        let got = rig.send(Method::GET, "/.berth/health", &[], "").await;
        assert_eq!(got.status, 204, "{}", got.text);
    }
    let said = || {
        rig.log
            .lock()
            .expect("log")
            .iter()
            .filter(|l| l.contains("does not answer ping"))
            .count()
    };
    until("it was said", || said() > 0).await;
    assert_eq!(said(), 1, "asked by ping once");
    let session = rig.initialize().await;
    rig.text(&session, 1, "deaf", json!({})).await;
    let got = rig.send(Method::GET, "/.berth/health", &[], "").await;
    assert_eq!(got.status, 503);
    assert!(got.text.contains("no answer"), "{}", got.text);
}

#[tokio::test]
async fn a_server_that_dies_mid_call_answers_its_callers_at_once() {
    let rig = Rig::ready(&order("legacy", "session")).await;
    let session = rig.initialize().await;
    let (never, die) = tokio::join!(
        rig.call(&session, 1, "never", json!({})),
        rig.call(&session, 2, "die", json!({"of": "age"}))
    );
    for (got, id) in [(never, 1), (die, 2)] {
        let m = got.messages().pop().expect("a message");
        assert_eq!(
            (m["id"].as_u64(), m["error"]["code"].as_i64()),
            (Some(id), Some(-31000)),
            "{m}"
        );
        assert!(
            m["error"]["message"].as_str().expect("text").contains("dying of age"),
            "{m}"
        );
    }
    assert_eq!(rig.call(&session, 3, "echo", json!({})).await.status, 404);
    // Shared: the process comes back, and the session lives on.
    let rig = Rig::ready(&order("legacy", "shared")).await;
    let session = rig.initialize().await;
    let got = rig.call(&session, 1, "die", json!({})).await;
    assert_eq!(got.messages().pop().expect("message")["error"]["code"], -31000);
    let end = Instant::now() + PATIENCE;
    while rig.call(&session, 2, "echo", json!({})).await.status != 200 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn many_in_flight_on_one_pipe_and_progress_on_the_right_stream() {
    let rig = Rig::ready(&order("legacy", "shared")).await;
    let (a, b) = (rig.initialize().await, rig.initialize().await);
    let with = |id: u64, token: Value| {
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
               "params": {"name": "progress", "arguments": {"ms": 20}, "_meta": {"progressToken": token}}})
    };
    let (ha, hb) = ([("mcp-session-id", a.as_str())], [("mcp-session-id", b.as_str())]);
    let (one, two) = (with(7, json!("tok")), with(7, json!(1)));
    let order = std::cell::RefCell::new(Vec::new());
    let (x, y, slow, quick) = tokio::join!(
        rig.post(&ha, &one),
        rig.post(&hb, &two),
        async {
            let got = rig.call(&a, 8, "slow", json!({"ms": 1000})).await;
            order.borrow_mut().push("slow");
            got
        },
        async {
            let got = rig.text(&b, 9, "echo", json!({"message": "ü\u{2028}"})).await;
            order.borrow_mut().push("quick");
            got
        }
    );
    assert_eq!(quick, "Echo: ü\u{2028}");
    assert_eq!(*order.borrow(), ["quick", "slow"], "a slow call holds nobody up");
    assert_eq!(slow.messages().pop().expect("message")["id"], 8);
    for (got, token) in [(x, json!("tok")), (y, json!(1))] {
        assert_eq!(got.headers["content-type"], "text/event-stream");
        assert_eq!(got.headers["x-accel-buffering"], "no");
        let all = got.messages();
        assert_eq!(all.len(), 4, "{all:?}");
        assert!(
            all[..3].iter().all(|m| m["params"]["progressToken"] == token),
            "{all:?}"
        );
        assert_eq!(all[3]["id"], 7);
    }
}

#[tokio::test]
async fn requests_to_the_client_and_logs() {
    let rig = Rig::ready(&order("legacy", "session")).await;
    let session = rig.initialize().await;
    let head = [("mcp-session-id", session.as_str())];
    // On the stream of the only call.
    let mut answer = rig.post_open(&head, &call(1, "sample", json!({}))).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let text = read_until(answer.body_mut(), |t| t.contains("createMessage")).await;
    let ask = events(&text).pop().expect("event").1;
    let reply = json!({"jsonrpc": "2.0", "id": ask["id"], "result": {"model": "test"}});
    assert_eq!(rig.post(&head, &reply).await.status, 202);
    let text = read_until(answer.body_mut(), |t| t.contains("\"id\": 1") || t.contains("\"id\":1")).await;
    assert!(text.contains("model"), "{text}");
    // Logs wait for the session's own stream, or go on it.
    let mut own = rig
        .open(Method::GET, "/mcp", &[head[0], ("accept", "text/event-stream")], "")
        .await;
    rig.text(&session, 2, "log", json!({"data": "on the stream"})).await;
    read_until(own.body_mut(), |t| t.contains("on the stream")).await;
}

#[tokio::test]
async fn a_broken_stream_is_resumed() {
    let rig = Rig::ready(&order("legacy", "session")).await;
    let session = rig.initialize().await;
    let head = [("mcp-session-id", session.as_str())];
    let body = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call",
        "params": {"name": "progress", "arguments": {"ms": 150, "steps": 4}, "_meta": {"progressToken": 9}}});
    let mut answer = rig.post_open(&head, &body).await;
    let text = read_until(answer.body_mut(), |t| t.contains("notifications/progress")).await;
    drop(answer);
    let last = events(&text).pop().expect("event").0.expect("id");
    let resume = [
        head[0],
        ("accept", "text/event-stream"),
        ("last-event-id", last.as_str()),
    ];
    let got = rig.send(Method::GET, "/mcp", &resume, "").await;
    let all = got.messages();
    assert_eq!(all.len(), 4, "{}", got.text);
    assert_eq!(all[0]["params"]["progress"], 2);
    assert_eq!(all[3]["id"], 5);
    // Once more, after the fact: the same, from memory.
    assert_eq!(rig.send(Method::GET, "/mcp", &resume, "").await.messages(), all);
}

#[tokio::test]
async fn cancellation_and_time() {
    let mut o = order("legacy", "session");
    o["mcp"]["call_timeout_ms"] = json!(700);
    let rig = Rig::ready(&o).await;
    let session = rig.initialize().await;
    let got = rig.call(&session, 1, "never", json!({})).await;
    assert_eq!(got.messages().pop().expect("message")["error"]["code"], -31002);
    let head = [("mcp-session-id", session.as_str())];
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}});
    let (_, status) = tokio::join!(rig.call(&session, 2, "never", json!({})), async {
        until("it is under way", || true).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.post(&head, &cancel).await.status
    });
    assert_eq!(status, 202);
    let list: Vec<u64> = serde_json::from_str(&rig.text(&session, 3, "cancelled", json!({})).await).expect("json");
    assert!(list.len() >= 2, "{list:?}");
}

#[tokio::test]
async fn what_is_wrong_is_refused_in_the_right_way() {
    let mut o = order("legacy", "shared");
    o["mcp"]["max_sessions"] = json!(1);
    o["mcp"]["max_message"] = json!(4096);
    let rig = Rig::ready(&o).await;
    let session = rig.initialize().await;
    let s = ("mcp-session-id", session.as_str());
    // In use, it gives way to nobody.
    let own = rig
        .open(Method::GET, "/mcp", &[s, ("accept", "text/event-stream")], "")
        .await;
    assert_eq!(own.status(), 200);
    let full = rig.post(&[], &initialize("2025-11-25")).await;
    assert_eq!(
        (full.status.as_u16(), full.json()["error"]["code"].as_i64()),
        (503, Some(-31003))
    );
    assert!(full.headers.contains_key("retry-after"));
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let json_type = ("content-type", "application/json");
    let cases: [Case<'_>; 9] = [
        (&[s], ping, 415),
        (&[s, json_type, ("accept", "text/html")], ping, 406),
        (&[json_type], ping, 400),
        (&[json_type, ("mcp-session-id", "nonsense")], ping, 404),
        (&[s, json_type, ("mcp-protocol-version", "1999-01-01")], ping, 400),
        (&[s, json_type], "{", 400),
        (&[s, json_type], "{}", 400),
        (&[s, json_type], "[]", 400),
        (&[s, json_type, ("mcp-protocol-version", "2025-11-25")], ping, 200),
    ];
    for (headers, body, status) in cases {
        let got = rig.send(Method::POST, "/mcp", headers, body).await;
        assert_eq!(got.status, status, "{headers:?} {body} {}", got.text);
    }
    let put = rig.send(Method::PUT, "/mcp", &[s], "").await;
    assert_eq!(
        (put.status.as_u16(), put.headers["allow"].to_str().expect("text")),
        (405, "GET, POST, DELETE")
    );
    assert_eq!(
        rig.send(Method::GET, "/mcp", &[s, ("accept", "application/json")], "")
            .await
            .status,
        406
    );
    let long = call(3, "echo", json!({"message": "x".repeat(5000)}));
    assert_eq!(rig.post(&[s], &long).await.status, 413);
    let got = rig.call(&session, 4, "big", json!({"bytes": 9000})).await;
    assert_eq!(got.json()["error"]["code"], -31007, "{}", got.text);
    let (never, twice) = tokio::join!(
        tokio::time::timeout(
            Duration::from_millis(500),
            rig.call(&session, 5, "slow", json!({"ms": 200}))
        ),
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            rig.call(&session, 5, "echo", json!({})).await
        }
    );
    assert!(never.is_ok());
    assert_eq!(twice.status, 400);
    assert_eq!(rig.text(&session, 6, "garbage", json!({})).await, "tidy");
}

#[tokio::test]
async fn batches_of_2025_03_26() {
    let rig = Rig::ready(&order("legacy", "session")).await;
    let session = rig.post(&[], &initialize("2025-03-26")).await.session();
    let batch = json!([call(1, "echo", json!({"message": 1})), {"jsonrpc": "2.0", "method": "notifications/x"},
                       call(2, "echo", json!({"message": 2}))]);
    let got = rig.post(&[("mcp-session-id", &session)], &batch).await;
    let list: Vec<Value> = serde_json::from_str(&got.text).expect("array");
    assert_eq!(
        list.iter().map(|m| m["id"].as_u64()).collect::<Vec<_>>(),
        [Some(1), Some(2)]
    );
}

#[tokio::test]
async fn a_supervisor_restart_loses_nothing() {
    let mut rig = Rig::ready(&order("legacy", "session")).await;
    let session = rig.initialize().await;
    let pid = rig.text(&session, 1, "pid", json!({})).await;
    rig.restart_supervisor(Duration::from_millis(300)).await;
    assert_eq!(rig.text(&session, 2, "pid", json!({})).await, pid);
}

#[tokio::test]
async fn abandoned_sessions_end() {
    let mut o = order("legacy", "session");
    o["mcp"]["idle_timeout_ms"] = json!(300);
    o["mcp"]["vanish_timeout_ms"] = json!(300);
    let rig = Rig::ready(&o).await;
    let session = rig.initialize().await;
    let pid: i32 = rig.text(&session, 1, "pid", json!({})).await.parse().expect("pid");
    rig.status_until(|s| s["sessions"] == 0 && s["processes"] == 1).await;
    until("the process is gone", || !alive(pid)).await;
}

/// A client that opens a session for each call and deletes none locks nobody out, itself least of all.
#[tokio::test]
async fn sessions_that_nobody_deletes_give_way() {
    for processes in ["shared", "session"] {
        let mut o = order("legacy", processes);
        o["mcp"]["max_sessions"] = json!(3);
        let rig = Rig::ready(&o).await;
        let first = rig.initialize().await;
        let mut last = String::new();
        for n in 0..12 {
            let end = Instant::now() + PATIENCE;
            // Processes that are ending still count for a moment.
            while rig.status().await["processes"].as_u64() > Some(4) {
                assert!(Instant::now() < end, "they never end");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            last = rig.initialize().await;
            assert_eq!(
                rig.text(&last, n, "echo", json!({"message": n})).await,
                format!("Echo: {n}")
            );
        }
        assert_eq!(rig.status().await["sessions"], 3, "{processes}");
        assert_eq!(rig.call(&first, 1, "echo", json!({})).await.status, 404);
        assert_eq!(rig.call(&last, 1, "echo", json!({})).await.status, 200);
    }
}

#[tokio::test]
async fn services_start_in_order_and_are_restarted() {
    let mut o = order("legacy", "shared");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("port")
        .local_addr()
        .expect("addr")
        .port();
    o["services"] = json!([
        {"name": "web", "command": ["python3", "-m", "http.server", "--bind", "127.0.0.1", port.to_string()], "env": {},
         "ready": {"kind": "port", "port": port, "timeout_ms": 15000}, "restart": "always"},
        {"name": "once", "command": ["sh", "-c", "echo hello; exit 0"], "env": {}, "ready": {"kind": "started"},
         "restart": "on-failure"}
    ]);
    o["health"] = json!({"kind": {"kind": "http", "port": port, "path": "/"}, "timeout_ms": 3000});
    let mut rig = Rig::ready(&o).await;
    let status = rig.status().await;
    assert_eq!(
        status["services"][0],
        json!({"name": "web", "ready": true, "restarts": 0})
    );
    until("the service was heard", || {
        rig.log.lock().expect("log").iter().any(|l| l == "once: hello")
    })
    .await;
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", rig.pid())).expect("children");
    let web = children
        .split_whitespace()
        .find(|p| std::fs::read_to_string(format!("/proc/{p}/cmdline")).is_ok_and(|c| c.contains("http.server")));
    let web = web.expect("web").parse().expect("pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(web), nix::sys::signal::Signal::SIGKILL).expect("kill");
    rig.state(|s| s["services"][0]["restarts"] == 1 && s["services"][0]["ready"] == true)
        .await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(rig.pid()), nix::sys::signal::Signal::SIGTERM).expect("kill");
    assert_eq!(rig.exit().await, 0);
}
