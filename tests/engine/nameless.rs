//! A box without a domain, from another machine on its network: by an address and by a name, with clients that check its
//! certificate.

use crate::support;

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use support::{Appliance, Options, netns, netns::Host, root, wait_for};

/// Somebody's own machine, with a folder for the command line's settings.
struct Laptop {
    host: Host,
    settings: tempfile::TempDir,
}

impl Laptop {
    fn said(&self, mut command: Command, input: &str) -> String {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // What asks for nothing may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let out = child.wait_with_output().unwrap();
        let (said, wrong) = (
            String::from_utf8_lossy(&out.stdout).into_owned(),
            String::from_utf8_lossy(&out.stderr),
        );
        assert!(out.status.success(), "{command:?}: {said}{wrong}");
        said
    }

    fn berth(&self, args: &[&str], input: &str) -> String {
        let mut command = self.host.command(&support::berth());
        command.args(args).env("XDG_CONFIG_HOME", self.settings.path());
        command.env_remove("BERTH_SOCKET").env_remove("BERTH_CONTEXT");
        self.said(command, input)
    }

    fn json(&self, args: &[&str]) -> Value {
        let said = self.berth(&[args, &["--json"]].concat(), "");
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{args:?}: {e}: {said}"))
    }

    /// One of the official clients lists tools and calls one.
    fn client(&self, a: &Appliance, name: &str, url: &str, token: &str) {
        let mut command = self.host.command(&root().join("tests/clients/run"));
        command
            .args([name, "list-call"])
            .env("BERTH_URL", url)
            .env("BERTH_TOKEN", token);
        command
            .env("BERTH_ERA", "legacy")
            .env("NODE_EXTRA_CA_CERTS", a.ca())
            .env("SSL_CERT_FILE", a.ca());
        let said = self.said(command, "");
        let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(last["ok"], true, "{name} at {url}: {said}");
    }

    fn curl(&self, a: &Appliance, url: &str) -> String {
        let mut command = self.host.command(Path::new("curl"));
        command
            .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
            .arg(a.ca())
            .arg(url);
        self.said(command, "")
    }
}

fn mcp(v: &Value) -> [&str; 2] {
    ["/endpoints/mcp/url", "/endpoints/mcp/path_url"].map(|p| v.pointer(p).unwrap().as_str().unwrap())
}

#[test]
fn a_box_without_a_domain_is_reached_where_it_is_asked() {
    let host = Host::new([10, 232, 0]);
    let laptop = Laptop {
        host,
        settings: tempfile::tempdir().unwrap(),
    };
    let a = Appliance::with(Options {
        domain: None,
        listen: "0.0.0.0",
        ..Options::default()
    });
    laptop.host.hosts(&format!(
        "127.0.0.1 localhost\n{} box.home.arpa berth.local\n",
        laptop.host.ours
    ));
    let by_address = format!("https://{}:{}", laptop.host.ours, a.https);
    let by_name = format!("https://box.home.arpa:{}", a.https);

    // On the box itself, it is one of its addresses; nobody is sent to their own machine.
    let status = a.json(&["status"]);
    assert_eq!(status["domain"], Value::Null);
    let here = status["https"].as_str().unwrap();
    assert!(!here.contains("localhost") && !here.contains("127.0.0.1"), "{here}");

    // The page says the address by which it was opened, and how to claim the box there.
    let page = laptop.curl(&a, &format!("{by_address}/"));
    assert!(page.contains(&format!("berth login {by_address}")), "{page}");
    let shown = &status["box"];
    let [print, code] = ["ca_fingerprint", "claim_code"].map(|k| shown[k].as_str().unwrap());
    let login = [
        "login",
        &by_address,
        "--name",
        "address",
        "--fingerprint",
        print,
        "--code",
        "-",
    ];
    laptop.berth(&login, code);

    let v = laptop.json(&["run", "everything"]);
    let id = v["id"].as_str().unwrap();
    let token = v["token"].as_str().unwrap();
    let wanted = format!("{by_address}/mcp/{id}");
    assert_eq!(mcp(&v), [&wanted; 2]);
    for client in ["ts2", "py"] {
        laptop.client(&a, client, &wanted, token);
    }
    let connect = laptop.berth(&["connect", id, "--client", "cursor", "--token", token], "");
    assert!(connect.contains(&wanted), "{connect}");
    assert_eq!(mcp(&laptop.json(&["list"])[0]), [&wanted; 2]);

    // The same by a name, which the certificate is for as well.
    let settings = std::fs::read_to_string(laptop.settings.path().join("berth/contexts.toml")).unwrap();
    let settings: toml::Table = settings.parse().unwrap();
    let member = settings["contexts"]["address"]["token"].as_str().unwrap();
    laptop.berth(
        &[
            "login",
            &by_name,
            "--name",
            "name",
            "--fingerprint",
            print,
            "--token",
            "-",
        ],
        member,
    );
    let wanted = format!("{by_name}/mcp/{id}");
    assert_eq!(mcp(&laptop.json(&["show", id])), [&wanted; 2]);
    for client in ["ts2", "py"] {
        laptop.client(&a, client, &wanted, token);
    }
    laptop.curl(&a, &format!("https://berth.local:{}/", a.https));

    // What is brought over and written back to a client's own file, too.
    let file = laptop.settings.path().join("mcp.json");
    let server = r#"{"mcpServers":{"notes":{"command":"npx","args":["-y","@modelcontextprotocol/server-memory"]}}}"#;
    std::fs::write(&file, server).unwrap();
    laptop.berth(
        &[
            "import",
            file.to_str().unwrap(),
            "--client",
            "cursor",
            "--yes",
            "--write",
        ],
        "",
    );
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let notes = laptop.json(&["show", "notes"]);
    assert_eq!(written["mcpServers"]["notes"]["url"], mcp(&notes)[0], "{written:#}");
    assert!(mcp(&notes)[0].starts_with(&by_name), "{notes:#}");
    laptop.berth(&["rm", "notes"], "");

    // An address that it gets later is in its certificate, too.
    let octets = laptop.host.ours.octets();
    let later = std::net::Ipv4Addr::new(192, 168, 232, octets[3]);
    netns::ip(&["address", "add", &format!("{later}/32"), "dev", &laptop.host.near()]);
    let at = format!("https://{later}:{}/", a.https);
    wait_for("a certificate for the new address", Duration::from_secs(20), || {
        let mut command = laptop.host.command(Path::new("curl"));
        command.args(["--silent", "--max-time", "5", "--output", "/dev/null", "--cacert"]);
        command.arg(a.ca()).arg(&at).status().unwrap().success()
    });
    laptop.berth(&["rm", id], "");
}

/// A box that listens on one address alone gives out that one, whichever way it would go out.
#[test]
fn a_box_on_one_address_gives_out_that_one() {
    let a = Appliance::with(Options {
        domain: None,
        ..Options::default()
    });
    let own = format!("https://127.0.0.1:{}/", a.https);
    assert_eq!(a.json(&["status"])["https"], own.as_str());
    let i = a.run("time", &[]);
    assert_eq!(i.url, format!("{own}mcp/{}", i.id));
    wait_for(
        "it answers there, its certificate checked",
        Duration::from_secs(60),
        || {
            a.post(&i.url, &i.token, support::INITIALIZE, &["--max-time", "20"])
                .status
                == 200
        },
    );
}
