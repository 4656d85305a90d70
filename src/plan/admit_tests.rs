//! Admission against a model so simple that it is plainly right: names by workspace in a set, counts, and states.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
    time::Duration,
};

use proptest::prelude::*;

use super::admit::{Book, Decision, NewToken, admit};
use crate::{
    catalog::{Catalog, Egress, HealthContract, ImageRef, InstanceType, Mcp, Transport},
    model::{
        Action, BoxId, Desired, InstanceId, InstanceName, MemberName, Processes, Refusal, RunRequest, Secret, Size,
        Subject, TokenId, TokenScope, TypeName, WorkspaceLimits, WorkspaceName,
    },
    plan::{
        room::{self, Disk},
        spec::{BoxFacts, container_spec},
    },
    policy::Signed,
    record::{
        InstanceRecord, SignInRecord, Table, TokenRecord, WorkspaceRecord,
        tables::{Grants, Members, Teams, Tokens},
    },
};

pub(super) fn a_type(name: &str, image: &str) -> InstanceType {
    let image = ImageRef {
        reference: image.into(),
        digest: None,
    };
    let mcp = Mcp {
        max_sessions: 8,
        idle_timeout: Duration::from_secs(60),
        call_timeout: Duration::from_secs(60),
        ..Mcp::of(Transport::Stdio {
            command: vec!["x".into()],
            env: BTreeMap::new(),
            processes: Processes::Session,
        })
    };
    InstanceType {
        health: HealthContract {
            interval: Duration::from_secs(30),
            start_timeout: Duration::from_secs(30),
            ..HealthContract::default()
        },
        size: Size::Small,
        egress: Egress::Internet,
        volume: Some("/data".into()),
        ..InstanceType::of(TypeName::parse(name).unwrap(), image, mcp)
    }
}

/// As where the configuration says nothing.
const CONFIGURED: WorkspaceLimits = WorkspaceLimits {
    nano_cpus: None,
    memory: None,
    pids: None,
    disk: None,
    instances: None,
    calls_per_second: None,
    calls_at_once: None,
};

static NO_TOKENS: LazyLock<Tokens> = LazyLock::new(Tokens::default);
static NO_MEMBERS: LazyLock<Members> = LazyLock::new(Members::default);
static NO_TEAMS: LazyLock<Teams> = LazyLock::new(Teams::default);
static NO_GRANTS: LazyLock<Grants> = LazyLock::new(Grants::default);
static NO_SIGN_INS: LazyLock<Table<MemberName, SignInRecord>> = LazyLock::new(Table::default);
static IMAGES: LazyLock<[String; 1]> = LazyLock::new(|| ["berth/*".to_owned()]);
static ALLOW: LazyLock<crate::config::Allow> = LazyLock::new(Default::default);

/// A box with these instances and workspaces and nobody on it.
fn book<'a>(
    catalog: &'a Catalog,
    instances: &'a BTreeMap<InstanceId, Arc<InstanceRecord>>,
    workspaces: &'a BTreeMap<WorkspaceName, WorkspaceRecord>,
) -> Book<'a> {
    Book {
        instances,
        tokens: &NO_TOKENS,
        members: &NO_MEMBERS,
        workspaces,
        teams: &NO_TEAMS,
        grants: &NO_GRANTS,
        sign_ins: &NO_SIGN_INS,
        fixed_quotas: false,
        configured: &CONFIGURED,
        catalog,
        max_instances: 10,
        max_tokens_per_instance: 1,
        images: &*IMAGES,
        allow: &ALLOW,
        disk: None,
        install_bytes: 0,
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

/// A box without anything, for tests that put people on it.
pub(super) fn people_book(catalog: &Catalog) -> Book<'_> {
    static NONE: BTreeMap<InstanceId, Arc<InstanceRecord>> = BTreeMap::new();
    static NOWHERE: BTreeMap<WorkspaceName, WorkspaceRecord> = BTreeMap::new();
    book(catalog, &NONE, &NOWHERE)
}

/// `default` and one more.
fn workspaces() -> BTreeMap<WorkspaceName, WorkspaceRecord> {
    let names = [WorkspaceName::default(), WorkspaceName::parse("w").unwrap()];
    let record = |name: &WorkspaceName| WorkspaceRecord {
        name: name.clone(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        quota: None,
        allow: crate::model::Allowlist::default(),
        edited: None,
    };
    names.iter().map(|n| (n.clone(), record(n))).collect()
}

fn catalog() -> Catalog {
    let types = [a_type("echo", "berth/echo:1"), a_type("bad", "evil/x:1")];
    Catalog {
        types: types.into_iter().map(|t| (t.name.clone(), Arc::new(t))).collect(),
    }
}

fn id(n: usize) -> InstanceId {
    let mut bytes = [0; 10];
    bytes[9] = u8::try_from(n % 32).unwrap();
    bytes[8] = u8::try_from(n / 32 % 32).unwrap();
    InstanceId::from_random(bytes)
}

/// Actions name instances and tokens by their number in the order of making; some never existed.
#[derive(Debug, Clone)]
enum Try {
    Run {
        kind: &'static str,
        name: Option<&'static str>,
        workspace: Option<&'static str>,
    },
    Stop(usize),
    Start(usize),
    Recreate(usize),
    Remove(usize),
    /// What the reconciler does at the end of a removal.
    Forget(usize),
    CreateToken(usize),
    RevokeToken(usize),
}

fn any_try() -> impl Strategy<Value = Try> {
    let name = prop_oneof![Just(None), Just(Some("a")), Just(Some("echo")), Just(Some("echo-2"))];
    let workspace = prop_oneof![Just(None), Just(Some("default")), Just(Some("w")), Just(Some("gone"))];
    let kind = prop_oneof![8 => Just("echo"), 1 => Just("bad"), 1 => Just("nope")];
    prop_oneof![
        4 => (kind, name, workspace).prop_map(|(kind, name, workspace)| Try::Run { kind, name, workspace }),
        1 => (0usize..8).prop_map(Try::Stop),
        1 => (0usize..8).prop_map(Try::Start),
        1 => (0usize..8).prop_map(Try::Recreate),
        1 => (0usize..8).prop_map(Try::Remove),
        1 => (0usize..8).prop_map(Try::Forget),
        2 => (0usize..8).prop_map(Try::CreateToken),
        1 => (0usize..8).prop_map(Try::RevokeToken),
    ]
}

#[derive(Default)]
struct Model {
    names: BTreeMap<usize, (String, String)>,
    removing: BTreeSet<usize>,
    tokens: BTreeMap<usize, usize>,
    made: usize,
    tokens_made: usize,
}

const MAX: usize = 4;
const MAX_TOKENS: usize = 2;

impl Model {
    fn expect(&self, what: &Try) -> &'static str {
        let there = |n: &usize| match (self.names.contains_key(n), self.removing.contains(n)) {
            (false, _) => "none",
            (true, true) => "removing",
            (true, false) => "ok",
        };
        match what {
            Try::Run { kind: "nope", .. } => "no type",
            Try::Run { kind: "bad", .. } => "invalid",
            Try::Run { .. } if self.names.len() >= MAX => "full",
            Try::Run {
                workspace: Some("gone"),
                ..
            } => "no workspace",
            Try::Run {
                name: Some(name),
                workspace,
                ..
            } => {
                let wanted = (workspace.unwrap_or("default").to_owned(), (*name).to_owned());
                if self.names.values().any(|n| *n == wanted) {
                    "taken"
                } else {
                    "ok"
                }
            }
            Try::Run { .. } => "ok",
            Try::Stop(n) | Try::Start(n) | Try::Recreate(n) => there(n),
            Try::Remove(n) => {
                if there(n) == "none" {
                    "none"
                } else {
                    "ok"
                }
            }
            Try::Forget(_) => "ok",
            Try::CreateToken(n) => match there(n) {
                "ok" if self.tokens.values().filter(|i| *i == n).count() >= MAX_TOKENS => "full",
                other => other,
            },
            Try::RevokeToken(n) => {
                if self.tokens.contains_key(n) {
                    "ok"
                } else {
                    "no token"
                }
            }
        }
    }
}

fn word(result: &Result<Decision, Refusal>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Refusal::NoInstance { .. }) => "none",
        Err(Refusal::NoToken { .. }) => "no token",
        Err(Refusal::NoType { .. }) => "no type",
        Err(Refusal::NoWorkspace { .. }) => "no workspace",
        Err(Refusal::NameTaken { .. }) => "taken",
        Err(Refusal::Removing { .. }) => "removing",
        Err(Refusal::Full { .. }) => "full",
        Err(_) => "invalid",
    }
}

fn token_id(n: usize) -> TokenId {
    TokenId::from_random([u8::try_from(n % 32).unwrap(); 12])
}

/// As root on the box asks.
fn signed(action: Action) -> Signed<Action> {
    crate::policy::signed_by_root(action)
}

fn action(what: &Try) -> Option<Action> {
    Some(match what {
        Try::Run { kind, name, workspace } => Action::Run(Box::new(RunRequest {
            name: name.map(|n| InstanceName::parse(n).unwrap()),
            workspace: workspace.map(|w| WorkspaceName::parse(w).unwrap()),
            ..RunRequest::of(TypeName::parse(kind).unwrap())
        })),
        Try::Stop(n) => Action::Stop { id: id(*n) },
        Try::Start(n) => Action::Start { id: id(*n) },
        Try::Recreate(n) => Action::Recreate { id: id(*n) },
        Try::Remove(n) => Action::Remove { id: id(*n) },
        Try::CreateToken(n) => Action::CreateToken {
            subject: Subject::Instance(id(*n)),
            name: None,
            expires_at: None,
            never: false,
            scope: TokenScope::All,
        },
        Try::RevokeToken(n) => Action::RevokeToken { id: token_id(*n) },
        Try::Forget(_) => return None,
    })
}

proptest! {
    #[test]
    fn admission_agrees_with_the_model(tries in proptest::collection::vec(any_try(), 1..40)) {
        let catalog = catalog();
        let mut instances: BTreeMap<InstanceId, Arc<InstanceRecord>> = BTreeMap::new();
        let mut tokens = Tokens::default();
        let workspaces = workspaces();
        let mut model = Model::default();
        let now = jiff::Timestamp::from_second(1_790_000_000).unwrap();
        for what in tries {
            let Some(action) = action(&what) else {
                let Try::Forget(n) = what else { unreachable!() };
                if model.removing.remove(&n) {
                    instances.remove(&id(n));
                    tokens = tokens.iter().filter(|(_, t)| !t.subject.is_instance(&id(n))).map(|(k, t)| (k.clone(), t.clone())).collect();
                    model.names.remove(&n);
                    model.tokens.retain(|_, i| *i != n);
                }
                continue;
            };
            let book = Book {
                tokens: &tokens,
                max_instances: MAX,
                max_tokens_per_instance: MAX_TOKENS,
                now,
                ..book(&catalog, &instances, &workspaces)
            };
            let result = admit(&book, signed(action), id(model.made));
            prop_assert_eq!(word(&result), model.expect(&what), "{:?}: {:?}", what, result);
            match result {
                Ok(Decision::Run { record, .. }) => {
                    let named = (record.workspace.to_string(), record.name.to_string());
                    prop_assert!(!model.names.values().any(|n| *n == named), "{named:?} is unique");
                    model.names.insert(model.made, named);
                    model.made += 1;
                    instances.insert(record.id.clone(), Arc::new(*record));
                }
                Ok(Decision::Update(record)) => {
                    let before = &instances[&record.id];
                    let recreated = matches!(what, Try::Recreate(_));
                    prop_assert_eq!(before.spec_hash != record.spec_hash, recreated);
                    if let (Try::Remove(n), Desired::Removed) = (&what, record.desired) {
                        model.removing.insert(*n);
                    }
                    instances.insert(record.id.clone(), Arc::new(*record));
                }
                Ok(Decision::CreateToken(NewToken { subject, name, expires_at, scope })) => {
                    let Try::CreateToken(n) = what else { unreachable!() };
                    let t = TokenRecord {
                        id: token_id(model.tokens_made), hash: [0; 32], subject, name: name.into(), created_at: now, expires_at,
                        last_used_at: None, last_used_from: None, by: None, scope,
                        edited: None,
                    };
                    // Ids come around after 32; the model does not care for more.
                    prop_assume!(model.tokens_made < 32);
                    model.tokens.insert(model.tokens_made, n);
                    model.tokens_made += 1;
                    tokens.put(t);
                }
                Ok(Decision::RevokeToken(t)) => {
                    tokens.remove(&t);
                    model.tokens.retain(|n, _| token_id(*n) != t);
                }
                Ok(Decision::Claim { .. } | Decision::People(_) | Decision::Workspace(_) | Decision::RemoveWorkspace(..) | Decision::RotateToken { .. } | Decision::SignInLink { .. }) => {
                    unreachable!("not tried here")
                }
                Ok(Decision::Already(_) | Decision::Credential { .. }) | Err(_) => {}
            }
        }
    }
}

#[test]
fn bad_environments_are_refused_without_quoting_values() {
    let catalog = catalog();
    let (instances, workspaces) = (BTreeMap::new(), workspaces());
    let book = Book {
        max_instances: 1,
        ..book(&catalog, &instances, &workspaces)
    };
    let long = "hunter2".repeat(10_000);
    for (name, value, code) in [
        ("1A", "hunter2", "bad-variable"),
        ("BERTH_X", "hunter2", "bad-variable"),
        ("A", "hunter2\0", "value-holds-nul"),
        ("A", long.as_str(), "value-too-long"),
        ("", "hunter2", "bad-variable"),
    ] {
        let request = RunRequest {
            env: [(name.to_owned(), Secret::new(value))].into(),
            ..RunRequest::of(TypeName::parse("echo").unwrap())
        };
        let refusal = admit(&book, signed(Action::Run(Box::new(request))), id(0)).unwrap_err();
        assert_eq!(refusal.code(), code, "{refusal:?}");
        assert!(!refusal.to_string().contains("hunter2"));
    }
}

/// What every container gets, as text: a change of the sandbox shows here.
#[test]
fn a_container_as_text() {
    let t = a_type("echo", "berth/echo:1");
    let record = InstanceRecord {
        id: id(0),
        name: InstanceName::parse("echo").unwrap(),
        workspace: WorkspaceName::parse("team-a").unwrap(),
        size: Size::Xlarge,
        desired: Desired::Running,
        generation: 1,
        spec_hash: "5f".into(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        env: [("API_KEY".to_owned(), crate::record::Sealed(vec![1]))].into(),
        marks: crate::record::Marks::default(),
        spec: Arc::new(t),
        failure: None,
        sourced: None,
        edited: None,
    };
    let facts = BoxFacts {
        box_id: BoxId::from_random([0xab; 8]),
        agent: "/usr/bin/berth".into(),
        systemd_cgroups: true,
        cpus: 1,
        memory: 4 << 30,
        volume_sizes: true,
        layer_sizes: true,
    };
    let quota = crate::plan::quota::WorkspaceLimits::default().on(facts.cpus, facts.memory);
    let spec = container_spec(&record, &facts, &quota, "/run/berth/i/aaaaaaaaaa".into());
    let text = serde_json::to_string_pretty(&spec).unwrap() + "\n";
    assert_eq!(text, include_str!("../../tests/cases/plan/container.json"));
}

#[test]
fn a_box_is_claimed_once_and_members_have_tokens_then() {
    let catalog = catalog();
    let (instances, workspaces) = (BTreeMap::new(), workspaces());
    let book = |members| Book {
        members,
        max_instances: 1,
        ..book(&catalog, &instances, &workspaces)
    };
    let create = |name: &str| Action::CreateToken {
        subject: Subject::Member(MemberName::parse(name).unwrap()),
        name: None,
        expires_at: None,
        never: false,
        scope: TokenScope::All,
    };
    let claim = || Action::Claim {
        name: Some("laptop".into()),
        account: None,
    };
    let nobody = Members::default();
    assert_eq!(
        admit(&book(&nobody), signed(create("admin")), id(0)),
        Err(Refusal::Unclaimed)
    );
    let Ok(Decision::Claim { member, token, .. }) = admit(&book(&nobody), signed(claim()), id(0)) else {
        panic!("refused")
    };
    let token = token.unwrap();
    let in_90_days = jiff::Timestamp::from_second(90 * 86_400).ok();
    assert_eq!(token.expires_at, in_90_days, "nobody said when it ends");
    assert_eq!((member.name.as_str(), token.name.as_str()), ("admin", "laptop"));
    let members: Members = [(member.name.clone(), member)].into_iter().collect();
    assert_eq!(admit(&book(&members), signed(claim()), id(0)), Err(Refusal::Claimed));
    let end = |action| match admit(&book(&members), signed(action), id(0)) {
        Ok(Decision::CreateToken(new)) => Ok(new.expires_at),
        Ok(_) => panic!("no token"),
        Err(e) => Err(e),
    };
    assert_eq!(end(create("admin")), Ok(in_90_days));
    let said = |at, forever| match create("admin") {
        Action::CreateToken { subject, name, .. } => Action::CreateToken {
            subject,
            name,
            expires_at: at,
            never: forever,
            scope: TokenScope::All,
        },
        other => other,
    };
    assert_eq!(end(said(None, true)), Ok(None));
    let hour = jiff::Timestamp::from_second(3600).ok();
    assert_eq!(end(said(hour, false)), Ok(hour));
    assert!(matches!(end(said(hour, true)), Err(Refusal::ExpiresAndNever)));
    assert!(matches!(
        admit(&book(&members), signed(create("other")), id(0)),
        Err(Refusal::NoMember { .. })
    ));
    let reset = admit(&book(&members), signed(Action::ResetAdmin), id(0));
    assert!(matches!(reset, Ok(Decision::People(p)) if p.gone_members == [MemberName::admin()]));
}

/// Instances within their own bounds would fill the disk together: what was promised to all of them must fit it.
#[test]
fn no_more_is_promised_than_the_disk_holds() {
    let catalog = catalog();
    let allowed = |t: &&Arc<InstanceType>| t.image.reference.starts_with("berth/");
    let kind = catalog.types.values().find(allowed).unwrap().name.clone();
    let small = u64::try_from(Size::Small.limits().volume).unwrap();
    // What is free and in volumes, but for a tenth: room for three small volumes with what lies beside them.
    let disk = |free: u64, volumes: u64| Disk {
        size: 20 << 30,
        free: free + (2 << 30),
        volumes,
    };
    let workspaces = workspaces();
    let admit_on = |disk, instances: &BTreeMap<InstanceId, Arc<InstanceRecord>>, action, fresh| {
        let book = Book {
            disk: Some(disk),
            install_bytes: 1 << 30,
            ..book(&catalog, instances, &workspaces)
        };
        admit(&book, signed(action), id(fresh))
    };
    let run = || Action::Run(Box::new(RunRequest::of(kind.clone())));
    let mut instances = BTreeMap::new();
    let all = 3 * (small + (16 << 20));
    for n in 0..3 {
        // How much of the promised is in the volumes already makes no difference.
        let used = n as u64 * small / 2;
        match admit_on(disk(all - used, used), &instances, run(), n) {
            Ok(Decision::Run { record, .. }) => drop(instances.insert(id(n), Arc::new(*record))),
            other => panic!("{n}: {other:?}"),
        }
    }
    let Err(refused) = admit_on(disk(all - 2 * small, 2 * small), &instances, run(), 3) else {
        panic!("a fourth was admitted");
    };
    let mib = |bytes: u64| bytes >> 20;
    let numbers = Refusal::NoRoom {
        wanted: mib(small) + 16,
        promised: mib(all),
        room: mib(all),
    };
    assert_eq!(refused, numbers);
    assert!(refused.to_string().contains("remove an instance"));
    // A disk that something else has filled: what is there can be stopped, started and removed, and nothing can be added.
    let full = disk(0, 0);
    for action in [
        Action::Stop { id: id(0) },
        Action::Start { id: id(0) },
        Action::Recreate { id: id(0) },
        Action::Remove { id: id(0) },
    ] {
        assert!(admit_on(full, &instances, action.clone(), 3).is_ok(), "{action:?}");
    }
    assert!(admit_on(full, &instances, run(), 3).is_err());
}

#[test]
fn a_workspace_runs_as_many_instances_as_its_quota_says() {
    let catalog = catalog();
    let allowed = |t: &&Arc<InstanceType>| t.image.reference.starts_with("berth/");
    let kind = catalog.types.values().find(allowed).unwrap().name.clone();
    let mut instances: BTreeMap<InstanceId, Arc<InstanceRecord>> = BTreeMap::new();
    let mut workspaces = workspaces();
    let w = WorkspaceName::parse("w").unwrap();
    let quota = |n| {
        Some(WorkspaceLimits {
            instances: Some(n),
            ..CONFIGURED
        })
    };
    let judge = |instances: &BTreeMap<_, _>, workspaces: &BTreeMap<_, _>, action, fresh| {
        admit(&book(&catalog, instances, workspaces), signed(action), id(fresh))
    };
    let run = |workspace: &WorkspaceName| {
        Action::Run(Box::new(RunRequest {
            workspace: Some(workspace.clone()),
            ..RunRequest::of(kind.clone())
        }))
    };
    let set = |quota| Action::SetQuota {
        workspace: w.clone(),
        quota,
    };
    let Ok(Decision::Workspace(record)) = judge(&instances, &workspaces, set(quota(1)), 0) else {
        panic!("it is set");
    };
    workspaces.insert(w.clone(), record);
    for n in 0..3 {
        // The quota is of `w` alone.
        let at = if n == 0 { w.clone() } else { WorkspaceName::default() };
        let Ok(Decision::Run { record, .. }) = judge(&instances, &workspaces, run(&at), n) else {
            panic!("{n} is run");
        };
        instances.insert(record.id.clone(), Arc::new(*record));
    }
    let full = Refusal::WorkspaceFull {
        workspace: w.clone(),
        running: 1,
        limit: 1,
    };
    assert_eq!(judge(&instances, &workspaces, run(&w), 3), Err(full.clone()));
    // What they may write is bounded as well; what is there goes on, whatever the quota is.
    let written = room::promised(&instances[&id(0)], 0);
    let disk = |bytes: u64| {
        Some(WorkspaceLimits {
            disk: i64::try_from(bytes).ok(),
            ..CONFIGURED
        })
    };
    workspaces.get_mut(&w).unwrap().quota = disk(2 * written - 1);
    let mib = |bytes: u64| bytes >> 20;
    let refused = judge(&instances, &workspaces, run(&w), 3).unwrap_err();
    assert_eq!(
        refused,
        Refusal::WorkspaceDisk {
            workspace: w.clone(),
            wanted: mib(written),
            promised: mib(written),
            limit: mib(2 * written - 1),
        }
    );
    let fits = format!("{} MiB would fit", mib(2 * written - 1) - mib(written));
    assert!(refused.to_string().contains(&fits), "{refused}");
    workspaces.get_mut(&w).unwrap().quota = disk(2 * written);
    assert!(judge(&instances, &workspaces, run(&w), 3).is_ok());
    workspaces.get_mut(&w).unwrap().quota = disk(64 << 20);
    assert!(judge(&instances, &workspaces, Action::Recreate { id: id(0) }, 3).is_ok());
    // What runs is recreated also beyond the quota; stopped or failed, it makes room for another and finds none itself.
    workspaces.get_mut(&w).unwrap().quota = quota(0);
    assert!(judge(&instances, &workspaces, Action::Recreate { id: id(0) }, 3).is_ok());
    workspaces.get_mut(&w).unwrap().quota = quota(1);
    for stop in [true, false] {
        let mut record = (*instances[&id(0)]).clone();
        if stop {
            record.desired = Desired::Stopped;
        } else {
            (record.desired, record.failure) = (Desired::Running, Some("x".into()));
        }
        instances.insert(id(0), Arc::new(record));
        let mut more = instances.clone();
        let Ok(Decision::Run { record, .. }) = judge(&more, &workspaces, run(&w), 3) else {
            panic!("there is room");
        };
        more.insert(record.id.clone(), Arc::new(*record));
        for action in [Action::Start { id: id(0) }, Action::Recreate { id: id(0) }] {
            assert_eq!(judge(&more, &workspaces, action, 4), Err(full.clone()));
        }
    }
    // It goes when nothing is in it; `default` stays.
    let rm = |name: &WorkspaceName| Action::RemoveWorkspace { name: name.clone() };
    let in_use = judge(&instances, &workspaces, rm(&w), 4);
    assert!(matches!(in_use, Err(Refusal::WorkspaceInUse { instances, .. }) if instances == [id(0)]));
    instances.remove(&id(0));
    let gone = judge(&instances, &workspaces, rm(&w), 4);
    assert!(matches!(gone, Ok(Decision::RemoveWorkspace(name, _)) if name == w));
    let default = WorkspaceName::default();
    assert_eq!(
        judge(&instances, &workspaces, rm(&default), 4),
        Err(Refusal::WorkspaceStays { name: default })
    );
    let add = |name: &str, quota| Action::AddWorkspace {
        allow: crate::model::Allowlist::default(),
        name: WorkspaceName::parse(name).unwrap(),
        quota,
    };
    let refused = judge(&instances, &workspaces, add("w", None), 4);
    assert_eq!(refused, Err(Refusal::WorkspaceExists { name: w.clone() }));
    assert!(judge(&instances, &workspaces, add("v", quota(20)), 4).is_ok());
    let negative = Some(WorkspaceLimits {
        memory: Some(-1),
        ..CONFIGURED
    });
    assert!(matches!(
        judge(&instances, &workspaces, add("v", negative), 4),
        Err(Refusal::BadQuota { what, .. }) if what == "memory_bytes"
    ));
    let little = Some(WorkspaceLimits {
        nano_cpus: Some(10_000_000),
        ..CONFIGURED
    });
    let bounds = ("cpus".to_owned(), "0.1".to_owned(), "1024".to_owned());
    assert!(matches!(
        judge(&instances, &workspaces, add("v", little), 4),
        Err(Refusal::BadQuota { what, least, most }) if (&what, &least, &most) == (&bounds.0, &bounds.1, &bounds.2)
    ));
    // Where systemd does not let the supervisor set what the kernel holds, only the number of instances can be set.
    let fixed = Book {
        fixed_quotas: true,
        ..book(&catalog, &instances, &workspaces)
    };
    let memory = Some(WorkspaceLimits {
        memory: Some(1 << 30),
        ..CONFIGURED
    });
    let refused = admit(&fixed, signed(set(memory)), id(4));
    assert_eq!(refused, Err(Refusal::QuotaOfTheBox));
    assert!(admit(&fixed, signed(set(quota(2))), id(4)).is_ok());
}
