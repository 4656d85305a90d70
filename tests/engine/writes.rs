//! Writes over the network: those that say which version of a record they are for, and those that carry an idempotency key.

use crate::{remote::claimed, support};

use std::time::Duration;

use serde_json::{Value, json};
use support::{Answer, Appliance, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// A member's way to the API.
struct Caller<'a> {
    a: &'a Appliance,
    token: String,
}

impl Caller<'_> {
    /// An owner, or whatever else they are made.
    fn new<'a>(a: &'a Appliance, name: &str, role: &[&str]) -> Caller<'a> {
        a.cli(&[&["member", "add", name], role].concat());
        let made = a.json(&["token", "create", "--member", name]);
        let token = made["token"].as_str().unwrap().to_owned();
        Caller { a, token }
    }

    fn send(&self, path: &str, headers: &[&str], more: &[&str]) -> Answer {
        let bearer = format!("Authorization: Bearer {}", self.token);
        let at = format!("https://localhost:{}/api{path}", self.a.https);
        let mut args = vec!["-H", &bearer];
        headers.iter().for_each(|h| args.extend(["-H", h]));
        args.extend(more);
        args.push(&at);
        self.a.curl(&args)
    }

    fn get(&self, path: &str, headers: &[&str]) -> Answer {
        self.send(path, headers, &[])
    }

    fn list(&self, list: &str) -> Vec<Value> {
        let answer = self.get(&format!("/v1/{list}"), &[]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json().as_array().unwrap().clone()
    }

    fn act(&self, action: &Value, headers: &[&str]) -> Answer {
        let body = action.to_string();
        let json = "Content-Type: application/json";
        self.send("/v1/actions", &[headers, &[json]].concat(), &["-d", &body])
    }

    fn done(&self, action: &Value) -> Value {
        let answer = self.act(action, &[]);
        assert_eq!(answer.status, 200, "{action}: {}", answer.body);
        answer.json()
    }
}

/// The path of an item of a list.
fn path_of(list: &str, item: &Value) -> String {
    let text = |field: &str| item[field].as_str().unwrap_or_default().replace('/', "%2F");
    let name = match list {
        "instances" | "tokens" => text("id"),
        "teams" => format!("{}%2F{}", text("workspace"), text("name")),
        "grants" => match item["team"].is_string() {
            true => format!("team:{}/{}", text("team"), text("instance")),
            false => format!("{}/{}", text("member"), text("instance")),
        },
        _ => text("name"),
    };
    format!("/v1/{list}/{name}")
}

const LISTS: [&str; 6] = ["instances", "workspaces", "members", "teams", "grants", "tokens"];

#[test]
fn every_record_has_a_version_that_changes_with_its_settings_alone() {
    let a = Appliance::start();
    claimed(&a);
    let owner = Caller::new(&a, "second", &["--role", "owner"]);
    a.cli(&["workspace", "add", "here"]);
    let i = a.run("memory", &["--workspace", "here"]);
    let ada = Caller::new(&a, "ada", &["--workspace", "here"]);
    a.cli(&["team", "add", "here/eng"]);
    a.cli(&["team", "join", "here/eng", "ada"]);
    a.cli(&["grant", "add", "team:here/eng", &i.id]);
    a.cli(&["grant", "add", "ada", &i.id]);
    a.json(&["token", "create", "--instance", &i.id, "--name", "spare"]);

    // One by one they are what the lists have, for whoever the lists show them to.
    let versions = || -> Vec<(String, String)> {
        let mut all = Vec::new();
        for list in LISTS {
            for item in owner.list(list) {
                all.push((path_of(list, &item), item["etag"].as_str().unwrap().to_owned()));
            }
        }
        all
    };
    let before = versions();
    let seen: Vec<String> = LISTS
        .iter()
        .flat_map(|list| ada.list(list).into_iter().map(|item| path_of(list, &item)))
        .collect();
    assert!(seen.len() >= 6 && seen.len() < before.len(), "{seen:?}");
    for (path, version) in &before {
        let one = owner.get(path, &[]);
        assert_eq!(
            (one.status, one.header("etag")),
            (200, Some(version.as_str())),
            "{path}"
        );
        assert_eq!(one.json()["etag"], version.as_str(), "{path}");
        let same = owner.get(path, &[&format!("If-None-Match: \"x\", W/{version}")]);
        let told = (same.status, same.header("etag"), same.body.as_str());
        assert_eq!(told, (304, Some(version.as_str()), ""), "{path}");
        assert_eq!(owner.get(path, &["If-None-Match: \"x\""]).status, 200, "{path}");
        assert_eq!(
            owner.get(path, &["If-None-Match: x"]).json()["code"],
            "bad-precondition"
        );
        let theirs = ada.get(path, &[]);
        let there = seen.contains(path);
        assert_eq!(theirs.status, if there { 200 } else { 404 }, "{path}: {}", theirs.body);
        if there {
            assert_eq!(theirs.header("etag"), Some(version.as_str()), "{path}");
        }
    }
    let head = owner.send(&before[0].0, &[], &["--head"]);
    assert_eq!((head.status, head.header("etag")), (200, Some(before[0].1.as_str())));
    for (path, code) in [
        ("/v1/members/nobody-else", "no-member"),
        ("/v1/members/Not%20A%20Name", "bad-parameter"),
        ("/v1/teams/here%2Fnone", "no-team"),
        ("/v1/workspaces/none", "no-workspace"),
        ("/v1/tokens/aaaaaaaaaaaa", "no-token"),
        ("/v1/grants/ada/aaaaaaaaaa", "no-grant"),
        ("/v1/grants/ada/x", "bad-parameter"),
    ] {
        let answer = owner.get(path, &[]);
        assert_eq!(answer.json()["code"], code, "{path}: {}", answer.body);
    }

    // A container that died and runs again, and tokens that were used, are no change.
    let restarts = || a.show(&i.id)["restarts"].as_u64().unwrap();
    let container = a.container_of(&i.id);
    assert!(a.docker(&["kill", &container]).status.success());
    wait_for("it runs again", MINUTE, || {
        let shown = a.show(&i.id);
        restarts() > 0 && shown["state"] == "running" && shown["health"] == "healthy"
    });
    owner.done(&json!({ "action": "start", "id": i.id }));
    a.wait_state(&i.id, "running", MINUTE);
    assert_eq!(versions(), before);

    // What people change is, of that record alone.
    let version = |path: &str| owner.get(path, &[]).header("etag").unwrap().to_owned();
    let team = "/v1/teams/here%2Feng";
    for (path, action) in [
        (
            format!("/v1/instances/{}", i.id),
            json!({ "action": "set_credential", "id": i.id, "key": "KEY", "value": "v" }),
        ),
        (
            "/v1/workspaces/here".to_owned(),
            json!({ "action": "set_quota", "workspace": "here", "quota": { "instances": 3 } }),
        ),
        (
            "/v1/members/ada".to_owned(),
            json!({ "action": "set_role", "member": "ada", "role": "admin", "workspace": "here" }),
        ),
        (
            team.to_owned(),
            json!({ "action": "leave_team", "workspace": "here", "name": "eng", "member": "ada" }),
        ),
        (
            format!("/v1/grants/ada/{}", i.id),
            json!({ "action": "add_grant", "member": "ada", "instance": i.id, "manage": true }),
        ),
    ] {
        let (all, had) = (versions(), version(&path));
        // Whoever has the version may write.
        let answer = owner.act(&action, &[&format!("If-Match: {had}")]);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let now = version(&path);
        assert_ne!(now, had, "{path}");
        let changed: Vec<_> = versions().into_iter().filter(|v| !all.contains(v)).collect();
        assert_eq!(changed, [(path.clone(), now)], "{path}");
    }
    let spare = owner.list("tokens").into_iter().find(|t| t["name"] == "spare").unwrap();
    let rotate = json!({ "action": "rotate_token", "id": spare["id"] });
    owner.done(&rotate);
    assert_ne!(version(&path_of("tokens", &spare)), spare["etag"].as_str().unwrap());
    a.cli(&["rm", &i.id]);
}

#[test]
fn of_two_who_write_at_once_one_wins_and_the_other_sees_it() {
    let a = Appliance::start();
    claimed(&a);
    let one = Caller::new(&a, "one", &["--role", "owner"]);
    let two = Caller::new(&a, "two", &["--role", "owner"]);
    a.cli(&["workspace", "add", "here"]);
    let quota = |n: u32| json!({ "action": "set_quota", "workspace": "here", "quota": { "instances": n } });
    for round in 0..5 {
        let had = one.get("/v1/workspaces/here", &[]).header("etag").unwrap().to_owned();
        let header = format!("If-Match: {had}");
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| one.act(&quota(10 + round), &[&header]));
            let second = scope.spawn(|| two.act(&quota(20 + round), &[&header]));
            (first.join().unwrap(), second.join().unwrap())
        });
        let (won, lost, by) = match first.status {
            200 => (first, second, "one"),
            _ => (second, first, "two"),
        };
        assert_eq!((won.status, lost.status), (200, 409), "{} {}", won.body, lost.body);
        let (won, problem) = (won.json(), lost.json());
        assert_eq!(problem["code"], "changed", "{problem}");
        assert_eq!(
            (&problem["by"], &problem["etag"]),
            (&json!(by), &won["etag"]),
            "{problem}"
        );
        let current = &problem["current"];
        assert_eq!(
            (&current["kind"], &current["quota"]),
            (&json!("workspace"), &won["quota"])
        );
        assert_eq!(current["etag"], won["etag"]);
        let now = one.get("/v1/workspaces/here", &[]);
        assert_eq!(now.json()["quota"], won["quota"], "the other changed nothing");
        assert_ne!(won["etag"], had.as_str());
    }
    // What the other sees of a record is what they may see.
    a.cli(&["workspace", "add", "there"]);
    let boss = Caller::new(&a, "boss", &["--role", "admin", "--workspace", "here"]);
    a.cli(&["member", "add", "ada", "--workspace", "here"]);
    a.cli(&["member", "set", "ada", "--role", "admin", "--workspace", "there"]);
    let role = json!({ "action": "set_role", "member": "ada", "role": "admin", "workspace": "here" });
    let late = boss.act(&role, &["If-Match: \"0123456789abcdef\""]).json();
    assert_eq!(
        (&late["code"], &late["current"]["workspaces"]),
        (&json!("changed"), &json!({ "here": "member" })),
        "{late}"
    );
    // An instance is shown as it is for whoever asks.
    let i = a.run("memory", &["--no-wait"]);
    let set = json!({ "action": "set_credential", "id": i.id, "key": "KEY", "value": "v" });
    let late = one.act(&set, &["If-Match: \"0123456789abcdef\""]).json();
    assert_eq!(
        (&late["current"]["kind"], &late["current"]["id"]),
        (&json!("instance"), &json!(i.id))
    );
    let any = one.act(&set, &["If-Match: *"]);
    assert_eq!(any.status, 200, "{}", any.body);
    let version = any.json()["etag"].as_str().unwrap().to_owned();
    let weak = one.act(&set, &[&format!("If-Match: W/{version}")]);
    assert_eq!((weak.status, &weak.json()["code"]), (409, &json!("changed")));
    let among = one.act(&set, &[&format!("If-Match: \"x\", {version}")]);
    assert_eq!(among.status, 200, "{}", among.body);

    for (action, header, code) in [
        (&set, "If-Match: x", "bad-precondition"),
        (&set, "If-Match;", "bad-precondition"),
        (&set, "If-Match: *, \"x\"", "bad-precondition"),
        (&set, "If-None-Match: *", "bad-precondition"),
        (
            &json!({ "action": "add_workspace", "name": "third" }),
            "If-Match: *",
            "no-single-record",
        ),
        (
            &json!({ "action": "remove_grant", "member": "ada", "instance": i.id }),
            "If-Match: *",
            "changed",
        ),
    ] {
        let answer = one.act(action, &[header]);
        assert_eq!(answer.json()["code"], code, "{action} {header}: {}", answer.body);
    }
    let screen = one.send(
        &format!("/v1/instances/{}/screen", i.id),
        &["If-Match: *"],
        &["-d", "{}"],
    );
    assert_eq!(
        (screen.status, &screen.json()["code"]),
        (400, &json!("no-single-record"))
    );
    assert!(!one.list("workspaces").iter().any(|w| w["name"] == "third"));
    a.cli(&["rm", &i.id]);
}
