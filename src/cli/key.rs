//! An administrator's private key from a file: OpenSSH's own format (PROTOCOL.key in its sources) or PKCS #8 in PEM
//! (RFC 5958, RFC 7468); Ed25519, not encrypted. The key stays in this process.

use std::{io::Read, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::claim::ssh_string;

const MAX_FILE: u64 = 64 * 1024;
const OPENSSH: &str = "OPENSSH PRIVATE KEY";
const PKCS8: &str = "PRIVATE KEY";

/// Reads a key file.
pub(super) fn read(path: &Path) -> Result<Ed25519KeyPair> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(MAX_FILE).read_to_string(&mut text))
        .with_context(|| format!("{} cannot be read", path.display()))?;
    parse(&text).with_context(|| format!("{} cannot be used", path.display()))
}

fn parse(text: &str) -> Result<Ed25519KeyPair> {
    if text.trim_start().starts_with("ssh-") {
        bail!("it is a public key: name the file without .pub");
    }
    if let Some(blob) = block(text, OPENSSH) {
        return openssh(&blob).ok_or_else(|| anyhow!("it is damaged"))?;
    }
    if let Some(der) = block(text, PKCS8) {
        return Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| anyhow!("it is not an Ed25519 key"));
    }
    if text.contains("ENCRYPTED PRIVATE KEY") {
        bail!("{ENCRYPTED}");
    }
    bail!("it is neither an OpenSSH nor a PKCS #8 private key")
}

const ENCRYPTED: &str = "it has a passphrase, and is not opened here: make a copy without (`ssh-keygen -p -N '' -f COPY`), or use the claim code";

/// What stands between the lines of a PEM block.
fn block(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_whitespace().collect();
    BASE64.decode(body).ok()
}

/// None where it is cut short.
fn openssh(blob: &[u8]) -> Option<Result<Ed25519KeyPair>> {
    let mut rest = blob.strip_prefix(b"openssh-key-v1\0")?;
    let cipher = ssh_string(&mut rest)?;
    let (_kdf, _options) = (ssh_string(&mut rest)?, ssh_string(&mut rest)?);
    let (count, mut rest) = rest.split_first_chunk()?;
    if cipher != b"none" {
        return Some(Err(anyhow!("{ENCRYPTED}")));
    }
    if u32::from_be_bytes(*count) != 1 {
        return Some(Err(anyhow!("it holds several keys")));
    }
    let _public = ssh_string(&mut rest)?;
    let mut private = ssh_string(&mut rest)?;
    let (checks, after) = private.split_first_chunk::<8>()?;
    if checks[..4] != checks[4..] {
        return None;
    }
    private = after;
    let kind = ssh_string(&mut private)?;
    if kind != b"ssh-ed25519" {
        let kind = String::from_utf8_lossy(kind).into_owned();
        return Some(Err(anyhow!("it is of the kind {kind}; only ssh-ed25519 is read here")));
    }
    let (public, both) = (ssh_string(&mut private)?, ssh_string(&mut private)?);
    let pair = Ed25519KeyPair::from_seed_and_public_key(both.get(..32)?, public).ok()?;
    (pair.public_key().as_ref() == public).then_some(Ok(pair))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::claim::PublicKey;

    /// Keys as the tools that people use write them.
    fn made(args: &[&str], format: &[&str]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let done = Command::new("ssh-keygen")
            .args(["-q", "-C", "x", "-f"])
            .arg(&file)
            .args(args)
            .status()
            .unwrap();
        assert!(done.success());
        if !format.is_empty() {
            let done = Command::new(format[0]).args(&format[1..]).arg(&file).status().unwrap();
            assert!(done.success());
        }
        (dir, file)
    }

    #[test]
    fn keys_of_ssh_keygen_and_openssl_are_read() {
        let (_dir, file) = made(&["-t", "ed25519", "-N", ""], &[]);
        let pair = read(&file).unwrap();
        let line = std::fs::read_to_string(file.with_extension("pub")).unwrap();
        let public = PublicKey::parse(&line).unwrap();
        let mut blob = BASE64.decode(line.split(' ').nth(1).unwrap()).unwrap();
        assert_eq!(blob.split_off(19), pair.public_key().as_ref());
        let _ = public;
        let (_dir, file) = made(
            &["-t", "ed25519", "-N", ""],
            &["openssl", "genpkey", "-algorithm", "ed25519", "-out"],
        );
        read(&file).unwrap();
    }

    #[test]
    fn others_are_refused_in_words() {
        for (args, why) in [
            (&["-t", "ed25519", "-N", "secret"][..], "passphrase"),
            (&["-t", "ecdsa", "-N", ""], "only ssh-ed25519"),
        ] {
            let (_dir, file) = made(args, &[]);
            let said = format!("{:#}", read(&file).unwrap_err());
            assert!(said.contains(why), "{said}");
            let said = format!("{:#}", read(&file.with_extension("pub")).unwrap_err());
            assert!(said.contains("public key") || said.contains("neither"), "{said}");
        }
        let (_dir, file) = made(&["-t", "ed25519", "-N", ""], &[]);
        let text = std::fs::read_to_string(&file).unwrap();
        for cut in (0..text.len()).step_by(7) {
            assert!(parse(&text[..cut]).is_err());
        }
    }
}
