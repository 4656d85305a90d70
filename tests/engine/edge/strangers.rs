//! What strangers, token holders and instances may cost each other: floods of connections, of frames, of small pieces.

use std::{net::SocketAddr, time::Duration};

use berth::{link::LinkEvent, model::AgentState};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UnixStream},
    time::timeout,
};

use super::rig::{Rig, body_of, json_of, next_chunk};

/// Whatever is waited for comes much sooner.
const SOON: Duration = Duration::from_secs(90);

async fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, last], 0).into()).unwrap();
    timeout(SOON, socket.connect(to)).await.unwrap().unwrap()
}

/// Silent connections, so many from each of four addresses; they are all accepted when this returns.
async fn flood(rig: &Rig, to: SocketAddr, each: u64) -> Vec<TcpStream> {
    let before = rig.edge.stats().accepted;
    let mut all = Vec::new();
    for _ in 0..each {
        for last in 2..=5 {
            all.push(connect_from(last, to).await);
        }
    }
    until(|| rig.edge.stats().accepted >= before + each * 4).await;
    all
}

async fn until(done: impl Fn() -> bool) {
    let turning = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, turning).await.expect("it never came about");
}

#[tokio::test]
async fn silent_connections_from_four_addresses_shut_nobody_out() {
    let rig = Rig::start_with(|limits| {
        limits.connections = 64;
        limits.connections_without_token = 16;
        limits.connections_per_address = 32;
    })
    .await;
    let host = rig.host();
    let mut streaming = rig.client(&host, true).await;
    let mut stream = streaming.send(rig.with(&host, "sse", &rig.token)).await.unwrap();
    assert_eq!(next_chunk(&mut stream).await.unwrap(), "data: one\n\n");
    let mut kept = rig.client(&host, false).await;
    assert_eq!(kept.send(rig.post(&host, "/mcp", "")).await.unwrap().status(), 200);
    let _silent = flood(&rig, rig.https, 100).await;
    // Who has shown a token stays; who comes now comes in, and so does somebody without a token, to be told so.
    assert_eq!(kept.send(rig.post(&host, "/mcp", "")).await.unwrap().status(), 200);
    for http2 in [false, true] {
        let mut late = rig.client(&host, http2).await;
        assert_eq!(late.send(rig.post(&host, "/mcp", "")).await.unwrap().status(), 200);
        let mut stranger = rig.client("localhost", http2).await;
        let mut request = rig.post("localhost", &format!("/mcp/{}", rig.id), "");
        request.headers_mut().remove("authorization");
        assert_eq!(stranger.send(request).await.unwrap().status(), 401);
    }
    rig.agent.go.notify_one();
    assert_eq!(next_chunk(&mut stream).await.unwrap(), "data: two\n\n");
    until(|| rig.edge.stats().connections <= 16 + 8).await;
    assert!(rig.edge.stats().evicted >= 300);
}

#[tokio::test]
async fn the_redirects_have_places_of_their_own() {
    let rig = Rig::start_with(|limits| limits.connections = 64).await;
    let host = rig.host();
    let _silent = flood(&rig, rig.http, 100).await;
    // Neither the one nor the other suffers.
    let mut client = rig.client(&host, true).await;
    assert_eq!(client.send(rig.post(&host, "/mcp", "")).await.unwrap().status(), 200);
    assert!(redirected(&rig, "localhost").await.starts_with("HTTP/1.1 308 "));
    until(|| rig.edge.stats().connections <= berth::edge::PLAIN_CONNECTIONS + 1).await;
    let _more = flood(&rig, rig.https, 100).await;
    assert!(redirected(&rig, "localhost").await.starts_with("HTTP/1.1 308 "));
}

async fn redirected(rig: &Rig, host: &str) -> String {
    let mut raw = TcpStream::connect(rig.http).await.unwrap();
    let request = format!("GET /x HTTP/1.1\r\nhost: {host}\r\n\r\n");
    raw.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(SOON, raw.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn nobody_is_redirected_to_an_address_that_is_not_ours() {
    let rig = Rig::start().await;
    for (host, sent) in [
        ("203.0.113.66", false),
        ("[2001:db8::66]", false),
        ("evil.example", false),
        ("127.0.0.1", true),
        ("localhost", true),
    ] {
        let answer = redirected(&rig, host).await;
        assert_eq!(answer.starts_with("HTTP/1.1 308 "), sent, "{host}: {answer}");
        assert_eq!(
            answer.contains(&format!("location: https://{host}")),
            sent,
            "{host}: {answer}"
        );
        assert!(sent || answer.starts_with("HTTP/1.1 421 "), "{host}: {answer}");
    }
}

#[tokio::test]
async fn a_token_with_all_places_gives_some_to_another() {
    // Eight for strangers, four for members: four are left.
    let rig = Rig::start_with(|limits| {
        limits.connections = 16;
        limits.connections_without_token = 8;
    })
    .await;
    let host = rig.host();
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut client = rig.client(&host, false).await;
        let mut stream = client.send(rig.with(&host, "sse", &rig.token)).await.unwrap();
        assert_eq!(next_chunk(&mut stream).await.unwrap(), "data: one\n\n");
        open.push((client, stream));
    }
    let mut more = rig.client(&host, false).await;
    let response = more.send(rig.post(&host, "/mcp", "")).await.unwrap();
    assert_eq!(response.status(), 503, "its own streams are not cut for it");
    assert!(response.headers().contains_key("retry-after"));
    let (other, _) = rig.token(&rig.id, 60, None);
    let mut client = rig.client(&host, false).await;
    assert_eq!(
        client.send(rig.with(&host, "echo", &other)).await.unwrap().status(),
        200
    );
    let (_, oldest) = &mut open[0];
    let cut = timeout(SOON, oldest.frame()).await.unwrap();
    assert!(cut.is_none_or(|f| f.is_err()), "the oldest of the other gives way");
}

#[tokio::test]
async fn an_instance_does_not_speak_for_the_box() {
    let rig = Rig::start().await;
    let host = rig.host();
    for http2 in [false, true] {
        let mut client = rig.client(&host, http2).await;
        let response = client.send(rig.with(&host, "headers", &rig.token)).await.unwrap();
        assert_eq!(response.status(), 401);
        let names: Vec<&str> = response.headers().keys().map(http::HeaderName::as_str).collect();
        for name in &names {
            assert!(
                [
                    "content-type",
                    "content-length",
                    "mcp-session-id",
                    "cache-control",
                    "retry-after",
                    "date"
                ]
                .contains(name),
                "{name} of {names:?}"
            );
        }
        for name in ["content-type", "mcp-session-id", "cache-control", "retry-after"] {
            assert!(names.contains(&name), "{name} of {names:?}");
        }
    }
}

#[tokio::test]
async fn a_switched_connection_that_is_idle_ends() {
    let rig = Rig::start_with(|limits| limits.upgraded_idle_timeout = Duration::from_millis(300)).await;
    let host = rig.host();
    let mut client = rig.client(&host, false).await;
    let mut request = rig.with(&host, "ws", &rig.token);
    *request.method_mut() = http::Method::GET;
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let mut response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    let mut io = hyper_util::rt::TokioIo::new(upgraded);
    let mut rest = Vec::new();
    let _ = timeout(SOON, io.read_to_end(&mut rest)).await.expect("it is closed");
    assert_eq!(rest, b"welcome");
}

/// A frame's head and payload (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut all = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    all.extend([kind, flags]);
    all.extend(stream.to_be_bytes());
    all.extend(payload);
    all
}

#[tokio::test]
async fn http2_frames_that_ask_for_nothing_end_the_connection() {
    let rig = Rig::start().await;
    let host = rig.host();
    let mut honest = rig.client(&host, true).await;
    let settings = frame(4, 0, 0, &[]);
    for (name, one) in [
        ("PRIORITY", frame(2, 0, 3, &[0, 0, 0, 0, 16])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
        ("unknown", frame(0x42, 0, 0, b"x")),
        ("long unknown", frame(0x42, 0, 0, &[0; 8000])),
        ("SETTINGS", settings.clone()),
        ("PING", frame(6, 0, 0, &[7; 8])),
    ] {
        let before = rig.edge.stats().flooded;
        let raw = rig.tls(&host, b"h2").await;
        let (mut from, mut to) = tokio::io::split(raw);
        let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        start.extend(&settings);
        to.write_all(&start).await.unwrap();
        let flooding = tokio::spawn(async move {
            let many = one.repeat(64);
            while to.write_all(&many).await.is_ok() {}
        });
        let mut rest = Vec::new();
        let _ = timeout(SOON, from.read_to_end(&mut rest))
            .await
            .unwrap_or_else(|_| panic!("{name} goes on and on"));
        timeout(SOON, flooding).await.unwrap().unwrap();
        assert_eq!(rig.edge.stats().flooded, before + 1, "{name}");
        assert_eq!(honest.send(rig.post(&host, "/mcp", "")).await.unwrap().status(), 200);
    }
    // Who works is not taken for one: calls, and a long answer whose windows are opened as it is read.
    for _ in 0..3000 {
        body_of(honest.send(rig.post(&host, "/mcp", "x")).await.unwrap()).await;
    }
    for _ in 0..5 {
        let big = honest.send(rig.with(&host, "big", &rig.token)).await.unwrap();
        assert_eq!(body_of(big).await.len(), 3_000_000);
    }
    assert_eq!(rig.edge.stats().flooded, 6);
}

/// Answers whatever comes on the instance's socket with these bytes, over and over where `endless`.
fn speak(rig: &Rig, bytes: Vec<u8>, endless: bool) -> tokio::task::JoinHandle<()> {
    let path = rig.link.socket_dir().join("agent.sock");
    tokio::spawn(async move {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (path, bytes) = (path.clone(), bytes.clone());
            all.spawn(async move {
                while let Ok(mut stream) = UnixStream::connect(&path).await {
                    let mut buf = [0; 4096];
                    while let Ok(1..) = stream.read(&mut buf).await {
                        while stream.write_all(&bytes).await.is_ok() && endless {}
                    }
                }
            });
        }
        while all.join_next().await.is_some() {}
    })
}

#[tokio::test]
async fn an_answer_in_pieces_of_one_byte_goes_on_in_large_ones() {
    let mut rig = Rig::start().await;
    rig.agent.stop().await;
    let host = rig.host();
    let mut answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for n in 0..5000u32 {
        answer.extend(format!("1\r\n{}\r\n", n % 10).bytes());
    }
    answer.extend(b"0\r\n\r\n");
    let speaker = speak(&rig, answer, false);
    for http2 in [false, true] {
        let mut client = rig.client(&host, http2).await;
        let mut response = client.send(rig.post(&host, "/mcp", "")).await.unwrap();
        assert_eq!(response.status(), 200);
        let (mut pieces, mut all) = (0, Vec::new());
        while let Some(frame) = timeout(SOON, response.frame()).await.unwrap() {
            pieces += 1;
            all.extend(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(all.len(), 5000);
        assert!(all.iter().enumerate().all(|(n, b)| *b == b'0' + (n % 10) as u8));
        assert!(pieces < 100, "{pieces} pieces");
    }
    speaker.abort();
}

#[tokio::test]
async fn interim_responses_without_end_are_a_bad_gateway() {
    let mut rig = Rig::start().await;
    rig.agent.stop().await;
    let host = rig.host();
    let speaker = speak(&rig, b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(100), true);
    let mut client = rig.client(&host, false).await;
    let response = client.send(rig.post(&host, "/mcp", "")).await.unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(json_of(response).await["error"]["code"], -31000);
    speaker.abort();
}

#[tokio::test]
async fn of_a_flood_of_statuses_the_last_counts() {
    const FLOOD: usize = 5000;
    let mut rig = Rig::start().await;
    rig.wait_for(|e| matches!(e, LinkEvent::Status(_))).await;
    rig.agent.stop().await;
    rig.wait_for(|e| *e == LinkEvent::Down).await;
    let status = |state: &str| {
        let line = format!(
            r#"{{"event":"status","protocol":1,"version":"0","state":"{state}","spec":null,"reason":null,"services":[],"sessions":0,"processes":0}}"#
        );
        format!("{line}\n")
    };
    let body = status("ready").repeat(FLOOD) + &status("failed");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len() + 1);
    let speaker = speak(&rig, (head + &body).into_bytes(), false);
    let mut told = 0;
    rig.wait_for(|e| {
        if let LinkEvent::Status(s) = e {
            told += 1;
            return s.state == AgentState::Failed;
        }
        false
    })
    .await;
    assert!(told < FLOOD / 10, "{told} reports");
    speaker.abort();
}
