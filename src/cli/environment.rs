//! The variables that `berth run` is given: pairs, and lines of a file or a pipe. A message never quotes a value.

use std::{collections::BTreeMap, io::Read, path::Path};

use anyhow::{Context, Result, anyhow};

use crate::{catalog, model::Secret};

/// Standard input and `--env-file` may be this long, in bytes.
const MAX_ENV_FILE: u64 = 1024 * 1024;

pub(super) fn read(pairs: &[String], file: Option<&Path>) -> Result<BTreeMap<String, Secret>> {
    let mut env = BTreeMap::new();
    let mut add = |key: &str, value: String| {
        catalog::check_env_key(key).map_err(|e| anyhow!(e))?;
        env.insert(key.to_owned(), Secret::new(value));
        Ok::<_, anyhow::Error>(())
    };
    if let Some(file) = file {
        let mut text = String::new();
        let mut input: Box<dyn Read> = if file == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            Box::new(std::fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?)
        };
        input
            .by_ref()
            .take(MAX_ENV_FILE)
            .read_to_string(&mut text)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        for (n, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // The line itself stays out of the message: it may hold a secret.
            let (key, value) = line
                .strip_prefix("export ")
                .unwrap_or(line)
                .split_once('=')
                .ok_or_else(|| anyhow!("{}:{}: write KEY=VALUE", file.display(), n + 1))?;
            add(key.trim_end(), value.to_owned())?;
        }
    }
    for pair in pairs {
        match pair.split_once('=') {
            Some((key, value)) => add(key, value.to_owned())?,
            None => add(
                pair,
                std::env::var(pair)
                    .map_err(|_| anyhow!("--env {pair}: this shell has no such variable; write {pair}=VALUE"))?,
            )?,
        }
    }
    Ok(env)
}

/// `KEY=PATH` pairs: what the files hold goes into the variables; the keys.
pub(super) fn files(pairs: &[String], env: &mut BTreeMap<String, Secret>) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for pair in pairs {
        let (key, path) = pair
            .split_once('=')
            .ok_or_else(|| anyhow!("--file {pair}: write KEY=PATH"))?;
        catalog::check_env_key(key).map_err(|e| anyhow!(e))?;
        env.insert(key.to_owned(), file(Path::new(path))?);
        keys.push(key.to_owned());
    }
    Ok(keys)
}

/// What a file holds. It must be text. Shells do not fill in `~` after a `=`.
pub(super) fn file(path: &Path) -> Result<Secret> {
    let home = || Some(Path::new(&std::env::var_os("HOME")?).join(path.strip_prefix("~").ok()?));
    let path = home().unwrap_or_else(|| path.to_owned());
    let mut text = String::new();
    std::fs::File::open(&path)
        .and_then(|f| f.take(MAX_ENV_FILE).read_to_string(&mut text))
        .with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_are_read_and_mistakes_have_a_line_but_no_value() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("e");
        std::fs::write(&file, "# comment\n\nexport A=1 2\nB=\"q\"\n").expect("write");
        let env = read(&["C=x=y".into()], Some(&file)).expect("valid");
        let shown: Vec<_> = env.iter().map(|(k, v)| (k.as_str(), v.expose())).collect();
        assert_eq!(shown, [("A", "1 2"), ("B", "\"q\""), ("C", "x=y")]);
        std::fs::write(&file, "A=1\nhunter2\n").expect("write");
        let e = read(&[], Some(&file)).expect_err("bad").to_string();
        assert!(e.contains(":2: write KEY=VALUE") && !e.contains("hunter2"), "{e}");
    }
}
