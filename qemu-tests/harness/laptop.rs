//! A person's own machine: the same command line, with a configuration folder of the test's, which reaches the box over
//! HTTPS alone.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use super::root;

#[derive(Debug)]
pub struct Laptop {
    folder: PathBuf,
}

impl Laptop {
    /// One whose configuration lies here.
    pub fn at(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        Self {
            folder: folder.to_owned(),
        }
    }

    /// A copy, which finds the box on another port.
    pub fn copy(from: &Path, to: &Path, port: u16) -> Self {
        let copy = Self::at(to);
        let file = "berth/contexts.toml";
        fs::create_dir_all(to.join("berth")).unwrap();
        let text = fs::read_to_string(from.join(file)).unwrap();
        let lines: Vec<String> = text
            .lines()
            .map(|l| match l.starts_with("url = \"https://localhost:") {
                true => format!("url = \"https://localhost:{port}\""),
                false => l.to_owned(),
            })
            .collect();
        fs::write(to.join(file), lines.join("\n")).unwrap();
        copy
    }

    pub fn try_cli(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(root().join("target/dist/berth"))
            .args(args)
            .env("XDG_CONFIG_HOME", &self.folder)
            .env_remove("BERTH_SOCKET")
            .env_remove("BERTH_CONTEXT")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A verb that asks for nothing may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// A verb that must succeed; what it printed.
    pub fn cli(&self, args: &[&str], input: &str) -> String {
        let out = self.try_cli(args, input);
        let (said, wrong) = (
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr),
        );
        assert!(out.status.success(), "berth {args:?}: {said}{wrong}");
        said.into_owned()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        let text = self.cli(&all, "");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("berth {args:?} printed no JSON ({e}): {text}"))
    }

    /// Claims a box with what its screen shows.
    pub fn claim(&self, port: u16, fingerprint: &str, code: &str) {
        let url = format!("https://localhost:{port}");
        self.cli(
            &[
                "login",
                &url,
                "--name",
                "box",
                "--fingerprint",
                fingerprint,
                "--code",
                "-",
            ],
            code,
        );
    }
}
