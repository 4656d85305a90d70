//! A root shell in the unmodified image, for tests alone. Whoever owns the machine's firmware interface may hand
//! systemd credentials to the guest: one of them, `tmpfiles.extra`, writes a unit into /run, which serves commands on a
//! virtio port. So the box trusts its hypervisor (image-build/README.md says it), and nothing of this is in the image.
//!
//! The way it speaks: host sends `NONCE LENGTH SECONDS\n` and a script; guest sends the script's output as it comes,
//! then `\nNONCE STATUS\n`. One script at a time. Before that, after a boot, the guest says `\nlever-ready\n`: what is
//! sent earlier, the firmware's own driver of such ports takes.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};

/// The port's name in the guest.
pub const PORT: &str = "berth.lever";

const GREETING: &[u8] = b"\nlever-ready\n";

const SERVER: &str = r#"
modprobe virtio_console
port=/dev/virtio-ports/berth.lever
until [ -e "$port" ]; do sleep 0.2; done
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/run LC_ALL=C.UTF-8
exec 3<>"$port"
printf '\nlever-ready\n' >&3
while :; do
    if ! IFS=' ' read -r nonce length seconds <&3; then sleep 0.2; continue; fi
    head -c "$length" <&3 >/run/berth-lever.script
    timeout --signal=KILL "$seconds" sh /run/berth-lever.script </dev/null >&3 2>&1 3>&-
    printf '\n%s %s\n' "$nonce" "$?" >&3
done
"#;

const UNIT: &str = "\
[Unit]
Description=The tests' lever

[Service]
ExecStart=/bin/sh /run/berth-lever.server
StandardError=journal+console
KillMode=process
Restart=always
OOMScoreAdjust=-1000
";

/// The credential that puts the lever into a box: lines of tmpfiles.d(5), which the initrd already obeys, so that the
/// unit is there when the real system makes its plan.
pub fn credential() -> String {
    let wants = "/run/systemd/system/multi-user.target.wants";
    let unit = "/run/systemd/system/berth-lever.service";
    format!(
        "f~ /run/berth-lever.server 0500 root root - {}\nf~ {unit} 0644 root root - {}\nd {wants} 0755 root root -\n\
         L {wants}/berth-lever.service - - - - {unit}\n",
        BASE64_STANDARD.encode(SERVER),
        BASE64_STANDARD.encode(UNIT),
    )
}

/// What a script did.
#[derive(Debug)]
pub struct Done {
    pub status: i32,
    pub text: String,
}

pub struct Lever {
    stream: UnixStream,
    next: u64,
    /// What came before the greeting.
    heard: Vec<u8>,
}

impl Lever {
    pub fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self {
            stream,
            next: 1,
            heard: Vec::new(),
        })
    }

    /// The guest goes on from a saved state: it greeted before that.
    pub fn resumed(&mut self) {
        self.heard = GREETING.to_vec();
    }

    /// Waits for the guest's greeting; false at the deadline.
    pub fn greeted(&mut self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        let mut buffer = [0; 4096];
        loop {
            if self.heard.windows(GREETING.len()).any(|w| w == GREETING) {
                return true;
            }
            match self.stream.read(&mut buffer) {
                Ok(n) if n > 0 => self.heard.extend_from_slice(&buffer[..n]),
                _ if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
                _ => return false,
            }
        }
    }

    /// Sends a script; [`Lever::collect`] reads what it says.
    pub fn send(&mut self, script: &str, limit: Duration) -> String {
        let nonce = format!("lever-{}-{}", std::process::id(), self.next);
        self.next += 1;
        let head = format!("{nonce} {} {}\n", script.len(), limit.as_secs());
        self.stream.write_all(head.as_bytes()).unwrap();
        self.stream.write_all(script.as_bytes()).unwrap();
        nonce
    }

    /// Reads into `text` until the script ended (its status) or until the deadline or the machine's end (`None`).
    pub fn collect(&mut self, nonce: &str, text: &mut Vec<u8>, deadline: Duration) -> Option<i32> {
        let end = Instant::now() + deadline;
        let mark = format!("\n{nonce} ");
        let mut buffer = [0; 65536];
        loop {
            if let Some((at, status)) = ending(text, mark.as_bytes()) {
                text.truncate(at);
                return Some(status);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => text.extend_from_slice(&buffer[..n]),
                Err(_) if Instant::now() < end => {}
                Err(_) => return None,
            }
        }
    }

    /// Reads into `text` what comes next, or nothing within the fifth of a second that a reading takes. Whether the script
    /// goes on.
    pub fn hear(&mut self, nonce: &str, text: &mut Vec<u8>) -> bool {
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => text.extend_from_slice(&buffer[..n]),
            Err(_) => {}
        }
        ending(text, format!("\n{nonce} ").as_bytes()).is_none()
    }

    /// Runs a script; `None` when it gave no end within its limit and half a minute.
    pub fn run(&mut self, script: &str, limit: Duration) -> Option<Done> {
        let nonce = self.send(script, limit);
        let mut text = Vec::new();
        let status = self.collect(&nonce, &mut text, limit + super::patience(30))?;
        Some(Done {
            status,
            text: String::from_utf8_lossy(&text).replace('\r', ""),
        })
    }
}

/// Where the mark stands, and the status after it, once its line is complete.
fn ending(text: &[u8], mark: &[u8]) -> Option<(usize, i32)> {
    let at = text.windows(mark.len()).rposition(|w| w == mark)?;
    let rest = &text[at + mark.len()..];
    let line = rest.split(|b| *b == b'\n').next().filter(|l| l.len() < rest.len())?;
    Some((at, std::str::from_utf8(line).ok()?.trim().parse().ok()?))
}
