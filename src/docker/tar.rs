//! Small archives, as the engine takes files (POSIX.1-1988 ustar headers). Writes only; holds everything in memory.

use bytes::Bytes;

/// The size of a header, and what contents are filled up to, in bytes.
pub const BLOCK: usize = 512;

/// An archive being written.
#[derive(Debug, Default)]
pub struct Archive(Vec<u8>);

impl Archive {
    /// Adds a folder that belongs to `owner`.
    #[must_use]
    pub fn folder(mut self, path: &str, mode: u32, owner: u32) -> Self {
        self.header(path, mode, owner, 0, b'5');
        self
    }

    /// Adds a file that belongs to `owner`.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, owner: u32, content: &[u8]) -> Self {
        self.header(path, mode, owner, content.len() as u64, b'0');
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// Adds the header of a file whose content, and what fills its last block, are to follow.
    #[must_use]
    pub fn file_head(mut self, path: &str, mode: u32, owner: u32, size: u64) -> Self {
        self.header(path, mode, owner, size, b'0');
        self
    }

    /// The archive with its end.
    pub fn finish(mut self) -> Bytes {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0.into()
    }

    /// The archive without its end: another may follow.
    pub fn open(self) -> Bytes {
        self.0.into()
    }

    fn header(&mut self, path: &str, mode: u32, owner: u32, size: u64, kind: u8) {
        let mut block = [0u8; BLOCK];
        let name = path.as_bytes();
        let n = name.len().min(100);
        block[..n].copy_from_slice(&name[..n]);
        let mut number = |at: usize, width: usize, value: u64| {
            let text = format!("{value:0w$o}", w = width - 1);
            block[at..at + width - 1].copy_from_slice(text.as_bytes());
        };
        number(100, 8, u64::from(mode));
        number(108, 8, u64::from(owner));
        number(116, 8, u64::from(owner));
        number(124, 12, size);
        number(136, 12, 0);
        block[148..156].fill(b' ');
        block[156] = kind;
        block[257..263].copy_from_slice(b"ustar\0");
        block[263..265].copy_from_slice(b"00");
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend_from_slice(&block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_reads_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("a.tar");
        let archive = Archive::default()
            .folder("a/", 0o755, 10001)
            .file("a/b.txt", 0o600, 10001, &[b'x'; 700])
            .finish();
        std::fs::write(&file, archive).expect("write");
        let out = std::process::Command::new("tar")
            .args(["--numeric-owner", "-tvf"])
            .arg(&file)
            .output()
            .expect("tar");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            out.status.success() && text.contains("drwxr-xr-x 10001/10001"),
            "{text}"
        );
        assert!(
            text.contains("-rw------- 10001/10001") && text.contains(" 700 "),
            "{text}"
        );
    }
}
