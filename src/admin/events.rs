//! What changes on the box, as server-sent events (WHATWG HTML, "Server-sent events"): to each who follows, of what they may
//! see at that moment, as the lists show it to them. A stream ends with what let its asker in, and with the supervisor.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::{
    Backend,
    answers::{AdminResponse, pairs, plain},
    asker::{Addresses, Asker, addressed, shown},
};
use crate::{
    api::{Event, EventRecord, RequestError, Reset, ResetCause, unescaped},
    events::{Entry, Following, News, STREAMS, STREAMS_EACH, Taken, TooMany},
    mcp::sse,
    model::{InstanceId, MemberView, Principal},
    policy::{self, Access, Known, Target, Verb},
};

/// A client that was cut off asks again after so many milliseconds.
const RETRY: u32 = 2000;
/// A stream on which nothing comes has a comment this often.
const BEAT: Duration = Duration::from_secs(15);
/// A piece of a stream has about so many bytes at most.
const PIECE: usize = 64 << 10;

/// The stream of somebody, of an instance only where one is named.
pub(super) fn stream<B: Backend>(
    backend: &B,
    asker: Asker<'_>,
    instance: Option<InstanceId>,
    query: &str,
) -> Result<AdminResponse, RequestError> {
    let query = pairs(query);
    let text = |name: &str| query.get(name).and_then(|v| unescaped(v));
    let last = last_id(asker.headers).or_else(|| text("last_event_id"));
    let following = backend.events().follow(&asker.by.name(), last.as_deref());
    let following = following.map_err(|too_many| match too_many {
        TooMany::Theirs => RequestError::TooManyStreams {
            whose: "you".to_owned(),
            limit: STREAMS_EACH,
        },
        TooMany::All => RequestError::TooManyStreams {
            whose: "all".to_owned(),
            limit: STREAMS,
        },
    })?;
    let stream = Stream {
        following,
        by: asker.by.clone(),
        access: backend.live_access(),
        addresses: backend.addresses(asker.at),
        kinds: text("kind").map(|kinds| kinds.split(',').map(str::to_owned).collect()),
        instance,
        goes_on: query.get("follow") != Some(&"0"),
        begun: false,
        every: BEAT,
        beat: Instant::now() + BEAT,
    };
    let frames = futures_util::stream::unfold(stream, |mut stream| async move {
        let piece = stream.next().await?;
        Some((Ok(Frame::data(piece)), stream))
    });
    Ok(plain(
        StatusCode::OK,
        "text/event-stream",
        StreamBody::new(frames).boxed(),
    ))
}

/// The header of a client that takes a stream up again. It counts more than the address, which a browser does not change.
fn last_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("last-event-id")?;
    let id = String::from_utf8_lossy(id.as_bytes()).trim().to_owned();
    Some(id).filter(|id| !id.is_empty())
}

struct Stream {
    following: Following,
    by: Principal,
    access: Arc<ArcSwap<Access>>,
    addresses: Option<Addresses>,
    /// All where none is named.
    kinds: Option<Vec<String>>,
    instance: Option<InstanceId>,
    /// Whether it waits for what comes.
    goes_on: bool,
    begun: bool,
    /// How often there is a comment, and when the next one is due.
    every: Duration,
    beat: Instant,
}

impl Stream {
    /// The next piece; none where the stream ends.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            // An id without data: where a client goes on that is cut off before the first event.
            out.extend_from_slice(format!("retry: {RETRY}\nid: {}\n\n", self.following.id(None)).as_bytes());
        }
        loop {
            let access = self.access.load_full();
            let known = Known {
                access: &access,
                now: Timestamp::now(),
            };
            let may = policy::may(known, &self.by, Verb::UseApi, Target::Box).is_allowed();
            if !may || self.following.is_over() {
                return None;
            }
            let all = match self.following.take(|concerned| concerned.holds(&self.by)) {
                Taken::Reset(why) => {
                    self.put_reset(&mut out, why);
                    false
                }
                Taken::Events(events) => {
                    for (seq, entry) in events {
                        if let Entry::News(news, json) = &*entry {
                            self.put(&mut out, seq, known, (news, json));
                        }
                    }
                    false
                }
                Taken::Nothing => true,
            };
            if !out.is_empty() && (all || out.len() >= PIECE) {
                self.beat = Instant::now() + self.every;
                return Some(out.into());
            }
            if !all {
                continue;
            }
            if !self.goes_on {
                return None;
            }
            match timeout_at(self.beat, self.following.changed()).await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(_) => {
                    let id = self.following.id(None);
                    out.extend_from_slice(format!(": \nid: {id}\n\n").as_bytes());
                }
            }
        }
    }

    /// Writes an event, where it is one that they asked for and may see.
    fn put(&self, out: &mut Vec<u8>, seq: u64, known: Known<'_>, (news, json): (&News, &Bytes)) {
        let event = &news.event;
        let kind = event.kind.as_str();
        let asked = self.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|k| k == kind))
            && self.instance.as_ref().is_none_or(|id| news.is_of(id));
        if !asked || !news.is_open(known, &self.by) || self.looks_the_same(known, news) {
            return;
        }
        let own = self.own(known, event).map(|event| serde_json::to_vec(&event));
        let json = match own {
            None => json.clone(),
            Some(Ok(json)) => sse::line(&json).into(),
            Some(Err(e)) => {
                log::error!("an event of {} cannot be told: {e}", event.id);
                return;
            }
        };
        let (id, change) = (self.following.id(Some(seq)), event.change.as_str());
        out.extend_from_slice(format!("id: {id}\nevent: {kind}-{change}\ndata: ").as_bytes());
        out.extend_from_slice(&json);
        out.extend_from_slice(b"\n\n");
    }

    /// Whether all that changed of a member is what they may not see.
    fn looks_the_same(&self, known: Known<'_>, news: &News) -> bool {
        let (Some(was), Some(EventRecord::Member(is))) = (&news.was, &news.event.record) else {
            return false;
        };
        let of = |view: &MemberView| shown(known, &self.by, view.clone());
        of(was) == of(is)
    }

    /// The event with its record as it is shown to them, where that is not as it is shown to all.
    fn own(&self, known: Known<'_>, event: &Event) -> Option<Event> {
        let record = match event.record.as_ref()? {
            EventRecord::Member(view) => {
                let own = shown(known, &self.by, (**view).clone());
                (own != **view).then(|| EventRecord::Member(Box::new(own)))?
            }
            EventRecord::Instance(view) => {
                let addresses = self.addresses.as_ref()?;
                EventRecord::Instance(Box::new(addressed(Some(addresses), (**view).clone())))
            }
            _ => return None,
        };
        Some(Event {
            record: Some(record),
            ..event.clone()
        })
    }

    fn put_reset(&self, out: &mut Vec<u8>, why: ResetCause) {
        // Two words of its own: nothing of it can fail to be JSON.
        let json = serde_json::to_string(&Reset { why }).unwrap_or_default();
        let id = self.following.id(None);
        out.extend_from_slice(format!("id: {id}\nevent: reset\ndata: {json}\n\n").as_bytes());
    }
}

#[cfg(test)]
mod tests;
