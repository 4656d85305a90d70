//! Claiming the box in a browser, and setting a passphrase by a link. Whoever comes here has shown nothing yet; what they have
//! is in the form, and was behind the `#` of an address, which browsers send to nobody.

use http::StatusCode;

use super::{
    answers::{Answer, redirect, wait},
    asked::{Asked, Backend},
    enter,
    form::Form,
    hashing::For,
    own::said,
    pages::{ClaimPage, SetPage},
};
use crate::{
    claim::Tried,
    model::{MemberName, NewAccount, PassphraseHash, Principal, Refusal, Via},
    plan::sign_in::{AccountChange, link_hash},
    sign_in::{passphrase, slow::Try},
};

const BUSY: &str = "The box is busy. Try again in a few seconds.";
const NO_LINK: &str = "This link does not work: it was used, it is too old, or it is not complete. Open it once more from where \
                       you got it, or ask for another.";

pub(super) fn page<B: Backend>(asked: &Asked<'_, B>) -> Answer {
    claim_page(asked, StatusCode::OK, "admin", None)
}

fn claim_page<B: Backend>(
    asked: &Asked<'_, B>,
    status: StatusCode,
    member: &str,
    wrong: Option<(&str, String)>,
) -> Answer {
    ClaimPage::answer(status, asked.backend.facts(), &asked.asker.authority, member, wrong)
}

/// A passphrase that was typed twice, for a member.
fn chosen(form: &Form, member: &MemberName) -> Result<(), (&'static str, String)> {
    let given = form.get("passphrase");
    passphrase::check(given, member).map_err(|weak| ("passphrase", weak.to_string()))?;
    match given == form.get("again") {
        true => Ok(()),
        false => Err(("again", "The two passphrases are not the same.".to_owned())),
    }
}

/// Claims the box, and signs its first owner in.
pub(super) async fn claim<B: Backend>(asked: &Asked<'_, B>, form: &Form) -> Answer {
    let typed = form.get("member").trim();
    let wrong = |status, field, why: String| claim_page(asked, status, typed, Some((field, why)));
    let unfit = StatusCode::UNPROCESSABLE_ENTITY;
    let member = match MemberName::parse(typed) {
        Ok(member) => member,
        Err(_) => {
            let why = "A name has 1 to 40 characters: small letters a to z, digits and hyphens in between.".to_owned();
            return wrong(unfit, "member", why);
        }
    };
    if let Err((field, why)) = chosen(form, &member) {
        return wrong(unfit, field, why);
    }
    let what = Try::new("claim", asked.from(), None);
    if let Err(seconds) = asked.console.begin(&what) {
        let why = format!("Too many wrong codes. Wait {seconds} seconds, then try again.");
        return wait(wrong(unfit, "code", why), seconds);
    }
    match asked.backend.try_code(form.get("code")) {
        Tried::Right => asked.console.slow().right(&what),
        Tried::Wrong => {
            log::warn!(from:display = asked.from(); "a claim code was wrong");
            return wrong(
                unfit,
                "code",
                "The code is wrong. The screen of the box shows the right one.".to_owned(),
            );
        }
        Tried::Closed => return redirect("/sign-in"),
    }
    let Ok(passphrase) = asked.console.hashing.hash(For::Stranger, form.get("passphrase")).await else {
        return wrong(StatusCode::SERVICE_UNAVAILABLE, "code", BUSY.to_owned());
    };
    let account = NewAccount {
        member: member.clone(),
        passphrase,
    };
    let by = Principal::nobody(Via::Claim).seen_at(asked.from());
    match asked.backend.claim(by, account).await {
        Ok(()) => {}
        Err(Refusal::Claimed) => return redirect("/sign-in"),
        Err(why @ (Refusal::MemberExists { .. } | Refusal::ReservedName { .. })) => {
            return wrong(StatusCode::CONFLICT, "member", format!("{why}."));
        }
        Err(why) => return wrong(StatusCode::SERVICE_UNAVAILABLE, "code", format!("{why}.")),
    }
    match asked.backend.sign_in(&member) {
        Some(record) => enter::enter(asked, &record, "by claiming the box", "/account/second-step?new"),
        None => redirect("/sign-in"),
    }
}

/// The page of a link. The script of the page takes the member's name and the secret from behind the `#`.
pub(super) fn set_page<B: Backend>(asked: &Asked<'_, B>) -> Answer {
    if !asked.backend.facts().claimed {
        return redirect("/claim");
    }
    SetPage::answer(StatusCode::OK, "", "", None)
}

/// Sets the passphrase of whoever has the link, and signs them in; with a second step, they show that first.
pub(super) async fn set<B: Backend>(asked: &Asked<'_, B>, form: &Form) -> Answer {
    let link = form.get("link").trim();
    let member = link.split('.').next().unwrap_or_default();
    let wrong = |status, field: &str, why: &str| SetPage::answer(status, member, link, Some((field, why.to_owned())));
    let unfit = StatusCode::UNPROCESSABLE_ENTITY;
    let what = Try::new("set-passphrase", asked.from(), None);
    if let Err(seconds) = asked.console.begin(&what) {
        let why = format!("Too many links that do not work. Wait {seconds} seconds, then try again.");
        return wait(wrong(unfit, "link", &why), seconds);
    }
    let hash = link.rsplit('.').next().map(link_hash).unwrap_or_default();
    let Some(member) = asked.backend.link_of(&hash) else {
        return wrong(unfit, "link", NO_LINK);
    };
    asked.console.slow().right(&what);
    if let Err((field, why)) = chosen(form, &member) {
        return wrong(unfit, field, &why);
    }
    let Ok(passphrase) = asked.console.hashing.hash(For::Stranger, form.get("passphrase")).await else {
        return wrong(StatusCode::SERVICE_UNAVAILABLE, "passphrase", BUSY);
    };
    match redeem(asked, &member, hash, passphrase).await {
        Ok(answer) => answer,
        Err(why) => wrong(unfit, "link", &why),
    }
}

async fn redeem<B: Backend>(
    asked: &Asked<'_, B>,
    member: &MemberName,
    link: [u8; 32],
    passphrase: PassphraseHash,
) -> Result<Answer, String> {
    let change = AccountChange::Redeem { link, passphrase };
    let by = enter::principal(asked, member);
    asked.backend.change(by, change).await.map_err(|why| said(&why))?;
    Ok(match asked.backend.sign_in(member) {
        Some(record) if record.totp.is_none() => enter::enter(
            asked,
            &record,
            "by a link that sets a passphrase",
            "/account/second-step?new",
        ),
        _ => redirect("/sign-in"),
    })
}
