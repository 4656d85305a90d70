//! The browser: an assistant drives it (the official SDK's client), people watch it and take over (headless Chromium on
//! the screen's page), and whatever dies comes back.

use crate::support;

use std::time::Duration;

use serde_json::json;
use support::{
    Appliance,
    desktop::{Assistant, Browser, inside, kill_inside, link},
    tail, wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);
const SITE: &str = "http://127.0.0.1:8000/";
/// The colours of the fixture's page, before and after its form was sent, and where they are seen.
const BLUE: [u8; 3] = [0, 128, 255];
const GREEN: [u8; 3] = [0, 160, 64];
const SPOT: (u32, u32) = (900, 700);
/// The page's text field.
const FIELD: (u32, u32) = (300, 130);

/// What stands in the page's text field.
fn field(assistant: &mut Assistant) -> String {
    let said = assistant.call(
        "browser_evaluate",
        json!({ "function": "() => 'is:' + document.querySelector('#who').value + ':end'" }),
    );
    let start = said.text.find("is:").unwrap_or_else(|| panic!("{}", said.text)) + 3;
    said.text[start..].split(":end").next().unwrap().to_owned()
}

#[test]
fn an_assistant_works_while_people_watch_and_one_takes_over() {
    let a = Appliance::start();
    let i = a.run("fixture-browser", &[]);
    let screen = a.show(&i.id)["endpoints"]["screen"].clone();
    assert_eq!(screen["url"], format!("https://vnc-{}.localhost:{}/", i.id, a.https));
    assert_eq!(
        screen["path_url"],
        format!("https://localhost:{}/vnc/{}/", a.https, i.id)
    );

    let (mut assistant, mut people) = (Assistant::of(&a, &i), Browser::start(&a));
    assistant.call("browser_navigate", json!({ "url": SITE }));
    assert_eq!(people.open("ada", &link(&a, &i.id, &[])), 200);
    people.wait_phase("ada", "live");
    people.wait_colour("ada", SPOT, BLUE);
    let address = people.eval("ada", "location.href + ' ' + history.length + ' ' + document.cookie");
    assert!(
        !address.as_str().unwrap().contains("ticket"),
        "no ticket stays behind: {address}"
    );

    // The assistant fills the form, and the page shows it.
    assistant.call("browser_type", json!({ "target": "#who", "text": "Grace" }));
    assistant.call("browser_click", json!({ "target": "button" }));
    let said = assistant.call("browser_snapshot", json!({}));
    assert!(said.text.contains("Hello, Grace!"), "{}", said.text);
    people.wait_colour("ada", SPOT, GREEN);
    let file = a.dir().join("screen.png");
    a.cli(&["screen", &i.id, "--png", file.to_str().unwrap()]);
    assert_eq!(pixel(&file, SPOT), GREEN);

    // Who only looks does not touch, whatever the page lets through.
    people.eval("ada", "document.querySelector('#screen canvas').focus()");
    people.mouse("ada", FIELD.0, FIELD.1);
    people.type_text("ada", "no");
    assert_eq!(field(&mut assistant), "Grace");

    // With the controls, what is typed arrives.
    people.click("ada", "#control");
    people.wait_control("ada", "you");
    people.mouse("ada", FIELD.0, FIELD.1);
    people.press("ada", "End");
    people.type_text("ada", " Hopper");
    wait_for("the typed text is in the page", MINUTE, || {
        field(&mut assistant) == "Grace Hopper"
    });

    // A second viewer sees the same, and that somebody has the controls; and can take them over.
    assert_eq!(people.open("bob", &link(&a, &i.id, &["--path"])), 200);
    people.wait_phase("bob", "live");
    people.wait_colour("bob", SPOT, GREEN);
    people.wait_control("bob", "other");
    let notice = people.eval("bob", "document.querySelector('#notice').textContent");
    assert!(notice.as_str().unwrap().contains("has control"), "{notice}");
    people.click("bob", "#control");
    people.wait_control("bob", "you");
    people.wait_control("ada", "other");
    people.mouse("ada", FIELD.0, FIELD.1);
    people.type_text("ada", "lost");
    people.click("bob", "#control");
    people.wait_control("ada", "nobody");
    assert_eq!(field(&mut assistant), "Grace Hopper");
    for name in ["ada", "bob"] {
        assert_eq!(
            people.errors(name),
            json!([]),
            "the page of {name} has no complaint, of its policy least"
        );
    }

    // Who and when stands in the log.
    let log = a.log();
    for said in [
        "a screen's link was opened",
        "a person opened a screen",
        "a person took control",
    ] {
        let line = log
            .lines()
            .find(|l| l.contains(said))
            .unwrap_or_else(|| panic!("{said} is not in the log"));
        assert!(
            line.contains(&format!("instance={}", i.id)) && line.contains("by=") && line.contains("from=127.0.0.1"),
            "{line}"
        );
    }
    let ticket = link(&a, &i.id, &[]);
    assert!(
        !a.log().contains(ticket.split("ticket=").nth(1).unwrap()),
        "no ticket is logged"
    );
}

fn pixel(file: &std::path::Path, at: (u32, u32)) -> [u8; 3] {
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(file).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!(
        (info.width, info.height, info.color_type),
        (1280, 800, png::ColorType::Rgb)
    );
    let start = 3 * (at.1 * info.width + at.0) as usize;
    bytes[start..start + 3].try_into().unwrap()
}

#[test]
fn text_is_copied_and_pasted_both_ways() {
    let a = Appliance::start();
    let i = a.run("fixture-browser", &[]);
    let (mut assistant, mut people) = (Assistant::of(&a, &i), Browser::start(&a));
    assistant.call("browser_navigate", json!({ "url": SITE }));
    people.open("ada", &link(&a, &i.id, &[]));
    people.wait_phase("ada", "live");
    people.wait_colour("ada", SPOT, BLUE);
    people.click("ada", "#control");
    people.wait_control("ada", "you");
    // Towards the screen: through the panel, pasted there with its own keys.
    people.click("ada", "#clipboard");
    people.ask(json!({ "do": "fill", "name": "ada", "selector": "#text", "text": "Zoë 東京" }));
    people.click("ada", "#send");
    people.mouse("ada", FIELD.0, FIELD.1);
    people.press("ada", "Control+v");
    wait_for("the pasted text is in the page", MINUTE, || {
        field(&mut assistant) == "Zoë 東京"
    });
    // From the screen: marked and copied there, seen in the panel here.
    people.type_text("ada", " and back");
    people.press("ada", "Control+a");
    people.press("ada", "Control+c");
    people.wait("ada", "document.querySelector('#text').value === 'Zoë 東京 and back'");
}

#[test]
fn whatever_dies_comes_back_and_so_does_the_screen() {
    let a = Appliance::start();
    let i = a.run("fixture-browser", &[]);
    let container = a.container_of(&i.id);
    let (mut assistant, mut people) = (Assistant::of(&a, &i), Browser::start(&a));
    assistant.call("browser_navigate", json!({ "url": SITE }));
    people.open("ada", &link(&a, &i.id, &[]));
    people.wait_phase("ada", "live");
    people.wait_colour("ada", SPOT, BLUE);

    let works_again = |assistant: &mut Assistant, people: &mut Browser| {
        wait_for("the assistant's browser works again", MINUTE, || {
            assistant
                .try_call("browser_navigate", json!({ "url": SITE }))
                .is_ok_and(|s| !s.error && s.text.contains("Form"))
        });
        people.wait_phase("ada", "live");
        people.wait_colour("ada", SPOT, BLUE);
    };
    // The browser crashes: the display stays, the next call starts another.
    kill_inside(&a, &i.id, "--user-data-dir=");
    works_again(&mut assistant, &mut people);
    // The display dies, and what was on it.
    kill_inside(&a, &i.id, "Xvnc :0");
    works_again(&mut assistant, &mut people);
    // The MCP server dies: no browser of its is left behind.
    kill_inside(&a, &i.id, "start.mjs");
    wait_for("its browser went with it", MINUTE, || {
        !inside(&a, &i.id).iter().any(|(_, c)| c.contains("--user-data-dir="))
    });
    let mut assistant = Assistant::of(&a, &i);
    works_again(&mut assistant, &mut people);
    assert_eq!(a.container_of(&i.id), container, "all of it within one container");
    assert_eq!(a.show(&i.id)["restarts"], 0);

    // One click on the page, and there is a new one.
    people.click("ada", "#recreate");
    wait_for("a new container", MINUTE, || {
        let filter = format!("label=berth.instance={}", i.id);
        let all = a.docker_lines(&["ps", "-q", "--no-trunc", "--filter", &filter]);
        all.len() == 1 && all[0] != container
    });
    a.wait_state(&i.id, "running", MINUTE);
    let mut assistant = Assistant::of(&a, &i);
    works_again(&mut assistant, &mut people);
    // Stopped, the page says so; started, it is live again by itself.
    a.cli(&["stop", &i.id]);
    people.wait_phase("ada", "stopped");
    a.cli(&["start", &i.id]);
    people.wait_phase("ada", "live");
}

#[test]
fn pages_leave_nothing_behind() {
    let pages: u32 = std::env::var("BERTH_TEST_PAGES").map_or(60, |n| n.parse().unwrap());
    let a = Appliance::start();
    let i = a.run("fixture-browser", &["--size", "large"]);
    let mut assistant = Assistant::of(&a, &i);
    let load = |assistant: &mut Assistant, n: u32| {
        let said = assistant.call("browser_navigate", json!({ "url": format!("{SITE}?{n}") }));
        assert!(!said.error && said.text.contains("Form"), "{}", said.text);
    };
    // What is garbage by now is cleared up first: what is counted is what cannot be.
    let clear = |assistant: &mut Assistant| {
        let code = "async (page) => { const s = await page.context().newCDPSession(page); await s.send('HeapProfiler.collectGarbage'); const c = await s.send('Memory.getDOMCounters'); await s.detach(); return 'documents:' + c.documents + ';'; }";
        let said = assistant.call("browser_run_code_unsafe", json!({ "code": code }));
        let count = said
            .text
            .split("documents:")
            .nth(1)
            .and_then(|t| t.split(';').next())
            .map(str::parse::<u32>);
        count.unwrap_or_else(|| panic!("{}", said.text)).unwrap()
    };
    for n in 0..20 {
        load(&mut assistant, n);
    }
    let browser = |all: &[(u32, String)]| {
        all.iter()
            .find(|(_, c)| c.contains("--remote-debugging-pipe") && !c.contains("--type="))
            .map(|(p, _)| *p)
    };
    clear(&mut assistant);
    let (before, memory) = (inside(&a, &i.id), resident(&a, &i.id));
    for n in 20..20 + pages {
        load(&mut assistant, n);
    }
    let after = inside(&a, &i.id);
    assert!(
        after.iter().all(|(_, row)| !row.starts_with('Z')),
        "zombies: {after:#?}"
    );
    assert!(
        browser(&after).is_some() && browser(&before) == browser(&after),
        "one browser all along: {after:#?}"
    );
    assert!(clear(&mut assistant) <= 2, "documents that are gone are held");
    wait_for("no more processes than before", MINUTE * 3, || {
        inside(&a, &i.id).len() <= before.len() + 1
    });
    // What is freed goes back to the machine a moment later.
    wait_for("memory comes back", MINUTE * 3, || {
        clear(&mut assistant);
        let now = resident(&a, &i.id);
        eprintln!("{memory} KiB before {pages} pages, {now} KiB after");
        now < memory + 96 * 1024
    });
}

/// Memory of all processes of an instance that is no file's, shared pages in parts, in KiB: other browsers on this machine
/// share the program.
fn resident(a: &Appliance, id: &str) -> u64 {
    let pss = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text
            .lines()
            .find(|l| l.starts_with("Pss_Anon:"))
            .unwrap_or_default()
            .to_owned();
        line.split_whitespace()
            .nth(1)
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0)
    };
    inside(a, id).iter().map(|(pid, _)| pss(*pid)).sum()
}

#[test]
fn the_browser_keeps_its_own_sandbox_in_ours() {
    let a = Appliance::start();
    let i = a.run("playwright-mobile", &[]);
    let host = a.inspect(&i.id)["HostConfig"].clone();
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert_eq!(host["CapAdd"], json!(berth::model::AGENT_CAPABILITIES));
    assert_eq!(host["ReadonlyRootfs"], json!(true));
    let options = host["SecurityOpt"].to_string();
    assert!(
        options.contains("no-new-privileges") && options.contains("SCMP_ACT_ERRNO") && !options.contains("unconfined")
    );
    let mut assistant = Assistant::of(&a, &i);
    // The variant is another size, language and time, by its type file alone.
    let page = "data:text/html,<meta charset=utf-8><meta name=viewport content=width=device-width>";
    assistant.call("browser_navigate", json!({ "url": page }));
    let told = "() => [innerWidth, navigator.language, Intl.DateTimeFormat().resolvedOptions().timeZone, (1234.5).toLocaleString(), navigator.maxTouchPoints > 0].join(' ')";
    let said = assistant.call("browser_evaluate", json!({ "function": told }));
    assert!(
        said.text.contains("412 de-DE Europe/Berlin 1.234,5 true"),
        "{}",
        said.text
    );
    // Fonts for the world's scripts: none of these is drawn as the box that stands for a missing one.
    let drawn = "() => { const c = document.createElement('canvas').getContext('2d'); const ink = (t) => { c.clearRect(0, 0, 300, 150); c.font = '40px sans-serif'; c.fillText(t, 5, 60); return c.canvas.toDataURL(); }; const missing = ink('\\u{10FFFE}'); return 'missing:' + ['Ж','ع','ש','अ','ก','日','한','ქ','አ','😀','ൿ','ខ'].filter((t) => ink(t) === missing || ink(t) === ink(' ')).join('') + ':end'; }";
    let said = assistant.call("browser_evaluate", json!({ "function": drawn }));
    assert!(said.text.contains("missing::end"), "{}", said.text);

    let all = inside(&a, &i.id);
    assert!(all.iter().all(|(_, c)| !c.contains("--no-sandbox")), "{all:#?}");
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    let (agent, renderers): (Vec<_>, Vec<_>) = {
        let of = |words: &str| all.iter().filter(|(_, c)| c.contains(words)).map(|(p, _)| *p).collect();
        (of("/berth/bin/berth agent"), of("--type=renderer"))
    };
    assert!(!renderers.is_empty(), "{all:#?}");
    for renderer in renderers {
        assert_ne!(
            namespace(renderer),
            namespace(agent[0]),
            "a renderer lives in a user namespace of its own"
        );
        let status = std::fs::read_to_string(format!("/proc/{renderer}/status")).unwrap();
        let filters = status
            .lines()
            .find_map(|l| l.strip_prefix("Seccomp_filters:"))
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap();
        assert!(filters >= 2, "the container's filter and the browser's own: {filters}");
    }
}

#[test]
fn a_viewer_that_takes_nothing_costs_nobody_anything() {
    let a = Appliance::start();
    let i = a.run("fixture-browser", &[]);
    let (mut assistant, mut people, mut slow) = (Assistant::of(&a, &i), Browser::start(&a), Browser::start(&a));
    assistant.call("browser_navigate", json!({ "url": SITE }));
    people.open("ada", &link(&a, &i.id, &[]));
    slow.open("eve", &link(&a, &i.id, &[]));
    people.wait_phase("ada", "live");
    slow.wait_phase("eve", "live");
    slow.wait_colour("eve", SPOT, BLUE);
    // The page changes all the time, and one viewer's machine stands still.
    assistant.call("browser_evaluate", json!({ "function": "() => { setInterval(() => { document.body.style.backgroundImage = `linear-gradient(${Math.random() * 360}deg, red, blue)`; }, 30); }" }));
    let before = supervisor_memory(&a);
    slow.pause(&a, true);
    let end = std::time::Instant::now() + Duration::from_secs(10);
    let mut calls = 0;
    while std::time::Instant::now() < end {
        // Everybody else goes on: the assistant's calls, the other viewer's picture.
        assistant.call("browser_evaluate", json!({ "function": "() => 1" }));
        people.ask(json!({ "do": "colour", "name": "ada", "x": SPOT.0, "y": SPOT.1 }));
        calls += 1;
    }
    assert!(calls > 5, "{calls} calls");
    let grown = supervisor_memory(&a).saturating_sub(before);
    assert!(grown < 32 * 1024, "the supervisor grew by {grown} KiB");
    slow.pause(&a, false);
    assistant.call("browser_navigate", json!({ "url": SITE }));
    // Frames were lost, the connection was not.
    slow.wait_colour("eve", SPOT, BLUE);
    let lost = a
        .log()
        .lines()
        .filter(|l| l.contains("a person closed a screen"))
        .count();
    assert_eq!(lost, 0, "{}", tail(&a.log(), 20));
}

/// KiB.
fn supervisor_memory(a: &Appliance) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", a.pid())).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap().to_owned();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
