//! The console through real HTTPS and in a real browser: claiming, signing in and out, links, who is slowed down and who is
//! thrown out, and that every page can be used by everybody.

use crate::support;

use std::{cell::RefCell, collections::BTreeMap, fs, path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::hmac;
use serde_json::{Value, json};
use support::{Answer, Appliance, desktop::Browser, root, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const PASSPHRASE: &str = "correct horse battery";
const OTHER: &str = "seven blue umbrellas";

/// Somebody's browser, as far as curl is one: it keeps cookies and says which page asks.
struct Web<'a> {
    a: &'a Appliance,
    cookies: RefCell<BTreeMap<String, String>>,
    from: &'static str,
}

impl<'a> Web<'a> {
    fn new(a: &'a Appliance, from: &'static str) -> Self {
        let cookies = RefCell::default();
        Self { a, cookies, from }
    }

    fn origin(&self) -> String {
        format!("https://localhost:{}", self.a.https)
    }

    fn ask(&self, path: &str, more: &[&str]) -> Answer {
        let url = format!("{}{path}", self.origin());
        let kept: Vec<String> = self.cookies.borrow().iter().map(|(n, v)| format!("{n}={v}")).collect();
        let cookie = format!("Cookie: {}", kept.join("; "));
        let mut args = vec!["--interface", self.from, "-H", &cookie];
        args.extend(more);
        args.push(&url);
        let answer = self.a.curl(&args);
        for (name, line) in answer.headers.iter().filter(|(n, _)| n == "set-cookie") {
            for part in ["__Host-", "; Path=/", "; Secure", "; HttpOnly", "; SameSite=Strict"] {
                assert!(line.contains(part), "{name}: {part} is missing: {line}");
            }
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.borrow_mut().insert(name.to_owned(), value.to_owned());
        }
        answer
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(path, &[])
    }

    fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let origin = format!("Origin: {}", self.origin());
        let fields: Vec<String> = fields.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let mut args = vec!["-H", origin.as_str(), "-X", "POST"];
        for field in &fields {
            args.extend(["--data-urlencode", field]);
        }
        self.ask(path, &args)
    }

    fn sign_in(&self, member: &str, passphrase: &str) -> Answer {
        self.post("/sign-in", &[("member", member), ("passphrase", passphrase)])
    }

    fn is_in(&self) -> bool {
        self.get("/account").status == 200
    }
}

/// Where an answer leads to.
fn leads(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.header("location").unwrap_or_default())
}

fn code(a: &Appliance) -> String {
    a.json(&["status"])["box"]["claim_code"].as_str().unwrap().to_owned()
}

/// Claims the box in a browser.
fn claim(a: &Appliance) -> Web<'_> {
    let web = Web::new(a, "127.0.0.1");
    let claimed = web.post(
        "/claim",
        &[
            ("code", &code(a)),
            ("member", "ada"),
            ("passphrase", PASSPHRASE),
            ("again", PASSPHRASE),
        ],
    );
    assert_eq!(leads(&claimed), (303, "/account/second-step?new"), "{}", claimed.body);
    assert!(web.is_in());
    web
}

/// What stands behind the # of a link.
fn carried(made: &Value) -> String {
    made["url"]
        .as_str()
        .unwrap()
        .split_once("/set-passphrase#")
        .unwrap()
        .1
        .to_owned()
}

#[test]
fn a_box_is_claimed_in_a_browser_once_and_by_its_code_alone() {
    let a = Appliance::start();
    let web = Web::new(&a, "127.0.0.1");
    let page = web.get("/");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("Claim this box") && !page.body.contains(&code(&a)));
    let print = a.json(&["status"])["box"]["ca_fingerprint"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        page.body
            .contains(print.split(':').take(4).collect::<Vec<_>>().join(":").as_str())
    );
    for (name, want) in [
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "same-origin"),
        ("cache-control", "no-store"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        assert_eq!(page.header(name), Some(want), "{name}");
    }
    let policy = page.header("content-security-policy").unwrap();
    for part in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "report-uri /csp-reports",
    ] {
        assert!(policy.contains(part), "{part}: {policy}");
    }
    assert!(!policy.contains("unsafe") && !page.body.contains("<style") && !page.body.contains(" style="));

    let all = |code: &str, member: &str, passphrase: &str, again: &str| {
        let fields = [
            ("code", code),
            ("member", member),
            ("passphrase", passphrase),
            ("again", again),
        ];
        web.post("/claim", &fields)
    };
    let right = code(&a);
    for (answer, said) in [
        (
            all("2222-2222-2222-2222", "ada", PASSPHRASE, PASSPHRASE),
            "The code is wrong",
        ),
        (all(&right, "ada", "short", "short"), "too short"),
        (all(&right, "ada", "Password1234", "Password1234"), "would guess"),
        (all(&right, "ada", PASSPHRASE, OTHER), "not the same"),
        (all(&right, "<script>", PASSPHRASE, PASSPHRASE), "A name has"),
    ] {
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert!(
            answer.body.contains(said) && !answer.body.contains("<script>"),
            "{}",
            answer.body
        );
    }
    assert_eq!(all(&right, "root", PASSPHRASE, PASSPHRASE).status, 409);
    assert_eq!(a.json(&["status"])["box"]["claimed"], false);

    // Forms of other sites do nothing, whatever they know.
    let form = format!("code={right}&member=eve&passphrase={OTHER}&again={OTHER}");
    for origin in ["https://evil.example", "null", "http://localhost"] {
        let answer = web.ask("/claim", &["-H", &format!("Origin: {origin}"), "-d", &form]);
        assert_eq!(answer.status, 403, "{origin}");
    }
    assert_eq!(
        web.ask("/claim", &["-d", &form]).status,
        403,
        "nobody says whose page it is"
    );
    let origin = format!("Origin: {}", web.origin());
    let site = ["-H", &origin, "-H", "Sec-Fetch-Site: cross-site", "-d", &form];
    assert_eq!(web.ask("/claim", &site).status, 403);

    let owner = claim(&a);
    assert_eq!(a.json(&["member", "show", "ada"])["role"], "owner");
    assert_eq!(a.json(&["member", "show", "ada"])["sign_in"], "passphrase");
    assert_eq!(
        leads(&all(&right, "eve", PASSPHRASE, PASSPHRASE)),
        (303, "/sign-in"),
        "once"
    );
    assert_eq!(leads(&web.get("/")), (303, "/sign-in"));
    assert!(owner.is_in());
    // The way by the command line is shut as well, and a reset on the box opens both.
    a.cli(&["reset-admin"]);
    assert!(!owner.is_in(), "their session went with them");
    assert!(web.get("/claim").body.contains("Claim this box"));
    claim(&a);
}

#[test]
fn people_sign_in_and_whoever_guesses_waits() {
    let a = Appliance::start();
    let owner = claim(&a);
    a.cli(&["member", "add", "grace"]);
    let link = a.json(&["member", "invite", "grace"]);
    assert_eq!(a.json(&["member", "show", "grace"])["sign_in"], "invited");
    let again = a.json(&["member", "invite", "grace"]);
    let set = |web: &Web, link: &str, passphrase: &str| {
        web.post(
            "/set-passphrase",
            &[("link", link), ("passphrase", passphrase), ("again", passphrase)],
        )
    };
    let grace = Web::new(&a, "127.0.0.2");
    assert_eq!(
        set(&grace, &carried(&link), OTHER).status,
        422,
        "a newer one took its place"
    );
    assert_eq!(set(&grace, &carried(&again), "short").status, 422);
    let done = set(&grace, &carried(&again), OTHER);
    assert_eq!(leads(&done), (303, "/account/second-step?new"), "{}", done.body);
    assert!(grace.is_in());
    assert_eq!(set(&grace, &carried(&again), PASSPHRASE).status, 422, "once");
    assert!(a.cli_fails(1, &["member", "invite", "grace"]).contains("reset-sign-in"));

    // Where somebody goes on to is one of our own pages.
    for (next, to) in [
        ("/account", "/account"),
        ("https://evil.example/", "/"),
        ("//evil.example", "/"),
    ] {
        let fields = [("member", "grace"), ("passphrase", OTHER), ("next", next)];
        assert_eq!(leads(&Web::new(&a, "127.0.0.2").post("/sign-in", &fields)), (303, to));
    }

    // A stranger's guesses slow down the stranger, and neither her nor anybody elsewhere.
    let eve = Web::new(&a, "127.0.0.3");
    let wrong: Vec<u16> = (0..6)
        .map(|_| eve.sign_in("grace", "not her passphrase").status)
        .collect();
    assert_eq!(wrong, [422, 422, 422, 422, 422, 429]);
    let told = eve.sign_in("grace", OTHER);
    assert_eq!(told.status, 429, "right or wrong is not even looked at");
    assert!(told.header("retry-after").unwrap().parse::<u32>().unwrap() <= 5);
    assert_eq!(
        Web::new(&a, "127.0.0.4").sign_in("grace", OTHER).status,
        303,
        "from elsewhere"
    );
    let known = Web::new(&a, "127.0.0.3");
    known.cookies.borrow_mut().extend(grace.cookies.borrow().clone());
    known.cookies.borrow_mut().remove("__Host-berth-console");
    assert_eq!(
        known.sign_in("grace", OTHER).status,
        303,
        "with a browser that is known, even from there"
    );
    assert_eq!(known.sign_in("ada", OTHER).status, 422, "it is known of her alone");
    // Nothing tells who is there.
    let (there, nobody) = (
        Web::new(&a, "127.0.0.5").sign_in("ada", OTHER),
        Web::new(&a, "127.0.0.5").sign_in("eda", OTHER),
    );
    assert_eq!(there.body.replace("ada", "eda"), nobody.body.replace("ada", "eda"));

    // Her other sessions end when she says so, and all of them with her.
    let elsewhere = Web::new(&a, "127.0.0.6");
    assert_eq!(elsewhere.sign_in("grace", OTHER).status, 303);
    assert!(elsewhere.is_in() && grace.is_in());
    assert_eq!(grace.post("/account/sessions", &[]).status, 200);
    assert!(!elsewhere.is_in() && grace.is_in());
    assert_eq!(elsewhere.sign_in("grace", OTHER).status, 303);
    let fresh = "nine green bicycles";
    let fields = |current| [("current", current), ("passphrase", fresh), ("again", fresh)];
    assert_eq!(grace.post("/account/passphrase", &fields(PASSPHRASE)).status, 422);
    assert_eq!(grace.post("/account/passphrase", &fields(OTHER)).status, 200);
    assert!(!elsewhere.is_in() && grace.is_in());
    assert_eq!(elsewhere.sign_in("grace", OTHER).status, 422);
    assert_eq!(leads(&grace.post("/sign-out", &[])), (303, "/sign-in"));
    assert!(!grace.is_in());
    assert_eq!(grace.sign_in("grace", fresh).status, 303);
    a.cli(&["member", "disable", "grace"]);
    assert_eq!(leads(&grace.get("/account")), (303, "/sign-in?next=/account"));
    assert_eq!(grace.sign_in("grace", fresh).status, 422);
    a.cli(&["member", "enable", "grace"]);
    assert!(!grace.is_in(), "a session that ended stays so");
    assert_eq!(grace.sign_in("grace", fresh).status, 303);
    let reset = a.json(&["member", "reset-sign-in", "grace"]);
    assert!(!grace.is_in());
    assert_eq!(set(&grace, &carried(&reset), OTHER).status, 303);
    assert!(owner.is_in(), "nothing of it was anybody else's");

    // An administrator does the same in the console; a member may not.
    a.cli(&["member", "add", "hopper"]);
    let people = owner.post("/people/invite", &[("member", "hopper")]);
    assert!(
        people.status == 200 && people.body.contains("/set-passphrase#hopper."),
        "{}",
        people.body
    );
    assert_eq!(grace.post("/people/reset", &[("member", "ada")]).status, 422);
    assert_eq!(owner.post("/people/invite", &[("member", "<b>")]).status, 422);

    // All of it stands in the audit, and nothing that is secret anywhere.
    let rows = a.cli(&["audit", "--json"]);
    for part in [
        "\"sign-in\"",
        "invite-member",
        "reset-sign-in",
        "change-sign-in",
        "wrong passphrase: member grace",
    ] {
        assert!(rows.contains(part), "{part} not in {rows}");
    }
    let log = a.log();
    for secret in [
        PASSPHRASE,
        OTHER,
        fresh,
        carried(&again).split_once('.').unwrap().1,
        "not her passphrase",
    ] {
        assert!(!rows.contains(secret) && !log.contains(secret), "{secret}");
    }
    for kept in owner.cookies.borrow().values().filter(|v| !v.is_empty()) {
        assert!(!log.contains(kept.as_str()));
    }
    let store = fs::read(a.dir().join("state/berth.redb")).unwrap();
    let holds = |secret: &str| store.windows(secret.len()).any(|w| w == secret.as_bytes());
    assert!(holds("sign_ins") && !holds(PASSPHRASE) && !holds(fresh));
}

#[test]
fn reports_of_browsers_are_counted_and_bounded() {
    let a = Appliance::start();
    let url = format!("https://localhost:{}/csp-reports", a.https);
    let counted = |n: u32| a.metrics().contains(&format!("berth_console_reports_total {n}\n"));
    assert!(counted(0));
    let report = r#"{"csp-report":{"effective-directive":"img-src","blocked-uri":"https://evil.example/x"}}"#;
    let kind = "Content-Type: application/csp-report";
    for _ in 0..30 {
        assert_eq!(a.curl(&["-H", kind, "-d", report, &url]).status, 204);
    }
    let long = format!("{{\"csp-report\":\"{}\"}}", "x".repeat(9000));
    assert_eq!(a.curl(&["-H", kind, "-d", &long, &url]).status, 413);
    assert!(counted(30), "{}", a.metrics());
    assert_eq!(a.log().matches("a browser reports").count(), 10);
}

/// What an app shows at this moment (RFC 6238).
fn totp(secret: &str) -> String {
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits: String = secret
        .chars()
        .map(|c| format!("{:05b}", letters.find(c).unwrap()))
        .collect();
    let bytes: Vec<u8> = bits
        .as_bytes()
        .chunks_exact(8)
        .map(|b| u8::from_str_radix(std::str::from_utf8(b).unwrap(), 2).unwrap())
        .collect();
    let step = u64::try_from(jiff::Timestamp::now().as_second()).unwrap() / 30;
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &bytes),
        &step.to_be_bytes(),
    );
    let at = usize::from(tag.as_ref()[19] & 15);
    let four: [u8; 4] = tag.as_ref()[at..at + 4].try_into().unwrap();
    format!("{:06}", (u32::from_be_bytes(four) & 0x7fff_ffff) % 1_000_000)
}

/// A browser with a page in it.
struct Page<'a> {
    browser: &'a RefCell<Browser>,
    name: &'static str,
    base: String,
    axe: &'a str,
    /// What was found on all pages so far.
    found: &'a RefCell<Vec<String>>,
}

impl Page<'_> {
    fn wait(&self, js: &str) {
        self.browser.borrow_mut().wait(self.name, js);
    }

    fn eval(&self, js: &str) -> Value {
        self.browser.borrow_mut().eval(self.name, js)
    }

    fn go(&self, path: &str) -> u64 {
        let url = format!("{}{path}", self.base);
        self.browser
            .borrow_mut()
            .ask(json!({ "do": "go", "name": self.name, "url": url }))["status"]
            .as_u64()
            .unwrap()
    }

    fn type_text(&self, text: &str) {
        self.browser.borrow_mut().type_text(self.name, text);
    }

    fn press(&self, key: &str) {
        self.browser.borrow_mut().press(self.name, key);
    }

    /// Goes on by Tab until this is where one types; by keyboard alone.
    fn tab_to(&self, selector: &str) {
        for _ in 0..40 {
            if self.eval(&format!("document.activeElement?.matches('{selector}') ?? false")) == true {
                return;
            }
            self.press("Tab");
        }
        panic!(
            "Tab leads nowhere to {selector}: {}",
            self.eval("document.body.innerText")
        );
    }

    fn fill(&self, selector: &str, text: &str) {
        self.tab_to(selector);
        self.press("Control+A");
        self.type_text(text);
    }

    fn wait_path(&self, path: &str) {
        self.wait(&format!(
            "location.pathname === '{path}' && document.readyState === 'complete'"
        ));
    }

    /// axe finds nothing on this page, whatever the screen and the colours; pictures of each are kept.
    fn looks_well(&self, what: &str) {
        let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("console");
        fs::create_dir_all(&kept).unwrap();
        for (width, height) in [(1280, 800), (390, 844)] {
            for dark in [false, true] {
                let emulate =
                    json!({ "do": "emulate", "name": self.name, "width": width, "height": height, "dark": dark });
                self.browser.borrow_mut().ask(emulate);
                if self.eval("Boolean(window.axe)") != true {
                    self.eval(&format!("{};1", self.axe));
                }
                let found = self.eval(
                    "axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }).then((r) => r.violations.map((v) => v.id + ': ' + v.nodes.map((n) => n.html + ' ' + n.failureSummary).join('; ')))",
                );
                let found: Vec<String> = serde_json::from_value(found).unwrap();
                let on = format!("{what} at {width}, dark: {dark}");
                let mut all = self.found.borrow_mut();
                all.extend(found.iter().map(|f| format!("{on}: {f}")));
                let wide = self.eval("document.documentElement.scrollWidth - innerWidth");
                if wide.as_i64().unwrap() > 0 {
                    all.push(format!("{on}: {wide} px too wide"));
                }
                let picture = self
                    .browser
                    .borrow_mut()
                    .ask(json!({ "do": "picture", "name": self.name }))["value"]
                    .take();
                let file = kept.join(format!("{what}-{width}-{}.png", if dark { "dark" } else { "light" }));
                fs::write(file, BASE64.decode(picture.as_str().unwrap()).unwrap()).unwrap();
            }
        }
        let emulate = json!({ "do": "emulate", "name": self.name, "width": 1280, "height": 800, "dark": false });
        self.browser.borrow_mut().ask(emulate);
    }

    /// What the browser complains of, but for the status of pages that say what is wrong.
    fn complaints(&self) -> Vec<String> {
        let all = self
            .browser
            .borrow_mut()
            .ask(json!({ "do": "errors", "name": self.name }))["value"]
            .take();
        let all: Vec<String> = serde_json::from_value(all).unwrap();
        all.into_iter()
            .filter(|e| !e.contains("the server responded with a status of"))
            .collect()
    }
}

#[test]
fn a_browser_claims_and_signs_in_by_keyboard_and_every_page_is_for_everybody() {
    let a = Appliance::start();
    let axe = fs::read_to_string(root().join("tests/clients/axe/node_modules/axe-core/axe.min.js"));
    let axe = axe.expect("tests/clients/setup installs axe-core");
    let (browser, found) = (RefCell::new(Browser::start(&a)), RefCell::default());
    let base = format!("https://localhost:{}", a.https);
    let page = |name: &'static str, path: &str, options: Value| {
        let url = format!("{base}{path}");
        let open = json!({ "do": "open", "name": name, "url": url, "options": options });
        assert_eq!(browser.borrow_mut().ask(open)["status"], 200, "{path}");
        Page {
            browser: &browser,
            name,
            base: base.clone(),
            axe: &axe,
            found: &found,
        }
    };

    // The code comes behind the #, as a QR code brings it: it leaves the address at once.
    let ada = page("ada", &format!("/claim#{}", code(&a)), json!({}));
    ada.wait("document.querySelector('#code').value.length > 15 && location.hash === ''");
    ada.looks_well("claim");
    ada.fill("#member", "ada");
    ada.fill("#passphrase", PASSPHRASE);
    ada.fill("#again", OTHER);
    ada.press("Enter");
    ada.wait("document.querySelector('#again-wrong')?.textContent.includes('not the same')");
    ada.looks_well("claim-wrong");
    ada.fill("#code", &code(&a));
    ada.fill("#passphrase", PASSPHRASE);
    ada.fill("#again", PASSPHRASE);
    ada.press("Enter");
    ada.wait_path("/account/second-step");
    ada.looks_well("second-step");
    ada.tab_to("a[href=\"/\"].button");
    ada.press("Enter");
    ada.wait_path("/");
    a.run("everything", &["--name", "notes"]);
    assert_eq!(ada.go("/"), 200);
    ada.wait("document.body.innerText.includes('Healthy')");
    ada.looks_well("overview");

    ada.tab_to("form[action=\"/sign-out\"] button");
    ada.press("Enter");
    ada.wait_path("/sign-in");
    ada.looks_well("sign-in");
    ada.fill("#member", "ada");
    ada.fill("#passphrase", "not the passphrase");
    ada.press("Enter");
    ada.wait("document.querySelector('[role=alert]')?.textContent.includes('wrong')");
    ada.looks_well("sign-in-wrong");
    ada.fill("#passphrase", PASSPHRASE);
    ada.press("Enter");
    ada.wait_path("/");

    // The second step, with the code of an app.
    ada.go("/account/second-step");
    let secret = ada.eval("document.querySelector('.secret').textContent.replace(/\\s/g, '')");
    let secret = secret.as_str().unwrap().to_owned();
    assert!(
        ada.eval("document.querySelector('svg.qr path').getAttribute('d').length")
            .as_i64()
            > Some(500)
    );
    ada.fill("#code", &totp(&secret));
    ada.fill("#current", PASSPHRASE);
    ada.press("Enter");
    ada.wait("document.querySelectorAll('.codes li').length === 10");
    ada.looks_well("recovery-codes");
    let recovery = ada.eval("document.querySelector('.codes li').textContent");
    assert_eq!(ada.go("/account"), 200);
    ada.looks_well("account");

    // Another browser, which says of itself what it likes.
    let hostile = "<img src=x onerror=\"document.title='taken'\"> Firefox/1 \u{202e}";
    let second = page(
        "second",
        "/sign-in",
        json!({ "userAgent": hostile.replace('\u{202e}', "") }),
    );
    second.fill("#member", "ada");
    second.fill("#passphrase", PASSPHRASE);
    second.press("Enter");
    second.wait("Boolean(document.querySelector('[name=ticket]'))");
    second.looks_well("code");
    second.fill("#code", "000000");
    second.press("Enter");
    second.wait("document.querySelector('[role=alert]')?.textContent.includes('wrong')");
    second.fill("#code", recovery.as_str().unwrap());
    second.press("Enter");
    second.wait_path("/");
    ada.go("/account");
    ada.wait("document.querySelectorAll('#content .list > li').length === 2");
    assert_eq!(
        ada.eval("document.querySelectorAll('#content img').length + document.title.includes('taken')"),
        0
    );
    assert!(
        ada.eval("document.body.innerText")
            .as_str()
            .unwrap()
            .contains("9 of 10 recovery codes")
    );
    ada.looks_well("account-sessions");
    ada.tab_to("form[action=\"/account/sessions\"] button");
    ada.press("Enter");
    ada.wait("document.querySelector('[role=status]')?.textContent.includes('ended')");
    second.go("/account");
    second.wait_path("/sign-in");

    // Whoever is disabled is thrown out of every browser.
    a.cli(&["member", "add", "grace"]);
    ada.go("/people");
    ada.looks_well("people");
    ada.tab_to("button[aria-label=\"Invite grace\"]");
    ada.press("Enter");
    ada.wait("Boolean(document.querySelector('#link'))");
    ada.looks_well("people-link");
    let link = ada.eval("document.querySelector('#link').textContent");
    let path = link.as_str().unwrap().split_once(&base).unwrap().1.to_owned();
    let grace = page("grace", &path, json!({}));
    grace.wait("document.querySelector('#member').value === 'grace' && location.hash === ''");
    grace.looks_well("set-passphrase");
    grace.fill("#passphrase", OTHER);
    grace.fill("#again", OTHER);
    grace.press("Enter");
    grace.wait_path("/account/second-step");
    grace.go("/");
    assert!(
        !grace
            .eval("document.body.innerText")
            .as_str()
            .unwrap()
            .contains("notes"),
        "she was granted nothing"
    );
    grace.looks_well("overview-empty");
    a.cli(&["member", "disable", "grace"]);
    grace.go("/");
    grace.wait_path("/sign-in");
    assert_eq!(ada.go("/account/nothing"), 404);
    ada.looks_well("wrong");

    assert_eq!(*found.borrow(), Vec::<String>::new());
    for page in [&ada, &second, &grace] {
        assert_eq!(page.complaints(), Vec::<String>::new(), "{}", page.name);
    }
    wait_for("no browser has reported anything", MINUTE, || {
        a.metrics().contains("berth_console_reports_total 0\n")
    });
}
