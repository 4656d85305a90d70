//! Writes with an idempotency key: the first answer is kept, and given again to whoever asks the same with the same key. What
//! comes to nothing is not kept, and may be tried again.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};

use super::{
    Archive, Backend,
    answers::{AdminResponse, text},
    asker::Asker,
};
use crate::{
    api::{Error, RequestError},
    model::{IdempotencyKey, Refusal, Secret},
    policy::{Target, Verb},
    writes::{Begun, Kept, Keyed},
};

/// The header of a key, and that of an answer that was given before.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What a request asks for, as far as it is known: its method and path, then its body. Two that are the same have the same hash.
#[derive(Debug, Clone)]
pub(super) struct Asked(Arc<Mutex<Sha256>>);

impl Asked {
    pub(super) fn new(method: &str, path: &str, query: &str) -> Self {
        let head = format!("{method} {path}?{query}\0");
        Self(Arc::new(Mutex::new(Sha256::new_with_prefix(head))))
    }

    pub(super) fn add(&self, body: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).update(body);
    }

    fn hash(&self) -> [u8; 32] {
        let hash = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hash.clone().finalize().into()
    }
}

/// A request with a key.
pub(super) struct Once {
    keyed: Keyed,
    before: Option<Kept>,
    asked: Asked,
}

/// Begins a request, where it has a key.
pub(super) fn begin<B: Backend>(
    backend: &B,
    asker: Asker<'_>,
    headers: &HeaderMap,
    asked: &Asked,
) -> Result<Option<Once>, Error> {
    let mut lines = headers.get_all(KEY).iter();
    let Some(first) = lines.next() else { return Ok(None) };
    let key = first.to_str().ok().and_then(IdempotencyKey::parse);
    let key = key.filter(|_| lines.next().is_none());
    let key = key.ok_or(RequestError::BadIdempotencyKey {
        longest: IdempotencyKey::LONGEST,
    })?;
    let Begun { keyed, before } = backend.begin(asker.by, &key)?;
    let asked = asked.clone();
    Ok(Some(Once { keyed, before, asked }))
}

impl Once {
    /// The first answer, where there is one. All of the request has been read.
    ///
    /// # Errors
    /// [`Refusal::KeyReused`].
    pub(super) fn answered<B: Backend>(
        &mut self,
        backend: &B,
        asker: Asker<'_>,
        (verb, target): (Verb, Target<'_>),
    ) -> Result<Option<AdminResponse>, Refusal> {
        self.keyed.asked = self.asked.hash();
        let Some(before) = &self.before else { return Ok(None) };
        before.check(&self.keyed.asked)?;
        backend.answered_again(asker.by, verb, target);
        Ok(before.answer.as_ref().map(|body| again(body.expose().to_owned())))
    }

    /// The key, for the ledger.
    pub(super) fn key(&self) -> Keyed {
        self.keyed.clone()
    }

    /// What the first request came to, where that was never answered.
    pub(super) fn unanswered(&self) -> Option<&Kept> {
        self.before.as_ref()
    }

    /// Whether something is kept of a first request.
    pub(super) fn was_before(&self) -> bool {
        self.before.is_some()
    }

    /// Keeps an answer, and gives it.
    pub(super) async fn end<B: Backend>(mut self, backend: &B, answer: AdminResponse) -> AdminResponse {
        let (parts, body) = answer.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(never) => match never {},
        };
        let body = String::from_utf8_lossy(&body).into_owned();
        self.keyed.asked = self.asked.hash();
        if parts.status == StatusCode::OK {
            backend.keep(self.keyed, Secret::new(body.as_str())).await;
        }
        match self.before {
            Some(_) => again(body),
            None => text(parts.status, "application/json", body),
        }
    }
}

/// An answer that is given again: what is kept is JSON, and was done.
fn again(body: String) -> AdminResponse {
    let mut answer = text(StatusCode::OK, "application/json", body);
    answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    answer
}

/// A body that is counted among what was asked as it is read. Whoever it is for may leave its end.
pub(super) struct Counted(Arc<tokio::sync::Mutex<Archive>>);

impl Counted {
    pub(super) fn new(archive: Archive, asked: &Asked) -> Self {
        let asked = asked.clone();
        // Its end is asked for twice: by whoever it is for, and when what is left is read.
        let archive = archive.inspect_ok(move |piece: &Bytes| asked.add(piece)).fuse().boxed();
        Self(Arc::new(tokio::sync::Mutex::new(archive)))
    }

    /// The body.
    pub(super) fn body(&self) -> Archive {
        let next = |archive: Arc<tokio::sync::Mutex<Archive>>| async move {
            let piece = archive.lock().await.next().await?;
            Some((piece, archive))
        };
        futures_util::stream::unfold(Arc::clone(&self.0), next).boxed()
    }

    /// Reads what is left of it.
    pub(super) async fn drain(&self) -> Result<(), Refusal> {
        let mut body = self.body();
        while let Some(piece) = body.next().await {
            piece.map_err(|e| Refusal::BadArchive { reason: e.to_string() })?;
        }
        Ok(())
    }
}
