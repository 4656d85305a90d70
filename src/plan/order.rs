//! From an instance's record to the start order that its agent gets, and to the hash that says what the container is
//! made of. Pure.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    catalog::{InstanceType, Sandbox, Transport},
    model::{
        CredentialKind, HealthOrder, InstanceId, McpOrder, McpTransport, Secret, ServiceOrder, Size, StartOrder,
        WorkspaceName,
    },
    record::InstanceRecord,
};

/// A session that lost its own stream and sends nothing for this long has vanished: longer than a laptop sleeps in between,
/// or changes networks. A type's idle timeout counts where it is shorter.
const VANISH_MS: u64 = 15 * 60_000;

fn ms(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// The start order of a type. `max_message` is the edge's bound on a body, in bytes.
pub fn start_order(t: &InstanceType, spec: String, env: BTreeMap<String, Secret>, max_message: usize) -> StartOrder {
    let service = |s: &crate::catalog::Service| ServiceOrder {
        name: s.name.clone(),
        command: s.command.clone(),
        env: s.env.clone(),
        ready: s.ready.clone(),
        restart: s.restart,
    };
    StartOrder {
        spec,
        services: t.services.iter().map(service).collect(),
        mcp: McpOrder {
            transport: match &t.mcp.transport {
                Transport::Stdio {
                    command,
                    env,
                    processes,
                } => McpTransport::Stdio {
                    command: command.clone(),
                    env: env.clone(),
                    processes: *processes,
                },
                Transport::Http { port, path } => McpTransport::Http {
                    port: *port,
                    path: path.clone(),
                },
                Transport::Remote { url, auth } => McpTransport::Remote {
                    url: url.clone(),
                    auth: auth.clone(),
                },
            },
            max_sessions: t.mcp.max_sessions,
            idle_timeout_ms: ms(t.mcp.idle_timeout),
            vanish_timeout_ms: VANISH_MS.min(ms(t.mcp.idle_timeout)),
            call_timeout_ms: ms(t.mcp.call_timeout),
            start_timeout_ms: ms(t.health.start_timeout),
            max_message,
        },
        health: HealthOrder {
            kind: t.health.kind.clone(),
            timeout_ms: ms(t.health.timeout),
        },
        screen: t.screen.map(|s| s.port),
        files: t
            .credentials
            .iter()
            .filter(|c| c.kind == CredentialKind::File)
            .map(|c| c.key.clone())
            .collect(),
        env,
        revision: 0,
    }
}

/// [`spec_hash`] of a record as it stands.
pub fn spec_hash_of(r: &InstanceRecord) -> String {
    spec_hash(&r.spec, &r.id, &r.workspace, r.size, r.generation)
}

/// The hash of everything that makes up this run of the instance. `generation` is part of it, so that `recreate`
/// always makes a new container. Computed once and stored with the record.
pub fn spec_hash(t: &InstanceType, id: &InstanceId, workspace: &WorkspaceName, size: Size, generation: u64) -> String {
    #[derive(serde::Serialize)]
    struct Canonical<'a> {
        v: u32,
        id: &'a str,
        workspace: &'a str,
        size: &'a str,
        generation: u64,
        image: &'a str,
        digest: Option<&'a str>,
        egress: bool,
        volume: Option<&'a str>,
        /// Left out where it is every container's, so that hashes from before there was a choice still hold.
        #[serde(skip_serializing_if = "Option::is_none")]
        sandbox: Option<(u32, u32, u32)>,
        order: StartOrder,
    }
    let canonical = Canonical {
        v: 1,
        id: id.as_str(),
        workspace: workspace.as_str(),
        size: size.as_str(),
        generation,
        image: &t.image.reference,
        digest: t.image.digest.as_deref(),
        egress: t.egress == crate::catalog::Egress::Internet,
        volume: t.volume.as_deref(),
        sandbox: (t.sandbox != Sandbox::default()).then_some((
            t.sandbox.seccomp as u32,
            t.sandbox.tmp_mib,
            t.sandbox.shm_mib,
        )),
        order: start_order(t, String::new(), BTreeMap::new(), 0),
    };
    let text = serde_json::to_vec(&canonical).unwrap_or_default();
    crate::model::hex(&Sha256::digest(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_stream_has_its_grace_within_the_idle_timeout() {
        let check = |idle_s: u64, vanish_ms: u64| {
            let mut t = crate::plan::admit_tests::a_type("echo", "berth/echo:1");
            t.mcp.idle_timeout = std::time::Duration::from_secs(idle_s);
            let order = start_order(&t, String::new(), BTreeMap::new(), 0).mcp;
            assert_eq!(
                (order.idle_timeout_ms, order.vanish_timeout_ms),
                (idle_s * 1000, vanish_ms)
            );
        };
        check(1800, 15 * 60_000);
        check(300, 300_000);
        check(1, 1000);
    }
}
