//! The table of routes: method, path, parameters. `{instance}` stands for an id or a name.

/// What stands for an instance in a path.
const INSTANCE: &str = "{instance}";

/// What a parameter of a query may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// `0` or `1`.
    Flag,
    /// An unsigned number below 2^32.
    Number,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

impl Value {
    /// Whether a text is one.
    pub fn fits(self, text: &str) -> bool {
        match self {
            Value::Flag => matches!(text, "0" | "1"),
            Value::Number => text.parse::<u32>().is_ok(),
            Value::OneOf(words) => words.contains(&text),
        }
    }
}

/// A route, as the table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub method: &'static str,
    /// Below the root of the API; `{instance}` stands for an id or a name.
    pub path: &'static str,
    pub query: &'static [(&'static str, Value)],
}

macro_rules! routes {
    ($($(#[$doc:meta])* $name:ident: $method:literal $path:literal $query:expr,)*) => {
        /// All routes of the API, behind the admin socket and below `/api` alike.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Route { $($(#[$doc])* $name,)* }

        impl Route {
            /// All of them.
            pub const ALL: &[Route] = &[$(Route::$name,)*];

            /// Its row of the table.
            pub const fn row(self) -> Row {
                match self {
                    $(Route::$name => Row { method: $method, path: $path, query: $query },)*
                }
            }
        }
    };
}

// Behind each what is sent and answered; JSON where nothing else is said.
routes! {
    /// An [`Action`](crate::model::Action) in, its [`Outcome`](crate::model::Outcome) out.
    Act: "POST" "/v1/actions" &[],
    /// [`Status`](super::Status).
    Status: "GET" "/v1/status" &[],
    /// [`Whoami`](super::Whoami): who asks, and which box it is.
    Whoami: "GET" "/v1/whoami" &[],
    /// An array of [`TypeView`](super::TypeView).
    Types: "GET" "/v1/types" &[],
    /// An array of [`ImageView`](super::ImageView).
    Images: "GET" "/v1/images" &[],
    /// An archive of images (`docker save`) in, an array of the names that were loaded out.
    LoadImages: "POST" "/v1/images" &[],
    /// An array of [`TokenView`](crate::model::TokenView).
    Tokens: "GET" "/v1/tokens" &[],
    /// An array of [`WorkspaceView`](crate::model::WorkspaceView).
    Workspaces: "GET" "/v1/workspaces" &[],
    /// An array of [`MemberView`](crate::model::MemberView).
    Members: "GET" "/v1/members" &[],
    /// An array of [`TeamView`](crate::model::TeamView).
    Teams: "GET" "/v1/teams" &[],
    /// An array of [`GrantView`](crate::model::GrantView).
    Grants: "GET" "/v1/grants" &[],
    /// PEM.
    Ca: "GET" "/v1/ca" &[],
    /// [`Doctored`](super::Doctored).
    Doctor: "GET" "/v1/doctor" &[("json", Value::Flag), ("hardening", Value::Flag)],
    /// Prometheus text.
    Metrics: "GET" "/metrics" &[],
    /// An array of [`InstanceView`](crate::model::InstanceView).
    Instances: "GET" "/v1/instances" &[],
    /// [`InstanceView`](crate::model::InstanceView).
    Instance: "GET" "/v1/instances/{instance}" &[],
    /// [`InstanceView`](crate::model::InstanceView), or 204 once it is gone, or 408.
    Wait: "GET" "/v1/instances/{instance}/wait"
        &[("for", Value::OneOf(&["settled", "stopped", "gone"])), ("ms", Value::Number)],
    /// An array of [`CredentialView`](crate::model::CredentialView), never a value.
    Credentials: "GET" "/v1/instances/{instance}/credentials" &[],
    /// Text, streamed.
    Logs: "GET" "/v1/instances/{instance}/logs" &[("follow", Value::Flag), ("tail", Value::Number)],
    /// Text, streamed: the log of its latest deploy.
    DeployLog: "GET" "/v1/instances/{instance}/deploy" &[("follow", Value::Flag)],
    /// What its server lists as tools now, as MCP gives them.
    Tools: "GET" "/v1/instances/{instance}/tools" &[],
    /// A [`ScreenRequest`](super::ScreenRequest) in, a [`ScreenLink`](super::ScreenLink) out.
    ScreenLink: "POST" "/v1/instances/{instance}/screen" &[],
    /// PNG.
    Screenshot: "GET" "/v1/instances/{instance}/screen.png" &[],
}

impl Route {
    /// Its path below the API's root, as the table has it.
    pub const fn path(self) -> &'static str {
        self.row().path
    }

    /// Its path for one instance, by id or name.
    pub fn of(self, instance: &str) -> String {
        self.path().replace(INSTANCE, instance)
    }

    /// The route of a request, and the instance that its path names.
    pub fn find<'p>(method: &str, path: &'p str) -> Option<(Route, Option<&'p str>)> {
        let matching = |route: &Route| {
            let row = route.row();
            let one = (row.method == method).then(|| matched(row.path, path)).flatten()?;
            Some((*route, one))
        };
        Route::ALL.iter().find_map(matching)
    }
}

/// What stands for `{instance}` in a path of this form; `None` where it is of another.
fn matched<'p>(form: &str, path: &'p str) -> Option<Option<&'p str>> {
    let mut one = None;
    let mut parts = path.split('/');
    for wanted in form.split('/') {
        match (wanted, parts.next()?) {
            (INSTANCE, part) if !part.is_empty() => one = Some(part),
            (wanted, part) if wanted == part => {}
            _ => return None,
        }
    }
    parts.next().is_none().then_some(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_by_its_row_and_no_other() {
        for route in Route::ALL {
            let row = route.row();
            let path = route.of("abc");
            let one = row.path.contains("{instance}").then_some("abc");
            assert_eq!(Route::find(row.method, &path), Some((*route, one)));
            assert_eq!(Route::find("PATCH", &path), None);
            for other in [
                format!("{path}/"),
                format!("{path}/x"),
                format!("/{path}"),
                path[1..].to_owned(),
            ] {
                assert!(
                    Route::find(row.method, &other).is_none_or(|(r, _)| r != *route),
                    "{other}"
                );
            }
        }
        assert_eq!(Route::find("GET", "/v1/instances//logs"), None);
        assert_eq!(Route::find("GET", "/v1/instances/"), None);
    }
}
