//! A TPM 2.0 for a machine: swtpm from the tools tree, its state in the machine's folder.

use std::{
    fs::{self, File},
    path::Path,
    process::Child,
    time::Duration,
};

use super::{qemu, wait};

/// The socket's name in the machine's folder.
pub const SOCKET: &str = "tpm.sock";

/// One that runs; it ends with the value.
pub struct Tpm(Child);

impl Tpm {
    /// Starts it on [`SOCKET`] in this folder, with the secrets that an earlier one had there.
    pub fn start(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("tpm")).unwrap();
        let _ = fs::remove_file(folder.join(SOCKET));
        let said = File::options()
            .create(true)
            .append(true)
            .open(folder.join("tpm.log"))
            .unwrap();
        let mut child = qemu::tool("swtpm")
            .args(["socket", "--tpm2", "--tpmstate", "dir=tpm"])
            .args(["--ctrl", &format!("type=unixio,path={SOCKET}")])
            // Socket paths are 107 bytes at most; a checkout's may be longer.
            .current_dir(folder)
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        let words = || fs::read_to_string(folder.join("tpm.log")).unwrap_or_default();
        let there = wait(Duration::from_secs(20), || {
            assert!(child.try_wait().unwrap().is_none(), "swtpm ended: {}", words());
            folder.join(SOCKET).exists().then_some(())
        });
        assert!(there.is_some(), "swtpm does not listen: {}", words());
        Self(child)
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        qemu::end(&mut self.0, Duration::from_secs(5));
    }
}
