//! A box that passes, and boxes that miss one thing each.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

fn verdict<'a>(findings: &'a [Finding], title: &str) -> &'a Finding {
    findings
        .iter()
        .find(|f| f.title == title)
        .unwrap_or_else(|| panic!("no check is called '{title}'"))
}

#[test]
fn nothing_known_fails_and_waivers_have_reasons() {
    let findings = check(&Facts::default());
    assert!(findings.len() > 150, "{}", findings.len());
    for f in &findings {
        assert_eq!(f.reason.is_some(), f.verdict == Verdict::Waived, "{f:?}");
        assert!(!f.found.is_empty() && !f.title.is_empty(), "{f:?}");
    }
    for title in [
        "sysctl kernel.kptr_restrict = 2",
        "kernel command line: lockdown=integrity",
        "only 80 and 443 listen on the network",
        "engine: live restore is on",
        "the firewall's table is loaded",
        "/etc/shadow: root's, mode 640 at most",
        "every account is locked",
        "instances: not privileged",
        "no module sctp",
    ] {
        assert_eq!(verdict(&findings, title).verdict, Verdict::Fail, "{title}");
    }
}

#[test]
fn the_last_word_on_the_command_line_counts() {
    let with = |line: &str| {
        let facts = Facts {
            command_line: line.to_owned(),
            ..Facts::default()
        };
        verdict(&check(&facts), "kernel command line: lockdown=integrity").verdict
    };
    assert_eq!(with("quiet lockdown=integrity"), Verdict::Pass);
    assert_eq!(with("lockdown=integrity lockdown=none"), Verdict::Fail);
}

#[test]
fn only_two_ports_may_be_reached() {
    let with = |more: &str| {
        let listening = [
            "tcp 0.0.0.0:443",
            "tcp [::]:80",
            "tcp 127.0.0.53:53",
            "udp 10.0.2.15:68",
            "tcp [::1]:631",
            more,
        ];
        let facts = Facts {
            listening: listening.map(str::to_owned).to_vec(),
            ..Facts::default()
        };
        verdict(&check(&facts), "only 80 and 443 listen on the network").verdict
    };
    assert_eq!(with("udp 127.0.0.54:53"), Verdict::Pass);
    assert_eq!(with("tcp 0.0.0.0:22"), Verdict::Fail);
    assert_eq!(with("udp [::]:443"), Verdict::Fail);
    assert_eq!(with("tcp [::]:5355"), Verdict::Fail);
}

#[test]
fn one_bad_container_is_named() {
    let good = json!({"Name": "/good", "AppArmorProfile": "docker-default", "Mounts": [],
        "Config": {"User": "0:0", "Entrypoint": ["/berth/bin/berth", "agent"], "Cmd": null},
        "HostConfig": {"CapDrop": ["ALL"], "CapAdd": ["SETUID", "CAP_SETGID", "KILL", "SETPCAP"], "Privileged": false, "Memory": 1, "MemorySwap": 1, "PidsLimit": 5}});
    let mut bad = good.clone();
    bad["Name"] = json!("/bad");
    bad["HostConfig"]["Privileged"] = json!(true);
    bad["Mounts"] = json!([{"Type": "bind", "Source": "/run/docker.sock", "Destination": "/x", "RW": true}]);
    let facts = Facts {
        engine: Some(json!({})),
        containers: vec![good, bad],
        ..Facts::default()
    };
    let findings = check(&facts);
    let f = verdict(&findings, "instances: not privileged");
    assert_eq!((f.verdict, f.found.as_str()), (Verdict::Fail, "/bad: true"));
    assert_eq!(verdict(&findings, "instances: no engine socket").verdict, Verdict::Fail);
    let rights = [
        "instances: no capabilities but the agent's own",
        "instances: a user that is not root, but for the agent's first moment",
    ];
    for title in rights {
        assert_eq!(verdict(&findings, title).verdict, Verdict::Pass, "{title}");
    }
    assert_eq!(
        verdict(&findings, "instances: a limit on processes").verdict,
        Verdict::Pass
    );
}

#[test]
fn only_the_agent_may_begin_as_root_with_a_few_capabilities() {
    let rights = [
        "instances: no capabilities but the agent's own",
        "instances: a user that is not root, but for the agent's first moment",
    ];
    let check = |user: &str, entrypoint: Value, cmd: Value, add: Value, is: [Verdict; 2]| {
        let facts = Facts {
            engine: Some(json!({})),
            containers: vec![
                json!({"Name": "/c", "Config": {"User": user, "Entrypoint": entrypoint, "Cmd": cmd},
                "HostConfig": {"CapDrop": ["ALL"], "CapAdd": add}}),
            ],
            ..Facts::default()
        };
        let findings = check(&facts);
        let found = rights.map(|title| verdict(&findings, title).verdict);
        assert_eq!(found, is, "{user} {entrypoint} {cmd} {add}");
    };
    use Verdict::{Fail, Pass};
    let agent = json!(["/berth/bin/berth", "agent"]);
    check(
        "0:0",
        agent.clone(),
        json!(null),
        json!(["SETUID", "KILL"]),
        [Pass, Pass],
    );
    check(
        "0:0",
        agent.clone(),
        json!([]),
        json!(["SETUID", "SYS_ADMIN"]),
        [Fail, Pass],
    );
    check("0:0", agent.clone(), json!(["x"]), json!(["SETUID"]), [Fail, Fail]);
    check("0:0", json!(["sh"]), json!(null), json!(["SETUID"]), [Fail, Fail]);
    check("root", json!(null), json!(null), json!(null), [Pass, Fail]);
    check("1000", json!(["sh"]), json!(null), json!(null), [Pass, Pass]);
}
