//! JSON-RPC error codes that Berth itself answers with, in one place.
//!
//! -32700 to -32600 are JSON-RPC 2.0's, -32020 to -32022 the specification's (2026-07-28, basic, "Error Codes"). Ours
//! stand outside JSON-RPC's reserved range (-32768 to -32000), as that page asks: -31000 to -31009.

/// JSON-RPC 2.0: the body is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// JSON-RPC 2.0: the body is not a request.
pub const INVALID_REQUEST: i64 = -32600;
/// JSON-RPC 2.0: no such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// JSON-RPC 2.0: the parameters do not fit.
pub const INVALID_PARAMS: i64 = -32602;
/// JSON-RPC 2.0: something broke on our side.
pub const INTERNAL_ERROR: i64 = -32603;
/// MCP 2026-07-28: a header contradicts the body, or a required header is missing.
pub const HEADER_MISMATCH: i64 = -32020;
/// MCP 2026-07-28: the request needs a client capability that was not declared.
pub const MISSING_CLIENT_CAPABILITY: i64 = -32021;
/// MCP 2026-07-28: the protocol version is not supported.
pub const UNSUPPORTED_PROTOCOL_VERSION: i64 = -32022;
/// The server's process ended before it answered.
pub const SERVER_GONE: i64 = -31000;
/// The session id is unknown or has ended (HTTP 404: the client starts anew).
pub const SESSION_NOT_FOUND: i64 = -31001;
/// The server took longer than the call may take.
pub const CALL_TIMEOUT: i64 = -31002;
/// Full: sessions, connections or queue (HTTP 503 with `Retry-After`).
pub const BUSY: i64 = -31003;
/// The instance is not ready or stopped (HTTP 503 with `Retry-After`), or has failed (503 without).
pub const NOT_READY: i64 = -31004;
/// No such instance, host or path (HTTP 404).
pub const NOT_FOUND: i64 = -31005;
/// Missing, wrong or revoked token (HTTP 401), or a token of another instance (HTTP 403).
pub const UNAUTHORIZED: i64 = -31006;
/// Over a limit: header, body, rate (HTTP 4xx).
pub const LIMIT: i64 = -31007;
/// The server answered with what is no answer: no JSON, or no message of JSON-RPC.
pub const BAD_ANSWER: i64 = -31008;
/// The client has cancelled the call, which it waited for by an exchange that needs an answer.
pub const CANCELLED: i64 = -31009;
