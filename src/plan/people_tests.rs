//! What actions on people come to: what goes with what, who is told what, and that an owner stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    admit::{Book, Decision, admit},
    admit_tests::{a_type, people_book},
    people::{Came, People},
};
use crate::{
    catalog::Catalog,
    model::{
        Action, Grantee, InstanceId, InstanceName, Level, MemberName, Principal, Refusal, Role, Size, Subject, TeamId,
        TokenId, TokenScope, WorkspaceName, WorkspaceRole,
    },
    policy::{Access, Known, Signed, sign},
    record::{
        InstanceRecord, Marks, MemberRecord, TokenRecord, WorkspaceRecord,
        tables::{Grants, Members, Teams, Tokens},
    },
};

/// Two workspaces, an instance in each, and who is there; changes are made to it as the ledger makes them.
#[derive(Default)]
struct World {
    instances: Arc<BTreeMap<InstanceId, Arc<InstanceRecord>>>,
    tokens: Arc<Tokens>,
    members: Arc<Members>,
    workspaces: BTreeMap<WorkspaceName, WorkspaceRecord>,
    teams: Arc<Teams>,
    grants: Arc<Grants>,
    catalog: Catalog,
}

fn id(n: u8) -> InstanceId {
    InstanceId::from_random([n; 10])
}

fn name(text: &str) -> MemberName {
    MemberName::parse(text).unwrap()
}

fn ws(text: &str) -> WorkspaceName {
    WorkspaceName::parse(text).unwrap()
}

fn team(text: &str) -> TeamId {
    text.parse().unwrap()
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_790_000_000).unwrap()
}

impl World {
    fn new() -> Self {
        let mut world = World::default();
        let spec = Arc::new(a_type("echo", "berth/echo:1"));
        for (n, w) in [(1, "here"), (2, "there")] {
            let record = WorkspaceRecord {
                name: ws(w),
                created_at: now(),
                quota: None,
                allow: crate::model::Allowlist::default(),
                edited: None,
            };
            world.workspaces.insert(record.name.clone(), record);
            let record = InstanceRecord {
                id: id(n),
                name: InstanceName::parse("echo").unwrap(),
                workspace: ws(w),
                size: Size::Small,
                desired: crate::model::Desired::Running,
                generation: 1,
                spec_hash: String::new(),
                created_at: now(),
                env: BTreeMap::new(),
                marks: Marks::default(),
                spec: spec.clone(),
                failure: None,
                sourced: None,
                edited: None,
            };
            Arc::make_mut(&mut world.instances).insert(record.id.clone(), Arc::new(record));
        }
        let owner = MemberRecord::owner(name("admin"), now());
        Arc::make_mut(&mut world.members).put(owner);
        world
    }

    fn book(&self) -> Book<'_> {
        Book {
            instances: &self.instances,
            tokens: &self.tokens,
            members: &self.members,
            workspaces: &self.workspaces,
            teams: &self.teams,
            grants: &self.grants,
            now: now(),
            ..people_book(&self.catalog)
        }
    }

    fn signed(&self, by: Principal, action: Action) -> Signed<Action> {
        let access = Access {
            instances: self.instances.clone(),
            tokens: self.tokens.clone(),
            members: self.members.clone(),
            teams: self.teams.clone(),
            grants: self.grants.clone(),
            ..Access::default()
        };
        let known = Known {
            access: &access,
            now: now(),
        };
        sign(known, by, action).expect("permitted")
    }

    fn judge(&self, by: Principal, action: Action) -> Result<People, Refusal> {
        match admit(&self.book(), self.signed(by, action), id(9)) {
            Ok(Decision::People(people)) => Ok(*people),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal),
        }
    }

    /// As root asks.
    fn tried(&self, action: Action) -> Result<People, Refusal> {
        self.judge(Principal::root(), action)
    }

    fn done(&mut self, action: Action) -> People {
        let people = self.tried(action).unwrap();
        let members = Arc::make_mut(&mut self.members);
        people.gone_members.iter().for_each(|m| assert!(members.remove(m)));
        people.members.iter().for_each(|m| members.put(m.clone()));
        let teams = Arc::make_mut(&mut self.teams);
        people.gone_teams.iter().for_each(|t| assert!(teams.remove(t)));
        people.teams.iter().for_each(|t| teams.put(t.clone()));
        let grants = Arc::make_mut(&mut self.grants);
        let gone = people.gone_grants.iter();
        gone.for_each(|g| assert!(grants.remove(g).is_some()));
        for grant in &people.grants {
            grants.insert(grant.key.clone(), grant.clone());
        }
        let tokens = Arc::make_mut(&mut self.tokens);
        people.gone_tokens.iter().for_each(|t| assert!(tokens.remove(t)));
        people
    }

    fn add(&mut self, who: &str, role: Role, workspace: &str) {
        self.done(Action::AddMember {
            name: name(who),
            role,
            workspace: Some(ws(workspace)),
        });
    }

    fn token(&mut self, n: u8, of: &str) -> TokenId {
        let record = TokenRecord {
            id: TokenId::from_random([n; 12]),
            hash: [n; 32],
            subject: Subject::Member(name(of)),
            name: "t".into(),
            created_at: now(),
            expires_at: None,
            last_used_at: None,
            last_used_from: None,
            by: None,
            scope: TokenScope::All,
            edited: None,
        };
        let id = record.id.clone();
        Arc::make_mut(&mut self.tokens).put(record);
        id
    }
}

fn grant(to: Grantee, n: u8) -> Action {
    Action::AddGrant {
        to,
        instance: id(n),
        manage: false,
        until: None,
    }
}

fn add_team(text: &str) -> Action {
    let TeamId { workspace, name } = team(text);
    Action::AddTeam { workspace, name }
}

fn join(text: &str, who: &str) -> Action {
    let TeamId { workspace, name: team } = team(text);
    Action::JoinTeam {
        workspace,
        name: team,
        member: name(who),
    }
}

fn leave(who: &str, workspace: &str) -> Action {
    Action::LeaveWorkspace {
        member: name(who),
        workspace: ws(workspace),
    }
}

#[test]
fn an_owner_stays_who_is_let_in() {
    let mut world = World::new();
    let last = Refusal::LastOwner { member: name("admin") };
    let demote = || Action::SetRole {
        member: name("admin"),
        role: Role::Member,
        workspace: Some(ws("here")),
    };
    let admin = || name("admin");
    let all = || {
        [
            demote(),
            Action::DisableMember { name: admin() },
            Action::RemoveMember { name: admin() },
        ]
    };
    for action in all() {
        assert_eq!(world.tried(action), Err(last.clone()));
    }
    let owner = |who: &str| Action::AddMember {
        name: name(who),
        role: Role::Owner,
        workspace: None,
    };
    world.done(owner("ada"));
    world.done(Action::DisableMember { name: name("ada") });
    // One who is not let in does not count.
    for action in all() {
        assert_eq!(world.tried(action), Err(last.clone()));
    }
    world.done(Action::EnableMember { name: name("ada") });
    for action in all() {
        assert!(world.tried(action).is_ok());
    }
    world.done(demote());
    assert_eq!(world.members.get(&admin()).unwrap().role(), Role::Member);
    assert_eq!(
        world.tried(Action::AddMember {
            name: name("bob"),
            role: Role::Owner,
            workspace: Some(ws("here")),
        }),
        Err(Refusal::OwnerOfAll)
    );
    assert_eq!(
        world.tried(owner("ada")),
        Err(Refusal::MemberExists { member: name("ada") })
    );
}

#[test]
fn what_somebody_had_goes_with_them_and_no_more() {
    let mut world = World::new();
    for who in ["ada", "bob"] {
        world.add(who, Role::Member, "here");
    }
    world.done(Action::SetRole {
        member: name("ada"),
        role: Role::Admin,
        workspace: Some(ws("there")),
    });
    for text in ["here/eng", "there/ops"] {
        world.done(add_team(text));
        world.done(join(text, "ada"));
    }
    world.done(join("here/eng", "bob"));
    let ada = || Grantee::Member(name("ada"));
    for to in [ada(), Grantee::Team(team("here/eng"))] {
        world.done(grant(to, 1));
    }
    world.done(grant(ada(), 2));
    let token = world.token(1, "ada");
    world.token(2, "bob");

    // From one workspace.
    let left = world.tried(leave("ada", "here")).unwrap();
    assert_eq!(left.gone_grants, [(ada(), id(1))]);
    assert_eq!(left.teams.len(), 1);
    assert_eq!(left.teams[0].members, [name("bob")].into());
    let there = [(ws("there"), WorkspaceRole::Admin)];
    assert_eq!(left.members[0].workspaces, there.into_iter().collect());
    assert_eq!((left.narrowed, left.gone_tokens.len()), ([name("ada")].into(), 0));
    let bob_elsewhere = world.tried(leave("bob", "there"));
    assert!(matches!(bob_elsewhere, Err(Refusal::NotInWorkspace { .. })));
    // From the box; and disabled, they keep all but their tokens.
    let gone = world.tried(Action::RemoveMember { name: name("ada") }).unwrap();
    assert_eq!((gone.gone_grants.len(), gone.teams.len()), (2, 2));
    assert_eq!(
        (gone.gone_tokens, gone.gone_members),
        (vec![token.clone()], vec![name("ada")])
    );
    let disabled = world.done(Action::DisableMember { name: name("ada") });
    assert_eq!((disabled.gone_tokens, disabled.gone_grants.len()), (vec![token], 0));
    let again = world.done(Action::DisableMember { name: name("ada") });
    assert_eq!(again.members[0].disabled_at, disabled.members[0].disabled_at);
    // A team with what it was granted; a workspace with its teams and its members' part in it.
    let TeamId { workspace, name: eng } = team("here/eng");
    let gone = world.tried(Action::RemoveTeam { workspace, name: eng }).unwrap();
    assert_eq!(gone.gone_grants, [(Grantee::Team(team("here/eng")), id(1))]);
    assert_eq!(gone.narrowed, [name("ada"), name("bob")].into());
    Arc::make_mut(&mut world.instances).remove(&id(1));
    let gone = world.signed(Principal::root(), Action::RemoveWorkspace { name: ws("here") });
    let Ok(Decision::RemoveWorkspace(_, gone)) = admit(&world.book(), gone, id(9)) else {
        panic!("refused")
    };
    assert_eq!(gone.gone_teams, [team("here/eng")]);
    assert!(gone.members.iter().all(|m| !m.workspaces.contains_key(&ws("here"))));
    assert_eq!(gone.members.len(), 2);
}

#[test]
fn only_who_is_in_a_workspace_is_granted_what_is_in_it() {
    let mut world = World::new();
    world.add("boss", Role::Admin, "here");
    world.add("ada", Role::Member, "here");
    world.add("bob", Role::Member, "there");
    world.done(add_team("here/eng"));
    world.done(add_team("there/ops"));
    let member = |who: &str| Grantee::Member(name(who));
    let not_in = |who: &str| Refusal::NotInWorkspace {
        member: name(who),
        workspace: ws("here"),
    };
    assert_eq!(world.tried(grant(member("bob"), 1)), Err(not_in("bob")));
    assert_eq!(world.tried(join("here/eng", "bob")), Err(not_in("bob")));
    assert!(matches!(
        world.tried(grant(member("admin"), 1)),
        Err(Refusal::OwnerHasAll { .. })
    ));
    let ops = || Grantee::Team(team("there/ops"));
    assert!(matches!(
        world.tried(grant(ops(), 1)),
        Err(Refusal::TeamElsewhere { .. })
    ));
    // Whoever administers this workspace alone hears the same of somebody elsewhere as of nobody.
    let boss = || Principal::member(name("boss"), TokenId::from_random([7; 12]), &TokenScope::All);
    for who in ["bob", "admin", "nobody"] {
        let none = Err(Refusal::NoMember { member: name(who) });
        assert_eq!(world.judge(boss(), grant(member(who), 1)), none.clone());
        assert_eq!(world.judge(boss(), join("here/eng", who)), none);
    }
    let none = Err(Refusal::NoTeam {
        team: team("there/ops"),
    });
    assert_eq!(world.judge(boss(), grant(ops(), 1)), none);
    // A new grant takes nothing away; one in the place of another may.
    let made = world.done(grant(member("ada"), 1));
    assert_eq!(made.came, Came::Grant((member("ada"), id(1))));
    assert_eq!((made.narrowed, made.grants[0].level), (BTreeSet::new(), Level::Use));
    assert_eq!(
        world.tried(grant(member("ada"), 1)).unwrap().narrowed,
        [name("ada")].into()
    );
    let over = Action::AddGrant {
        to: member("ada"),
        instance: id(1),
        manage: true,
        until: Some(now()),
    };
    assert_eq!(world.tried(over), Err(Refusal::GrantOver));
    let ungrant = |to| Action::RemoveGrant { to, instance: id(1) };
    assert!(matches!(
        world.tried(ungrant(member("bob"))),
        Err(Refusal::NoGrant { .. })
    ));
    assert_eq!(world.done(ungrant(member("ada"))).narrowed, [name("ada")].into());
    assert!(world.grants.is_empty());
}

#[test]
fn what_others_made_for_somebody_who_was_less_opens_nothing_of_what_they_become() {
    let mut world = World::new();
    world.add("boss", Role::Admin, "here");
    world.add("bob", Role::Member, "here");
    let (own, bosss, owners) = (world.token(1, "bob"), world.token(2, "bob"), world.token(3, "bob"));
    let tokens = Arc::make_mut(&mut world.tokens);
    for (id, by) in [(&own, "bob"), (&bosss, "boss"), (&owners, "admin")] {
        let mut token = tokens.get(id).unwrap().clone();
        token.by = Some(by.into());
        tokens.put(token);
    }
    let role = |role, workspace: Option<&str>| Action::SetRole {
        member: name("bob"),
        role,
        workspace: workspace.map(ws),
    };
    for rise in [
        role(Role::Owner, None),
        role(Role::Admin, Some("here")),
        role(Role::Member, Some("there")),
    ] {
        assert_eq!(world.tried(rise).unwrap().gone_tokens, std::slice::from_ref(&bosss));
    }
    assert_eq!(world.tried(role(Role::Member, Some("here"))).unwrap().gone_tokens, []);
    // A token that reaches the API alone makes none that reaches further, by no way.
    let api = Principal::member(name("bob"), TokenId::from_random([8; 12]), &TokenScope::Api);
    let rotate = Action::RotateToken {
        id: own,
        overlap_s: None,
    };
    assert_eq!(
        admit(&world.book(), world.signed(api, rotate), id(9)),
        Err(Refusal::WiderScope)
    );
}

#[test]
fn nobody_waits_under_the_name_of_whoever_claims_the_box() {
    let mut world = World::new();
    for taken in ["root", "berth", "nobody", "admin"] {
        let add = Action::AddMember {
            name: name(taken),
            role: Role::Member,
            workspace: Some(ws("here")),
        };
        assert_eq!(world.tried(add), Err(Refusal::ReservedName { member: name(taken) }));
    }
    world.done(Action::AddMember {
        name: name("ada"),
        role: Role::Owner,
        workspace: None,
    });
    world.done(Action::SetRole {
        member: name("admin"),
        role: Role::Member,
        workspace: Some(ws("here")),
    });
    world.done(grant(Grantee::Member(name("admin")), 1));
    let token = world.token(1, "admin");
    let reset = world.done(Action::ResetAdmin);
    assert_eq!(reset.gone_members, [name("ada")]);
    let Ok(Decision::Claim { before, .. }) = admit(
        &world.book(),
        world.signed(
            Principal::root(),
            Action::Claim {
                name: None,
                account: None,
            },
        ),
        id(9),
    ) else {
        panic!("refused")
    };
    assert_eq!((before.gone_tokens, before.gone_grants.len()), (vec![token], 1));
}
