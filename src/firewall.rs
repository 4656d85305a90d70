//! F2: the firewall that keeps containers from this machine's own services and from its networks. The host image loads it
//! before Docker starts. Elsewhere the supervisor sets a table of its own for the bridges of its box, where it may, and
//! looks after it: it follows the machine's networks and name servers, and is set again when somebody removed it.
//!
//! Containers run on when the supervisor ends, and so the table stays. `nft delete table inet berth_BOX` removes it.

mod rules;

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    net::IpAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use arc_swap::ArcSwap;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::{io::AsyncWriteExt, process::Command, sync::Mutex, time::timeout};

use crate::{
    config::Network,
    model::BoxId,
    plan::spec::{Traffic, bridge_prefix},
    resolve,
};
use rules::Rules;

/// Where the image's unit notes the table down, for a supervisor whose sandbox forbids asking the kernel.
const NOTED: &str = "/run/berth-firewall/table";
const NFT: [&str; 2] = ["/usr/sbin/nft", "/usr/bin/nft"];
/// The image's table, and whose packets it looks at.
const IMAGES: &str = "berth";
const IMAGES_BRIDGES: &str = "{ \"br-*\", \"docker*\", \"veth*\" }";

/// One call of nft, and one look-up of names, may take so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the table is compared with what it should be.
const TICK: Duration = Duration::from_secs(15);
/// Hosts that installations fetch from: more are not opened.
const MAX_SOURCES: usize = 64;

/// How a note begins that says that nothing keeps containers from this machine.
pub const OPEN: &str = "no firewall of Berth's is in force";
/// What to do about it.
pub const MEND: &str = "run `berth serve` as root on the engine's machine with the package nftables installed, use the host image, or protect both with your own firewall (SECURITY.md, \"On a Docker host of your own\")";

/// Who keeps containers from this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The host image.
    Image,
    /// The supervisor's own table.
    Own,
    /// Nobody, and why.
    Open(String),
}

impl Standing {
    /// What is open, for `status` and `doctor`; none where nothing is.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Image | Self::Own => None,
            Self::Open(why) => Some(format!(
                "{OPEN} ({why}): instances with a network, and installations of packages, can reach this machine's own services and its local networks"
            )),
        }
    }
}

/// The image's table, as nft lists it; none where it is not loaded or cannot be seen.
pub async fn images_table() -> Option<String> {
    match list(IMAGES).await {
        Ok(Some(table)) => Some(table),
        _ => fs::read_to_string(NOTED).ok(),
    }
}

/// What another process than the supervisor can see of it: `runtime_dir` is the supervisor's.
pub async fn seen(runtime_dir: &Path) -> Standing {
    if images_table().await.is_some_and(|t| rules::closes(&t, IMAGES_BRIDGES)) {
        return Standing::Image;
    }
    let noted = fs::read_to_string(runtime_dir.join("firewall")).unwrap_or_default();
    let Some((table, bridges)) = noted.trim().split_once(' ') else {
        return Standing::Open("the supervisor has set none".to_owned());
    };
    match list(table).await {
        Ok(Some(text)) if rules::closes(&text, bridges) => Standing::Own,
        Ok(_) => Standing::Open(format!("the table {table} is not as it was set")),
        Err(why) => Standing::Open(why),
    }
}

/// What the table is made for.
#[derive(Debug, Clone)]
pub struct Facts {
    pub box_id: BoxId,
    /// The engine's socket: a table in another network namespace than its own would close nothing.
    pub engine: PathBuf,
    pub network: Network,
    pub runtime_dir: PathBuf,
}

/// The firewall of one box.
#[derive(Debug)]
pub struct Firewall {
    facts: Facts,
    state: Mutex<State>,
    standing: ArcSwap<Standing>,
}

#[derive(Debug, Default)]
struct State {
    sources: BTreeSet<(IpAddr, u16)>,
    /// The text of the table that was set last.
    set: Option<String>,
    /// A table of a time when it was wanted is gone.
    removed: bool,
}

impl Firewall {
    /// Sets the table, or learns why that cannot be.
    pub async fn set(facts: Facts) -> Self {
        let firewall = Self {
            facts,
            state: Mutex::default(),
            standing: ArcSwap::from_pointee(Standing::Open("it is being set".to_owned())),
        };
        firewall.refresh(&mut *firewall.state.lock().await).await;
        firewall
    }

    /// Who keeps containers from this machine, as it was seen last.
    pub fn standing(&self) -> Standing {
        Standing::clone(&self.standing.load())
    }

    /// Keeps the table as it should be; never ends. The image's is not this process's to keep.
    pub async fn keep(&self) {
        if matches!(**self.standing.load(), Standing::Image) {
            std::future::pending::<()>().await;
        }
        loop {
            tokio::time::sleep(TICK).await;
            self.refresh(&mut *self.state.lock().await).await;
        }
    }

    /// Opens to installations what this site fetches from, by host and port. A host without an address changes nothing:
    /// the installation says so itself.
    pub async fn open_sources(&self, hosts: &BTreeSet<(String, u16)>) {
        if matches!(**self.standing.load(), Standing::Image) {
            return;
        }
        let mut sources = BTreeSet::new();
        for (host, port) in hosts.iter().take(MAX_SOURCES) {
            match timeout(PATIENCE, resolve::addresses(host)).await {
                Ok(Ok(found)) => sources.extend(found.into_iter().map(|a| (a, *port))),
                Ok(Err(e)) => log::debug!("not opened to installations: {e}"),
                Err(_) => log::debug!("not opened to installations: {host} was not found in time"),
            }
        }
        let mut state = self.state.lock().await;
        if state.sources != sources {
            state.sources = sources;
            self.refresh(&mut state).await;
        }
    }

    async fn refresh(&self, state: &mut State) {
        let now = self.attempt(state).await.unwrap_or_else(Standing::Open);
        if *self.standing.load_full() == now {
            return;
        }
        self.note_down(&now);
        match now.note() {
            Some(note) => log::warn!("{note}"),
            None => log::info!("containers reach neither this machine nor its networks: {now:?}"),
        }
        self.standing.store(now.into());
    }

    async fn attempt(&self, state: &mut State) -> Result<Standing, String> {
        if images_table().await.is_some_and(|t| rules::closes(&t, IMAGES_BRIDGES)) {
            return Ok(Standing::Image);
        }
        let rules = self.rules(&state.sources);
        if !self.facts.network.firewall {
            state.set = None;
            if !std::mem::replace(&mut state.removed, true) {
                // There may be none, and no nft either.
                let none = format!("table inet {0}\ndelete table inet {0}\n", rules.table);
                let _ = nft(&["--file", "-"], &none).await;
            }
            return Err("[network] firewall is false".to_owned());
        }
        beside(&self.facts.engine)?;
        let text = rules.text();
        let iifname = format!("\"{}*\"", rules.bridges);
        let holds = |table: Option<String>| table.is_some_and(|t| rules::closes(&t, &iifname));
        if state.set.as_ref() == Some(&text) && holds(list(&rules.table).await?) {
            return Ok(Standing::Own);
        }
        state.set = None;
        nft(&["--file", "-"], &text).await?;
        if !holds(list(&rules.table).await?) {
            return Err("the kernel did not take the table as it is".to_owned());
        }
        state.set = Some(text);
        Ok(Standing::Own)
    }

    fn rules(&self, sources: &BTreeSet<(IpAddr, u16)>) -> Rules {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut names = rules::name_servers(&text("/etc/resolv.conf"));
        if names.is_empty() {
            // Where the only one is systemd-resolved's, the engine gives containers the servers behind it.
            names = rules::name_servers(&text("/run/systemd/resolve/resolv.conf"));
        }
        let box_id = &self.facts.box_id;
        Rules {
            table: format!("{IMAGES}_{}", &box_id.as_str()[..8]),
            bridges: bridge_prefix(box_id, None),
            installing: bridge_prefix(box_id, Some(Traffic::Installation)),
            names,
            neighbours: rules::neighbours(&text("/proc/net/route"), &text("/proc/net/ipv6_route")),
            open: self.facts.network.private_networks.clone(),
            sources: sources.clone(),
        }
    }

    /// For `berth doctor`, which is another process: the table's name, and whose packets it looks at.
    fn note_down(&self, standing: &Standing) {
        let path = self.facts.runtime_dir.join("firewall");
        let done = if *standing == Standing::Own {
            let rules = self.rules(&BTreeSet::new());
            fs::write(path, format!("{} \"{}*\"\n", rules.table, rules.bridges))
        } else {
            fs::remove_file(path).or_else(|e| {
                if e.kind() == ErrorKind::NotFound {
                    Ok(())
                } else {
                    Err(e)
                }
            })
        };
        if let Err(e) = done {
            log::warn!("`berth doctor` will not know of the firewall: {e}");
        }
    }
}

/// Whether the engine has the network namespace of this process: the peer of its socket tells (unix(7), SO_PEERCRED).
fn beside(socket: &Path) -> Result<(), String> {
    let Ok(connected) = UnixStream::connect(socket) else {
        // It is not up yet; it is asked again when it may be.
        return Ok(());
    };
    let peer = getsockopt(&connected, PeerCredentials).map_err(|e| e.to_string())?;
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
    match (namespace("self"), namespace(&peer.pid().to_string())) {
        (Ok(ours), Ok(theirs)) if ours == theirs => Ok(()),
        (Ok(_), Ok(_)) => Err("the engine is in another network namespace than the supervisor".to_owned()),
        _ => Err("whether the engine is in the supervisor's network namespace cannot be seen".to_owned()),
    }
}

/// A table as nft lists it; none where there is none.
async fn list(table: &str) -> Result<Option<String>, String> {
    match nft(&["list", "table", "inet", table], "").await {
        Ok(text) => Ok(Some(text)),
        Err(why) if why.contains("No such file or directory") => Ok(None),
        Err(why) => Err(why),
    }
}

/// What nft printed.
async fn nft(arguments: &[&str], input: &str) -> Result<String, String> {
    let program = NFT.into_iter().find(|p| Path::new(p).exists());
    let program = program.ok_or("nft is not installed: install the package nftables")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("nft cannot be started: {e}"))?;
    let mut stdin = child.stdin.take();
    let told = async {
        if let Some(mut stdin) = stdin.take() {
            // One that ends early says why itself.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let out = timeout(PATIENCE, told).await.map_err(|_| "nft does not end")?;
    let out = out.map_err(|e| format!("nft cannot be waited for: {e}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let line = said.lines().find(|l| !l.trim().is_empty()).unwrap_or("it failed");
    Err(format!("nft: {}", line.chars().take(200).collect::<String>()))
}
