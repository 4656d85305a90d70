//! How members sign in with a browser: what invitations, resets and people themselves change of it. Pure.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    admit::{Book, Decision, NewToken, member_token_end, token_name},
    people,
};
use crate::{
    model::{MemberName, NewAccount, PassphraseHash, Refusal, SIGN_IN_LINK_DAYS, Subject, TokenScope},
    record::{LinkRecord, MemberRecord, Sealed, SignInRecord, Table, TotpRecord},
};

/// A link for somebody who has no passphrase; its secret is still to be drawn. It takes the place of an earlier one.
pub(super) fn invite(book: &Book<'_>, name: &MemberName) -> Result<SignInRecord, Refusal> {
    let record = of(book, name)?;
    match record.passphrase {
        Some(_) => Err(Refusal::HasSignIn { member: name.clone() }),
        None => Ok(record),
    }
}

/// The same for somebody who may have one: it goes, with all that came of it.
pub(super) fn reset(book: &Book<'_>, name: &MemberName) -> Result<SignInRecord, Refusal> {
    let before = of(book, name)?;
    let member = people::member(book, name)?;
    Ok(SignInRecord {
        epoch: before.epoch + 1,
        ..SignInRecord::none(member)
    })
}

fn of(book: &Book<'_>, name: &MemberName) -> Result<SignInRecord, Refusal> {
    let member = people::member(book, name)?;
    if member.disabled_at.is_some() {
        return Err(Refusal::MemberDisabled { member: name.clone() });
    }
    Ok(known(book.sign_ins, member).unwrap_or_else(|| SignInRecord::none(member)))
}

/// How a member signs in, as it is kept of this very one.
pub fn known(sign_ins: &Table<MemberName, SignInRecord>, member: &MemberRecord) -> Option<SignInRecord> {
    let record = sign_ins.get(&member.name);
    record.filter(|r| r.since == member.created_at).cloned()
}

/// How a member signs in who is not disabled.
fn let_in(
    members: &Table<MemberName, MemberRecord>,
    sign_ins: &Table<MemberName, SignInRecord>,
    name: &MemberName,
) -> Option<SignInRecord> {
    let member = members.get(name).filter(|m| m.disabled_at.is_none())?;
    known(sign_ins, member)
}

/// How whoever has the link of this hash signs in, while it works.
pub fn by_link(
    members: &Table<MemberName, MemberRecord>,
    sign_ins: &Table<MemberName, SignInRecord>,
    hash: &[u8; 32],
    now: Timestamp,
) -> Option<SignInRecord> {
    let opens = |l: &LinkRecord| l.hash == *hash && l.expires_at > now;
    let mut all = sign_ins.values().filter(|r| r.link.as_ref().is_some_and(opens));
    let_in(members, sign_ins, &all.next()?.member)
}

/// Makes the owner of a box that has none, with a passphrase or else with a token.
pub(super) fn claim(book: &Book<'_>, name: Option<String>, account: Option<NewAccount>) -> Result<Decision, Refusal> {
    if !book.members.owners().is_empty() {
        return Err(Refusal::Claimed);
    }
    let owner = account.as_ref().map_or_else(MemberName::admin, |a| a.member.clone());
    // Nobody who is there already becomes an owner by it.
    if owner != MemberName::admin() {
        people::check_new(book, &owner)?;
    }
    let member = MemberRecord::owner(owner.clone(), book.now);
    let sign_in = account.map(|account| {
        Box::new(SignInRecord {
            passphrase: Some(account.passphrase),
            epoch: 1,
            ..SignInRecord::none(&member)
        })
    });
    let token = match &sign_in {
        Some(_) => None,
        None => Some(NewToken {
            subject: Subject::Member(owner.clone()),
            name: token_name(name, "claim")?,
            expires_at: member_token_end(book.now),
            scope: TokenScope::All,
        }),
    };
    Ok(Decision::Claim {
        member,
        token,
        sign_in,
        before: Box::new(people::gone(book, &[owner].into())),
    })
}

/// What is kept of a link's secret.
pub fn link_hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// When a link ends that is made now.
pub fn link_ends(now: Timestamp) -> Timestamp {
    now.saturating_add(SignedDuration::from_hours(24 * SIGN_IN_LINK_DAYS))
        .unwrap_or(Timestamp::MAX)
}

/// What people change of how they sign in themselves. Whoever asks has looked at what they showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountChange {
    /// Sets a passphrase, for whoever has the link of this hash.
    Redeem { link: [u8; 32], passphrase: PassphraseHash },
    /// The rest is for how `member` signed in at `epoch`.
    Own { member: MemberName, epoch: u64, what: Own },
}

/// What of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    /// Another passphrase.
    Passphrase(PassphraseHash),
    /// A second step from now on, with recovery codes; the code of this step was shown.
    SetTotp {
        secret: Sealed,
        step: u64,
        recovery: Vec<[u8; 32]>,
    },
    /// None any more, and no recovery codes.
    UnsetTotp,
    /// Other recovery codes, in place of those there were.
    Recovery(Vec<[u8; 32]>),
    /// The code of this step was used.
    UseStep(u64),
    /// This recovery code was used.
    UseRecovery([u8; 32]),
}

/// Why nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum AccountDenial {
    #[error("the link is not valid: it was used, it is too old, or another one took its place")]
    NoLink,
    #[error("the code was used already")]
    Used,
    #[error("how the member signs in was changed meanwhile")]
    Changed,
}

/// The record as it is from then on.
///
/// # Errors
/// [`AccountDenial`].
pub fn change(
    members: &Table<MemberName, MemberRecord>,
    sign_ins: &Table<MemberName, SignInRecord>,
    change: &AccountChange,
    now: Timestamp,
) -> Result<SignInRecord, AccountDenial> {
    let (member, epoch, what) = match change {
        AccountChange::Redeem { link, passphrase } => {
            let record = by_link(members, sign_ins, link, now).ok_or(AccountDenial::NoLink)?;
            return Ok(SignInRecord {
                passphrase: Some(passphrase.clone()),
                epoch: record.epoch + 1,
                link: None,
                ..record
            });
        }
        AccountChange::Own { member, epoch, what } => (member, *epoch, what),
    };
    let mut record = let_in(members, sign_ins, member)
        .filter(|r| r.epoch == epoch)
        .ok_or(AccountDenial::Changed)?;
    match what {
        Own::Passphrase(hash) => {
            record.passphrase = Some(hash.clone());
            record.epoch += 1;
        }
        Own::SetTotp { secret, step, recovery } => {
            record.recovery = recovery.iter().copied().collect();
            record.totp = Some(TotpRecord {
                secret: secret.clone(),
                last: *step,
            });
        }
        Own::UnsetTotp => {
            record.totp = None;
            record.recovery.clear();
        }
        Own::Recovery(hashes) => record.recovery = hashes.iter().copied().collect(),
        Own::UseStep(step) => match &mut record.totp {
            Some(totp) if totp.last < *step => totp.last = *step,
            Some(_) => return Err(AccountDenial::Used),
            None => return Err(AccountDenial::Changed),
        },
        Own::UseRecovery(hash) => {
            if !record.recovery.remove(hash) {
                return Err(AccountDenial::Used);
            }
        }
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> MemberName {
        MemberName::parse("ada").unwrap()
    }

    fn hash(n: u8) -> PassphraseHash {
        PassphraseHash {
            memory: 8,
            passes: 1,
            lanes: 1,
            salt: [n; 16],
            hash: [n; 32],
        }
    }

    struct World(Table<MemberName, MemberRecord>, Table<MemberName, SignInRecord>);

    impl World {
        fn invited() -> World {
            let member = MemberRecord::owner(ada(), Timestamp::UNIX_EPOCH);
            let record = SignInRecord {
                link: Some(LinkRecord {
                    hash: [1; 32],
                    expires_at: Timestamp::from_second(100).unwrap(),
                }),
                ..SignInRecord::none(&member)
            };
            World(
                [(ada(), member)].into_iter().collect(),
                [(ada(), record)].into_iter().collect(),
            )
        }

        fn change(&mut self, what: AccountChange, now: i64) -> Result<SignInRecord, AccountDenial> {
            let record = change(&self.0, &self.1, &what, Timestamp::from_second(now).unwrap())?;
            self.1.insert(ada(), record.clone());
            Ok(record)
        }

        fn own(&mut self, epoch: u64, what: Own) -> Result<SignInRecord, AccountDenial> {
            let member = ada();
            self.change(AccountChange::Own { member, epoch, what }, 50)
        }
    }

    fn redeem(n: u8) -> AccountChange {
        AccountChange::Redeem {
            link: [n; 32],
            passphrase: hash(n),
        }
    }

    #[test]
    fn a_link_sets_a_passphrase_once_and_in_time() {
        let mut world = World::invited();
        assert_eq!(world.change(redeem(2), 50), Err(AccountDenial::NoLink), "another link");
        assert_eq!(world.change(redeem(1), 100), Err(AccountDenial::NoLink), "too late");
        let set = world.change(redeem(1), 99).unwrap();
        assert_eq!((set.passphrase, set.epoch, set.link), (Some(hash(1)), 1, None));
        assert_eq!(world.change(redeem(1), 99), Err(AccountDenial::NoLink), "once");
    }

    #[test]
    fn a_link_opens_nothing_for_who_is_disabled_or_another_member_by_now() {
        for change in [
            MemberRecord {
                disabled_at: Some(Timestamp::UNIX_EPOCH),
                ..MemberRecord::owner(ada(), Timestamp::UNIX_EPOCH)
            },
            MemberRecord::owner(ada(), Timestamp::from_second(7).unwrap()),
        ] {
            let mut world = World::invited();
            world.0.insert(ada(), change);
            assert_eq!(world.change(redeem(1), 50), Err(AccountDenial::NoLink));
        }
    }

    #[test]
    fn codes_work_once_and_what_is_of_an_earlier_passphrase_does_nothing() {
        let mut world = World::invited();
        world.change(redeem(1), 50).unwrap();
        assert_eq!(world.own(0, Own::UnsetTotp), Err(AccountDenial::Changed));
        assert_eq!(
            world.own(1, Own::UseStep(9)),
            Err(AccountDenial::Changed),
            "there is no second step"
        );
        let secret = Sealed(vec![1]);
        let recovery = vec![[2; 32]];
        let set = Own::SetTotp {
            secret,
            step: 9,
            recovery,
        };
        assert_eq!(world.own(1, set).unwrap().recovery.len(), 1);
        assert_eq!(
            world.own(1, Own::UseStep(9)),
            Err(AccountDenial::Used),
            "it was shown to set it"
        );
        world.own(1, Own::UseStep(10)).unwrap();
        assert_eq!(world.own(1, Own::UseStep(10)), Err(AccountDenial::Used));
        world.own(1, Own::Recovery(vec![[3; 32], [4; 32]])).unwrap();
        assert_eq!(
            world.own(1, Own::UseRecovery([3; 32])).unwrap().recovery,
            [[4; 32]].into()
        );
        assert_eq!(world.own(1, Own::UseRecovery([3; 32])), Err(AccountDenial::Used));
        let changed = world.own(1, Own::Passphrase(hash(5))).unwrap();
        assert!(changed.totp.is_some() && changed.epoch == 2);
        let off = world.own(2, Own::UnsetTotp).unwrap();
        assert!(off.totp.is_none() && off.recovery.is_empty());
    }
}
