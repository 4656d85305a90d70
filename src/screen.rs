//! F1: what screens decide: which of a viewer's messages may pass ([`rfb`]), who holds the
//! controls ([`room`]), and what a screenshot asks for ([`shot`]). Pure: bytes and `now` in, bytes and verdicts out.
//! No I/O; whatever comes from a viewer or a container is bounded here.

pub mod rfb;
pub mod room;
pub mod shot;
