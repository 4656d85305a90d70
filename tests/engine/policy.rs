//! Who may do what, from outside: everything that can be asked is asked by everybody who may not, and the log names whoever
//! asked for what was done.

use crate::{remote::claimed, support};

use std::{cell::Cell, time::Duration};

use berth::{
    admin,
    api::{Code, PROBLEM, Problem, Route},
    model::{ACTION_FIELDS, Action},
    policy::{self, Verb},
};
use serde_json::{Value, json};
use support::{Answer, Appliance, INITIALIZE, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
/// An instance that is not there: what an owner is let through to does nothing.
const NOTHING: &str = "aaaaaaaaaa";

/// A request for what a verb is: method, path, body.
type Request = (&'static str, String, Option<Value>);

/// Everything that can be asked over the network, with its verb: the box's own doors, every route of the table, and every
/// action.
fn requests(id: &str) -> Vec<(Verb, Request)> {
    let initialize = serde_json::from_str(INITIALIZE).unwrap();
    let mut all = vec![
        (Verb::SeePage, ("GET", "/".to_owned(), None)),
        (Verb::SeeClaim, ("GET", "/api/claim".to_owned(), None)),
        (Verb::Call, ("POST", format!("/mcp/{id}"), Some(initialize))),
    ];
    for route in Route::ALL {
        let (method, path) = (route.row().method, format!("/api{}", route.of(id)));
        let mut ask = |verb, body| all.push((verb, (method, path.clone(), body)));
        match (route, admin::verb(*route)) {
            (Route::ScreenLink, _) => {
                ask(Verb::ViewScreen, Some(json!({ "view_only": true })));
                ask(Verb::ControlScreen, Some(json!({})));
            }
            // What else the answer may hold is judged by itself.
            (Route::Status | Route::Tokens | Route::Workspaces, Some(verb)) => {
                let held = match route {
                    Route::Status => Verb::ReadClaimCode,
                    Route::Workspaces => Verb::ReadWorkspace,
                    _ => Verb::ReadToken,
                };
                ask(verb, None);
                ask(held, None);
            }
            (_, Some(verb)) => ask(verb, (method == "POST").then(|| json!({}))),
            (_, None) => {
                for body in actions(id) {
                    let action: Action = serde_json::from_value(body.clone()).expect("an action");
                    ask(policy::asked(&action).0, Some(body));
                }
            }
        }
    }
    all
}

/// Every action with the fields that it must have, on one instance where it is about one.
fn actions(id: &str) -> Vec<Value> {
    let mut all = vec![json!({ "action": "create_token", "member": "nobody" })];
    for (name, fields) in ACTION_FIELDS {
        let mut body = json!({ "action": name });
        for field in fields {
            let value = match (name, *field) {
                ("revoke_token" | "rotate_token", "id") => json!("aaaaaaaaaaaa"),
                (_, "id" | "trial" | "instance") => json!(id),
                (_, "type") => json!("no-such-type"),
                (_, "pinned") => json!(true),
                (_, "key" | "value") => json!("K"),
                ("set_quota", "quota") => json!(null),
                ("add_workspace" | "remove_workspace", "name") | ("set_quota", "workspace") => json!("nobody"),
                _ => continue,
            };
            body[field] = value;
        }
        all.push(body);
    }
    all
}

/// An error of the API is a problem of RFC 9457 with a code of the table.
fn known_problem(answer: &Answer) {
    assert_eq!(answer.header("content-type").unwrap(), PROBLEM, "{}", answer.body);
    let problem: Problem = serde_json::from_str(&answer.body).expect(&answer.body);
    let code = Code::find(&problem.code).unwrap_or_else(|| panic!("{}", answer.body));
    assert_eq!(
        (answer.status, problem.status),
        (code.status, code.status),
        "{}",
        answer.body
    );
    assert!(!problem.detail.contains("`berth"), "{}", problem.detail);
}

struct Asker<'a> {
    a: &'a Appliance,
    /// Each request comes from an address of its own: wrong tokens are counted by address, and slowed down.
    next: Cell<u8>,
}

impl Asker<'_> {
    fn ask(&self, token: Option<&str>, (method, path, body): &Request) -> Answer {
        let n = self.next.get();
        self.next.set(n.wrapping_add(1));
        let from = format!("127.7.{}.{}", n / 200, n % 200 + 1);
        let url = format!("https://localhost:{}{path}", self.a.https);
        let bearer = format!("Authorization: Bearer {}", token.unwrap_or_default());
        let text = body.as_ref().map(Value::to_string);
        let mut args = vec![
            "--interface",
            from.as_str(),
            "-X",
            *method,
            "-H",
            "Accept: application/json, text/event-stream",
        ];
        if token.is_some() {
            args.extend(["-H", bearer.as_str()]);
        }
        if let Some(text) = &text {
            args.extend(["-H", "Content-Type: application/json", "-d", text.as_str()]);
        }
        args.push(&url);
        self.a.curl(&args)
    }
}

#[test]
fn what_may_not_be_asked_is_refused_at_every_route_and_changes_nothing() {
    let a = Appliance::start();
    let laptop = claimed(&a);
    let (i, other) = (a.run("memory", &[]), a.run("memory", &[]));
    let token = |more: &[&str]| {
        let made = a.json(&[&["token", "create"], more].concat());
        made["token"].as_str().unwrap().to_owned()
    };
    let owner = token(&["--member", "admin"]);
    let end = (jiff::Timestamp::now() + Duration::from_secs(2)).to_string();
    let asker = Asker {
        a: &a,
        next: Cell::new(0),
    };
    let soon = json!({ "action": "create_token", "member": "admin", "expires_at": end });
    let soon = asker.ask(Some(&owner), &("POST", "/api/v1/actions".to_owned(), Some(soon)));
    let soon = soon.json()["token"].as_str().unwrap().to_owned();
    let status = |token: &str| {
        asker
            .ask(Some(token), &("GET", "/api/v1/status".to_owned(), None))
            .status
    };
    wait_for("the token has expired", MINUTE, || status(&soon) == 401);
    let invented = format!("brt_m_{}", "x".repeat(43));
    let before = (a.json(&["list"]), a.json(&["token", "list"]).as_array().unwrap().len());

    let all = requests(&i.id);
    for (verb, request) in &all {
        let open = matches!(verb, Verb::SeePage | Verb::SeeClaim);
        let call = *verb == Verb::Call;
        for (who, shown, refused) in [
            ("nobody", None, 401),
            ("an invented token", Some(&invented), 401),
            ("an expired token", Some(&soon), 401),
            ("another instance's token", Some(&other.token), 403),
            ("the instance's token", Some(&i.token), if call { 200 } else { 403 }),
            ("a member's token, at an instance", call.then_some(&owner), 403),
        ] {
            if who.starts_with("a member") && !call {
                continue;
            }
            let answer = asker.ask(shown.map(String::as_str), request);
            let wanted = if open { 200 } else { refused };
            assert_eq!(answer.status, wanted, "{who} {request:?}: {}", answer.body);
            assert!(
                open || wanted == 200 || !answer.body.contains(&i.id) || call,
                "{who}: {}",
                answer.body
            );
        }
    }
    // The owner comes through; what is done is done to nothing.
    for (verb, request) in &requests(NOTHING) {
        let answer = asker.ask(Some(&owner), request);
        let refused = matches!(answer.status, 401 | 403);
        assert_eq!(
            refused,
            matches!(verb, Verb::ResetAdmin | Verb::Call),
            "{request:?}: {}",
            answer.body
        );
        if answer.status >= 400 && *verb != Verb::Call {
            known_problem(&answer);
        }
    }
    for verb in Verb::ALL {
        assert!(all.iter().any(|(v, _)| v == verb), "nobody asked for {verb:?}");
    }
    let status: Value = asker
        .ask(Some(&owner), &("GET", "/api/v1/status".to_owned(), None))
        .json();
    assert!(status["box"]["claim_code"].is_null(), "only on the box: {status}");
    let after = (a.json(&["list"]), a.json(&["token", "list"]).as_array().unwrap().len());
    assert_eq!(before, after, "nothing has changed");
    assert!(laptop.cli(&["list"]).contains(&i.id));
    a.cli(&["rm", &i.id, &other.id]);
}

#[test]
fn the_log_names_whoever_asked_and_nobody_can_say_who_they_are() {
    let a = Appliance::start();
    let laptop = claimed(&a);
    let i = a.run("linux-command-line", &[]);
    let made = laptop.json(&["token", "create", "--instance", &i.id, "--name", "spare"]);
    let made = made["id"].as_str().unwrap();
    let shown = laptop.json(&["token", "list"]);
    let theirs = shown
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["member"] == "admin")
        .unwrap();
    let theirs = theirs["id"].as_str().unwrap();
    laptop.cli(&["token", "revoke", made]);
    let out = a
        .command(&["screen", &i.id])
        .env("SUDO_USER", "mallory")
        .env("USER", "mallory")
        .output()
        .unwrap();
    assert!(out.status.success());
    laptop.cli(&["screen", &i.id, "--view-only"]);
    a.cli(&["stop", &i.id]);
    laptop.cli(&["rm", &i.id]);
    let log = a.log();
    let line = |words: &[&str]| {
        let found = log.lines().find(|l| words.iter().all(|w| l.contains(w)));
        assert!(found.is_some(), "no line with {words:?} in\n{log}");
    };
    line(&["accepted: run box", "by=root", &format!("made={}", i.id)]);
    let token = format!("token={theirs}");
    line(&[
        "accepted: create-token",
        "by=admin",
        "via=api",
        &token,
        &format!("made={made}"),
    ]);
    line(&["accepted: revoke-token", made, "by=admin", &token]);
    line(&["a link to a screen was made", "by=root", "view_only=false"]);
    line(&["a link to a screen was made", "by=admin", "view_only=true"]);
    line(&["accepted: stop", "by=root", "via=socket"]);
    line(&["accepted: remove", "by=admin", &token]);
    assert!(!log.contains("mallory"));
    // Nor in what is sent.
    let asked = json!({ "view_only": true, "by": "mallory" });
    let asker = Asker {
        a: &a,
        next: Cell::new(0),
    };
    let member = a.json(&["token", "create", "--member", "admin"]);
    let member = member["token"].as_str().unwrap();
    let kept = a.run("linux-command-line", &[]);
    let request = ("POST", format!("/api/v1/instances/{}/screen", kept.id), Some(asked));
    assert_eq!(asker.ask(Some(member), &request).status, 400);
    a.cli(&["rm", &kept.id]);
}
