//! Networks with subnets of Berth's own choice: `plan::subnet` chooses, this asks what is taken and has them made.

use std::path::Path;

use bollard::{
    models::{Ipam, IpamConfig, Network, NetworkCreateRequest},
    query_parameters::ListNetworksOptions,
};
use tokio::sync::Mutex;

use super::{
    Docker, EngineError,
    adapter::{QUICK, SLOW, within_time},
};
use crate::{
    config::{self, Cidr},
    plan::subnet::{self, Count},
};

const WHAT: &str = "create the network";
/// So often is another subnet chosen where the engine finds that one overlaps something that it did not list.
const TRIES: usize = 16;

/// Where subnets come from.
#[derive(Debug)]
pub(super) struct Subnets {
    range: Cidr,
    /// What containers may reach: no subnet lies there.
    apart: Vec<Cidr>,
    /// A subnet is free until its network is made: one is chosen at a time.
    choosing: Mutex<()>,
}

impl Subnets {
    pub(super) fn new(network: &config::Network) -> Self {
        Self {
            range: network.subnets,
            apart: network.private_networks.clone(),
            choosing: Mutex::new(()),
        }
    }

    /// What no subnet may overlap. Where the engine is not in this network namespace, the routes are not its own; it then
    /// refuses what overlaps its networks.
    fn taken(&self, networks: &[Network]) -> Vec<Cidr> {
        let configs = networks.iter().filter_map(|n| n.ipam.as_ref()?.config.as_ref());
        let subnets = configs.flatten().filter_map(|c| c.subnet.as_ref()?.parse().ok());
        let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
        let mut taken: Vec<Cidr> = subnets.collect();
        taken.extend(subnet::routes(&routes));
        taken.extend(&self.apart);
        taken
    }
}

/// Counts the subnets of the configured range at the engine behind `socket`; for `doctor`.
///
/// # Errors
/// [`EngineError`] when it does not answer.
pub async fn count(socket: &Path, network: &config::Network) -> Result<Count, EngineError> {
    let docker = Docker::new(socket).in_network(network);
    let networks = docker.networks().await?;
    Ok(subnet::count(&network.subnets, &docker.subnets.taken(&networks)))
}

impl Docker {
    async fn networks(&self) -> Result<Vec<Network>, EngineError> {
        let call = |c: bollard::Docker| async move { c.list_networks(None::<ListNetworksOptions>).await };
        self.call("list networks", QUICK, call).await
    }

    /// Makes a network with a subnet of its own. One of that name is no error.
    ///
    /// # Errors
    /// [`EngineError`]; [`EngineError::NoSubnet`] where none is left.
    pub(super) async fn add_network(&self, request: NetworkCreateRequest) -> Result<(), EngineError> {
        let subnets = &self.subnets;
        let _one = within_time(WHAT, SLOW, async { Ok(subnets.choosing.lock().await) }).await?;
        let mut refused = Vec::new();
        let mut why = String::new();
        for _ in 0..TRIES {
            let networks = self.networks().await?;
            if networks.iter().any(|n| n.name.as_ref() == Some(&request.name)) {
                return Ok(());
            }
            let mut taken = subnets.taken(&networks);
            taken.extend(&refused);
            let Some(chosen) = subnet::choose(&subnets.range, &taken) else {
                return Err(EngineError::NoSubnet {
                    range: subnets.range,
                    all: subnet::count(&subnets.range, &taken).all,
                });
            };
            let mut request = request.clone();
            request.ipam = Some(Ipam {
                config: Some(vec![IpamConfig {
                    subnet: Some(chosen.to_string()),
                    gateway: subnet::gateway(&chosen).map(|a| a.to_string()),
                    ..IpamConfig::default()
                }]),
                ..Ipam::default()
            });
            let call = |c: bollard::Docker| async move { c.create_network(request).await.map(drop) };
            match self.call(WHAT, SLOW, call).await {
                Err(EngineError::Conflict { why, .. }) if why.contains("already exists") => return Ok(()),
                Err(EngineError::Conflict { why: said, .. } | EngineError::Refused { why: said, .. })
                    if said.contains("overlap") =>
                {
                    log::debug!("{chosen} is taken after all: {said}");
                    refused.push(chosen);
                    why = said;
                }
                other => return other,
            }
        }
        Err(EngineError::Refused { what: WHAT, why })
    }
}
