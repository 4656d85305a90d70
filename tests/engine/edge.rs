//! The real edge on loopback, with a fake agent that dials its socket and real TLS clients. No test asserts a time and
//! none sleeps for luck: each waits for the event that it is about.

mod bodies;
mod browsers;
mod doors;
mod limits;
mod rig;
mod sessions;
mod strangers;

use std::time::Duration;

use berth::model::{InstanceId, State};
use http::StatusCode;
use http_body_util::BodyExt;
use rig::{Rig, body_of, json_of, next_chunk};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn routes_by_host_and_by_path_on_both_versions() {
    let rig = Rig::start().await;
    for http2 in [false, true] {
        for (host, path) in [
            (rig.host(), "/mcp".to_owned()),
            (rig.host(), "/mcp/".to_owned()),
            ("localhost".into(), format!("/mcp/{}", rig.id)),
            ("localhost".into(), format!("/{}/mcp", rig.id)),
        ] {
            let mut client = rig.client(&host, http2).await;
            let response = client.send(rig.post(&host, &path, "hello")).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{host} {path}");
            let seen = json_of(response).await;
            assert_eq!(
                (seen["path"].as_str(), seen["body"].as_str()),
                (Some("/mcp"), Some("hello"))
            );
        }
    }
    let stats = rig.link.stats();
    assert_eq!((stats.requests, stats.by_class[1]), (8, 8));
}

/// The agent hears by which path a client asks for a stream, and hears it of nobody else.
#[tokio::test]
async fn the_endpoint_of_2024_11_05_is_routed_too() {
    let rig = Rig::start().await;
    for http2 in [false, true] {
        for (host, path) in [
            (rig.host(), "/sse".to_owned()),
            ("localhost".into(), format!("/{}/sse", rig.id)),
        ] {
            let mut client = rig.client(&host, http2).await;
            for method in [http::Method::GET, http::Method::POST] {
                let mut request = rig.post(&host, &format!("{path}?sessionId=1-a"), "");
                *request.method_mut() = method.clone();
                request.headers_mut().insert("berth-path", "/forged".parse().unwrap());
                let seen = json_of(client.send(request).await.unwrap()).await;
                assert_eq!(seen["path"], "/sse");
                assert_eq!(seen["query"], "sessionId=1-a");
                let said = &seen["headers"]["berth-path"];
                let want = if method == http::Method::GET {
                    json!(path)
                } else {
                    Value::Null
                };
                assert_eq!(*said, want, "{method} {host} {path}");
            }
        }
    }
}

#[tokio::test]
async fn unknown_hosts_and_paths() {
    let rig = Rig::start().await;
    let mut client = rig.client("localhost", false).await;
    for (host, path, want) in [
        ("evil.org", "/mcp", 421),
        ("mcp-short.localhost", "/mcp", 421),
        (&rig.host(), "/", 404),
        (&rig.host(), "/mcp//", 404),
        (&rig.host(), "/.berth/start", 404),
        ("localhost", "/", 404),
        ("localhost", "/mcp", 404),
    ] {
        let response = client.send(rig.post(host, path, "")).await.unwrap();
        assert_eq!(response.status(), want, "{host} {path}");
        let said = json_of(response).await;
        // The box's own doors do not speak JSON-RPC.
        assert!(
            if path == "/" {
                said["code"] == "unknown-path"
            } else {
                said["error"]["code"].is_i64()
            },
            "{said}"
        );
    }
    let mut both = rig.post("localhost", "/mcp/abcdefghij", "");
    both.headers_mut().append("host", "evil.org".parse().unwrap());
    assert_eq!(client.send(both).await.unwrap().status(), 400);
}

#[tokio::test]
async fn the_auth_matrix() {
    let rig = Rig::start().await;
    let other = InstanceId::from_random([200; 10]);
    let (other_token, _) = rig.token(&other, 77, None);
    let (expired, _) = rig.token(&rig.id, 78, Some(1));
    let mut client = rig.client("localhost", false).await;
    let absent = InstanceId::from_random([9; 10]);
    let challenge = "Bearer realm=\"berth\"";
    let invalid = "Bearer realm=\"berth\", error=\"invalid_token\"";
    for id in [&rig.id, &absent] {
        for (auth, want, www) in [
            (None, 401, challenge),
            (Some("Basic eDp5".to_owned()), 401, invalid),
            (Some("Bearer nonsense".to_owned()), 401, invalid),
            (Some(format!("Bearer {other_token}")), 403, ""),
        ] {
            let mut request = rig.post("localhost", &format!("/mcp/{id}"), "");
            request.headers_mut().remove("authorization");
            if let Some(auth) = auth {
                request.headers_mut().insert("authorization", auth.parse().unwrap());
            }
            let response = client.send(request).await.unwrap();
            assert_eq!(response.status(), want);
            assert_eq!(
                response
                    .headers()
                    .get("www-authenticate")
                    .map_or("", |v| v.to_str().unwrap()),
                www
            );
            assert!(json_of(response).await["id"].is_null());
        }
    }
    let mut request = rig.post("localhost", &format!("/mcp/{}", rig.id), "");
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {expired}").parse().unwrap());
    assert_eq!(client.send(request).await.unwrap().status(), 401);
    let ok = client
        .send(rig.post("localhost", &format!("/mcp/{}", rig.id), ""))
        .await
        .unwrap();
    assert_eq!(ok.status(), 200);
}

#[tokio::test]
async fn repeated_wrong_tokens_are_slowed_down_and_right_ones_are_not() {
    let rig = Rig::start().await;
    let mut client = rig.client("localhost", false).await;
    let path = format!("/mcp/{}", rig.id);
    let mut last = StatusCode::OK;
    for _ in 0..12 {
        let mut request = rig.post("localhost", &path, "");
        request
            .headers_mut()
            .insert("authorization", "Bearer wrong".parse().unwrap());
        let response = client.send(request).await.unwrap();
        last = response.status();
        assert_eq!(last == 429, response.headers().contains_key("retry-after"));
        body_of(response).await;
    }
    assert_eq!(last, 429);
    assert_eq!(
        client.send(rig.post("localhost", &path, "")).await.unwrap().status(),
        200
    );
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once_and_its_streams_are_cut() {
    let rig = Rig::start().await;
    let host = rig.host();
    for http2 in [false, true] {
        let (token, token_id) = rig.token(&rig.id, 50 + u8::from(http2), None);
        let mut client = rig.client(&host, http2).await;
        let mut stream = client.send(rig.with(&host, "sse", &token)).await.unwrap();
        assert_eq!(next_chunk(&mut stream).await.unwrap(), "data: one\n\n");
        let mut waiting = rig.client(&host, http2).await;
        let hung = tokio::spawn({
            let request = rig.with(&host, "hang", &token);
            async move { waiting.send(request).await.map(|r| r.status()) }
        });
        rig.agent.hung.notified().await;
        assert!(rig.tokens.remove(&token_id).is_some());
        assert!(stream.frame().await.is_none_or(|f| f.is_err()), "the stream is cut");
        assert_eq!(hung.await.unwrap().unwrap(), 401);
        rig.agent.dropped.notified().await;
        let mut client = rig.client(&host, http2).await;
        assert_eq!(
            client.send(rig.with(&host, "echo", &token)).await.unwrap().status(),
            401
        );
    }
}

#[tokio::test]
async fn the_clients_secrets_and_hop_by_hop_fields_stay_here() {
    let rig = Rig::start().await;
    let host = rig.host();
    let mut client = rig.client(&host, false).await;
    let mut request = rig.post(&host, "/mcp?x=1", "b");
    for (name, value) in [
        ("cookie", "session=1"),
        ("connection", "keep-alive, x-hop, berth-principal"),
        ("berth-principal", "somebody else"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-for", "1.2.3.4"),
        ("origin", "https://localhost"),
        ("proxy-authorization", "x"),
        ("x-stays", "1"),
        ("mcp-session-id", "s"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = client.send(request).await.unwrap();
    for gone in ["set-cookie", "x-agent-hop", "keep-alive"] {
        assert!(!response.headers().contains_key(gone), "{gone}");
    }
    let seen = json_of(response).await;
    let names: Vec<&str> = seen["headers"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        names,
        [
            "berth-principal",
            "content-length",
            "host",
            "mcp-session-id",
            "x-stays",
            "x-test"
        ]
    );
    // Who asks is what the edge says: the token's public id.
    let principal = seen["headers"]["berth-principal"].as_str().unwrap();
    assert!(
        principal != "somebody else" && !rig.token.contains(principal),
        "{principal}"
    );
    assert_eq!(seen["headers"]["host"], "localhost");
    assert_eq!(seen["query"], "x=1");
}

#[tokio::test]
async fn events_arrive_before_the_next_is_written() {
    let rig = Rig::start().await;
    let host = rig.host();
    for http2 in [false, true] {
        let mut client = rig.client(&host, http2).await;
        let mut stream = client.send(rig.with(&host, "sse", &rig.token)).await.unwrap();
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        assert_eq!(next_chunk(&mut stream).await.unwrap(), "data: one\n\n");
        rig.agent.go.notify_one();
        assert_eq!(next_chunk(&mut stream).await.unwrap(), "data: two\n\n");
        // A client that leaves is noticed by the agent.
        drop((stream, client));
        rig.agent.dropped.notified().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_call() {
    let rig = Rig::start().await;
    let host = rig.host();
    for http2 in [false, true] {
        let mut client = rig.client(&host, http2).await;
        let request = rig.with(&host, "hang", &rig.token);
        let call = tokio::spawn(async move { client.send(request).await.map(|r| r.status()) });
        rig.agent.hung.notified().await;
        call.abort();
        rig.agent.dropped.notified().await;
    }
}

#[tokio::test]
async fn web_sockets_pass() {
    let rig = Rig::start().await;
    let host = rig.host();
    let mut client = rig.client(&host, false).await;
    let mut request = rig.with(&host, "ws", &rig.token);
    *request.method_mut() = http::Method::GET;
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let mut response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "websocket");
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    let mut io = hyper_util::rt::TokioIo::new(upgraded);
    let mut got = [0; 7];
    io.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"welcome");
    for text in [&b"ping"[..], &[7; 100_000]] {
        io.write_all(text).await.unwrap();
        let mut got = vec![0; text.len()];
        io.read_exact(&mut got).await.unwrap();
        assert_eq!(got, text);
    }
    rig.tokens.remove(&rig.token_id);
    assert_eq!(io.read(&mut got).await.unwrap_or(0), 0, "cut with its token");
}

#[tokio::test]
async fn limits_answer_in_words() {
    let rig = Rig::start().await;
    let host = rig.host();
    for http2 in [false, true] {
        let mut client = rig.client(&host, http2).await;
        let mut request = rig.post(&host, "/mcp", "");
        request
            .headers_mut()
            .insert("x-big", "x".repeat(40 * 1024).parse().unwrap());
        let response = client.send(request).await.unwrap();
        assert_eq!(response.status(), 431);
        assert_eq!(json_of(response).await["error"]["code"], -31007);
        let mut client = rig.client(&host, http2).await;
        let response = client
            .send(rig.post(&host, "/mcp", &"x".repeat(rig::BODY_LIMIT + 1)))
            .await
            .unwrap();
        assert_eq!(response.status(), 413, "declared");
        let mut client = rig.client(&host, http2).await;
        let response = client
            .send(rig.chunked(&host, rig::BODY_LIMIT / 1000 + 2, 1000))
            .await
            .unwrap();
        assert_eq!(response.status(), 413, "not declared");
        let mut client = rig.client(&host, http2).await;
        let response = client.send(rig.chunked(&host, 200, 1000)).await.unwrap();
        assert_eq!(
            json_of(response).await["body"].as_str().unwrap().len(),
            200_000,
            "large, streamed, and within"
        );
        let mut client = rig.client(&host, http2).await;
        let response = client.send(rig.with(&host, "big", &rig.token)).await.unwrap();
        assert_eq!(body_of(response).await.len(), 3_000_000);
    }
}

#[tokio::test]
async fn slow_clients_are_sent_away() {
    let rig = Rig::start_with(|limits| limits.client_timeout = Duration::from_millis(200)).await;
    let host = rig.host();
    let mut raw = rig.tls(&host, b"http/1.1").await;
    raw.write_all(b"POST /mcp HTTP/1.1\r\nhost: ").await.unwrap();
    assert_eq!(raw.read(&mut [0; 100]).await.unwrap_or(0), 0, "a head that never ends");
    let mut raw = rig.tls(&host, b"http/1.1").await;
    assert_eq!(raw.read(&mut [0; 100]).await.unwrap_or(0), 0, "silence");
    let mut raw = rig.tls(&host, b"http/1.1").await;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\ncontent-length: 10\r\n\r\nabc",
        rig.token
    );
    raw.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = raw.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // One that takes nothing of its answer.
    let mut raw = rig.tls(&host, b"http/1.1").await;
    let head = format!(
        "GET /mcp HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\nx-test: flood\r\n\r\n",
        rig.token
    );
    raw.write_all(head.as_bytes()).await.unwrap();
    rig.agent.dropped.notified().await;
}

#[tokio::test]
async fn a_server_that_says_nothing_is_a_gateway_timeout() {
    let rig = Rig::start_with(|limits| limits.first_byte_timeout = Duration::from_millis(200)).await;
    let host = rig.host();
    let mut client = rig.client(&host, true).await;
    let response = client.send(rig.with(&host, "hang", &rig.token)).await.unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!(json_of(response).await["error"]["code"], -31002);
    rig.agent.dropped.notified().await;
}

/// What an instance's own call timeout makes of the edge's: it may be longer, or shorter.
#[tokio::test]
async fn an_instance_has_its_own_patience() {
    let all = Duration::from_millis(200);
    let rig = Rig::start_with(|limits| limits.first_byte_timeout = all).await;
    let host = rig.host();
    let mut client = rig.client(&host, true).await;
    let ms = Duration::from_millis;
    let longer = berth::link::Patience {
        least: ms(900),
        ..berth::link::Patience::ANY
    };
    rig.link.set_patience(longer);
    let began = std::time::Instant::now();
    let response = client.send(rig.with(&host, "hang", &rig.token)).await.unwrap();
    assert_eq!(response.status(), 504);
    assert!(began.elapsed() >= ms(900), "not by the edge's own limit");
    assert_eq!(longer.of(Duration::from_secs(5)), Duration::from_secs(5));
    let exact = berth::link::Patience {
        least: ms(70),
        most: ms(70),
    };
    assert_eq!((exact.of(all), exact.of(ms(1))), (ms(70), ms(70)));
}

#[tokio::test]
async fn states_that_are_not_running() {
    let rig = Rig::start().await;
    let host = rig.host();
    let mut client = rig.client(&host, false).await;
    for (state, want, retry) in [
        (State::Pending, 503, true),
        (State::Preparing, 503, true),
        (State::Starting, 503, true),
        (State::Stopped, 503, true),
        (State::Failed, 503, false),
        (State::Removing, 410, false),
        (State::Running, 200, false),
    ] {
        rig.link.set_state(state, None);
        let response = client.send(rig.post(&host, "/mcp", "")).await.unwrap();
        assert_eq!(response.status(), want, "{state}");
        assert_eq!(response.headers().contains_key("retry-after"), retry, "{state}");
        body_of(response).await;
        // The answer names the call that it is for (JSON-RPC 2.0, section 5); a notification and a batch have no id.
        for (sent, id) in [
            (r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#, json!(7)),
            (r#"{"jsonrpc":"2.0","id":"a\"b","method":"ping"}"#, json!("a\"b")),
            (r#"{"jsonrpc":"2.0","method":"x"}"#, Value::Null),
            ("[]", Value::Null),
            ("no json", Value::Null),
        ] {
            let response = client.send(rig.post(&host, "/mcp", sent)).await.unwrap();
            if want != 200 {
                assert_eq!(json_of(response).await["id"], id, "{state}: {sent}");
            } else {
                body_of(response).await;
            }
        }
    }
}

#[tokio::test]
async fn origins_are_checked() {
    let rig = Rig::start().await;
    let host = rig.host();
    let mut client = rig.client(&host, false).await;
    for (origin, want) in [
        ("https://evil.org", 403),
        ("null", 403),
        ("https://localhost", 200),
        ("https://inspector.test", 200),
    ] {
        let mut request = rig.post(&host, "/mcp", "");
        request.headers_mut().insert("origin", origin.parse().unwrap());
        let response = client.send(request).await.unwrap();
        assert_eq!(response.status(), want, "{origin}");
        body_of(response).await;
    }
}

#[tokio::test]
async fn an_agent_restarts() {
    use berth::link::LinkEvent;
    let mut rig = Rig::start().await;
    let host = rig.host();
    let mut client = rig.client(&host, false).await;
    assert_eq!(client.send(rig.post(&host, "/mcp", "")).await.unwrap().status(), 200);
    rig.agent.stop().await;
    rig.wait_for(|e| *e == LinkEvent::Down).await;
    rig.agent = rig::Agent::dial(rig.link.socket_dir()).await;
    rig.wait_for(|e| *e == LinkEvent::Up).await;
    rig.wait_for(|e| matches!(e, LinkEvent::Status(_))).await;
    for _ in 0..20 {
        let response = client.send(rig.post(&host, "/mcp", "")).await.unwrap();
        assert_eq!(response.status(), 200);
        body_of(response).await;
    }
    rig.link.health(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test]
async fn a_call_in_flight_when_the_agent_dies_fails_at_once() {
    let mut rig = Rig::start().await;
    let host = rig.host();
    let mut client = rig.client(&host, false).await;
    let request = rig.with(&host, "hang", &rig.token);
    let call = tokio::spawn(async move { client.send(request).await.map(|r| r.status()) });
    rig.agent.hung.notified().await;
    rig.agent.stop().await;
    assert_eq!(call.await.unwrap().unwrap(), 502);
}

#[tokio::test]
async fn drain_lets_calls_finish_and_ends_streams() {
    let rig = Rig::start().await;
    let host = rig.host();
    let mut streaming = rig.client(&host, true).await;
    let mut get = rig.with(&host, "sse", &rig.token);
    *get.method_mut() = http::Method::GET;
    let mut stream = streaming.send(get).await.unwrap();
    assert_eq!(next_chunk(&mut stream).await.unwrap(), "data: one\n\n");
    let mut calling = rig.client(&host, false).await;
    let call = tokio::spawn({
        let request = rig.with(&host, "wait", &rig.token);
        async move { calling.send(request).await.map(|r| r.status()) }
    });
    rig.agent.hung.notified().await;
    let edge = rig.edge;
    let drained = tokio::spawn(async move { edge.drain(Duration::from_secs(60)).await });
    let rest = (&mut stream)
        .collect()
        .await
        .expect("a stream that clients resume ends cleanly");
    assert!(rest.to_bytes().is_empty());
    rig.agent.go.notify_one();
    assert_eq!(call.await.unwrap().unwrap(), 200);
    drop((stream, streaming));
    assert!(drained.await.unwrap(), "all ended by themselves");
}

#[tokio::test]
async fn drain_ends_answers_that_clients_can_resume() {
    for http2 in [false, true] {
        let rig = Rig::start().await;
        let host = rig.host();
        let mut client = rig.client(&host, http2).await;
        let mut stream = client.send(rig.with(&host, "ids", &rig.token)).await.unwrap();
        assert_eq!(next_chunk(&mut stream).await.unwrap(), "id: 1\ndata: one\n\n");
        let edge = rig.edge;
        let drained = tokio::spawn(async move { edge.drain(Duration::from_secs(600)).await });
        let rest = (&mut stream).collect().await.expect("it ends cleanly");
        assert!(rest.to_bytes().is_empty());
        drop((stream, client));
        let clean = tokio::time::timeout(Duration::from_secs(60), drained).await;
        assert!(
            clean.expect("long before its bound").unwrap(),
            "all ended by themselves"
        );
    }
}

#[tokio::test]
async fn drain_waits_for_an_answer_that_nobody_can_resume() {
    let rig = Rig::start().await;
    let host = rig.host();
    let mut client = rig.client(&host, false).await;
    let mut stream = client.send(rig.with(&host, "sse", &rig.token)).await.unwrap();
    assert_eq!(next_chunk(&mut stream).await.unwrap(), "data: one\n\n");
    let silent = tokio::net::TcpStream::connect(rig.https).await.unwrap();
    let edge = rig.edge;
    let drained = tokio::spawn(async move { edge.drain(Duration::from_secs(600)).await });
    // Who has not even said hello is not waited for.
    let mut silent = silent;
    let mut nothing = [0; 1];
    let end = tokio::io::AsyncReadExt::read(&mut silent, &mut nothing);
    let end = tokio::time::timeout(Duration::from_secs(60), end)
        .await
        .expect("it is closed");
    assert!(matches!(end, Ok(0) | Err(_)));
    rig.agent.go.notify_one();
    assert_eq!(next_chunk(&mut stream).await.unwrap(), "data: two\n\n");
    drop((stream, client));
    assert!(drained.await.unwrap());
}

#[tokio::test]
async fn drain_cuts_what_does_not_end() {
    let rig = Rig::start().await;
    let host = rig.host();
    let mut client = rig.client(&host, false).await;
    let request = rig.with(&host, "hang", &rig.token);
    let call = tokio::spawn(async move { client.send(request).await.map(|r| r.status()) });
    rig.agent.hung.notified().await;
    assert!(!rig.edge.drain(Duration::from_millis(50)).await);
    assert!(call.await.unwrap().is_err());
    rig.agent.dropped.notified().await;
}

#[tokio::test]
async fn a_new_certificate_touches_no_connection() {
    let rig = Rig::with_files().await;
    let host = rig.host();
    let mut client = rig.client(&host, false).await;
    assert_eq!(client.send(rig.post(&host, "/mcp", "")).await.unwrap().status(), 200);
    let before = rig.certificates.fingerprint();
    rig.replace_certificate();
    assert!(rig.certificates.refresh(std::time::SystemTime::now()).unwrap());
    assert_ne!(rig.certificates.fingerprint(), before);
    assert_eq!(
        client.send(rig.post(&host, "/mcp", "")).await.unwrap().status(),
        200,
        "the old connection"
    );
    let mut client = rig.client(&host, true).await;
    assert_eq!(
        client.send(rig.post(&host, "/mcp", "")).await.unwrap().status(),
        200,
        "a new one"
    );
    rig.break_certificate();
    assert!(rig.certificates.refresh(std::time::SystemTime::now()).is_err());
    let mut client = rig.client(&host, true).await;
    assert_eq!(
        client.send(rig.post(&host, "/mcp", "")).await.unwrap().status(),
        200,
        "the good one stays"
    );
}

#[tokio::test]
async fn plain_http_redirects() {
    let rig = Rig::start().await;
    for (host, want) in [("localhost", "308"), ("evil.org", "421")] {
        let mut raw = tokio::net::TcpStream::connect(rig.http).await.unwrap();
        let request = format!("GET /mcp/abcdefghij?a=b HTTP/1.1\r\nhost: {host}:80\r\n\r\n");
        raw.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        raw.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {want} ")), "{answer}");
        let location = format!("location: https://localhost:{}/mcp/abcdefghij?a=b", rig.https.port());
        assert_eq!(answer.contains(&location), want == "308", "{answer}");
    }
}

#[tokio::test]
async fn connections_of_one_address_are_capped() {
    let rig = Rig::start_with(|limits| limits.connections_per_address = 2).await;
    let mut first = rig.tls("localhost", b"h2").await;
    let _second = rig.tls("localhost", b"h2").await;
    let _third = rig.tls("localhost", b"h2").await;
    // The longest idle of that address gave way.
    let mut rest = Vec::new();
    let _ = first.read_to_end(&mut rest).await;
    assert_eq!(rig.edge.stats().evicted, 1);
}

#[tokio::test]
async fn many_calls_at_once_on_few_connections() {
    let rig = Rig::start().await;
    let host = rig.host();
    let client = rig.client(&host, true).await;
    let calls = (0..100).map(|n| {
        let (mut client, request) = (client.clone_h2(), rig.post(&host, "/mcp", &n.to_string()));
        tokio::spawn(async move {
            json_of(client.send(request).await.unwrap()).await["body"].as_str() == Some(n.to_string().as_str())
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(call.await.unwrap());
    }
    let stats = rig.link.stats();
    assert_eq!((stats.requests, stats.by_class[1]), (100, 100));
}

#[tokio::test]
async fn garbage_from_the_instance_is_a_bad_gateway() {
    let mut rig = Rig::start().await;
    rig.agent.stop().await;
    let host = rig.host();
    for garbage in [
        "SSH-2.0-hello\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ] {
        let dir = rig.link.socket_dir().to_owned();
        let speaker = tokio::spawn(async move {
            loop {
                let Ok(mut s) = tokio::net::UnixStream::connect(dir.join("agent.sock")).await else {
                    return;
                };
                let mut buf = [0; 4096];
                let _ = s.read(&mut buf).await;
                let _ = s.write_all(garbage.as_bytes()).await;
                let _ = s.read(&mut buf).await;
            }
        });
        let mut client = rig.client(&host, false).await;
        let response = client.send(rig.post(&host, "/mcp", "")).await.unwrap();
        assert_eq!(response.status(), 502, "{garbage}");
        assert_eq!(json_of(response).await["error"]["code"], -31000);
        speaker.abort();
    }
}

#[tokio::test]
async fn tokens_end_on_their_own() {
    let rig = Rig::start().await;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let (token, _) = rig.token(&rig.id, 90, Some(now as i64 + 2));
    let host = rig.host();
    let mut client = rig.client(&host, true).await;
    let mut stream = client.send(rig.with(&host, "sse", &token)).await.unwrap();
    assert_eq!(next_chunk(&mut stream).await.unwrap(), "data: one\n\n");
    assert!(stream.frame().await.unwrap().is_err(), "cut when it expires");
    assert_eq!(
        client.send(rig.with(&host, "echo", &token)).await.unwrap().status(),
        401
    );
}
