//! The second step of a sign-in: setting it up, with recovery codes, and taking it away. Each change asks for the passphrase
//! again: whoever finds a browser that is signed in changes nothing.

use http::StatusCode;

use super::{
    account,
    answers::{Answer, redirect},
    asked::{Asked, Backend, lock},
    enter::unix_now,
    form::Form,
    own::{change, shown_again},
    pages::{self, CodesPage, SecondPage, Told},
    qr,
};
use crate::{
    model::{MemberName, Secret},
    plan::sign_in::Own,
    secret::random,
    session::Session,
    sign_in::{recovery, totp},
};

/// The page that sets it up, or says that it is.
pub(super) fn page<B: Backend>(
    asked: &Asked<'_, B>,
    (member, session): &(MemberName, Session),
    tried: bool,
    wrong: Option<&str>,
) -> Answer {
    let Some(record) = asked.backend.sign_in(member) else {
        return redirect("/sign-in");
    };
    if record.totp.is_some() {
        return redirect("/account");
    }
    let Ok(random) = random() else {
        return pages::fault();
    };
    let secret = lock(&asked.console.offered).of(session.number, random, asked.console.now());
    let host = asked.asker.authority.split(':').next().unwrap_or_default();
    let uri = totp::uri(&secret, member.as_str(), host);
    let status = match tried {
        true => StatusCode::UNPROCESSABLE_ENTITY,
        false => StatusCode::OK,
    };
    let fresh = asked.query == "new";
    SecondPage::answer(
        status,
        pages::Shell::of(asked, member, "account"),
        (&secret, qr::svg(uri.expose())),
        fresh,
        wrong,
    )
}

/// Sets it, once a code of it was shown.
pub(super) async fn set<B: Backend>(asked: &Asked<'_, B>, who: (MemberName, Session), form: &Form) -> Answer {
    let record = match shown_again(asked, &who, form).await {
        Ok(record) => record,
        Err(why) => return page(asked, &who, true, Some(&why)),
    };
    let offered = lock(&asked.console.offered).get(who.1.number, asked.console.now());
    let Some((secret, _)) = offered else {
        return page(asked, &who, true, Some("That took too long. Scan the new code."));
    };
    let Some(step) = totp::step_of(&secret, form.get("code"), 0, unix_now()) else {
        let why = "The code is wrong. Check that the clock of your phone is right, and enter the newest code.";
        return page(asked, &who, true, Some(why));
    };
    let (Ok(sealed), Ok(fresh)) = (asked.backend.key().seal_totp(&who.0, &secret), random()) else {
        return pages::fault();
    };
    let codes = recovery::codes(&fresh);
    let what = Own::SetTotp {
        secret: sealed,
        step,
        recovery: codes.iter().map(|(_, hash)| *hash).collect(),
    };
    match change(asked, &record, what).await {
        Ok(()) => {
            lock(&asked.console.offered).forget(who.1.number);
            shown(asked, &who.0, codes)
        }
        Err(why) => page(asked, &who, true, Some(&why)),
    }
}

fn shown<B: Backend>(asked: &Asked<'_, B>, member: &MemberName, codes: Vec<(Secret, [u8; 32])>) -> Answer {
    let shell = pages::Shell::of(asked, member, "account");
    CodesPage::answer(shell, codes.into_iter().map(|(code, _)| code).collect())
}

/// Takes it away.
pub(super) async fn unset<B: Backend>(asked: &Asked<'_, B>, who: (MemberName, Session), form: &Form) -> Answer {
    let record = match shown_again(asked, &who, form).await {
        Ok(record) => record,
        Err(why) => return account::refused(asked, who, &why).await,
    };
    match change(asked, &record, Own::UnsetTotp).await {
        Ok(()) => account::page(asked, who, StatusCode::OK, Told::done("The second step is off.")),
        Err(why) => account::refused(asked, who, &why).await,
    }
}

/// Makes other recovery codes.
pub(super) async fn recovery<B: Backend>(asked: &Asked<'_, B>, who: (MemberName, Session), form: &Form) -> Answer {
    let record = match shown_again(asked, &who, form).await {
        Ok(record) if record.totp.is_some() => record,
        Ok(_) => return redirect("/account"),
        Err(why) => return account::refused(asked, who, &why).await,
    };
    let Ok(fresh) = random() else {
        return pages::fault();
    };
    let codes = recovery::codes(&fresh);
    let what = Own::Recovery(codes.iter().map(|(_, hash)| *hash).collect());
    match change(asked, &record, what).await {
        Ok(()) => shown(asked, &who.0, codes),
        Err(why) => account::refused(asked, who, &why).await,
    }
}
