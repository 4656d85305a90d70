//! The supervisor killed, hung, and out of memory: systemd brings it back within seconds, and no instance notices.

use crate::harness::{
    claimed::{Claimed, claimed, container},
    machine::{Machine, Setup},
    mcp::{Address, Session},
    patience, say,
};

const PID: &str = "systemctl show --property MainPID --value berth.service";

fn pid(m: &mut Machine) -> String {
    m.sh(PID).trim().to_owned()
}

/// Does it to the supervisor, and waits for another one that serves; sessions that were open go on.
fn strike(m: &mut Machine, c: &Claimed, session: &Session, name: &str, script: &str) {
    let (before, old) = (container(m, &c.facts.everything), pid(m));
    m.sh(&script.replace("PID", &old));
    let began = m.age();
    let new = format!("new=$({PID}); [ \"$new\" != {old} ] && [ \"$new\" != 0 ] && berth status --json");
    m.until("a new supervisor", &new, patience(120));
    say(format!(
        "supervisor {name}: another one answers after {:.0} s",
        m.age() - began
    ));
    session.echo(name, patience(60));
    assert_eq!(
        container(m, &c.facts.everything),
        before,
        "{name}: the instance was started again"
    );
}

fn holds(c: &Claimed, address: &Address) {
    c.holds(address);
}

#[test]
fn the_supervisor_killed_hung_and_out_of_memory_comes_back() {
    let c = claimed();
    let mut setup = Setup::new("supervisor");
    // What the test does: systemd says so of the unit, the kernel of the memory.
    setup.expected = vec![
        "berth.service: Failed with result",
        "oom-kill",
        "Out of memory",
        "Memory cgroup",
        "Call Trace",
    ];
    let (mut m, address) = c.resume_with(setup);
    let session = address.session(&c.facts.everything);
    session.echo("before", patience(30));
    strike(&mut m, &c, &session, "killed", "kill -KILL PID");
    // It feeds the watchdog no more; systemd waits that long and aborts it.
    strike(&mut m, &c, &session, "hung", "kill -STOP PID");
    // Less memory than it has: the kernel kills it as it does a process that grew too large.
    let starve = "cgroup=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/PID/cgroup); echo 1M >$cgroup/memory.max";
    strike(&mut m, &c, &session, "out of memory", starve);
    let results =
        m.sh("journalctl --boot --no-pager --output=cat --unit berth.service _PID=1 | grep 'Failed with result'");
    for word in ["signal", "watchdog", "oom-kill"] {
        assert!(results.contains(&format!("'{word}'")), "no end by {word}: {results}");
    }
    holds(&c, &address);
    m.check();
}
