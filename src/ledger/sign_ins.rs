//! How members sign in with a browser, beside the actions on members: links that set a passphrase, and what people change
//! themselves. Each is told in the audit before it is done, without anything that is secret.

use std::sync::Arc;

use super::{
    Came, Handle, Request, SignIns,
    books::Books,
    decide::{Decided, Then},
    ports::Journal,
    rows::Note,
};
use crate::{
    model::{MemberName, Principal, Refusal, Secret, SignInLink, hex},
    plan::sign_in::{self, AccountChange, AccountDenial, Own},
    policy::{Access, Target, Verb},
    record::{LinkRecord, SignInRecord},
    secret::random,
    store::Change,
};

/// Where links lead to; the member and the secret follow.
const LINK: &str = "/set-passphrase#";

/// Why an account was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    #[error(transparent)]
    Denied(#[from] AccountDenial),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Draws the secret of a link.
pub(super) fn link(mut record: SignInRecord, reset: bool, now: jiff::Timestamp) -> Result<Decided, Refusal> {
    let secret = Secret::new(hex(&random::<20>()?));
    let (member, expires_at) = (record.member.clone(), sign_in::link_ends(now));
    record.link = Some(LinkRecord {
        hash: sign_in::link_hash(secret.expose()),
        expires_at,
    });
    let then = reset.then(|| Then::SignOut(member.clone()));
    Ok(Decided {
        changes: vec![Change::PutSignIn(Box::new(record))],
        then: then.into_iter().collect(),
        came: Came::SignInLink(Box::new(SignInLink {
            // At which host, whoever answers knows.
            url: Secret::new(format!("{LINK}{member}.{}", secret.expose())),
            member,
            expires_at,
        })),
    })
}

/// What a change of an account comes to.
pub(super) fn changed(books: &Books, change: &AccountChange, now: jiff::Timestamp) -> Decided {
    match sign_in::change(&books.members, &books.sign_ins, change, now) {
        Ok(record) => Decided {
            came: Came::Member(record.member.clone()),
            changes: vec![Change::PutSignIn(Box::new(record))],
            then: Vec::new(),
        },
        Err(why) => Decided::nothing(Came::Denied(why)),
    }
}

/// Tells the audit of it. That a code was used, the sign-in says itself.
pub(super) fn told(
    journal: &dyn Journal,
    (books, access): (&Books, &Access),
    (by, change): &(Principal, AccountChange),
    changes: &[Change],
) {
    let used = matches!(
        change,
        AccountChange::Own {
            what: Own::UseStep(_),
            ..
        }
    );
    if let (false, [Change::PutSignIn(record), ..]) = (used, changes) {
        let target = Target::Member(&record.member);
        journal.append(&Note::about(by, Verb::ChangeSignIn, target, access).begins(books, changes));
    }
}

impl Handle {
    /// How a member signs in who is let in, as of the newest that is durable.
    pub fn sign_in(&self, member: &MemberName) -> Option<SignInRecord> {
        let access = self.access.load();
        sign_in::known(&self.sign_ins.load(), access.member(member)?)
    }

    /// Whose link this is, while it works.
    pub fn link_of(&self, hash: &[u8; 32]) -> Option<MemberName> {
        let (access, sign_ins) = (self.access.load(), self.sign_ins.load());
        let record = sign_in::by_link(&access.members, &sign_ins, hash, jiff::Timestamp::now());
        record.map(|r| r.member)
    }

    /// Changes how somebody signs in, for whoever has shown that they may. Durable when it returns Ok, which says whose.
    ///
    /// # Errors
    /// [`AccountError`]; nothing has changed then.
    pub async fn change_account(&self, by: Principal, change: AccountChange) -> Result<MemberName, AccountError> {
        let asked = Box::new((by, change));
        let kept = self.ask(|reply| Request::Account(asked, reply)).await??;
        match kept.what {
            Came::Denied(why) => Err(why.into()),
            Came::Member(name) => Ok(name),
            _ => Err(Refusal::fault("an account came to something else").into()),
        }
    }

    /// As members are shown.
    pub(super) fn sign_ins(&self) -> Arc<SignIns> {
        self.sign_ins.load_full()
    }
}
