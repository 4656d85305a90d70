//! Every type that is shipped: deployed, and called by a real client; those that work with a database, with the real one.

use crate::support;

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use support::{Appliance, Instance, Options, root, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// Calls tools through the official client; its report: `server`, `tools`, `answers`.
fn called(a: &Appliance, i: &Instance, calls: &Value) -> Value {
    let out = Command::new(root().join("tests/clients/run"))
        .args(["ts1", "use", &calls.to_string()])
        .env("BERTH_URL", &i.url)
        .env("BERTH_TOKEN", &i.token)
        .env("NODE_EXTRA_CA_CERTS", a.ca())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{calls}: {wrong}\n{}", a.cli(&["logs", &i.id]));
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

fn has_tool(report: &Value, name: &str) {
    let tools = report["tools"].as_array().unwrap();
    assert!(tools.iter().any(|t| t == name), "{name} is not in {tools:?}");
}

/// The text of an answer that is no error.
fn answer(report: &Value, n: usize) -> &str {
    let answer = &report["answers"][n];
    assert_eq!(answer["error"], false, "{answer}");
    answer["text"].as_str().unwrap()
}

/// Something of the test's own, in a container on the host's network, removed with this.
struct Beside<'a> {
    a: &'a Appliance,
    id: String,
}

impl<'a> Beside<'a> {
    fn run(a: &'a Appliance, image: &str, script: &str) -> Self {
        let args = [
            "run",
            "-d",
            "--network",
            "host",
            "--tmpfs",
            "/tmp:mode=1777,size=512m",
            "--entrypoint",
        ];
        let args = [&args[..], &["sh", image, "-euc", script]].concat();
        let id = a.docker_lines(&args).remove(0);
        Self { a, id }
    }

    fn wait_for_port(&self, at: SocketAddr) {
        wait_for(&format!("a server on {at}"), MINUTE, || {
            let ended = self
                .a
                .docker_lines(&["ps", "-q", "--no-trunc", "--filter", &format!("id={}", self.id)])
                .is_empty();
            assert!(!ended, "the server beside has ended");
            TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok()
        });
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let out = self.a.docker(&["logs", "--tail", "20", &self.id]);
            eprintln!("--- beside\n{}", String::from_utf8_lossy(&out.stderr));
        }
        let _ = self.a.docker(&["rm", "-f", "-v", &self.id]);
    }
}

/// This machine's own address, and a port there that nobody listens on.
fn address() -> SocketAddr {
    TcpListener::bind((support::own_address(), 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Runs a type whose outside service is not there yet: it fails with its own words.
fn run_without_service(a: &Appliance, type_name: &str, env: &str, words: &str) -> Instance {
    let out = a.piped(&["run", type_name, "--env-file", "-", "--json"], env);
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    let view: Value = serde_json::from_slice(&out.stdout).unwrap();
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains(words), "its own words: {reason}");
    Instance::from(&view)
}

fn set(a: &Appliance, i: &Instance, key: &str, value: &str) {
    let out = a.piped(&["credential", "set", &i.id, key], value);
    assert!(
        out.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&out.stderr),
        a.cli(&["logs", &i.id])
    );
}

/// No type file without a test.
#[test]
fn every_type_is_tested_here() {
    // Desktops and generic types have files of their own.
    let tests = ["catalog", "desktop", "screen", "terminal", "generic", "lifecycle"]
        .map(|file| std::fs::read_to_string(root().join(format!("tests/engine/{file}.rs"))).unwrap())
        .concat();
    for entry in std::fs::read_dir(root().join("instance-types")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(tests.contains(&format!("\"{name}\"")), "{name}");
    }
}

#[test]
fn the_reference_servers() {
    let a = Appliance::start();
    let i = a.run("everything", &[]);
    let said = called(&a, &i, &json!([["echo", { "message": "hello" }]]));
    assert!(answer(&said, 0).contains("hello"));
    a.cli(&["rm", &i.id]);

    let i = a.run("sequential-thinking", &[]);
    let thought = json!({ "thought": "one", "thoughtNumber": 1, "totalThoughts": 2, "nextThoughtNeeded": true });
    let said = called(&a, &i, &json!([["sequentialthinking", thought]]));
    assert!(answer(&said, 0).contains("totalThoughts"));
    a.cli(&["rm", &i.id]);

    let i = a.run("time", &[]);
    let said = called(&a, &i, &json!([["get_current_time", { "timezone": "Europe/Berlin" }]]));
    assert!(answer(&said, 0).contains("Europe/Berlin"));
    a.cli(&["rm", &i.id]);
}

#[test]
fn files_and_memory_last() {
    let a = Appliance::start();
    let files = a.run("filesystem", &[]);
    let write = json!([["write_file", { "path": "/data/a.txt", "content": "lasting words" }]]);
    called(&a, &files, &write);
    let memory = a.run("memory", &[]);
    let entity = json!({ "name": "berth", "entityType": "place", "observations": ["has water"] });
    called(&a, &memory, &json!([["create_entities", { "entities": [entity] }]]));
    a.cli(&["recreate", &files.id, &memory.id]);
    let said = called(&a, &files, &json!([["read_text_file", { "path": "/data/a.txt" }]]));
    assert!(answer(&said, 0).contains("lasting words"));
    let said = called(&a, &memory, &json!([["read_graph", {}]]));
    assert!(answer(&said, 0).contains("has water"));
}

/// Their services are far away: they start with what they are given, list their tools, and answer for themselves.
#[test]
fn services_start_with_credentials_and_list_their_tools() {
    let a = Appliance::start();
    let token = "ghp_0123456789abcdefghijABCDEFGHIJ012345";
    for (name, env, tool, arguments) in [
        (
            "github",
            format!("GITHUB_PERSONAL_ACCESS_TOKEN={token}\n"),
            "search_repositories",
            json!({ "query": "berth" }),
        ),
        (
            "slack",
            "SLACK_BOT_TOKEN=xoxb-1234567890-abcdef\nSLACK_TEAM_ID=T01234567\n".into(),
            "slack_list_channels",
            json!({}),
        ),
        (
            "brave-search",
            "BRAVE_API_KEY=BSA0123456789abcdef\n".into(),
            "brave_web_search",
            json!({ "query": "berth" }),
        ),
        (
            "notion",
            "NOTION_TOKEN=ntn_0123456789abcdefghijklmn\n".into(),
            "API-get-self",
            json!({}),
        ),
        (
            "context7",
            String::new(),
            "resolve-library-id",
            json!({ "query": "how to route", "libraryName": "hyper" }),
        ),
    ] {
        if !env.is_empty() {
            let said = a.cli_fails(1, &["run", name]);
            assert!(said.contains("https://"), "{name}: where to get it: {said}");
        }
        let i = a.run_with(name, &env);
        let said = called(&a, &i, &json!([[tool, arguments]]));
        has_tool(&said, tool);
        assert!(said["answers"][0]["text"].is_string(), "{name}: {said}");
        assert_eq!(a.show(&i.id)["restarts"], 0, "{name}");
        a.cli(&["rm", &i.id]);
    }
}

const TABLE: &str = "CREATE TABLE harbour (name VARCHAR(40), boats INT)";
const ROWS: &str = "INSERT INTO harbour VALUES ('north', 12), ('south', 30)";
const SUM: &str = "SELECT SUM(boats) AS boats FROM harbour";

/// A client makes a table, fills it and asks; then the answer is still there after a new container.
fn database_works(a: &Appliance, i: &Instance, tool: &str) {
    let sql = |text: &str| json!([tool, { "sql": text }]);
    let said = called(a, i, &json!([sql(TABLE), sql(ROWS), sql(SUM)]));
    assert!(answer(&said, 2).contains("42"), "{said}");
    a.cli(&["recreate", &i.id]);
    let said = called(a, i, &json!([sql(SUM), sql("SELECT nothing FROM nowhere")]));
    assert!(answer(&said, 0).contains("42"), "{said}");
    assert_eq!(said["answers"][1]["error"], true, "{said}");
}

#[test]
fn databases_of_the_instance_last() {
    let a = Appliance::start();
    for (name, tool) in [("sqlite", "execute_sql"), ("duckdb", "execute_query")] {
        let i = a.run(name, &[]);
        database_works(&a, &i, tool);
        a.cli(&["rm", &i.id]);
    }
    assert_eq!(a.leftovers(), Vec::<String>::new());
}

#[test]
fn a_real_postgresql() {
    let a = Appliance::beside_services();
    let wrong = "DSN=postgres://berth:harbour-secret@127.0.0.1:1/berth\n";
    let i = run_without_service(&a, "postgresql", wrong, "ECONNREFUSED");
    let at = address();
    let server = format!(
        "PATH=$PATH:/usr/lib/postgresql/17/bin; cd /tmp; printf harbour-secret >password
         initdb -D data -U berth --auth=scram-sha-256 --pwfile=password >/dev/null
         echo 'host all all 0.0.0.0/0 scram-sha-256' >>data/pg_hba.conf
         exec postgres -D data -h {} -p {} -k /tmp",
        at.ip(),
        at.port()
    );
    let beside = Beside::run(&a, "berth/test-databases:1", &server);
    beside.wait_for_port(at);
    set(&a, &i, "DSN", &format!("postgres://berth:harbour-secret@{at}/postgres"));
    database_works(&a, &i, "execute_sql");
    // A password that the database refuses: its words come through, and the password does not.
    let out = a.piped(
        &["credential", "set", &i.id, "DSN"],
        &format!("postgres://berth:not-the-word@{at}/postgres"),
    );
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("password authentication failed"), "{said}");
    assert!(!said.contains("not-the-word") && !a.cli(&["logs", &i.id]).contains("not-the-word"));
}

#[test]
fn a_real_mariadb() {
    let a = Appliance::beside_services();
    let wrong = "DSN=mariadb://berth:harbour-secret@127.0.0.1:1/berth\n";
    // Its driver tries for ten seconds: it gets the right address while it still starts.
    let out = a.piped(&["run", "mariadb", "--no-wait", "--env-file", "-", "--json"], wrong);
    let i = Instance::from(&serde_json::from_slice(&out.stdout).unwrap());
    wait_for("it runs", MINUTE, || a.show(&i.id)["state"] == "starting");
    let at = address();
    let server = format!(
        "cd /tmp; mariadb-install-db --no-defaults --datadir=/tmp/data --auth-root-authentication-method=normal >/dev/null
         echo \"CREATE DATABASE berth;\" >init.sql
         echo \"CREATE USER berth@'%' IDENTIFIED BY 'harbour-secret';\" >>init.sql
         echo \"GRANT ALL ON berth.* TO berth@'%';\" >>init.sql
         exec /usr/sbin/mariadbd --no-defaults --datadir=/tmp/data --socket=/tmp/m.sock --pid-file=/tmp/m.pid --init-file=/tmp/init.sql --bind-address={} --port={}",
        at.ip(),
        at.port()
    );
    let beside = Beside::run(&a, "berth/test-databases:1", &server);
    beside.wait_for_port(at);
    set(&a, &i, "DSN", &format!("mariadb://berth:harbour-secret@{at}/berth"));
    database_works(&a, &i, "execute_sql");
    // MySQL's protocol is the same, and so is the type.
    set(&a, &i, "DSN", &format!("mysql://berth:harbour-secret@{at}/berth"));
    let said = called(&a, &i, &json!([["execute_sql", { "sql": SUM }]]));
    assert!(answer(&said, 0).contains("42"), "{said}");
}

#[test]
fn git_starts_empty_or_with_a_clone() {
    let a = Appliance::beside_services();
    let i = a.run("git", &[]);
    let here = json!({ "repo_path": "/data/repository" });
    let said = called(&a, &i, &json!([["git_status", here.clone()]]));
    assert!(answer(&said, 0).contains("No commits yet"), "{said}");
    a.cli(&["rm", &i.id]);

    let i = run_without_service(
        &a,
        "git",
        "REPOSITORY_URL=git://127.0.0.1:1/harbour\n",
        "unable to connect",
    );
    let at = address();
    let server = format!(
        "export HOME=/tmp GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
         git init --quiet /tmp/harbour; cd /tmp/harbour; echo boats >file; git add file; git commit --quiet -m 'First boats'
         exec git daemon --base-path=/tmp --export-all --listen={} --port={}",
        at.ip(),
        at.port()
    );
    let beside = Beside::run(&a, "berth/mcp-git:2026.10.19", &server);
    beside.wait_for_port(at);
    set(&a, &i, "REPOSITORY_URL", &format!("git://{at}/harbour"));
    let log = json!({ "repo_path": "/data/repository", "max_count": 3 });
    let branch = json!({ "repo_path": "/data/repository", "branch_name": "quay" });
    let calls = json!([
        ["git_log", log],
        ["git_create_branch", branch],
        ["git_checkout", branch],
        ["git_status", here]
    ]);
    let said = called(&a, &i, &calls);
    assert!(answer(&said, 0).contains("First boats"), "{said}");
    assert!(answer(&said, 3).contains("On branch quay"), "{said}");
}

#[test]
fn fetch_reads_a_page() {
    // As it is shipped, it does not let itself be sent into private networks; for the test, it may.
    let shipped = std::fs::read_to_string(root().join("instance-types/fetch.toml")).unwrap();
    let program = "\"/opt/mcp/bin/mcp-server-fetch\"";
    let private = shipped
        .replace(program, &format!("{program}, \"--allow-private-ips\""))
        .replace("name = \"fetch\"", "name = \"fetch-private\"");
    let types = tempfile::tempdir().unwrap();
    std::fs::write(types.path().join("fetch-private.toml"), private).unwrap();
    let a = Appliance::with(Options {
        types: vec![root().join("instance-types"), types.path().into()],
        ..Options::beside_services()
    });
    let i = a.run("fetch", &[]);
    let private_page = format!("http://{}/harbour", address());
    let said = called(&a, &i, &json!([["fetch", { "url": private_page }]]));
    assert!(
        said["answers"][0]["text"]
            .as_str()
            .unwrap()
            .contains("not a public address"),
        "{said}"
    );
    let i = a.run("fetch-private", &[]);
    let listener = TcpListener::bind(address()).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|l| !l.unwrap().is_empty()) {}
            let (status, body) = match first.contains("/harbour") {
                true => (
                    "200 OK",
                    "<html><body><h1>Harbour</h1><p>Twelve boats.</p></body></html>",
                ),
                false => ("404 Not Found", "nothing"),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\n",
                body.len()
            );
            let _ = write!(stream, "{head}Connection: close\r\n\r\n{body}");
        }
    });
    let said = called(&a, &i, &json!([["fetch", { "url": format!("http://{at}/harbour") }]]));
    assert!(answer(&said, 0).contains("Twelve boats"), "{said}");
}
