//! HTTP/1.1 over TLS to a remote server: names are looked up here, addresses judged, connections kept for the next call.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::address::{Verdict, judge};
use crate::{config, resolve, tls};

/// One address gets so long to accept and shake hands.
const PATIENCE: Duration = Duration::from_secs(10);
/// An idle connection is kept so long.
const IDLE: Duration = Duration::from_secs(60);
const IDLE_PER_HOST: usize = 32;
/// Why a remote server is not reached. Never holds a secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    #[error("{0}; set ca_file in [remote] of berth.toml to a PEM file")]
    Bundle(String),
    #[error("{0} is not the address of a server")]
    Address(String),
    #[error("cannot find {host}: {why}")]
    Name { host: String, why: String },
    #[error(
        "{host} has the address {ip}, which is not of the open internet; if it is to be reached, name its network in private_networks in [remote] of berth.toml"
    )]
    Private { host: String, ip: std::net::IpAddr },
    #[error("{host} is reached over the open internet: that takes https")]
    Clear { host: String },
    #[error("cannot connect to {host}: {why}")]
    Connect { host: String, why: String },
    #[error("{host} does not prove who it is: {why}; a CA of your own goes into ca_file in [remote] of berth.toml")]
    Tls { host: String, why: String },
    #[error("the server broke off: {0}")]
    Broken(String),
}

impl RemoteError {
    /// Whether asking again soon is of no use.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            RemoteError::Address(_) | RemoteError::Private { .. } | RemoteError::Clear { .. } | RemoteError::Tls { .. }
        )
    }
}

pub(super) type Body = BoxBody<Bytes, hyper::Error>;

/// Sends requests. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client(legacy::Client<Dial, Body>);

impl Client {
    pub(super) fn new(config: &config::Remote) -> Result<Client, RemoteError> {
        let mut roots = RootCertStore::empty();
        for bundle in tls::machine_bundle().iter().chain(&config.ca_file) {
            tls::add_bundle(&mut roots, bundle).map_err(|e| RemoteError::Bundle(e.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| RemoteError::Broken(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let dial = Dial {
            tls: Arc::new(tls),
            named: config.private_networks.clone().into(),
        };
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(dial);
        Ok(Client(client))
    }

    /// Sends a request; its URI is absolute.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, RemoteError> {
        self.0.request(request).await.map_err(|e| {
            let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&e);
            let mut words = Vec::new();
            while let Some(c) = cause {
                if let Some(known) = c.downcast_ref::<RemoteError>() {
                    return known.clone();
                }
                words.push(c.to_string());
                cause = c.source();
            }
            RemoteError::Broken(words.join(": "))
        })
    }
}

/// Makes connections.
#[derive(Clone)]
struct Dial {
    tls: Arc<ClientConfig>,
    named: Arc<[config::Cidr]>,
}

impl tower_service::Service<Uri> for Dial {
    type Response = TokioIo<Stream>;
    type Error = RemoteError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, RemoteError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RemoteError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move { dial.connect(&uri).await.map(TokioIo::new) })
    }
}

impl Dial {
    async fn connect(&self, uri: &Uri) -> Result<Stream, RemoteError> {
        let address = || RemoteError::Address(uri.to_string());
        let host = uri.host().ok_or_else(address)?.to_ascii_lowercase();
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let found = resolve::addresses(&host).await.map_err(|e| RemoteError::Name {
            host: host.clone(),
            why: e.to_string(),
        })?;
        let mut trouble = None;
        for ip in found {
            // The address that is judged is the one that is connected to.
            match judge(ip, &self.named) {
                Verdict::Refused => {
                    let host = host.clone();
                    trouble.get_or_insert(RemoteError::Private { host, ip });
                    continue;
                }
                Verdict::Public if !tls => return Err(RemoteError::Clear { host }),
                Verdict::Public | Verdict::Named => {}
            }
            let why = match timeout(PATIENCE, TcpStream::connect((ip, port))).await {
                Ok(Ok(tcp)) => {
                    let _ = tcp.set_nodelay(true);
                    return self.shake(tcp, host, tls).await;
                }
                Ok(Err(e)) => e.to_string(),
                Err(_) => format!("no answer from {ip} within {} s", PATIENCE.as_secs()),
            };
            let host = host.clone();
            trouble = Some(RemoteError::Connect { host, why });
        }
        Err(trouble.unwrap_or_else(address))
    }

    async fn shake(&self, tcp: TcpStream, host: String, tls: bool) -> Result<Stream, RemoteError> {
        if !tls {
            return Ok(Stream(Box::new(tcp)));
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(|_| RemoteError::Address(host.clone()))?;
        let shaken = timeout(PATIENCE, TlsConnector::from(self.tls.clone()).connect(name, tcp)).await;
        match shaken {
            Err(_) => Err(RemoteError::Connect {
                host,
                why: "it accepts connections and does not answer".to_owned(),
            }),
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::InvalidData => Err(RemoteError::Tls {
                host,
                why: e.to_string(),
            }),
            Ok(Err(e)) => Err(RemoteError::Connect {
                host,
                why: e.to_string(),
            }),
            Ok(Ok(stream)) => Ok(Stream(Box::new(stream))),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, with TLS or without.
pub(super) struct Stream(Box<dyn Duplex>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
