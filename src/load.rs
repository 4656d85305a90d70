//! F2: the files that administrators write: `berth.toml` and the instance types. Only reads them; what their text means,
//! `config` and `catalog` say. Never writes, and never reads another file than it is told.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    catalog::{self, Catalog, InstanceType},
    config::{self, Config},
    strict_toml::{Problem, Problems},
};

/// Reads and checks a configuration.
///
/// # Errors
/// All problems of the file at once; an unreadable file is one problem on line 1.
pub fn config(path: &Path) -> Result<Config, Problems> {
    config::parse(&path.display().to_string(), &text(path)?)
}

/// Reads every `*.toml` of a folder.
///
/// # Errors
/// All problems of all files at once. A folder without types is a problem too.
pub fn types(dir: &Path) -> Result<Catalog, Problems> {
    let (mut catalog, mut problems) = (Catalog::default(), Vec::new());
    for path in type_files(dir)? {
        match type_file(&path) {
            Ok(t) => {
                catalog.types.insert(t.name.clone(), Arc::new(t));
            }
            Err(p) => problems.extend(p.0),
        }
    }
    if problems.is_empty() {
        Ok(catalog)
    } else {
        Err(Problems(problems))
    }
}

/// Reads one type file.
///
/// # Errors
/// All problems of the file at once; an unreadable file is one problem on line 1.
pub fn type_file(path: &Path) -> Result<InstanceType, Problems> {
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    catalog::parse(&path.display().to_string(), stem, &text(path)?)
}

/// The type files of a folder, in order.
fn type_files(dir: &Path) -> Result<Vec<PathBuf>, Problems> {
    let entries = fs::read_dir(dir).map_err(|e| {
        let advice = "set types_dir to the folder of instance types";
        whole(dir, format!("cannot be read: {e}; {advice}"))
    })?;
    let mut paths: Vec<_> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|x| x == "toml"))
        .collect();
    paths.sort();
    if paths.is_empty() {
        return Err(whole(dir, "holds no instance types (*.toml)".into()));
    }
    Ok(paths)
}

fn text(path: &Path) -> Result<String, Problems> {
    fs::read_to_string(path).map_err(|e| whole(path, format!("cannot be read: {e}")))
}

/// One problem of the whole file or folder.
fn whole(path: &Path, text: String) -> Problems {
    Problems(vec![Problem {
        file: path.display().to_string(),
        line: 1,
        text,
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<T: std::fmt::Debug>(read: Result<T, Problems>) -> String {
        read.expect_err("problems").to_string()
    }

    #[test]
    fn what_cannot_be_read_is_one_problem_with_its_path() {
        let dir = tempfile::tempdir().expect("a folder");
        let gone = dir.path().join("gone");
        let begins = format!("{}:1: cannot be read: ", gone.display());
        for said in [said(config(&gone)), said(type_file(&gone)), said(types(&gone))] {
            assert!(said.starts_with(&begins), "{said}");
        }
        assert!(said(types(&gone)).ends_with("; set types_dir to the folder of instance types"));
        assert!(said(types(dir.path())).ends_with("holds no instance types (*.toml)"));
    }

    #[test]
    fn problems_of_all_type_files_are_told_at_once() {
        let dir = tempfile::tempdir().expect("a folder");
        for file in ["b.toml", "a.toml", "c.txt"] {
            fs::write(dir.path().join(file), "name = \"x\"\n").expect("written");
        }
        let said = said(types(dir.path()));
        let at = |file: &str| said.find(&format!("{}:1: ", dir.path().join(file).display()));
        assert!(at("a.toml").is_some() && at("a.toml") < at("b.toml"), "{said}");
        assert_eq!(at("c.txt"), None, "{said}");
    }
}
