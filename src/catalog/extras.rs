//! Tables of a type file that most types do without: `[sandbox]` and `[import]`.

use super::{Sandbox, Seccomp, check_env_key};
use crate::{model::ImportRules, strict_toml::Section};

pub(super) fn sandbox(root: &mut Section<'_>) -> Sandbox {
    let mut sandbox = Sandbox::default();
    let Some(mut s) = root.section("sandbox") else {
        return sandbox;
    };
    if let Some(seccomp) = s.choice(
        "seccomp",
        &[("default", Seccomp::Default), ("browser", Seccomp::Browser)],
    ) {
        sandbox.seccomp = seccomp.value;
    }
    for (key, place) in [("tmp_mib", &mut sandbox.tmp_mib), ("shm_mib", &mut sandbox.shm_mib)] {
        if let Some(n) = s.integer(key, 16, 1024) {
            *place = u32::try_from(n.value).unwrap_or(64);
        }
    }
    s.finish();
    sandbox
}

pub(super) fn import(root: &mut Section<'_>) -> ImportRules {
    let mut rules = ImportRules::default();
    let Some(mut s) = root.section("import") else {
        return rules;
    };
    match s.strings("packages") {
        Some(packages) => {
            let named = |p: &&String| {
                p.split_once(':')
                    .is_some_and(|(r, n)| ["npm", "pypi", "oci"].contains(&r) && !n.is_empty())
            };
            if let Some(odd) = packages.value.iter().find(|p| !named(p)) {
                s.wrong(
                    &packages,
                    format!("import.packages: write npm:NAME, pypi:NAME or oci:NAME; {odd:?} is not one of them"),
                );
            }
            rules.packages = packages.value;
        }
        None => s.missing("packages", "packages = [\"npm:…\"], what the type replaces"),
    }
    if let Some(arguments) = s.strings("arguments") {
        for key in &arguments.value {
            if let Err(e) = check_env_key(key) {
                s.wrong(&arguments, format!("import.arguments: {e}"));
            }
        }
        rules.arguments = arguments.value;
    }
    if let Some(ignore) = s.boolean("ignore_arguments") {
        rules.ignore_arguments = ignore.value;
    }
    if let Some(variables) = s.string_map("variables") {
        for key in variables.value.values() {
            if let Err(e) = check_env_key(key) {
                s.wrong(&variables, format!("import.variables: {e}"));
            }
        }
        rules.variables = variables.value;
    }
    s.finish();
    rules
}
