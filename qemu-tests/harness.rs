//! Boots `target/image/berth.raw` in QEMU and looks at it from outside and, through a lever that the tests bring along
//! themselves, from inside. Never changes the image: every machine has a disk of its own above it, which goes when the
//! machine goes; when a test fails, its folder stays and its path is printed.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

pub mod claimed;
pub mod journal;
pub mod laptop;
pub mod lever;
pub mod log;
pub mod machine;
pub mod mcp;
pub mod nbd;
mod plug;
pub mod qemu;
pub mod qmp;
pub mod tpm;

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What `image-build/build` leaves things in.
pub fn image_dir() -> PathBuf {
    root().join("target/image")
}

/// The image under test.
pub fn image() -> PathBuf {
    let path = image_dir().join("berth.raw");
    assert!(path.exists(), "{} is missing: run `make image` first", path.display());
    path
}

/// Where boxes are kept from run to run: the cache that `qemu-tests/run` names, else beside the machines.
pub fn boxes_dir() -> PathBuf {
    let dir = std::env::var_os("BERTH_CACHE")
        .map_or_else(state_dir, PathBuf::from)
        .join("boxes");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Where machines have their folders.
pub fn state_dir() -> PathBuf {
    let dir = image_dir().join("qemu-tests");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// How much longer than on a quick machine a deadline is, where `BERTH_QEMU_PATIENCE` says nothing else: a machine without
/// KVM may be less than half as quick as another.
const PATIENCE: f64 = 2.0;

/// A deadline, made longer by `BERTH_QEMU_PATIENCE` where a machine is slow or has other work.
pub fn patience(seconds: u64) -> Duration {
    static FACTOR: OnceLock<f64> = OnceLock::new();
    let factor = *FACTOR.get_or_init(|| {
        std::env::var("BERTH_QEMU_PATIENCE")
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(PATIENCE)
    });
    Duration::from_secs(seconds).mul_f64(factor)
}

/// Waits for a value; `None` when the deadline passed.
pub fn wait<T>(deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(v) = ask() {
            return Some(v);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Says where a test is; boots take long.
pub fn say(words: impl AsRef<str>) {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let began = BEGAN.get_or_init(Instant::now);
    eprintln!("qemu-tests: {:4} s  {}", began.elapsed().as_secs(), words.as_ref());
}

/// Random bytes of the machine's, for seeds that are printed.
pub fn seed() -> u64 {
    if let Some(given) = std::env::var("BERTH_QEMU_SEED").ok().and_then(|v| v.parse().ok()) {
        return given;
    }
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// A small generator (xorshift64*): which writes a power cut drops, and when it comes, follow from the printed seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + (self.roll() >> 16) % (high - low + 1)
    }
}
