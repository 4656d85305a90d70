//! `berth types pin` and `berth types upgrade`: a newer version of a package, tried beside the one that runs, compared,
//! and taken over only when that is asked for.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use super::{args::Wait, print, verbs::Verbs};
use crate::{
    api::{Route, TypeView},
    model::{Action, InstanceView, Outcome, State},
};

/// What differs between two lists of tools.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Tools {
    added: Vec<String>,
    removed: Vec<String>,
    /// Those whose description or schema is another.
    changed: Vec<String>,
}

/// What differs between two trees of packages.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Tree {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
}

impl Verbs {
    pub(super) async fn pin(&self, id: &str, pinned: bool) -> Result<ExitCode> {
        let view = self.instance_of(id).await?;
        let outcome = self.supervisor.act(&Action::Pin { id: view.id, pinned }).await?;
        let Outcome::Instance(view) = outcome else {
            bail!("the answer of the supervisor was not understood; does it have another version?");
        };
        if self.json {
            print::json(&view)?;
        } else {
            let version = view.package.and_then(|p| p.version).unwrap_or_default();
            let word = if pinned {
                "pinned to"
            } else {
                "no longer pinned; it runs"
            };
            print::out(&format!("{} {word} {version}\n", view.id))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// An instance; a type's name is told what it is.
    async fn instance_of(&self, id: &str) -> Result<InstanceView> {
        let found = self.view(id).await;
        if found.is_err() {
            let types: Vec<TypeView> = self.supervisor.list(Route::Types.path()).await?;
            if let Some(t) = types.iter().find(|t| t.name == id) {
                match t.kind.as_str() {
                    "fixed" => bail!(
                        "{id} is a type of the catalog: its version ({}) comes with Berth; after an update, `berth recreate ID` gives an instance the new one",
                        t.image
                    ),
                    _ => bail!("{id} is a generic type: name an instance of it (`berth list`)"),
                }
            }
        }
        found
    }

    pub(super) async fn upgrade(&self, id: &str, to: Option<String>, yes: bool, timeout: u64) -> Result<ExitCode> {
        let old = self.instance_of(id).await?;
        let action = Action::Try {
            id: old.id.clone(),
            version: to,
        };
        let Outcome::Instance(trial) = self.supervisor.act(&action).await? else {
            bail!("the answer of the supervisor was not understood; does it have another version?");
        };
        let done = self.try_out(&old, &trial, yes, timeout).await;
        // Whatever came of it, the trial goes.
        let removed = self.supervisor.act(&Action::Remove { id: trial.id }).await;
        let code = done?;
        removed?;
        Ok(code)
    }

    async fn try_out(&self, old: &InstanceView, trial: &InstanceView, yes: bool, timeout: u64) -> Result<ExitCode> {
        let wait = Wait {
            no_wait: false,
            timeout,
        };
        let gone = || anyhow!("the trial was removed in the meantime");
        let new = self.wait_watching(&trial.id, &wait).await?.ok_or_else(gone)?;
        if new.state != State::Running {
            let why = new.reason.as_deref().unwrap_or("no reason is known");
            bail!("the newer version does not run; nothing was changed: {why}");
        }
        let (old_package, new_package) = (package(old)?, package(&new)?);
        let versions = (
            old_package.version.clone().unwrap_or_default(),
            new_package.version.clone().unwrap_or_default(),
        );
        let same = old_package.lock == new_package.lock && versions.0 == versions.1;
        let tree = trees(&old_package.tree, &new_package.tree);
        let tools = match (self.tools(old).await, self.tools(&new).await) {
            (Ok(before), Ok(after)) => Some(compare(&before, &after)),
            (Err(e), _) if !self.json => {
                print::problem(&format_args!("the tools of {} cannot be compared: {e:#}", old.id));
                None
            }
            (_, Err(e)) if !self.json => {
                print::problem(&format_args!("the newer version's tools cannot be compared: {e:#}"));
                None
            }
            _ => None,
        };
        let upgraded = yes && !same;
        if upgraded {
            let action = Action::Upgrade {
                id: old.id.clone(),
                trial: new.id.clone(),
            };
            self.supervisor.act(&action).await?;
        }
        if self.json {
            print::json(
                &json!({ "id": old.id, "from": versions.0, "to": versions.1, "packages": tree, "tools": tools, "upgraded": upgraded }),
            )?;
        } else {
            print::out(&told(&versions, same, &tree, tools.as_ref()))?;
        }
        if !upgraded {
            if !same && !self.json {
                crate::output::error_line("Nothing was changed. Use --yes to take the version");
            }
            return Ok(ExitCode::SUCCESS);
        }
        let settled = self.wait(&old.id, "settled", &wait).await?.ok_or_else(gone)?;
        if settled.state != State::Running {
            bail!(
                "{} was upgraded and is {}: {}",
                old.id,
                settled.state,
                settled.reason.as_deref().unwrap_or("no reason is known")
            );
        }
        if !self.json {
            print::out(&format!("{} runs {} now\n", old.id, versions.1))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn tools(&self, view: &InstanceView) -> Result<Vec<Value>> {
        self.supervisor.get(&Route::Tools.of(view.id.as_str())).await
    }
}

fn package(view: &InstanceView) -> Result<&crate::model::PackageView> {
    let package = view.package.as_ref();
    package.ok_or_else(|| anyhow!("{} runs no package", view.id))
}

fn compare(before: &[Value], after: &[Value]) -> Tools {
    let by_name = |all: &[Value]| -> BTreeMap<String, Value> {
        let named = all
            .iter()
            .filter_map(|t| Some((t["name"].as_str()?.to_owned(), t.clone())));
        named.collect()
    };
    let (before, after) = (by_name(before), by_name(after));
    let parts = |t: &Value| {
        [
            t["description"].clone(),
            t["inputSchema"].clone(),
            t["outputSchema"].clone(),
        ]
    };
    Tools {
        added: after.keys().filter(|n| !before.contains_key(*n)).cloned().collect(),
        removed: before.keys().filter(|n| !after.contains_key(*n)).cloned().collect(),
        changed: before
            .iter()
            .filter(|(n, t)| after.get(*n).is_some_and(|a| parts(a) != parts(t)))
            .map(|(n, _)| n.clone())
            .collect(),
    }
}

fn trees(before: &[String], after: &[String]) -> Tree {
    let split = |all: &[String]| -> BTreeMap<String, Vec<String>> {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, version) in all.iter().filter_map(|p| p.rsplit_once('@')) {
            map.entry(name.to_owned()).or_default().push(version.to_owned());
        }
        map
    };
    let (before, after) = (split(before), split(after));
    let shown = |(name, versions): (&String, &Vec<String>)| format!("{name} {}", versions.join(", "));
    Tree {
        added: after
            .iter()
            .filter(|(n, _)| !before.contains_key(*n))
            .map(shown)
            .collect(),
        removed: before
            .iter()
            .filter(|(n, _)| !after.contains_key(*n))
            .map(shown)
            .collect(),
        changed: before
            .iter()
            .filter_map(|(n, old)| {
                let new = after.get(n).filter(|new| *new != old)?;
                Some(format!("{n} {} -> {}", old.join(", "), new.join(", ")))
            })
            .collect(),
    }
}

fn told(versions: &(String, String), same: bool, tree: &Tree, tools: Option<&Tools>) -> String {
    if same {
        return format!("version  {}: there is nothing newer\n", versions.0);
    }
    let mut text = format!("version  {} -> {}\n", versions.0, versions.1);
    let mut list = |what: &str, sign: &str, all: &[String]| {
        for one in all {
            text += &format!("{what:<8} {sign} {one}\n");
        }
    };
    list("package", "+", &tree.added);
    list("package", "-", &tree.removed);
    list("package", "~", &tree.changed);
    match tools {
        None => {}
        Some(t) if *t == Tools::default() => text += "tools    the same\n",
        Some(t) => {
            list("tool", "+", &t.added);
            list("tool", "-", &t.removed);
            list("tool", "~", &t.changed);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told() {
        let s = |all: &[&str]| all.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
        let tree = trees(&s(&["@s/a@1.0.0", "b@1", "c@1"]), &s(&["@s/a@2.0.0", "c@1", "d@3"]));
        let before = [
            json!({"name": "x", "description": "old"}),
            json!({"name": "y"}),
            json!({"name": "z"}),
        ];
        let after = [
            json!({"name": "x", "description": "new"}),
            json!({"name": "z"}),
            json!({"name": "w"}),
        ];
        let tools = compare(&before, &after);
        let text = told(&("1.0.0".into(), "2.0.0".into()), false, &tree, Some(&tools));
        assert_eq!(
            text,
            "version  1.0.0 -> 2.0.0\npackage  + d 3\npackage  - b 1\npackage  ~ @s/a 1.0.0 -> 2.0.0\n\
             tool     + w\ntool     - y\ntool     ~ x\n"
        );
        assert!(told(&("1".into(), "1".into()), true, &Tree::default(), None).contains("nothing newer"));
    }
}
