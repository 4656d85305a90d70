//! The viewers of one screen, and which of them holds the controls: nobody, until somebody takes them. Pure.
//!
//! ```text
//! nobody ──take──► a viewer ──take by another──► the other
//!    ▲─────────── give back, or leave ─────────────┘
//! ```

use std::collections::BTreeMap;

use serde::Serialize;

/// Viewers of one screen at a time.
pub const MAX_VIEWERS: usize = 16;

/// Somebody who looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Viewer {
    /// Of which session they are.
    pub session: u64,
    pub by: String,
    pub may_control: bool,
}

/// What a viewer is told of the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    pub viewers: usize,
    pub control: Control,
    /// Who holds the controls, where that is somebody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    pub may_control: bool,
}

/// Who holds the controls, from one viewer's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Control {
    Nobody,
    You,
    Other,
}

/// Why a viewer does not get what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RoomError {
    #[error("{MAX_VIEWERS} people watch this screen already")]
    Full,
    #[error("this link is for looking only")]
    ViewOnly,
}

/// The viewers of one screen.
#[derive(Debug, Default)]
pub struct Room {
    viewers: BTreeMap<u64, Viewer>,
    holder: Option<u64>,
}

impl Room {
    /// Somebody comes, under a number that is nobody else's.
    ///
    /// # Errors
    /// [`RoomError::Full`].
    pub fn join(&mut self, number: u64, viewer: Viewer) -> Result<(), RoomError> {
        if self.viewers.len() >= MAX_VIEWERS {
            return Err(RoomError::Full);
        }
        self.viewers.insert(number, viewer);
        Ok(())
    }

    /// Somebody goes; the controls go back. Whether nobody is left.
    pub fn leave(&mut self, number: u64) -> bool {
        self.viewers.remove(&number);
        self.release(number);
        self.viewers.is_empty()
    }

    /// Takes the controls, from whoever holds them: who that was.
    ///
    /// # Errors
    /// [`RoomError::ViewOnly`].
    pub fn take(&mut self, number: u64) -> Result<Option<String>, RoomError> {
        if !self.viewers.get(&number).is_some_and(|v| v.may_control) {
            return Err(RoomError::ViewOnly);
        }
        let before = self.holder.replace(number).filter(|h| *h != number);
        Ok(before.and_then(|h| self.viewers.get(&h)).map(|v| v.by.clone()))
    }

    /// Gives the controls back; whether it held them.
    pub fn release(&mut self, number: u64) -> bool {
        let held = self.holder == Some(number);
        if held {
            self.holder = None;
        }
        held
    }

    /// Who holds the controls.
    pub fn holder(&self) -> Option<u64> {
        self.holder
    }

    /// Whether this number is a viewer of this session.
    pub fn is(&self, number: u64, session: u64) -> bool {
        self.viewers.get(&number).is_some_and(|v| v.session == session)
    }

    /// Whether a viewer has this number.
    pub fn has(&self, number: u64) -> bool {
        self.viewers.contains_key(&number)
    }

    /// What to tell a viewer.
    pub fn notice(&self, number: u64) -> Notice {
        let holder = self.holder.and_then(|h| self.viewers.get(&h));
        Notice {
            viewers: self.viewers.len(),
            control: match self.holder {
                None => Control::Nobody,
                Some(h) if h == number => Control::You,
                Some(_) => Control::Other,
            },
            by: holder.filter(|_| self.holder != Some(number)).map(|v| v.by.clone()),
            may_control: self.viewers.get(&number).is_some_and(|v| v.may_control),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer(by: &str, may_control: bool) -> Viewer {
        Viewer {
            session: 1,
            by: by.into(),
            may_control,
        }
    }

    #[test]
    fn the_controls_are_held_by_one_at_most() {
        let mut r = Room::default();
        r.join(1, viewer("ada", true)).unwrap();
        r.join(2, viewer("bob", true)).unwrap();
        r.join(3, viewer("eve", false)).unwrap();
        assert_eq!(r.notice(1).control, Control::Nobody);
        assert_eq!(r.take(1), Ok(None));
        assert_eq!(r.notice(1).control, Control::You);
        let seen = r.notice(2);
        assert_eq!(
            (seen.control, seen.by.as_deref(), seen.viewers),
            (Control::Other, Some("ada"), 3)
        );
        assert_eq!(r.take(3), Err(RoomError::ViewOnly));
        assert_eq!(r.take(9), Err(RoomError::ViewOnly), "nobody");
        assert_eq!(r.take(2), Ok(Some("ada".into())));
        assert_eq!(r.notice(1).by.as_deref(), Some("bob"));
        assert!(!r.release(1), "not its own any more");
        assert_eq!(r.holder(), Some(2));
        assert!(!r.leave(2));
        assert_eq!(r.holder(), None, "they go back with who held them");
        assert!(!r.leave(1));
        assert!(r.leave(3));
    }

    #[test]
    fn a_room_has_an_end() {
        let mut r = Room::default();
        for n in 0..MAX_VIEWERS as u64 {
            r.join(n, viewer("x", false)).unwrap();
        }
        assert_eq!(r.join(99, viewer("x", false)), Err(RoomError::Full));
        assert!(r.is(0, 1) && !r.is(0, 2) && !r.is(99, 1));
    }
}
