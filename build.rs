//! Fetches what pages embed from npm, as lock files pin it (npm checks the integrity): noVNC, the viewer in the screen's page,
//! for `src/edge/screen/page.rs`, and the icons of the console, for `src/console/assets.rs`. Nothing else of the packages is used.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const SCREEN: &str = "src/edge/screen/page";
const CONSOLE: &str = "src/console/assets";

/// The icons that pages of the console name.
const ICONS: [&str; 12] = [
    "anchor",
    "circle-check",
    "circle-user",
    "key-round",
    "layout-dashboard",
    "log-out",
    "monitor-smartphone",
    "plus",
    "shield-check",
    "smartphone",
    "triangle-alert",
    "users",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let package = fetched(SCREEN, &out.join("page")).join("@novnc/novnc");
    let mut files = Vec::new();
    for dir in ["core", "vendor"] {
        list(&package.join(dir), &mut files);
    }
    files.push(package.join("LICENSE.txt"));
    files.sort();
    let mut text = String::from("pub(super) static NOVNC: &[(&str, &[u8])] = &[\n");
    for file in files {
        let name = file.strip_prefix(&package).expect("below the package").display();
        text.push_str(&format!(
            "    ({:?}, include_bytes!({:?})),\n",
            name.to_string(),
            file.display().to_string()
        ));
    }
    text.push_str("];\n");
    fs::write(out.join("novnc.rs"), text).expect("OUT_DIR can be written");

    let icons = fetched(CONSOLE, &out.join("console")).join("lucide-static/icons");
    let mut text = String::from("pub(super) static ICONS: &[(&str, &str)] = &[\n");
    for name in ICONS {
        let file = icons.join(format!("{name}.svg"));
        text.push_str(&format!(
            "    ({name:?}, include_str!({:?})),\n",
            file.display().to_string()
        ));
    }
    text.push_str("];\n");
    fs::write(out.join("icons.rs"), text).expect("OUT_DIR can be written");
}

/// The packages that the lock file in a folder pins, below `to`.
fn fetched(folder: &str, to: &Path) -> PathBuf {
    println!("cargo::rerun-if-changed={folder}/package.json");
    println!("cargo::rerun-if-changed={folder}/package-lock.json");
    fs::create_dir_all(to).expect("OUT_DIR can be written");
    let lock = fs::read(Path::new(folder).join("package-lock.json")).expect("the lock file is there");
    let packages = to.join("node_modules");
    if fs::read(to.join("fetched.json")).ok().as_ref() != Some(&lock) || !packages.is_dir() {
        for name in ["package.json", "package-lock.json"] {
            fs::copy(Path::new(folder).join(name), to.join(name)).expect("OUT_DIR can be written");
        }
        let done = Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(to)
            .status();
        match done {
            Ok(status) if status.success() => {}
            Ok(status) => {
                panic!("npm cannot fetch what {folder}/package-lock.json pins ({status}); its words stand above")
            }
            Err(e) => panic!("npm cannot be started ({e}): `make build` installs it, or install Debian's package npm"),
        }
        fs::write(to.join("fetched.json"), &lock).expect("OUT_DIR can be written");
    }
    packages
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|x| x == "js") {
            files.push(path);
        }
    }
}
