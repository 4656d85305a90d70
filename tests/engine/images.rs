//! Images of strangers: which may run at all, and what of their own settings a container of theirs gets.

use crate::support;

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use support::{Appliance, Options, engine_socket, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const BASE: &str = "berth/mcp-everything:2026.8.31";
const SERVER: &str = "/opt/mcp/node_modules/@modelcontextprotocol/server-everything/dist/index.js";

/// An image of the test's own; removed when it is dropped.
struct Image(String);

impl Image {
    /// One on [`BASE`] with further lines of a Dockerfile, under a name that no registry has.
    fn build(repository: &str, lines: &str) -> Image {
        let mut random = [0; 8];
        getrandom::fill(&mut random).unwrap();
        let image = Image(format!("{repository}-{:016x}:1", u64::from_ne_bytes(random)));
        let dir = tempfile::tempdir().unwrap();
        let text = format!("FROM {BASE}\nENTRYPOINT [\"node\", \"{SERVER}\"]\nCMD [\"stdio\"]\n{lines}\n");
        std::fs::write(dir.path().join("Dockerfile"), text).unwrap();
        let built = docker(&["build", "-q", "-t", &image.0, dir.path().to_str().unwrap()]);
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
