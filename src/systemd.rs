//! F2: the service manager: readiness, status, watchdog, passed sockets, and where logs go. Everything here is a
//! no-op without systemd.

use std::{
    io,
    net::TcpListener,
    os::fd::{FromRawFd, OwnedFd},
    time::Duration,
};

use log::{
    Log,
    kv::{Key, Value, VisitSource},
};
use sd_notify::NotifyState;

use crate::escape;

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
    // A newline would begin another variable of the protocol.
    tell(&[NotifyState::Status(&escape::line(status))]);
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
        && log::set_boxed_logger(Box::new(Escaped(journal))).is_ok()
    {
        log::set_max_level(level);
        return;
    }
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(level.min(log::LevelFilter::Info))
        .filter_module("berth", level);
    builder.target(env_logger::Target::Stderr).format_timestamp_millis();
    let logger = builder.build();
    let most = logger.filter();
    match log::set_boxed_logger(Box::new(Escaped(logger))) {
        Ok(()) => log::set_max_level(most),
        Err(_) => log::debug!("a logger is there already"),
    }
}

/// A logger whose records are escaped, message and values: each stays one line, and none holds a control sequence that a
/// server, a package or a client chose.
struct Escaped<L>(L);

impl<L: Log> Log for Escaped<L> {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.0.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        let text = escape::line(&text);
        let mut pairs = Pairs(Vec::new());
        // It fails only where the visitor does, and this one does not.
        let _ = record.key_values().visit(&mut pairs);
        let pairs: Vec<(&str, &str)> = pairs.0.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        self.0.log(
            &record
                .to_builder()
                .args(format_args!("{text}"))
                .key_values(&pairs.as_slice())
                .build(),
        );
    }

    fn flush(&self) {
        self.0.flush();
    }
}

struct Pairs(Vec<(String, String)>);

impl<'a> VisitSource<'a> for Pairs {
    fn visit_pair(&mut self, key: Key<'a>, value: Value<'a>) -> Result<(), log::kv::Error> {
        let value = value.to_string();
        self.0.push((key.to_string(), escape::line(&value).into_owned()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Kept(Arc<Mutex<Vec<String>>>);

    impl Log for Kept {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            let mut pairs = Pairs(Vec::new());
            record.key_values().visit(&mut pairs).unwrap();
            self.0.lock().unwrap().push(format!("{} {:?}", record.args(), pairs.0));
        }

        fn flush(&self) {}
    }

    #[test]
    fn a_record_is_one_line_without_control_sequences() {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let bad = "a\x1b]52;c;Zm9v\x07\n2026 ERROR forged\u{9b}";
        Escaped(Kept(kept.clone())).log(
            &log::Record::builder()
                .args(format_args!("{bad}"))
                .key_values(&[("instance", bad)].as_slice())
                .build(),
        );
        let clean = "a\\x1b]52;c;Zm9v\\x07\\n2026 ERROR forged\\u{9b}";
        assert_eq!(
            kept.lock().unwrap()[0],
            format!("{clean} {:?}", [("instance".to_owned(), clean.to_owned())])
        );
    }
}
