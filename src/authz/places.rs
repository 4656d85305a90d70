//! Who may hold a connection to the edge when not everybody can. Pure: time comes as a number of milliseconds.
//!
//! A full table turns nobody away for having come late. Somebody gives way: of the network with the most connections its
//! most crowded part, of that the most crowded address, of that the connection that was quiet longest. So a stranger with
//! a thousand connections, from one address or from a whole IPv6 prefix, is in their own way and in nobody else's.
//!
//! ```text
//! accepted --> stranger --right token of an instance--> holder --a member's token--> member
//!                 ^------------- a wrong token ------------'---------------------------'
//! ```
//!
//! Each standing has places of its own: strangers cannot take those of holders, nor holders those of members.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::cut::Cut;

/// Places that only members have: one of this many, but [`MEMBERS_LEAST`] at least.
const MEMBERS_PART: usize = 16;
const MEMBERS_LEAST: usize = 4;

/// What the holder of a connection has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It came to the plain-HTTP listener, which asks for nothing.
    Plain,
    /// Nothing yet.
    Stranger,
    /// A right token of an instance, or a session of a screen.
    Holder,
    /// A member's token: an administrator comes in here.
    Member,
}

/// Whom a connection counts for, from the widest group to the narrowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Party([u128; 3]);

impl Party {
    /// By address alone: IPv6 by /48, /56 and /64, IPv4 by /24 and whole.
    pub fn of_address(ip: IpAddr) -> Party {
        match ip.to_canonical() {
            IpAddr::V4(v4) => {
                // As mapped into IPv6, which no canonical IPv6 address is.
                let bits = u128::from(v4.to_ipv6_mapped());
                Party([bits & !0xff, bits & !0xff, bits])
            }
            IpAddr::V6(v6) => {
                let bits = u128::from(v6);
                Party([48, 56, 64].map(|keep| bits & (u128::MAX << (128 - keep))))
            }
        }
    }

    /// By what was shown first (any number that stands for it), then by address.
    pub fn of_holder(shown: u64, ip: IpAddr) -> Party {
        let Party([_, near, address]) = Party::of_address(ip);
        Party([u128::from(shown), near, address])
    }

    fn address(&self) -> u128 {
        self.0[2]
    }
}

/// What the table sees of a connection, and the way to end it.
#[derive(Debug)]
pub struct Pulse {
    /// Since when it is quiet, in ms, times two; plus one while a request is in progress.
    quiet: AtomicU64,
    end: Cut,
}

impl Pulse {
    /// A connection that was accepted now, in ms of the table's clock.
    pub fn new(now: u64) -> Arc<Pulse> {
        Arc::new(Pulse {
            quiet: AtomicU64::new(now << 1),
            end: Cut::default(),
        })
    }

    /// A request is in progress.
    pub fn busy(&self) {
        self.quiet.store(self.quiet.load(Relaxed) | 1, Relaxed);
    }

    /// None is any more.
    pub fn quiet(&self, now: u64) {
        self.quiet.store(now << 1, Relaxed);
    }

    /// Fires when the connection has to give way.
    pub fn end(&self) -> &Cut {
        &self.end
    }

    fn is_busy(&self) -> bool {
        self.quiet.load(Relaxed) & 1 == 1
    }

    fn since(&self) -> u64 {
        self.quiet.load(Relaxed) >> 1
    }
}

/// There is no place: all that this party could give up is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPlace;

/// The places of one standing.
#[derive(Debug)]
struct Pool {
    most: usize,
    most_per_address: usize,
    /// What is in use gives way like the rest; else only to a party that has less.
    strict: bool,
    held: BTreeMap<(Party, u64), Arc<Pulse>>,
    by_address: HashMap<u128, usize>,
}

impl Pool {
    fn new(most: usize, most_per_address: usize, strict: bool) -> Pool {
        Pool {
            most,
            most_per_address,
            strict,
            held: BTreeMap::new(),
            by_address: HashMap::new(),
        }
    }

    /// Gives a place; how many connections gave way.
    fn take(&mut self, party: Party, number: u64, pulse: Arc<Pulse>) -> Result<usize, NoPlace> {
        self.held.insert((party, number), pulse);
        *self.by_address.entry(party.address()).or_default() += 1;
        let mut gone = 0;
        while let Some(victim) = self.victim(party) {
            let spared = |p: &Arc<Pulse>| !self.strict && p.is_busy() && self.of(victim.0) <= self.of(party);
            if victim == (party, number) || self.held.get(&victim).is_none_or(spared) {
                self.remove(party, number);
                return Err(NoPlace);
            }
            if let Some(pulse) = self.remove(victim.0, victim.1) {
                pulse.end.fire();
                gone += 1;
            }
        }
        Ok(gone)
    }

    /// Connections of the party's widest group.
    fn of(&self, party: Party) -> usize {
        let from = self.held.range((Party([party.0[0], 0, 0]), 0)..);
        from.take_while(|((p, _), _)| p.0[0] == party.0[0]).count()
    }

    fn remove(&mut self, party: Party, number: u64) -> Option<Arc<Pulse>> {
        let pulse = self.held.remove(&(party, number))?;
        if let Some(n) = self.by_address.get_mut(&party.address()) {
            *n -= 1;
            if *n == 0 {
                self.by_address.remove(&party.address());
            }
        }
        Some(pulse)
    }

    /// Who has to give way now that `newcomer` is in, if somebody has to.
    fn victim(&self, newcomer: Party) -> Option<(Party, u64)> {
        let address = newcomer.address();
        if self
            .by_address
            .get(&address)
            .is_some_and(|n| *n > self.most_per_address)
        {
            return self.quietest(|p| p.address() == address);
        }
        if self.held.len() <= self.most {
            return None;
        }
        let mut within = Vec::new();
        for tier in 0..3 {
            let crowded = self.most_crowded(tier, &within)?;
            within.push(crowded);
        }
        self.quietest(|p| p.0[..] == within[..])
    }

    /// The group of this tier with the most connections, among those that stand in `within`; of equal ones that whose
    /// connection was quiet longest. Groups lie side by side in the map.
    fn most_crowded(&self, tier: usize, within: &[u128]) -> Option<u128> {
        let mut low = [0; 3];
        low[..within.len()].copy_from_slice(within);
        let (mut best, mut run): (Option<Group>, Option<Group>) = (None, None);
        let from = self.held.range((Party(low), 0)..);
        for ((party, _), pulse) in from.take_while(|((p, _), _)| p.0[..tier] == *within) {
            let (key, since) = (party.0[tier], self.order(pulse));
            match run.as_mut().filter(|r| r.key == key) {
                Some(run) => {
                    run.count += 1;
                    run.since = run.since.min(since);
                }
                None => {
                    best = better(best, run);
                    run = Some(Group { key, count: 1, since });
                }
            }
        }
        better(best, run).map(|g| g.key)
    }

    /// Where what is in use gives way too, whoever moved last stays; else what is idle goes first.
    fn quietest(&self, of: impl Fn(&Party) -> bool) -> Option<(Party, u64)> {
        let those = self.held.iter().filter(|((p, _), _)| of(p));
        those.min_by_key(|((_, n), p)| (self.order(p), *n)).map(|(key, _)| *key)
    }

    fn order(&self, pulse: &Pulse) -> u64 {
        let later = !self.strict && pulse.is_busy();
        pulse.since() | u64::from(later) << 63
    }
}

/// Connections that count together, and since when one of them is quiet at most.
#[derive(Debug, Clone, Copy)]
struct Group {
    key: u128,
    count: usize,
    since: u64,
}

/// The more crowded one, or of equal ones the longer quiet.
fn better(one: Option<Group>, other: Option<Group>) -> Option<Group> {
    let weight = |g: &Group| (g.count, u64::MAX - g.since);
    one.into_iter().chain(other).max_by_key(weight)
}

/// How many places there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// All together, but for those of the plain-HTTP listener.
    pub connections: usize,
    /// Of these, for who has shown nothing.
    pub strangers: usize,
    /// For one address, at each standing.
    pub per_address: usize,
    /// At the plain-HTTP listener.
    pub plain: usize,
}

/// All places of the edge.
#[derive(Debug)]
pub struct Places {
    plain: Pool,
    strangers: Pool,
    holders: Pool,
    members: Pool,
}

impl Places {
    /// All free.
    pub fn new(room: Room) -> Places {
        // Whatever was configured, nobody is left without a place.
        let strangers = room.strangers.clamp(1, (room.connections / 2).max(1));
        let members = (room.connections / MEMBERS_PART).max(MEMBERS_LEAST);
        let holders = room.connections.saturating_sub(strangers + members).max(1);
        let each = room.per_address;
        Places {
            plain: Pool::new(room.plain, each, true),
            strangers: Pool::new(strangers, each, true),
            holders: Pool::new(holders, each, false),
            members: Pool::new(members, each, false),
        }
    }

    fn pool(&mut self, standing: Standing) -> &mut Pool {
        match standing {
            Standing::Plain => &mut self.plain,
            Standing::Stranger => &mut self.strangers,
            Standing::Holder => &mut self.holders,
            Standing::Member => &mut self.members,
        }
    }

    /// A connection comes; `number` is no other's. How many had to give way.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub fn enter(
        &mut self,
        (standing, party): (Standing, Party),
        number: u64,
        pulse: Arc<Pulse>,
    ) -> Result<usize, NoPlace> {
        self.pool(standing).take(party, number, pulse)
    }

    /// A connection has shown something, or something wrong: it changes its place. How many had to give way. One that
    /// has lost its place already gets none.
    ///
    /// # Errors
    /// [`NoPlace`]: it keeps the one that it has.
    pub fn change(&mut self, from: (Standing, Party), to: (Standing, Party), number: u64) -> Result<usize, NoPlace> {
        let Some(pulse) = self.pool(from.0).held.get(&(from.1, number)).cloned() else {
            return Err(NoPlace);
        };
        if from == to {
            return Ok(0);
        }
        let gone = self.pool(to.0).take(to.1, number, pulse)?;
        self.pool(from.0).remove(from.1, number);
        Ok(gone)
    }

    /// A connection has ended; it may have lost its place before.
    pub fn leave(&mut self, (standing, party): (Standing, Party), number: u64) {
        self.pool(standing).remove(party, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        connections: 64,
        strangers: 16,
        per_address: 64,
        plain: 4,
    };

    /// A table, and the time.
    struct Box {
        places: Places,
        next: u64,
        all: Vec<((Standing, Party), u64, Arc<Pulse>)>,
    }

    impl Box {
        fn new() -> Box {
            Box {
                places: Places::new(ROOM),
                next: 0,
                all: Vec::new(),
            }
        }

        /// A connection of this party; its place in `all`.
        fn comes(&mut self, at: (Standing, Party)) -> usize {
            self.next += 1;
            let pulse = Pulse::new(self.next);
            let _ = self.places.enter(at, self.next, pulse.clone());
            self.all.push((at, self.next, pulse));
            self.all.len() - 1
        }

        fn stranger(&mut self, ip: &str) -> usize {
            self.comes((Standing::Stranger, Party::of_address(ip.parse().unwrap())))
        }

        fn holder(&mut self, token: u64, ip: &str) -> usize {
            self.comes((Standing::Holder, Party::of_holder(token, ip.parse().unwrap())))
        }

        fn is_in(&self, n: usize) -> bool {
            !self.all[n].2.end().is_cut()
        }

        fn still_in(&self) -> usize {
            (0..self.all.len()).filter(|n| self.is_in(*n)).count()
        }
    }

    #[test]
    fn a_flood_from_four_addresses_is_in_its_own_way() {
        let mut b = Box::new();
        let person = b.stranger("203.0.113.5");
        for _ in 0..1024 {
            for last in 1..=4 {
                b.stranger(&format!("192.0.2.{last}"));
            }
        }
        assert!(b.is_in(person), "it came first");
        let late = b.stranger("198.51.100.9");
        let same_network = b.stranger("203.0.113.77");
        b.stranger("192.0.2.1");
        assert!(b.is_in(late) && b.is_in(same_network) && b.is_in(person));
        assert_eq!(b.still_in(), ROOM.strangers);
    }

    #[test]
    fn prefixes_count_whole() {
        // A /62 and a whole /48 are one party against a single host elsewhere, and against a neighbour in the same /48.
        for hosts in [4u32, 65_536] {
            let mut b = Box::new();
            let person = b.stranger("2001:db8:1::1");
            let neighbour = b.stranger("2001:db8:2:ff00::1");
            for n in 0..4096u32 {
                let sub = n % hosts % 0xfeff;
                b.stranger(&format!("2001:db8:2:{sub:x}::{n:x}"));
            }
            assert!(b.is_in(person), "{hosts}");
            // Its /56 has one connection; some /56 of the flood has more.
            assert!(hosts > 4 || b.is_in(neighbour), "{hosts}");
            assert_eq!(b.still_in(), ROOM.strangers);
        }
        let (v4, mapped) = ("192.0.2.1".parse().unwrap(), "::ffff:192.0.2.1".parse().unwrap());
        assert_eq!(Party::of_address(v4), Party::of_address(mapped));
    }

    #[test]
    fn of_one_address_the_longest_quiet_gives_way() {
        let mut b = Box::new();
        let all: Vec<usize> = (0..ROOM.strangers).map(|_| b.stranger("192.0.2.1")).collect();
        // The oldest said something since.
        b.all[all[0]].2.busy();
        b.all[all[0]].2.quiet(100);
        b.stranger("192.0.2.1");
        assert!(b.is_in(all[0]) && !b.is_in(all[1]) && b.is_in(all[2]));
        // In progress for ever is no way to stay: others come in.
        for n in &all {
            b.all[*n].2.busy();
        }
        let late = b.stranger("192.0.2.1");
        assert!(b.is_in(late));
    }

    #[test]
    fn strangers_take_no_place_of_holders_nor_holders_of_members() {
        let mut b = Box::new();
        let at = (Standing::Member, Party::of_holder(7, "192.0.2.1".parse().unwrap()));
        let member = b.comes(at);
        let holder = b.holder(1, "192.0.2.1");
        for n in 0..1000 {
            b.stranger("192.0.2.1");
            b.holder(2 + n % 3, "192.0.2.1");
        }
        assert!(b.is_in(member) && b.is_in(holder));
        assert!(b.still_in() <= ROOM.connections);
        let another = b.comes(at);
        assert!(b.is_in(another));
    }

    #[test]
    fn a_token_with_many_gives_way_to_one_with_few() {
        let mut b = Box::new();
        let all: Vec<usize> = (0..200u32).map(|n| b.holder(1, &format!("192.0.{n}.1"))).collect();
        let in_use: Vec<usize> = all.into_iter().filter(|n| b.is_in(*n)).collect();
        for n in &in_use {
            b.all[*n].2.busy();
        }
        // Of its own that are in use none is cut for another of its own.
        let more = b.holder(1, "198.51.100.1");
        let (at, number, pulse) = &b.all[more];
        assert_eq!(b.places.enter(*at, *number, pulse.clone()), Err(NoPlace));
        assert!(in_use.iter().all(|n| b.is_in(*n)));
        // For somebody else's it is, and the oldest.
        let other = b.holder(2, "198.51.100.2");
        assert!(b.is_in(other) && !b.is_in(in_use[0]) && b.is_in(in_use[1]));
    }

    #[test]
    fn of_equals_nobody_is_cut_short() {
        let mut b = Box::new();
        let all: Vec<usize> = (0..200).map(|token| b.holder(token, "192.0.2.1")).collect();
        let in_use: Vec<usize> = all.into_iter().filter(|n| b.is_in(*n)).collect();
        for n in &in_use {
            b.all[*n].2.busy();
        }
        b.holder(999, "192.0.2.1");
        assert!(in_use.iter().all(|n| b.is_in(*n)));
        b.all[in_use[5]].2.quiet(1);
        b.holder(999, "192.0.2.1");
        assert!(!b.is_in(in_use[5]), "the one that is idle is");
    }

    #[test]
    fn an_address_has_a_most() {
        let mut places = Places::new(Room { per_address: 2, ..ROOM });
        let at = (Standing::Stranger, Party::of_address("192.0.2.1".parse().unwrap()));
        let all: Vec<_> = (0..3).map(Pulse::new).collect();
        let gave: Vec<_> = (0..3).map(|n| places.enter(at, n, all[n as usize].clone())).collect();
        assert_eq!(gave, [Ok(0), Ok(0), Ok(1)]);
        assert!(all[0].end().is_cut() && !all[1].end().is_cut());
        places.leave(at, 0);
        places.leave(at, 1);
        assert_eq!(places.enter(at, 9, Pulse::new(9)), Ok(0));
    }

    #[test]
    fn a_wrong_token_makes_a_stranger_of_a_holder() {
        let mut b = Box::new();
        let n = b.stranger("192.0.2.1");
        let (stranger, number, _) = b.all[n].clone();
        let holder = (Standing::Holder, Party::of_holder(1, "192.0.2.1".parse().unwrap()));
        assert_eq!(b.places.change(stranger, holder, number), Ok(0));
        assert_eq!(
            b.places.change(stranger, holder, number),
            Err(NoPlace),
            "it is not there any more"
        );
        assert_eq!(b.places.change(holder, holder, number), Ok(0), "nothing changes");
        assert_eq!(b.places.change(holder, stranger, number), Ok(0));
        b.places.leave(stranger, number);
        assert!(b.places.strangers.held.is_empty() && b.places.holders.held.is_empty());
        assert!(b.places.strangers.by_address.is_empty() && b.places.holders.by_address.is_empty());
    }

    #[test]
    fn small_rooms_leave_a_place_for_each() {
        let mut places = Places::new(Room {
            connections: 1,
            strangers: 100,
            per_address: 1,
            plain: 1,
        });
        for standing in [Standing::Plain, Standing::Stranger, Standing::Holder, Standing::Member] {
            let at = (standing, Party::of_address("192.0.2.1".parse().unwrap()));
            assert_eq!(places.enter(at, 1, Pulse::new(0)), Ok(0), "{standing:?}");
        }
    }
}
