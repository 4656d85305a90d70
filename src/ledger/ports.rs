//! What the ledger needs of the store and of the token table, as traits: the assembly gives the real ones, tests give
//! theirs. No decision is made here.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    audit::Audit,
    model::{AuditRow, EndedWay, InstanceId, MemberName, Principal, Secret, Subject, TokenId},
    policy::Access,
    record::TokenRecord,
    store::{Change, Store, StoreError},
};

/// Where acts are told before they are done.
pub trait Journal: Send + Sync + 'static {
    /// The row is with the kernel when this returns.
    fn append(&self, row: &AuditRow<'_>);
}

impl Journal for Audit {
    fn append(&self, row: &AuditRow<'_>) {
        Audit::append(self, row);
    }
}

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
    fn remove(&self, id: &TokenId) -> Cut;
    fn remove_instance(&self, id: &InstanceId);
    /// It expires then, and no later. What it has opened goes on until [`Tokens::end`].
    fn shorten(&self, id: &TokenId, expires_at: jiff::Timestamp);
    /// It has expired: its open requests and streams are cut. Again is no error.
    fn end(&self, id: &TokenId);
    /// These members may do less than before: of what they have open, that is cut which policy no longer allows.
    fn narrow(&self, members: &BTreeSet<MemberName>, access: &Access) -> Cut;
    /// How this member signs in is another by now, or they are let in no longer: every session of theirs ends that no token
    /// stands behind.
    fn sign_out(&self, member: &MemberName) -> Cut;
    /// When it was last let through; none where it was not since the supervisor started.
    fn last_use(&self, id: &TokenId) -> Option<LastUse>;
    /// When that token was last let through to that instance, Unix seconds.
    fn used(&self, token: &TokenId, instance: &InstanceId) -> Option<i64>;
    /// When members' tokens were last let through to instances, since the supervisor started.
    fn uses(&self) -> Vec<InstanceUse>;
}

/// What was cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    pub ways: Vec<EndedWay>,
    /// Sessions at screens, and links to screens.
    pub screens: usize,
}

impl Cut {
    pub(super) fn add(&mut self, other: Cut) {
        self.ways.extend(other.ways);
        self.screens += other.screens;
    }
}

/// When a token was let through, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastUse {
    /// Unix seconds.
    pub at: i64,
    pub from: Option<IpAddr>,
}

/// That a token was let through to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceUse {
    pub token: TokenId,
    pub instance: InstanceId,
    /// Unix seconds, the newest.
    pub at: i64,
}
