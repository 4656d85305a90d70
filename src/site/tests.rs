//! Cases as files: `cases/NAME.toml` (a site file) or `cases/NAME.seed` (parts of a seed disk, each after a line
//! `== FILE`) in, `cases/NAME.out` expected. `BERTH_UPDATE=1` writes what came out.

use std::{fs, path::Path};

use super::*;

fn check(case: &Path) -> String {
    let text = fs::read_to_string(case).unwrap();
    let parsed = if case.extension().is_some_and(|x| x == "toml") {
        parse("site.toml", &text)
    } else {
        let mut seed = Seed::default();
        for part in text.split("== ").skip(1) {
            let (name, body) = part.split_once('\n').unwrap();
            let place = match name {
                "user-data" => &mut seed.user_data,
                "meta-data" => &mut seed.meta_data,
                "network-config" => &mut seed.network_config,
                other => panic!("{other}"),
            };
            *place = Some(body.to_owned());
        }
        from_seed(&seed)
    };
    match parsed {
        Err(problems) => format!("{problems}\n"),
        Ok(site) => {
            let again = network("network.toml", &network_text(&site.ports)).expect("what we write, we read");
            assert_eq!(again, site.ports);
            let mut out = format!("hostname {}\n", host_name(&site));
            for o in outputs(&site, "[limits]\ninstances = 5\n") {
                let private = if o.private { " (private)" } else { "" };
                out.push_str(&format!("--- {}{private}\n{}", o.path, o.text));
            }
            out
        }
    }
}

#[test]
fn cases() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/site");
    let mut cases: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|x| x == "toml" || x == "seed"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 10, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let got = check(&case);
        let expected = case.with_extension("out");
        if std::env::var_os("BERTH_UPDATE").is_some() {
            fs::write(&expected, &got).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != got {
            wrong.push(format!("{}:\n{got}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|\n){0,300}") {
        let _ = parse("f", &text);
        let _ = from_seed(&Seed { network_config: Some(text.clone()), ..Seed::default() });
        let _ = from_seed(&Seed { meta_data: Some(text), ..Seed::default() });
    }
}
