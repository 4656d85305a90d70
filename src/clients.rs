//! F1: the programs that people use MCP servers from, and the configuration that each of them reads: which file, which
//! syntax, which keys. Every form here is one that the client reads today. Below: their syntaxes read into one tree, and
//! written back with everything else left as it was.

mod rewrite;
mod source;
mod tree;
mod yaml;

use serde_json::{Value, json};

pub use rewrite::{Replaced, RewriteError, rewrite};
pub use source::Source;
pub(crate) use source::{Reader, one};
pub use tree::Syntax;
pub(crate) use tree::{Node, Object, Property, Value as Read};

/// A program that speaks MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Amp,
    ClaudeCode,
    ClaudeDesktop,
    Cline,
    Codex,
    Continue,
    Crush,
    Cursor,
    Gemini,
    Goose,
    Jetbrains,
    LmStudio,
    Opencode,
    Roo,
    Vscode,
    Windsurf,
    Zed,
    /// Any other that reads `mcpServers` with `url` and `headers`.
    Json,
}

/// What is the client's own: its word on the command line, its name, where it keeps its configuration.
struct Facts {
    word: &'static str,
    name: &'static str,
    place: &'static str,
    /// The key of its servers.
    section: &'static str,
    syntax: Syntax,
    /// It is made of Node.js, and believes NODE_EXTRA_CA_CERTS.
    node: bool,
}

impl Client {
    pub const ALL: [Self; 18] = [
        Self::Amp,
        Self::ClaudeCode,
        Self::ClaudeDesktop,
        Self::Cline,
        Self::Codex,
        Self::Continue,
        Self::Crush,
        Self::Cursor,
        Self::Gemini,
        Self::Goose,
        Self::Jetbrains,
        Self::LmStudio,
        Self::Opencode,
        Self::Roo,
        Self::Vscode,
        Self::Windsurf,
        Self::Zed,
        Self::Json,
    ];

    fn facts(self) -> Facts {
        let facts = |word, name, place, section, syntax, node| Facts {
            word,
            name,
            place,
            section,
            syntax,
            node,
        };
        use Syntax::{Json, Toml, Yaml};
        match self {
            Self::Amp => facts(
                "amp",
                "Amp",
                "~/.config/amp/settings.json",
                "amp.mcpServers",
                Json,
                true,
            ),
            Self::ClaudeCode => facts(
                "claude-code",
                "Claude Code",
                ".mcp.json in the project",
                "mcpServers",
                Json,
                true,
            ),
            Self::ClaudeDesktop => facts(
                "claude-desktop",
                "Claude Desktop",
                "Settings > Developer > Edit Config (claude_desktop_config.json); needs Node.js on that machine",
                "mcpServers",
                Json,
                true,
            ),
            Self::Cline => facts(
                "cline",
                "Cline",
                "MCP Servers > Configure MCP Servers (cline_mcp_settings.json)",
                "mcpServers",
                Json,
                true,
            ),
            Self::Codex => facts("codex", "Codex", "~/.codex/config.toml", "mcp_servers", Toml, false),
            Self::Continue => facts(
                "continue",
                "Continue",
                "~/.continue/config.yaml, or a file of its own in .continue/mcpServers",
                "mcpServers",
                Yaml,
                true,
            ),
            Self::Crush => facts(
                "crush",
                "Crush",
                "crush.json in the project, or ~/.config/crush/crush.json",
                "mcp",
                Json,
                false,
            ),
            Self::Cursor => facts(
                "cursor",
                "Cursor",
                "~/.cursor/mcp.json, or .cursor/mcp.json in the project",
                "mcpServers",
                Json,
                true,
            ),
            Self::Gemini => facts(
                "gemini",
                "Gemini CLI",
                "~/.gemini/settings.json, or .gemini/settings.json in the project",
                "mcpServers",
                Json,
                true,
            ),
            Self::Goose => facts(
                "goose",
                "Goose",
                "~/.config/goose/config.yaml",
                "extensions",
                Yaml,
                false,
            ),
            Self::Jetbrains => facts(
                "jetbrains",
                "JetBrains",
                "Settings > Tools > AI Assistant > MCP, or .junie/mcp/mcp.json in the project",
                "mcpServers",
                Json,
                false,
            ),
            Self::LmStudio => facts(
                "lm-studio",
                "LM Studio",
                "~/.lmstudio/mcp.json",
                "mcpServers",
                Json,
                true,
            ),
            Self::Opencode => facts(
                "opencode",
                "opencode",
                "opencode.json in the project, or ~/.config/opencode/opencode.json",
                "mcp",
                Json,
                true,
            ),
            Self::Roo => facts(
                "roo",
                "Roo Code",
                ".roo/mcp.json in the project, or its global mcp_settings.json",
                "mcpServers",
                Json,
                true,
            ),
            Self::Vscode => facts(
                "vscode",
                "VS Code",
                ".vscode/mcp.json in the project",
                "servers",
                Json,
                true,
            ),
            Self::Windsurf => facts(
                "windsurf",
                "Windsurf",
                "~/.codeium/windsurf/mcp_config.json",
                "mcpServers",
                Json,
                true,
            ),
            Self::Zed => facts(
                "zed",
                "Zed",
                "~/.config/zed/settings.json, or .zed/settings.json in the project",
                "context_servers",
                Json,
                false,
            ),
            Self::Json => facts(
                "json",
                "any other client",
                "any client that reads mcpServers with url and headers",
                "mcpServers",
                Json,
                true,
            ),
        }
    }

    /// As the command line has it.
    pub fn word(self) -> &'static str {
        self.facts().word
    }

    /// As its makers call it.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// What its configuration is written in.
    pub fn syntax(self) -> Syntax {
        self.facts().syntax
    }

    /// Whose configuration a file is, by where the clients keep theirs.
    pub fn of_path(file: &str) -> Option<Self> {
        let path = file.replace('\\', "/");
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let below = |folder: &str| format!("{folders}/").contains(folder);
        Some(match name {
            "claude_desktop_config.json" => Self::ClaudeDesktop,
            ".mcp.json" | ".claude.json" => Self::ClaudeCode,
            "mcp_config.json" => Self::Windsurf,
            "cline_mcp_settings.json" => Self::Cline,
            "mcp_settings.json" => Self::Roo,
            "opencode.json" | "opencode.jsonc" => Self::Opencode,
            "crush.json" | ".crush.json" => Self::Crush,
            "devcontainer.json" => Self::Vscode,
            name if name.ends_with(".code-workspace") => Self::Vscode,
            "mcp.json" if below(".cursor/") => Self::Cursor,
            "mcp.json" if below(".vscode/") || below("/Code/User/") => Self::Vscode,
            "mcp.json" if below(".roo/") => Self::Roo,
            "mcp.json" if below(".lmstudio/") => Self::LmStudio,
            "mcp.json" if below(".junie/") => Self::Jetbrains,
            "settings.json" if below(".gemini/") => Self::Gemini,
            "settings.json" if below("zed/") => Self::Zed,
            "settings.json" if below("amp/") => Self::Amp,
            "settings.json" if below(".vscode/") || below("/Code/User/") => Self::Vscode,
            "config.toml" if below(".codex/") => Self::Codex,
            "config.yaml" if below("goose/") => Self::Goose,
            _ if below(".continue/") => Self::Continue,
            _ => return None,
        })
    }
}

/// What a client needs to know.
pub struct Target<'a> {
    /// What the server is called in the client.
    pub name: &'a str,
    pub url: &'a str,
    pub token: &'a str,
    /// The CA file to trust, where the certificate is not from a public CA.
    pub ca_file: Option<&'a str>,
}

/// The configuration with one server.
pub fn value(client: Client, t: &Target<'_>) -> Value {
    let section = client.facts().section;
    let entry = entry(client, t);
    match client {
        // A list, and keys that it insists on.
        Client::Continue => json!({ "name": "Berth", "version": "1.0.0", "schema": "v1", section: [entry] }),
        _ => json!({ section: { t.name: entry } }),
    }
}

/// The same as text in the client's syntax, with a newline at its end.
pub fn configuration(client: Client, t: &Target<'_>) -> String {
    let whole = value(client, t);
    match client.syntax() {
        Syntax::Json => format!("{whole:#}\n"),
        Syntax::Toml => rewrite::toml_text(&whole),
        Syntax::Yaml => yaml::text(&whole),
    }
}

/// The entry of one server.
pub fn entry(client: Client, t: &Target<'_>) -> Value {
    let bearer = format!("Bearer {}", t.token);
    let headers = json!({ "Authorization": bearer });
    match client {
        // Claude Desktop's file takes local commands only: mcp-remote carries stdio to HTTPS. The header's value comes
        // from the environment since spaces in arguments do not survive on every platform.
        Client::ClaudeDesktop => {
            let mut env = json!({ "BERTH_AUTHORIZATION": bearer });
            if let Some(ca) = t.ca_file {
                env["NODE_EXTRA_CA_CERTS"] = json!(ca);
            }
            json!({
                "command": "npx",
                "args": ["-y", "mcp-remote", t.url, "--transport", "http-only", "--header", "Authorization:${BERTH_AUTHORIZATION}"],
                "env": env,
            })
        }
        Client::ClaudeCode | Client::Vscode | Client::Crush => {
            json!({ "type": "http", "url": t.url, "headers": headers })
        }
        Client::Cline => json!({ "type": "streamableHttp", "url": t.url, "headers": headers }),
        Client::Roo => json!({ "type": "streamable-http", "url": t.url, "headers": headers }),
        Client::Windsurf => json!({ "serverUrl": t.url, "headers": headers }),
        Client::Gemini => json!({ "httpUrl": t.url, "headers": headers }),
        Client::Codex => json!({ "url": t.url, "http_headers": headers }),
        // Without the last it looks for a sign-in first.
        Client::Opencode => {
            json!({ "type": "remote", "url": t.url, "headers": headers, "enabled": true, "oauth": false })
        }
        Client::Continue => json!({
            "name": t.name, "type": "streamable-http", "url": t.url, "requestOptions": { "headers": headers },
        }),
        Client::Goose => json!({
            "type": "streamable_http", "name": t.name, "description": "", "enabled": true, "uri": t.url,
            "headers": headers, "envs": {}, "env_keys": [], "timeout": 300,
        }),
        Client::Amp | Client::Cursor | Client::Jetbrains | Client::LmStudio | Client::Zed | Client::Json => {
            json!({ "url": t.url, "headers": headers })
        }
    }
}

/// Where the configuration goes and what else is needed, for people.
pub fn advice(client: Client, t: &Target<'_>) -> String {
    let facts = client.facts();
    let mut text = format!("goes into: {}\n", facts.place);
    if let Some(ca) = t.ca_file {
        let how = match client {
            Client::ClaudeDesktop => {
                format!("NODE_EXTRA_CA_CERTS above names it: copy {ca} to that machine and correct the path")
            }
            _ if facts.node => format!(
                "copy {ca} (or the output of `berth ca`) to that machine; set NODE_EXTRA_CA_CERTS to it before the client starts, or add it to the system's trust store"
            ),
            _ => format!(
                "copy {ca} (or the output of `berth ca`) to that machine, and add it to the system's trust store"
            ),
        };
        text += &format!("trust:     {how}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import;

    const TARGET: Target<'static> = Target {
        name: "demo",
        url: "https://mcp-x.localhost/mcp",
        token: "a-token",
        ca_file: Some("/ca.pem"),
    };

    /// What is printed for a client is what the import reads as this client's, with the address and the token.
    #[test]
    fn every_client_gets_address_and_token_in_its_own_form() {
        for client in Client::ALL {
            let text = configuration(client, &TARGET);
            assert!(
                text.contains(TARGET.url) && text.contains("Bearer a-token") && text.contains("demo"),
                "{text}"
            );
            assert!(advice(client, &TARGET).contains("/ca.pem"));
            let read = import::read("x", &text).unwrap_or_else(|e| panic!("{client:?}: {e}\n{text}"));
            assert_eq!(read.entries.len(), 1, "{text}");
            let planned = &import::plan(&read, &[])[0];
            let Some(import::Deploy {
                target: import::Target::Remote { url, headers },
                ..
            }) = &planned.deploy
            else {
                panic!("{client:?}: {planned:?}");
            };
            assert_eq!(url.as_literal(), Some(TARGET.url));
            assert_eq!(headers["Authorization"].as_literal(), Some("Bearer a-token"));
            assert_eq!(planned.source, "demo");
        }
    }

    /// The table of clients in the documentation is this module's.
    #[test]
    fn the_documentation_names_every_client() {
        let page = include_str!("../docs/import.md");
        let rows: Vec<&str> = page
            .lines()
            .filter(|l| l.starts_with("| `") && l.contains("` | "))
            .collect();
        for client in Client::ALL.into_iter().filter(|c| *c != Client::Json) {
            let syntax = match client.syntax() {
                Syntax::Json => "JSON",
                Syntax::Toml => "TOML",
                Syntax::Yaml => "YAML",
            };
            let row = format!("| `{}` | {} | {syntax} |", client.word(), client.name());
            assert!(rows.contains(&row.as_str()), "{row} is not in docs/import.md");
        }
    }

    #[test]
    fn words_and_places_tell_clients_apart() {
        let words: std::collections::BTreeSet<&str> = Client::ALL.iter().map(|c| c.word()).collect();
        assert_eq!(words.len(), Client::ALL.len());
        for (file, client) in [
            ("/home/me/.codeium/windsurf/mcp_config.json", Some(Client::Windsurf)),
            (
                "C:\\Users\\me\\AppData\\Roaming\\Claude\\claude_desktop_config.json",
                Some(Client::ClaudeDesktop),
            ),
            (".gemini/settings.json", Some(Client::Gemini)),
            ("/home/me/.config/zed/settings.json", Some(Client::Zed)),
            ("/home/me/.config/Code/User/settings.json", Some(Client::Vscode)),
            ("/home/me/.continue/mcpServers/time.yaml", Some(Client::Continue)),
            ("/home/me/.config/goose/config.yaml", Some(Client::Goose)),
            ("settings.json", None),
            ("mcp.json", None),
        ] {
            assert_eq!(Client::of_path(file), client, "{file}");
        }
    }

    #[test]
    fn the_forms_of_clients_are_theirs() {
        let vscode: Value = serde_json::from_str(&configuration(Client::Vscode, &TARGET)).unwrap();
        assert_eq!(
            vscode.to_string(),
            r#"{"servers":{"demo":{"headers":{"Authorization":"Bearer a-token"},"type":"http","url":"https://mcp-x.localhost/mcp"}}}"#
        );
        assert_eq!(
            configuration(Client::Codex, &TARGET),
            "[mcp_servers.demo]\nhttp_headers = { Authorization = \"Bearer a-token\" }\nurl = \"https://mcp-x.localhost/mcp\"\n"
        );
        assert_eq!(entry(Client::Windsurf, &TARGET)["serverUrl"], TARGET.url);
    }
}
