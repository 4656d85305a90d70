//! What a client's HTTP/2 frames ask for, counted against what it got (RFC 9113 section 10.5). Frames that cost work and
//! bring nothing (PRIORITY, WINDOW_UPDATE, SETTINGS, PING, unknown ones, tiny or empty DATA, requests that are reset before
//! their answer) use up a balance; answers fill it again, and so does time, slowly. Pure: bytes and time come in.
//!
//! It reads the nine bytes of a frame's head and skips the rest: no frame is kept or changed. The `h2` crate cuts floods of
//! CONTINUATION, of empty DATA and of resets before their request is taken up; it does not count the others.

use std::cmp::min;

/// The balance of a new connection, and the most that there is.
const MOST: i64 = 1024;
/// What time brings, per second: well above what a client needs that only keeps its connection alive.
const PER_SECOND: u64 = 256;
/// For an answer's head. A client may say this much more than its request for each.
pub(super) const PER_ANSWER: u64 = 8;
/// For each piece of an answer, and [`per_piece`] of its length: clients open their windows as they read.
const PER_PIECE: u64 = 2;
const PIECE_BYTES: u64 = 2048;
/// A cancelled request is paid for more dearly: it was work, and its answer brings nothing in.
const RESET: i64 = 4;
/// DATA from this length on costs nothing here: the body's own limit bounds it.
const DATA: usize = 256;
/// Bytes of a frame that brings nothing count as so many frames.
const WASTE: usize = 1024;
/// The client connection preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;
const HEAD: usize = 9;
/// Of DATA: it is the stream's last, so that there is one of a stream.
const END_STREAM: u8 = 1;

/// What a piece of an answer is worth.
pub(super) fn per_piece(length: usize) -> u64 {
    PER_PIECE + length as u64 / PIECE_BYTES
}

/// The client sent too much that asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many HTTP/2 frames that ask for nothing")]
pub(super) struct Flood;

/// One connection's frames.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes still to skip: the preface, then each frame's payload.
    skip: usize,
    head: [u8; HEAD],
    have: usize,
    balance: i64,
    /// Until when time was counted, in ms.
    counted: u64,
}

impl Frames {
    /// A connection that begins now, in ms.
    pub(super) fn new(now: u64) -> Frames {
        Frames {
            skip: PREFACE,
            head: [0; HEAD],
            have: 0,
            balance: MOST,
            counted: now,
        }
    }

    /// Bytes as they come. `earned` takes what answers have brought since it was called last; it and the clock are
    /// asked only when the balance is used up.
    ///
    /// # Errors
    /// [`Flood`]: the connection is to be closed.
    pub(super) fn read(
        &mut self,
        mut bytes: &[u8],
        mut earned: impl FnMut() -> u64,
        mut now: impl FnMut() -> u64,
    ) -> Result<(), Flood> {
        loop {
            let skipped = min(self.skip, bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return Ok(());
            }
            let took = min(HEAD - self.have, bytes.len());
            self.head[self.have..self.have + took].copy_from_slice(&bytes[..took]);
            self.have += took;
            bytes = &bytes[took..];
            if self.have < HEAD {
                return Ok(());
            }
            self.have = 0;
            let [a, b, c, kind, flags, ..] = self.head;
            self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            self.balance -= cost(kind, flags, self.skip);
            if self.balance < 0 {
                let (at, more) = (now(), earned());
                let brought = at.saturating_sub(self.counted) * PER_SECOND / 1000 + more;
                self.counted = at;
                self.balance = min(self.balance + i64::try_from(brought).unwrap_or(MOST), MOST);
                if self.balance < 0 {
                    return Err(Flood);
                }
            }
        }
    }
}

/// What a frame takes from the balance; kinds by RFC 9113 section 6.
fn cost(kind: u8, flags: u8, length: usize) -> i64 {
    match kind {
        0 if length >= DATA || flags & END_STREAM != 0 => 0,
        0 | 1 => 1,
        3 => RESET,
        _ => 1 + (length / WASTE) as i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIORITY: u8 = 2;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut all = (length as u32).to_be_bytes()[1..].to_vec();
        all.extend([kind, flags, 0, 0, 0, 1]);
        all.resize(HEAD + length, 0);
        all
    }

    fn begun(now: u64) -> Frames {
        let mut frames = Frames::new(now);
        frames.read(&[b'x'; PREFACE], || 0, || now).unwrap();
        frames
    }

    /// How many of these frames pass at one moment.
    fn passing(one: &[u8], most: usize) -> usize {
        let mut frames = begun(0);
        (0..most).take_while(|_| frames.read(one, || 0, || 0).is_ok()).count()
    }

    #[test]
    fn frames_that_ask_for_nothing_are_cut() {
        let most = MOST as usize;
        for (kind, flags, length) in [
            (PRIORITY, 0, 5),
            (4, 0, 0),
            (4, 1, 0),
            (PING, 0, 8),
            (WINDOW_UPDATE, 0, 4),
        ] {
            assert_eq!(passing(&frame(kind, flags, length), 10_000), most, "{kind}");
        }
        for (kind, length) in [(0, 0), (0, 1), (9, 0), (0x42, 0), (1, 20)] {
            assert_eq!(passing(&frame(kind, 0, length), 10_000), most, "{kind}");
        }
        let waste = passing(&frame(0x42, 0, 16_384), 10_000);
        assert!(waste < most / 16, "long ones count for more: {waste}");
        let mut pair = frame(1, 5, 20);
        pair.extend(frame(3, 0, 4));
        assert!(passing(&pair, 10_000) < most / 4, "requests that are reset at once");
        assert_eq!(passing(&frame(0, 0, 16_384), 10_000), 10_000, "a body");
        assert_eq!(passing(&frame(0, END_STREAM, 0), 10_000), 10_000, "its end");
    }

    #[test]
    fn whoever_works_may_go_on() {
        let mut frames = begun(0);
        // A request, its small body, its answer; windows opened for each, and PRIORITY as browsers send it.
        let mut round = frame(1, 4, 40);
        for more in [
            frame(PRIORITY, 0, 5),
            frame(0, 1, 60),
            frame(WINDOW_UPDATE, 0, 4),
            frame(WINDOW_UPDATE, 0, 4),
        ] {
            round.extend(more);
        }
        let mut answers = 0;
        for _ in 0..100_000 {
            answers += PER_ANSWER;
            frames.read(&round, || std::mem::take(&mut answers), || 0).unwrap();
        }
        // A long download in pieces of 32 KiB, of which each opens both windows twice.
        let mut pieces = 0;
        for _ in 0..100_000 {
            pieces += per_piece(32 * 1024);
            for _ in 0..4 {
                let opened = frame(WINDOW_UPDATE, 0, 4);
                frames.read(&opened, || std::mem::take(&mut pieces), || 0).unwrap();
            }
        }
        // A client that pings a hundred times a second, for an hour.
        let mut now = 0;
        for _ in 0..360_000 {
            now += 10;
            frames.read(&frame(PING, 0, 8), || 0, || now).unwrap();
        }
    }

    #[test]
    fn how_bytes_are_cut_up_makes_no_difference() {
        let mut all = vec![b'x'; PREFACE];
        for n in 0..2000 {
            all.extend(frame([PRIORITY, PING, 0, 0x33][n % 4], 0, n % 50));
        }
        let cut_at = |size: usize| {
            let mut frames = Frames::new(0);
            let mut read = 0;
            for piece in all.chunks(size) {
                for byte in piece.chunks(1) {
                    if frames.read(byte, || 0, || 0).is_err() {
                        return read;
                    }
                    read += 1;
                }
            }
            read
        };
        let mut frames = Frames::new(0);
        assert!(frames.read(&all, || 0, || 0).is_err());
        assert!(cut_at(1) == cut_at(7) && cut_at(1) > MOST as usize * HEAD);
    }
}
