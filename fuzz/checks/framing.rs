//! JSON-RPC framing: however the bytes are cut, the same lines come out; what parses can be spliced and parsed again.

use berth::mcp::{
    frame::{Line, Splitter},
    head, message,
};

fn lines(data: &[u8], cut: usize) -> Vec<Vec<u8>> {
    let mut splitter = Splitter::new(256);
    let mut out = Vec::new();
    for chunk in data.chunks(cut) {
        splitter.feed(chunk, |line| {
            if let Line::Whole(bytes) = line {
                out.push(bytes.to_vec());
            }
        });
        assert!(splitter.pending() <= 256 + cut);
    }
    out
}

/// The first byte says how the rest is cut.
pub(crate) fn check(input: &[u8]) {
    let Some((&cut, data)) = input.split_first() else {
        return;
    };
    let whole = lines(data, data.len().max(1));
    assert_eq!(whole, lines(data, usize::from(cut).max(1)));
    for line in &whole {
        if let Ok(m) = message::parse(line)
            && message::is_id(m.id)
        {
            let mut spliced = Vec::new();
            message::splice(&mut spliced, m.text, &[(message::place(m.text, m.id), b"7")]);
            let again = message::parse(&spliced).expect("still a message");
            assert_eq!(message::own_id(again.id), Some(7));
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = head::decode(text);
        let _ = message::params(Some(text));
    }
}
