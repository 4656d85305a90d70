//! The commands that people are told in README and `docs/`, run as they stand: page by page, in the order of the page, each
//! by a shell, on a box of its own. What cannot run here is listed in [`ELSEWHERE`] with the reason and the test that runs
//! it; a command that neither runs nor is listed fails.
//!
//! Words in capitals stand for what a reader fills in. [`Reader::filled`] fills them in with what this box has.

#[path = "../documents/reader.rs"]
mod reader;

use crate::support::{self, Appliance};

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
};

use reader::Page;

/// How a command begins that no test box can run (`$`: how it ends, too), why, and who runs it: a file, or a file and a test
/// in it.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    (
        "berth audit --follow",
        "stays until it is ended",
        "src/audit/tests.rs::what_comes_is_followed",
    ),
    (
        "berth audit verify --head",
        "needs a row that was noted down",
        "tests/engine/audit.rs::what_is_called_is_told_with_who_and_how_it_went",
    ),
    ("make run", "builds everything and stays", "systemd/run-local"),
    ("make test", "runs this test", "tests/run"),
    ("make lint", "has no engine", "tests/run"),
    ("make image", "builds for minutes; `make test` builds one", "tests/run"),
    (
        "curl -fLo berth.raw.zst",
        "writes a disk; the same bytes are booted",
        "qemu-tests/functional/first_boot.rs::first_boot_to_a_tool_call",
    ),
    (
        "qm importdisk",
        "needs Proxmox; the same disk is booted in QEMU",
        "qemu-tests/functional/first_boot.rs::first_boot_to_a_tool_call",
    ),
    (
        "qemu-img resize",
        "needs an image; a grown disk is booted",
        "qemu-tests/functional/reboot.rs::a_reboot_elsewhere_on_a_grown_disk_keeps_everything",
    ),
    (
        "virt-install",
        "needs libvirt; the same disk is booted in QEMU",
        "qemu-tests/functional/first_boot.rs::first_boot_to_a_tool_call",
    ),
    (
        "vmkfstools",
        "needs VMware; the same disk is booted in QEMU",
        "qemu-tests/functional/first_boot.rs::first_boot_to_a_tool_call",
    ),
    (
        "berth install --disk",
        "erases a disk",
        "qemu-tests/functional/network.rs::installed_without_network_and_time_then_with_a_static_address_then_reset",
    ),
    (
        "berth login https://BOX --key",
        "needs a box that was set up with that key",
        "tests/engine/remote.rs::an_administrators_key_claims_without_a_code",
    ),
    (
        "berth login https://BOX --ca",
        "needs a box with such a certificate",
        "tests/engine/remote.rs::certificates_of_ones_own_are_trusted_by_file",
    ),
    (
        "berth login https://BOX$",
        "asks a person; the same without questions",
        "tests/engine/remote.rs::a_box_is_claimed_and_used_from_a_laptop",
    ),
    (
        "berth run npx",
        "takes a package of the reader's choice",
        "tests/engine/generic.rs::an_npm_package_is_installed_once_and_runs_without_a_registry_from_then_on",
    ),
    (
        "berth run uvx",
        "takes a package of the reader's choice",
        "tests/engine/generic.rs::a_python_package_runs",
    ),
    (
        "berth run image",
        "takes an image of the reader's choice",
        "tests/engine/generic.rs::an_image_runs_by_its_digest_on_stdio_and_on_http",
    ),
    (
        "berth run remote",
        "takes a server elsewhere",
        "tests/engine/generic.rs::a_remote_server_is_reached_with_berths_secret_and_never_with_the_clients",
    ),
    (
        "berth run everything --name three --file",
        "takes as long as the instances before it",
        "tests/engine/generic.rs::a_file_is_given_sealed_and_found_in_memory",
    ),
    (
        "berth types upgrade",
        "needs an instance of a package",
        "tests/engine/generic.rs::a_newer_version_is_compared_before_it_is_taken",
    ),
    (
        "berth types pin",
        "needs an instance of a package",
        "tests/engine/generic.rs::a_newer_version_is_compared_before_it_is_taken",
    ),
    (
        "berth run playwright",
        "starts a browser for long",
        "tests/engine/desktop.rs::an_assistant_works_while_people_watch_and_one_takes_over",
    ),
    (
        "berth screen browser",
        "needs that browser",
        "tests/engine/screen.rs::a_screen_opens_by_its_link_and_to_nobody_else",
    ),
    (
        "berth logs notes --follow",
        "never ends",
        "tests/engine/lifecycle.rs::logs_are_kept_and_followed",
    ),
    (
        "berth image load",
        "takes a large archive",
        "tests/engine/images.rs::an_image_is_loaded_from_an_archive_and_its_type_can_be_run",
    ),
    (
        "berth doctor --hardening",
        "is about the host image",
        "qemu-tests/security/hardening.rs::the_hardening_list_holds_on_the_box",
    ),
    (
        "systemctl reload berth",
        "needs systemd; the signal that it sends",
        "tests/engine/service.rs::types_are_read_again",
    ),
    (
        "systemctl restart berth",
        "needs systemd; the signal that it sends",
        "tests/engine/faults.rs::a_graceful_stop_leaves_instances_running_and_finishes_calls",
    ),
    (
        "nft delete table",
        "takes the firewall from running instances",
        "tests/engine/promises.rs::containers_reach_neither_the_machine_nor_its_networks",
    ),
];

/// Its place in the list. What goes on after the words of the list is the same command with other values; a command of one
/// line alone is listed with its end.
fn elsewhere(line: &str) -> Option<usize> {
    ELSEWHERE
        .iter()
        .position(|(begins, _, _)| match begins.strip_suffix('$') {
            Some(whole) => line == whole,
            None => line.starts_with(begins),
        })
}

/// A reader of a page: a home folder, a box, and what the page takes for granted.
struct Reader {
    a: Appliance,
    home: tempfile::TempDir,
}

impl Reader {
    fn new() -> Self {
        let home = tempfile::Builder::new().prefix("berth-t").tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let file = home.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let server = r#"{ "command": "npx", "args": ["-y", "@modelcontextprotocol/server-memory"] }"#;
        put(
            ".cursor/mcp.json",
            &format!(r#"{{ "mcpServers": {{ "notes": {server} }} }}"#),
        );
        put(
            ".vscode/mcp.json",
            &format!(r#"{{ "servers": {{ "board": {server} }} }}"#),
        );
        put(
            "compose.yaml",
            "services:\n  memory-mcp:\n    image: mcp/memory\n    stdin_open: true\n",
        );
        let entry = std::fs::read_to_string(support::root().join("tests/cases/import/registry_npm.json")).unwrap();
        put("server.json", &entry);
        put("values.env", "NOTE_COLOUR=blue\n");
        put(".kube/config", "clusters: []\n");
        std::fs::create_dir(home.path().join("bin")).unwrap();
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, home.path().join(name)).unwrap();
        link(&support::berth(), "bin/berth");
        link(&support::root().join("instance-types"), "instance-types");
        Self {
            a: Appliance::start(),
            home,
        }
    }

    /// A command with what a reader fills in.
    fn filled(&self, line: &str) -> String {
        let mut line = line
            .replace("https://BOX", &format!("https://127.0.0.1:{}", self.a.https))
            .replace("/run/berth/admin.sock", &self.a.socket().display().to_string());
        if line == "berth doctor" {
            // Doctor reads the file of the machine that it is on, where none is named.
            line = format!("berth doctor --config {}", self.a.config().display());
        }
        if line.contains("TOKEN-ID") {
            let tokens = self.a.json(&["token", "list"]);
            let last = tokens.as_array().unwrap().last().unwrap()["id"]
                .as_str()
                .unwrap()
                .to_owned();
            line = line.replace("TOKEN-ID", &last);
        }
        line
    }

    /// What a reader of a box's screen, and of a message from its administrator, has at hand.
    fn at_hand(&self, line: &str) -> Vec<(&'static str, String)> {
        let shown = self.a.json(&["status"])["box"].take();
        let mut out = Vec::new();
        for (name, key) in [("FINGERPRINT", "ca_fingerprint"), ("CODE", "claim_code")] {
            if let Some(value) = shown[key].as_str().filter(|_| line.contains(name)) {
                out.push((name, value.to_owned()));
            }
        }
        if line.contains("$TOKEN") {
            let made = self.a.json(&["token", "create", "--member", "admin"]);
            out.push(("TOKEN", made["token"].as_str().unwrap().to_owned()));
        }
        out
    }

    fn run(&self, at: &str, line: &str) {
        let line = self.filled(line);
        let path = std::env::var("PATH").unwrap_or_default();
        let out = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &line])
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("PATH", format!("{}:{path}", self.home.path().join("bin").display()))
            .env("BERTH_SOCKET", self.a.socket())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("BERTH_CONTEXT")
            .env_remove("BERTH_TOKEN")
            .envs(self.at_hand(&line))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{at}: {line} ({})\n{}{}",
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
    }
}

/// Runs a page's commands; how many there were.
fn follow(page: &str) -> usize {
    let commands = Page::of(page).commands();
    let run: Vec<_> = commands.iter().filter(|c| elsewhere(&c.line).is_none()).collect();
    if !run.is_empty() {
        let person = Reader::new();
        for command in &run {
            person.run(&command.at, &command.line);
        }
    }
    run.len()
}

#[test]
fn readme() {
    assert!(follow("README.md") > 12);
}

#[test]
fn install() {
    assert!(follow("docs/install.md") > 0);
}

#[test]
fn networks_and_names() {
    assert!(follow("docs/networks-and-names.md") > 5);
}

#[test]
fn types() {
    assert!(follow("docs/types.md") > 3);
}

#[test]
fn credentials() {
    assert!(follow("docs/credentials.md") > 5);
}

#[test]
fn import() {
    assert!(follow("docs/import.md") > 7);
}

#[test]
fn operations() {
    assert!(follow("docs/operations.md") > 15);
}

#[test]
fn audit() {
    assert!(follow("docs/audit.md") > 10);
}

#[test]
fn people() {
    assert!(follow("docs/people.md") > 14);
}

#[test]
fn console() {
    assert!(follow("docs/console.md") > 2);
}

/// A page with commands that no test above follows, a list that names what no page has, a test that is not there.
#[test]
fn no_command_is_forgotten() {
    let followed = [
        "README.md",
        "docs/install.md",
        "docs/networks-and-names.md",
        "docs/types.md",
        "docs/credentials.md",
        "docs/import.md",
        "docs/operations.md",
        "docs/people.md",
        "docs/console.md",
        "docs/audit.md",
    ];
    let mut used = BTreeSet::new();
    for page in reader::pages() {
        let commands = page.commands();
        assert!(
            commands.is_empty() || followed.contains(&page.name.as_str()),
            "{}: no test here follows its commands",
            page.name
        );
        for command in commands {
            used.extend(elsewhere(&command.line));
        }
    }
    for (i, (begins, why, test)) in ELSEWHERE.iter().enumerate() {
        assert!(used.contains(&i), "{begins:?} stands in no page");
        assert!(!why.is_empty(), "{begins:?}: say why");
        let (file, name) = test.split_once("::").unwrap_or((test, ""));
        let text = std::fs::read_to_string(support::root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(
            name.is_empty() || text.contains(&format!("fn {name}(")),
            "{file} has no test {name}"
        );
    }
}
