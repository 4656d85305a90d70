//! Docker killed: it comes back with its instances, which ran on meanwhile; also where a power cut left options of a
//! volume that Docker cannot read.

use crate::harness::{
    claimed::{claimed, container},
    machine::Setup,
    patience, say,
};

#[test]
fn docker_killed_comes_back_with_its_instances() {
    let c = claimed();
    let mut setup = Setup::new("engine");
    setup.expected = vec![
        "docker.service: Failed with result",
        "containerd.service: Failed with result",
    ];
    let (mut m, address) = c.resume_with(setup);
    let session = address.session(&c.facts.everything);
    session.echo("before", patience(30));
    let before = container(&mut m, &c.facts.everything);
    for unit in ["docker.service", "containerd.service"] {
        let began = m.age();
        let pid = m.sh(&format!("systemctl show --property MainPID --value {unit}"));
        // Docker does not flush these: empty is how a cut leaves them, and with one it would not start.
        m.sh("cd /var/lib/docker/*/volumes && for v in */; do : >$v/opts.json; done");
        m.sh(&format!("kill -KILL {}", pid.trim()));
        // Instances need no engine to answer.
        session.echo(unit, patience(60));
        let again = format!(
            "new=$(systemctl show --property MainPID --value {unit}); [ $new != {} ] && [ $new != 0 ] && docker ps -q && \
             [ $(berth list --json | grep -c '\"health\": \"healthy\"') = 2 ]",
            pid.trim()
        );
        m.until(
            &format!("{unit} again, and both instances healthy"),
            &again,
            patience(120),
        );
        say(format!("{unit} killed: all as before after {:.0} s", m.age() - began));
        assert_eq!(
            container(&mut m, &c.facts.everything),
            before,
            "{unit}: the instance was started again"
        );
    }
    let mended =
        m.sh("journalctl --boot --no-pager --output=cat --unit docker.service | grep -c 'opts.json could not'");
    assert!(mended.trim().parse::<u32>().unwrap() >= 1, "{mended}");
    // The engine that came back makes, stops and removes as before.
    m.berth(&format!("stop {}", c.facts.everything.id));
    m.berth(&format!("start {}", c.facts.everything.id));
    c.holds(&address);
    m.check();
}
