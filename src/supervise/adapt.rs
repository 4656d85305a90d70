//! Fits the links and the token table to what the reconciler asks of them. Decides nothing.

use std::{path::PathBuf, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    authz::{self, TokenHash, TokenTable},
    link::Registry,
    model::{InstanceId, Secret, StartOrder, State, TokenId},
    reconcile::{Links, TokenEntry, Tokens},
};

pub(super) struct RealLinks(pub(super) Registry);

impl RealLinks {
    fn missing(id: &InstanceId) -> String {
        format!("the socket of {id} is not open")
    }
}

impl Links for RealLinks {
    fn open<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<PathBuf, String>> {
        Box::pin(async move {
            let link = self.0.open(id).await.map_err(|e| e.to_string())?;
            Ok(link.socket_dir().to_owned())
        })
    }

    fn close<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, ()> {
        Box::pin(self.0.close(id))
    }

    fn set_state(&self, id: &InstanceId, state: State, retry_after: Option<u32>) {
        if let Some(link) = self.0.get(id.as_str()) {
            link.set_state(state, retry_after);
        }
    }

    fn start<'a>(&'a self, id: &'a InstanceId, order: &'a StartOrder) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let link = self.0.get(id.as_str()).ok_or_else(|| Self::missing(id))?;
            link.start(order).await.map_err(|e| e.to_string())
        })
    }

    fn health<'a>(&'a self, id: &'a InstanceId, limit: Duration) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let link = self.0.get(id.as_str()).ok_or_else(|| Self::missing(id))?;
            link.health(limit).await.map_err(|e| e.to_string())
        })
    }
}

pub(super) struct RealTokens(pub(super) TokenTable);

impl Tokens for RealTokens {
    fn mint(&self) -> Result<(Secret, [u8; 32]), String> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|e| e.to_string())?;
        let token = authz::new_instance_token(random);
        let hash = *TokenHash::of(token.expose()).as_bytes();
        Ok((token, hash))
    }

    fn insert(&self, entry: TokenEntry) {
        self.0.insert(authz::TokenEntry {
            id: entry.id,
            hash: TokenHash::from_bytes(entry.hash),
            instance: entry.instance,
            expires_at: entry.expires_at.map(jiff::Timestamp::as_second),
            last_used: None,
        });
    }

    fn remove(&self, id: &TokenId) {
        self.0.remove(id);
    }

    fn remove_instance(&self, id: &InstanceId) {
        self.0.remove_instance(id);
    }

    fn last_used(&self, id: &TokenId) -> Option<i64> {
        self.0.last_used(id)
    }
}
