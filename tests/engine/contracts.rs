//! What a type file promises, kept on the real engine: health, session caps and expiry, transports, networks, time-outs;
//! and what tools may do without hurting the instance.

use crate::support;

use std::time::Duration;

use serde_json::json;
use support::{Answer, Appliance, INITIALIZE, Instance, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
/// The image of the tests' servers, in a container of 256 MiB.
const SMALL: [&str; 6] = [
    "--image",
    "berth/test-servers:1",
    "--size",
    "small",
    "--network",
    "none",
];

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
    let (first, second) = (open(&a, &i), open(&a, &i));
    let echo = |session: &str| call(&a, &i, session, "echo", r#"{"message":"x"}"#);
    let third = open(&a, &i);
    let gone = echo(&first);
    assert_eq!(
        gone.status, 404,
        "an ended session is told so, so that the client starts anew: {}",
        gone.body
    );
    assert_eq!((echo(&second).status, echo(&third).status), (200, 200));
    // Both in use: there is no room.
    let calls = [&second, &third].map(|session| {
        let never = r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"never","arguments":{}}}"#;
        stream(&a, &i, &["-H", session, "-d", never])
    });
    wait_for("both are in use", MINUTE, || {
        let full = a.post(&i.url, &i.token, INITIALIZE, &[]);
        full.status == 503 && full.header("retry-after").is_some() && full.body.contains("are in use")
    });
    drop(calls);
    // The two are abandoned: they end by themselves.
    wait_for("abandoned sessions end", MINUTE, || {
        let sessions = sample(&a, "berth_sessions{");
        sessions == Some(0.0)
    });
}

/// What a sample says whose line begins like this.
fn sample(a: &Appliance, begins: &str) -> Option<f64> {
    a.metrics()
        .lines()
        .find(|l| l.starts_with(begins))?
        .rsplit(' ')
        .next()?
        .parse()
        .ok()
}

/// A request whose answer goes on, as long as the value lives.
fn stream(a: &Appliance, i: &Instance, more: &[&str]) -> support::Ends {
    let mut command = std::process::Command::new("curl");
    command
        .args(["--silent", "--verbose", "--max-time", "300", "--cacert"])
        .arg(a.ca())
        .args(["-H", "Content-Type: application/json"])
        .args(["-H", "Accept: application/json, text/event-stream"])
        .args(["-H", &format!("Authorization: Bearer {}", i.token)])
        .args(more)
        .arg(&i.url)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let mut child = support::Ends(command.spawn().unwrap());
    // Its head is told at once on standard error, and with the body's first bytes elsewhere.
    let mut told = std::io::BufRead::lines(std::io::BufReader::new(child.0.stderr.take().unwrap()));
    let head = told.find_map(|l| l.ok().filter(|l| l.starts_with("< HTTP/")));
    assert!(head.as_ref().is_some_and(|l| l.contains(" 200")), "{more:?}: {head:?}");
    std::thread::spawn(move || told.for_each(drop));
    child
}

/// A server whose processes take 40 MiB each, in a container that has 256: no more are started than fit, and what the
/// kernel kills all the same is told.
#[test]
fn memory_is_looked_at_before_a_process_is_started() {
    let a = Appliance::start();
    let code = "x = b'x' * (40 << 20); exec(open('/opt/mcp/server.py').read())";
    let command = ["--command", "python3", "--", "-I", "-S", "-c", code, "stdio"];
    let said = a.cli(&[&["run", "image", "--json"], &SMALL[..], &command[..]].concat());
    let i = Instance::from(&serde_json::from_str(&said).expect("JSON"));
    // All at once: what has just begun counts with what it will take. Nobody comes back with these ids.
    let burst: Vec<u16> = std::thread::scope(|s| {
        let each = |_| s.spawn(|| a.post(&i.url, &i.token, INITIALIZE, &[]).status);
        let threads: Vec<_> = (0..12).map(each).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let of = |status| burst.iter().filter(|s| **s == status).count();
    assert!(of(200) >= 2 && of(503) >= 5 && of(200) + of(503) == 12, "{burst:?}");
    assert_eq!(a.show(&i.id)["oom_kills"], 0, "{burst:?}");
    // Each is in use: its own stream is open.
    let mut all = Vec::new();
    let refused = loop {
        let mut answer = None;
        wait_for("one is admitted, or all are in use", MINUTE, || {
            let a = a.post(&i.url, &i.token, INITIALIZE, &[]);
            // Those of the burst give way once it is plain that nobody knows them.
            let over = a.status == 200 || all.len() >= 2;
            answer = over.then_some(a);
            over
        });
        let answer = answer.unwrap();
        let Some(session) = answer.header("mcp-session-id").map(|s| format!("Mcp-Session-Id: {s}")) else {
            break answer;
        };
        assert!(all.len() < 6, "256 MiB do not hold so many");
        let own = stream(&a, &i, &["-X", "GET", "-H", &session]);
        all.push((session, own));
    };
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.header("retry-after").is_some());
    assert!(
        refused.body.contains("no memory") && refused.body.contains("of 256 MiB are in use"),
        "{}",
        refused.body
    );
    assert!(all.len() >= 2, "{} sessions", all.len());
    for (session, _) in &all {
        let answer = call(&a, &i, session, "echo", r#"{"message":"still here"}"#);
        assert!(answer.body.contains("still here"), "{}", answer.body);
    }
    assert_eq!(a.show(&i.id)["oom_kills"], 0);
    assert_eq!(sample(&a, "berth_instance_oom_kills_total{"), Some(0.0));
    // One that is in use no more gives its memory to another.
    let (idle, stream) = all.remove(0);
    drop(stream);
    let mut admitted = None;
    wait_for("another is admitted", MINUTE, || {
        let answer = a.post(&i.url, &i.token, INITIALIZE, &[]);
        admitted = answer.header("mcp-session-id").map(|s| format!("Mcp-Session-Id: {s}"));
        admitted.is_some()
    });
    assert_eq!(call(&a, &i, &idle, "echo", r#"{"message":"x"}"#).status, 404);
    assert_eq!(a.show(&i.id)["oom_kills"], 0, "the one that gave way ended first");
    // One takes more than there is.
    let greedy = call(&a, &i, &admitted.unwrap(), "hold", r#"{"megabytes":300}"#);
    assert!(greedy.body.contains("killed by the kernel"), "{}", greedy.body);
    assert!(greedy.body.contains("memory (256 MiB) is used up"), "{}", greedy.body);
    wait_for("it is counted", MINUTE, || {
        a.show(&i.id)["oom_kills"].as_u64() >= Some(1)
    });
    assert!(sample(&a, "berth_instance_oom_kills_total{") >= Some(1.0));
    assert!(a.cli(&["show", &i.id]).contains("by the kernel"));
    assert!(a.log().contains("of its processes"));
    assert!(a.cli(&["logs", &i.id]).contains("was killed by the kernel"));
}

/// A service that speaks HTTP itself dies in the same words, and is counted.
#[test]
fn a_service_that_takes_all_memory_is_counted() {
    let a = Appliance::start();
    let server = [
        "--http",
        "8080/mcp",
        "--command",
        "python3",
        "--",
        "-I",
        "-S",
        "/opt/mcp/server.py",
        "http",
    ];
    let said = a.cli(&[&["run", "image", "--json"], &SMALL[..], &server[..]].concat());
    let i = Instance::from(&serde_json::from_str(&said).expect("JSON"));
    assert_eq!(a.show(&i.id)["oom_kills"], 0);
    let body =
        r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"hold","arguments":{"megabytes":300}}}"#;
    let gone = a.post(&i.url, &i.token, body, &[]);
    assert_eq!(gone.status, 502, "{}", gone.body);
    wait_for("it is counted", MINUTE, || {
        a.show(&i.id)["oom_kills"].as_u64() >= Some(1)
    });
    assert!(sample(&a, "berth_instance_oom_kills_total{") >= Some(1.0));
    assert!(a.cli(&["show", &i.id]).contains("by the kernel"));
    assert!(a.log().contains("of its processes"));
    let killed = "server: was killed by the kernel: the container's memory (256 MiB) is used up";
    wait_for("its log says so", MINUTE, || a.cli(&["logs", &i.id]).contains(killed));
}

/// `--call-timeout` holds for whatever runs: progress puts it off where the bridge sees it, and the edge keeps it for
/// servers that speak HTTP themselves.
#[test]
fn a_call_has_the_time_that_its_instance_was_given() {
    let a = Appliance::start();
    let refused = a.cli_fails(1, &["run", "fixture-echo", "--call-timeout", "20m"]);
    assert!(refused.contains("call_timeout in [mcp]"), "{refused}");
    let refused = a.cli_fails(
        1,
        &[
            "run",
            "image",
            "--image",
            "berth/test-servers:1",
            "--call-timeout",
            "25h",
        ],
    );
    assert!(refused.contains("from 1s to 24h"), "{refused}");
    let run = |more: &[&str], mode: &str| {
        let image = [
            "run",
            "image",
            "--json",
            "--image",
            "berth/test-servers:1",
            "--network",
            "none",
        ];
        let server = ["--command", "python3", "--", "-I", "-S", "/opt/mcp/server.py", mode];
        let said = a.cli(&[&image[..], &["--call-timeout", "4s"], more, &server[..]].concat());
        Instance::from(&serde_json::from_str(&said).expect("JSON"))
    };
    let stdio = run(&[], "stdio");
    let session = open(&a, &stdio);
    let sleep = |steps: u32| {
        let body = json!({"jsonrpc": "2.0", "id": steps, "method": "tools/call", "params": {"name": "sleep",
            "arguments": {"seconds": 10, "steps": steps}, "_meta": {"progressToken": "p"}}});
        a.post(&stdio.url, &stdio.token, &body.to_string(), &["-H", &session])
            .body
    };
    assert!(sleep(20).contains("slept 10 s"), "progress every half second");
    let late = sleep(1);
    assert!(late.contains("-31002") && late.contains("within 4 s"), "{late}");
    let http = run(&["--http", "8080/mcp"], "http");
    let body = r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"sleep","arguments":{"seconds":25}}}"#;
    let late = a.post(&http.url, &http.token, body, &[]);
    assert_eq!(late.status, 504, "{}", late.body);
    assert!(late.body.contains("-31002"), "{}", late.body);
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
