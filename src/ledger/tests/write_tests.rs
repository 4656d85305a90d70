//! Writes that say which version they are for: of two that race one is done, and the version is what people asked for.

use super::*;
use crate::model::{EntityTags, Etag, Grantee, Role, TeamName};

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
    assert!(!bench.ledger.access().members[&member("ada")].owner);
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
