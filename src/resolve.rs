//! F2: a host's addresses without the C library's look-up, which a static binary must not call: literals, `localhost`
//! (RFC 6761 section 6.3), `/etc/hosts`, then the name servers of `/etc/resolv.conf` (RFC 1035), over UDP and, where an
//! answer is cut short, TCP.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE, rdata::RData};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// Why a host has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ResolveError(String);

type Result<T> = std::result::Result<T, ResolveError>;

fn failed(e: impl std::fmt::Display) -> ResolveError {
    ResolveError(e.to_string())
}

/// One server gets so long, twice.
const PATIENCE: Duration = Duration::from_secs(3);
const TRIES: usize = 2;
const PORT: u16 = 53;

/// The addresses of a host, in the order in which they should be tried; never none.
/// # Errors
/// [`ResolveError`], in words for a person.
pub async fn addresses(host: &str) -> Result<Vec<IpAddr>> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse() {
        return Ok(vec![ip]);
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let known = in_hosts(&hosts, &name);
    if !known.is_empty() {
        return Ok(known);
    }
    let path = Path::new("/etc/resolv.conf");
    let text = std::fs::read_to_string(path).map_err(|e| {
        failed(format!(
            "cannot find {host}: {} says no name server ({e})",
            path.display()
        ))
    })?;
    Servers::read(&text).find(&name, host.ends_with('.')).await
}

fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default());
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let ip = words.next()?.parse().ok()?;
            words.any(|w| w.eq_ignore_ascii_case(name)).then_some(ip)
        })
        .collect()
}

/// Whom to ask, and what to append to short names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Servers {
    at: Vec<SocketAddr>,
    search: Vec<String>,
}

impl Servers {
    fn read(text: &str) -> Servers {
        let mut servers = Servers {
            at: Vec::new(),
            search: Vec::new(),
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let ip = words
                        .next()
                        .and_then(|w| w.split('%').next())
                        .and_then(|w| w.parse().ok());
                    servers.at.extend(ip.map(|ip: IpAddr| SocketAddr::new(ip, PORT)));
                }
                Some("search" | "domain") => servers.search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        if servers.at.is_empty() {
            servers.at.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        servers.at.truncate(3);
        servers
    }

    async fn find(&self, name: &str, whole: bool) -> Result<Vec<IpAddr>> {
        let appended = self.search.iter().map(|s| format!("{name}.{s}"));
        let mut names: Vec<String> = if whole { Vec::new() } else { appended.take(6).collect() };
        let at = if name.contains('.') { 0 } else { names.len() };
        names.insert(at, name.to_owned());
        let mut trouble = None;
        for name in &names {
            match self.ask(name).await {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => {}
                Err(e) => trouble = Some(e),
            }
        }
        match trouble {
            Some(e) => Err(failed(format!("cannot find {name}: {e}"))),
            None => Err(failed(format!(
                "there is no host {name}: check the name, or give an address"
            ))),
        }
    }

    /// Both kinds of addresses of one name; none where the servers say that there are none.
    async fn ask(&self, name: &str) -> Result<Vec<IpAddr>> {
        let mut trouble = failed("no name server is known");
        for _ in 0..TRIES {
            for server in &self.at {
                let both = async {
                    let mut found = query(*server, name, TYPE::A).await?;
                    found.extend(query(*server, name, TYPE::AAAA).await?);
                    Ok::<_, ResolveError>(found)
                };
                match both.await {
                    Ok(found) => return Ok(found),
                    Err(e) => trouble = failed(format!("the name server {server} gave no answer: {e}")),
                }
            }
        }
        Err(trouble)
    }
}

async fn query(server: SocketAddr, name: &str, kind: TYPE) -> Result<Vec<IpAddr>> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(failed)?;
    let id = u16::from_be_bytes(id);
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let asked = Question::new(Name::new(name).map_err(failed)?, kind.into(), CLASS::IN.into(), false);
    packet.questions.push(asked);
    let bytes = packet.build_bytes_vec().map_err(failed)?;
    let answer = timeout(PATIENCE, over_udp(server, id, &bytes))
        .await
        .map_err(failed)??;
    if Packet::parse(&answer)
        .map_err(failed)?
        .has_flags(PacketFlag::TRUNCATION)
    {
        let answer = timeout(PATIENCE, over_tcp(server, &bytes)).await.map_err(failed)??;
        return addresses_in(&answer, id, name);
    }
    addresses_in(&answer, id, name)
}

async fn over_udp(server: SocketAddr, id: u16, bytes: &[u8]) -> Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await.map_err(failed)?;
    socket.connect(server).await.map_err(failed)?;
    socket.send(bytes).await.map_err(failed)?;
    let mut buffer = vec![0; 4096];
    loop {
        let n = socket.recv(&mut buffer).await.map_err(failed)?;
        // An answer to something else, or somebody's guess.
        if buffer.get(..2) == Some(&id.to_be_bytes()) {
            buffer.truncate(n);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await.map_err(failed)?;
    let length = u16::try_from(bytes.len()).map_err(failed)?.to_be_bytes();
    stream.write_all(&[&length, bytes].concat()).await.map_err(failed)?;
    let length = stream.read_u16().await.map_err(failed)?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.map_err(failed)?;
    Ok(answer)
}

fn addresses_in(answer: &[u8], id: u16, name: &str) -> Result<Vec<IpAddr>> {
    let packet = Packet::parse(answer).map_err(failed)?;
    let question = packet.questions.first();
    let same = question.is_some_and(|q| q.qname.to_string().eq_ignore_ascii_case(name));
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) || !same {
        return Err(failed("it answered something else"));
    }
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Ok(Vec::new()),
        other => return Err(failed(format!("it answered {other:?}"))),
    }
    let records = packet.answers.iter().filter_map(|r| match &r.rdata {
        RData::A(a) => Some(IpAddr::from(Ipv4Addr::from(a.address))),
        RData::AAAA(a) => Some(IpAddr::from(Ipv6Addr::from(a.address))),
        _ => None,
    });
    Ok(records.collect())
}

#[cfg(test)]
mod tests {
    use simple_dns::{ResourceRecord, rdata::A};

    use super::*;

    #[test]
    fn hosts_and_servers_are_read() {
        let hosts = "127.0.0.1 localhost\n192.0.2.7\tbox box.lan # mine\n::1 ip6\n2001:db8::7 Box.lan\n";
        let found: Vec<String> = in_hosts(hosts, "box.lan").iter().map(IpAddr::to_string).collect();
        assert_eq!(found, ["192.0.2.7", "2001:db8::7"]);
        let s = Servers::read("# x\nsearch lan home\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\noptions ndots:1\n");
        assert_eq!(s.at, ["192.0.2.1:53".parse().unwrap(), "[fe80::1]:53".parse().unwrap()]);
        assert_eq!(s.search, ["lan", "home"]);
        assert_eq!(Servers::read("").at, ["127.0.0.1:53".parse().unwrap()]);
    }

    /// A name server that knows one name, and cuts UDP answers short where it is told to.
    async fn server(truncate: bool) -> (Servers, tokio::task::JoinSet<()>) {
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(at).await.unwrap();
        let answer = |asked: &[u8], truncate: bool| {
            let asked = Packet::parse(asked).unwrap();
            let name = asked.questions[0].qname.to_string();
            let is_a = asked.questions[0].qtype == TYPE::A.into();
            let mut reply = asked.into_reply();
            if truncate {
                reply.set_flags(PacketFlag::TRUNCATION);
            } else if name == "box.lan" && is_a {
                let data = RData::A(A {
                    address: u32::from(Ipv4Addr::new(192, 0, 2, 7)),
                });
                reply
                    .answers
                    .push(ResourceRecord::new(Name::new("box.lan").unwrap(), CLASS::IN, 1, data));
            } else if name != "box.lan" {
                *reply.rcode_mut() = RCODE::NameError;
            }
            reply.build_bytes_vec().unwrap()
        };
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((n, from)) = udp.recv_from(&mut buffer).await {
                udp.send_to(b"noise of somebody else's", from).await.unwrap();
                udp.send_to(&answer(&buffer[..n], truncate), from).await.unwrap();
            }
        });
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let n = stream.read_u16().await.unwrap();
                let mut asked = vec![0; usize::from(n)];
                stream.read_exact(&mut asked).await.unwrap();
                let bytes = answer(&asked, false);
                stream.write_u16(bytes.len() as u16).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
            }
        });
        let search = vec!["lan".to_owned()];
        (Servers { at: vec![at], search }, tasks)
    }

    #[tokio::test]
    async fn names_are_asked_for() {
        for truncate in [false, true] {
            let (servers, _tasks) = server(truncate).await;
            for name in ["box.lan", "box"] {
                let found = servers.find(name, false).await.unwrap();
                assert_eq!(found, [IpAddr::from([192, 0, 2, 7])], "{name}");
            }
            let said = servers.find("nobody.lan", false).await.unwrap_err().to_string();
            assert!(said.contains("there is no host nobody.lan"), "{said}");
        }
    }

    #[tokio::test]
    async fn some_need_nobody_to_ask() {
        assert_eq!(addresses("192.0.2.7").await.unwrap(), [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(
            addresses("[2001:db8::7]").await.unwrap(),
            ["2001:db8::7".parse::<IpAddr>().unwrap()]
        );
        assert!(addresses("mcp-x.localhost").await.unwrap()[0].is_loopback());
    }
}
