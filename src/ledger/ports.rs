//! What the ledger needs of the store and of the token table, as traits: the assembly gives the real ones, tests give
//! theirs. No decision is made here.

use crate::{
    model::{InstanceId, Principal, Secret, Subject, TokenId},
    record::TokenRecord,
    store::{Change, Store, StoreError},
};

/// Where changes are kept. It closes when it is dropped.
pub trait Storage: Send + 'static {
    /// Makes all of the changes, durably, or none. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// [`StoreError`].
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError>;
}

impl Storage for Store {
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        Store::commit(self, changes)
    }
}

/// The operating system gives no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes: {0}")]
pub struct NoRandom(#[from] pub getrandom::Error);

/// The table that the edge looks tokens up in.
pub trait Tokens: Send + Sync + 'static {
    /// A fresh token of the subject's kind, and its hash.
    ///
    /// # Errors
    /// The operating system gave no random bytes.
    fn mint(&self, of: &Subject) -> Result<(Secret, [u8; 32]), NoRandom>;
    /// From now on whoever shows it is this principal, until it expires.
    fn insert(&self, token: &TokenRecord, principal: Principal);
    /// From the very next request on it is refused, and its open streams are cut.
    fn remove(&self, id: &TokenId);
    fn remove_instance(&self, id: &InstanceId);
    /// It expires then, and no later. What it has opened goes on until [`Tokens::end`].
    fn shorten(&self, id: &TokenId, expires_at: jiff::Timestamp);
    /// It has expired: its open requests and streams are cut. Again is no error.
    fn end(&self, id: &TokenId);
    /// Unix seconds.
    fn last_used(&self, id: &TokenId) -> Option<i64>;
}
