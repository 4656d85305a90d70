//! F1: how people show who they are in a browser: passphrases ([`passphrase`]), the second step ([`totp`], and recovery codes),
//! and how somebody who guesses is slowed down ([`slow`]). Pure: randomness and time come as arguments. Nothing here is written
//! down or logged; what is kept are hashes.

pub mod passphrase;
pub mod recovery;
pub mod slow;
pub mod totp;
