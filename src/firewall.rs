//! F2: the firewall that keeps containers from this machine's own services and from its networks. The host image loads it
//! before Docker starts; here it is only looked for. Changes nothing.

use std::{fs, process::Command};

/// Where the image's unit notes the table down, for a supervisor whose sandbox forbids asking the kernel.
const NOTED: &str = "/run/berth-firewall/table";
const NFT: &str = "/usr/sbin/nft";

/// What is open where the firewall is not in force, for `status` and `doctor`.
pub const OPEN: &str = "no firewall of Berth's is in force: instances with a network, and installations of packages, can reach this machine's own services and its local networks";
/// What to do about it.
pub const MEND: &str = "use the host image, which has the firewall, or close both with a firewall of your own (SECURITY.md, \"On a Docker host of your own\")";

/// The table, as nft lists it; none where it is not loaded or cannot be seen.
pub fn table() -> Option<String> {
    let asked = Command::new(NFT).args(["list", "table", "inet", "berth"]).output();
    match asked {
        Ok(out) if out.status.success() => Some(String::from_utf8_lossy(&out.stdout).into_owned()),
        _ => fs::read_to_string(NOTED).ok(),
    }
}

/// Whether containers reach neither this machine nor its networks.
pub fn in_force() -> bool {
    table().is_some_and(|t| closes(&t))
}

/// Whether a table has what the image's has: packets of containers for the machine itself, and for networks that are not
/// public, are dropped.
fn closes(table: &str) -> bool {
    let chain = |name: &str| {
        let begun = table.split_once(&format!("chain {name} {{"))?.1;
        begun.split_once("\n\t}").map(|(chain, _)| chain)
    };
    let drops = |text: &str, what: &str| text.lines().any(|l| l.contains(what) && l.trim_end().ends_with("drop"));
    let hooked =
        chain("prerouting").is_some_and(|c| c.contains("hook prerouting") && c.contains("jump from_container"));
    hooked
        && chain("from_container")
            .is_some_and(|c| drops(c, "fib daddr type") && drops(c, "@closed4") && drops(c, "@closed6"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = include_str!("../image-build/mkosi.extra/usr/lib/berth/firewall.nft");

    #[test]
    fn the_images_table_closes_and_a_part_of_it_does_not() {
        assert!(closes(IMAGE));
        for part in [
            "jump from_container",
            "ip daddr @closed4 drop",
            "hook prerouting",
            "fib daddr type { local",
        ] {
            assert!(!closes(&IMAGE.replace(part, "")), "without {part}");
        }
        assert!(!closes("") && !closes("table inet berth {\n}\n"));
    }
}
