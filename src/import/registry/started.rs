//! The line that starts a package of the registry, from lists of arguments.

use super::super::{Launch, Registry};

/// One of a list of arguments.
pub(super) enum Argument {
    Named(String, Option<String>),
    Positional(String),
}

impl Argument {
    pub(super) fn words(self) -> Vec<String> {
        match self {
            Self::Named(name, None) => vec![name],
            Self::Named(name, Some(value)) => match name.strip_suffix('=') {
                Some(_) => vec![format!("{name}{value}")],
                None => vec![name, value],
            },
            Self::Positional(value) => vec![value],
        }
    }
}

/// The line that starts a package with the arguments of what starts it.
pub(super) fn started(
    registry: Registry,
    name: &str,
    version: Option<&str>,
    runtime: Vec<Argument>,
    args: &[String],
) -> Launch {
    let (program, spec) = match (registry, version) {
        (Registry::Pypi, Some(version)) => ("uvx", format!("{name}=={version}")),
        (Registry::Pypi, None) => ("uvx", name.to_owned()),
        (_, Some(version)) => ("npx", format!("{name}@{version}")),
        (_, None) => ("npx", name.to_owned()),
    };
    let mut words: Vec<String> = Vec::new();
    let mut named = false;
    for argument in runtime {
        // Some name the package among them.
        let own = |text: &str| text == name || text == spec || text.starts_with(&format!("{name}@"));
        let source = matches!(&argument, Argument::Named(flag, Some(value))
            if ["--from", "--spec", "--package", "-p"].contains(&flag.as_str()) && own(value));
        named |= source || matches!(&argument, Argument::Positional(word) if own(word));
        words.extend(argument.words());
    }
    if !named {
        words.push(spec);
    }
    words.extend(args.iter().cloned());
    Launch::Command {
        program: program.into(),
        args: words,
    }
}
