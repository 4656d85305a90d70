//! The answers for all of today's principals, as a file; and what must hold whatever the file says.

use proptest::prelude::*;

use super::*;
use crate::model::RunRequest;

fn instance(n: u8) -> InstanceId {
    InstanceId::from_random([n; 10])
}

fn token(n: u8) -> TokenId {
    TokenId::from_random([n; 12])
}

fn owner() -> Principal {
    Principal::member(MemberName::admin(), Role::Owner, token(1))
}

/// Everybody whom there is today, as the columns of the table.
fn everybody() -> Vec<(&'static str, Principal)> {
    let of = |n| Principal::instance(instance(n), token(2));
    vec![
        ("nobody", Principal::nobody(Via::Api)),
        ("claimant", Principal::nobody(Via::Claim)),
        ("instance", of(1)),
        ("another-instance", of(2)),
        ("owner", owner()),
        ("viewer", owner().on_screen(instance(1), false)),
        ("controller", owner().on_screen(instance(1), true)),
        ("viewer-of-another", owner().on_screen(instance(2), true)),
        ("user", Principal::user(1000)),
        ("root", Principal::root()),
        ("berth", Principal::berth()),
    ]
}

/// What a verb is tried on: the first instance, where it is about one.
fn target(verb: Verb, id: &InstanceId) -> Target<'_> {
    match verb.about() {
        About::Box => Target::Box,
        About::Instance => Target::Instance(id),
    }
}

#[test]
fn the_answers_are_those_of_the_file() {
    use std::fmt::Write;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/policy/answers.txt");
    let (first, everybody) = (instance(1), everybody());
    let mut table = "# Who may do what, verbs on the first instance where they are about one. BERTH_BLESS=1 writes this file anew.\n# yes: allowed; no: not permitted; box: only on the box itself\n".to_owned();
    let _ = write!(table, "{:<18}", "");
    for (name, _) in &everybody {
        let _ = write!(table, " {name}");
    }
    table.push('\n');
    for verb in Verb::ALL {
        let _ = write!(table, "{:<18}", verb.as_str());
        for (name, principal) in &everybody {
            let answer = match may(principal, *verb, target(*verb, &first)) {
                Decision::Allow => "yes",
                Decision::Deny(Denial::NotPermitted) => "no",
                Decision::Deny(Denial::OnTheBoxOnly) => "box",
            };
            let _ = write!(table, " {answer:<width$}", width = name.len());
        }
        table.truncate(table.trim_end().len());
        table.push('\n');
    }
    if std::env::var_os("BERTH_BLESS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), table);
}

#[test]
fn an_action_is_signed_for_whoever_may_and_keeps_who_asked() {
    let remove = || Action::Remove { id: instance(1) };
    let signed = sign(owner(), remove()).unwrap();
    assert_eq!((signed.by().name().as_str(), signed.what()), ("admin", &remove()));
    let run = Action::Run(Box::new(RunRequest::of(
        crate::model::TypeName::parse("everything").unwrap(),
    )));
    for by in [
        Principal::nobody(Via::Api),
        Principal::instance(instance(1), token(2)),
        owner().on_screen(instance(1), true),
    ] {
        assert_eq!(sign(by.clone(), remove()), Err(Denial::NotPermitted), "{by}");
        assert_eq!(sign(by.clone(), run.clone()), Err(Denial::NotPermitted), "{by}");
    }
    assert_eq!(sign(owner(), Action::ResetAdmin), Err(Denial::OnTheBoxOnly));
}

proptest! {
    /// A token of an instance opens that instance's endpoint, whatever the door that it is shown at, and nothing else.
    #[test]
    fn a_token_of_an_instance_only_calls_it(at in 0..Verb::ALL.len(), on in 1u8..4, own in 1u8..4) {
        let verb = Verb::ALL[at];
        let id = instance(on);
        let principal = Principal::instance(instance(own), token(2)).at(Via::Api);
        let public = matches!(verb, Verb::SeePage | Verb::SeeClaim);
        let wanted = public || (verb == Verb::Call && on == own);
        prop_assert_eq!(may(&principal, verb, Target::Instance(&id)).is_allowed(), wanted);
        prop_assert_eq!(may(&principal, verb, Target::Box).is_allowed(), public);
    }

    /// A session on a screen may do nothing that its owner may not, and nothing elsewhere.
    #[test]
    fn a_screen_narrows(at in 0..Verb::ALL.len(), on in 1u8..4, control: bool) {
        let verb = Verb::ALL[at];
        let id = instance(on);
        let target = target(verb, &id);
        let there = owner().on_screen(instance(1), control);
        if may(&there, verb, target).is_allowed() && !matches!(verb, Verb::SeePage | Verb::SeeClaim) {
            prop_assert!(may(&owner(), verb, target).is_allowed());
            prop_assert_eq!(target, Target::Instance(&instance(1)));
        }
    }
}
