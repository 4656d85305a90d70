//! What stands behind the console: the routes of the API, asked from within, and how members sign in.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Collected, Full, Limited};

use super::backend::Parts;
use crate::{
    admin::{self, Backend},
    authz::SessionTable,
    claim::Tried,
    console::{self, ApiRequest, Facts, NotChanged},
    ledger::{self, AccountError},
    model::{Action, AuditKind, AuditOutcome, MemberName, NewAccount, Principal, Refusal},
    plan::sign_in::AccountChange,
    policy::{Target, Verb},
    record::SignInRecord,
    secret::BoxKey,
    tls,
};

/// A page is made of answers of so many bytes at most.
const MAX_ANSWER: usize = 16 << 20;

impl console::Backend for Parts {
    fn facts(&self) -> Facts {
        Facts {
            claimed: self.reconcile.snapshot().claimed,
            key: self.claims.config.public_key.is_some(),
            fingerprint: tls::colons(&self.certificates.anchor()),
            own_ca: self.certificates.ca_pem().is_some(),
        }
    }

    async fn api(&self, asked: ApiRequest) -> (StatusCode, Bytes) {
        let (method, body) = match &asked.action {
            Some(action) => ("POST", Bytes::from(action.to_string())),
            None => ("GET", Bytes::new()),
        };
        let request = Request::builder().method(method).uri(&asked.path).body(Full::new(body));
        let Ok(request) = request else {
            return (StatusCode::BAD_REQUEST, Bytes::new());
        };
        let at = (asked.authority.as_str(), asked.path.as_str());
        let answer = admin::network(self, request, at, asked.by).await;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        match body.map(Collected::to_bytes) {
            Ok(body) => (status, body),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Bytes::new()),
        }
    }

    fn sign_in(&self, member: &MemberName) -> Option<SignInRecord> {
        self.ledger.sign_in(member)
    }

    fn link_of(&self, hash: &[u8; 32]) -> Option<MemberName> {
        self.ledger.link_of(hash)
    }

    async fn change(&self, by: Principal, change: AccountChange) -> Result<MemberName, NotChanged> {
        let done = self.ledger.change_account(by, change).await;
        done.map_err(|why| match why {
            AccountError::Denied(why) => NotChanged::Denied(why),
            AccountError::Refused(why) => NotChanged::Refused(why),
        })
    }

    fn try_code(&self, code: &str) -> Tried {
        self.claims.try_code(code)
    }

    async fn claim(&self, by: Principal, account: NewAccount) -> Result<(), Refusal> {
        let claim = Action::Claim {
            name: None,
            account: Some(Box::new(account)),
        };
        let signed = self.ledger.sign(by, claim)?;
        self.submit(signed.into()).await.map(drop)
    }

    fn told(&self, what: (AuditKind, AuditOutcome), by: &Principal, of: (Verb, Target<'_>), note: String) {
        let mut row = ledger::row(what, by, of, &self.ledger.access());
        row.note = Some(note.into());
        match what.1 {
            AuditOutcome::Ok => drop(self.audit.append(&row)),
            _ => self.audit.append_refusal(row, false),
        }
    }

    fn sessions(&self) -> &SessionTable {
        &self.sessions
    }

    fn key(&self) -> &BoxKey {
        &self.key
    }
}
