//! Instances that misbehave: types of the tests' own, which the lever lays over the box's folder of types, and what is
//! run inside them.

use crate::harness::{
    machine::{Machine, base64},
    mcp::Instance,
    patience,
};

/// The image that every box has: Node, a shell, and the reference server.
pub(crate) fn everything_image(m: &mut Machine) -> String {
    m.sh("sed -n 's/^reference = \"\\(.*\\)\"/\\1/p' /usr/share/berth/instance-types/everything.toml")
        .trim()
        .to_owned()
}

/// A type with the reference server, or with another command, on that image.
pub(crate) fn type_file(name: &str, image: &str, network: &str, command: Option<&str>) -> String {
    let server = r#"["node", "/opt/mcp/node_modules/@modelcontextprotocol/server-everything/dist/index.js", "stdio"]"#;
    format!(
        "name = \"{name}\"\ntitle = \"{name}\"\ndescription = \"A fixture.\"\n\n[image]\nreference = \"{image}\"\n\n\
         [mcp]\ntransport = \"stdio\"\ncommand = {}\nprocesses = \"session\"\nmax_sessions = 8\nidle_timeout = \"30m\"\n\n\
         [health]\nkind = \"mcp\"\ninterval = \"15s\"\ntimeout = \"5s\"\nfailures = 3\nstart_timeout = \"120s\"\n\n\
         [limits]\nsize = \"small\"\n\n[egress]\nnetwork = \"{network}\"\n\n[volume]\npath = \"/data\"\n",
        command.unwrap_or(server)
    )
}

/// Adds types to the running box, until it boots again.
pub(crate) fn add_types(m: &mut Machine, types: &[(&str, String)]) {
    let folder = "/usr/share/berth/instance-types";
    m.sh(&format!(
        "mkdir -p /run/probe-types && cp {folder}/*.toml /run/probe-types/"
    ));
    for (name, text) in types {
        m.sh(&format!(
            "echo {} | base64 -d >/run/probe-types/{name}.toml",
            base64(text)
        ));
    }
    m.sh(&format!(
        "chmod -R a+rX /run/probe-types && mount --bind /run/probe-types {folder} && systemctl restart berth"
    ));
    m.until(
        "the supervisor has the types",
        "berth types --json | grep -q probe",
        patience(60),
    );
}

/// Runs an instance of a type; it answers when this returns.
pub(crate) fn run(m: &mut Machine, type_name: &str, name: &str) -> Instance {
    Instance::made(&m.berth(&format!("run {type_name} --name {name}")))
}

/// A shell word that is the instance's container.
pub(crate) fn container(i: &Instance) -> String {
    format!("$(docker ps -q --no-trunc --filter label=berth.instance={})", i.id)
}

/// Runs a script of Node's inside a container, whose name is a shell word, and gives what it printed.
pub(crate) fn node(m: &mut Machine, container: &str, script: &str, arguments: &str) -> String {
    let script = base64(script);
    m.sh(&format!(
        "docker exec --user 10001:10001 {container} node -e \"eval(Buffer.from('{script}', 'base64').toString())\" {arguments}"
    ))
}
