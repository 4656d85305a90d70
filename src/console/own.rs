//! What every change of one's own account has in common: the passphrase is shown once more, the ledger makes the change, and
//! somebody is told why it does not.

use super::{
    asked::{Asked, Backend, NotChanged},
    form::Form,
    hashing::For,
};
use crate::{
    model::MemberName,
    plan::sign_in::{AccountChange, AccountDenial, Own},
    record::SignInRecord,
    session::Session,
    sign_in::slow::Try,
};

/// How somebody signs in who has shown their passphrase once more. Who guesses it in a browser that is signed in waits, and
/// nobody else does.
pub(super) async fn shown_again<B: Backend>(
    asked: &Asked<'_, B>,
    (member, session): &(MemberName, Session),
    form: &Form,
) -> Result<SignInRecord, String> {
    let record = asked.backend.sign_in(member).ok_or("You are not signed in any more.")?;
    let what = Try::session(session.number);
    let begun = asked.console.begin(&what);
    begun.map_err(|seconds| format!("Too many wrong passphrases. Wait {seconds} seconds, then try again."))?;
    let matches = asked
        .console
        .hashing
        .matches(For::Known, form.get("current"), record.passphrase.clone());
    match matches.await {
        Ok(true) => {
            asked.console.slow().right(&what);
            Ok(record)
        }
        Ok(false) => Err("The current passphrase is wrong.".to_owned()),
        Err(_) => Err("The box is busy. Try again in a few seconds.".to_owned()),
    }
}

/// Has one's own sign-in changed; what to say where it was not.
pub(super) async fn change<B: Backend>(asked: &Asked<'_, B>, record: &SignInRecord, what: Own) -> Result<(), String> {
    let change = AccountChange::Own {
        member: record.member.clone(),
        epoch: record.epoch,
        what,
    };
    let done = asked.backend.change(asked.asker.by.clone(), change).await;
    done.map(drop).map_err(|why| said(&why))
}

/// Why an account was not changed, for people.
pub(super) fn said(why: &NotChanged) -> String {
    match why {
        NotChanged::Denied(AccountDenial::NoLink) => {
            "This link does not work any more: it was used, it is too old, or a newer one took its place. Ask for another."
                .to_owned()
        }
        NotChanged::Denied(AccountDenial::Used) => "The code was used already. Wait for the next one.".to_owned(),
        NotChanged::Denied(AccountDenial::Changed) => {
            "Your sign-in was changed meanwhile, perhaps in another window. Load the page again.".to_owned()
        }
        NotChanged::Refused(refusal) => format!("It could not be saved: {refusal}."),
    }
}
