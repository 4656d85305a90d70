//! F2: What messages on their way may take of a process's memory, all together: bodies that come in, answers and events
//! that wait for their readers. An agent shares its container with the server, which must not pay for either.
//!
//! Past it requests are refused (503) and streams whose readers lag are cut; nothing waits for room.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::mcp::codes;

/// What is no larger than this costs nothing: it fits the buffers that a connection has anyway.
pub const SMALL: usize = 16 * 1024;
/// The part of the container's memory that is the budget: one in so many.
const PART: usize = 8;
/// The least budget, and the most; the latter also where memory has no limit.
const LEAST: usize = 8 * 1024 * 1024;
const MOST: usize = 128 * 1024 * 1024;

/// The budget; clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    limit: usize,
    used: Arc<AtomicUsize>,
}

/// Bytes of the budget, given back on drop.
#[derive(Debug)]
pub struct Charge {
    bytes: usize,
    budget: Budget,
}

impl Budget {
    /// By the memory limit of the container that this process is in.
    pub fn of_container() -> Self {
        let files = ["memory.max", "memory/memory.limit_in_bytes"];
        let read = |file: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok();
        Self::of(files.into_iter().find_map(read).as_deref())
    }

    /// So many bytes.
    pub fn of_bytes(limit: usize) -> Self {
        Self {
            limit,
            used: Arc::default(),
        }
    }

    /// By the text of a cgroup's memory limit.
    fn of(memory: Option<&str>) -> Self {
        let memory = memory.and_then(|text| text.trim().parse::<u64>().ok());
        let part = memory.and_then(|m| usize::try_from(m).ok()).map_or(MOST, |m| m / PART);
        Self {
            limit: part.clamp(LEAST, MOST),
            used: Arc::default(),
        }
    }

    /// All of it: no message can be longer.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether nothing is left.
    pub fn is_spent(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.limit
    }

    /// Room for so many bytes; `None` when there is not so much.
    pub fn take(&self, bytes: usize) -> Option<Charge> {
        let mut charge = self.force(0);
        charge.grow(bytes).then_some(charge)
    }

    /// Counts bytes that are there already, whether there is room or not.
    pub fn force(&self, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Charge {
            bytes,
            budget: self.clone(),
        }
    }

    /// Counts these bytes until the last copy of them is dropped.
    pub fn hold(&self, bytes: Bytes) -> Bytes {
        if bytes.len() <= SMALL {
            return bytes;
        }
        let charge = self.force(bytes.len());
        Bytes::from_owner(Held(bytes, charge))
    }
}

impl Charge {
    /// Takes more; `false`, and nothing is taken, when there is not so much.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|all| *all <= self.budget.limit);
        let fits = self
            .budget
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok();
        if fits {
            self.bytes += bytes;
        }
        fits
    }

    /// Gives some of it back.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts more bytes that are there already.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Held(Bytes, #[allow(dead_code, reason = "dropped with the bytes")] Charge);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Why a body was not read. Both are told as errors of JSON-RPC.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is longer than a message may be.
    #[error("the body may have {0} bytes at most")]
    TooLong(usize),
    /// The connection broke off.
    #[error("{0}")]
    Broken(String),
    /// There is no room.
    #[error("messages on their way take all the memory that they may, try again")]
    Full,
}

impl Refused {
    /// The HTTP status that says so.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
            Self::Full => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The code of the JSON-RPC error that says so.
    pub fn code(&self) -> i64 {
        match self {
            Self::TooLong(_) => codes::LIMIT,
            Self::Broken(_) => codes::INVALID_REQUEST,
            Self::Full => codes::BUSY,
        }
    }
}

/// Reads a whole body, `limit` bytes at most and within the budget. The usual case, one small piece, is neither copied
/// nor counted. What there is no room for is read all the same, and forgotten: a client that is still sending when it is
/// refused may lose the answer with the connection.
///
/// # Errors
/// [`Refused`]
pub async fn collect(mut body: Incoming, limit: usize, budget: &Budget) -> Result<(Bytes, Option<Charge>), Refused> {
    let limit = limit.min(budget.limit());
    let declared = body
        .size_hint()
        .exact()
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(0);
    if declared > limit {
        return Err(Refused::TooLong(limit));
    }
    let mut charge = match declared {
        0..=SMALL => None,
        more => match budget.take(more) {
            Some(charge) => Some(charge),
            None => return Err(no_room(body, limit).await),
        },
    };
    let mut counted = declared.max(SMALL);
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| Refused::Broken(e.to_string()))?.into_data() else {
            continue;
        };
        let length = first.len() + rest.len() + data.len();
        if length > limit {
            return Err(Refused::TooLong(limit));
        }
        if length > counted {
            if !charge.get_or_insert_with(|| budget.force(0)).grow(length - counted) {
                drop((first, rest, charge));
                return Err(no_room(body, limit - length).await);
            }
            counted = length;
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(declared.max(length));
            }
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
        }
    }
    Ok((if rest.is_empty() { first } else { rest.freeze() }, charge))
}

/// Reads the rest of a body, `left` bytes at most, for nothing but the manners.
async fn no_room(mut body: Incoming, mut left: usize) -> Refused {
    while let Some(Ok(frame)) = body.frame().await {
        match frame.data_ref().map_or(0, Bytes::len) {
            n if n > left => break,
            n => left -= n,
        }
    }
    Refused::Full
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_part_of_the_memory_within_bounds() {
        let of = |text: &str| Budget::of(Some(text)).limit();
        assert_eq!(of("268435456\n"), 32 * 1024 * 1024);
        assert_eq!(of("1048576\n"), LEAST);
        assert_eq!(of("max\n"), MOST);
        assert_eq!(of("9223372036854771712\n"), MOST, "what cgroup v1 calls no limit");
        assert_eq!(Budget::of(None).limit(), MOST);
    }

    #[test]
    fn what_is_taken_comes_back() {
        let budget = Budget::of(Some("0"));
        let mut first = budget.take(LEAST - 10).expect("room");
        assert!(budget.take(11).is_none() && !first.grow(11));
        assert!(first.grow(10) && budget.is_spent());
        first.shrink(100);
        assert!(budget.take(100).is_some());
        drop(first);
        let held = budget.hold(Bytes::from(vec![0; LEAST + 1]));
        let copy = held.slice(5..);
        drop(held);
        assert!(budget.is_spent() && budget.take(1).is_none(), "a copy counts as well");
        drop(copy);
        assert!(!budget.is_spent() && budget.take(LEAST).is_some());
    }
}
