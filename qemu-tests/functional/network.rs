//! A factory reset asked for at the console; then a first boot with no network at all and a clock at 1970: the box comes
//! up as new and runs instances. Then a card is plugged in, which the site file gives a static address, a gateway, name
//! servers and a VLAN: the box serves there, by the name that it was told.

use crate::harness::{
    claimed::claimed,
    mcp::{Address, Instance},
    patience, say,
};

const MAC: &str = "52:54:00:be:01:01";

fn site() -> String {
    format!(
        "hostname = \"berth-7\"\ndomain = \"mcp.example.org\"\ntime_servers = [\"192.0.2.123\"]\n\n\
         [[network]]\nmac = \"{MAC}\"\naddresses = [\"10.0.2.77/24\"]\ngateways = [\"10.0.2.2\"]\ndns = [\"10.0.2.3\"]\n\n\
         [[network]]\nmac = \"{MAC}\"\nvlan = 42\naddresses = [\"192.168.42.7/24\"]\n"
    )
}

#[test]
fn reset_at_its_console_then_without_network_and_time_then_with_a_static_address() {
    let c = claimed();
    let (mut m, _) = c.resume("network");
    // What somebody at the serial port types. The box restarts for it.
    m.type_line("factory-reset");
    m.await_serial("Everything on this box goes", patience(30));
    m.type_line("erase everything");
    m.await_end(patience(240));
    m.setup.network = false;
    m.setup.clock = Some("1970-01-01T00:00:00");
    m.setup.guest_address = Some("10.0.2.77");
    m.setup.credentials.push(("berth.site".into(), site()));
    m.start(None);
    let up = m.await_up();
    say(format!("no network, no time: up after {up:.0} s"));
    m.await_serial("berth: address none", patience(60));
    m.await_serial("berth: claim code ", patience(60));
    assert_eq!(m.berth("list"), serde_json::json!([]), "after a factory reset");
    assert_eq!(m.sh("ls /sys/class/net").trim(), "lo");
    // The box has no better clock than the day that its image was made.
    let year: u32 = m.sh("date +%Y").trim().parse().unwrap();
    assert!(year < 2100, "{year}");
    let made = Instance::made(&m.berth("run everything"));
    m.plug_network();
    m.await_serial("berth: address 10.0.2.77/24", patience(120));
    assert_eq!(m.sh("hostname").trim(), "berth-7");
    let routes = m.sh("ip -4 route show default");
    assert!(routes.contains("via 10.0.2.2"), "{routes}");
    let names = m.sh("resolvectl dns");
    assert!(names.contains("10.0.2.3"), "{names}");
    let vlan = m.sh("ip -details -4 address show | grep -A2 'vlan protocol 802.1Q id 42'; ip -4 -o address");
    assert!(vlan.contains("id 42") && vlan.contains("192.168.42.7/24"), "{vlan}");
    let ca = m.sh("berth ca");
    assert_ne!(ca, c.facts.ca, "a factory reset makes a new authority");
    let file = m.dir.join("ca.pem");
    std::fs::write(&file, ca).unwrap();
    let mut address = Address::new(m.port, &file);
    address.host = "mcp.example.org".into();
    assert_eq!(address.await_answer().status, 200);
    // Unclaimed, it does nothing else over the network; claimed, the instance answers.
    let refused = address.try_session(&made).map(drop);
    assert!(refused.is_err(), "an unclaimed box let a client in");
    m.check();
}
