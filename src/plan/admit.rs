//! Admission: what an action comes to, decided at once and purely from what is known. A refusal has changed nothing
//! and says what to do instead. Whether Docker can do it shows later, in the instance's state.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    credentials, image, order,
    people::{self, People},
    room::{self, Disk},
    sign_in, sourced, trial, workspace,
};
use crate::{
    catalog::{Catalog, InstanceType, Kind, check_env_key},
    config::Allow,
    model::{
        Action, Counted, Desired, InstanceId, InstanceName, Level, MAX_OVERLAP, MEMBER_TOKEN_DAYS, MemberName, OVERLAP,
        Principal, REMOTE_SECRET, Refusal, RunRequest, Scope, Secret, Source, Subject, TokenId, TokenScope, TypeName,
        WorkspaceLimits, WorkspaceName,
    },
    policy::Signed,
    record::{
        InstanceRecord, Mark, Marks, MemberRecord, SignInRecord, Table, TokenRecord, WorkspaceRecord,
        tables::{Grants, Members, Teams, Tokens},
    },
};

const ENV_VARIABLES: usize = 64;
const ENV_VALUE: usize = 32 * 1024;
const ENV_TOTAL: usize = 256 * 1024;

/// All that admission looks at.
#[derive(Debug, Clone, Copy)]
pub struct Book<'a> {
    pub instances: &'a BTreeMap<InstanceId, Arc<InstanceRecord>>,
    pub tokens: &'a Tokens,
    pub members: &'a Members,
    pub workspaces: &'a BTreeMap<WorkspaceName, WorkspaceRecord>,
    pub teams: &'a Teams,
    pub grants: &'a Grants,
    pub sign_ins: &'a Table<MemberName, SignInRecord>,
    /// The box cannot set what the kernel holds a workspace to.
    pub fixed_quotas: bool,
    /// What a workspace may use whose record says nothing else.
    pub configured: &'a WorkspaceLimits,
    pub catalog: &'a Catalog,
    /// Instances on this box, at most.
    pub max_instances: usize,
    pub max_tokens_per_instance: usize,
    /// Patterns of images that may run here.
    pub images: &'a [String],
    /// What the configuration allows to be run.
    pub allow: &'a Allow,
    /// The volumes' disk, where it holds them to a size and was looked at.
    pub disk: Option<Disk>,
    /// What an installation may write, in bytes.
    pub install_bytes: u64,
    pub now: jiff::Timestamp,
}

/// What an admitted action comes to; the caller commits it before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A new instance, its environment still to be sealed, and a first token for it.
    Run {
        record: Box<InstanceRecord>,
        env: BTreeMap<String, Secret>,
        /// For a trial: the instance whose sealed values it gets as well.
        env_of: Option<InstanceId>,
    },
    /// The record as it shall be from now on.
    Update(Box<InstanceRecord>),
    /// The same, with other values in the server's environment: one still to be sealed, or one fewer.
    Credential {
        record: Box<InstanceRecord>,
        value: Option<(String, Secret)>,
    },
    CreateToken(NewToken),
    RevokeToken(TokenId),
    /// Another token in place of `old`, which ends at `ends`: at once where that is none.
    RotateToken {
        old: TokenId,
        ends: Option<jiff::Timestamp>,
        new: NewToken,
    },
    /// The administrator, and how they come in: by the first token of theirs, or by a passphrase.
    Claim {
        member: MemberRecord,
        token: Option<NewToken>,
        sign_in: Option<Box<SignInRecord>>,
        /// What whoever had that name before loses.
        before: Box<People>,
    },
    /// A workspace that is new, or has another quota.
    Workspace(WorkspaceRecord),
    /// It goes, with what members were in it.
    RemoveWorkspace(WorkspaceName, Box<People>),
    /// Members, teams and grants.
    People(Box<People>),
    /// How a member signs in, with a link whose secret is still to be drawn; whether it took something away.
    SignInLink {
        record: Box<SignInRecord>,
        reset: bool,
    },
    /// It already is as asked.
    Already(InstanceId),
}

/// A token that is still to be drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    pub subject: Subject,
    pub name: String,
    pub expires_at: Option<jiff::Timestamp>,
    pub scope: TokenScope,
}

/// Decides. `fresh` is the random id that a new instance would get.
///
/// # Errors
/// A typed [`Refusal`].
pub fn admit(book: &Book<'_>, action: Signed<Action>, fresh: InstanceId) -> Result<Decision, Refusal> {
    let decision = decide(book, action, fresh)?;
    if let Decision::Run { record, .. } | Decision::Update(record) | Decision::Credential { record, .. } = &decision {
        workspace::check(book, record)?;
        room::check(book, record)?;
    }
    Ok(decision)
}

fn decide(book: &Book<'_>, action: Signed<Action>, fresh: InstanceId) -> Result<Decision, Refusal> {
    let (by, action) = action.into_parts();
    match action {
        Action::Run(request) => run(book, *request, &by, fresh),
        Action::Stop { id } => {
            let mut record = live(book, &id)?.clone();
            if record.desired == Desired::Stopped {
                return Ok(Decision::Already(id));
            }
            record.desired = Desired::Stopped;
            record.failure = None;
            Ok(Decision::Update(Box::new(record)))
        }
        Action::Start { id } => {
            let mut record = live(book, &id)?.clone();
            credentials::kept(&record.spec, &record)?;
            record.desired = Desired::Running;
            record.failure = None;
            record.generation += 1;
            Ok(Decision::Update(Box::new(record)))
        }
        Action::Recreate { id } => {
            let mut record = live(book, &id)?.clone();
            respecify(book, &mut record)?;
            credentials::kept(&record.spec, &record)?;
            record.desired = Desired::Running;
            record.failure = None;
            record.generation += 1;
            record.spec_hash = order::spec_hash_of(&record);
            Ok(Decision::Update(Box::new(record)))
        }
        Action::Remove { id } => {
            let record = find(book, &id)?;
            if record.desired == Desired::Removed {
                return Ok(Decision::Already(id));
            }
            let mut record = record.clone();
            record.desired = Desired::Removed;
            // What is sealed is of no more use to anybody.
            record.env.clear();
            record.marks = Marks::default();
            Ok(Decision::Update(Box::new(record)))
        }
        Action::CreateToken {
            subject,
            name,
            expires_at,
            never,
            scope,
        } => create_token(book, &by, subject, name, (expires_at, never), scope),
        Action::Claim { name, account } => sign_in::claim(book, name, account.map(|a| *a)),
        Action::InviteMember { name } => sign_in::invite(book, &name).map(|record| Decision::SignInLink {
            record: Box::new(record),
            reset: false,
        }),
        Action::ResetSignIn { name } => sign_in::reset(book, &name).map(|record| Decision::SignInLink {
            record: Box::new(record),
            reset: true,
        }),
        Action::ResetAdmin => Ok(of_people(Ok(people::reset(book)))?),
        Action::Pin { id, pinned } => trial::pin(book, &id, pinned),
        Action::Try { id, version } => trial::begin(book, &id, version, fresh),
        Action::Upgrade { id, trial } => trial::upgrade(book, &id, &trial),
        Action::RevokeToken { id } => match book.tokens.contains_key(&id) {
            true => Ok(Decision::RevokeToken(id)),
            false => Err(Refusal::NoToken { id: id.to_string() }),
        },
        Action::RotateToken { id, overlap_s } => rotate_token(book, id, overlap_s.unwrap_or(OVERLAP), &by),
        Action::SetCredential { id, key, value } => credentials::set(book, &id, key, value, by.name()),
        Action::UnsetCredential { id, key } => credentials::unset(book, &id, &key),
        Action::AddWorkspace { name, quota, allow } => workspace::add(book, name, quota, allow),
        Action::SetAllowlist { workspace: name, allow } => workspace::set_allowlist(book, &name, allow),
        Action::SetQuota { workspace: name, quota } => workspace::set(book, &name, quota),
        Action::RemoveWorkspace { name } => workspace::remove(book, name),
        Action::AddMember { name, role, workspace } => of_people(people::add(book, name, role, workspace)),
        Action::SetRole {
            member,
            role,
            workspace,
        } => of_people(people::set_role(book, &member, role, workspace)),
        Action::LeaveWorkspace { member, workspace } => of_people(people::leave_workspace(book, &member, &workspace)),
        Action::DisableMember { name } => of_people(people::disable(book, &name)),
        Action::EnableMember { name } => of_people(people::enable(book, &name)),
        Action::RemoveMember { name } => of_people(people::remove(book, &name)),
        Action::AddTeam { workspace, name } => of_people(people::add_team(book, workspace, name)),
        Action::RemoveTeam { workspace, name } => of_people(people::remove_team(book, workspace, name)),
        Action::JoinTeam {
            workspace,
            name,
            member,
        } => of_people(people::join(book, workspace, name, member, &by)),
        Action::LeaveTeam {
            workspace,
            name,
            member,
        } => of_people(people::leave(book, workspace, name, member)),
        Action::AddGrant {
            to,
            instance,
            manage,
            until,
        } => {
            let level = if manage { Level::Manage } else { Level::Use };
            of_people(people::grant(book, to, instance, level, until, &by))
        }
        Action::RemoveGrant { to, instance } => of_people(people::ungrant(book, to, instance)),
    }
}

fn of_people(people: Result<People, Refusal>) -> Result<Decision, Refusal> {
    people.map(|p| Decision::People(Box::new(p)))
}

pub(super) fn find<'a>(book: &Book<'a>, id: &InstanceId) -> Result<&'a InstanceRecord, Refusal> {
    let record = book.instances.get(id).map(|r| &**r);
    record.ok_or_else(|| Refusal::no_instance(id))
}

pub(super) fn live<'a>(book: &Book<'a>, id: &InstanceId) -> Result<&'a InstanceRecord, Refusal> {
    match find(book, id)? {
        record if record.desired == Desired::Removed => Err(Refusal::Removing { id: id.clone() }),
        record => Ok(record),
    }
}

pub(super) fn known_type(book: &Book<'_>, name: &TypeName) -> Result<Arc<InstanceType>, Refusal> {
    let known = book.catalog.types.get(name).ok_or_else(|| Refusal::NoType {
        name: name.to_string(),
        known: book.catalog.types.keys().map(TypeName::to_string).collect(),
    })?;
    sourced::check_type(book.allow, name, known.kind)?;
    let own_image = !matches!(known.kind, Kind::Image | Kind::Remote);
    for reference in own_image
        .then_some(&known.image.reference)
        .into_iter()
        .chain(&known.builder)
    {
        image::permitted(reference, book.images)?;
    }
    Ok(known.clone())
}

fn check_image(book: &Book<'_>, source: &Source) -> Result<(), Refusal> {
    match source {
        Source::Image(i) => image::permitted(&i.image, book.images),
        Source::Npx(_) | Source::Uvx(_) | Source::Remote(_) => Ok(()),
    }
}

/// Gives a record its type as it is now; what a generic one was resolved to stays.
pub(super) fn respecify(book: &Book<'_>, record: &mut InstanceRecord) -> Result<(), Refusal> {
    let template = known_type(book, record.type_name())?;
    workspace::check_type(book, &record.workspace, &template.name)?;
    let files = credentials::files_of(&record.spec);
    let spec = match &record.sourced {
        None if template.kind == Kind::Fixed => template,
        Some(g) if template.kind.as_str() == g.source.kind() => {
            sourced::check_allowed(book.allow, &g.source)?;
            workspace::check_source(book, &record.workspace, &g.source)?;
            check_image(book, &g.source)?;
            Arc::new(sourced::concrete(&template, g))
        }
        _ => {
            return Err(Refusal::KindChanged {
                type_name: record.type_name().to_string(),
            });
        }
    };
    record.spec = credentials::with_files(spec, &files);
    Ok(())
}

fn run(book: &Book<'_>, request: RunRequest, by: &Principal, id: InstanceId) -> Result<Decision, Refusal> {
    let template = known_type(book, &request.type_name)?;
    check_env(&request.env, std::iter::empty())?;
    credentials::given(&template, &request.env)?;
    let sourced = sourced::take(book.allow, &template, &request)?;
    if let Some(key) = request.files.iter().find(|k| !request.env.contains_key(*k)) {
        return Err(Refusal::NoContent { key: key.clone() });
    }
    let spec = match &sourced {
        Some(g) => {
            check_image(book, &g.source)?;
            Arc::new(sourced::concrete(&template, g))
        }
        None => template,
    };
    let spec = credentials::with_files(spec, &request.files);
    if book.instances.len() >= book.max_instances {
        return Err(Refusal::Full {
            what: Counted::Instances,
            limit: book.max_instances,
        });
    }
    if book.instances.contains_key(&id) {
        return Err(Refusal::IdInUse);
    }
    let workspace = request.workspace.unwrap_or_default();
    workspace::find(book, &workspace)?;
    workspace::check_type(book, &workspace, &spec.name)?;
    if let Some(sourced) = &sourced {
        workspace::check_source(book, &workspace, &sourced.source)?;
    }
    let name = match request.name {
        Some(name) => match taken(book, &workspace, &name) {
            None => name,
            Some(by) => {
                return Err(Refusal::NameTaken {
                    name: name.to_string(),
                    workspace: workspace.to_string(),
                    by: by.clone(),
                });
            }
        },
        None => free_name(book, &workspace, &spec.name)?,
    };
    let size = request.size.unwrap_or(spec.size);
    let mut env = request.env;
    if let Some(secret) = request.remote_secret {
        env.insert(REMOTE_SECRET.to_owned(), secret);
    }
    let mut record = InstanceRecord {
        spec_hash: String::new(),
        id,
        name,
        workspace,
        size,
        desired: Desired::Running,
        generation: 1,
        created_at: book.now,
        env: BTreeMap::new(),
        marks: Marks {
            revision: 0,
            set: env.keys().map(|k| (k.clone(), mark(by, book.now))).collect(),
        },
        spec,
        failure: None,
        sourced: sourced.map(Box::new),
        edited: None,
    };
    record.spec_hash = order::spec_hash_of(&record);
    Ok(Decision::Run {
        record: Box::new(record),
        env,
        env_of: None,
    })
}

fn taken<'a>(book: &Book<'a>, workspace: &WorkspaceName, name: &InstanceName) -> Option<&'a InstanceId> {
    let mut all = book.instances.values();
    all.find(|r| r.workspace == *workspace && r.name == *name)
        .map(|r| &r.id)
}

/// The type's name, with a number where that is taken.
pub(super) fn free_name(book: &Book<'_>, workspace: &WorkspaceName, of: &TypeName) -> Result<InstanceName, Refusal> {
    for n in 1..=book.instances.len() + 1 {
        let text = if n == 1 {
            of.to_string()
        } else {
            let end = format!("-{n}");
            let room = (40 - end.len()).min(of.as_str().len());
            format!("{}{end}", of.as_str()[..room].trim_end_matches('-'))
        };
        let name = InstanceName::parse(&text).map_err(Refusal::fault)?;
        if taken(book, workspace, &name).is_none() {
            return Ok(name);
        }
    }
    Err(Refusal::NoFreeName)
}

fn mark(by: &Principal, at: jiff::Timestamp) -> Mark {
    Mark { at, by: by.name() }
}

/// Whether a variable may have this name.
pub(super) fn env_key(key: &str) -> Result<(), Refusal> {
    check_env_key(key).map_err(|e| Refusal::BadVariable {
        key: key.to_owned(),
        reason: e.to_string(),
    })
}

/// Whether these variables may be given to an instance that has those `others` already.
pub(super) fn check_env<'a>(
    env: &BTreeMap<String, Secret>,
    others: impl Iterator<Item = &'a String>,
) -> Result<(), Refusal> {
    let count = env.len() + others.filter(|k| !env.contains_key(*k)).count();
    if count > ENV_VARIABLES {
        let limit = ENV_VARIABLES;
        return Err(Refusal::TooManyVariables { count, limit });
    }
    let mut total = 0;
    for (name, value) in env {
        env_key(name)?;
        let key = || name.clone();
        // Never quote a value.
        if value.expose().contains('\0') {
            return Err(Refusal::ValueHoldsNul { key: key() });
        }
        if value.expose().len() > ENV_VALUE {
            let limit = ENV_VALUE;
            return Err(Refusal::ValueTooLong { key: key(), limit });
        }
        total += name.len() + value.expose().len();
    }
    if total > ENV_TOTAL {
        let limit = ENV_TOTAL;
        return Err(Refusal::VariablesTooLong { bytes: total, limit });
    }
    Ok(())
}

fn create_token(
    book: &Book<'_>,
    by: &Principal,
    subject: Subject,
    name: Option<String>,
    (expires_at, never): (Option<jiff::Timestamp>, bool),
    scope: TokenScope,
) -> Result<Decision, Refusal> {
    match &subject {
        Subject::Instance(id) => {
            live(book, id)?;
            if !scope.is_all() {
                return Err(Refusal::NoScope);
            }
        }
        Subject::Member(_) if book.members.is_empty() => return Err(Refusal::Unclaimed),
        Subject::Member(name) => {
            if people::member(book, name)?.disabled_at.is_some() {
                return Err(Refusal::MemberDisabled { member: name.clone() });
            }
            check_scope(book, by, &scope)?;
        }
    }
    if valid_tokens(book, &subject) >= book.max_tokens_per_instance {
        return Err(Refusal::Full {
            what: counted(&subject),
            limit: book.max_tokens_per_instance,
        });
    }
    if expires_at.is_some_and(|at| at <= book.now) {
        return Err(Refusal::ExpiredAlready);
    }
    if expires_at.is_some() && never {
        return Err(Refusal::ExpiresAndNever);
    }
    let expires_at = match subject {
        Subject::Member(_) if !never => expires_at.or_else(|| member_token_end(book.now)),
        _ => expires_at,
    };
    Ok(Decision::CreateToken(NewToken {
        subject,
        name: token_name(name, "token")?,
        expires_at,
        scope,
    }))
}

/// No token makes one that reaches further than itself.
fn check_scope(book: &Book<'_>, by: &Principal, scope: &TokenScope) -> Result<(), Refusal> {
    if let TokenScope::Instances(ids) = scope {
        let limit = TokenScope::MAX_INSTANCES;
        if ids.is_empty() || ids.len() > limit {
            return Err(Refusal::BadScope { limit });
        }
        // Whoever may not know what there is, is not told: what is not there opens nothing.
        for id in ids.iter().filter(|_| people::sees_all(book, by)) {
            live(book, id)?;
        }
    }
    match by.scope() {
        Scope::Api if !scope.within(&TokenScope::Api) => Err(Refusal::WiderScope),
        _ => Ok(()),
    }
}

/// Another token in place of one: of its owner and name, and for as long as it was made for. It counts in its place, though
/// both are valid for a while.
fn rotate_token(book: &Book<'_>, id: TokenId, overlap: u64, by: &Principal) -> Result<Decision, Refusal> {
    // The answer, with the new token, would be cut with the old one.
    if overlap == 0 && by.token() == Some(&id) {
        return Err(Refusal::RotatesItself);
    }
    let Some(old) = book.tokens.get(&id) else {
        return Err(Refusal::NoToken { id: id.to_string() });
    };
    if old.expires_at.is_some_and(|at| at <= book.now) {
        return Err(Refusal::TokenOver { id });
    }
    if old.subject.member().is_some() {
        check_scope(book, by, &old.scope)?;
    }
    if overlap > MAX_OVERLAP {
        return Err(Refusal::OverlapTooLong { limit: MAX_OVERLAP });
    }
    if let Subject::Instance(instance) = &old.subject {
        live(book, instance)?;
    }
    let others = valid_tokens(book, &old.subject) - 1;
    if others >= book.max_tokens_per_instance {
        return Err(Refusal::Full {
            what: counted(&old.subject),
            limit: book.max_tokens_per_instance,
        });
    }
    let seconds = |n: u64| jiff::SignedDuration::from_secs(i64::try_from(n).unwrap_or(i64::MAX));
    let ends = (overlap > 0)
        .then(|| book.now.checked_add(seconds(overlap)).ok())
        .flatten();
    let lifetime = old.expires_at.map(|at| at.duration_since(old.created_at));
    Ok(Decision::RotateToken {
        ends: ends.map(|ends| old.expires_at.map_or(ends, |at| at.min(ends))),
        new: NewToken {
            subject: old.subject.clone(),
            name: old.name.to_string(),
            expires_at: lifetime.and_then(|for_so_long| book.now.checked_add(for_so_long).ok()),
            scope: old.scope.clone(),
        },
        old: id,
    })
}

fn counted(subject: &Subject) -> Counted {
    match subject {
        Subject::Instance(_) => Counted::InstanceTokens,
        Subject::Member(_) => Counted::MemberTokens,
    }
}

fn valid_tokens(book: &Book<'_>, subject: &Subject) -> usize {
    let valid = |t: &&TokenRecord| t.expires_at.is_none_or(|at| at > book.now);
    book.tokens.of(subject).filter(valid).count()
}

/// When a member's token ends that is made now, where nothing else is said.
pub(super) fn member_token_end(now: jiff::Timestamp) -> Option<jiff::Timestamp> {
    now.checked_add(jiff::SignedDuration::from_hours(24 * MEMBER_TOKEN_DAYS))
        .ok()
}

pub(super) fn token_name(name: Option<String>, default: &str) -> Result<String, Refusal> {
    let name = name.unwrap_or_else(|| default.to_owned());
    if name.is_empty() || name.len() > 80 || name.chars().any(char::is_control) {
        return Err(Refusal::BadTokenName);
    }
    Ok(name)
}
