//! The same box after its disk was moved: to a machine that boots by BIOS, whose firmware has another UUID, with a larger
//! disk and a malformed site file. The file's mistakes are told by line and the box comes up by DHCP; instances, tokens and
//! data are there, and `/var` has the space.

use crate::harness::{
    claimed::{claimed, memory},
    machine::Firmware,
    patience, qemu, say, state_dir,
};

const SITE: &str = "\
hostname = \"berth-1\"
domian = \"mcp.example.org\"

[[network]]
mode = \"static\"
addresses = [\"10.0.2.77/99\"]
";

#[test]
fn a_reboot_elsewhere_on_a_grown_disk_keeps_everything() {
    let c = claimed();
    let (mut m, address) = c.resume("reboot");
    let size = "df --output=size -B1M /var | tail -n 1";
    let before: u64 = m.sh(size).trim().parse().unwrap();
    let id = m.sh("cat /etc/machine-id");
    m.shut_down("reboot");
    qemu::run_tool(
        "qemu-img",
        &["resize", "-q", &m.disk_file().display().to_string(), "24G"],
    );
    m.setup.firmware = Firmware::Bios;
    m.setup.uuid = "b1a5e0c2-5d1f-4c7e-8f2b-3c9d7e6a4f10";
    m.setup.credentials.push(("berth.site".into(), SITE.into()));
    m.start(None);
    let up = m.await_up();
    say(format!("second boot, by BIOS: up after {up:.0} s"));
    m.sh("[ ! -e /sys/firmware/efi ]");
    c.holds(&address);
    let list = c.laptop(&m).json(&["list"]);
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list:#}");
    let again = m.age();
    let after: u64 = m.sh(size).trim().parse().unwrap();
    assert!(
        after >= before + 7000,
        "/var had {before} MB and has {after} MB on a disk 8 GB larger"
    );
    assert_eq!(m.sh("cat /etc/machine-id"), id, "the machine id");
    m.await_serial("berth: state ready", patience(60));
    for line in [2, 6] {
        m.await_serial(&format!("berth: site-problem berth.site:{line}:"), patience(30));
    }
    m.await_serial("berth: address 10.0.2.15/24", patience(60));
    let (_, used) = memory(&mut m);
    let figures = serde_json::json!({ "up": up, "instances": again, "memory_used": used });
    std::fs::write(state_dir().join("second-boot.json"), figures.to_string()).unwrap();
    m.check();
}
