//! Hundreds of power cuts without a boot: what a working box writes to its disk is recorded once, and then, at places of
//! the recording, `/var` is what a cut there leaves. It is mounted here, mended by Berth's own code and looked at: what was
//! acknowledged until then is there, and what Docker, the edge and the supervisor start with is whole.

mod audit;
mod disk;
mod mounts;
mod proof;

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use audit::{Books, Fixed, Place, faults};
use disk::{Disk, Keep, Unflushed};
use serde::{Deserialize, Serialize};

use super::{
    verity::partition,
    work::{self, Event, WORK},
};
use crate::harness::{
    Dice,
    claimed::claimed,
    journal::{Entry, Journal},
    machine::{Disk as MachineDisk, Machine, Setup},
    mcp::Instance,
    nbd::Drive,
    patience, qemu, say, seed, state_dir,
};

/// At how many places, where `BERTH_QEMU_POINTS` does not say it.
const POINTS: usize = 300;
/// How long the box works at least.
const WORKS: Duration = Duration::from_secs(90);
/// How much of it must be acknowledged, else it goes on working.
const MADE: usize = 8;
const GONE: usize = 4;
/// A line of the box's may lie unread while one reading ends and the next begins, and may come in two pieces: when it was
/// said, the journal stood where it stood so many readings before, or later.
const READINGS: usize = 4;
/// Room for what the mounts write, beside the partition and all that was recorded.
const ROOM: u64 = 8 << 30;
/// How many places with faults are told.
const TOLD: usize = 8;

/// The recording's files: its list, and the bytes of the writes.
const LIST: &str = "recording.json";
const BYTES: &str = "recording.bytes";

/// All that is needed to cut again.
#[derive(Debug, Serialize, Deserialize)]
struct Recording {
    /// The disk at the beginning.
    disk: PathBuf,
    ca: String,
    books: Books,
    entries: Vec<Entry>,
}

/// A cut: before this entry of the journal.
#[derive(Debug, Clone, Copy)]
struct Cut {
    at: Place,
    keep: Keep,
}

/// Chooses the places: half of them anywhere, half around flushes; in order.
fn cuts(entries: &[Entry], count: usize, dice: &mut Dice) -> Vec<Cut> {
    let last = entries.len() as u64;
    let flushes: Vec<u64> = (0..last)
        .filter(|n| matches!(entries[*n as usize], Entry::Flush))
        .collect();
    let mut cuts: Vec<Cut> = (0..count)
        .map(|n| {
            let at = if n % 2 == 0 || flushes.is_empty() {
                dice.between(0, last)
            } else {
                let flush = flushes[dice.between(0, flushes.len() as u64 - 1) as usize];
                // Two writes before it, one, just before, just after, one write after.
                (flush + dice.between(0, 4)).saturating_sub(2).min(last)
            };
            let keep = match dice.between(0, 7) {
                0 => Keep::All,
                1 => Keep::Nothing,
                2 | 3 => Keep::Some(dice.roll()),
                _ => Keep::Each(dice.roll()),
            };
            Cut { at: at as Place, keep }
        })
        .collect();
    cuts.sort_by_key(|c| c.at);
    cuts
}

/// Lets a box work as in `power.rs`, and records what it writes. The recording is in the folder of the machine, which is
/// cut then.
fn record() -> Machine {
    let c = claimed();
    let base = Scratch(state_dir().join(format!("replay-{}.raw", std::process::id())));
    raw(&c.disk(), &base.0);
    let drive = Drive::above(&base.0);
    let mut setup = Setup::new("replay");
    setup.disk = MachineDisk::Nbd;
    let (mut m, _) = c.prepare(setup);
    drive.record(&m.dir.join(BYTES));
    let server = drive.serve(&m.dir);
    c.start(&mut m);
    m.await_up();
    let mut books = Books::default();
    for Instance { id, token } in [c.facts.everything.clone(), c.facts.memory.clone()] {
        books.note(Event::Made { id, token }, 0, 0);
    }
    let (works, gives_up) = (Instant::now() + WORKS, Instant::now() + WORKS + patience(300));
    // Where the journal stood at the last readings.
    let mut stood = VecDeque::from([drive.recorded(); READINGS]);
    let mut heard = 0;
    let said = m.listen(&WORK.replace("ROUND", "r"), |said| {
        let now = drive.recorded();
        let events = work::events(said);
        for event in events.iter().skip(heard) {
            books.note(event.clone(), stood[0], now);
        }
        heard = events.len();
        stood.pop_front();
        stood.push_back(now);
        let enough = books.made.len() >= MADE && books.gone.len() >= GONE;
        assert!(enough || Instant::now() < gives_up, "too little is done: {said}");
        enough && Instant::now() > works
    });
    m.cut();
    let refusals = work::refusals(&said);
    say(format!("replay: {} refusals of the work's commands", refusals.len()));
    for refusal in refusals.iter().take(TOLD) {
        say(format!("replay: refused: {refusal}"));
    }
    server.join().unwrap().unwrap();
    let recording = Recording {
        disk: c.disk(),
        ca: c.facts.ca,
        books,
        entries: drive.journal().entries,
    };
    let text = serde_json::to_vec(&recording).unwrap();
    fs::write(m.dir.join(LIST), text).unwrap();
    m
}

/// Cuts a recording at so many places, and gives what is wrong at some of them.
fn replay(folder: &Path, count: usize, dice: &mut Dice) {
    let list = fs::read(folder.join(LIST)).unwrap_or_else(|e| panic!("no recording in {}: {e}", folder.display()));
    let recording: Recording = serde_json::from_slice(&list).unwrap();
    let books = recording.books;
    let journal = Journal::kept(recording.entries, &folder.join(BYTES));
    let cuts = cuts(&journal.entries, count, dice);
    let flushes = journal.entries.iter().filter(|e| matches!(e, Entry::Flush)).count();
    say(format!(
        "replay: {} writes of {} MB, {flushes} flushes; {} made, {} removed; {} cuts",
        journal.entries.len() - flushes,
        journal.size() >> 20,
        books.made.len(),
        books.gone.len(),
        cuts.len()
    ));
    let here = state_dir().join(format!("cuts-{}", std::process::id()));
    let (bad, unflushed) = mounts::apart(&here, |here| {
        let whole = Scratch(here.join("disk.raw"));
        raw(&recording.disk, &whole.0);
        let place = partition(&whole.0, "var");
        let used = fs::metadata(&whole.0).unwrap().blocks() * 512;
        let scratch = mounts::scratch(here, used + journal.size() + ROOM);
        let part = scratch.at().join("var");
        carve(&whole.0, place, &part);
        drop(whole);
        let mut disk = Disk::new(&journal, place, &part);
        let fixed = each(&mut disk, here, scratch.at(), Cut::first(), Fixed::of).1;
        let fixed = fixed.unwrap_or_else(|e| panic!("the recorded disk's /var does not mount: {e}"));
        fixed.check(&recording.ca);
        let mut bad = Vec::new();
        let mut unflushed = Unflushed::default();
        for (n, cut) in cuts.iter().enumerate() {
            let (u, found) = each(&mut disk, here, scratch.at(), *cut, |var| {
                faults(var, cut.at, &books, &fixed)
            });
            unflushed.kept += u.kept;
            unflushed.lost += u.lost;
            let found = found.unwrap_or_else(|e| vec![format!("/var does not mount: {e}")]);
            if !found.is_empty() {
                let (all, (kept, lost)) = (journal.entries.len(), (u.kept, u.lost));
                let head = format!(
                    "cut before {} of {all}, {:?}: {kept} sectors kept, {lost} lost",
                    cut.at, cut.keep
                );
                say(format!("replay: {head}: {}", found.join("; ")));
                bad.push(format!("{head}:\n  {}", found.join("\n  ")));
            }
            if (n + 1) % 50 == 0 {
                say(format!("replay: {} cuts", n + 1));
            }
        }
        (bad, unflushed)
    });
    say(format!(
        "replay: at {} cuts {} unflushed sectors were kept and {} lost; {} with faults",
        cuts.len(),
        unflushed.kept,
        unflushed.lost,
        bad.len()
    ));
    let told = bad.iter().take(TOLD).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        bad.is_empty(),
        "{} of {} cuts lost something:\n{told}",
        bad.len(),
        cuts.len()
    );
    assert!(
        unflushed.lost > 0 && unflushed.kept > 0,
        "no cut lost anything unflushed"
    );
}

impl Cut {
    /// The disk as it was at the beginning.
    fn first() -> Self {
        Self {
            at: 0,
            keep: Keep::Nothing,
        }
    }
}

/// Mounts what one cut leaves, and looks at it. An error of the mount's is what mount said.
fn each<T>(
    disk: &mut Disk<'_>,
    here: &Path,
    scratch: &Path,
    cut: Cut,
    look: impl FnOnce(&Path) -> T,
) -> (Unflushed, Result<T, String>) {
    let file = Scratch(scratch.join("cut"));
    let unflushed = disk.cut(cut.at, cut.keep, &file.0);
    let seen = mounts::as_the_box_does(&file.0, &here.join("at")).map(|m| look(m.at()));
    (unflushed, seen)
}

/// A disk of a machine's as a raw file.
fn raw(disk: &Path, into: &Path) {
    let (from, to) = (disk.display().to_string(), into.display().to_string());
    qemu::run_tool("qemu-img", &["convert", "-O", "raw", &from, &to]);
}

/// A partition as a file of its own. Large pieces, so that copies of it share few extents.
fn carve(disk: &Path, (start, length): (u64, u64), into: &Path) {
    let done = Command::new("dd")
        .arg(format!("if={}", disk.display()))
        .arg(format!("of={}", into.display()))
        .args([format!("skip={start}"), format!("count={length}")])
        .args(["bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse", "status=none"])
        .status();
    assert!(done.unwrap().success());
}

/// A file that goes with the test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_cut_at_any_place_loses_nothing_acknowledged() {
    let seed = seed();
    say(format!(
        "replay: BERTH_QEMU_SEED={seed} makes these cuts of the same recording"
    ));
    let mut dice = Dice::new(seed);
    let count = std::env::var("BERTH_QEMU_POINTS").map_or(POINTS, |n| n.parse().expect("a number of places"));
    // One that an earlier run left when it failed.
    if let Some(kept) = std::env::var_os("BERTH_QEMU_RECORDING") {
        return replay(Path::new(&kept), count, &mut dice);
    }
    let m = record();
    replay(&m.dir, count, &mut dice);
}
