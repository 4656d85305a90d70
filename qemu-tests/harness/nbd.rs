//! A disk that forgets: an NBD server (the protocol's fixed newstyle handshake, simple replies) above a raw file that it
//! never changes. What the guest writes is volatile until the guest flushes or asks for FUA, as in a drive's cache; at a
//! power cut each volatile physical sector is kept or lost by the roll of a die, since a drive writes its cache out in no order.
//! The cut comes when something is volatile: in place of a flush. All of it can be recorded, for cuts without a machine.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Write},
    os::fd::AsRawFd,
    os::unix::{
        fs::FileExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Instant,
};

use super::{Dice, journal::Journal};

/// What a disk is addressed by.
pub const SECTOR: usize = 512;
/// So many sectors, aligned, a drive writes whole or not at all: drives have physical sectors of 4096 bytes. XFS counts on
/// it. Of a block of a directory that was torn, with the new head and an old rest, its recovery believes the head, leaves
/// the block as it is, and the file system does not mount.
pub const PHYSICAL: u64 = 8;
/// The socket's name in the machine's folder.
pub const SOCKET: &str = "disk.sock";
type Sector = Box<[u8; SECTOR]>;

#[derive(Debug)]
struct Layers {
    base: File,
    size: u64,
    /// Written and flushed.
    durable: HashMap<u64, Sector>,
    /// Written only.
    volatile: HashMap<u64, Sector>,
    flushes: u64,
    /// From then on the next flush that has something to flush is never done.
    falls_at: Option<Instant>,
    fell: bool,
    journal: Option<Journal>,
}

impl Layers {
    fn sector(&self, at: u64) -> Option<&Sector> {
        self.volatile.get(&at).or_else(|| self.durable.get(&at))
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.base.read_exact_at(into, offset)?;
        let first = offset / SECTOR as u64;
        for (n, piece) in into.chunks_exact_mut(SECTOR).enumerate() {
            if let Some(s) = self.sector(first + n as u64) {
                piece.copy_from_slice(&s[..]);
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], through: bool) -> std::io::Result<()> {
        if let Some(journal) = &mut self.journal {
            journal.write(offset, data, through)?;
        }
        let first = offset / SECTOR as u64;
        for (n, piece) in data.chunks_exact(SECTOR).enumerate() {
            let at = first + n as u64;
            let sector: Sector = Box::new(piece.try_into().unwrap());
            if through {
                self.volatile.remove(&at);
                self.durable.insert(at, sector);
            } else {
                self.volatile.insert(at, sector);
            }
        }
        Ok(())
    }

    /// Whether the power goes now: before a flush of what was written, from the moment on that the test chose.
    fn falls(&mut self) -> bool {
        self.fell |= !self.volatile.is_empty() && self.falls_at.is_some_and(|at| Instant::now() >= at);
        self.fell
    }

    fn flush(&mut self) {
        self.flushes += 1;
        if let Some(journal) = &mut self.journal {
            journal.flush();
        }
        let written = std::mem::take(&mut self.volatile);
        self.durable.extend(written);
    }
}

/// What a power cut did.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub kept: usize,
    pub lost: usize,
    /// Flushes until then.
    pub flushes: u64,
}

#[derive(Debug, Clone)]
pub struct Drive {
    layers: Arc<Mutex<Layers>>,
}

impl Drive {
    pub fn above(file: &Path) -> Self {
        let base = File::open(file).unwrap();
        let size = base.metadata().unwrap().len();
        assert_eq!(size % SECTOR as u64, 0);
        let (durable, volatile) = (HashMap::new(), HashMap::new());
        Self {
            layers: Arc::new(Mutex::new(Layers {
                base,
                size,
                durable,
                volatile,
                flushes: 0,
                falls_at: None,
                fell: false,
                journal: None,
            })),
        }
    }

    fn layers(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the power go at the first flush after this moment that has anything to flush: the guest gets no answer to it,
    /// nor to anything after it. Between the two, a guest that flushes often has nothing to lose.
    pub fn falls_at(&self, at: Instant) {
        self.layers().falls_at = Some(at);
    }

    /// Whether the power went.
    pub fn fell(&self) -> bool {
        self.layers().fell
    }

    /// From now on everything that is written and flushed goes into a journal, with its bytes in this file.
    pub fn record(&self, bytes: &Path) {
        self.layers().journal = Some(Journal::new(bytes));
    }

    /// How much stands in the journal.
    pub fn recorded(&self) -> usize {
        self.layers().journal.as_ref().map_or(0, |j| j.entries.len())
    }

    /// The journal, which ends here.
    pub fn journal(&self) -> Journal {
        self.layers().journal.take().expect("it was recorded")
    }

    /// Serves one machine's life on `disk.sock` in this folder.
    pub fn serve(&self, folder: &Path) -> JoinHandle<std::io::Result<()>> {
        let _ = std::fs::remove_file(folder.join(SOCKET));
        // Socket paths are 107 bytes at most; the folder's may be longer.
        let near = File::open(folder).unwrap();
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", near.as_raw_fd())).unwrap();
        let drive = self.clone();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept()?;
            drive.talk(stream)
        })
    }

    /// Power is lost: of what was not flushed, each physical sector stays by chance.
    pub fn cut(&self, dice: &mut Dice) -> Cut {
        let mut l = self.layers();
        (l.falls_at, l.fell) = (None, false);
        let mut pending: Vec<(u64, Sector)> = l.volatile.drain().collect();
        // In a fixed order, so that a seed says which.
        pending.sort_by_key(|(at, _)| *at);
        let mut cut = Cut {
            kept: 0,
            lost: 0,
            flushes: l.flushes,
        };
        let mut last = None;
        for (at, sector) in pending {
            let stays = match last {
                Some((physical, stays)) if physical == at / PHYSICAL => stays,
                _ => dice.roll() >> 63 == 1,
            };
            last = Some((at / PHYSICAL, stays));
            if stays {
                cut.kept += 1;
                l.durable.insert(at, sector);
            } else {
                cut.lost += 1;
            }
        }
        cut
    }

    fn talk(&self, mut s: UnixStream) -> std::io::Result<()> {
        handshake(&mut s, self.layers().size)?;
        let mut data = Vec::new();
        loop {
            let mut head = [0; 28];
            if s.read_exact(&mut head).is_err() {
                return Ok(());
            }
            let number = |range: std::ops::Range<usize>| head[range].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
            let (flags, command, offset, length) = (number(4..6), number(6..8), number(16..24), number(24..28));
            if number(0..4) != 0x2560_9513 {
                return Err(std::io::Error::other("not an NBD request"));
            }
            let through = flags & 1 != 0;
            if command == 3 && self.layers().falls() {
                // Nothing is answered any more, until QEMU is killed.
                std::io::copy(&mut s, &mut std::io::sink())?;
                return Ok(());
            }
            data.resize(length as usize, 0);
            let mut answer = Vec::with_capacity(16 + data.len());
            let mut error = 0u32;
            match command {
                0 => {
                    if self.layers().read(offset, &mut data).is_err() {
                        error = 5;
                    }
                }
                1 => {
                    // QEMU may be killed in the middle of a request.
                    if s.read_exact(&mut data).is_err() {
                        return Ok(());
                    }
                    self.layers().write(offset, &data, through)?;
                }
                2 => return Ok(()),
                3 => self.layers().flush(),
                // Write zeroes.
                6 => {
                    data.fill(0);
                    self.layers().write(offset, &data, through)?;
                }
                _ => error = 22,
            }
            answer.extend(0x6744_6698u32.to_be_bytes());
            answer.extend(error.to_be_bytes());
            answer.extend(&head[8..16]);
            if command == 0 && error == 0 {
                answer.extend(&data);
            }
            if s.write_all(&answer).is_err() {
                return Ok(());
            }
        }
    }
}

/// Offers one unnamed export with flush, FUA and write-zeroes.
fn handshake(s: &mut UnixStream, size: u64) -> std::io::Result<()> {
    const REPLY: u64 = 0x0003_e889_0455_65a9;
    // Has flags, flush, FUA, write zeroes.
    const FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 6;
    s.write_all(b"NBDMAGICIHAVEOPT")?;
    // Fixed newstyle, no zeroes.
    s.write_all(&3u16.to_be_bytes())?;
    let mut client = [0; 4];
    s.read_exact(&mut client)?;
    loop {
        let mut head = [0; 16];
        s.read_exact(&mut head)?;
        let option = u32::from_be_bytes(head[8..12].try_into().unwrap());
        let mut data = vec![0; u32::from_be_bytes(head[12..16].try_into().unwrap()) as usize];
        s.read_exact(&mut data)?;
        let mut reply = |kind: u32, body: &[u8]| -> std::io::Result<()> {
            s.write_all(&REPLY.to_be_bytes())?;
            s.write_all(&option.to_be_bytes())?;
            s.write_all(&kind.to_be_bytes())?;
            s.write_all(&(body.len() as u32).to_be_bytes())?;
            s.write_all(body)
        };
        match option {
            // GO, INFO: size and flags, then done.
            6 | 7 => {
                let mut body = vec![0, 0];
                body.extend(size.to_be_bytes());
                body.extend(FLAGS.to_be_bytes());
                reply(3, &body)?;
                reply(1, &[])?;
                if option == 7 {
                    return Ok(());
                }
            }
            2 => {
                reply(1, &[])?;
                return Err(std::io::Error::other("the client left"));
            }
            _ => reply(0x8000_0001, &[])?,
        }
    }
}
