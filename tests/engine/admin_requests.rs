//! The admin API takes what it knows and nothing else, and a token that nobody said the end of has one.

use crate::support;

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use support::{Appliance, INITIALIZE};

const MINUTE: Duration = Duration::from_secs(60);

/// Asks the admin socket: status and answer.
fn ask(a: &Appliance, path: &str, body: Option<&Value>) -> (u16, Value) {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--max-time",
        "30",
        "--write-out",
        "\n%{http_code}",
        "--unix-socket",
    ])
    .arg(a.socket())
    .arg(format!("http://berth{path}"));
    if let Some(body) = body {
        curl.args(["--json", &body.to_string()]);
    }
    let out = curl.output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let (answer, status) = text.rsplit_once('\n').unwrap();
    (
        status.parse().unwrap(),
        serde_json::from_str(answer).unwrap_or_else(|_| json!(answer)),
    )
}

fn act(a: &Appliance, action: &Value) -> (u16, Value) {
    ask(a, "/v1/actions", Some(action))
}

#[test]
fn a_field_or_parameter_that_is_not_known_is_refused_by_its_name() {
    let a = Appliance::start();
    let i = a.run("memory", &[]);
    let before = a.json(&["token", "list"]);
    let (status, said) = act(&a, &json!({ "action": "create_token", "instance": i.id, "expiry": 60 }));
    assert_eq!(status, 400, "{said}");
    assert_eq!(
        (&said["code"], &said["field"]),
        (&json!("unknown-field"), &json!("expiry")),
        "{said}"
    );
    let detail = said["detail"].as_str().unwrap();
    assert!(detail.contains("\"expiry\"") && detail.contains("expires_at"), "{said}");
    assert_eq!(a.json(&["token", "list"]), before, "no token was made");

    for action in [
        json!({ "action": "stop", "id": i.id, "force": true }),
        json!({ "action": "remove", "id": i.id, "keep_volume": true }),
        json!({ "action": "recreate", "id": i.id, "size": "large" }),
        json!({ "action": "run", "type": "memory", "sise": "small" }),
        json!({ "action": "run", "type": "npx", "source": { "kind": "npx", "package": "x", "registry": "y" } }),
        json!({ "action": "reset_admin", "keep": true }),
        json!({ "action": "set_credential", "id": i.id, "key": "K", "value": "v", "by": "somebody else" }),
        json!({ "action": "claim", "expires_at": "2030-01-01T00:00:00Z" }),
    ] {
        let (status, said) = act(&a, &action);
        assert!(
            status == 400 && said["detail"].as_str().unwrap().contains("has no field"),
            "{action}: {said}"
        );
    }
    for (path, known) in [
        (format!("/v1/instances/{}/logs?tial=1", i.id), "tail"),
        (format!("/v1/instances/{}/logs?tail=all", i.id), "tail"),
        (format!("/v1/instances/{}/wait?until=gone", i.id), "for"),
        ("/v1/instances?state=failed".to_owned(), "limit, after"),
        ("/v1/status?x=1".to_owned(), "none"),
    ] {
        let (status, said) = ask(&a, &path, None);
        assert!(
            status == 400 && said["detail"].as_str().unwrap().contains(known),
            "{path}: {said}"
        );
    }
    assert_eq!(a.show(&i.id)["state"], "running");
    a.cli(&["rm", &i.id]);
}

#[test]
fn a_members_token_ends_unless_somebody_says_that_it_does_not() {
    let a = Appliance::start();
    let (status, claimed) = act(&a, &json!({ "action": "claim" }));
    assert_eq!(status, 200, "{claimed}");
    let days = |token: &Value| {
        let at = |key: &str| {
            token[key]
                .as_str()
                .map(|t| t.parse::<jiff::Timestamp>().unwrap().as_second())
        };
        at("expires_at").map(|end| (end - at("created_at").unwrap() + 43_200) / 86_400)
    };
    assert_eq!(days(&claimed), Some(90), "{claimed}");
    let made = |more: &[&str]| a.json(&[&["token", "create"], more].concat());
    assert_eq!(days(&made(&["--member", "admin"])), Some(90));
    assert_eq!(days(&made(&["--member", "admin", "--expires", "7d"])), Some(7));
    assert_eq!(days(&made(&["--member", "admin", "--expires", "never"])), None);
    let i = a.run("memory", &[]);
    assert_eq!(days(&made(&["--instance", &i.id])), None);
    a.cli(&["rm", &i.id]);
}

#[test]
fn an_older_copy_of_the_store_revives_no_revoked_token() {
    let mut a = Appliance::start();
    let (kept, gone) = (a.run("memory", &[]), a.run("memory", &[]));
    let made = a.json(&["token", "create", "--instance", &kept.id]);
    let secret = made["token"].as_str().unwrap().to_owned();
    let status = |a: &Appliance, token: &str| a.post(&kept.path_url, token, INITIALIZE, &[]).status;
    assert_eq!(status(&a, &secret), 200);
    let store = a.dir().join("state/berth.redb");
    let copy = a.dir().join("copy.redb");
    a.terminate();
    std::fs::copy(&store, &copy).unwrap();
    a.launch();
    a.wait_state(&kept.id, "running", MINUTE);
    a.cli(&["token", "revoke", made["id"].as_str().unwrap()]);
    a.cli(&["rm", &gone.id]);
    assert_eq!(status(&a, &secret), 401);

    a.kill();
    std::fs::copy(&copy, &store).unwrap();
    a.launch();
    a.wait_state(&kept.id, "running", MINUTE);
    assert_eq!(status(&a, &secret), 401, "revoked, whatever the store says");
    assert_eq!(status(&a, &kept.token), 200);
    let tokens = a.json(&["token", "list"]).to_string();
    assert!(!tokens.contains(made["id"].as_str().unwrap()), "{tokens}");
    assert!(
        !tokens.contains(&gone.id),
        "nor those of an instance that was removed: {tokens}"
    );
    assert!(a.log().contains("an older copy was put back"));
    for view in a.json(&["list"]).as_array().unwrap() {
        a.cli(&["rm", view["id"].as_str().unwrap()]);
    }
}
