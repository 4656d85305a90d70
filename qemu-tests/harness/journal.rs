//! What a guest wrote to its disk, in order: each write with its place and its bytes, and each flush. From it follows what
//! a disk may hold after a power cut at any moment, without a machine.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Entry {
    /// Bytes on the disk, found at `at` in the journal's file. `through`: durable at once (FUA).
    Write {
        offset: u64,
        length: u64,
        at: u64,
        through: bool,
    },
    /// All writes before it are durable.
    Flush,
}

/// The list is kept in memory, the bytes in a file.
#[derive(Debug)]
pub struct Journal {
    pub entries: Vec<Entry>,
    bytes: File,
    end: u64,
}

impl Journal {
    pub fn new(bytes: &Path) -> Self {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(bytes)
            .unwrap();
        Self {
            entries: Vec::new(),
            bytes: file,
            end: 0,
        }
    }

    /// One that was kept.
    pub fn kept(entries: Vec<Entry>, bytes: &Path) -> Self {
        let bytes = File::open(bytes).unwrap();
        let end = bytes.metadata().unwrap().len();
        Self { entries, bytes, end }
    }

    /// # Errors
    /// The disk that keeps the journal is full or fails.
    pub fn write(&mut self, offset: u64, data: &[u8], through: bool) -> std::io::Result<()> {
        self.bytes.write_all_at(data, self.end)?;
        let length = data.len() as u64;
        self.entries.push(Entry::Write {
            offset,
            length,
            at: self.end,
            through,
        });
        self.end += length;
        Ok(())
    }

    pub fn flush(&mut self) {
        self.entries.push(Entry::Flush);
    }

    /// How many bytes were written in all.
    pub fn size(&self) -> u64 {
        self.end
    }

    /// What was written, from this place in the file on.
    pub fn read(&self, at: u64, into: &mut [u8]) {
        self.bytes.read_exact_at(into, at).unwrap();
    }
}
