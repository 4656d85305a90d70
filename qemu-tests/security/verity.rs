//! A root that was changed does not verify and does not boot, and neither does a kernel that was signed for another root.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::harness::{
    Dice, image, image_dir,
    machine::{Disk, Machine, Setup},
    patience, qemu, say, seed, state_dir,
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
pub(super) fn partition(path: &Path, label: &str) -> (u64, u64) {
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

/// A partition of the image as a file of its own.
fn carve(name: &str, (start, length): (u64, u64)) -> Copy {
    let path = state_dir().join(format!("{name}-{}.part", std::process::id()));
    let (from, to) = (format!("if={}", image().display()), format!("of={}", path.display()));
    let (skip, count) = (format!("skip={start}"), format!("count={length}"));
    let words = ["bs=4M", "iflag=skip_bytes,count_bytes", "conv=sparse", "status=none"];
    let done = std::process::Command::new("dd")
        .args([&from, &to, &skip, &count])
        .args(words)
        .status();
    assert!(done.unwrap().success());
    Copy(path)
}

/// How many flipped bytes are tried, beside one in the superblock.
const FLIPS: usize = 12;

/// What the kernel checks block by block, checked over the whole root without a boot: the image as it is passes, and no
/// single byte of it can be another.
#[test]
fn every_byte_of_the_root_is_sealed_by_the_root_hash() {
    let hash = fs::read_to_string(image_dir().join("berth.roothash")).unwrap();
    let label = format!("berth_{}", version());
    let (start, length) = partition(&image(), &label);
    let root = carve("root", (start, length));
    let tree = carve("tree", partition(&image(), &format!("{label}_verity")));
    let verifies = || {
        let (data, hashes) = (root.0.display().to_string(), tree.0.display().to_string());
        let out = qemu::tool("veritysetup")
            .args(["verify", &data, &hashes, hash.trim()])
            .output()
            .unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (fine, words) = verifies();
    assert!(fine, "the image as built: {words}");
    // What the tree covers, which is all that the kernel lets be read (cryptsetup's verity superblock: block size, blocks).
    let mut head = [0; 80];
    fs::File::open(&tree.0).unwrap().read_exact_at(&mut head, 0).unwrap();
    assert_eq!(&head[..6], b"verity");
    let block = u32::from_le_bytes(head[64..68].try_into().unwrap());
    let used = u64::from_le_bytes(head[72..80].try_into().unwrap()) * u64::from(block);
    assert!(
        used > 100 << 20 && used <= length,
        "{used} of {length} bytes are sealed"
    );
    let seed = seed();
    say(format!("verity: BERTH_QEMU_SEED={seed} flips these bytes again"));
    let mut dice = Dice::new(seed);
    let file = fs::File::options().read(true).write(true).open(&root.0).unwrap();
    let places = std::iter::once(1124).chain(std::iter::repeat_with(|| dice.between(0, used - 1)).take(FLIPS));
    for at in places {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let (fine, words) = verifies();
        assert!(
            !fine && words.contains("Verification failed"),
            "byte {at} flipped: {words}"
        );
        file.write_all_at(&byte, at).unwrap();
    }
    assert!(verifies().0, "as it was again");
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
