//! Writes over the network: those that say which version of a record they are for, and those that carry an idempotency key.

use crate::{remote::claimed, support};

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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

    /// The same with an idempotency key.
    fn once(&self, key: &str, action: &Value) -> Answer {
        self.act(action, &[&format!("Idempotency-Key: {key}")])
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

fn new_token(member: &str, name: &str) -> Value {
    json!({ "action": "create_token", "member": member, "name": name })
}

/// How many tokens there are of this name.
fn tokens(caller: &Caller, name: &str) -> usize {
    caller.list("tokens").iter().filter(|t| t["name"] == name).count()
}

fn replayed(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == Some("true")
}

#[test]
fn a_write_with_a_key_is_done_once_and_answered_as_often_as_it_is_asked() {
    let mut a = Appliance::start();
    claimed(&a);
    let (one, two) = {
        let one = Caller::new(&a, "one", &["--role", "owner"]);
        let two = Caller::new(&a, "two", &["--role", "owner"]);
        let first = one.once("k-1", &new_token("one", "spare"));
        assert_eq!((first.status, replayed(&first)), (200, false), "{}", first.body);
        let again = one.once("k-1", &new_token("one", "spare"));
        assert_eq!((again.status, replayed(&again)), (200, true));
        assert_eq!(again.body, first.body, "with its secret");
        assert_eq!(again.header("content-type"), first.header("content-type"));
        assert_eq!(tokens(&one, "spare"), 1);
        // The same key is another one of somebody else, and of a token that reaches less far.
        let other = two.once("k-1", &new_token("one", "spare"));
        assert_eq!((other.status, replayed(&other)), (200, false));
        let made = one.done(&json!({ "action": "create_token", "member": "one", "scope": "api" }));
        let api = Caller {
            a: &a,
            token: made["token"].as_str().unwrap().to_owned(),
        };
        let narrow = api.once("k-1", &new_token("one", "spare"));
        assert_eq!(
            (narrow.status, narrow.json()["code"].as_str()),
            (403, Some("wider-scope"))
        );
        assert_eq!(tokens(&one, "spare"), 2);
        // The same member has it with whatever token.
        let made = one.done(&new_token("one", "other"));
        let same = Caller {
            a: &a,
            token: made["token"].as_str().unwrap().to_owned(),
        };
        assert_eq!(same.once("k-1", &new_token("one", "spare")).body, first.body);

        let reused = one.once("k-1", &new_token("one", "another"));
        assert_eq!(
            (reused.status, reused.json()["code"].as_str()),
            (422, Some("key-reused"))
        );
        assert_eq!(tokens(&one, "another"), 0);
        let long = "k".repeat(256);
        for bad in [
            "Idempotency-Key;",
            "Idempotency-Key: a b",
            &format!("Idempotency-Key: {long}"),
        ] {
            let refused = one.act(&new_token("one", "bad"), &[bad]);
            let code = refused.json()["code"].clone();
            assert_eq!((refused.status, code), (400, json!("bad-idempotency-key")), "{bad}");
        }
        let refused = one.act(&new_token("one", "bad"), &["Idempotency-Key: a", "Idempotency-Key: b"]);
        assert_eq!(refused.json()["code"], "bad-idempotency-key");
        // What is refused is not kept, and is done once nothing is in the way.
        let join = json!({ "action": "join_team", "name": "eng", "member": "ada" });
        assert_eq!(one.once("k-2", &join).json()["code"], "no-team");
        a.cli(&["member", "add", "ada"]);
        a.cli(&["team", "add", "eng"]);
        let joined = one.once("k-2", &join);
        assert_eq!((joined.status, replayed(&joined)), (200, false), "{}", joined.body);
        let left = json!({ "action": "leave_team", "name": "eng", "member": "ada" });
        assert_eq!(one.once("k-3", &left).status, 200);
        one.done(&join);
        assert!(replayed(&one.once("k-3", &left)), "she is in it again, and stays");
        assert!(one.get("/v1/teams/eng", &[]).body.contains("ada"));
        // With a version as well: what was done is answered, whatever version there is now.
        let quota = json!({ "action": "set_quota", "workspace": "default", "quota": { "instances": 7 } });
        let had = one
            .get("/v1/workspaces/default", &[])
            .header("etag")
            .unwrap()
            .to_owned();
        let headers = [format!("If-Match: {had}"), "Idempotency-Key: k-4".to_owned()];
        let headers = [headers[0].as_str(), headers[1].as_str()];
        let set = one.act(&quota, &headers);
        assert_eq!(set.status, 200, "{}", set.body);
        let again = one.act(&quota, &headers);
        assert_eq!((again.status, replayed(&again), &again.body), (200, true, &set.body));
        // It stands in the audit that a secret was shown again.
        let rows = a.cli(&["audit", "--json", "--all", "--action", "create-token"]);
        assert!(
            rows.lines()
                .any(|r| r.contains("answered again") && r.contains("\"member\":\"one\"")),
            "{rows}"
        );
        (one.token, two.token)
    };

    // Killed, it knows what it answered, and what it did.
    let first = {
        let one = Caller {
            a: &a,
            token: one.clone(),
        };
        one.once("k-1", &new_token("one", "spare")).body
    };
    let run = json!({ "action": "run", "type": "memory", "name": "notes" });
    let ran = Caller {
        a: &a,
        token: one.clone(),
    }
    .once("k-run", &run);
    assert_eq!(ran.status, 200, "{}", ran.body);
    a.kill();
    a.launch();
    let one = Caller { a: &a, token: one };
    let again = one.once("k-1", &new_token("one", "spare"));
    assert_eq!((again.status, replayed(&again), &again.body), (200, true, &first));
    let again = one.once("k-run", &run);
    assert_eq!((again.status, replayed(&again), &again.body), (200, true, &ran.body));
    assert_eq!(one.list("instances").len(), 1);
    // The token that was lost and found opens the API; and no secret lies on the disk.
    let found: Value = serde_json::from_str(&first).unwrap();
    let secret = found["token"].as_str().unwrap();
    let spare = Caller {
        a: &a,
        token: secret.to_owned(),
    };
    assert_eq!(spare.get("/v1/whoami", &[]).json()["member"], "one");
    let of_run = ran.json()["token"].as_str().unwrap().to_owned();
    let store = std::fs::read(a.dir().join("state/berth.redb")).unwrap();
    for secret in [secret, of_run.as_str()] {
        assert!(!store.windows(secret.len()).any(|w| w == secret.as_bytes()));
    }
    // Whoever has the name of somebody who is gone has none of their answers.
    a.cli(&["member", "rm", "two"]);
    let two_again = Caller::new(&a, "two", &["--role", "owner"]);
    assert_ne!(two_again.token, two);
    assert!(!replayed(&two_again.once("k-1", &new_token("one", "spare"))));
    let id = ran.json()["id"].as_str().unwrap().to_owned();
    a.cli(&["rm", &id]);
}

#[test]
fn of_two_at_once_with_one_key_one_has_an_effect() {
    let a = Appliance::start();
    claimed(&a);
    let one = Caller::new(&a, "one", &["--role", "owner"]);
    let mut waited = 0;
    for round in 0..10 {
        let (key, name) = (format!("key-{round}"), format!("token-{round}"));
        let action = new_token("one", &name);
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| one.once(&key, &action))).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let (done, others): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert!(!done.is_empty() && done.iter().all(|answer| answer.body == done[0].body));
        assert_eq!(done.iter().filter(|answer| !replayed(answer)).count(), 1);
        for answer in &others {
            let code = answer.json()["code"].clone();
            assert_eq!((answer.status, code), (409, json!("key-in-use")), "{}", answer.body);
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
        waited += others.len();
        assert_eq!(tokens(&one, &name), 1);
    }
    println!("{waited} were told to wait");
}

/// Whoever hangs up does not know how far their request came.
#[test]
fn a_lost_answer_can_be_had_again() {
    let a = Appliance::start();
    claimed(&a);
    let one = Caller::new(&a, "one", &["--role", "owner"]);
    let mut lost = 0;
    for round in 0..30u32 {
        let (key, name) = (format!("key-{round}"), format!("token-{round}"));
        let (bearer, key_is) = (
            format!("Authorization: Bearer {}", one.token),
            format!("Idempotency-Key: {key}"),
        );
        let at = format!("https://localhost:{}/api/v1/actions", a.https);
        let patience = format!("0.{:03}", 4 + round);
        let out = Command::new("curl")
            .args(["--silent", "--output", "/dev/null", "--max-time", &patience, "--cacert"])
            .arg(a.ca())
            .args([
                "-H",
                &bearer,
                "-H",
                &key_is,
                "-d",
                &new_token("one", &name).to_string(),
                &at,
            ])
            .status()
            .unwrap();
        lost += u32::from(!out.success());
        let mut answer = None;
        wait_for("it is answered", MINUTE, || {
            let again = one.once(&key, &new_token("one", &name));
            assert!([200, 409].contains(&again.status), "{}", again.body);
            answer = Some(again).filter(|again| again.status == 200);
            answer.is_some()
        });
        assert_eq!(tokens(&one, &name), 1, "round {round}");
        let found = Caller {
            a: &a,
            token: answer.unwrap().json()["token"].as_str().unwrap().to_owned(),
        };
        assert_eq!(found.get("/v1/whoami", &[]).status, 200);
    }
    assert!(lost > 0, "no answer was lost");
}

/// A request that may be cut at any time, from a thread of its own.
#[derive(Clone)]
struct Sender {
    ca: PathBuf,
    at: String,
    bearer: String,
}

impl Sender {
    /// What was answered with 200; none where the connection was cut, or with another status.
    fn once(&self, key: &str, action: &Value) -> Option<String> {
        let key = format!("Idempotency-Key: {key}");
        let out = Command::new("curl")
            .args(["--silent", "--fail", "--max-time", "30", "--cacert"])
            .arg(&self.ca)
            .args(["-H", &self.bearer, "-H", &key, "-d", &action.to_string(), &self.at])
            .output()
            .unwrap();
        out.status.success().then(|| String::from_utf8(out.stdout).unwrap())
    }
}

/// Whenever it is killed: what was asked has one effect, and what was answered is answered again.
#[test]
fn a_kill_at_any_time_leaves_one_effect_of_each_key() {
    let mut a = Appliance::start();
    claimed(&a);
    let owner = Caller::new(&a, "one", &["--role", "owner"]).token;
    let sender = Sender {
        ca: a.ca(),
        at: format!("https://localhost:{}/api/v1/actions", a.https),
        bearer: format!("Authorization: Bearer {owner}"),
    };
    for round in 0..3 {
        // There is an end to the tokens of one.
        let holder = format!("holder-{round}");
        a.cli(&["member", "add", &holder]);
        let (asked, stop) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicBool::new(false)));
        let callers: Vec<_> = (0..4)
            .map(|caller| {
                let (asked, stop, sender) = (asked.clone(), stop.clone(), sender.clone());
                let holder = holder.clone();
                std::thread::spawn(move || {
                    for n in 0..500 {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let name = format!("t-{round}-{caller}-{n}");
                        asked.lock().unwrap().insert(name.clone(), None);
                        let answer = sender.once(&name, &new_token(&holder, &name));
                        asked.lock().unwrap().insert(name, answer);
                    }
                })
            })
            .collect();
        wait_for("writes are answered", MINUTE, || {
            asked.lock().unwrap().values().flatten().count() > 20
        });
        a.kill();
        stop.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(|c| c.join().unwrap());
        a.launch();
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        let cut = asked.values().filter(|answer| answer.is_none()).count();
        for (name, answer) in &asked {
            let again = sender.once(name, &new_token(&holder, name)).expect(name);
            if let Some(answer) = answer {
                assert_eq!(*answer, again, "{name}");
            }
        }
        let owner = Caller {
            a: &a,
            token: owner.clone(),
        };
        let all = owner.list("tokens");
        for name in asked.keys() {
            assert_eq!(all.iter().filter(|t| t["name"] == **name).count(), 1, "{name}");
        }
        println!("round {round}: {} answered, {cut} cut", asked.len() - cut);
    }
}

#[test]
fn every_write_takes_a_key() {
    let a = Appliance::start();
    claimed(&a);
    let one = Caller::new(&a, "one", &["--role", "owner"]);
    let i = a.run("linux-command-line", &[]);
    let path = format!("/v1/instances/{}/screen", i.id);
    let link = |key: &str, body: &str| one.send(&path, &[&format!("Idempotency-Key: {key}")], &["-d", body]);
    let first = link("k", r#"{"view_only":true}"#);
    assert_eq!(first.status, 200, "{}", first.body);
    let again = link("k", r#"{"view_only":true}"#);
    assert_eq!((replayed(&again), &again.body), (true, &first.body));
    assert_eq!(link("k", "{}").json()["code"], "key-reused");
    let other = link("l", r#"{"view_only":true}"#);
    assert!(!replayed(&other) && other.body != first.body);
    // An archive is read again to be known again.
    let archive = a.dir().join("images.tar");
    let made = Command::new("docker")
        .env("DOCKER_HOST", format!("unix://{}", support::engine_socket()))
        .args(["save", "-o", archive.to_str().unwrap(), "berth/test-protocols:1"])
        .status()
        .unwrap();
    assert!(made.success());
    let load = |key: &str, file: &std::path::Path| {
        let headers = [
            format!("Idempotency-Key: {key}"),
            "Content-Type: application/x-tar".to_owned(),
        ];
        let headers = [headers[0].as_str(), headers[1].as_str()];
        let data = format!("@{}", file.display());
        one.send("/v1/images", &headers, &["--data-binary", &data])
    };
    let first = load("images", &archive);
    assert_eq!((first.status, replayed(&first)), (200, false), "{}", first.body);
    let again = load("images", &archive);
    assert_eq!((again.status, replayed(&again), &again.body), (200, true, &first.body));
    let other = a.dir().join("other.tar");
    std::fs::write(&other, "x").unwrap();
    let reused = load("images", &other);
    assert_eq!(
        (reused.status, reused.json()["code"].as_str()),
        (422, Some("key-reused"))
    );
    a.cli(&["rm", &i.id]);
}
