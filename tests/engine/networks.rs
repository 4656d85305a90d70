//! The subnets of instances' networks, on the real engine: from a range of Berth's own, apart from what others have, held by
//! what runs alone, and with words when none is left.

use crate::support;

use std::time::Duration;

use serde_json::Value;
use support::{Appliance, Options, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// A network of somebody else, removed with this.
struct Foreign<'a> {
    a: &'a Appliance,
    id: String,
}

impl<'a> Foreign<'a> {
    fn new(a: &'a Appliance, subnet: &str) -> Self {
        let name = format!("foreign-{}", a.box_id());
        let id = a
            .docker_lines(&["network", "create", "--subnet", subnet, &name])
            .remove(0);
        Self { a, id }
    }
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        let _ = self.a.docker(&["network", "rm", &self.id]);
    }
}

/// The networks of an instance, or of the whole box.
fn networks(a: &Appliance, id: Option<&str>) -> Vec<String> {
    let filter = match id {
        Some(id) => format!("label=berth.instance={id}"),
        None => format!("label=berth.box={}", a.box_id()),
    };
    a.docker_lines(&["network", "ls", "-q", "--filter", &filter])
}

fn subnet(a: &Appliance, id: &str) -> String {
    let network = networks(a, Some(id)).remove(0);
    let format = "{{ (index .IPAM.Config 0).Subnet }}";
    a.docker_lines(&["network", "inspect", "--format", format, &network])
        .remove(0)
}

/// The verdict of `berth doctor` on subnets, and what it found.
fn doctors_word(a: &Appliance) -> (String, String) {
    let config = a.config();
    let doctor = a.json(&["doctor", "--config", config.to_str().unwrap()]);
    let checks = doctor.as_array().unwrap();
    let about = checks.iter().find(|c| c["name"] == "container subnets").unwrap();
    let text = |key: &str| about[key].as_str().unwrap().to_owned();
    (text("verdict"), text("found"))
}

/// What the instance failed with.
fn reason(view: &Value) -> String {
    assert_eq!(view["state"], "failed", "{view}");
    view["reason"].as_str().unwrap().to_owned()
}

#[test]
fn subnets_are_berths_own_and_stopped_instances_hold_none() {
    // Of this test's own, whoever else tests on this machine: three subnets of the range are left for instances.
    let pid = std::process::id();
    let range = format!("100.{}.{}", 64 + pid / 256 % 64, pid % 256);
    let a = Appliance::with(Options {
        extra: format!("[network]\nsubnets = \"{range}.32/27\"\n"),
        ..Options::default()
    });
    let foreign = Foreign::new(&a, &format!("{range}.40/29"));
    let free = ["32", "48", "56"].map(|last| format!("{range}.{last}/29"));
    let on_network = |name: &str| a.run("fixture-internet", &["--name", name]);
    let [first, second, third] = ["one", "two", "three"].map(on_network);
    for (i, subnet_is) in [&first, &second, &third].iter().zip(&free) {
        assert_eq!(subnet(&a, &i.id), *subnet_is);
    }
    let (verdict, found) = doctors_word(&a);
    assert_eq!(verdict, "warn");
    assert!(found.starts_with("4 of 4 in "), "{found}");

    let said = a.cli_fails(1, &["run", "fixture-internet", "--name", "four"]);
    for words in ["no subnet is left", "[network] subnets", "berth start"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(reason(&a.show("four")).contains("all 4 of "), "{}", a.show("four"));
    // What failed holds none either, and takes no other's.
    assert_eq!(networks(&a, None).len(), 3);

    a.cli(&["stop", &second.id]);
    wait_for("a stopped instance holds no network", MINUTE, || {
        networks(&a, Some(&second.id)).is_empty()
    });
    a.cli(&["start", "four"]);
    let fourth = a.show("four")["id"].as_str().unwrap().to_owned();
    assert_eq!(subnet(&a, &fourth), free[1]);
    let said = a.cli_fails(1, &["start", &second.id]);
    assert!(said.contains("no subnet is left"), "{said}");

    // One is given free: what was stopped gets it, and runs as before.
    a.cli(&["rm", &fourth]);
    a.cli(&["start", &second.id]);
    assert_eq!(subnet(&a, &second.id), free[1]);
    assert_eq!(a.show(&second.id)["health"], "healthy");

    drop(foreign);
    a.cli(&["rm", &first.id, &second.id, &third.id]);
    assert_eq!(a.leftovers(), Vec::<String>::new());
}
