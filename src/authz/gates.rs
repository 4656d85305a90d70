//! How fast calls may come, and how many may be under way: of one person, to one instance, to all instances of one workspace.
//! A call passes the gates of all three, or none of them counts it. It takes no lock and allocates nothing: what a token was
//! let through to holds the gates that lead there.
//!
//! Rates are held by the generic cell rate algorithm (ITU-T I.371): each call moves a theoretical arrival time (TAT) on by
//! the time between two calls, and conforms while the TAT is no further from now than a burst.
//!
//! A gate that several persons share keeps its last quarter for those who ask for little, where persons have a bound of their
//! own: whoever asks for much of that, whether they get it or not, has three quarters of the gate at most. So no number of
//! persons who call without a pause keeps out somebody who calls now and then.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::model::{CallLimit, InstanceId, MemberName, Principal, TokenId, Who, WorkspaceName};

/// Whose bound it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// A member's, by all their tokens.
    Member,
    /// Of whoever holds this token of an instance.
    Token,
    Instance,
    Workspace,
}

impl Whose {
    /// All of them.
    pub const ALL: [Whose; 4] = [Whose::Member, Whose::Token, Whose::Instance, Whose::Workspace];

    /// One word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Whose::Member => "member",
            Whose::Token => "token",
            Whose::Instance => "instance",
            Whose::Workspace => "workspace",
        }
    }
}

/// Why a call may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Calls come too fast; it may begin after this long, if no other comes before it.
    TooFast(Whose, Duration),
    /// Too many are under way.
    TooMany(Whose),
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A call, until its answer has ended.
    Call,
    /// A stream that a client listens on. Streams are open for hours: they take no call's place.
    Stream,
}

/// How much of a gate somebody may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    Whole,
    /// Without what is kept for those who ask for little.
    Common,
}

impl Share {
    fn of(self, all: i64) -> i64 {
        match self {
            Share::Whole => all,
            Share::Common => all - all / 4,
        }
    }
}

/// A rate, for the generic cell rate algorithm. Pure; times are in ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    /// Between two calls that come evenly.
    every: i64,
    /// Calls that may come together.
    burst: i64,
}

impl Rate {
    /// None: there is no bound.
    fn of(per_second: u32) -> Option<Rate> {
        let burst = i64::from(CallLimit::BURST) * i64::from(per_second);
        (per_second > 0).then(|| Rate {
            every: i64::from(1_000_000_000u32.div_ceil(per_second)),
            burst,
        })
    }

    /// So many calls that come together behind one that was let in are charged as these: there is never time for more.
    fn together(self, (share, calls): (Share, i64)) -> i64 {
        calls.min(share.of(self.burst) - 1)
    }

    /// The TAT after so many calls that come together at `now`; where that is too early, by how much.
    fn after(self, tat: i64, now: i64, of: (Share, i64)) -> Result<i64, i64> {
        let tat = tat.max(now);
        let calls = self.together(of);
        match tat - now - self.every * (of.0.of(self.burst) - calls) {
            early @ 1.. => Err(early),
            _ => Ok(tat + self.every * calls),
        }
    }

    /// A burst, in time.
    fn span(self) -> i64 {
        self.every * self.burst
    }
}

/// Who asks for more than a quarter of their rate, or has more than an eighth of their places, asks for much.
const MUCH_OF_RATE: i64 = 4;
const MUCH_OF_PLACES: i64 = 8;

/// One bound, and what has been used of it. All its fields are read and written by every worker.
#[derive(Debug)]
struct Gate {
    whose: Whose,
    /// [`CallLimit`]: calls a second in the upper half, calls at once in the lower.
    limit: AtomicU64,
    /// In ns of the table's clock.
    tat: AtomicI64,
    /// The same for all that was asked for, let through or not, at a part of the rate.
    asked: AtomicI64,
    calls: AtomicU32,
    streams: AtomicU32,
}

impl Gate {
    fn new(whose: Whose, limit: CallLimit) -> Gate {
        let gate = Gate {
            whose,
            limit: AtomicU64::new(0),
            tat: AtomicI64::new(0),
            asked: AtomicI64::new(0),
            calls: AtomicU32::new(0),
            streams: AtomicU32::new(0),
        };
        gate.set(limit);
        gate
    }

    /// Another bound, from now on. What is under way goes on.
    fn set(&self, limit: CallLimit) {
        let both = u64::from(limit.per_second) << 32 | u64::from(limit.at_once);
        self.limit.store(both, Relaxed);
    }

    #[allow(clippy::cast_possible_truncation, reason = "each is a half")]
    fn limit(&self) -> CallLimit {
        let both = self.limit.load(Relaxed);
        CallLimit {
            per_second: (both >> 32) as u32,
            at_once: both as u32,
        }
    }

    fn rate(&self) -> Option<Rate> {
        Rate::of(self.limit().per_second)
    }

    /// How many of these may be under way; 0: any number.
    fn most(&self, what: Use) -> i64 {
        let at_once = i64::from(self.limit().at_once);
        match what {
            Use::Call => at_once,
            Use::Stream => at_once * i64::from(CallLimit::STREAMS),
        }
    }

    fn under_way(&self, what: Use) -> &AtomicU32 {
        match what {
            Use::Call => &self.calls,
            Use::Stream => &self.streams,
        }
    }

    /// By how much so many calls at `now` would come too early.
    fn early(&self, now: i64, of: (Share, i64)) -> Option<i64> {
        self.rate()?.after(self.tat.load(Relaxed), now, of).err()
    }

    /// Counts so many calls; the TAT before and after.
    fn charge(&self, now: i64, of: (Share, i64)) -> Result<(i64, i64), i64> {
        let Some(rate) = self.rate() else { return Ok((0, 0)) };
        let mut tat = self.tat.load(Relaxed);
        loop {
            let after = rate.after(tat, now, of)?;
            match self.tat.compare_exchange_weak(tat, after, Relaxed, Relaxed) {
                Ok(_) => return Ok((tat, after)),
                Err(other) => tat = other,
            }
        }
    }

    /// Counts so many calls that nobody can refuse any more; within a share of a burst, where there is one.
    fn count(&self, now: i64, calls: i64, within: Option<Share>) {
        let Some(rate) = self.rate() else { return };
        let most = within.map_or(i64::MAX, |share| now + rate.every * share.of(rate.burst));
        let after = |tat: i64| Some((tat.max(now) + rate.every * calls).min(most).max(tat));
        let _ = self.tat.fetch_update(Relaxed, Relaxed, after);
    }

    /// Takes back one call that was counted.
    fn uncount(&self) {
        if let Some(rate) = self.rate() {
            self.tat.fetch_sub(rate.every, Relaxed);
        }
    }

    /// Takes back what was charged. Where others came in between it stays: the bound holds, at the cost of one call.
    fn refund(&self, (before, after): (i64, i64)) {
        let _ = self.tat.compare_exchange(after, before, Relaxed, Relaxed);
    }

    /// Takes a place, if there is one.
    fn take(&self, what: Use, share: Share) -> bool {
        let most = self.most(what);
        let one_more = |n: u32| (most == 0 || i64::from(n) < share.of(most)).then(|| n.saturating_add(1));
        self.under_way(what).fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    fn give_back(&self, what: Use) {
        self.under_way(what).fetch_sub(1, Relaxed);
    }

    /// What a person who asks for so many calls may use of gates that others pass too.
    fn ask(&self, what: Use, now: i64, calls: i64) -> Share {
        let (under_way, most) = (i64::from(self.under_way(what).load(Relaxed)), self.most(what));
        let many = most > 0 && under_way * MUCH_OF_PLACES > most;
        let fast = self.rate().is_some_and(|rate| {
            let before = self.asked.load(Relaxed).max(now);
            // Two workers that count at the same time may count one: it is no bound. What is counted is over soon.
            let after = (before + rate.every * calls * MUCH_OF_RATE).min(now + 2 * rate.span());
            self.asked.fetch_max(after, Relaxed);
            after - now > rate.span()
        });
        match many || fast {
            true => Share::Common,
            false => Share::Whole,
        }
    }

    /// Whether it is as it was when it was made.
    fn is_quiet(&self, now: i64) -> bool {
        self.tat.load(Relaxed) <= now && self.calls.load(Relaxed) == 0 && self.streams.load(Relaxed) == 0
    }
}

/// Gates that somebody passes on their way to an instance, or to the API.
#[derive(Debug)]
pub(super) struct Through {
    to: Option<InstanceId>,
    person: Arc<Gate>,
    shared: Vec<Arc<Gate>>,
}

/// The most gates on one way.
const GATES: usize = 3;

impl Through {
    /// Whether it leads there.
    pub(super) fn leads(&self, to: Option<&InstanceId>) -> bool {
        self.to.as_ref() == to
    }

    fn gates(&self, shared: Share) -> impl Iterator<Item = (&Gate, Share)> {
        let person = std::iter::once((self.person.as_ref(), Share::Whole));
        person.chain(self.shared.iter().map(move |gate| (gate.as_ref(), shared)))
    }

    /// Passes all gates, at `now` in ns of the table's clock.
    ///
    /// # Errors
    /// [`Limited`]; no gate has counted it then.
    pub(super) fn enter(self: &Arc<Self>, what: Use, now: i64) -> Result<CallPlace, Limited> {
        let share = self.person.ask(what, now, 1);
        self.look(now, (share, 1))?;
        let place = self.place(what, share)?;
        self.charge(now, (share, 1))?;
        Ok(place)
    }

    /// Whether so many calls may come now. All gates are looked at: who is refused is told the longest wait.
    fn look(&self, now: i64, (share, calls): (Share, i64)) -> Result<(), Limited> {
        let early = self
            .gates(share)
            .filter_map(|(gate, s)| Some((gate, gate.early(now, (s, calls))?)));
        match early.max_by_key(|(_, early)| *early) {
            Some((gate, early)) => Err(too_fast(gate, early)),
            None => Ok(()),
        }
    }

    /// Counts so many calls at all gates, or at none.
    fn charge(&self, now: i64, (share, calls): (Share, i64)) -> Result<(), Limited> {
        let mut charged = [None; GATES];
        let charges = self.gates(share).zip(&mut charged);
        let lost = charges
            .into_iter()
            .find_map(|((gate, s), step)| match gate.charge(now, (s, calls)) {
                Ok(charge) => {
                    *step = Some(charge);
                    None
                }
                Err(early) => Some((gate, early)),
            });
        let Some((gate, early)) = lost else { return Ok(()) };
        for ((gate, _), charge) in self.gates(share).zip(charged) {
            charge.into_iter().for_each(|charge| gate.refund(charge));
        }
        Err(too_fast(gate, early))
    }

    fn more(&self, what: Use, now: i64, calls: u16) -> Result<(), Limited> {
        let calls = i64::from(calls);
        let share = self.person.ask(what, now, calls);
        let charged = self
            .look(now, (share, calls))
            .and_then(|()| self.charge(now, (share, calls)));
        if let Err(limited) = charged {
            // The first is refused with them.
            self.gates(share).for_each(|(gate, _)| gate.uncount());
            return Err(limited);
        }
        // Whoever makes more than may ever come together waits for all of them.
        if let Some(rate) = self.person.rate() {
            let over = calls - rate.together((Share::Whole, calls));
            self.person.count(now, over, None);
        }
        Ok(())
    }

    fn had_more(&self, what: Use, now: i64, calls: u16) {
        let calls = i64::from(calls);
        self.person.ask(what, now, calls);
        self.person.count(now, calls, None);
        for gate in &self.shared {
            gate.count(now, calls, Some(Share::Common));
        }
    }

    fn place(self: &Arc<Self>, what: Use, share: Share) -> Result<CallPlace, Limited> {
        let full = self
            .gates(share)
            .enumerate()
            .find(|(_, (gate, s))| !gate.take(what, *s));
        match full {
            None => Ok(CallPlace {
                through: Arc::clone(self),
                what,
            }),
            Some((taken, (gate, _))) => {
                self.gates(share).take(taken).for_each(|(g, _)| g.give_back(what));
                Err(Limited::TooMany(gate.whose))
            }
        }
    }
}

fn too_fast(gate: &Gate, early: i64) -> Limited {
    Limited::TooFast(gate.whose, Duration::from_nanos(early.unsigned_abs()))
}

/// A call or a stream that is under way; it ends when it is dropped.
#[derive(Debug)]
pub struct CallPlace {
    through: Arc<Through>,
    what: Use,
}

impl CallPlace {
    /// It is so many calls more: a batch. Its first was let in, and these may come too fast.
    ///
    /// # Errors
    /// [`Limited`]; no gate has counted any of them then, nor the first.
    pub fn more(&self, gates: &Gates, calls: u16) -> Result<(), Limited> {
        self.through.more(self.what, gates.now(), calls)
    }

    /// It was so many calls more, which have passed already. Whoever made them waits for all of them; what is kept at gates for
    /// others stays theirs.
    pub fn had_more(&self, gates: &Gates, calls: u16) {
        self.through.had_more(self.what, gates.now(), calls);
    }
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        self.through
            .gates(Share::Whole)
            .for_each(|(gate, _)| gate.give_back(self.what));
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Member(MemberName),
    /// A member at the API, which is counted apart.
    Api(MemberName),
    Token(TokenId),
    Instance(InstanceId),
    Workspace(WorkspaceName),
}

#[derive(Debug)]
struct Table {
    gates: HashMap<Key, Arc<Gate>>,
    /// With so many gates it is looked which are of no use any more.
    sweep_at: usize,
    member: CallLimit,
    instance: CallLimit,
    workspace: CallLimit,
    /// Of workspaces that have one of their own.
    workspaces: BTreeMap<WorkspaceName, CallLimit>,
}

/// Below this many gates nothing is swept.
const FEW: usize = 256;

impl Table {
    fn gate(&mut self, key: Key, now: i64) -> Arc<Gate> {
        if let Some(gate) = self.gates.get(&key) {
            return Arc::clone(gate);
        }
        if self.gates.len() >= self.sweep_at {
            // What nobody holds is made anew as it was, once what was used of it has come back.
            self.gates.retain(|_, g| Arc::strong_count(g) > 1 || !g.is_quiet(now));
            self.sweep_at = (self.gates.len() * 2).max(FEW);
        }
        let (whose, limit) = match &key {
            Key::Member(_) | Key::Api(_) => (Whose::Member, self.member),
            Key::Token(_) => (Whose::Token, self.member),
            Key::Instance(_) => (Whose::Instance, self.instance),
            Key::Workspace(name) => (Whose::Workspace, self.limit_of(name)),
        };
        let gate = Arc::new(Gate::new(whose, limit));
        self.gates.insert(key, Arc::clone(&gate));
        gate
    }

    fn limit_of(&self, workspace: &WorkspaceName) -> CallLimit {
        self.workspaces.get(workspace).copied().unwrap_or(self.workspace)
    }
}

/// How many calls and streams are under way at all gates of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderWay {
    pub whose: Whose,
    pub calls: u64,
    pub streams: u64,
}

/// All gates of the box.
#[derive(Debug)]
pub struct Gates {
    clock: Instant,
    table: Mutex<Table>,
}

impl Gates {
    /// None yet; persons and instances have these bounds, workspaces none before [`Gates::limit_workspaces`].
    pub fn new(member: CallLimit, instance: CallLimit) -> Gates {
        Gates {
            clock: Instant::now(),
            table: Mutex::new(Table {
                gates: HashMap::new(),
                sweep_at: FEW,
                member,
                instance,
                workspace: CallLimit::NONE,
                workspaces: BTreeMap::new(),
            }),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic leaves nothing half done there: each change is one of a map.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In ns since it was made.
    pub(super) fn now(&self) -> i64 {
        i64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }

    /// The bounds of workspaces from now on: of those in the list, and of all others.
    pub fn limit_workspaces(&self, others: CallLimit, own: BTreeMap<WorkspaceName, CallLimit>) {
        let mut table = self.table();
        (table.workspace, table.workspaces) = (others, own);
        for (key, gate) in &table.gates {
            if let Key::Workspace(name) = key {
                gate.set(table.limit_of(name));
            }
        }
    }

    /// The gates for a token's holder, to an instance and the workspace that it is in, or (`None`) to the API.
    pub(super) fn through(
        &self,
        (by, token): (&Principal, &TokenId),
        to: Option<&InstanceId>,
        workspace: Option<WorkspaceName>,
    ) -> Arc<Through> {
        let now = self.now();
        let mut table = self.table();
        let person = match (by.who(), to) {
            (Who::Member(name), Some(_)) => Key::Member(name.clone()),
            (Who::Member(name), None) => Key::Api(name.clone()),
            _ => Key::Token(token.clone()),
        };
        let instance = to.map(|id| Key::Instance(id.clone()));
        let shared = instance.into_iter().chain(workspace.map(Key::Workspace));
        Arc::new(Through {
            to: to.cloned(),
            shared: shared.map(|key| table.gate(key, now)).collect(),
            person: table.gate(person, now),
        })
    }

    /// What is under way.
    pub fn under_way(&self) -> [UnderWay; 4] {
        let table = self.table();
        Whose::ALL.map(|whose| {
            let gates = || table.gates.values().filter(move |g| g.whose == whose);
            let sum = |of: fn(&Gate) -> &AtomicU32| gates().map(|g| u64::from(of(g).load(Relaxed))).sum();
            UnderWay {
                whose,
                calls: sum(|g| &g.calls),
                streams: sum(|g| &g.streams),
            }
        })
    }
}

#[cfg(test)]
mod tests;
