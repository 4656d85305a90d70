//! stub
use super::*;
use crate::mcp::message::Message;
#[derive(Debug)]
pub(super) struct Listener {}
impl Bridge {
    pub(super) fn unlisten(&mut self, _now: Instant, _lane: LaneId) {}
    pub(super) fn end_listeners(&mut self, _now: Instant) {}
    pub(super) fn tell_listeners(&mut self, _now: Instant, _proc: ProcId, _m: &Message<'_>, _uri: Option<&str>) {}
    pub(super) fn watching(&mut self, _now: Instant, _l: LaneId, _s: SessionNo, _p: ProcId, _m: &Message<'_>) -> bool {
        false
    }
    pub(super) fn unwatch(&mut self, _now: Instant, _uri: &str) {}
    pub(super) fn rewatch(&mut self, _now: Instant) {}
}
