//! What a type file promises, kept on the real engine: health, session caps and expiry, transports, networks, time-outs;
//! and what tools may do without hurting the instance.

use crate::support;

use std::time::Duration;

use serde_json::json;
use support::{Answer, Appliance, INITIALIZE, Instance, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// Opens a session; the header to send along.
fn open(a: &Appliance, i: &Instance) -> String {
    let answer = a.post(&i.url, &i.token, INITIALIZE, &[]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let header = format!(
        "Mcp-Session-Id: {}",
        answer.header("mcp-session-id").expect("a session id")
    );
    a.post(
        &i.url,
        &i.token,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        &["-H", &header],
    );
    header
}

fn call(a: &Appliance, i: &Instance, session: &str, name: &str, arguments: &str) -> Answer {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{{"name":"{name}","arguments":{arguments}}}}}"#
    );
    a.post(&i.url, &i.token, &body, &["-H", session])
}

#[test]
fn an_unhealthy_instance_is_restarted() {
    let a = Appliance::start();
    let i = a.run("fixture-sick", &[]);
    let container = a.container_of(&i.id);
    wait_for("it was found unhealthy and restarted", MINUTE, || {
        a.show(&i.id)["restarts"].as_u64().unwrap() >= 1
    });
    let view = a.wait_state(&i.id, "running", MINUTE);
    assert_eq!(view["health"], "healthy");
    assert_eq!(a.container_of(&i.id), container, "restarted, not made anew");
}

#[test]
fn sessions_are_capped_and_expire() {
    let a = Appliance::start();
    let i = a.run("fixture-capped", &[]);
    let first = open(&a, &i);
    open(&a, &i);
    let full = a.post(&i.url, &i.token, INITIALIZE, &[]);
    assert_eq!(full.status, 503, "{}", full.body);
    assert!(full.header("retry-after").is_some(), "waiting helps");
    // The two are abandoned: they end by themselves, and there is room again.
    wait_for("abandoned sessions end", MINUTE, || {
        a.post(&i.url, &i.token, INITIALIZE, &[]).status == 200
    });
    let gone = call(&a, &i, &first, "echo", r#"{"message":"x"}"#);
    assert_eq!(
        gone.status, 404,
        "an ended session is told so, so that the client starts anew: {}",
        gone.body
    );
}

#[test]
fn a_service_that_speaks_http_itself_is_passed_on() {
    let a = Appliance::start();
    let i = a.run("fixture-http", &[]);
    let answer = a.post(&i.url, &i.token, INITIALIZE, &[]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.contains("serverInfo"), "{}", answer.body);
}

#[test]
fn a_network_is_the_instances_own_and_goes_with_it() {
    let a = Appliance::start();
    let i = a.run("fixture-internet", &[]);
    let filter = format!("label=berth.instance={}", i.id);
    let networks = a.docker_lines(&["network", "ls", "-q", "--no-trunc", "--filter", &filter]);
    assert_eq!(networks.len(), 1);
    let inspect = a.inspect(&i.id);
    let attached = inspect["NetworkSettings"]["Networks"].as_object().unwrap();
    assert_eq!(attached.len(), 1, "{attached:?}");
    assert_eq!(attached.values().next().unwrap()["NetworkID"], json!(networks[0]));
    a.cli(&["rm", &i.id]);
    assert_eq!(a.leftovers(), Vec::<String>::new());
}

#[test]
fn a_server_that_says_nothing_fails_in_words() {
    let a = Appliance::start();
    let said = a.cli_fails(1, &["run", "fixture-mute"]);
    assert!(said.contains("failed"), "{said}");
}

#[test]
fn tools_that_misbehave_hurt_nobody_else() {
    let a = Appliance::start();
    let i = a.run("fixture-echo", &[]);
    let other = open(&a, &i);
    let session = open(&a, &i);
    // The server dies in the middle of a call: its caller is told at once, in JSON-RPC.
    let died = call(&a, &i, &session, "die", "{}");
    assert!(died.body.contains("\"error\""), "{}: {}", died.status, died.body);
    let echo = call(&a, &i, &other, "echo", r#"{"message":"still here"}"#);
    assert!(echo.body.contains("still here"), "{}", echo.body);
    for tool in ["garbage", "noise", "orphan"] {
        let session = open(&a, &i);
        let answer = call(&a, &i, &session, tool, "{}");
        assert!(answer.status == 200, "{tool}: {}", answer.body);
        let echo = call(&a, &i, &session, "echo", r#"{"message":"goes on"}"#);
        assert!(echo.body.contains("goes on"), "after {tool}: {}", echo.body);
    }
    assert_eq!(a.show(&i.id)["restarts"], 0);
}

#[test]
fn a_stubborn_server_is_stopped_all_the_same() {
    let a = Appliance::start();
    let i = a.run("fixture-stubborn", &[]);
    a.cli(&["stop", &i.id]);
    assert_eq!(a.show(&i.id)["state"], "stopped");
    a.cli(&["rm", &i.id]);
    assert_eq!(a.leftovers(), Vec::<String>::new());
}
