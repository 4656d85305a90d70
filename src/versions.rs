//! F1: versions of records: what of one is its settings, and the tag that changes with them. What the box finds out by itself is
//! none: state, failures, when something was last used, which version a package came to.

use std::fmt::Debug;

use sha2::{Digest, Sha256};

use crate::{
    model::Etag,
    record::{Edit, GrantRecord, InstanceRecord, MemberRecord, Sourced, TeamRecord, TokenRecord, WorkspaceRecord},
};

/// A record that people change.
pub trait Versioned {
    /// Its kind, apart from all others.
    const KIND: &'static str;

    /// Its settings and its key, as text.
    fn settings(&self) -> String;

    /// The last change of its settings.
    fn edited(&self) -> Option<&Edit>;

    /// Notes the last change of its settings.
    fn note_edit(&mut self, edit: Option<Edit>);

    /// Whether somebody who asked for this instead of `before` has changed its settings.
    fn differs(&self, before: &Self) -> bool {
        self.settings() != before.settings()
    }

    /// Its tag. The settings are part of it beside the count of changes: an older berth, which may have been here meanwhile,
    /// does not count.
    fn etag(&self) -> Etag {
        let counted = self.edited().map(|e| (e.revision, e.at));
        let text = format!("{} {} {counted:?}", Self::KIND, self.settings());
        Etag::of(&Sha256::digest(&text))
    }
}

macro_rules! versioned {
    ($($type:ty, $kind:literal, |$record:ident| $settings:expr;)*) => {$(
        impl Versioned for $type {
            const KIND: &'static str = $kind;

            fn settings(&self) -> String {
                let $record = self;
                text(&$settings)
            }

            fn edited(&self) -> Option<&Edit> {
                self.edited.as_ref()
            }

            fn note_edit(&mut self, edit: Option<Edit>) {
                self.edited = edit;
            }
        }
    )*};
}

versioned! {
    WorkspaceRecord, "workspace", |w| (&w.name, w.created_at, &w.quota, &w.allow);
    MemberRecord, "member", |m| (&m.name, m.created_at, m.owner, &m.workspaces, m.disabled_at);
    TeamRecord, "team", |t| (&t.id, t.created_at, &t.members);
    GrantRecord, "grant", |g| (&g.key, g.created_at, g.level, g.until);
    TokenRecord, "token", |t| (&t.id, t.created_at, &t.subject, &t.name, t.expires_at, &t.scope);
}

impl Versioned for InstanceRecord {
    const KIND: &'static str = "instance";

    fn settings(&self) -> String {
        let sourced = self.sourced.as_deref().map(asked_for);
        // Of values that are sealed: which there are, and when each was set.
        let values = (self.env.keys().collect::<Vec<_>>(), &self.marks);
        let own = (
            &self.id,
            &self.name,
            &self.workspace,
            self.created_at,
            self.size,
            self.desired,
        );
        text(&(own, values, sourced))
    }

    fn edited(&self) -> Option<&Edit> {
        self.edited.as_ref()
    }

    fn note_edit(&mut self, edit: Option<Edit>) {
        self.edited = edit;
    }

    /// Another type, or another version of its package, is a change where somebody asked for it, and none where the box found
    /// it out. A restart is none.
    fn differs(&self, before: &Self) -> bool {
        self.spec_hash != before.spec_hash || self.settings() != before.settings()
    }
}

/// What an instance of a generic type was asked to be.
fn asked_for(s: &Sourced) -> impl Debug {
    (
        &s.source,
        &s.network,
        &s.volume,
        &s.processes,
        s.call_timeout,
        s.pinned,
        &s.trial_of,
    )
}

fn text(settings: &impl Debug) -> String {
    format!("{settings:?}")
}
