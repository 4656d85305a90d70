//! An instance that tries to reach the host, its gateway, metadata, the LAN, another instance: all refused, by IPv4 and
//! by IPv6, before and after Docker restarts. Each target is one that the host itself reaches, or nothing would be shown;
//! and the instance reaches an address of the internet, or its network would be dead rather than closed.

use std::collections::BTreeMap;

use serde_json::json;

use super::probe;
use crate::harness::{
    claimed::claimed,
    machine::{Machine, Setup, base64},
    mcp::Instance,
    patience, say,
};

/// Connects to each argument (`host|port`) at once and prints `host|port WORD` for each.
const CONNECT: &str = r"
const net = require('net');
for (const to of process.argv.slice(1)) {
  const [host, port] = to.split('|');
  let said = false;
  const end = (word) => { if (!said) { said = true; console.log(to + ' ' + word); socket.destroy(); } };
  const socket = net.connect({ host, port: +port });
  setTimeout(() => end('dropped'), 6000).unref();
  socket.on('connect', () => end('REACHED')).on('error', (e) => end(e.code));
  socket.setTimeout(6000, () => end('dropped'));
}";

/// Listens on every address, of IPv6 where there is that, and tells who came.
const LISTEN: &str = r"
require('net').createServer((s) => { console.log('from ' + s.remoteAddress); s.on('error', () => {}); s.end('here\n'); })
  .listen(9999, () => console.log('listening'));
setInterval(() => {}, 1000);";

const METADATA4: &str = "169.254.169.254";
const METADATA6: &str = "fd00:ec2::254";
const LAN: &str = "10.0.2.100";
const INTERNET: &str = "8.8.8.200";

fn connect(m: &mut Machine, container: &str, targets: &[String]) -> BTreeMap<String, String> {
    let arguments: Vec<String> = targets.iter().map(|t| format!("'{t}'")).collect();
    let said = probe::node(m, container, CONNECT, &arguments.join(" "));
    let lines = said.lines().filter_map(|l| l.split_once(' '));
    lines.map(|(to, word)| (to.to_owned(), word.to_owned())).collect()
}

fn address_of(m: &mut Machine, i: &Instance, what: &str) -> String {
    let format = format!("{{{{range .NetworkSettings.Networks}}}}{{{{.{what}}}}}{{{{end}}}}");
    m.sh(&format!("docker inspect --format '{format}' {}", probe::container(i)))
        .trim()
        .to_owned()
}

/// A network beside the LAN, with a way on to an address of the internet's.
fn plug_internet(m: &mut Machine) {
    // The box closes its neighbours to containers: what is to be reached must lie behind a gateway.
    let network = "[Match]\nMACAddress=52:54:00:be:01:02\n[Network]\nAddress=8.8.8.15/25\nIPv6AcceptRA=no\n\
                   [Route]\nDestination=8.8.8.200/32\nGateway=8.8.8.2\n";
    let file = "/run/systemd/network/05-internet.network";
    let write = format!(
        "mkdir -p /run/systemd/network && echo {} | base64 -d >{file} && chmod 644 {file} && networkctl reload",
        base64(network)
    );
    m.sh(&write);
    m.qmp().call(
        "netdev_add",
        json!({"type": "user", "id": "internet", "net": "8.8.8.0/24", "host": "8.8.8.2", "dns": "8.8.8.3",
               "ipv6": false, "restrict": true, "guestfwd": [{"str": format!("tcp:{INTERNET}:80-cmd:/bin/echo internet")}]}),
    );
    let card = json!({"driver": "virtio-net-pci", "netdev": "internet", "id": "card2", "bus": "slot0", "mac": "52:54:00:be:01:02"});
    m.qmp().call("device_add", card);
    m.until(
        "a route to the internet",
        "ip -4 route get 8.8.8.200 | grep -q 'via 8.8.8.2'",
        patience(60),
    );
}

#[test]
fn an_instance_reaches_the_internet_and_nothing_else() {
    let c = claimed();
    let mut setup = Setup::new("isolation");
    setup.netdev = format!(",guestfwd=tcp:{LAN}:80-cmd:/bin/echo lan");
    let (mut m, _) = c.resume_with(setup);
    plug_internet(&mut m);
    let image = probe::everything_image(&mut m);
    probe::add_types(
        &mut m,
        &[("probe-net", probe::type_file("probe-net", &image, "internet", None))],
    );
    let one = probe::run(&mut m, "probe-net", "one");
    let two = probe::run(&mut m, "probe-net", "two");
    // A listener on all of the host's addresses, the metadata ones among them, and one in the other instance.
    m.sh(&format!(
        "ip link add meta type dummy && ip link set meta up && ip address add {METADATA4}/32 dev meta && \
         ip -6 address add {METADATA6}/128 dev meta nodad"
    ));
    let listen = base64(LISTEN);
    let listen = format!("node -e \"eval(Buffer.from('{listen}', 'base64').toString())\"");
    m.sh(&format!(
        "docker run -d --name host-probe --network host --userns host --user 10001 --entrypoint sh {image} -c '{}'",
        listen.replace('\'', "'\\''")
    ));
    m.until(
        "the host's listener",
        "docker logs host-probe | grep -q listening",
        patience(60),
    );
    m.sh(&format!(
        "docker exec --user 10001:10001 -d {} {listen}",
        probe::container(&two)
    ));
    let lan4 = m
        .sh("ip -4 -o address show scope global | sed -n 's/.*inet \\(10\\.0\\.2\\.[0-9]*\\).*/\\1/p' | head -n 1")
        .trim()
        .to_owned();
    let lan6 = m.sh("ip -6 -o address show scope site | sed -n 's/.*inet6 \\([^/]*\\).*/\\1/p' | head -n 1; ip -6 -o address show scope global | grep -v meta | sed -n 's/.*inet6 \\([^/]*\\).*/\\1/p' | head -n 1");
    let lan6 = lan6.split_whitespace().next().unwrap_or_default().to_owned();
    assert!(
        !lan4.is_empty() && !lan6.is_empty(),
        "the box has {lan4:?} and {lan6:?} in its LAN"
    );
    for round in ["as it is", "after Docker restarted"] {
        let gateway = address_of(&mut m, &one, "Gateway");
        let other = address_of(&mut m, &two, "IPAddress");
        let on_host: Vec<String> = [&gateway, &lan4, METADATA4, &lan6, METADATA6]
            .iter()
            .map(|h| format!("{h}|9999"))
            .collect();
        let mut targets = on_host.clone();
        targets.extend([
            format!("{LAN}|80"),
            format!("{lan4}|443"),
            format!("{gateway}|443"),
            format!("{lan6}|443"),
        ]);
        // The other instance reaches itself at that address: it listens. No packet of a container's gets in to the host, not
        // even an answer.
        let listens = format!(
            "docker exec --user 10001:10001 {} node -e \"require('net').connect(9999,'{other}').on('connect',()=>process.exit(0)).on('error',()=>process.exit(1))\"",
            probe::container(&two)
        );
        m.until("the other instance's listener", &listens, patience(60));
        // The host reaches all of the others.
        for (to, word) in connect(&mut m, "host-probe", &targets) {
            assert_eq!(word, "REACHED", "{round}: the host itself does not reach {to}");
        }
        let before = m.sh("docker logs host-probe | grep -c from").trim().to_owned();
        targets.extend([
            format!("{other}|9999"),
            "10.0.2.2|80".into(),
            "fe80::1|9999".into(),
            "127.0.0.1|9999".into(),
            "::1|9999".into(),
        ]);
        targets.push(format!("{INTERNET}|80"));
        let mut found = connect(&mut m, &probe::container(&one), &targets);
        assert_eq!(found.len(), targets.len(), "{found:?}");
        let internet = found.remove(&format!("{INTERNET}|80"));
        assert_eq!(
            internet.as_deref(),
            Some("REACHED"),
            "{round}: the instance does not reach the internet"
        );
        let reached: Vec<&String> = found
            .iter()
            .filter(|(_, w)| *w == "REACHED")
            .map(|(to, _)| to)
            .collect();
        assert!(reached.is_empty(), "{round}: the instance reached {reached:?}");
        // One without a network has none.
        let found = connect(&mut m, &probe::container(&c.facts.everything), &targets);
        assert!(
            found.values().all(|w| w != "REACHED"),
            "{round}: an instance without network: {found:?}"
        );
        assert_eq!(
            m.sh("docker logs host-probe | grep -c from").trim(),
            before,
            "{round}: somebody came to the host's listener"
        );
        say(format!("isolation, {round}: {} targets refused", targets.len() - 1));
        if round == "as it is" {
            m.sh("systemctl restart docker");
            m.until(
                "the instances are healthy again",
                "[ $(berth list --json | grep -c '\"health\": \"healthy\"') = 4 ]",
                patience(180),
            );
            m.sh("docker start host-probe >/dev/null");
            m.until("the host's listener", "docker exec host-probe true", patience(60));
        }
    }
    m.sh("docker rm -f host-probe");
    m.berth(&format!("rm {} {}", one.id, two.id));
    m.check();
}
