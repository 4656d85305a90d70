//! What must be true of a box's `/var` after a power cut at a known place of the journal. Only Berth's own code mends, as
//! it does at a boot.

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use berth::{
    authz::TokenHash,
    machine,
    model::{BoxId, Desired, InstanceId, MemberName},
    store::Store,
};
use redb::{Database, StorageBackend, backends::InMemoryBackend};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::work::Event;

/// A place in the journal: so many entries had happened.
pub(super) type Place = usize;

/// What was acknowledged, and when at the latest; what was asked, and when at the earliest.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Books {
    /// With the token.
    pub(super) made: BTreeMap<String, (Place, String)>,
    pub(super) asked: BTreeMap<String, Place>,
    pub(super) gone: BTreeMap<String, Place>,
}

impl Books {
    /// An event that was heard between these two places. Of one that is heard again, the first time counts.
    pub(super) fn note(&mut self, event: Event, earliest: Place, latest: Place) {
        match event {
            Event::Made { id, token } => drop(self.made.entry(id).or_insert((latest, token))),
            Event::Asks { id } => drop(self.asked.entry(id).or_insert(earliest)),
            Event::Gone { id } => drop(self.gone.entry(id).or_insert(latest)),
        }
    }
}

/// Files that were made once, before the recording, and never change: the sealed box key, what it is sealed with, the CA.
const FIXED: [&str; 4] = [
    "lib/berth-key/box.cred",
    "lib/systemd/credential.secret",
    "lib/berth/tls/ca.key",
    "lib/berth/tls/ca.pem",
];

/// The bytes of [`FIXED`] as they were at the beginning.
pub(super) struct Fixed(Vec<(&'static str, Vec<u8>)>);

impl Fixed {
    pub(super) fn of(var: &Path) -> Self {
        let read = |f: &'static str| (f, fs::read(var.join(f)).unwrap_or_else(|e| panic!("/var/{f}: {e}")));
        Self(FIXED.map(read).into())
    }

    /// That the CA is this one, and that its key belongs to it.
    pub(super) fn check(&self, ca: &str) {
        let text = |n: usize| std::str::from_utf8(&self.0[n].1).unwrap();
        let (key, pem) = (text(2), text(3));
        assert_eq!(pem.trim(), ca.trim(), "ca.pem is another one");
        let body: String = pem.lines().filter(|l| !l.starts_with("-----")).collect();
        let certificate = BASE64_STANDARD.decode(body).unwrap();
        let pair = rcgen::KeyPair::from_pem(key).unwrap();
        let public = rcgen::PublicKeyData::der_bytes(&pair);
        let certified = memchr::memmem::find(&certificate, public);
        assert!(certified.is_some(), "ca.key is not the key of ca.pem");
    }

    fn faults(&self, var: &Path, faults: &mut Vec<String>) {
        for (file, bytes) in &self.0 {
            match fs::read(var.join(file)) {
                Ok(found) if found == *bytes => {}
                Ok(found) => faults.push(format!("/var/{file} changed: {} bytes of {}", found.len(), bytes.len())),
                Err(e) => faults.push(format!("/var/{file}: {e}")),
            }
        }
    }
}

/// Mends `/var` as a boot does, and gives what is wrong with it all the same.
pub(super) fn faults(var: &Path, cut: Place, books: &Books, fixed: &Fixed) -> Vec<String> {
    let mut faults = Vec::new();
    let data = var.join("lib/docker");
    if let Err(e) = machine::engine::mend(&data) {
        faults.push(format!("mend: {e}"));
    }
    engine(&data, &mut faults);
    let containerd = var.join("lib/containerd/io.containerd.metadata.v1.bolt/meta.db");
    whole(&containerd, bolt, &mut faults);
    fixed.faults(var, &mut faults);
    let state = var.join("lib/berth");
    // redb may panic where a file is damaged.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        integrity(&state.join("berth.redb"))?;
        store(&state, cut, books, &mut faults)
    }));
    match opened {
        Ok(Ok(())) => {}
        Ok(Err(e)) => faults.push(e),
        Err(_) => faults.push("the store: redb panicked".into()),
    }
    faults
}

/// The books against the store.
fn store(state: &Path, cut: Place, books: &Books, faults: &mut Vec<String>) -> Result<(), String> {
    let mut store = Store::open(state, &BoxId::from_random([0; 8])).map_err(|e| e.to_string())?;
    let loaded = store.load().map_err(|e| e.to_string())?;
    if !loaded.members.contains_key(&MemberName::admin()) {
        faults.push("the claim is lost: the store has no administrator".into());
    }
    let parse = |id: &str| InstanceId::parse(id).map_err(|e| e.to_string());
    for (id, (at, token)) in &books.made {
        // A place that is reached has happened.
        let acknowledged = *at <= cut;
        let maybe_removed = books.asked.get(id).is_some_and(|asked| *asked < cut);
        if !acknowledged || maybe_removed {
            continue;
        }
        let key = parse(id)?;
        match loaded.instances.get(&key) {
            Some(found) if found.desired != Desired::Removed => {}
            found => faults.push(format!(
                "{id} was acknowledged and is lost (the store: {:?})",
                found.map(|f| f.desired)
            )),
        }
        let hash = TokenHash::of(token);
        let opens = |t: &berth::record::TokenRecord| t.hash == *hash.as_bytes() && t.subject.is_instance(&key);
        if !loaded.tokens.values().any(opens) {
            faults.push(format!("the token of {id} is lost"));
        }
    }
    for (id, _) in books.gone.iter().filter(|(_, at)| **at <= cut) {
        if let Some(found) = loaded.instances.get(&parse(id)?)
            && found.desired != Desired::Removed
        {
            faults.push(format!("{id} was acknowledged to go and shall be {:?}", found.desired));
        }
    }
    Ok(())
}

/// redb's own check, on a copy in memory.
fn integrity(file: &Path) -> Result<(), String> {
    let bytes = fs::read(file).map_err(|e| format!("the store: {e}"))?;
    let memory = InMemoryBackend::new();
    let size = bytes.len() as u64;
    memory
        .set_len(size)
        .and_then(|()| memory.write(0, &bytes))
        .map_err(|e| e.to_string())?;
    let opened = Database::builder().create_with_backend(memory);
    let mut db = opened.map_err(|e| format!("the store does not open: {e}"))?;
    match db.check_integrity() {
        Ok(true) => Ok(()),
        Ok(false) => Err("the store does not pass redb's check".into()),
        Err(e) => Err(format!("the store does not pass redb's check: {e}")),
    }
}

/// What Docker must be able to read when it starts: each file is whole, or is not there.
fn engine(data: &Path, faults: &mut Vec<String>) {
    let mut roots = entries(data);
    roots.push(data.to_owned());
    for root in roots {
        for volume in entries(&root.join("volumes")) {
            whole(&volume.join("opts.json"), json, faults);
        }
        for container in entries(&root.join("containers")) {
            whole(&container.join("config.v2.json"), json, faults);
            whole(&container.join("hostconfig.json"), json, faults);
        }
        for image in entries(&root.join("image/overlay2/imagedb/content/sha256")) {
            whole(&image, named_by_hash, faults);
        }
        whole(&root.join("image/overlay2/repositories.json"), json, faults);
        whole(&root.join("network/files/local-kv.db"), bolt, faults);
        whole(&root.join("volumes/metadata.db"), bolt, faults);
    }
}

fn whole(file: &Path, judge: fn(&Path, &[u8]) -> Result<(), String>, faults: &mut Vec<String>) {
    let judged = match fs::read(file) {
        Ok(bytes) => judge(file, &bytes).map_err(|e| format!("{e} ({} bytes)", bytes.len())),
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(())
        }
        Err(e) => Err(e.to_string()),
    };
    if let Err(e) = judged {
        faults.push(format!("{}: {e}", file.display()));
    }
}

fn json(_: &Path, bytes: &[u8]) -> Result<(), String> {
    let read: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_slice(bytes);
    read.map(drop).map_err(|e| e.to_string())
}

fn named_by_hash(file: &Path, bytes: &[u8]) -> Result<(), String> {
    let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    match file.file_name().is_some_and(|n| *n == *hash) {
        true => Ok(()),
        false => Err("not what its name says".into()),
    }
}

/// One of a bolt database's two meta pages must be whole (bbolt's `db.go`): page header of 16 bytes, magic, version, page
/// size, and at 56 the FNV-1a of what is before.
fn bolt(_: &Path, bytes: &[u8]) -> Result<(), String> {
    let meta = |at: usize| {
        let meta = bytes.get(at + 16..at + 16 + 64)?;
        let magic = meta[..4] == 0xED0C_DAED_u32.to_le_bytes();
        let fnv = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        let sum = meta[..56].iter().fold(0xcbf2_9ce4_8422_2325, fnv);
        (magic && meta[56..] == sum.to_le_bytes()).then_some(())
    };
    const PAGE: usize = 4096;
    meta(0)
        .or_else(|| meta(PAGE))
        .ok_or_else(|| "no bolt database".to_owned())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).into_iter().flatten();
    all.filter_map(|e| Some(e.ok()?.path())).collect()
}
