//! `docker run …` as a person types it or a client's configuration holds it: which image, with which variables, and
//! which of its flags a sandbox cannot have.

use std::collections::BTreeMap;

use super::{Package, Planned, Refused, Registry, text::Text};

/// Flags without a value.
const SWITCHES: [&str; 12] = [
    "-d",
    "--detach",
    "-i",
    "--interactive",
    "-t",
    "--tty",
    "--rm",
    "--init",
    "--read-only",
    "--no-healthcheck",
    "-q",
    "--quiet",
];

/// Flags with a value that change nothing here: Berth names, bounds, restarts and logs in its own way.
const OURS: [&str; 39] = [
    "--name",
    "-h",
    "--hostname",
    "-l",
    "--label",
    "--label-file",
    "--log-driver",
    "--log-opt",
    "--restart",
    "--pull",
    "--platform",
    "-m",
    "--memory",
    "--memory-swap",
    "--memory-reservation",
    "--cpus",
    "--cpu-shares",
    "-c",
    "--pids-limit",
    "--ulimit",
    "--shm-size",
    "--stop-signal",
    "--stop-timeout",
    "--tmpfs",
    "--cidfile",
    "--expose",
    "--cap-drop",
    "--annotation",
    "--blkio-weight",
    "--cpuset-cpus",
    "--health-cmd",
    "--health-interval",
    "--health-retries",
    "--health-start-period",
    "--health-timeout",
    "--ip",
    "--network-alias",
    "--detach-keys",
    "-a",
];

/// Flags with a value that a sandbox cannot have, and why.
const REFUSED: [(&str, &str); 17] = [
    ("--cap-add", "every capability is dropped in a sandbox"),
    ("--device", "a sandbox has no devices of the host"),
    ("--gpus", "a sandbox has no devices of the host"),
    ("--security-opt", "a sandbox keeps its seccomp and AppArmor profiles"),
    ("--pid", "a sandbox has processes of its own"),
    ("--ipc", "a sandbox has memory of its own"),
    ("--uts", "a sandbox has a name of its own"),
    ("--userns", "a sandbox has users of its own"),
    ("--cgroupns", "a sandbox has quotas of its own"),
    ("--cgroup-parent", "a sandbox has quotas of its own"),
    ("--volumes-from", "no instance sees another's volume"),
    ("--link", "no instance reaches another"),
    ("--add-host", "names are resolved by the site's DNS"),
    ("--dns", "names are resolved by the site's DNS"),
    ("--runtime", "Berth chooses the runtime"),
    ("--sysctl", "a sandbox keeps its kernel settings"),
    ("--device-cgroup-rule", "a sandbox has no devices of the host"),
];

/// `--name`, else the image's last part.
pub(super) fn name_of(args: &[String]) -> String {
    let mut name = None;
    for (i, arg) in args.iter().enumerate() {
        if let Some(given) = arg.strip_prefix("--name=") {
            name = Some(given.to_owned());
        } else if arg == "--name" {
            name = args.get(i + 1).cloned();
        }
    }
    name.or_else(|| {
        let image = Run::split(args).ok()?.image?;
        let (image, _) = split_reference(&image);
        image.rsplit('/').next().map(str::to_owned)
    })
    .unwrap_or_else(|| "server".into())
}

/// The words after `docker`, sorted.
#[derive(Default)]
struct Run {
    flags: Vec<(String, Option<String>)>,
    image: Option<String>,
    args: Vec<String>,
}

impl Run {
    fn split(words: &[String]) -> Result<Self, Refused> {
        let mut words = words.iter();
        match (
            words.next().map(String::as_str),
            words.as_slice().first().map(String::as_str),
        ) {
            (Some("run"), _) => {}
            (Some("container"), Some("run")) => {
                words.next();
            }
            (verb, _) => {
                return Err(Refused {
                    what: format!("docker {}", verb.unwrap_or_default()),
                    why: "only docker run starts a server that can be imported".into(),
                });
            }
        }
        let mut run = Self::default();
        while let Some(word) = words.next() {
            if word == "--" {
                run.image = words.next().cloned();
                break;
            }
            if !word.starts_with('-') {
                run.image = Some(word.clone());
                break;
            }
            if let Some((flag, value)) = word.split_once('=').filter(|_| word.starts_with("--")) {
                run.flags.push((flag.into(), Some(value.into())));
            } else if switch(word) {
                run.flags.push((word.clone(), None));
            } else if word.len() > 2 && !word.starts_with("--") {
                run.cluster(word, &mut words);
            } else {
                run.flags.push((word.clone(), words.next().cloned()));
            }
        }
        run.args = words.cloned().collect();
        Ok(run)
    }

    /// `-eKEY=VALUE`, `-dp 80:80`: switches, and at most one flag with a value at their end.
    fn cluster<'w>(&mut self, word: &str, words: &mut impl Iterator<Item = &'w String>) {
        for (at, c) in word.char_indices().skip(1) {
            let flag = format!("-{c}");
            if switch(&flag) {
                self.flags.push((flag, None));
                continue;
            }
            let value = &word[at + c.len_utf8()..];
            let value = match value.strip_prefix('=').unwrap_or(value) {
                "" => words.next().cloned(),
                value => Some(value.to_owned()),
            };
            self.flags.push((flag, value));
            return;
        }
    }
}

/// `-i`, `-it`, `--rm`, `--privileged`: nothing follows.
fn switch(word: &str) -> bool {
    SWITCHES.contains(&word)
        || matches!(
            word,
            "--privileged" | "-P" | "--publish-all" | "--oom-kill-disable" | "--sig-proxy"
        )
        || (!word.starts_with("--") && word.len() > 2 && word[1..].chars().all(|c| "ditPq".contains(c)))
}

/// What the runtime arguments of a server.json ask of an image's sandbox: flags with their values.
pub(super) fn runtime_arguments(
    flags: &[(String, Option<String>)],
    planned: &mut Planned,
    env: &mut BTreeMap<String, Text>,
) {
    let given = std::mem::take(env);
    let mut sandbox = Sandbox::default();
    for (flag, value) in flags {
        let value = value.as_deref().filter(|v| !(switch(flag) && *v == "true"));
        sandbox.flag(flag, value, &given, planned, env);
    }
    // Unlike a client's, these variables are the server's own.
    for (key, value) in given {
        env.entry(key).or_insert(value);
    }
}

/// What `docker run …` would become. `env` is what the client gives to docker itself: only what `-e` names goes on.
pub(super) fn read(
    words: &[String],
    planned: &mut Planned,
    env: &mut BTreeMap<String, Text>,
) -> Result<Package, Refused> {
    let run = Run::split(words)?;
    let given = std::mem::take(env);
    let mut sandbox = Sandbox::default();
    for (flag, value) in &run.flags {
        sandbox.flag(flag, value.as_deref(), &given, planned, env);
    }
    let Some(image) = run.image else {
        return Err(Refused {
            what: "docker run without an image".into(),
            why: "the line ends before it names one".into(),
        });
    };
    let (name, version) = split_reference(&image);
    Ok(Package {
        registry: Registry::Oci,
        name,
        version,
        bin: sandbox.entrypoint,
        args: run.args.iter().map(|a| Text::parse(a)).collect(),
        http: if sandbox.interactive {
            None
        } else {
            sandbox.port.map(|p| (p, "/mcp".into()))
        },
        guessed: None,
    })
}

#[derive(Default)]
struct Sandbox {
    interactive: bool,
    port: Option<u16>,
    entrypoint: Option<String>,
}

impl Sandbox {
    fn flag(
        &mut self,
        flag: &str,
        value: Option<&str>,
        given: &BTreeMap<String, Text>,
        planned: &mut Planned,
        env: &mut BTreeMap<String, Text>,
    ) {
        let text = value.unwrap_or_default();
        let mut refuse = |why: &str| {
            planned.refused.push(Refused {
                what: match value {
                    Some(_) if flag == "-e" || flag == "--env" => flag.to_owned(),
                    Some(value) => format!("{flag} {value}"),
                    None => flag.to_owned(),
                },
                why: why.into(),
            });
        };
        match flag {
            "-e" | "--env" => match text.split_once('=') {
                Some((key, value)) => {
                    env.insert(key.into(), Text::parse(value));
                }
                None if text.is_empty() => refuse("it names no variable"),
                None => {
                    let value = given.get(text).cloned().unwrap_or_else(|| Text::env(text));
                    env.insert(text.into(), value);
                }
            },
            "--env-file" => planned.env_files.push(text.into()),
            "--privileged" => refuse("no sandbox is privileged"),
            "-v" | "--volume" => match volume(text) {
                Mount::Host => refuse("a sandbox has no folder of the host; its own volume keeps data that must last"),
                Mount::Socket => refuse("no sandbox gets the engine's socket"),
                Mount::Named => planned
                    .notes
                    .push(format!("the volume {text} is left out; ask for one with the instance")),
            },
            "--mount" => match mount(text) {
                Mount::Host => refuse("a sandbox has no folder of the host; its own volume keeps data that must last"),
                Mount::Socket => refuse("no sandbox gets the engine's socket"),
                Mount::Named => planned.notes.push(format!("the mount {text} is left out")),
            },
            "--network" | "--net" if text == "host" || text.starts_with("container:") => {
                refuse("a sandbox has its own network, which is not shared");
            }
            "--network" | "--net" => planned.notes.push(format!(
                "the network {text} is left out: an instance has one of its own"
            )),
            "-p" | "--publish" => self.port = text.rsplit(':').next().and_then(|p| p.split('/').next()?.parse().ok()),
            "-w" | "--workdir" => planned.notes.push(format!(
                "the folder {text} is left out: the server starts in the one that its image names"
            )),
            "-u" | "--user" | "--group-add" => planned.notes.push(format!(
                "{flag} {text} is left out: every instance runs as Berth's own user (10001), and owns nothing of the image's files"
            )),
            "--entrypoint" => self.entrypoint = Some(text.into()),
            "-i" | "--interactive" => self.interactive = true,
            _ if !flag.starts_with("--") && switch(flag) => self.interactive |= flag.contains('i'),
            _ if switch(flag) || OURS.contains(&flag) => {}
            _ => match REFUSED.iter().find(|(name, _)| *name == flag) {
                Some((_, why)) => refuse(why),
                None => refuse("this flag is not known here; leave it out and import again"),
            },
        }
    }
}

enum Mount {
    Host,
    Socket,
    Named,
}

fn volume(text: &str) -> Mount {
    // C:\folder:/data has a colon of its own.
    let windows = text.as_bytes().get(1) == Some(&b':') && text.as_bytes()[0].is_ascii_alphabetic();
    let source = if windows {
        text
    } else {
        text.split(':').next().unwrap_or_default()
    };
    if source.ends_with("docker.sock") || source.ends_with("podman.sock") {
        Mount::Socket
    } else if windows || source.starts_with(['/', '.', '~', '$']) {
        Mount::Host
    } else {
        Mount::Named
    }
}

fn mount(text: &str) -> Mount {
    if text.contains("docker.sock") {
        Mount::Socket
    } else if text.split(',').any(|p| p == "type=bind") {
        Mount::Host
    } else {
        Mount::Named
    }
}

/// `registry:5000/org/name:tag@sha256:…` -> name, and the digest or the tag.
pub(super) fn split_reference(image: &str) -> (String, Option<String>) {
    let (image, digest) = match image.split_once('@') {
        Some((image, digest)) => (image, Some(digest.to_owned())),
        None => (image, None),
    };
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name.into(), digest.or_else(|| Some(tag.into()))),
        _ => (image.into(), digest),
    }
}
