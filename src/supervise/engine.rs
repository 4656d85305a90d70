//! The engine as the reconciler sees it: containers are the real engine's, and where an instance is a remote server its
//! relay takes a container's place. Decides nothing but who is asked.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};

use crate::{
    docker::{Docker, Engine, EngineError, EngineInfo, Exit, NO_PROCESS},
    model::BoxId,
    plan::{
        Observed, Owner,
        spec::{ContainerSpec, LABEL_BOX, LABEL_INSTANCE, LABEL_SPEC},
    },
    remote::Remotes,
};

type EngineFuture<'a, T> = BoxFuture<'a, Result<T, EngineError>>;

/// Containers and relays.
pub(super) struct Both {
    pub(super) docker: Docker,
    pub(super) remotes: Remotes,
}

fn ready<'a, T: Send + 'a>(value: T) -> EngineFuture<'a, T> {
    async move { Ok(value) }.boxed()
}

impl Engine for Both {
    fn info(&self) -> EngineFuture<'_, EngineInfo> {
        self.docker.info()
    }

    fn list<'a>(&'a self, box_id: &'a BoxId) -> EngineFuture<'a, Observed> {
        async move {
            let mut seen = self.docker.list(box_id).await?;
            seen.containers.extend(self.remotes.list());
            Ok(seen)
        }
        .boxed()
    }

    fn create<'a>(&'a self, spec: &'a ContainerSpec) -> EngineFuture<'a, String> {
        // An instance without an image is a remote server.
        if !spec.image.is_empty() {
            return self.docker.create(spec);
        }
        let label = |name: &str| spec.labels.get(name).cloned().unwrap_or_default();
        let owner = Owner {
            box_id: label(LABEL_BOX),
            instance: label(LABEL_INSTANCE),
        };
        let sockets = spec.binds.iter().find(|(_, inside)| inside == "/berth/run");
        let folder = sockets.map(|(host, _)| host.clone()).unwrap_or_default();
        ready(self.remotes.create(owner, label(LABEL_SPEC), folder))
    }

    fn start<'a>(&'a self, container: &'a str) -> EngineFuture<'a, ()> {
        if !Remotes::is_relay(container) {
            return self.docker.start(container);
        }
        if self.remotes.start(container) {
            return ready(());
        }
        let gone = EngineError::NotFound {
            what: "reach the server",
            why: format!("{container} is gone"),
        };
        async { Err(gone) }.boxed()
    }

    fn pid<'a>(&'a self, container: &'a str) -> EngineFuture<'a, Option<u32>> {
        if Remotes::is_relay(container) {
            // A relay is a task of this very process.
            return ready(Some(std::process::id()));
        }
        self.docker.pid(container)
    }

    fn cpu<'a>(&'a self, container: &'a str) -> EngineFuture<'a, i64> {
        if Remotes::is_relay(container) {
            return ready(0);
        }
        self.docker.cpu(container)
    }

    fn set_cpu<'a>(&'a self, container: &'a str, nano_cpus: i64) -> EngineFuture<'a, ()> {
        if Remotes::is_relay(container) {
            return ready(());
        }
        self.docker.set_cpu(container, nano_cpus)
    }

    fn stop<'a>(&'a self, container: &'a str, grace: i32) -> EngineFuture<'a, ()> {
        if Remotes::is_relay(container) {
            self.remotes.stop(container);
            return ready(());
        }
        self.docker.stop(container, grace)
    }

    fn remove<'a>(&'a self, container: &'a str) -> EngineFuture<'a, ()> {
        if Remotes::is_relay(container) {
            self.remotes.remove(container);
            return ready(());
        }
        self.docker.remove(container)
    }

    fn exit<'a>(&'a self, container: &'a str) -> EngineFuture<'a, Exit> {
        if Remotes::is_relay(container) {
            return ready(Exit {
                code: NO_PROCESS,
                ..Exit::default()
            });
        }
        self.docker.exit(container)
    }

    fn create_network<'a>(
        &'a self,
        name: &'a str,
        bridge: &'a str,
        labels: &'a BTreeMap<String, String>,
    ) -> EngineFuture<'a, ()> {
        self.docker.create_network(name, bridge, labels)
    }

    fn remove_network<'a>(&'a self, name: &'a str) -> EngineFuture<'a, ()> {
        self.docker.remove_network(name)
    }

    fn remove_volume<'a>(&'a self, name: &'a str) -> EngineFuture<'a, ()> {
        self.docker.remove_volume(name)
    }

    fn pull<'a>(&'a self, reference: &'a str) -> EngineFuture<'a, ()> {
        self.docker.pull(reference)
    }

    fn last_words<'a>(&'a self, container: &'a str, lines: u32, bytes: usize) -> EngineFuture<'a, String> {
        if Remotes::is_relay(container) {
            return ready(self.remotes.why(container));
        }
        self.docker.last_words(container, lines, bytes)
    }

    fn logs(&self, container: &str, follow: bool, tail: Option<u32>) -> BoxStream<'static, Result<Bytes, EngineError>> {
        if Remotes::is_relay(container) {
            return stream::empty().boxed();
        }
        self.docker.logs(container, follow, tail)
    }

    fn events(&self, box_id: &BoxId) -> BoxStream<'static, Result<(), EngineError>> {
        let ended = self.remotes.ended();
        let relays = stream::unfold(ended, |ended| async move {
            ended.notified().await;
            Some((Ok(()), ended))
        });
        // Ends with the engine's, so that a loss shows.
        let engine = self.docker.events(box_id).map(Some).chain(stream::once(async { None }));
        stream::select(engine, relays.map(Some))
            .take_while(|e| std::future::ready(e.is_some()))
            .filter_map(std::future::ready)
            .boxed()
    }
}
