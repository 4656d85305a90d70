//! A viewer's half of an RFB connection (RFC 6143; the extensions by the community's rfbproto), read message by
//! message on its way to the display. Sans-IO: bytes in, the bytes that may pass out.
//!
//! ```text
//! version ──12 bytes──► security ──1──► init ──1──► messages…
//! ```
//!
//! What always passes: pixel format, encodings, update requests, fences, and a clipboard's questions. What passes
//! only while the viewer holds the controls: keys, the pointer, clipboard text. What never passes: a wish for another
//! screen size, power buttons, and every encoding that would bring client messages this reader does not know. The
//! first byte out of place is an error, which ends the connection.

use std::collections::BTreeSet;

/// Clipboard text at most, in bytes. A longer one is an error: the page cuts it before.
pub const MAX_CUT_TEXT: usize = 256 * 1024;
/// Encodings in one message at most.
const MAX_ENCODINGS: usize = 256;
/// A fence's payload at most (rfbproto, ClientFence).
const MAX_FENCE: usize = 64;
/// Keys held down at once that are remembered, to be let go.
const MAX_KEYS: usize = 64;

const VERSION: &[u8] = b"RFB 003.008\n";
/// Security type None (RFC 6143 section 7.2.1).
const SECURITY_NONE: u8 = 1;

/// Encodings and pseudo-encodings that a viewer may ask for: none of them changes the shape of a client message, but
/// for QEMU's key events, which are read here.
const ENCODINGS: [i32; 15] = [
    0,    // Raw
    1,    // CopyRect
    2,    // RRE
    5,    // Hextile
    6,    // zlib
    7,    // Tight
    16,   // ZRLE
    21,   // JPEG
    -223, // DesktopSize
    -224, // LastRect
    -239, // Cursor
    -258, // QEMU extended key event
    -308, // ExtendedDesktopSize
    -312, // Fence
    -313, // ContinuousUpdates
];
/// The same in ranges: Tight's quality and compression levels; the desktop's name; cursors with alpha; the clipboard.
const RANGES: [(i32, i32); 6] = [
    (-32, -23),
    (-256, -247),
    (-307, -307),
    (-314, -314),
    (-512, -412),
    (EXTENDED_CLIPBOARD, EXTENDED_CLIPBOARD),
];
/// 0xC0A1E5CE
const EXTENDED_CLIPBOARD: i32 = -1_063_131_698;

/// Actions of an extended clipboard message that carry or announce text (rfbproto, "Extended Clipboard").
const NOTIFY: u32 = 1 << 27;
const PROVIDE: u32 = 1 << 28;

/// What a viewer sent that no viewer of ours sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RfbError {
    #[error("the viewer does not speak RFB 3.8")]
    Version,
    #[error("the viewer chose a security type that was not offered")]
    Security,
    #[error("the viewer sent message {0}, which is unknown here")]
    Message(u8),
    #[error("a message of the viewer is too long")]
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Version,
    Security,
    Init,
    Messages,
}

/// Reads one viewer's bytes.
#[derive(Debug)]
pub struct Filter {
    stage: Stage,
    /// The beginning of a message whose rest has not come.
    rest: Vec<u8>,
    held: Held,
}

/// What the display believes to be pressed.
#[derive(Debug, Default)]
struct Held {
    keys: BTreeSet<u32>,
    /// QEMU's: keysym and keycode.
    codes: BTreeSet<(u32, u32)>,
    buttons: u8,
    at: [u8; 4],
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            stage: Stage::Version,
            rest: Vec::new(),
            held: Held::default(),
        }
    }
}

impl Filter {
    /// Reads `bytes`, and adds to `out` what may go on to the display. `control`: the viewer holds the controls now.
    ///
    /// # Errors
    /// [`RfbError`]: the connection is of no further use.
    pub fn feed(&mut self, bytes: &[u8], control: bool, out: &mut Vec<u8>) -> Result<(), RfbError> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(taken) = self.one(&rest[at..], control, out)? {
            at += taken;
        }
        rest.drain(..at);
        // Whatever is left is the beginning of one message, and those are bounded.
        self.rest = rest;
        Ok(())
    }

    /// Lets go of what is still pressed: the viewer has lost the controls.
    pub fn release(&mut self, out: &mut Vec<u8>) {
        self.held.release(out);
    }

    /// The bytes of the first message, if it is whole.
    fn one(&mut self, b: &[u8], control: bool, out: &mut Vec<u8>) -> Result<Option<usize>, RfbError> {
        match self.stage {
            Stage::Version => {
                let seen = b.len().min(VERSION.len());
                if b[..seen] != VERSION[..seen] {
                    return Err(RfbError::Version);
                }
                Ok(self.step(b, VERSION.len(), VERSION, Stage::Security, out))
            }
            Stage::Security => match b.first() {
                None => Ok(None),
                Some(&SECURITY_NONE) => Ok(self.step(b, 1, &[SECURITY_NONE], Stage::Init, out)),
                Some(_) => Err(RfbError::Security),
            },
            // Always shared: a new viewer sends nobody away.
            Stage::Init => Ok(self.step(b, 1, &[1], Stage::Messages, out)),
            Stage::Messages => self.message(b, control, out),
        }
    }

    fn step(&mut self, b: &[u8], need: usize, pass: &[u8], next: Stage, out: &mut Vec<u8>) -> Option<usize> {
        (b.len() >= need).then(|| {
            out.extend_from_slice(pass);
            self.stage = next;
            need
        })
    }

    fn message(&mut self, b: &[u8], control: bool, out: &mut Vec<u8>) -> Result<Option<usize>, RfbError> {
        let Some(&kind) = b.first() else { return Ok(None) };
        let Some(len) = length(kind, b)? else { return Ok(None) };
        let Some(m) = b.get(..len) else { return Ok(None) };
        match kind {
            2 => encodings(m, out),
            4 | 5 | 255 if control => {
                if self.held.note(m) {
                    out.extend_from_slice(m);
                }
            }
            6 if control || is_question(m) => out.extend_from_slice(m),
            4..=6 | 250 | 251 | 255 => {}
            _ => out.extend_from_slice(m),
        }
        Ok(Some(len))
    }
}

/// How long a message is, once enough of it is there to tell.
fn length(kind: u8, b: &[u8]) -> Result<Option<usize>, RfbError> {
    let u16_at = |at: usize| b.get(at..at + 2).map(|x| usize::from(u16::from_be_bytes([x[0], x[1]])));
    Ok(Some(match kind {
        0 => 20, // SetPixelFormat
        2 => match u16_at(2) {
            // SetEncodings
            Some(n) if n > MAX_ENCODINGS => return Err(RfbError::TooLong),
            Some(n) => 4 + 4 * n,
            None => return Ok(None),
        },
        3 | 150 => 10, // FramebufferUpdateRequest, EnableContinuousUpdates
        4 => 8,        // KeyEvent
        5 => 6,        // PointerEvent
        6 => match b.get(4..8) {
            // ClientCutText; a negative length is the extended one
            Some(x) => {
                let n = i32::from_be_bytes([x[0], x[1], x[2], x[3]]).unsigned_abs() as usize;
                if n > MAX_CUT_TEXT {
                    return Err(RfbError::TooLong);
                }
                8 + n
            }
            None => return Ok(None),
        },
        248 => match b.get(8) {
            // ClientFence
            Some(&n) if usize::from(n) > MAX_FENCE => return Err(RfbError::TooLong),
            Some(&n) => 9 + usize::from(n),
            None => return Ok(None),
        },
        250 => 4, // xvp: power buttons
        251 => match b.get(6) {
            // SetDesktopSize
            Some(&n) => 8 + 16 * usize::from(n),
            None => return Ok(None),
        },
        255 => match b.get(1) {
            // QEMU; submessage 0 is the extended key event
            Some(0) => 12,
            Some(_) => return Err(RfbError::Message(kind)),
            None => return Ok(None),
        },
        other => return Err(RfbError::Message(other)),
    }))
}

/// Passes a SetEncodings message on with what this reader knows.
fn encodings(m: &[u8], out: &mut Vec<u8>) {
    let known = |e: i32| ENCODINGS.contains(&e) || RANGES.iter().any(|(low, high)| (*low..=*high).contains(&e));
    let wanted = m[4..]
        .chunks_exact(4)
        .filter(|x| known(i32::from_be_bytes([x[0], x[1], x[2], x[3]])));
    let start = out.len();
    out.extend_from_slice(&[2, 0, 0, 0]);
    for encoding in wanted {
        out.extend_from_slice(encoding);
    }
    let count = u16::try_from((out.len() - start - 4) / 4).unwrap_or(0);
    out[start + 2..start + 4].copy_from_slice(&count.to_be_bytes());
}

/// Whether a clipboard message only asks or introduces: it neither carries nor announces text.
fn is_question(m: &[u8]) -> bool {
    let (Some(n), Some(flags)) = (m.get(4..8), m.get(8..12)) else {
        return false;
    };
    let extended = n[0] & 0x80 != 0;
    let flags = u32::from_be_bytes([flags[0], flags[1], flags[2], flags[3]]);
    // Capabilities list every action: bit 24.
    extended && (flags & (1 << 24) != 0 || flags & (NOTIFY | PROVIDE) == 0)
}

impl Held {
    /// Remembers what a key or pointer message presses; `false`: too much is pressed, it must not pass.
    fn note(&mut self, m: &[u8]) -> bool {
        let u32_at = |at: usize| u32::from_be_bytes([m[at], m[at + 1], m[at + 2], m[at + 3]]);
        let (down, room) = match m[0] {
            4 => (m[1] != 0, self.keys.len() < MAX_KEYS),
            5 => {
                self.buttons = m[1];
                self.at.copy_from_slice(&m[2..6]);
                return true;
            }
            _ => (m[2] != 0 || m[3] != 0, self.codes.len() < MAX_KEYS),
        };
        match (m[0], down) {
            (_, true) if !room => return false,
            (4, true) => {
                self.keys.insert(u32_at(4));
            }
            (4, false) => {
                self.keys.remove(&u32_at(4));
            }
            (_, true) => {
                self.codes.insert((u32_at(4), u32_at(8)));
            }
            (_, false) => {
                self.codes.remove(&(u32_at(4), u32_at(8)));
            }
        }
        true
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        for key in std::mem::take(&mut self.keys) {
            out.extend_from_slice(&[4, 0, 0, 0]);
            out.extend_from_slice(&key.to_be_bytes());
        }
        for (key, code) in std::mem::take(&mut self.codes) {
            out.extend_from_slice(&[255, 0, 0, 0]);
            out.extend_from_slice(&key.to_be_bytes());
            out.extend_from_slice(&code.to_be_bytes());
        }
        if std::mem::take(&mut self.buttons) != 0 {
            out.extend_from_slice(&[5, 0]);
            out.extend_from_slice(&self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HELLO: &[u8] = b"RFB 003.008\n\x01\x00";

    fn key(sym: u32, down: bool) -> Vec<u8> {
        let mut m = vec![4, u8::from(down), 0, 0];
        m.extend(sym.to_be_bytes());
        m
    }

    fn cut(text: &[u8]) -> Vec<u8> {
        let mut m = vec![6, 0, 0, 0];
        m.extend((text.len() as u32).to_be_bytes());
        m.extend(text);
        m
    }

    fn extended(flags: u32, more: &[u8]) -> Vec<u8> {
        let mut m = vec![6, 0, 0, 0];
        m.extend((-(4 + more.len() as i32)).to_be_bytes());
        m.extend(flags.to_be_bytes());
        m.extend(more);
        m
    }

    fn ready() -> Filter {
        let (mut f, mut out) = (Filter::default(), Vec::new());
        f.feed(HELLO, false, &mut out).unwrap();
        assert_eq!(out, b"RFB 003.008\n\x01\x01", "always shared");
        f
    }

    fn pass(f: &mut Filter, bytes: &[u8], control: bool) -> Vec<u8> {
        let mut out = Vec::new();
        f.feed(bytes, control, &mut out).unwrap();
        out
    }

    #[test]
    fn a_viewer_looks_and_touches_nothing() {
        let mut f = ready();
        for m in [
            key(0x61, true),
            vec![5, 1, 0, 9, 0, 9],
            cut(b"text"),
            vec![255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 30],
            vec![251, 0, 4, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 3, 0, 0, 0, 0, 0],
            vec![250, 0, 1, 2],
            extended(NOTIFY | 1, b""),
            extended(PROVIDE | 1, b"zlib"),
        ] {
            assert_eq!(pass(&mut f, &m, false), b"", "{m:?}");
        }
        for m in [
            vec![3, 0, 0, 0, 0, 0, 4, 0, 3, 0],
            vec![150, 1, 0, 0, 0, 0, 4, 0, 3, 0],
            vec![248, 0, 0, 0, 0, 0, 0, 1, 2, 7, 7],
            [0; 20].to_vec(),
            extended(1 << 25 | 1, b""),
            extended(0x1f << 24 | 1, b"\0\0\0\x14"),
        ] {
            assert_eq!(pass(&mut f, &m, false), m);
        }
    }

    #[test]
    fn who_holds_the_controls_types_but_does_not_resize() {
        let mut f = ready();
        for m in [
            key(0x61, true),
            vec![5, 1, 0, 9, 0, 9],
            cut(b"text"),
            extended(PROVIDE | 1, b"z"),
        ] {
            assert_eq!(pass(&mut f, &m, true), m);
        }
        assert_eq!(pass(&mut f, &[251, 0, 4, 0, 3, 0, 0, 0], true), b"");
    }

    #[test]
    fn what_is_pressed_is_let_go_with_the_controls() {
        let mut f = ready();
        let mut down = key(0xffe1, true);
        down.extend([5, 1, 0, 9, 0, 8]);
        down.extend([255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 30]);
        down.extend(key(0x62, true));
        down.extend(key(0x62, false));
        pass(&mut f, &down, true);
        let mut out = Vec::new();
        f.release(&mut out);
        let mut want = key(0xffe1, false);
        want.extend([255, 0, 0, 0, 0, 0, 0, 0x61, 0, 0, 0, 30]);
        want.extend([5, 0, 0, 9, 0, 8]);
        assert_eq!(out, want);
        out.clear();
        f.release(&mut out);
        assert_eq!(out, b"");
    }

    #[test]
    fn unknown_encodings_stay_behind() {
        let mut f = ready();
        let list = |all: &[i32]| {
            let mut m = vec![2, 0];
            m.extend((all.len() as u16).to_be_bytes());
            all.iter().for_each(|e| m.extend(e.to_be_bytes()));
            m
        };
        // Extended mouse buttons and xvp would change what the viewer sends.
        let sent = list(&[7, -316, -309, -308, EXTENDED_CLIPBOARD, 0, 50]);
        assert_eq!(pass(&mut f, &sent, false), list(&[7, -308, EXTENDED_CLIPBOARD, 0]));
        assert_eq!(EXTENDED_CLIPBOARD as u32, 0xC0A1_E5CE);
    }

    #[test]
    fn what_no_viewer_sends_ends_it() {
        let mut out = Vec::new();
        assert_eq!(
            Filter::default().feed(b"RFB 003.003\n", false, &mut out),
            Err(RfbError::Version)
        );
        assert_eq!(
            Filter::default().feed(b"GET / HTTP", false, &mut out),
            Err(RfbError::Version)
        );
        assert_eq!(
            Filter::default().feed(b"RFB 003.008\n\x02", false, &mut out),
            Err(RfbError::Security)
        );
        assert_eq!(ready().feed(&[1], true, &mut out), Err(RfbError::Message(1)));
        assert_eq!(
            ready().feed(&[255, 1, 0, 0], true, &mut out),
            Err(RfbError::Message(255))
        );
        for long in [
            &[6, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff][..],
            &[6, 0, 0, 0, 0x80, 0, 0, 0],
            &[2, 0, 0xff, 0xff],
            &[248, 0, 0, 0, 0, 0, 0, 0, 65],
        ] {
            assert_eq!(ready().feed(long, true, &mut out), Err(RfbError::TooLong), "{long:?}");
        }
    }

    /// A message that a viewer may send, and whether it passes without the controls.
    fn message() -> impl Strategy<Value = (Vec<u8>, bool)> {
        prop_oneof![
            Just(([0; 20].to_vec(), true)),
            any::<[u8; 9]>().prop_map(|r| ([&[3][..], &r].concat(), true)),
            any::<(u32, bool)>().prop_map(|(sym, down)| (key(sym % 8, down), false)),
            any::<[u8; 5]>().prop_map(|r| ([&[5][..], &r].concat(), false)),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|t| (cut(&t), false)),
            proptest::collection::vec(any::<u8>(), 0..=64)
                .prop_map(|t| ([&[248, 0, 0, 0, 0, 0, 0, 0, t.len() as u8][..], &t].concat(), true)),
        ]
    }

    proptest! {
        #[test]
        fn cut_anywhere_it_reads_the_same(all in proptest::collection::vec(message(), 0..20), cuts in proptest::collection::vec(1usize..30, 1..40), control: bool) {
            let bytes: Vec<u8> = all.iter().flat_map(|(m, _)| m.clone()).collect();
            let want: Vec<u8> = all.iter().filter(|(_, free)| *free || control).flat_map(|(m, _)| m.clone()).collect();
            let (mut f, mut out, mut rest) = (ready(), Vec::new(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                f.feed(now, control, &mut out).unwrap();
                rest = later;
            }
            prop_assert_eq!(out, want);
        }

        #[test]
        fn hostile_bytes_cost_bounded_memory(bytes in proptest::collection::vec(any::<u8>(), 0..4096), control: bool) {
            let (mut f, mut out) = (ready(), Vec::new());
            let _ = f.feed(&bytes, control, &mut out);
            prop_assert!(out.len() <= bytes.len() + 4);
            prop_assert!(f.rest.len() <= MAX_CUT_TEXT + 8);
        }
    }
}
