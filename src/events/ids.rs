//! Ids of events, as clients see them: numbers, sealed with a key of this run. They say nothing of how many events there were
//! that their holder did not see, and none but those that were given are taken.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use sha2::{Digest, Sha256};

/// Makes ids, and reads them.
pub(super) struct Ids([u8; 32]);

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ids(…)")
    }
}

impl Ids {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// 8 bytes that nobody else can make of these.
    fn keyed(&self, purpose: u8, of: &[u8]) -> [u8; 8] {
        let hash = Sha256::new()
            .chain_update(self.0)
            .chain_update([purpose])
            .chain_update(of);
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.finalize()[..8]);
        bytes
    }

    /// The id of a number, another one each time.
    pub(super) fn id(&self, seq: u64) -> String {
        let mut nonce = [0; 8];
        // Without randomness ids of one number are the same: they can still not be read.
        let _ = getrandom::fill(&mut nonce);
        self.sealed(seq, nonce)
    }

    fn sealed(&self, seq: u64, nonce: [u8; 8]) -> String {
        let number = seq ^ u64::from_le_bytes(self.keyed(0, &nonce));
        let number = number.to_le_bytes();
        let head = [nonce, number].concat();
        let proof = self.keyed(1, &head);
        BASE64.encode([&head[..], &proof].concat())
    }

    /// The number of an id; none where it is none of this run.
    pub(super) fn seq(&self, id: &str) -> Option<u64> {
        let bytes: [u8; 24] = BASE64.decode(id.trim()).ok()?.try_into().ok()?;
        let (head, proof) = bytes.split_at(16);
        if self.keyed(1, head) != *proof {
            return None;
        }
        let (nonce, number) = head.split_at(8);
        let number = u64::from_le_bytes(number.try_into().ok()?);
        Some(number ^ u64::from_le_bytes(self.keyed(0, nonce)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_in_their_own_run_only() {
        let (ids, others) = (Ids::new([1; 32]), Ids::new([2; 32]));
        for seq in [0, 1, 4096, u64::MAX] {
            let id = ids.id(seq);
            assert_eq!((ids.seq(&id), others.seq(&id)), (Some(seq), None), "{id}");
            assert_eq!(id.len(), 32);
        }
        assert_ne!(
            ids.id(7),
            ids.id(7),
            "whether something happened in between is not told"
        );
        let id = ids.sealed(7, [3; 8]);
        for bad in [
            "",
            "7",
            "run-7",
            &id[1..],
            &format!("{id}A"),
            &id.to_lowercase(),
            &"A".repeat(32),
        ] {
            assert_eq!(ids.seq(bad), None, "{bad}");
        }
        assert_eq!(ids.seq(&format!(" {id}")), Some(7));
    }
}
