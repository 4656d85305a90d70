//! The answers for everybody whom there can be, as a file; and what must hold whatever the file says.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    catalog::{ImageRef, InstanceType, Mcp, Transport},
    model::{Desired, InstanceName, Processes, Role, RunRequest, Size, TeamId, TokenScope, TypeName, WorkspaceRole},
    record::{GrantRecord, InstanceRecord, Marks, TeamRecord, TokenRecord},
};

fn instance(n: u8) -> InstanceId {
    InstanceId::from_random([n; 10])
}

fn token(n: u8) -> TokenId {
    TokenId::from_random([n; 12])
}

fn name(text: &str) -> MemberName {
    MemberName::parse(text).unwrap()
}

fn workspace(text: &str) -> WorkspaceName {
    WorkspaceName::parse(text).unwrap()
}

fn team(text: &str) -> TeamId {
    text.parse().unwrap()
}

fn now() -> jiff::Timestamp {
    "2026-11-30T12:00:00Z".parse().unwrap()
}

fn instance_in(id: InstanceId, workspace: &WorkspaceName) -> InstanceRecord {
    let image = ImageRef {
        reference: "berth/x:1".to_owned(),
        digest: None,
    };
    let mcp = Mcp::of(Transport::Stdio {
        command: vec!["x".to_owned()],
        env: BTreeMap::new(),
        processes: Processes::Session,
    });
    InstanceRecord {
        id,
        name: InstanceName::parse("x").unwrap(),
        workspace: workspace.clone(),
        size: Size::Small,
        desired: Desired::Running,
        generation: 1,
        spec_hash: String::new(),
        created_at: now(),
        env: BTreeMap::new(),
        marks: Marks::default(),
        spec: Arc::new(InstanceType::of(TypeName::parse("x").unwrap(), image, mcp)),
        failure: None,
        sourced: None,
        edited: None,
    }
}

/// Two workspaces, `here` and `there`, with an instance each, 1 and 2, and a third one here that nobody is granted; one
/// member of each kind, named after what they are.
fn access() -> Access {
    let instances = [(1, "here"), (2, "there"), (3, "here")].map(|(n, w)| {
        let record = instance_in(instance(n), &workspace(w));
        (record.id.clone(), Arc::new(record))
    });
    let mut members = BTreeMap::new();
    let mut add = |text: &str, at: &[(&str, WorkspaceRole)]| {
        let mut member = MemberRecord::owner(name(text), now());
        member.owner = at.is_empty();
        member.workspaces = at.iter().map(|(w, role)| (workspace(w), *role)).collect();
        members.insert(member.name.clone(), member);
    };
    let (member, admin) = (WorkspaceRole::Member, WorkspaceRole::Admin);
    add("owner", &[]);
    add("admin", &[("here", admin)]);
    add("elsewhere", &[("there", admin)]);
    for text in ["none", "user", "manager", "of-team", "ended", "other"] {
        add(text, &[("here", member)]);
    }
    add("both", &[("here", member), ("there", member)]);
    add("disabled", &[("here", admin)]);
    members.get_mut(&name("disabled")).unwrap().disabled_at = Some(now());
    let to = |text: &str| Grantee::Member(name(text));
    let grants = [
        (to("user"), Level::Use, None),
        (to("manager"), Level::Manage, None),
        (to("disabled"), Level::Manage, None),
        // Who is not in the workspace of what they are granted has nothing of it.
        (to("elsewhere"), Level::Manage, None),
        (to("ended"), Level::Manage, Some(now())),
        (Grantee::Team(team("here/eng")), Level::Use, None),
    ];
    let grants = grants.map(|(to, level, until)| {
        let key = (to, instance(1));
        let grant = GrantRecord {
            key: key.clone(),
            level,
            until,
            created_at: now(),
            by: "owner".into(),
            last_used_at: None,
            edited: None,
        };
        (key, grant)
    });
    let eng = TeamRecord {
        id: team("here/eng"),
        members: [name("of-team")].into(),
        created_at: now(),
        edited: None,
    };
    let of = |n, subject: Subject| {
        let record = TokenRecord {
            id: token(n),
            hash: [n; 32],
            subject,
            name: "t".into(),
            created_at: now(),
            expires_at: None,
            last_used_at: None,
            last_used_from: None,
            by: None,
            scope: TokenScope::All,
            edited: None,
        };
        (record.id.clone(), record)
    };
    let tokens = [
        of(11, Subject::Instance(instance(1))),
        of(12, Subject::Member(name("user"))),
        of(13, Subject::Member(name("other"))),
    ];
    Access {
        instances: Arc::new(instances.into()),
        tokens: Arc::new(tokens.into_iter().collect()),
        members: Arc::new(members.into_iter().collect()),
        teams: Arc::new([(eng.id.clone(), eng)].into_iter().collect()),
        grants: Arc::new(grants.into_iter().collect()),
        ..Access::default()
    }
}

fn member(text: &str) -> Principal {
    Principal::member(name(text), token(1), &TokenScope::All)
}

fn owner() -> Principal {
    member("owner")
}

/// Everybody whom there can be, as the columns of the table.
fn everybody() -> Vec<(&'static str, Principal)> {
    let of = |n| Principal::instance(instance(n), token(2));
    let scoped = |text: &str, scope| Principal::member(name(text), token(1), &scope);
    let only = |n| TokenScope::Instances(Arc::new([instance(n)].into()));
    vec![
        ("nobody", Principal::nobody(Via::Api)),
        ("claimant", Principal::nobody(Via::Claim)),
        ("instance", of(1)),
        ("another-instance", of(2)),
        ("disabled", member("disabled")),
        ("elsewhere", member("elsewhere")),
        ("none", member("none")),
        ("ended", member("ended")),
        ("user", member("user")),
        ("of-team", member("of-team")),
        ("manager", member("manager")),
        ("admin", member("admin")),
        ("owner", owner()),
        ("manager-api", scoped("manager", TokenScope::Api)),
        ("manager-1", scoped("manager", only(1))),
        ("owner-2", scoped("owner", only(2))),
        ("viewer", owner().on_screen(instance(1), false)),
        ("controller", owner().on_screen(instance(1), true)),
        ("user-controls", member("user").on_screen(instance(1), true)),
        ("elsewhere-controls", member("elsewhere").on_screen(instance(1), true)),
        ("viewer-of-another", owner().on_screen(instance(2), true)),
        ("uid", Principal::user(1000)),
        ("root", Principal::root()),
        ("berth", Principal::berth()),
    ]
}

/// What there is to ask for.
struct Things {
    instances: [InstanceId; 2],
    workspaces: [WorkspaceName; 2],
    members: Vec<MemberName>,
    team: TeamId,
    grantees: [Grantee; 2],
    tokens: Vec<TokenId>,
}

impl Things {
    fn new() -> Self {
        Self {
            instances: [instance(1), instance(9)],
            workspaces: [workspace("here"), workspace("there")],
            members: ["user", "both", "owner", "nobody"].map(name).into(),
            team: team("here/eng"),
            grantees: [Grantee::Member(name("user")), Grantee::Team(team("here/eng"))],
            tokens: [11, 12, 13, 99].map(token).into(),
        }
    }

    /// What a verb is tried on, with a word for each.
    fn targets(&self, verb: Verb) -> Vec<(&'static str, Target<'_>)> {
        let members = || ["user", "both", "an-owner", "nobody"].into_iter().zip(&self.members);
        match verb.about() {
            About::Box => {
                let mut all = vec![("", Target::Box)];
                if verb == Verb::ReadAudit {
                    let workspaces = ["here", "there"].into_iter().zip(&self.workspaces);
                    all.extend(workspaces.map(|(word, w)| (word, Target::Workspace(w))));
                    all.extend(members().map(|(word, m)| (word, Target::Member(m))));
                }
                all
            }
            About::Instance => {
                let mut all = vec![
                    ("", Target::Instance(&self.instances[0])),
                    ("unknown", Target::Instance(&self.instances[1])),
                ];
                if matches!(verb, Verb::ReadToken | Verb::CreateToken) {
                    all.extend(members().map(|(word, m)| (word, Target::Member(m))));
                }
                all
            }
            About::Workspace => vec![
                ("here", Target::Workspace(&self.workspaces[0])),
                ("there", Target::Workspace(&self.workspaces[1])),
            ],
            About::Member => members().map(|(word, m)| (word, Target::Member(m))).collect(),
            About::Membership => {
                let here = &self.workspaces[0];
                members().map(|(word, m)| (word, Target::Membership(m, here))).collect()
            }
            About::Team => vec![("", Target::Team(&self.team.workspace, &self.team.name))],
            About::Grant => {
                let to = ["to-user", "to-team"].into_iter().zip(&self.grantees);
                to.map(|(word, to)| (word, Target::Grant(to, &self.instances[0])))
                    .collect()
            }
            About::Token => {
                let words = ["of-instance", "of-user", "of-other", "unknown"];
                let all = words.into_iter().zip(&self.tokens);
                all.map(|(word, id)| (word, Target::Token(id))).collect()
            }
        }
    }
}

#[test]
fn the_answers_are_those_of_the_file() {
    use std::fmt::Write;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/policy/answers.txt");
    let (access, everybody, things) = (access(), everybody(), Things::new());
    let known = Known {
        access: &access,
        now: now(),
    };
    let mut table = "# Who may do what. Columns and things are in src/policy/tests.rs. BERTH_BLESS=1 writes this file anew.\n# yes: allowed; no: not permitted; box: only on the box itself\n".to_owned();
    let _ = write!(table, "{:<28}", "");
    for (name, _) in &everybody {
        let _ = write!(table, " {name}");
    }
    table.push('\n');
    for verb in Verb::ALL {
        for (word, target) in things.targets(*verb) {
            let row = format!("{} {word}", verb.as_str());
            let _ = write!(table, "{row:<28}");
            for (name, principal) in &everybody {
                let answer = match may(known, principal, *verb, target) {
                    Decision::Allow => "yes",
                    Decision::Deny(Denial::NotPermitted) => "no",
                    Decision::Deny(Denial::OnTheBoxOnly) => "box",
                };
                let _ = write!(table, " {answer:<width$}", width = name.len());
            }
            table.truncate(table.trim_end().len());
            table.push('\n');
        }
    }
    if std::env::var_os("BERTH_BLESS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), table);
}

#[test]
fn an_action_is_signed_for_whoever_may_and_keeps_who_asked() {
    let access = access();
    let known = Known {
        access: &access,
        now: now(),
    };
    let remove = || Action::Remove { id: instance(1) };
    let signed = sign(known, owner(), remove()).unwrap();
    assert_eq!((signed.by().name().as_str(), signed.what()), ("owner", &remove()));
    let run = Action::Run(Box::new(RunRequest::of(TypeName::parse("everything").unwrap())));
    for by in [
        Principal::nobody(Via::Api),
        Principal::instance(instance(1), token(2)),
        owner().on_screen(instance(1), true),
        member("user"),
    ] {
        assert_eq!(sign(known, by.clone(), remove()), Err(Denial::NotPermitted), "{by}");
        assert_eq!(sign(known, by.clone(), run.clone()), Err(Denial::NotPermitted), "{by}");
    }
    assert_eq!(sign(known, owner(), Action::ResetAdmin), Err(Denial::OnTheBoxOnly));
    // Nobody makes owners but one.
    let owners = [
        Action::AddMember {
            name: name("new"),
            role: Role::Owner,
            workspace: None,
        },
        Action::SetRole {
            member: name("user"),
            role: Role::Owner,
            workspace: None,
        },
    ];
    for action in owners {
        assert_eq!(sign(known, member("admin"), action.clone()), Err(Denial::NotPermitted));
        assert!(sign(known, owner(), action).is_ok());
    }
}

#[test]
fn a_trial_is_open_to_whoever_may_manage_what_it_is_a_trial_of() {
    let mut access = access();
    let mut trial = instance_in(instance(4), &workspace("here"));
    trial.sourced = Some(Box::new(crate::record::Sourced {
        source: crate::model::Source::Npx(crate::model::PackageSource {
            package: "a".to_owned(),
            version: None,
            bin: None,
            args: Vec::new(),
        }),
        resolved: None,
        network: None,
        volume: None,
        processes: None,
        call_timeout: None,
        pinned: false,
        trial_of: Some(instance(1)),
    }));
    Arc::make_mut(&mut access.instances).insert(instance(4), Arc::new(trial));
    let (id, known) = (
        instance(4),
        Known {
            access: &access,
            now: now(),
        },
    );
    let may = |who: &str, verb| may(known, &member(who), verb, Target::Instance(&id)).is_allowed();
    for verb in [Verb::ReadInstance, Verb::ReadTools, Verb::Remove] {
        assert!(may("manager", verb) && may("admin", verb));
        assert!(!may("user", verb) && !may("none", verb) && !may("elsewhere", verb));
    }
}

#[test]
fn a_grant_holds_to_its_second_and_the_widest_counts() {
    let access = access();
    let id = instance(1);
    let call = |by: &str, now: jiff::Timestamp| {
        let known = Known { access: &access, now };
        may(known, &member(by), Verb::Call, Target::Instance(&id)).is_allowed()
    };
    let before = now() - jiff::SignedDuration::from_secs(1);
    assert!(call("ended", before) && !call("ended", now()));
    let mut access = access;
    let both = TeamRecord {
        members: [name("of-team"), name("user")].into(),
        ..access.teams.get(&team("here/eng")).unwrap().clone()
    };
    let key = (Grantee::Team(both.id.clone()), id.clone());
    let mut wider = access.grants.get(&key).unwrap().clone();
    wider.level = Level::Manage;
    Arc::make_mut(&mut access.grants).insert(key, wider);
    Arc::make_mut(&mut access.teams).put(both);
    let known = Known {
        access: &access,
        now: now(),
    };
    assert!(may(known, &member("user"), Verb::Stop, Target::Instance(&id)).is_allowed());
    assert_eq!(access.grants_of(&name("user"), &id).len(), 2);
}

#[test]
fn who_may_read_something_are_those_of_all_who_may() {
    let access = access();
    let known = Known {
        access: &access,
        now: now(),
    };
    let teams = ["here/eng"].map(team);
    let all: Vec<&MemberName> = access.members.keys().collect();
    let grants = access
        .grants
        .keys()
        .map(|(to, id)| Reading::Grant(to.clone(), id.clone()));
    let of_members = all.iter().flat_map(|n| {
        [
            Reading::Member((*n).clone()),
            Reading::Token(Subject::Member((*n).clone())),
        ]
    });
    let of_instances = [1, 2, 3].map(instance).into_iter().flat_map(|id| {
        [
            Reading::Instance(id.clone()),
            Reading::Token(Subject::Instance(id.clone())),
            Reading::Credentials(id),
        ]
    });
    let others = teams
        .map(Reading::Team)
        .into_iter()
        .chain([Reading::Workspace(workspace("here"))]);
    let mut some = 0;
    for reading in of_members.chain(of_instances).chain(grants).chain(others) {
        let may = |name: &&&MemberName| reading.is_open(known, &member(name.as_str()));
        let owner = |name: &MemberName| access.members.get(name).unwrap().owner;
        let looked: std::collections::BTreeSet<MemberName> = all
            .iter()
            .filter(|n| !owner(n))
            .filter(may)
            .map(|n| (*n).clone())
            .collect();
        some += looked.len();
        assert_eq!(reading.members(&access, now()), looked, "{reading:?}");
    }
    assert!(some > 20, "{some}");
}

proptest! {
    /// A token of an instance opens that instance's endpoint, whatever the door that it is shown at, and nothing else.
    #[test]
    fn a_token_of_an_instance_only_calls_it(at in 0..Verb::ALL.len(), on in 1u8..4, own in 1u8..4) {
        let access = access();
        let known = Known { access: &access, now: now() };
        let verb = Verb::ALL[at];
        let id = instance(on);
        let principal = Principal::instance(instance(own), token(2)).at(Via::Api);
        let public = matches!(verb, Verb::SeePage | Verb::SeeClaim);
        let wanted = public || (verb == Verb::Call && on == own);
        prop_assert_eq!(may(known, &principal, verb, Target::Instance(&id)).is_allowed(), wanted);
        prop_assert_eq!(may(known, &principal, verb, Target::Box).is_allowed(), public);
    }

    /// What narrows (a screen, a scope) allows nothing that its member may not.
    #[test]
    fn what_narrows_widens_nothing(at in 0..Verb::ALL.len(), who in 0usize..6, control: bool, on in 1u8..4) {
        let access = access();
        let known = Known { access: &access, now: now() };
        let (verb, things) = (Verb::ALL[at], Things::new());
        let who = ["owner", "admin", "manager", "user", "none", "disabled"][who];
        let narrowed = [
            member(who).on_screen(instance(on), control),
            Principal::member(name(who), token(1), &TokenScope::Api),
            Principal::member(name(who), token(1), &TokenScope::Instances(Arc::new([instance(on)].into()))),
        ];
        for (_, target) in things.targets(verb) {
            for by in &narrowed {
                if may(known, by, verb, target).is_allowed() {
                    prop_assert!(may(known, &member(who), verb, target).is_allowed(), "{} {verb:?}", by);
                }
            }
        }
    }

    /// Who is let in nowhere, and who is nobody, may do nothing but see the public pages.
    #[test]
    fn who_is_disabled_may_nothing(at in 0..Verb::ALL.len()) {
        let access = access();
        let known = Known { access: &access, now: now() };
        let verb = Verb::ALL[at];
        for (_, target) in Things::new().targets(verb) {
            let public = matches!(verb, Verb::SeePage | Verb::SeeClaim);
            for by in [member("disabled"), member("unknown")] {
                prop_assert_eq!(may(known, &by, verb, target).is_allowed(), public);
            }
        }
    }
}
