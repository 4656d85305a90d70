//! Where this site's packages come from: what `[install]` says, else what this machine's own npm, pip and uv are told by
//! their environment and files. Reads; never writes them anywhere but into a container that installs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::config::Install;

/// Bundles of certificate authorities, where distributions keep them.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];
const MAX_FILE: u64 = 16 << 20;

/// What an installing container is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Site {
    /// PEM, or nothing: then the image's own bundle holds.
    pub(super) ca: Vec<u8>,
    /// Lines of an npmrc.
    pub(super) npmrc: String,
    /// Variables for uv and for proxies.
    pub(super) env: BTreeMap<String, String>,
    /// What must not show in a log.
    pub(super) secrets: Vec<String>,
}

/// Looks up variables and files, so that tests can give theirs.
pub(super) trait Machine {
    fn var(&self, name: &str) -> Option<String>;
    fn file(&self, path: &Path) -> Option<Vec<u8>>;
}

/// This process and its machine.
pub(super) struct Here;

impl Machine for Here {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|v| !v.is_empty())
    }

    fn file(&self, path: &Path) -> Option<Vec<u8>> {
        let meta = std::fs::metadata(path).ok()?;
        (meta.is_file() && meta.len() <= MAX_FILE).then(|| std::fs::read(path).ok())?
    }
}

/// Reads it all anew: a changed file serves the next installation.
pub(super) fn read(install: &Install, machine: &impl Machine) -> Result<Site, String> {
    let mut site = Site {
        ca: ca(install, machine)?,
        ..Site::default()
    };
    proxies(install, machine, &mut site);
    npm(install, machine, &mut site);
    python(install, machine, &mut site);
    let urls: Vec<&String> = site.env.values().collect();
    let found: Vec<String> = urls.into_iter().flat_map(|u| passwords(u)).collect();
    site.secrets.extend(found);
    site.secrets.retain(|s| s.len() >= 4);
    // The longest first: a password may be a part of another secret.
    site.secrets.sort_by_key(|s| std::cmp::Reverse(s.len()));
    Ok(site)
}

fn ca(install: &Install, machine: &impl Machine) -> Result<Vec<u8>, String> {
    if let Some(path) = &install.ca_file {
        return machine.file(path).ok_or_else(|| {
            format!(
                "{} cannot be read: set ca_file in [install] of berth.toml to a PEM file",
                path.display()
            )
        });
    }
    let named = machine.var("SSL_CERT_FILE").map(PathBuf::from);
    let all = named.into_iter().chain(BUNDLES.iter().map(PathBuf::from));
    Ok(all.filter_map(|p| machine.file(&p)).next().unwrap_or_default())
}

fn proxies(install: &Install, machine: &impl Machine, site: &mut Site) {
    let either = |upper: &str| machine.var(upper).or_else(|| machine.var(&upper.to_lowercase()));
    for name in ["HTTP_PROXY", "HTTPS_PROXY"] {
        if let Some(proxy) = install.proxy.clone().or_else(|| either(name)) {
            site.env.insert(name.to_lowercase(), proxy.clone());
            site.env.insert(name.to_owned(), proxy);
        }
    }
    if let Some(none) = either("NO_PROXY") {
        site.env.insert("no_proxy".to_owned(), none.clone());
        site.env.insert("NO_PROXY".to_owned(), none);
    }
}

fn home(machine: &impl Machine) -> PathBuf {
    machine.var("HOME").map_or_else(|| "/root".into(), PathBuf::from)
}

fn text(machine: &impl Machine, path: &Path) -> String {
    machine
        .file(path)
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .unwrap_or_default()
}

fn npm(install: &Install, machine: &impl Machine, site: &mut Site) {
    // The later line wins, as in npm: global file, the user's, the environment, ours.
    let own = machine.var("NPM_CONFIG_USERCONFIG").map(PathBuf::from);
    let files = [
        "/usr/etc/npmrc".into(),
        "/usr/local/etc/npmrc".into(),
        "/etc/npmrc".into(),
        own.unwrap_or_else(|| home(machine).join(".npmrc")),
    ];
    for file in files {
        for line in text(machine, &file).lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let (key, value) = (key.trim(), expand(value.trim().trim_matches('"'), machine));
            let taken = ["registry", "proxy", "https-proxy", "noproxy"].contains(&key)
                || key.ends_with(":registry")
                || key.starts_with("//");
            if !taken || key.starts_with(['#', ';']) {
                continue;
            }
            if key.starts_with("//") {
                site.secrets.push(value.clone());
            }
            site.npmrc += &format!("{key}={value}\n");
        }
    }
    let given = ["npm_config_registry", "NPM_CONFIG_REGISTRY"];
    let registry = install.npm_registry.clone();
    if let Some(registry) = registry.or_else(|| given.iter().find_map(|n| machine.var(n))) {
        site.npmrc += &format!("registry={registry}\n");
    }
    let secrets = site.npmrc.lines().flat_map(passwords).collect::<Vec<_>>();
    site.secrets.extend(secrets);
    // Neither the lock nor the image says where a package was fetched from.
    site.npmrc +=
        "omit-lockfile-registry-resolved=true\nfund=false\naudit=false\nupdate-notifier=false\nsave-exact=true\n";
}

/// `${NAME}` as npm replaces it; one that is not set stays.
fn expand(value: &str, machine: &impl Machine) -> String {
    let mut out = value.to_owned();
    for _ in 0..8 {
        let Some(from) = out.find("${") else { break };
        let Some(to) = out[from..].find('}').map(|n| from + n) else {
            break;
        };
        let Some(found) = machine.var(&out[from + 2..to]) else {
            break;
        };
        out.replace_range(from..=to, &found);
    }
    out
}

fn python(install: &Install, machine: &impl Machine, site: &mut Site) {
    let mut index = None;
    let mut extra = None;
    let files = [
        "/etc/pip.conf".into(),
        home(machine).join(".pip/pip.conf"),
        home(machine).join(".config/pip/pip.conf"),
        machine.var("PIP_CONFIG_FILE").map_or_else(PathBuf::new, PathBuf::from),
    ];
    for file in files {
        let mut inside = false;
        for line in text(machine, &file).lines().map(str::trim) {
            if line.starts_with('[') {
                inside = line == "[global]" || line == "[install]" || line == "[download]";
            } else if let Some((key, value)) = line.split_once('=')
                && inside
            {
                match key.trim().replace('_', "-").as_str() {
                    "index-url" => index = Some(value.trim().to_owned()),
                    "extra-index-url" => extra = Some(value.trim().to_owned()),
                    _ => {}
                }
            }
        }
    }
    let of = |names: &[&str]| names.iter().find_map(|n| machine.var(n));
    let index = install
        .python_index
        .clone()
        .or_else(|| of(&["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"]))
        .or(index);
    let extra = of(&["UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"]).or(extra);
    if let Some(index) = index {
        site.env.insert("UV_DEFAULT_INDEX".to_owned(), index);
    }
    if let Some(extra) = extra.filter(|_| install.python_index.is_none()) {
        site.env.insert("UV_INDEX".to_owned(), extra);
    }
}

/// Every `http://` and `https://` address in a text: its host and its port.
fn hosts(text: &str) -> Vec<(String, u16)> {
    let mut found = Vec::new();
    for (scheme, port) in [("http://", 80), ("https://", 443)] {
        for (at, _) in text.match_indices(scheme) {
            let rest = &text[at + scheme.len()..];
            let authority = rest.split(['/', ' ', ',', '?', '#']).next().unwrap_or_default();
            let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            // A colon inside brackets is an IPv6 address's.
            let (host, named) = match authority.rsplit_once(':') {
                Some((host, digits)) if !digits.contains(']') => (host, digits.parse().ok()),
                _ => (authority, Some(port)),
            };
            if let (false, Some(port)) = (host.is_empty(), named) {
                found.push((host.to_ascii_lowercase(), port));
            }
        }
    }
    found
}

/// What stands between `//` and `@` in the addresses of a line, with and without the user's name: tools show either.
fn passwords(line: &str) -> Vec<String> {
    let authorities = line.split("//").skip(1).filter_map(|a| a.split(['/', ' ', ',']).next());
    let users = authorities.filter_map(|a| Some(a.rsplit_once('@')?.0));
    let each = |u: &str| {
        let password = u.split_once(':').map(|(_, p)| p.to_owned());
        password.into_iter().chain([u.to_owned()]).collect::<Vec<_>>()
    };
    users.flat_map(each).collect()
}

impl Site {
    /// The hosts that the site's addresses name, with their ports: registries, indexes and proxies.
    pub(super) fn sources(&self) -> BTreeSet<(String, u16)> {
        let lines = self.npmrc.lines().map(str::to_owned);
        let texts: Vec<String> = lines.chain(self.env.values().cloned()).collect();
        texts.iter().flat_map(|text| hosts(text)).collect()
    }

    /// The variables as a shell reads them.
    pub(super) fn script(&self) -> String {
        let quoted = |v: &str| format!("'{}'", v.replace('\'', r"'\''"));
        let lines = self.env.iter().map(|(k, v)| format!("export {k}={}\n", quoted(v)));
        lines.collect()
    }

    /// A line without what must not show.
    pub(super) fn redact(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for secret in &self.secrets {
            if line.contains(secret.as_str()) {
                line = line.replace(secret.as_str(), "***");
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Fake(BTreeMap<String, String>, BTreeMap<PathBuf, String>);

    impl Machine for Fake {
        fn var(&self, name: &str) -> Option<String> {
            self.0.get(name).cloned()
        }
        fn file(&self, path: &Path) -> Option<Vec<u8>> {
            self.1.get(path).map(|t| t.clone().into_bytes())
        }
    }

    #[test]
    fn the_machines_own_configuration_serves() {
        let mut m = Fake::default();
        for (k, v) in [
            ("HOME", "/h"),
            ("TOKEN", "t0psecret"),
            ("https_proxy", "http://u:pw99@p:1"),
            ("PIP_INDEX_URL", "https://i.example/simple"),
        ] {
            m.0.insert(k.into(), v.into());
        }
        let npmrc = "registry=https://r.example/\nnodedir=/usr\n; x=1\n//r.example/:_authToken=${TOKEN}\n@a:registry = https://a.example/\n";
        m.1.insert("/h/.npmrc".into(), npmrc.into());
        m.1.insert(BUNDLES[0].into(), "PEM".into());
        let site = read(&Install::default(), &m).expect("read");
        assert_eq!(site.ca, b"PEM");
        for line in [
            "registry=https://r.example/\n",
            "//r.example/:_authToken=t0psecret\n",
            "@a:registry=https://a.example/\n",
        ] {
            assert!(site.npmrc.contains(line), "{}", site.npmrc);
        }
        assert!(!site.npmrc.contains("nodedir"));
        assert_eq!(site.env["UV_DEFAULT_INDEX"], "https://i.example/simple");
        assert_eq!(site.env["HTTPS_PROXY"], "http://u:pw99@p:1");
        assert_eq!(site.redact("token t0psecret via u:pw99"), "token *** via ***");
        assert_eq!(
            site.redact("proxy p said no to u with pw99"),
            "proxy p said no to u with ***"
        );

        let sources: Vec<String> = site.sources().iter().map(|(h, p)| format!("{h} {p}")).collect();
        assert_eq!(sources, ["a.example 443", "i.example 443", "p 1", "r.example 443"]);

        let ours = Install {
            npm_registry: Some("https://ours.example/".into()),
            python_index: Some("https://py.example/".into()),
            proxy: Some("http://q:2".into()),
            ca_file: Some("/nowhere".into()),
            ..Install::default()
        };
        assert!(
            read(&ours, &m)
                .expect_err("no such file")
                .contains("ca_file in [install]")
        );
        let site = read(&Install { ca_file: None, ..ours }, &m).expect("read");
        assert!(
            site.npmrc.contains("registry=https://ours.example/\nomit"),
            "ours comes last: {}",
            site.npmrc
        );
        assert_eq!(site.env["UV_DEFAULT_INDEX"], "https://py.example/");
        assert_eq!(site.env["http_proxy"], "http://q:2");
    }

    #[test]
    fn hosts_of_addresses() {
        let of = |text: &str| {
            hosts(text)
                .iter()
                .map(|(h, p)| format!("{h} {p}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        assert_eq!(
            of("a=https://u:p@A.example/x b=http://[fd00::1]:81 https://c.example?q"),
            "[fd00::1] 81, a.example 443, c.example 443"
        );
        assert_eq!(of("//x/:_authToken=t registry=https:// http://h:99999/"), "");
    }

    #[test]
    fn a_shell_reads_the_variables_as_they_are() {
        let mut site = Site::default();
        site.env.insert("A".into(), "it's $HOME `x`".into());
        let script = format!("{}printf %s \"$A\"", site.script());
        let out = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("sh");
        assert_eq!(String::from_utf8_lossy(&out.stdout), "it's $HOME `x`");
    }
}
