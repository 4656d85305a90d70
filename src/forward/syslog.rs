//! Syslog over TLS (RFC 5425). The protocol has no acknowledgements: a row counts as arrived once the receiver's kernel must
//! have taken it, since the connection would have failed otherwise, and when the receiver has closed the connection after we
//! did. All others are sent again over the next connection.

use std::{
    collections::VecDeque,
    fmt, io,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    end::{End, ForwardError, PATIENCE, Stop},
    message,
};
use crate::{
    config, resolve,
    tls::{self, TlsError},
};

/// One address gets so long to accept and shake hands.
const CONNECT: Duration = Duration::from_secs(10);
/// The kernel gives a connection up on which nothing is acknowledged for so long (tcp(7), `TCP_USER_TIMEOUT`).
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// What was sent so long ago over a connection that is still good has been acknowledged.
const ARRIVED: Duration = Duration::from_secs(25);
const TICK: Duration = Duration::from_secs(1);
/// A connection that lasts so long was not refused after the handshake, as a receiver may that wants another certificate.
const WELL: Duration = Duration::from_secs(2);
/// After our end of the connection, the receiver gets so long to close its own.
const BYE: Duration = Duration::from_secs(2);

pub(super) struct Receiver {
    to: config::Syslog,
    host: String,
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to.host.contains(':') {
            true => write!(f, "syslog [{}]:{}", self.to.host, self.to.port),
            false => write!(f, "syslog {}:{}", self.to.host, self.to.port),
        }
    }
}

impl Receiver {
    pub(super) fn new(to: config::Syslog, host: String) -> Self {
        Self { to, host }
    }

    /// Sends rows as they are written, over one connection. Returns when it is to stop and nothing is left.
    pub(super) async fn forward(&self, end: &Arc<End>, mut stop: Stop) -> Result<(), ForwardError> {
        let (mut from, mut to) = tokio::io::split(self.connect().await?);
        let began = Instant::now();
        let after = end.cursor.at();
        end.sent.store(after, Relaxed);
        let mut reading = end.audit.follow(after);
        let mut under_way: VecDeque<(Instant, u64)> = VecDeque::new();
        let mut tick = tokio::time::interval(TICK);
        let mut leaving = None;
        let mut heard = [0; 256];
        while leaving.is_none_or(|newest| end.sent.load(Relaxed) < newest) {
            tokio::select! {
                n = from.read(&mut heard) => {
                    // A receiver says nothing, but for that it goes.
                    closed(n)?;
                }
                piece = reading.recv() => {
                    let lines = piece.ok_or(ForwardError::Ended)??;
                    let mut messages = Vec::with_capacity(lines.len() * 2);
                    for line in lines.split(|b| *b == b'\n') {
                        if let Some(seq) = message::append(line, &self.host, &mut messages) {
                            end.goes_on_with(seq);
                        }
                    }
                    let sent = async {
                        to.write_all(&messages).await?;
                        to.flush().await
                    };
                    match timeout(PATIENCE, sent).await {
                        Err(_) => return Err(ForwardError::Slow),
                        Ok(Err(e)) => return Err(why(&e)),
                        Ok(Ok(())) => under_way.push_back((Instant::now(), end.sent.load(Relaxed))),
                    }
                }
                _ = tick.tick() => {
                    if began.elapsed() >= WELL {
                        end.goes_well();
                    }
                    while let Some((_, seq)) = under_way.pop_front_if(|(at, _)| at.elapsed() >= ARRIVED) {
                        end.has(seq, false).await;
                    }
                }
                _ = stop.changed(), if leaving.is_none() => {
                    leaving = Some(end.audit.status().head.seq);
                }
            }
        }
        let bye = async {
            to.shutdown().await?;
            while from.read(&mut heard).await? > 0 {}
            io::Result::Ok(())
        };
        match timeout(BYE, bye).await {
            Ok(Ok(())) => {}
            // Many close without a word of TLS.
            Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {}
            _ => return Ok(()),
        }
        end.has(end.sent.load(Relaxed), true).await;
        Ok(())
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, ForwardError> {
        let config::Syslog { host, port, .. } = &self.to;
        let connector = TlsConnector::from(Arc::new(self.tls()?));
        let name = ServerName::try_from(host.clone()).map_err(|e| ForwardError::Connect(e.to_string()))?;
        let mut trouble = ForwardError::Connect("it has no address".to_owned());
        for ip in resolve::addresses(host).await? {
            let shaken = timeout(CONNECT, async {
                let tcp = TcpStream::connect((ip, *port)).await?;
                tcp.set_nodelay(true)?;
                let unacknowledged = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
                setsockopt(&tcp, sockopt::TcpUserTimeout, &unacknowledged)?;
                setsockopt(&tcp, sockopt::KeepAlive, &true)?;
                connector.connect(name.clone(), tcp).await
            });
            trouble = match shaken.await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) if e.kind() == io::ErrorKind::InvalidData => ForwardError::Identity(e.to_string()),
                Ok(Err(e)) => ForwardError::Connect(e.to_string()),
                Err(_) => ForwardError::Connect(format!("no answer from {ip} within {} s", CONNECT.as_secs())),
            };
        }
        Err(trouble)
    }

    /// Files are read for each connection: certificates are renewed.
    fn tls(&self) -> Result<ClientConfig, ForwardError> {
        let mut roots = RootCertStore::empty();
        if let Some(bundle) = self.to.ca_file.clone().or_else(tls::machine_bundle) {
            tls::add_bundle(&mut roots, &bundle)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let rustls = |what: &'static str| move |source| TlsError::Rustls { what, source };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(rustls("a receiver of syslog"))?
            .with_root_certificates(roots);
        let Some((cert, key)) = &self.to.client else {
            return Ok(builder.with_no_client_auth());
        };
        let bad = |path: &Path| {
            let path = path.to_owned();
            move |e: rustls_pki_types::pem::Error| TlsError::Content {
                what: "certificate or private key",
                path,
                why: e.to_string(),
            }
        };
        let chain = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(bad(cert))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(bad(key))?;
        let with = builder.with_client_auth_cert(chain, key);
        Ok(with.map_err(rustls("a receiver of syslog with audit.syslog.client_cert"))?)
    }
}

fn closed(heard: io::Result<usize>) -> Result<(), ForwardError> {
    match heard {
        Ok(0) => Err(ForwardError::Closed(String::new())),
        Ok(_) => Ok(()),
        Err(e) => Err(why(&e)),
    }
}

fn why(e: &io::Error) -> ForwardError {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => ForwardError::Closed(String::new()),
        // An alert of TLS says that it wants a certificate of this box, or another one.
        _ => ForwardError::Closed(format!(": {e}")),
    }
}
