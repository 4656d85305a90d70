//! Times of the first and of the second boot, and memory at idle. The boots are those of the functional tests.

use std::fmt::Write;

use crate::harness::{
    claimed::{claimed, memory},
    image_dir, say, state_dir,
};

#[test]
fn boot_time_and_memory_at_idle() {
    let c = claimed();
    let f = &c.facts.figures;
    let (mut m, _) = c.resume("idle");
    let (total, with_instances) = memory(&mut m);
    let processes = m.sh(
        "for unit in berth docker containerd systemd-journald systemd-networkd systemd-resolved; do \
         printf '%s %s\\n' $unit $(($(systemctl show --property MemoryCurrent --value $unit.service) / 1000000)); done",
    );
    let image = |name: &str| std::fs::metadata(image_dir().join(name)).map_or(0, |m| m.len() / 1_000_000);
    let mut table = String::new();
    let mut line = |what: &str, value: String| writeln!(table, "| {what} | {value} |").unwrap();
    line(
        "accelerator, processors, memory",
        format!("{}, 2, {total} MB", f.accelerator),
    );
    line("kernel image (UKI)", format!("{} MB", image("berth.efi")));
    line("first boot: the supervisor answers", format!("{:.0} s", f.up));
    line("first boot: HTTPS answers", format!("{:.0} s", f.https));
    line("first boot: an instance runs", format!("{:.0} s", f.instance));
    line("first boot: systemd-analyze", f.analyze.clone());
    let second = std::fs::read(state_dir().join("second-boot.json")).ok();
    let second: serde_json::Value = second.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
    let of = |key: &str| {
        second[key]
            .as_f64()
            .map_or("not measured in this run".to_owned(), |v| format!("{v:.0} s"))
    };
    line("second boot: the supervisor answers", of("up"));
    line("second boot: two instances answer", of("instances"));
    line("memory in use, no instance", format!("{} MB", f.memory_used));
    line("memory in use, two instances", format!("{with_instances} MB"));
    for unit in processes.lines() {
        if let Some((name, size)) = unit.split_once(' ') {
            line(&format!("memory of {name}"), format!("{size} MB"));
        }
    }
    say("boot and idle, from power-on");
    eprintln!("| what | value |\n| --- | --- |\n{table}");
}
