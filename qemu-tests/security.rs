//! What the box withstands.

mod bombs;
mod engine;
mod full_disk;
mod hardening;
mod isolation;
mod power;
mod probe;
mod replay;
mod supervisor;
mod verity;
pub(crate) mod work;
