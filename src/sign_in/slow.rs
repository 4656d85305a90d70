//! How somebody who guesses is slowed down: by account and address together, and by address. Never by account alone, which
//! would let a stranger lock somebody out. A device that has signed in before has a count of its own, whatever its address does
//! (OWASP, "Device cookies"), until it guesses itself.
//!
//! ```text
//! try ──► counted as failed ──right──► not counted
//!              `──more than are free──► the next has to wait: 5 s, 10 s, … 15 min; forgotten an hour after the last
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use sha2::{Digest, Sha256};

/// Failures that cost nothing: of an account from an address, of an address, of a device.
const FREE_OF_BOTH: u32 = 5;
const FREE_OF_ADDRESS: u32 = 20;
const FREE_OF_DEVICE: u32 = 10;
/// The first wait in seconds; each failure doubles it.
const FIRST: u64 = 5;
/// It is never longer than this.
const LONGEST: u64 = 15 * 60;
/// So long after the last failure nothing is held against anybody, in seconds.
const FORGET: u64 = 3600;
/// Counts that are kept; the one that failed longest ago gives way.
const MOST: usize = 4096;

/// Of whom failures are counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Both([u8; 16], IpAddr),
    Address(IpAddr),
    Device([u8; 16]),
    /// Of the second step of an account, which only those come to who have its passphrase.
    Second([u8; 16]),
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: u64,
}

/// Somebody who tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Try {
    counted: Vec<(Of, u32)>,
}

impl Try {
    /// Of this account, as it was typed, from this address; from a device that signed in before, where it shows that.
    pub fn new(account: &str, from: IpAddr, device: Option<[u8; 16]>) -> Try {
        let from = network(from);
        let counted = match device {
            Some(device) => vec![(Of::Device(device), FREE_OF_DEVICE)],
            None => vec![
                (Of::Both(short(account), from), FREE_OF_BOTH),
                (Of::Address(from), FREE_OF_ADDRESS),
            ],
        };
        Try { counted }
    }

    /// Of the passphrase of whoever is signed in, in the session of this number.
    pub fn session(number: u64) -> Try {
        let mut id = *b"session\0........";
        id[8..].copy_from_slice(&number.to_be_bytes());
        Try {
            counted: vec![(Of::Device(id), FREE_OF_DEVICE)],
        }
    }

    /// Of the second step of this account. Who has the passphrase may guess from as many addresses as they like, and there are
    /// a million codes only: what is counted is the account.
    pub fn second(account: &str, device: Option<[u8; 16]>) -> Try {
        let of = match device {
            Some(device) => (Of::Device(device), FREE_OF_DEVICE),
            None => (Of::Second(short(account)), FREE_OF_BOTH),
        };
        Try { counted: vec![of] }
    }
}

fn short(account: &str) -> [u8; 16] {
    let digest = Sha256::digest(account.as_bytes());
    std::array::from_fn(|i| digest[i])
}

/// One household or one machine: of IPv6 the first 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

/// Who has failed how often. Times are seconds of a clock that never goes back.
#[derive(Debug, Default)]
pub struct Slow {
    table: BTreeMap<Of, Failures>,
}

impl Slow {
    /// Counts a try as failed before it is looked at, so that tries at one time count as well.
    ///
    /// # Errors
    /// How many seconds they have to wait; nothing was counted then.
    pub fn begin(&mut self, what: &Try, now: u64) -> Result<(), u64> {
        let waits = what.counted.iter().map(|(of, free)| self.wait(of, *free, now));
        if let Some(wait) = waits.max().filter(|w| *w > 0) {
            return Err(wait);
        }
        for (of, _) in &what.counted {
            if self.table.len() >= MOST && !self.table.contains_key(of) {
                let oldest = self.table.iter().min_by_key(|(_, f)| f.last).map(|(of, _)| of.clone());
                oldest.map(|of| self.table.remove(&of));
            }
            let failures = self.table.entry(of.clone()).or_insert(Failures { count: 0, last: now });
            if now.saturating_sub(failures.last) >= FORGET {
                failures.count = 0;
            }
            failures.count = failures.count.saturating_add(1);
            failures.last = now;
        }
        Ok(())
    }

    /// It was right. Of the account and the device nothing is held against them any more; of the address only this try is
    /// taken back, or somebody with one account of their own could guess at others for ever.
    pub fn right(&mut self, what: &Try) {
        for (of, _) in &what.counted {
            match of {
                Of::Both(..) | Of::Device(_) | Of::Second(_) => drop(self.table.remove(of)),
                Of::Address(_) => {
                    if let Some(f) = self.table.get_mut(of) {
                        f.count = f.count.saturating_sub(1);
                    }
                }
            }
        }
    }

    /// Whether a device has guessed so often that it is one like any other.
    pub fn is_spent(&self, device: [u8; 16], now: u64) -> bool {
        self.wait(&Of::Device(device), FREE_OF_DEVICE, now) > 0
    }

    fn wait(&self, of: &Of, free: u32, now: u64) -> u64 {
        let Some(f) = self.table.get(of).filter(|f| now.saturating_sub(f.last) < FORGET) else {
            return 0;
        };
        if f.count < free {
            return 0;
        }
        let wait = FIRST.saturating_mul(1 << (f.count - free).min(16)).min(LONGEST);
        (f.last + wait).saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn whoever_guesses_waits_and_nobody_else_does() {
        let mut slow = Slow::default();
        let eve = Try::new("ada", address(1), None);
        for _ in 0..FREE_OF_BOTH {
            slow.begin(&eve, 100).unwrap();
        }
        assert_eq!(slow.begin(&eve, 100), Err(5));
        assert_eq!(slow.begin(&eve, 104), Err(1));
        slow.begin(&eve, 105).unwrap();
        assert_eq!(slow.begin(&eve, 105), Err(10), "twice as long");
        slow.begin(&Try::new("ada", address(2), None), 105).unwrap();
        slow.begin(&Try::new("ada", address(1), Some([1; 16])), 105).unwrap();
        slow.begin(&Try::new("bob", address(1), None), 105).unwrap();
        assert_eq!(slow.begin(&eve, 105 + FORGET), Ok(()), "forgotten");
    }

    #[test]
    fn an_address_that_tries_all_accounts_waits() {
        let mut slow = Slow::default();
        for n in 0..FREE_OF_ADDRESS {
            slow.begin(&Try::new(&format!("m{n}"), address(1), None), 0).unwrap();
        }
        assert_eq!(slow.begin(&Try::new("one-more", address(1), None), 0), Err(5));
        let (mut now, mut longest) = (0, 0);
        for _ in 0..40 {
            if let Err(wait) = slow.begin(&Try::new("x", address(1), None), now) {
                longest = longest.max(wait);
                now += wait;
            }
        }
        assert_eq!(longest, LONGEST);
    }

    #[test]
    fn a_right_one_is_not_held_against_the_address_and_clears_no_other() {
        let mut slow = Slow::default();
        let own = Try::new("eve", address(1), None);
        for n in 0..FREE_OF_ADDRESS {
            slow.begin(&Try::new(&format!("m{n}"), address(1), None), 0).unwrap();
            if n + 1 < FREE_OF_ADDRESS {
                slow.begin(&own, 0).unwrap();
                slow.right(&own);
            }
        }
        assert!(
            slow.begin(&own, 0).is_err(),
            "her own account does not buy her more guesses"
        );
    }

    #[test]
    fn neighbours_in_ipv6_are_one() {
        let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            Try::new("a", v6("2001:db8:1:2::3"), None),
            Try::new("a", v6("2001:db8:1:2:ffff::9"), None)
        );
        assert_ne!(
            Try::new("a", v6("2001:db8:1:2::3"), None),
            Try::new("a", v6("2001:db8:1:3::3"), None)
        );
        assert_eq!(
            Try::new("a", v6("::ffff:192.0.2.1"), None),
            Try::new("a", address(1), None)
        );
    }

    #[test]
    fn a_known_device_has_a_count_of_its_own() {
        let mut slow = Slow::default();
        let device = Try::new("ada", address(1), Some([3; 16]));
        for _ in 0..FREE_OF_DEVICE {
            assert!(!slow.is_spent([3; 16], 0));
            slow.begin(&device, 0).unwrap();
        }
        assert!(slow.is_spent([3; 16], 0) && !slow.is_spent([4; 16], 0));
        slow.right(&device);
        assert!(!slow.is_spent([3; 16], 0));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut slow = Slow::default();
        for n in 0..MOST as u32 * 2 {
            let from = IpAddr::from(n.to_be_bytes());
            let _ = slow.begin(&Try::new("ada", from, None), u64::from(n));
            assert!(slow.table.len() <= MOST);
        }
    }
}
