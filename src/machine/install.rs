//! Copies the running image onto a disk: boot partitions and the root in use, with a table of the disk's own. The
//! data partition is made there at the first boot. The table is written last, so that a copy that broke off does not
//! boot; before that, everything is read back past the cache and compared.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{
    MachineError, disk, failed,
    gpt::{self, Entry, SECTOR},
};

/// The smallest disk, in bytes.
pub const SMALLEST: u64 = 16_000_000_000;
/// Partitions begin at multiples of this, in sectors.
const ALIGN: u64 = 2048;
/// Read and written at once, in bytes.
const CHUNK: usize = 4 * 1024 * 1024;
/// This much at either end is looked at for data: every kind of table, volume and file system shows there.
const EDGE: u64 = 4 * 1024 * 1024;

fn refuse<T>(text: String) -> Result<T, MachineError> {
    Err(MachineError::Refused(text))
}

/// Installs the running image on `target`. `said` hears what is being done. Gives what to do next.
///
/// # Errors
/// [`MachineError::Refused`] when the disk must not or cannot be used, with what to do instead; else what failed.
pub fn install(target: &Path, erase: bool, said: &mut dyn FnMut(&str)) -> Result<String, MachineError> {
    let name = target.display().to_string();
    let real = fs::canonicalize(target).map_err(failed("find", target))?;
    let kernel = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let place = Path::new("/sys/class/block").join(&kernel);
    let is_block = fs::metadata(&real).is_ok_and(|m| m.file_type().is_block_device());
    if !is_block || !place.exists() {
        return refuse(format!("{name} is not a disk"));
    }
    if place.join("partition").exists() {
        return refuse(format!("{name} is a partition: name the whole disk"));
    }
    let Some(root) = disk::root_disk() else {
        return refuse("this system does not run from a disk of Berth's: start the machine from Berth's image".into());
    };
    if root == kernel {
        return refuse(format!("{name} is the disk that Berth runs from"));
    }
    let source_path = Path::new("/dev").join(&root);
    let source = File::open(&source_path).map_err(failed("open", &source_path))?;
    // Exclusive: the kernel refuses it while anything of the disk is mounted or in use.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(&real)
        .map_err(|e| match e.raw_os_error() {
            Some(nix::libc::EBUSY) => MachineError::Refused(format!(
                "{name} is in use (mounted, or part of a volume): release it first"
            )),
            _ => failed("open", target)(e),
        })?;
    for one in [&root, &kernel] {
        let sector = fs::read_to_string(format!("/sys/class/block/{one}/queue/logical_block_size")).unwrap_or_default();
        if sector.trim() != "512" {
            return refuse(format!(
                "/dev/{one} has sectors of {} bytes; Berth needs 512: switch the disk to 512-byte sectors",
                sector.trim()
            ));
        }
    }
    let bytes = size(&file).map_err(failed("measure", target))?;
    if bytes < SMALLEST {
        return refuse(format!("{name} holds {} GB; Berth needs 16 GB", bytes / 1_000_000_000));
    }
    if !erase && !blank(&file, bytes).map_err(failed("read", target))? {
        return refuse(format!(
            "{name} has data on it: check what it is, and use --erase if it may be erased"
        ));
    }
    let in_use = root_partitions(&root);
    copy(&source, &file, bytes, &in_use, target, said)?;
    drop(file);
    // Whoever looks at the partitions now sees the new ones; a kernel that does not yet is no failure.
    let _ = std::process::Command::new("/usr/bin/udevadm")
        .args(["trigger", "--settle", &format!("/dev/{kernel}")])
        .status();
    Ok(format!(
        "Berth is on {name}, and what was written was read back and compared. Take the medium out that this machine \
         was started from (or change the boot order), and restart: the box then makes its data partition and shows its \
         claim code here."
    ))
}

/// A whole disk's size: the place of its end.
fn size(file: &File) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    let mut file = file;
    let end = file.seek(SeekFrom::End(0))?;
    Ok(end / SECTOR * SECTOR)
}

/// Whether both ends are nothing but zeros.
fn blank(file: &File, bytes: u64) -> io::Result<bool> {
    let mut edge = vec![0; usize::try_from(EDGE.min(bytes)).unwrap_or(0)];
    for at in [0, bytes.saturating_sub(EDGE)] {
        file.read_exact_at(&mut edge, at)?;
        if !is_empty(&edge) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The numbers of the partitions that the running root stands on.
fn root_partitions(disk: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/sys/class/block/{disk}"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let place = entry.path();
        let number: Option<u32> = fs::read_to_string(place.join("partition"))
            .ok()
            .and_then(|n| n.trim().parse().ok());
        // Held by verity's device: the root's two partitions are, the data partition is held by another.
        let verity = fs::read_dir(place.join("holders"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|h| fs::read_to_string(h.path().join("dm/uuid")).is_ok_and(|u| u.starts_with("CRYPT-VERITY")));
        found.extend(number.filter(|_| verity));
    }
    found
}

/// Which partitions go where: boot partitions stay where they are (GRUB's first stage knows its core by its place),
/// the root in use follows, wherever it was.
fn layout(source: &[Entry], in_use: &[u32]) -> Result<Vec<(Entry, Entry)>, MachineError> {
    let mut out: Vec<(Entry, Entry)> = Vec::new();
    let mut next = ALIGN;
    let boot = |e: &&Entry| e.kind == gpt::ESP || e.kind == gpt::BIOS_BOOT;
    for e in source.iter().filter(boot) {
        let mut id = [0; 16];
        // Of its own: the firmware tells the running ESP by it. The root keeps its id, which is its hash.
        getrandom::fill(&mut id).map_err(|_| MachineError::Refused("the system gives no random numbers".into()))?;
        id[7] = id[7] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        next = next.max(e.last + 1);
        out.push((e.clone(), Entry { id, ..e.clone() }));
    }
    let root: Vec<&Entry> = source.iter().filter(|e| in_use.contains(&e.number)).collect();
    if out.len() < 2 || root.len() != 2 {
        return refuse("the disk that Berth runs from does not have the image's partitions".into());
    }
    for e in root {
        let first = next.next_multiple_of(ALIGN);
        let last = first + e.sectors() - 1;
        next = last + 1;
        out.push((
            e.clone(),
            Entry {
                first,
                last,
                ..e.clone()
            },
        ));
    }
    Ok(out)
}

fn copy(
    source: &File,
    target: &File,
    bytes: u64,
    in_use: &[u32],
    path: &Path,
    said: &mut dyn FnMut(&str),
) -> Result<(), MachineError> {
    let mut head = vec![0; usize::try_from(gpt::HEAD * SECTOR).unwrap_or(0)];
    source
        .read_exact_at(&mut head, 0)
        .map_err(failed("read", "the disk that Berth runs from"))?;
    let Some(table) = gpt::read(&head) else {
        return refuse("the disk that Berth runs from has no whole partition table".into());
    };
    let plan = layout(&table, in_use)?;
    let broke = |what: &'static str| failed(what, path);
    // Until the end, nothing that boots and nothing that was there before.
    let zeros = vec![0; usize::try_from(ALIGN * SECTOR).unwrap_or(0)];
    target.write_all_at(&zeros, 0).map_err(broke("write"))?;
    target
        .write_all_at(&zeros, bytes - ALIGN * SECTOR)
        .map_err(broke("write"))?;
    let mut sums = Vec::new();
    for (n, (from, to)) in plan.iter().enumerate() {
        said(&format!(
            "copying partition {} of {}, {} MB",
            n + 1,
            plan.len(),
            from.sectors() * SECTOR / 1_000_000
        ));
        let sum = walk(source, from.first, from.sectors(), |part, at| {
            if is_empty(part) {
                zero(target, to.first * SECTOR + at, part)
            } else {
                target.write_all_at(part, to.first * SECTOR + at)
            }
        });
        sums.push(sum.map_err(broke("copy to"))?);
    }
    target.sync_all().map_err(broke("write"))?;
    said("reading it back");
    // Past the cache, which would only say what was meant to be written.
    let fresh = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_DIRECT)
        .open(path);
    let fresh = fresh.or_else(|_| File::open(path)).map_err(broke("open"))?;
    for ((_, to), sum) in plan.iter().zip(&sums) {
        let found = walk(&fresh, to.first, to.sectors(), |_, _| Ok(())).map_err(broke("read"))?;
        if found != *sum {
            return refuse(format!(
                "{} returns other bytes than were written: the disk is damaged",
                path.display()
            ));
        }
    }
    let mut disk = [0; 16];
    getrandom::fill(&mut disk).map_err(|_| MachineError::Refused("the system gives no random numbers".into()))?;
    let entries: Vec<Entry> = plan.into_iter().map(|(_, to)| to).collect();
    let written = gpt::write(&entries, bytes / SECTOR, disk, &head[..440]);
    target
        .write_all_at(&written.tail, bytes - written.tail.len() as u64)
        .and_then(|()| target.sync_all())
        .and_then(|()| target.write_all_at(&written.head, 0))
        .and_then(|()| target.sync_all())
        .map_err(broke("write the table of"))
}

/// Whether a piece is nothing but zeros.
fn is_empty(part: &[u8]) -> bool {
    part.iter().all(|b| *b == 0)
}

/// Has the device make zeros, which most need not be sent; writes them where it cannot.
fn zero(file: &File, at: u64, zeros: &[u8]) -> io::Result<()> {
    let (Ok(offset), Ok(length)) = (i64::try_from(at), i64::try_from(zeros.len())) else {
        return Err(io::ErrorKind::FileTooLarge.into());
    };
    match nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::FALLOC_FL_ZERO_RANGE, offset, length) {
        Ok(()) => Ok(()),
        Err(_) => file.write_all_at(zeros, at),
    }
}

/// Hands out a run of sectors piece by piece, with its place in the run; gives the hash of all that is not empty, each
/// piece with its place.
fn walk(
    file: &File,
    first: u64,
    sectors: u64,
    mut each: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<[u8; 32]> {
    // Direct reading wants memory at a page's start.
    let mut memory = vec![0u8; CHUNK + 4096];
    let shift = memory.as_ptr().align_offset(4096);
    let buffer = &mut memory[shift..shift + CHUNK];
    let (mut at, end, mut hash) = (0, sectors * SECTOR, Sha256::new());
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let part = &mut buffer[..length];
        file.read_exact_at(part, first * SECTOR + at)?;
        if !is_empty(part) {
            hash.update(at.to_le_bytes());
            hash.update(&*part);
        }
        each(part, at)?;
        at += length as u64;
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn entry(number: u32, kind: [u8; 16], first_mib: u64, mib: u64) -> Entry {
        Entry {
            number,
            kind,
            id: [u8::try_from(number).unwrap(); 16],
            first: first_mib * 2048,
            last: (first_mib + mib) * 2048 - 1,
            attributes: 0,
            name: [0; 72],
        }
    }

    /// A source as the image lays it out, running from slot B; every partition holds its own byte.
    fn source(dir: &Path) -> File {
        let root = [0xaa; 16];
        let entries = [
            entry(1, gpt::ESP, 1, 5),
            entry(2, gpt::BIOS_BOOT, 6, 1),
            entry(3, root, 7, 9),
            entry(4, root, 16, 1),
            entry(5, root, 17, 9),
            entry(6, root, 26, 1),
            entry(7, [0xbb; 16], 27, 4),
        ];
        let file = File::create_new(dir.join("source")).unwrap();
        file.set_len(32 * MIB).unwrap();
        let written = gpt::write(&entries, 32 * 2048, [1; 16], &[0xeb; 440]);
        file.write_all_at(&written.head, 0).unwrap();
        for e in &entries {
            let part = vec![u8::try_from(e.number).unwrap(); usize::try_from(e.sectors() * SECTOR).unwrap()];
            file.write_all_at(&part, e.first * SECTOR).unwrap();
        }
        File::open(dir.join("source")).unwrap()
    }

    #[test]
    fn the_running_root_and_what_boots_it_are_copied_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        let path = dir.path().join("target");
        let target = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        target.set_len(64 * MIB).unwrap();
        copy(&source, &target, 64 * MIB, &[5, 6], &path, &mut |_| {}).unwrap();
        let bytes = fs::read(&path).unwrap();
        let table = gpt::read(&bytes[..34 * 512]).unwrap();
        let places: Vec<_> = table.iter().map(|e| (e.first / 2048, e.sectors() / 2048)).collect();
        assert_eq!(places, [(1, 5), (6, 1), (7, 9), (16, 1)]);
        assert_eq!(
            (table[2].id, table[3].id),
            ([5; 16], [6; 16]),
            "the root's ids are its hash"
        );
        assert_ne!(table[0].id, [1; 16], "two ESPs must not have one id");
        let byte = |mib: u64| bytes[usize::try_from(mib * MIB).unwrap()];
        assert_eq!(
            (byte(1), byte(6), byte(7), byte(15), byte(16), byte(17)),
            (1, 2, 5, 5, 6, 0)
        );
        assert_eq!(bytes[0], 0xeb);
        assert_eq!(&bytes[bytes.len() - 512..bytes.len() - 504], b"EFI PART");
    }

    #[test]
    fn what_is_empty_in_the_source_is_empty_on_a_disk_that_was_not() {
        let dir = tempfile::tempdir().unwrap();
        // A hole in the running root, as long as two pieces.
        let hole = (17 * MIB)..(25 * MIB);
        let length = usize::try_from(hole.end - hole.start).unwrap();
        drop(source(dir.path()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(dir.path().join("source"))
            .unwrap();
        file.write_all_at(&vec![0; length], hole.start).unwrap();
        let path = dir.path().join("target");
        fs::write(&path, vec![7; usize::try_from(64 * MIB).unwrap()]).unwrap();
        let target = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        copy(&file, &target, 64 * MIB, &[5, 6], &path, &mut |_| {}).unwrap();
        let bytes = fs::read(&path).unwrap();
        let at = |mib: u64| usize::try_from(mib * MIB).unwrap();
        assert!(is_empty(&bytes[at(7)..at(15)]));
        assert!(bytes[at(15)..at(16)].iter().all(|b| *b == 5));
    }

    #[test]
    fn a_disk_with_anything_at_either_end_is_not_blank() {
        let file = tempfile::tempfile().unwrap();
        let size = 20 * MIB;
        file.set_len(size).unwrap();
        assert!(blank(&file, size).unwrap());
        for at in [510, 65536 + 64, size - 512, size - 3 * MIB] {
            file.write_all_at(&[1], at).unwrap();
            assert!(!blank(&file, size).unwrap(), "{at}");
            file.write_all_at(&[0], at).unwrap();
        }
    }

    #[test]
    fn a_source_without_its_partitions_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("target");
        fs::write(&path, vec![7; usize::try_from(40 * MIB).unwrap()]).unwrap();
        let target = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let source = source(dir.path());
        for in_use in [&[][..], &[5], &[3, 4, 5]] {
            assert!(copy(&source, &target, 40 * MIB, in_use, &path, &mut |_| {}).is_err());
        }
        assert!(fs::read(&path).unwrap().iter().all(|b| *b == 7));
    }
}
