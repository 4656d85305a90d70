//! F1: MCP as bytes: JSON-RPC framing, eras, sessions, merging. Sans-IO: takes bytes and `now`, returns decisions.
//!
//! | module | holds |
//! | --- | --- |
//! | [`codes`] | the error codes that Berth itself answers with |
//! | [`frame`] | bytes of a pipe → lines |
//! | [`message`] | a line → which kind of JSON-RPC message, and where its parts stand; splicing ids |
//! | [`version`] | protocol versions and their eras |
//! | [`head`] | what the Streamable HTTP headers say, and whether they agree with the body |
//! | [`sse`] | events and their ids |
//! | [`mirror`] | the arguments of tools that stand in headers as well |
//! | [`meta`] | what stands in `_meta`; results and requests carried from one era to the other |
//! | [`client_side`] | the client's half: what a server that speaks HTTP speaks, and a connection to it |
//! | [`bridge`] | the state machine between HTTP exchanges and server processes, or connections to servers |

pub mod bridge;
pub mod client_side;
pub mod codes;
pub mod frame;
pub mod glance;
pub mod head;
pub mod message;
pub mod meta;
pub mod mirror;
pub mod sse;
pub mod version;
