//! Bodies that nobody wants, from clients that send all of their request before they read anything of its answer.

use super::rig::{BODY_LIMIT, Rig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One answer with a declared length: its head and its body.
async fn answer(raw: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> (String, String) {
    raw.flush().await.expect("all of it is sent");
    let mut text = Vec::new();
    let read = async {
        loop {
            let end = text.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
            let head = String::from_utf8_lossy(&text[..end.unwrap_or(0)]).into_owned();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: "));
            let length = length.map_or(usize::MAX, |l| l.parse::<usize>().unwrap());
            if let Some(end) = end.filter(|end| text.len() >= end.saturating_add(length)) {
                return (head, String::from_utf8(text[end..].to_vec()).unwrap());
            }
            assert_ne!(raw.read_buf(&mut text).await.expect("an answer"), 0, "only {text:?}");
        }
    };
    let limit = std::time::Duration::from_secs(90);
    tokio::time::timeout(limit, read).await.expect("in time")
}

fn head(rig: &Rig, token: &str, framing: &str) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\nx-test: echo\r\n{framing}\r\n\r\n",
        rig.host()
    )
}

#[tokio::test]
async fn an_answer_is_there_for_who_sends_everything_first() {
    let rig = Rig::start().await;
    let mut raw = rig.tls(&rig.host(), b"http/1.1").await;
    let size = 9 * BODY_LIMIT;
    raw.write_all(head(&rig, &rig.token, &format!("content-length: {size}")).as_bytes())
        .await
        .unwrap();
    raw.write_all(&vec![b'x'; size]).await.expect("all of it is taken");
    let (said, body) = answer(&mut raw).await;
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
    assert!(body.contains("The request's body is too large."), "{body}");
    // The connection serves on, also after a body that does not say its length.
    raw.write_all(head(&rig, &rig.token, "transfer-encoding: chunked").as_bytes())
        .await
        .unwrap();
    let chunk = [
        format!("{BODY_LIMIT:x}\r\n").into_bytes(),
        vec![b'x'; BODY_LIMIT],
        b"\r\n".to_vec(),
    ]
    .concat();
    for _ in 0..9 {
        raw.write_all(&chunk).await.expect("all of it is taken");
    }
    raw.write_all(b"0\r\n\r\n").await.unwrap();
    let (said, _) = answer(&mut raw).await;
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
    raw.write_all((head(&rig, &rig.token, "content-length: 2") + "{}").as_bytes())
        .await
        .unwrap();
    let (said, body) = answer(&mut raw).await;
    assert!(
        said.starts_with("HTTP/1.1 200 ") && body.contains(r#""body":"{}""#),
        "{said}{body}"
    );
    // Somebody with a wrong token is read out too, though not as far.
    let size = 512 * 1024;
    raw.write_all(head(&rig, "wrong", &format!("content-length: {size}")).as_bytes())
        .await
        .unwrap();
    raw.write_all(&vec![b'x'; size]).await.expect("all of it is taken");
    let (said, _) = answer(&mut raw).await;
    assert!(said.starts_with("HTTP/1.1 401 "), "{said}");
}

#[tokio::test]
async fn nobody_sends_for_ever() {
    let rig = Rig::start().await;
    for token in ["wrong", rig.token.as_str()] {
        let mut raw = rig.tls(&rig.host(), b"http/1.1").await;
        raw.write_all(head(&rig, token, "content-length: 99999999999").as_bytes())
            .await
            .unwrap();
        let piece = vec![b'x'; 1 << 20];
        let mut sent = 0;
        // Both bounds end it: what of it they allow, and what fits the sockets on the way.
        while raw.write_all(&piece).await.is_ok() {
            sent += 1;
            assert!(sent < 256, "still read after {sent} MiB");
        }
    }
}

#[tokio::test]
async fn who_asks_before_sending_is_told_at_once() {
    let rig = Rig::start().await;
    let mut raw = rig.tls(&rig.host(), b"http/1.1").await;
    let framing = format!("expect: 100-continue\r\ncontent-length: {}", 9 * BODY_LIMIT);
    raw.write_all(head(&rig, &rig.token, &framing).as_bytes())
        .await
        .unwrap();
    let (said, _) = answer(&mut raw).await;
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
    // What comes next cannot be told from that body.
    assert_eq!(raw.read(&mut [0; 64]).await.unwrap_or(0), 0, "and the connection ends");
}
