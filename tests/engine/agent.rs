//! What only the whole way shows of the agent: a real client, the edge, and the agent in its container.

use crate::support;

use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use support::{Answer, Appliance, INITIALIZE, Instance};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls;

const PATIENCE: Duration = Duration::from_secs(90);

/// A connection that asked for WebSocket: the head of the answer has been read.
struct Socket {
    tls: TlsStream<TcpStream>,
    status: u16,
    head: String,
}

async fn open(a: &Appliance, i: &Instance, token: &str) -> Socket {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls_pki_types::CertificateDer::from_pem_file(a.ca()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", a.https)).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap();
    let request = format!(
        "GET /mcp/{}?part=1 HTTP/1.1\r\nHost: localhost:{}\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n",
        i.id,
        a.https,
        BASE64_STANDARD.encode([7; 16]),
    );
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, tls.read_u8()).await.expect("a head in time").unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Socket { tls, status, head }
}

impl Socket {
    /// Sends a frame; its mask is of zeros.
    async fn send(&mut self, kind: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | kind];
        match payload.len() {
            n @ 0..126 => frame.push(0x80 | n as u8),
            n => {
                frame.push(0x80 | 127);
                frame.extend((n as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.tls.write_all(&frame).await.unwrap();
    }

    async fn receive(&mut self) -> (u8, Vec<u8>) {
        let frame = async {
            let kind = self.tls.read_u8().await.unwrap() & 15;
            let n = match self.tls.read_u8().await.unwrap() {
                126 => u64::from(self.tls.read_u16().await.unwrap()),
                127 => self.tls.read_u64().await.unwrap(),
                n => u64::from(n),
            };
            let mut payload = vec![0; n as usize];
            self.tls.read_exact(&mut payload).await.unwrap();
            (kind, payload)
        };
        timeout(PATIENCE, frame).await.expect("a frame in time")
    }

    /// Ends the connection as the protocol wants.
    async fn close(mut self) {
        self.send(8, b"").await;
        assert_eq!(self.receive().await.0, 8);
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, self.tls.read_to_end(&mut rest))
            .await
            .expect("an end");
        assert_eq!(rest, b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_speaks_web_socket_through_the_edge() {
    let a = Appliance::start();
    let i = a.run("fixture-websocket", &[]);
    assert_eq!(open(&a, &i, "brt_i_wrong").await.status, 401);
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let socket = open(&a, &i, &i.token).await;
        assert_eq!(socket.status, 101, "{}", socket.head);
        assert!(socket.head.contains("upgrade: websocket") && socket.head.contains("sec-websocket-accept"));
        sockets.push(socket);
    }
    // All of them live at once, each with its own bytes, both ways at the same time.
    for (n, socket) in sockets.iter_mut().enumerate() {
        assert_eq!(socket.receive().await, (1, b"welcome to /mcp?part=1".to_vec()));
        socket.send(1, format!("I am {n}").as_bytes()).await;
        socket.send(2, &vec![n as u8; 200_000]).await;
    }
    for (n, socket) in sockets.iter_mut().enumerate() {
        assert_eq!(socket.receive().await, (1, format!("I am {n}").into_bytes()));
        assert_eq!(socket.receive().await, (2, vec![n as u8; 200_000]));
    }
    // Requests go on beside them.
    assert_eq!(a.post(&i.url, &i.token, INITIALIZE, &[]).status, 200);
    for socket in sockets {
        socket.close().await;
    }
    // More than there may be at once, one after the other: none is held for longer than it lives.
    for _ in 0..140 {
        let mut socket = open(&a, &i, &i.token).await;
        assert_eq!(socket.status, 101, "{}", socket.head);
        socket.receive().await;
    }
}

/// Messages that are as long as they may be, many at once, to an instance that has not the memory for them.
#[test]
fn a_flood_of_long_messages_is_refused_not_fatal() {
    let a = Appliance::start();
    let i = a.run("fixture-shared", &["--size", "small"]);
    let sessions: Vec<String> = (0..40)
        .map(|_| {
            let opened = a.post(&i.url, &i.token, INITIALIZE, &[]);
            format!("Mcp-Session-Id: {}", opened.header("mcp-session-id").unwrap())
        })
        .collect();
    let echo = |message: &str| {
        json!({"jsonrpc": "2.0", "id": message.len(), "method": "tools/call",
            "params": {"name": "echo", "arguments": {"message": message}}})
        .to_string()
    };
    let long = a.dir().join("long.json");
    std::fs::write(&long, echo(&"x".repeat(8_300_000))).unwrap();
    let long = format!("@{}", long.display());
    let before = a.inspect(&i.id)["State"]["Pid"].clone();
    let post = |session: &str, body: &str| -> Answer {
        a.post(
            &i.url,
            &i.token,
            body,
            &["--http1.1", "--max-time", "120", "-H", session],
        )
    };
    let answers: Vec<Answer> = std::thread::scope(|s| {
        let threads: Vec<_> = sessions
            .iter()
            .map(|session| s.spawn(|| post(session, &long)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let (mut served, mut refused) = (0, 0);
    for answer in answers {
        match answer.status {
            200 => {
                assert!(answer.body.len() > 8_300_000, "{} bytes", answer.body.len());
                served += 1;
            }
            503 => {
                assert_eq!(answer.header("retry-after"), Some("1"));
                assert_eq!(answer.json()["error"]["code"], -31003, "{}", answer.body);
                refused += 1;
            }
            other => panic!("{other}: {}", support::tail(&answer.body, 5)),
        }
    }
    assert!(served > 0 && refused > 0, "{served} served, {refused} refused");
    // It is the same process as before, in the same container, and answers at once.
    let answer = post(&sessions[0], &echo("still here"));
    assert!(answer.body.contains("still here"), "{}: {}", answer.status, answer.body);
    let now = a.inspect(&i.id);
    assert_eq!(
        (&now["State"]["Pid"], &now["State"]["OOMKilled"]),
        (&before, &json!(false))
    );
    assert_eq!(a.show(&i.id)["restarts"], 0);
}
