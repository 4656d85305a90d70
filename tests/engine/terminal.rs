//! The command line: what an assistant can do with it, what no command can do to it, and that people see it live and
//! can type there.

use crate::support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    Appliance, Instance,
    desktop::{Assistant, Browser, Said, inside, link},
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);

fn start() -> (Appliance, Instance) {
    let a = Appliance::start();
    let i = a.run("linux-command-line", &[]);
    (a, i)
}

fn run(assistant: &mut Assistant, command: &str) -> Said {
    assistant.call("run_command", json!({ "command": command }))
}

#[test]
fn commands_jobs_and_files() {
    let (a, i) = start();
    let mut assistant = Assistant::of(&a, &i);
    let said = run(&mut assistant, "echo out; echo err >&2; pwd; id -u");
    assert_eq!((said.text.as_str(), said.error), ("out\nerr\n/data\n10001\n", false));
    let said = run(&mut assistant, "echo bad; exit 3");
    assert!(
        said.error && said.text.contains("bad") && said.data["exit_status"] == 3,
        "{said:?}"
    );
    let said = run(
        &mut assistant,
        "git --version; curl --version; python3 -c 'print(6*7)'; node -p 1+1; jq -n 1; rg --version; vi --version",
    );
    assert!(
        !said.error && said.text.contains("git version") && said.text.contains("42"),
        "{said:?}"
    );
    // Output is told as it comes, and bounded.
    let said = run(&mut assistant, "for n in 1 2 3; do echo step $n; sleep 0.6; done");
    assert!(
        said.progress.len() >= 2 && said.progress.concat().contains("step 1"),
        "{said:?}"
    );
    let said = run(&mut assistant, "seq 1 200000");
    assert!(
        said.text.len() < 80_000 && said.text.starts_with("1\n2\n") && said.text.contains("200000"),
        "{}",
        said.text.len()
    );
    assert!(said.data["left_out_bytes"].as_u64().unwrap() > 1_000_000);
    // A command that takes too long ends, with all that it started.
    let began = Instant::now();
    let said = assistant.call(
        "run_command",
        json!({ "command": "setsid sleep 987 & sleep 987", "timeout_seconds": 2 }),
    );
    assert!(
        said.error && said.data["timed_out"] == true && began.elapsed() < MINUTE,
        "{said:?}"
    );
    run(&mut assistant, "nohup setsid sleep 987 >/dev/null 2>&1 &");
    wait_for("nothing outlives its command", MINUTE, || {
        !inside(&a, &i.id).iter().any(|(_, c)| c.contains("sleep 987"))
    });

    // Jobs go on, also when the session that started them is gone.
    let job = assistant
        .call(
            "start_job",
            json!({ "command": "while true; do date +%s.%N; sleep 0.2; done" }),
        )
        .data["job"]
        .clone();
    let first = assistant.call("read_job", json!({ "job": job, "wait_seconds": 10 }));
    assert!(!first.text.is_empty());
    drop(assistant);
    let mut assistant = Assistant::of(&a, &i);
    let more = assistant.call(
        "read_job",
        json!({ "job": job, "since": first.data["end"], "wait_seconds": 10 }),
    );
    assert!(
        !more.text.is_empty() && !more.text.starts_with(&first.text) && more.data["running"] == true,
        "{more:?}"
    );
    let list = assistant.call("list_jobs", json!({}));
    assert_eq!(list.data["jobs"][0]["running"], true, "{list:?}");
    let stopped = assistant.call("stop_job", json!({ "job": job }));
    assert_eq!(stopped.data["running"], false, "{stopped:?}");
    assert!(assistant.call("read_job", json!({ "job": 999 })).error);

    // Files; and what is at home lasts.
    assistant.call("write_file", json!({ "path": "notes/a.txt", "content": "one\n" }));
    assistant.call(
        "write_file",
        json!({ "path": "~/notes/a.txt", "content": "two\n", "append": true }),
    );
    assert_eq!(
        assistant
            .call("read_file", json!({ "path": "notes/a.txt", "offset": 4 }))
            .text,
        "two\n"
    );
    assert!(
        assistant
            .call("write_file", json!({ "path": "/etc/passwd", "content": "x" }))
            .error
    );
    assert!(assistant.call("read_file", json!({ "path": "/etc/shadow" })).error);
    drop(assistant);
    a.cli(&["recreate", &i.id]);
    let mut assistant = Assistant::of(&a, &i);
    assert_eq!(run(&mut assistant, "cat notes/a.txt").text, "one\ntwo\n");
}

/// The numbers of the agent and of its server, as the machine counts them.
fn protected(a: &Appliance, i: &Instance) -> Vec<u32> {
    let all = inside(a, &i.id);
    all.into_iter()
        .filter(|(_, c)| c.contains("/berth/bin/berth"))
        .map(|(pid, _)| pid)
        .collect()
}

#[test]
fn no_command_reaches_the_agent_or_the_server() {
    let (a, i) = start();
    let mut assistant = Assistant::of(&a, &i);
    let before = protected(&a, &i);
    assert_eq!(before.len(), 2, "an agent and one server for all: {before:?}");
    let server = run(
        &mut assistant,
        "ps -eo pid,args | awk '/[b]erth shell/ { print $1; exit }'",
    )
    .text
    .trim()
    .to_owned();
    assert!(server.parse::<u32>().is_ok(), "{server:?}");
    for attack in [
        "kill -9 1".to_owned(),
        "kill -TERM 1; kill -INT 1; kill -HUP 1".to_owned(),
        format!("kill -9 {server}; kill -9 -{server}; kill -STOP {server}"),
        "kill -9 -1".to_owned(),
        "pkill -9 berth; killall -9 berth".to_owned(),
        format!(
            "python3 -c 'import os, signal\nfor f in (lambda: os.kill({server}, 9), lambda: os.kill(-1, 9), lambda: os.killpg({server}, 9), lambda: signal.pidfd_send_signal(os.pidfd_open({server}), 9), lambda: signal.pidfd_send_signal(os.open(\"/proc/{server}\", 0), 9)):\n try: f(); print(\"DONE\")\n except OSError as e: print(e)'"
        ),
        format!("prlimit --pid {server} --cpu=1; prlimit --pid 1 --nofile=3"),
        format!(
            "cat /proc/{server}/environ /proc/1/environ /proc/{server}/mem; ls /proc/{server}/fd; echo 1000 > /proc/{server}/oom_score_adj; echo x > /proc/{server}/fd/1"
        ),
        format!("gdb -p {server}; python3 -c 'import ctypes; print(ctypes.CDLL(None).ptrace(16, {server}, 0, 0))'"),
    ] {
        let said = run(&mut assistant, &attack);
        assert!(!said.text.contains("DONE"), "{attack}: {}", said.text);
        assert_eq!(protected(&a, &i), before, "after {attack}: {}", said.text);
    }
    // Too many processes, too much memory, too much output, all of a disk of memory: the command ends, the server lives.
    for (greed, seconds) in [
        (":(){ :|:& };:", 8),
        (
            "bomb() { bomb | bomb & }; setsid bash -c \"$(declare -f bomb); bomb\"; sleep 60",
            8,
        ),
        ("python3 -c 'a = []\nwhile True: a.append(bytearray(10_000_000))'", 60),
        ("yes", 4),
        ("cat /dev/zero > /tmp/full; cat /dev/zero > /dev/shm/full", 60),
        (
            "printf '\\033[6n\\033[c\\033]50;?\\007\\033[21t'; head -c 3000000 /dev/urandom",
            60,
        ),
    ] {
        let said = assistant.call("run_command", json!({ "command": greed, "timeout_seconds": seconds }));
        assert!(said.text.len() < 200_000, "{greed}");
        assert_eq!(protected(&a, &i), before, "after {greed}: {said:?}");
        assert_eq!(
            run(&mut assistant, "rm -f /tmp/full /dev/shm/full; echo still here").text,
            "still here\n",
            "after {greed}"
        );
    }
    wait_for("nothing of it is left", MINUTE, || {
        let all = inside(&a, &i.id);
        !all.iter().any(|(_, c)| c.starts_with('Z')) && all.len() <= 6
    });
    let view = a.show(&i.id);
    assert_eq!(
        (&view["restarts"], &view["health"]),
        (&json!(0), &json!("healthy")),
        "{view:#}"
    );
}

#[test]
fn people_see_commands_live_and_type_beside_them() {
    let (a, i) = start();
    let (mut assistant, mut people) = (Assistant::of(&a, &i), Browser::start(&a));
    people.open("ada", &link(&a, &i.id, &[]));
    people.wait_phase("ada", "live");
    // A command paints a block of a known colour; it appears while the command still runs.
    let block = "for n in $(seq 30); do printf '\\033[48;2;10;200;60m%110s\\033[0m\\n' ' '; done; sleep 4";
    let began = Instant::now();
    let job = assistant.call("start_job", json!({ "command": block })).data["job"].clone();
    people.wait_colour("ada", (500, 400), [10, 200, 60]);
    assert!(
        assistant.call("read_job", json!({ "job": job })).data["running"] == true
            || began.elapsed() > Duration::from_secs(4)
    );
    assistant.call("stop_job", json!({ "job": job }));

    // Without the controls nothing that is typed arrives; with them it does.
    people.eval("ada", "document.querySelector('#screen canvas').focus()");
    people.type_text("ada", "touch not-allowed");
    people.press("ada", "Enter");
    people.click("ada", "#control");
    people.wait_control("ada", "you");
    people.mouse("ada", 500, 300);
    people.type_text("ada", "echo \"typed by $USER-ada\" > typed.txt");
    people.press("ada", "Enter");
    wait_for("what was typed has run", MINUTE, || {
        run(&mut assistant, "cat typed.txt 2>/dev/null").text.contains("-ada")
    });
    assert!(run(&mut assistant, "ls not-allowed").error);

    assert_eq!(people.errors("ada"), json!([]));

    // The terminal dies, the display dies: both come back, and commands run all the while.
    let terminal = || {
        inside(&a, &i.id)
            .iter()
            .find(|(_, c)| c.contains("xterm"))
            .map(|(p, _)| *p)
    };
    let first = terminal().unwrap();
    run(&mut assistant, "pkill -9 xterm");
    wait_for("another terminal", MINUTE, || terminal().is_some_and(|t| t != first));
    run(&mut assistant, "pkill -9 Xvnc");
    people.wait_phase("ada", "live");
    assert_eq!(run(&mut assistant, "echo goes on").text, "goes on\n");
    wait_for("a terminal on the new display", MINUTE, || terminal().is_some());
    let said = assistant.call("start_job", json!({ "command": format!("sleep 1; {block}") }));
    assert_ne!(said.data["job"], Value::Null);
    people.wait_colour("ada", (500, 400), [10, 200, 60]);
}
