//! The way to a box over the network: its address, whom to trust there, and TLS. Only the very first look at a box that
//! is not known yet trusts anybody, and nothing secret is sent on it.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::resolve;

/// One address gets so long to accept and shake hands.
const PATIENCE: Duration = Duration::from_secs(10);

/// `https://HOST[:PORT]`, as a person types it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// An IPv6 literal keeps its brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// As `Host` and the rest of an address name it.
    pub(super) fn authority(&self) -> String {
        match self.port {
            443 => self.host.clone(),
            port => format!("{}:{port}", self.host),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Address> {
        let bad = || anyhow!("{text:?} is not a box's address: write https://HOST or https://HOST:PORT");
        let whole = if text.contains("://") {
            text.to_owned()
        } else {
            format!("https://{text}")
        };
        let uri: http::Uri = whole.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        let plain = uri.path_and_query().is_none_or(|p| p.as_str() == "/") && !authority.as_str().contains('@');
        if uri.scheme_str() != Some("https") || !plain {
            return Err(bad());
        }
        Ok(Address {
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(443),
        })
    }
}

/// Whose certificate is good.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// Anybody's: for asking a stranger who they are.
    Anyone,
    /// One of these CAs', for this name.
    Pinned { ca: String, name: String },
}

/// Connects and shakes hands.
pub(super) async fn connect(address: &Address, trust: &Trust) -> Result<TlsStream<TcpStream>> {
    let (config, name) = match trust {
        Trust::Anyone => (client(None)?, address.host.clone()),
        Trust::Pinned { ca, name } => (client(Some(ca))?, name.clone()),
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|n| n.strip_suffix(']'))
        .unwrap_or(&name)
        .to_owned();
    let name = ServerName::try_from(bare).with_context(|| format!("{name} is not a host name"))?;
    let tcp = dial(address).await?;
    let _ = tcp.set_nodelay(true);
    let shaken = timeout(PATIENCE, TlsConnector::from(config).connect(name, tcp)).await;
    match shaken {
        Err(_) => bail!("{address} accepts connections but does not answer"),
        Ok(Err(e)) if matches!(trust, Trust::Pinned { .. }) && e.kind() == std::io::ErrorKind::InvalidData => {
            Err(anyhow!(e).context(format!(
                "{address} does not show the certificate of the box that this context was made for: somebody may be in \
                 between, or the box was set up anew (then log in again)"
            )))
        }
        Ok(Err(e)) if is_cut(e.kind()) => {
            bail!("{address} closed the connection; a box that starts for the first time takes some minutes")
        }
        Ok(Err(e)) => Err(anyhow!(e).context(format!("{address} does not speak TLS as a box does"))),
        Ok(Ok(stream)) => Ok(stream),
    }
}

/// Whether a connection was cut by whoever is at its other end, in one of the ways that a kernel tells it.
pub(super) fn is_cut(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind;
    matches!(
        kind,
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
    )
}

async fn dial(address: &Address) -> Result<TcpStream> {
    let mut trouble = None;
    for ip in resolve::addresses(&address.host).await? {
        match timeout(PATIENCE, TcpStream::connect((ip, address.port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => trouble = Some(e.to_string()),
            Err(_) => trouble = Some(format!("no answer from {ip} within {PATIENCE:?}")),
        }
    }
    bail!(
        "cannot reach {address} ({}): is the box on, and is this the address on its screen? The first boot takes some minutes",
        trouble.unwrap_or_default()
    )
}

fn client(ca: Option<&str>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let mut config = match ca {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
                // A bundle may hold some that no library takes.
                let _ = roots.add(certificate.map_err(|e| anyhow!("the CA certificate is not PEM: {e:?}"))?);
            }
            if roots.is_empty() {
                bail!("there is no CA certificate to trust");
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Takes any certificate; whoever shows it must still hold its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, want) in [
            ("https://192.0.2.7", "https://192.0.2.7"),
            ("https://Box.Example.org/", "https://box.example.org"),
            ("https://box:8443", "https://box:8443"),
            ("https://[2001:db8::7]:443", "https://[2001:db8::7]"),
            ("192.0.2.7:8443", "https://192.0.2.7:8443"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), want);
        }
        for bad in [
            "",
            "http://box",
            "https://",
            "https://box/path",
            "https://u@box",
            "https://box?x",
            "a b",
        ] {
            let said = bad.parse::<Address>().unwrap_err().to_string();
            assert!(said.contains("https://HOST"), "{bad}: {said}");
        }
    }
}
