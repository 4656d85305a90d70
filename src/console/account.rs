//! One's own account: the passphrase, the second step, where one is signed in.

use http::StatusCode;

use super::{
    answers::{Answer, redirect},
    asked::{Asked, Backend},
    enter,
    form::Form,
    hashing::For,
    own::{change, shown_again},
    pages::{AccountPage, SessionRow, Shell, Told},
};
use crate::{
    model::{AuditKind, AuditOutcome, MemberName, Principal, Via, Who},
    plan::sign_in::Own,
    policy::{Target, Verb},
    session::{Listed, Session},
    sign_in::passphrase as rules,
};

pub(super) fn page<B: Backend>(
    asked: &Asked<'_, B>,
    (member, session): (MemberName, Session),
    status: StatusCode,
    told: Told,
) -> Answer {
    let Some(record) = asked.backend.sign_in(&member) else {
        return redirect("/sign-in");
    };
    let sessions = asked.backend.sessions().list(of(&member));
    let row = |listed: Listed| SessionRow {
        this: listed.session.number == session.number,
        number: listed.session.number,
        agent: listed.session.agent.clone(),
        from: listed
            .session
            .by
            .address()
            .map(|a| a.to_canonical().to_string())
            .unwrap_or_default(),
        began: stamp(listed.session.began_at),
        seen: stamp(listed.seen_at),
    };
    let mut sessions: Vec<SessionRow> = sessions.into_iter().map(row).collect();
    sessions.sort_by_key(|s| (!s.this, std::cmp::Reverse(s.number)));
    AccountPage::answer(status, Shell::of(asked, &member, "account"), &record, sessions, told)
}

/// The console's sessions of a member.
fn of(member: &MemberName) -> impl Fn(&Principal) -> bool + use<> {
    let who = Who::Member(member.clone());
    move |by| *by.who() == who && by.via() == Via::Console
}

fn stamp(seconds: u64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(seconds.cast_signed()).unwrap_or_default()
}

pub(super) async fn refused<B: Backend>(asked: &Asked<'_, B>, who: (MemberName, Session), why: &str) -> Answer {
    let told = Told {
        done: None,
        wrong: Some(why.to_owned()),
    };
    page(asked, who, StatusCode::UNPROCESSABLE_ENTITY, told)
}

/// Another passphrase: every other session ends, and other browsers are known no more.
pub(super) async fn passphrase<B: Backend>(asked: &Asked<'_, B>, who: (MemberName, Session), form: &Form) -> Answer {
    let record = match shown_again(asked, &who, form).await {
        Ok(record) => record,
        Err(why) => return refused(asked, who, &why).await,
    };
    let fresh = form.get("passphrase");
    if let Err(weak) = rules::check(fresh, &who.0) {
        return refused(asked, who, &weak.to_string()).await;
    }
    if fresh != form.get("again") {
        return refused(asked, who, "The two new passphrases are not the same.").await;
    }
    let Ok(hash) = asked.console.hashing.hash(For::Known, fresh).await else {
        return refused(asked, who, "The box is busy. Try again in a few seconds.").await;
    };
    if let Err(why) = change(asked, &record, Own::Passphrase(hash)).await {
        return refused(asked, who, &why).await;
    }
    let (member, own) = (who.0.clone(), who.1.number);
    let theirs = of(&member);
    let ended = asked.backend.sessions().end(|s| s.number != own && theirs(&s.by));
    let done = match ended {
        0 => "The passphrase is changed.".to_owned(),
        n => format!("The passphrase is changed, and {n} other {} ended.", sessions(n)),
    };
    let mut answer = page(asked, who, StatusCode::OK, Told::done(&done));
    if let Some(record) = asked.backend.sign_in(&member) {
        enter::remember(asked, &record, &mut answer);
    }
    answer
}

fn sessions(n: usize) -> &'static str {
    match n {
        1 => "session",
        _ => "sessions",
    }
}

/// Ends one of one's other sessions, or all of them.
pub(super) fn end_sessions<B: Backend>(asked: &Asked<'_, B>, who: (MemberName, Session), form: &Form) -> Answer {
    let (theirs, own) = (of(&who.0), who.1.number);
    let one = form.get("session").parse::<u64>().ok();
    let gone = |s: &Session| s.number != own && theirs(&s.by) && one.is_none_or(|n| n == s.number);
    let n = asked.backend.sessions().end(gone);
    let what = (Verb::ChangeSignIn, Target::Member(&who.0));
    let note = format!("ended {n} other {}", sessions(n));
    log::info!(by = who.0.as_str(); "{note}");
    asked
        .backend
        .told((AuditKind::Act, AuditOutcome::Ok), &asked.asker.by, what, note);
    let done = match n {
        0 => "No other session was there any more.".to_owned(),
        n => format!("{n} {} ended.", sessions(n)),
    };
    page(asked, who, StatusCode::OK, Told::done(&done))
}
