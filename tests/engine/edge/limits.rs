//! Bounds of calls: how fast they come, how many are under way, and that each gives its place back however it ends.

use super::{
    doors::{Echo, member, request},
    rig::{Client, Rig, body_of, json_of, next_chunk},
};
use berth::{
    authz::{UnderWay, Whose},
    config::Limits,
    model::CallLimit,
};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::{sync::Arc, time::Duration};
use tokio::io::AsyncReadExt;

const SOON: Duration = Duration::from_secs(60);

fn fast(per_second: u32) -> CallLimit {
    CallLimit { per_second, at_once: 0 }
}

fn at_once(at_once: u32) -> CallLimit {
    CallLimit { per_second: 0, at_once }
}

/// A call that says which one it is.
fn call(rig: &Rig, token: &str) -> Request<super::rig::Body> {
    let body = r#"{"jsonrpc":"2.0","id":41,"method":"tools/list"}"#;
    rig.with(&rig.host(), "echo", token)
        .map(|_| Full::new(Bytes::from(body)).boxed())
}

/// Calls until one is refused, which has to come soon.
async fn until_refused(rig: &Rig, client: &mut Client, token: &str) -> (usize, Response<Incoming>) {
    for passed in 0..2000 {
        let response = client.send(call(rig, token)).await.unwrap();
        match response.status().as_u16() {
            200 => drop(body_of(response).await),
            429 => return (passed, response),
            other => panic!("{other}"),
        }
    }
    panic!("2000 calls were let through");
}

async fn waits(response: &Response<Incoming>) {
    let wait = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait} s");
    tokio::time::sleep(Duration::from_secs(wait)).await;
}

/// Waits until so many calls and streams are under way with tokens of instances.
async fn under_way(rig: &Rig, calls: u64, streams: u64) {
    let now = || rig.edge.stats().under_way.into_iter().find(|u| u.whose == Whose::Token);
    let wanted = Some(UnderWay {
        whose: Whose::Token,
        calls,
        streams,
    });
    let until = tokio::time::Instant::now() + SOON;
    while now() != wanted {
        assert!(tokio::time::Instant::now() < until, "{:?}, not {wanted:?}", now());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn too_fast(rig: &Rig, whose: Whose) -> u64 {
    let all = rig.edge.stats().too_fast;
    all.iter().find(|(w, _)| *w == whose).unwrap().1
}

#[tokio::test]
async fn who_calls_too_fast_is_told_when_to_call_again_and_the_others_go_on() {
    let rig = Rig::start_with(|l| l.member_calls = fast(2)).await;
    let (other, _) = rig.token(&rig.id, 50, None);
    for http2 in [false, true] {
        let mut client = rig.client(&rig.host(), http2).await;
        let (passed, refused) = until_refused(&rig, &mut client, &rig.token).await;
        assert!(http2 || passed >= 8, "{passed} of a burst of 8");
        let mut others = rig.client(&rig.host(), http2).await;
        assert_eq!(others.send(call(&rig, &other)).await.unwrap().status(), 200);
        waits(&refused).await;
        let said = json_of(refused).await;
        assert_eq!((&said["id"], &said["error"]["code"]), (&41.into(), &(-31007).into()));
        let message = said["error"]["message"].as_str().unwrap();
        assert!(message.contains("with this token"), "{message}");
        assert_eq!(client.send(call(&rig, &rig.token)).await.unwrap().status(), 200);
    }
    assert!(too_fast(&rig, Whose::Token) >= 2);
    let stats = rig.edge.stats();
    assert_eq!((stats.slowed, stats.unauthorized), (0, 0), "they are no wrong tokens");
    under_way(&rig, 0, 0).await;
}

#[tokio::test]
async fn an_instance_has_a_bound_of_its_own() {
    let rig = Rig::start_with(|l| l.instance_calls = fast(2)).await;
    let mut client = rig.client(&rig.host(), true).await;
    let (passed, refused) = until_refused(&rig, &mut client, &rig.token).await;
    assert!(passed >= 8, "{passed}");
    let said = json_of(refused).await["error"]["message"].clone();
    assert!(said.as_str().unwrap().contains("this instance"), "{said}");
    // Whoever calls.
    let (other, _) = rig.token(&rig.id, 50, None);
    let (_, refused) = until_refused(&rig, &mut client, &other).await;
    waits(&refused).await;
    assert_eq!(client.send(call(&rig, &other)).await.unwrap().status(), 200);
    assert!(too_fast(&rig, Whose::Instance) >= 2 && too_fast(&rig, Whose::Token) == 0);
}

#[tokio::test]
async fn a_place_comes_back_however_its_call_ends() {
    let rig = Rig::start_with(|l| l.member_calls = at_once(2)).await;
    let host = rig.host();
    for http2 in [false, true] {
        let mut clients = [rig.client(&host, http2).await, rig.client(&host, http2).await];
        let answers = clients.each_mut().map(|c| {
            let wait = rig.with(&host, "wait", &rig.token);
            async move { body_of(c.send(wait).await.unwrap()).await }
        });
        let answers = futures_util::future::join_all(answers);
        let mut other = rig.client(&host, http2).await;
        let meanwhile = async {
            under_way(&rig, 2, 0).await;
            let refused = other.send(call(&rig, &rig.token)).await.unwrap();
            assert_eq!(
                (refused.status().as_u16(), &refused.headers()["retry-after"]),
                (429, &"1".parse().unwrap())
            );
            assert!(
                json_of(refused).await["error"]["message"]
                    .as_str()
                    .unwrap()
                    .contains("under way")
            );
            // Who listens takes no call's place, and calls take none of theirs.
            let mut listen = rig.with(&host, "sse", &rig.token);
            *listen.method_mut() = Method::GET;
            let mut listener = rig.client(&host, http2).await;
            let mut stream = listener.send(listen).await.unwrap();
            assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("data: one\n\n"));
            under_way(&rig, 2, 1).await;
            drop((stream, listener));
            under_way(&rig, 2, 0).await;
            loop {
                // One that has not come to the agent yet does not hear it.
                rig.agent.go.notify_waiters();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let answers = tokio::select! {
            answers = answers => answers,
            () = meanwhile => unreachable!(),
        };
        assert_eq!(answers, ["done", "done"]);
        under_way(&rig, 0, 0).await;
        assert_eq!(other.send(call(&rig, &rig.token)).await.unwrap().status(), 200);
        // The client breaks off, before an answer and in the middle of one.
        let mut gone = rig.client(&host, http2).await;
        let hang = rig.with(&host, "hang", &rig.token);
        let hangs = tokio::spawn(async move { gone.send(hang).await.map(drop) });
        let mut broken = rig.client(&host, http2).await;
        let stream = broken.send(rig.with(&host, "sse", &rig.token)).await.unwrap();
        under_way(&rig, 2, 0).await;
        hangs.abort();
        drop((stream, broken));
        under_way(&rig, 0, 0).await;
    }
    assert_eq!(rig.edge.stats().too_many[Whose::Token as usize], (Whose::Token, 2));
}

#[tokio::test]
async fn a_switched_protocol_keeps_its_place_until_it_ends() {
    let rig = Rig::start_with(|l| l.member_calls = at_once(8)).await;
    let mut client = rig.client(&rig.host(), false).await;
    let mut asked = rig.with(&rig.host(), "ws", &rig.token);
    *asked.method_mut() = Method::GET;
    for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
        asked.headers_mut().insert(name, value.parse().unwrap());
    }
    let mut response = client.send(asked).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut io = hyper_util::rt::TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    let mut welcome = [0; 7];
    io.read_exact(&mut welcome).await.unwrap();
    under_way(&rig, 0, 1).await;
    drop(io);
    under_way(&rig, 0, 0).await;
}

/// What a member asks of the API counts apart from their calls, by all of their tokens.
#[tokio::test]
async fn the_api_has_the_same_bound_for_each_member() {
    let limits = |l: &mut Limits| l.member_calls = fast(2);
    let rig = Rig::with_front_and(Arc::new(Echo), limits).await;
    let (ada, _) = member(&rig);
    let mut client = rig.client("localhost", true).await;
    let list = || {
        request(
            Method::POST,
            "/api/v1/actions",
            &ada,
            Full::new(Bytes::from("{}")).boxed(),
        )
    };
    let mut passed = 0;
    let refused = loop {
        let response = client.send(list()).await.unwrap();
        if response.status() != 200 {
            break response;
        }
        passed += 1;
        assert!(passed < 2000, "all are let through");
        body_of(response).await;
    };
    assert!(passed >= 8, "{passed}");
    assert_eq!(refused.status(), 429);
    waits(&refused).await;
    let said = json_of(refused).await;
    assert_eq!((&said["code"], &said["status"]), (&"too-fast".into(), &429.into()));
    assert_eq!(client.send(list()).await.unwrap().status(), 200);
    let mut calls = rig.client(&rig.host(), true).await;
    let (passed, _) = until_refused(&rig, &mut calls, &ada).await;
    assert!(passed >= 8, "{passed}");
}
