//! A first boot with no network at all and a clock at 1970, from a disk that another box installed Berth on, with a TPM:
//! the box comes up, with its data sealed, and runs instances. Then a card is plugged in, which the site file gives a static
//! address, a gateway, name servers and a VLAN: the box serves there, by the name that it was told. At last it is reset at
//! its console.

use crate::harness::{
    claimed::claimed,
    machine::{Disk, Machine, Setup},
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

/// What a box that runs puts on an empty disk, and on one that holds data only when told.
fn installed(m: &mut Machine) {
    m.plug_disk("installed.qcow2");
    m.until("the second disk", "[ -b /dev/vdb ]", patience(60));
    let install = "berth install --disk /dev/vdb";
    let itself = m.try_sh("berth install --disk /dev/vda");
    assert!(itself.status == 1 && itself.text.contains("runs from"), "{itself:?}");
    let done = m.try_sh_within(install, patience(600));
    assert_eq!(done.status, 0, "{}", done.text);
    let again = m.try_sh(install);
    assert!(again.status == 1 && again.text.contains("has data on it"), "{again:?}");
    m.cut();
}

#[test]
fn installed_without_network_and_time_then_with_a_static_address_then_reset() {
    let c = claimed();
    let (mut first, _) = c.resume("install");
    installed(&mut first);
    say("a box installed itself on an empty disk");
    // Another machine, which has nothing but that disk.
    let mut setup = Setup::new("network");
    setup.disk = Disk::Above(first.dir.join("installed.qcow2"));
    setup.uuid = "0d9f3a52-6c1b-4e8d-9b7a-51f2c8e4d306";
    setup.tpm = true;
    setup.network = false;
    setup.clock = Some("1970-01-01T00:00:00");
    setup.guest_address = Some("10.0.2.77");
    setup.credentials.push(("berth.site".into(), site()));
    let mut m = Machine::boot(setup);
    let up = m.await_up();
    say(format!("no network, no time: up after {up:.0} s"));
    m.await_serial("berth: address none", patience(60));
    m.await_serial("berth: claim code ", patience(60));
    assert_eq!(m.berth("list"), serde_json::json!([]));
    m.await_serial(
        "berth: disk encrypted: LUKS2, sealed to this machine's TPM",
        patience(60),
    );
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
    assert_ne!(ca, c.facts.ca, "each box has an authority of its own");
    let file = m.dir.join("ca.pem");
    std::fs::write(&file, ca).unwrap();
    let mut address = Address::new(m.port, &file);
    address.host = "mcp.example.org".into();
    assert_eq!(address.await_answer().status, 200);
    // Unclaimed, it does nothing else over the network; claimed, the instance answers.
    let refused = address.try_session(&made).map(drop);
    assert!(refused.is_err(), "an unclaimed box let a client in");
    m.check();
    reset(&mut m);
}

/// What somebody at the serial port types: the box restarts as it came.
fn reset(m: &mut Machine) {
    m.sh("touch /var/before");
    m.type_line("factory-reset");
    m.await_serial("This erases everything on this box", patience(30));
    m.type_line("erase everything");
    m.await_end(patience(240));
    m.setup.network = true;
    m.start(None);
    m.await_lever();
    m.sh("[ $(systemctl show --property ActiveState --value var.mount) = active ] && [ ! -e /var/before ]");
    m.await_serial(
        "berth: disk encrypted: LUKS2, sealed to this machine's TPM",
        patience(120),
    );
    let journal = m.sh("journalctl --boot --no-pager --output=cat --unit systemd-repart.service");
    assert!(
        journal.contains("factory reset: the data partition is made anew"),
        "{journal}"
    );
}
