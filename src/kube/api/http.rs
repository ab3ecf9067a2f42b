//! HTTP/1.1 over TLS, as much of it as one API server needs: one server, requests with a small body, answers of a bounded size, and
//! a stream of lines for a watch. Nothing is followed elsewhere, nothing is stored, no proxy is asked.
//!
//! It stands on tokio, rustls and httparse (the parser of hyper) because each of them is in the program already or is small: a whole
//! HTTP client would have cost more than this program has room for on a Pi's card. A connection is used again only when its last
//! answer was read to the end, so a future may be dropped at any moment.
//!
//! Sources: RFC 9112 (message format, chunked coding).

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::access::Access;

/// For the connection with its handshake, which a busy Pi computes in about a second.
const CONNECT: Duration = Duration::from_secs(10);

/// For an answer. An API server on a slow SD card was seen to take 9 s for one write (k3s 2644); a stopped one takes for ever.
const ANSWER: Duration = Duration::from_secs(30);

/// The lines before an answer's body. An API server sends some 500 bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How many header fields an answer may have; httparse wants a fixed room.
const MAX_FIELDS: usize = 64;

/// How many connections wait for their next request: the keeper's and that of one drain.
const MAX_IDLE: usize = 2;

/// How much is read from the wire at a time.
const READ_BYTES: usize = 8 * 1024;

/// Why there is no whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum HttpError {
    /// Nobody is there.
    #[error("cannot connect to the API server: {0}")]
    Connect(String),
    /// It is not the one that it should be, or does not take us for who we are.
    #[error("no trust between us and the API server: {0}")]
    Tls(String),
    /// It went away, or was too slow.
    #[error("the API server's answer is cut off: {0}")]
    Broken(String),
    /// It is longer than anything that is asked for here.
    #[error("the API server's answer is longer than {0} bytes")]
    TooLong(usize),
    /// It is no HTTP.
    #[error("the API server's answer is no HTTP: {0}")]
    Malformed(&'static str),
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) method: &'static str,
    pub(super) path: &'a str,
    /// The kind of the body; none without one.
    pub(super) kind: Option<&'static str>,
    pub(super) body: &'a [u8],
}

impl<'a> Request<'a> {
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: "GET", path, kind: None, body: &[] }
    }
}

/// An answer without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Of the field `Retry-After`, where it is a number of seconds.
    pub(super) retry_after: Option<Duration>,
    length: Length,
    reuse: Reuse,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// After so many bytes.
    Bytes(u64),
    /// With a chunk of none.
    Chunked,
    /// With the connection.
    Connection,
}

/// Whether the connection may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Yes,
    No,
}

struct Wire {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Wire {
    /// Reads some more into the buffer; 0 at the end. Nothing is lost when it is dropped.
    async fn fill(&mut self) -> Result<usize, HttpError> {
        self.buffer.reserve(READ_BYTES);
        self.stream.read_buf(&mut self.buffer).await.map_err(|error| HttpError::Broken(error.to_string()))
    }

    fn consume(&mut self, count: usize) {
        self.buffer.drain(..count.min(self.buffer.len()));
    }
}

/// A client of one API server.
pub(super) struct Client {
    access: Access,
    agent: String,
    idle: Mutex<Vec<Wire>>,
}

impl Client {
    pub(super) fn new(access: Access) -> Self {
        Self { access, agent: format!("beehive/{}", env!("CARGO_PKG_VERSION")), idle: Mutex::new(Vec::new()) }
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Asks, and reads an answer of `most` bytes at most.
    pub(super) async fn ask(&self, request: Request<'_>, most: usize) -> Result<(Head, Vec<u8>), HttpError> {
        let answer = async {
            let (head, mut body) = self.begin(request).await?;
            let mut whole = Vec::new();
            while body.read(&mut whole).await? == More::Yes {
                if whole.len() > most {
                    return Err(HttpError::TooLong(most));
                }
            }
            if let (Reuse::Yes, Some(wire)) = (head.reuse, body.finished()) {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                if idle.len() < MAX_IDLE {
                    idle.push(wire);
                }
            }
            Ok((head, whole))
        };
        timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(slow()))
    }

    /// Asks for something whose answer has no end, on a connection of its own.
    pub(super) async fn stream(&self, path: &str) -> Result<(Head, Body), HttpError> {
        timeout(ANSWER, self.begin(Request::get(path))).await.unwrap_or_else(|_| Err(slow()))
    }

    /// Sends a request and reads the answer's head.
    async fn begin(&self, request: Request<'_>) -> Result<(Head, Body), HttpError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(wire) = idle {
            // the server may have closed it meanwhile; every request here may be sent twice
            if let Ok(answer) = self.exchange(wire, request).await {
                return Ok(answer);
            }
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        let wire = timeout(CONNECT, self.connect())
            .await
            .unwrap_or_else(|_| Err(HttpError::Connect(format!("no answer within {} s", CONNECT.as_secs()))))?;
        self.exchange(wire, request).await
    }

    async fn connect(&self) -> Result<Wire, HttpError> {
        let Access { host, port, name, tls, .. } = &self.access;
        let stream =
            TcpStream::connect((host.as_str(), *port)).await.map_err(|error| HttpError::Connect(error.to_string()))?;
        // small requests whose answer is waited for
        let _ = stream.set_nodelay(true);
        let stream = TlsConnector::from(std::sync::Arc::clone(tls)).connect(name.clone(), stream).await;
        let stream =
            stream.map_err(|error| match error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                true => HttpError::Tls(error.to_string()),
                false => HttpError::Connect(error.to_string()),
            })?;
        Ok(Wire { stream, buffer: Vec::new() })
    }

    async fn exchange(&self, mut wire: Wire, request: Request<'_>) -> Result<(Head, Body), HttpError> {
        let Access { host, port, token, .. } = &self.access;
        let broken = |error: std::io::Error| HttpError::Broken(error.to_string());
        let mut head = Zeroizing::new(String::new());
        let Request { method, path, kind, body } = request;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        // writing to a string does not fail
        let _ = write!(
            head,
            "{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: {}\r\nAccept: application/json\r\n",
            self.agent
        );
        if let Some(token) = token {
            let _ = write!(head, "Authorization: Bearer {}\r\n", token.as_str());
        }
        if let Some(kind) = kind {
            let _ = write!(head, "Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        }
        head.push_str("\r\n");
        wire.stream.write_all(head.as_bytes()).await.map_err(broken)?;
        wire.stream.write_all(body).await.map_err(broken)?;
        wire.stream.flush().await.map_err(broken)?;
        loop {
            if let Some((head, length)) = parse(&wire.buffer)? {
                wire.consume(length);
                // 100 to 199 come before the answer
                if head.status >= 200 {
                    let state = match head.length {
                        Length::Bytes(0) => State::Done,
                        Length::Bytes(left) => State::Bytes(left),
                        Length::Chunked => State::Size,
                        Length::Connection => State::Connection,
                    };
                    return Ok((head, Body { wire, state }));
                }
                continue;
            }
            if wire.buffer.len() > MAX_HEAD_BYTES {
                return Err(HttpError::Malformed("its head does not end"));
            }
            if wire.fill().await? == 0 {
                return Err(HttpError::Broken("the connection was closed before it".to_owned()));
            }
        }
    }
}

fn slow() -> HttpError {
    HttpError::Broken(format!("not all of it came within {} s", ANSWER.as_secs()))
}

/// The head of an answer and how many bytes it has; none while it is not whole.
fn parse(buffer: &[u8]) -> Result<Option<(Head, usize)>, HttpError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    let length = match answer.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(HttpError::Malformed("its head cannot be read")),
    };
    let status = answer.code.ok_or(HttpError::Malformed("it has no status"))?;
    let field = |name: &str| {
        let field = answer.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        field.and_then(|field| std::str::from_utf8(field.value).ok()).map(str::trim)
    };
    let chunked = field("transfer-encoding").map(|coding| coding.eq_ignore_ascii_case("chunked"));
    let body = match (status, chunked, field("content-length")) {
        (100..=199 | 204 | 304, _, _) => Length::Bytes(0),
        (_, Some(true), _) => Length::Chunked,
        (_, Some(false), _) => return Err(HttpError::Malformed("its body is coded in a way that was not asked for")),
        (_, None, Some(length)) => {
            Length::Bytes(length.parse().map_err(|_| HttpError::Malformed("its length is no number"))?)
        }
        (_, None, None) => Length::Connection,
    };
    let closes = answer.version != Some(1)
        || field("connection").is_some_and(|said| said.eq_ignore_ascii_case("close"))
        || body == Length::Connection;
    let retry_after = field("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let reuse = if closes { Reuse::No } else { Reuse::Yes };
    Ok(Some((Head { status, retry_after, length: body, reuse }, length)))
}

/// Whether there may be more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    Yes,
    No,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes are left of a body of a known length.
    Bytes(u64),
    /// The line with a chunk's size comes.
    Size,
    /// So many bytes are left of a chunk.
    Chunk(u64),
    /// The end of the line after a chunk comes.
    ChunkEnd,
    /// The lines after the last chunk come.
    Trailer,
    /// It ends with the connection.
    Connection,
    Done,
}

/// The body of an answer, as it comes.
pub(super) struct Body {
    wire: Wire,
    state: State,
}

impl Body {
    /// Appends what comes next. A future that is dropped has lost nothing.
    pub(super) async fn read(&mut self, into: &mut Vec<u8>) -> Result<More, HttpError> {
        loop {
            match self.advance(into)? {
                Step::Some => return Ok(More::Yes),
                Step::Done => return Ok(More::No),
                Step::Wants => match (self.wire.fill().await?, self.state) {
                    (0, State::Connection) => self.state = State::Done,
                    (0, _) => return Err(HttpError::Broken("the connection was closed in the middle".to_owned())),
                    (_, _) => {}
                },
            }
        }
    }

    fn advance(&mut self, into: &mut Vec<u8>) -> Result<Step, HttpError> {
        loop {
            let buffer = &self.wire.buffer;
            match self.state {
                State::Done => return Ok(Step::Done),
                State::Bytes(_) | State::Chunk(_) | State::Connection if buffer.is_empty() => return Ok(Step::Wants),
                State::Bytes(left) | State::Chunk(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    into.extend_from_slice(buffer.get(..count).unwrap_or_default());
                    self.wire.consume(count);
                    let left = left - count as u64;
                    self.state = match (self.state, left) {
                        (State::Chunk(_), 0) => State::ChunkEnd,
                        (State::Chunk(_), left) => State::Chunk(left),
                        (_, 0) => State::Done,
                        (_, left) => State::Bytes(left),
                    };
                    return Ok(Step::Some);
                }
                State::Connection => {
                    into.append(&mut self.wire.buffer);
                    return Ok(Step::Some);
                }
                State::Size => match httparse::parse_chunk_size(buffer) {
                    Ok(httparse::Status::Complete((length, size))) => {
                        self.wire.consume(length);
                        self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
                    }
                    Ok(httparse::Status::Partial) if buffer.len() < MAX_HEAD_BYTES => return Ok(Step::Wants),
                    Ok(httparse::Status::Partial) | Err(_) => {
                        return Err(HttpError::Malformed("a chunk has no size"));
                    }
                },
                State::ChunkEnd => match buffer.get(..2) {
                    Some(b"\r\n") => {
                        self.wire.consume(2);
                        self.state = State::Size;
                    }
                    Some(_) => return Err(HttpError::Malformed("a chunk is longer than it says")),
                    None => return Ok(Step::Wants),
                },
                State::Trailer => match buffer.iter().position(|byte| *byte == b'\n') {
                    Some(end) => {
                        let blank = buffer.iter().take(end).all(|byte| *byte == b'\r');
                        self.wire.consume(end + 1);
                        if blank {
                            self.state = State::Done;
                        }
                    }
                    None if buffer.len() < MAX_HEAD_BYTES => return Ok(Step::Wants),
                    None => return Err(HttpError::Malformed("the end of its chunks does not end")),
                },
            }
        }
    }

    /// The connection, if the whole body was read and nothing came after it.
    fn finished(self) -> Option<Wire> {
        (self.state == State::Done && self.wire.buffer.is_empty()).then_some(self.wire)
    }
}

enum Step {
    /// Something was appended.
    Some,
    /// The wire has to be read.
    Wants,
    Done,
}

/// The lines of a body without an end.
pub(super) struct Lines {
    body: Body,
    held: Vec<u8>,
    /// How much of `held` was searched.
    searched: usize,
    most: usize,
}

impl Lines {
    /// Of `most` bytes each at most.
    pub(super) fn new(body: Body, most: usize) -> Self {
        Self { body, held: Vec::new(), searched: 0, most }
    }

    /// The next line without its end; none at the end of the body. A future that is dropped has lost nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, HttpError> {
        loop {
            let fresh = self.held.get(self.searched..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|byte| *byte == b'\n') {
                let rest = self.held.split_off(self.searched + end + 1);
                let mut line = std::mem::replace(&mut self.held, rest);
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.held.len();
            if self.held.len() > self.most {
                return Err(HttpError::TooLong(self.most));
            }
            if self.body.read(&mut self.held).await? == More::No {
                return Ok(None);
            }
        }
    }
}
