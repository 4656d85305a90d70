//! Notes beside the rows, signed with the box's key: where the kept rows begin once older ones were removed (`checkpoint`),
//! and the newest row (`head`), so that rows removed at either end are missed.

use std::{fs, io, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::chain::{Hash, Head};
use crate::{
    model::BoxId,
    replace::{self, Durable},
    secret::BoxKey,
};

/// Which note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// The last row that was removed; the next one follows on it.
    Checkpoint,
    /// The newest row.
    Head,
}

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    seq: u64,
    hash: String,
    /// Base64 of an Ed25519 signature of [`text`].
    signature: String,
}

/// What is read of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    None,
    /// Not the box's: changed, or of another box.
    Wrong,
    Is(Head),
}

impl Note {
    fn name(self) -> &'static str {
        match self {
            Note::Checkpoint => "checkpoint",
            Note::Head => "head",
        }
    }

    fn text(self, of: &BoxId, head: &Head) -> String {
        format!("berth audit {} {of} {} {}", self.name(), head.seq, head.hash)
    }

    /// Writes it in place of the one before. `durable`: it is on the disk when this returns.
    pub(super) fn write(self, dir: &Path, of: &BoxId, key: &BoxKey, head: &Head, durable: bool) -> io::Result<()> {
        let written = Written {
            seq: head.seq,
            hash: head.hash.to_string(),
            signature: BASE64.encode(key.sign(self.text(of, head).as_bytes())),
        };
        let when = match durable {
            true => Durable::Now,
            false => Durable::Later,
        };
        replace::file(&dir.join(self.name()), &serde_json::to_vec(&written)?, 0o600, when)
    }

    /// Reads it.
    pub(super) fn read(self, dir: &Path, of: &BoxId, key: &[u8]) -> io::Result<Read> {
        let bytes = match fs::read(dir.join(self.name())) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Read::None),
            Err(e) => return Err(e),
        };
        let read = || {
            let written: Written = serde_json::from_slice(&bytes).ok()?;
            let head = Head {
                seq: written.seq,
                hash: Hash::parse(&written.hash)?,
            };
            let signature = BASE64.decode(&written.signature).ok()?;
            let key = UnparsedPublicKey::new(&ED25519, key);
            key.verify(self.text(of, &head).as_bytes(), &signature).ok()?;
            Some(head)
        };
        Ok(read().map_or(Read::Wrong, Read::Is))
    }
}
