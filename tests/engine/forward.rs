//! The audit in other machines' logs: what rsyslog and syslog-ng, as Debian ships them, and a collector of files receive.

use crate::support;

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use support::{Appliance, INITIALIZE, Options, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// A receiver in a container on this machine's own network, with certificates from a CA of its own. Removed at the end.
struct Receiver {
    dir: tempfile::TempDir,
    name: String,
    port: u16,
}

impl Receiver {
    /// `configuration` gets the port.
    fn start(image: &str, command: &[&str], configuration: impl Fn(u16) -> String) -> Receiver {
        let dir = tempfile::Builder::new().prefix("berth-log").tempdir_in("/tmp").unwrap();
        certificates(dir.path());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(dir.path().join("receiver.conf"), configuration(port)).unwrap();
        let name = format!("berth-test-receiver-{port}");
        let folder = format!("{}:/c", dir.path().display());
        let receiver = Receiver { dir, name, port };
        let mut args = vec![
            "run",
            "-d",
            "--name",
            &receiver.name,
            "--network",
            "host",
            "--user",
            "0:0",
        ];
        args.extend(["--label", "berth.test", "-v", &folder, image]);
        args.extend(command);
        receiver.docker(&args);
        receiver
    }

    fn docker(&self, args: &[&str]) -> String {
        let socket = format!("unix://{}", support::engine_socket());
        let out = Command::new("docker")
            .args(["-H", &socket])
            .args(args)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "docker {args:?}: {said}");
        String::from_utf8_lossy(&out.stdout).into_owned() + &said
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Messages that it has written down: what stands before the text, and the row that is the text.
    fn received(&self) -> Vec<(String, Value)> {
        let text = std::fs::read_to_string(self.path("received.log")).unwrap_or_default();
        // The last line may be under way.
        let whole = text.rfind('\n').map_or("", |at| &text[..at]);
        let message = |line: &str| {
            let at = line.find('{').unwrap_or_else(|| panic!("{line}"));
            let row = serde_json::from_str(&line[at..]).unwrap_or_else(|e| panic!("{e}: {line}"));
            (line[..at].trim_end().to_owned(), row)
        };
        whole.lines().map(message).collect()
    }

    /// Waits until it has every row that the box has, each as the box has it.
    fn has_all(&self, a: &Appliance) {
        let all = a.cli(&["audit", "--all", "--json"]);
        let rows: Vec<Value> = all.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let lacks = || {
            let received = self.received();
            let there: BTreeSet<u64> = received.iter().map(|(_, r)| r["seq"].as_u64().unwrap()).collect();
            rows.iter()
                .filter(|r| !there.contains(&r["seq"].as_u64().unwrap()))
                .count()
        };
        wait_for(&format!("{} rows at {}", rows.len(), self.name), MINUTE, || {
            lacks() == 0
        });
        for (_, row) in self.received() {
            let seq = row["seq"].as_u64().unwrap();
            if let Some(own) = rows.iter().find(|r| r["seq"] == seq) {
                assert_eq!(&row, own);
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- the receiver's words\n{}",
                self.docker(&["logs", "--tail", "30", &self.name])
            );
        }
        self.docker(&["rm", "-f", &self.name]);
    }
}

/// A CA, a receiver's certificate, a client's, and another CA that has signed nothing.
fn certificates(dir: &Path) {
    let at = |name: &str| dir.join(name).display().to_string();
    let openssl = |args: &[&str]| {
        let out = Command::new("openssl").args(args).output().unwrap();
        assert!(
            out.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    };
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"];
    for ca in ["ca", "other"] {
        let subject = format!("/CN={ca} of the test");
        let (key, pem) = (at(&format!("{ca}.key")), at(&format!("{ca}.pem")));
        let made = [
            "req", "-x509", "-days", "2", "-subj", &subject, "-keyout", &key, "-out", &pem,
        ];
        openssl(&[&made[..], &new_key].concat());
    }
    for (name, more) in [
        (
            "server",
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n",
        ),
        ("client", "extendedKeyUsage=clientAuth\n"),
    ] {
        let file = |end: &str| at(&format!("{name}.{end}"));
        let subject = format!("/CN={name}");
        let asked = ["req", "-subj", &subject, "-keyout", &file("key"), "-out", &file("csr")];
        openssl(&[&asked[..], &new_key].concat());
        std::fs::write(dir.join(format!("{name}.ext")), more).unwrap();
        let (csr, pem, ext) = (file("csr"), file("pem"), file("ext"));
        openssl(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &csr,
            "-CA",
            &at("ca.pem"),
            "-CAkey",
            &at("ca.key"),
            "-CAcreateserial",
            "-extfile",
            &ext,
            "-out",
            &pem,
        ]);
    }
}

/// What berth says of its receivers.
fn forwards(a: &Appliance) -> Vec<Value> {
    a.json(&["status"])["forwards"].as_array().cloned().unwrap_or_default()
}

/// The row up to which a receiver has everything, as it is noted down.
fn noted(a: &Appliance, receiver: &str) -> u64 {
    let text = std::fs::read_to_string(a.dir().join("state/forward").join(receiver)).unwrap();
    text.trim().parse().unwrap()
}

fn trouble(a: &Appliance) -> String {
    forwards(a)[0]["trouble"].as_str().unwrap_or_default().to_owned()
}

/// Configuration of rsyslog: it wants a certificate from who sends.
fn rsyslog(port: u16) -> String {
    format!(
        r#"global(workDirectory="/tmp" maxMessageSize="64k"
    defaultNetstreamDriver="ossl" defaultNetstreamDriverCAFile="/c/ca.pem"
    defaultNetstreamDriverCertFile="/c/server.pem" defaultNetstreamDriverKeyFile="/c/server.key")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
input(type="imtcp" address="127.0.0.1" port="{port}")
template(name="received" type="string"
    string="%syslogfacility-text%.%syslogseverity-text% %hostname% %app-name% %msgid% %structured-data%%msg%\n")
action(type="omfile" file="/c/received.log" template="received")
"#
    )
}

fn syslog_ng(port: u16) -> String {
    format!(
        r#"@version: 4.8
options {{ keep-hostname(yes); stats(freq(0)); }};
source received {{
    syslog(ip("127.0.0.1") port({port}) transport("tls")
        tls(key-file("/c/server.key") cert-file("/c/server.pem") peer-verify(optional-untrusted)));
}};
destination written {{ file("/c/received.log" template("$FACILITY_NUM.$LEVEL_NUM $HOST $PROGRAM $MSGID $SDATA $MSG\n")); }};
log {{ source(received); destination(written); }};
"#
    )
}

#[test]
fn rsyslog_and_a_file_get_every_row_whatever_fails_meanwhile() {
    let receiver = Receiver::start(
        "berth/test-rsyslog:1",
        &[
            "/usr/sbin/rsyslogd",
            "-n",
            "-f",
            "/c/receiver.conf",
            "-i",
            "/tmp/rsyslogd.pid",
        ],
        rsyslog,
    );
    let file = receiver.path("audit.jsonl");
    let at = |name: &str| receiver.path(name).display().to_string();
    let mut a = Appliance::with(Options {
        extra: format!(
            "[audit.syslog]\naddress = \"localhost:{}\"\nca_file = \"{}\"\nclient_cert = \"{}\"\nclient_key = \"{}\"\n\
             [audit.file]\npath = \"{}\"\n",
            receiver.port,
            at("ca.pem"),
            at("client.pem"),
            at("client.key"),
            file.display()
        ),
        ..Options::default()
    });
    let i = a.run("fixture-echo", &[]);
    let token = i.token.clone();
    let session = a.open(&i);
    let calls = |a: &Appliance| {
        for _ in 0..20 {
            a.call(&i, &session, "echo", &json!({ "text": "x" }));
        }
    };
    calls(&a);
    assert_eq!(
        a.post(&i.url, &format!("brt_i_{}", "A".repeat(43)), INITIALIZE, &[])
            .status,
        401
    );
    receiver.has_all(&a);
    let received = receiver.received();
    let head = |kind: &str| {
        let found = received.iter().find(|(_, row)| row["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind} in {received:?}")).0.clone()
    };
    let call = head("call");
    assert!(
        call.starts_with("audit.info localhost berth call [meta sequenceId=\""),
        "{call}"
    );
    assert!(call.contains("[origin software=\"berth\" swVersion=\""), "{call}");
    assert!(head("act").starts_with("audit.notice "), "{}", head("act"));
    assert!(head("refusal").starts_with("audit.warn"), "{}", head("refusal"));

    // The receiver is away. Rows wait, it is said, and a supervisor that is killed forgets none.
    receiver.docker(&["stop", "-t", "5", &receiver.name]);
    wait_for("it is said that the receiver is away", MINUTE, || {
        !trouble(&a).is_empty()
    });
    let printed = a.cli(&["status"]);
    let said = format!(
        "rows of the audit are not forwarded to syslog localhost:{}",
        receiver.port
    );
    assert!(printed.contains(&said), "{printed}");
    calls(&a);
    wait_for("rows wait", MINUTE, || {
        forwards(&a)[0]["behind"].as_u64().unwrap() >= 20
    });
    let metrics = a.metrics();
    let up = format!("berth_audit_forward_up{{to=\"syslog localhost:{}\"}} 0", receiver.port);
    assert!(metrics.contains(&up), "{metrics}");
    // Somebody rotates the file meanwhile.
    let newest = a.json(&["status"])["audit"]["seq"].as_u64().unwrap();
    wait_for("it is noted what the file has", MINUTE, || noted(&a, "file") >= newest);
    let rotated = receiver.path("audit.jsonl.1");
    std::fs::rename(&file, &rotated).unwrap();
    a.kill();
    a.launch();
    a.wait_state(&i.id, "running", MINUTE);
    assert_eq!(a.post(&i.url, &token, INITIALIZE, &[]).status, 200);
    receiver.docker(&["start", &receiver.name]);
    wait_for("rows go again", 2 * MINUTE, || trouble(&a).is_empty());
    receiver.has_all(&a);
    wait_for("nothing is behind", MINUTE, || {
        forwards(&a)
            .iter()
            .all(|f| f["behind"].as_u64().unwrap() <= 1 && f["lost"] == 0)
    });

    // A stop sends what there is, and notes what has arrived.
    a.terminate();
    let newest = receiver
        .received()
        .iter()
        .map(|(_, r)| r["seq"].as_u64().unwrap())
        .max()
        .unwrap();
    assert_eq!((noted(&a, "syslog"), noted(&a, "file")), (newest, newest));
    let last = receiver
        .received()
        .into_iter()
        .find(|(_, r)| r["seq"] == newest)
        .unwrap()
        .1;
    assert_eq!((&last["kind"], &last["action"]), (&"box".into(), &"stop".into()));
    // The file has each row once.
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let seqs: Vec<u64> = (read(&rotated) + &read(&file))
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, (seqs[0]..=newest).collect::<Vec<_>>());
    // Nothing but rows: no token.
    assert!(!read(&receiver.path("received.log")).contains(&token));
}

#[test]
fn syslog_ng_gets_rows_once_its_certificate_is_trusted() {
    let receiver = Receiver::start(
        "berth/test-syslog-ng:1",
        &[
            "/usr/sbin/syslog-ng",
            "-F",
            "-f",
            "/c/receiver.conf",
            "-R",
            "/tmp/state",
            "-p",
            "/tmp/pid",
            "-c",
            "/tmp/ctl",
            "--no-caps",
        ],
        syslog_ng,
    );
    let ca = receiver.path("trusted.pem");
    std::fs::copy(receiver.path("other.pem"), &ca).unwrap();
    let mut a = Appliance::with(Options {
        extra: format!(
            "[audit.syslog]\naddress = \"127.0.0.1:{}\"\nca_file = \"{}\"\n",
            receiver.port,
            ca.display()
        ),
        ..Options::default()
    });
    // Nothing is sent to somebody else.
    wait_for("it is not trusted", MINUTE, || {
        trouble(&a).contains("does not prove who it is")
    });
    assert!(receiver.received().is_empty());
    std::fs::copy(receiver.path("ca.pem"), &ca).unwrap();
    let i = a.run("fixture-echo", &[]);
    for n in 0..5 {
        a.cli(&["member", "add", &format!("m{n}")]);
        a.cli(&["grant", "add", &format!("m{n}"), &i.id]);
    }
    a.post(&i.url, &i.token, INITIALIZE, &[]);
    wait_for("it is trusted", 2 * MINUTE, || trouble(&a).is_empty());
    receiver.has_all(&a);
    let (head, _) = receiver.received().swap_remove(0);
    assert!(
        head.starts_with("13.5 localhost berth box [meta sequenceId=\"1\"]["),
        "{head}"
    );
    a.terminate();
}
