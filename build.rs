//! Fetches noVNC, the viewer in the screen's page, as `src/edge/screen/page/package-lock.json` pins it (npm checks the
//! integrity), and lists its files for `src/edge/screen/page.rs` to embed. Nothing else of the package is used.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const PAGE: &str = "src/edge/screen/page";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={PAGE}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let fetched = out.join("page");
    fs::create_dir_all(&fetched).expect("OUT_DIR can be written");
    let lock = fs::read(Path::new(PAGE).join("package-lock.json")).expect("the lock file is there");
    let package = fetched.join("node_modules/@novnc/novnc");
    if fs::read(fetched.join("fetched.json")).ok().as_ref() != Some(&lock) || !package.is_dir() {
        for name in ["package.json", "package-lock.json"] {
            fs::copy(Path::new(PAGE).join(name), fetched.join(name)).expect("OUT_DIR can be written");
        }
        let done = Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(&fetched)
            .status();
        match done {
            Ok(status) if status.success() => {}
            Ok(status) => {
                panic!("npm cannot fetch what {PAGE}/package-lock.json pins ({status}); its words stand above")
            }
            Err(e) => panic!("npm cannot be started ({e}): `make build` installs it, or install Debian's package npm"),
        }
        fs::write(fetched.join("fetched.json"), &lock).expect("OUT_DIR can be written");
    }
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
