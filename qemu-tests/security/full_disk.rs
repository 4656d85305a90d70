//! The disk filled to its last block: by instances within their quotas, and then by what else is on the box. The power goes,
//! and the box boots, serves, warns, and is emptied by `rm`; a volume also where the engine does not run.

use crate::harness::{
    claimed::{claimed, state},
    machine::{Machine, Setup},
    patience, say,
};

/// More than fit any disk of 16 GB.
const TRIES: usize = 12;
/// What a volume of the default size holds, in MiB, and what the file system may need of it for itself.
const VOLUME: u64 = 2048;
const OVERHEAD: u64 = 16;
/// What is laid again as soon as there is room, in MiB.
const BALLAST: u64 = 256;

/// Fills a folder, in ever smaller pieces, until not a block is left that its user may have.
fn fill(folder: &str) -> String {
    format!(
        "n=0; for size in 256M 16M 1M 64K 4K; do while fallocate -l $size {folder}/fill-$n 2>/dev/null; do n=$((n + 1)); done; rm -f {folder}/fill-$n; done"
    )
}

fn number(m: &mut Machine, script: &str) -> u64 {
    let text = m.sh(script);
    text.trim().parse().unwrap_or_else(|e| panic!("{script}: {e}: {text}"))
}

/// MiB that are free on the data partition.
fn free(m: &mut Machine) -> u64 {
    number(m, "df --output=avail -B1M /var | tail -n 1")
}

#[test]
fn a_full_disk_is_survived_told_and_emptied() {
    let c = claimed();
    let mut setup = Setup::new("full-disk");
    setup.expected = vec!["berth-room.service", "docker.service: Failed with result"];
    let (mut m, address) = c.resume_with(setup);
    let laptop = c.laptop(&m);

    // The box promises no more than it has, and says so in numbers.
    let mut made: Vec<String> = Vec::new();
    let refused = (0..TRIES).find_map(|n| {
        let out = laptop.try_cli(
            &["run", "memory", "--name", &format!("full-{n}"), "--no-wait", "--json"],
            "",
        );
        if out.status.success() {
            let view: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
            made.push(view["id"].as_str().unwrap().to_owned());
            return None;
        }
        Some(String::from_utf8_lossy(&out.stderr).into_owned())
    });
    let refused = refused.unwrap_or_else(|| panic!("{TRIES} instances were promised {VOLUME} MiB each"));
    assert!(
        refused.contains("the disk has no room") && refused.contains("MiB"),
        "{refused}"
    );
    say(format!(
        "full disk: {} more instances, then: {}",
        made.len(),
        refused.trim()
    ));
    for id in &made {
        let runs = format!("berth show {id} --json | grep -q '\"state\": \"running\"'");
        m.until("an instance runs", &runs, patience(300));
    }

    // Each fills its volume, as its server would, and the box's own is left.
    for id in made.iter().chain([&c.facts.memory.id]) {
        let container = m.sh(&format!("docker ps -q --filter label=berth.instance={id}"));
        let inside = m.sh(&format!(
            "docker inspect --format '{{{{range .Mounts}}}}{{{{if eq .Type \"volume\"}}}}{{{{.Destination}}}}{{{{end}}}}{{{{end}}}}' {}",
            container.trim()
        ));
        let script = fill(inside.trim());
        m.try_sh_within(
            &format!("docker exec --user 10001:10001 {} sh -c '{script}'", container.trim()),
            patience(240),
        );
    }
    let volumes =
        "for v in /var/lib/docker/*/volumes/berth-*/_data; do du -sm $v | cut -f 1; done | sort -n | head -n 1";
    let least = number(&mut m, volumes);
    assert!(least + OVERHEAD >= VOLUME, "a volume was filled to {least} MiB alone");
    let left = free(&mut m);
    assert!(left >= 900, "instances within their quotas left the box {left} MiB");
    let room = &laptop.json(&["status"])["room"];
    let bytes = |key: &str| room[key].as_u64().unwrap();
    assert!(bytes("promised_bytes") <= bytes("room_bytes"), "{room}");
    c.holds(&address);
    say(format!("full disk: every volume is full, {left} MiB are the box's own"));

    // Whatever promises were made: all servers together may write no more than that leaves.
    m.sh("systemctl start berth-room.service");
    let beyond = format!(
        "mkdir -p /var/lib/beyond && chown 110001:110001 /var/lib/beyond && setpriv --reuid 110001 --regid 110001 --clear-groups sh -c '{}'; du -sm /var/lib/beyond | cut -f 1",
        fill("/var/lib/beyond")
    );
    let written = number(&mut m, &beyond);
    let reserve = free(&mut m);
    assert!(
        reserve >= 700,
        "a server beyond its volume took {written} MiB and left {reserve}"
    );
    m.sh("rm -r /var/lib/beyond");

    // Something else takes the rest, to the last block.
    m.try_sh_within(
        &format!("mkdir -p /var/lib/rest; {}; sync", fill("/var/lib/rest")),
        patience(240),
    );
    let left = free(&mut m);
    assert!(left <= 1, "{left} MiB are left");
    m.cut();

    m.start(None);
    let up = m.await_up();
    say(format!("full disk: up after {up:.0} s"));
    let ready = "berth status --json | grep -q '\"engine\": \"ok\"'";
    m.until("the engine answers", ready, patience(300));
    m.await_serial("berth: space 9", patience(120));
    m.sh("journalctl --boot --no-pager --output=cat --unit berth-room.service | grep -q 'was given up'");
    let status = laptop.json(&["status"]);
    let notes = status["notes"].to_string();
    assert!(
        notes.contains("% full") && notes.contains("soon nothing can be saved"),
        "{notes}"
    );
    let kept = state(&mut m, &c.facts.everything.id);
    assert_eq!(kept["name"], "everything", "{kept:#}");
    let settled = "! berth list --json | grep '\"state\"' | grep -v -E '\"(running|failed)\"'";
    m.until("every instance settles", settled, patience(300));

    // Without the engine: the volume is emptied before it starts.
    let (first, rest) = made.split_first().unwrap();
    m.sh("systemctl stop docker.socket docker.service");
    let before = free(&mut m);
    laptop.cli(&["rm", first, "--no-wait"], "");
    m.sh("berth box mend-engine");
    let after = free(&mut m);
    assert!(
        after + OVERHEAD >= before + VOLUME,
        "{before} MiB were free, and {after} are"
    );
    m.sh("systemctl start docker.socket docker.service");
    m.until("the engine answers again", ready, patience(120));

    // And with it, all of them.
    let mut words = vec!["rm"];
    words.extend(rest.iter().map(String::as_str));
    laptop.cli(&words, "");
    m.until(
        "they are gone",
        "[ $(berth list --json | grep -c '\"id\"') = 2 ]",
        patience(180),
    );
    let emptied = free(&mut m);
    let expected = after + VOLUME * (rest.len() as u64) - OVERHEAD * (rest.len() as u64 + 1) - BALLAST;
    assert!(
        emptied >= expected,
        "{emptied} MiB are free after all were removed, not {expected}"
    );
    m.sh("rm -r /var/lib/rest && systemctl start berth-room.service && [ -e /var/lib/berth-ballast ]");
    c.holds(&address);
    laptop.json(&["run", "memory", "--name", "again"]);
    m.check();
}
