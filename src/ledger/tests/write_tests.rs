//! Writes that say which version they are for: of two that race one is done, and the version is what people asked for. Writes
//! that have an idempotency key: what they came to is on the disk with their effect, and is forgotten in time.

use super::*;
use crate::{
    model::{EntityTags, Etag, Grantee, IdempotencyKey, Role, TeamName},
    writes::Keyed,
};

fn member(name: &str) -> MemberName {
    MemberName::parse(name).unwrap()
}

fn role(role: Role) -> Action {
    Action::SetRole {
        member: member("ada"),
        role,
        workspace: None,
    }
}

fn add_ada() -> Action {
    Action::AddMember {
        name: member("ada"),
        role: Role::Member,
        workspace: None,
    }
}

impl Bench {
    /// Asks with what else there is to say, without waiting.
    async fn writes(&self, write: Write) -> oneshot::Receiver<Result<Kept, Refusal>> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Act(Box::new(write), reply);
        self.ledger.requests.send(request).await.expect("it runs");
        answer
    }

    fn etag_of_ada(&self) -> Etag {
        self.ledger.member(&member("ada")).unwrap().etag
    }
}

fn for_version(action: Action, version: &Etag) -> Write {
    Write {
        if_match: EntityTags::parse(&version.to_string()),
        ..policy::signed_by_root(action).into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writes_for_one_version_one_is_done_and_the_other_sees_it() {
    let bench = start();
    bench.act(add_ada()).await.unwrap();
    let version = bench.etag_of_ada();
    // Both wait for the same commit.
    bench.disk.hold();
    let before = bench.disk.commits();
    let first = bench.asks(vec![named("first")]).await;
    until(|| bench.disk.commits() > before).await;
    let one = bench.writes(for_version(role(Role::Admin), &version)).await;
    let other = bench.writes(for_version(role(Role::Owner), &version)).await;
    bench.disk.release();
    for answer in first {
        answer.await.unwrap().unwrap();
    }
    one.await.unwrap().unwrap();
    let refused = other.await.unwrap().unwrap_err();
    let now = bench.etag_of_ada();
    let Refusal::Changed { etag, by, at, .. } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((etag, by.as_deref()), (Some(now.clone()), Some("root")));
    assert!(now != version && at.is_some());
    assert!(!bench.ledger.access().members.get(&member("ada")).unwrap().owner);
    // Whoever has seen that may change it again, and a weak tag is nobody's.
    bench
        .writes(for_version(role(Role::Owner), &now))
        .await
        .await
        .unwrap()
        .unwrap();
    let weak = Write {
        if_match: EntityTags::parse(&format!("W/{}", bench.etag_of_ada())),
        ..policy::signed_by_root(role(Role::Member)).into()
    };
    let refused = bench.writes(weak).await.await.unwrap();
    assert!(matches!(refused, Err(Refusal::Changed { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_for_a_version_needs_a_record_that_is_there() {
    let bench = start();
    bench.act(add_ada()).await.unwrap();
    let any = |action| Write {
        if_match: Some(EntityTags::Any),
        ..policy::signed_by_root(action).into()
    };
    bench.ledger.submit_and_tell(any(role(Role::Admin))).await.unwrap();
    let refused = bench.ledger.submit_and_tell(any(named("a"))).await;
    assert_eq!(refused.unwrap_err(), Refusal::NoSingleRecord);
    assert!(bench.names().is_empty());
    let id = bench.made(named("a")).await.id;
    let grant = Action::AddGrant {
        to: Grantee::Member(member("ada")),
        instance: id,
        manage: false,
        until: None,
    };
    let refused = bench.ledger.submit_and_tell(any(grant.clone())).await.unwrap_err();
    assert!(matches!(refused, Refusal::Changed { etag: None, .. }), "{refused:?}");
    bench.act(grant.clone()).await.unwrap();
    bench.ledger.submit_and_tell(any(grant)).await.unwrap();
}

/// Every kind of record has a version that rises with what people change of it, and with nothing else; it is the same after a
/// restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_changes_with_settings_and_not_with_what_the_box_finds_out() {
    let bench = start();
    bench.act(add_ada()).await.unwrap();
    let of_package = RunRequest {
        source: Some(npx("1.0.0")),
        ..run("npx")
    };
    let id = bench.made(Action::Run(Box::new(of_package))).await.id;
    let version = || bench.record(&id).etag();
    let first = version();
    let prepared = Report::Prepared {
        id: id.clone(),
        source: npx("1.0.0"),
        before: None,
        resolved: resolved("1.0.0"),
    };
    bench.ledger.report(prepared).await.unwrap();
    let asked = Asked::of(&bench.record(&id));
    let given_up = Report::GivenUp {
        id: id.clone(),
        asked,
        why: "it died".to_owned(),
    };
    bench.ledger.report(given_up).await.unwrap();
    assert!(bench.record(&id).failure.is_some() && !bench.record(&id).unprepared());
    bench.act(Action::Start { id: id.clone() }).await.unwrap();
    assert_eq!(version(), first, "a restart changes no settings");
    let mut seen = vec![first];
    for action in [
        Action::Pin {
            id: id.clone(),
            pinned: true,
        },
        Action::SetCredential {
            id: id.clone(),
            key: "KEY".to_owned(),
            value: Secret::new("hunter2"),
        },
        Action::SetCredential {
            id: id.clone(),
            key: "KEY".to_owned(),
            value: Secret::new("hunter2"),
        },
        Action::UnsetCredential {
            id: id.clone(),
            key: "KEY".to_owned(),
        },
        Action::Stop { id: id.clone() },
        Action::Start { id: id.clone() },
    ] {
        let told = bench.made(action.clone()).await.etag;
        assert_eq!(told, version(), "{action:?}");
        assert!(!seen.contains(&told), "{action:?}");
        seen.push(told);
    }

    let team = TeamName::parse("eng").unwrap();
    let workspace = crate::model::WorkspaceName::default();
    let add_team = Action::AddTeam {
        workspace: workspace.clone(),
        name: team.clone(),
    };
    let join = Action::JoinTeam {
        workspace: workspace.clone(),
        name: team,
        member: member("ada"),
    };
    let Ok(Outcome::Team(made)) = bench.act(add_team).await else {
        panic!("no team")
    };
    let Ok(Outcome::Team(joined)) = bench.act(join.clone()).await else {
        panic!("no team")
    };
    assert_ne!(made.etag, joined.etag);
    let Ok(Outcome::Team(again)) = bench.act(join).await else {
        panic!("no team")
    };
    assert_eq!(joined.etag, again.etag, "nothing has changed");
    let grant = |manage| Action::AddGrant {
        to: Grantee::Member(member("ada")),
        instance: id.clone(),
        manage,
        until: None,
    };
    let (Ok(Outcome::Grant(use_it)), Ok(Outcome::Grant(manage_it))) =
        (bench.act(grant(false)).await, bench.act(grant(true)).await)
    else {
        panic!("no grant")
    };
    assert_ne!(use_it.etag, manage_it.etag);
    let quota = |instances| Action::SetQuota {
        workspace: workspace.clone(),
        quota: Some(WorkspaceLimits {
            instances: Some(instances),
            ..WorkspaceLimits::default()
        }),
    };
    let (Ok(Outcome::Workspace(three)), Ok(Outcome::Workspace(four))) =
        (bench.act(quota(3)).await, bench.act(quota(4)).await)
    else {
        panic!("no workspace")
    };
    assert_ne!(three.etag, four.etag);
    let token = Action::CreateToken {
        subject: Subject::Member(member("ada")),
        name: None,
        expires_at: None,
        never: false,
        scope: TokenScope::All,
    };
    let Ok(Outcome::Token(made)) = bench.act(token).await else {
        panic!("no token")
    };
    let of_token = || {
        let all = bench.ledger.tokens().into_iter();
        all.filter(|t| t.id == made.view.id).map(|t| t.etag).next().unwrap()
    };
    assert_eq!(of_token(), made.view.etag, "what was answered is what is listed");
    let rotate = Action::RotateToken {
        id: made.view.id.clone(),
        overlap_s: Some(60),
    };
    bench.act(rotate).await.unwrap();
    assert_ne!(of_token(), made.view.etag, "it ends earlier");
    let (ada, token, instance) = (bench.etag_of_ada(), of_token(), version());
    let on_disk = bench.killed().await;
    assert_eq!(on_disk.members[&member("ada")].etag(), ada);
    assert_eq!(on_disk.instances[&id].etag(), instance);
    assert_eq!(on_disk.tokens[&made.view.id].etag(), token);
    assert_eq!(
        on_disk.grants[&(Grantee::Member(member("ada")), id)].etag(),
        manage_it.etag
    );
    assert_eq!(on_disk.teams.values().next().unwrap().etag(), joined.etag);
    assert_eq!(on_disk.workspaces[&workspace].etag(), four.etag);
}

/// An answer with a secret.
const ANSWER: &str = r#"{"token":"brt_i_x"}"#;

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::parse(text).unwrap()
}

fn token_of_ada() -> Action {
    Action::CreateToken {
        subject: Subject::Member(member("ada")),
        name: None,
        expires_at: None,
        never: false,
        scope: TokenScope::All,
    }
}

impl Bench {
    /// A write of root's with a key, which nobody else has used.
    fn keyed(&self, text: &str, action: Action) -> (Write, Keyed) {
        let begun = self.ledger.begin(&Principal::root(), &key(text)).unwrap();
        assert!(begun.before.is_none());
        let mut keyed = begun.keyed;
        keyed.asked = [5; 32];
        let write = Write {
            key: Some(keyed.clone()),
            ..policy::signed_by_root(action).into()
        };
        (write, keyed)
    }

    fn before(&self, text: &str) -> Option<crate::writes::Kept> {
        self.ledger.begin(&Principal::root(), &key(text)).unwrap().before
    }

    /// A ledger on what this one leaves when it is killed now.
    async fn started_again(self) -> Bench {
        let dir = self.dir;
        self.task.abort();
        let _ = self.task.await;
        drop(self.ledger);
        drop(open_again(&dir).await);
        let bench = start_in(dir);
        tokio::spawn(show_all(bench.ledger.desired(), bench.show.clone()));
        bench
    }
}

/// It is killed after the commit, with nothing answered: asked again, it is not done again, and the token is the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_write_came_to_is_kept_with_its_effect() {
    let bench = start();
    bench.act(add_ada()).await.unwrap();
    bench.disk.hold();
    let before = bench.disk.commits();
    let (write, keyed) = bench.keyed("k", token_of_ada());
    let answer = bench.writes(write).await;
    until(|| bench.disk.commits() > before).await;
    let in_use = bench.ledger.begin(&Principal::root(), &key("k"));
    assert_eq!(in_use.unwrap_err(), Refusal::KeyInUse);
    bench.disk.release();
    answer.await.unwrap().unwrap();
    // Whoever asked past the table would hear it from the ledger.
    let again = Write {
        key: Some(keyed.clone()),
        ..policy::signed_by_root(token_of_ada()).into()
    };
    let refused = bench.ledger.submit_and_tell(again).await;
    assert_eq!(refused.unwrap_err(), Refusal::KeyInUse);
    drop(keyed);
    let tokens = bench.ledger.tokens();
    assert_eq!(tokens.len(), 1);
    let bench = bench.started_again().await;
    let kept = bench.before("k").expect("it is kept");
    kept.check(&[5; 32]).unwrap();
    assert_eq!(kept.check(&[6; 32]), Err(Refusal::KeyReused));
    assert!(kept.answer.is_none());
    let Ok(Outcome::Token(made)) = bench.ledger.outcome(&kept).await else {
        panic!("no token")
    };
    assert_eq!((&made.view.id, made.token.expose()), (&tokens[0].id, "brt_i_x"));
    assert_eq!(made.view.etag, tokens[0].etag);
    assert_eq!(bench.ledger.tokens().len(), 1, "one effect");
    // Nothing of it can be read on the disk.
    let on_disk = std::fs::read(bench.dir.path().join("berth.redb")).unwrap();
    assert!(!on_disk.windows(7).any(|w| w == b"brt_i_x"));
    // Once answered, that is what is kept.
    let begun = bench.ledger.begin(&Principal::root(), &key("k")).unwrap();
    let mut keyed = begun.keyed;
    keyed.asked = [5; 32];
    bench.ledger.keep(keyed, Secret::new(ANSWER)).await.unwrap();
    let bench = bench.started_again().await;
    let kept = bench.before("k").expect("it is kept");
    assert_eq!(kept.answer, Some(Secret::new(ANSWER)));
    let on_disk = std::fs::read(bench.dir.path().join("berth.redb")).unwrap();
    assert!(!on_disk.windows(7).any(|w| w == b"brt_i_x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_to_nothing_keeps_nothing() {
    let bench = start();
    let (write, _) = bench.keyed("k", token_of_ada());
    let refused = bench.ledger.submit_and_tell(write).await;
    assert!(refused.is_err(), "{refused:?}");
    bench.act(add_ada()).await.unwrap();
    *bench.disk.full.lock().unwrap() = true;
    let (write, _) = bench.keyed("k", token_of_ada());
    let refused = bench.ledger.submit_and_tell(write).await;
    assert!(matches!(refused, Err(Refusal::Store { .. })), "{refused:?}");
    *bench.disk.full.lock().unwrap() = false;
    let (write, _) = bench.keyed("k", token_of_ada());
    bench.ledger.submit_and_tell(write).await.unwrap();
    assert_eq!(bench.ledger.tokens().len(), 1);
}

/// Whoever has that name next is somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_was_answered_goes_with_them() {
    let bench = start();
    let add = Action::AddMember {
        name: member("ada"),
        role: Role::Owner,
        workspace: None,
    };
    bench.act(add.clone()).await.unwrap();
    let other = Action::AddMember {
        name: member("bob"),
        role: Role::Owner,
        workspace: None,
    };
    bench.act(other).await.unwrap();
    let Ok(Outcome::Token(made)) = bench.act(token_of_ada()).await else {
        panic!("no token")
    };
    let ada = Principal::member(member("ada"), made.view.id.clone(), &TokenScope::All);
    let write = |text: &str, action: Action| {
        let keyed = bench.ledger.begin(&ada, &key(text)).unwrap().keyed;
        let write = Write {
            key: Some(keyed.clone()),
            ..bench.ledger.sign(ada.clone(), action).unwrap().into()
        };
        (write, keyed)
    };
    let before = |text: &str| bench.ledger.begin(&ada, &key(text)).unwrap().before;
    let (first, keyed) = write("first", token_of_ada());
    bench.ledger.submit_and_tell(first).await.unwrap();
    drop(keyed);
    assert!(before("first").is_some());
    let (last, keyed) = write("last", Action::RemoveMember { name: member("ada") });
    bench.ledger.submit_and_tell(last).await.unwrap();
    bench.ledger.keep(keyed, Secret::new("{}")).await.unwrap();
    bench.act(add).await.unwrap();
    assert!(before("first").is_none() && before("last").is_none());
    assert!(bench.killed().await.answers.is_empty());
}
