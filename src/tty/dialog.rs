//! The dialogue at a console.
//!
//! ```text
//! menu -> restart            -> yes?           -> Request
//!      -> reset-admin        -> yes?           -> Request
//!      -> factory-reset      -> type the word  -> Request
//!      -> network -> port -> way -> address -> gateway -> dns -> vlan -> yes? -> Request
//!      -> install -> disk    -> type the disk  -> Request
//! ```
//!
//! An empty line or `cancel` leads back to the menu from everywhere.

use super::{Facts, Request};
use crate::site::{Address, Port, Which, network, network_text};

/// What has to be typed before everything is thrown away.
const ERASE: &str = "erase everything";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Menu,
    Confirm(Request),
    Factory,
    NetPort,
    NetWay,
    NetAddress,
    NetGateway,
    NetDns,
    NetVlan,
    InstallDisk,
    InstallErase(String),
}

/// Where the dialogue stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dialog {
    step: Step,
    draft: Option<Port>,
}

/// The answer to one typed line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    pub said: Vec<String>,
    pub request: Option<Request>,
}

fn say(text: impl Into<String>) -> Reply {
    Reply {
        said: vec![text.into()],
        request: None,
    }
}

impl Dialog {
    /// Whether nothing is being asked.
    pub fn idle(&self) -> bool {
        self.step == Step::Menu
    }

    /// Back to the menu.
    pub fn cancel(&mut self) {
        *self = Self::default();
    }

    /// The commands, as rows for a screen; while something is asked, only how to leave.
    pub fn menu(&self, f: &Facts) -> Vec<String> {
        if !self.idle() {
            return vec!["Press Enter on an empty line to go back.".into()];
        }
        let mut words = vec!["restart", "network", "reset-admin", "factory-reset"];
        if !f.disks.is_empty() {
            words.push("install");
        }
        vec![format!("Type a command: {}", words.join(", "))]
    }

    /// What stands before the cursor.
    pub fn prompt(&self) -> String {
        match &self.step {
            Step::Menu => "berth> ".into(),
            Step::Confirm(_) => "type yes to continue: ".into(),
            Step::Factory => format!("type \"{ERASE}\" to continue: "),
            Step::NetPort => "port (name, or * for all wired ports): ".into(),
            Step::NetWay => "dhcp, static, or site (use the site file): ".into(),
            Step::NetAddress => {
                "address with prefix, such as 192.0.2.10/24 (IPv4, IPv6, or both with a comma): ".into()
            }
            Step::NetGateway => "gateway (one for IPv4, one for IPv6; none for no gateway): ".into(),
            Step::NetDns => "name servers (with commas between them; none for no server): ".into(),
            Step::NetVlan => "VLAN (1 to 4094; none for no VLAN): ".into(),
            Step::InstallDisk => "disk to install on: ".into(),
            Step::InstallErase(disk) => {
                format!("type \"erase {disk}\" to erase what is on it, or only \"install\" if it is empty: ")
            }
        }
    }

    /// Takes one typed line.
    pub fn line(&mut self, typed: &str, f: &Facts) -> Reply {
        let typed = typed.trim();
        if self.idle() {
            return self.command(typed, f);
        }
        if typed.is_empty() || typed == "cancel" {
            self.cancel();
            return say("Nothing was changed.");
        }
        match std::mem::take(&mut self.step) {
            Step::Menu => Reply::default(),
            Step::Confirm(request) => self.confirmed(typed == "yes", request),
            Step::Factory => self.confirmed(typed == ERASE, Request::FactoryReset),
            Step::InstallDisk => {
                let disk = if typed.starts_with("/dev/") {
                    typed.to_owned()
                } else {
                    format!("/dev/{typed}")
                };
                if !f.disks.iter().any(|d| d.split(' ').next() == Some(&disk)) {
                    self.step = Step::InstallDisk;
                    return say(format!("{disk} is not one of: {}", f.disks.join("; ")));
                }
                self.step = Step::InstallErase(disk);
                Reply::default()
            }
            Step::InstallErase(disk) => {
                let erase = typed == format!("erase {disk}");
                self.confirmed(erase || typed == "install", Request::Install { disk, erase })
            }
            step => self.network(step, typed, f),
        }
    }

    fn confirmed(&mut self, yes: bool, request: Request) -> Reply {
        self.cancel();
        if yes {
            Reply {
                said: Vec::new(),
                request: Some(request),
            }
        } else {
            say("Nothing was changed.")
        }
    }

    fn command(&mut self, typed: &str, f: &Facts) -> Reply {
        let (step, said) = match typed {
            "" => return Reply::default(),
            "restart" => (
                Step::Confirm(Request::Restart),
                "The box restarts, and its instances start again.",
            ),
            "reset-admin" => (
                Step::Confirm(Request::ResetAdmin),
                "This revokes all tokens of the administrator and shows a new claim code here. Instances and data stay.",
            ),
            "factory-reset" => (
                Step::Factory,
                "This erases everything on this box: instances, their data, tokens, keys, certificates, logs. The site file stays.",
            ),
            "network" => (Step::NetPort, "This setting replaces the network of the site file."),
            "install" if !f.disks.is_empty() => {
                self.step = Step::InstallDisk;
                let mut said = vec!["You can install Berth on one of these disks:".to_owned()];
                said.extend(f.disks.clone());
                return Reply { said, request: None };
            }
            "help" | "?" => {
                let mut said = self.menu(f);
                said.push("status shows the state of the box again.".into());
                if let Some(ports) = (!f.ports.is_empty()).then(|| f.ports.join(", ")) {
                    said.push(format!("Ports: {ports}"));
                }
                return Reply { said, request: None };
            }
            other => return say(format!("{other:?} is not a command. Type help")),
        };
        self.step = step;
        say(said)
    }

    fn network(&mut self, step: Step, typed: &str, f: &Facts) -> Reply {
        match self.network_step(&step, typed, f) {
            Ok((next, said)) => {
                self.step = next;
                Reply { said, request: None }
            }
            Err(why) => {
                self.step = step;
                say(why)
            }
        }
    }

    fn network_step(&mut self, step: &Step, typed: &str, f: &Facts) -> Result<(Step, Vec<String>), String> {
        let draft = self.draft.get_or_insert_with(|| Port {
            which: Which::Any,
            vlan: None,
            dhcp: true,
            addresses: Vec::new(),
            gateways: Vec::new(),
            dns: Vec::new(),
            search: Vec::new(),
        });
        let parts = || typed.split([',', ' ']).filter(|p| !p.is_empty() && *p != "none");
        let ips = || {
            parts()
                .map(|p| p.parse().map_err(|_| format!("{p:?} is not an address")))
                .collect::<Result<Vec<std::net::IpAddr>, _>>()
        };
        let next = match step {
            Step::NetPort => {
                draft.which = if typed == "*" {
                    Which::Any
                } else if f.ports.iter().any(|p| p == typed) {
                    Which::Name(typed.into())
                } else {
                    return Err(format!(
                        "There is no port {typed:?} here; ports: {}",
                        f.ports.join(", ")
                    ));
                };
                Step::NetWay
            }
            Step::NetWay => match typed {
                "site" => {
                    let request = Request::Network { text: String::new() };
                    return Ok((Step::Confirm(request), vec!["What was set here is forgotten.".into()]));
                }
                "dhcp" => {
                    draft.dhcp = true;
                    Step::NetVlan
                }
                "static" => {
                    draft.dhcp = false;
                    Step::NetAddress
                }
                other => return Err(format!("{other:?} is not dhcp, static or site")),
            },
            Step::NetAddress => {
                let read = parts().map(str::parse::<Address>).collect::<Result<_, _>>();
                draft.addresses = read.map_err(|e| e.to_string())?;
                Step::NetGateway
            }
            Step::NetGateway => {
                draft.gateways = ips()?;
                Step::NetDns
            }
            Step::NetDns => {
                draft.dns = ips()?;
                Step::NetVlan
            }
            _ => {
                draft.vlan = match typed {
                    "none" => None,
                    v => Some(v.parse().map_err(|_| format!("{v:?} is not a number"))?),
                };
                let text = network_text(std::slice::from_ref(draft));
                // The same check as for a file; what is wrong with it is told without a line that nobody saw.
                network("", &text).map_err(|p| p.0.iter().map(|p| p.text.clone()).collect::<Vec<_>>().join("; "))?;
                let said = text.lines().map(str::to_owned).collect();
                return Ok((Step::Confirm(Request::Network { text }), said));
            }
        };
        Ok((next, Vec::new()))
    }
}
