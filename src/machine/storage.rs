//! How what must last is kept: encrypted and sealed to the machine, or plain.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::OWN;

/// `encrypted: …`, `plain: …` or `missing: …` for the file system that holds `dir`; `None` on a machine that is not a box of ours,
/// whose disks are its owner's matter.
pub fn storage(dir: &Path) -> Option<String> {
    if !Path::new(OWN).exists() {
        return None;
    }
    if !Path::new("/dev/berth/data").exists() {
        return Some(
            if Path::new("/dev/berth/var").exists() {
                "missing: the data partition cannot be unlocked; was the disk moved, or Secure Boot changed in the firmware?"
            } else {
                "missing: there is no data partition; the disk needs 16 GB"
            }
            .into(),
        );
    }
    let device = fs::metadata(dir).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let kind = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/dm/uuid")).unwrap_or_default();
    Some(words(&kind).into())
}

fn words(kind: &str) -> &'static str {
    if kind.starts_with("CRYPT-LUKS2-") {
        "encrypted: LUKS2, sealed to this machine's TPM"
    } else {
        "plain: there is no TPM 2.0 (with UEFI) to seal a key; whoever takes the disk can read it"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_luks_device_is_called_encrypted() {
        assert!(words("CRYPT-LUKS2-5f0c-var\n").starts_with("encrypted"));
        for plain in ["", "CRYPT-VERITY-1-root", "LVM-x", "CRYPT-PLAIN-x"] {
            assert!(words(plain).starts_with("plain"), "{plain}");
        }
    }
}
