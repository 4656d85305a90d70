//! F1: sessions of people in browsers, one kind for whatever they open: tickets, which a link carries and which open it once;
//! the sessions that they are exchanged for, or that a sign-in begins; the cookies that those are kept by. What a session
//! reaches, its principal's scope says, and `policy` judges it as it does a token. Pure but for what it remembers; secrets are
//! kept as SHA-256 only, and everything has an end.
//!
//! ```text
//! link ──► ticket ──opened once, within 5 min──► session (cookie) ──8 h, or with whoever it is of──► gone
//! sign-in ─────────────────────────────────────► session (cookie) ──12 h, an hour without use, signed out, or with its member──► gone
//! ```
//!
//! All of it is in memory alone and ends with the supervisor: what lets somebody in is then neither on the disk nor in a backup,
//! and to end a session takes no commit. Whoever was signed in signs in again after an update.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::model::{Principal, hex};

/// How long a link can be opened, in seconds.
pub const TICKET_LIFE: u64 = 5 * 60;
/// How long a session that a ticket opened lasts at most, in seconds.
pub const LIFE: u64 = 8 * 3600;
/// How long somebody stays signed in at most, and how long without asking for anything, in seconds (NIST SP 800-63B section
/// 2.2.3: within 24 hours and one hour).
pub const SIGNED_IN: u64 = 12 * 3600;
pub const IDLE: u64 = 3600;
/// How long a browser that has signed in is known, in seconds.
pub const KNOWN: u64 = 90 * 24 * 3600;
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
    /// Unix seconds, as all times here.
    pub began_at: u64,
    pub ends_at: u64,
    /// It ends as well when nobody has used it for so many seconds.
    pub idle: Option<u64>,
    /// The browser, as it calls itself.
    pub agent: String,
}

/// A session as its member sees it in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub session: Session,
    pub seen_at: u64,
}

#[derive(Debug)]
struct Live {
    session: Session,
    seen_at: u64,
}

impl Live {
    /// How many seconds it lasts at least; none where it has ended.
    fn left(&self, now: u64) -> Option<u64> {
        let idle = self.session.idle.map(|idle| self.seen_at + idle);
        let end = idle.map_or(self.session.ends_at, |idle| idle.min(self.session.ends_at));
        end.checked_sub(now).filter(|left| *left > 0)
    }
}

type Hash = [u8; 32];

/// All tickets and sessions of this supervisor. They live in its memory: a new supervisor asks for new links.
#[derive(Debug, Default)]
pub struct Sessions {
    tickets: BTreeMap<Hash, (Principal, u64)>,
    sessions: BTreeMap<Hash, Live>,
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
        let session = Session {
            number: 0,
            by,
            began_at: now,
            ends_at: now + LIFE,
            idle: None,
            agent: String::new(),
        };
        Some(self.begin(session, random, now))
    }

    /// Begins a session, whose secret is made from 32 random bytes; its number is given here.
    pub fn begin(&mut self, session: Session, random: [u8; 32], now: u64) -> (String, Session) {
        self.sweep(now);
        make_room(&mut self.sessions, MAX_SESSIONS, |l| {
            (l.session.by.name(), l.session.ends_at)
        });
        self.next += 1;
        let number = self.next;
        let session = Session { number, ..session };
        let secret = hex(&random);
        let live = Live {
            session: session.clone(),
            seen_at: now,
        };
        self.sessions.insert(hash(&secret), live);
        (secret, session)
    }

    /// The session that a cookie's secret stands for, if it has not ended; it is in use.
    pub fn find(&mut self, secret: &str, now: u64) -> Option<&Session> {
        let live = self.sessions.get_mut(&hash(secret)).filter(|l| l.left(now).is_some())?;
        live.seen_at = live.seen_at.max(now);
        Some(&live.session)
    }

    /// For how many seconds the session of this number lasts at least; none where it has ended.
    pub fn left(&self, number: u64, now: u64) -> Option<u64> {
        let of = |l: &&Live| l.session.number == number;
        self.sessions.values().find(of).and_then(|l| l.left(now))
    }

    /// The sessions of these, by when they began.
    pub fn list(&self, theirs: impl Fn(&Principal) -> bool, now: u64) -> Vec<Listed> {
        let all = self.sessions.values();
        let live = all.filter(|l| l.left(now).is_some() && theirs(&l.session.by));
        let mut list: Vec<Listed> = live
            .map(|l| Listed {
                session: l.session.clone(),
                seen_at: l.seen_at,
            })
            .collect();
        list.sort_by_key(|l| l.session.number);
        list
    }

    /// Ends sessions, tickets aside; how many there were.
    pub fn end_sessions(&mut self, gone: impl Fn(&Session) -> bool) -> usize {
        let before = self.sessions.len();
        self.sessions.retain(|_, l| !gone(&l.session));
        before - self.sessions.len()
    }

    /// Ends the sessions of whoever is `gone`, and takes back their tickets. How many there were of both.
    pub fn end(&mut self, gone: impl Fn(&Principal) -> bool) -> usize {
        let before = self.tickets.len() + self.sessions.len();
        self.tickets.retain(|_, (by, _)| !gone(by));
        self.sessions.retain(|_, l| !gone(&l.session.by));
        before - self.tickets.len() - self.sessions.len()
    }

    fn sweep(&mut self, now: u64) {
        self.tickets.retain(|_, (_, end)| *end > now);
        self.sessions.retain(|_, l| l.left(now).is_some());
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

    /// The `Set-Cookie` that keeps this secret for so many seconds.
    pub fn set(&self, secret: &str, life: u64) -> String {
        let Cookie { name, path } = self;
        format!("{name}={secret}; Path={path}; Max-Age={life}; Secure; HttpOnly; SameSite=Strict")
    }

    /// The `Set-Cookie` that takes it away.
    pub fn unset(&self) -> String {
        self.set("", 0)
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
        assert_eq!(s.left(session.number, 1001), Some(LIFE - 1001 + 1000 + TICKET_LIFE - 1));
        assert_eq!(s.find(&t, 1001), None, "a ticket is no cookie");
        assert_eq!(s.find(&cookie, session.ends_at), None, "it ends");
        assert_eq!(s.left(session.number, session.ends_at), None);
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
        assert_eq!(s.left(ada.1.number, 1), None);
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
    fn who_is_signed_in_is_so_while_they_use_it_and_a_day_at_most() {
        let mut s = Sessions::default();
        let ada = Principal::signed_in(MemberName::parse("ada").unwrap());
        let of_ada = |by: &Principal| by.name() == "ada";
        let mut begin = |n: u8| {
            let session = Session {
                number: 0,
                by: ada.clone(),
                began_at: 0,
                ends_at: SIGNED_IN,
                idle: Some(IDLE),
                agent: "x".into(),
            };
            let begun = s.begin(session, [n; 32], 0);
            (begun.0, begun.1.number)
        };
        let (used, idle) = (begin(1), begin(2));
        assert_eq!(s.list(of_ada, 0).len(), 2);
        for now in (0..SIGNED_IN).step_by(IDLE as usize - 1) {
            assert!(s.find(&used.0, now).is_some(), "{now}");
        }
        assert_eq!(s.find(&idle.0, IDLE), None);
        assert_eq!(s.left(idle.1, IDLE - 1), Some(1));
        assert_eq!(s.list(of_ada, IDLE).len(), 1);
        assert_eq!(s.find(&used.0, SIGNED_IN), None, "however much it is used");
        let others = |keep: u64| move |s: &Session| s.number != keep;
        assert_eq!(s.end_sessions(others(used.1)), 1);
        assert_eq!(s.end(of_ada), 1);
    }

    #[test]
    fn cookies_are_strict_and_found_among_others() {
        let (host, path) = (Cookie::of_host("screen"), Cookie::of_path("screen-x", "/vnc/x/".into()));
        for (cookie, begins) in [
            (&host, "__Host-berth-screen=s; Path=/; "),
            (&path, "__Secure-berth-screen-x=s; Path=/vnc/x/; "),
        ] {
            let set = cookie.set("s", LIFE);
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
