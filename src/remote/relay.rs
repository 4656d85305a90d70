//! A relay: the agent of a remote server. It dials the instance's socket and serves there what an agent serves
//! (`model::order`), passing `/mcp` on to the server. Clients that have no protocol era in common with it, and all clients
//! of one that has the transport of 2024-11-05 alone, are translated (`translator`).
//!
//! ```text
//! waiting --start order--> starting --first MCP answer--> ready
//!                              |                            (health is asked for by the reconciler)
//!                              +--> failed: the relay ends, as an agent would
//! ```

use std::{
    convert::Infallible,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixStream,
    sync::{Notify, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use super::address::{with_path, with_query};
use super::client::{Body, Client, RemoteError};
use crate::{
    budget::Budget,
    mcp::{
        bridge::{Config, SSE},
        client_side::{Outgoing, Target as Place, Transport},
        codes, head,
    },
    model::{
        AGENT_PROTOCOL, AgentEvent, AgentState, AgentStatus, Forget, Forgotten, McpTransport, Processes, REMOTE_SECRET,
        RemoteAuth, Secret, StartOrder,
    },
    translator::{self, Sent, Server, Translator, Unanswered},
};

/// Idle connections to the supervisor at least; connections at most.
const FEW: usize = 2;
const MANY: usize = 256;
const REDIAL: Duration = Duration::from_millis(50);
/// A listener hears something at least so often.
const BEAT: Duration = Duration::from_secs(5);
/// The first answer is asked for again after this, and at most this.
const TRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How long the supervisor has to read why the relay failed.
const LAST_WORD: Duration = Duration::from_millis(300);
const MAX_ORDER: usize = 1 << 20;
/// What messages that are translated may take of the supervisor's memory, for one server.
const BUDGET: usize = 64 << 20;
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// A running relay; it ends with this value.
pub(super) struct Relay {
    task: JoinHandle<()>,
    shared: Arc<Shared>,
}

/// The server that is relayed to.
#[derive(Clone)]
struct Target {
    far: Arc<Far>,
    /// How long one probe may take.
    probe: Duration,
    /// For clients that cannot be passed on.
    translator: Arc<Translator>,
}

/// Where the server is, and how Berth proves itself there.
struct Far {
    client: Client,
    uri: Uri,
    auth: Vec<(HeaderName, HeaderValue)>,
}

/// The server as the translator reaches it.
impl Server for Far {
    fn send(&self, out: Outgoing) -> Sent {
        let mut request = Request::new(Full::new(out.body).map_err(|never| match never {}).boxed());
        *request.method_mut() = out.method;
        *request.uri_mut() = match &out.target {
            Place::Endpoint => self.uri.clone(),
            Place::Path(path) => with_path(&self.uri, path),
        };
        *request.headers_mut() = out.headers;
        for (name, value) in &self.auth {
            request.headers_mut().insert(name, value.clone());
        }
        let client = self.client.clone();
        Box::pin(async move {
            match client.send(request).await {
                Ok(answer) if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                    Err(Unanswered(refused(answer.status())))
                }
                Ok(answer) => Ok(answer),
                Err(e) => Err(Unanswered(e.to_string())),
            }
        })
    }

    fn path(&self) -> String {
        self.uri.path().to_owned()
    }

    fn log(&self, text: &str) {
        // A server may repeat in an error what it was sent.
        let shown = self.auth.iter().filter_map(|(_, value)| value.to_str().ok());
        let shown = shown.fold(text.to_owned(), |text, value| {
            let bare = value.strip_prefix("Bearer ").unwrap_or(value);
            if bare.is_empty() {
                text
            } else {
                text.replace(bare, "***")
            }
        });
        log::info!(host = self.uri.host().unwrap_or_default(); "remote server: {shown}");
    }
}

struct Shared {
    client: Client,
    target: Mutex<Option<Target>>,
    status: watch::Sender<AgentStatus>,
    open: AtomicUsize,
    busy: AtomicUsize,
    short: Notify,
}

impl Relay {
    pub(super) fn start(socket_dir: PathBuf, client: Client, ended: Arc<Notify>) -> Relay {
        let status = AgentStatus {
            protocol: AGENT_PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: AgentState::Waiting,
            spec: None,
            reason: None,
            services: Vec::new(),
            sessions: 0,
            processes: 0,
            oom_kills: 0,
            revision: 0,
        };
        let shared = Arc::new(Shared {
            client,
            target: Mutex::default(),
            status: watch::Sender::new(status),
            open: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            short: Notify::new(),
        });
        let own = shared.clone();
        let task = tokio::spawn(async move {
            own.run(&socket_dir).await;
            ended.notify_one();
        });
        Relay { task, shared }
    }

    pub(super) fn runs(&self) -> bool {
        !self.task.is_finished()
    }

    /// Why it ended by itself.
    pub(super) fn why(&self) -> Option<String> {
        self.shared.status.borrow().reason.clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// By way of the open folder: a socket's path may be too long for its address.
async fn dial(dir: &Path) -> std::io::Result<UnixStream> {
    let folder = std::fs::File::open(dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/agent.sock", folder.as_raw_fd())).await
}

impl Shared {
    /// Keeps connections to the supervisor until it fails.
    async fn run(self: Arc<Self>, dir: &Path) {
        // All of them end with this task.
        let mut connections = JoinSet::new();
        let mut starting = JoinSet::new();
        let mut status = self.status.subscribe();
        loop {
            while connections.try_join_next().is_some() {}
            if self.status.borrow().state == AgentState::Failed {
                sleep(LAST_WORD).await;
                return;
            }
            let (open, busy) = (self.open.load(SeqCst), self.busy.load(SeqCst));
            if open < MANY && open.saturating_sub(busy) < FEW.max(busy) {
                match dial(dir).await {
                    Ok(stream) => drop(connections.spawn(self.clone().serve(stream))),
                    Err(_) => sleep(REDIAL).await,
                }
                continue;
            }
            tokio::select! {
                () = self.short.notified() => {}
                changed = status.changed() => {
                    while starting.try_join_next().is_some() {}
                    // Begun here, so that it ends with this task.
                    if changed.is_ok() && status.borrow_and_update().state == AgentState::Starting && starting.is_empty() {
                        starting.spawn(self.clone().until_ready());
                    }
                }
                () = sleep(BEAT) => {}
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: UnixStream) {
        self.open.fetch_add(1, SeqCst);
        let _open = Counted(self.clone(), |s| &s.open);
        let shared = self.clone();
        let service = service_fn(move |request| {
            let shared = shared.clone();
            async move {
                shared.busy.fetch_add(1, SeqCst);
                shared.short.notify_one();
                let busy = Counted(shared.clone(), |s| &s.busy);
                let answer = shared.answer(request).await;
                // Busy until the last byte is sent.
                Ok::<_, Infallible>(answer.map(|body| Held { body, _busy: busy }.boxed_unsync()))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let _ = connection.await;
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (_, "/mcp" | SSE) => self.pass(request).await,
            (&Method::POST, "/.berth/start") => self.take(request).await,
            (&Method::POST, "/.berth/forget") => self.forget(request).await,
            (&Method::GET, "/.berth/events") => self.events(),
            (&Method::GET, "/.berth/status") => {
                let text = serde_json::to_vec(&*self.status.borrow()).unwrap_or_default();
                plain(StatusCode::OK, "application/json", text)
            }
            (&Method::GET, "/.berth/health") => match self.probe().await {
                Ok(()) => plain(StatusCode::NO_CONTENT, "text/plain", Vec::new()),
                Err((why, _)) => plain(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", why),
            },
            _ => plain(StatusCode::NOT_FOUND, "text/plain", "no such path"),
        }
    }

    /// Ends the sessions that principals have in the translator. Those that were passed through are the server's own.
    async fn forget(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let read = Limited::new(request.into_body(), MAX_ORDER).collect().await.ok();
        let read = read.and_then(|body| serde_json::from_slice::<Forget>(&body.to_bytes()).ok());
        let Some(Forget { principals }) = read else {
            return plain(StatusCode::BAD_REQUEST, "text/plain", "no list of principals");
        };
        let translator = self.target().map(|t| t.translator);
        let one = |principal: &String| translator.as_ref().map_or(0, |t| t.forget(principal, Forget::WHY));
        let sessions = principals.iter().map(one).sum();
        let text = serde_json::to_vec(&Forgotten { sessions }).unwrap_or_default();
        plain(StatusCode::OK, "application/json", text)
    }

    async fn take(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let bad = |why: &str| plain(StatusCode::BAD_REQUEST, "text/plain; charset=utf-8", why.to_owned());
        let Ok(body) = Limited::new(request.into_body(), MAX_ORDER).collect().await else {
            return bad("the start order cannot be read");
        };
        // The parser's own text could quote a secret.
        let Ok(order) = serde_json::from_slice::<StartOrder>(&body.to_bytes()) else {
            return bad("the start order is not valid");
        };
        let known = (self.status.borrow().spec.clone(), self.status.borrow().revision);
        match known {
            (Some(spec), revision) if spec == order.spec && revision == order.revision => {
                return plain(StatusCode::NO_CONTENT, "text/plain", "");
            }
            (Some(spec), _) if spec != order.spec => {
                return plain(StatusCode::CONFLICT, "text/plain", "another spec is relayed already");
            }
            // The same with another secret, or the first.
            _ => {}
        }
        match target(&order, self.client.clone()) {
            Ok(target) => *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(target),
            Err(why) => return bad(&why),
        }
        self.status.send_modify(|s| {
            s.spec = Some(order.spec.clone());
            s.revision = order.revision;
            s.state = AgentState::Starting;
        });
        plain(StatusCode::NO_CONTENT, "text/plain", "")
    }

    /// Asks until the server answers; a trouble that waiting does not mend ends it at once.
    async fn until_ready(self: Arc<Self>) {
        let end = Instant::now() + Duration::from_secs(60);
        let mut wait = TRY.0;
        loop {
            match self.probe().await {
                Ok(()) => {
                    self.status
                        .send_modify(|s| (s.state, s.reason) = (AgentState::Ready, None));
                    return;
                }
                Err((why, last)) if last || Instant::now() >= end => {
                    self.status
                        .send_modify(|s| (s.state, s.reason) = (AgentState::Failed, Some(why)));
                    return;
                }
                Err((why, _)) => {
                    self.status.send_modify(|s| s.reason = Some(why));
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(TRY.1);
        }
    }

    fn events(&self) -> Response<Body> {
        let line = |event: &AgentEvent| {
            let mut text = serde_json::to_vec(event).unwrap_or_default();
            text.push(b'\n');
            Ok::<_, hyper::Error>(Frame::data(Bytes::from(text)))
        };
        let mut status = self.status.subscribe();
        status.mark_changed();
        let events = futures_util::stream::unfold(status, move |mut status| async move {
            let event = match timeout(BEAT, status.changed()).await {
                Ok(Ok(())) => AgentEvent::Status(status.borrow_and_update().clone()),
                Ok(Err(_)) => return None,
                Err(_) => AgentEvent::Alive,
            };
            Some((line(&event), status))
        });
        let mut answer = Response::new(BodyExt::boxed(StreamBody::new(events)));
        let kind = HeaderValue::from_static("application/x-ndjson");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        answer
    }

    fn target(&self) -> Option<Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes one request on, with Berth's own proof in place of the client's.
    async fn pass(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(Target { far, translator, .. }) = self.target() else {
            return trouble(
                StatusCode::SERVICE_UNAVAILABLE,
                codes::NOT_READY,
                "the server is not ready",
            );
        };
        if translator.takes(&request).await {
            let answer = translator.serve(request).await;
            // Its streams are its own: they go on for as long as the translator is there.
            return answer.map(|body| body.map_err(|never| match never {}).boxed());
        }
        if request.uri().path() == SSE {
            return trouble(
                StatusCode::NOT_FOUND,
                codes::NOT_FOUND,
                "this server speaks HTTP itself: its endpoint is /mcp",
            );
        }
        let begins = translator::begins(request.method(), request.headers());
        let (mut parts, body) = request.into_parts();
        strip(&mut parts.headers);
        let query = parts.uri.query().map(str::to_owned);
        let mut outgoing = Request::new(body.boxed());
        *outgoing.method_mut() = parts.method;
        *outgoing.uri_mut() = with_query(&far.uri, query.as_deref());
        *outgoing.headers_mut() = parts.headers;
        for (name, value) in &far.auth {
            outgoing.headers_mut().insert(name, value.clone());
        }
        let sent = self.client.send(outgoing).await;
        match &sent {
            Ok(answer) => translator.passed(begins, answer.status()),
            Err(_) => translator.away(),
        }
        match sent {
            Ok(answer) if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                // Not the client's token: what it could do about that one is of no use.
                trouble(StatusCode::BAD_GATEWAY, codes::SERVER_GONE, &refused(answer.status()))
            }
            Ok(answer) => {
                let (mut parts, body) = answer.into_parts();
                strip(&mut parts.headers);
                parts.headers.remove(header::WWW_AUTHENTICATE);
                Response::from_parts(parts, body.boxed())
            }
            Err(e) => trouble(StatusCode::BAD_GATEWAY, codes::SERVER_GONE, &e.to_string()),
        }
    }

    /// One MCP round trip; why not, and whether asking again is of no use.
    async fn probe(&self) -> Result<(), (String, bool)> {
        let Some(target) = self.target() else {
            return Err(("no start order yet".to_owned(), false));
        };
        let asked = timeout(target.probe, self.ask(&target)).await;
        asked.unwrap_or_else(|_| Err((format!("no answer within {} s", target.probe.as_secs()), false)))
    }

    async fn ask(&self, target: &Target) -> Result<(), (String, bool)> {
        let far = &*target.far;
        let hello = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "berth", "version": env!("CARGO_PKG_VERSION")}}});
        let soon = |e: RemoteError| (e.to_string(), e.is_final());
        let answer = self
            .client
            .send(request(far, Method::POST, hello.to_string(), None))
            .await
            .map_err(soon)?;
        let (status, session) = (answer.status(), answer.headers().get(SESSION).cloned());
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err((refused(status), true));
        }
        // A server that knows only the stateless protocol says no in JSON-RPC: it is there.
        let speaks = translator::hear(answer).await.answer.is_some();
        if let Some(session) = session {
            // One that does not end sessions on request lets them expire.
            let _ = self
                .client
                .send(request(far, Method::DELETE, String::new(), Some(session)))
                .await;
        }
        if speaks && !status.is_server_error() {
            return Ok(());
        }
        if status.is_client_error() && target.translator.speaks().await.legacy == Some(Transport::HttpSse) {
            return Ok(());
        }
        let known = matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) || status.is_redirection();
        Err((
            format!("the server answered {status}, and not as an MCP server does"),
            known,
        ))
    }
}

fn refused(status: StatusCode) -> String {
    format!("the server refuses the secret that it was given ({status}); run it again with another")
}

fn request(target: &Far, method: Method, body: String, session: Option<HeaderValue>) -> Request<Body> {
    let full = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed();
    let mut request = Request::new(full);
    *request.method_mut() = method;
    *request.uri_mut() = target.uri.clone();
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let both = HeaderValue::from_static("application/json, text/event-stream");
    headers.insert(header::ACCEPT, both);
    if let Some(session) = session {
        headers.insert(SESSION, session);
    }
    for (name, value) in &target.auth {
        headers.insert(name, value.clone());
    }
    request
}

fn target(order: &StartOrder, client: Client) -> Result<Target, String> {
    let McpTransport::Remote { url, auth } = &order.mcp.transport else {
        return Err("the start order is not for a remote server".to_owned());
    };
    let uri: Uri = url.parse().map_err(|_| "the address is not valid".to_owned())?;
    let secret = || {
        order
            .env
            .get(REMOTE_SECRET)
            .ok_or_else(|| "the secret is missing".to_owned())
    };
    let value = |text: String| {
        let mut value = HeaderValue::try_from(text).map_err(|_| "the secret cannot stand in a header".to_owned())?;
        value.set_sensitive(true);
        Ok::<_, String>(value)
    };
    let field = |name: &String, text: &str| {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| "the header is not valid".to_owned())?;
        Ok::<_, String>((name, value(text.to_owned())?))
    };
    let auth = match auth {
        RemoteAuth::None => Vec::new(),
        RemoteAuth::Bearer => vec![(header::AUTHORIZATION, value(format!("Bearer {}", secret()?.expose()))?)],
        RemoteAuth::Header { name } => vec![field(name, Secret::expose(secret()?))?],
        RemoteAuth::Headers { names } => {
            let lines = Secret::expose(secret()?).lines();
            names
                .iter()
                .zip(lines)
                .map(|(name, line)| field(name, line))
                .collect::<Result<_, _>>()?
        }
    };
    let far = Arc::new(Far { client, uri, auth });
    // Translated, each session has a connection of its own.
    let config = Config::new(&order.mcp, Processes::Session);
    let translator = Translator::new(far.clone(), config, Budget::of_bytes(BUDGET));
    Ok(Target {
        far,
        probe: Duration::from_millis(order.health.timeout_ms),
        translator: Arc::new(translator),
    })
}

/// Fields of one hop, and what a client could prove itself with.
fn strip(headers: &mut HeaderMap) {
    for name in [
        header::CONNECTION,
        header::HOST,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::COOKIE,
        HeaderName::from_static(head::PRINCIPAL),
        HeaderName::from_static(head::PATH),
        HeaderName::from_static("keep-alive"),
    ] {
        headers.remove(name);
    }
}

fn plain(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(text.into()).map_err(|never| match never {}).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn trouble(status: StatusCode, code: i64, text: &str) -> Response<Body> {
    let body = serde_json::json!({"jsonrpc": "2.0", "id": null, "error": {"code": code, "message": text}});
    plain(status, "application/json", body.to_string())
}

/// Counts down when it is dropped.
struct Counted(Arc<Shared>, fn(&Shared) -> &AtomicUsize);

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, SeqCst);
        self.0.short.notify_one();
    }
}

/// A body that holds its count.
struct Held {
    body: Body,
    _busy: Counted,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
