//! HTTP/1.1 as the client side of an agent's connection speaks it (RFC 9112): sans-IO, bytes in, values out. The peer
//! is a container and is not trusted: heads, header counts, chunk lines and trailers are bounded, and whatever is
//! ambiguous about where a message ends is an error.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

/// A response head at most, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// Header lines of a response at most.
pub const MAX_HEADERS: usize = 100;
/// Interim responses (1xx) before a final one at most.
pub const MAX_INTERIM: u32 = 16;
/// Reads that brought a line end and did not make the head whole, at most: one for each line, and some more.
const MAX_TRIES: u32 = 2 * MAX_HEADERS as u32;
/// A chunk-size line with its extensions at most, and the trailer section, in bytes.
const MAX_LINE: usize = 4096;

/// What the peer did that HTTP/1.1 does not allow, or that we do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the response head is not HTTP/1.1")]
    Head,
    #[error("the response head is larger than {MAX_HEAD} bytes or has more than {MAX_HEADERS} lines")]
    HeadTooLarge,
    #[error("more than {MAX_INTERIM} interim responses came before the final one")]
    Interim,
    #[error("the response's length is ambiguous")]
    Length,
    #[error("the chunked body is malformed")]
    Chunk,
    #[error("the response switches protocols unasked")]
    Upgrade,
    #[error("the response ended early")]
    Early,
}

/// How a message's end is found (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// Until the connection closes.
    Close,
}

/// A parsed response head.
#[derive(Debug)]
pub struct ReplyHead {
    pub status: StatusCode,
    /// Without hop-by-hop fields.
    pub headers: HeaderMap,
    pub framing: Framing,
    /// Whether the connection may serve another request after the body.
    pub reusable: bool,
}

/// Whether a field concerns one hop only (RFC 9110 section 7.6.1) or is consumed by framing.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::TE
        || *name == header::TRAILER
        || *name == header::UPGRADE
        || *name == header::PROXY_AUTHENTICATE
        || *name == header::PROXY_AUTHORIZATION
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

/// Finds the head of one response in what is read bit by bit, with bounded work however it is cut up.
#[derive(Debug, Default)]
pub struct Heads {
    interim: u32,
    tries: u32,
    /// Bytes at the front of the buffer that were looked at and are no whole head.
    seen: usize,
}

impl Heads {
    /// Takes a final response head off the front of `buf`, once it is whole; interim responses (1xx but 101) are
    /// dropped. 101 is passed on only when `upgrade` was asked for.
    ///
    /// # Errors
    /// [`WireError`]; the connection is of no further use.
    pub fn take(&mut self, buf: &mut BytesMut, method: &Method, upgrade: bool) -> Result<Option<ReplyHead>, WireError> {
        // A head ends with a line: without a new one there is nothing new to find.
        if memchr::memchr(b'\n', &buf[self.seen.min(buf.len())..]).is_none() {
            self.seen = buf.len();
            return if buf.len() > MAX_HEAD {
                Err(WireError::HeadTooLarge)
            } else {
                Ok(None)
            };
        }
        let found = take_head(buf, method, upgrade, &mut self.interim)?;
        if found.is_none() {
            self.seen = buf.len();
            self.tries += 1;
            if self.tries > MAX_TRIES {
                return Err(WireError::HeadTooLarge);
            }
        }
        Ok(found)
    }
}

fn take_head(
    buf: &mut BytesMut,
    method: &Method,
    upgrade: bool,
    interim: &mut u32,
) -> Result<Option<ReplyHead>, WireError> {
    loop {
        let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut lines);
        let len = match parsed.parse(buf) {
            Ok(httparse::Status::Complete(n)) if n <= MAX_HEAD => n,
            Ok(httparse::Status::Partial) if buf.len() <= MAX_HEAD => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(WireError::HeadTooLarge),
            Err(_) => return Err(WireError::Head),
        };
        let code = parsed.code.ok_or(WireError::Head)?;
        let status = StatusCode::from_u16(code).map_err(|_| WireError::Head)?;
        if status.is_informational() && code != 101 {
            buf.advance(len);
            *interim += 1;
            if *interim > MAX_INTERIM {
                return Err(WireError::Interim);
            }
            continue;
        }
        if code == 101 && !upgrade {
            return Err(WireError::Upgrade);
        }
        let head = read_head(status, parsed.version == Some(1), parsed.headers, method)?;
        buf.advance(len);
        return Ok(Some(head));
    }
}

fn read_head(
    status: StatusCode,
    http11: bool,
    lines: &[httparse::Header<'_>],
    method: &Method,
) -> Result<ReplyHead, WireError> {
    let mut headers = HeaderMap::with_capacity(lines.len());
    let (mut length, mut chunked, mut close) = (None, false, !http11);
    let mut named: Vec<HeaderName> = Vec::new();
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| WireError::Head)?;
        if name == header::CONTENT_LENGTH {
            let n = parse_length(line.value).ok_or(WireError::Length)?;
            if length.replace(n).is_some_and(|before| before != n) {
                return Err(WireError::Length);
            }
        } else if name == header::TRANSFER_ENCODING {
            if chunked || !line.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(WireError::Length);
            }
            chunked = true;
        } else if name == header::CONNECTION {
            for option in line.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                if option.eq_ignore_ascii_case(b"close") {
                    close = true;
                } else if !option.eq_ignore_ascii_case(b"keep-alive") && !option.is_empty() {
                    named.push(HeaderName::from_bytes(option).map_err(|_| WireError::Head)?);
                }
            }
        } else if !is_hop_by_hop(&name) || (status == StatusCode::SWITCHING_PROTOCOLS && name == header::UPGRADE) {
            let value = HeaderValue::from_bytes(line.value).map_err(|_| WireError::Head)?;
            headers.append(name, value);
        }
    }
    for name in named {
        if name != header::UPGRADE {
            headers.remove(name);
        }
    }
    if chunked && (length.is_some() || !http11) {
        return Err(WireError::Length);
    }
    let bodiless = *method == Method::HEAD
        || matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS
        );
    let framing = match (bodiless, chunked, length) {
        (true, ..) => Framing::Length(0),
        (_, true, _) => Framing::Chunked,
        (_, _, Some(n)) => Framing::Length(n),
        _ => Framing::Close,
    };
    if *method == Method::HEAD
        && let Some(n) = length
    {
        headers.insert(header::CONTENT_LENGTH, n.into());
    }
    let reusable = !close && framing != Framing::Close && status != StatusCode::SWITCHING_PROTOCOLS;
    Ok(ReplyHead {
        status,
        headers,
        framing,
        reusable,
    })
}

/// RFC 9110 section 8.6: digits only.
fn parse_length(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

/// How a request's body goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outgoing {
    /// No body and no length: `GET` and its like.
    None,
    Length(u64),
    Chunked,
}

/// Writes a request head. `target` must be a valid origin-form; hop-by-hop fields, `Host`, `Content-Length` and those
/// that `skip` names are left out of `headers`. With `upgrade`, `Connection: upgrade` and that protocol are added.
pub fn put_head(
    buf: &mut BytesMut,
    method: &Method,
    target: &str,
    headers: &HeaderMap,
    skip: impl Fn(&HeaderName) -> bool,
    body: Outgoing,
    upgrade: Option<&HeaderValue>,
) {
    buf.put_slice(method.as_str().as_bytes());
    buf.put_u8(b' ');
    buf.put_slice(target.as_bytes());
    buf.put_slice(b" HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in headers {
        if *name == header::HOST || *name == header::CONTENT_LENGTH || is_hop_by_hop(name) || skip(name) {
            continue;
        }
        buf.reserve(name.as_str().len() + value.len() + 4);
        buf.put_slice(name.as_str().as_bytes());
        buf.put_slice(b": ");
        buf.put_slice(value.as_bytes());
        buf.put_slice(b"\r\n");
    }
    if let Some(protocol) = upgrade {
        buf.put_slice(b"connection: upgrade\r\nupgrade: ");
        buf.put_slice(protocol.as_bytes());
        buf.put_slice(b"\r\n");
    }
    match body {
        Outgoing::None => {}
        Outgoing::Length(n) => {
            buf.put_slice(b"content-length: ");
            buf.put_slice(itoa::Buffer::new().format(n).as_bytes());
            buf.put_slice(b"\r\n");
        }
        Outgoing::Chunked => buf.put_slice(b"transfer-encoding: chunked\r\n"),
    }
    buf.put_slice(b"\r\n");
}

/// Writes one chunk (RFC 9112 section 7.1); an empty one would end the body, so it is left out.
pub fn put_chunk(buf: &mut BytesMut, data: &[u8]) {
    if !data.is_empty() {
        buf.put_slice(format!("{:x}\r\n", data.len()).as_bytes());
        buf.put_slice(data);
        buf.put_slice(b"\r\n");
    }
}

/// The end of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What [`Decoder::decode`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    Data(Bytes),
    /// More bytes are needed.
    Need,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    Size,
    Data(u64),
    /// The line end after a chunk's data.
    DataEnd,
    /// Trailer lines, with the bytes seen of them.
    Trailers(usize),
    Done,
}

/// Finds a body in a stream of bytes.
#[derive(Debug)]
pub struct Decoder {
    framing: Framing,
    chunk: ChunkState,
}

impl Decoder {
    /// A decoder for one body.
    pub fn new(framing: Framing) -> Decoder {
        Decoder {
            framing,
            chunk: ChunkState::Size,
        }
    }

    /// What is left, where that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(n) => Some(n),
            _ => None,
        }
    }

    /// Whether the end of the connection is the end of the body.
    pub fn ends_with_connection(&self) -> bool {
        self.framing == Framing::Close
    }

    /// Takes the next piece of the body off the front of `buf`.
    ///
    /// # Errors
    /// [`WireError::Chunk`] when a chunked body is malformed.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, WireError> {
        match self.framing {
            Framing::Length(0) => Ok(Decoded::End),
            _ if buf.is_empty() && self.chunk != ChunkState::Done => Ok(Decoded::Need),
            Framing::Length(left) => {
                let take = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.framing = Framing::Length(left - take as u64);
                Ok(Decoded::Data(buf.split_to(take).freeze()))
            }
            Framing::Close => Ok(Decoded::Data(buf.split().freeze())),
            Framing::Chunked => self.decode_chunked(buf),
        }
    }

    fn decode_chunked(&mut self, buf: &mut BytesMut) -> Result<Decoded, WireError> {
        loop {
            match self.chunk {
                ChunkState::Size => {
                    let Some(line) = take_line(buf)? else {
                        return Ok(Decoded::Need);
                    };
                    self.chunk = match chunk_size(&line)? {
                        0 => ChunkState::Trailers(0),
                        n => ChunkState::Data(n),
                    };
                }
                ChunkState::Data(_) if buf.is_empty() => return Ok(Decoded::Need),
                ChunkState::Data(left) => {
                    let take = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - take as u64;
                    self.chunk = if left == 0 {
                        ChunkState::DataEnd
                    } else {
                        ChunkState::Data(left)
                    };
                    return Ok(Decoded::Data(buf.split_to(take).freeze()));
                }
                ChunkState::DataEnd => {
                    if buf.len() < 2 {
                        return Ok(Decoded::Need);
                    }
                    if &buf[..2] != b"\r\n" {
                        return Err(WireError::Chunk);
                    }
                    buf.advance(2);
                    self.chunk = ChunkState::Size;
                }
                ChunkState::Trailers(seen) => {
                    let Some(line) = take_line(buf)? else {
                        return Ok(Decoded::Need);
                    };
                    let seen = seen + line.len();
                    if seen > MAX_LINE {
                        return Err(WireError::Chunk);
                    }
                    self.chunk = if line.is_empty() {
                        ChunkState::Done
                    } else {
                        ChunkState::Trailers(seen + 2)
                    };
                }
                ChunkState::Done => return Ok(Decoded::End),
            }
        }
    }
}

/// Takes a line without its CRLF.
fn take_line(buf: &mut BytesMut) -> Result<Option<BytesMut>, WireError> {
    match memchr::memchr(b'\n', &buf[..buf.len().min(MAX_LINE)]) {
        Some(end) if end > 0 && buf[end - 1] == b'\r' => {
            let line = buf.split_to(end - 1);
            buf.advance(2);
            Ok(Some(line))
        }
        Some(_) => Err(WireError::Chunk),
        None if buf.len() >= MAX_LINE => Err(WireError::Chunk),
        None => Ok(None),
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, WireError> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let rest = line[digits..].trim_ascii_start();
    if digits == 0 || digits > 15 || !(rest.is_empty() || rest[0] == b';') {
        return Err(WireError::Chunk);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| WireError::Chunk)?;
    u64::from_str_radix(text, 16).map_err(|_| WireError::Chunk)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
