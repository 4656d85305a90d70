//! The ledger with a real store, whose disk can be held up and can fail, and a reconciler that shows what it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Condvar, Mutex},
};

use super::*;
use crate::{
    load,
    model::{
        AuditKind, AuditOutcome, AuditRow, Desired, Endpoint, Endpoints, Health, InstanceView, MemberName,
        PackageSource, Principal, Resolved, RunRequest, Source, State, Subject, TokenId, TokenScope, TypeName,
    },
    plan::exchange::Asked,
    policy,
    record::{InstanceRecord, TokenRecord},
    store::{Change, Store, StoreError},
    versions::Versioned,
};

/// What was told of acts, in their order: kind, action, on what, outcome.
#[derive(Default)]
struct Told(Mutex<Vec<AuditRow<'static>>>);

impl Journal for Told {
    fn append(&self, row: &AuditRow<'_>) {
        let text = serde_json::to_string(row).unwrap();
        self.0.lock().unwrap().push(serde_json::from_str(&text).unwrap());
    }
}

/// What the disk does, and did.
#[derive(Default)]
struct Disk {
    /// Commits are held up while it is true.
    held: Mutex<bool>,
    released: Condvar,
    /// By commit: how many changes it had.
    commits: Mutex<Vec<usize>>,
    /// Nothing is kept any more.
    full: Mutex<bool>,
}

impl Disk {
    fn hold(&self) {
        *self.held.lock().unwrap() = true;
    }

    fn release(&self) {
        *self.held.lock().unwrap() = false;
        self.released.notify_all();
    }

    fn commits(&self) -> usize {
        self.commits.lock().unwrap().len()
    }
}

struct OnDisk(Store, Arc<Disk>);

impl Storage for OnDisk {
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.1.commits.lock().unwrap().push(changes.len());
        let held = self.1.held.lock().unwrap();
        drop(self.1.released.wait_while(held, |held| *held).unwrap());
        let named = |c: &Change, name: &str| matches!(c, Change::PutInstance(r) if r.name.as_str() == name);
        if changes.iter().any(|c| named(c, "too-large")) {
            return Err(StoreError::Row {
                table: "instances",
                key: "x".to_owned(),
                why: "too many bytes".to_owned(),
            });
        }
        if *self.1.full.lock().unwrap() {
            return Err(StoreError::File {
                what: "write",
                path: "/x".into(),
                source: std::io::ErrorKind::StorageFull.into(),
            });
        }
        self.0.commit(changes)
    }
}

#[derive(Default)]
struct Table(
    Mutex<BTreeSet<TokenId>>,
    Mutex<Vec<TokenId>>,
    Mutex<Vec<MemberName>>,
    Mutex<Vec<MemberName>>,
);

impl Tokens for Table {
    fn mint(&self, _: &Subject) -> Result<(Secret, [u8; 32]), NoRandom> {
        Ok((Secret::new("brt_i_x"), [7; 32]))
    }
    fn insert(&self, t: &TokenRecord, _: Principal) {
        self.0.lock().unwrap().insert(t.id.clone());
    }
    fn remove(&self, id: &TokenId) -> Cut {
        self.0.lock().unwrap().remove(id);
        Cut::default()
    }
    fn remove_instance(&self, _: &InstanceId) {}
    fn shorten(&self, _: &TokenId, _: jiff::Timestamp) {}
    fn end(&self, id: &TokenId) {
        self.1.lock().unwrap().push(id.clone());
    }
    fn narrow(&self, members: &BTreeSet<MemberName>, _: &Access) -> Cut {
        self.2.lock().unwrap().extend(members.iter().cloned());
        Cut::default()
    }
    fn sign_out(&self, member: &MemberName) -> Cut {
        self.3.lock().unwrap().push(member.clone());
        Cut::default()
    }
    fn last_use(&self, _: &TokenId) -> Option<LastUse> {
        None
    }
    fn used(&self, _: &TokenId, _: &InstanceId) -> Option<i64> {
        None
    }
    fn uses(&self) -> Vec<InstanceUse> {
        Vec::new()
    }
}

fn view(r: &InstanceRecord) -> InstanceView {
    let none = || Endpoint {
        url: String::new(),
        path_url: String::new(),
    };
    InstanceView {
        id: r.id.clone(),
        name: r.name.clone(),
        type_name: r.type_name().clone(),
        workspace: r.workspace.clone(),
        size: r.size,
        state: State::Pending,
        health: Health::Unknown,
        image: String::new(),
        created_at: r.created_at,
        etag: r.etag(),
        endpoints: Endpoints {
            mcp: none(),
            screen: None,
        },
        reason: None,
        restarts: 0,
        oom_kills: 0,
        package: None,
        token: None,
    }
}

/// A reconciler that does nothing but show what shall be, as often as it may.
async fn show_all(mut desired: watch::Receiver<DesiredState>, show: Arc<watch::Sender<Shown>>) {
    loop {
        let now = desired.borrow_and_update().clone();
        let views = now.instances.values().map(|r| (r.id.clone(), view(r))).collect();
        show.send_replace(Shown {
            version: now.version,
            views: Arc::new(views),
            disk: None,
            fixed_quotas: false,
        });
        if desired.changed().await.is_err() {
            return;
        }
    }
}

struct Bench {
    ledger: Handle,
    disk: Arc<Disk>,
    table: Arc<Table>,
    told: Arc<Told>,
    show: Arc<watch::Sender<Shown>>,
    task: JoinHandle<()>,
    dir: tempfile::TempDir,
}

fn open(dir: &tempfile::TempDir) -> Result<Store, StoreError> {
    Store::open(dir.path(), &BoxId::from_random([1; 8]))
}

/// A ledger whose changes nobody takes up.
fn start_alone() -> Bench {
    start_in(tempfile::tempdir().unwrap())
}

/// The same on what is in a folder.
fn start_in(dir: tempfile::TempDir) -> Bench {
    let mut store = open(&dir).unwrap();
    let (disk, table, told) = (
        Arc::new(Disk::default()),
        Arc::new(Table::default()),
        Arc::new(Told::default()),
    );
    let (show, shown) = watch::channel(Shown::default());
    let mut types = load::types(&Path::new(env!("CARGO_MANIFEST_DIR")).join("instance-types")).unwrap();
    // Of use before a run only, and not kept with one.
    for t in types.types.values_mut() {
        Arc::make_mut(t).import = Default::default();
    }
    let (ledger, task) = spawn(Deps {
        loaded: store.load().unwrap(),
        box_id: store.box_id().clone(),
        storage: Box::new(OnDisk(store, disk.clone())),
        key: Arc::new(BoxKey::load_or_create(&dir.path().join("keys")).unwrap()),
        tokens: table.clone(),
        journal: told.clone(),
        catalog: Arc::new(ArcSwap::from_pointee(types)),
        images: vec!["berth/*".to_owned()],
        allow: Allow::default(),
        max_instances: 100,
        max_tokens_per_instance: 2,
        install_bytes: 0,
        workspace: WorkspaceLimits::default(),
        removed: dir.path().join("removed"),
        shown,
    })
    .unwrap();
    Bench {
        ledger,
        disk,
        table,
        told,
        show: Arc::new(show),
        task,
        dir,
    }
}

fn start() -> Bench {
    let bench = start_alone();
    tokio::spawn(show_all(bench.ledger.desired(), bench.show.clone()));
    bench
}

fn run(type_name: &str) -> RunRequest {
    RunRequest::of(TypeName::parse(type_name).unwrap())
}

/// Each act is told before it is durable, with what it changes and without what is secret; one that fails is told once more.
#[tokio::test]
async fn acts_are_told_before_they_are_done() {
    let bench = start();
    bench.disk.hold();
    let mut request = run("github");
    request.env = BTreeMap::from([(
        "GITHUB_PERSONAL_ACCESS_TOKEN".to_owned(),
        Secret::new(format!("ghp_{}", "s3cr3t".repeat(6))),
    )]);
    let acting = bench.act(Action::Run(Box::new(request)));
    let waited = async {
        while bench.disk.commits() == 0 {
            tokio::task::yield_now().await;
        }
        let told = bench.told.0.lock().unwrap().clone();
        bench.disk.release();
        told
    };
    let (done, told) = tokio::join!(acting, waited);
    let Outcome::Instance(made) = done.unwrap() else {
        panic!("no instance")
    };
    let [row] = &told[..] else { panic!("{told:?}") };
    assert_eq!(
        (row.kind, row.outcome, row.by.as_deref()),
        (AuditKind::Act, AuditOutcome::Ok, Some("root"))
    );
    assert_eq!(
        (row.action.as_deref(), row.on.as_deref()),
        (Some("run"), Some("workspace default"))
    );
    let text = serde_json::to_string(row).unwrap();
    assert!(
        text.contains("credential GITHUB_PERSONAL_ACCESS_TOKEN: set") && !text.contains("s3cr3t"),
        "{text}"
    );
    bench.act(Action::Stop { id: made.id.clone() }).await.unwrap();
    let stopped = bench.told.0.lock().unwrap().pop().unwrap();
    let [change] = &stopped.changes[..] else {
        panic!("{stopped:?}")
    };
    assert_eq!(
        (change.field.as_deref(), change.from.as_deref(), change.to.as_deref()),
        (Some("desired"), Some("running"), Some("stopped"))
    );
    assert_eq!(stopped.instance.as_deref(), Some(made.id.as_str()));
    let refused = bench
        .act(Action::Stop {
            id: InstanceId::from_random([9; 10]),
        })
        .await
        .unwrap_err();
    let row = bench.told.0.lock().unwrap().pop().unwrap();
    assert_eq!(
        (row.kind, row.outcome, row.code.as_deref()),
        (AuditKind::Refusal, AuditOutcome::Refused, Some(refused.code()))
    );
    *bench.disk.full.lock().unwrap() = true;
    bench.act(Action::Start { id: made.id.clone() }).await.unwrap_err();
    let told = bench.told.0.lock().unwrap().clone();
    let [.., before, after] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(
        (before.outcome, after.outcome),
        (AuditOutcome::Ok, AuditOutcome::Failed)
    );
    assert_eq!((after.kind, after.code.as_deref()), (AuditKind::Act, Some("store")));
}

fn named(name: &str) -> Action {
    Action::Run(Box::new(RunRequest {
        name: Some(name.parse().unwrap()),
        ..run("time")
    }))
}

impl Bench {
    async fn act(&self, action: Action) -> Result<Outcome, Refusal> {
        self.ledger.submit(policy::signed_by_root(action)).await
    }

    async fn made(&self, action: Action) -> InstanceView {
        match self.act(action).await.unwrap() {
            Outcome::Instance(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    /// Asks without waiting, and in this order.
    async fn asks(&self, actions: Vec<Action>) -> Vec<oneshot::Receiver<Result<Kept, Refusal>>> {
        self.asks_as(&Principal::root(), actions).await
    }

    async fn asks_as(&self, by: &Principal, actions: Vec<Action>) -> Vec<oneshot::Receiver<Result<Kept, Refusal>>> {
        let mut answers = Vec::new();
        for action in actions {
            let (reply, answer) = oneshot::channel();
            let signed = self.ledger.sign(by.clone(), action).unwrap();
            let request = Request::Act(Box::new(signed.into()), reply);
            self.ledger.requests.send(request).await.expect("it runs");
            answers.push(answer);
        }
        answers
    }

    /// Holds the disk up with a commit of its own, asks, and lets it go on.
    async fn asks_at_once(&self, actions: Vec<Action>) -> Vec<Result<Kept, Refusal>> {
        self.disk.hold();
        let before = self.disk.commits();
        let first = self.asks(vec![named("first")]).await;
        until(|| self.disk.commits() > before).await;
        let asked = self.asks(actions).await;
        self.disk.release();
        let mut answers = Vec::new();
        for answer in first.into_iter().chain(asked) {
            answers.push(answer.await.unwrap());
        }
        answers.remove(0).unwrap();
        answers
    }

    fn record(&self, id: &InstanceId) -> Arc<InstanceRecord> {
        self.ledger.desired().borrow().instances[id].clone()
    }

    fn names(&self) -> Vec<String> {
        let desired = self.ledger.desired();
        let names = desired
            .borrow()
            .instances
            .values()
            .map(|r| r.name.to_string())
            .collect::<BTreeSet<_>>();
        names.into_iter().collect()
    }

    /// What is on the disk of a box whose supervisor is killed now.
    async fn killed(self) -> Loaded {
        self.task.abort();
        let _ = self.task.await;
        drop(self.ledger);
        open_again(&self.dir).await.load().unwrap()
    }
}

/// The store's thread ends after the task, and until then the store is in use.
async fn open_again(dir: &tempfile::TempDir) -> Store {
    let opened = async {
        loop {
            match open(dir) {
                Ok(store) => return store,
                Err(StoreError::InUse(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(e) => panic!("{e}"),
            }
        }
    };
    timeout(Duration::from_secs(20), opened).await.expect("free again")
}

async fn until(f: impl Fn() -> bool) {
    let reached = async {
        while !f() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(20), reached).await.expect("reached");
}

fn npx(version: &str) -> Source {
    Source::Npx(PackageSource {
        package: "@s/x".into(),
        version: Some(version.to_owned()),
        bin: None,
        args: vec![],
    })
}

fn resolved(version: &str) -> Box<Resolved> {
    Box::new(Resolved {
        image: format!("berth/built:{version}"),
        image_id: format!("sha256:{version}"),
        lock: "l".into(),
        command: vec!["/opt/mcp/x".into()],
        tree: Vec::new().into(),
        version: version.to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_what_a_killed_supervisor_leaves() {
    let bench = start();
    let a = bench.made(named("a")).await.id;
    let b = bench.made(named("b")).await.id;
    let c = bench.made(named("c")).await.id;
    let token = |id: &InstanceId| Action::CreateToken {
        subject: Subject::Instance(id.clone()),
        name: None,
        expires_at: None,
        never: false,
        scope: TokenScope::All,
    };
    let Ok(Outcome::Token(second)) = bench.act(token(&a)).await else {
        panic!("a token")
    };
    bench.act(token(&b)).await.unwrap();
    bench
        .act(Action::RevokeToken {
            id: second.view.id.clone(),
        })
        .await
        .unwrap();
    bench
        .act(Action::Claim {
            name: None,
            account: None,
        })
        .await
        .unwrap();
    bench.act(Action::Stop { id: a.clone() }).await.unwrap();
    bench
        .act(Action::SetCredential {
            id: b.clone(),
            key: "KEY".to_owned(),
            value: Secret::new("hunter2"),
        })
        .await
        .unwrap();
    let asked = Asked::of(&bench.record(&b));
    let why = "it died".to_owned();
    bench
        .ledger
        .report(Report::GivenUp {
            id: b.clone(),
            asked,
            why,
        })
        .await
        .unwrap();
    bench.act(Action::Remove { id: c.clone() }).await.unwrap();
    bench.ledger.report(Report::Gone { id: c.clone() }).await.unwrap();
    assert_eq!(
        bench.act(Action::Stop { id: c.clone() }).await,
        Err(Refusal::no_instance(c))
    );

    let (desired, tokens) = (bench.ledger.desired().borrow().clone(), bench.ledger.tokens());
    assert!(desired.claimed);
    assert_eq!(desired.instances[&b].failure.as_deref(), Some("it died"));
    let open: Vec<TokenId> = bench.table.0.lock().unwrap().iter().cloned().collect();
    let on_disk = bench.killed().await;
    let instances: BTreeMap<_, _> = desired
        .instances
        .iter()
        .map(|(id, r)| (id.clone(), (**r).clone()))
        .collect();
    assert_eq!(on_disk.instances, instances);
    assert_eq!(
        on_disk.instances.keys().cloned().collect::<BTreeSet<_>>(),
        [a, b].into()
    );
    assert_eq!(on_disk.workspaces, *desired.workspaces);
    assert!(on_disk.members.contains_key(&MemberName::admin()));
    let ids: Vec<TokenId> = on_disk.tokens.into_keys().collect();
    assert_eq!(ids, tokens.into_iter().map(|t| t.id).collect::<Vec<_>>());
    // The fake table keeps what goes with an instance.
    assert!(
        ids.iter().all(|id| open.contains(id)) && !ids.contains(&second.view.id) && ids.len() == 4,
        "{ids:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_the_disk_is_committed_together_and_answered_each() {
    let bench = start();
    let names: Vec<String> = (0..50).map(|n| format!("n{n}")).collect();
    let mut actions: Vec<Action> = names.iter().map(|n| named(n)).collect();
    // Each is admitted by what those before it make of the books.
    actions.push(named("n7"));
    let mut answers = bench.asks_at_once(actions).await;
    assert_eq!(
        bench.disk.commits.lock().unwrap().len(),
        2,
        "one in flight, and one for all the rest"
    );
    let refused = answers.pop().unwrap();
    assert!(matches!(refused, Err(Refusal::NameTaken { .. })), "{refused:?}");
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(bench.names().len(), 51);
    assert_eq!(bench.killed().await.instances.len(), 51);
}

/// It was valid at the door, and something else was on its way to the disk.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_with_a_token_that_is_revoked_meanwhile_is_refused() {
    let bench = start();
    let Ok(Outcome::Token(made)) = bench
        .act(Action::Claim {
            name: None,
            account: None,
        })
        .await
    else {
        panic!("not claimed");
    };
    let token = made.view.id;
    let admin = Principal::member(MemberName::admin(), token.clone(), &TokenScope::All);
    let before = bench.disk.commits();
    bench.disk.hold();
    let mut answers = bench.asks(vec![Action::RevokeToken { id: token }]).await;
    until(|| bench.disk.commits() > before).await;
    answers.extend(bench.asks_as(&admin, vec![named("late")]).await);
    bench.disk.release();
    let mut came = Vec::new();
    for answer in answers {
        came.push(answer.await.unwrap());
    }
    assert!(came[0].is_ok(), "{came:?}");
    assert!(matches!(came[1], Err(Refusal::NotPermitted)), "{came:?}");
    assert!(bench.names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_answered_or_let_in_before_it_is_durable() {
    let bench = start();
    bench.disk.hold();
    let mut answers = bench.asks(vec![named("a")]).await;
    until(|| bench.disk.commits() == 1).await;
    assert!(bench.names().is_empty());
    assert!(bench.table.0.lock().unwrap().is_empty());
    assert!(answers[0].try_recv().is_err());
    bench.disk.release();
    answers.remove(0).await.unwrap().unwrap();
    assert_eq!(bench.names(), ["a"]);
    assert_eq!(bench.table.0.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_refuses_of_one_keeps_nobody_elses_from_being_kept() {
    let bench = start();
    let mut answers = bench
        .asks_at_once(vec![named("a"), named("too-large"), named("b")])
        .await;
    let refused = answers.remove(1);
    assert!(
        matches!(&refused, Err(Refusal::Store { reason }) if reason.contains("too many bytes")),
        "{refused:?}"
    );
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(bench.names(), ["a", "b", "first"]);
    assert_eq!(bench.killed().await.instances.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_keeps_nothing_changes_nothing() {
    let bench = start();
    let id = bench.made(named("a")).await.id;
    let before = bench.ledger.desired().borrow().version;
    *bench.disk.full.lock().unwrap() = true;
    for action in [
        named("b"),
        Action::Stop { id: id.clone() },
        Action::Remove { id: id.clone() },
    ] {
        let refused = bench.act(action).await;
        assert!(matches!(refused, Err(Refusal::Store { .. })), "{refused:?}");
    }
    // What needs nothing kept has the answer that it always had.
    assert!(matches!(bench.act(named("a")).await, Err(Refusal::NameTaken { .. })));
    let pinned = bench
        .act(Action::Pin {
            id: id.clone(),
            pinned: true,
        })
        .await;
    assert!(matches!(pinned, Err(Refusal::NoPackage { .. })), "{pinned:?}");
    assert_eq!(bench.ledger.desired().borrow().version, before);
    assert_eq!(bench.record(&id).desired, Desired::Running);
    *bench.disk.full.lock().unwrap() = false;
    bench.made(named("b")).await;
    assert_eq!(bench.names(), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_until_it_is_shown() {
    let bench = start_alone();
    let ledger = bench.ledger.clone();
    let signed = policy::signed_by_root(named("a"));
    let asked = tokio::spawn(async move { ledger.submit(signed).await });
    until(|| bench.names() == ["a"]).await;
    // It is durable and published; who is to show it has not yet.
    assert!(!asked.is_finished());
    tokio::spawn(show_all(bench.ledger.desired(), bench.show.clone()));
    let Ok(Outcome::Instance(view)) = asked.await.unwrap() else {
        panic!("an instance")
    };
    assert_eq!((view.name.as_str(), view.token.is_some()), ("a", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_somebodys_action_has_made_pointless_is_dropped() {
    let bench = start();
    let id = bench.made(named("a")).await.id;
    let given_up = |asked| Report::GivenUp {
        id: id.clone(),
        asked,
        why: "it died".to_owned(),
    };
    let failure = || bench.record(&id).failure.clone();
    let first = Asked::of(&bench.record(&id));
    bench.made(Action::Start { id: id.clone() }).await;
    bench.ledger.report(given_up(first)).await.unwrap();
    assert_eq!(failure(), None, "of the run before");
    let now = Asked::of(&bench.record(&id));
    bench.ledger.report(given_up(now)).await.unwrap();
    assert_eq!(failure().as_deref(), Some("it died"));
    bench.ledger.report(Report::Gone { id: id.clone() }).await.unwrap();
    assert_eq!(bench.names(), ["a"], "nobody removed it");

    let run = RunRequest {
        source: Some(npx("1.0.0")),
        ..run("npx")
    };
    let id = bench.made(Action::Run(Box::new(run))).await.id;
    let prepared = |version: &str| Report::Prepared {
        id: id.clone(),
        source: npx(version),
        before: None,
        resolved: resolved(version),
    };
    let version = || bench.record(&id).sourced.clone().unwrap().resolved.map(|r| r.version);
    let before = bench.record(&id).spec_hash.clone();
    bench.ledger.report(prepared("2.0.0")).await.unwrap();
    assert_eq!(version(), None, "of another package");
    bench.ledger.report(prepared("1.0.0")).await.unwrap();
    assert_eq!(version().as_deref(), Some("1.0.0"));
    assert_ne!(bench.record(&id).spec_hash, before);
    bench.ledger.report(prepared("1.0.0")).await.unwrap();
    let newer = Report::Prepared {
        id: id.clone(),
        source: npx("1.0.0"),
        before: None,
        resolved: resolved("0.9.0"),
    };
    bench.ledger.report(newer).await.unwrap();
    assert_eq!(version().as_deref(), Some("1.0.0"), "prepared before that was there");
    bench.act(Action::Remove { id: id.clone() }).await.unwrap();
    bench.ledger.report(Report::Gone { id: id.clone() }).await.unwrap();
    bench.ledger.report(prepared("1.0.0")).await.unwrap();
    assert_eq!(bench.names(), ["a"], "nothing comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_everything_answered_and_the_store_closed() {
    let bench = start();
    bench.disk.hold();
    let answers = bench.asks(vec![named("a"), named("b")]).await;
    let ledger = bench.ledger.clone();
    let ended = tokio::spawn(async move { ledger.shutdown().await });
    bench.disk.release();
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    ended.await.unwrap();
    bench.task.await.unwrap();
    let refused = bench.ledger.submit(policy::signed_by_root(named("c"))).await;
    assert_eq!(refused, Err(Refusal::Stopping));
    assert_eq!(open_again(&bench.dir).await.load().unwrap().instances.len(), 2);
}

/// A grant that ends at a time ends what it opened then, by itself; and who is disabled meanwhile may nothing that waits.
#[tokio::test]
async fn a_grant_ends_by_itself_and_what_waits_is_judged_when_its_turn_comes() {
    let bench = start();
    let a = bench.made(named("a")).await.id;
    let ada = || MemberName::parse("ada").unwrap();
    let add = Action::AddMember {
        name: ada(),
        role: crate::model::Role::Admin,
        workspace: None,
    };
    assert!(matches!(bench.act(add).await, Ok(Outcome::Member(_))));
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(300);
    let grant = Action::AddGrant {
        to: crate::model::Grantee::Member(ada()),
        instance: a.clone(),
        manage: false,
        until: Some(end),
    };
    assert!(matches!(bench.act(grant).await, Ok(Outcome::Grant(_))));
    assert!(
        bench.table.2.lock().unwrap().is_empty(),
        "a new grant takes nothing away"
    );
    until(|| bench.table.2.lock().unwrap().contains(&ada())).await;
    let token = Action::CreateToken {
        subject: Subject::Member(ada()),
        name: None,
        expires_at: None,
        never: false,
        scope: TokenScope::All,
    };
    let Ok(Outcome::Token(made)) = bench.act(token).await else {
        panic!("a token")
    };
    let by = Principal::member(ada(), made.view.id.clone(), &TokenScope::All);
    // An action of hers waits behind the one that takes her rights away; her token is valid still.
    bench.disk.hold();
    let before = bench.disk.commits();
    let first = bench.asks(vec![named("first")]).await;
    until(|| bench.disk.commits() > before).await;
    let demote = Action::SetRole {
        member: ada(),
        role: crate::model::Role::Member,
        workspace: None,
    };
    let demoted = bench.asks(vec![demote]).await;
    let late = bench.asks_as(&by, vec![named("late")]).await;
    bench.disk.release();
    for answer in first.into_iter().chain(demoted) {
        answer.await.unwrap().unwrap();
    }
    for answer in late {
        assert_eq!(answer.await.unwrap().map(drop), Err(Refusal::NotPermitted));
    }
}

/// What a step comes to, in short: `token-added ID`, and `!` with whom it concerns.
fn told(step: &Step) -> Vec<String> {
    let one = |n: &crate::events::News| {
        let id = n.event.id.replace(|c: char| c.is_ascii_digit(), "0");
        format!("{}-{} {id}", n.event.kind.as_str(), n.event.change.as_str())
    };
    step.news.iter().map(one).collect()
}

#[tokio::test]
async fn a_step_has_what_the_lists_show_otherwise_and_whom_it_concerns() {
    let bench = start();
    let mut before = bench.ledger.access();
    let mut step = async |action: serde_json::Value| {
        let action: Action = serde_json::from_value(action).unwrap();
        let outcome = bench.ledger.submit(policy::signed_by_root(action)).await.unwrap();
        let after = bench.ledger.access();
        let step = bench.ledger.step(&before, &after, jiff::Timestamp::now());
        before = after;
        (step, outcome)
    };
    let json = |action: &str, more: serde_json::Value| {
        let mut all = serde_json::json!({ "action": action });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let concerns = |step: &Step, name: &str| {
        let by = Principal::member(name.parse().unwrap(), TokenId::from_random([1; 12]), &TokenScope::All);
        step.concerned.holds(&by)
    };
    use serde_json::json as j;
    let (s, _) = step(json("add_workspace", j!({ "name": "here" }))).await;
    assert_eq!(
        (told(&s), s.concerned.is_nobody()),
        (vec!["workspace-added here".to_owned()], true)
    );
    let (s, _) = step(json(
        "add_member",
        j!({ "name": "boss", "role": "admin", "workspace": "here" }),
    ))
    .await;
    assert_eq!(told(&s), ["workspace-changed here", "member-added boss"]);
    let (s, _) = step(json("add_member", j!({ "name": "ada", "workspace": "here" }))).await;
    assert_eq!(told(&s), ["workspace-changed here", "member-added ada"]);
    assert!(
        concerns(&s, "ada") && !concerns(&s, "boss"),
        "a new member is an event, and no more"
    );
    let (s, _) = step(json("add_team", j!({ "workspace": "here", "name": "eng" }))).await;
    assert_eq!(
        (told(&s), s.concerned.is_nobody()),
        (vec!["team-added here/eng".to_owned()], true)
    );
    let (s, _) = step(json(
        "join_team",
        j!({ "workspace": "here", "name": "eng", "member": "ada" }),
    ))
    .await;
    assert_eq!(told(&s), ["member-changed ada", "team-changed here/eng"]);
    assert!(concerns(&s, "ada") && !concerns(&s, "boss"));
    let (s, made) = step(json("run", j!({ "type": "memory", "workspace": "here" }))).await;
    let Outcome::Instance(made) = made else { panic!() };
    let id = made.id.as_str();
    assert_eq!(
        told(&s).iter().filter(|t| !t.starts_with("credential-added")).count(),
        2,
        "{:?}",
        told(&s)
    );
    assert!(told(&s)[0] == "workspace-changed here" && s.news[1].event.kind.as_str() == "token");
    assert_eq!(s.news[1].event.instance.as_ref(), Some(&made.id));
    let text = serde_json::to_string(&s.news[1].event).unwrap();
    assert!(!text.contains("brt_"), "{text}");
    let (s, _) = step(json(
        "set_credential",
        j!({ "id": id, "key": "KEY", "value": "s3cret" }),
    ))
    .await;
    assert_eq!(s.news[0].event.id, format!("{id} KEY"));
    assert!(!serde_json::to_string(&s.news[0].event).unwrap().contains("s3cret"));
    let (s, _) = step(json("add_grant", j!({ "team": "here/eng", "instance": id }))).await;
    assert_eq!(
        (s.news.len(), s.news[0].event.id.clone()),
        (1, format!("team:here/eng {id}"))
    );
    assert!(concerns(&s, "ada") && !concerns(&s, "boss"));
    let (s, _) = step(json("stop", j!({ "id": id }))).await;
    assert_eq!(
        told(&s),
        ["workspace-changed here"],
        "what it is itself the reconciler shows"
    );
    let (s, _) = step(json("create_token", j!({ "member": "ada" }))).await;
    assert_eq!(
        s.news.iter().map(|n| n.event.kind.as_str()).collect::<Vec<_>>(),
        ["member", "token"]
    );
    let (s, _) = step(json("remove_grant", j!({ "team": "here/eng", "instance": id }))).await;
    let gone = &s.news[0];
    assert_eq!(
        (gone.event.change.as_str(), gone.event.record.is_none()),
        ("removed", true)
    );
    assert_eq!(
        gone.gone_for.iter().map(MemberName::as_str).collect::<Vec<_>>(),
        ["ada", "boss"]
    );
    assert!(concerns(&s, "ada") && !concerns(&s, "boss"));
    let (s, _) = step(json("add_grant", j!({ "member": "ada", "instance": id }))).await;
    assert!(concerns(&s, "ada"));
    // Who comes to another workspace keeps their tokens from the admin of the first; one more changes nothing of that.
    let joins = |workspace: &str| {
        let more = j!({ "member": "ada", "role": "member", "workspace": workspace });
        json("set_role", more)
    };
    let (s, _) = step(joins("default")).await;
    assert_eq!(told(&s), ["workspace-changed default", "member-changed ada"]);
    assert!(concerns(&s, "boss") && concerns(&s, "ada"));
    assert!(s.news[1].was.as_ref().is_some_and(|was| was.workspaces.len() == 1));
    step(json("add_workspace", j!({ "name": "third" }))).await;
    let (s, _) = step(joins("third")).await;
    assert!(!concerns(&s, "boss") && concerns(&s, "ada"));
    let (s, _) = step(json("create_token", j!({ "member": "ada" }))).await;
    assert!(s.news[0].event.kind.as_str() == "member" && s.news[0].was.is_none());
    // An instance goes with all that it has; who could see it is known by then alone.
    step(json("remove", j!({ "id": id }))).await;
    let earlier = bench.ledger.access();
    bench.ledger.report(Report::Gone { id: made.id.clone() }).await.unwrap();
    let s = bench
        .ledger
        .step(&earlier, &bench.ledger.access(), jiff::Timestamp::now());
    let kinds: Vec<&str> = s.news.iter().map(|n| n.event.kind.as_str()).collect();
    let changes: BTreeSet<&str> = s.news[1..].iter().map(|n| n.event.change.as_str()).collect();
    assert_eq!((kinds[0], changes), ("workspace", BTreeSet::from(["removed"])));
    assert!(
        kinds.len() == 3 && kinds[kinds.len() - 2..] == ["token", "grant"],
        "{kinds:?}"
    );
    assert_eq!(s.gone.len(), 1);
    assert_eq!(
        s.gone[0].1.iter().map(MemberName::as_str).collect::<Vec<_>>(),
        ["ada", "boss"]
    );
    assert!(s.concerned.is_nobody(), "nothing else is lost");
}

#[test]
fn grants_that_end_concern_whose_they_are() {
    let at = |s: i64| jiff::Timestamp::from_second(s).unwrap();
    let grant = |name: &str, until: i64| {
        let key = (
            crate::model::Grantee::Member(name.parse().unwrap()),
            InstanceId::from_random([1; 10]),
        );
        let record = crate::record::GrantRecord {
            key: key.clone(),
            level: crate::model::Level::Use,
            until: Some(at(until)),
            created_at: at(0),
            by: "root".into(),
            last_used_at: None,
            edited: None,
        };
        (key, record)
    };
    let grants = [grant("ada", 10), grant("ben", 20), grant("cy", 30)];
    let access = Access {
        grants: Arc::new(grants.into_iter().collect()),
        ..Access::default()
    };
    let concerns = |concerned: &crate::events::Concerned, name: &str| {
        let by = Principal::member(name.parse().unwrap(), TokenId::from_random([1; 12]), &TokenScope::All);
        concerned.holds(&by)
    };
    let (concerned, next) = ended(&access, at(10), at(20));
    assert_eq!(
        ["ada", "ben", "cy"].map(|n| concerns(&concerned, n)),
        [false, true, false]
    );
    assert_eq!(next, Some(at(30)));
    assert_eq!(ended(&access, at(20), at(30)).1, None);
}

mod write_tests;

#[tokio::test]
async fn links_and_accounts_are_one_commit_each_and_told_without_secrets() {
    let bench = start();
    let ada = MemberName::parse("ada").unwrap();
    let claim = Action::Claim {
        name: None,
        account: Some(Box::new(crate::model::NewAccount {
            member: ada.clone(),
            passphrase: hashed(1),
        })),
    };
    let nobody = Principal::nobody(crate::model::Via::Claim);
    let signed = bench.ledger.sign(nobody, claim).unwrap();
    let Ok(Outcome::Member(claimed)) = bench.ledger.submit(signed).await else {
        panic!("claimed")
    };
    assert_eq!(
        (claimed.role, claimed.sign_in),
        (crate::model::Role::Owner, crate::model::SignIn::Passphrase)
    );
    assert!(bench.ledger.tokens().is_empty(), "a browser needs none");
    let signed_out = std::mem::take(&mut *bench.table.3.lock().unwrap());
    assert_eq!(signed_out, [ada], "whoever had the name before");

    let add = Action::AddMember {
        name: MemberName::parse("grace").unwrap(),
        role: crate::model::Role::Member,
        workspace: None,
    };
    bench.act(add).await.unwrap();
    let grace = MemberName::parse("grace").unwrap();
    let invite = || Action::InviteMember { name: grace.clone() };
    let Ok(Outcome::SignInLink(link)) = bench.act(invite()).await else {
        panic!("a link")
    };
    let secret = link.url.expose().rsplit('.').next().unwrap().to_owned();
    let hash = crate::plan::sign_in::link_hash(&secret);
    assert_eq!(bench.ledger.link_of(&hash), Some(grace.clone()));
    let redeem = || AccountChange::Redeem {
        link: hash,
        passphrase: hashed(2),
    };
    let by = || Principal::signed_in(grace.clone());
    // Two at one time: one of them has it.
    let (one, two) = tokio::join!(
        bench.ledger.change_account(by(), redeem()),
        bench.ledger.change_account(by(), redeem())
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    assert_eq!(bench.ledger.link_of(&hash), None);
    let refused = bench.act(invite()).await;
    assert_eq!(refused, Err(Refusal::HasSignIn { member: grace.clone() }));
    assert!(bench.table.3.lock().unwrap().is_empty());
    bench.act(Action::ResetSignIn { name: grace.clone() }).await.unwrap();
    assert!(bench.table.3.lock().unwrap().contains(&grace), "her sessions end");
    assert_eq!(bench.ledger.sign_in(&grace).unwrap().passphrase, None);
    bench.act(Action::DisableMember { name: grace.clone() }).await.unwrap();
    assert_eq!(bench.ledger.sign_in(&grace), None);
    assert_eq!(bench.table.3.lock().unwrap().len(), 2);
    let told = format!("{:?}", bench.told.0.lock().unwrap());
    assert!(
        told.contains("change-sign-in") && told.contains("reset-sign-in"),
        "{told}"
    );
    assert!(!told.contains(&secret) && !told.contains(&crate::model::hex(&[2; 32])));
}

fn hashed(n: u8) -> crate::model::PassphraseHash {
    crate::model::PassphraseHash {
        memory: 8,
        passes: 1,
        lanes: 1,
        salt: [n; 16],
        hash: [n; 32],
    }
}
