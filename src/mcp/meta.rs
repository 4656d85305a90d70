//! What stands in `_meta` and in the first messages of either era (MCP 2026-07-28, basic, "`_meta`"; 2025-11-25,
//! basic/lifecycle).
//!
//! Reads and writes text only; what is asked for and absent is `None`, never a default.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::message::{self, Message};
use super::{codes, version};

/// `_meta` key: the protocol version of a request.
pub const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// `_meta` key: the subscription that a message belongs to.
pub const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// `_meta` key: what the client can do.
pub const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// `_meta` key: who the client is.
pub const CLIENT: &str = "io.modelcontextprotocol/clientInfo";
/// `_meta` key: the least log level that the client wants to see.
pub const LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// `_meta` key: who the server is.
pub const SERVER: &str = "io.modelcontextprotocol/serverInfo";

message::raw_object! {
    /// The members of `_meta` that routing knows, raw.
    pub struct Meta {
        /// The protocol version of a request.
        "io.modelcontextprotocol/protocolVersion" => pub version,
        /// What the client can do.
        "io.modelcontextprotocol/clientCapabilities" => pub capabilities,
        /// Who the client is.
        "io.modelcontextprotocol/clientInfo" => pub client,
        /// The least log level that the client wants to see.
        "io.modelcontextprotocol/logLevel" => pub level,
        /// The subscription that a message belongs to.
        "io.modelcontextprotocol/subscriptionId" => pub subscription,
        /// Who the server is.
        "io.modelcontextprotocol/serverInfo" => pub server,
        /// The token under which the client wants progress.
        "progressToken" => pub token,
    }
}

/// The members of `_meta` that only the modern era knows in a request.
pub fn is_modern_key(key: &str) -> bool {
    matches!(key, VERSION | CAPABILITIES | CLIENT | LEVEL)
}

/// `_meta` of a request's `params`.
pub fn of(params: Option<&str>) -> Option<Meta<'_>> {
    message::object(message::params(params)?.meta?.get())
}

/// Whether a request names a protocol version in its `_meta`.
pub fn names_version(params: Option<&str>) -> bool {
    params.is_some_and(|p| p.contains(VERSION)) && of(params).is_some_and(|m| m.version.is_some())
}

/// The raw progress token of a request.
pub fn progress_token<'a>(m: &Message<'a>) -> Option<&'a str> {
    let params = m.params.filter(|p| p.contains("progressToken"))?;
    of(Some(params))?.token.map(RawValue::get).filter(|t| message::is_id(t))
}

/// The raw subscription id in the `_meta` of `params` or of a result.
pub fn subscription(object: &str) -> Option<&str> {
    if !object.contains(SUBSCRIPTION) {
        return None;
    }
    of(Some(object))?.subscription.map(RawValue::get)
}

/// The params of our own `server/discover`.
pub fn discover_params() -> String {
    format!("{{\"_meta\":{}}}", request_meta("{}", Some(client_info()), None))
}

/// `_meta` of a modern request; all arguments are raw.
pub fn request_meta(capabilities: &str, client: Option<&str>, level: Option<&str>) -> String {
    let mut out = "{".to_owned();
    message::put_member(&mut out, VERSION, &message::quote(version::MODERN));
    message::put_member(&mut out, CAPABILITIES, capabilities);
    for (key, value) in [(CLIENT, client), (LEVEL, level)] {
        if let Some(value) = value {
            message::put_member(&mut out, key, value);
        }
    }
    out.push('}');
    out
}

/// The params of our own `initialize`; `capabilities` is raw.
pub fn initialize_params(capabilities: &str) -> String {
    format!(
        "{{\"protocolVersion\":\"{}\",\"capabilities\":{capabilities},\"clientInfo\":{}}}",
        version::NEWEST_LEGACY,
        client_info()
    )
}

pub(super) fn client_info() -> &'static str {
    concat!("{\"name\":\"berth\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}")
}

/// `supportedVersions` of a discovery result.
pub fn supported_versions(result: &str) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Discover {
        supported_versions: Vec<String>,
    }
    message::object::<Discover>(result).map(|d| d.supported_versions)
}

/// `protocolVersion` of the result of `initialize`; `None` unless it is a legacy version or one that we do not know.
pub fn protocol_version(result: &str) -> Option<String> {
    message::string(message::params(Some(result))?.version?.get())
}

#[derive(Deserialize)]
struct ErrorBody {
    code: i64,
    #[serde(default)]
    message: String,
}

/// `message` of an error object, for people.
pub fn error_message(error: Option<&str>) -> String {
    error
        .and_then(message::object::<ErrorBody>)
        .map_or_else(|| "no reason given".to_owned(), |e| e.message)
}

/// Whether an error tells that a server does not know the method, or its era: not just that it did not like the params.
pub fn tells_era(error: Option<&str>) -> bool {
    let code = error.and_then(message::object::<ErrorBody>).map(|e| e.code);
    matches!(
        code,
        Some(codes::METHOD_NOT_FOUND | codes::UNSUPPORTED_PROTOCOL_VERSION)
    )
}

/// The HTTP status for an answer: 200, but in the modern era 404 for an unknown method and 400 for the
/// specification's own errors.
pub fn status_of(error: Option<&str>, modern: bool) -> u16 {
    match error
        .filter(|_| modern)
        .and_then(message::object::<ErrorBody>)
        .map(|e| e.code)
    {
        Some(codes::METHOD_NOT_FOUND) => 404,
        Some(codes::HEADER_MISMATCH | codes::MISSING_CLIENT_CAPABILITY | codes::UNSUPPORTED_PROTOCOL_VERSION) => 400,
        _ => 200,
    }
}
