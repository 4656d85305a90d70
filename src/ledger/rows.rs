//! What the log and the audit are told of actions: who asked for what, on what, what it changes. Never a value that is secret.

use super::{Came, books::Books, changes};
use crate::{
    api::Code,
    model::{Action, AuditKind, AuditOutcome, AuditRow, Grantee, InstanceId, Principal, Refusal, Subject, TokenId},
    policy::{self, Access, Signed, Target, Verb},
    store::Change,
};

/// An action, as it is told: who, how, what, on what.
pub(super) struct Note {
    by: Principal,
    verb: Verb,
    on: String,
    workspace: Option<String>,
    instance: Option<InstanceId>,
    at: jiff::Timestamp,
}

impl Note {
    pub(super) fn of(action: &Signed<Action>, access: &Access) -> Self {
        let (verb, target) = policy::asked(action.what());
        Self::about(action.by(), verb, target, access)
    }

    pub(super) fn about(by: &Principal, verb: Verb, target: Target<'_>, access: &Access) -> Self {
        let instance = match target {
            Target::Instance(id) | Target::Grant(_, id) => Some(id.clone()),
            Target::Token(id) => access.tokens.get(id).and_then(|t| t.subject.instance()).cloned(),
            _ => None,
        };
        let workspace = match target {
            Target::Workspace(name) | Target::Membership(_, name) | Target::Team(name, _) => Some(name.to_string()),
            _ => instance
                .as_ref()
                .and_then(|id| access.workspace_of(id))
                .map(ToString::to_string),
        };
        let on = match target {
            Target::Box => "box".to_owned(),
            Target::Instance(id) => format!("instance {id}"),
            Target::Member(name) => format!("member {name}"),
            Target::Token(id) => match access.tokens.get(id).map(|t| &t.subject) {
                Some(Subject::Member(name)) => format!("token {id} of member {name}"),
                Some(Subject::Instance(of)) => format!("token {id} of instance {of}"),
                None => format!("token {id}"),
            },
            Target::Workspace(name) => format!("workspace {name}"),
            Target::Membership(name, workspace) => format!("member {name} in workspace {workspace}"),
            Target::Team(workspace, name) => format!("team {workspace}/{name}"),
            Target::Grant(to, id) => match to {
                Grantee::Member(name) => format!("instance {id} to member {name}"),
                Grantee::Team(team) => format!("instance {id} to team {team}"),
            },
        };
        let (by, at) = (by.clone(), jiff::Timestamp::now());
        Self {
            by,
            verb,
            on,
            workspace,
            instance,
            at,
        }
    }

    /// For the log, once it is durable. What is new by it is named as well: an instance, or a token by its public id.
    pub(super) fn accepted(&self, came: &Came) {
        let made = match came {
            Came::Instance(id, Some(_)) => id.as_str(),
            Came::Token(made) => made.view.id.as_str(),
            Came::Workspace(name) if self.verb == Verb::AddWorkspace => name.as_str(),
            Came::Member(name) => name.as_str(),
            Came::SignInLink(link) => link.member.as_str(),
            Came::Disabled(_)
            | Came::Instance(_, None)
            | Came::Workspace(_)
            | Came::Team(_)
            | Came::Grant(_)
            | Came::Denied(_)
            | Came::Done => "",
        };
        let token = self.by.token().map_or("", TokenId::as_str);
        let (by, via, verb, on) = (
            self.by.name(),
            self.by.via().as_str(),
            self.verb.as_str(),
            self.on.as_str(),
        );
        log::info!(by = by.as_str(), via, token, verb, on, made; "accepted: {verb} {on}");
    }

    /// For the audit, before it is durable: what it changes of these books.
    pub(super) fn begins(&self, books: &Books, changes: &[Change]) -> AuditRow<'static> {
        let (changes, more) = changes::told(books, changes);
        let mut row = self.row(AuditKind::Act, AuditOutcome::Ok);
        row.changes = changes;
        row.omitted = Some(more as u64).filter(|n| *n > 0);
        row
    }

    /// For the audit: it came to nothing.
    pub(super) fn failed(&self, why: &Refusal) -> AuditRow<'static> {
        let fault = Code::find(why.code()).is_none_or(|row| row.status >= 500);
        let mut row = match fault {
            true => self.row(AuditKind::Act, AuditOutcome::Failed),
            false => self.row(AuditKind::Refusal, AuditOutcome::Refused),
        };
        row.code = Some(why.code().into());
        row
    }

    fn row(&self, kind: AuditKind, outcome: AuditOutcome) -> AuditRow<'static> {
        let mut row = AuditRow::new(self.at, kind, outcome).asked_by(&self.by);
        row.action = Some(self.verb.as_str().into());
        row.on = Some(self.on.as_str().into());
        row.workspace = self.workspace.as_deref().map(Into::into);
        row.instance = self.instance.as_ref().map(|id| id.as_str().into());
        row.into_owned()
    }
}

/// For the audit: what somebody asked for that is no action of the ledger's.
pub fn row(
    (kind, outcome): (AuditKind, AuditOutcome),
    by: &Principal,
    (verb, target): (Verb, Target<'_>),
    access: &Access,
) -> AuditRow<'static> {
    Note::about(by, verb, target, access).row(kind, outcome)
}
