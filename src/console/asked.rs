//! What a request has at hand: who asks and where, what stands behind the console, and what it remembers.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use super::{
    browser::browser,
    hashing::Hashing,
    reports::Reports,
    waiting::{Offered, Waiting},
};
use crate::{
    authz::SessionTable,
    claim::Tried,
    model::{AuditKind, AuditOutcome, MemberName, NewAccount, Principal, Refusal, Who},
    plan::sign_in::{AccountChange, AccountDenial},
    policy::{Target, Verb},
    record::SignInRecord,
    secret::BoxKey,
    session::{Cookie, Session},
    sign_in::slow::{Slow, Try},
};

/// What pages say of the box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub claimed: bool,
    /// Whether a key may claim it.
    pub key: bool,
    /// Of the CA, or of the certificate itself where that is not Berth's own.
    pub fingerprint: String,
    pub own_ca: bool,
}

/// Why an account was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotChanged {
    #[error(transparent)]
    Denied(#[from] AccountDenial),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What stands behind the console; the assembly implements it.
pub trait Backend: Send + Sync + 'static {
    /// What pages say of the box.
    fn facts(&self) -> Facts;
    /// What a route of the API answers this principal: the status and the body. `path` is below the API's root.
    fn api(&self, asked: ApiRequest) -> impl Future<Output = (StatusCode, Bytes)> + Send;
    /// How a member signs in who is let in.
    fn sign_in(&self, member: &MemberName) -> Option<SignInRecord>;
    /// Whose link this hash is of, while it works.
    fn link_of(&self, hash: &[u8; 32]) -> Option<MemberName>;
    /// Changes how somebody signs in, for whoever has shown that they may; whose it was.
    fn change(
        &self,
        by: Principal,
        change: AccountChange,
    ) -> impl Future<Output = Result<MemberName, NotChanged>> + Send;
    /// Looks at a claim code.
    fn try_code(&self, code: &str) -> Tried;
    /// Claims the box for whoever showed its code.
    fn claim(&self, by: Principal, account: NewAccount) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Tells the audit of what is no action of the ledger's.
    fn told(&self, what: (AuditKind, AuditOutcome), by: &Principal, of: (Verb, Target<'_>), note: String);
    fn sessions(&self) -> &SessionTable;
    fn key(&self) -> &BoxKey;
}

/// A request of the console's to the API.
#[derive(Debug)]
pub struct ApiRequest {
    pub by: Principal,
    /// The host that the browser asked.
    pub authority: String,
    pub path: String,
    /// An action, where it is none to read.
    pub action: Option<serde_json::Value>,
}

/// What the console remembers, all of it bounded and in memory alone.
pub struct Console {
    slow: Mutex<Slow>,
    pub(super) hashing: Hashing,
    pub(super) second: Mutex<Waiting>,
    pub(super) offered: Mutex<Offered>,
    pub(super) reports: Reports,
    started: Instant,
}

impl Default for Console {
    fn default() -> Self {
        Self {
            slow: Mutex::default(),
            hashing: Hashing::default(),
            second: Mutex::default(),
            offered: Mutex::default(),
            reports: Reports::default(),
            started: Instant::now(),
        }
    }
}

impl Console {
    /// How often browsers reported something against the policy of a page.
    pub fn reports(&self) -> u64 {
        self.reports.count()
    }

    /// Seconds, which never go back.
    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    pub(super) fn slow(&self) -> MutexGuard<'_, Slow> {
        lock(&self.slow)
    }

    /// Counts a try; how many seconds it has to wait otherwise.
    pub(super) fn begin(&self, what: &Try) -> Result<(), u64> {
        self.slow().begin(what, self.now())
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who asks for a page, and where.
#[derive(Debug, Clone)]
pub struct Asker {
    pub by: Principal,
    pub session: Option<Session>,
    /// The `host[:port]` that the browser asked.
    pub authority: String,
}

/// One request, as its handlers look at it.
pub(super) struct Asked<'a, B> {
    pub(super) console: &'a Arc<Console>,
    pub(super) backend: &'a B,
    pub(super) asker: Asker,
    pub(super) headers: HeaderMap,
    pub(super) query: String,
}

impl<B: Backend> Asked<'_, B> {
    /// The member who is signed in, and their session.
    pub(super) fn signed_in(&self) -> Option<(MemberName, Session)> {
        let session = self.asker.session.clone()?;
        match session.by.who() {
            Who::Member(name) => Some((name.clone(), session)),
            _ => None,
        }
    }

    pub(super) fn from(&self) -> IpAddr {
        self.asker.by.address().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// What a cookie keeps.
    pub(super) fn cookie(&self, cookie: &Cookie) -> Option<String> {
        let lines = self.headers.get_all(header::COOKIE).iter();
        let lines = lines.filter_map(|v| v.to_str().ok());
        cookie.secret(lines).map(str::to_owned)
    }

    /// The browser, as it calls itself.
    pub(super) fn agent(&self) -> String {
        let agent = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
        browser(agent.unwrap_or_default())
    }

    /// What the API answers whoever is signed in.
    pub(super) async fn read<T: serde::de::DeserializeOwned>(&self, path: &str) -> Option<T> {
        let (status, body) = self.backend.api(self.request(path, None)).await;
        match status {
            StatusCode::OK => serde_json::from_slice(&body).ok(),
            _ => None,
        }
    }

    pub(super) fn request(&self, path: &str, action: Option<serde_json::Value>) -> ApiRequest {
        ApiRequest {
            by: self.asker.by.clone(),
            authority: self.asker.authority.clone(),
            path: path.to_owned(),
            action,
        }
    }
}
