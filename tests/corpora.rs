//! The committed corpora of the fuzz targets, replayed: each input reached code that no other one reached when it was kept.
//! `fuzz/run --keep` adds to them.

#[path = "../fuzz/checks/framing.rs"]
mod framing;
#[path = "../fuzz/checks/rfb.rs"]
mod rfb;
#[path = "../fuzz/checks/routing.rs"]
mod routing;
#[path = "../fuzz/checks/types.rs"]
mod types;

use std::{fs, path::Path};

/// Fewer would mean that a corpus was lost.
const AT_LEAST: usize = 20;

fn replay(name: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpora").join(name);
    let inputs: Vec<_> = fs::read_dir(&folder)
        .expect("a corpus")
        .map(|e| e.expect("an entry").path())
        .collect();
    assert!(
        inputs.len() >= AT_LEAST,
        "{} inputs in {}",
        inputs.len(),
        folder.display()
    );
    for input in inputs {
        // A failure names its input.
        println!("{}", input.display());
        check(&fs::read(&input).expect("readable"));
    }
}

#[test]
fn framing_corpus() {
    replay("framing", framing::check);
}

#[test]
fn rfb_corpus() {
    replay("rfb", rfb::check);
}

#[test]
fn routing_corpus() {
    replay("routing", routing::check);
}

#[test]
fn types_corpus() {
    replay("types", types::check);
}
