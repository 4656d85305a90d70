//! Lines of a shell: one that was typed or kept in a file, and those that a client hands to `bash -c` and its likes. Only a
//! line that starts one program is understood; a shell itself does not come along.

use std::collections::BTreeMap;

use super::{Entry, Format, Import, Launch, Refused, docker, text::Text};
use crate::{clients::one, strict_toml::Problems};

/// What a line that starts a server begins with, by its first word without a path.
const BEGINS: [&str; 22] = [
    "docker", "podman", "npx", "bunx", "pnpx", "npm", "pnpm", "yarn", "bun", "uvx", "uv", "pipx", "deno", "node",
    "python", "python3", "claude", "sudo", "env", "export", "cmd", "wsl",
];
/// Signs of a shell that say more than one program with its arguments.
const SIGNS: [&str; 8] = ["|", "<", ">", "`", "$(", "&", ";", "\n"];

/// A line, split.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) words: Vec<String>,
    /// `KEY=VALUE` before the program, and what was exported before it.
    pub(super) env: BTreeMap<String, Text>,
}

/// `--flag=value`, split.
pub(super) fn flag(word: &str) -> (&str, Option<String>) {
    match word.split_once('=').filter(|_| word.starts_with("--")) {
        Some((flag, value)) => (flag, Some(value.to_owned())),
        None => (word, None),
    }
}

/// A path's last part, of Unix or of Windows.
pub(super) fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Whether a text that is no JSON is a command line.
pub(super) fn is_command_line(text: &str) -> bool {
    let lines = text.lines().map(str::trim);
    let Some(first) = lines.into_iter().find(|l| !l.is_empty() && !l.starts_with('#')) else {
        return false;
    };
    let mut words = first.split_whitespace();
    let word = words.find(|w| !is_assignment(w)).unwrap_or_default();
    let name = file_name(word);
    BEGINS.contains(&name.strip_suffix(".exe").unwrap_or(name))
}

fn is_assignment(word: &str) -> bool {
    let key = word.split_once('=').map(|(key, _)| key);
    key.is_some_and(|k| !k.is_empty() && k.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_'))
}

/// Splits a line into a program with its arguments.
///
/// # Errors
/// Why it is more than that.
pub(super) fn split(text: &str) -> Result<Line, String> {
    // Continued: by a shell of Unix, of Windows, by PowerShell.
    let mut text = text.replace("\\\r\n", " ").replace("\\\n", " ");
    for sign in ['^', '`'] {
        text = text
            .replace(&format!("{sign}\r\n"), " ")
            .replace(&format!("{sign}\n"), " ");
    }
    let mut line = Line::default();
    let mut programs = Vec::new();
    for part in text.split('\n').flat_map(|l| l.split("&&")).flat_map(|l| l.split("; ")) {
        let part = part.trim().trim_end_matches(';');
        if part.is_empty() || part.starts_with('#') {
            continue;
        }
        let bare = unquoted(part);
        if let Some(sign) = SIGNS.iter().find(|s| bare.contains(**s)) {
            return Err(format!("it is a line for a shell ({sign:?} stands in it)"));
        }
        let words = shell_words::split(part).map_err(|e| format!("not a command line: {e}"))?;
        let exports = words.first().is_some_and(|w| w == "export");
        let from = usize::from(exports);
        let given = words[from..].iter().take_while(|w| is_assignment(w)).count();
        for word in &words[from..from + given] {
            if let Some((key, value)) = word.split_once('=') {
                line.env.insert(key.to_owned(), Text::parse(&variable(value)));
            }
        }
        match words.get(from + given..) {
            Some([]) | None => {}
            Some(_) if exports => return Err("export takes KEY=VALUE".to_owned()),
            Some(words) if ["source", ".", "cd"].contains(&words[0].as_str()) => {
                return Err(format!(
                    "it begins with {:?}: it is bound to folders of the laptop",
                    words[0]
                ));
            }
            Some(words) => programs.push(words.to_vec()),
        }
    }
    match programs.as_slice() {
        [one] => line.words = one.iter().map(|w| argument(w)).collect(),
        [] => return Err("it starts nothing".to_owned()),
        _ => return Err("it starts more than one program".to_owned()),
    }
    Ok(line)
}

/// The same without what stands in quotes; an escaped sign is none.
fn unquoted(text: &str) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None | Some('"'), '\\') => drop(chars.next()),
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            // A shell fills these in there too.
            (Some('"'), '`' | '$') => out.push(c),
            (Some('"'), '(') if out.ends_with('$') => out.push(c),
            (Some(_), _) => {}
            (None, c) => out.push(c),
        }
    }
    out
}

/// `$NAME` of a shell, as the placeholder that it is.
fn variable(word: &str) -> String {
    match word.strip_prefix('$') {
        Some(name) if !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') => {
            format!("${{{name}}}")
        }
        _ => word.to_owned(),
    }
}

/// The same of an argument, also after a `KEY=`.
fn argument(word: &str) -> String {
    match word.split_once('=') {
        Some((key, value)) if value.starts_with('$') => format!("{key}={}", variable(value)),
        _ => variable(word),
    }
}

/// Reads command lines that were typed or kept in a file: `docker run …`, `npx …`, `claude mcp add …`; comments and
/// exported variables may stand before them.
///
/// # Errors
/// A line that no shell would split, or that starts something else.
pub fn read_command_line(file: &str, text: &str) -> Result<Import, Problems> {
    let line = split(text.trim()).map_err(|why| one(file, 1, why))?;
    let mut entry = Entry {
        env: line.env,
        ..Entry::named("", 1)
    };
    let words = match line.words.as_slice() {
        [sudo, words @ ..] if sudo == "sudo" => words,
        words => words,
    };
    match words {
        [claude, mcp, add, rest @ ..] if claude == "claude" && mcp == "mcp" && add == "add" => {
            claude_mcp_add(rest, &mut entry).map_err(|why| one(file, 1, why))?;
        }
        [program, args @ ..] => {
            entry.name = name_of(program, args);
            entry.launch = Launch::Command {
                program: program.clone(),
                args: args.to_vec(),
            };
        }
        [] => return Err(one(file, 1, "is empty; expected docker run … or npx …".into())),
    }
    Ok(Import {
        format: Format::CommandLine,
        entries: vec![entry],
        questions: BTreeMap::new(),
        client: None,
    })
}

/// What a server is called that has no name but the line that starts it.
pub(super) fn name_of(program: &str, args: &[String]) -> String {
    match program {
        "docker" | "podman" => docker::name_of(args),
        _ => package_name(args),
    }
}

/// The first argument that looks like a package's name, without scope and version.
fn package_name(args: &[String]) -> String {
    let of = |word: &String| {
        let name = word.rsplit('/').next().unwrap_or(word).trim_start_matches('@');
        name.split(['@', '=', '[']).next().unwrap_or(name).to_owned()
    };
    let verb = |w: &&String| !w.starts_with('-') && !["run", "exec", "x", "dlx", "tool", "-m"].contains(&w.as_str());
    args.iter()
        .find(verb)
        .map(of)
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "server".to_owned())
}

/// `claude mcp add [--transport http] [-e KEY=VALUE] [--header "K: V"] NAME (URL | -- COMMAND …)`
fn claude_mcp_add(words: &[String], entry: &mut Entry) -> Result<(), String> {
    let mut headers = BTreeMap::new();
    let mut rest = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (flag, inline) = flag(word);
        let mut value = || inline.clone().or_else(|| words.next().cloned()).unwrap_or_default();
        match flag {
            "-e" | "--env" => {
                let pair = value();
                let (key, given) = pair.split_once('=').ok_or("-e takes KEY=VALUE")?;
                entry.env.insert(key.to_owned(), Text::parse(given));
            }
            "-H" | "--header" => {
                let pair = value();
                let (key, given) = pair.split_once(':').ok_or("--header takes \"NAME: VALUE\"")?;
                headers.insert(key.trim().to_owned(), Text::parse(given.trim()));
            }
            "-t" | "--transport" => drop(value()),
            "-s" | "--scope" => drop(value()),
            "--" => {
                rest.extend(words.by_ref().cloned());
            }
            flag if flag.starts_with('-') && rest.len() < 2 => {
                return Err(format!("claude mcp add has no option {flag} that is known here"));
            }
            _ => rest.push(word.clone()),
        }
    }
    let [name, target, args @ ..] = rest.as_slice() else {
        return Err("claude mcp add names no server".to_owned());
    };
    entry.name.clone_from(name);
    entry.launch = if target.starts_with("http://") || target.starts_with("https://") {
        Launch::Remote {
            url: Text::parse(target),
            headers,
        }
    } else {
        Launch::Command {
            program: target.clone(),
            args: args.to_vec(),
        }
    };
    Ok(())
}

/// A line that a client hands to a shell: its program, its arguments and the variables before it.
///
/// # Errors
/// Why no shell is needed is not to be seen.
pub(super) fn handed_on(shell: &str, text: &str) -> Result<Line, Refused> {
    split(text).map_err(|why| Refused {
        what: format!("{shell} with a line of its own"),
        why: format!("{why}; write the program that it starts as command and args"),
    })
}
