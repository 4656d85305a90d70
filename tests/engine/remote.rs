//! A box reached without a shell: claiming it, the admin API over HTTPS, contexts, the page. The real supervisor over TLS
//! with the real command line, as from a laptop that has nothing of the box but its address and what its screen shows.

use crate::support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use support::{Answer, Appliance, INITIALIZE, Options, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const WRONG: &str = "2222-2222-2222-2222";
/// Somebody else's address, on the loopback network.
const NEIGHBOUR: &str = "127.0.0.9";

/// A person's own machine: a configuration folder, and the command line.
pub struct Laptop(tempfile::TempDir);

impl Laptop {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(support::berth());
        c.args(args)
            .env("XDG_CONFIG_HOME", self.0.path())
            .env_remove("BERTH_SOCKET")
            .env_remove("BERTH_CONTEXT")
            .stdin(Stdio::null());
        c
    }

    fn try_cli(&self, args: &[&str], input: &str) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A verb that asks for nothing may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    pub fn cli(&self, args: &[&str]) -> String {
        self.piped(args, "")
    }

    pub fn piped(&self, args: &[&str], input: &str) -> String {
        let out = self.try_cli(args, input);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "berth {args:?}: {said}");
        String::from_utf8(out.stdout).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        let text = self.cli(&all);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("berth {args:?} printed no JSON ({e}): {text}"))
    }

    pub fn fails(&self, status: i32, args: &[&str], input: &str) -> String {
        let out = self.try_cli(args, input);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(status), "berth {args:?}: {said}");
        said
    }

    fn contexts(&self) -> PathBuf {
        self.0.path().join("berth/contexts.toml")
    }
}

/// What a box's screen shows.
fn screen(a: &Appliance) -> Value {
    a.json(&["status"])["box"].take()
}

fn text(v: &Value, key: &str) -> String {
    v[key].as_str().unwrap_or_else(|| panic!("no {key} in {v}")).to_owned()
}

fn url(a: &Appliance) -> String {
    format!("https://localhost:{}", a.https)
}

/// Claims a box by its code; the laptop that did.
pub fn claimed(a: &Appliance) -> Laptop {
    let laptop = Laptop::new();
    let shown = screen(a);
    laptop.piped(
        &[
            "login",
            &url(a),
            "--name",
            "box",
            "--fingerprint",
            &text(&shown, "ca_fingerprint"),
            "--code",
            "-",
        ],
        &text(&shown, "claim_code"),
    );
    laptop
}

/// The administrator's token, as the laptop keeps it.
fn admin_token(laptop: &Laptop) -> String {
    let kept: toml::Table = std::fs::read_to_string(laptop.contexts()).unwrap().parse().unwrap();
    kept["contexts"]["box"]["token"].as_str().unwrap().to_owned()
}

fn with_token(a: &Appliance, method: &str, path: &str, token: &str, more: &[&str]) -> Answer {
    let bearer = format!("Authorization: Bearer {token}");
    let at = format!("{}{path}", url(a));
    let mut args = vec!["-X", method, "-H", &bearer];
    args.extend(more);
    args.push(&at);
    a.curl(&args)
}

fn try_claim(a: &Appliance, code: &str) -> Answer {
    let body = json!({ "by": "code", "code": code }).to_string();
    a.curl(&["-d", &body, &format!("{}/api/claim", url(a))])
}

#[test]
fn a_box_is_claimed_and_used_from_a_laptop() {
    let a = Appliance::start();
    let shown = screen(&a);
    assert_eq!(shown["claimed"], false);
    let (code, print) = (text(&shown, "claim_code"), text(&shown, "ca_fingerprint"));
    assert!(a.cli(&["status"]).contains(&code), "the box itself shows the code");
    let laptop = Laptop::new();
    let said = laptop.fails(1, &["status", "--context", "box"], "");
    assert!(said.contains("berth login"), "{said}");
    // As a person types it.
    let typed = code.to_lowercase().replace('-', " ");
    let at = url(&a);
    laptop.piped(
        &["login", &at, "--name", "box", "--fingerprint", &print, "--code", "-"],
        &typed,
    );
    let mode = std::fs::metadata(laptop.contexts()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let now = screen(&a);
    assert_eq!((&now["claimed"], &now["claim_code"]), (&json!(true), &Value::Null));

    // Every verb works as on the box.
    let status = laptop.json(&["status"]);
    assert_eq!(status["box_id"], a.box_id());
    assert!(laptop.cli(&["status"]).contains("claimed      yes"));
    assert!(laptop.cli(&["types"]).contains("fixture-echo"));
    // As on the box: the same checks of that machine, the same exit status.
    let there = laptop.cli(&["doctor"]);
    assert!(
        there.contains("engine API:") && there.contains(a.config().to_str().unwrap()),
        "{there}"
    );
    assert!(laptop.json(&["doctor"]).as_array().unwrap().len() > 5);
    assert_eq!(laptop.cli(&["ca"]), std::fs::read_to_string(a.ca()).unwrap());
    let made = laptop.json(&["run", "fixture-echo", "--name", "clock"]);
    let (id, token) = (text(&made, "id"), text(&made, "token"));
    let mcp = made["endpoints"]["mcp"]["url"].as_str().unwrap();
    assert_eq!(a.post(mcp, &token, INITIALIZE, &[]).status, 200);
    assert_eq!(laptop.json(&["list"])[0]["id"], json!(id));
    assert_eq!(laptop.json(&["show", "clock"])["state"], "running");
    assert!(laptop.cli(&["logs", &id]).contains("berth-test-server"));

    // A client's configuration names a CA file of this machine.
    let told = laptop.try_cli(&["connect", "clock"], "");
    let advice = String::from_utf8_lossy(&told.stderr).into_owned();
    let ca = laptop.0.path().join("berth/box-ca.pem");
    assert!(advice.contains(ca.to_str().unwrap()), "{advice}");
    assert_eq!(
        std::fs::read_to_string(ca).unwrap(),
        std::fs::read_to_string(a.ca()).unwrap()
    );

    // Tokens of both kinds.
    let second = laptop.json(&["token", "create", "--member", "admin", "--name", "second"]);
    assert!(text(&second, "token").starts_with("brt_m_") && second["member"] == "admin");
    let listed = laptop.json(&["token", "list"]);
    let of = |key: &str| {
        listed
            .as_array()
            .unwrap()
            .iter()
            .filter(|t| t.get(key).is_some())
            .count()
    };
    assert_eq!((of("member"), of("instance")), (2, 2));
    let said = laptop.fails(2, &["token", "create"], "");
    assert!(said.contains("--instance"), "{said}");
    let said = laptop.fails(1, &["token", "create", "--member", "nobody"], "");
    assert!(said.contains("there is no member nobody"), "{said}");

    laptop.cli(&["stop", &id]);
    assert_eq!(a.show(&id)["state"], "stopped");
    laptop.cli(&["start", "clock"]);
    laptop.cli(&["rm", "clock"]);
    assert_eq!(a.leftovers(), Vec::<String>::new());
    // No secret in the log, at its most talkative.
    for secret in [&code, &admin_token(&laptop), &text(&second, "token"), &token] {
        assert!(!a.log().contains(secret.as_str()));
    }
}

#[test]
fn a_log_is_followed_over_https_and_cut_with_its_token() {
    let a = Appliance::start();
    let laptop = claimed(&a);
    let i = a.run("fixture-echo", &[]);
    let mut child = laptop
        .command(&["logs", &i.id, "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = |what: &str| {
        let found = lines.by_ref().map(Result::unwrap).find(|l| l.contains(what));
        assert!(found.is_some(), "{what} never came");
    };
    until("berth-test-server");
    // What is written now arrives now.
    let opened = a.post(&i.url, &i.token, INITIALIZE, &[]);
    assert_eq!(opened.status, 200);
    until("berth-test-server");
    // Its token revoked, the open stream is cut, and the next request is refused.
    let tokens = a.json(&["token", "list"]);
    let admin = tokens
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["member"] == "admin")
        .unwrap();
    a.cli(&["token", "revoke", admin["id"].as_str().unwrap()]);
    wait_for("the stream is cut", MINUTE, || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let said = laptop.fails(1, &["status"], "");
    assert!(
        said.contains("does not take this token") && said.contains("--token -"),
        "{said}"
    );
    // The box gives another, with which the laptop is in again.
    let again = a.json(&["token", "create", "--member", "admin"]);
    let print = text(&screen(&a), "ca_fingerprint");
    let at = url(&a);
    let login = ["login", &at, "--name", "box", "--fingerprint", &print, "--token", "-"];
    let said = laptop.fails(1, &login, "brt_m_wrong");
    assert!(said.contains("does not take this token"), "{said}");
    laptop.piped(&login, &text(&again, "token"));
    laptop.cli(&["status"]);
}

/// A claim by code, from an address of the loopback network; it prints its status.
fn claim_from(a: &Appliance, address: &str, code: &str) -> std::process::Child {
    let body = json!({ "by": "code", "code": code }).to_string();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--max-time", "60", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code}", "--interface", address, "--cacert"])
        .arg(a.ca());
    curl.args(["-d", &body, &format!("{}/api/claim", url(a))]);
    curl.stdout(Stdio::piped()).spawn().unwrap()
}

/// A neighbour's wrong codes, all at once since each answer comes late; how they were answered.
fn guesses(a: &Appliance, count: usize) -> Vec<String> {
    let all: Vec<_> = (0..count).map(|_| claim_from(a, NEIGHBOUR, WRONG)).collect();
    let read = |g: std::process::Child| String::from_utf8(g.wait_with_output().unwrap().stdout).unwrap();
    all.into_iter().map(read).collect()
}

#[test]
fn a_neighbours_wrong_codes_do_not_change_the_code() {
    let a = Appliance::start();
    let first = text(&screen(&a), "claim_code");
    let said = try_claim(&a, WRONG);
    assert_eq!(said.status, 401, "{}", said.body);
    assert!(!said.body.contains(&first));
    let answers = guesses(&a, 40);
    assert!(answers.iter().all(|s| s == "401" || s == "429"), "{answers:?}");
    assert!(answers.iter().any(|s| s == "429"), "slowed down: {answers:?}");
    assert_eq!(text(&screen(&a), "claim_code"), first, "the one on the screen stays");
    // A wrong one is told so by the command line, and the right one that was read before all of this works.
    let laptop = Laptop::new();
    let (at, print) = (url(&a), text(&screen(&a), "ca_fingerprint"));
    let login = ["login", &at, "--fingerprint", &print, "--code", "-"];
    let said = laptop.fails(1, &login, WRONG);
    assert!(said.contains("claim code is wrong"), "{said}");
    assert!(!laptop.contexts().exists(), "nothing is kept");
    laptop.piped(&login, &first);
    let late = try_claim(&a, &first);
    assert_eq!(late.status, 409, "a code works once: {}", late.body);
    assert!(late.body.contains("claimed already"));
    let said = Laptop::new().fails(1, &login, &first);
    assert!(said.contains("claimed already"), "{said}");
    assert!(!a.log().contains(first.as_str()), "a code is in the log");
}

#[test]
fn a_right_code_is_taken_from_an_address_that_is_slowed_down() {
    let a = Appliance::start();
    let code = text(&screen(&a), "claim_code");
    // From then on every wrong code of it is refused with 429 for some seconds; a right one never is.
    wait_for("the address is put on hold", MINUTE, || {
        guesses(&a, 14).iter().filter(|s| *s == "429").count() >= 3
    });
    let right = claim_from(&a, NEIGHBOUR, &code).wait_with_output().unwrap();
    assert_eq!(String::from_utf8(right.stdout).unwrap(), "200");
    assert_eq!(screen(&a)["claimed"], true);
}

#[test]
fn a_claim_by_key_goes_on_while_a_neighbour_guesses() {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
    use ring::signature::{Ed25519KeyPair, KeyPair};
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let mut blob = Vec::new();
    for part in [&b"ssh-ed25519"[..], pair.public_key().as_ref()] {
        blob.extend((part.len() as u32).to_be_bytes());
        blob.extend(part);
    }
    let a = Appliance::with(Options {
        extra: format!("[claim]\npublic_key = \"ssh-ed25519 {}\"\n", BASE64.encode(blob)),
        ..Options::default()
    });
    let claim = format!("{}/api/claim", url(&a));
    let nonce = text(&a.curl(&[&claim]).json(), "nonce");
    let print = text(&screen(&a), "ca_fingerprint");
    let anchor: Vec<u8> = print.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    // In flight: the nonce is given out, the signature is not there yet.
    guesses(&a, 15);
    let message = berth::claim::message(anchor.as_slice().try_into().unwrap(), &BASE64.decode(&nonce).unwrap());
    let signature = BASE64.encode(pair.sign(&message));
    let body = json!({ "by": "key", "nonce": nonce, "signature": signature }).to_string();
    let answer = a.curl(&["-d", &body, &claim]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(screen(&a)["claimed"], true);
}

/// A connection that is cut is called that, whatever a library calls it.
#[test]
fn a_connection_that_is_cut_is_told_in_words() {
    // Closed before a word of the client was read, and after: the kernel tells the one as a reset.
    for heard in [0, 1, 16] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = format!("https://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.read_exact(&mut [0; 16][..heard]).unwrap();
                drop(stream);
            }
        });
        let said = Laptop::new().fails(1, &["login", &at], "");
        assert!(
            said.contains("closed the connection") && said.contains("first time"),
            "after {heard} bytes: {said}"
        );
    }

    // In the middle of a log: behind a relay that ends.
    let a = Appliance::start();
    let laptop = claimed(&a);
    let i = a.run("everything", &[]);
    let relay = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, upstream) = (relay.local_addr().unwrap().port(), a.https);
    let (cut, told) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let (client, _) = relay.accept().unwrap();
        let supervisor = std::net::TcpStream::connect(("127.0.0.1", upstream)).unwrap();
        for (from, to) in [(&client, &supervisor), (&supervisor, &client)] {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
        let _ = told.recv();
        for stream in [client, supervisor] {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    });
    let kept = std::fs::read_to_string(laptop.contexts()).unwrap();
    let moved = kept.replace(&format!("localhost:{upstream}"), &format!("localhost:{port}"));
    assert_ne!(kept, moved);
    std::fs::write(laptop.contexts(), moved).unwrap();
    let mut command = laptop.command(&["logs", &i.id, "--follow"]);
    let mut follows = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(follows.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(!line.is_empty(), "it follows");
    drop(cut);
    let out = follows.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("was cut") && !said.contains("://"), "{said}");
}

#[test]
fn a_stranger_is_not_told_the_version() {
    let a = Appliance::start();
    let version = env!("CARGO_PKG_VERSION");
    for path in [
        "/",
        "/api/claim",
        "/api/v1/status",
        "/vnc/abcdefghij/",
        "/mcp/abcdefghij",
    ] {
        let answer = a.curl(&["--include", &format!("{}{path}", url(&a))]);
        assert!(!answer.body.contains(version), "{path}: {}", answer.body);
    }
    assert_eq!(a.curl(&[&format!("{}/api/claim", url(&a))]).json().get("version"), None);
    // A member is.
    assert_eq!(claimed(&a).json(&["status"])["version"], version);
}

fn text_or(v: &Value, key: &str) -> String {
    v[key].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_rotated_token_goes_on_for_a_while_and_ends_by_itself_with_what_it_opened() {
    let a = Appliance::start();
    let laptop = claimed(&a);
    let i = a.run("fixture-echo", &[]);
    let old = admin_token(&laptop);
    let mut follows = laptop
        .command(&["logs", &i.id, "--follow"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let tokens = a.json(&["token", "list"]);
    let admin = tokens.as_array().unwrap().iter().find(|t| t["member"] == "admin");
    let (id, name) = (text(admin.unwrap(), "id"), &admin.unwrap()["name"]);
    let status = |token: &str| with_token(&a, "GET", "/api/v1/status", token, &[]).status;
    let rotate = |token: &str, body: Value| {
        let body = body.to_string();
        with_token(&a, "POST", "/api/v1/actions", token, &["-d", &body])
    };
    // Its own holder rotates it. Both are valid for as long as was asked for.
    let made = rotate(&old, json!({ "action": "rotate_token", "id": id, "overlap_s": 6 }));
    let began = std::time::Instant::now();
    assert_eq!(made.status, 200, "{}", made.body);
    let new = text(&made.json(), "token");
    assert_eq!((&made.json()["member"], &made.json()["name"]), (&json!("admin"), name));
    let both = (status(&old), status(&new));
    assert!(
        both == (200, 200) || began.elapsed() > Duration::from_secs(5),
        "{both:?}"
    );
    wait_for("the old one ends", MINUTE, || status(&old) == 401);
    wait_for("and its stream", MINUTE, || follows.try_wait().unwrap().is_some());
    assert_eq!(status(&new), 200);
    let again = rotate(&new, json!({ "action": "rotate_token", "id": id }));
    assert_eq!(
        (again.status, again.json()["code"].as_str()),
        (409, Some("token-over")),
        "{}",
        again.body
    );
    let own = a.json(&["token", "list"]);
    let own = own
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["id"] == made.json()["id"])
        .unwrap();
    let itself = json!({ "action": "rotate_token", "id": own["id"], "overlap_s": 0 });
    let refused = rotate(&new, itself);
    assert_eq!(
        refused.json()["code"],
        "rotates-itself",
        "its answer would be cut: {}",
        refused.body
    );
    assert_eq!(status(&new), 200);
    // By the command line, and at once: an instance's, whose lifetime stays.
    let timed = a.json(&["token", "create", "--instance", &i.id, "--expires", "7d"]);
    let said = a.cli(&["token", "rotate", &text(&timed, "id"), "--overlap", "0"]);
    assert!(
        said.contains("is revoked") && said.contains("shown only once"),
        "{said}"
    );
    assert_eq!(a.post(&i.url, &text(&timed, "token"), INITIALIZE, &[]).status, 401);
    let left = a.json(&["token", "list"]);
    let of_instance = |t: &&Value| t["instance"] == json!(i.id) && t["expires_at"].is_string();
    let left: Vec<_> = left.as_array().unwrap().iter().filter(of_instance).collect();
    let at = |key: &str| {
        left[0][key]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
            .as_second()
    };
    assert_eq!(
        (left.len(), (at("expires_at") - at("created_at") + 43_200) / 86_400),
        (1, 7)
    );
    assert!(
        a.cli_fails(1, &["token", "rotate", "aaaaaaaaaaaa"])
            .contains("no token")
    );
    assert!(
        a.cli_fails(1, &["token", "rotate", &id, "--overlap", "soon"])
            .contains("such as 7d")
    );
}

#[test]
fn an_unclaimed_appliance_does_nothing_else_over_the_network() {
    let a = Appliance::with(Options {
        extra: "[claim]\nrequired = true\n".into(),
        ..Options::default()
    });
    // Over its own socket it works already.
    let i = a.run("fixture-echo", &[]);
    assert_eq!(screen(&a)["claim_required"], true);
    for at in [&i.url, &i.path_url] {
        let answer = a.post(at, &i.token, INITIALIZE, &[]);
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(answer.body.contains("not claimed yet"), "{}", answer.body);
    }
    for (method, path) in [
        ("GET", "/api/v1/status"),
        ("POST", "/api/v1/actions"),
        ("GET", "/api/v1/ca"),
        ("GET", "/api/metrics"),
    ] {
        let answer = with_token(&a, method, path, "brt_m_x", &[]);
        assert_eq!(answer.status, 503, "{method} {path}: {}", answer.body);
    }
    assert_eq!(a.curl(&[&format!("{}/", url(&a))]).status, 200);
    let hello = a.curl(&[&format!("{}/api/claim", url(&a))]).json();
    assert_eq!((&hello["claimed"], &hello["key"]), (&json!(false), &json!(false)));
    let laptop = claimed(&a);
    assert_eq!(a.post(&i.url, &i.token, INITIALIZE, &[]).status, 200);
    // Its administrator reset, the box is shut again.
    let said = laptop.fails(1, &["reset-admin"], "");
    assert!(said.contains("only possible on the box itself"), "{said}");
    assert!(a.cli(&["reset-admin"]).contains("claim code"));
    assert_eq!(a.post(&i.url, &i.token, INITIALIZE, &[]).status, 503);
}

#[test]
fn a_reset_revokes_the_administrators_tokens_and_no_others() {
    let mut a = Appliance::start();
    let laptop = claimed(&a);
    let i = a.run("fixture-echo", &[]);
    let old = admin_token(&laptop);
    assert_eq!(with_token(&a, "GET", "/api/v1/status", &old, &[]).status, 200);
    let first = a.json(&["reset-admin"]);
    assert_eq!(first["claimed"], false);
    assert_eq!(with_token(&a, "GET", "/api/v1/status", &old, &[]).status, 401);
    assert_eq!(a.post(&i.url, &i.token, INITIALIZE, &[]).status, 200);
    let said = a.cli_fails(1, &["token", "create", "--member", "admin"]);
    assert!(said.contains("no administrator yet"), "{said}");
    // What was acknowledged survives a kill; the code lives in memory alone, so there is a new one.
    a.kill();
    a.launch();
    let now = screen(&a);
    assert_eq!(now["claimed"], false);
    assert_ne!(now["claim_code"], first["claim_code"]);
    assert_eq!(with_token(&a, "GET", "/api/v1/status", &old, &[]).status, 401);
    let laptop = claimed(&a);
    a.kill();
    a.launch();
    assert_eq!(screen(&a)["claimed"], true, "claimed stays claimed");
    assert_eq!(laptop.json(&["list"])[0]["id"], json!(i.id));
}

/// Whoever asks for it may be gone before the answer: what was done is done whole, and the box can be claimed.
#[test]
fn a_reset_that_nobody_waits_for_leaves_a_claim_code() {
    let a = Appliance::start();
    for _ in 0..5 {
        claimed(&a);
        let body = r#"{"action":"reset_admin"}"#;
        let request = format!(
            "POST /v1/actions HTTP/1.1\r\nHost: berth\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut socket = UnixStream::connect(a.socket()).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        // Time to be read, and no answer is.
        wait_for("the reset", MINUTE, || screen(&a)["claimed"] == false);
        drop(socket);
        wait_for("a claim code", MINUTE, || screen(&a)["claim_code"].is_string());

        let mut gone = UnixStream::connect(a.socket()).unwrap();
        claimed(&a);
        gone.write_all(request.as_bytes()).unwrap();
        drop(gone);
        // It may have gone too early to be read: then nothing is done. Half of it never is.
        wait_for("all of it, or nothing", MINUTE, || {
            let state = screen(&a);
            (state["claimed"] == false) == state["claim_code"].is_string()
        });
        a.cli(&["reset-admin"]);
    }
}

#[test]
fn an_administrators_key_claims_without_a_code() {
    let keys = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let file = keys.path().join(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&file)
            .status();
        assert!(made.unwrap().success());
        file
    };
    let (mine, other) = (make("mine"), make("other"));
    let public = std::fs::read_to_string(mine.with_extension("pub")).unwrap();
    let a = Appliance::with(Options {
        extra: format!("[claim]\npublic_key = {:?}\n", public.trim()),
        ..Options::default()
    });
    let (at, print) = (url(&a), text(&screen(&a), "ca_fingerprint"));
    let laptop = Laptop::new();
    let login = |key: &Path| {
        let key = key.to_str().unwrap().to_owned();
        [
            "login".to_owned(),
            at.clone(),
            "--fingerprint".into(),
            print.clone(),
            "--key".into(),
            key,
        ]
    };
    let args = login(&other);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = laptop.fails(1, &args, "");
    assert!(said.contains("not by the key"), "{said}");
    assert_eq!(screen(&a)["claimed"], false);
    let args = login(&mine);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    laptop.cli(&args);
    laptop.cli(&["status"]);
    let said = Laptop::new().fails(1, &args, "");
    assert!(said.contains("claimed already"), "{said}");
}

#[test]
fn nothing_is_sent_to_a_box_with_another_fingerprint() {
    let a = Appliance::start();
    let laptop = Laptop::new();
    let at = url(&a);
    let print = "AB:".repeat(31) + "AB";
    let code = text(&screen(&a), "claim_code");
    let said = laptop.fails(1, &["login", &at, "--fingerprint", &print, "--code", "-"], &code);
    assert!(
        said.contains("a different fingerprint") && said.contains("nothing was sent"),
        "{said}"
    );
    // Without a person to compare it, it must be given.
    let said = laptop.fails(1, &["login", &at, "--code", "-"], &code);
    assert!(said.contains("--fingerprint"), "{said}");
    assert_eq!(screen(&a)["claimed"], false);
    // Later, too: another box at the same address gets nothing.
    let laptop = claimed(&a);
    let other = Appliance::start();
    let kept = std::fs::read_to_string(laptop.contexts()).unwrap();
    let moved = kept.replace(&format!(":{}", a.https), &format!(":{}", other.https));
    std::fs::write(laptop.contexts(), moved).unwrap();
    let said = laptop.fails(1, &["status"], "");
    assert!(said.contains("does not show the certificate"), "{said}");
}

#[test]
fn contexts_are_listed_switched_and_forgotten() {
    let a = Appliance::start();
    let laptop = claimed(&a);
    let listed = laptop.json(&["context", "list"]);
    assert_eq!(listed[0], json!({ "name": "box", "url": url(&a), "in_use": true }));
    assert_eq!(listed[1]["name"], "local");
    let shown = laptop.cli(&["context", "show"]);
    assert!(
        shown.contains(&text(&screen(&a), "ca_fingerprint")) && !shown.contains("brt_m_"),
        "{shown}"
    );
    laptop.cli(&["context", "use", "local"]);
    let said = laptop.fails(1, &["status"], "");
    assert!(
        said.contains("no supervisor answers on /run/berth/admin.sock") || said.is_empty(),
        "{said}"
    );
    laptop.cli(&["status", "--context", "box"]);
    let by_env = laptop
        .command(&["status"])
        .env("BERTH_CONTEXT", "box")
        .output()
        .unwrap();
    assert!(by_env.status.success());
    laptop.cli(&["context", "use", "box"]);
    // A socket that is named wins, and both at once make no sense.
    let socket = a.socket();
    let socket = socket.to_str().unwrap();
    laptop.cli(&["reset-admin", "--socket", socket]);
    laptop.fails(2, &["status", "--socket", socket, "--context", "box"], "");
    // Of another box by the same name: refused before anything is asked.
    let said = laptop.fails(1, &["login", "https://127.0.0.1:1", "--name", "box"], "");
    assert!(said.contains("another box"), "{said}");
    laptop.cli(&["context", "rm", "box"]);
    assert!(!std::fs::read_to_string(laptop.contexts()).unwrap().contains("brt_m_"));
    assert!(!laptop.0.path().join("berth/box-ca.pem").exists());
    laptop.fails(1, &["context", "use", "box"], "");
}

#[test]
fn tokens_open_their_own_doors_only() {
    let a = Appliance::start();
    let laptop = claimed(&a);
    let i = a.run("fixture-echo", &[]);
    let admin = admin_token(&laptop);
    let get = |path: &str, token: &str, more: &[&str]| with_token(&a, "GET", path, token, more);
    assert_eq!(get("/api/v1/status", &i.token, &[]).status, 403, "an instance's token");
    assert_eq!(a.post(&i.url, &admin, INITIALIZE, &[]).status, 200, "an owner's token");
    let other = a.run("memory", &["--name", "other"]);
    assert_eq!(
        a.post(&i.url, &other.token, INITIALIZE, &[]).status,
        403,
        "of another instance"
    );
    let bare = a.curl(&[&format!("{}/api/v1/status", url(&a))]);
    assert_eq!(bare.status, 401);
    assert!(bare.header("www-authenticate").unwrap().starts_with("Bearer"));
    assert_eq!(bare.header("content-type").unwrap(), "application/problem+json");
    assert_eq!(bare.json()["code"], "unauthenticated");
    // Not by cookie, not from another site's page, whatever else is right.
    let cookie = a.curl(&[
        "-H",
        &format!("Cookie: token={admin}"),
        &format!("{}/api/v1/status", url(&a)),
    ]);
    assert_eq!(cookie.status, 401);
    let foreign = get("/api/v1/status", &admin, &["-H", "Origin: https://evil.example"]);
    assert_eq!(foreign.status, 403);
    let pre_flight = get("/api/v1/status", &admin, &["-X", "OPTIONS"]);
    assert_eq!(pre_flight.status, 405);
    let own = get("/api/v1/status", &admin, &["-H", &format!("Origin: {}", url(&a))]);
    assert_eq!(own.status, 200);
    assert_eq!(own.header("cache-control"), Some("no-store"));
    assert!(own.header("access-control-allow-origin").is_none());
    assert_eq!(own.json()["box"].get("claim_code"), None);
    // Bounds, and what is not there.
    let big = "x".repeat(1024 * 1024 + 1);
    let body = a.dir().join("big");
    std::fs::write(&body, big).unwrap();
    // In HTTP/1.1, as our own command line speaks it: curl takes the end of an HTTP/2 stream for a fault of the server's.
    let file = format!("@{}", body.display());
    let big = with_token(
        &a,
        "POST",
        "/api/v1/actions",
        &admin,
        &["--http1.1", "--data-binary", &file],
    );
    assert_eq!(big.status, 413, "{}", big.body);
    assert_eq!(get("/api/v1/nothing", &admin, &[]).status, 404);
    assert_eq!(
        with_token(
            &a,
            "POST",
            "/api/v1/actions",
            &admin,
            &["-d", r#"{"action":"reset_admin"}"#]
        )
        .status,
        403
    );
    assert_eq!(
        with_token(&a, "POST", "/api/v1/actions", &admin, &["-d", r#"{"action":"claim"}"#]).status,
        409
    );
    assert_eq!(screen(&a)["claimed"], true);
    // On an instance's own host there is no API.
    let on_instance = format!("{}/api/v1/status", i.url.strip_suffix("/mcp").unwrap());
    assert_eq!(
        a.curl(&["-H", &format!("Authorization: Bearer {admin}"), &on_instance])
            .status,
        404
    );
}

#[test]
fn the_page_says_how_to_claim_by_whatever_name_it_was_asked() {
    let a = Appliance::start();
    let at = format!("{}/", url(&a));
    let page = a.curl(&[&at]);
    assert_eq!(page.status, 200);
    assert!(page.body.contains(&format!("berth login {}", url(&a))), "{}", page.body);
    // By address as well, and it names that address.
    let by_address = a.curl(&[&format!("https://127.0.0.1:{}/", a.https)]);
    assert!(
        by_address
            .body
            .contains(&format!("berth login https://127.0.0.1:{}", a.https))
    );
    for host in ["app.localhost", "box.lan", "192.0.2.7"] {
        assert_eq!(a.curl(&["-H", &format!("Host: {host}"), &at]).status, 200, "{host}");
    }
    for version in ["--http1.1", "--http2"] {
        let head = a.curl(&["--head", version, &at]);
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert!(head.header("content-length").unwrap().parse::<usize>().unwrap() > 1000);
    }
    claimed(&a);
    assert_eq!(a.curl(&[&at]).header("location"), Some("/sign-in"));
}

#[test]
fn certificates_of_ones_own_are_trusted_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let openssl = |args: &[&str]| {
        let out = Command::new("openssl").args(args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let ca = ["req", "-x509", "-subj", "/CN=Our own CA", "-days", "9"];
    openssl(&[&ca[..], &curve, &["-keyout", &at("ca.key"), "-out", &at("ca.pem")]].concat());
    let asked = ["req", "-subj", "/CN=box"];
    openssl(&[&asked[..], &curve, &["-keyout", &at("key.pem"), "-out", &at("csr.pem")]].concat());
    std::fs::write(at("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    let signed = ["x509", "-req", "-days", "9", "-CAcreateserial"];
    openssl(
        &[
            &signed[..],
            &["-in", &at("csr.pem"), "-CA", &at("ca.pem"), "-CAkey", &at("ca.key")],
            &["-extfile", &at("ext"), "-out", &at("cert.pem")],
        ]
        .concat(),
    );
    let a = Appliance::with(Options {
        extra: format!(
            "[tls]\nmode = \"files\"\ncert = {:?}\nkey = {:?}\n",
            at("cert.pem"),
            at("key.pem")
        ),
        ..Options::default()
    });
    let code = text(&screen(&a), "claim_code");
    let laptop = Laptop::new();
    let address = url(&a);
    let said = laptop.fails(1, &["login", &address, "--code", "-"], &code);
    assert!(said.contains("--ca"), "{said}");
    laptop.piped(&["login", &address, "--ca", &at("ca.pem"), "--code", "-"], &code);
    assert_eq!(laptop.json(&["status"])["box_id"], a.box_id());
}

/// Silent connections, so many from each of four addresses, to this port.
fn silent(port: u16, each: usize) -> Vec<std::os::fd::OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    use std::os::fd::AsRawFd;
    let open = |last: u8| {
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
        bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, last, 0)).unwrap();
        connect(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).unwrap();
        fd
    };
    (0..each).flat_map(|_| (2..=5).map(open)).collect()
}

#[test]
fn silent_connections_shut_nobody_out_and_leave_descriptors() {
    let a = Appliance::with(Options {
        files: Some("256:1024"),
        ..Options::default()
    });
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", a.pid())).unwrap();
    let files = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
    assert_eq!(
        files.split_whitespace().nth(3),
        Some("1024"),
        "raised at the start: {files}"
    );
    assert!(
        a.log().contains("files may be open at once"),
        "and the edge is bounded by it"
    );
    let laptop = claimed(&a);
    let i = a.run("fixture-echo", &[]);
    let _https = silent(a.https, 1024);
    let _http = silent(a.http, 256);
    // The admin socket, the administrator over the network, a client with its token, the redirect, and a new instance.
    a.cli(&["status"]);
    laptop.cli(&["status"]);
    assert_eq!(a.post(&i.url, &i.token, INITIALIZE, &[]).status, 200);
    let answer = a.curl(&[&format!("http://localhost:{}/", a.http)]);
    assert_eq!(answer.status, 308);
    let j = a.run("fixture-echo", &[]);
    assert_eq!(a.post(&j.url, &j.token, INITIALIZE, &[]).status, 200);
    let open = std::fs::read_dir(format!("/proc/{}/fd", a.pid())).unwrap().count();
    assert!(open < 1024 - 64, "{open} descriptors are in use");
}

#[test]
fn strangers_do_not_keep_a_box_from_being_claimed() {
    let a = Appliance::with(Options {
        extra: "[claim]\nrequired = true\n[limits]\nconnections = 64\n".into(),
        ..Options::default()
    });
    let _silent = silent(a.https, 64);
    claimed(&a).cli(&["status"]);
}

/// A store as the first berth left it, with an instance and a token.
#[test]
fn a_store_of_schema_1_serves_on() {
    let mut a = Appliance::start();
    let i = a.run("fixture-echo", &[]);
    a.terminate();
    // Taken back to schema 1, by the definition of its tables and rows.
    let path = a.dir().join("state/berth.redb");
    let meta = redb::TableDefinition::<&str, &str>::new("meta");
    let tokens = redb::TableDefinition::<&str, &[u8]>::new("tokens");
    let members = redb::TableDefinition::<&str, &[u8]>::new("members");
    let db = redb::Database::open(&path).unwrap();
    let txn = db.begin_write().unwrap();
    txn.delete_table(members).unwrap();
    txn.open_table(meta).unwrap().insert("schema", "1").unwrap();
    {
        use redb::ReadableTable;
        let mut table = txn.open_table(tokens).unwrap();
        let rows: Vec<(String, Vec<u8>)> = table
            .iter()
            .unwrap()
            .map(|r| r.map(|(k, v)| (k.value().to_owned(), v.value().to_owned())).unwrap())
            .collect();
        assert_eq!(rows.len(), 1);
        for (key, row) in rows {
            let mut row: Value = serde_json::from_slice(&row).unwrap();
            row["instance"] = row["subject"]["instance"].take();
            row.as_object_mut().unwrap().remove("subject");
            let row = serde_json::to_vec(&row).unwrap();
            table.insert(key.as_str(), row.as_slice()).unwrap();
        }
    }
    txn.commit().unwrap();
    drop(db);
    a.launch();
    a.wait_state(&i.id, "running", MINUTE);
    assert_eq!(a.post(&i.url, &i.token, INITIALIZE, &[]).status, 200, "the same token");
    assert_eq!(screen(&a)["claimed"], false);
    let laptop = claimed(&a);
    assert_eq!(laptop.json(&["list"])[0]["id"], json!(i.id));
}
