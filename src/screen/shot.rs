//! A screenshot by RFB (RFC 6143): the client's side of the shortest conversation that yields every pixel once.
//! Sans-IO: bytes of the display in, bytes to send out, until the picture is whole. The display is a container's and
//! is not trusted: sizes are bounded, and whatever is out of place is an error.
//!
//! ```text
//! version ──► security ──► result ──► init ──► update (rectangles, raw) ──► whole
//! ```

/// Pixels at most: 8192 by 4096.
const MAX_PIXELS: usize = 1 << 25;
/// A name, a reason or a clipboard that is passed over, in bytes.
const MAX_TEXT: usize = 1 << 20;

/// A picture, 8 bits each of red, green and blue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub rgb: Vec<u8>,
}

/// What the display did that RFB does not allow, or that we did not ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShotError {
    #[error("the display does not speak RFB 3.8")]
    Version,
    #[error("the display asks for a password, but displays of Berth have none")]
    Security,
    #[error("the display's size is out of bounds")]
    Size,
    #[error("the display sent something unexpected")]
    Garbled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Version,
    Security,
    Result,
    Init,
    /// Between messages.
    Idle,
    /// Rectangles of an update that are still to come.
    Rectangles(u16),
    /// Within one: where, and the row that comes next.
    Rows {
        x: usize,
        y: usize,
        w: usize,
        h: usize,
        row: usize,
        left: u16,
    },
    /// Bytes to pass over.
    Skip(usize),
    Whole,
}

/// The conversation.
#[derive(Debug)]
pub struct Shot {
    stage: Stage,
    buf: Vec<u8>,
    picture: Picture,
    painted: usize,
}

impl Default for Shot {
    fn default() -> Self {
        Self {
            stage: Stage::Version,
            buf: Vec::new(),
            picture: Picture {
                width: 0,
                height: 0,
                rgb: Vec::new(),
            },
            painted: 0,
        }
    }
}

impl Shot {
    /// Reads what the display sent; adds to `out` what to send back. `Some`: the picture is whole.
    ///
    /// # Errors
    /// [`ShotError`].
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Picture>, ShotError> {
        let mut buf = std::mem::take(&mut self.buf);
        buf.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(taken) = self.step(&buf[at..], out)? {
            at += taken;
            if self.stage == Stage::Whole {
                let empty = Picture {
                    width: 0,
                    height: 0,
                    rgb: Vec::new(),
                };
                return Ok(Some(std::mem::replace(&mut self.picture, empty)));
            }
        }
        buf.drain(..at);
        self.buf = buf;
        Ok(None)
    }

    /// Bytes taken off the front of `b`; `None`: more are needed.
    fn step(&mut self, b: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, ShotError> {
        let u16_at = |at: usize| usize::from(u16::from_be_bytes([b[at], b[at + 1]]));
        let u32_at = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]) as usize;
        let (need, next) = match self.stage {
            Stage::Version if b.len() >= 12 => {
                if !b.starts_with(b"RFB 003.008\n") {
                    return Err(ShotError::Version);
                }
                out.extend_from_slice(b"RFB 003.008\n");
                (12, Stage::Security)
            }
            Stage::Security if !b.is_empty() && b.len() > usize::from(b[0]) => {
                let count = usize::from(b[0]);
                if !b[1..=count].contains(&1) {
                    return Err(ShotError::Security);
                }
                out.push(1);
                (1 + count, Stage::Result)
            }
            Stage::Result if b.len() >= 4 => {
                if u32_at(0) != 0 {
                    return Err(ShotError::Security);
                }
                out.push(1);
                (4, Stage::Init)
            }
            Stage::Init if b.len() >= 24 => {
                let name = u32_at(20);
                if name > MAX_TEXT {
                    return Err(ShotError::Garbled);
                }
                self.begin(u16_at(0), u16_at(2), out)?;
                (24, Stage::Skip(name))
            }
            Stage::Skip(0) => (0, Stage::Idle),
            Stage::Skip(left) if !b.is_empty() => {
                let taken = left.min(b.len());
                (taken, Stage::Skip(left - taken))
            }
            Stage::Idle if !b.is_empty() => match b[0] {
                0 if b.len() >= 4 => (4, Stage::Rectangles(u16_at(2) as u16)),
                2 => (1, Stage::Idle),
                3 if b.len() >= 8 => {
                    if u32_at(4) > MAX_TEXT {
                        return Err(ShotError::Garbled);
                    }
                    (8, Stage::Skip(u32_at(4)))
                }
                0 | 3 => return Ok(None),
                _ => return Err(ShotError::Garbled),
            },
            Stage::Rectangles(0) if self.painted >= self.picture.rgb.len() / 3 => (0, Stage::Whole),
            Stage::Rectangles(0) => (0, Stage::Idle),
            Stage::Rectangles(n) if b.len() >= 12 => {
                let (x, y, w, h) = (u16_at(0), u16_at(2), u16_at(4), u16_at(6));
                let inside = x + w <= self.picture.width as usize && y + h <= self.picture.height as usize;
                if !inside || u32_at(8) != 0 {
                    return Err(ShotError::Garbled);
                }
                let rows = if w == 0 { 0 } else { h };
                (
                    12,
                    Stage::Rows {
                        x,
                        y,
                        w,
                        h: rows,
                        row: 0,
                        left: n - 1,
                    },
                )
            }
            Stage::Rows { row, h, left, .. } if row == h => (0, Stage::Rectangles(left)),
            Stage::Rows { x, y, w, h, row, left } if b.len() >= 4 * w => {
                let start = 3 * ((y + row) * self.picture.width as usize + x);
                let line = &mut self.picture.rgb[start..start + 3 * w];
                for (to, from) in line.chunks_exact_mut(3).zip(b.chunks_exact(4)) {
                    to.copy_from_slice(&[from[2], from[1], from[0]]);
                }
                self.painted += w;
                (
                    4 * w,
                    Stage::Rows {
                        x,
                        y,
                        w,
                        h,
                        row: row + 1,
                        left,
                    },
                )
            }
            _ => return Ok(None),
        };
        self.stage = next;
        Ok(Some(need))
    }

    fn begin(&mut self, width: usize, height: usize, out: &mut Vec<u8>) -> Result<(), ShotError> {
        if width == 0 || height == 0 || width * height > MAX_PIXELS {
            return Err(ShotError::Size);
        }
        self.picture = Picture {
            width: width as u32,
            height: height as u32,
            rgb: vec![0; 3 * width * height],
        };
        // SetPixelFormat: 32 bits, depth 24, little endian, true colour, red at 16, green at 8, blue at 0.
        out.extend_from_slice(&[0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
        // SetEncodings: raw alone.
        out.extend_from_slice(&[2, 0, 0, 1, 0, 0, 0, 0]);
        // FramebufferUpdateRequest: all of it, changed or not.
        out.extend_from_slice(&[3, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&(width as u16).to_be_bytes());
        out.extend_from_slice(&(height as u16).to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A display of 3 by 2 pixels that sends a clipboard, a bell, and its picture in two rectangles.
    fn display() -> Vec<u8> {
        let mut b = b"RFB 003.008\n\x02\x02\x01\0\0\0\0".to_vec();
        b.extend([0, 3, 0, 2]);
        b.extend([0; 16]);
        b.extend([0, 0, 0, 2, b'h', b'i']);
        b.extend([3, 0, 0, 0, 0, 0, 0, 1, b'x', 2]);
        b.extend([0, 0, 0, 2]);
        b.extend([0, 0, 0, 0, 0, 3, 0, 1, 0, 0, 0, 0]);
        b.extend([30, 20, 10, 0].repeat(3));
        b.extend([0, 0, 0, 1, 0, 3, 0, 1, 0, 0, 0, 0]);
        b.extend([3, 2, 1, 0].repeat(3));
        b
    }

    fn want() -> Picture {
        Picture {
            width: 3,
            height: 2,
            rgb: [[10, 20, 30].repeat(3), [1, 2, 3].repeat(3)].concat(),
        }
    }

    #[test]
    fn refusals() {
        let feed = |b: &[u8]| Shot::default().feed(b, &mut Vec::new());
        assert_eq!(feed(b"SSH-2.0-x\r\n\r\n"), Err(ShotError::Version));
        assert_eq!(feed(b"RFB 003.008\n\x01\x02"), Err(ShotError::Security));
        assert_eq!(feed(b"RFB 003.008\n\x01\x01\0\0\0\x01"), Err(ShotError::Security));
        let huge = [b"RFB 003.008\n\x01\x01\0\0\0\0\xff\xff\xff\xff".as_slice(), &[0; 20]].concat();
        assert_eq!(feed(&huge), Err(ShotError::Size));
        let mut outside = display();
        let at = outside.len() - 24;
        outside[at + 1] = 1;
        assert_eq!(feed(&outside), Err(ShotError::Garbled));
    }

    proptest! {
        #[test]
        fn a_picture_comes_whole_however_it_is_cut(cuts in proptest::collection::vec(1usize..20, 1..20)) {
            let (all, mut shot, mut out) = (display(), Shot::default(), Vec::new());
            let (mut rest, mut got) = (&all[..], None);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                got = shot.feed(now, &mut out).unwrap();
                rest = later;
            }
            prop_assert_eq!(got, Some(want()));
            prop_assert!(out.starts_with(b"RFB 003.008\n\x01\x01"));
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), tail in 20usize..60) {
            let mut b = display();
            b.truncate(tail);
            b.extend(bytes);
            let _ = Shot::default().feed(&b, &mut Vec::new());
        }
    }
}
