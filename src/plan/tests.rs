//! Plans as text, and the properties that hold for all of them: they converge, however steps fail; they are
//! idempotent; and they never touch what is not ours.

use proptest::prelude::*;

use super::*;

fn box_id() -> BoxId {
    BoxId::parse("00aa11bb22cc33dd").unwrap()
}

fn id(n: u8) -> InstanceId {
    let c = char::from(b'a' + n);
    InstanceId::parse(&c.to_string().repeat(10)).unwrap()
}

/// A case file: lines of wants and of what is seen, `---`, then the plan as text.
fn check(case: &str) {
    let (given, expected) = case.split_once("---\n").unwrap();
    let mut wants = BTreeMap::new();
    let mut seen = Observed::default();
    for line in given.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let owner = |whose: &str, n: &str| Owner {
            box_id: if whose == "ours" {
                box_id().to_string()
            } else {
                whose.to_owned()
            },
            instance: id(n.parse().unwrap()).to_string(),
        };
        match words.as_slice() {
            ["want", n, flags @ ..] => {
                let has = |f| flags.contains(&f);
                let want = Want {
                    desired: match () {
                        () if has("removed") => Desired::Removed,
                        () if has("stopped") => Desired::Stopped,
                        () => Desired::Running,
                    },
                    spec: "s1".into(),
                    network: has("network"),
                    unprepared: has("unprepared"),
                    failed: has("failed"),
                    hold_until: if has("held") { 101 } else { 100 },
                    kick: has("kick"),
                    rebuild: has("rebuild"),
                    link: match () {
                        () if has("open") => LinkSeen::Open,
                        () if has("closed") => LinkSeen::Closed,
                        () => LinkSeen::Unknown,
                    },
                    cpu: Cpu {
                        start: 2_000_000_000,
                        size: 500_000_000,
                        now: match () {
                            () if has("cpu?") => None,
                            () if has("boosted") => Some(2_000_000_000),
                            () if has("bound") => Some(500_000_000),
                            // Cases that are about something else: as it should be.
                            () if has("settled") => Some(500_000_000),
                            () => Some(2_000_000_000),
                        },
                        settled: has("settled"),
                    },
                    busy: has("busy"),
                };
                wants.insert(id(n.parse().unwrap()), want);
            }
            ["container", name, whose, n, spec, run] => {
                let run = match *run {
                    "running" => Run::Running,
                    "paused" => Run::Paused,
                    "exited" => Run::Exited,
                    "created" => Run::Created,
                    _ => Run::Dead,
                };
                let c = SeenContainer {
                    owner: owner(whose, n),
                    spec: (*spec).into(),
                    run,
                };
                seen.containers.insert((*name).into(), c);
            }
            ["network", name, whose, n] => drop(seen.networks.insert((*name).into(), owner(whose, n))),
            ["volume", name, whose, n] => drop(seen.volumes.insert((*name).into(), owner(whose, n))),
            other => panic!("{other:?}"),
        }
    }
    let steps = plan(&box_id(), &wants, &seen, &BTreeSet::new(), 100);
    let text: String = steps.iter().map(|s| format!("{s}\n")).collect();
    assert_eq!(text, expected, "for:\n{given}");
}

#[test]
fn plans_as_text() {
    let mut cases = 0;
    for case in include_str!("../../tests/cases/plan/plans.txt").split("===\n") {
        check(case);
        cases += 1;
    }
    assert!(cases > 10);
}

/// A world that steps act on: what Docker holds, and the links.
#[derive(Debug, Clone)]
struct World {
    seen: Observed,
    links: BTreeMap<InstanceId, LinkSeen>,
    wants: BTreeMap<InstanceId, Want>,
    made: u32,
}

impl World {
    fn wants(&self) -> BTreeMap<InstanceId, Want> {
        let mut wants = self.wants.clone();
        for (id, want) in &mut wants {
            want.link = self.links.get(id).copied().unwrap_or(LinkSeen::Unknown);
        }
        wants
    }

    fn foreign(&self) -> Observed {
        let mut rest = self.seen.clone();
        rest.containers.retain(|_, c| c.owner.box_id != box_id().as_str());
        rest.networks.retain(|_, o| o.box_id != box_id().as_str());
        rest.volumes.retain(|_, o| o.box_id != box_id().as_str());
        rest
    }

    fn owner(id: &InstanceId) -> Owner {
        Owner {
            box_id: box_id().to_string(),
            instance: id.to_string(),
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Prepare { id } => self.wants.get_mut(&id).unwrap().unprepared = false,
            Step::OpenLink { id } => drop(self.links.insert(id, LinkSeen::Open)),
            Step::CloseLink { id } => drop(self.links.insert(id, LinkSeen::Closed)),
            Step::CreateNetwork { id } => drop(self.seen.networks.insert(format!("n-{id}"), Self::owner(&id))),
            Step::CreateContainer { id } => {
                self.made += 1;
                let c = SeenContainer {
                    owner: Self::owner(&id),
                    spec: self.wants[&id].spec.clone(),
                    run: Run::Created,
                };
                self.seen.containers.insert(format!("made-{}", self.made), c);
            }
            Step::StartContainer { container, .. } => {
                let c = self.seen.containers.get_mut(&container).unwrap();
                assert!(
                    matches!(c.run, Run::Created | Run::Exited),
                    "only what rests is started"
                );
                c.run = Run::Running;
            }
            Step::SetCpu { id, nano_cpus, .. } => self.wants.get_mut(&id).unwrap().cpu.now = Some(nano_cpus),
            Step::StopContainer { id, container } => {
                self.seen.containers.get_mut(&container).unwrap().run = Run::Exited;
                self.wants.get_mut(&id).unwrap().kick = false;
            }
            Step::RemoveContainer { id, container } => {
                self.seen.containers.remove(&container).unwrap();
                let want = self.wants.get_mut(&id).unwrap();
                (want.rebuild, want.kick) = (false, false);
            }
            Step::RemoveNetwork { network, .. } => drop(self.seen.networks.remove(&network).unwrap()),
            Step::RemoveVolume { volume, .. } => drop(self.seen.volumes.remove(&volume).unwrap()),
            Step::Forget { id } => {
                let left = |o: &Owner| *o == Self::owner(&id);
                assert!(
                    !self.seen.containers.values().any(|c| left(&c.owner)),
                    "forgotten too early"
                );
                assert!(!self.seen.networks.values().any(left), "forgotten too early");
                assert!(!self.seen.volumes.values().any(left), "forgotten too early");
                self.wants.remove(&id);
            }
            Step::RemoveOrphan { what } => match what {
                Orphan::Container(c) => drop(self.seen.containers.remove(&c).unwrap()),
                Orphan::Network(n) => drop(self.seen.networks.remove(&n).unwrap()),
                Orphan::Volume(v) => drop(self.seen.volumes.remove(&v).unwrap()),
            },
        }
    }

    fn assert_settled(&self) {
        for (id, want) in &self.wants {
            let own = |c: &&SeenContainer| c.owner == Self::owner(id);
            let mine: Vec<_> = self.seen.containers.values().filter(own).collect();
            match want.desired {
                Desired::Removed => panic!("{id} is still there"),
                Desired::Running if !want.failed => {
                    assert_eq!(mine.len(), 1, "{id}: {mine:?}");
                    assert_eq!(mine[0].spec, want.spec);
                    assert!(matches!(mine[0].run, Run::Running | Run::Paused));
                    if mine[0].run == Run::Running && want.cpu.settled && !want.kick {
                        assert_eq!(want.cpu.now, Some(want.cpu.size), "{id} keeps the CPU of its start");
                    }
                    let networks = self.seen.networks.values().filter(|o| **o == Self::owner(id));
                    // One that runs without its network is left alone: its health will tell.
                    if mine[0].run == Run::Running && !want.network {
                        assert_eq!(networks.count(), 0);
                    }
                }
                _ => {
                    assert!(mine.iter().all(|c| matches!(c.run, Run::Exited | Run::Created)));
                    let network = |o: &Owner| *o == Self::owner(id);
                    assert!(
                        !self.seen.networks.values().any(network),
                        "{id} rests and holds a subnet"
                    );
                }
            }
        }
        let orphan = |o: &Owner| o.box_id == box_id().as_str() && !self.wants.contains_key(o.instance.as_str());
        assert!(!self.seen.containers.values().any(|c| orphan(&c.owner)));
        assert!(!self.seen.networks.values().any(orphan));
        assert!(!self.seen.volumes.values().any(orphan));
    }
}

prop_compose! {
    fn any_want()(desired in prop_oneof![Just(Desired::Running), Just(Desired::Stopped), Just(Desired::Removed)],
        network: bool, unprepared: bool, failed in proptest::bool::weighted(0.2), kick: bool, rebuild: bool,
        now in prop_oneof![Just(None), Just(Some(5)), Just(Some(20))], settled: bool) -> Want {
        let cpu = Cpu { start: 20, size: 5, now, settled };
        Want { desired, spec: "s1".into(), network, failed, hold_until: 0, kick, rebuild, link: LinkSeen::Unknown, cpu, busy: false, unprepared }
    }
}

prop_compose! {
    fn any_owner()(ours in proptest::bool::weighted(0.8), n in 0u8..6) -> Owner {
        Owner {
            box_id: if ours { box_id().to_string() } else { "ffffffffffffffff".into() },
            instance: id(n).to_string(),
        }
    }
}

prop_compose! {
    fn any_container()(owner in any_owner(), spec in prop_oneof![Just("s1"), Just("s0")],
        run in prop_oneof![Just(Run::Running), Just(Run::Paused), Just(Run::Exited), Just(Run::Created), Just(Run::Dead)])
        -> SeenContainer {
        SeenContainer { owner, spec: spec.into(), run }
    }
}

prop_compose! {
    fn any_world()(wants in proptest::collection::btree_map(0u8..5, any_want(), 0..5),
        containers in proptest::collection::vec(any_container(), 0..8),
        networks in proptest::collection::vec(any_owner(), 0..5),
        volumes in proptest::collection::vec(any_owner(), 0..5)) -> World {
        // One network and one volume of an instance: their names say whose they are.
        let named = |of: Vec<Owner>| of.into_iter().map(|o| (format!("{}-{}", o.box_id, o.instance), o)).collect();
        World {
            seen: Observed {
                disk: None,
                containers: containers.into_iter().enumerate().map(|(i, c)| (format!("c{i}"), c)).collect(),
                networks: named(networks),
                volumes: named(volumes),
            },
            links: BTreeMap::new(),
            wants: wants.into_iter().map(|(n, w)| (id(n), w)).collect(),
            made: 0,
        }
    }
}

proptest! {
    #[test]
    fn plans_converge_however_steps_fail(mut world in any_world(), fails in proptest::collection::vec(any::<bool>(), 0..40)) {
        let foreign = world.foreign();
        let mut fails = fails.into_iter();
        let mut rounds = 0;
        loop {
            let steps = plan(&box_id(), &world.wants(), &world.seen, &BTreeSet::new(), 100);
            prop_assert_eq!(&steps, &plan(&box_id(), &world.wants(), &world.seen, &BTreeSet::new(), 100));
            if steps.is_empty() {
                break;
            }
            let mut instances: Vec<_> = steps.iter().filter_map(Step::instance).collect();
            let all = instances.len();
            instances.dedup();
            prop_assert_eq!(instances.len(), all, "one step for each instance");
            for step in steps {
                if !fails.next().unwrap_or(false) {
                    world.apply(step);
                }
            }
            rounds += 1;
            prop_assert!(rounds < 80, "no end of it: {:?}", world);
        }
        world.assert_settled();
        prop_assert_eq!(world.foreign(), foreign, "foreign things are never touched");
    }

    #[test]
    fn nothing_is_planned_for_the_busy_and_nothing_started_while_held(world in any_world()) {
        let mut wants = world.wants();
        for want in wants.values_mut() {
            want.hold_until = 101;
        }
        let steps = plan(&box_id(), &wants, &world.seen, &BTreeSet::new(), 100);
        let starts = |s: &Step| matches!(s, Step::StartContainer { .. } | Step::CreateContainer { .. } | Step::CreateNetwork { .. });
        prop_assert!(!steps.iter().any(starts));
        for want in wants.values_mut() {
            want.busy = true;
        }
        let steps = plan(&box_id(), &wants, &world.seen, &BTreeSet::new(), 1000);
        prop_assert!(steps.iter().all(|s| s.instance().is_none()));
    }
}
