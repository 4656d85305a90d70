//! Who gets to a screen: by its link, once, soon, and no further than the link goes.

use crate::support;

use std::{
    io::Read,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::json;
use support::{Answer, Appliance, WEBSOCKET, desktop::link};

const MINUTE: Duration = Duration::from_secs(60);

/// Asks for a WebSocket as a browser does; the answer's status.
fn socket(a: &Appliance, url: &str, origin: Option<&str>, cookie: Option<&str>) -> u16 {
    let origin = origin.map(|o| format!("Origin: {o}"));
    let cookie = cookie.map(|c| format!("Cookie: {c}"));
    let mut args = WEBSOCKET.to_vec();
    for header in [&origin, &cookie].into_iter().flatten() {
        args.extend(["-H", header]);
    }
    let mut child = Command::new("curl")
        .args([
            "--silent",
            "--no-buffer",
            "--dump-header",
            "-",
            "--max-time",
            "20",
            "--cacert",
        ])
        .arg(a.ca())
        .args(args)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // A socket that opened would stay: its first bytes are enough.
    let mut head = [0; 12];
    child.stdout.as_mut().unwrap().read_exact(&mut head).unwrap();
    let _ = child.kill();
    let _ = child.wait();
    String::from_utf8_lossy(&head[9..]).parse().unwrap()
}

/// The session's cookie, as a browser would send it.
fn cookie(answer: &Answer) -> String {
    let line = answer
        .header("set-cookie")
        .unwrap_or_else(|| panic!("no cookie: {}", answer.status));
    for part in ["; Secure", "; HttpOnly", "; SameSite=Strict", "; Max-Age="] {
        assert!(line.contains(part), "{part} is missing: {line}");
    }
    line.split(';').next().unwrap().to_owned()
}

#[test]
fn a_screen_opens_by_its_link_and_to_nobody_else() {
    let a = Appliance::start();
    let (i, other) = (a.run("linux-command-line", &[]), a.run("linux-command-line", &[]));
    let host = format!("https://vnc-{}.localhost:{}", i.id, a.https);
    // Without a link: nothing, and the same whether there is such an instance or not.
    let nobody = format!("https://vnc-aaaaaaaaaa.localhost:{}", a.https);
    for (path, status) in [("/", 403), ("/open", 403), ("/open?ticket=0000", 403), ("/secret", 404)] {
        let (real, none) = (
            a.curl(&[&format!("{host}{path}")]),
            a.curl(&[&format!("{nobody}{path}")]),
        );
        assert_eq!((real.status, none.status), (status, status), "{path}");
        assert_eq!(real.body, none.body, "{path}");
        assert!(real.header("set-cookie").is_none());
    }
    for path in ["/control", "/websockify?viewer=1"] {
        for base in [&host, &nobody] {
            assert_eq!(socket(&a, &format!("{base}{path}"), Some(base), None), 403);
        }
    }
    assert_eq!(a.post(&format!("{host}/"), &i.token, "{}", &[]).status, 405);

    // The link works once, sets a strict cookie, and moves on to an address without the ticket.
    let url = link(&a, &i.id, &[]);
    let opened = a.curl(&[&url]);
    assert_eq!((opened.status, opened.header("refresh")), (200, Some("0; url=/")));
    let mine = cookie(&opened);
    assert!(mine.starts_with("__Host-") && opened.header("set-cookie").unwrap().contains("; Path=/;"));
    assert_eq!(a.curl(&[&url]).status, 403, "once");
    let with = |url: &str, cookie: &str| a.curl(&["-H", &format!("Cookie: {cookie}"), url]);
    let page = with(&format!("{host}/"), &mine);
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(page.header("cache-control"), Some("no-store"));

    // Its sockets open for its own page alone, and for this instance alone.
    let control = format!("{host}/control");
    assert_eq!(socket(&a, &control, Some(&host), Some(&mine)), 101);
    for origin in [
        None,
        Some("https://evil.example"),
        Some("null"),
        Some(nobody.as_str()),
        Some(&host.replace("https", "http")),
    ] {
        assert_eq!(socket(&a, &control, origin, Some(&mine)), 403, "{origin:?}");
    }
    assert_eq!(with(&control, &mine).status, 403, "no page asked");
    assert_eq!(
        a.curl(&[
            "-H",
            &format!("Cookie: {mine}"),
            "-H",
            &format!("Origin: {host}"),
            &control
        ])
        .status,
        426
    );
    assert_eq!(
        socket(&a, &format!("{host}/websockify?viewer=77"), Some(&host), Some(&mine)),
        403,
        "a viewer that is nobody"
    );
    let others = format!("https://vnc-{}.localhost:{}", other.id, a.https);
    assert_eq!(with(&format!("{others}/"), &mine).status, 403);
    assert_eq!(
        socket(&a, &format!("{others}/control"), Some(&others), Some(&mine)),
        403
    );
    // A ticket tried on another instance is spent.
    let url = link(&a, &i.id, &[]);
    assert_eq!(a.curl(&[&url.replace(&i.id, &other.id)]).status, 403);
    assert_eq!(a.curl(&[&url]).status, 403);

    // By path the same, with a cookie of that path.
    let opened = a.curl(&[&link(&a, &i.id, &["--path"])]);
    let by_path = cookie(&opened);
    assert!(
        opened
            .header("set-cookie")
            .unwrap()
            .contains(&format!("; Path=/vnc/{}/;", i.id))
    );
    let base = format!("https://localhost:{}/vnc/{}", a.https, i.id);
    assert_eq!(with(&format!("{base}/"), &by_path).status, 200);
    assert_eq!(
        a.curl(&[&base]).header("location"),
        Some(format!("/vnc/{}/", i.id).as_str())
    );
    assert_eq!(
        with(&format!("https://localhost:{}/vnc/{}/", a.https, other.id), &by_path).status,
        403
    );
    assert_eq!(
        socket(
            &a,
            &format!("{base}/control"),
            Some(&format!("https://localhost:{}", a.https)),
            Some(&by_path)
        ),
        101
    );

    // What a removed instance's session is worth: nothing more than a page that says so.
    a.cli(&["rm", &i.id]);
    assert_eq!(
        socket(&a, &format!("{host}/websockify?viewer=1"), Some(&host), Some(&mine)),
        403
    );
}

#[test]
fn what_has_no_screen_says_so() {
    let a = Appliance::start();
    let i = a.run("memory", &[]);
    assert!(a.show(&i.id)["endpoints"].get("screen").is_none());
    let said = a.cli_fails(1, &["screen", &i.id]);
    assert!(said.contains("have no screen"), "{said}");
    let file = a.dir().join("x.png");
    assert!(
        a.cli_fails(1, &["screen", &i.id, "--png", file.to_str().unwrap()])
            .contains("have no screen")
    );
    assert!(!file.exists());
    let i = a.run("linux-command-line", &[]);
    let shown = a.json(&["screen", &i.id]);
    assert!(
        shown["url"].as_str().unwrap().contains("ticket=") && shown["expires_at"].is_string(),
        "{shown}"
    );
    let link: jiff::Timestamp = shown["expires_at"].as_str().unwrap().parse().unwrap();
    let left = link.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((200..=300).contains(&left), "a link lives five minutes: {left} s");
    let types = a.json(&["types"]);
    let has = |name: &str| {
        types
            .as_array()
            .unwrap()
            .iter()
            .any(|t| t["name"] == name && t["screen"] == true)
    };
    assert!(has("playwright") && has("playwright-mobile") && has("linux-command-line") && !has("memory"));
    a.cli(&["screen", &i.id, "--png", file.to_str().unwrap()]);
    assert!(std::fs::read(&file).unwrap().starts_with(b"\x89PNG"));
    a.cli(&["stop", &i.id]);
    assert!(
        a.cli_fails(1, &["screen", &i.id, "--png", "-"])
            .contains("cannot be had")
    );
    a.cli(&["start", &i.id]);
    a.wait_state(&i.id, "running", MINUTE);
    assert_eq!(a.show(&i.id)["health"], json!("healthy"));
}
