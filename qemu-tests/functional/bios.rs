//! Legacy BIOS, and a site file with mistakes: both are told on the console with their lines, and the box comes up by
//! DHCP and serves.

use crate::harness::{
    machine::{Firmware, Machine, Setup},
    mcp::Address,
    patience, say,
};

const SITE: &str = "\
hostname = \"berth-1\"
domian = \"mcp.example.org\"

[[network]]
mode = \"static\"
addresses = [\"10.0.2.77/99\"]
";

#[test]
fn a_bios_boots_and_a_malformed_site_file_is_told_by_line() {
    let mut setup = Setup::new("bios");
    setup.firmware = Firmware::Bios;
    setup.credentials.push(("berth.site".into(), SITE.into()));
    let mut m = Machine::boot(setup);
    let up = m.await_up();
    say(format!("BIOS boot: up after {up:.0} s"));
    m.sh("[ ! -e /sys/firmware/efi ]");
    m.await_serial("berth: state ready", patience(60));
    for line in [2, 6] {
        m.await_serial(
            &format!("berth: site-problem the credential berth.site:{line}:"),
            patience(30),
        );
    }
    m.await_serial("berth: address 10.0.2.15/24", patience(60));
    let ca = m.dir.join("ca.pem");
    std::fs::write(&ca, m.sh("berth ca")).unwrap();
    let page = Address::new(m.port, &ca).await_answer();
    assert_eq!(page.status, 200, "{page:?}");
    m.check();
}
