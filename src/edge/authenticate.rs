//! Who comes in: what the door's row in the table asks to be shown, whose pages may ask there, and what policy says.

use http::{HeaderMap, Method, Request, header};
use hyper::body::Incoming;

use super::{conn::Client, cors, respond::Refusal, state::Edge};
use crate::{
    authz::{NoToken, Pass, bearer},
    door::{Auth, Origins, Place, Row},
    model::{InstanceId, Principal, Via},
    policy::{self, Known},
    session::{self, Session},
};

/// Why somebody does not come in, and who that is where a right token was shown.
pub(super) struct Denied {
    pub(super) refusal: Refusal,
    pub(super) by: Option<Box<Principal>>,
}

impl Denied {
    /// Somebody who has shown a right token.
    pub(super) fn known(refusal: Refusal, by: &Principal) -> Denied {
        let by = Some(Box::new(by.clone()));
        Denied { refusal, by }
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Denied {
        Denied { refusal, by: None }
    }
}

/// What was shown at a door.
pub(super) enum Shown {
    Token(Pass),
    Session(Session),
    Nothing(Via),
}

impl Shown {
    /// Whoever showed it.
    pub(super) fn principal(&self) -> Principal {
        match self {
            Shown::Token(pass) => pass.token().principal().clone(),
            Shown::Session(session) => session.by.clone(),
            Shown::Nothing(via) => Principal::nobody(*via),
        }
    }
}

/// Whether the pages that a request names may ask at such a door.
pub(super) fn check_origin(
    edge: &Edge,
    row: &Row,
    (method, headers): (&Method, &HeaderMap),
    authority: &str,
) -> Result<(), Refusal> {
    let may = |origin: &str| match row.origins {
        Origins::Callers => cors::may_call(edge, origin, authority),
        // Pages of other sites that may call instances have no business here.
        Origins::Ours => edge.router.origin_is_ours(origin, authority),
        Origins::Host | Origins::Handlers => true,
    };
    if row.origins == Origins::Host && session::needs_own_page(method.as_str()) {
        return own_page(edge, headers, authority);
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    if origins.all(|o| o.to_str().is_ok_and(may)) {
        Ok(())
    } else {
        Err(Refusal::Origin)
    }
}

/// What a request shows, of what its door looks for, where whoever shows it may come in.
pub(super) fn authenticate(
    client: &Client,
    place: &Place,
    authority: &str,
    request: &Request<Incoming>,
) -> Result<Shown, Denied> {
    let (edge, headers) = (&client.permit.edge, request.headers());
    for auth in place.door.row().auth {
        match auth {
            Auth::Bearer => {
                if let Some(pass) = token(client, place, request)? {
                    return if client.permit.shown(pass.token()) {
                        Ok(Shown::Token(pass))
                    } else {
                        Err(Denied::known(Refusal::Crowded, pass.token().principal()))
                    };
                }
            }
            Auth::Session(cookie) => {
                if let Some(session) = session(edge, place, cookie, request) {
                    if session::needs_own_page(request.method().as_str()) {
                        own_page(edge, headers, authority)?;
                    }
                    return if client.permit.shown_session(session.number) {
                        Ok(Shown::Session(session))
                    } else {
                        Err(Denied::known(Refusal::Crowded, &session.by))
                    };
                }
            }
            Auth::Nobody(via) => return Ok(Shown::Nothing(*via)),
        }
    }
    Err(Refusal::NoToken.into())
}

/// Which site's page makes a browser ask.
const FETCH_SITE: &str = "sec-fetch-site";

/// Whether a request is made by a page of the very host that it names, and says so.
pub(super) fn own_page(edge: &Edge, headers: &HeaderMap, authority: &str) -> Result<(), Refusal> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = origins.next().and_then(|o| o.to_str().ok()).ok_or(Refusal::Origin)?;
    if origins.next().is_some() || !edge.router.origin_is_the_hosts(origin, authority) {
        return Err(Refusal::Origin);
    }
    // Where a browser says whose page asks (Fetch Metadata), it has to say the same.
    let mut sites = headers.get_all(FETCH_SITE).iter();
    match sites.all(|site| site == "same-origin") {
        true => Ok(()),
        false => Err(Refusal::Origin),
    }
}

/// The session that the request's cookie keeps, where its principal may come in.
fn session(edge: &Edge, place: &Place, cookie: &str, request: &Request<Incoming>) -> Option<Session> {
    let lines = request.headers().get_all(header::COOKIE).iter();
    let mut lines = lines.filter_map(|v| v.to_str().ok()).peekable();
    lines.peek()?;
    let cookie = place.cookie(cookie, request.uri().path());
    let session = edge.config.sessions.find(cookie.secret(lines)?)?;
    if !may(edge, &session.by, place) {
        return None;
    }
    if let (Some(token), Some(instance)) = (session.by.token(), &place.instance) {
        edge.tokens.note(token, instance, jiff::Timestamp::now().as_second());
    }
    Some(session)
}

/// Whether a principal may come in there.
pub(super) fn may(edge: &Edge, by: &Principal, place: &Place) -> bool {
    let known = Known {
        access: &edge.config.access.load(),
        now: jiff::Timestamp::now(),
    };
    policy::may(known, by, place.door.row().verb, place.target()).is_allowed()
}

/// The token of a request that has one, where its principal may come in.
fn token(client: &Client, place: &Place, request: &Request<Incoming>) -> Result<Option<Pass>, Denied> {
    let (edge, headers) = (&client.permit.edge, request.headers());
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err(Refusal::BadToken.into());
    }
    let token = bearer(value.as_bytes()).ok_or(Refusal::BadToken)?;
    let now = jiff::Timestamp::now().as_second();
    let token = edge.tokens.authenticate(token, now).map_err(|e| match e {
        NoToken::Unknown => Refusal::BadToken,
        NoToken::Expired => Refusal::ExpiredToken,
    })?;
    // What is not there is no way to remember.
    let there = |id: &InstanceId| edge.config.access.load().instances.contains_key(id);
    let pass = match place.instance.as_ref() {
        None if request.method() == Method::POST => token.act(),
        None if place.door.watches(request.method().as_str(), request.uri().path()) => token.watch(),
        to => token.open(to.filter(|id| there(id))),
    };
    if !may(edge, token.principal(), place) {
        return Err(Denied::known(Refusal::WrongSubject, token.principal()));
    }
    pass.used(now, client.permit.address);
    Ok(Some(pass))
}
