//! F2: who may reach what: bearer tokens, looked up in memory by hash, in one table that tasks share. It never reads the
//! store, never holds a lock across an await, and never keeps a token's text: only its SHA-256 (the tokens are 256
//! random bits, so that a slow hash would add nothing).
//!
//! A revoked token is gone from the table before [`TokenTable::remove`] returns, and its [`Cut`] fires: requests and
//! streams that hold it end at once. Sessions of people in browsers are in [`SessionTable`].

mod cut;
mod gates;
mod limiter;
mod opened;
mod places;
mod sessions;

use std::{
    borrow::Borrow,
    collections::HashSet,
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicI64, Ordering, fence},
    },
};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use opened::{Opened, Way};

use crate::model::{
    INSTANCE_TOKEN_PREFIX, InstanceId, MEMBER_TOKEN_PREFIX, Principal, Scope, Secret, TokenId, Who, WorkspaceName,
};

pub use cut::Cut;
pub use gates::{CallPlace, Gates, Limited, UnderWay, Use, Whose};
pub use limiter::{FailureLimiter, Slowed, address_group};
pub use opened::{Ended, OnWay};
pub use places::{NoPlace, Party, Places, Pulse, Room, Standing};
pub use sessions::{NoSecret, SessionTable};

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const SHARDS: usize = 16;

/// A new instance token from 32 random bytes: `brt_i_` and 43 characters of base64url (RFC 4648 section 5).
pub fn new_instance_token(random: [u8; 32]) -> Secret {
    new_token(INSTANCE_TOKEN_PREFIX, random)
}

/// A new member's token: `brt_m_` and 43 characters of base64url.
pub fn new_member_token(random: [u8; 32]) -> Secret {
    new_token(MEMBER_TOKEN_PREFIX, random)
}

fn new_token(prefix: &str, random: [u8; 32]) -> Secret {
    let mut text = String::with_capacity(prefix.len() + 43);
    text.push_str(prefix);
    for chunk in random.chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            text.push(char::from(BASE64URL[(n >> (18 - 6 * i)) as usize & 63]));
        }
    }
    Secret::new(text)
}

/// The SHA-256 of a token's whole text; all that is ever stored of it.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

/// In constant time.
impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl Hash for TokenHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.key());
    }
}

impl TokenHash {
    /// Hashes a token's text.
    pub fn of(token: &str) -> TokenHash {
        TokenHash(Sha256::digest(token.as_bytes()).into())
    }

    /// From the store.
    pub fn from_bytes(bytes: [u8; 32]) -> TokenHash {
        TokenHash(bytes)
    }

    /// For the store.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn key(&self) -> u64 {
        let mut key = [0u8; 8];
        key.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(key)
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// A token as the store hands it over.
#[derive(Debug, Clone)]
pub struct TokenEntry {
    pub id: TokenId,
    pub hash: TokenHash,
    /// Whoever shows it.
    pub principal: Principal,
    /// Unix seconds; from then on it is refused.
    pub expires_at: Option<i64>,
    /// Unix seconds, as last flushed.
    pub last_used: Option<i64>,
}

/// A token in the table.
#[derive(Debug)]
pub struct Token {
    id: TokenId,
    hash: TokenHash,
    who: Who,
    scope: Scope,
    /// [`NEVER`] where it does not.
    expires_at: AtomicI64,
    last_used: AtomicI64,
    /// None until it is used: of many tokens few are.
    in_use: OnceLock<Box<InUse>>,
}

/// What there is of a token that is used.
#[derive(Debug)]
struct InUse {
    principal: Principal,
    last_from: Mutex<Option<IpAddr>>,
    cut: Cut,
    opened: Opened,
}

const NEVER: i64 = i64::MAX;

impl Token {
    /// Its public id.
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// Whoever shows it.
    pub fn principal(&self) -> &Principal {
        &self.in_use().principal
    }

    fn in_use(&self) -> &InUse {
        if let Some(in_use) = self.in_use.get() {
            return in_use;
        }
        let in_use = self.in_use.get_or_init(|| {
            Box::new(InUse {
                principal: Principal::of_token(self.who.clone(), self.id.clone(), self.scope.clone()),
                last_from: Mutex::default(),
                cut: Cut::default(),
                opened: Opened::default(),
            })
        });
        // Whoever asks policy from here on sees what was taken away before a look that did not find this token in use.
        fence(Ordering::SeqCst);
        in_use
    }

    /// What it opens there: an instance, or (`None`) the API. Ask for it before you ask policy: what is taken away in
    /// between is cut then.
    pub fn open(self: &Arc<Self>, to: Option<&InstanceId>) -> Pass {
        let InUse { cut, opened, .. } = self.in_use();
        Pass {
            way: opened.way(to, cut),
            token: Arc::clone(self),
        }
    }

    /// The same for a request to the API that changes something and is answered at once: what it takes away from its own
    /// asker does not cut the answer. It ends with the token.
    pub fn act(self: &Arc<Self>) -> Pass {
        Pass {
            way: Arc::new(Way::of(self.in_use().cut.clone())),
            token: Arc::clone(self),
        }
    }

    /// The same for what of the API looks itself, all the time, at what its asker may: what is taken from them does not cut it.
    /// It ends with the token.
    pub fn watch(self: &Arc<Self>) -> Pass {
        let InUse { cut, opened, .. } = self.in_use();
        Pass {
            way: opened.watched(cut),
            token: Arc::clone(self),
        }
    }

    /// Notes that it was let through, at `now` (Unix seconds), from this address.
    fn used(&self, now: i64, from: IpAddr) {
        // Once a second is often enough to know from where.
        if self.last_used.swap(now, Ordering::Relaxed) != now {
            *self.in_use().last_from.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
        }
    }

    /// It is over: all that it has open ends.
    fn end(&self) -> Ended {
        // Whoever has it in hand and opens something with it finds that it is over.
        let InUse { cut, opened, .. } = self.in_use();
        cut.fire();
        opened.end_all()
    }

    /// Ends what it has open that is to end; its id, and which that was.
    fn narrow(&self, ends: impl Fn(&Principal, Option<&InstanceId>) -> bool) -> Option<(TokenId, Ended)> {
        fence(Ordering::SeqCst);
        let used = self.in_use.get()?;
        let ended = used.opened.end(|to| ends(&used.principal, to));
        (!ended.is_empty()).then(|| (self.id.clone(), ended))
    }

    fn is_of(&self, instance: &InstanceId) -> bool {
        matches!(&self.who, Who::Instance(id) if id == instance)
    }

    /// Tells it from others in a table of counts; no secret.
    pub fn number(&self) -> u64 {
        self.hash.key()
    }

    /// Unix seconds from which it is refused.
    pub fn expires_at(&self) -> Option<i64> {
        Some(self.expires_at.load(Ordering::Relaxed)).filter(|at| *at != NEVER)
    }
}

/// A token that somebody showed, and the way that it was let through by.
#[derive(Debug, Clone)]
pub struct Pass {
    token: Arc<Token>,
    way: Arc<Way>,
}

impl Pass {
    /// The token.
    pub fn token(&self) -> &Arc<Token> {
        &self.token
    }

    /// The end of the way: the token is revoked, or its owner may not go there any more.
    pub fn cut(&self) -> &Cut {
        &self.way.cut
    }

    /// A request, or the stream that answers it, that begins now; it is counted until it is dropped.
    pub fn begin(&self) -> OnWay {
        OnWay::new(&self.way)
    }

    /// Counts a call or a stream there, until what is returned is dropped. `to` is what the way leads to, which is in that
    /// workspace.
    ///
    /// # Errors
    /// [`Limited`]: it may not begin now.
    pub fn enter(
        &self,
        gates: &Gates,
        to: Option<&InstanceId>,
        workspace: impl Fn() -> Option<WorkspaceName>,
        what: Use,
    ) -> Result<CallPlace, Limited> {
        let holder = (self.token.principal(), &self.token.id);
        let known = self.way.through.get_or_init(|| gates.through(holder, to, workspace()));
        // The way of what was not there when it was opened leads to the API.
        if known.leads(to) {
            known.enter(what, gates.now())
        } else {
            gates.through(holder, to, workspace()).enter(what, gates.now())
        }
    }

    /// Notes that it was let through, at `now` (Unix seconds), from this address.
    pub fn used(&self, now: i64, from: IpAddr) {
        if self.way.last_used.load(Ordering::Relaxed) != now {
            self.way.last_used.store(now, Ordering::Relaxed);
        }
        self.token.used(now, from);
    }
}

/// Why a bearer token is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoToken {
    /// It never was, or is revoked.
    Unknown,
    Expired,
}

/// A token, looked up by its hash.
#[derive(Debug)]
struct ByHash(Arc<Token>);

/// The same, by its id.
#[derive(Debug)]
struct ById(Arc<Token>);

macro_rules! looked_up {
    ($($type:ty, $field:ident: $key:ty;)*) => {$(
        impl Borrow<$key> for $type {
            fn borrow(&self) -> &$key {
                &self.0.$field
            }
        }

        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.0.$field == other.0.$field
            }
        }

        impl Eq for $type {}

        impl Hash for $type {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.0.$field.hash(state);
            }
        }
    )*};
}

looked_up! {
    ByHash, hash: TokenHash;
    ById, id: TokenId;
}

#[derive(Debug, Default)]
struct Inner {
    by_hash: [RwLock<HashSet<ByHash>>; SHARDS],
    by_id: RwLock<HashSet<ById>>,
}

/// All live tokens. Cheap to clone; clones share one table.
#[derive(Debug, Clone, Default)]
pub struct TokenTable(Arc<Inner>);

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    // A panic cannot leave these maps half changed: every critical section is one map operation.
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl TokenTable {
    /// An empty table: every token is refused.
    pub fn new() -> TokenTable {
        TokenTable::default()
    }

    fn shard(&self, hash: &TokenHash) -> &RwLock<HashSet<ByHash>> {
        &self.0.by_hash[usize::from(hash.0[31]) % SHARDS]
    }

    /// Adds a token, from this moment on. One of the same id is replaced.
    pub fn insert(&self, entry: TokenEntry) {
        self.remove(&entry.id);
        let token = Arc::new(Token {
            id: entry.id,
            hash: entry.hash,
            who: entry.principal.who().clone(),
            scope: entry.principal.scope().clone(),
            expires_at: AtomicI64::new(entry.expires_at.unwrap_or(NEVER)),
            last_used: AtomicI64::new(entry.last_used.unwrap_or(0)),
            in_use: OnceLock::new(),
        });
        write(&self.0.by_id).insert(ById(Arc::clone(&token)));
        write(self.shard(&token.hash)).replace(ByHash(token));
    }

    /// Revokes a token: refused from now on, its open requests and streams are cut. What those were; none where it was not
    /// there.
    pub fn remove(&self, id: &TokenId) -> Option<Ended> {
        let ById(token) = write(&self.0.by_id).take(id)?;
        let mut shard = write(self.shard(&token.hash));
        if shard.get(&token.hash).is_some_and(|t| t.0.id == *id) {
            shard.remove(&token.hash);
        }
        drop(shard);
        Some(token.end())
    }

    /// It expires at this time (Unix seconds), and no later. What it has opened is not cut.
    pub fn shorten(&self, id: &TokenId, expires_at: i64) {
        if let Some(ById(token)) = read(&self.0.by_id).get(id) {
            token.expires_at.fetch_min(expires_at, Ordering::Relaxed);
        }
    }

    /// Cuts the open requests and streams of a token that has expired. Who shows it is told so still.
    pub fn end(&self, id: &TokenId) {
        if let Some(ById(token)) = read(&self.0.by_id).get(id) {
            token.end();
        }
    }

    /// Ends what tokens of members have open that is to end: of this principal, at this instance, or (`None`) at the API.
    /// Which those were, by token.
    pub fn narrow(&self, ends: impl Fn(&Principal, Option<&InstanceId>) -> bool) -> Vec<(TokenId, Ended)> {
        let by_id = read(&self.0.by_id);
        by_id.iter().filter_map(|t| t.0.narrow(&ends)).collect()
    }

    /// The same of these tokens alone.
    pub fn narrow_these<'a>(
        &self,
        these: impl Iterator<Item = &'a TokenId>,
        ends: impl Fn(&Principal, Option<&InstanceId>) -> bool,
    ) -> Vec<(TokenId, Ended)> {
        let by_id = read(&self.0.by_id);
        these.filter_map(|id| by_id.get(id)?.0.narrow(&ends)).collect()
    }

    /// Notes that whoever showed a token did something with an instance by the API or at its screen. It must be there.
    pub fn note(&self, id: &TokenId, instance: &InstanceId, now: i64) {
        if let Some(ById(token)) = read(&self.0.by_id).get(id) {
            token.in_use().opened.note(instance, now);
        }
    }

    /// When tokens were last let through to instances: token, instance, Unix seconds.
    pub fn uses(&self) -> Vec<(TokenId, InstanceId, i64)> {
        let by_id = read(&self.0.by_id);
        let of = |ById(t): &ById| {
            let id = t.id.clone();
            let uses = t.in_use.get().map(|used| used.opened.uses());
            let uses = uses.into_iter().flatten();
            uses.map(move |(to, at)| (id.clone(), to, at)).collect::<Vec<_>>()
        };
        by_id.iter().flat_map(of).collect()
    }

    /// When one was last let through to that instance, in Unix seconds.
    pub fn used(&self, id: &TokenId, instance: &InstanceId) -> Option<i64> {
        let by_id = read(&self.0.by_id);
        by_id.get(id)?.0.in_use.get()?.opened.used(instance)
    }

    /// Revokes all tokens of an instance, and ends what others have open there; how many were revoked.
    pub fn remove_instance(&self, instance: &InstanceId) -> usize {
        self.narrow(|_, to| to == Some(instance));
        let ids: Vec<TokenId> = read(&self.0.by_id)
            .iter()
            .filter(|t| t.0.is_of(instance))
            .map(|t| t.0.id.clone())
            .collect();
        ids.iter().filter(|id| self.remove(id).is_some()).count()
    }

    /// The token of this text, at `now` (Unix seconds). What it opens is for `policy` to say.
    ///
    /// # Errors
    /// [`NoToken`].
    pub fn authenticate(&self, text: &str, now: i64) -> Result<Arc<Token>, NoToken> {
        if !well_formed(text) {
            return Err(NoToken::Unknown);
        }
        let hash = TokenHash::of(text);
        let found = {
            let shard = read(self.shard(&hash));
            shard.get(&hash).map(|t| Arc::clone(&t.0))
        };
        let token = found.ok_or(NoToken::Unknown)?;
        match token.expires_at() {
            Some(end) if now >= end => Err(NoToken::Expired),
            _ => Ok(token),
        }
    }

    /// When a token was last let through, in Unix seconds, and from where where that was since the start.
    pub fn last_use(&self, id: &TokenId) -> Option<(i64, Option<IpAddr>)> {
        let by_id = read(&self.0.by_id);
        let ById(token) = by_id.get(id)?;
        let at = token.last_used.load(Ordering::Relaxed);
        let used = token.in_use.get();
        let from = used.and_then(|used| *used.last_from.lock().unwrap_or_else(PoisonError::into_inner));
        (at > 0).then_some((at, from))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        read(&self.0.by_id).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The shape of a token; anything else is not worth hashing.
fn well_formed(token: &str) -> bool {
    let kinds = [INSTANCE_TOKEN_PREFIX, MEMBER_TOKEN_PREFIX];
    kinds.iter().find_map(|p| token.strip_prefix(p)).is_some_and(|rest| {
        rest.len() == 43
            && rest
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

/// The token of an `Authorization: Bearer …` value (RFC 6750 section 2.1; the scheme in any case).
pub fn bearer(value: &[u8]) -> Option<&str> {
    let value = std::str::from_utf8(value).ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(n: u8, instance: &InstanceId) -> (Secret, TokenEntry) {
        let secret = new_instance_token([n; 32]);
        let entry = TokenEntry {
            id: TokenId::from_random([n; 12]),
            hash: TokenHash::of(secret.expose()),
            principal: Principal::instance(instance.clone(), TokenId::from_random([n; 12])),
            expires_at: None,
            last_used: None,
        };
        (secret, entry)
    }

    #[test]
    fn the_encoding_is_base64url() {
        let mut bytes = [0u8; 32];
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = 255 - i as u8;
        }
        // python3: base64.urlsafe_b64encode(bytes(255 - i for i in range(32))).rstrip(b"=")
        assert_eq!(
            new_instance_token(bytes).expose(),
            "brt_i___79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA"
        );
    }

    #[test]
    fn decisions() {
        let table = TokenTable::new();
        let (a, b) = (InstanceId::from_random([1; 10]), InstanceId::from_random([2; 10]));
        let (secret, e) = entry(7, &a);
        let text = secret.expose();
        let known = |text: &str, now| table.authenticate(text, now).map(|t| t.id().clone());
        assert_eq!(known(text, 100), Err(NoToken::Unknown));
        table.insert(e.clone());
        assert_eq!(known(text, 100).as_ref(), Ok(&e.id));
        assert_eq!(table.last_use(&e.id), None, "that it is known is no use");
        let from = IpAddr::from([192, 0, 2, 7]);
        table.authenticate(text, 100).unwrap().open(Some(&a)).used(100, from);
        assert_eq!(table.last_use(&e.id), Some((100, Some(from))));
        assert_eq!(table.uses(), [(e.id.clone(), a.clone(), 100)]);
        for bad in [
            "",
            "brt_i_",
            "brt_m_x",
            &text[..text.len() - 1],
            &format!("{text}A"),
            &text.to_lowercase(),
        ] {
            assert_eq!(known(bad, 100), Err(NoToken::Unknown), "{bad}");
        }
        table.insert(TokenEntry {
            expires_at: Some(200),
            ..e.clone()
        });
        assert!(known(text, 199).is_ok());
        assert_eq!(known(text, 200), Err(NoToken::Expired));
        assert_eq!(table.remove_instance(&b), 0);
        assert_eq!(table.remove_instance(&a), 1);
        assert_eq!(known(text, 100), Err(NoToken::Unknown));
        assert!(table.is_empty());
    }

    #[test]
    fn a_token_stands_for_its_principal() {
        let table = TokenTable::new();
        let a = InstanceId::from_random([1; 10]);
        let (of_instance, e) = entry(3, &a);
        table.insert(e.clone());
        let of_member = new_member_token([3; 32]);
        assert!(of_member.expose().starts_with("brt_m_") && of_member.expose().len() == 49);
        let id = TokenId::from_random([4; 12]);
        let (name, scope) = (crate::model::MemberName::admin(), crate::model::TokenScope::All);
        let admin = Principal::member(name, id.clone(), &scope);
        table.insert(TokenEntry {
            id: id.clone(),
            hash: TokenHash::of(of_member.expose()),
            principal: admin.clone(),
            expires_at: Some(200),
            last_used: None,
        });
        let who = |secret: &Secret| table.authenticate(secret.expose(), 100).map(|t| t.principal().clone());
        assert_eq!((who(&of_member), who(&of_instance)), (Ok(admin), Ok(e.principal)));
        assert!(table.remove(&id).is_some());
        assert_eq!(who(&of_member), Err(NoToken::Unknown));
        assert!(who(&of_instance).is_ok());
    }

    #[test]
    fn revoking_cuts() {
        let table = TokenTable::new();
        let a = InstanceId::from_random([1; 10]);
        let (secret, e) = entry(9, &a);
        table.insert(e.clone());
        let token = table.authenticate(secret.expose(), 1).unwrap();
        let pass = token.open(Some(&a));
        assert!(!pass.cut().is_cut());
        let begun = pass.begin();
        assert_eq!(table.remove(&e.id), Some(vec![(Some(a.clone()), 1)]));
        drop(begun);
        assert!(pass.cut().is_cut());
        assert!(token.open(Some(&a)).cut().is_cut(), "nor is there another way");
        assert_eq!(table.remove(&e.id), None);
    }

    #[test]
    fn one_way_of_a_token_ends_and_the_others_go_on() {
        let table = TokenTable::new();
        let ids = [1, 2].map(|n| InstanceId::from_random([n; 10]));
        let (secret, e) = entry(9, &ids[0]);
        table.insert(e);
        let token = table.authenticate(secret.expose(), 1).unwrap();
        let there = ids.each_ref().map(|id| token.open(Some(id)));
        let api = token.open(None);
        table.narrow(|_, to| to == Some(&ids[0]));
        assert!(there[0].cut().is_cut() && !there[1].cut().is_cut() && !api.cut().is_cut());
        let again = token.open(Some(&ids[0]));
        assert!(!again.cut().is_cut(), "who is let in again opens another");
        table.remove_instance(&ids[1]);
        assert!(there[1].cut().is_cut() && !again.cut().is_cut() && !api.cut().is_cut());
        table.narrow(|_, to| to.is_none());
        assert!(api.cut().is_cut());
    }

    #[test]
    fn what_watches_ends_with_its_token_alone() {
        let table = TokenTable::new();
        let (secret, e) = entry(9, &InstanceId::from_random([1; 10]));
        table.insert(e.clone());
        let token = table.authenticate(secret.expose(), 1).unwrap();
        let (api, watching) = (token.open(None), token.watch());
        let streams = [watching.begin(), token.watch().begin()];
        table.narrow(|_, to| to.is_none());
        assert!(api.cut().is_cut() && !watching.cut().is_cut());
        assert_eq!(table.remove(&e.id), Some(vec![(None, 2)]));
        assert!(watching.cut().is_cut() && token.watch().cut().is_cut());
        drop(streams);
    }

    #[test]
    fn bearer_values() {
        assert_eq!(bearer(b"Bearer x"), Some("x"));
        assert_eq!(bearer(b"bearer  x "), Some("x"));
        assert_eq!(bearer(b"Basic x"), None);
        assert_eq!(bearer(b"Bearer"), None);
        assert_eq!(bearer(&[255]), None);
    }

    proptest! {
        #[test]
        fn the_table_is_a_map(ops in proptest::collection::vec((0u8..6, any::<bool>()), 0..60)) {
            let (table, a) = (TokenTable::new(), InstanceId::from_random([1; 10]));
            let mut model = std::collections::BTreeSet::new();
            for (n, add) in ops {
                let (_, e) = entry(n, &a);
                if add { table.insert(e); model.insert(n); } else { prop_assert_eq!(table.remove(&e.id).is_some(), model.remove(&n)); }
                for n in 0..6 {
                    let (secret, _) = entry(n, &a);
                    let allowed = table.authenticate(secret.expose(), 1).is_ok();
                    prop_assert_eq!(allowed, model.contains(&n));
                }
            }
        }
    }
}
