//! Who runs what in a container: three users by number, whatever the image says of its own.

/// A user and a group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// The agent, process 1, as soon as it has left root behind. Nothing else in a container is of this user, and the
/// socket to the supervisor opens for its group alone.
pub const AGENT_USER: User = User {
    uid: 10_000,
    gid: 10_000,
};

/// Services, servers and all that they start. Volumes and `/tmp` belong to it.
pub const SERVER_USER: User = User {
    uid: 10_001,
    gid: 10_001,
};

/// What process 1 is started with, in the engine's words. The agent keeps the first three, to start and end processes
/// of another user; with the last it takes all of them from everything that it starts.
pub const AGENT_CAPABILITIES: [&str; 4] = ["SETUID", "SETGID", "KILL", "SETPCAP"];

impl User {
    /// The same user of a container as the host sees it, where the engine counts users from `base` on.
    #[must_use]
    pub fn on_host(self, base: User) -> User {
        User {
            uid: self.uid.saturating_add(base.uid),
            gid: self.gid.saturating_add(base.gid),
        }
    }
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}
