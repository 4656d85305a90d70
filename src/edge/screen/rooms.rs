//! What all screens share: a room for each that somebody looks at. Locks are held
//! for a few instructions and never across an await.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::watch;

use crate::{
    model::{InstanceId, Scope},
    screen::room::{Notice, Room, RoomError, Viewer},
    session::Session,
};

/// All rooms.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    open: Mutex<HashMap<InstanceId, Arc<Shared>>>,
    next: AtomicU64,
}

/// A screen's room, and the bell that rings when something in it changed.
#[derive(Debug)]
pub(super) struct Shared {
    room: Mutex<Room>,
    changed: watch::Sender<u64>,
}

/// A viewer's place in a room; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    rooms: Arc<Rooms>,
    id: InstanceId,
    shared: Arc<Shared>,
    pub(super) number: u64,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rooms {
    /// A place in the screen's room.
    pub(super) fn sit(self: &Arc<Self>, id: &InstanceId, session: &Session) -> Result<Seat, RoomError> {
        let mut rooms = lock(&self.open);
        let fresh = || {
            Arc::new(Shared {
                room: Mutex::default(),
                changed: watch::channel(0).0,
            })
        };
        let shared = rooms.get(id).cloned().unwrap_or_else(fresh);
        let number = self.next.fetch_add(1, Relaxed) + 1;
        let viewer = Viewer {
            session: session.number,
            by: session.by.name(),
            may_control: may_control(session, id),
        };
        if let Some(gone) = lock(&shared.room).join(number, viewer)? {
            log::info!(instance = id.as_str(), viewer = gone; "a viewer of a screen gave way to another");
        }
        rooms.insert(id.clone(), Arc::clone(&shared));
        shared.ring();
        Ok(Seat {
            rooms: Arc::clone(self),
            id: id.clone(),
            shared,
            number,
        })
    }

    /// The room of a viewer of this session, for its second socket.
    pub(super) fn room_of(&self, id: &InstanceId, number: u64, session: &Session) -> Option<Arc<Shared>> {
        let shared = lock(&self.open).get(id).cloned()?;
        let there = lock(&shared.room).is(number, session.number);
        there.then_some(shared)
    }
}

impl Shared {
    fn ring(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Whether the viewer of this number holds the controls now.
    pub(super) fn holds(&self, number: u64) -> bool {
        lock(&self.room).holder() == Some(number)
    }

    /// Whether the viewer of this number is still there.
    pub(super) fn has(&self, number: u64) -> bool {
        lock(&self.room).has(number)
    }

    /// Rings at every change.
    pub(super) fn bell(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl Seat {
    pub(super) fn notice(&self) -> Notice {
        lock(&self.shared.room).notice(self.number)
    }

    pub(super) fn bell(&self) -> watch::Receiver<u64> {
        self.shared.bell()
    }

    /// Whether it was not taken away: a room is full, and others need places.
    pub(super) fn is_kept(&self) -> bool {
        self.shared.has(self.number)
    }

    /// Takes the controls; who held them.
    pub(super) fn take(&self) -> Result<Option<String>, RoomError> {
        let before = lock(&self.shared.room).take(self.number)?;
        self.shared.ring();
        Ok(before)
    }

    /// Gives the controls back; whether it held them.
    pub(super) fn release(&self) -> bool {
        let held = lock(&self.shared.room).release(self.number);
        self.shared.ring();
        held
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut rooms = lock(&self.rooms.open);
        if lock(&self.shared.room).leave(self.number) {
            rooms.remove(&self.id);
        }
        self.shared.ring();
    }
}

/// Whether whoever looks may also hold the controls.
pub(super) fn may_control(session: &Session, id: &InstanceId) -> bool {
    matches!(session.by.scope(), Scope::Screen { instance, control: true } if instance == id)
}
