//! F1: MCP as bytes: JSON-RPC framing, eras, sessions, merging. Sans-IO: takes bytes and `now`, returns decisions.

pub mod codes;
