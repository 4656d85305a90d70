//! What a container takes over from its image's own configuration (OCI image-spec, `config`). The engine hands on all that
//! a request does not name, and an image may be a stranger's: so every field is named here, and a field that a later
//! version adds does not compile until it is. Pure.
//!
//! | field | in the container |
//! | --- | --- |
//! | `Env` | taken over, for the server's sake; never a `BERTH_` variable: those are the agent's |
//! | `WorkingDir` | taken over |
//! | `Volumes` | a tmpfs each, bounded, without exec; no volume of the engine's |
//! | `Entrypoint`, `Cmd`, `User`, `StopSignal` | Berth's own; what the image runs is part of the start order |
//! | `Healthcheck` | off: nothing runs beside the agent |
//! | `Labels` | emptied: neither Berth nor other software on the machine acts on them |
//! | `ExposedPorts` | listed by the engine, without effect: no port is published |
//! | `Shell`, `ArgsEscaped`, `OnBuild` | without effect: no health check, a command of our own, nothing is built on it |

use std::path::{Component, Path};

use bollard::models::{ContainerCreateBody, HealthConfig, ImageConfig};

/// What a volume of an image may hold. It is memory of the container, and counts as such.
const VOLUME_MIB: u32 = 64;
/// An image may declare so many.
const MAX_VOLUMES: usize = 8;
/// Nothing may be mounted over these, or below.
const CLOSED: [&str; 4] = ["berth", "proc", "sys", "dev"];
/// Where a container has room of its own in any case.
const TMP: &str = "/tmp";
const TMPFS: &str = "rw,noexec,nosuid,nodev,mode=1777";

/// Why an image can be no container's, by the volumes that it declares.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumesError {
    #[error("the image declares {0} volumes, and {MAX_VOLUMES} are allowed")]
    TooMany(usize),
    #[error("the image declares a volume at {0:?}, where none can be")]
    Place(String),
}

/// The volumes that an image declares, as paths in their plain form.
///
/// # Errors
/// One of them cannot be, or there are too many.
pub(super) fn volumes(image: &ImageConfig) -> Result<Vec<String>, VolumesError> {
    let declared = image.volumes.as_deref().unwrap_or_default();
    if declared.len() > MAX_VOLUMES {
        return Err(VolumesError::TooMany(declared.len()));
    }
    declared.iter().map(|path| volume(path)).collect()
}

fn volume(path: &str) -> Result<String, VolumesError> {
    let refused = || VolumesError::Place(path.to_owned());
    let mut parts = Vec::new();
    let mut components = Path::new(path).components();
    if components.next() != Some(Component::RootDir) {
        return Err(refused());
    }
    for part in components {
        match part {
            Component::Normal(name) => parts.push(name.to_str().ok_or_else(refused)?),
            _ => return Err(refused()),
        }
    }
    match parts.first() {
        // The engine splits a mount's options at these.
        Some(first) if !CLOSED.contains(first) && !path.contains([':', ',', '\0']) => {
            Ok(format!("/{}", parts.join("/")))
        }
        _ => Err(refused()),
    }
}

/// Names every field of the image's configuration in the request, as the table above says.
///
/// # Errors
/// Why no container can be made of this image.
pub(super) fn close(body: &mut ContainerCreateBody, image: ImageConfig) -> Result<(), VolumesError> {
    let declared = volumes(&image)?;
    let ImageConfig {
        env,
        working_dir,
        labels,
        volumes: _,
        healthcheck: _,
        user: _,
        entrypoint: _,
        cmd: _,
        stop_signal: _,
        exposed_ports: _,
        shell: _,
        args_escaped: _,
        on_build: _,
    } = image;
    let own = body.env.get_or_insert_default();
    // A name without a value takes the image's variable away.
    let names = env.iter().flatten().map(|e| e.split('=').next().unwrap_or_default());
    let unwanted: Vec<String> = names
        .filter(|n| n.starts_with("BERTH_") && !own.iter().any(|o| o.split('=').next() == Some(n)))
        .map(str::to_owned)
        .collect();
    own.extend(unwanted);
    let absolute = working_dir.filter(|d| d.starts_with('/'));
    body.working_dir = body.working_dir.take().or(absolute).or(Some("/".to_owned()));
    body.cmd.get_or_insert_default();
    body.healthcheck = Some(HealthConfig {
        test: Some(vec!["NONE".to_owned()]),
        ..HealthConfig::default()
    });
    let own = body.labels.get_or_insert_default();
    for name in labels.into_iter().flatten().map(|(name, _)| name) {
        own.entry(name).or_default();
    }
    let host = body.host_config.get_or_insert_default();
    let mounts = host.mounts.iter().flatten();
    let mounted: Vec<String> = mounts.filter_map(|m| m.target.clone()).collect();
    let tmpfs = host.tmpfs.get_or_insert_default();
    // As `/tmp`, so that it belongs to whoever that belongs to.
    let options: Vec<&str> = tmpfs.get(TMP).map_or(TMPFS, String::as_str).split(',').collect();
    let options = options.into_iter().filter(|o| !o.starts_with("size="));
    let options = format!("{},size={VOLUME_MIB}m", options.collect::<Vec<_>>().join(","));
    for path in declared.into_iter().filter(|p| !mounted.contains(p)) {
        tmpfs.entry(path).or_insert_with(|| options.clone());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(volumes: &[&str]) -> ImageConfig {
        ImageConfig {
            env: Some(vec![
                "PATH=/x".into(),
                "BERTH_AGENT_SOCKET=/evil".into(),
                "BERTH_LOG=trace".into(),
            ]),
            working_dir: Some("/app".into()),
            labels: Some(
                [
                    ("berth.box".to_owned(), "evil".to_owned()),
                    ("traefik.enable".into(), "true".into()),
                ]
                .into(),
            ),
            volumes: Some(volumes.iter().map(|v| (*v).to_owned()).collect()),
            healthcheck: Some(HealthConfig {
                test: Some(vec!["CMD-SHELL".into(), "evil".into()]),
                ..HealthConfig::default()
            }),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn every_field_is_named() {
        let mut body = ContainerCreateBody {
            env: Some(vec!["BERTH_AGENT_SOCKET=/berth/run/agent.sock".into()]),
            labels: Some([("berth.box".to_owned(), "ours".to_owned())].into()),
            ..ContainerCreateBody::default()
        };
        let host = body.host_config.get_or_insert_default();
        host.tmpfs = Some([(TMP.to_owned(), "rw,noexec,uid=7,size=16m".to_owned())].into());
        host.mounts = Some(vec![bollard::models::Mount {
            target: Some("/data".into()),
            ..Default::default()
        }]);
        close(&mut body, image(&["/tmp", "/data", "//var//lib/x/"])).unwrap();
        assert_eq!(
            body.env.unwrap(),
            ["BERTH_AGENT_SOCKET=/berth/run/agent.sock", "BERTH_LOG"]
        );
        assert_eq!(body.working_dir.unwrap(), "/app");
        assert_eq!(body.healthcheck.unwrap().test.unwrap(), ["NONE"]);
        let labels = body.labels.unwrap();
        assert_eq!((&*labels["berth.box"], &*labels["traefik.enable"]), ("ours", ""));
        let tmpfs = body.host_config.unwrap().tmpfs.unwrap();
        assert_eq!(tmpfs.len(), 2, "{tmpfs:?}");
        assert_eq!(tmpfs[TMP], "rw,noexec,uid=7,size=16m");
        assert_eq!(tmpfs["/var/lib/x"], "rw,noexec,uid=7,size=64m");
    }

    #[test]
    fn volumes_that_cannot_be_are_refused() {
        for bad in [
            "/",
            "data",
            "/a/../berth",
            "/berth/run",
            "/proc/x",
            "/sys",
            "/dev",
            "/a:exec",
            "/a,exec",
            "",
        ] {
            assert!(volumes(&image(&[bad])).is_err(), "{bad}");
        }
        let many: Vec<String> = (0..=MAX_VOLUMES).map(|n| format!("/v{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(volumes(&image(&many)).unwrap_err().to_string().contains("9 volumes"));
        assert_eq!(volumes(&ImageConfig::default()), Ok(vec![]));
    }
}
