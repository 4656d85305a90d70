//! What a session of a person in a browser is worth, and when it ends.

use super::rig::{Body, Rig, body_of};
use berth::model::{MemberName, Principal, TokenId, TokenScope};
use http::{Request, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn get(rig: &Rig, host: &str, path: &str, cookie: Option<&str>) -> Request<Body> {
    let mut request = rig.post(host, path, "");
    *request.method_mut() = http::Method::GET;
    request.headers_mut().remove(header::AUTHORIZATION);
    if let Some(cookie) = cookie {
        request.headers_mut().insert(header::COOKIE, cookie.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_session_and_its_sockets_end_with_its_token() {
    let rig = Rig::start().await;
    let token = TokenId::from_random([5; 12]);
    let ada = Principal::member(MemberName::parse("ada").unwrap(), token.clone(), &TokenScope::All);
    let ticket = rig.sessions.ticket(ada.on_screen(rig.id.clone(), false)).unwrap();
    let host = format!("vnc-{}.localhost", rig.id);
    let mut client = rig.client(&host, true).await;
    let opened = client
        .send(get(&rig, &host, &format!("/open?ticket={ticket}"), None))
        .await
        .unwrap();
    assert_eq!(opened.status(), 200);
    let cookie = opened.headers()[header::SET_COOKIE].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    assert_eq!(
        client
            .send(get(&rig, &host, "/", Some(&cookie)))
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(client.send(get(&rig, &host, "/", None)).await.unwrap().status(), 403);

    let mut socket = rig.tls(&host, b"http/1.1").await;
    let origin = format!("https://{host}:{}", rig.https.port());
    let head = format!(
        "GET /control HTTP/1.1\r\nhost: {host}\r\norigin: {origin}\r\ncookie: {cookie}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    // The answer's head, and the first thing that the page is told.
    while !said.windows(8).any(|w| w == b"\"viewer\"") {
        assert_ne!(
            socket.read_buf(&mut said).await.unwrap(),
            0,
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
    assert!(said.starts_with(b"HTTP/1.1 101 "));

    rig.sessions.end_with_token(&TokenId::from_random([6; 12]));
    assert_eq!(
        client
            .send(get(&rig, &host, "/", Some(&cookie)))
            .await
            .unwrap()
            .status(),
        200
    );
    rig.sessions.end_with_token(&token);
    let page = client.send(get(&rig, &host, "/", Some(&cookie))).await.unwrap();
    assert_eq!(page.status(), 403);
    assert!(!body_of(page).await.is_empty());
    // Closed, with the TLS alert or without.
    while socket.read_buf(&mut said).await.is_ok_and(|n| n > 0) {}
}
