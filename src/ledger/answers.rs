//! What is kept of writes that have an idempotency key. What a write comes to is kept in the commit that does it, so that no
//! crash lets it be done twice; its answer is kept in another commit, before it is given.

use super::{Came, Handle, Kept as Done, Request, books::Books, decide::Decided, task::Task};
use crate::{
    model::{IdempotencyKey, MemberName, Outcome, Principal, Refusal, Secret},
    store::Change,
    writes::{Begun, Kept, Keyed, Keys, expired, of_member, over},
};

/// Refuses a write whose key was used for one that is done: whoever asked has not seen that yet.
pub(super) fn check(books: &Books, keyed: Option<&Keyed>, now: jiff::Timestamp) -> Result<(), Refusal> {
    let kept = keyed.and_then(|k| books.answers.get(&k.id));
    match kept.is_some_and(|r| !expired(r, now)) {
        true => Err(Refusal::KeyInUse),
        false => Ok(()),
    }
}

/// Keeps what a write comes to, with it; and forgets what was kept of members who are gone: their names may be given anew.
pub(super) fn add(
    books: &Books,
    decided: &mut Decided,
    keyed: Option<&Keyed>,
    (keys, now): (&Keys, jiff::Timestamp),
) -> Result<(), Refusal> {
    if let Some(keyed) = keyed {
        let came = serde_json::to_value(&decided.came).map_err(Refusal::fault)?;
        let first = put(books, keyed, &Kept::came(&keyed.asked, came), (keys, now))?;
        // In front: it goes as well where whoever asked is gone by it.
        decided.changes.splice(0..0, first);
    }
    let mut forgotten = Vec::new();
    for change in &decided.changes {
        if let Change::RemoveMember(name) = change {
            forgotten.extend(of_member(&books.answers, name).copied());
            if let Some(keyed) = keyed.filter(|k| k.is_of(name)) {
                forgotten.push(keyed.id);
            }
        }
    }
    decided.changes.extend(forgotten.into_iter().map(Change::RemoveAnswer));
    Ok(())
}

/// Keeps what was answered, in place of what the write came to.
pub(super) fn answered(
    books: &Books,
    keyed: &Keyed,
    answer: &Secret,
    (keys, now): (&Keys, jiff::Timestamp),
) -> Result<Decided, Refusal> {
    let there = |name: MemberName| books.members.contains_key(&name);
    let mut decided = Decided::nothing(Came::Done);
    if keyed.member().is_none_or(there) {
        // Its day begins with the write.
        let at = books
            .answers
            .get(&keyed.id)
            .filter(|r| !expired(r, now))
            .map_or(now, |r| r.at);
        decided.changes = put(books, keyed, &Kept::answer(&keyed.asked, answer.clone()), (keys, at))?;
    }
    Ok(decided)
}

fn put(
    books: &Books,
    keyed: &Keyed,
    kept: &Kept,
    (keys, at): (&Keys, jiff::Timestamp),
) -> Result<Vec<Change>, Refusal> {
    let Some(fresh) = keys.seal(keyed, kept, at)? else {
        log::info!("an answer with an idempotency key is too long to be kept");
        return Ok(Vec::new());
    };
    let gone = over(&books.answers, &fresh, at).into_iter().map(Change::RemoveAnswer);
    let mut changes: Vec<Change> = gone.collect();
    changes.push(Change::PutAnswer(fresh.into()));
    Ok(changes)
}

impl Task {
    /// Forgets answers whose day is over: no secret stays on the disk for longer than it is of use.
    pub(super) async fn forget_answers(&mut self) {
        let now = jiff::Timestamp::now();
        let over = self.books.answers.values().filter(|r| expired(r, now));
        let changes: Vec<Change> = over.map(|r| Change::RemoveAnswer(r.id)).collect();
        if changes.is_empty() {
            return;
        }
        if let Err(e) = self.make(changes).await {
            log::warn!("old answers were not forgotten: {e}");
        }
    }
}

impl Handle {
    /// Begins a request with an idempotency key.
    ///
    /// # Errors
    /// [`Refusal::KeyInUse`].
    pub fn begin(&self, by: &Principal, key: &IdempotencyKey) -> Result<Begun, Refusal> {
        self.keys.begin(by, key, jiff::Timestamp::now())
    }

    /// What a write came to that was done and never answered.
    ///
    /// # Errors
    /// As [`Handle::submit`].
    pub async fn outcome(&self, kept: &Kept) -> Result<Outcome, Refusal> {
        let came = kept.came.clone().unwrap_or_default();
        let what: Came =
            serde_json::from_value(came).map_err(|e| Refusal::fault(format!("what was kept: {:?}", e.classify())))?;
        let version = self.desired.borrow().version;
        let done = Done {
            version,
            what,
            cut: super::Cut::default(),
        };
        Ok(self.shown_as(done).await?.0)
    }

    /// Keeps what was answered to a request with an idempotency key; durable when it returns Ok.
    ///
    /// # Errors
    /// [`Refusal::Store`], and what it came to is kept still.
    pub async fn keep(&self, keyed: Keyed, answer: Secret) -> Result<(), Refusal> {
        self.ask(|reply| Request::Keep(Box::new((keyed, answer)), reply))
            .await?
    }
}
