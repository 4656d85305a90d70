//! The sections on generic types and on what instances reach: `[allow]`, `[install]`, `[remote]` and `[network]`.

use std::time::Duration;

use super::{Cidr, CidrError, Config, Install, check::file};
use crate::strict_toml::Section;

pub(super) fn read(root: &mut Section<'_>, config: &mut Config) {
    if let Some(mut s) = root.section("allow") {
        let a = &mut config.allow;
        if let Some(types) = s.strings("types") {
            a.types = Some(types.value);
        }
        for (key, place) in [
            ("packages", &mut a.packages),
            ("images", &mut a.images),
            ("remotes", &mut a.remotes),
        ] {
            if let Some(patterns) = s.strings(key) {
                if patterns.value.iter().any(String::is_empty) {
                    s.wrong(
                        &patterns,
                        format!("allow.{key}: an empty pattern allows nothing; remove it"),
                    );
                }
                *place = patterns.value;
            }
        }
        for (key, place) in [
            ("npx", &mut a.npx),
            ("uvx", &mut a.uvx),
            ("image", &mut a.image),
            ("remote", &mut a.remote),
        ] {
            if let Some(on) = s.boolean(key) {
                *place = on.value;
            }
        }
        s.finish();
    }
    if let Some(mut s) = root.section("install") {
        install(&mut s, &mut config.install);
        s.finish();
    }
    if let Some(mut s) = root.section("remote") {
        config.remote.private_networks = networks(&mut s, "remote");
        config.remote.ca_file = file(&mut s, "ca_file");
        s.finish();
    }
    if let Some(mut s) = root.section("network") {
        if let Some(on) = s.boolean("firewall") {
            config.network.firewall = on.value;
        }
        config.network.private_networks = networks(&mut s, "network");
        if let Some(given) = s.string("subnets") {
            match subnets(&given.value) {
                Ok(range) => config.network.subnets = range,
                Err(why) => s.wrong(
                    &given,
                    format!("network.subnets: write a private IPv4 range such as \"10.213.0.0/16\"; {why}"),
                ),
            }
        }
        s.finish();
    }
}

/// Where subnets may come from: ranges that are nobody's on the internet (RFC 1918, RFC 6598, RFC 2544).
const PRIVATE: [&str; 5] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "198.18.0.0/15",
];

/// A range that holds fewer subnets than two is no use: a prefix may have so many bits at most.
pub const MOST_RANGE_BITS: u8 = 28;

fn subnets(text: &str) -> Result<Cidr, String> {
    let range: Cidr = text.parse().map_err(|e: CidrError| e.to_string())?;
    let least = MOST_RANGE_BITS;
    if range.bits > least {
        return Err(format!(
            "{range} is too small for two networks: a /{least} is the smallest"
        ));
    }
    let within = |n: &str| {
        n.parse()
            .is_ok_and(|n: Cidr| n.bits <= range.bits && n.holds(range.address))
    };
    if !PRIVATE.iter().any(|n| within(n)) {
        return Err(format!("{range} does not lie in one of {}", PRIVATE.join(", ")));
    }
    let first = range.first();
    if first != Some(range) {
        let first = first.map_or_else(String::new, |f| format!(", but {f} does"));
        return Err(format!("{range} does not begin at its first address{first}"));
    }
    Ok(range)
}

fn networks(s: &mut Section<'_>, section: &str) -> Vec<Cidr> {
    let Some(given) = s.strings("private_networks") else {
        return Vec::new();
    };
    let mut read = Vec::new();
    for text in &given.value {
        match text.parse::<Cidr>() {
            Ok(network) => read.push(network),
            Err(e) => s.wrong(
                &given,
                format!("{section}.private_networks: write networks such as \"10.1.0.0/16\"; {e}"),
            ),
        }
    }
    read
}

fn install(s: &mut Section<'_>, install: &mut Install) {
    for (key, place) in [
        ("npm_registry", &mut install.npm_registry),
        ("python_index", &mut install.python_index),
        ("proxy", &mut install.proxy),
    ] {
        if let Some(url) = s.string(key) {
            let plain = !url
                .value
                .bytes()
                .any(|b| b <= b' ' || b >= 0x7f || b == b'"' || b == b'\\');
            if plain && (url.value.starts_with("https://") || url.value.starts_with("http://")) {
                *place = Some(url.value);
            } else {
                s.wrong(
                    &url,
                    format!("install.{key}: write an address that begins with https:// or http://"),
                );
            }
        }
    }
    install.ca_file = file(s, "ca_file");
    if let Some(t) = s.duration("timeout", Duration::from_secs(10), Duration::from_secs(3600)) {
        install.timeout = t.value;
    }
    for (key, place, min, max) in [
        ("at_once", &mut install.at_once, 1, 64),
        ("memory_bytes", &mut install.memory_bytes, 256 << 20, 1 << 40),
        ("disk_bytes", &mut install.disk_bytes, 16 << 20, 1 << 44),
    ] {
        if let Some(n) = s.integer(key, min, max) {
            *place = usize::try_from(n.value).unwrap_or(usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn a_whole_file() {
        let text = "[allow]\ntypes = [\"time\", \"npx\"]\npackages = [\"@a/*\"]\nimage = false\n[install]\n\
                    npm_registry = \"https://npm.example/\"\ntimeout = \"2m\"\n[remote]\nprivate_networks = [\"10.1.0.0/16\", \"::1\"]\n\
                    [network]\nfirewall = false\nprivate_networks = [\"10.2.0.0/16\"]\nsubnets = \"10.213.0.0/20\"\n";
        let c = parse("b.toml", text).expect("valid");
        assert_eq!(
            c.allow.types.as_deref(),
            Some(&["time".to_owned(), "npx".to_owned()][..])
        );
        assert!(!c.allow.image && c.allow.npx);
        let holds = |ip: &str| c.remote.private_networks.iter().any(|n| n.holds(ip.parse().expect(ip)));
        assert_eq!(c.network.subnets.to_string(), "10.213.0.0/20");
        assert!(!c.network.firewall && c.network.private_networks == ["10.2.0.0/16".parse().expect("a network")]);
        assert!(holds("10.1.2.3") && holds("::1"));
        assert!(!holds("10.2.0.0") && !holds("::2") && !holds("127.0.0.1"));
    }

    #[test]
    fn mistakes() {
        let text = "[allow]\nnpx = \"no\"\npackages = [\"\"]\n[install]\nproxy = \"x:1\"\nca_file = \"rel\"\n[remote]\nprivate_networks = [\"10.0.0.0/33\"]\n[network]\nprivate_networks = [\"x\"]\n";
        let said = parse("b.toml", text).expect_err("problems").to_string();
        for line in [
            "b.toml:2:",
            "b.toml:3:",
            "b.toml:5:",
            "b.toml:6:",
            "b.toml:8:",
            "b.toml:10:",
        ] {
            assert!(said.contains(line), "{line} not in:\n{said}");
        }
    }

    #[test]
    fn subnets_come_from_a_private_range() {
        let check = |given: &str, said: &str| {
            let text = format!("[network]\nsubnets = {given}\n");
            match parse("b.toml", &text) {
                Ok(c) => assert_eq!(c.network.subnets.to_string(), said, "{given}"),
                Err(problems) => {
                    let all = problems.to_string();
                    assert!(
                        all.contains("b.toml:2: network.subnets: ") && all.contains(said),
                        "{given}: {all}"
                    );
                }
            }
        };
        check("\"192.168.7.0/24\"", "192.168.7.0/24");
        check("\"10.0.0.0/8\"", "10.0.0.0/8");
        check("\"100.64.0.0/28\"", "100.64.0.0/28");
        check("\"100.64.0.0/29\"", "a /28 is the smallest");
        check("\"10.0.0.0/7\"", "does not lie in one of 10.0.0.0/8,");
        check("\"203.0.113.0/24\"", "does not lie in one of");
        check("\"10.1.2.3/16\"", "but 10.1.0.0/16 does");
        check("\"fd00::/8\"", "does not lie in one of");
        check("\"x\"", "is not a network");
    }
}
