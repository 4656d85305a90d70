//! F2: the service manager: readiness, status, watchdog, passed sockets, and where logs go. Everything here is a
//! no-op without systemd.

use std::{
    io,
    net::TcpListener,
    os::fd::{FromRawFd, OwnedFd},
    time::Duration,
};

use sd_notify::NotifyState;

/// Sockets that systemd passed, by the `FileDescriptorName=` of their unit.
#[derive(Debug, Default)]
pub struct Passed {
    pub https: Option<TcpListener>,
    pub http: Option<TcpListener>,
}

/// Takes the passed sockets over, once; later calls find none.
///
/// # Errors
/// A socket of another name, or one that is not a listening TCP socket: the unit file and this version differ.
pub fn passed_sockets() -> io::Result<Passed> {
    let mut passed = Passed::default();
    for (fd, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: systemd passed this descriptor to this process (LISTEN_PID and LISTEN_FDS were checked), and
        // `listen_fds_with_names` removes the variables, so nobody else takes it over.
        #[allow(unsafe_code)]
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        let listener = TcpListener::from(owned);
        listener
            .local_addr()
            .map_err(|e| io::Error::new(e.kind(), format!("passed socket {name:?}: {e}")))?;
        match name.as_str() {
            "https" => passed.https = Some(listener),
            "http" => passed.http = Some(listener),
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("systemd passed a socket named {other:?}: name it https or http with FileDescriptorName="),
                ));
            }
        }
    }
    Ok(passed)
}

/// The folder of the credentials that systemd passes (systemd.exec(5)).
pub fn credentials() -> Option<std::path::PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        log::debug!("the service manager was not told: {e}");
    }
}

/// Starting is done.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The configuration is being read again; [`ready`] says that it was. (sd_notify(3): with the moment, so that a unit of
/// `Type=notify-reload` can tell this reload from an earlier one.)
pub fn reloading() {
    let mut states = vec![
        NotifyState::Reloading,
        NotifyState::Status("reading types and certificates again"),
    ];
    states.extend(NotifyState::monotonic_usec_now().ok());
    tell(&states);
}

/// Draining has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Still alive.
pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// How often the watchdog wants to hear of us: half its limit.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|d| d / 2)
}

/// Logs to the journal under systemd, else to stderr as `time LEVEL module: text key=value`. `BERTH_LOG` sets the
/// level (error, warn, info, debug, trace); `info` without it.
pub fn init_log() {
    let level = std::env::var("BERTH_LOG")
        .ok()
        .and_then(|l| l.parse().ok())
        .unwrap_or(log::LevelFilter::Info);
    if systemd_journal_logger::connected_to_journal()
        && let Ok(journal) = systemd_journal_logger::JournalLog::new()
        && journal.install().is_ok()
    {
        log::set_max_level(level);
        return;
    }
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(level.min(log::LevelFilter::Info))
        .filter_module("berth", level);
    builder.target(env_logger::Target::Stderr).format_timestamp_millis();
    if builder.try_init().is_err() {
        log::debug!("a logger is there already");
    }
}
