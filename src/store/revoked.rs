//! Tokens that were revoked, in a file beside the store: an older copy of the store that is put back must not make them
//! valid again. Written, and on disk, before the store's own commit; a revocation that was begun is kept. Holds ids only.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::replace::{self, Durable};

/// The file has so many bytes at most; then its older half goes.
const MAX: u64 = 4 << 20;

#[derive(Debug)]
pub(super) struct Revoked {
    path: PathBuf,
}

impl Revoked {
    /// Makes the file where there is none.
    pub(super) fn open(dir: &Path) -> io::Result<Revoked> {
        let path = dir.join("revoked-tokens");
        append(&path)?;
        Ok(Revoked { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn ids(&self) -> io::Result<BTreeSet<String>> {
        let text = fs::read_to_string(&self.path)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    pub(super) fn add(&self, ids: &[String]) -> io::Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut file = append(&self.path)?;
        if file.metadata()?.len() > MAX {
            self.halve()?;
            file = append(&self.path)?;
        }
        // A line that a power cut left without its end is ended first.
        file.write_all(format!("\n{}\n", ids.join("\n")).as_bytes())?;
        file.sync_data()
    }

    fn halve(&self) -> io::Result<()> {
        let text = fs::read_to_string(&self.path)?;
        let middle = text.len() / 2;
        let from = text.as_bytes()[middle..].iter().position(|b| *b == b'\n');
        let newer = &text.as_bytes()[from.map_or(text.len(), |n| middle + n)..];
        replace::file(&self.path, newer, 0o600, Durable::Now)
    }
}

fn append(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_bounded_and_whole_after_a_torn_write() {
        let dir = tempfile::tempdir().unwrap();
        let revoked = Revoked::open(dir.path()).unwrap();
        assert!(revoked.ids().unwrap().is_empty());
        fs::write(revoked.path(), "\naaaa\nbb").unwrap();
        revoked.add(&["cccc".into(), "dddd".into()]).unwrap();
        let again = Revoked::open(dir.path()).unwrap().ids().unwrap();
        assert!(
            ["aaaa", "cccc", "dddd"].iter().all(|id| again.contains(*id)),
            "{again:?}"
        );

        let many: String = (0..500_000).map(|n| format!("{n:09}\n")).collect();
        fs::write(revoked.path(), many).unwrap();
        revoked.add(&["newest".into()]).unwrap();
        assert!(fs::metadata(revoked.path()).unwrap().len() < MAX);
        let ids = revoked.ids().unwrap();
        assert!(ids.contains("newest") && ids.contains("000499999") && !ids.contains("000000000"));
    }
}
