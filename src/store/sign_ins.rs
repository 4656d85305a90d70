//! Table `sign_ins`: how members sign in with a browser, by their names: a hash of the passphrase, the sealed secret of the
//! second step, hashes of recovery codes and of a link. An older berth ignores it, and lets nobody in by it. [`complete`] forgets
//! those of members that it removed or made anew.

use redb::WriteTransaction;
use serde::{Deserialize, Serialize};

use super::{
    StoreError,
    people::People,
    table::{Broken, Rows, Table},
    words::{text, unhex},
};
use crate::{
    model::{MemberName, PassphraseHash, hex},
    record::{LinkRecord, Sealed, SignInRecord, TotpRecord},
};

/// Bytes are hexadecimal.
#[derive(Serialize, Deserialize)]
pub(super) struct SignIn {
    since: jiff::Timestamp,
    #[serde(default)]
    epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    passphrase: Option<Passphrase>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    totp: Option<Totp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recovery: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<Link>,
}

/// Argon2id, version 1.3.
#[derive(Serialize, Deserialize)]
struct Passphrase {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    hash: String,
}

#[derive(Serialize, Deserialize)]
struct Totp {
    sealed: String,
    last: u64,
}

#[derive(Serialize, Deserialize)]
struct Link {
    hash: String,
    expires_at: jiff::Timestamp,
}

pub(super) struct SignIns;

impl Table for SignIns {
    const NAME: &'static str = "sign_ins";
    const MAX_ROW: usize = 16 << 10;
    type Key = MemberName;
    type Record = SignInRecord;
    type Row = SignIn;

    fn key(r: &SignInRecord) -> &MemberName {
        &r.member
    }

    fn key_text(name: &MemberName) -> std::borrow::Cow<'_, str> {
        name.as_str().into()
    }

    fn encode(r: &SignInRecord) -> SignIn {
        SignIn {
            since: r.since,
            epoch: r.epoch,
            passphrase: r.passphrase.as_ref().map(|p| Passphrase {
                memory_kib: p.memory,
                passes: p.passes,
                lanes: p.lanes,
                salt: hex(&p.salt),
                hash: hex(&p.hash),
            }),
            totp: r.totp.as_ref().map(|t| Totp {
                sealed: hex(&t.secret.0),
                last: t.last,
            }),
            recovery: r.recovery.iter().map(|hash| hex(hash)).collect(),
            link: r.link.as_ref().map(|l| Link {
                hash: hex(&l.hash),
                expires_at: l.expires_at,
            }),
        }
    }

    fn decode(name: &str, row: SignIn) -> Result<SignInRecord, Broken> {
        let passphrase = |p: Passphrase| -> Result<_, Broken> {
            Ok(PassphraseHash {
                memory: p.memory_kib,
                passes: p.passes,
                lanes: p.lanes,
                salt: bytes(&p.salt)?,
                hash: bytes(&p.hash)?,
            })
        };
        let totp = |t: Totp| -> Result<_, Broken> {
            Ok(TotpRecord {
                secret: Sealed(unhex(&t.sealed)?),
                last: t.last,
            })
        };
        let link = |l: Link| -> Result<_, Broken> {
            Ok(LinkRecord {
                hash: bytes(&l.hash)?,
                expires_at: l.expires_at,
            })
        };
        Ok(SignInRecord {
            member: MemberName::parse(name).map_err(text)?,
            since: row.since,
            epoch: row.epoch,
            passphrase: row.passphrase.map(passphrase).transpose()?,
            totp: row.totp.map(totp).transpose()?,
            recovery: row.recovery.iter().map(|hash| bytes(hash)).collect::<Result<_, _>>()?,
            link: row.link.map(link).transpose()?,
        })
    }
}

fn bytes<const N: usize>(hex: &str) -> Result<[u8; N], Broken> {
    unhex(hex)?.try_into().map_err(|_| format!("a value is not {N} bytes"))
}

/// Forgets how those sign in whom an older berth removed, or made anew; whether there was anybody. People are complete by then.
pub(super) fn complete(txn: &WriteTransaction) -> Result<bool, StoreError> {
    let people = Rows::<People>::open(txn)?.scan()?;
    let mut rows = Rows::<SignIns>::open(txn)?;
    let mut changed = false;
    for one in rows.scan()?.into_values() {
        let same = people.get(&one.member).is_some_and(|p| p.created_at == one.since);
        if !same {
            changed = true;
            rows.delete(&one.member)?;
        }
    }
    Ok(changed)
}
