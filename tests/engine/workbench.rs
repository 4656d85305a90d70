//! A box of a test's own on the real engine: an id, an image that holds busybox, a type to run it. What it made is gone
//! when it is dropped, also after a panic. Needs an engine and Debian's `busybox-static`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use berth::{
    catalog::{Egress, HealthContract, ImageRef, InstanceType, Mcp, Transport},
    model::{BoxId, Processes, Size, TypeName},
};

/// Where the engine under test listens.
pub fn socket() -> PathBuf {
    std::env::var_os("BERTH_TEST_ENGINE").map_or("/var/run/docker.sock".into(), PathBuf::from)
}

/// What a docker command says on stdout.
pub fn docker(args: &[&str]) -> String {
    let out = command(args).stderr(Stdio::null()).output();
    out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}

fn command(args: &[&str]) -> Command {
    let mut c = Command::new("docker");
    c.env("DOCKER_HOST", format!("unix://{}", socket().display()))
        .args(args);
    c
}

pub struct Workbench {
    pub box_id: BoxId,
    pub image: String,
    pub dir: tempfile::TempDir,
}

impl Workbench {
    pub fn new() -> Workbench {
        let busybox = Path::new("/bin/busybox");
        assert!(busybox.exists(), "install busybox-static");
        let mut random = [0; 8];
        getrandom::fill(&mut random).unwrap();
        let box_id = BoxId::from_random(random);
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for sub in ["bin", "data", "tmp"] {
            std::fs::create_dir_all(root.join(sub)).unwrap();
        }
        std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
        std::os::unix::fs::chown(root.join("data"), Some(10001), Some(10001)).unwrap();
        let image = format!("berth/test-{box_id}:1");
        let bench = Workbench { box_id, image, dir };
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(&root)
            .args(["-c", "."])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let done = command(&["import", "-", &bench.image])
            .stdin(tar.stdout.take().unwrap())
            .stdout(Stdio::null())
            .status();
        assert!(done.unwrap().success() && tar.wait().unwrap().success());
        bench
    }

    /// Finds the images of this box: the first, and what a test calls by its name and more.
    fn own_images(&self) -> String {
        format!("reference=berth/test-{}:*", self.box_id)
    }

    /// A type that runs the image.
    pub fn a_type(&self, name: &str, size: Size, egress: Egress, volume: Option<&str>) -> InstanceType {
        let image = ImageRef {
            reference: self.image.clone(),
            digest: None,
        };
        let mcp = Mcp::of(Transport::Stdio {
            command: vec!["x".into()],
            env: [].into(),
            processes: Processes::Session,
        });
        InstanceType {
            health: HealthContract {
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                failures: 2,
                start_timeout: Duration::from_secs(30),
                ..HealthContract::default()
            },
            size,
            egress,
            volume: volume.map(str::to_owned),
            ..InstanceType::of(TypeName::parse(name).unwrap(), image, mcp)
        }
    }

    /// What a listing shows of this box.
    pub fn mine(&self, what: &[&str]) -> Vec<String> {
        let filter = format!("label=berth.box={}", self.box_id);
        let args: Vec<&str> = what.iter().copied().chain(["--filter", &filter]).collect();
        docker(&args).lines().map(str::to_owned).collect()
    }
}

impl Drop for Workbench {
    fn drop(&mut self) {
        for (list, remove) in [
            (["ps", "-aq"].as_slice(), ["rm", "-f"].as_slice()),
            (&["network", "ls", "-q"], &["network", "rm"]),
            (&["volume", "ls", "-q"], &["volume", "rm"]),
        ] {
            for one in self.mine(list) {
                let args: Vec<&str> = remove.iter().copied().chain([one.as_str()]).collect();
                docker(&args);
            }
        }
        let made = docker(&[
            "images",
            "--format",
            "{{.Repository}}:{{.Tag}}",
            "--filter",
            &self.own_images(),
        ]);
        for image in made.lines() {
            docker(&["rmi", "-f", image]);
        }
        remove_cgroups(self.box_id.as_str());
    }
}

/// Removes the cgroups of a box that runs nothing any more.
pub fn remove_cgroups(box_id: &str) {
    let short = &box_id[..8];
    let root = Path::new("/sys/fs/cgroup");
    let below = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path());
    for hierarchy in below.chain([root.to_owned()]) {
        let at = hierarchy.join("berth").join(short);
        for workspace in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(workspace.path());
        }
        let _ = std::fs::remove_dir(at);
    }
}
