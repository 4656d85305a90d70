//! How much memory the machine has.

use std::fs;

/// The least that a box is for, in MiB, and what firmware and kernel may take of it for themselves.
const LEAST: u64 = 2048;
const TAKEN: u64 = 256;

/// What to say of the memory, in words; nothing where it is enough or cannot be told.
pub fn note() -> Option<String> {
    scarce(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// `MemTotal:        2010888 kB` (proc(5)).
fn scarce(meminfo: &str) -> Option<String> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    let mib = kib / 1024;
    (mib < LEAST - TAKEN).then(|| {
        format!("this machine has {mib} MiB of memory, and Berth needs {LEAST}: the kernel may kill instances")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_is_said() {
        let of = |mib: u64| scarce(&format!("MemTotal:     {} kB\nMemFree: 1 kB\n", mib * 1024));
        assert_eq!(of(1960), None);
        assert!(of(985).is_some_and(|said| said.contains("985 MiB") && said.contains("2048")));
        assert_eq!(scarce("nothing"), None);
    }
}
