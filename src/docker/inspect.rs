//! What the engine says of itself and of its containers, in its own words: for the hardening list, which checks them as
//! they stand. Reads only.

use std::{collections::HashMap, path::Path, time::Duration};

use bollard::{
    API_DEFAULT_VERSION, Docker as Client,
    errors::Error,
    query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder},
};
use serde_json::Value;

use super::EngineError;
use crate::plan::spec::LABEL_BOX;

/// `/info`, and `inspect` of every container that carries a box's label.
///
/// # Errors
/// [`EngineError`] when the engine does not answer within the bound.
pub async fn everything(socket: &Path, within: Duration) -> Result<(Value, Vec<Value>), EngineError> {
    let unreachable = |why: String| EngineError::Unreachable {
        socket: socket.to_owned(),
        why,
    };
    let asked = tokio::time::timeout(within, ask(socket)).await;
    let asked = asked.map_err(|_| EngineError::Slow {
        what: "describe itself",
        seconds: within.as_secs(),
    })?;
    asked.map_err(|e| unreachable(e.to_string()))
}

async fn ask(socket: &Path) -> Result<(Value, Vec<Value>), Error> {
    let client = Client::connect_with_unix(&socket.display().to_string(), 120, API_DEFAULT_VERSION)?;
    let client = client.negotiate_version().await?;
    let info = serde_json::to_value(client.info().await?).unwrap_or_default();
    let filters = HashMap::from([("label".to_owned(), vec![LABEL_BOX.to_owned()])]);
    let options = ListContainersOptionsBuilder::new().filters(&filters).build();
    let mut containers = Vec::new();
    for id in client
        .list_containers(Some(options))
        .await?
        .into_iter()
        .filter_map(|c| c.id)
    {
        match client.inspect_container(&id, None::<InspectContainerOptions>).await {
            Ok(container) => containers.push(serde_json::to_value(container).unwrap_or_default()),
            // It went between the list and the question.
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok((info, containers))
}
