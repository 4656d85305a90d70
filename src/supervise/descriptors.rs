//! The process's file descriptors, shared out before anything runs, so that no flood of one kind leaves none for another:
//! clients' connections and agents' have bounds, and what they leave is for the admin socket, the store, the engine and
//! logs.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{config::Limits, edge};

/// For everything that is no client's and no agent's connection: 64 at the admin socket, the store, the engine's, those of
/// logs that are followed, timers, pipes.
const KEPT: usize = 256;
/// And for each instance: its socket, and a log of it.
const EACH: usize = 2;
/// A connection to a remote server's relay has both its ends here, and one to that server.
const ENDS: usize = 3;
/// Connections at the edge, however few descriptors there are.
const LEAST: usize = 16;

/// Raises the soft limit to the hard one, which is ours to do; the limit then.
pub(super) fn raise() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match limit {
        Ok(n) => usize::try_from(n).unwrap_or(usize::MAX),
        Err(e) => {
            log::warn!("the limit of open files could not be raised: {e}");
            let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
            usize::try_from(soft).unwrap_or(usize::MAX)
        }
    }
}

/// Bounds the edge's connections by what there is; how many descriptors agents' connections may have together.
pub(super) fn share(all: usize, limits: &mut Limits) -> usize {
    // With few descriptors there will be few instances.
    let instances = (limits.instances * EACH).min(all / 8);
    let free = all.saturating_sub(KEPT + instances);
    // The edge's may exceed its bound by a part while those that gave way are closing.
    let plain = edge::PLAIN_CONNECTIONS;
    let most = (free / 2).saturating_sub(free / 2 / 5).saturating_sub(plain).max(LEAST);
    if limits.connections > most {
        log::warn!(
            "{all} files may be open at once: the edge takes {most} connections in place of {}; raise the hard limit \
             (LimitNOFILE= of the unit, `ulimit -Hn`)",
            limits.connections
        );
        limits.connections = most;
    }
    let edge = (limits.connections + plain) * 5 / 4;
    free.saturating_sub(edge) / ENDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_always_some_left() {
        for all in [1024, 4096, 65_536, 1_048_576] {
            for wanted in [16, 4096, 1_000_000] {
                let mut limits = Limits {
                    connections: wanted,
                    ..Limits::default()
                };
                let links = share(all, &mut limits);
                let edge = (limits.connections + edge::PLAIN_CONNECTIONS) * 5 / 4;
                assert!(limits.connections >= LEAST && limits.connections <= wanted);
                assert!(edge + links * ENDS + KEPT <= all, "{all} {wanted}: {edge} {links}");
                assert!(links >= 100, "{all} {wanted}: {links}");
            }
        }
    }

    #[test]
    fn what_is_asked_for_is_given_where_it_can_be() {
        let mut limits = Limits::default();
        share(65_536, &mut limits);
        assert_eq!(limits, Limits::default());
    }

    #[test]
    fn the_limit_is_raised() {
        let all = raise();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((soft, soft), (hard, all as u64));
    }
}
