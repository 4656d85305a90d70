//! Routing and the agent's answers: no host, path or answer makes the edge panic, and only well-formed ids are reached.

use berth::{
    door::{Door, Place, Router},
    link::wire::{Decoded, Decoder, Heads},
};
use bytes::BytesMut;

/// Authority, path and an answer, each ended by a zero byte.
pub(crate) fn check(input: &[u8]) {
    let mut parts = input.splitn(3, |b| *b == 0);
    let mut text = || std::str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
    let (authority, path) = (text(), text());
    let answer = parts.next().unwrap_or_default();
    for domain in [Some("example.org"), None] {
        let router = Router::new(domain, 443);
        if let Ok(Place {
            door: Door::Mcp,
            instance: Some(id),
            ..
        }) = router.find(authority, path)
        {
            let own = router.endpoints(&id, authority);
            assert!(own.mcp.url.contains(id.as_str()) && own.mcp.path_url.ends_with(id.as_str()));
            assert!(authority.to_ascii_lowercase().contains(id.as_str()) || path.contains(id.as_str()));
        }
    }
    let mut buf = BytesMut::from(answer);
    if let Ok(Some(head)) = Heads::default().take(&mut buf, &http::Method::POST, false) {
        let mut decoder = Decoder::new(head.framing);
        let mut left = buf.len() + 16;
        while let Ok(Decoded::Data(_)) = decoder.decode(&mut buf) {
            assert!(left > 0, "a piece of nothing, for ever");
            left -= 1;
        }
    }
}
