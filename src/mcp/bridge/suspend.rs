//! stub
use super::*;
use crate::mcp::message::Message;
#[derive(Debug)]
pub(super) struct Suspended {}
impl Bridge {
    pub(super) fn forget_suspended(&mut self, _proc: ProcId) {}
    pub(super) fn suspended_of(&self, _proc: ProcId) -> usize {
        0
    }
    pub(super) fn suspend(&mut self, _now: Instant, _p: ProcId, _c: CallId, _m: &Message<'_>) {}
    pub(super) fn ask_suspended(&mut self, _now: Instant, _p: ProcId, _m: &Message<'_>) {}
    pub(super) fn tick_suspended(&mut self, _now: Instant) {}
}
