//! The plug pulled while instances are made and removed, at random moments: QEMU is killed in place of a flush, and its
//! disk forgets what was not flushed. The box boots, nothing that was acknowledged is lost, and nothing is left that no
//! instance owns.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use super::work::{self, Event, WORK};
use crate::harness::{
    Dice,
    claimed::claimed,
    machine::{Disk, Machine, Setup},
    mcp::{Address, Instance},
    nbd::Drive,
    patience, qemu, say, seed, state_dir,
};

/// How often, where `BERTH_QEMU_CUTS` does not say it. A boot follows each.
const CUTS: u64 = 10;
/// How long the power stays after the chosen moment when nothing is written that it could catch unflushed.
const GRACE: Duration = Duration::from_secs(20);

/// Everything of the box's that Docker has, by the instance that it belongs to.
const OWNED: &str = r#"
docker ps --all --filter label=berth.instance --format '{{.Label "berth.instance"}}'
docker network ls --filter label=berth.instance --format '{{.Label "berth.instance"}}'
docker volume ls --filter label=berth.instance --format '{{.Label "berth.instance"}}'
"#;

/// Folders of containers that the engine does not list: nobody would ever remove them.
const FOLDERS: &str = r#"
docker ps --all --quiet --no-trunc | sort >/tmp/listed
ls -d /var/lib/docker/containers/* /var/lib/docker/*/containers/* 2>/dev/null | sed 's|.*/||' | sort | comm -13 /tmp/listed -
"#;

/// What is known of the instances that the work made.
#[derive(Debug, Default)]
struct Ledger {
    /// Acknowledged, with their tokens.
    made: BTreeMap<String, String>,
    /// Asked to go; acknowledged or not.
    asked: BTreeSet<String>,
    /// Acknowledged to go.
    gone: BTreeSet<String>,
}

impl Ledger {
    fn read(&mut self, said: &str) {
        for event in work::events(said) {
            match event {
                Event::Made { id, token } => drop(self.made.insert(id, token)),
                Event::Asks { id } => drop(self.asked.insert(id)),
                Event::Gone { id } => drop(self.gone.insert(id)),
            }
        }
    }
}

fn listed(m: &mut Machine) -> BTreeMap<String, String> {
    let all = m.berth("list");
    let text = |v: &serde_json::Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    all.as_array()
        .unwrap()
        .iter()
        .map(|i| (text(i, "id"), text(i, "state")))
        .collect()
}

/// After a boot: the books against the box. Instances of the work are removed again, but for one.
fn audit(m: &mut Machine, address: &Address, ledger: &mut Ledger) {
    let found = listed(m);
    for id in ledger.made.keys().filter(|id| !ledger.asked.contains(*id)) {
        assert!(found.contains_key(id), "{id} was acknowledged and is lost: {found:?}");
    }
    for id in &ledger.gone {
        let state = found.get(id).map_or("gone", |s| s);
        assert!(
            ["gone", "removing"].contains(&state),
            "{id} was acknowledged to go and is {state}"
        );
    }
    // It settles: what shall run runs, what shall go goes, and nothing else is there.
    let settled = "! berth list --json | grep '\"state\"' | grep -v -E '\"(running|stopped)\"'";
    m.until("every instance runs or is gone", settled, patience(300));
    let found = listed(m);
    assert!(
        ledger.gone.iter().all(|id| !found.contains_key(id)),
        "removed ones came back: {found:?}"
    );
    let owners = m.sh(OWNED);
    let orphans: Vec<&str> = owners
        .lines()
        .filter(|id| !id.is_empty() && !found.contains_key(*id))
        .collect();
    assert!(
        orphans.is_empty(),
        "Docker has what belongs to no instance: {orphans:?}"
    );
    let folders = m.sh(FOLDERS);
    assert_eq!(
        folders.trim(),
        "",
        "Docker's folder has containers that it does not know"
    );
    let kept = ledger.made.iter().find(|(id, _)| found.contains_key(*id));
    if let Some((id, token)) = kept {
        let (id, token) = (id.clone(), token.clone());
        drop(address.session(&Instance { id, token }));
    }
}

/// Takes away what the work left, so that each round has as much to do.
fn clear(m: &mut Machine, keep: &[&str], ledger: &mut Ledger) {
    let ids: Vec<String> = listed(m)
        .into_keys()
        .filter(|id| !keep.contains(&id.as_str()))
        .collect();
    if !ids.is_empty() {
        m.berth(&format!("rm {}", ids.join(" ")));
    }
    ledger.gone.extend(ids.iter().cloned());
    ledger.asked.extend(ids);
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let c = claimed();
    let seed = seed();
    say(format!("power: BERTH_QEMU_SEED={seed} gives these cuts again"));
    let mut dice = Dice::new(seed);
    let base = Scratch(state_dir().join(format!("power-{}.raw", std::process::id())));
    let (from, to) = (c.disk().display().to_string(), base.0.display().to_string());
    qemu::run_tool("qemu-img", &["convert", "-O", "raw", &from, &to]);
    let drive = Drive::above(&base.0);
    let mut setup = Setup::new("power");
    setup.disk = Disk::Nbd;
    let (mut m, address) = c.prepare(setup);
    let keep = [c.facts.everything.id.as_str(), c.facts.memory.id.as_str()];
    let mut ledger = Ledger::default();
    let cuts = std::env::var("BERTH_QEMU_CUTS").map_or(CUTS, |n| n.parse().expect("a number of cuts"));
    let mut caught = 0;
    for round in 1..=cuts {
        let server = drive.serve(&m.dir);
        if round == 1 {
            c.start(&mut m);
        } else {
            m.start(None);
        }
        let up = m.await_up();
        audit(&mut m, &address, &mut ledger);
        if round > 1 {
            c.holds(&address);
            m.check();
            clear(&mut m, &keep, &mut ledger);
        }
        let after = Duration::from_millis(dice.between(2_000, 15_000));
        let at = Instant::now() + after;
        drive.falls_at(at);
        let over = |_: &str| drive.fell() || Instant::now() > at + GRACE;
        let said = m.listen(&WORK.replace("ROUND", &round.to_string()), over);
        m.cut();
        server.join().unwrap().unwrap();
        let cut = drive.cut(&mut dice);
        ledger.read(&said);
        caught += u64::from(cut.kept + cut.lost > 0);
        say(format!(
            "power: cut {round} after {after:.1?} of work (up after {up:.0} s): {} made, {} removed in all; {} unflushed sectors kept, {} lost, {} flushes",
            ledger.made.len(),
            ledger.gone.len(),
            cut.kept,
            cut.lost,
            cut.flushes
        ));
    }
    let server = drive.serve(&m.dir);
    m.start(None);
    m.await_up();
    audit(&mut m, &address, &mut ledger);
    c.holds(&address);
    m.check();
    assert!(caught > 0, "no cut caught anything unflushed: the disk forgot nothing");
    assert!(
        ledger.made.len() as u64 >= cuts,
        "too little was made to show anything: {ledger:?}"
    );
    m.cut();
    server.join().unwrap().unwrap();
}

/// A file that goes with the test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
