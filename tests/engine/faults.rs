//! What must hold when things break: the supervisor killed at random moments, containers and processes killed or
//! removed, images gone, tokens revoked mid-stream.

use crate::support;

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::{Appliance, INITIALIZE, Instance, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

fn answers(a: &Appliance, i: &Instance) -> bool {
    let out = Command::new("curl")
        .args([
            "--silent",
            "--max-time",
            "20",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            "--cacert",
        ])
        .arg(a.ca())
        .args([
            "-H",
            "Content-Type: application/json",
            "-H",
            "Accept: application/json, text/event-stream",
        ])
        .args([
            "-H",
            &format!("Authorization: Bearer {}", i.token),
            "-d",
            INITIALIZE,
            &i.url,
        ])
        .output()
        .unwrap();
    if out.stdout != b"200" {
        println!(
            "no answer yet: {}, {}",
            String::from_utf8_lossy(&out.stdout),
            out.status
        );
    }
    out.stdout == b"200"
}

/// The process on the host that is the container's process 1.
fn agent_pid(a: &Appliance, i: &Instance) -> u32 {
    u32::try_from(a.inspect(&i.id)["State"]["Pid"].as_u64().unwrap()).unwrap()
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|p| p.parse().unwrap()).collect()
}

/// A small generator, so that a failing round can be run again: splitmix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

/// `kill -9` during any verb, fifty times at random moments: nothing acknowledged is lost, nothing is left over, and
/// an instance that nobody asked anything of keeps its process and serves again.
#[test]
fn killed_fifty_times_nothing_acknowledged_is_lost() {
    let seed = std::env::var("BERTH_TEST_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(20_261_121);
    println!("seed {seed} (BERTH_TEST_SEED repeats it)");
    let mut rng = Rng(seed);
    let mut a = Appliance::start();
    let steady = a.run("time", &["--name", "steady"]);
    let (agent, container) = (agent_pid(&a, &steady), a.container_of(&steady.id));
    // What was acknowledged: instance id -> should run. A verb that was cut off may have happened or not.
    let mut running: Vec<String> = Vec::new();
    let mut stopped: Vec<String> = Vec::new();
    let mut removed: Vec<String> = Vec::new();
    let mut unsure: Vec<String> = Vec::new();
    for round in 0..50 {
        let known: Vec<String> = running.iter().chain(&stopped).cloned().collect();
        let pick = |rng: &mut Rng| known[usize::try_from(rng.below(known.len() as u64)).unwrap()].clone();
        let verb = if known.len() < 2 { 0 } else { rng.below(6) };
        let (args, id): (Vec<String>, Option<String>) = match verb {
            0 | 1 if known.len() < 5 => (
                vec!["run".into(), "time".into(), "--no-wait".into(), "--json".into()],
                None,
            ),
            2 => {
                let id = pick(&mut rng);
                (vec!["stop".into(), id.clone(), "--no-wait".into()], Some(id))
            }
            3 => {
                let id = pick(&mut rng);
                (vec!["start".into(), id.clone(), "--no-wait".into()], Some(id))
            }
            4 => {
                let id = pick(&mut rng);
                (vec!["recreate".into(), id.clone(), "--no-wait".into()], Some(id))
            }
            _ => {
                let id = pick(&mut rng);
                (vec!["rm".into(), id.clone(), "--no-wait".into()], Some(id))
            }
        };
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let child = a
            .command(&words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The moment is random on purpose: it is what is being tested, not something waited for.
        std::thread::sleep(Duration::from_millis(rng.below(120)));
        a.kill();
        let out = child.wait_with_output().unwrap();
        if let Some(id) = &id {
            running.retain(|x| x != id);
            stopped.retain(|x| x != id);
        }
        match (args[0].as_str(), out.status.success(), id) {
            ("run", true, _) => {
                let v: Value = serde_json::from_slice(&out.stdout).unwrap();
                running.push(v["id"].as_str().unwrap().to_owned());
            }
            ("run", false, _) => {}
            ("stop", true, Some(id)) => stopped.push(id),
            ("start" | "recreate", true, Some(id)) => running.push(id),
            ("rm", true, Some(id)) => removed.push(id),
            (_, _, Some(id)) => unsure.push(id),
            (_, _, None) => {}
        }
        a.launch();
        wait_for(
            &format!("round {round}: the steady instance serves again"),
            MINUTE,
            || answers(&a, &steady),
        );
        assert_eq!(
            a.container_of(&steady.id),
            container,
            "round {round}: its container was kept"
        );
        assert_eq!(agent_pid(&a, &steady), agent, "round {round}: its process was kept");
        let views = a.json(&["list"]);
        let there: Vec<&str> = views
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v["id"].as_str().unwrap())
            .collect();
        for id in running.iter().chain(&stopped) {
            assert!(there.contains(&id.as_str()), "round {round}: acknowledged {id} is lost");
        }
        // A cut-off verb settles one way or the other; from here on its outcome is what the list says.
        for id in std::mem::take(&mut unsure) {
            let Some(v) = views.as_array().unwrap().iter().find(|v| v["id"] == id.as_str()) else {
                continue;
            };
            match v["state"].as_str().unwrap() {
                "removing" => removed.push(id),
                "stopped" => stopped.push(id),
                _ => running.push(id),
            }
        }
        // Runs that were cut off before they were acknowledged may exist: they are known from here on.
        for v in views.as_array().unwrap() {
            let id = v["id"].as_str().unwrap().to_owned();
            let known = id == steady.id || [&running, &stopped, &removed].iter().any(|l| l.contains(&id));
            if !known {
                running.push(id);
            }
        }
    }
    for id in &running {
        a.wait_state(id, "running", MINUTE);
    }
    for id in &stopped {
        a.wait_state(id, "stopped", MINUTE);
    }
    let expected = running.len() + 1;
    wait_for(
        "removed instances are gone and stopped ones hold no process",
        MINUTE,
        || {
            let views = a.json(&["list"]);
            let gone = removed
                .iter()
                .all(|id| views.as_array().unwrap().iter().all(|v| v["id"] != id.as_str()));
            let filter = format!("label=berth.box={}", a.box_id());
            gone && a.docker_lines(&["ps", "-q", "--filter", &filter]).len() == expected
        },
    );
    assert!(
        a.containers().len() <= running.len() + stopped.len() + 1,
        "an orphan is left"
    );
    let ids: Vec<String> = running.into_iter().chain(stopped).chain([steady.id.clone()]).collect();
    let mut args = vec!["rm"];
    args.extend(ids.iter().map(String::as_str));
    a.cli(&args);
    assert_eq!(a.leftovers(), Vec::<String>::new());
}

#[test]
fn killed_processes_and_removed_containers_come_back() {
    let a = Appliance::start();
    let i = a.run("time", &[]);
    let agent = agent_pid(&a, &i);
    // The server's process: the agent starts it again inside the same container.
    let server = children(agent)[0];
    support::signal(server, Signal::SIGKILL);
    wait_for("a new server process answers", MINUTE, || {
        let now = children(agent);
        !now.is_empty() && !now.contains(&server) && answers(&a, &i)
    });
    // The agent: its container ends, and is started again.
    support::signal(agent, Signal::SIGKILL);
    wait_for("it answers from a new agent", MINUTE, || {
        answers(&a, &i) && agent_pid(&a, &i) != agent
    });
    // The container removed by hand.
    let container = a.container_of(&i.id);
    assert!(a.docker(&["rm", "-f", &container]).status.success());
    wait_for("a new container", MINUTE, || {
        let now = a.containers();
        now.len() == 1 && now[0] != container && answers(&a, &i)
    });
    a.wait_state(&i.id, "running", MINUTE);
}

/// Somebody pauses a container: calls do not wait for them, and nothing says that it is well.
#[test]
fn a_paused_container_is_not_healthy_and_its_calls_do_not_hang() {
    let a = Appliance::start();
    let i = a.run("time", &[]);
    let container = a.container_of(&i.id);
    // An engine on a busy machine may be unable to freeze it at once.
    wait_for("the container is paused", MINUTE, || {
        a.docker(&["pause", &container]).status.success()
    });
    wait_for("its pause to be noticed", MINUTE, || {
        a.show(&i.id)["health"] == "unhealthy"
    });
    let view = a.show(&i.id);
    assert_ne!(view["state"], "running");
    assert!(view["reason"].as_str().unwrap().contains("paused"), "{view:#}");
    let answer = a.post(&i.url, &i.token, INITIALIZE, &["--max-time", "10"]);
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.json()["id"], 1);
    assert!(answer.header("retry-after").is_some());

    assert!(a.docker(&["unpause", &container]).status.success());
    let view = a.wait_state(&i.id, "running", MINUTE);
    assert_eq!(
        (&view["health"], &view["restarts"]),
        (&"healthy".into(), &0.into()),
        "{view:#}"
    );
    wait_for("its calls are answered again", MINUTE, || answers(&a, &i));
    assert_eq!(a.container_of(&i.id), container);
    a.cli(&["rm", &i.id]);
}

#[test]
fn an_image_that_is_gone_is_a_reason() {
    let a = Appliance::start();
    let tag = format!("berth/test-gone-{}:1", a.box_id());
    let image = a.json(&["types", "show", "time"])["image"].as_str().unwrap().to_owned();
    assert!(a.docker(&["tag", &image, &tag]).status.success());
    // A box whose type names the extra tag.
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(support::root().join("instance-types/time.toml")).unwrap();
    std::fs::write(dir.path().join("time.toml"), text.replace(&image, &tag)).unwrap();
    let b = Appliance::with(support::Options {
        types: vec![dir.path().into()],
        ..Default::default()
    });
    let i = b.run("time", &[]);
    b.cli(&["stop", &i.id]);
    let container = b.containers();
    for c in container {
        assert!(b.docker(&["rm", "-f", &c]).status.success());
    }
    assert!(b.docker(&["rmi", &tag]).status.success());
    b.cli_fails(1, &["start", &i.id]);
    let view = b.wait_state(&i.id, "failed", MINUTE);
    assert!(view["reason"].as_str().unwrap().contains(&tag), "{view:#}");
    // Mended: the image is back.
    assert!(b.docker(&["tag", &image, &tag]).status.success());
    b.cli(&["start", &i.id]);
    wait_for("it answers with its image", MINUTE, || answers(&b, &i));
    b.cli(&["rm", &i.id]);
    assert!(b.docker(&["rmi", &tag]).status.success());
}

#[test]
fn a_server_that_keeps_dying_ends_in_failed() {
    let a = Appliance::start();
    let i = a.run("time", &["--no-wait"]);
    a.wait_state(&i.id, "running", MINUTE);
    // Kill the agent whenever there is one, until the supervisor gives up.
    wait_for("the supervisor gives up", MINUTE * 3, || {
        if a.show(&i.id)["state"] == "failed" {
            return true;
        }
        let pid = a.inspect(&i.id)["State"]["Pid"].as_u64().unwrap_or(0);
        if pid > 0 {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
        false
    });
    let view = a.show(&i.id);
    assert!(view["reason"].as_str().is_some_and(|r| !r.is_empty()), "{view:#}");
    a.cli(&["start", &i.id]);
    wait_for("start tries again", MINUTE, || answers(&a, &i));
}

#[test]
fn a_graceful_stop_leaves_instances_running_and_finishes_calls() {
    let mut a = Appliance::start();
    let i = a.run("time", &[]);
    let agent = agent_pid(&a, &i);
    assert!(a.terminate().success());
    assert!(
        std::path::Path::new(&format!("/proc/{agent}")).exists(),
        "the instance goes on"
    );
    a.launch();
    wait_for("it serves again", MINUTE, || answers(&a, &i));
    assert_eq!(agent_pid(&a, &i), agent);
    assert_eq!(a.show(&i.id)["restarts"], 0);
}

#[test]
fn a_store_of_a_newer_version_and_a_second_supervisor_are_refused() {
    let mut a = Appliance::start();
    let second = Command::new(support::berth())
        .args(["serve", "--config"])
        .arg(a.config())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another"), "{said}");
    a.cli(&["status"]);
    a.kill();
}
