//! The store's own thread: a commit waits for the disk, and the ledger must not hold a runtime thread while it does.
//! Commits are made in the order they were asked for; the answer comes when they are durable.

use tokio::sync::{mpsc, oneshot};

use super::ports::Storage;
use crate::store::{Change, StoreError};

/// Why nothing was kept.
#[derive(Debug)]
pub(super) enum NotKept {
    /// One of the changes is at fault: without it the others can be kept.
    OneOfThem(String),
    /// The store can keep nothing now.
    Any(String),
}

impl std::fmt::Display for NotKept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (NotKept::OneOfThem(why) | NotKept::Any(why)) = self;
        f.write_str(why)
    }
}

impl From<StoreError> for NotKept {
    fn from(e: StoreError) -> Self {
        match e {
            // Refused before the commit: the transaction was given up.
            StoreError::Row { .. } => NotKept::OneOfThem(e.to_string()),
            _ => NotKept::Any(e.to_string()),
        }
    }
}

type Asked = (Vec<Change>, oneshot::Sender<Result<(), StoreError>>);

/// The way to the store's thread; the store closes when this is dropped.
#[derive(Debug)]
pub(super) struct Committer {
    send: mpsc::Sender<Asked>,
    thread: std::thread::JoinHandle<()>,
}

impl Committer {
    pub(super) fn spawn(mut storage: Box<dyn Storage>) -> std::io::Result<Self> {
        let (send, mut asked) = mpsc::channel::<Asked>(1);
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            while let Some((changes, reply)) = asked.blocking_recv() {
                let _ = reply.send(storage.commit(&changes));
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
    pub(super) async fn commit(&self, changes: Vec<Change>) -> Result<(), NotKept> {
        let (reply, answer) = oneshot::channel();
        let gone = || NotKept::Any("the store's thread has ended".to_owned());
        self.send.send((changes, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(NotKept::from)
    }
}
