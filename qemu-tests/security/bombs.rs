//! Instances that take all they can: processes, memory, disk, log. Each stays inside its quota, and another instance
//! answers all the while.

use super::probe;
use crate::harness::{
    claimed::{Claimed, claimed, container},
    machine::{Machine, Setup},
    mcp::{Address, Instance},
    patience, say,
};

/// A file of the instance's control group, as a shell word.
fn group(i: &Instance, file: &str) -> String {
    let pid = format!(
        "$(docker inspect --format '{{{{.State.Pid}}}}' {})",
        probe::container(i)
    );
    format!("/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/{pid}/cgroup)/{file}")
}

fn number(m: &mut Machine, script: &str) -> u64 {
    let text = m.sh(script);
    text.trim().parse().unwrap_or_else(|e| panic!("{script}: {e}: {text}"))
}

/// The neighbour answers, in the container that it had all along, and the box itself never ran out of memory.
fn answers(m: &mut Machine, c: &Claimed, address: &Address, before: &str, when: &str) {
    address.session(&c.facts.everything).echo(when, patience(60));
    assert_eq!(
        container(m, &c.facts.everything),
        before,
        "{when}: the neighbour was started again"
    );
    let global =
        m.try_sh("journalctl --boot --dmesg --no-pager --output=cat | grep -E 'constraint=CONSTRAINT_NONE|global_oom'");
    assert!(
        global.status != 0,
        "{when}: the whole box ran out of memory: {}",
        global.text
    );
}

#[test]
fn bombs_stay_inside_their_quota() {
    let c = claimed();
    let mut setup = Setup::new("bombs");
    setup.expected = vec!["oom-kill", "Out of memory", "Memory cgroup", "Call Trace"];
    let (mut m, address) = c.resume_with(setup);
    let image = probe::everything_image(&mut m);
    let flood = Some(r#"["sh", "-c", "yes a line of a flood of words that nobody reads >&2"]"#);
    probe::add_types(
        &mut m,
        &[
            ("probe-bomb", probe::type_file("probe-bomb", &image, "none", None)),
            ("probe-flood", probe::type_file("probe-flood", &image, "none", flood)),
        ],
    );
    let bomb = probe::run(&mut m, "probe-bomb", "bomb");
    let neighbour = container(&mut m, &c.facts.everything);
    let inside = probe::container(&bomb);
    say("bombs: the instance and its neighbour answer");

    // Processes.
    let (current, max) = (group(&bomb, "pids.current"), group(&bomb, "pids.max"));
    let limit = number(&mut m, &format!("cat {max}"));
    assert!(limit <= 1024, "{limit}");
    m.sh(&format!(
        "docker exec --user 10001:10001 -d {inside} sh -c 'b() {{ b | b & }}; b; sleep 600'"
    ));
    let full = format!("[ $(cat {current}) -ge $(($(cat {max}) - 8)) ]");
    m.until("the fork bomb at its limit", &full, patience(120));
    answers(&mut m, &c, &address, &neighbour, "beside a fork bomb");
    assert!(number(&mut m, &format!("cat {current}")) <= limit);
    m.berth(&format!("recreate {}", bomb.id));
    say(format!("bombs: processes stay at {limit}"));

    // Memory: the kernel kills inside the group, and nothing else.
    let host = "systemctl show --property MainPID --value berth.service docker.service | tr -d '\\n'";
    let before = m.sh(host);
    let events = group(&bomb, "memory.events");
    m.sh(&format!(
        "docker exec --user 10001:10001 -d {inside} node -e 'const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1))'"
    ));
    let killed = "journalctl --boot --dmesg --no-pager --output=cat | grep -c 'Memory cgroup out of memory'";
    m.until(
        "the memory bomb is killed",
        &format!("[ $({killed}) -ge 1 ] || grep -q 'oom_kill [1-9]' {events}"),
        patience(120),
    );
    answers(&mut m, &c, &address, &neighbour, "beside a memory bomb");
    assert_eq!(m.sh(host), before, "the supervisor or the engine was killed");
    m.until(
        "the instance is there again",
        &format!("berth show {} --json | grep -q '\"health\": \"healthy\"'", bomb.id),
        patience(180),
    );
    say("bombs: memory is the instance's own");

    // Disk: its volume, its /tmp, and the root that it cannot write. The disk itself has more than the bomb asks for.
    let free = "df --output=avail -B1M /var | tail -n 1";
    let before = number(&mut m, free);
    assert!(before > 9000, "{before} MB are free");
    let write = format!(
        "docker exec --user 10001:10001 {inside} sh -c 'fallocate -l 8G /data/bomb; dd if=/dev/zero of=/tmp/bomb bs=1M; dd if=/dev/zero of=/usr/bomb bs=1M count=1; df -B1M --output=used /data | tail -n 1'"
    );
    let said = m.try_sh_within(&write, patience(240)).text;
    let left = number(&mut m, free);
    assert!(
        before - left.min(before) < 1400,
        "the disk bomb took {} MB: {said}",
        before - left
    );
    assert!(said.contains("Read-only file system"), "{said}");
    answers(&mut m, &c, &address, &neighbour, "beside a disk bomb");
    say(format!("bombs: of {before} MB on the disk {left} MB are left"));

    // Log: of the container, of the journal.
    let started = m.try_sh("berth run probe-flood --name flood --no-wait --json");
    assert_eq!(started.status, 0, "{}", started.text);
    let flood: serde_json::Value = serde_json::from_str(&started.text).unwrap();
    let id = flood["id"].as_str().unwrap().to_owned();
    m.sh("sleep 20");
    answers(&mut m, &c, &address, &neighbour, "beside a log bomb");
    let size = "du -cm /var/lib/docker/*/containers/*/*-json.log* | tail -n 1 | cut -f1";
    let logs = number(&mut m, size);
    assert!(logs <= 4 * 12, "the containers' logs have {logs} MB");
    let journal = number(&mut m, "du -sm /var/log/journal | cut -f1");
    assert!(journal <= 520, "the journal has {journal} MB");
    say(format!("bombs: logs have {logs} MB, the journal {journal} MB"));
    m.berth(&format!("rm {id} {}", bomb.id));
    let back = number(&mut m, free);
    assert!(
        back + 300 > before,
        "removing them gave the disk back: {before} MB were free, {back} MB are"
    );
    c.holds(&address);
    m.check();
}
