//! Images of strangers: which may run at all, and what of their own settings a container of theirs gets.

use crate::{remote::claimed, support};

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use support::{Appliance, Options, engine_socket, root, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const BASE: &str = "berth/mcp-everything:2026.8.31";
const SERVER: &str = "/opt/mcp/node_modules/@modelcontextprotocol/server-everything/dist/index.js";

/// An image of the test's own; removed when it is dropped.
struct Image(String);

impl Image {
    /// One on [`BASE`] with further lines of a Dockerfile, under a name that no registry has. None of the builder's
    /// cache: another test's image may be its parent there, and goes with that test while this one is built.
    fn build(repository: &str, lines: &str) -> Image {
        let mut random = [0; 8];
        getrandom::fill(&mut random).unwrap();
        let image = Image(format!("{repository}-{:016x}:1", u64::from_ne_bytes(random)));
        let dir = tempfile::tempdir().unwrap();
        let text = format!("FROM {BASE}\nENTRYPOINT [\"node\", \"{SERVER}\"]\nCMD [\"stdio\"]\n{lines}\n");
        std::fs::write(dir.path().join("Dockerfile"), text).unwrap();
        let built = docker(&[
            "build",
            "-q",
            "--no-cache",
            "-t",
            &image.0,
            dir.path().to_str().unwrap(),
        ]);
        assert!(built.0, "{}", built.1);
        image
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.0]);
    }
}

/// Whether a docker command succeeded, and all that it said.
fn docker(args: &[&str]) -> (bool, String) {
    let out = Command::new("docker")
        .env("DOCKER_HOST", format!("unix://{}", engine_socket()))
        .env("DOCKER_BUILDKIT", "0")
        .args(args)
        .output()
        .unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn allowing(images: &str) -> Options {
    Options {
        extra: format!("images = [{images}]\n"),
        ..Options::default()
    }
}

fn run(a: &Appliance, image: &str, more: &[&str]) -> Value {
    let args = ["run", "image", "--image", image, "--network", "none"];
    a.json(&[&args[..], more].concat())
}

/// The engine's socket with somebody listening in between.
struct Watched {
    dir: tempfile::TempDir,
    /// All that was sent to the engine.
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Watched {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("berth-t").tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(dir.path().join("docker.sock")).unwrap();
        let sent = Arc::<Mutex<Vec<u8>>>::default();
        let heard = sent.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(engine) = UnixStream::connect(engine_socket()) else {
                    continue;
                };
                let heard = heard.clone();
                let (mut from, mut to) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
                std::thread::spawn(move || {
                    let mut buffer = [0; 16 << 10];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        heard.lock().unwrap().extend_from_slice(&buffer[..n]);
                        if to.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
                let (mut from, mut to) = (engine, client);
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        });
        Self { dir, sent }
    }

    /// The names that were to be fetched.
    fn fetched(&self) -> Vec<String> {
        let sent = String::from_utf8_lossy(&self.sent.lock().unwrap()).into_owned();
        let lines = sent.lines().filter(|l| l.contains("/images/create?"));
        lines
            .map(|l| l.split(' ').nth(1).unwrap_or_default().to_owned())
            .collect()
    }
}

/// Whoever has the name `berth` on the public registry gets nothing to run here, and no credential.
#[test]
fn an_image_of_the_catalog_is_never_fetched() {
    let types = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(root().join("instance-types/slack.toml")).unwrap();
    let line = text.lines().find(|l| l.starts_with("reference")).unwrap();
    let absent = [
        ("slack", "berth/not-there:1"),
        ("short", "strangers/not-there:1"),
        ("moving", "registry.invalid/x:1"),
    ];
    for (name, reference) in absent {
        let text = text.replace(line, &format!("reference = \"{reference}\""));
        let text = text.replacen("name = \"slack\"", &format!("name = \"{name}\""), 1);
        std::fs::write(types.path().join(format!("{name}.toml")), text).unwrap();
    }
    let pinned = format!(
        "reference = \"registry.invalid/pinned:1\"\ndigest = \"sha256:{:064}\"",
        1
    );
    let text = text
        .replace(line, &pinned)
        .replacen("name = \"slack\"", "name = \"pinned\"", 1);
    std::fs::write(types.path().join("pinned.toml"), text).unwrap();
    let engine = Watched::start();
    let a = Appliance::with(Options {
        engine: engine.dir.path().join("docker.sock").display().to_string(),
        types: vec![types.path().into()],
        ..allowing(r#""berth/*", "strangers/*", "registry.invalid/*""#)
    });
    let listed = a.json(&["types"]);
    for (name, reference) in absent {
        let t = listed.as_array().unwrap().iter().find(|t| t["name"] == name).unwrap();
        assert_eq!(t["absent"], json!([reference]), "{t}");
        // Said before a credential is asked for, and nothing is left of it.
        let said = a.cli_fails(1, &["run", name]);
        assert!(
            said.contains(reference) && said.contains("not on this box") && !said.contains("TOKEN"),
            "{said}"
        );
    }
    assert!(a.cli(&["types"]).contains("not on this box"));
    assert_eq!(a.json(&["list"]), json!([]));
    assert_eq!(engine.fetched(), Vec::<String>::new());

    // One that says its registry and its digest is what it says, wherever it comes from.
    let env = "SLACK_BOT_TOKEN=xoxb-0123456789-abc\nSLACK_TEAM_ID=T0123456\n";
    let out = a.piped(&["run", "pinned", "--env-file", "-"], env);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("could not be fetched"), "{said}");
    let fetched = engine.fetched();
    assert!(
        !fetched.is_empty() && fetched.iter().all(|f| f.contains("registry.invalid")),
        "{fetched:?}"
    );
}

/// An image of nothing, in an archive; gone from the engine.
fn archived(name: &str, to: &std::path::Path) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "boats").unwrap();
    let tar = dir.path().join("root.tar");
    let made = Command::new("tar")
        .arg("-cf")
        .arg(&tar)
        .arg("-C")
        .arg(dir.path())
        .arg("file")
        .status();
    assert!(made.unwrap().success());
    for args in [
        &["import", tar.to_str().unwrap(), name][..],
        &["save", "-o", to.to_str().unwrap(), name],
        &["rmi", name],
    ] {
        let (done, said) = docker(args);
        assert!(done, "{args:?}: {said}");
    }
}

/// As on a box without a shell: over its own socket, and over the network as its administrator.
#[test]
fn an_image_is_loaded_from_an_archive_and_its_type_can_be_run() {
    let mut random = [0; 8];
    getrandom::fill(&mut random).unwrap();
    let name = format!("berth/test-loaded-{:016x}:1", u64::from_ne_bytes(random));
    let types = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(root().join("instance-types/time.toml")).unwrap();
    let line = text.lines().find(|l| l.starts_with("reference")).unwrap();
    let text = text.replace(line, &format!("reference = \"{name}\""));
    std::fs::write(types.path().join("time.toml"), text).unwrap();
    let a = Appliance::with(Options {
        types: vec![types.path().into()],
        ..Options::default()
    });
    let archive = types.path().join("images.tar");
    archived(&name, &archive);
    let remove = Image(name.clone());
    let absent = || a.json(&["types"])[0]["absent"].clone();
    assert_eq!(absent(), json!([name]));

    let laptop = claimed(&a);
    let whole = std::fs::read(&archive).unwrap();
    for (what, bytes) in [("half", &whole[..whole.len() / 2]), ("none", b"no archive")] {
        let file = types.path().join(what);
        std::fs::write(&file, bytes).unwrap();
        let said = laptop.fails(1, &["image", "load", file.to_str().unwrap()], "");
        assert!(said.contains("docker save"), "{what}: {said}");
    }
    assert_eq!(absent(), json!([name]));
    let loaded = laptop.json(&["image", "load", archive.to_str().unwrap()]);
    assert_eq!(loaded, json!([name]));
    assert_eq!(absent(), Value::Null);
    let listed = laptop.json(&["image", "list"]);
    let entry = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|i| i["name"] == name.as_str())
        .unwrap();
    assert_eq!(entry["types"], json!(["time"]), "{entry}");
    assert!(laptop.cli(&["image", "list"]).contains(&name));
    // Whoever has no token of a member's gets nothing in.
    let url = format!("https://localhost:{}/api/v1/images", a.https);
    let file = format!("@{}", archive.display());
    let answer = a.curl(&["--data-binary", &file, &url]);
    assert_eq!(answer.status, 401, "{}", answer.body);

    // Over its own socket, from a pipe.
    drop(remove);
    assert_eq!(absent(), json!([name]));
    let _remove = Image(name.clone());
    let out = a
        .command(&["image", "load", "-"])
        .stdin(std::fs::File::open(&archive).unwrap())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), name);
    assert_eq!(absent(), Value::Null);
}

/// A short name that a person asks for is the public registry's, and is fetched as such; Berth's own are on none.
#[test]
fn an_image_that_somebody_names_is_fetched_with_its_registry() {
    let engine = Watched::start();
    let a = Appliance::with(Options {
        engine: engine.dir.path().join("docker.sock").display().to_string(),
        ..allowing(r#""berth/*", "strangers-of-berth/*""#)
    });
    let said = a.cli_fails(1, &["run", "image", "--image", "berth/never-there:1"]);
    assert!(said.contains("no registry has"), "{said}");
    assert_eq!(engine.fetched(), Vec::<String>::new());
    let said = a.cli_fails(1, &["run", "image", "--image", "strangers-of-berth/never-there:1"]);
    assert!(said.contains("could not be fetched"), "{said}");
    let fetched = engine.fetched();
    assert!(
        !fetched.is_empty() && fetched.iter().all(|f| f.contains("docker.io%2Fstrangers-of-berth")),
        "{fetched:?}"
    );
}

#[test]
fn an_image_that_the_second_line_of_defence_does_not_allow_is_neither_pulled_nor_run() {
    let image = Image::build("stranger.invalid/server", "");
    let mut a = Appliance::start();
    for name in [image.0.as_str(), "stranger.invalid/not-here:1"] {
        let said = a.cli_fails(1, &["run", "image", "--image", name]);
        assert!(said.contains("[docker] images"), "{said}");
        assert!(
            said.contains(&format!(r#"images = ["berth/*", "{name}"]"#)),
            "the line to write: {said}"
        );
        assert!(!said.contains("fetched"), "nothing was tried: {said}");
    }
    assert_eq!(a.json(&["list"]), json!([]));
    assert!(a.leftovers().is_empty());

    // With that line it runs.
    let line = format!("[docker]\nimages = [\"berth/*\", \"{}\"]", image.0);
    let config = std::fs::read_to_string(a.config()).unwrap();
    std::fs::write(a.config(), config.replace("[docker]", &line)).unwrap();
    a.kill();
    a.launch();
    let id = run(&a, &image.0, &[])["id"].as_str().unwrap().to_owned();

    // The line is taken away again: what runs may end, and no container is made of it any more.
    std::fs::write(a.config(), config).unwrap();
    a.kill();
    a.launch();
    a.wait_state(&id, "running", MINUTE);
    let container = a.container_of(&id);
    assert!(a.docker(&["rm", "-f", &container]).status.success());
    let view = a.wait_state(&id, "failed", MINUTE);
    assert!(view["reason"].as_str().unwrap().contains("[docker] images"), "{view:#}");
    assert!(a.cli_fails(1, &["recreate", &id]).contains("[docker] images"));
    a.cli(&["rm", &id]);
    wait_for("it is gone", MINUTE, || a.leftovers().is_empty());
}

#[test]
fn packages_need_the_images_that_they_are_installed_in_and_run_on() {
    let a = Appliance::with(allowing("\"berth/mcp-*\""));
    let said = a.cli_fails(1, &["run", "npx", "--package", "left-pad@1.3.0"]);
    assert!(said.contains("[docker] images") && said.contains("berth/n"), "{said}");
    assert!(a.leftovers().is_empty());
    let i = a.run("everything", &[]);
    a.cli(&["rm", &i.id]);
}

#[test]
fn a_strangers_image_keeps_no_power_of_its_own_settings() {
    let image = Image::build(
        "berth/test-settings",
        "USER root\nWORKDIR /srv\nVOLUME /var/cache/x /tmp\nEXPOSE 9999\nSTOPSIGNAL SIGKILL\n\
         HEALTHCHECK --interval=1s CMD touch /var/cache/x/healthcheck\n\
         ENV BERTH_AGENT_SOCKET=/tmp/evil.sock BERTH_OTHER=x KEPT=yes\n\
         LABEL berth.box=evil berth.instance=evil berth.build=evil berth.built=evil traefik.enable=true",
    );
    let a = Appliance::start();
    let view = run(&a, &image.0, &[]);
    let id = view["id"].as_str().unwrap();
    assert_eq!(view["state"], "running");
    let said = a.cli(&["logs", "--deploy", id]);
    assert!(
        said.contains("declares volumes (/tmp, /var/cache/x)") || said.contains("/var/cache/x, /tmp"),
        "{said}"
    );

    let c = a.inspect(id);
    assert_eq!(c["Config"]["Healthcheck"]["Test"], json!(["NONE"]));
    assert!(c["State"]["Health"].is_null(), "{}", c["State"]);
    assert_eq!(c["Config"]["StopSignal"], "SIGTERM");
    assert_ne!(c["Config"]["User"], "root");
    assert_eq!(c["Config"]["WorkingDir"], "/srv");
    let labels = &c["Config"]["Labels"];
    assert_eq!(labels["berth.box"], a.box_id());
    assert_eq!(labels["berth.instance"], id);
    for label in ["berth.build", "berth.built", "traefik.enable"] {
        assert_eq!(labels[label], "", "{label}");
    }
    let env = c["Config"]["Env"].as_array().unwrap();
    let has = |what: &str| env.iter().any(|e| e.as_str().unwrap().starts_with(what));
    assert!(
        has("KEPT=yes") && !has("BERTH_OTHER=") && !has("BERTH_AGENT_SOCKET=/tmp"),
        "{env:?}"
    );
    assert_eq!(
        c["NetworkSettings"]["Ports"]
            .as_object()
            .map_or(0, serde_json::Map::len),
        0
    );
    let mounts = c["Mounts"].as_array().unwrap();
    assert!(
        mounts.iter().all(|m| m["Type"] == "bind"),
        "no volume of the engine's: {mounts:?}"
    );

    // Bounded, and nothing runs from there.
    let inside = |script: &str| a.docker(&["exec", "--user", "10001:10001", &a.container_of(id), "sh", "-c", script]);
    let full = inside(
        "head -c 70000000 /dev/zero > /var/cache/x/f; s=$?; wc -c < /var/cache/x/f; rm -f /var/cache/x/f; exit $s",
    );
    assert!(!full.status.success(), "it is bounded");
    let wrote: u64 = String::from_utf8_lossy(&full.stdout).trim().parse().unwrap();
    assert!((1..=64 << 20).contains(&wrote), "it took {wrote} bytes");
    let ran = inside("cp /bin/true /var/cache/x/t && /var/cache/x/t");
    assert!(!ran.status.success() && String::from_utf8_lossy(&ran.stderr).contains("denied"));
    assert!(!inside("test -e /var/cache/x/healthcheck").status.success());

    // With a volume of the instance's own it is kept, in that one alone.
    let kept = run(&a, &image.0, &["--volume", "/var/cache/x"]);
    let mounts = a.inspect(kept["id"].as_str().unwrap())["Mounts"].clone();
    let volumes: Vec<&Value> = mounts
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["Type"] == "volume")
        .collect();
    assert_eq!(volumes.len(), 1, "{mounts:#}");
    assert!(volumes[0]["Name"].as_str().unwrap().starts_with("berth-"));
    a.cli(&["rm", id, kept["id"].as_str().unwrap()]);
    wait_for("nothing is left", MINUTE, || a.leftovers().is_empty());
}

#[test]
fn volumes_where_none_can_be_are_refused_with_words() {
    let a = Appliance::start();
    for path in ["/berth/run", "/proc/x"] {
        let image = Image::build("berth/test-volume", &format!("VOLUME {path}"));
        let said = a.cli_fails(1, &["run", "image", "--image", &image.0]);
        assert!(said.contains(path) && said.contains("where none can be"), "{said}");
        let id = a.json(&["list"])[0]["id"].as_str().unwrap().to_owned();
        a.cli(&["rm", &id]);
    }
}
