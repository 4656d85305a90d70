//! What Berth says of itself where something does not hold on this machine.

use crate::support;

use support::Appliance;

/// An instance with a network is asked to reach a port of the machine; what the box says of itself must fit what it can.
#[test]
fn a_machine_without_the_firewall_says_that_containers_reach_it() {
    let a = Appliance::start();
    let i = a.run("fetch", &[]);
    let container = a.inspect(&i.id);
    let networks = container["NetworkSettings"]["Networks"].as_object().unwrap();
    let gateway = networks.values().next().unwrap()["Gateway"]
        .as_str()
        .unwrap()
        .to_owned();
    // A service of the machine's, on the address that the container knows it by.
    let service = std::net::TcpListener::bind((gateway.as_str(), 0)).unwrap();
    let port = service.local_addr().unwrap().port();
    let script = format!(
        "import socket,sys\ntry: socket.create_connection(('{gateway}', {port}), 5)\nexcept OSError: sys.exit(7)"
    );
    let asked = a.docker(&["exec", &a.container_of(&i.id), "python3", "-c", &script]);
    let open = match asked.status.code() {
        Some(0) => true,
        Some(7) => false,
        _ => panic!("{}", String::from_utf8_lossy(&asked.stderr)),
    };

    let notes = a.json(&["status"])["notes"].to_string();
    let said = "no firewall of Berth's is in force";
    assert_eq!(notes.contains(said), open, "open: {open}; status says: {notes}");
    let config = a.config();
    let doctor = a.json(&["doctor", "--config", config.to_str().unwrap()]);
    let checks = doctor.as_array().unwrap();
    let about = checks.iter().find(|c| c["name"] == "container networks").unwrap();
    assert_eq!(about["verdict"], if open { "warn" } else { "ok" }, "{about:#}");
    assert_eq!(about["found"].as_str().unwrap().contains(said), open, "{about:#}");
    a.cli(&["rm", &i.id]);
}
