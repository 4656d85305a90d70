//! Tests of the wire format: tables, and properties over any split of the bytes.

use proptest::prelude::*;

use super::*;

fn head(text: &str) -> Result<Option<ReplyHead>, WireError> {
    Heads::default().take(&mut BytesMut::from(text), &Method::POST, false)
}

fn body(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), WireError> {
    let (mut d, mut buf, mut out) = (Decoder::new(framing), BytesMut::new(), vec![]);
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match d.decode(&mut buf)? {
                Decoded::Data(b) => out.extend_from_slice(&b),
                Decoded::Need => break,
                Decoded::End => return Ok((out, true)),
            }
        }
    }
    Ok((out, false))
}

#[test]
fn framings() {
    for (text, framing, reusable) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), true),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            Framing::Length(5),
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Framing::Chunked,
            true,
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", Framing::Close, false),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
            Framing::Length(5),
            false,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Length(0), true),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n",
            Framing::Length(1),
            false,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
            Framing::Length(0),
            true,
        ),
    ] {
        let h = head(text).unwrap().unwrap();
        assert_eq!((h.framing, h.reusable), (framing, reusable), "{text}");
    }
}

#[test]
fn ambiguity_is_refused() {
    for (text, why) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            WireError::Length,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            WireError::Length,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", WireError::Length),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            WireError::Length,
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            WireError::Length,
        ),
        ("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", WireError::Upgrade),
        ("SSH-2.0-x\r\n\r\n", WireError::Head),
        ("HTTP/1.1 999999 OK\r\n\r\n", WireError::Head),
    ] {
        assert_eq!(head(text).unwrap_err(), why, "{text}");
    }
    let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(MAX_HEAD));
    assert_eq!(head(&long).unwrap_err(), WireError::HeadTooLarge);
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
    assert_eq!(head(&many).unwrap_err(), WireError::HeadTooLarge);
}

#[test]
fn hop_by_hop_fields_go() {
    let text = "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX-Stay: 2\r\nContent-Length: 0\r\n\r\n";
    let h = head(text).unwrap().unwrap();
    assert_eq!(h.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-stay"]);
    assert!(h.reusable);
}

#[test]
fn chunks() {
    let ok = |text: &str| body(Framing::Chunked, &[text.as_bytes()]);
    assert_eq!(
        ok("3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n"),
        Ok((b"abcde".to_vec(), true))
    );
    assert_eq!(ok("3\r\nabc\r\n"), Ok((b"abc".to_vec(), false)));
    for bad in [
        "x\r\n",
        "3\r\nabcd\r\n",
        "3\nabc\r\n",
        "-1\r\n",
        "1000000000000000\r\n",
        "3 3\r\n",
        "\r\n",
    ] {
        assert_eq!(ok(bad), Err(WireError::Chunk), "{bad:?}");
    }
    assert_eq!(ok(&"1".repeat(MAX_LINE)), Err(WireError::Chunk));
    let trailers = format!("0\r\n{}", "A: b\r\n".repeat(MAX_LINE));
    assert_eq!(ok(&trailers), Err(WireError::Chunk));
}

#[test]
fn requests() {
    let mut headers = HeaderMap::new();
    for (n, v) in [
        ("authorization", "Bearer x"),
        ("connection", "x"),
        ("te", "y"),
        ("accept", "*/*"),
        ("host", "h"),
    ] {
        headers.insert(n, HeaderValue::from_static(v));
    }
    let mut buf = BytesMut::new();
    let skip = |n: &HeaderName| *n == header::AUTHORIZATION;
    put_head(
        &mut buf,
        &Method::POST,
        "/mcp?a=b",
        &headers,
        skip,
        Outgoing::Length(2),
        None,
    );
    assert_eq!(
        std::str::from_utf8(&buf).unwrap(),
        "POST /mcp?a=b HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\ncontent-length: 2\r\n\r\n"
    );
}

#[test]
fn interim_responses_have_an_end() {
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
    let last = "HTTP/1.1 204 No Content\r\n\r\n";
    let most = MAX_INTERIM as usize;
    assert!(head(&(interim.repeat(most) + last)).unwrap().is_some());
    assert_eq!(
        head(&(interim.repeat(most + 1) + last)).unwrap_err(),
        WireError::Interim
    );
    // However they are cut up.
    let mut heads = Heads::default();
    let mut buf = BytesMut::new();
    let ended = (0..=most).try_for_each(|_| {
        buf.extend_from_slice(interim.as_bytes());
        heads.take(&mut buf, &Method::GET, false).map(|h| assert!(h.is_none()))
    });
    assert_eq!(ended, Err(WireError::Interim));
}

#[test]
fn a_head_that_comes_byte_by_byte_is_parsed_once_a_line() {
    let text = format!(
        "HTTP/1.1 200 OK\r\nx-long: {}\r\ncontent-length: 0\r\n\r\n",
        "x".repeat(50_000)
    );
    let (mut heads, mut buf) = (Heads::default(), BytesMut::new());
    let mut found = None;
    for byte in text.bytes() {
        buf.extend_from_slice(&[byte]);
        found = heads.take(&mut buf, &Method::GET, false).unwrap();
    }
    assert!(found.is_some() && buf.is_empty());
    assert_eq!(heads.tries, 3);
    // Lines without end, and a line without end.
    for byte in [b'\n', b'x'] {
        let (mut heads, mut buf) = (Heads::default(), BytesMut::new());
        let given_up = (0..=MAX_HEAD).find(|_| {
            buf.extend_from_slice(&[byte]);
            heads.take(&mut buf, &Method::GET, false).is_err()
        });
        assert!(given_up.is_some());
        assert!(heads.tries <= MAX_TRIES + 1);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), prefix: bool) {
        let mut buf = BytesMut::new();
        if prefix { buf.extend_from_slice(b"HTTP/1.1 200 OK\r\n"); }
        buf.extend_from_slice(&bytes);
        let _ = Heads::default().take(&mut buf, &Method::GET, true);
        for framing in [Framing::Chunked, Framing::Length(50), Framing::Close] {
            let _ = body(framing, &[&bytes]);
        }
    }

    #[test]
    fn chunked_bodies_read_the_same_however_they_arrive(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..10),
        cut in 1usize..20,
    ) {
        let mut wire = BytesMut::new();
        for p in &pieces { put_chunk(&mut wire, p); }
        wire.extend_from_slice(LAST_CHUNK);
        let parts: Vec<&[u8]> = wire.chunks(cut).collect();
        prop_assert_eq!(body(Framing::Chunked, &parts), Ok((pieces.concat(), true)));
    }

    #[test]
    fn a_head_that_is_not_whole_is_waited_for(cut in 0usize..52) {
        let text = b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 3\r\n\r\nabc";
        let end = text.len() - 3;
        let mut buf = BytesMut::from(&text[..cut.min(text.len())]);
        let got = Heads::default().take(&mut buf, &Method::GET, false).unwrap();
        prop_assert_eq!(got.is_some(), cut >= end);
    }
}
