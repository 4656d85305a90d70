//! Signing in and out: a passphrase, then a code where the account has a second step. What was wrong is not told, nor whether
//! there is such a member.
//!
//! ```text
//! name, passphrase ──right──► session                (no second step)
//!      │                 └──► ticket ── code ──► session
//!      └──wrong──► counted; past a few, 429
//! ```
//!
//! A browser that signed in before keeps a cookie that says so, sealed by the box: who has it has a count of failures of their
//! own, so that nobody's guessing elsewhere holds them up.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use http::StatusCode;

use super::{
    answers::{Answer, keep, redirect, wait},
    asked::{Asked, Backend, Console, lock},
    form::Form,
    hashing::For,
    pages::{self, CodePage, SignInPage},
    waiting::Pending,
};
use crate::{
    model::{AuditKind, AuditOutcome, MemberName, Principal, Secret, hex},
    plan::sign_in::{AccountChange, Own},
    policy::{Target, Verb},
    record::{Sealed, SignInRecord},
    secret::random,
    session::{Cookie, IDLE, KNOWN, SIGNED_IN, Session},
    sign_in::{recovery, slow::Try, totp},
};

/// What keeps that a browser is known.
const DEVICE: &str = "device";

/// Where somebody may be led to once they have signed in.
const PLACES: [&str; 4] = ["/", "/account", "/account/second-step", "/people"];

const WRONG: &str = "The name or the passphrase is wrong.";
const WRONG_CODE: &str = "The code is wrong, or it was used already. Wait for the next one.";
const BUSY: &str = "Too many people are signing in at this moment. Try again in a few seconds.";

/// Where a form wants to go on to: one of the console's own pages.
pub(super) fn next(form: &Form) -> &'static str {
    let next = form.get("next");
    PLACES.into_iter().find(|p| *p == next).unwrap_or("/")
}

pub(super) fn page<B: Backend>(asked: &Asked<'_, B>) -> Answer {
    shown(StatusCode::OK, ("", next(&Form::of_query(&asked.query))), None)
}

fn shown(status: StatusCode, (member, next): (&str, &'static str), wrong: Option<&str>) -> Answer {
    SignInPage::answer(status, member, next, wrong)
}

/// For a page that wants somebody signed in. A link from elsewhere brings no strict cookie along: the page that answers asks
/// once more, as a page of our own.
pub(super) fn needed<B: Backend>(asked: &Asked<'_, B>, path: &str) -> Answer {
    let from_elsewhere = asked.headers.get("sec-fetch-site").is_some_and(|v| v == "cross-site");
    let to = PLACES.into_iter().find(|p| *p == path).unwrap_or("/");
    match (from_elsewhere, to) {
        (true, to) => pages::again(to),
        (false, "/account") => redirect("/sign-in?next=/account"),
        (false, "/account/second-step") => redirect("/sign-in?next=/account/second-step"),
        (false, "/people") => redirect("/sign-in?next=/people"),
        _ => redirect("/sign-in"),
    }
}

/// The passphrase.
pub(super) async fn sign_in<B: Backend>(asked: &Asked<'_, B>, form: &Form) -> Answer {
    let (typed, next) = (form.get("member").trim(), next(form));
    let member = MemberName::parse(typed).ok();
    let record = member.as_ref().and_then(|m| asked.backend.sign_in(m));
    let device = record.as_ref().and_then(|r| device(asked, r));
    let what = Try::new(typed, asked.from(), device);
    if let Err(seconds) = asked.console.begin(&what) {
        refused(
            asked,
            member.as_ref().filter(|_| record.is_some()),
            "too many failed attempts",
        );
        let told = format!("Too many failed attempts. Wait {seconds} seconds, then try again.");
        return wait(shown(StatusCode::OK, (typed, next), Some(&told)), seconds);
    }
    let who = match device {
        Some(_) => For::Known,
        None => For::Stranger,
    };
    let kept = record.as_ref().and_then(|r| r.passphrase.clone());
    let Ok(right) = asked.console.hashing.matches(who, form.get("passphrase"), kept).await else {
        return shown(StatusCode::SERVICE_UNAVAILABLE, (typed, next), Some(BUSY));
    };
    let Some(record) = record.filter(|_| right) else {
        let there = member.as_ref().filter(|m| asked.backend.sign_in(m).is_some());
        refused(asked, there, "wrong passphrase");
        return shown(StatusCode::UNPROCESSABLE_ENTITY, (typed, next), Some(WRONG));
    };
    asked.console.slow().right(&what);
    if record.totp.is_none() {
        return enter(asked, &record, "with a passphrase", next);
    }
    let Ok(random) = random::<32>() else {
        return shown(StatusCode::SERVICE_UNAVAILABLE, (typed, next), Some(BUSY));
    };
    let ticket = hex(&random);
    let pending = Pending::new(&record, asked.console.now());
    lock(&asked.console.second).add(&ticket, pending);
    CodePage::answer(StatusCode::OK, &ticket, next, None)
}

/// The second step.
pub(super) async fn code<B: Backend>(asked: &Asked<'_, B>, form: &Form) -> Answer {
    let (ticket, next) = (form.get("ticket"), next(form));
    let pending = lock(&asked.console.second).take(ticket, asked.console.now());
    let record = pending.as_ref().and_then(|p| asked.backend.sign_in(&p.member));
    let same = record
        .zip(pending)
        .filter(|(r, p)| r.epoch == p.epoch && r.since == p.since);
    let Some((record, pending)) = same else {
        let told = "That took too long. Enter the passphrase again.";
        return shown(StatusCode::UNPROCESSABLE_ENTITY, ("", next), Some(told));
    };
    let what = Try::second(record.member.as_str(), device(asked, &record));
    if let Err(seconds) = asked.console.begin(&what) {
        refused(asked, Some(&record.member), "too many failed codes");
        let told = format!("Too many wrong codes. Wait {seconds} seconds, then try again.");
        lock(&asked.console.second).add(ticket, pending);
        return wait(CodePage::answer(StatusCode::OK, ticket, next, Some(&told)), seconds);
    }
    match use_code(asked, &record, form.get("code")).await {
        Ok(how) => {
            asked.console.slow().right(&what);
            enter(asked, &record, how, next)
        }
        Err(()) => {
            refused(asked, Some(&record.member), "wrong code");
            lock(&asked.console.second).add(ticket, pending);
            CodePage::answer(StatusCode::UNPROCESSABLE_ENTITY, ticket, next, Some(WRONG_CODE))
        }
    }
}

/// Uses a code of the app, or a recovery code: each works once, and the ledger says whether this was the first time.
async fn use_code<B: Backend>(asked: &Asked<'_, B>, record: &SignInRecord, code: &str) -> Result<&'static str, ()> {
    let totp = record.totp.as_ref().ok_or(())?;
    let secret = asked.backend.key().open_totp(&record.member, &totp.secret);
    let secret = secret.map_err(|e| log::error!(member = record.member.as_str(); "{e}"))?;
    let (what, how) = match totp::step_of(&secret, code, totp.last, unix_now()) {
        Some(step) => (Own::UseStep(step), "with a passphrase and a code"),
        None => {
            let hash = recovery::hash(code);
            record.recovery.contains(&hash).then_some(()).ok_or(())?;
            (Own::UseRecovery(hash), "with a passphrase and a recovery code")
        }
    };
    let change = AccountChange::Own {
        member: record.member.clone(),
        epoch: record.epoch,
        what,
    };
    let by = principal(asked, &record.member);
    asked.backend.change(by, change).await.map(|_| how).map_err(|_| ())
}

pub(super) fn unix_now() -> u64 {
    jiff::Timestamp::now().as_second().try_into().unwrap_or_default()
}

/// The member, as whoever is about to be signed in.
pub(super) fn principal<B: Backend>(asked: &Asked<'_, B>, member: &MemberName) -> Principal {
    Principal::signed_in(member.clone()).seen_at(asked.from())
}

/// Begins a session for whoever has shown all that there is to show, and leads them on.
pub(super) fn enter<B: Backend>(asked: &Asked<'_, B>, record: &SignInRecord, how: &str, next: &'static str) -> Answer {
    let by = principal(asked, &record.member);
    let agent = asked.agent();
    let session = |now| Session {
        number: 0,
        by: by.clone(),
        began_at: now,
        ends_at: now + SIGNED_IN,
        idle: Some(IDLE),
        agent,
    };
    // They may have been disabled, or their sign-in reset, while the hash was made.
    let still = || {
        let now = asked.backend.sign_in(&record.member);
        now.is_some_and(|r| r.epoch == record.epoch && r.since == record.since)
    };
    let begun = asked.backend.sessions().begin(session, still);
    let Ok(Some((secret, session))) = begun else {
        return shown(StatusCode::SERVICE_UNAVAILABLE, ("", next), Some(BUSY));
    };
    log::info!(by = record.member.as_str(), session = session.number, from:display = asked.from(); "signed in {how}");
    let (kind, what) = (AuditKind::SignIn, (Verb::UseApi, Target::Box));
    asked.backend.told((kind, AuditOutcome::Ok), &by, what, how.to_owned());
    let mut answer = redirect(next);
    keep(
        &mut answer,
        &Cookie::of_host(crate::door::CONSOLE_COOKIE),
        &secret,
        SIGNED_IN,
    );
    remember(asked, record, &mut answer);
    answer
}

pub(super) fn sign_out<B: Backend>(asked: &Asked<'_, B>, session: &Session) -> Answer {
    asked.backend.sessions().end(|s| s.number == session.number);
    log::info!(by = session.by.name().as_str(), session = session.number; "signed out");
    let what = (Verb::UseApi, Target::Box);
    let note = "signed out".to_owned();
    asked
        .backend
        .told((AuditKind::SignIn, AuditOutcome::Ok), &asked.asker.by, what, note);
    let mut answer = redirect("/sign-in");
    let cookie = Cookie::of_host(crate::door::CONSOLE_COOKIE);
    if let Ok(value) = cookie.unset().parse() {
        answer.headers_mut().append(http::header::SET_COOKIE, value);
    }
    answer
}

/// Tells log and audit of somebody who was not let in. A name that is no member's may be a passphrase in the wrong field.
fn refused<B: Backend>(asked: &Asked<'_, B>, member: Option<&MemberName>, why: &str) {
    let whose = member.map_or_else(|| "nobody's name".to_owned(), |m| format!("member {m}"));
    log::warn!(from:display = asked.from(); "a sign-in failed: {why} ({whose})");
    let by = Principal::nobody(crate::model::Via::Console).seen_at(asked.from());
    let what = (AuditKind::SignIn, AuditOutcome::Refused);
    asked
        .backend
        .told(what, &by, (Verb::UseApi, Target::Box), format!("{why}: {whose}"));
}

/// Gives the browser what says that this member signed in with it.
pub(super) fn remember<B: Backend>(asked: &Asked<'_, B>, record: &SignInRecord, answer: &mut Answer) {
    let Ok(id) = random::<16>() else { return };
    let id = device(asked, record).unwrap_or(id);
    let until = unix_now() + KNOWN;
    let text = format!("{} {} {until} {}", record.since.as_nanosecond(), record.epoch, hex(&id));
    if let Ok(sealed) = asked.backend.key().seal_device(&record.member, &Secret::new(text)) {
        keep(answer, &Cookie::of_host(DEVICE), &BASE64.encode(sealed.0), KNOWN);
    }
}

/// The browser's own number, where this very member has signed in with it, and it has not guessed since.
pub(super) fn device<B: Backend>(asked: &Asked<'_, B>, record: &SignInRecord) -> Option<[u8; 16]> {
    let sealed = BASE64.decode(asked.cookie(&Cookie::of_host(DEVICE))?).ok()?;
    let text = asked.backend.key().open_device(&record.member, &Sealed(sealed)).ok()?;
    let id = known(text.expose(), record, unix_now())?;
    spent(asked.console, id)
}

fn spent(console: &Console, id: [u8; 16]) -> Option<[u8; 16]> {
    let now = console.now();
    (!console.slow().is_spent(id, now)).then_some(id)
}

fn known(text: &str, record: &SignInRecord, now: u64) -> Option<[u8; 16]> {
    let mut words = text.split(' ');
    let same = words.next()? == record.since.as_nanosecond().to_string() && words.next()? == record.epoch.to_string();
    let lasts = words.next()?.parse::<u64>().ok()? > now;
    let id = u128::from_str_radix(words.next()?, 16).ok()?;
    (same && lasts && words.next().is_none()).then(|| id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::MemberRecord;

    #[test]
    fn one_is_led_to_our_own_pages_alone() {
        let to = |query: &str| next(&Form::of_query(query));
        assert_eq!(to("next=/account"), "/account");
        for other in [
            "",
            "next=https://evil.example/",
            "next=//evil.example",
            "next=/%5cevil.example",
            "next=/account%0d%0aSet-Cookie:x",
            "next=javascript:alert(1)",
            "next=/account/../x",
        ] {
            assert_eq!(to(other), "/", "{other}");
        }
    }

    #[test]
    fn a_known_browser_is_one_of_this_member_and_this_passphrase() {
        let member = MemberRecord::owner(MemberName::admin(), jiff::Timestamp::UNIX_EPOCH);
        let record = SignInRecord {
            epoch: 3,
            ..SignInRecord::none(&member)
        };
        let id = hex(&[0xab; 16]);
        assert_eq!(known(&format!("0 3 100 {id}"), &record, 99), Some([0xab; 16]));
        for other in [
            format!("0 3 100 {id} x"),
            format!("1 3 100 {id}"),
            format!("0 2 100 {id}"),
            format!("0 3 99 {id}"),
            "0 3 100".to_owned(),
            String::new(),
        ] {
            assert_eq!(known(&other, &record, 99), None, "{other}");
        }
    }
}
