use serde_json::json;

use super::*;
use crate::{
    api::{EventChange, EventKind},
    model::{InstanceView, MemberName, Principal, TokenId, TokenScope, WorkspaceRole},
    policy::{Access, Known},
    record::MemberRecord,
};

fn now() -> jiff::Timestamp {
    "2026-12-01T12:00:00Z".parse().unwrap()
}

fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

fn view(id: &str) -> InstanceView {
    let endpoint = json!({ "url": "https://mcp/", "path_url": "https://box/mcp/" });
    serde_json::from_value(json!({
        "id": id, "name": "x", "type": "memory", "workspace": "here", "size": "small", "state": "running",
        "health": "healthy", "image": "i", "created_at": now(), "endpoints": { "mcp": endpoint }, "restarts": 0,
    }))
    .unwrap()
}

fn some() -> News {
    News::of_instance(view("aaaaaaaaaa"), EventChange::Changed, now())
}

fn concerned(member: &str) -> Concerned {
    let mut concerned = Concerned::default();
    concerned.member(&name(member));
    concerned
}

fn nobody() -> Concerned {
    Concerned::default()
}

fn by(member: &str) -> Principal {
    Principal::member(name(member), TokenId::from_random([1; 12]), &TokenScope::All)
}

/// What a stream takes: numbers, and why lists are to be read again.
fn taken(stream: &mut Following, who: &str) -> Vec<Result<u64, ResetCause>> {
    let by = by(who);
    let mut all = Vec::new();
    loop {
        match stream.take(|c| c.holds(&by)) {
            Taken::Nothing => return all,
            Taken::Reset(why) => all.push(Err(why)),
            Taken::Events(events) => all.extend(events.iter().map(|(seq, _)| Ok(*seq))),
        }
    }
}

#[test]
fn a_stream_has_each_event_once_from_where_it_goes_on() {
    let events = Events::new().unwrap();
    events.publish(vec![some()], nobody());
    let mut first = events.follow("ada", None).unwrap();
    assert_eq!(taken(&mut first, "ada"), [], "what was before is in the lists");
    events.publish(vec![some(), some()], nobody());
    assert_eq!(taken(&mut first, "ada"), [Ok(2), Ok(3)]);
    assert_eq!(taken(&mut first, "ada"), []);
    let (second, last) = (first.id(Some(2)), first.id(None));
    drop(first);
    events.publish(vec![some()], nobody());
    let again = |id: &str| taken(&mut events.follow("ada", Some(id)).unwrap(), "ada");
    assert_eq!((again(&second), again(&last)), (vec![Ok(3), Ok(4)], vec![Ok(4)]));
    for unknown in [
        "",
        "4",
        "\u{e4}",
        &Events::new().unwrap().follow("ada", None).unwrap().id(Some(1)),
    ] {
        assert_eq!(again(unknown), [Err(ResetCause::UnknownId)], "{unknown:?}");
    }
}

#[test]
fn whoever_is_too_far_behind_is_told_and_goes_on_with_the_newest() {
    let events = Events::new().unwrap();
    let mut slow = events.follow("slow", None).unwrap();
    let first = slow.id(None);
    for _ in 0..MOST_EVENTS {
        events.publish(vec![some()], nobody());
    }
    assert_eq!(taken(&mut slow, "slow").len(), MOST_EVENTS, "all that the ring holds");
    let mut slow = events.follow("slow", Some(&first)).unwrap();
    events.publish(vec![some()], nobody());
    assert_eq!(taken(&mut slow, "slow"), [Err(ResetCause::TooSlow)]);
    events.publish(vec![some()], nobody());
    let newest = MOST_EVENTS as u64 + 2;
    assert_eq!(taken(&mut slow, "slow"), [Ok(newest)]);
    let mut old = events.follow("slow", Some(&first)).unwrap();
    assert_eq!(taken(&mut old, "slow"), [Err(ResetCause::TooOld)]);
    assert_eq!(taken(&mut events.follow("x", Some(&old.id(None))).unwrap(), "x"), []);
}

#[test]
fn of_what_was_before_their_rights_changed_nobody_gets_anything() {
    let events = Events::new().unwrap();
    let (mut ada, mut ben) = (events.follow("ada", None).unwrap(), events.follow("ben", None).unwrap());
    let start = ada.id(None);
    events.publish(vec![some(), some()], concerned("ada"));
    events.publish(vec![some()], nobody());
    assert_eq!(taken(&mut ada, "ada"), [Err(ResetCause::Rights), Ok(4)]);
    // The mark itself is nobody else's: it says nothing to them.
    assert_eq!(taken(&mut ben, "ben"), [Ok(1), Ok(2), Ok(3), Ok(4)]);
    let mut again = events.follow("ada", Some(&start)).unwrap();
    assert_eq!(taken(&mut again, "ada"), [Err(ResetCause::Rights), Ok(4)]);
}

#[test]
fn streams_are_counted_by_whose_they_are() {
    let events = Events::new().unwrap();
    let mut theirs: Vec<Following> = (0..STREAMS_EACH).map(|_| events.follow("ada", None).unwrap()).collect();
    assert_eq!(events.follow("ada", None).unwrap_err(), TooMany::Theirs);
    assert!(events.follow("ben", None).is_ok());
    theirs.pop();
    assert!(events.follow("ada", None).is_ok());
    let others: Vec<_> = (0..)
        .map_while(|n| events.follow(&format!("m{}", n / 20), None).ok())
        .collect();
    assert_eq!((events.open(), theirs.len() + others.len()), (STREAMS, STREAMS));
    assert_eq!(events.follow("ben", None).unwrap_err(), TooMany::All);
    drop((theirs, others));
    assert_eq!(events.open(), 0);
}

#[tokio::test]
async fn a_stream_is_woken_by_news_and_ends_with_the_events() {
    let events = Events::new().unwrap();
    let mut stream = events.follow("ada", None).unwrap();
    assert_eq!(taken(&mut stream, "ada"), []);
    let waits = tokio::spawn(async move { (stream.changed().await, stream) });
    events.publish(vec![some()], nobody());
    let (more, mut stream) = waits.await.unwrap();
    assert!(more && taken(&mut stream, "ada") == [Ok(1)]);
    let waits = tokio::spawn(async move { stream.changed().await });
    events.close();
    assert!(!waits.await.unwrap());
    assert!(events.follow("ada", None).unwrap().is_over());
}

#[test]
fn of_what_is_gone_hear_those_who_could_see_it_and_owners() {
    let mut owner = MemberRecord::owner(name("owner"), now());
    let mut members = BTreeMap::from([(owner.name.clone(), owner.clone())]);
    for text in ["could", "other", "disabled"] {
        owner.name = name(text);
        (owner.owner, owner.workspaces) = (
            false,
            [("here".parse().unwrap(), WorkspaceRole::Member)].into_iter().collect(),
        );
        owner.disabled_at = (text == "disabled").then(now);
        members.insert(owner.name.clone(), owner.clone());
    }
    let access = Access {
        members: Arc::new(members.into_iter().collect()),
        ..Access::default()
    };
    let could = ["could", "disabled", "gone"].map(name).into();
    let news = News::of_gone_instance(&view("aaaaaaaaaa"), could, now());
    let known = Known {
        access: &access,
        now: now(),
    };
    for (who, hears) in [
        ("owner", true),
        ("could", true),
        ("other", false),
        ("disabled", false),
        ("gone", false),
    ] {
        assert_eq!(news.is_open(known, &by(who)), hears, "{who}");
    }
    assert_eq!(
        (news.event.kind, news.event.record.is_none()),
        (EventKind::Instance, true)
    );
    assert!(news.is_of(&"aaaaaaaaaa".parse().unwrap()) && !news.is_of(&"bbbbbbbbbb".parse().unwrap()));
}
