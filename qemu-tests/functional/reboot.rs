//! The same box after a reboot, on a disk that grew: instances, tokens and data are there, and `/var` has the space.

use crate::harness::{
    claimed::{claimed, memory},
    qemu, say, state_dir,
};

#[test]
fn a_reboot_on_a_grown_disk_keeps_everything() {
    let c = claimed();
    let (mut m, address) = c.resume("reboot");
    let size = "df --output=size -B1M /var | tail -n 1";
    let before: u64 = m.sh(size).trim().parse().unwrap();
    m.shut_down("reboot");
    qemu::run_tool(
        "qemu-img",
        &["resize", "-q", &m.disk_file().display().to_string(), "24G"],
    );
    m.start(None);
    let up = m.await_up();
    say(format!("second boot: up after {up:.0} s"));
    c.holds(&address);
    let list = c.laptop(&m).json(&["list"]);
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list:#}");
    let again = m.age();
    let after: u64 = m.sh(size).trim().parse().unwrap();
    assert!(
        after >= before + 7000,
        "/var had {before} MB and has {after} MB on a disk 8 GB larger"
    );
    let (_, used) = memory(&mut m);
    let figures = serde_json::json!({ "up": up, "instances": again, "memory_used": used });
    std::fs::write(state_dir().join("second-boot.json"), figures.to_string()).unwrap();
    m.check();
}
