//! What of a server is bound to the machine that it comes from, and what may not stand where it stood there: places of that
//! machine in arguments and variables, and secrets in arguments.

use std::collections::BTreeMap;

use super::{
    Planned, Refused, secrets,
    text::{Question, Text},
};
use crate::model::sealed_argument;

/// A folder or file of somebody's own: below a home, or on a drive of Windows.
fn is_path_of_a_person(text: &str) -> bool {
    let text = text.rsplit_once('=').map_or(text, |(_, value)| value);
    let drive = text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
        && (text[1..].starts_with(":\\") || text[1..].starts_with(":/") && !text[1..].starts_with("://"));
    drive || ["/Users/", "/home/", "~/", "\\\\"].iter().any(|p| text.starts_with(p))
}

/// Variables that describe the machine that they are set on.
const OF_THE_MACHINE: [&str; 22] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "PWD",
    "TMPDIR",
    "TEMP",
    "TMP",
    "USERPROFILE",
    "APPDATA",
    "LOCALAPPDATA",
    "PROGRAMFILES",
    "SYSTEMROOT",
    "COMSPEC",
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "NODE_PATH",
    "NVM_DIR",
    "SSH_AUTH_SOCK",
    "LD_LIBRARY_PATH",
];

/// Arguments that name places of the laptop are refused; those that hold a secret take it from a variable, which is sealed.
pub(super) fn settle_arguments(
    args: Vec<Text>,
    env: &mut BTreeMap<String, Text>,
    files: &mut BTreeMap<String, String>,
    planned: &mut Planned,
    questions: &BTreeMap<String, Question>,
) -> Vec<Text> {
    let mut settled = Vec::new();
    for (i, arg) in args.iter().enumerate() {
        let before = args.get(i.wrapping_sub(1));
        let why = if let Some(place) = arg.place() {
            format!("${{{place}}} is a place on the laptop; an instance cannot see its files")
        } else if let Some((flag, path)) = file_in(arg) {
            let key = variable(i, flag, before, |key| {
                !env.contains_key(key) && !files.contains_key(key)
            });
            let head = flag.map(|f| format!("{f}=")).unwrap_or_default();
            settled.push(Text::literal(format!("{head}{}", sealed_argument(&key))));
            files.insert(key, path.to_owned());
            continue;
        } else if is_path_of_a_person(arg.head()) {
            "it is a path of the laptop; an instance cannot see its files".into()
        } else if secrets::in_argument(before, arg, questions) {
            let (key, arg) = sealed(i, before, arg, env);
            planned.notes.push(format!(
                "argument {} holds a secret: it is sealed as {key}, and put there when the server starts",
                i + 1
            ));
            settled.push(arg);
            continue;
        } else {
            settled.push(arg.clone());
            continue;
        };
        planned.refused.push(Refused {
            what: format!("argument {}", i + 1),
            why,
        });
    }
    settled
}

/// An argument whose secret is in a variable of its own: what that is called, and the argument.
fn sealed(at: usize, before: Option<&Text>, arg: &Text, env: &mut BTreeMap<String, Text>) -> (String, Text) {
    let own = arg.split_flag();
    let (flag, value) = match &own {
        Some((flag, value)) => (Some(flag.as_str()), value),
        None => (None, arg),
    };
    let key = variable(at, flag, before, |key| env.get(key).is_none_or(|other| other == value));
    env.insert(key.clone(), value.clone());
    let head = flag.map(|f| format!("{f}=")).unwrap_or_default();
    let arg = Text::literal(format!("{head}{}", sealed_argument(&key)));
    (key, arg)
}

/// A variable for what an argument holds, by its flag or by the one before it: of a name that no server looks for by itself.
fn variable(at: usize, flag: Option<&str>, before: Option<&Text>, free: impl Fn(&str) -> bool) -> String {
    let before = before.and_then(Text::as_literal).filter(|b| b.starts_with('-'));
    let word: String = flag
        .or(before)
        .unwrap_or_default()
        .trim_start_matches('-')
        .chars()
        .map(|c| match c.is_ascii_alphanumeric() {
            true => c.to_ascii_uppercase(),
            false => '_',
        })
        .collect();
    let base = match word.is_empty() {
        true => format!("ARG_{}", at + 1),
        false => format!("ARG_{word}"),
    };
    let numbered = (2..).map(|n| format!("{base}_{n}"));
    let mut names = std::iter::once(base.clone()).chain(numbered);
    names.find(|key| free(key)).unwrap_or(base)
}

/// What files are called that servers are given: configurations, keys, certificates. Programs and databases are none.
const ENDINGS: [&str; 17] = [
    "cer",
    "cfg",
    "conf",
    "config",
    "crt",
    "env",
    "ini",
    "json",
    "key",
    "kubeconfig",
    "p8",
    "pem",
    "properties",
    "toml",
    "txt",
    "yaml",
    "yml",
];

fn is_file_of_a_person(path: &str) -> bool {
    let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
    let ending = name
        .rsplit_once('.')
        .map_or("", |(_, ending)| ending)
        .to_ascii_lowercase();
    let known =
        ENDINGS.contains(&ending.as_str()) || path.ends_with("/.kube/config") || path.ends_with("\\.kube\\config");
    known && is_path_of_a_person(path) && !path.contains('=')
}

/// A file of the laptop in an argument, with the flag that it stands behind.
fn file_in(arg: &Text) -> Option<(Option<&str>, &str)> {
    let text = arg.as_literal()?;
    let (flag, path) = match text.split_once('=') {
        Some((flag, path)) if flag.starts_with('-') => (Some(flag), path),
        _ => (None, text),
    };
    is_file_of_a_person(path).then_some((flag, path))
}

/// Variables that name a file of the laptop take along what it holds; of a folder there is nothing to take.
pub(super) fn take_files(
    env: &mut BTreeMap<String, Text>,
    files: &mut BTreeMap<String, String>,
    planned: &mut Planned,
) {
    env.retain(|key, value| {
        let Some(path) = value
            .as_literal()
            .filter(|v| is_path_of_a_person(v) && !v.contains('\n'))
        else {
            return true;
        };
        if is_file_of_a_person(path) {
            files.insert(key.clone(), path.to_owned());
            return false;
        }
        planned.notes.push(format!(
            "{key} names a place of the laptop, and an instance cannot see its files"
        ));
        true
    });
}

/// Variables and files that name a place on the laptop mean nothing on Berth.
pub(super) fn leave_places(env: &mut BTreeMap<String, Text>, planned: &mut Planned) {
    env.retain(|key, value| {
        if OF_THE_MACHINE.contains(&key.to_ascii_uppercase().as_str()) {
            planned.notes.push(format!(
                "{key} is left out: it describes the laptop, and an instance has its own"
            ));
            return false;
        }
        let place = value.place();
        if let Some(place) = place {
            planned
                .notes
                .push(format!("{key} is left out: ${{{place}}} is a place on the laptop"));
        }
        place.is_none()
    });
    planned.env_files.retain(|file| {
        let place = file.contains("${");
        if place {
            planned
                .notes
                .push(format!("the env file {file} is left out; give it with --env-file"));
        }
        !place
    });
}
