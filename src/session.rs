//! F1: sessions of people in browsers, one kind for whatever they open: tickets, which a link carries and which open it once;
//! the sessions that they are exchanged for; the cookies that those are kept by. What a session reaches, its principal's
//! scope says, and `policy` judges it as it does a token. Pure but for what it remembers; secrets are kept as SHA-256 only,
//! and everything has an end.
//!
//! ```text
//! link ──► ticket ──opened once, within 5 min──► session (cookie) ──8 h, or with whoever it is of──► gone
//! ```

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::model::{Principal, hex};

/// How long a link can be opened, in seconds.
pub const TICKET_LIFE: u64 = 5 * 60;
/// How long a session lasts at most, in seconds.
pub const LIFE: u64 = 8 * 3600;
/// Tickets that wait, and sessions that last, at most. Past it the oldest of whoever has most gives way.
const MAX_TICKETS: usize = 256;
const MAX_SESSIONS: usize = 1024;
/// Cookies in one request that are looked at.
const MAX_COOKIES: usize = 64;

/// Somebody who has come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Tells sessions apart; no secret.
    pub number: u64,
    /// Who, and how far they reach.
    pub by: Principal,
    /// Unix seconds.
    pub ends_at: u64,
}

type Hash = [u8; 32];

/// All tickets and sessions of this supervisor. They live in its memory: a new supervisor asks for new links.
#[derive(Debug, Default)]
pub struct Sessions {
    tickets: BTreeMap<Hash, (Principal, u64)>,
    sessions: BTreeMap<Hash, Session>,
    next: u64,
}

impl Sessions {
    /// A ticket's text, made from 32 random bytes, for a session of this principal.
    pub fn ticket(&mut self, random: [u8; 32], by: Principal, now: u64) -> String {
        self.sweep(now);
        make_room(&mut self.tickets, MAX_TICKETS, |(by, end)| (by.name(), *end));
        let text = hex(&random);
        self.tickets.insert(hash(&text), (by, now + TICKET_LIFE));
        text
    }

    /// Exchanges a ticket for a session, whose secret is made from 32 random bytes, where its principal `may` come in there.
    /// Once: whatever comes of it, the ticket is gone. `None`: it is none, or for somewhere else, or too old.
    pub fn open(
        &mut self,
        ticket: &str,
        may: impl FnOnce(&Principal) -> bool,
        random: [u8; 32],
        now: u64,
    ) -> Option<(String, Session)> {
        self.sweep(now);
        let (by, _) = self.tickets.remove(&hash(ticket))?;
        if !may(&by) {
            return None;
        }
        make_room(&mut self.sessions, MAX_SESSIONS, |s| (s.by.name(), s.ends_at));
        self.next += 1;
        let session = Session {
            number: self.next,
            by,
            ends_at: now + LIFE,
        };
        let secret = hex(&random);
        self.sessions.insert(hash(&secret), session.clone());
        Some((secret, session))
    }

    /// The session that a cookie's secret stands for, if it has not ended.
    pub fn find(&self, secret: &str, now: u64) -> Option<&Session> {
        self.sessions.get(&hash(secret)).filter(|s| s.ends_at > now)
    }

    /// Whether the session of this number has not ended.
    pub fn lasts(&self, number: u64, now: u64) -> bool {
        self.sessions.values().any(|s| s.number == number && s.ends_at > now)
    }

    /// Ends the sessions of whoever is `gone`, and takes back their tickets. How many there were of both.
    pub fn end(&mut self, gone: impl Fn(&Principal) -> bool) -> usize {
        let before = self.tickets.len() + self.sessions.len();
        self.tickets.retain(|_, (by, _)| !gone(by));
        self.sessions.retain(|_, s| !gone(&s.by));
        before - self.tickets.len() - self.sessions.len()
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

/// A cookie that keeps a session (RFC 6265bis): opaque, out of reach of scripts, and sent by pages of its own site alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    name: String,
    path: String,
}

impl Cookie {
    /// Bound to the very host that sets it, by `__Host-`.
    pub fn of_host(name: &str) -> Cookie {
        Cookie {
            name: format!("__Host-berth-{name}"),
            path: "/".to_owned(),
        }
    }

    /// Where the host is everybody's, the path has to do.
    pub fn of_path(name: &str, path: String) -> Cookie {
        Cookie {
            name: format!("__Secure-berth-{name}"),
            path,
        }
    }

    /// Below which path it is sent.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The `Set-Cookie` that keeps this secret.
    pub fn set(&self, secret: &str) -> String {
        let Cookie { name, path } = self;
        format!("{name}={secret}; Path={path}; Max-Age={LIFE}; Secure; HttpOnly; SameSite=Strict")
    }

    /// The secret, by the `Cookie` lines of a request.
    pub fn secret<'a>(&self, lines: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let mut pairs = lines
            .flat_map(|l| l.split(';'))
            .take(MAX_COOKIES)
            .filter_map(|p| p.trim().split_once('='));
        pairs.find(|(name, _)| *name == self.name).map(|(_, secret)| secret)
    }
}

/// Whether a request with a cookie has to come from a page of the very host that it names, and say so by `Origin`: a browser
/// sends the cookie whoever made it ask (RFC 9110 section 9.2.1 says which methods change nothing).
pub fn needs_own_page(method: &str) -> bool {
    !matches!(method, "GET" | "HEAD" | "OPTIONS")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, MemberName, Scope, TokenId, TokenScope};

    fn person(name: &str) -> Principal {
        let token = TokenId::from_random([name.as_bytes()[0]; 12]);
        Principal::member(MemberName::parse(name).unwrap(), token, &TokenScope::All)
    }

    fn id(n: u8) -> InstanceId {
        InstanceId::from_random([n; 10])
    }

    fn on(n: u8) -> impl Fn(&Principal) -> bool {
        move |by| matches!(by.scope(), Scope::Screen { instance, .. } if *instance == id(n))
    }

    #[test]
    fn a_ticket_opens_one_place_once_and_soon() {
        let (mut s, ada) = (Sessions::default(), person("ada").on_screen(id(1), true));
        let t = s.ticket([7; 32], ada.clone(), 1000);
        assert!(!format!("{s:?}").contains(&t), "the secret itself is not kept");
        let (cookie, session) = s.open(&t, on(1), [8; 32], 1000 + TICKET_LIFE - 1).unwrap();
        assert_ne!(cookie, t);
        assert_eq!(session.by, ada);
        assert_eq!(s.open(&t, on(1), [9; 32], 1001), None, "once");
        assert_eq!(s.find(&cookie, 1001), Some(&session));
        assert!(s.lasts(session.number, 1001));
        assert_eq!(s.find(&t, 1001), None, "a ticket is no cookie");
        assert_eq!(s.find(&cookie, session.ends_at), None, "it ends");
        assert!(!s.lasts(session.number, session.ends_at));
        let late = s.ticket([10; 32], ada.clone(), 1000);
        assert_eq!(s.open(&late, on(1), [9; 32], 1000 + TICKET_LIFE), None);
        let wrong = s.ticket([11; 32], ada, 1000);
        assert_eq!(s.open(&wrong, on(2), [9; 32], 1001), None);
        assert_eq!(
            s.open(&wrong, on(1), [9; 32], 1001),
            None,
            "tried elsewhere, it is gone"
        );
    }

    #[test]
    fn a_session_ends_with_whoever_it_is_of() {
        let mut s = Sessions::default();
        let open = |s: &mut Sessions, name: &str, n: u8| {
            let t = s.ticket([n; 32], person(name).on_screen(id(1), true), 0);
            s.open(&t, on(1), [n; 32], 0).unwrap()
        };
        let (ada, eve) = (open(&mut s, "ada", 1), open(&mut s, "eve", 2));
        let waiting = s.ticket([3; 32], person("ada").on_screen(id(1), false), 0);
        let gone = |by: &Principal| by.token() == person("ada").token();
        assert!(s.end(gone) > 0);
        assert_eq!(s.find(&ada.0, 1), None);
        assert!(!s.lasts(ada.1.number, 1));
        assert_eq!(s.open(&waiting, on(1), [4; 32], 1), None, "and her tickets");
        assert_eq!(s.find(&eve.0, 1), Some(&eve.1));
        assert_eq!(s.end(gone), 0);
    }

    #[test]
    fn whoever_fills_a_table_is_in_their_own_way() {
        let mut s = Sessions::default();
        let random = |n: usize| {
            let mut r = [0; 32];
            r[..8].copy_from_slice(&n.to_be_bytes());
            r
        };
        let mut next = 0..;
        let mut ticket = |s: &mut Sessions, name: &str, now| {
            s.ticket(random(next.next().unwrap()), person(name).on_screen(id(1), true), now)
        };
        let ada = ticket(&mut s, "ada", 0);
        let first = ticket(&mut s, "eve", 1);
        for n in 0..MAX_TICKETS as u64 * 2 {
            ticket(&mut s, "eve", n / 8);
            assert!(s.tickets.len() <= MAX_TICKETS);
        }
        assert_eq!(s.open(&first, on(1), [1; 32], 100), None, "her own oldest gave way");
        let (cookie, _) = s.open(&ada, on(1), [2; 32], 100).unwrap();
        for n in 0..MAX_SESSIONS * 2 {
            let t = ticket(&mut s, "eve", 100);
            s.open(&t, on(1), random(1_000_000 + n), 101).unwrap();
            assert!(s.sessions.len() <= MAX_SESSIONS);
        }
        assert!(s.find(&cookie, 102).is_some());
    }

    #[test]
    fn cookies_are_strict_and_found_among_others() {
        let (host, path) = (Cookie::of_host("screen"), Cookie::of_path("screen-x", "/vnc/x/".into()));
        for (cookie, begins) in [
            (&host, "__Host-berth-screen=s; Path=/; "),
            (&path, "__Secure-berth-screen-x=s; Path=/vnc/x/; "),
        ] {
            let set = cookie.set("s");
            assert!(set.starts_with(begins), "{set}");
            assert!(
                set.ends_with("; Max-Age=28800; Secure; HttpOnly; SameSite=Strict"),
                "{set}"
            );
        }
        let lines = ["a=b; __Host-berth-screen=one", "__Secure-berth-screen-x=two;c"];
        assert_eq!(host.secret(lines.into_iter()), Some("one"));
        assert_eq!(path.secret(lines.into_iter()), Some("two"));
        assert_eq!(Cookie::of_host("console").secret(lines.into_iter()), None);
        let many = "x=1;".repeat(MAX_COOKIES);
        let many = [many.as_str(), "__Host-berth-screen=one"];
        assert_eq!(host.secret(many.into_iter()), None, "past the bound");
    }

    #[test]
    fn what_changes_something_comes_from_our_own_page() {
        assert!(
            ["POST", "PUT", "PATCH", "DELETE", "BREW"]
                .into_iter()
                .all(needs_own_page)
        );
        assert!(!["GET", "HEAD", "OPTIONS"].into_iter().any(needs_own_page));
    }
}
