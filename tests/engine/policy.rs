//! Who may do what, from outside: everything that can be asked is asked by everybody who may not, and the log names whoever
//! asked for what was done.

use crate::{remote::claimed, support};

use std::{cell::Cell, time::Duration};

use berth::{api::Route, policy::Verb};
use serde_json::{Value, json};
use support::{Answer, Appliance, INITIALIZE, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
/// An instance that is not there: what an owner is let through to does nothing.
const NOTHING: &str = "aaaaaaaaaa";

/// A request for what a verb is: method, path, body.
type Request = (&'static str, String, Option<Value>);

/// How a verb is asked for over the network. A new verb has a line here, or this does not compile.
fn requests(verb: Verb, id: &str) -> Vec<Request> {
    let get = |path: &str| vec![("GET", format!("/api{path}"), None)];
    let of = |path: &str| get(&format!("/v1/instances/{id}{path}"));
    let act = |body: Value| vec![("POST", "/api/v1/actions".to_owned(), Some(body))];
    let on = |name: &str| act(json!({ "action": name, "id": id }));
    match verb {
        Verb::SeePage => vec![("GET", "/".to_owned(), None)],
        Verb::SeeClaim => get("/claim"),
        Verb::Claim => act(json!({ "action": "claim" })),
        Verb::UseApi => [get("/v1/instances"), get("/v1/tokens")].concat(),
        Verb::ReadStatus | Verb::ReadClaimCode => get("/v1/status"),
        Verb::ReadMetrics => get("/metrics"),
        Verb::ReadCa => get("/v1/ca"),
        Verb::RunDoctor => get("/v1/doctor"),
        Verb::ResetAdmin => act(json!({ "action": "reset_admin" })),
        Verb::ReadTypes => get("/v1/types"),
        Verb::ReadImages => get("/v1/images"),
        Verb::LoadImages => vec![("POST", "/api/v1/images".to_owned(), Some(json!({})))],
        Verb::ReadToken => get("/v1/tokens"),
        Verb::CreateToken => [
            act(json!({ "action": "create_token", "instance": id })),
            act(json!({ "action": "create_token", "member": "nobody" })),
        ]
        .concat(),
        Verb::RevokeToken => act(json!({ "action": "revoke_token", "id": "aaaaaaaaaaaa" })),
        Verb::ReadInstance => [of(""), of("/wait")].concat(),
        Verb::ReadCredentials => of("/credentials"),
        Verb::ReadLogs => of("/logs"),
        Verb::ReadDeployLog => of("/deploy"),
        Verb::ReadTools => of("/tools"),
        Verb::Call => {
            let initialize = serde_json::from_str(INITIALIZE).unwrap();
            vec![("POST", format!("/mcp/{id}"), Some(initialize))]
        }
        Verb::ViewScreen => {
            let link = (
                "POST",
                format!("/api/v1/instances/{id}/screen"),
                Some(json!({ "view_only": true })),
            );
            [vec![link], of("/screen.png")].concat()
        }
        Verb::ControlScreen => vec![("POST", format!("/api/v1/instances/{id}/screen"), Some(json!({})))],
        Verb::Run => act(json!({ "action": "run", "type": "no-such-type" })),
        Verb::Stop => on("stop"),
        Verb::Start => on("start"),
        Verb::Recreate => on("recreate"),
        Verb::Remove => on("remove"),
        Verb::Pin => act(json!({ "action": "pin", "id": id, "pinned": true })),
        Verb::Try => on("try"),
        Verb::Upgrade => act(json!({ "action": "upgrade", "id": id, "trial": id })),
        Verb::SetCredential => act(json!({ "action": "set_credential", "id": id, "key": "K", "value": "v" })),
        Verb::UnsetCredential => act(json!({ "action": "unset_credential", "id": id, "key": "K" })),
    }
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

    let mut routes = Vec::new();
    for verb in Verb::ALL {
        for request in requests(*verb, &i.id) {
            let path = request.1.strip_prefix("/api").unwrap_or_default();
            routes.extend(Route::find(request.0, path).map(|(route, _)| route));
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
                let answer = asker.ask(shown.map(String::as_str), &request);
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
        for request in requests(*verb, NOTHING) {
            let answer = asker.ask(Some(&owner), &request);
            let refused = matches!(answer.status, 401 | 403);
            assert_eq!(
                refused,
                matches!(verb, Verb::ResetAdmin | Verb::Call),
                "{request:?}: {}",
                answer.body
            );
        }
    }
    for route in Route::ALL {
        assert!(routes.contains(route), "nobody asked for {route:?}");
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
