//! The table of doors.

use std::time::Duration;

use crate::{
    api::{MAX_WAIT, Route},
    model::{InstanceId, Via},
    policy::{self, Verb},
    session::Cookie,
};

/// Under which hosts an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// `mcp-{id}.{domain}`.
    Mcp,
    /// `vnc-{id}.{domain}`.
    Vnc,
    /// A name or an address of the box itself.
    Own,
    /// Any that is no instance's: a box cannot know what its network calls it. What is there trusts no name.
    Any,
}

impl Host {
    /// What stands before the instance's id, for hosts of instances.
    const fn prefix(self) -> Option<&'static str> {
        match self {
            Host::Mcp => Some("mcp-"),
            Host::Vnc => Some("vnc-"),
            Host::Own | Host::Any => None,
        }
    }

    /// Whose host a label before the domain is, and the instance that it names.
    pub(super) fn of_instance(label: &str) -> Option<(Host, InstanceId)> {
        let named = |host: &Host| {
            let (head, id) = label.split_at_checked(host.prefix()?.len())?;
            head.eq_ignore_ascii_case(host.prefix()?).then_some((*host, id))
        };
        let (host, id) = [Host::Mcp, Host::Vnc].iter().find_map(named)?;
        let id = if id.bytes().any(|b| b.is_ascii_uppercase()) {
            InstanceId::parse(&id.to_ascii_lowercase())
        } else {
            InstanceId::parse(id)
        };
        Some((host, id.ok()?))
    }
}

/// The paths of an address. They compare byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// That one.
    Is(&'static str),
    /// That one, or with a slash more at its end.
    Ends(&'static str),
    /// What begins with it.
    Below(&'static str),
    /// All.
    All,
    /// An instance's id between these two, perhaps with a slash more at the end.
    Instance(&'static str, &'static str),
    /// An instance's id behind that, and what follows from a slash on: that is the door's own path.
    InstanceAnd(&'static str),
}

/// What a path says.
pub(super) struct Said {
    pub(super) instance: Option<InstanceId>,
    /// So many bytes of it only lead to the door.
    pub(super) leads: usize,
}

impl Path {
    /// What a path says, if it is one of these.
    pub(super) fn matches(self, path: &str) -> Option<Said> {
        let without_slash = || path.strip_suffix('/').unwrap_or(path);
        let nothing = Said {
            instance: None,
            leads: 0,
        };
        match self {
            Path::Is(this) => (path == this).then_some(nothing),
            Path::Ends(this) => (without_slash() == this).then_some(nothing),
            Path::Below(this) => path.starts_with(this).then_some(nothing),
            Path::All => Some(nothing),
            Path::Instance(before, after) => {
                let id = without_slash().strip_prefix(before)?.strip_suffix(after)?;
                // An id that is none is not worth the words of its error.
                let id = Some(id).filter(|id| !id.contains('/'))?;
                Some(Said {
                    instance: Some(InstanceId::parse(id).ok()?),
                    leads: 0,
                })
            }
            Path::InstanceAnd(before) => {
                let rest = path.strip_prefix(before)?;
                let end = rest.find('/').unwrap_or(rest.len());
                Some(Said {
                    instance: Some(InstanceId::parse(&rest[..end]).ok()?),
                    leads: before.len() + end,
                })
            }
        }
    }
}

/// Which methods a door knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Methods {
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

impl Methods {
    /// Whether it knows this one.
    pub fn hold(self, method: &str) -> bool {
        match self {
            Methods::Only(these) => these.contains(&method),
            Methods::AllBut(these) => !these.contains(&method),
        }
    }

    /// Those of the usual ones that it knows.
    pub fn known(self) -> impl Iterator<Item = &'static str> {
        const USUAL: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        USUAL.into_iter().filter(move |method| self.hold(method))
    }
}

/// Whose pages a browser may let ask there; a request without `Origin` is no page's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origins {
    /// The box's own, those of the person's own machine, and those that the configuration names. They are told that they may.
    Callers,
    /// The box's own.
    Ours,
    /// What changes something is asked by a page of the very host that is asked, which says so itself. What is only read may be
    /// led to from anywhere.
    Host,
    /// The door's handler says.
    Handlers,
}

/// What somebody shows who comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// A token (RFC 6750).
    Bearer,
    /// The cookie of this name, which keeps a session. It is shown by whoever the box's own pages are asked by, so that what
    /// changes something has to come from one ([`crate::session::needs_own_page`]).
    Session(&'static str),
    /// Nothing: everybody comes in, and is nobody.
    Nobody(Via),
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Most {
    /// That of the configuration.
    Configured,
    /// So many, or that of the configuration where it is lower.
    Lower(u64),
    /// So many.
    Fixed(u64),
}

impl Most {
    /// In bytes, where the configuration has `configured`.
    pub fn bytes(self, configured: usize) -> u64 {
        match self {
            Most::Configured => configured as u64,
            Most::Lower(this) => this.min(configured as u64),
            Most::Fixed(this) => this,
        }
    }
}

/// The bounds of a request. Bodies stream both ways; a piece has the configuration's time, and an answer that has begun
/// lasts as long as what was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The request's body.
    pub body: Most,
    /// How long the answer may take to begin, from the request's head on. None: the configuration's time, from when the body
    /// has come or must have.
    pub answer: Option<Duration>,
}

/// How errors are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    JsonRpc,
    /// As the HTTP API tells them.
    Plain,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// The instance, at this path of its agent.
    Instance(&'static str),
    /// The instance's screen.
    Screen,
    /// The box itself: what the assembly puts behind its doors.
    Box,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub at: &'static [(Host, Path)],
    pub methods: Methods,
    pub origins: Origins,
    /// What is looked for, in this order; the first that is shown counts.
    pub auth: &'static [Auth],
    /// What whoever shows something must be allowed to do to what the door is of.
    pub verb: Verb,
    /// Whether it is open before somebody has claimed the box, where the configuration asks for that.
    pub unclaimed: bool,
    pub bounds: Bounds,
    pub errors: Errors,
    pub handler: Handler,
}

macro_rules! doors {
    ($($(#[$doc:meta])* $name:ident: $row:expr,)*) => {
        /// A door of the box, for those who come over the network.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Door { $($(#[$doc])* $name,)* }

        impl Door {
            /// All of them.
            pub const ALL: &[Door] = &[$(Door::$name,)*];

            /// Its row of the table.
            pub const fn row(self) -> &'static Row {
                match self {
                    $(Door::$name => { static ROW: Row = $row; &ROW })*
                }
            }
        }
    };
}

impl Row {
    /// As what somebody comes in who shows nothing of their own.
    pub fn via(&self) -> Via {
        let nobody = self.auth.iter().find_map(|auth| match auth {
            Auth::Nobody(via) => Some(*via),
            Auth::Bearer | Auth::Session(_) => None,
        });
        nobody.unwrap_or(match self.handler {
            Handler::Instance(_) => Via::Endpoint,
            Handler::Screen => Via::Screen,
            Handler::Box => Via::Api,
        })
    }
}

/// What keeps a session of a screen.
pub const SCREEN_COOKIE: &str = "screen";
/// What keeps a session of the console.
pub const CONSOLE_COOKIE: &str = "console";

const ENDPOINT: Row = Row {
    at: &[],
    methods: Methods::AllBut(&["CONNECT", "TRACE"]),
    origins: Origins::Callers,
    auth: &[Auth::Bearer],
    verb: Verb::Call,
    unclaimed: false,
    bounds: Bounds {
        body: Most::Configured,
        answer: None,
    },
    errors: Errors::JsonRpc,
    handler: Handler::Instance("/mcp"),
};

const OWN: Row = Row {
    at: &[],
    methods: Methods::Only(&["GET", "HEAD"]),
    origins: Origins::Ours,
    auth: &[],
    verb: Verb::UseApi,
    unclaimed: true,
    bounds: Bounds {
        body: Most::Fixed(0),
        answer: None,
    },
    errors: Errors::Plain,
    handler: Handler::Box,
};

doors! {
    /// An instance's MCP endpoint. Some clients want a path that ends in `/mcp`.
    Mcp: Row {
        at: &[
            (Host::Mcp, Path::Ends("/mcp")),
            (Host::Own, Path::Instance("/mcp/", "")),
            (Host::Own, Path::Instance("/", "/mcp")),
        ],
        ..ENDPOINT
    },
    /// The same for clients of the transport of 2024-11-05 (HTTP with SSE).
    Sse: Row {
        at: &[(Host::Mcp, Path::Ends("/sse")), (Host::Own, Path::Instance("/", "/sse"))],
        handler: Handler::Instance("/sse"),
        ..ENDPOINT
    },
    /// An instance's screen: its page, and what belongs to it.
    Screen: Row {
        at: &[(Host::Vnc, Path::All), (Host::Own, Path::InstanceAnd("/vnc/"))],
        methods: Methods::Only(&["GET"]),
        origins: Origins::Handlers,
        auth: &[Auth::Session(SCREEN_COOKIE), Auth::Nobody(Via::Screen)],
        verb: Verb::ViewScreen,
        unclaimed: false,
        handler: Handler::Screen,
        ..OWN
    },
    /// The console's pages. Whoever has no session is shown how to get one.
    Console: Row {
        at: &[
            (Host::Any, Path::Is("/")),
            (Host::Any, Path::Is("/claim")),
            (Host::Any, Path::Is("/set-passphrase")),
            (Host::Any, Path::Below("/sign-in")),
            (Host::Any, Path::Is("/sign-out")),
            (Host::Any, Path::Below("/account")),
            (Host::Any, Path::Below("/people")),
        ],
        methods: Methods::Only(&["GET", "HEAD", "POST"]),
        origins: Origins::Host,
        auth: &[Auth::Session(CONSOLE_COOKIE), Auth::Nobody(Via::Console)],
        bounds: Bounds { body: Most::Fixed(16 * 1024), answer: None },
        ..OWN
    },
    /// What pages are made of, for everybody.
    Assets: Row {
        at: &[(Host::Any, Path::Below("/assets/"))],
        origins: Origins::Host,
        auth: &[Auth::Nobody(Via::Page)],
        verb: Verb::SeePage,
        ..OWN
    },
    /// Where browsers report what a page was not allowed to do (CSP level 3). They say so without a page's origin.
    Reports: Row {
        at: &[(Host::Any, Path::Is("/csp-reports"))],
        methods: Methods::Only(&["POST"]),
        origins: Origins::Handlers,
        auth: &[Auth::Nobody(Via::Page)],
        verb: Verb::SeePage,
        bounds: Bounds { body: Most::Fixed(8 * 1024), answer: None },
        ..OWN
    },
    /// Claiming, for everybody: wherever it comes from, only a wrong one is slowed down.
    Claim: Row {
        at: &[(Host::Any, Path::Is("/api/claim"))],
        methods: Methods::Only(&["GET", "POST"]),
        auth: &[Auth::Nobody(Via::Claim)],
        verb: Verb::SeeClaim,
        bounds: Bounds { body: Most::Fixed(4096), answer: None },
        ..OWN
    },
    /// The HTTP API, for members.
    Api: Row {
        at: &[(Host::Any, Path::Below("/api/"))],
        methods: Methods::AllBut(&["CONNECT", "TRACE", "OPTIONS"]),
        auth: &[Auth::Bearer],
        unclaimed: false,
        bounds: Bounds { body: Most::Lower(1024 * 1024), answer: None },
        ..OWN
    },
}

/// Where the API is; its routes are those of [`Route`] below it.
pub const API: &str = "/api";

/// A wait that ends without what was waited for is answered before this is over.
const WAIT: Duration = Duration::from_millis(MAX_WAIT as u64 + 30_000);

/// Routes of the API that have bounds of their own.
const BOUNDS: &[(Route, Bounds)] = &[
    (
        Route::LoadImages,
        Bounds {
            body: Most::Fixed(32 << 30),
            answer: Some(Duration::from_secs(3600)),
        },
    ),
    (
        Route::Wait,
        Bounds {
            body: Most::Lower(1024 * 1024),
            answer: Some(WAIT),
        },
    ),
];

/// Routes of the API whose answers look themselves, as long as they last, at what their asker may.
const WATCHING: &[Route] = &[Route::Events];

impl Door {
    /// Whether an answer there looks itself at what its asker may, as long as it lasts.
    pub fn watches(self, method: &str, path: &str) -> bool {
        let route = (self == Door::Api)
            .then(|| Route::find(method, path.strip_prefix(API)?))
            .flatten();
        route.is_some_and(|(route, _)| WATCHING.contains(&route))
    }

    /// The methods at a path of this door.
    pub fn methods(self, path: &str) -> Methods {
        let routes = (self == Door::Api)
            .then(|| path.strip_prefix(API).map(Route::methods))
            .flatten();
        routes
            .filter(|m| !m.is_empty())
            .map_or(self.row().methods, Methods::Only)
    }

    /// The bounds of a request at this door.
    pub fn bounds(self, method: &str, path: &str) -> Bounds {
        let route = (self == Door::Api)
            .then(|| Route::find(method, path.strip_prefix(API)?))
            .flatten();
        let own = route.and_then(|(route, _)| BOUNDS.iter().find(|(r, _)| *r == route));
        own.map_or(self.row().bounds, |(_, bounds)| *bounds)
    }
}

/// Where a request goes. Whether the instance exists is not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub door: Door,
    /// The instance whose door it is; of the box where it is none's.
    pub instance: Option<InstanceId>,
    /// So many bytes of the path only lead to the door; the rest is its own.
    pub leads: usize,
}

impl Place {
    /// What the door is of, as policy knows it.
    pub fn target(&self) -> policy::Target<'_> {
        self.instance
            .as_ref()
            .map_or(policy::Target::Box, policy::Target::Instance)
    }

    /// The cookie of this name here; `path` is the request's.
    pub fn cookie(&self, name: &str, path: &str) -> Cookie {
        match (&self.instance, &path[..self.leads]) {
            (Some(id), door) if !door.is_empty() => Cookie::of_path(&format!("{name}-{id}"), format!("{door}/")),
            _ => Cookie::of_host(name),
        }
    }
}

/// The door at a path below a kind of host, and the instance that the path names.
pub(super) fn find(host: Host, path: &str) -> Option<Place> {
    let there = |door: &Door| {
        let paths = door.row().at.iter().filter(|(h, _)| *h == host);
        let said = paths.filter_map(|(_, p)| p.matches(path)).next()?;
        Some(Place {
            door: *door,
            instance: said.instance,
            leads: said.leads,
        })
    };
    Door::ALL.iter().find_map(there)
}

/// How errors are told at a path that no door was found for: as at that path of the box.
pub fn errors_at(path: &str) -> Errors {
    find(Host::Any, path).map_or(Errors::JsonRpc, |place| place.door.row().errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_door_of_an_instance_says_whose() {
        for door in Door::ALL {
            let row = door.row();
            assert!(!row.at.is_empty() && !row.auth.is_empty(), "{door:?}");
            let of_instances = row.handler != Handler::Box;
            for (host, path) in row.at {
                let named = host.prefix().is_some() || matches!(path, Path::Instance(..) | Path::InstanceAnd(_));
                assert_eq!(named, of_instances, "{door:?} at {host:?} {path:?}");
            }
        }
    }

    /// Whoever shows nothing comes in where the table says so, and nowhere else.
    #[test]
    fn only_these_doors_are_open_to_everybody() {
        let open = |d: &&Door| d.row().auth.iter().any(|a| matches!(a, Auth::Nobody(_)));
        let open: Vec<&Door> = Door::ALL.iter().filter(open).collect();
        assert_eq!(
            open,
            [
                &Door::Screen,
                &Door::Console,
                &Door::Assets,
                &Door::Reports,
                &Door::Claim
            ]
        );
        let unclaimed: Vec<&Door> = Door::ALL.iter().filter(|d| d.row().unclaimed).collect();
        assert_eq!(unclaimed, [&Door::Console, &Door::Assets, &Door::Reports, &Door::Claim]);
    }

    #[test]
    fn bounds_are_those_of_the_door_or_of_the_route() {
        let bytes = |door: Door, method, path| door.bounds(method, path).body.bytes(8 << 20);
        for (door, method, path, most) in [
            (Door::Mcp, "POST", "/mcp", 8 << 20),
            (Door::Screen, "GET", "/", 0),
            (Door::Console, "POST", "/sign-in", 16 << 10),
            (Door::Assets, "GET", "/assets/x", 0),
            (Door::Reports, "POST", "/csp-reports", 8 << 10),
            (Door::Claim, "POST", "/api/claim", 4096),
            (Door::Api, "POST", "/api/v1/actions", 1 << 20),
            (Door::Api, "GET", "/api/v1/images", 1 << 20),
            (Door::Api, "POST", "/api/v1/images", 32 << 30),
            (Door::Api, "POST", "/api/v1/images/x", 1 << 20),
            (Door::Api, "POST", "/api/api/v1/images", 1 << 20),
        ] {
            assert_eq!(bytes(door, method, path), most, "{method} {path}");
        }
        let wait = Door::Api.bounds("GET", "/api/v1/instances/x/wait");
        assert_eq!(
            (wait.answer, wait.body),
            (Some(Duration::from_secs(330)), Most::Lower(1 << 20))
        );
        assert_eq!(Most::Lower(1 << 20).bytes(4096), 4096);
        assert_eq!(Most::Fixed(4096).bytes(1024), 4096);
    }

    #[test]
    fn events_alone_watch_what_their_asker_may() {
        assert!(Door::Api.watches("GET", "/api/v1/events"));
        for (door, path) in [
            (Door::Api, "/api/v1/audit"),
            (Door::Api, "/api/v1/events/x"),
            (Door::Mcp, "/api/v1/events"),
        ] {
            assert!(!door.watches("GET", path), "{path}");
        }
    }

    #[test]
    fn methods_are_those_of_the_door_or_of_the_route() {
        let known = |door: Door, path| door.methods(path).known().collect::<Vec<_>>().join(", ");
        assert_eq!(known(Door::Console, "/"), "GET, HEAD, POST");
        assert_eq!(known(Door::Mcp, "/mcp"), "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        assert_eq!(known(Door::Api, "/api/v1/actions"), "POST");
        assert_eq!(known(Door::Api, "/api/v1/images"), "GET, HEAD, POST");
        assert_eq!(
            known(Door::Api, "/api/v1/nothing"),
            "GET, HEAD, POST, PUT, PATCH, DELETE"
        );
    }

    #[test]
    fn a_cookie_goes_no_further_than_its_door() {
        let id = "abcdefghij";
        let at = |host, path| {
            let place = find(host, path).unwrap();
            let instance = Some(InstanceId::parse(id).unwrap());
            Place { instance, ..place }.cookie("screen", path)
        };
        assert_eq!(at(Host::Vnc, "/a/b"), Cookie::of_host("screen"));
        let by_path = Cookie::of_path("screen-abcdefghij", "/vnc/abcdefghij/".into());
        for path in ["/vnc/abcdefghij", "/vnc/abcdefghij/", "/vnc/abcdefghij/a"] {
            assert_eq!(at(Host::Own, path), by_path, "{path}");
        }
        assert_eq!(
            find(Host::Any, "/").unwrap().cookie("console", "/"),
            Cookie::of_host("console")
        );
    }

    #[test]
    fn methods() {
        for (door, known, unknown) in [
            (Door::Mcp, "GET POST DELETE PUT OPTIONS BREW", "CONNECT TRACE"),
            (Door::Screen, "GET", "HEAD POST OPTIONS"),
            (Door::Console, "GET HEAD POST", "PUT OPTIONS"),
            (Door::Assets, "GET HEAD", "POST OPTIONS"),
            (Door::Reports, "POST", "GET HEAD OPTIONS"),
            (Door::Claim, "GET POST", "HEAD PUT OPTIONS"),
            (Door::Api, "GET HEAD POST PUT DELETE", "CONNECT TRACE OPTIONS"),
        ] {
            let holds = |m: &str| door.row().methods.hold(m);
            assert!(known.split(' ').all(holds), "{door:?}");
            assert!(!unknown.split(' ').any(holds), "{door:?}");
        }
    }
}
