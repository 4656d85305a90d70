//! stub
use super::*;
use crate::mcp::message::Message;
#[derive(Debug)]
pub(super) struct Origin {}
#[derive(Debug, Default)]
pub(super) struct Headers {}
impl Headers {
    pub(super) fn clear(&mut self) {}
}
impl Bridge {
    pub(super) fn translated(&mut self, _now: Instant, _call: Call, _m: &Message<'_>) {}
}
