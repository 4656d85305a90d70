//! F3: the console: pages for people in browsers, made on the server of what the HTTP API answers. It has no rule of its own:
//! what somebody may see and do, the API says, for the principal of their session. What is its own is how they come in: claiming
//! in a browser, signing in, links that set a passphrase, their own account.
//!
//! ```text
//! edge (host, Origin, session) ──► answer ──► page ──► Backend::api (a route of the API, as this principal)
//!                                        `──► how somebody signs in ──► Backend::change ──► ledger
//! ```
//!
//! Nothing that a browser, a server or a log says becomes markup: `askama` escapes it, and the policy of every page forbids
//! scripts, styles and forms of any other origin. Who guesses is slowed down ([`crate::sign_in::slow`]); hashing a passphrase
//! waits its turn ([`hashing`]).

mod account;
mod answers;
mod asked;
mod assets;
mod browser;
mod claim;
mod enter;
mod form;
mod hashing;
mod overview;
mod own;
mod pages;
mod people;
mod qr;
mod reports;
mod second;
mod waiting;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Collected, Limited};
use hyper::body::Body;

pub use answers::Answer;
pub use asked::{ApiRequest, Asker, Backend, Console, Facts, NotChanged};

use answers::redirect;
use asked::Asked;
use form::Form;

/// A form may be this long, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// Answers at the console's door.
pub async fn answer<B: Backend, R>(
    (console, backend): (&Arc<Console>, &B),
    asker: Asker,
    request: http::Request<R>,
) -> Answer
where
    R: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let asked = Asked {
        console,
        backend,
        asker,
        headers: parts.headers,
        query: parts.uri.query().unwrap_or_default().to_owned(),
    };
    if parts.method != Method::POST {
        return get(&asked, &path).await;
    }
    // What breaks the door's bounds is answered by the edge. What was sent may be a secret: it is quoted nowhere.
    let sent = Limited::new(body, MAX_BODY).collect().await.map(Collected::to_bytes);
    match sent.ok().and_then(|bytes| Form::parse(&bytes)) {
        Some(form) => post(&asked, &path, &form).await,
        None => pages::wrong(
            StatusCode::BAD_REQUEST,
            "The form could not be read. Go back and try again.",
        ),
    }
}

async fn get<B: Backend>(asked: &Asked<'_, B>, path: &str) -> Answer {
    if !asked.backend.facts().claimed {
        return match path {
            "/" | "/claim" => claim::page(asked),
            _ => redirect("/claim"),
        };
    }
    match (path, asked.signed_in()) {
        ("/set-passphrase", _) => claim::set_page(asked),
        ("/claim" | "/sign-in/code" | "/sign-out", _) => redirect("/"),
        ("/sign-in", Some(_)) => redirect(enter::next(&Form::of_query(&asked.query))),
        ("/sign-in", None) => enter::page(asked),
        ("/" | "/account" | "/account/second-step" | "/people", None) => enter::needed(asked, path),
        ("/", Some(who)) => overview::page(asked, who).await,
        ("/account", Some(who)) => account::page(asked, who, StatusCode::OK, pages::Told::default()),
        ("/account/second-step", Some(who)) => second::page(asked, &who, false, None),
        ("/people", Some(who)) => people::page(asked, who, None).await,
        _ => pages::wrong(StatusCode::NOT_FOUND, "There is no page at this address."),
    }
}

async fn post<B: Backend>(asked: &Asked<'_, B>, path: &str, form: &Form) -> Answer {
    match (path, asked.signed_in()) {
        ("/claim", _) => claim::claim(asked, form).await,
        ("/set-passphrase", _) => claim::set(asked, form).await,
        ("/sign-in", _) => enter::sign_in(asked, form).await,
        ("/sign-in/code", _) => enter::code(asked, form).await,
        ("/sign-out", Some((_, session))) => enter::sign_out(asked, &session),
        ("/account/passphrase", Some(who)) => account::passphrase(asked, who, form).await,
        ("/account/second-step", Some(who)) => second::set(asked, who, form).await,
        ("/account/second-step/off", Some(who)) => second::unset(asked, who, form).await,
        ("/account/recovery-codes", Some(who)) => second::recovery(asked, who, form).await,
        ("/account/sessions", Some(who)) => account::end_sessions(asked, who, form),
        ("/people/invite" | "/people/reset", Some(who)) => people::link(asked, who, path, form).await,
        // Whoever was signed in is so no more: what they sent is done by nobody.
        (_, None) => redirect("/sign-in"),
        _ => pages::wrong(StatusCode::NOT_FOUND, "There is no page at this address."),
    }
}

/// What pages are made of.
pub fn asset(path: &str) -> Answer {
    assets::answer(path)
}

/// Hears what a browser reports against the policy of a page.
pub async fn report<R>(console: &Console, request: http::Request<R>) -> Answer
where
    R: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let sent = Limited::new(request.into_body(), reports::MAX).collect().await;
    let sent = sent.map(Collected::to_bytes).unwrap_or_default();
    console.reports.hear(&sent, console.now());
    answers::empty()
}

/// Nothing stands behind the console yet.
pub fn starting() -> Answer {
    let mut answer = pages::wrong(
        StatusCode::SERVICE_UNAVAILABLE,
        "The box is starting. Try again in a few seconds.",
    );
    answer
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    answer
}
