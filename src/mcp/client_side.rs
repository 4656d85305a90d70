//! The client's half of MCP over HTTP: what a server speaks, and a connection to it that stands where the bridge has a
//! stdio server's process.
//!
//! | module | holds |
//! | --- | --- |
//! | [`answer`] | what a server answers to a request of ours, read as far as it tells what the server is |
//! | [`probe`] | which eras and transports a server speaks |
//! | [`connection`] | messages to and from a server, over HTTP exchanges |
//! | [`exchange`] | one of these exchanges: what it is for, and how far it is |
//! | [`request`] | requests as the eras and transports want them |
//!
//! Sans-IO as the bridge is: callers carry out requests and feed heads, pieces and ends of their answers. Never reaches
//! anything but the server: whatever host an answer names, its path alone is taken.

mod answer;
mod connection;
#[cfg(test)]
mod connection_tests;
mod exchange;
mod probe;
mod request;

pub use answer::{Answer, Hearing, ID, is_stream};
pub use connection::{Connection, Effect, ExchangeId};
pub use probe::{Next, Probe, Speaks, Transport, Wants, wants};
pub use request::{Outgoing, Target};
