//! What the clients of open MCP sessions call themselves: they say it once, when they open one.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use http::HeaderValue;

/// Sessions whose clients are remembered; past it the oldest is forgotten.
const SESSIONS: usize = 4096;

/// By session.
#[derive(Default)]
pub(super) struct Clients {
    keys: RandomState,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    names: HashMap<u64, Arc<str>>,
    /// The sessions, oldest first.
    order: VecDeque<u64>,
}

impl Clients {
    /// The client that opened a session.
    pub(super) fn of(&self, session: &HeaderValue) -> Option<Arc<str>> {
        let key = self.keys.hash_one(session.as_bytes());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.names.get(&key).cloned()
    }

    /// A client has opened a session.
    pub(super) fn insert(&self, session: &HeaderValue, name: &str) {
        let key = self.keys.hash_one(session.as_bytes());
        let Known { names, order } = &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if names.insert(key, name.into()).is_none() {
            order.push_back(key);
        }
        if order.len() > SESSIONS
            && let Some(oldest) = order.pop_front()
        {
            names.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_remembered_within_bounds() {
        let clients = Clients::default();
        for n in 0..=SESSIONS {
            let session = HeaderValue::from_str(&format!("s{n}")).unwrap();
            clients.insert(&session, &format!("c{n}"));
            clients.insert(&session, &format!("c{n}"));
        }
        assert_eq!(clients.of(&HeaderValue::from_static("s0")), None);
        assert_eq!(clients.of(&HeaderValue::from_static("s1")).as_deref(), Some("c1"));
    }
}
