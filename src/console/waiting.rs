//! Who has shown a passphrase and is still to show a code, and what was offered as a new second step: bounded, and for a while.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    model::{MemberName, Secret},
    record::SignInRecord,
    sign_in::totp,
};

/// A code can be shown so many seconds after the passphrase, with so many tries.
const PATIENCE: u64 = 300;
const TRIES: u32 = 10;
/// So many wait at most; the oldest gives way.
const MOST: usize = 256;
/// What is offered as a new second step is so for so many seconds.
const OFFER: u64 = 900;

/// Somebody who has shown a passphrase.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) member: MemberName,
    pub(super) since: jiff::Timestamp,
    pub(super) epoch: u64,
    until: u64,
    tries: u32,
}

impl Pending {
    pub(super) fn new(record: &SignInRecord, now: u64) -> Self {
        Self {
            member: record.member.clone(),
            since: record.since,
            epoch: record.epoch,
            until: now + PATIENCE,
            tries: TRIES,
        }
    }
}

/// Those who are still to show a code, by the hash of their ticket.
#[derive(Debug, Default)]
pub(super) struct Waiting(BTreeMap<[u8; 32], Pending>);

impl Waiting {
    pub(super) fn add(&mut self, ticket: &str, pending: Pending) {
        if pending.tries == 0 {
            return;
        }
        make_room(&mut self.0, |p| p.until);
        self.0.insert(Sha256::digest(ticket).into(), pending);
    }

    /// Takes one out, for a try.
    pub(super) fn take(&mut self, ticket: &str, now: u64) -> Option<Pending> {
        let hash: [u8; 32] = Sha256::digest(ticket).into();
        let mut pending = self.0.remove(&hash).filter(|p| p.until > now)?;
        pending.tries -= 1;
        Some(pending)
    }
}

fn make_room<K: Ord + Clone, T>(table: &mut BTreeMap<K, T>, until: impl Fn(&T) -> u64) {
    if table.len() >= MOST {
        let oldest = table.iter().min_by_key(|(_, t)| until(t)).map(|(k, _)| k.clone());
        oldest.map(|k| table.remove(&k));
    }
}

/// Secrets that were shown and are not in use yet, by session.
#[derive(Debug, Default)]
pub(super) struct Offered(BTreeMap<u64, (Secret, u64)>);

impl Offered {
    /// The one of a session; a new one, made of random bytes, where it has none.
    pub(super) fn of(&mut self, session: u64, random: [u8; totp::SECRET], now: u64) -> Secret {
        if let Some((secret, _)) = self.get(session, now) {
            return secret;
        }
        make_room(&mut self.0, |(_, until)| *until);
        let secret = totp::secret(random);
        self.0.insert(session, (secret.clone(), now + OFFER));
        secret
    }

    pub(super) fn get(&self, session: u64, now: u64) -> Option<(Secret, u64)> {
        self.0.get(&session).filter(|(_, until)| *until > now).cloned()
    }

    pub(super) fn forget(&mut self, session: u64) {
        self.0.remove(&session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::MemberRecord;

    #[test]
    fn a_ticket_has_a_time_and_a_number_of_tries() {
        let member = MemberRecord::owner(MemberName::admin(), jiff::Timestamp::UNIX_EPOCH);
        let pending = || Pending::new(&SignInRecord::none(&member), 0);
        let mut waiting = Waiting::default();
        waiting.add("a", pending());
        assert!(waiting.take("b", 1).is_none());
        assert!(waiting.take("a", PATIENCE).is_none(), "too late");
        waiting.add("a", pending());
        for _ in 0..TRIES {
            let again = waiting.take("a", 1).unwrap();
            waiting.add("a", again);
        }
        assert!(waiting.take("a", 1).is_none(), "no try is left");
        for n in 0..MOST * 2 {
            waiting.add(&n.to_string(), pending());
            assert!(waiting.0.len() <= MOST);
        }
    }

    #[test]
    fn what_is_offered_stays_the_same_for_a_while() {
        let mut offered = Offered::default();
        let first = offered.of(1, [1; 20], 0);
        assert_eq!(offered.of(1, [2; 20], OFFER - 1), first);
        assert_ne!(offered.of(2, [2; 20], 0), first);
        assert_ne!(offered.of(1, [3; 20], OFFER), first);
    }
}
