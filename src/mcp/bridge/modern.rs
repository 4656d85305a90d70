//! stub
use super::*;
use crate::mcp::message::Message;
use http::HeaderMap;
impl Bridge {
    pub(super) fn modern(&mut self, _now: Instant, wire: WireId, _h: &HeaderMap, _a: Accepts, m: &Message<'_>) {
        self.refuse_version(wire, m.id, "2026-07-28");
    }
}
