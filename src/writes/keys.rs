//! The table of keys: which are in use by a request that is under way, and what is kept of those that are not any more.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};

use super::kept::{Answers, Kept, LONGEST, MEMBER, expired, member};
use crate::{
    model::{IdempotencyKey, MemberName, Principal, Refusal, Scope, Secret, Who},
    record::{AnswerId, AnswerRecord},
    secret::BoxKey,
};

/// The requests that are under way are bounded, and so are their keys.
type UnderWay = Arc<Mutex<BTreeSet<AnswerId>>>;

/// The table.
pub struct Keys {
    under_way: UnderWay,
    /// As of the newest commit.
    kept: ArcSwap<Answers>,
    seal: Arc<BoxKey>,
}

/// A key of one principal that a request uses. Nobody else uses it until all of its copies are dropped.
#[derive(Clone)]
pub struct Keyed {
    pub id: AnswerId,
    /// Whose it is.
    pub who: String,
    /// The hash of the request.
    pub asked: [u8; 32],
    _held: Arc<Held>,
}

/// Not the hash: what was asked may have a secret that can be guessed.
impl std::fmt::Debug for Keyed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyed({})", self.who)
    }
}

impl Keyed {
    /// The member whose it is.
    pub fn member(&self) -> Option<MemberName> {
        MemberName::parse(self.who.strip_prefix(MEMBER)?).ok()
    }

    /// Whether it is of this member.
    pub fn is_of(&self, name: &MemberName) -> bool {
        self.who == member(name)
    }
}

/// A request begins; and what is kept of the first one that had its key.
#[derive(Debug)]
pub struct Begun {
    pub keyed: Keyed,
    pub before: Option<Kept>,
}

struct Held(UnderWay, AnswerId);

impl Drop for Held {
    fn drop(&mut self) {
        let Self(under_way, id) = self;
        under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

impl Keys {
    /// The table with what is kept, sealed by this key.
    pub fn new(kept: Answers, seal: Arc<BoxKey>) -> Self {
        Self {
            under_way: UnderWay::default(),
            kept: ArcSwap::from_pointee(kept),
            seal,
        }
    }

    /// What is kept from now on.
    pub fn publish(&self, kept: &Answers) {
        self.kept.store(Arc::new(Arc::clone(kept)));
    }

    /// Begins a request of a principal with a key of theirs.
    ///
    /// # Errors
    /// [`Refusal::KeyInUse`] while another one with that key is under way.
    pub fn begin(&self, by: &Principal, key: &IdempotencyKey, now: jiff::Timestamp) -> Result<Begun, Refusal> {
        let (who, scope) = whose(by);
        // No part but the last may have a NUL.
        let id: AnswerId = Sha256::digest(format!("{who}\0{scope}\0{}", key.as_str())).into();
        let free = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        if !free {
            return Err(Refusal::KeyInUse);
        }
        let held = Arc::new(Held(Arc::clone(&self.under_way), id));
        let kept = self.kept.load();
        let before = kept.get(&id).filter(|r| !expired(r, now));
        let before = before.map(|r| self.open(r)).transpose()?;
        let keyed = Keyed {
            id,
            who,
            asked: [0; 32],
            _held: held,
        };
        Ok(Begun { keyed, before })
    }

    fn open(&self, record: &AnswerRecord) -> Result<Kept, Refusal> {
        let text = self.seal.open_answer(&record.id, &record.sealed);
        let text = text.map_err(Refusal::fault)?;
        serde_json::from_str(text.expose())
            .map_err(|e| Refusal::fault(format!("an answer that was kept: {:?}", e.classify())))
    }

    /// What is kept, as it lies on the disk; none where it is too long.
    ///
    /// # Errors
    /// [`Refusal::Fault`].
    pub fn seal(&self, keyed: &Keyed, kept: &Kept, at: jiff::Timestamp) -> Result<Option<AnswerRecord>, Refusal> {
        let text = Secret::new(serde_json::to_string(kept).map_err(Refusal::fault)?);
        if text.expose().len() > LONGEST {
            return Ok(None);
        }
        let sealed = self.seal.seal_answer(&keyed.id, &text);
        Ok(Some(AnswerRecord {
            id: keyed.id,
            who: keyed.who.clone(),
            at,
            sealed: sealed.map_err(Refusal::fault)?,
        }))
    }
}

/// Whose keys they are: the principal's, whatever token they show; apart for tokens that reach less far, since an answer may
/// have a secret that reaches further.
fn whose(by: &Principal) -> (String, &'static str) {
    let who = match by.who() {
        Who::Member(name) => member(name),
        _ => by.name(),
    };
    let scope = match by.scope() {
        Scope::Whole => "whole",
        Scope::Api => "api",
        Scope::Endpoint(_) | Scope::Endpoints(_) | Scope::Screen { .. } => "elsewhere",
    };
    (who, scope)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{TokenId, TokenScope};

    #[test]
    fn a_key_is_its_principals_and_in_use_by_one_request() {
        let dir = tempfile::tempdir().unwrap();
        let seal = Arc::new(BoxKey::load_or_create(dir.path()).unwrap());
        let keys = Keys::new(Answers::default(), seal);
        let now = jiff::Timestamp::now();
        let key = IdempotencyKey::parse("k").unwrap();
        let ada = |scope: &TokenScope, token: u8| {
            let name = MemberName::parse("ada").unwrap();
            Principal::member(name, TokenId::from_random([token; 12]), scope)
        };
        let first = keys.begin(&Principal::root(), &key, now).unwrap();
        assert_eq!(
            keys.begin(&Principal::root(), &key, now).unwrap_err(),
            Refusal::KeyInUse
        );
        let others = [
            Principal::user(1000),
            ada(&TokenScope::All, 1),
            ada(&TokenScope::Api, 2),
        ];
        let others = others.map(|by| keys.begin(&by, &key, now).unwrap());
        let again = keys.begin(&ada(&TokenScope::All, 3), &key, now);
        assert_eq!(again.unwrap_err(), Refusal::KeyInUse, "the same with another token");
        drop(others);
        let copy = first.keyed.clone();
        drop(first);
        assert!(keys.begin(&Principal::root(), &key, now).is_err());
        let kept = Kept::answer(&[7; 32], Secret::new("{\"token\":\"brt_m_x\"}"));
        let record = keys.seal(&copy, &kept, now).unwrap().unwrap();
        assert!(!record.sealed.0.windows(6).any(|w| w == b"brt_m_"));
        drop(copy);
        keys.publish(&Arc::new(BTreeMap::from([(record.id, Arc::new(record))])));
        let again = keys.begin(&Principal::root(), &key, now).unwrap().before.unwrap();
        assert_eq!(again, kept);
        again.check(&[7; 32]).unwrap();
        assert_eq!(again.check(&[8; 32]), Err(Refusal::KeyReused));
        let day = jiff::SignedDuration::from_hours(24);
        assert_eq!(keys.begin(&Principal::root(), &key, now + day).unwrap().before, None);
        assert_eq!(keys.begin(&ada(&TokenScope::All, 1), &key, now).unwrap().before, None);
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let seal = Arc::new(BoxKey::load_or_create(dir.path()).unwrap());
        let keys = Keys::new(Answers::default(), seal);
        let key = IdempotencyKey::parse("k").unwrap();
        let now = jiff::Timestamp::now();
        let keyed = keys.begin(&Principal::root(), &key, now).unwrap().keyed;
        let kept = Kept::answer(&[7; 32], Secret::new("x".repeat(LONGEST)));
        assert_eq!(keys.seal(&keyed, &kept, now).unwrap(), None);
    }
}
