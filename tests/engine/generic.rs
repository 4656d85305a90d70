//! Generic types on the real engine, with real packages from the registries that this machine's npm and pip use.

use crate::support;

use std::{io::Write, process::Stdio, time::Duration};

use serde_json::{Value, json};
use support::{Appliance, INITIALIZE, Options, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const EVERYTHING: &str = "@modelcontextprotocol/server-everything";
const EVERYTHING_VERSION: &str = "2026.8.31";

fn pinned() -> String {
    format!("{EVERYTHING}@{EVERYTHING_VERSION}")
}

/// An address and the token for it.
struct At {
    id: String,
    url: String,
    token: String,
}

impl At {
    fn of(v: &Value) -> At {
        At {
            id: v["id"].as_str().unwrap().to_owned(),
            url: v["endpoints"]["mcp"]["path_url"].as_str().unwrap().to_owned(),
            token: v["token"].as_str().unwrap().to_owned(),
        }
    }

    /// Calls a tool in a session of its own; the text that it gives.
    fn call(&self, a: &Appliance, tool: &str, arguments: &Value) -> String {
        let hello = a.post(&self.url, &self.token, INITIALIZE, &[]);
        assert_eq!(hello.status, 200, "{}", hello.body);
        let session = hello.header("mcp-session-id").expect("a session").to_owned();
        let more = ["-H".to_owned(), format!("Mcp-Session-Id: {session}")];
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(a.post(&self.url, &self.token, note, &more).status, 202);
        let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": tool, "arguments": arguments}});
        let answer = a.post(&self.url, &self.token, &call.to_string(), &more);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let mut lines = answer.body.lines().map(|l| l.strip_prefix("data:").unwrap_or(l).trim());
        let last = lines
            .find_map(|l| serde_json::from_str::<Value>(l).ok().filter(|v| v["id"] == 7))
            .unwrap_or_else(|| panic!("no answer in {}", answer.body));
        last["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{last}"))
            .to_owned()
    }

    fn echo(&self, a: &Appliance) {
        assert_eq!(self.call(a, "echo", &json!({"message": "hello"})), "Echo: hello");
    }
}

/// Runs `berth run` with these arguments, of which some may stand after `--`.
fn run(a: &Appliance, args: &[&str]) -> Value {
    let all: Vec<&str> = ["run", "--json"].into_iter().chain(args.iter().copied()).collect();
    serde_json::from_str(&a.cli(&all)).unwrap()
}

/// Runs a verb with something on its standard input; status and what it printed.
fn with_input(a: &Appliance, args: &[&str], input: &str) -> (bool, String, String) {
    let mut child = a
        .command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

/// Containers, networks and volumes of installations.
pub fn builds(a: &Appliance) -> Vec<String> {
    let filter = format!("label=berth.box={}", a.box_id());
    let lists = [
        vec!["ps", "-aq"],
        vec!["network", "ls", "-q"],
        vec!["volume", "ls", "-q"],
    ];
    let listed = lists.map(|mut l| {
        l.extend(["--filter", &filter, "--filter", "label=berth.build"]);
        a.docker_lines(&l)
    });
    listed.concat()
}

#[test]
fn an_npm_package_is_installed_once_and_runs_without_a_registry_from_then_on() {
    let mut a = Appliance::start();
    let package = pinned();
    let asked = ["run", "npx", "--package", &package, "--network", "none", "--", "stdio"];
    // A person watches the deploy on standard error.
    let out = a.try_cli(&asked);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what} is not in:\n{said}"));
    let order = [
        "preparing @modelcontextprotocol",
        "npm: fetching",
        "packages; making the image",
        "preparing: the container",
        "starting",
        "server: ",
        "healthy",
    ];
    assert!(order.map(at).is_sorted(), "{said}");
    wait_for("what installed is gone", MINUTE, || builds(&a).is_empty());

    let first = a.json(&["list"])[0].clone();
    assert!(first["package"].get("tree").is_none(), "a list stays short: {first}");
    let id = first["id"].as_str().unwrap();
    assert_eq!(
        a.cli(&["logs", "--deploy", id])
            .lines()
            .last()
            .unwrap()
            .split("s ")
            .last(),
        Some("healthy")
    );
    let shown = a.show(id);
    let tree = shown["package"]["tree"].as_array().unwrap();
    assert!(tree.iter().any(|p| *p == json!(package)), "{shown:#}");
    assert!(
        tree.iter()
            .any(|p| p.as_str().unwrap().starts_with("@modelcontextprotocol/sdk@")),
        "{shown:#}"
    );
    assert_eq!(shown["package"]["version"], EVERYTHING_VERSION);
    let image = a.inspect(id)["Image"].clone();

    // The same version again: the same image, without a look at the registry.
    let second = At::of(&run(&a, &asked[1..]));
    second.echo(&a);
    assert!(
        a.cli(&["logs", "--deploy", &second.id])
            .contains("is installed already")
    );
    assert_eq!(a.inspect(&second.id)["Image"], image);
    assert_eq!(a.built_images().len(), 1);

    // With a registry that is not there, a recreate and a new supervisor run the same bytes.
    let nowhere = "[install]\nnpm_registry = \"http://127.0.0.1:9/\"\n";
    let config = std::fs::read_to_string(a.config()).unwrap();
    std::fs::write(a.config(), format!("{config}{nowhere}")).unwrap();
    assert!(a.terminate().success());
    a.launch();
    let network = a.inspect(&second.id)["HostConfig"]["NetworkMode"].clone();
    assert_eq!(network, "none");
    a.cli(&["recreate", &second.id]);
    second.echo(&a);
    assert_eq!(a.inspect(&second.id)["Image"], image);

    // Nothing of this machine is in the image.
    let made = a.docker(&["image", "inspect", image.as_str().unwrap()]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let env = made[0]["Config"]["Env"].to_string();
    assert!(
        !env.to_lowercase().contains("registry") && !env.contains("ca.pem"),
        "{env}"
    );
    let container = a.container_of(&second.id);
    let find = a.docker(&[
        "exec",
        "--user",
        "10001:10001",
        &container,
        "find",
        "/opt/mcp",
        "/srv",
        "-name",
        "*npmrc",
        "-o",
        "-name",
        "ca.pem",
    ]);
    assert_eq!(String::from_utf8_lossy(&find.stdout).trim(), "");
    let lock = a.docker(&[
        "exec",
        "--user",
        "10001:10001",
        &container,
        "cat",
        "/opt/mcp/package-lock.json",
    ]);
    assert!(
        !String::from_utf8_lossy(&lock.stdout).contains("\"resolved\": \"http"),
        "no registry's address"
    );

    a.cli(&["rm", id, &second.id]);
    assert_eq!(a.leftovers(), Vec::<String>::new());
    let kept = |folder: &str| std::fs::read_dir(a.dir().join("state").join(folder)).unwrap().count();
    wait_for(
        "the image goes with the last instance, and its logs and locks",
        MINUTE * 3,
        || a.built_images().is_empty() && (kept("deploys"), kept("packages")) == (0, 0),
    );
}

#[test]
fn a_python_package_runs() {
    let a = Appliance::start();
    let v = run(
        &a,
        &[
            "uvx",
            "--package",
            "mcp-server-time",
            "--network",
            "none",
            "--processes",
            "shared",
        ],
    );
    let at = At::of(&v);
    let text = at.call(&a, "get_current_time", &json!({"timezone": "Europe/Berlin"}));
    assert!(text.contains("Europe/Berlin"), "{text}");
    let package = &a.show(&at.id)["package"];
    let version = package["version"].as_str().unwrap();
    assert!(
        package["tree"]
            .to_string()
            .contains(&format!("mcp-server-time@{version}")),
        "{package:#}"
    );
    assert_eq!(package["lock"].as_str().unwrap().len(), 64);
    let log = a.cli(&["logs", "--deploy", &at.id]);
    assert!(
        log.contains("asking the registry") && log.contains(&format!("is {version}")),
        "{log}"
    );
}

#[test]
fn what_cannot_be_installed_is_told_in_the_tools_own_words() {
    let a = Appliance::start();
    let said = a.cli_fails(
        1,
        &[
            "run",
            "npx",
            "--package",
            "@modelcontextprotocol/there-is-no-such-server",
        ],
    );
    assert!(
        said.contains("could not be installed") && said.contains("E404"),
        "{said}"
    );
    let said = a.cli_fails(
        1,
        &[
            "run",
            "npx",
            "--package",
            "@modelcontextprotocol/server-everything@0.0.99",
        ],
    );
    assert!(said.contains("npm error") && said.contains("0.0.99"), "{said}");
    let said = a.cli_fails(1, &["run", "uvx", "--package", "mcp-server-time@0.0.99"]);
    assert!(
        said.contains("uv ended with status") && said.contains("mcp-server-time==0.0.99"),
        "{said}"
    );
    let said = a.cli_fails(1, &["run", "npx", "--package", "is-odd@3.0.1"]);
    assert!(said.contains("has no program to run"), "{said}");
    let said = a.cli_fails(1, &["run", "npx", "--package", "typescript@5.9.3"]);
    assert!(
        said.contains("several programs: tsc, tsserver") && said.contains("--bin"),
        "{said}"
    );
    for (args, want) in [
        (vec!["run", "npx"], "--package NAME"),
        (
            vec!["run", "npx", "--package", "../x"],
            "not the name of an npm package",
        ),
        (vec!["run", "memory", "--package", "x"], "runs its own image"),
        (vec!["run", "uvx", "--image", "x"], "runs no image"),
        (vec!["run", "memory", "--network", "none"], "only npx, uvx and image"),
        (vec!["run", "remote", "--url", "ftp://x"], "begins with https://"),
        (vec!["run", "remote", "--url", "https://u:hunter2@x/"], "--bearer"),
    ] {
        let said = a.cli_fails(1, &args);
        assert!(said.contains(want) && !said.contains("hunter2"), "{args:?}: {said}");
    }
    wait_for("what installed is gone", MINUTE, || builds(&a).is_empty());
}

#[test]
fn a_kill_in_the_middle_of_an_installation_leaves_nothing_and_it_is_taken_up_again() {
    let mut a = Appliance::start();
    let package = pinned();
    let v = run(
        &a,
        &[
            "npx",
            "--no-wait",
            "--package",
            &package,
            "--network",
            "none",
            "--",
            "stdio",
        ],
    );
    let at = At::of(&v);
    wait_for("something installs", MINUTE, || !builds(&a).is_empty());
    let before = builds(&a);
    a.kill();
    a.launch();
    wait_for("the orphan is gone", MINUTE, || {
        builds(&a).iter().all(|b| !before.contains(b))
    });
    a.wait_state(&at.id, "running", MINUTE * 3);
    at.echo(&a);
    wait_for("what installed is gone", MINUTE, || builds(&a).is_empty());

    // Nobody waits for it any more: it is broken off.
    let v = run(&a, &["uvx", "--no-wait", "--package", "mcp-server-fetch"]);
    wait_for("something installs", MINUTE, || !builds(&a).is_empty());
    a.cli(&["rm", v["id"].as_str().unwrap()]);
    wait_for("nothing installs any more", MINUTE, || builds(&a).is_empty());
}

#[test]
fn the_allowlist_says_which_key_refuses() {
    let allow = "[allow]\ntypes = [\"memory\", \"npx\", \"uvx\", \"image\"]\npackages = [\"@modelcontextprotocol/*\"]\n\
                 images = [\"ghcr.io/*\"]\nuvx = false\n";
    let a = Appliance::with(Options {
        extra: allow.into(),
        ..Options::default()
    });
    for (args, key) in [
        (vec!["run", "everything"], "types in [allow]"),
        (
            vec!["run", "uvx", "--package", "@modelcontextprotocol"],
            "uvx = false in [allow]",
        ),
        (vec!["run", "npx", "--package", "left-pad"], "packages in [allow]"),
        (vec!["run", "image", "--image", "berth/base:13"], "images in [allow]"),
    ] {
        let said = a.cli_fails(1, &args);
        assert!(said.contains(key), "{args:?}: {said}");
    }
    assert_eq!(a.json(&["list"]), json!([]));
    let types = a.json(&["types"]);
    let of = |name: &str| types.as_array().unwrap().iter().find(|t| t["name"] == name).unwrap()["refused"].clone();
    assert!(of("uvx").as_str().unwrap().contains("uvx = false"));
    assert!(of("memory").is_null());
    let i = a.run("memory", &[]);
    a.cli(&["rm", &i.id]);
}

#[test]
fn an_image_runs_by_its_digest_on_stdio_and_on_http() {
    let a = Appliance::start();
    let server = "/opt/mcp/node_modules/@modelcontextprotocol/server-everything/dist/index.js";
    let image = "berth/mcp-everything:2026.8.31";
    let base = [
        "run",
        "image",
        "--image",
        image,
        "--network",
        "none",
        "--command",
        "node",
    ];
    let with = |more: &[&str]| At::of(&run(&a, &[&base[1..], more].concat()));
    let stdio = with(&["--", server, "stdio"]);
    stdio.echo(&a);
    let known = a.docker_lines(&["image", "inspect", "--format", "{{ .Id }}", image]);
    assert_eq!(a.inspect(&stdio.id)["Image"], json!(known[0]));
    assert_eq!(
        a.inspect(&stdio.id)["Config"]["Image"],
        json!(known[0]),
        "by digest, not by name"
    );
    assert!(
        a.show(&stdio.id)["package"]["version"]
            .as_str()
            .unwrap()
            .contains("sha256:")
    );
    let http = with(&["--http", "3001/mcp", "--", server, "streamableHttp"]);
    http.echo(&a);
    assert!(
        a.cli(&["logs", "--deploy", &http.id])
            .contains("service server is ready")
    );

    // A server that lacks a credential fails with its own words, at once.
    let began = std::time::Instant::now();
    let script = "echo 'Error: GITHUB_TOKEN is not valid' >&2; exit 1";
    let failing = [
        "run",
        "image",
        "--image",
        "berth/base:13",
        "--command",
        "sh",
        "--",
        "-c",
        script,
    ];
    let said = a.cli_fails(1, &failing);
    assert!(said.contains("server: Error: GITHUB_TOKEN is not valid"), "{said}");
    assert!(said.contains("is failed: given up"), "{said}");
    assert!(began.elapsed() < MINUTE, "long before the type's start timeout");
    let said = a.cli_fails(1, &["run", "image", "--image", "berth/there-is-no-such-image:1"]);
    assert!(
        said.contains("not on this box") && said.contains("berth image load"),
        "{said}"
    );
}

/// `${secret:KEY}` in an argument is the sealed variable when the process starts, for stdio and for HTTP; nothing that the
/// engine or Berth says of the instance holds the value.
#[test]
fn an_argument_takes_a_sealed_variable() {
    let a = Appliance::start();
    let canary = "sealed-canary-4711";
    let server = "/opt/mcp/node_modules/@modelcontextprotocol/server-everything/dist/index.js";
    let pair = format!("ARG_KEY={canary}");
    let image = "berth/mcp-everything:2026.8.31";
    let base = ["image", "--image", image, "--network", "none", "--command", "node"];
    for how in [
        &["--", server, "stdio"] as &[&str],
        &["--http", "3001/mcp", "--", server, "streamableHttp"],
    ] {
        let at = At::of(&run(
            &a,
            &[&base[..], &["--env", &pair], how, &["--key=${secret:ARG_KEY}"]].concat(),
        ));
        at.echo(&a);
        let container = a.container_of(&at.id);
        let processes = a.docker_lines(&["top", &container, "-eo", "pid,args"]);
        let wanted = format!("--key={canary}");
        assert!(processes.iter().any(|p| p.contains(&wanted)), "{processes:?}");
        assert!(!a.inspect(&at.id).to_string().contains(canary));
        assert!(!a.show(&at.id).to_string().contains(canary));
        assert!(!a.cli(&["logs", "--deploy", &at.id]).contains(canary));
    }
    assert!(!a.log().contains(canary));
    let missing = [&["run"], &base as &[&str], &["--", server, "stdio", "${secret:OTHER}"]].concat();
    let said = a.cli_fails(1, &missing);
    assert!(
        said.contains("the value of OTHER") && said.contains("--env OTHER"),
        "{said}"
    );
}

/// A file of the laptop is in the container's memory, its path in the variable, and what it holds nowhere else.
#[test]
fn a_file_is_given_sealed_and_found_in_memory() {
    let a = Appliance::start();
    let held = "users:\n- token: canary-in-a-file-4711\n";
    let file = a.dir().join("config.yaml");
    std::fs::write(&file, held).unwrap();
    let pair = format!("KUBECONFIG={}", file.display());
    let server = "/opt/mcp/node_modules/@modelcontextprotocol/server-everything/dist/index.js";
    let base = [
        "image",
        "--image",
        "berth/mcp-everything:2026.8.31",
        "--network",
        "none",
        "--command",
        "node",
        "--file",
        &pair,
        "--",
        server,
        "stdio",
        "--config=${secret:KUBECONFIG}",
    ];
    let at = At::of(&run(&a, &base));
    let env: Value = serde_json::from_str(&at.call(&a, "get-env", &json!({}))).unwrap();
    let path = env["KUBECONFIG"].as_str().unwrap();
    assert!(path.starts_with("/tmp/") && path.ends_with("/KUBECONFIG"), "{path}");
    let container = a.container_of(&at.id);
    // The engine's own view: as the server's user it is read, and nothing of it can be changed.
    let as_server = |command: &[&str]| {
        let all = [&["exec", "--user", "10001:10001", &container], command].concat();
        a.docker(&all)
    };
    assert_eq!(String::from_utf8_lossy(&as_server(&["cat", path]).stdout), held);
    for change in ["echo x >$0", "rm -f $0", "echo x >${0%/*}/other"] {
        let done = as_server(&["sh", "-c", &format!("{change} 2>/dev/null"), path]);
        assert!(!done.status.success(), "{change}");
    }
    let processes = a.docker_lines(&["top", &container, "-eo", "pid,args"]).join("\n");
    assert!(processes.contains(&format!("--config={path}")), "{processes}");
    for shown in [a.inspect(&at.id).to_string(), a.show(&at.id).to_string(), a.log()] {
        assert!(!shown.contains("canary-in-a-file"));
    }
    let listed = a.json(&["credential", "list", &at.id]);
    assert_eq!(
        (&listed[0]["kind"], &listed[0]["set"]),
        (&json!("file"), &json!(true)),
        "{listed}"
    );

    // A new one takes its place, in the same container; a recreate keeps it a file.
    let new = "users:\n- token: another-canary-4712\n";
    let done = a.piped(&["credential", "set", &at.id, "KUBECONFIG"], new);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    at.echo(&a);
    assert_eq!(a.container_of(&at.id), container);
    assert_eq!(String::from_utf8_lossy(&as_server(&["cat", path]).stdout), new);
    a.cli(&["recreate", &at.id]);
    let env: Value = serde_json::from_str(&at.call(&a, "get-env", &json!({}))).unwrap();
    assert_eq!(env["KUBECONFIG"], json!(path));

    // A file that is not there, and what is no text, are told before anything runs.
    let missing = [
        "run",
        "image",
        "--image",
        "berth/base:13",
        "--file",
        "K=/there/is/none.json",
    ];
    let said = a.cli_fails(1, &missing);
    assert!(said.contains("/there/is/none.json cannot be read"), "{said}");
}

#[test]
fn a_remote_server_is_reached_with_berths_secret_and_never_with_the_clients() {
    let far = Appliance::start();
    let server = far.run("everything", &[]);
    let near = Appliance::with(Options {
        extra: format!(
            "[remote]\nprivate_networks = [\"127.0.0.0/8\", \"::1\"]\nca_file = \"{}\"\n",
            far.ca().display()
        ),
        ..Options::default()
    });
    let url = server.path_url.as_str();
    let (ok, out, err) = with_input(
        &near,
        &["run", "remote", "--url", url, "--bearer", "-", "--json"],
        &server.token,
    );
    assert!(ok, "{err}");
    let at = At::of(&serde_json::from_str(&out).unwrap());
    at.echo(&near);
    assert_eq!(near.containers(), Vec::<String>::new(), "there is no container");
    assert_eq!(near.show(&at.id)["health"], "healthy");
    assert!(!near.log().contains(&server.token), "the secret is in no log");
    let header = "Authorization=-".to_owned();
    let bearer = format!("Bearer {}", server.token);
    let (ok, out, err) = with_input(
        &near,
        &["run", "remote", "--url", url, "--header", &header, "--json"],
        &bearer,
    );
    assert!(ok, "{err}");
    At::of(&serde_json::from_str(&out).unwrap()).echo(&near);
    // Several fields have a line each, in their order.
    let two = [
        "run", "remote", "--url", url, "--header", "X-Org=-", "--header", &header, "--json",
    ];
    let (ok, out, err) = with_input(&near, &two, &format!("7\n{bearer}\n"));
    assert!(ok, "{err}");
    At::of(&serde_json::from_str(&out).unwrap()).echo(&near);
    let (ok, _, said) = with_input(&near, &two, &bearer);
    assert!(!ok && said.contains("2 header fields have 1 values"), "{said}");
    let twice = [
        "run", "remote", "--url", url, "--header", "x-org=-", "--header", "X-Org=-",
    ];
    let (ok, _, said) = with_input(&near, &twice, "7\n8\n");
    assert!(!ok && said.contains("given twice"), "{said}");

    // Without a secret there is none: a client's own token is not passed on in its place.
    let said = near.cli_fails(1, &["run", "remote", "--url", url, "--name", "bare"]);
    assert!(said.contains("refuses the secret"), "{said}");
    let (ok, _, said) = with_input(&near, &["run", "remote", "--url", url, "--bearer", "-"], "wrong");
    assert!(!ok && said.contains("refuses the secret"), "{said}");

    // It is as any instance: a stop, a start, a new supervisor.
    near.cli(&["stop", &at.id]);
    assert_eq!(near.post(&at.url, &at.token, INITIALIZE, &[]).status, 503);
    near.cli(&["start", &at.id]);
    at.echo(&near);
    let mut near = near;
    near.kill();
    near.launch();
    near.wait_state(&at.id, "running", MINUTE);
    at.echo(&near);
    far.cli(&["stop", &server.id]);
    let answer = near.post(&at.url, &at.token, INITIALIZE, &[]);
    assert!(answer.status >= 500, "{}", answer.body);
    near.cli(&["rm", &at.id]);
    assert_eq!(near.post(&at.url, &at.token, INITIALIZE, &[]).status, 401);
}

#[test]
fn a_remote_server_is_never_one_of_this_network() {
    let a = Appliance::start();
    for (url, want) in [
        (format!("https://localhost:{}/mcp", a.https), "not of the open internet"),
        ("https://169.254.169.254/latest".to_owned(), "not of the open internet"),
        ("https://[::ffff:10.0.0.1]/mcp".to_owned(), "not of the open internet"),
        ("http://93.184.216.34/mcp".to_owned(), "takes https"),
    ] {
        let said = a.cli_fails(1, &["run", "remote", "--url", &url]);
        assert!(said.contains(want), "{url}: {said}");
    }
}

/// For a package that needs longer to start, somebody writes a type of their own: of either kind, whatever its name.
#[test]
fn a_type_of_another_name_is_of_its_kind() {
    let types = tempfile::tempdir().unwrap();
    let uvx = std::fs::read_to_string(support::root().join("instance-types/uvx.toml")).unwrap();
    let own = uvx
        .replace("name = \"uvx\"", "name = \"slow-python\"")
        .replace("start_timeout = \"60s\"", "start_timeout = \"10m\"");
    std::fs::write(types.path().join("slow-python.toml"), own).unwrap();
    let a = Appliance::with(support::Options {
        types: vec![types.path().to_owned()],
        ..support::Options::default()
    });
    let v = run(&a, &["slow-python", "--package", "mcp-server-time", "--no-wait"]);
    assert_eq!(v["package"]["kind"], "uvx", "{v:#}");
    let said = a.cli_fails(1, &["run", "no-such", "--package", "x"]);
    assert!(said.contains("no-such"), "{said}");
}

#[test]
fn a_newer_version_is_compared_before_it_is_taken() {
    let a = Appliance::start();
    let old = format!("{EVERYTHING}@2025.11.25");
    let v = run(&a, &["npx", "--package", &old, "--network", "none", "--name", "e"]);
    let at = At::of(&v);
    a.cli(&["types", "pin", "e"]);
    let said = a.cli_fails(1, &["types", "upgrade", "e"]);
    assert!(said.contains("pinned to 2025.11.25"), "{said}");
    a.cli(&["types", "pin", "e", "--off"]);

    let told = a.cli(&["types", "upgrade", "e", "--to", EVERYTHING_VERSION]);
    assert!(
        told.contains(&format!("version  2025.11.25 -> {EVERYTHING_VERSION}")),
        "{told}"
    );
    assert!(
        told.contains(&format!("~ {EVERYTHING} 2025.11.25 -> {EVERYTHING_VERSION}")),
        "{told}"
    );
    for line in ["tool     + get-sum", "tool     - printEnv", "tool     ~ echo"] {
        assert!(told.contains(line), "the tools are compared: {told}");
    }
    assert_eq!(a.show("e")["package"]["version"], "2025.11.25", "nothing was changed");
    wait_for("the trial is gone", MINUTE, || {
        a.json(&["list"]).as_array().unwrap().len() == 1
    });

    let done = a.json(&["types", "upgrade", "e", "--to", EVERYTHING_VERSION, "--yes"]);
    assert_eq!(done["upgraded"], true, "{done:#}");
    assert!(done["tools"]["added"].is_array(), "{done:#}");
    assert_eq!(a.show("e")["package"]["version"], EVERYTHING_VERSION);
    at.echo(&a);
    let again = a.json(&["types", "upgrade", "e", "--to", EVERYTHING_VERSION, "--yes"]);
    assert_eq!(again["upgraded"], false, "there is nothing newer: {again:#}");
    wait_for("the old image is gone", MINUTE * 3, || a.built_images().len() == 1);

    let said = a.cli_fails(1, &["types", "upgrade", "memory"]);
    assert!(said.contains("comes with Berth"), "{said}");
    let i = a.run("memory", &["--name", "notes"]);
    let said = a.cli_fails(1, &["types", "pin", &i.id]);
    assert!(said.contains("comes with Berth"), "{said}");
}
