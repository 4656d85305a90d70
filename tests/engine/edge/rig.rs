//! What the tests stand on: an edge with one running instance, its fake agent, and clients that trust its CA.

#![allow(unreachable_pub)]

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use berth::{
    audit::{Audit, OnFull, Query, Settings},
    authz::{SessionTable, TokenEntry, TokenHash, TokenTable, new_instance_token},
    config::{Limits, Tls},
    door::Router,
    edge::{BoxService, Edge, EdgeConfig, EdgeHandle, Listeners, Workers},
    link::{Link, LinkEvent, LinkReport, Registry},
    model::{AuditRow, BoxId, CallLimit, InstanceId, MemberName, Principal, State, TokenId},
    policy::Access,
    record::MemberRecord,
    secret::BoxKey,
    tls::{Certificates, Names},
};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub const BODY_LIMIT: usize = 1 << 20;

pub type Body = BoxBody<Bytes, Infallible>;

/// The instance's side: dials, and answers by the request's `x-test` field.
pub struct Agent {
    tasks: JoinSet<()>,
    signals: Arc<Signals>,
}

#[derive(Default)]
pub struct Signals {
    /// A request that does not answer by itself has come.
    pub hung: Notify,
    /// The test lets it go on.
    pub go: Notify,
    /// Somebody stopped listening to it.
    pub dropped: Notify,
}

impl std::ops::Deref for Agent {
    type Target = Signals;
    fn deref(&self) -> &Signals {
        &self.signals
    }
}

impl Agent {
    pub async fn dial(dir: &Path) -> Agent {
        let signals = Arc::new(Signals::default());
        let mut tasks = JoinSet::new();
        for _ in 0..12 {
            let (path, signals) = (dir.join("agent.sock"), Arc::clone(&signals));
            tasks.spawn(async move {
                while let Ok(stream) = UnixStream::connect(&path).await {
                    let signals = Arc::clone(&signals);
                    let service = service_fn(move |r| answer(r, Arc::clone(&signals)));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                }
            });
        }
        Agent { tasks, signals }
    }

    pub async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }
}

struct TellDrop(Arc<Signals>);

impl Drop for TellDrop {
    fn drop(&mut self) {
        self.0.dropped.notify_one();
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

async fn answer(mut request: Request<Incoming>, signals: Arc<Signals>) -> Result<Response<Body>, Infallible> {
    let tell = TellDrop(Arc::clone(&signals));
    let kind = request
        .headers()
        .get("x-test")
        .map_or("", |v| v.to_str().unwrap())
        .to_owned();
    Ok(match (request.uri().path(), kind.as_str()) {
        ("/.berth/events", _) => {
            std::mem::forget(tell);
            let status = r#"{"event":"status","protocol":1,"version":"0","state":"ready","spec":null,"reason":null,"services":[],"sessions":0,"processes":0}"#;
            let first = stream::iter([Ok(Frame::data(Bytes::from(format!("{status}\n"))))]);
            let rest = stream::pending();
            Response::new(StreamBody::new(futures_util::StreamExt::chain(first, rest)).boxed())
        }
        ("/.berth/health", _) => {
            std::mem::forget(tell);
            let mut r = Response::new(full(""));
            *r.status_mut() = StatusCode::NO_CONTENT;
            r
        }
        (_, "sse") => {
            let events = stream::unfold((0, tell), |(n, tell)| async move {
                match n {
                    0 => Some((Ok(Frame::data(Bytes::from("data: one\n\n"))), (1, tell))),
                    1 => {
                        tell.0.go.notified().await;
                        Some((Ok(Frame::data(Bytes::from("data: two\n\n"))), (2, tell)))
                    }
                    _ => std::future::pending().await,
                }
            });
            let mut r = Response::new(StreamBody::new(events).boxed());
            r.headers_mut()
                .insert("content-type", "text/event-stream".parse().unwrap());
            r
        }
        (_, "flood") => {
            let flood = stream::unfold(tell, |tell| async move {
                Some((Ok(Frame::data(Bytes::from(vec![0; 65536]))), tell))
            });
            Response::new(StreamBody::new(flood).boxed())
        }
        (_, "ids") => {
            let first = stream::iter([Ok(Frame::data(Bytes::from("id: 1\ndata: one\n\n")))]);
            let events = futures_util::StreamExt::chain(first, stream::pending());
            let mut r = Response::new(StreamBody::new(events).boxed());
            r.headers_mut()
                .insert("content-type", "text/event-stream".parse().unwrap());
            r
        }
        (_, "hang") => {
            signals.hung.notify_one();
            std::future::pending().await
        }
        (_, "wait") => {
            std::mem::forget(tell);
            signals.hung.notify_one();
            signals.go.notified().await;
            Response::new(full("done"))
        }
        (_, "headers") => {
            std::mem::forget(tell);
            let mut r = Response::new(full("{}"));
            *r.status_mut() = StatusCode::UNAUTHORIZED;
            for name in [
                "www-authenticate",
                "location",
                "refresh",
                "report-to",
                "nel",
                "set-cookie",
                "clear-site-data",
                "strict-transport-security",
                "alt-svc",
                "link",
                "service-worker-allowed",
                "access-control-allow-origin",
                "access-control-allow-credentials",
                "content-security-policy",
                "x-anything",
                "content-type",
                "mcp-session-id",
                "cache-control",
                "retry-after",
            ] {
                r.headers_mut().insert(name, "1".parse().unwrap());
            }
            r
        }
        (_, "big") => Response::new(full(vec![b'x'; 3_000_000])),
        (_, "ws") => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                io.write_all(b"welcome").await.unwrap();
                let mut buf = [0; 4096];
                while let Ok(n @ 1..) = io.read(&mut buf).await {
                    if io.write_all(&buf[..n]).await.is_err() {
                        break;
                    }
                }
            });
            let r = Response::builder()
                .status(101)
                .header("connection", "upgrade")
                .header("upgrade", "websocket");
            r.body(full("")).unwrap()
        }
        _ => {
            std::mem::forget(tell);
            echo(request).await
        }
    })
}

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Response::new(full("broken"));
    };
    let headers: serde_json::Map<_, _> = parts
        .headers
        .iter()
        .map(|(n, v)| (n.to_string(), v.to_str().unwrap().into()))
        .collect();
    let seen = serde_json::json!({
        "path": parts.uri.path(),
        "query": parts.uri.query(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body.to_bytes()),
    });
    let r = Response::builder()
        .header("connection", "x-agent-hop")
        .header("x-agent-hop", "1")
        .header("set-cookie", "stolen=1");
    r.body(full(seen.to_string())).unwrap()
}

pub struct Rig {
    pub id: InstanceId,
    pub token: String,
    pub token_id: TokenId,
    pub tokens: TokenTable,
    pub sessions: SessionTable,
    pub link: Arc<Link>,
    pub agent: Agent,
    pub edge: EdgeHandle,
    pub certificates: Certificates,
    pub https: SocketAddr,
    pub http: SocketAddr,
    pub audit: Audit,
    ca: Vec<CertificateDer<'static>>,
    files: Option<PathBuf>,
    events: mpsc::Receiver<LinkReport>,
    _dir: tempfile::TempDir,
}

fn audit(dir: &Path) -> Audit {
    Audit::open(Settings {
        dir: dir.join("audit"),
        spool: dir.join("spool"),
        box_id: BoxId::from_random([0; 8]),
        key: Arc::new(BoxKey::load_or_create(&dir.join("keys")).unwrap()),
        retain: jiff::SignedDuration::from_hours(24),
        most: 1 << 30,
        on_full: OnFull::GoOn,
    })
    .unwrap()
}

impl Rig {
    /// All rows of the audit so far.
    pub async fn rows(&self) -> Vec<AuditRow<'static>> {
        let mut reading = self.audit.read(Query::default(), Arc::new(|_: &AuditRow<'_>| true));
        let mut text = Vec::new();
        while let Some(piece) = reading.recv().await {
            text.extend_from_slice(&piece.unwrap());
        }
        let lines = text.split(|b| *b == b'\n').filter(|l| !l.is_empty());
        lines.map(|l| serde_json::from_slice(l).unwrap()).collect()
    }

    pub async fn start() -> Rig {
        Rig::build(|_| {}, false, None).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Limits)) -> Rig {
        Rig::build(change, false, None).await
    }

    pub async fn with_files() -> Rig {
        Rig::build(|_| {}, true, None).await
    }

    pub async fn with_front_and(front: Arc<dyn BoxService>, change: impl FnOnce(&mut Limits)) -> Rig {
        Rig::build(change, false, Some(front)).await
    }

    pub async fn with_front(front: Arc<dyn BoxService>) -> Rig {
        Rig::build(|_| {}, false, Some(front)).await
    }

    async fn build(change: impl FnOnce(&mut Limits), from_files: bool, front: Option<Arc<dyn BoxService>>) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let files = from_files.then(|| dir.path().to_owned());
        let tls = match &files {
            None => Tls::LocalCa,
            Some(d) => {
                write_certificate(d);
                Tls::Files {
                    cert: d.join("cert.pem"),
                    key: d.join("key.pem"),
                }
            }
        };
        let names = Names {
            domain: Some("localhost".into()),
            loopback: true,
            title: String::new(),
            addresses: Vec::new,
        };
        let certificates = Certificates::open(&tls, dir.path(), names, SystemTime::now()).unwrap();
        let ca = match certificates.ca_pem() {
            Some(pem) => vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()],
            None => vec![CertificateDer::from_pem_file(dir.path().join("ca.pem")).unwrap()],
        };
        let (tx, events) = mpsc::channel(64);
        let registry = Registry::new(dir.path().join("run"), tx);
        let id = InstanceId::from_random([3; 10]);
        let link = registry.open(&id).await.unwrap();
        link.set_state(State::Running, None);
        // Agents are played by this very process.
        registry.prove(&id, std::process::id());
        let agent = Agent::dial(link.socket_dir()).await;
        let (https, http) = (
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let (https_at, http_at) = (https.local_addr().unwrap(), http.local_addr().unwrap());
        let mut limits = Limits {
            body_bytes: BODY_LIMIT,
            // Tests of these set them.
            member_calls: CallLimit::NONE,
            instance_calls: CallLimit::NONE,
            ..Limits::default()
        };
        change(&mut limits);
        let sessions = SessionTable::default();
        let audit = audit(dir.path());
        let config = EdgeConfig {
            router: Arc::new(Router::new(Some("localhost"), https_at.port())),
            limits,
            allowed_origins: vec!["https://inspector.test".into()],
            workers: Workers::Own(2),
            screens: Arc::default(),
            sessions: sessions.clone(),
            access: Arc::new(ArcSwap::from_pointee(ada_owns())),
            audit: Some(audit.clone()),
        };
        let tokens = TokenTable::new();
        let listeners = Listeners {
            https: vec![https],
            http: vec![http],
        };
        let edge = Edge::spawn(
            config,
            listeners,
            registry,
            tokens.clone(),
            Box::new(|_| None),
            front,
            &certificates,
        )
        .unwrap();
        let (token, token_id) = add_token(&tokens, &id, 1, None);
        Rig {
            id,
            token,
            audit,
            token_id,
            tokens,
            sessions,
            link,
            agent,
            edge,
            certificates,
            https: https_at,
            http: http_at,
            ca,
            files,
            events,
            _dir: dir,
        }
    }

    pub fn host(&self) -> String {
        format!("mcp-{}.localhost", self.id)
    }

    pub fn token(&self, instance: &InstanceId, n: u8, expires_at: Option<i64>) -> (String, TokenId) {
        add_token(&self.tokens, instance, n, expires_at)
    }

    pub fn replace_certificate(&self) {
        write_certificate(self.files.as_ref().unwrap());
    }

    pub fn break_certificate(&self) {
        std::fs::write(self.files.as_ref().unwrap().join("cert.pem"), "half a certif").unwrap();
    }

    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&LinkEvent) -> bool) {
        loop {
            let report = tokio::time::timeout(Duration::from_secs(60), self.events.recv())
                .await
                .expect("a report")
                .unwrap();
            if wanted(&report.event) {
                return;
            }
        }
    }

    pub async fn try_tls(&self, name: &str, alpn: &[u8]) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = match &self.files {
            None => self.ca.clone(),
            Some(d) => vec![CertificateDer::from_pem_file(d.join("ca.pem")).unwrap()],
        };
        for c in ca {
            roots.add(c).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let tcp = TcpStream::connect(self.https).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    pub async fn tls(&self, name: &str, alpn: &[u8]) -> TlsStream<TcpStream> {
        self.try_tls(name, alpn).await.unwrap()
    }

    pub async fn client(&self, host: &str, http2: bool) -> Client {
        let io = TokioIo::new(self.tls(host, if http2 { b"h2" } else { b"http/1.1" }).await);
        if http2 {
            let (send, conn) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .unwrap();
            tokio::spawn(conn);
            Client::H2(send)
        } else {
            let (send, conn) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(conn.with_upgrades());
            Client::H1(send)
        }
    }

    pub fn post(&self, host: &str, path: &str, body: &str) -> Request<Body> {
        Request::post(path)
            .header("host", host)
            .header("authorization", format!("Bearer {}", self.token))
            .header("x-test", "echo")
            .body(full(body.to_owned()))
            .unwrap()
    }

    pub fn with(&self, host: &str, kind: &str, token: &str) -> Request<Body> {
        let mut request = self.post(host, "/mcp", "");
        request
            .headers_mut()
            .insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.headers_mut().insert("x-test", kind.parse().unwrap());
        request
    }

    /// A body whose length is not declared.
    pub fn chunked(&self, host: &str, pieces: usize, size: usize) -> Request<Body> {
        let pieces = (0..pieces).map(move |_| Ok(Frame::data(Bytes::from(vec![b'x'; size]))));
        self.post(host, "/mcp", "")
            .map(|_| StreamBody::new(stream::iter(pieces)).boxed())
    }
}

/// A client connection of either version.
pub enum Client {
    H1(hyper::client::conn::http1::SendRequest<Body>),
    H2(hyper::client::conn::http2::SendRequest<Body>),
}

impl Client {
    pub fn clone_h2(&self) -> Client {
        match self {
            Client::H2(s) => Client::H2(s.clone()),
            Client::H1(_) => panic!("HTTP/1.1 has one request at a time"),
        }
    }

    pub async fn send(&mut self, mut request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        let limit = Duration::from_secs(90);
        match self {
            Client::H1(send) => {
                send.ready().await?;
                tokio::time::timeout(limit, send.send_request(request))
                    .await
                    .expect("an answer")
            }
            Client::H2(send) => {
                let host = request.headers_mut().remove("host").unwrap();
                let uri = format!("https://{}{}", host.to_str().unwrap(), request.uri());
                *request.uri_mut() = uri.parse().unwrap();
                send.ready().await?;
                tokio::time::timeout(limit, send.send_request(request))
                    .await
                    .expect("an answer")
            }
        }
    }
}

pub async fn body_of(response: Response<Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

pub async fn json_of(response: Response<Incoming>) -> serde_json::Value {
    serde_json::from_slice(&body_of(response).await).unwrap()
}

pub async fn next_chunk(response: &mut Response<Incoming>) -> Option<String> {
    let frame = tokio::time::timeout(Duration::from_secs(90), response.frame())
        .await
        .expect("a chunk")?;
    Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}

fn add_token(table: &TokenTable, instance: &InstanceId, n: u8, expires_at: Option<i64>) -> (String, TokenId) {
    let secret = new_instance_token([n; 32]);
    let id = TokenId::from_random([n; 12]);
    table.insert(TokenEntry {
        id: id.clone(),
        hash: TokenHash::of(secret.expose()),
        principal: Principal::instance(instance.clone(), id.clone()),
        expires_at,
        last_used: None,
    });
    (secret.expose().to_owned(), id)
}

fn write_certificate(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec![
        "localhost".into(),
        format!("mcp-{}.localhost", InstanceId::from_random([3; 10])),
    ];
    let leaf = CertificateParams::new(names).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    std::fs::write(dir.join("ca.pem"), ca_cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(dir.join("cert.pem"), leaf.pem()).unwrap();
}

/// The facts of a box whose one member, ada, is its owner.
fn ada_owns() -> Access {
    let ada = MemberRecord::owner(MemberName::parse("ada").unwrap(), jiff::Timestamp::UNIX_EPOCH);
    let members = Arc::new([(ada.name.clone(), ada)].into_iter().collect());
    Access {
        members,
        ..Access::default()
    }
}
