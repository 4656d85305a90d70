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
    /// Somebody comes, under a number higher than all before. In a full room the first viewer of the session with the
    /// most gives way, where that has several: who that was.
    ///
    /// # Errors
    /// [`RoomError::Full`]: so many sessions watch.
    pub fn join(&mut self, number: u64, viewer: Viewer) -> Result<Option<u64>, RoomError> {
        let mut gone = None;
        if self.viewers.len() >= MAX_VIEWERS {
            let mut sessions: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
            for (n, v) in &self.viewers {
                sessions.entry(v.session).or_insert((0, *n)).0 += 1;
            }
            let most = sessions
                .into_values()
                .max_by_key(|(count, first)| (*count, u64::MAX - first));
            let (_, first) = most.filter(|(count, _)| *count > 1).ok_or(RoomError::Full)?;
            self.leave(first);
            gone = Some(first);
        }
        self.viewers.insert(number, viewer);
        Ok(gone)
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
        let of = |session| Viewer {
            session,
            ..viewer("x", false)
        };
        for n in 0..MAX_VIEWERS as u64 {
            assert_eq!(r.join(n, of(n)), Ok(None));
        }
        assert_eq!(r.join(99, of(99)), Err(RoomError::Full));
        assert!(r.is(0, 0) && !r.is(0, 2) && !r.is(99, 99));
    }

    #[test]
    fn a_session_that_fills_a_room_keeps_nobody_out() {
        let mut r = Room::default();
        for n in 0..MAX_VIEWERS as u64 {
            r.join(n, viewer("eve", true)).unwrap();
        }
        r.take(0).unwrap();
        let ada = Viewer {
            session: 2,
            ..viewer("ada", true)
        };
        assert_eq!(r.join(90, ada), Ok(Some(0)));
        assert_eq!(r.holder(), None, "what it held goes back");
        assert_eq!(r.join(91, viewer("eve", true)), Ok(Some(1)), "its own, not ada's");
        assert!(r.has(90) && !r.has(0) && !r.has(1) && r.has(91));
    }
}
