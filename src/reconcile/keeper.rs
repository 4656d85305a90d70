//! The store's own thread: a commit waits for the disk, and the reconciler must not hold a runtime thread while it
//! does. Commits are made in the order they were asked for; the answer comes when they are durable.

use tokio::sync::{mpsc, oneshot};

use crate::store::{Change, Store, StoreError};

type Asked = (Vec<Change>, oneshot::Sender<Result<(), StoreError>>);

/// The way to the store's thread; the store closes when this is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    send: mpsc::Sender<Asked>,
    thread: std::thread::JoinHandle<()>,
}

impl Keeper {
    pub(super) fn spawn(mut store: Store) -> std::io::Result<Self> {
        let (send, mut asked) = mpsc::channel::<Asked>(1);
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            while let Some((changes, reply)) = asked.blocking_recv() {
                let _ = reply.send(store.commit(&changes));
            }
        })?;
        Ok(Self { send, thread })
    }

    /// Closes the store and waits until it is: one that was closed needs no repair at the next start.
    pub(super) async fn close(self) {
        let Self { send, thread } = self;
        drop(send);
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }

    /// Commits; durable when it returns Ok, nothing changed when not.
    pub(super) async fn commit(&self, changes: Vec<Change>) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "the store's thread has ended".to_owned();
        self.send.send((changes, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(|e| e.to_string())
    }
}
