//! The services of a compose file (the Compose specification): each is what a `docker run` line with the same settings is.

use std::collections::BTreeMap;

use super::{Entry, Format, Import, Launch, MAX_SERVERS, Refused, text::Text};
use crate::{
    clients::{Object, Property, Read as Value, Reader, Source},
    strict_toml::Problems,
};

/// Settings that change nothing here: Berth names, bounds, restarts, watches and logs in its own way.
const OURS: [&str; 40] = [
    "annotations",
    "attach",
    "blkio_config",
    "cap_drop",
    "container_name",
    "cpu_count",
    "cpu_percent",
    "cpu_shares",
    "cpus",
    "cpuset",
    "deploy",
    "develop",
    "domainname",
    "expose",
    "healthcheck",
    "hostname",
    "init",
    "labels",
    "logging",
    "mac_address",
    "mem_limit",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "oom_score_adj",
    "pids_limit",
    "platform",
    "profiles",
    "pull_policy",
    "read_only",
    "restart",
    "scale",
    "shm_size",
    "stop_grace_period",
    "stop_signal",
    "storage_opt",
    "tmpfs",
    "tty",
    "ulimits",
    "use_api_socket",
];

/// Settings that are flags of `docker run` with a value, once for each element.
const FLAGS: [(&str, &str); 18] = [
    ("cap_add", "--cap-add"),
    ("cgroup", "--cgroupns"),
    ("cgroup_parent", "--cgroup-parent"),
    ("device_cgroup_rules", "--device-cgroup-rule"),
    ("devices", "--device"),
    ("dns", "--dns"),
    ("extra_hosts", "--add-host"),
    ("gpus", "--gpus"),
    ("group_add", "--group-add"),
    ("ipc", "--ipc"),
    ("links", "--link"),
    ("network_mode", "--network"),
    ("pid", "--pid"),
    ("runtime", "--runtime"),
    ("security_opt", "--security-opt"),
    ("sysctls", "--sysctl"),
    ("userns_mode", "--userns"),
    ("volumes_from", "--volumes-from"),
];

pub(super) fn is_compose(source: &Source) -> bool {
    let services = source.top().and_then(|top| top.object("services"));
    services.is_some_and(|all| {
        all.properties
            .iter()
            .any(|p| matches!(&p.value, Value::Object(o) if o.has("image") || o.has("build")))
    })
}

/// Reads the services of a compose file.
///
/// # Errors
/// Every problem with its line.
pub fn read_compose(source: &Source) -> Result<Import, Problems> {
    let mut r = Reader::new(source);
    let services = source.top().and_then(|top| top.object("services"));
    let all = services.map(|s| s.properties.as_slice()).unwrap_or_default();
    let entries = all.iter().map(|p| read_service(&mut r, p)).collect();
    if all.len() > MAX_SERVERS {
        r.wrong(1, format!("names more than {MAX_SERVERS} services"));
    }
    r.finish(Import {
        format: Format::Compose,
        entries,
        questions: BTreeMap::new(),
        client: None,
    })
}

/// A service on its way to a line.
#[derive(Default)]
struct Service {
    flags: Vec<String>,
    image: Option<String>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    env: BTreeMap<String, Text>,
    env_files: Vec<String>,
    notes: Vec<String>,
    refused: Vec<Refused>,
}

fn read_service(r: &mut Reader<'_>, property: &Property) -> Entry {
    let before = r.problems.len();
    let mut service = Service::default();
    if let Some(object) = r.object(property) {
        for setting in &object.properties {
            service.read(r, setting);
        }
        service.built(object);
    }
    let odd = r.problems.split_off(before);
    service.refused.extend(odd.into_iter().map(|p| Refused {
        what: "its form".into(),
        why: format!("line {}: {}", p.line, p.text),
    }));
    let mut entry = Entry {
        env: service.env,
        env_files: service.env_files,
        notes: service.notes,
        refused: service.refused,
        ..Entry::named(property.name.clone(), property.line)
    };
    if let Some(image) = service.image.filter(|_| entry.refused.is_empty()) {
        if !format!("{} {image}", property.name)
            .to_ascii_lowercase()
            .contains("mcp")
        {
            entry
                .notes
                .push("nothing here says that it is an MCP server; --only NAME brings over chosen ones".into());
        }
        let mut words = vec!["run".to_owned()];
        // An instance has its variables from its own list: these words name them.
        words.extend(entry.env.keys().flat_map(|key| ["-e".to_owned(), key.clone()]));
        words.append(&mut service.flags);
        let mut entrypoint = service.entrypoint.into_iter();
        words.extend(entrypoint.next().map(|program| format!("--entrypoint={program}")));
        words.push(image);
        words.extend(entrypoint);
        words.append(&mut service.command);
        entry.launch = Launch::Command {
            program: "docker".into(),
            args: words,
        };
    }
    entry
}

impl Service {
    fn read(&mut self, r: &mut Reader<'_>, setting: &Property) {
        let name = setting.name.as_str();
        match name {
            "image" => self.image = r.string(setting).map(|image| interpolated(&image)),
            // With the whole service in view.
            "build" => {}
            "command" => self.command = words(r, setting),
            "entrypoint" => self.entrypoint = words(r, setting),
            "environment" => self.variables(r, setting),
            "env_file" => self.env_files(r, setting),
            "ports" => self.ports(r, setting),
            "volumes" => self.volumes(r, setting),
            "stdin_open" if setting.value == Value::Bool(true) => self.flags.push("-i".into()),
            "privileged" if setting.value == Value::Bool(true) => self.flags.push("--privileged".into()),
            "stdin_open" | "privileged" => {}
            "user" | "working_dir" => {
                let flag = if name == "user" { "--user" } else { "--workdir" };
                self.flags
                    .extend(r.string(setting).into_iter().flat_map(|value| [flag.to_owned(), value]));
            }
            "networks" => self
                .notes
                .push("its networks are left out: an instance has one of its own".into()),
            "depends_on" => {
                let others = match &setting.value {
                    Value::Object(o) => o.properties.iter().map(|p| p.name.clone()).collect(),
                    _ => r.strings(setting),
                };
                self.notes.push(format!(
                    "it depends on {}: no instance reaches another, so what it needs of it must be reachable elsewhere",
                    others.join(", ")
                ));
            }
            "secrets" | "configs" => self.refused.push(Refused {
                what: name.into(),
                why: "they are files of the laptop; give their content in a variable that the server reads".into(),
            }),
            "extends" => self.refused.push(Refused {
                what: "extends".into(),
                why: "the service is partly described elsewhere; import what `docker compose config` prints".into(),
            }),
            name if OURS.contains(&name) || name.starts_with("x-") => {}
            name => match FLAGS.iter().find(|(setting, _)| *setting == name) {
                Some((_, flag)) => {
                    let values = match &setting.value {
                        Value::Array(_) => r.strings(setting),
                        Value::Object(o) => o
                            .properties
                            .iter()
                            .filter_map(|p| Some(format!("{}={}", p.name, r.string(p)?)))
                            .collect(),
                        _ => r.string(setting).into_iter().collect(),
                    };
                    self.flags
                        .extend(values.into_iter().flat_map(|value| [(*flag).to_owned(), value]));
                }
                None => self.notes.push(format!(
                    "line {}: the setting {name:?} is not known and is left out",
                    setting.line
                )),
            },
        }
    }

    fn built(&mut self, object: &Object) {
        match (object.has("build"), &self.image) {
            (true, None) => self.refused.push(Refused {
                what: "build".into(),
                why: "its image is built from files of the laptop; push it to a registry, name it in image, and import again".into(),
            }),
            (true, Some(image)) => {
                let note = format!("it is built on the laptop; here {image} is fetched from its registry");
                self.notes.push(note);
            }
            (false, None) if self.refused.is_empty() => self.refused.push(Refused {
                what: "its form".into(),
                why: "it names no image".into(),
            }),
            (false, _) => {}
        }
    }

    /// A map, or a list of `KEY=VALUE`; without a value, whoever imports has it.
    fn variables(&mut self, r: &mut Reader<'_>, setting: &Property) {
        let mut set = |key: &str, value: Option<String>| {
            let value = match value {
                Some(value) => Text::parse(&interpolated(&value)),
                None => Text::env(key),
            };
            self.env.insert(key.to_owned(), value);
        };
        match &setting.value {
            Value::Object(o) => {
                for p in &o.properties {
                    set(&p.name, r.string(p));
                }
            }
            _ => {
                for pair in r.strings(setting) {
                    match pair.split_once('=') {
                        Some((key, value)) => set(key, Some(value.to_owned())),
                        None => set(&pair, None),
                    }
                }
            }
        }
    }

    fn env_files(&mut self, r: &mut Reader<'_>, setting: &Property) {
        let Value::Array(all) = &setting.value else {
            self.env_files.extend(r.string(setting));
            return;
        };
        for element in all {
            let path = match &element.value {
                Value::Object(o) => o.get("path").and_then(|p| r.string(p)),
                other => r.value_string(other, element.line, "an element of env_file"),
            };
            self.env_files.extend(path);
        }
    }

    fn ports(&mut self, r: &mut Reader<'_>, setting: &Property) {
        for element in r.array(setting) {
            let port = match &element.value {
                Value::Object(o) => o.get("target").and_then(|p| r.string(p)),
                other => r.value_string(other, element.line, "an element of ports"),
            };
            self.flags
                .extend(port.into_iter().flat_map(|port| ["-p".to_owned(), interpolated(&port)]));
        }
    }

    fn volumes(&mut self, r: &mut Reader<'_>, setting: &Property) {
        for element in r.array(setting) {
            let words = match &element.value {
                Value::Object(o) => {
                    let mut text = |key: &str| o.get(key).and_then(|p| r.string(p)).unwrap_or_default();
                    let mount = format!("type={},src={},dst={}", text("type"), text("source"), text("target"));
                    Some(["--mount".to_owned(), mount])
                }
                other => r
                    .value_string(other, element.line, "an element of volumes")
                    .map(|volume| ["-v".to_owned(), volume]),
            };
            self.flags.extend(words.into_iter().flatten());
        }
    }
}

/// A list, or a line that is split as a shell does.
fn words(r: &mut Reader<'_>, setting: &Property) -> Vec<String> {
    let words = match &setting.value {
        Value::Array(_) => r.strings(setting),
        _ => match shell_words::split(&r.string(setting).unwrap_or_default()) {
            Ok(words) => words,
            Err(e) => {
                r.wrong(setting.line, format!("{} is not a command line: {e}", setting.name));
                Vec::new()
            }
        },
    };
    words.iter().map(|w| interpolated(w)).collect()
}

/// `$NAME` as `${NAME}`, and `$$` as the sign itself (Compose specification, Interpolation).
fn interpolated(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = after.len()
            - after
                .trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_')
                .len();
        let starts = after.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        rest = match after.strip_prefix('$') {
            Some(after) => {
                out.push('$');
                after
            }
            None if starts => {
                out.push_str(&format!("${{{}}}", &after[..name]));
                &after[name..]
            }
            None => {
                out.push('$');
                after
            }
        };
    }
    out.push_str(rest);
    out
}
