//! Who may do what, from outside: everything that can be asked is asked by everybody who may not, and the log names whoever
//! asked for what was done.

use crate::{remote::claimed, support};

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use berth::{
    admin,
    api::{Code, PROBLEM, Problem, Route},
    model::{ACTION_FIELDS, Action},
    policy::{self, Verb},
};
use serde_json::{Value, json};
use support::{Answer, Appliance, INITIALIZE, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
/// An instance that is not there.
const NOTHING: &str = "aaaaaaaaaa";

/// A request for what a verb is: method, path, body.
type Request = (&'static str, String, Option<Value>);

/// The table of answers: for each verb, and a word for what it is tried on, the answer for each column.
struct Answers {
    columns: Vec<String>,
    rows: BTreeMap<String, Vec<String>>,
}

impl Answers {
    fn read() -> Self {
        let text = std::fs::read_to_string(support::root().join("tests/cases/policy/answers.txt")).unwrap();
        let mut lines = text.lines().filter(|l| !l.starts_with('#'));
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let columns = words(lines.next().unwrap());
        let row = |line: &str| (line[..28].trim().to_owned(), words(&line[28..]));
        Self {
            columns,
            rows: lines.map(row).collect(),
        }
    }

    /// Whether somebody may do that to it.
    fn may(&self, who: &str, (verb, on): (Verb, &str)) -> bool {
        let row = format!("{} {on}", verb.as_str());
        let row = self.rows.get(row.trim()).unwrap_or_else(|| panic!("no row {row:?}"));
        let at = self
            .columns
            .iter()
            .position(|c| c == who)
            .unwrap_or_else(|| panic!("no column {who}"));
        row[at] == "yes"
    }
}

/// What requests are about.
#[derive(Clone)]
struct About<'a> {
    instance: &'a str,
    /// A member of the workspace `here`, another who leaves it, and one of its teams.
    member: &'a str,
    leaver: &'a str,
    team: &'a str,
    /// Tokens: of the instance, of that member.
    tokens: [&'a str; 2],
}

/// Everything that can be asked over the network, with its verb and a word for what it is about: the box's own doors, every
/// route of the table, and every action. What else an answer of a list may hold is looked at by itself.
fn requests(about: &About) -> Vec<((Verb, &'static str), Request)> {
    let initialize = serde_json::from_str(INITIALIZE).unwrap();
    let id = about.instance;
    let mut all = vec![
        ((Verb::SeePage, ""), ("GET", "/".to_owned(), None)),
        ((Verb::SeeClaim, ""), ("GET", "/api/claim".to_owned(), None)),
        ((Verb::Call, ""), ("POST", format!("/mcp/{id}"), Some(initialize))),
    ];
    for route in Route::ALL {
        let team = format!("here%2F{}", about.team);
        let named: &[&str] = match route {
            Route::Token => &about.tokens[1..],
            Route::Workspace => &["here"],
            Route::Member => &[about.member],
            Route::Team => &[&team],
            Route::Grant => &[about.member, id],
            _ => &[id],
        };
        let (method, mut path) = (route.row().method, format!("/api{}", route.with(named)));
        if *route == Route::Events {
            // It would have no end.
            path += "?follow=0";
        }
        let mut ask = |verb, body| all.push(((verb, ""), (method, path.clone(), body)));
        match (route, admin::verb(*route)) {
            (Route::ScreenLink, _) => {
                ask(Verb::ViewScreen, Some(json!({ "view_only": true })));
                ask(Verb::ControlScreen, Some(json!({})));
            }
            (_, Some(verb)) => ask(verb, (method == "POST").then(|| json!({}))),
            (_, None) => {
                for (verb, on, body) in actions(about) {
                    let action: Action = serde_json::from_value(body.clone()).unwrap_or_else(|e| panic!("{body}: {e}"));
                    assert_eq!(policy::asked(&action).0, verb, "{body}");
                    all.push(((verb, on), (method, path.clone(), Some(body))));
                }
            }
        }
    }
    all
}

/// Every action, on what `about` names.
fn actions(about: &About) -> Vec<(Verb, &'static str, Value)> {
    let About {
        instance: id,
        member,
        leaver,
        team,
        tokens: [of_instance, of_member],
    } = about;
    let end = "2040-01-01T00:00:00Z";
    let all = vec![
        (
            Verb::Run,
            "here",
            json!({ "action": "run", "type": "no-such-type", "workspace": "here" }),
        ),
        (
            Verb::Run,
            "there",
            json!({ "action": "run", "type": "no-such-type", "workspace": "there" }),
        ),
        (Verb::Stop, "", json!({ "action": "stop", "id": id })),
        (Verb::Start, "", json!({ "action": "start", "id": id })),
        (Verb::Recreate, "", json!({ "action": "recreate", "id": id })),
        (
            Verb::CreateToken,
            "",
            json!({ "action": "create_token", "instance": id }),
        ),
        (
            Verb::CreateToken,
            "user",
            json!({ "action": "create_token", "member": member }),
        ),
        (
            Verb::CreateToken,
            "an-owner",
            json!({ "action": "create_token", "member": "admin" }),
        ),
        (
            Verb::CreateToken,
            "nobody",
            json!({ "action": "create_token", "member": "nobody" }),
        ),
        (
            Verb::RotateToken,
            "of-instance",
            json!({ "action": "rotate_token", "id": of_instance }),
        ),
        (
            Verb::RotateToken,
            "of-user",
            json!({ "action": "rotate_token", "id": of_member }),
        ),
        (
            Verb::RevokeToken,
            "of-instance",
            json!({ "action": "revoke_token", "id": of_instance }),
        ),
        (
            Verb::RevokeToken,
            "of-user",
            json!({ "action": "revoke_token", "id": of_member }),
        ),
        (
            Verb::RevokeToken,
            "unknown",
            json!({ "action": "revoke_token", "id": "aaaaaaaaaaaa" }),
        ),
        (Verb::Claim, "", json!({ "action": "claim" })),
        (Verb::ResetAdmin, "", json!({ "action": "reset_admin" })),
        (Verb::Pin, "", json!({ "action": "pin", "id": id, "pinned": true })),
        (Verb::Try, "", json!({ "action": "try", "id": id })),
        (Verb::Upgrade, "", json!({ "action": "upgrade", "id": id, "trial": id })),
        (
            Verb::SetCredential,
            "",
            json!({ "action": "set_credential", "id": id, "key": "K", "value": "v" }),
        ),
        (
            Verb::UnsetCredential,
            "",
            json!({ "action": "unset_credential", "id": id, "key": "K" }),
        ),
        (
            Verb::AddWorkspace,
            "",
            json!({ "action": "add_workspace", "name": "here" }),
        ),
        (
            Verb::SetQuota,
            "here",
            json!({ "action": "set_quota", "workspace": "here", "quota": null }),
        ),
        (
            Verb::SetAllowlist,
            "here",
            json!({ "action": "set_allowlist", "workspace": "here", "allow": {} }),
        ),
        (
            Verb::RemoveWorkspace,
            "here",
            json!({ "action": "remove_workspace", "name": "here" }),
        ),
        (
            Verb::AddMember,
            "here",
            json!({ "action": "add_member", "name": member, "workspace": "here" }),
        ),
        (
            Verb::AddMember,
            "there",
            json!({ "action": "add_member", "name": member, "workspace": "there" }),
        ),
        (
            Verb::MakeOwner,
            "",
            json!({ "action": "add_member", "name": member, "role": "owner" }),
        ),
        (
            Verb::SetRole,
            "user",
            json!({ "action": "set_role", "member": member, "role": "member", "workspace": "here" }),
        ),
        (
            Verb::SetRole,
            "an-owner",
            json!({ "action": "set_role", "member": "admin", "role": "admin", "workspace": "here" }),
        ),
        (
            Verb::AddTeam,
            "",
            json!({ "action": "add_team", "workspace": "here", "name": team }),
        ),
        (
            Verb::JoinTeam,
            "",
            json!({ "action": "join_team", "workspace": "here", "name": team, "member": member }),
        ),
        (
            Verb::AddGrant,
            "to-user",
            json!({ "action": "add_grant", "member": member, "instance": id, "until": end }),
        ),
        (
            Verb::AddGrant,
            "to-team",
            json!({ "action": "add_grant", "team": format!("here/{team}"), "instance": id }),
        ),
        (
            Verb::RemoveGrant,
            "to-user",
            json!({ "action": "remove_grant", "member": member, "instance": id }),
        ),
        (
            Verb::LeaveTeam,
            "",
            json!({ "action": "leave_team", "workspace": "here", "name": team, "member": member }),
        ),
        (
            Verb::RemoveTeam,
            "",
            json!({ "action": "remove_team", "workspace": "here", "name": team }),
        ),
        (
            Verb::DisableMember,
            "user",
            json!({ "action": "disable_member", "name": member }),
        ),
        (
            Verb::EnableMember,
            "user",
            json!({ "action": "enable_member", "name": member }),
        ),
        (
            Verb::InviteMember,
            "user",
            json!({ "action": "invite_member", "name": member }),
        ),
        (
            Verb::ResetSignIn,
            "user",
            json!({ "action": "reset_sign_in", "name": member }),
        ),
        (
            Verb::DisableMember,
            "nobody",
            json!({ "action": "disable_member", "name": "nobody" }),
        ),
        (
            Verb::LeaveWorkspace,
            "user",
            json!({ "action": "leave_workspace", "member": leaver, "workspace": "here" }),
        ),
        (
            Verb::RemoveMember,
            "user",
            json!({ "action": "remove_member", "name": member }),
        ),
        // Last: nothing can be done to it any more.
        (Verb::Remove, "", json!({ "action": "remove", "id": id })),
    ];
    let asked: BTreeSet<&str> = all.iter().map(|(.., body)| body["action"].as_str().unwrap()).collect();
    for (name, _) in ACTION_FIELDS {
        assert!(asked.contains(name), "nobody asks for {name}");
    }
    all
}

/// The answer lets through: whatever else is wrong with it.
fn let_in(answer: &Answer) -> bool {
    let unseen = answer.status == 404 && answer.body.contains("\"no-instance\"");
    !matches!(answer.status, 401 | 403) && !unseen
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

/// Whoever there is, asks for everything: what the table of answers allows is let in, all else is refused, and of what
/// somebody may not know they hear the same as of what is not there.
#[test]
fn every_route_and_every_action_answers_as_the_table_says() {
    let a = Appliance::start();
    let laptop = claimed(&a);
    for workspace in ["here", "there"] {
        a.cli(&["workspace", "add", workspace]);
    }
    let (i, other) = (
        a.run("memory", &["--workspace", "here"]),
        a.run("memory", &["--workspace", "there"]),
    );
    let member = |name: &str, role: &str, workspace: &str| {
        a.cli(&["member", "add", name, "--role", role, "--workspace", workspace]);
        a.json(&["token", "create", "--member", name])
    };
    let secret = |made: &Value| made["token"].as_str().unwrap().to_owned();
    let mut shown: BTreeMap<&str, Option<String>> = BTreeMap::from([("nobody", None)]);
    shown.insert("instance", Some(i.token.clone()));
    shown.insert("another-instance", Some(other.token.clone()));
    shown.insert(
        "owner",
        Some(secret(&a.json(&["token", "create", "--member", "admin"]))),
    );
    let of_user = member("user", "member", "here");
    shown.insert("user", Some(secret(&of_user)));
    for name in ["none", "manager", "of-team", "ended"] {
        shown.insert(name, Some(secret(&member(name, "member", "here"))));
    }
    shown.insert("admin", Some(secret(&member("boss", "admin", "here"))));
    shown.insert("elsewhere", Some(secret(&member("elsewhere", "admin", "there"))));
    shown.insert("disabled", Some(secret(&member("disabled", "admin", "here"))));
    let scoped = |scope: &str| secret(&a.json(&["token", "create", "--member", "manager", "--scope", scope]));
    shown.insert("manager-api", Some(scoped("api")));
    shown.insert("manager-1", Some(scoped(&i.id)));
    a.cli(&["team", "add", "here/eng"]);
    a.cli(&["team", "join", "here/eng", "of-team"]);
    a.cli(&["grant", "add", "user", &i.id]);
    a.cli(&["grant", "add", "manager", &i.id, "--manage"]);
    a.cli(&["grant", "add", "team:here/eng", &i.id]);
    let soon = jiff::Timestamp::now() + Duration::from_secs(10);
    a.cli(&["grant", "add", "ended", &i.id, "--manage", "--until", &soon.to_string()]);
    a.cli(&["member", "disable", "disabled"]);
    let asker = Asker {
        a: &a,
        next: Cell::new(0),
    };
    let ask = |who: &str, request: &Request| asker.ask(shown[who].as_deref(), request);
    let read = ("GET", format!("/api/v1/instances/{}", i.id), None);
    // Whoever asks at that moment is cut off, rightly.
    wait_for("the grant has ended", MINUTE, || jiff::Timestamp::now() > soon);
    assert_eq!(ask("ended", &read).status, 404);
    // A token that has expired, and one that never was.
    let soon = jiff::Timestamp::now() + Duration::from_secs(10);
    let short = json!({ "action": "create_token", "member": "admin", "expires_at": soon.to_string() });
    let act = |body: Value| ("POST", "/api/v1/actions".to_owned(), Some(body));
    let expired = secret(&ask("owner", &act(short)).json());
    let status = ("GET", "/api/v1/status".to_owned(), None);
    wait_for("the token has expired", MINUTE, || jiff::Timestamp::now() > soon);
    assert_eq!(asker.ask(Some(&expired), &status).status, 401);

    let tokens = a.json(&["token", "list"]);
    let of_instance = tokens
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["instance"] == i.id.as_str());
    let of_instance = of_instance.unwrap()["id"].as_str().unwrap().to_owned();
    let about = About {
        instance: &i.id,
        member: "user",
        leaver: "user",
        team: "eng",
        tokens: [&of_instance, of_user["id"].as_str().unwrap()],
    };
    let nothing = About {
        instance: NOTHING,
        ..about.clone()
    };
    let state = || {
        let lists = ["list", "member list", "team list", "workspace list"]
            .map(|verb| a.json(&verb.split(' ').collect::<Vec<_>>()));
        let ids = |list: Value| {
            list.as_array()
                .unwrap()
                .iter()
                .map(|t| t["id"].clone())
                .collect::<Vec<_>>()
        };
        let mut state = lists.map(|mut all| {
            // When somebody was seen last changes by what is asked.
            all.as_array_mut().unwrap().iter_mut().for_each(|m| {
                m["last_used_at"] = Value::Null;
                m["tokens"] = Value::Null;
            });
            all.to_string()
        });
        state[0] += &format!("{:?}", ids(a.json(&["token", "list"])));
        state
    };
    let before = state();
    let answers = Answers::read();
    let (all, of_nothing) = (requests(&about), requests(&nothing));
    let is_action = |request: &Request| request.1.ends_with("/actions");
    for (what, request) in &all {
        for (who, token) in [
            ("nobody", format!("brt_m_{}", "x".repeat(43))),
            ("nobody", expired.clone()),
        ] {
            let answer = asker.ask(Some(&token), request);
            assert_eq!(
                answer.status == 401,
                !answers.may(who, *what),
                "{what:?}: {}",
                answer.body
            );
        }
    }
    for who in shown.keys() {
        for ((what, request), (_, instead)) in all.iter().zip(&of_nothing) {
            let may = answers.may(who, *what);
            // What is allowed is done below, to what may be lost.
            if may && is_action(request) {
                continue;
            }
            let answer = ask(who, request);
            assert_eq!(
                let_in(&answer),
                may,
                "{who} {request:?}: {} {}",
                answer.status,
                answer.body
            );
            if answer.status >= 400 && what.0 != Verb::Call {
                known_problem(&answer);
            }
            if !may && !answers.may(who, (Verb::ReadInstance, "")) {
                let unknown = ask(who, instead);
                let same = answer.body.replace(&i.id, NOTHING);
                assert_eq!(
                    (answer.status, same),
                    (unknown.status, unknown.body),
                    "{who} {request:?}"
                );
            }
        }
    }
    // What lists hold.
    let list = |who: &str, path: &str| ask(who, &("GET", format!("/api/v1/{path}"), None)).json();
    let held = |who: &str, path: &str, field: &str| -> Vec<String> {
        let all = list(who, path);
        let all = all.as_array().unwrap_or_else(|| panic!("{who} {path}: {all}")).iter();
        all.map(|o| o[field].as_str().unwrap_or_default().to_owned()).collect()
    };
    for (who, instances, workspaces, members, grants) in [
        ("none", 0, "here", "none", 0),
        ("ended", 0, "here", "ended", 1),
        ("user", 1, "here", "user", 1),
        ("of-team", 1, "here", "of-team", 1),
        ("manager", 1, "here", "manager", 1),
        ("elsewhere", 1, "there", "elsewhere", 0),
    ] {
        assert_eq!(held(who, "instances", "id").len(), instances, "{who}");
        assert_eq!(held(who, "workspaces", "name"), [workspaces], "{who}");
        assert_eq!(held(who, "members", "name"), [members], "{who}");
        assert_eq!(held(who, "grants", "instance").len(), grants, "{who}");
    }
    assert_eq!(held("user", "teams", "name"), Vec::<String>::new());
    assert_eq!(held("of-team", "teams", "name"), ["eng"]);
    assert_eq!(held("user", "tokens", "member"), ["user"]);
    let managed = held("manager", "tokens", "id");
    assert!(managed.contains(&of_instance) && managed.len() == 4, "{managed:?}");
    assert_eq!(held("admin", "members", "name").len(), 7, "those of the workspace");
    assert_eq!(held("admin", "grants", "instance").len(), 4);
    assert_eq!(held("owner", "members", "name").len(), 9);
    assert!(
        ask("owner", &status).json()["box"]["claim_code"].is_null(),
        "only on the box"
    );
    assert_eq!(before, state(), "nothing has changed");

    // Whoever may, does: to an instance, a member and a team of their own.
    for who in ["manager", "admin", "owner", "manager-api"] {
        let (mine, mate, team) = (
            a.run("memory", &["--workspace", "here", "--no-wait"]),
            format!("mate-{who}"),
            format!("team-{who}"),
        );
        let (made, leaver) = (member(&mate, "member", "here"), format!("leaver-{who}"));
        member(&leaver, "member", "here");
        a.cli(&["team", "add", &format!("here/{team}")]);
        a.cli(&["grant", "add", "manager", &mine.id, "--manage"]);
        let tokens = a.json(&["token", "list"]);
        let of = tokens
            .as_array()
            .unwrap()
            .iter()
            .find(|t| t["instance"] == mine.id.as_str());
        let about = About {
            instance: &mine.id,
            member: &mate,
            leaver: &leaver,
            team: &team,
            tokens: [of.unwrap()["id"].as_str().unwrap(), made["id"].as_str().unwrap()],
        };
        let mut done = 0;
        for (what, request) in requests(&about) {
            if is_action(&request) && answers.may(who, what) {
                let answer = ask(who, &request);
                assert!(let_in(&answer), "{who} {request:?}: {} {}", answer.status, answer.body);
                done += 1;
            }
        }
        assert!(done >= 12, "{who} may do {done} things");
    }
    assert!(laptop.cli(&["list"]).contains(&i.id));
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
    line(&["accepted: run workspace default", "by=root", &format!("made={}", i.id)]);
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
