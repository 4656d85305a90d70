use super::*;
use crate::site;

fn facts() -> Facts {
    Facts {
        version: "0.1.0".into(),
        supervisor: Supervisor::Ready,
        addresses: vec!["192.0.2.7/24 enp0s2".into()],
        ports: vec!["enp0s2".into(), "enp0s3".into()],
        url: Some("https://192.0.2.7/".into()),
        fingerprint: Some(vec!["AB"; 32].join(":")),
        claim: Claim::Code("7KQ2-M4XT".into()),
        audit: Some((1234567, "x".repeat(43))),
        running: 2,
        disk: Some("plain: this machine has no TPM 2.0".into()),
        space: Some(Space { size: 1000, free: 90 }),
        memory: Some(
            "this machine has 985 MiB of memory, and Berth needs 2048: instances may be ended for want of it".into(),
        ),
        site: "esp".into(),
        site_problems: vec!["site.toml:3: unknown key\u{1b}[2J".into()],
        ..Facts::default()
    }
}

/// Types lines; gives all that was said, and the request that came out of it.
fn typed(facts: &Facts, lines: &[&str]) -> (Vec<String>, Option<Request>) {
    let (mut dialog, mut said, mut request) = (Dialog::default(), Vec::new(), None);
    for line in lines {
        assert_eq!(request, None, "asked for before the last line was typed");
        let reply = dialog.line(line, facts);
        said.extend(reply.said);
        request = reply.request;
    }
    (said, request)
}

#[test]
fn a_serial_port_gets_lines_that_a_program_can_read() {
    assert_eq!(
        lines(&facts()),
        [
            "berth: version 0.1.0",
            "berth: site-problem site.toml:3: unknown key\\x1b[2J",
            "berth: site esp",
            "berth: disk plain: this machine has no TPM 2.0",
            "berth: space 91 % of 1000 MiB are used",
            "berth: memory this machine has 985 MiB of memory, and Berth needs 2048: instances may be ended for want of it",
            "berth: address 192.0.2.7/24 enp0s2",
            "berth: state ready",
            "berth: url https://192.0.2.7/",
            &format!("berth: ca-fingerprint SHA-256 {}", vec!["AB"; 32].join(":")),
            "berth: claim code 7KQ2-M4XT",
            "berth: instances 2 running, 0 failed, 0 other",
        ]
    );
}

#[test]
fn a_screen_fits_eighty_columns_and_25_rows_and_holds_no_control_signs() {
    let page = page(&facts(), &Dialog::default(), &["said".into()], "typ");
    assert!(page.len() <= 25, "{} rows", page.len());
    for row in &page {
        assert!(row.chars().count() <= 80 && !row.contains('\u{1b}'), "{row:?}");
    }
    assert_eq!(page.last().map(String::as_str), Some("  berth> typ"));
    assert!(page.iter().any(|r| r.contains("7KQ2-M4XT")));
    let said = "91 % used, 90 of 1000 MiB are free: remove instances";
    assert!(page.iter().any(|r| r.contains(said)), "{page:#?}");
    let calm = Facts {
        space: Some(Space { size: 1000, free: 201 }),
        ..facts()
    };
    assert!(!lines(&calm).iter().any(|l| l.contains("space")));
}

#[test]
fn nothing_happens_without_the_words() {
    for lines in [
        &["restart", "y"][..],
        &["restart", ""],
        &["factory-reset", "yes"],
        &["factory-reset", "erase", "erase everything"],
        &["reset-admin", "no"],
        &["network", "*", "dhcp", "none", "no"],
        &["sh"],
        &["install", "/dev/sda"],
        &["restart; sh", "yes"],
    ] {
        assert_eq!(typed(&facts(), lines).1, None, "{lines:?}");
    }
    assert_eq!(typed(&facts(), &["restart", "yes"]).1, Some(Request::Restart));
    assert_eq!(typed(&facts(), &["reset-admin", "yes"]).1, Some(Request::ResetAdmin));
    assert_eq!(
        typed(&facts(), &["factory-reset", "erase everything"]).1,
        Some(Request::FactoryReset)
    );
}

#[test]
fn a_static_network_is_asked_for_step_by_step() {
    let lines = [
        "network",
        "eth9",
        "enp0s3",
        "fixed",
        "static",
        "192.0.2.10",
        "192.0.2.10/24, 2001:db8::2/64",
        "192.0.2.1",
        "192.0.2.53",
        "42",
        "yes",
    ];
    let (said, request) = typed(&facts(), &lines);
    assert!(said.iter().any(|s| s.contains("no port \"eth9\"")), "{said:?}");
    assert!(said.iter().any(|s| s.contains("not dhcp")), "{said:?}");
    assert!(said.iter().any(|s| s.contains("prefix")), "{said:?}");
    let Some(Request::Network { text }) = request else {
        panic!("{said:?}")
    };
    let ports = site::network("n", &text).unwrap();
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].vlan, Some(42));
    assert_eq!(ports[0].addresses[1].to_string(), "2001:db8::2/64");
    let (said, request) = typed(&facts(), &["network", "*", "site", "yes"]);
    assert_eq!(request, Some(Request::Network { text: String::new() }), "{said:?}");
}

#[test]
fn a_gateway_without_an_address_of_its_family_is_refused_before_it_is_applied() {
    let (said, request) = typed(
        &facts(),
        &["network", "*", "static", "192.0.2.10/24", "fe80::1", "none", "none"],
    );
    assert_eq!(request, None);
    assert!(said.last().is_some_and(|s| s.contains("family")), "{said:?}");
}

#[test]
fn installing_needs_a_disk_of_the_list_and_its_name_again_to_erase_it() {
    let with = Facts {
        disks: vec!["/dev/sda 500 GB".into()],
        ..facts()
    };
    assert_eq!(typed(&with, &["install", "sdb", ""]).1, None);
    let erase = |erase| {
        Some(Request::Install {
            disk: "/dev/sda".into(),
            erase,
        })
    };
    assert_eq!(typed(&with, &["install", "sda", "install"]).1, erase(false));
    assert_eq!(typed(&with, &["install", "/dev/sda", "erase /dev/sda"]).1, erase(true));
    assert_eq!(typed(&with, &["install", "/dev/sda", "erase /dev/sdb"]).1, None);
}
