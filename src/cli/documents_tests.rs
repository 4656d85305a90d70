//! What people are told in README and `docs/`, held against the readers of the program itself: each command line against the
//! parser of arguments, each example of a file against the reader of such files. `tests/engine/documents.rs` runs them.

#[allow(unreachable_pub, reason = "test programs read it, too")]
#[path = "../../tests/documents/reader.rs"]
mod reader;

use clap::{Parser, error::ErrorKind};

use super::args::Args;
use crate::{catalog, config, site};
use reader::{Block, Page, pages};

/// Stands for the keys of the examples, which are cut short.
const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAINYvAlRK8HUJCmi1BHxw4fTiYECZCuntkVuYTR1rZHK5";

/// The words of each `berth` that a command line starts.
fn calls(line: &str) -> Vec<Vec<String>> {
    let words = shell_words::split(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    let parts = words.split(|w| ["|", "&&", ";"].contains(&w.as_str()));
    let mut out = Vec::new();
    for part in parts {
        // What stands after `<` or `>` is the shell's.
        let mut call: Vec<String> = Vec::new();
        let mut words = part.iter();
        while let Some(word) = words.next() {
            if word == "<" || word == ">" {
                words.next();
            } else {
                call.push(word.clone());
            }
        }
        let program = call.iter().position(|w| !w.contains('='));
        if let Some(at) = program.filter(|at| call[*at] == "berth") {
            out.push(call.split_off(at));
        }
    }
    out
}

#[test]
fn every_command_line_is_one_that_the_program_takes() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for command in pages().iter().flat_map(Page::commands) {
        for call in calls(&command.line) {
            seen += 1;
            if let Err(e) = Args::try_parse_from(&call) {
                wrong.push(format!("{}: {}\n{e}", command.at, command.line));
            }
        }
    }
    assert!(seen > 80, "only {seen} command lines: are the pages still read?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What prose and tables name in passing may leave out what a verb needs, but verbs and options exist.
#[test]
fn every_verb_and_option_that_prose_names_exists() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages() {
        for (line, text) in page.prose() {
            // Every second piece stands between backticks.
            for span in text.split('`').skip(1).step_by(2).filter(|s| s.starts_with("berth ")) {
                seen += 1;
                let words = span.replace('…', "X");
                let words = words.split_whitespace();
                let incomplete = [
                    ErrorKind::MissingRequiredArgument,
                    ErrorKind::MissingSubcommand,
                    ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                    ErrorKind::DisplayHelp,
                    ErrorKind::DisplayVersion,
                ];
                match Args::try_parse_from(words) {
                    Err(e) if !incomplete.contains(&e.kind()) => {
                        wrong.push(format!("{}:{line}: {span}\n{e}", page.name));
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(seen > 30, "only {seen} mentions: are the pages still read?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with an example of a file.
fn problems(block: &Block) -> Result<(), String> {
    let mut text = block.text.replace("AAAA…", KEY);
    if let Some((before, after)) = block
        .text
        .split_once("-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n")
    {
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = authority.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        text = format!("{before}{}{after}", certificate.pem()).replace("AAAA…", KEY);
    }
    let first = text.lines().next().unwrap_or_default();
    let file = first.strip_prefix("# ").unwrap_or_default();
    let said = match file {
        "/etc/berth/berth.toml" => config::parse(file, &text).map(|_| ()),
        "berth/site.toml" => site::parse(file, &text).map(|_| ()),
        "a part of a type file" => catalog::parse(file, "part", &whole_type(&text)).map(|_| ()),
        _ => match file
            .strip_prefix("instance-types/")
            .and_then(|f| f.strip_suffix(".toml"))
        {
            Some(stem) => catalog::parse(file, stem, &text).map(|_| ()),
            None => return Err("its first line says which file it is, as `# /etc/berth/berth.toml`".into()),
        },
    };
    said.map_err(|problems| problems.to_string())
}

/// The smallest type, and a part of one after it.
fn whole_type(part: &str) -> String {
    format!(
        "name = \"part\"\ntitle = \"Part\"\ndescription = \"Shows.\"\n[image]\nreference = \"berth/mcp-part:1\"\n\
         [mcp]\ntransport = \"stdio\"\ncommand = [\"server\"]\nprocesses = \"session\"\n{part}"
    )
}

#[test]
fn every_example_of_a_file_is_one_that_the_program_reads() {
    let blocks: Vec<Block> = pages().iter().flat_map(Page::blocks).collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for block in &blocks {
        match block.language.as_str() {
            "toml" => {
                seen += 1;
                if let Err(why) = problems(block) {
                    wrong.push(format!("{}: {why}", block.at));
                }
            }
            "sh" => {}
            // A picture: a command in it would be nobody's to check.
            "" if !block.text.contains("berth ") || block.text.contains("──") => {}
            other => wrong.push(format!("{}: a block of {other:?}: write sh or toml", block.at)),
        }
    }
    assert!(seen > 8, "only {seen} examples: are the pages still read?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The table of limits has every one, with its default.
#[test]
fn the_table_of_limits_is_true() {
    let page = Page::of("docs/operations.md");
    let limits = config::Config::default().limits;
    let numbers = [
        ("connections", limits.connections),
        ("connections_without_token", limits.connections_without_token),
        ("connections_per_address", limits.connections_per_address),
        ("header_bytes", limits.header_bytes),
        ("body_bytes", limits.body_bytes),
        ("instances", limits.instances),
        ("tokens_per_instance", limits.tokens_per_instance),
    ];
    let times = [
        ("client_timeout", limits.client_timeout),
        ("first_byte_timeout", limits.first_byte_timeout),
        ("idle_timeout", limits.idle_timeout),
        ("upgraded_idle_timeout", limits.upgraded_idle_timeout),
        ("drain_timeout", limits.drain_timeout),
    ];
    let numbers = numbers.map(|(key, n)| format!("| `{key}` | {n} |"));
    let times = times.map(|(key, t)| format!("| `{key}` | {}s |", t.as_secs()));
    for row in numbers.iter().chain(&times) {
        assert!(page.text.contains(row), "{row} is not in {}", page.name);
    }
}
