//! The API is as its document says: Schemathesis sends what the document allows and what it does not, and looks at the
//! answers. Lists come in pages.

use crate::{remote::claimed, support};

use std::process::Command;

use serde_json::{Value, json};
use support::{Answer, Appliance, Options, root};

/// Makes an owner, and a token of theirs.
fn owner(a: &Appliance, name: &str) -> Value {
    a.cli(&["member", "add", name, "--role", "owner"]);
    a.json(&["token", "create", "--member", name])
}

/// Asks the API over the network.
fn ask(a: &Appliance, token: &str, path: &str, more: &[&str]) -> Answer {
    let bearer = format!("Authorization: Bearer {token}");
    let at = format!("https://localhost:{}{path}", a.https);
    let mut args = vec!["-H", &bearer];
    args.extend(more);
    args.push(&at);
    a.curl(&args)
}

#[test]
fn the_api_does_what_its_document_says() {
    let a = Appliance::with(Options {
        // It runs what it finds in the lists, and nothing from elsewhere.
        extra: "[allow]\nnpx = false\nuvx = false\nimage = false\nremote = false\n[limits]\ninstances = 4\n".into(),
        ..Options::default()
    });
    claimed(&a);
    let made = owner(&a, "schemathesis-owner");
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let (i, spare) = (a.run("linux-command-line", &[]), a.run("memory", &[]));
    a.cli(&["workspace", "add", "spare"]);
    a.cli(&["member", "add", "spare"]);
    a.cli(&["team", "add", "spare"]);
    let spared = a.json(&["token", "create", "--member", "spare"]);
    a.cli(&["grant", "add", "spare", &i.id]);
    let served = ask(&a, token, "/api/openapi.json", &[]);
    let kept = std::fs::read_to_string(root().join("docs/openapi.json")).unwrap();
    assert_eq!(
        (served.status, served.body),
        (200, kept),
        "the copy in docs/ is what the box serves"
    );

    let folder = root().join("tests/schemathesis");
    let out = Command::new(folder.join(".venv/bin/schemathesis"))
        .arg("run")
        .arg(format!("https://localhost:{}/api/openapi.json", a.https))
        .arg("--no-color")
        .args(["--tls-verify", a.ca().to_str().unwrap()])
        .current_dir(&folder)
        .env("BERTH_TOKEN", token)
        .env("BERTH_INSTANCE", &i.id)
        .env("BERTH_TOKEN_ID", id)
        .env("BERTH_KEPT", format!("{id},schemathesis-owner,{}", i.id))
        .env(
            "BERTH_SPARE",
            format!("{},{}", spare.id, spared["id"].as_str().unwrap()),
        )
        .env("PYTHONPATH", &folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("Schemathesis is installed (tests/clients/setup)");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && said.contains(" generated, "),
        "{}\n{}\n{}",
        out.status,
        support::tail(&said, 400),
        String::from_utf8_lossy(&out.stderr)
    );
    println!("{}", support::tail(&said, 30));
    let me = ask(&a, token, "/api/v1/whoami", &[]);
    assert!(
        me.status == 200 && me.json()["owner"] == true,
        "{}: it was let in to the end",
        me.body
    );
    assert_eq!(a.show(&i.id)["state"], "running");
    let all = a.json(&["list"]);
    let ids: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|v| v["state"] != "removing")
        .map(|v| v["id"].as_str().unwrap())
        .collect();
    a.cli(&[&["rm"], &ids[..]].concat());
}

/// All pages of a list, each with so many items at most.
fn pages(a: &Appliance, token: &str, list: &str, limit: usize) -> Vec<Vec<Value>> {
    let mut next = Some(format!("/api/v1/{list}?limit={limit}"));
    let mut all = Vec::new();
    while let Some(path) = next {
        let answer = ask(a, token, &path, &[]);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        next = answer.header("link").map(|link| {
            let (target, relation) = link.split_once('>').unwrap();
            assert_eq!(relation, "; rel=\"next\"");
            target.strip_prefix('<').unwrap().to_owned()
        });
        all.push(answer.json().as_array().unwrap().clone());
        assert!(all.len() < 100, "{list} has an end");
    }
    all
}

#[test]
fn lists_come_in_pages_of_what_the_asker_may_know_of() {
    let a = Appliance::start();
    claimed(&a);
    let made = owner(&a, "second");
    let token = made["token"].as_str().unwrap();
    for workspace in ["here", "there"] {
        a.cli(&["workspace", "add", workspace]);
        for name in ["x", "y"] {
            a.cli(&["team", "add", &format!("{workspace}/{name}")]);
        }
    }
    let i = a.run("memory", &["--workspace", "here", "--no-wait"]);
    for n in 0..3 {
        let name = format!("user-{n}");
        a.cli(&["member", "add", &name, "--workspace", "here"]);
        a.cli(&["grant", "add", &name, &i.id]);
    }
    for list in [
        "instances",
        "tokens",
        "members",
        "teams",
        "grants",
        "workspaces",
        "types",
        "images",
    ] {
        let whole = ask(&a, token, &format!("/api/v1/{list}"), &[]);
        assert_eq!(whole.header("link"), None, "{list}");
        let whole = whole.json().as_array().unwrap().clone();
        let paged = pages(&a, token, list, 2);
        assert!(paged.iter().all(|page| page.len() <= 2), "{list}");
        assert_eq!(paged.len(), whole.len().div_ceil(2).max(1), "{list}: no page is empty");
        let name = |item: &Value| {
            let of = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
            ["id", "instance", "member", "workspace", "name"].map(of)
        };
        let names = |all: &[Value]| all.iter().map(name).collect::<Vec<_>>();
        assert_eq!(names(&paged.concat()), names(&whole), "{list}");
    }
    // A page has as many as there may be of what its asker may know of, whatever else there is between.
    let theirs = a.json(&["token", "create", "--member", "user-1"]);
    let theirs = theirs["token"].as_str().unwrap();
    for (list, many) in [
        ("members", 1),
        ("grants", 1),
        ("workspaces", 1),
        ("tokens", 1),
        ("teams", 0),
    ] {
        let seen = pages(&a, theirs, list, 1);
        assert_eq!((seen.len(), seen.concat().len()), (1, many), "{list}: {seen:?}");
    }
    for wrong in ["limit=0", "limit=1001", "limit=x", "after=!", "after=", "after=_w"] {
        let answer = ask(&a, token, &format!("/api/v1/tokens?{wrong}"), &[]);
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (400, &json!("bad-parameter")),
            "{wrong}"
        );
    }
    a.cli(&["rm", &i.id]);
}

#[test]
fn what_can_be_read_has_a_head_and_another_method_is_told_which_there_are() {
    let a = Appliance::start();
    claimed(&a);
    let made = owner(&a, "second");
    let token = made["token"].as_str().unwrap();
    let head = ask(&a, token, "/api/v1/whoami", &["--head"]);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let whole = ask(&a, token, "/api/v1/whoami", &[]);
    assert_eq!(head.header("content-length").unwrap(), whole.body.len().to_string());
    for (method, path, allow) in [
        ("DELETE", "/api/v1/whoami", "GET, HEAD"),
        ("GET", "/api/v1/actions", "POST"),
        ("PUT", "/api/v1/images", "GET, HEAD, POST"),
        ("OPTIONS", "/api/v1/whoami", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD, POST"),
    ] {
        let answer = ask(&a, token, path, &["-X", method]);
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some(allow)),
            "{method} {path}"
        );
        assert_eq!(answer.json()["code"], "bad-method");
    }
    assert_eq!(ask(&a, token, "/api/v1/nothing", &["-X", "DELETE"]).status, 404);
}

#[test]
fn what_is_written_otherwise_than_the_document_says_is_refused() {
    let a = Appliance::start();
    claimed(&a);
    let made = owner(&a, "second");
    let token = made["token"].as_str().unwrap();
    a.cli(&["workspace", "add", "here"]);
    let i = a.run("memory", &["--workspace", "here", "--name", "notes", "--no-wait"]);
    let waits = |ms: &str| format!("/api/v1/instances/{}/wait?ms={ms}", i.id);
    let (most, more) = (waits("300000"), waits("300001"));
    assert_eq!(ask(&a, token, &most, &["--max-time", "120"]).status, 200, "it settles");
    // Percent-encoding is that of RFC 3986, in UTF-8.
    for one in ["here%2Fnotes", "here%2fnotes", "%68ere%2F%6eotes"] {
        let answer = ask(&a, token, &format!("/api/v1/instances/{one}"), &[]);
        assert_eq!(
            (answer.status, answer.json()["id"].as_str()),
            (200, Some(i.id.as_str())),
            "{one}"
        );
    }
    let unknown = ask(&a, token, "/api/v1/instances/caf%C3%A9+1", &[]);
    assert_eq!((unknown.status, &unknown.json()["name"]), (404, &json!("caf\u{e9}+1")));
    for (path, code) in [
        (more.as_str(), "bad-parameter"),
        ("/api/v1/instances/%zz", "bad-path"),
        ("/api/v1/instances/%", "bad-path"),
        ("/api/v1/instances/caf%E9/logs", "bad-path"),
        ("/api/v1/instances/%/wait", "bad-path"),
        ("/api/v1/audit?since=2027-01-31", "bad-parameter"),
        ("/api/v1/audit?since=2027-01-31T10:00:00Z[UTC]", "bad-parameter"),
        ("/api/v1/audit?until=20270131T100000Z", "bad-parameter"),
        ("/api/v1/usage?since=20270131", "bad-parameter"),
    ] {
        let answer = ask(&a, token, path, &["--globoff"]);
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (400, &json!(code)),
            "{path}: {}",
            answer.body
        );
    }
    let bad = ask(&a, token, "/api/v1/usage?since=20270131", &[]);
    assert!(bad.body.contains("write a date such as 2027-01-31"), "{}", bad.body);
    let act = |body: Value| {
        let more = ["-H", "Content-Type: application/json", "-d", &body.to_string()];
        ask(&a, token, "/api/v1/actions", &more)
    };
    for end in ["2040-01-01", "2040-01-01 10:00:00Z", "2040-01-01T10:00Z", "tomorrow"] {
        let grant = json!({ "action": "add_grant", "member": "second", "instance": i.id, "until": end });
        let made = json!({ "action": "create_token", "instance": i.id, "expires_at": end });
        for (body, field) in [(grant, "until"), (made, "expires_at")] {
            let answer = act(body);
            let problem = answer.json();
            assert_eq!(
                (answer.status, &problem["code"], &problem["field"]),
                (400, &json!("bad-time"), &json!(field))
            );
        }
    }
    let made = act(json!({ "action": "create_token", "instance": i.id, "expires_at": "2040-01-01t10:00:00.5+02:00" }));
    assert_eq!(made.json()["expires_at"], "2040-01-01T08:00:00.5Z", "{}", made.body);
    for forms in [["--expires", "2040-01-01T10:00"], ["--expires", "20400101"]] {
        let said = a.cli_fails(1, &[&["token", "create", "--instance", &i.id], &forms[..]].concat());
        assert!(said.contains("2027-01-31T10:00:00Z"), "{said}");
    }
    // What claims a box is in the document as well.
    let document = ask(&a, token, "/api/openapi.json", &[]).json();
    let hello = a.curl(&[&format!("https://localhost:{}/api/claim", a.https)]).json();
    let known = &document["components"]["schemas"]["Hello"]["properties"];
    assert!(
        hello
            .as_object()
            .unwrap()
            .keys()
            .all(|field| known.get(field).is_some()),
        "{hello}"
    );
    a.cli(&["rm", &i.id]);
}
