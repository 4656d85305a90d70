//! How many calls may be made.

/// The bound of the calls of one person, to one instance, or to all instances of one workspace. 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimit {
    /// Calls a second that can go on for ever. [`CallLimit::BURST`] seconds' worth may come together.
    pub per_second: u32,
    /// Calls under way at a time. [`CallLimit::STREAMS`] times as many streams may be listened on.
    pub at_once: u32,
}

impl CallLimit {
    /// So many seconds' worth of calls may come together after a pause.
    pub const BURST: u32 = 4;
    /// Streams that clients listen on, for each call under way that there may be; they are counted apart.
    pub const STREAMS: u32 = 4;
    /// The highest bound that can be written.
    pub const MOST: u32 = 1_000_000;
    /// No bound at all.
    pub const NONE: CallLimit = CallLimit {
        per_second: 0,
        at_once: 0,
    };
    /// Of a person, by default.
    pub const OF_A_MEMBER: CallLimit = CallLimit {
        per_second: 100,
        at_once: 64,
    };
    /// Of an instance, by default.
    pub const OF_AN_INSTANCE: CallLimit = CallLimit {
        per_second: 200,
        at_once: 256,
    };
    /// Of a workspace, by default.
    pub const OF_A_WORKSPACE: CallLimit = CallLimit {
        per_second: 1000,
        at_once: 1024,
    };
}
