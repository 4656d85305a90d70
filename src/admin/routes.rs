//! Path and method -> what the backend is asked, and its answer as JSON. Refusals become statuses here only.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyDataStream, BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::body::{Body, Frame};
use serde::Serialize;

use super::{Archive, Backend, LogQuery, MAX_BODY, ScreenRequest};
use crate::model::{Action, Endpoints, Health, InstanceId, InstanceView, Outcome, Refusal, State, unknown_field};

/// An answer of the admin API.
pub type Answer = Response<BoxBody<Bytes, Infallible>>;

/// How somebody came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The admin socket; whether as root or as the supervisor's own user, not only by its group.
    Socket { root: bool },
    /// The edge, as a member.
    Network,
}

/// A request without its body.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    /// The `host[:port]` that was asked, where it was over the network.
    pub(super) at: Option<String>,
    pub(super) via: Via,
    /// Who asks, as the connection vouches for it.
    pub(super) who: String,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Running and healthy, or failed, or stopped.
    Settled,
    Stopped,
    Gone,
}

pub(super) async fn answer<B: Backend, R: Body<Data = Bytes> + Send + 'static>(
    backend: &B,
    asked: Asked,
    body: R,
) -> Answer
where
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Asked {
        method,
        path,
        query,
        at,
        via,
        who,
    } = asked;
    let at = at.as_deref();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let get = method == Method::GET;
    if let Err(wrong) = check_query(&parts, &query) {
        return error(StatusCode::BAD_REQUEST, &format!("{path}: {wrong}"));
    }
    match parts.as_slice() {
        ["v1", "actions"] if method == Method::POST => act(backend, (via, at), &who, body).await,
        ["v1", "status"] if get => {
            let mut status = backend.status(at).await;
            if via == Via::Network {
                status.own.claim_code = None;
            }
            json(StatusCode::OK, &status)
        }
        ["v1", "types"] if get => json(StatusCode::OK, &backend.types().await),
        ["v1", "images"] if get => match backend.images().await {
            Ok(images) => json(StatusCode::OK, &images),
            Err(r) => refused(&r),
        },
        ["v1", "images"] if method == Method::POST => {
            let archive = BodyDataStream::new(body).map_err(std::io::Error::other);
            load_images(backend, Box::pin(archive)).await
        }
        ["v1", "tokens"] if get => match backend.tokens().await {
            Ok(tokens) => json(StatusCode::OK, &tokens),
            Err(r) => refused(&r),
        },
        ["v1", "ca"] if get => match backend.ca_pem() {
            Some(pem) => text(StatusCode::OK, "application/x-pem-file", pem),
            None => error(
                StatusCode::NOT_FOUND,
                "this box uses certificate files of yours: their CA is the one to trust",
            ),
        },
        ["v1", "doctor"] if get => {
            let asked = pairs(&query);
            let on = |key| asked.get(key) == Some(&"1");
            match backend.doctor(on("json"), on("hardening")).await {
                Ok(report) => json(StatusCode::OK, &report),
                Err(r) => refused(&r),
            }
        }
        ["v1", "instances"] if get => {
            let views = backend.views();
            let seen = views.values().map(|v| seen(backend, at, listed(v)));
            json(StatusCode::OK, &seen.collect::<Vec<_>>())
        }
        ["v1", "instances", one] if get => match find(backend, one) {
            Some(view) => json(StatusCode::OK, &seen(backend, at, view)),
            None => refused(&Refusal::NoInstance((*one).into())),
        },
        ["v1", "instances", one, "wait"] if get => wait(backend, at, one, &query).await,
        ["v1", "instances", one, "credentials"] if get => credentials(backend, one).await,
        ["v1", "instances", one, "logs"] if get => logs(backend, one, &query).await,
        ["v1", "instances", one, "screen"] if method == Method::POST => {
            screen_link(backend, (via, at), one, body).await
        }
        ["v1", "instances", one, "screen.png"] if get => screenshot(backend, one).await,
        ["v1", "instances", one, "deploy"] if get => deploy(backend, one, &query),
        ["v1", "instances", one, "tools"] if get => match find(backend, one) {
            Some(view) => match backend.tools(view.id).await {
                Ok(tools) => json(StatusCode::OK, &tools),
                Err(why) => error(StatusCode::BAD_GATEWAY, &why),
            },
            None => refused(&Refusal::NoInstance((*one).into())),
        },
        ["metrics"] if get => text(StatusCode::OK, "text/plain; version=0.0.4", backend.metrics().await),
        _ => error(
            StatusCode::NOT_FOUND,
            &format!("there is no {method} {path} in the admin API"),
        ),
    }
}

pub(super) async fn load_images<B: Backend>(backend: &B, archive: Archive) -> Answer {
    match backend.load_images(archive).await {
        Ok(names) => json(StatusCode::OK, &names),
        Err(r) => refused(&r),
    }
}

async fn act<B: Backend, R: Body<Data = Bytes>>(
    backend: &B,
    (via, at): (Via, Option<&str>),
    who: &str,
    body: R,
) -> Answer
where
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(b) => b.to_bytes(),
        Err(e) => {
            return error(
                StatusCode::BAD_REQUEST,
                &format!("the body cannot be read ({MAX_BODY} bytes at most): {e}"),
            );
        }
    };
    let value = serde_json::from_slice::<serde_json::Value>(&body);
    if let Some(unknown) = value.ok().as_ref().and_then(unknown_field) {
        return error(StatusCode::BAD_REQUEST, &unknown);
    }
    // serde_json's own words may quote a value, and values may be secrets: only the place is told.
    let action: Action = match serde_json::from_slice(&body) {
        Ok(a) => a,
        Err(e) => {
            let place = format!("{:?} error at line {}, column {}", e.classify(), e.line(), e.column());
            return error(StatusCode::BAD_REQUEST, &format!("the body is not an action: {place}"));
        }
    };
    if action == Action::ResetAdmin && via != (Via::Socket { root: true }) {
        return refused(&Refusal::OnTheBoxOnly);
    }
    match backend.submit(action.signed(who)).await {
        Ok(Outcome::Instance(view)) => {
            let view = seen(backend, at, *view);
            json(StatusCode::OK, &Outcome::Instance(Box::new(view)))
        }
        Ok(outcome) => json(StatusCode::OK, &outcome),
        Err(r) => refused(&r),
    }
}

async fn screen_link<B: Backend, R: Body<Data = Bytes>>(
    backend: &B,
    (via, at): (Via, Option<&str>),
    one: &str,
    body: R,
) -> Answer
where
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(view) = find(backend, one) else {
        return refused(&Refusal::NoInstance(one.into()));
    };
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|e| e.to_string());
    let asked = body.and_then(|b| serde_json::from_slice::<ScreenRequest>(&b.to_bytes()).map_err(|e| e.to_string()));
    match asked {
        Ok(mut asked) => {
            if via == Via::Network {
                asked.by = format!("{} (member)", asked.by);
            }
            match backend.screen_link(&seen(backend, at, view), asked) {
                Ok(link) => json(StatusCode::OK, &link),
                Err(r) => refused(&r),
            }
        }
        Err(e) => error(
            StatusCode::BAD_REQUEST,
            &format!("the body does not ask for a screen: {e}"),
        ),
    }
}

async fn screenshot<B: Backend>(backend: &B, one: &str) -> Answer {
    let Some(view) = find(backend, one) else {
        return refused(&Refusal::NoInstance(one.into()));
    };
    match backend.screenshot(&view).await {
        Ok(png) => plain(StatusCode::OK, "image/png", Full::new(Bytes::from(png)).boxed()),
        Err(r) => refused(&r),
    }
}

/// As a list shows it: without all that a package brought along.
fn listed(view: &InstanceView) -> InstanceView {
    let mut view = view.clone();
    if let Some(package) = &mut view.package {
        package.tree = std::sync::Arc::default();
    }
    view
}

/// An instance by id, or by a name that only one instance has.
fn find<B: Backend>(backend: &B, one: &str) -> Option<InstanceView> {
    let views = backend.views();
    if let Some(v) = InstanceId::parse(one).ok().and_then(|id| views.get(&id)) {
        return Some(v.clone());
    }
    let mut named = views.values().filter(|v| v.name.as_str() == one);
    named.next().filter(|_| named.next().is_none()).cloned()
}

/// As it is for somebody who asked at this `host[:port]`.
fn seen<B: Backend>(backend: &B, at: Option<&str>, mut view: InstanceView) -> InstanceView {
    if let Some(endpoints) = backend.endpoints(&view.id, at) {
        let screen = endpoints.screen.filter(|_| view.endpoints.screen.is_some());
        view.endpoints = Endpoints { screen, ..endpoints };
    }
    view
}

async fn wait<B: Backend>(backend: &B, at: Option<&str>, one: &str, query: &str) -> Answer {
    let query = pairs(query);
    let until = match query.get("for").copied().unwrap_or("settled") {
        "settled" => Until::Settled,
        "stopped" => Until::Stopped,
        "gone" => Until::Gone,
        other => {
            return error(
                StatusCode::BAD_REQUEST,
                &format!("for={other}: write settled, stopped or gone"),
            );
        }
    };
    let ms = query
        .get("ms")
        .and_then(|m| m.parse().ok())
        .unwrap_or(60_000u64)
        .min(3_600_000);
    let mut changed = backend.changed();
    let Some(first) = find(backend, one) else {
        return if until == Until::Gone {
            empty()
        } else {
            refused(&Refusal::NoInstance(one.into()))
        };
    };
    let reached = async {
        loop {
            changed.mark_unchanged();
            let view = backend.views().get(&first.id).cloned();
            match view {
                None => return None,
                Some(v) if done(until, &v) => return Some(v),
                Some(_) => {}
            }
            if changed.changed().await.is_err() {
                return backend.views().get(&first.id).cloned();
            }
        }
    };
    match tokio::time::timeout(Duration::from_millis(ms), reached).await {
        Ok(Some(view)) => json(StatusCode::OK, &seen(backend, at, view)),
        Ok(None) => empty(),
        Err(_) => error(
            StatusCode::REQUEST_TIMEOUT,
            &format!("{one} did not get there within {ms} ms; `berth show {one}` says where it is"),
        ),
    }
}

fn done(until: Until, v: &InstanceView) -> bool {
    match until {
        Until::Settled => match v.state {
            State::Running => v.health == Health::Healthy,
            State::Failed | State::Stopped => true,
            _ => false,
        },
        Until::Stopped => v.state == State::Stopped,
        Until::Gone => false,
    }
}

async fn credentials<B: Backend>(backend: &B, one: &str) -> Answer {
    let Some(view) = find(backend, one) else {
        return refused(&Refusal::NoInstance(one.into()));
    };
    match backend.credentials(view.id).await {
        Ok(views) => json(StatusCode::OK, &views),
        Err(r) => refused(&r),
    }
}

async fn logs<B: Backend>(backend: &B, one: &str, query: &str) -> Answer {
    let Some(view) = find(backend, one) else {
        return refused(&Refusal::NoInstance(one.into()));
    };
    let query = pairs(query);
    let wanted = LogQuery {
        follow: query.get("follow").is_some_and(|v| *v == "1"),
        tail: query.get("tail").and_then(|t| t.parse().ok()),
    };
    match backend.logs(view.id, wanted).await {
        Err(r) => refused(&r),
        Ok(lines) => {
            let frames = futures_util::stream::unfold(lines, |mut lines| async move {
                let chunk = match lines.recv().await? {
                    Ok(bytes) => bytes,
                    Err(said) => Bytes::from(format!("berth: the log ends here: {said}\n")),
                };
                Some((Ok(Frame::data(chunk)), lines))
            });
            plain(
                StatusCode::OK,
                "text/plain; charset=utf-8",
                StreamBody::new(frames).boxed(),
            )
        }
    }
}

fn deploy<B: Backend>(backend: &B, one: &str, query: &str) -> Answer {
    let Some(view) = find(backend, one) else {
        return refused(&Refusal::NoInstance(one.into()));
    };
    let follow = pairs(query).get("follow").is_some_and(|v| *v == "1");
    let frames = futures_util::stream::unfold(backend.deploy_log(&view.id, follow), |mut pieces| async move {
        let piece = pieces.recv().await?;
        Some((Ok(Frame::data(piece)), pieces))
    });
    plain(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        StreamBody::new(frames).boxed(),
    )
}

/// The parameters of a path; what is none of them would silently be the default.
fn check_query(parts: &[&str], query: &str) -> Result<(), String> {
    const FLAG: fn(&str) -> bool = |v| matches!(v, "0" | "1");
    const NUMBER: fn(&str) -> bool = |v| v.parse::<u32>().is_ok();
    const WORD: fn(&str) -> bool = |_| true;
    type Known = &'static [(&'static str, fn(&str) -> bool)];
    let known: Known = match parts {
        ["v1", "doctor"] => &[("json", FLAG), ("hardening", FLAG)],
        ["v1", "instances", _, "wait"] => &[("for", WORD), ("ms", NUMBER)],
        ["v1", "instances", _, "logs"] => &[("follow", FLAG), ("tail", NUMBER)],
        ["v1", "instances", _, "deploy"] => &[("follow", FLAG)],
        _ => &[],
    };
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some((_, fits)) = known.iter().find(|(n, _)| *n == name) else {
            let all: Vec<&str> = known.iter().map(|(n, _)| *n).collect();
            let all = if all.is_empty() {
                "none".to_owned()
            } else {
                all.join(", ")
            };
            return Err(format!("there is no parameter {name:?}; its parameters are: {all}"));
        };
        if !fits(value) {
            return Err(format!("the parameter {name} cannot be {value:?}"));
        }
    }
    Ok(())
}

fn pairs(query: &str) -> BTreeMap<&str, &str> {
    query.split('&').filter_map(|p| p.split_once('=')).collect()
}

/// Refusal -> status.
pub(super) fn refused(r: &Refusal) -> Answer {
    let status = match r {
        Refusal::NoInstance(_) | Refusal::NoToken(_) | Refusal::NoMember(_) | Refusal::NoType { .. } => {
            StatusCode::NOT_FOUND
        }
        Refusal::OnTheBoxOnly => StatusCode::FORBIDDEN,
        Refusal::NameTaken { .. }
        | Refusal::Removing(_)
        | Refusal::Unclaimed
        | Refusal::Claimed
        | Refusal::NoImage { .. } => StatusCode::CONFLICT,
        Refusal::Full { .. } | Refusal::NoRoom { .. } => StatusCode::INSUFFICIENT_STORAGE,
        Refusal::NotAllowed(_) => StatusCode::FORBIDDEN,
        Refusal::Invalid(_) | Refusal::Credentials { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if let Refusal::Credentials { missing, wrong, .. } = r {
        let body = serde_json::json!({ "error": r.to_string(), "missing": missing, "wrong": wrong });
        return json(status, &body);
    }
    error(status, &r.to_string())
}

pub(super) fn error(status: StatusCode, said: &str) -> Answer {
    json(status, &serde_json::json!({ "error": said }))
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(s) => text(status, "application/json", s),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", e.to_string()),
    }
}

fn empty() -> Answer {
    text(StatusCode::NO_CONTENT, "text/plain", String::new())
}

pub(super) fn text(status: StatusCode, kind: &'static str, s: String) -> Answer {
    plain(status, kind, Full::new(Bytes::from(s)).boxed())
}

fn plain(status: StatusCode, kind: &'static str, body: BoxBody<Bytes, Infallible>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}
