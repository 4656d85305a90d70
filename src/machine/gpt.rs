//! A GUID partition table (UEFI specification, section 5.3) of 512-byte sectors, read and written. Nothing but the
//! table: no contents, no kernel.

pub(super) const SECTOR: u64 = 512;
/// Entries that we write, as every tool does; they fill 32 sectors.
const ENTRIES: usize = 128;
const ENTRY: usize = 128;
/// Protective record, header and entries: what lies before the first partition, in sectors.
pub(super) const HEAD: u64 = 34;
/// Entries and header at the end, in sectors.
const TAIL: u64 = 33;

/// An EFI system partition, as it stands on disk.
pub(super) const ESP: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];
/// Where GRUB's core lies for BIOS.
pub(super) const BIOS_BOOT: [u8; 16] = *b"Hah!IdontNeedEFI";

/// One partition; sectors are counted from the disk's start, `last` is within.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// From 1.
    pub(super) number: u32,
    pub(super) kind: [u8; 16],
    pub(super) id: [u8; 16],
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) attributes: u64,
    /// UTF-16, as it stands.
    pub(super) name: [u8; 72],
}

impl Entry {
    pub(super) fn sectors(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// CRC-32 (IEEE 802.3).
fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

/// Reads the table from a disk's first [`HEAD`] sectors; `None` when there is none that is whole.
pub(super) fn read(head: &[u8]) -> Option<Vec<Entry>> {
    let header = head.get(512..1024)?;
    let size = usize::try_from(u32_at(header, 12)).ok()?;
    if &header[..8] != b"EFI PART" || !(92..=512).contains(&size) {
        return None;
    }
    let mut bare = header[..size].to_vec();
    bare[16..20].fill(0);
    let (count, each) = (u32_at(header, 80) as usize, u32_at(header, 84) as usize);
    if crc(&bare) != u32_at(header, 16) || u64_at(header, 72) != 2 || each != ENTRY || count > ENTRIES {
        return None;
    }
    let entries = head.get(1024..1024 + count * each)?;
    if crc(entries) != u32_at(header, 88) {
        return None;
    }
    let mut found = Vec::new();
    for (number, e) in (1u32..).zip(entries.chunks(ENTRY)) {
        let kind: [u8; 16] = array(e, 0);
        let (first, last) = (u64_at(e, 32), u64_at(e, 40));
        if kind == [0; 16] {
            continue;
        }
        if first < HEAD || last < first {
            return None;
        }
        found.push(Entry {
            number,
            kind,
            id: array(e, 16),
            first,
            last,
            attributes: u64_at(e, 48),
            name: array(e, 56),
        });
    }
    Some(found)
}

/// The table as bytes.
pub(super) struct Written {
    /// For the disk's first [`HEAD`] sectors.
    pub(super) head: Vec<u8>,
    /// For its end.
    pub(super) tail: Vec<u8>,
}

/// A table for a disk of so many sectors. `boot` is the code of the boot record (its first 440 bytes count).
pub(super) fn write(entries: &[Entry], sectors: u64, disk: [u8; 16], boot: &[u8]) -> Written {
    let mut table = vec![0u8; ENTRIES * ENTRY];
    for (slot, e) in table.chunks_mut(ENTRY).zip(entries) {
        slot[..16].copy_from_slice(&e.kind);
        slot[16..32].copy_from_slice(&e.id);
        slot[32..40].copy_from_slice(&e.first.to_le_bytes());
        slot[40..48].copy_from_slice(&e.last.to_le_bytes());
        slot[48..56].copy_from_slice(&e.attributes.to_le_bytes());
        slot[56..].copy_from_slice(&e.name);
    }
    let table_sum = crc(&table);
    let header = |own: u64, other: u64, at: u64| {
        let mut h = vec![0u8; 512];
        h[..8].copy_from_slice(b"EFI PART");
        h[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
        h[12..16].copy_from_slice(&92u32.to_le_bytes());
        h[24..32].copy_from_slice(&own.to_le_bytes());
        h[32..40].copy_from_slice(&other.to_le_bytes());
        h[40..48].copy_from_slice(&HEAD.to_le_bytes());
        h[48..56].copy_from_slice(&(sectors - TAIL - 1).to_le_bytes());
        h[56..72].copy_from_slice(&disk);
        h[72..80].copy_from_slice(&at.to_le_bytes());
        h[80..84].copy_from_slice(&128u32.to_le_bytes());
        h[84..88].copy_from_slice(&128u32.to_le_bytes());
        h[88..92].copy_from_slice(&table_sum.to_le_bytes());
        let sum = crc(&h[..92]);
        h[16..20].copy_from_slice(&sum.to_le_bytes());
        h
    };
    // The protective record: one partition of kind 0xEE over everything that its 32 bits can say.
    let mut head = vec![0u8; 512];
    let code = boot.len().min(440);
    head[..code].copy_from_slice(&boot[..code]);
    head[446..462].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);
    head[458..462].copy_from_slice(&u32::try_from(sectors - 1).unwrap_or(u32::MAX).to_le_bytes());
    head[510..].copy_from_slice(&[0x55, 0xaa]);
    head.extend(header(1, sectors - 1, 2));
    head.extend(&table);
    let mut tail = table;
    tail.extend(header(sectors - 1, 1, sectors - TAIL));
    Written { head, tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_a_flipped_bit_is_not() {
        let entry = Entry {
            number: 1,
            kind: ESP,
            id: [7; 16],
            first: 2048,
            last: 4095,
            attributes: 1 << 60,
            name: [b'a'; 72],
        };
        let w = write(std::slice::from_ref(&entry), 100_000, [9; 16], &[0xeb; 512]);
        assert_eq!((w.head.len(), w.tail.len()), (34 * 512, 33 * 512));
        assert_eq!(read(&w.head), Some(vec![entry]));
        assert_eq!(w.head[439], 0xeb);
        assert_eq!(w.head[440], 0, "the disk's signature is not part of the code");
        for at in [512 + 60, 1024 + 40] {
            let mut bent = w.head.clone();
            bent[at] ^= 1;
            assert_eq!(read(&bent), None, "{at}");
        }
        assert_eq!(read(&[0; 34 * 512]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
    }
}
