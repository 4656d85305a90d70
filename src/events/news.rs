//! One change of one record, and for whom what they may see changed. Pure.

use std::collections::BTreeSet;

use crate::{
    api::{Event, EventChange, EventKind, EventRecord},
    model::{InstanceId, InstanceView, MemberName, MemberView, Principal, Who},
    policy::{Known, Reading},
};

/// A record changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    pub event: Event,
    /// Whoever may read the record may hear of it.
    pub reading: Reading,
    /// Of what was removed: who could read it, beside owners.
    pub gone_for: BTreeSet<MemberName>,
    /// A member as they were, where what changed is their workspaces, teams or role alone: not everybody who sees them sees all
    /// of these.
    pub was: Option<Box<MemberView>>,
}

impl News {
    /// Whether somebody may hear of it now.
    pub fn is_open(&self, known: Known<'_>, by: &Principal) -> bool {
        let could = |name: &MemberName| self.gone_for.contains(name) && known.access.member(name).is_some();
        self.reading.is_open(known, by) || matches!(by.who(), Who::Member(name) if could(name))
    }

    /// An instance that is shown otherwise than before, or for the first time.
    pub fn of_instance(view: InstanceView, change: EventChange, at: jiff::Timestamp) -> News {
        let reading = Reading::from(&view);
        let mut news = Self::bare(&view, change, at, reading);
        news.event.record = Some(EventRecord::Instance(Box::new(view)));
        news
    }

    /// An instance that is gone.
    pub fn of_gone_instance(view: &InstanceView, gone_for: BTreeSet<MemberName>, at: jiff::Timestamp) -> News {
        News {
            gone_for,
            ..Self::bare(view, EventChange::Removed, at, Reading::from(view))
        }
    }

    fn bare(view: &InstanceView, change: EventChange, at: jiff::Timestamp, reading: Reading) -> News {
        News {
            event: Event {
                kind: EventKind::Instance,
                change,
                id: view.id.to_string(),
                name: view.name.to_string(),
                workspace: Some(view.workspace.clone()),
                instance: Some(view.id.clone()),
                at,
                record: None,
            },
            reading,
            gone_for: BTreeSet::new(),
            was: None,
        }
    }

    /// Whether it is of this instance, or of what belongs to it.
    pub fn is_of(&self, instance: &InstanceId) -> bool {
        self.event.instance.as_ref() == Some(instance)
    }
}

/// For whom what they may see changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Concerned {
    members: BTreeSet<MemberName>,
}

impl Concerned {
    /// That member.
    pub fn member(&mut self, name: &MemberName) {
        self.members.insert(name.clone());
    }

    /// These as well.
    pub fn add(&mut self, others: Concerned) {
        self.members.extend(others.members);
    }

    /// Whether it is nobody.
    pub fn is_nobody(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether somebody is one of them.
    pub fn holds(&self, by: &Principal) -> bool {
        matches!(by.who(), Who::Member(name) if self.members.contains(name))
    }
}
