//! The engine restarted underneath, on a Docker engine of this test's own.

use crate::support;

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use support::{Appliance, INITIALIZE, Options, wait_for};
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);

/// A dockerd with its own socket, data and no bridge; ended, and its folder removed, when dropped.
pub struct Engine {
    dir: TempDir,
    child: Option<Child>,
    remaps: bool,
}

/// What remapped users count from.
pub const BASE: u32 = 100_000;
/// In a network namespace of its own: without a bridge, dockerd would take away the one of the machine's engine. And with a
/// table of remapped users of its own, in the folder that is its first argument.
const START: &str = "for f in uid gid; do if [ -e \"$0/sub$f\" ]; then mount --bind \"$0/sub$f\" /etc/sub$f || exit; fi; done; exec dockerd \"$@\"";

impl Engine {
    fn start() -> Self {
        Self::begin(false)
    }

    /// One whose containers' users are other users of the machine, from [`BASE`] on.
    pub fn remapped() -> Self {
        Self::begin(true)
    }

    fn begin(remaps: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("berth-e").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        if remaps {
            let ranges = format!("nobody:{BASE}:65536\nnogroup:{BASE}:65536\n");
            for table in ["subuid", "subgid"] {
                std::fs::write(dir.path().join(table), &ranges).unwrap();
            }
        }
        let mut e = Self {
            dir,
            child: None,
            remaps,
        };
        e.launch();
        e
    }

    pub fn socket(&self) -> String {
        format!("{}/s", self.dir.path().display())
    }

    fn launch(&mut self) {
        let at = |name: &str| format!("{}/{name}", self.dir.path().display());
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(at("log"))
            .unwrap();
        let child = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", START])
            .arg(self.dir.path())
            .args(self.remaps.then_some("--userns-remap=nobody:nogroup"))
            .args([
                "--data-root",
                &at("data"),
                "--exec-root",
                &at("exec"),
                "--pidfile",
                &at("pid"),
            ])
            .args([
                "--host",
                &format!("unix://{}", self.socket()),
                "--bridge",
                "none",
                "--iptables=false",
            ])
            .args(["--ip6tables=false", "--log-level", "warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd is installed (images/install-deps --engine)");
        self.child = Some(child);
        wait_for("the engine answers", MINUTE, || {
            assert!(
                self.child.as_mut().unwrap().try_wait().unwrap().is_none(),
                "dockerd ended: {}",
                self.log()
            );
            self.docker(&["version"]).status.success()
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn docker(&self, args: &[&str]) -> std::process::Output {
        Command::new("docker")
            .arg("-H")
            .arg(format!("unix://{}", self.socket()))
            .args(args)
            .output()
            .unwrap()
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            support::signal(child.id(), Signal::SIGTERM);
            wait_for("the engine ends", MINUTE, || child.try_wait().unwrap().is_some());
        }
    }

    /// Copies an image from the engine that the other tests use.
    pub fn copy(&self, image: &str) {
        let from = format!("unix://{}", support::engine_socket());
        let mut save = Command::new("docker")
            .args(["-H", &from, "save", image])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let loaded = Command::new("docker")
            .args(["-H", &format!("unix://{}", self.socket()), "load"])
            .stdin(save.stdout.take().unwrap())
            .output()
            .unwrap();
        assert!(
            save.wait().unwrap().success() && loaded.status.success(),
            "{}",
            String::from_utf8_lossy(&loaded.stderr)
        );
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = nix::sys::signal::kill(pid, Signal::SIGTERM);
            let _ = child.wait();
        }
    }
}

#[test]
fn instances_come_back_after_the_engine_restarts() {
    let mut engine = Engine::start();
    let types = support::root().join("instance-types/time.toml");
    let image = berth::load::type_file(&types).unwrap().image.reference;
    engine.copy(&image);
    let a = Appliance::with(Options {
        engine: engine.socket(),
        ..Options::default()
    });
    let i = a.run("time", &[]);
    let stopped = a.run("time", &[]);
    a.cli(&["stop", &stopped.id]);

    engine.stop();
    wait_for("the supervisor says that the engine is away", MINUTE, || {
        a.json(&["status"])["engine"] != "ok"
    });
    assert_eq!(
        a.json(&["list"]).as_array().unwrap().len(),
        2,
        "nothing is lost meanwhile"
    );
    engine.launch();
    a.wait_state(&i.id, "running", MINUTE);
    wait_for("the instance answers", MINUTE, || {
        a.post(&i.url, &i.token, INITIALIZE, &[]).status == 200
    });
    assert_eq!(a.show(&stopped.id)["state"], "stopped");
    assert_eq!(a.json(&["status"])["engine"], "ok");
    a.cli(&["rm", &i.id, &stopped.id]);
    assert_eq!(a.leftovers(), Vec::<String>::new());
    drop(a);
    engine.stop();
}
