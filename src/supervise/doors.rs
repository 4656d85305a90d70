//! What is behind the edge's own doors: the admin API's routes, claiming, the console. Work runs on the supervisor's
//! runtime, so that a log or a wait never keeps an edge worker from its connections.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures_util::future::BoxFuture;
use http::Response;
use tokio::{runtime::Handle, task::JoinSet};

use super::backend::Parts;
use crate::{
    admin::{self, Backend},
    api::{Claiming, Hello},
    claim::{ClaimState, Tried},
    config,
    console::{self, Asker},
    door::{API, Door},
    edge::{BoxService, OwnBody, OwnRequest},
    model::{Action, Outcome, Principal, Refusal},
    reconcile,
    secret::random,
};

/// The doors, from before the parts behind them are there. Until [`Doors::open`] they say that the box is starting.
pub(super) struct Doors {
    parts: OnceLock<Weak<Parts>>,
    runtime: Handle,
    claim_required: bool,
    reconcile: reconcile::Handle,
}

impl Doors {
    pub(super) fn new(claim_required: bool, reconcile: reconcile::Handle) -> Arc<Doors> {
        Arc::new(Doors {
            parts: OnceLock::new(),
            runtime: Handle::current(),
            claim_required,
            reconcile,
        })
    }

    /// Puts the parts behind them.
    pub(super) fn open(&self, parts: &Arc<Parts>) {
        let _ = self.parts.set(Arc::downgrade(parts));
    }
}

impl BoxService for Doors {
    fn locked(&self) -> bool {
        self.claim_required && !self.reconcile.snapshot().claimed
    }

    fn answer<'a>(&'a self, asked: OwnRequest) -> BoxFuture<'a, Response<OwnBody>> {
        Box::pin(async move {
            let Some(parts) = self.parts.get().and_then(Weak::upgrade) else {
                return match asked.door {
                    Door::Console => console::starting(),
                    _ => admin::starting(),
                };
            };
            // A set, not a bare handle: whoever stops waiting for the answer ends the work.
            let mut work = JoinSet::new();
            work.spawn_on(answer(parts, asked), &self.runtime);
            match work.join_next().await {
                Some(Ok(answer)) => answer,
                _ => admin::starting(),
            }
        })
    }
}

async fn answer(parts: Arc<Parts>, asked: OwnRequest) -> Response<OwnBody> {
    match asked.door {
        // The edge answers there itself.
        Door::Mcp | Door::Sse | Door::Screen => admin::starting(),
        Door::Console => {
            let asker = Asker {
                by: asked.by,
                session: asked.session,
                authority: asked.authority,
            };
            console::answer((&parts.console, &*parts), asker, asked.request).await
        }
        Door::Assets => console::asset(asked.request.uri().path()),
        Door::Reports => console::report(&parts.console, asked.request).await,
        Door::Claim => admin::claiming(&*parts, asked.request, asked.by).await,
        Door::Api => {
            let path = asked.request.uri().path().to_owned();
            let path = path.strip_prefix(API).unwrap_or_default();
            admin::network(&*parts, asked.request, (&asked.authority, path), asked.by).await
        }
    }
}

/// Where claims are decided, and what it is told of the world.
pub(super) struct Claims {
    state: Mutex<ClaimState>,
    pub(super) config: config::Claim,
    started: std::time::Instant,
}

impl Claims {
    pub(super) fn new(config: config::Claim, claimed: bool) -> Result<Claims, Refusal> {
        let mut state = ClaimState::open(&random()?);
        if claimed {
            state.close();
        }
        Ok(Claims {
            state: Mutex::new(state),
            config,
            started: std::time::Instant::now(),
        })
    }

    fn state(&self) -> MutexGuard<'_, ClaimState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn code(&self) -> Option<crate::model::Secret> {
        self.state().code().cloned()
    }

    /// What an accepted action means for claims. The code is made anew only when there is no administrator any more.
    pub(super) fn after(&self, action: Kind, claimed: bool) -> Result<(), Refusal> {
        match action {
            // Of two that end in another order than they were kept in, the later one counts.
            Kind::Claim if claimed => self.state().close(),
            Kind::Reset if !claimed => *self.state() = ClaimState::open(&random()?),
            Kind::Claim | Kind::Reset | Kind::Other => {}
        }
        Ok(())
    }

    /// The clock may be at 1970 and jump; nonces live by this one.
    fn now(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Looks at a claim code; a right one stays until somebody has claimed the box by it.
    pub(super) fn try_code(&self, code: &str) -> Tried {
        self.state().try_code(code)
    }

    pub(super) fn hello(&self, parts: &Parts) -> Result<Hello, Refusal> {
        let nonce = self.state().nonce(self.now(), random()?);
        Ok(Hello {
            // Its certificate is for this name, too, where it has no domain.
            domain: parts.router.domain().unwrap_or("localhost").to_owned(),
            claimed: parts.reconcile.snapshot().claimed,
            ca: parts.certificates.ca_pem().map(str::to_owned),
            key: self.config.public_key.is_some(),
            nonce: BASE64.encode(nonce),
        })
    }

    pub(super) async fn claim(&self, parts: &Parts, by: Principal, claiming: Claiming) -> Result<Outcome, Refusal> {
        let (tried, by_key, name) = match claiming {
            Claiming::Code { code, name } => (self.try_code(code.expose()), false, name),
            Claiming::Key { nonce, signature, name } => {
                let key = self.config.public_key.as_ref().ok_or(Refusal::NoKey)?;
                let decode = |text: &str| BASE64.decode(text).unwrap_or_default();
                let (nonce, signature) = (decode(&nonce), decode(&signature));
                let anchor = parts.certificates.anchor();
                let tried = self.state().try_key(key, &nonce, &signature, &anchor, self.now());
                (tried, true, name)
            }
        };
        match tried {
            Tried::Right => {}
            Tried::Closed => return Err(Refusal::Claimed),
            Tried::Wrong if by_key => return Err(Refusal::WrongKey),
            Tried::Wrong => return Err(Refusal::WrongCode),
        }
        let signed = parts.ledger.sign(by, Action::Claim { name, account: None })?;
        parts.submit(signed.into()).await
    }
}

/// What an action is to claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Claim,
    Reset,
    Other,
}

impl Kind {
    pub(super) fn of(action: &Action) -> Kind {
        match action {
            Action::Claim { .. } => Kind::Claim,
            Action::ResetAdmin => Kind::Reset,
            _ => Kind::Other,
        }
    }
}
