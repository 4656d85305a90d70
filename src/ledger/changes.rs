//! What an action changes, field by field, for the audit: from what to what. Of what is sealed or hashed only that it is
//! there, or is another one.

use std::collections::BTreeMap;

use super::books::Books;
use crate::{
    model::{AuditChange, Level, Role, TokenScope, WorkspaceLimits},
    record::{GrantRecord, InstanceRecord, MemberRecord, SignInRecord, TeamRecord, TokenRecord, WorkspaceRecord},
    store::Change,
};

/// One action is told with so many of its changes; how many more there are is told, too.
const MOST: usize = 100;

/// A value is told with so many bytes of it.
const LONGEST: usize = 1024;

/// A record's fields, as they are told.
type Fields = BTreeMap<String, String>;

/// What changes come to, by the books from before, and how many more there are than are told.
pub(super) fn told(books: &Books, changes: &[Change]) -> (Vec<AuditChange>, usize) {
    let mut all: Vec<AuditChange> = changes.iter().flat_map(|change| one(books, change)).collect();
    let more = all.len().saturating_sub(MOST);
    all.truncate(MOST);
    for change in &mut all {
        [&mut change.from, &mut change.to].into_iter().flatten().for_each(cut);
    }
    (all, more)
}

/// Cuts a text that is too long.
fn cut(text: &mut String) {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
}

fn one(books: &Books, change: &Change) -> Vec<AuditChange> {
    match change {
        Change::PutInstance(r) => {
            let before = books.instances.get(&r.id);
            let mut all = differ(
                format!("instance {}", r.id),
                before.map(|b| instance(b)),
                Some(instance(r)),
            );
            if let Some(before) = before {
                let sealed_anew = r
                    .env
                    .iter()
                    .filter(|(name, v)| before.env.get(*name).is_some_and(|b| b != *v));
                all.extend(sealed_anew.map(|(name, _)| AuditChange {
                    of: format!("instance {}", r.id),
                    field: Some(format!("credential {name}")),
                    from: Some("set".into()),
                    to: Some("set anew".into()),
                }));
            }
            all
        }
        Change::RemoveInstance(id) => {
            let before = books.instances.get(id);
            differ(format!("instance {id}"), before.map(|b| instance(b)), None)
        }
        Change::PutToken(t) => differ(
            format!("token {}", t.id),
            books.tokens.get(&t.id).map(token),
            Some(token(t)),
        ),
        Change::RemoveToken(id) => differ(format!("token {id}"), books.tokens.get(id).map(token), None),
        Change::PutMember(m) => {
            let before = books.members.get(&m.name).map(member);
            differ(format!("member {}", m.name), before, Some(member(m)))
        }
        Change::RemoveMember(name) => differ(format!("member {name}"), books.members.get(name).map(member), None),
        Change::PutSignIn(r) => {
            let before = books.sign_ins.get(&r.member);
            let of = format!("sign-in of member {}", r.member);
            let mut all = differ(of.clone(), before.map(sign_in), Some(sign_in(r)));
            let (old, new) = (before.and_then(|b| b.passphrase.as_ref()), r.passphrase.as_ref());
            if old.is_some() && new.is_some() && old != new {
                all.push(AuditChange {
                    of,
                    field: Some("passphrase".into()),
                    from: Some("set".into()),
                    to: Some("set anew".into()),
                });
            }
            all
        }
        Change::PutWorkspace(w) => {
            let before = books.workspaces.get(&w.name).map(workspace);
            differ(format!("workspace {}", w.name), before, Some(workspace(w)))
        }
        Change::RemoveWorkspace(name) => differ(
            format!("workspace {name}"),
            books.workspaces.get(name).map(workspace),
            None,
        ),
        Change::PutTeam(t) => differ(
            format!("team {}", t.id),
            books.teams.get(&t.id).map(team),
            Some(team(t)),
        ),
        Change::RemoveTeam(id) => differ(format!("team {id}"), books.teams.get(id).map(team), None),
        Change::PutGrant(g) => {
            let of = format!("grant of {} to {}", g.key.1, g.key.0);
            differ(of, books.grants.get(&g.key).map(grant), Some(grant(g)))
        }
        Change::PutAnswer(_) | Change::RemoveAnswer(_) => Vec::new(),
        Change::RemoveGrant(key) => {
            let of = format!("grant of {} to {}", key.1, key.0);
            differ(of, books.grants.get(key).map(grant), None)
        }
    }
}

fn differ(of: String, before: Option<Fields>, after: Option<Fields>) -> Vec<AuditChange> {
    let Some(after) = after else {
        let removed = before.map(|fields| AuditChange {
            of,
            field: None,
            from: Some(words(&fields)),
            to: None,
        });
        return removed.into_iter().collect();
    };
    let Some(before) = before else {
        return vec![AuditChange {
            of,
            field: None,
            from: None,
            to: Some(words(&after)),
        }];
    };
    let names = before
        .keys()
        .chain(after.keys().filter(|name| !before.contains_key(*name)));
    let changed = names.filter(|name| before.get(*name) != after.get(*name));
    let one = |name: &String| AuditChange {
        of: of.clone(),
        field: Some(name.clone()),
        from: before.get(name).cloned(),
        to: after.get(name).cloned(),
    };
    changed.map(one).collect()
}

/// A record in one line.
fn words(fields: &Fields) -> String {
    let fields = fields.iter().map(|(name, value)| format!("{name}: {value}"));
    fields.collect::<Vec<_>>().join("; ")
}

fn fields<const N: usize>(these: [(&str, Option<String>); N]) -> Fields {
    let there = these
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    there.collect()
}

fn instance(r: &InstanceRecord) -> Fields {
    let sourced = r.sourced.as_deref();
    let mut all = fields([
        ("name", Some(r.name.to_string())),
        ("workspace", Some(r.workspace.to_string())),
        ("type", Some(r.type_name().to_string())),
        ("size", Some(r.size.to_string())),
        ("desired", Some(r.desired.to_string())),
        ("generation", Some(r.generation.to_string())),
        ("image", Some(r.spec.image.reference.clone())),
        ("version", r.version().map(str::to_owned)),
        ("pinned", sourced.filter(|s| s.pinned).map(|_| "yes".to_owned())),
        (
            "trial of",
            sourced.and_then(|s| s.trial_of.as_ref()).map(ToString::to_string),
        ),
    ]);
    all.extend(
        r.env
            .keys()
            .map(|name| (format!("credential {name}"), "set".to_owned())),
    );
    all
}

fn token(t: &TokenRecord) -> Fields {
    fields([
        ("of", Some(t.subject.to_string())),
        ("name", Some(t.name.to_string())),
        (
            "expires",
            Some(t.expires_at.map_or_else(|| "never".to_owned(), |at| at.to_string())),
        ),
        (
            "scope",
            match &t.scope {
                TokenScope::All => None,
                TokenScope::Api => Some("api".to_owned()),
                TokenScope::Instances(ids) => Some(ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            },
        ),
    ])
}

fn member(m: &MemberRecord) -> Fields {
    let mut all = fields([
        ("owner", m.owner.then(|| "yes".to_owned())),
        ("disabled", m.disabled_at.map(|at| at.to_string())),
    ]);
    let roles = m.workspaces.iter();
    all.extend(roles.map(|(name, role)| (format!("role in {name}"), Role::from(role).to_string())));
    all
}

fn sign_in(r: &SignInRecord) -> Fields {
    fields([
        ("passphrase", r.passphrase.as_ref().map(|_| "set".to_owned())),
        ("second step", r.totp.as_ref().map(|_| "set".to_owned())),
        (
            "recovery codes",
            Some(r.recovery.len()).filter(|n| *n > 0).map(|n| n.to_string()),
        ),
        ("link until", r.link.as_ref().map(|l| l.expires_at.to_string())),
    ])
}

fn workspace(w: &WorkspaceRecord) -> Fields {
    let WorkspaceLimits {
        nano_cpus,
        memory,
        pids,
        disk,
        instances,
        calls_per_second,
        calls_at_once,
    } = w.quota.unwrap_or_default();
    let list = |patterns: &Option<Vec<String>>| patterns.as_ref().map(|p| format!("[{}]", p.join(", ")));
    fields([
        ("cpus", nano_cpus.map(WorkspaceLimits::cpus)),
        ("memory bytes", memory.map(|n| n.to_string())),
        ("processes", pids.map(|n| n.to_string())),
        ("disk bytes", disk.map(|n| n.to_string())),
        ("instances", instances.map(|n| n.to_string())),
        ("calls per second", calls_per_second.map(|n| n.to_string())),
        ("calls at once", calls_at_once.map(|n| n.to_string())),
        ("allowed types", list(&w.allow.types)),
        ("allowed packages", list(&w.allow.packages)),
        ("allowed images", list(&w.allow.images)),
        ("allowed remotes", list(&w.allow.remotes)),
    ])
}

fn team(t: &TeamRecord) -> Fields {
    t.members
        .iter()
        .map(|m| (format!("member {m}"), "yes".to_owned()))
        .collect()
}

fn grant(g: &GrantRecord) -> Fields {
    fields([
        (
            "level",
            Some(match g.level {
                Level::Use => "use".to_owned(),
                Level::Manage => "manage".to_owned(),
            }),
        ),
        ("until", g.until.map(|at| at.to_string())),
    ])
}
