//! A folder of a container as a layer of an image: its archive, as it streams from the engine, with every file given to
//! root and without special modes. Sans-IO.

use super::tar::BLOCK;

/// What a file may do: read, write, execute. Set-user-id and its like are no part of a package.
const MODE: u64 = 0o777;

/// What came is no archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine's archive is damaged")]
pub(super) struct Damaged;

/// Takes an archive (POSIX.1-2001, pax and ustar, as the engine writes it) piece by piece, and gives it on as a layer.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// A header, as far as it is there.
    head: Vec<u8>,
    /// Of what follows the last header: bytes that are still to come, with what fills the last block.
    left: u64,
    ended: bool,
}

impl Layer {
    /// Takes a piece; what it comes to is added to `out`.
    ///
    /// # Errors
    /// [`Damaged`].
    pub(super) fn feed(&mut self, mut piece: &[u8], out: &mut Vec<u8>) -> Result<(), Damaged> {
        while !piece.is_empty() {
            if self.left > 0 {
                let n = usize::try_from(self.left).map_or(piece.len(), |left| left.min(piece.len()));
                out.extend_from_slice(&piece[..n]);
                self.left -= n as u64;
                piece = &piece[n..];
                continue;
            }
            let n = (BLOCK - self.head.len()).min(piece.len());
            self.head.extend_from_slice(&piece[..n]);
            piece = &piece[n..];
            if self.head.len() == BLOCK {
                self.header()?;
                out.append(&mut self.head);
            }
        }
        Ok(())
    }

    /// Whether it came to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.ended && self.left == 0 && self.head.is_empty()
    }

    fn header(&mut self) -> Result<(), Damaged> {
        let head = &mut self.head;
        if head.iter().all(|b| *b == 0) {
            self.ended = true;
            return Ok(());
        }
        if self.ended || octal(&head[148..156]) != Some(sum(head)) {
            return Err(Damaged);
        }
        let size = number(&head[124..136]).ok_or(Damaged)?;
        self.left = size.checked_next_multiple_of(BLOCK as u64).ok_or(Damaged)?;
        let mode = number(&head[100..108]).ok_or(Damaged)? & MODE;
        head[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        // User and group, by number and by name.
        head[108..116].copy_from_slice(b"0000000\0");
        head[116..124].copy_from_slice(b"0000000\0");
        head[265..329].fill(0);
        let sum = sum(head);
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        Ok(())
    }
}

/// The sum of a header's bytes, its own field taken as blanks.
fn sum(head: &[u8]) -> u64 {
    let own = 148..156;
    let bytes = head.iter().enumerate();
    bytes
        .map(|(at, b)| if own.contains(&at) { 32 } else { u64::from(*b) })
        .sum()
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches([' ', '\0']);
    if text.is_empty() {
        Some(0)
    } else {
        u64::from_str_radix(text, 8).ok()
    }
}

/// A number in octal, or in base 256 where the first bit says so.
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first()? {
        (first, rest) if first & 0x80 != 0 => {
            let start = u64::from(first & 0x7f);
            rest.iter()
                .try_fold(start, |n, b| Some(n.checked_mul(256)? + u64::from(*b)))
        }
        _ => octal(field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    /// As GNU tar writes what lies in a folder: long names, links, modes. Made once.
    fn archive() -> Vec<u8> {
        static MADE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(made);
        MADE.clone()
    }

    fn made() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("opt/mcp");
        std::fs::create_dir_all(at.join("n".repeat(120))).unwrap();
        std::fs::write(at.join("n".repeat(120)).join("long"), "x").unwrap();
        std::fs::write(at.join("a"), vec![b'a'; 1300]).unwrap();
        std::fs::hard_link(at.join("a"), at.join("b")).unwrap();
        std::os::unix::fs::symlink("a", at.join("c")).unwrap();
        let setuid = Command::new("chmod").args(["6755"]).arg(at.join("a")).status().unwrap();
        assert!(setuid.success());
        let tar = Command::new("tar")
            .args([
                "--format=pax",
                "--owner=eve:10001",
                "--group=eve:10001",
                "-cf",
                "-",
                "opt",
            ])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(tar.status.success());
        tar.stdout
    }

    fn through(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), Damaged> {
        let (mut layer, mut out) = (Layer::default(), Vec::new());
        for piece in pieces {
            layer.feed(piece, &mut out)?;
        }
        Ok((out, layer.is_whole()))
    }

    #[test]
    fn every_file_is_roots_and_its_content_as_it_was() {
        let before = archive();
        let (after, whole) = through(&[&before]).unwrap();
        assert!(whole && after.len() == before.len());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("layer.tar");
        std::fs::write(&file, &after).unwrap();
        let list = Command::new("tar")
            .args(["--numeric-owner", "-tvf"])
            .arg(&file)
            .output()
            .unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        assert_eq!(list.lines().count(), 7, "{list}");
        assert!(list.lines().all(|l| l.contains(" 0/0 ")), "{list}");
        assert!(
            list.contains("-rwxr-xr-x") && !list.contains('s'),
            "no special modes: {list}"
        );
        let out = Command::new("tar")
            .arg("-xf")
            .arg(&file)
            .current_dir(dir.path())
            .status()
            .unwrap();
        assert!(out.success());
        let at = dir.path().join("opt/mcp");
        assert_eq!(std::fs::read(at.join("b")).unwrap(), vec![b'a'; 1300]);
        assert_eq!(std::fs::read(at.join("n".repeat(120)).join("long")).unwrap(), b"x");
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let mut bad = archive();
        bad[0] ^= 1;
        assert_eq!(through(&[&bad]), Err(Damaged));
        assert_eq!(through(&[&[b'x'; 512]]), Err(Damaged));
        let good = archive();
        let cut = through(&[&good[..good.len() - 10240 - 512]]);
        assert!(!cut.unwrap().1, "it has no end");
        let after = [good, archive()].concat();
        assert_eq!(through(&[&after]), Err(Damaged), "nothing follows the end");
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_the_same(cuts in proptest::collection::vec(0usize..20_000, 0..20)) {
            let before = archive();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(before.len())).collect();
            cuts.extend([0, before.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &before[w[0]..w[1]]).collect();
            prop_assert_eq!(through(&pieces).unwrap(), through(&[&before]).unwrap());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = through(&[&bytes]);
        }
    }
}
