//! The moving parts of `benches/edge`: a fast backend, and the edge alone in a process of its own.
//!
//! - `backend unix PATH`: listens, for nginx.
//! - `backend dial PATH COUNT`: dials as an agent does, for the edge.
//! - `edge DIR PORT own:N|caller`: an edge with one running instance; prints the instance's id and token. Whoever dials is its
//!   agent, and gets the order in the file `ORDER`, where that is set.
//! - `rows DIR`: the audit alone: 20,000 rows a second for ten seconds, and a million to verify.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    os::unix::fs::MetadataExt,
    time::{Duration, Instant, SystemTime},
};

use berth::{
    authz::{TokenEntry, TokenHash, TokenTable, new_instance_token},
    config::{Limits, Tls},
    edge::{Edge, EdgeConfig, Listeners, Workers},
    link::{LinkEvent, Registry},
    model::{AuditKind, AuditOutcome, AuditRow, CallLimit, InstanceId, State, TokenId, User},
    tls::{Certificates, Names},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

const BODY: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Echo: hello"}]}}"#;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let one_thread = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    match args[..] {
        ["backend", "unix", path] => one_thread().block_on(async {
            let _ = std::fs::remove_file(path);
            let listener = UnixListener::bind(path).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream));
            }
        }),
        ["backend", "dial", path, count] => one_thread().block_on(async {
            for _ in 0..count.parse().unwrap() {
                let path = path.to_owned();
                tokio::spawn(async move {
                    loop {
                        match UnixStream::connect(&path).await {
                            Ok(stream) => answer(stream).await,
                            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                        }
                    }
                });
            }
            std::future::pending().await
        }),
        ["rows", dir] => tokio::runtime::Runtime::new().unwrap().block_on(rows(dir.as_ref())),
        ["edge", dir, port, workers] => {
            let workers = match workers.strip_prefix("own:") {
                Some(n) => Workers::Own(n.parse().unwrap()),
                None => Workers::Caller,
            };
            tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(edge(dir, port.parse().unwrap(), workers));
        }
        _ => panic!("see the head of this file"),
    }
}

async fn edge(dir: &str, port: u16, workers: Workers) {
    let names = Names {
        domain: Some("localhost".into()),
        loopback: true,
        title: String::new(),
        addresses: Vec::new,
    };
    let certificates = Certificates::open(&Tls::LocalCa, dir.as_ref(), names, SystemTime::now()).unwrap();
    let (events, mut seen) = tokio::sync::mpsc::channel(64);
    let registry = Registry::new(dir.into(), events);
    let own = std::fs::metadata(dir).unwrap();
    let agents = User {
        uid: own.uid(),
        gid: own.gid(),
    };
    registry.set_agents(agents).unwrap();
    // Whoever dials is the backend.
    let links = registry.clone();
    tokio::spawn(async move {
        while let Some(report) = seen.recv().await {
            if let LinkEvent::Unproven(peer) = report.event {
                links.prove(&report.id, peer.pid);
            }
        }
    });
    let id = InstanceId::from_random([0; 10]);
    let link = registry.open(&id).await.unwrap();
    link.set_state(State::Running, None);
    if let Ok(order) = std::env::var("ORDER") {
        let order = serde_json::from_slice(&std::fs::read(order).unwrap()).unwrap();
        tokio::spawn(async move {
            while let Err(e) = link.start(&order).await {
                eprintln!("the agent does not take its order yet: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    let tokens = TokenTable::new();
    // A table of realistic size.
    for n in 0..1000u32 {
        let mut random = [7; 32];
        random[..4].copy_from_slice(&n.to_le_bytes());
        let secret = new_instance_token(random);
        let mut token_id = [0; 12];
        token_id[..2].copy_from_slice(&[(n % 32) as u8, (n / 32) as u8]);
        tokens.insert(TokenEntry {
            id: TokenId::from_random(token_id),
            hash: TokenHash::of(secret.expose()),
            principal: berth::model::Principal::instance(id.clone(), TokenId::from_random(token_id)),
            expires_at: None,
            last_used: None,
        });
        if n == 0 {
            println!("{id} {}", secret.expose());
        }
    }
    let config = EdgeConfig {
        router: std::sync::Arc::new(berth::door::Router::new(Some("localhost"), port)),
        // What the edge can carry, not what one holder of a token may ask of it.
        limits: Limits {
            member_calls: CallLimit::NONE,
            instance_calls: CallLimit::NONE,
            ..Limits::default()
        },
        allowed_origins: vec![],
        workers,
        screens: Default::default(),
        sessions: Default::default(),
        access: Default::default(),
        audit: audit(dir.as_ref()),
    };
    let https = vec![std::net::TcpListener::bind(("127.0.0.1", port)).unwrap()];
    let listeners = Listeners { https, http: vec![] };
    let _edge = Edge::spawn(
        config,
        listeners,
        registry,
        tokens,
        Box::new(|_| None),
        None,
        &certificates,
    )
    .unwrap();
    std::future::pending::<()>().await;
}

/// The audit, but where `AUDIT=off`: what it costs is the difference.
fn audit(dir: &std::path::Path) -> Option<berth::audit::Audit> {
    let on = std::env::var("AUDIT").as_deref() != Ok("off");
    let settings = || berth::audit::Settings {
        dir: dir.join("audit"),
        spool: std::path::Path::new("/dev/shm").join(format!("berth-edge-bench-{}", std::process::id())),
        box_id: berth::model::BoxId::from_random([0; 8]),
        key: std::sync::Arc::new(berth::secret::BoxKey::load_or_create(&dir.join("keys")).unwrap()),
        retain: jiff::SignedDuration::from_hours(24),
        most: 1 << 30,
        on_full: berth::audit::OnFull::GoOn,
    };
    on.then(|| berth::audit::Audit::open(settings()).unwrap())
}

/// A row as a call leaves it.
fn row(n: u64) -> AuditRow<'static> {
    let mut row = AuditRow::new(jiff::Timestamp::now(), AuditKind::Call, AuditOutcome::Ok);
    row.member = Some("anna.schmidt".into());
    row.token = Some("d1kfqm3ez7h2".into());
    row.via = Some("endpoint".into());
    row.address = Some("10.20.30.40".into());
    row.client = Some("claude-code".into());
    row.workspace = Some("default".into());
    row.instance = Some("everything-2b7c".into());
    row.server = Some("everything".into());
    row.version = Some("2026.11.1".into());
    row.method = Some("tools/call".into());
    row.tool = Some("echo".into());
    row.era = Some("legacy".into());
    row.grant = Some("team support".into());
    row.status = Some(200);
    row.latency_us = Some(400 + n % 200);
    (row.bytes_in, row.bytes_out) = (Some(107), Some(81));
    row
}

/// What the audit can take, and how fast it is verified.
async fn rows(dir: &std::path::Path) {
    const PER_SECOND: u64 = 20_000;
    const TICK: Duration = Duration::from_millis(5);
    const VERIFIED: u64 = 1_000_000;
    let audit = audit(dir).unwrap();
    let (began, mut sent, mut most) = (Instant::now(), 0, 0);
    while began.elapsed() < Duration::from_secs(10) {
        let due = began.elapsed().as_micros() as u64 * PER_SECOND / 1_000_000;
        for n in sent..due {
            audit.append(&row(n));
        }
        sent = due;
        most = most.max(audit.status().waiting);
        tokio::time::sleep(TICK).await;
    }
    let ended = Instant::now();
    assert!(audit.flush().await);
    let after = ended.elapsed().as_millis();
    println!(
        "{sent} rows at {PER_SECOND} a second: at most {most} waited for the disk; all were there {after} ms after the last"
    );
    let before = Instant::now();
    for n in sent..VERIFIED {
        audit.append(&row(n));
        // No faster than the disk.
        if n % 10_000 == 0 {
            assert!(audit.flush().await);
        }
    }
    assert!(audit.flush().await);
    let rate = (VERIFIED - sent) as f64 / before.elapsed().as_secs_f64();
    println!("as fast as one thread makes them: {rate:.0} rows a second");
    let before = Instant::now();
    let verified = audit.verify().await.unwrap();
    assert!(verified.fault.is_none() && verified.rows >= VERIFIED);
    println!(
        "{} rows verified in {:.2} s",
        verified.rows,
        before.elapsed().as_secs_f64()
    );
    assert_eq!(audit.status().lost, 0);
    audit.close().await;
}

/// Answers every request at once with the same bytes. Understands just enough HTTP: a head, and `Content-Length`.
async fn answer(mut stream: UnixStream) {
    let whole = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let mut buf = vec![0u8; 16 * 1024];
    let mut have = 0;
    loop {
        match stream.read(&mut buf[have..]).await {
            Ok(n @ 1..) => have += n,
            _ => return,
        }
        let Some(head) = buf[..have].windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let length = buf[..head]
            .split(|b| *b == b'\n')
            .find_map(|l| {
                let (name, value) = l.split_at_checked(15)?;
                let value = name.eq_ignore_ascii_case(b"content-length:").then_some(value)?;
                std::str::from_utf8(value).ok()?.trim().parse::<usize>().ok()
            })
            .unwrap_or(0);
        if have < head + 4 + length {
            continue;
        }
        have = 0;
        // The events stream of the agent's protocol must stay open.
        if buf.starts_with(b"GET /.berth/events") {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                if stream.write_all(b"12\r\n{\"event\":\"alive\"}\n\r\n").await.is_err() {
                    return;
                }
            }
        }
        if stream.write_all(whole.as_bytes()).await.is_err() {
            return;
        }
    }
}
