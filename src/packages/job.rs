//! One installation that several may wait for. It ends with the last who waits.

use std::sync::Mutex;

use futures_util::future::BoxFuture;
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
};

use super::{PrepareError, Words};

/// Words that wait for a slow listener; it misses the oldest.
const WORDS: usize = 256;

type Outcome = Option<Result<(), PrepareError>>;
/// What a job does, given where its words go.
pub(super) type Work = Box<dyn FnOnce(Words) -> BoxFuture<'static, Result<(), PrepareError>> + Send>;

/// An installation under way, or done.
pub(super) struct Job {
    task: Mutex<Option<JoinHandle<()>>>,
    words: broadcast::Sender<String>,
    outcome: watch::Receiver<Outcome>,
}

impl Job {
    pub(super) fn start(work: Work) -> Self {
        let (words, _) = broadcast::channel(WORDS);
        let (tell, outcome) = watch::channel(None);
        let out = words.clone();
        let say: Words = std::sync::Arc::new(move |line: &str| {
            // Nobody may listen.
            let _ = out.send(line.to_owned());
        });
        let task = tokio::spawn(async move {
            let ended = work(say).await;
            let _ = tell.send(Some(ended));
        });
        Self {
            task: Mutex::new(Some(task)),
            words,
            outcome,
        }
    }

    /// Whether it has failed: the next who asks starts anew.
    pub(super) fn failed(&self) -> bool {
        matches!(*self.outcome.borrow(), Some(Err(_)))
            || (self.outcome.has_changed().is_err() && self.outcome.borrow().is_none())
    }

    /// Waits for its end, and passes on what it says.
    pub(super) async fn wait(&self, words: &Words) -> Result<(), PrepareError> {
        let mut lines = self.words.subscribe();
        let mut outcome = self.outcome.clone();
        let ended = async {
            match outcome.wait_for(Option::is_some).await {
                Ok(ended) => ended.clone().unwrap_or(Ok(())),
                Err(_) => Err(PrepareError::Final(
                    "the installation ended in a fault of berth's own".to_owned(),
                )),
            }
        };
        let mut ended = std::pin::pin!(ended);
        loop {
            tokio::select! {
                biased;
                line = lines.recv() => match line {
                    Ok(line) => words(&line),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return ended.await,
                },
                result = &mut ended => {
                    while let Ok(line) = lines.try_recv() {
                        words(&line);
                    }
                    return result;
                }
            }
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().ok().and_then(Option::take) {
            task.abort();
        }
    }
}
