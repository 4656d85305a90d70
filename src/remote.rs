//! F2: MCP servers elsewhere, reached over HTTPS by the supervisor itself. For each instance of the type `remote` a relay
//! stands where another instance has a container: it dials the instance's socket as an agent does and passes requests
//! on, with the secret that Berth holds and nothing that a client proved itself with. So edge, tokens, health and states
//! are those of every instance.
//!
//! It never connects to a private, loopback or link-local address that the configuration does not name (a server's name
//! is looked up here, and the address that was checked is the one that is connected to), never follows a redirect, and
//! never sends a secret in the clear to one that is not.

mod address;
mod client;
mod relay;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    config,
    plan::{Owner, Run, SeenContainer},
};

pub use client::RemoteError;

/// What the names of relays begin with, where containers have ids.
const PREFIX: &str = "remote-";

/// All relays of this supervisor. Cheap to clone.
#[derive(Clone)]
pub struct Remotes(Arc<Inner>);

struct Inner {
    client: client::Client,
    relays: Mutex<BTreeMap<String, Entry>>,
    ended: Arc<Notify>,
}

struct Entry {
    seen: SeenContainer,
    socket: PathBuf,
    running: Option<relay::Relay>,
    why: Option<String>,
}

impl Remotes {
    /// No relay yet.
    ///
    /// # Errors
    /// [`RemoteError`] when a bundle of certificates cannot be read.
    pub fn new(config: &config::Remote) -> Result<Remotes, RemoteError> {
        Ok(Remotes(Arc::new(Inner {
            client: client::Client::new(config)?,
            relays: Mutex::default(),
            ended: Arc::default(),
        })))
    }

    /// Whether a container's id is that of a relay.
    pub fn is_relay(container: &str) -> bool {
        container.starts_with(PREFIX)
    }

    fn relays(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A relay that does not run yet; its id.
    pub fn create(&self, owner: Owner, spec: String, socket: PathBuf) -> String {
        let id = format!("{PREFIX}{}-{}", owner.instance, spec.get(..12).unwrap_or(&spec));
        let seen = SeenContainer {
            owner,
            spec,
            run: Run::Created,
        };
        let entry = Entry {
            seen,
            socket,
            running: None,
            why: None,
        };
        self.relays().insert(id.clone(), entry);
        id
    }

    /// Starts it; false where there is none. One that runs goes on.
    pub fn start(&self, id: &str) -> bool {
        let mut relays = self.relays();
        let Some(entry) = relays.get_mut(id) else { return false };
        let runs = entry.running.as_ref().is_some_and(relay::Relay::runs);
        if !runs {
            entry.why = None;
            let ended = self.0.ended.clone();
            entry.running = Some(relay::Relay::start(entry.socket.clone(), self.0.client.clone(), ended));
        }
        true
    }

    /// Ends it.
    pub fn stop(&self, id: &str) {
        if let Some(entry) = self.relays().get_mut(id) {
            entry.running = None;
            entry.seen.run = Run::Exited;
        }
    }

    /// Ends and forgets it.
    pub fn remove(&self, id: &str) {
        self.relays().remove(id);
    }

    /// All there are, as containers are listed.
    pub fn list(&self) -> BTreeMap<String, SeenContainer> {
        let mut relays = self.relays();
        for entry in relays.values_mut() {
            if let Some(relay) = &entry.running {
                entry.seen.run = if relay.runs() { Run::Running } else { Run::Exited };
                entry.why = relay.why();
            }
        }
        relays.iter().map(|(id, e)| (id.clone(), e.seen.clone())).collect()
    }

    /// Why it ended, in words.
    pub fn why(&self, id: &str) -> String {
        let relays = self.relays();
        relays.get(id).and_then(|e| e.why.clone()).unwrap_or_default()
    }

    /// Woken when a relay ends by itself.
    pub fn ended(&self) -> Arc<Notify> {
        self.0.ended.clone()
    }
}
