//! `berth connect`: configuration to paste into a client. Every form here is one that the client reads today.

use serde_json::{Value, json};

use super::args::Client;

/// What a client needs to know.
pub(super) struct Target<'a> {
    /// What the server is called in the client.
    pub(super) name: &'a str,
    pub(super) url: &'a str,
    pub(super) token: &'a str,
    /// The CA file to trust, where the certificate is not from a public CA.
    pub(super) ca_file: Option<&'a str>,
}

/// The configuration as JSON.
pub(super) fn configuration(client: Client, t: &Target<'_>) -> Value {
    let key = if client == Client::Vscode {
        "servers"
    } else {
        "mcpServers"
    };
    json!({ key: { t.name: server(client, t) } })
}

/// The entry of one server.
pub(super) fn server(client: Client, t: &Target<'_>) -> Value {
    let bearer = format!("Bearer {}", t.token);
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
        Client::ClaudeCode | Client::Vscode => {
            json!({ "type": "http", "url": t.url, "headers": { "Authorization": bearer } })
        }
        Client::Cursor | Client::Json => json!({ "url": t.url, "headers": { "Authorization": bearer } }),
    }
}

/// Where the configuration goes and what else is needed, for people.
pub(super) fn advice(client: Client, t: &Target<'_>) -> String {
    let place = match client {
        Client::ClaudeDesktop => {
            "Settings > Developer > Edit Config (claude_desktop_config.json); needs Node.js on that machine"
        }
        Client::ClaudeCode => ".mcp.json in the project",
        Client::Cursor => "~/.cursor/mcp.json, or .cursor/mcp.json in the project",
        Client::Vscode => ".vscode/mcp.json in the project",
        Client::Json => "any client that reads mcpServers with url and headers",
    };
    let mut text = format!("goes into: {place}\n");
    if let Some(ca) = t.ca_file {
        let how = match client {
            Client::ClaudeDesktop => {
                format!("NODE_EXTRA_CA_CERTS above names it: copy {ca} to that machine and correct the path")
            }
            _ => format!(
                "copy {ca} (or the output of `berth ca`) to that machine; set NODE_EXTRA_CA_CERTS to it before the client starts, or add it to the system's trust store"
            ),
        };
        text += &format!("trust:     {how}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_gets_address_and_token() {
        let t = Target {
            name: "demo",
            url: "https://mcp-x.localhost/mcp",
            token: "brt_i_x",
            ca_file: Some("/ca.pem"),
        };
        for client in [
            Client::ClaudeDesktop,
            Client::ClaudeCode,
            Client::Cursor,
            Client::Vscode,
            Client::Json,
        ] {
            let text = configuration(client, &t).to_string();
            assert!(
                text.contains(t.url) && text.contains("Bearer brt_i_x") && text.contains("\"demo\""),
                "{text}"
            );
            assert!(advice(client, &t).contains("/ca.pem"));
        }
        assert_eq!(
            configuration(Client::Vscode, &t).to_string(),
            r#"{"servers":{"demo":{"headers":{"Authorization":"Bearer brt_i_x"},"type":"http","url":"https://mcp-x.localhost/mcp"}}}"#
        );
    }
}
