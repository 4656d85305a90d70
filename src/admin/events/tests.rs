use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::{
    api::{EventChange, EventKind},
    events::{Concerned, Events},
    model::{Endpoint, Endpoints, InstanceView, MemberName, MemberView, TokenId, TokenScope, WorkspaceRole},
    policy::Reading,
    record::MemberRecord,
};

fn at() -> Timestamp {
    "2026-12-01T12:00:00Z".parse().unwrap()
}

fn view(id: &str) -> InstanceView {
    let endpoint = json!({ "url": "https://here/", "path_url": "https://here/" });
    serde_json::from_value(json!({
        "id": id, "name": "x", "type": "memory", "workspace": "here", "size": "small", "state": "running",
        "health": "healthy", "image": "i", "created_at": at(), "endpoints": { "mcp": endpoint }, "restarts": 0,
    }))
    .unwrap()
}

fn instance(id: &str) -> News {
    News::of_instance(view(id), EventChange::Changed, at())
}

fn member(name: &str) -> News {
    let view: MemberView = serde_json::from_value(json!({
        "name": name, "role": "member", "workspaces": { "here": "member", "there": "member" },
        "teams": ["here/a", "there/b"], "created_at": at(), "disabled_at": null, "tokens": 0, "last_used_at": null,
    }))
    .unwrap();
    let mut news = instance("aaaaaaaaaa");
    news.event.kind = EventKind::Member;
    news.event.instance = None;
    (news.event.id, news.reading) = (name.to_owned(), Reading::from(&view));
    news.event.record = Some(EventRecord::Member(Box::new(view)));
    news
}

/// An owner, an admin of `here`, and a member of `here` and `there`.
fn access() -> Arc<ArcSwap<Access>> {
    let mut all = BTreeMap::new();
    for (name, role) in [
        ("owner", None),
        ("boss", Some(WorkspaceRole::Admin)),
        ("ada", Some(WorkspaceRole::Member)),
    ] {
        let mut record = MemberRecord::owner(name.parse().unwrap(), at());
        record.owner = role.is_none();
        record.workspaces = role.into_iter().map(|r| ("here".parse().unwrap(), r)).collect();
        if name == "ada" {
            record
                .workspaces
                .insert("there".parse().unwrap(), WorkspaceRole::Member);
        }
        all.insert(record.name.clone(), record);
    }
    let access = Access {
        members: Arc::new(all.into_iter().collect()),
        ..Access::default()
    };
    Arc::new(ArcSwap::from_pointee(access))
}

/// Of another one each time: how many streams one person has is none of what is looked at here.
fn another_name() -> String {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    format!("m{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

fn follows(events: &Events, access: &Arc<ArcSwap<Access>>, who: &str) -> Stream {
    let name: MemberName = who.parse().unwrap();
    Stream {
        following: events.follow(&another_name(), None).unwrap(),
        by: Principal::member(name, TokenId::from_random([1; 12]), &TokenScope::All),
        access: Arc::clone(access),
        addresses: None,
        kinds: None,
        instance: None,
        goes_on: true,
        begun: false,
        every: Duration::from_millis(100),
        beat: Instant::now() + Duration::from_millis(100),
    }
}

/// Events and their data, of what comes next.
async fn next(stream: &mut Stream) -> Vec<(String, Value)> {
    let piece = stream.next().await.expect("it goes on");
    let mut all = Vec::new();
    sse::Reader::default().feed(&piece, |e| {
        all.push((e.kind, serde_json::from_slice(&e.data).unwrap()));
    });
    all
}

fn named(all: &[(String, Value)]) -> Vec<(&str, &str)> {
    all.iter()
        .map(|(e, data)| (e.as_str(), data["id"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn a_stream_begins_with_where_to_go_on_and_beats_while_nothing_comes() {
    let (events, access) = (Events::new().unwrap(), access());
    let mut stream = follows(&events, &access, "owner");
    let text = |piece: Option<Bytes>| String::from_utf8(piece.unwrap().to_vec()).unwrap();
    let first = text(stream.next().await);
    assert!(
        first.starts_with("retry: 2000\nid: ") && first.ends_with("\n\n"),
        "{first}"
    );
    let before = Instant::now();
    let beat = text(stream.next().await);
    assert!(
        beat.starts_with(": \nid: ") && before.elapsed() >= stream.every / 2,
        "{beat}"
    );
    // What is not for them puts no comment off.
    let mut ada = follows(&events, &access, "ada");
    ada.next().await;
    let noise = events.clone();
    tokio::spawn(async move {
        loop {
            noise.publish(vec![instance("aaaaaaaaaa")], Concerned::default());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let before = Instant::now();
    let beat = text(ada.next().await);
    assert!(
        beat.starts_with(": \nid: ") && before.elapsed() < Duration::from_secs(30),
        "{beat}"
    );
}

#[tokio::test]
async fn each_gets_what_they_may_see_as_they_may_see_it() {
    let (events, access) = (Events::new().unwrap(), access());
    let mut all = ["owner", "boss", "ada"].map(|who| follows(&events, &access, who));
    for stream in &mut all {
        stream.next().await;
    }
    events.publish(
        vec![instance("aaaaaaaaaa"), member("ada"), member("owner")],
        Concerned::default(),
    );
    let [owner, boss, ada] = &mut all;
    let seen = next(owner).await;
    let of_owner = [
        ("instance-changed", "aaaaaaaaaa"),
        ("member-changed", "ada"),
        ("member-changed", "owner"),
    ];
    assert_eq!(named(&seen), of_owner);
    assert_eq!(seen[0].1["record"]["endpoints"]["mcp"]["url"], "https://here/");
    assert_eq!(seen[1].1["record"]["teams"], json!(["here/a", "there/b"]));
    let seen = next(boss).await;
    assert_eq!(named(&seen), [("member-changed", "ada")]);
    let shown = &seen[0].1["record"];
    assert_eq!(
        (&shown["teams"], &shown["workspaces"]),
        (&json!(["here/a"]), &json!({ "here": "member" }))
    );
    let seen = next(ada).await;
    assert_eq!(named(&seen), [("member-changed", "ada")]);
    assert_eq!(seen[0].1["record"]["teams"], json!(["here/a", "there/b"]));
    // What changed of somebody that they may not see is nothing to them.
    let mut hidden = member("ada");
    if let Some(EventRecord::Member(is)) = &hidden.event.record {
        let mut was = is.clone();
        was.teams.remove(&"there/b".parse().unwrap());
        was.workspaces.remove("there");
        hidden.was = Some(was);
    }
    events.publish(vec![hidden.clone()], Concerned::default());
    hidden.was.as_mut().unwrap().workspaces.clear();
    events.publish(vec![hidden], Concerned::default());
    assert_eq!(
        named(&next(boss).await),
        [("member-changed", "ada")],
        "once, of the two"
    );
    assert_eq!(next(owner).await.len(), 2);
    // By what they may at the moment that it leaves.
    events.publish(vec![member("ada")], Concerned::default());
    let mut less = (**access.load()).clone();
    let mut boss_of_nothing = less.members.get("boss").unwrap().clone();
    boss_of_nothing.workspaces.retain(|_| false);
    Arc::make_mut(&mut less.members).put(boss_of_nothing);
    access.store(Arc::new(less));
    let mut concerned = Concerned::default();
    concerned.member(&"boss".parse().unwrap());
    events.publish(vec![member("ada")], concerned);
    assert_eq!(next(boss).await, [("reset".to_owned(), json!({ "why": "rights" }))]);
    boss.goes_on = false;
    assert_eq!(boss.next().await, None, "and nothing more");
}

#[tokio::test]
async fn a_stream_is_of_what_was_asked_for() {
    let (events, access) = (Events::new().unwrap(), access());
    let mut kinds = follows(&events, &access, "owner");
    kinds.kinds = Some(vec!["member".to_owned(), "team".to_owned()]);
    let mut one = follows(&events, &access, "owner");
    one.instance = Some("bbbbbbbbbb".parse().unwrap());
    one.addresses = Some(Box::new(|id| Endpoints {
        mcp: Endpoint {
            url: format!("https://asked/{id}"),
            path_url: String::new(),
        },
        screen: None,
    }));
    events.publish(
        vec![instance("aaaaaaaaaa"), instance("bbbbbbbbbb"), member("ada")],
        Concerned::default(),
    );
    assert_eq!(named(&next(&mut kinds).await), [("member-changed", "ada")]);
    let seen = next(&mut one).await;
    assert_eq!(named(&seen), [("instance-changed", "bbbbbbbbbb")]);
    assert_eq!(
        seen[0].1["record"]["endpoints"]["mcp"]["url"],
        "https://asked/bbbbbbbbbb"
    );
    one.goes_on = false;
    assert_eq!(one.next().await, None, "it has all that there is");
}

#[tokio::test]
async fn a_stream_ends_with_its_asker_and_with_the_supervisor() {
    let (events, access) = (Events::new().unwrap(), access());
    let mut streams = ["owner", "ada"].map(|who| follows(&events, &access, who));
    for stream in &mut streams {
        stream.next().await;
    }
    let [owner, ada] = &mut streams;
    let mut less = (**access.load()).clone();
    let mut disabled = less.members.get("ada").unwrap().clone();
    disabled.disabled_at = Some(at());
    Arc::make_mut(&mut less.members).put(disabled);
    access.store(Arc::new(less));
    events.publish(vec![member("ada")], Concerned::default());
    assert_eq!(ada.next().await, None);
    assert_eq!(named(&next(owner).await), [("member-changed", "ada")]);
    events.close();
    assert_eq!(owner.next().await, None);
}

#[test]
fn the_header_says_where_to_go_on() {
    let of = |value: &[u8]| {
        let value = http::HeaderValue::from_bytes(value).unwrap();
        last_id(&HeaderMap::from_iter([(
            http::HeaderName::from_static("last-event-id"),
            value,
        )]))
    };
    assert_eq!(last_id(&HeaderMap::new()), None);
    assert_eq!((of(b" abc "), of(b"")), (Some("abc".to_owned()), None));
    assert_eq!(of(b"\xff"), Some("\u{fffd}".to_owned()), "one that is none");
}

/// Publishing wakes whoever follows, and does nothing for each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_follow_and_publishing_waits_for_none() {
    const STREAMS: usize = 1000;
    const CHANGES: usize = 20;
    let (events, access) = (Events::new().unwrap(), access());
    let mut all = tokio::task::JoinSet::new();
    for n in 0..STREAMS {
        let mut stream = follows(&events, &access, "owner");
        if n % 2 == 0 {
            stream.by = Principal::member("ada".parse().unwrap(), TokenId::from_random([1; 12]), &TokenScope::All);
        }
        stream.next().await;
        all.spawn(async move {
            let mut seen = 0;
            while seen < CHANGES {
                let piece = stream.next().await.expect("it goes on");
                sse::Reader::default().feed(&piece, |e| seen += usize::from(e.kind == "member-changed"));
            }
            seen
        });
    }
    let (mut longest, begun) = (Duration::ZERO, Instant::now());
    for _ in 0..CHANGES {
        let before = Instant::now();
        events.publish(vec![instance("aaaaaaaaaa"), member("ada")], Concerned::default());
        longest = longest.max(before.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while let Some(seen) = all.join_next().await {
        assert_eq!(seen.unwrap(), CHANGES);
    }
    let took = begun.elapsed();
    println!("{CHANGES} changes to {STREAMS} streams: {longest:?} to publish one at most, {took:?} until all had all");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}
