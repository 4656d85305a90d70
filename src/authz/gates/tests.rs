//! The algorithm as a function, against what it promises; and gates that many pass at once.

use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000_000;

fn limit(per_second: u32, at_once: u32) -> CallLimit {
    CallLimit { per_second, at_once }
}

fn member(name: &str) -> Principal {
    let name = MemberName::parse(name).unwrap();
    Principal::member(name, token(0), &crate::model::TokenScope::All)
}

fn token(n: u8) -> TokenId {
    TokenId::from_random([n; 12])
}

fn instance(n: u8) -> InstanceId {
    InstanceId::from_random([n; 10])
}

/// The way of a member to an instance in the workspace `default`.
fn way(gates: &Gates, name: &str, to: &InstanceId) -> Arc<Through> {
    let workspace = Some(WorkspaceName::default());
    gates.through((&member(name), &token(0)), Some(to), workspace)
}

/// So many calls that begin and end at once; how many were let through.
fn calls(way: &Arc<Through>, count: usize, now: i64) -> usize {
    (0..count).filter(|_| way.enter(Use::Call, now).is_ok()).count()
}

fn whose(way: &Arc<Through>, now: i64) -> Option<Whose> {
    match way.enter(Use::Call, now) {
        Ok(_) => None,
        Err(Limited::TooFast(whose, _) | Limited::TooMany(whose)) => Some(whose),
    }
}

proptest! {
    /// However calls come: in no window more than a burst and what the rate gives; and who is told to wait is let through
    /// then, no sooner.
    #[test]
    fn no_window_has_more_than_a_burst_and_the_rate(
        per_second in 1u32..5000,
        pauses in proptest::collection::vec(
            (prop_oneof![0i64..1000, 0i64..10_000_000, 0i64..2 * SECOND], prop_oneof![Just(1i64), 1i64..300]), 1..200,
        ),
        common: bool,
    ) {
        let share = if common { Share::Common } else { Share::Whole };
        let rate = Rate::of(per_second).unwrap();
        let (mut tat, mut now, mut passed) = (0, 0, Vec::new());
        for (pause, together) in pauses {
            now += pause;
            let of = (share, together);
            match rate.after(tat, now, of) {
                Ok(after) => {
                    tat = after;
                    passed.push((now, together.min(share.of(rate.burst) - 1)));
                }
                Err(early) => {
                    prop_assert!(rate.after(tat, now + early, of).is_ok());
                    prop_assert!(rate.after(tat, now + early - 1, of).is_err());
                }
            }
        }
        for (n, (first, _)) in passed.iter().enumerate() {
            let mut count = 0;
            for (last, together) in &passed[n..] {
                count += together;
                let most = share.of(rate.burst) + (last - first) / rate.every;
                prop_assert!(count <= most, "{count} within {} ns, of {most}", last - first);
            }
        }
    }

    /// Calls that come no faster than the rate are all let through, whatever was before.
    #[test]
    fn nobody_is_refused_below_the_rate(
        per_second in 1u32..5000,
        pauses in proptest::collection::vec(0i64..SECOND, 1..200),
    ) {
        let rate = Rate::of(per_second).unwrap();
        let (mut tat, mut now) = (0, 0);
        for pause in pauses {
            now += rate.every + pause;
            tat = rate.after(tat, now, (Share::Common, 1)).expect("below the rate");
        }
    }
}

#[test]
fn a_burst_and_then_the_rate() {
    let gates = Gates::new(limit(10, 0), CallLimit::NONE);
    let ada = way(&gates, "ada", &instance(1));
    assert_eq!(calls(&ada, 100, 0), 40, "four seconds' worth");
    let tenth = SECOND / 10;
    assert_eq!(
        ada.enter(Use::Call, 0).unwrap_err(),
        Limited::TooFast(Whose::Member, Duration::from_millis(100))
    );
    assert_eq!((calls(&ada, 9, tenth), calls(&ada, 9, 3 * tenth)), (1, 2));
    assert_eq!(
        calls(&ada, 100, 20 * SECOND),
        40,
        "a pause gives the burst back, and no more"
    );
}

#[test]
fn a_person_is_a_member_or_who_holds_a_token_of_an_instance() {
    let gates = Gates::new(limit(1, 0), CallLimit::NONE);
    let (here, there) = (instance(1), instance(2));
    let (one, other) = (way(&gates, "ada", &here), way(&gates, "ada", &there));
    assert_eq!(
        calls(&one, 9, 0) + calls(&other, 9, 0),
        4,
        "one person, wherever they call"
    );
    assert_eq!(calls(&way(&gates, "bob", &here), 9, 0), 4);
    let api = gates.through((&member("ada"), &token(0)), None, None);
    assert_eq!(calls(&api, 9, 0), 4, "the API is counted apart");
    let holder = |n| {
        let by = Principal::instance(here.clone(), token(n));
        gates.through((&by, &token(n)), Some(&here), None)
    };
    let holders = [holder(1), holder(1), holder(2)];
    assert_eq!(holders.each_ref().map(|way| calls(way, 9, 0)), [4, 0, 4]);
    assert_eq!(whose(&holders[0], 0), Some(Whose::Token));
}

#[test]
fn who_is_refused_by_one_gate_is_charged_by_none() {
    let gates = Gates::new(limit(100, 8), limit(1, 2));
    let (here, there) = (instance(1), instance(2));
    let ada = way(&gates, "ada", &here);
    assert_eq!(calls(&ada, 1000, 0), 4);
    assert_eq!(whose(&ada, 0), Some(Whose::Instance));
    // Elsewhere she may still do all that she had left.
    gates.limit_workspaces(CallLimit::NONE, BTreeMap::new());
    let gates_of_there = way(&gates, "ada", &there);
    gates_of_there.shared[0].set(CallLimit::NONE);
    assert_eq!(calls(&gates_of_there, 1000, 0), 400 - 4);
    // The same for places: the instance has two.
    let held = [ada.enter(Use::Call, 9 * SECOND), ada.enter(Use::Call, 9 * SECOND)];
    assert!(held.iter().all(Result::is_ok));
    assert_eq!(
        ada.enter(Use::Call, 9 * SECOND).unwrap_err(),
        Limited::TooMany(Whose::Instance)
    );
    assert_eq!(gates.under_way().map(|u| u.calls), [2, 0, 2, 2]);
    drop(held);
    assert_eq!(gates.under_way().map(|u| u.calls), [0; 4]);
}

#[test]
fn streams_take_no_calls_place() {
    let gates = Gates::new(limit(0, 2), CallLimit::NONE);
    let ada = way(&gates, "ada", &instance(1));
    let streams: Vec<_> = (0..8).map(|_| ada.enter(Use::Stream, 0).unwrap()).collect();
    assert_eq!(
        ada.enter(Use::Stream, 0).unwrap_err(),
        Limited::TooMany(Whose::Member),
        "four for each call"
    );
    let call = ada.enter(Use::Call, 0).unwrap();
    assert_eq!(
        gates.under_way()[0],
        UnderWay {
            whose: Whose::Member,
            calls: 1,
            streams: 8
        }
    );
    drop((streams, call));
    assert_eq!(
        gates.under_way()[0],
        UnderWay {
            whose: Whose::Member,
            calls: 0,
            streams: 0
        }
    );
}

/// However many call without a pause: whoever calls now and then finds room.
#[test]
fn each_message_of_a_batch_is_a_call() {
    let gates = Gates::new(limit(10, 0), limit(20, 0));
    let here = instance(1);
    let ada = way(&gates, "ada", &here);
    // Forty may come together: one, and twenty-nine more.
    assert_eq!(calls(&ada, 1, 0), 1);
    assert_eq!(ada.more(Use::Call, 0, 29), Ok(()));
    assert_eq!(
        ada.more(Use::Call, 0, 29),
        Err(Limited::TooFast(Whose::Member, Duration::from_millis(1900)))
    );
    assert_eq!(
        calls(&ada, 100, 0),
        11,
        "what was refused was not counted, nor its first"
    );
    // More than may ever come together pass when nothing else does, and are waited for.
    let far = 10 * SECOND;
    assert_eq!((calls(&ada, 1, far), ada.more(Use::Call, far, 99)), (1, Ok(())));
    assert_eq!(
        ada.enter(Use::Call, far + SECOND).unwrap_err(),
        Limited::TooFast(Whose::Member, Duration::from_millis(5100))
    );
    // What has passed is waited for, and takes others nothing that is kept for them.
    let there = instance(2);
    let (bob, eve) = (way(&gates, "bob", &there), way(&gates, "eve", &there));
    assert_eq!(calls(&bob, 1, far), 1);
    bob.had_more(Use::Call, far, 250);
    assert_eq!(
        bob.enter(Use::Call, far + 20 * SECOND).unwrap_err(),
        Limited::TooFast(Whose::Member, Duration::from_millis(1200))
    );
    assert_eq!(calls(&eve, 100, far), 10, "all that is little");
}

#[test]
fn the_last_quarter_is_for_those_who_ask_for_little() {
    let gates = Gates::new(limit(100, 64), limit(50, 16));
    let here = instance(1);
    let loops: Vec<_> = (0..20).map(|n| way(&gates, &format!("m{n}"), &here)).collect();
    let quiet = way(&gates, "eve", &here);
    let (mut now, mut passed) = (0, 0);
    for step in 0..2000 {
        now += SECOND / 100;
        for way in &loops {
            passed += calls(way, 3, now);
        }
        // The first who came had all; that they ask for much shows within two seconds.
        if step >= 200 && step % 5 == 0 {
            assert_eq!(whose(&quiet, now), None, "step {step}");
        }
    }
    assert!(passed > 500, "what she leaves they have: {passed}");
    // And so with places.
    now += 60 * SECOND;
    let held: Vec<_> = loops
        .iter()
        .flat_map(|way| [way.enter(Use::Call, now), way.enter(Use::Call, now)])
        .collect();
    assert_eq!(held.iter().filter(|p| p.is_ok()).count(), 16, "nobody has much");
    drop(held);
    let held: Vec<_> = (0..64).map(|_| loops[0].enter(Use::Call, now)).collect();
    assert_eq!(held.iter().filter(|p| p.is_ok()).count(), 12);
    assert!(quiet.enter(Use::Call, now).is_ok());
}

#[test]
fn many_at_once_get_no_more_than_one_would() {
    let gates = Gates::new(limit(1000, 3), limit(500, 0));
    let ways = ["ada", "bob", "cyn", "dan"].map(|name| way(&gates, name, &instance(1)));
    let passed = AtomicU32::new(0);
    let most = AtomicU32::new(0);
    std::thread::scope(|s| {
        for way in &ways {
            for _ in 0..2 {
                s.spawn(|| {
                    for n in 0..20_000i64 {
                        // Time passes for all alike, whoever runs: it is one of the calls' arguments.
                        if let Ok(place) = way.enter(Use::Call, n * 50_000) {
                            passed.fetch_add(1, Relaxed);
                            most.fetch_max(way.person.calls.load(Relaxed), Relaxed);
                            drop(place);
                        }
                    }
                });
            }
        }
    });
    // 2000 together, and 500 a second for one second.
    let passed = passed.into_inner();
    assert!((1..=2500).contains(&passed), "{passed}");
    assert!((1..=3).contains(&most.into_inner()));
    assert_eq!(gates.under_way().map(|u| u.calls), [0; 4]);
}

#[test]
fn a_new_bound_of_a_workspace_holds_at_once() {
    let gates = Gates::new(CallLimit::NONE, CallLimit::NONE);
    let ada = way(&gates, "ada", &instance(1));
    assert_eq!(calls(&ada, 1000, 0), 1000);
    let own = BTreeMap::from([(WorkspaceName::default(), limit(2, 0))]);
    gates.limit_workspaces(limit(1, 0), own.clone());
    assert_eq!(calls(&ada, 1000, 0), 8);
    assert_eq!(whose(&ada, 0), Some(Whose::Workspace));
    let lab = Some(WorkspaceName::parse("lab").unwrap());
    let there = gates.through((&member("bob"), &token(0)), Some(&instance(2)), lab);
    assert_eq!(calls(&there, 1000, 0), 4, "one without a bound of its own");
    gates.limit_workspaces(limit(5, 0), BTreeMap::new());
    assert_eq!(
        (calls(&ada, 1000, 60 * SECOND), calls(&there, 1000, 60 * SECOND)),
        (20, 20)
    );
}

#[test]
fn gates_that_nobody_holds_are_dropped_once_they_are_quiet() {
    let gates = Gates::new(limit(1000, 8), CallLimit::NONE);
    let kept = way(&gates, "ada", &instance(1));
    let (by, here) = (member("ada"), instance(1));
    for n in 0..5000u16 {
        let [high, low] = n.to_be_bytes();
        let mut random = [0; 12];
        // Five bits of a byte make a character.
        (random[0], random[1], random[2], random[3]) = (high >> 3, high & 7, low >> 4, low & 15);
        let id = TokenId::from_random(random);
        let holder = Principal::instance(here.clone(), id.clone());
        gates.through((&holder, &id), Some(&here), None);
    }
    let held = gates.table().gates.len();
    assert!(held <= FEW + 3, "{held}");
    let again = gates.through((&by, &token(0)), Some(&here), None);
    assert!(Arc::ptr_eq(&again.person, &kept.person), "what somebody holds stays");
}

#[test]
fn what_was_used_is_not_forgotten_with_who_used_it() {
    let gates = Gates::new(limit(1, 8), CallLimit::NONE);
    let here = instance(1);
    let later = 1000 * SECOND;
    assert_eq!(calls(&way(&gates, "ada", &here), 9, later), 4);
    for n in 0..1000u16 {
        let id = instance(u8::try_from(n % 250).unwrap());
        let name = format!("m{n}");
        drop(way(&gates, &name, &id));
    }
    assert_eq!(calls(&way(&gates, "ada", &here), 9, later), 0);
}
