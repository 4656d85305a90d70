//! Who may look at a screen: tickets, which a link carries and which open it once, and the sessions that they are
//! exchanged for. Pure but for what it remembers; secrets are kept as SHA-256 only, and everything has an end.
//!
//! ```text
//! berth screen ──► ticket ──opened once, within 5 min──► session (cookie) ──8 h──► gone
//! ```

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::model::{InstanceId, Principal, hex};

/// How long a link can be opened, in seconds.
pub const TICKET_LIFE: u64 = 5 * 60;
/// How long a session lasts, in seconds.
pub const SESSION_LIFE: u64 = 8 * 3600;
/// Tickets that wait, and sessions that last, at most. Past it the oldest of whoever has most gives way.
const MAX_TICKETS: usize = 256;
const MAX_SESSIONS: usize = 1024;

/// What somebody was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub instance: InstanceId,
    /// Who asked for the link; on this screen they reach as far as the link goes.
    pub by: Principal,
    /// May hold the controls and recreate the instance; else only look.
    pub control: bool,
}

/// A grant in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Tells sessions apart; no secret.
    pub number: u64,
    pub grant: Grant,
    /// Unix seconds.
    pub ends_at: u64,
}

/// There are no random bytes to make a secret of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes for a link; try again")]
pub struct NoSecret;

type Hash = [u8; 32];

/// All tickets and sessions of this supervisor. They live in its memory: a new supervisor asks for new links.
#[derive(Debug, Default)]
pub struct Access {
    tickets: BTreeMap<Hash, (Grant, u64)>,
    sessions: BTreeMap<Hash, Session>,
    next: u64,
}

impl Access {
    /// A ticket's text, made from 32 random bytes.
    pub fn ticket(&mut self, random: [u8; 32], grant: Grant, now: u64) -> String {
        self.sweep(now);
        make_room(&mut self.tickets, MAX_TICKETS, |(grant, end)| (grant.by.name(), *end));
        let text = hex(&random);
        self.tickets.insert(hash(&text), (grant, now + TICKET_LIFE));
        text
    }

    /// Exchanges a ticket of this instance for a session, whose secret is made from 32 random bytes. Once: whatever
    /// comes of it, the ticket is gone. `None`: it is none, or of another instance, or too old.
    pub fn open(
        &mut self,
        ticket: &str,
        instance: &InstanceId,
        random: [u8; 32],
        now: u64,
    ) -> Option<(String, Session)> {
        self.sweep(now);
        let (grant, _) = self.tickets.remove(&hash(ticket))?;
        if grant.instance != *instance {
            return None;
        }
        make_room(&mut self.sessions, MAX_SESSIONS, |s| (s.grant.by.name(), s.ends_at));
        self.next += 1;
        let session = Session {
            number: self.next,
            grant,
            ends_at: now + SESSION_LIFE,
        };
        let secret = hex(&random);
        self.sessions.insert(hash(&secret), session.clone());
        Some((secret, session))
    }

    /// The session that a cookie's secret stands for, if it is of this instance and has not ended.
    pub fn session(&self, secret: &str, instance: &InstanceId, now: u64) -> Option<&Session> {
        let session = self.sessions.get(&hash(secret))?;
        (session.grant.instance == *instance && session.ends_at > now).then_some(session)
    }

    fn sweep(&mut self, now: u64) {
        self.tickets.retain(|_, (_, end)| *end > now);
        self.sessions.retain(|_, s| s.ends_at > now);
    }
}

/// In a full table, the entry that ends first of the person with the most goes.
fn make_room<T>(table: &mut BTreeMap<Hash, T>, most: usize, of: impl Fn(&T) -> (String, u64)) {
    if table.len() < most {
        return;
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for entry in table.values() {
        *counts.entry(of(entry).0).or_default() += 1;
    }
    let by = counts.into_iter().max_by_key(|(_, n)| *n).map(|(by, _)| by);
    let theirs = table.iter().filter(|(_, e)| Some(of(e).0) == by);
    if let Some(hash) = theirs.min_by_key(|(_, e)| of(e).1).map(|(hash, _)| *hash) {
        table.remove(&hash);
    }
}

fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(name: &str) -> Principal {
        let name = crate::model::MemberName::parse(name).unwrap();
        Principal::member(
            name,
            crate::model::Role::Owner,
            crate::model::TokenId::from_random([1; 12]),
        )
    }

    fn grant(n: u8) -> Grant {
        Grant {
            instance: InstanceId::from_random([n; 10]),
            by: person("ada"),
            control: true,
        }
    }

    #[test]
    fn a_ticket_opens_one_screen_once_and_soon() {
        let (mut a, id, other) = (Access::default(), grant(1).instance, grant(2).instance);
        let t = a.ticket([7; 32], grant(1), 1000);
        assert!(!format!("{a:?}").contains(&t), "the secret itself is not kept");
        let (cookie, session) = a.open(&t, &id, [8; 32], 1000 + TICKET_LIFE - 1).unwrap();
        assert_ne!(cookie, t);
        assert_eq!(a.open(&t, &id, [9; 32], 1001), None, "once");
        assert_eq!(a.session(&cookie, &id, 1001), Some(&session));
        assert_eq!(a.session(&cookie, &other, 1001), None, "of one instance");
        assert_eq!(a.session(&t, &id, 1001), None, "a ticket is no cookie");
        assert_eq!(a.session(&cookie, &id, session.ends_at), None, "it ends");
        let late = a.ticket([10; 32], grant(1), 1000);
        assert_eq!(a.open(&late, &id, [9; 32], 1000 + TICKET_LIFE), None);
        let wrong = a.ticket([11; 32], grant(1), 1000);
        assert_eq!(a.open(&wrong, &other, [9; 32], 1001), None);
        assert_eq!(a.open(&wrong, &id, [9; 32], 1001), None, "tried elsewhere, it is gone");
    }

    #[test]
    fn whoever_fills_a_table_is_in_their_own_way() {
        let mut a = Access::default();
        let random = |n: usize| {
            let mut r = [0; 32];
            r[..8].copy_from_slice(&n.to_be_bytes());
            r
        };
        let (id, mut next) = (grant(1).instance, 0..);
        let by = |name: &str| Grant {
            by: person(name),
            ..grant(1)
        };
        let mut ticket = |a: &mut Access, name: &str, now| a.ticket(random(next.next().unwrap()), by(name), now);
        let ada = ticket(&mut a, "ada", 0);
        let first = ticket(&mut a, "eve", 1);
        for n in 0..MAX_TICKETS as u64 * 2 {
            ticket(&mut a, "eve", n / 8);
            assert!(a.tickets.len() <= MAX_TICKETS);
        }
        assert_eq!(a.open(&first, &id, [1; 32], 100), None, "her own oldest gave way");
        let (cookie, _) = a.open(&ada, &id, [2; 32], 100).unwrap();
        for n in 0..MAX_SESSIONS * 2 {
            let t = ticket(&mut a, "eve", 100);
            a.open(&t, &id, random(1_000_000 + n), 101).unwrap();
            assert!(a.sessions.len() <= MAX_SESSIONS);
        }
        assert!(a.session(&cookie, &id, 102).is_some());
    }
}
