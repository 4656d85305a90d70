//! QEMU itself: from the image's tools tree, run by that tree's own loader, so that it is a plain child process of the
//! test, with no privileges and no mounts of its own. Which accelerator works is tried, not believed.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use super::{image_dir, say, state_dir};

fn tools() -> PathBuf {
    let tree = image_dir().join("tools");
    assert!(
        tree.join("usr/bin/qemu-system-x86_64").exists(),
        "{} has no QEMU: run `image-build/tools make`",
        tree.display()
    );
    tree
}

/// A file of the tools tree.
pub fn tools_file(path: &str) -> PathBuf {
    tools().join(path)
}

/// A program of the tools tree. It dies with the thread that started it.
pub fn tool(name: &str) -> Command {
    let tree = tools();
    let path = |p: &str| tree.join(p).display().to_string();
    let program = [format!("usr/bin/{name}"), format!("usr/sbin/{name}")]
        .map(|p| tree.join(p))
        .into_iter()
        .find(|p| p.exists())
        .unwrap_or_else(|| panic!("the tools tree has no {name}"));
    let libraries = ["", "/swtpm"]
        .map(|d| path(&format!("usr/lib/x86_64-linux-gnu{d}")))
        .join(":");
    let mut c = Command::new("setpriv");
    c.args(["--pdeathsig", "KILL", "--"])
        .arg(path("lib64/ld-linux-x86-64.so.2"))
        .args(["--library-path", &libraries])
        .arg(program)
        .env("QEMU_MODULE_DIR", path("usr/lib/x86_64-linux-gnu/qemu"))
        // mtools takes images whose geometry it cannot make sense of.
        .env("MTOOLS_SKIP_CHECK", "1")
        .stdin(Stdio::null());
    c
}

/// Runs a program of the tools tree that must succeed.
pub fn run_tool(name: &str, args: &[&str]) {
    let out = tool(name).args(args).output().unwrap();
    assert!(
        out.status.success(),
        "{name} {args:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

/// The emulator with the folders of its firmware.
pub fn emulator() -> Command {
    let tree = tools();
    let mut c = tool("qemu-system-x86_64");
    for dir in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        c.arg("-L").arg(tree.join(dir));
    }
    c
}

/// `kvm` where the box's own firmware comes as far as its boot menu with it, else `tcg`: a `/dev/kvm` may be there and
/// hang, or run simpler code than that.
pub fn accelerator() -> &'static str {
    static FOUND: OnceLock<&str> = OnceLock::new();
    FOUND.get_or_init(|| {
        let kvm = std::path::Path::new("/dev/kvm").exists() && kvm_runs();
        let found = if kvm { "kvm" } else { "tcg" };
        say(format!("QEMU runs with {found}"));
        found
    })
}

fn kvm_runs() -> bool {
    let file = |name: &str| state_dir().join(format!("kvm-{name}-{}", std::process::id()));
    let (serial, errors, vars) = (file("serial"), file("errors"), file("vars"));
    std::fs::copy(tools_file("usr/share/OVMF/OVMF_VARS_4M.fd"), &vars).unwrap();
    let code = tools_file("usr/share/OVMF/OVMF_CODE_4M.fd");
    let mut probe = emulator()
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-machine",
            "q35,accel=kvm",
            "-cpu",
            "host",
            "-m",
            "256",
            "-smp",
            "2",
        ])
        .arg("-drive")
        .arg(format!(
            "if=pflash,format=raw,unit=0,readonly=on,file={}",
            code.display()
        ))
        .arg("-drive")
        .arg(format!("if=pflash,format=raw,unit=1,file={}", vars.display()))
        .arg("-serial")
        .arg(format!("file:{}", serial.display()))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
    let spoke = super::wait(Duration::from_secs(20), || {
        if size(&serial) > 0 {
            return Some(true);
        }
        let bad = size(&errors) > 0 || probe.try_wait().unwrap().is_some();
        bad.then_some(false)
    });
    end(&mut probe, Duration::from_secs(5));
    for path in [serial, errors, vars] {
        let _ = std::fs::remove_file(path);
    }
    spoke == Some(true)
}

/// Kills a process and reaps it, but waits no longer than this: one that hangs in the kernel must not hang the tests.
pub fn end(child: &mut Child, deadline: Duration) {
    let _ = child.kill();
    let until = Instant::now() + deadline;
    while child.try_wait().ok().flatten().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
}
