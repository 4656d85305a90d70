//! A root that was changed does not boot, and neither does a kernel that was signed for another root.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::harness::{
    image, image_dir,
    machine::{Disk, Machine, Setup},
    patience, state_dir,
};

/// A copy of the image, which only this test changes; gone with it.
struct Copy(PathBuf);

impl Copy {
    fn new(name: &str) -> Self {
        let path = state_dir().join(format!("{name}-{}.raw", std::process::id()));
        let done = std::process::Command::new("cp")
            .arg("--sparse=always")
            .arg(image())
            .arg(&path)
            .status();
        assert!(done.unwrap().success());
        Self(path)
    }

    fn boot(&self, name: &str, expected: Vec<&'static str>) -> Machine {
        let mut setup = Setup::new(name);
        setup.disk = Disk::Raw(self.0.clone());
        setup.expected = expected;
        Machine::boot(setup)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Where these bytes stand in the file, all places.
fn places(path: &Path, wanted: &[u8], until: u64) -> Vec<u64> {
    let file = fs::File::open(path).unwrap();
    let mut found = Vec::new();
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < until {
        let n = file.read_at(&mut piece, at).unwrap();
        if n < wanted.len() {
            break;
        }
        let hits = memchr::memmem::find_iter(&piece[..n], wanted);
        found.extend(hits.map(|h| at + h as u64));
        // Pieces overlap, so that nothing is missed between two; what lies in both is found once.
        at += (n - wanted.len() + 1) as u64;
    }
    found
}

/// The first partition of a type in the GPT: start and length in bytes.
fn partition(path: &Path, label: &str) -> (u64, u64) {
    let mut table = vec![0; 34 * 512];
    fs::File::open(path).unwrap().read_exact_at(&mut table, 0).unwrap();
    let number = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap());
    for entry in table[1024..].chunks_exact(128) {
        let name: String = entry[56..]
            .chunks_exact(2)
            .map(|c| char::from(c[0]))
            .take_while(|c| *c != '\0')
            .collect();
        if name == label {
            let first = number(&entry[32..40]);
            return (first * 512, (number(&entry[40..48]) + 1 - first) * 512);
        }
    }
    panic!("no partition is called {label}");
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

#[test]
fn a_flipped_byte_in_the_root_stops_the_boot() {
    let copy = Copy::new("flipped");
    let file = fs::File::options().read(true).write(true).open(&copy.0).unwrap();
    let (start, _) = partition(&copy.0, &format!("berth_{}", version()));
    // In the file system's superblock, which every boot reads.
    let mut byte = [0];
    file.read_exact_at(&mut byte, start + 1024 + 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], start + 1024 + 100).unwrap();
    let mut m = copy.boot("flipped", vec!["Kernel panic", "Call Trace", "dm-verity", "verity"]);
    m.await_end(patience(240));
    let words = m.serial.tail(200);
    assert!(
        words.contains("dm-verity device has corrupted blocks") || words.contains("dm-verity device corrupted"),
        "{words}"
    );
    assert!(words.contains("Kernel panic"), "{words}");
}

#[test]
fn a_kernel_bound_to_another_root_mounts_none() {
    let copy = Copy::new("unbound");
    let hash = fs::read_to_string(image_dir().join("berth.roothash"))
        .unwrap()
        .trim()
        .to_owned();
    let (esp, length) = partition(&copy.0, "esp");
    let wanted = format!("roothash={hash}");
    let file = fs::File::options().write(true).open(&copy.0).unwrap();
    let mut other: Vec<u8> = wanted.clone().into_bytes();
    // Both halves, since each names one of the two partitions.
    for at in ["roothash=".len(), wanted.len() - 1] {
        other[at] = if other[at] == b'0' { b'1' } else { b'0' };
    }
    let all = places(&copy.0, wanted.as_bytes(), esp + length);
    assert!(!all.is_empty(), "the ESP holds no {wanted}");
    for at in all {
        file.write_all_at(&other, at).unwrap();
    }
    let expected = vec![
        "Timed out waiting",
        "Dependency failed",
        "could not find or verify its root",
        "emergency",
        "FAILED",
        "DEPEND",
    ];
    let mut m = copy.boot("unbound", expected);
    m.await_serial("could not find or verify its root", patience(300));
    m.await_end(patience(180));
    let words = m.serial.text();
    assert!(!words.contains("Welcome to Debian"), "a root was entered:\n{words}");
}
