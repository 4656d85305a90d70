//! What is kept of a write that had a key: what was asked, what it came to, and what was answered; and how many of these are
//! kept, the oldest forgotten first. Pure.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    model::{MemberName, Refusal, Secret, hex},
    record::{AnswerId, AnswerRecord},
};

/// All that are kept.
pub type Answers = Arc<BTreeMap<AnswerId, Arc<AnswerRecord>>>;

/// An answer is given again for so many seconds after the write.
pub const KEPT_FOR: i64 = 24 * 3600;

/// One may have so many bytes. What is longer is not kept, and made anew of what the write came to.
pub const LONGEST: usize = 256 << 10;

/// So many are kept of one principal, and so many bytes.
pub const PER_PRINCIPAL: (usize, usize) = (500, 2 << 20);

/// So many in all.
pub const IN_ALL: (usize, usize) = (4000, 16 << 20);

/// What is kept, before it is sealed: an answer may have a secret, and a hash of a request one that can be guessed.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The hash of the request, in hexadecimal.
    asked: String,
    /// What the write came to, until it is answered: whoever keeps it reads it.
    pub came: Option<serde_json::Value>,
    /// The body of the answer.
    pub answer: Option<Secret>,
}

/// Never what is in it.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept(…)")
    }
}

impl Kept {
    /// What a request with this hash came to.
    pub fn came(asked: &[u8; 32], came: serde_json::Value) -> Self {
        Self {
            asked: hex(asked),
            came: Some(came),
            answer: None,
        }
    }

    /// What a request with this hash was answered.
    pub fn answer(asked: &[u8; 32], answer: Secret) -> Self {
        Self {
            asked: hex(asked),
            came: None,
            answer: Some(answer),
        }
    }

    /// Looks whether a request is the one that it was kept of.
    ///
    /// # Errors
    /// [`Refusal::KeyReused`].
    pub fn check(&self, asked: &[u8; 32]) -> Result<(), Refusal> {
        match self.asked == hex(asked) {
            true => Ok(()),
            false => Err(Refusal::KeyReused),
        }
    }
}

/// Whether one is too old to be given again.
pub fn expired(record: &AnswerRecord, now: jiff::Timestamp) -> bool {
    record.at.as_second() + KEPT_FOR <= now.as_second()
}

/// Those of a member, by whatever tokens they asked.
pub fn of_member<'a>(all: &'a Answers, name: &MemberName) -> impl Iterator<Item = &'a AnswerId> {
    let who = member(name);
    all.values().filter(move |r| r.who == who).map(|r| &r.id)
}

/// What a member's name has in front there: no other principal's name begins so.
pub(super) const MEMBER: &str = "member ";

/// How a member is named there.
pub(super) fn member(name: &MemberName) -> String {
    format!("{MEMBER}{name}")
}

/// Those that are to be forgotten when another one is kept, in place of the one that has its id.
pub fn over(all: &Answers, fresh: &AnswerRecord, now: jiff::Timestamp) -> Vec<AnswerId> {
    let others = all.values().filter(|r| r.id != fresh.id);
    let (old, mut left): (Vec<_>, Vec<_>) = others.partition(|r| expired(r, now));
    let mut gone: Vec<AnswerId> = old.iter().map(|r| r.id).collect();
    left.sort_by_key(|r| r.at);
    let mut forget = |left: &[&Arc<AnswerRecord>], (count, bytes): (usize, usize)| {
        let (mut n, mut size) = (1, fresh.sealed.0.len());
        // From the newest on, for as long as they fit.
        let fits = left.iter().rev().take_while(|r| {
            n += 1;
            size += r.sealed.0.len();
            n <= count && size <= bytes
        });
        let stays = fits.count();
        gone.extend(left[..left.len() - stays].iter().map(|r| r.id));
        stays
    };
    let (theirs, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|r| r.who == fresh.who);
    let stay = forget(&theirs, PER_PRINCIPAL);
    let mut left = [&theirs[theirs.len() - stay..], &others[..]].concat();
    left.sort_by_key(|r| r.at);
    forget(&left, IN_ALL);
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Sealed;

    fn record(n: u32, who: &str, bytes: usize) -> AnswerRecord {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        AnswerRecord {
            id,
            who: who.to_owned(),
            at: jiff::Timestamp::from_second(1_790_000_000 + i64::from(n)).unwrap(),
            sealed: Sealed(vec![0; bytes]),
        }
    }

    /// Keeps so many of each, and looks that there are never more than there may be.
    fn keep(all: &mut BTreeMap<AnswerId, Arc<AnswerRecord>>, fresh: AnswerRecord) {
        let gone = over(&Arc::new(all.clone()), &fresh, fresh.at);
        gone.iter()
            .for_each(|id| assert!(all.remove(id).is_some(), "each once"));
        all.insert(fresh.id, Arc::new(fresh));
    }

    #[test]
    fn the_oldest_are_forgotten_first_of_whoever_has_too_many() {
        let mut all = BTreeMap::new();
        keep(&mut all, record(0, "other", 10));
        let most = u32::try_from(PER_PRINCIPAL.0).unwrap();
        for n in 1..=most + 3 {
            keep(&mut all, record(n, "busy", 10));
        }
        assert_eq!(all.len(), PER_PRINCIPAL.0 + 1);
        assert!(all.contains_key(&record(0, "other", 10).id), "nobody loses by another");
        assert!(!all.contains_key(&record(3, "busy", 10).id) && all.contains_key(&record(4, "busy", 10).id));
        // By their bytes as well; one that is kept again is one.
        keep(&mut all, record(most + 4, "busy", PER_PRINCIPAL.1 - 25));
        assert_eq!(all.values().filter(|r| r.who == "busy").count(), 3);
        keep(&mut all, record(most + 4, "busy", 10));
        assert_eq!(all.values().filter(|r| r.who == "busy").count(), 3);
        let later = AnswerRecord {
            at: jiff::Timestamp::from_second(1_790_000_000 + KEPT_FOR).unwrap(),
            ..record(most + 5, "busy", 10)
        };
        keep(&mut all, later);
        assert!(!all.contains_key(&record(0, "other", 10).id), "a day is over");
    }

    #[test]
    fn there_is_an_end_to_all_of_them() {
        let mut all = BTreeMap::new();
        let most = u32::try_from(IN_ALL.0).unwrap();
        for n in 0..most + 2 {
            let fresh = record(n, &format!("who {}", n % 16), 10);
            // Only the last are of interest.
            match n < most {
                true => drop(all.insert(fresh.id, Arc::new(fresh))),
                false => keep(&mut all, fresh),
            }
        }
        assert_eq!(all.len(), IN_ALL.0);
        let big = record(most + 3, "new", IN_ALL.1 - 10 * 100);
        keep(&mut all, big);
        assert_eq!(all.len(), 101);
    }
}
