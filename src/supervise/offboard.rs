//! What of those who are let in no longer is left in the instances: their MCP sessions. And the report of it, which the box
//! signs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures_util::{StreamExt, stream};

use super::backend::Parts;
use crate::{
    ledger::Cut,
    link::Registry,
    model::{EndedSessions, Forget, InstanceId, Offboarded, Refusal, State, TokenId},
    reconcile,
    secret::BoxKey,
};

/// Agents that are asked at a time, and how long each may take.
const AT_ONCE: usize = 32;
const LIMIT: Duration = Duration::from_secs(2);

type Where = BTreeMap<InstanceId, BTreeSet<TokenId>>;

impl Parts {
    pub(super) fn leavers(&self) -> Leavers {
        Leavers {
            links: self.links.clone(),
            reconcile: self.reconcile.clone(),
            key: Arc::clone(&self.key),
        }
    }
}

/// What it takes to see somebody out.
pub(super) struct Leavers {
    links: Registry,
    reconcile: reconcile::Handle,
    key: Arc<BoxKey>,
}

impl Leavers {
    /// Ends the MCP sessions of what was cut, where it was cut; nobody waits for it.
    pub(super) fn end_sessions(&self, cut: Cut) {
        let mut places = Where::new();
        for way in cut.ways {
            if let Some(instance) = way.instance {
                places.entry(instance).or_default().insert(way.token);
            }
        }
        if !places.is_empty() {
            tokio::spawn(ask(self.links.clone(), places).for_each(|_| std::future::ready(())));
        }
    }

    /// Ends the MCP sessions of a disabled member in every instance, notes them in the report, and signs it. It stands in the
    /// log as well, whoever waits for it.
    pub(super) async fn report(&self, mut done: Offboarded) -> Result<Offboarded, Refusal> {
        let tokens: BTreeSet<TokenId> = done.report.tokens.iter().map(|t| t.id.clone()).collect();
        if !tokens.is_empty() {
            // A session outlives the supervisor that saw it begin: every instance is asked that is not stopped.
            let views = self.reconcile.views();
            let there = views
                .values()
                .filter(|v| !matches!(v.state, State::Stopped | State::Failed));
            let places = there.map(|v| (v.id.clone(), tokens.clone())).collect();
            let mut ended: Vec<EndedSessions> = ask(self.links.clone(), places).collect().await;
            ended.retain(|e| e.ended != Some(0));
            ended.sort_by(|a, b| a.instance.cmp(&b.instance));
            done.report.mcp_sessions = ended;
        }
        done.signed = serde_json::to_string(&done.report).map_err(Refusal::fault)?;
        done.signature = BASE64.encode(self.key.sign(done.signed.as_bytes()));
        done.signing_key = BASE64.encode(self.key.public_key());
        log::info!(member = done.report.member.as_str(), signature = done.signature.as_str(); "disabled: {}", done.signed);
        Ok(done)
    }
}

/// Asks the agents; what each ended.
fn ask(links: Registry, places: Where) -> impl futures_util::Stream<Item = EndedSessions> {
    let one = move |(instance, tokens): (InstanceId, BTreeSet<TokenId>)| {
        let link = links.get(instance.as_str());
        async move {
            let principals = tokens.iter().map(ToString::to_string).collect();
            let ended = match link {
                Some(link) => link.forget(&Forget { principals }, LIMIT).await,
                // Nothing of it runs.
                None => Ok(0),
            };
            if let Err(e) = &ended {
                log::warn!(instance = instance.as_str(); "sessions of revoked tokens end by themselves only: {e}");
            }
            EndedSessions {
                instance,
                ended: ended.ok(),
            }
        }
    };
    stream::iter(places).map(one).buffer_unordered(AT_ONCE)
}
