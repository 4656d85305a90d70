//! Method and path -> a route -> whether the principal may -> what the backend is asked, and its answer as JSON.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyDataStream, BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::body::{Body, Frame};

use super::{
    Archive, Backend, LogQuery, MAX_BODY,
    answers::{AdminResponse, empty, failed, json, pairs, plain, text},
    asker::{Asker, addressed},
    conditions::{self, tagged},
    idempotent::{self, Counted, Once},
    paging::page,
    records::{self, find},
};
use crate::{
    api::{self, Error, RequestError, Route, ScreenRequest, unescaped, unescaped_path},
    model::{
        Action, EntityTags, Health, InstanceId, InstanceView, Outcome, Principal, Record, RecordId, Refusal, Secret,
        SignInLink, State, UnknownField, both_of, holds_fields_as_list, other_time, unknown_field,
    },
    policy::{self, Known, Reading, Target, Verb},
    writes::{Keyed, Write},
};

/// A request without its body.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    /// The `host[:port]` that was asked, where it was over the network.
    pub(super) at: Option<String>,
    pub(super) by: Principal,
}

impl Asked {
    /// What a key is kept of: the path is the same on the socket and over the network.
    fn hash(&self) -> idempotent::Asked {
        idempotent::Asked::new(self.method.as_str(), &self.path, &self.query)
    }
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Running and healthy, or failed, or stopped.
    Settled,
    Stopped,
    Gone,
}

/// What a route asks for. An action says it itself; a route of an instance asks it of that instance.
pub fn verb(route: Route) -> Option<Verb> {
    Some(match route {
        Route::Act => return None,
        Route::Status => Verb::ReadStatus,
        Route::Types => Verb::ReadTypes,
        Route::Images => Verb::ReadImages,
        Route::LoadImages => Verb::LoadImages,
        // Of each that is listed, once more.
        Route::Whoami
        | Route::OpenApi
        | Route::Tokens
        | Route::Token
        | Route::Instances
        | Route::Workspaces
        | Route::Workspace
        | Route::Members
        | Route::Member
        | Route::Teams
        | Route::Team
        | Route::Grants
        | Route::Grant => Verb::UseApi,
        Route::Ca => Verb::ReadCa,
        Route::Doctor => Verb::RunDoctor,
        Route::Metrics => Verb::ReadMetrics,
        // Whoever may not see all of it sees the rows that are theirs.
        Route::Audit | Route::Usage | Route::Events => Verb::UseApi,
        Route::AuditVerify => Verb::ReadAudit,
        Route::Instance | Route::Wait => Verb::ReadInstance,
        Route::Credentials => Verb::ReadCredentials,
        Route::Logs => Verb::ReadLogs,
        Route::DeployLog => Verb::ReadDeployLog,
        Route::Tools => Verb::ReadTools,
        Route::ScreenLink | Route::Screenshot => Verb::ViewScreen,
    })
}

pub(super) async fn answer<B: Backend, R: Body<Data = Bytes> + Send + 'static>(
    backend: &B,
    asked: Asked,
    body: R,
) -> AdminResponse
where
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (path, query) = (asked.path.as_str(), asked.query.as_str());
    let Some((route, named)) = Route::find(asked.method.as_str(), path) else {
        let known = Route::methods(path);
        if let (false, Ok(known)) = (known.is_empty(), HeaderValue::from_str(&known.join(", "))) {
            let mut answer = failed(RequestError::BadMethod);
            answer.headers_mut().insert(header::ALLOW, known);
            return answer;
        }
        return failed(RequestError::NoRoute {
            method: asked.method.to_string(),
            path: path.to_owned(),
        });
    };
    if let Err(wrong) = check_query(route, path, query) {
        return failed(wrong);
    }
    let asker = Asker {
        by: &asked.by,
        at: asked.at.as_deref(),
        headers: &asked.headers,
        known: Known {
            access: &backend.access(),
            now: jiff::Timestamp::now(),
        },
        denials: &|by, verb, target| backend.denied(by, verb, target),
    };
    taken(backend, asker, (route, &named), &asked, body)
        .await
        .unwrap_or_else(|e| {
            debug_assert!(
                route.may_answer(e.code()),
                "{route:?}: its row does not have {}",
                e.code()
            );
            failed(e)
        })
}

/// What a route answers. An instance that the principal may not see is not there for them.
async fn taken<B: Backend, R: Body<Data = Bytes> + Send + 'static>(
    backend: &B,
    asker: Asker<'_>,
    (route, named): (Route, &[&str]),
    asked: &Asked,
    body: R,
) -> Result<AdminResponse, Error>
where
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let query = asked.query.as_str();
    // Its slash, too, may be percent-encoded: it is one part of the path.
    let decoded = |one: &str| {
        let path = route.path().to_owned();
        unescaped_path(one).ok_or(RequestError::BadPath { path })
    };
    let one = named.first().filter(|_| route.is_of_instance());
    let one = one.map(|one| decoded(one)).transpose()?;
    let view = match &one {
        Some(one) => find(backend, asker, one),
        None => Err(Refusal::no_instance("")),
    };
    let target = match (&view, &one) {
        (Ok(view), _) => Some(Target::Instance(&view.id)),
        (Err(_), None) => Some(Target::Box),
        // One that is waited for may be gone.
        (Err(_), Some(_)) if route == Route::Wait => None,
        (Err(none), Some(_)) => return Err(none.clone().into()),
    };
    if let (Some(verb), Some(target)) = (verb(route), target) {
        asker.may(verb, target)?;
        if let Target::Instance(id) = target {
            backend.uses(asker.by, id);
        }
    }
    let list = (route, asker.at);
    let if_match = match route.row().method {
        "POST" => conditions::of_write(&asked.headers)?,
        _ => None,
    };
    if if_match.is_some() && route != Route::Act {
        return Err(Refusal::NoSingleRecord.into());
    }
    let had = match route.row().tagged {
        true => conditions::of_read(&asked.headers)?,
        false => None,
    };
    Ok(match route {
        Route::Act => act(backend, asker, asked, if_match, body).await?,
        Route::Status => {
            let mut status = backend.status(asker.at).await;
            if !policy::may(asker.known, asker.by, Verb::ReadClaimCode, Target::Box).is_allowed() {
                status.own.claim_code = None;
            }
            json(StatusCode::OK, &status)
        }
        Route::Whoami => json(StatusCode::OK, &backend.whoami(asker.by)),
        Route::OpenApi => {
            let document = Full::new(Bytes::from_static(api::document().as_bytes()));
            plain(StatusCode::OK, "application/json", document.boxed())
        }
        Route::Types => page(backend.types().await, list, query, Some)?,
        Route::Images => page(backend.images().await?, list, query, Some)?,
        Route::LoadImages => {
            let archive = BodyDataStream::new(body).map_err(std::io::Error::other);
            load_images(backend, asker, asked, Box::pin(archive)).await?
        }
        Route::Tokens => {
            // There are many: views are made of those on the page alone.
            let seen = asker.known.access.tokens.values();
            let seen = seen.filter(|t| asker.sees(Reading::Token(t.subject.clone())));
            page(seen, list, query, |t| {
                match backend.record(&RecordId::Token(t.id.clone())) {
                    Some(Record::Token(view)) => Some(view),
                    _ => None,
                }
            })?
        }
        Route::Workspaces => {
            let mut workspaces = backend.workspaces();
            workspaces.retain(|w| asker.sees(w));
            page(workspaces, list, query, Some)?
        }
        Route::Members => {
            let seen = asker.known.access.members.values();
            let seen = seen.filter(|m| asker.sees(Reading::Member(m.name.clone())));
            page(seen, list, query, |m| {
                match backend.record(&RecordId::Member(m.name.clone())) {
                    Some(Record::Member(view)) => Some(asker.shown(view)),
                    _ => None,
                }
            })?
        }
        Route::Teams => {
            let mut teams = backend.teams();
            teams.retain(|t| asker.sees(t));
            page(teams, list, query, Some)?
        }
        Route::Grants => {
            let mut grants = backend.grants();
            grants.retain(|g| asker.sees(g));
            page(grants, list, query, Some)?
        }
        Route::Token | Route::Workspace | Route::Member | Route::Team | Route::Grant => {
            let id = records::named(route, named, &asked.path)?;
            let record = records::record(backend, asker, &id);
            conditions::record(&record.ok_or_else(|| records::none(backend, asker, &id))?, had.as_ref())
        }
        Route::Ca => match backend.ca_pem() {
            Some(pem) => text(StatusCode::OK, "application/x-pem-file", pem),
            None => return Err(RequestError::NoCa.into()),
        },
        Route::Doctor => {
            let asked = pairs(query);
            let on = |key| asked.get(key) == Some(&"1");
            json(StatusCode::OK, &backend.doctor(on("json"), on("hardening")).await?)
        }
        Route::Audit => super::audit::rows(backend, asker.by, query),
        Route::Usage => json(
            StatusCode::OK,
            &super::audit::usage(backend, asker.by, asker.known, query).await?,
        ),
        Route::AuditVerify => json(StatusCode::OK, &backend.verify_audit().await?),
        Route::Events => {
            let named = pairs(query).get("instance").and_then(|one| unescaped(one));
            let instance = named.map(|one| find(backend, asker, &one)).transpose()?;
            super::events::stream(backend, asker, instance.map(|v| v.id), query)?
        }
        Route::Metrics => text(StatusCode::OK, "text/plain; version=0.0.4", backend.metrics().await),
        Route::Instances => {
            let views = backend.views();
            let addresses = backend.addresses(asker.at);
            let seen = views.values().filter(|v| asker.sees(*v));
            page(seen, list, query, |v| Some(addressed(addresses.as_ref(), v.listed())))?
        }
        Route::Instance => {
            let view = addressed(backend.addresses(asker.at).as_ref(), view?);
            tagged(&view, &view.etag, had.as_ref())
        }
        Route::Wait => wait(backend, asker.at, view, query).await?,
        Route::Credentials => json(StatusCode::OK, &backend.credentials(&view?.id)?),
        Route::Logs => logs(backend, view?.id, query).await?,
        Route::DeployLog => deploy(backend, &view?.id, query),
        Route::Tools => json(StatusCode::OK, &backend.tools(view?.id).await?),
        Route::ScreenLink => screen_link(backend, asker, asked, view?, body).await?,
        Route::Screenshot => {
            let png = backend.screenshot(&view?, asker.by).await?;
            plain(StatusCode::OK, "image/png", Full::new(Bytes::from(png)).boxed())
        }
    })
}

async fn load_images<B: Backend>(
    backend: &B,
    asker: Asker<'_>,
    asked: &Asked,
    archive: Archive,
) -> Result<AdminResponse, Error> {
    let hash = asked.hash();
    let Some(mut once) = idempotent::begin(backend, asker, &asked.headers, &hash)? else {
        return Ok(json(StatusCode::OK, &backend.load_images(archive, asker.by).await?));
    };
    let archive = Counted::new(archive, &hash);
    if once.was_before() {
        // What was loaded before has to be read to be known again.
        archive.drain().await?;
        if let Some(answer) = once.answered(backend, asker, (Verb::LoadImages, Target::Box))? {
            return Ok(answer);
        }
    }
    let loaded = backend.load_images(archive.body(), asker.by).await?;
    archive.drain().await?;
    Ok(once.end(backend, json(StatusCode::OK, &loaded)).await)
}

async fn act<B: Backend, R: Body<Data = Bytes>>(
    backend: &B,
    asker: Asker<'_>,
    asked: &Asked,
    if_match: Option<EntityTags>,
    body: R,
) -> Result<AdminResponse, Error>
where
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(b) => b.to_bytes(),
        Err(e) => {
            let reason = e.to_string();
            return Err(RequestError::BodyUnread {
                limit: MAX_BODY,
                reason,
            }
            .into());
        }
    };
    let value = serde_json::from_slice::<serde_json::Value>(&body);
    // serde takes an object's values as a list, in the order of its fields: nobody could add a field any more.
    if value.as_ref().is_ok_and(holds_fields_as_list) {
        let error = "Data".to_owned();
        return Err(RequestError::NoAction {
            error,
            line: 0,
            column: 0,
        }
        .into());
    }
    if let Some(unknown) = value.as_ref().ok().and_then(unknown_field) {
        let UnknownField { of, field, known } = unknown;
        let known = known.iter().map(|f| (*f).to_owned()).collect();
        return Err(RequestError::UnknownField { of, field, known }.into());
    }
    if let Some(field) = value.as_ref().ok().and_then(other_time) {
        let field = field.to_owned();
        return Err(RequestError::BadTime { field }.into());
    }
    if let Ok(value) = &value
        && let Some((first, second)) = both_of(value)
    {
        let (first, second) = (first.to_owned(), second.to_owned());
        return Err(RequestError::BothOf { first, second }.into());
    }
    // serde_json's own words may quote a value, and values may be secrets: only the place is told.
    let action: Action = serde_json::from_slice(&body).map_err(|e| RequestError::NoAction {
        error: format!("{:?}", e.classify()),
        line: e.line(),
        column: e.column(),
    })?;
    let hash = asked.hash();
    hash.add(&body);
    let mut once = idempotent::begin(backend, asker, &asked.headers, &hash)?;
    if let Some(once) = &mut once
        && let Some(answer) = once.answered(backend, asker, policy::asked(&action))?
    {
        return Ok(answer);
    }
    let outcome = match once.as_ref().and_then(Once::unanswered) {
        Some(kept) => backend.outcome(kept).await?,
        None => submit(backend, asker, action, (if_match, once.as_ref().map(Once::key))).await?,
    };
    let answer = outcome_shown(backend, asker, outcome);
    Ok(match once {
        Some(once) => once.end(backend, answer).await,
        None => answer,
    })
}

/// Has an action done, for whoever may ask for it.
async fn submit<B: Backend>(
    backend: &B,
    asker: Asker<'_>,
    action: Action,
    (if_match, key): (Option<EntityTags>, Option<Keyed>),
) -> Result<Outcome, Error> {
    let record = action.record();
    let signed = match policy::sign(asker.known, asker.by.clone(), action.clone()) {
        Ok(signed) => signed,
        Err(why) => {
            let (verb, target) = policy::asked(&action);
            return Err(asker.denied(verb, target, why).into());
        }
    };
    if let (_, Target::Instance(id)) = policy::asked(signed.what()) {
        backend.uses(asker.by, id);
    }
    let write = Write {
        action: signed,
        if_match,
        key,
    };
    let outcome = backend.submit(write).await;
    Ok(outcome.map_err(|refusal| records::told(backend, asker, record.as_ref(), refusal))?)
}

fn outcome_shown<B: Backend>(backend: &B, asker: Asker<'_>, outcome: Outcome) -> AdminResponse {
    match outcome {
        Outcome::Instance(view) => {
            let view = addressed(backend.addresses(asker.at).as_ref(), *view);
            json(StatusCode::OK, &Outcome::Instance(Box::new(view)))
        }
        Outcome::Member(member) => json(StatusCode::OK, &Outcome::Member(asker.shown(member))),
        Outcome::SignInLink(link) => {
            let url = Secret::new(format!("https://{}{}", backend.host(asker.at), link.url.expose()));
            json(StatusCode::OK, &Outcome::SignInLink(SignInLink { url, ..link }))
        }
        outcome => json(StatusCode::OK, &outcome),
    }
}

async fn screen_link<B: Backend, R: Body<Data = Bytes>>(
    backend: &B,
    asker: Asker<'_>,
    asked: &Asked,
    view: InstanceView,
    body: R,
) -> Result<AdminResponse, Error>
where
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let wrong = |reason: String| RequestError::NoScreenRequest { reason };
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(|e| wrong(e.to_string()))?.to_bytes();
    // A list of its values would be taken as well.
    let object = serde_json::from_slice::<serde_json::Map<_, _>>(&body).map_err(|e| wrong(e.to_string()))?;
    let wanted = serde_json::from_value::<ScreenRequest>(object.into()).map_err(|e| wrong(e.to_string()))?;
    if !wanted.view_only {
        asker.may(Verb::ControlScreen, Target::Instance(&view.id))?;
    }
    let view = addressed(backend.addresses(asker.at).as_ref(), view);
    let hash = asked.hash();
    hash.add(&body);
    let mut once = idempotent::begin(backend, asker, &asked.headers, &hash)?;
    if let Some(once) = &mut once
        && let Some(answer) = once.answered(backend, asker, (Verb::ViewScreen, Target::Instance(&view.id)))?
    {
        return Ok(answer);
    }
    let answer = json(StatusCode::OK, &backend.screen_link(&view, wanted, asker.by)?);
    Ok(match once {
        Some(once) => once.end(backend, answer).await,
        None => answer,
    })
}

async fn wait<B: Backend>(
    backend: &B,
    at: Option<&str>,
    found: Result<InstanceView, Refusal>,
    query: &str,
) -> Result<AdminResponse, Error> {
    let query = pairs(query);
    let until = match query.get("for").copied().unwrap_or_default() {
        "stopped" => Until::Stopped,
        "gone" => Until::Gone,
        _ => Until::Settled,
    };
    let ms = query.get("ms").and_then(|m| m.parse().ok()).unwrap_or(60_000u64);
    let mut changed = backend.changed();
    let first = match found {
        Ok(found) => found,
        Err(_) if until == Until::Gone => return Ok(empty()),
        Err(none) => return Err(none.into()),
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
    Ok(match tokio::time::timeout(Duration::from_millis(ms), reached).await {
        Ok(Some(view)) => json(StatusCode::OK, &addressed(backend.addresses(at).as_ref(), view)),
        Ok(None) => empty(),
        Err(_) => return Err(RequestError::NotYet { id: first.id, ms }.into()),
    })
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

async fn logs<B: Backend>(backend: &B, id: InstanceId, query: &str) -> Result<AdminResponse, Error> {
    let query = pairs(query);
    let wanted = LogQuery {
        follow: query.get("follow").is_some_and(|v| *v == "1"),
        tail: query.get("tail").and_then(|t| t.parse().ok()),
    };
    let lines = backend.logs(id, wanted).await?;
    let frames = futures_util::stream::unfold(lines, |mut lines| async move {
        let chunk = match lines.recv().await? {
            Ok(bytes) => bytes,
            Err(said) => Bytes::from(format!("berth: the log ends here: {said}\n")),
        };
        Some((Ok(Frame::data(chunk)), lines))
    });
    Ok(streamed(StreamBody::new(frames).boxed()))
}

fn deploy<B: Backend>(backend: &B, id: &InstanceId, query: &str) -> AdminResponse {
    let follow = pairs(query).get("follow").is_some_and(|v| *v == "1");
    let frames = futures_util::stream::unfold(backend.deploy_log(id, follow), |mut pieces| async move {
        let piece = pieces.recv().await?;
        Some((Ok(Frame::data(piece)), pieces))
    });
    streamed(StreamBody::new(frames).boxed())
}

fn streamed(body: BoxBody<Bytes, Infallible>) -> AdminResponse {
    plain(StatusCode::OK, "text/plain; charset=utf-8", body)
}

/// The parameters of a route; what is none of them would silently be the default.
fn check_query(route: Route, path: &str, query: &str) -> Result<(), RequestError> {
    let known = route.row().query;
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (path, parameter) = (path.to_owned(), name.to_owned());
        let Some((_, fits)) = known.iter().find(|(n, _)| *n == name) else {
            let known = known.iter().map(|(n, _)| (*n).to_owned()).collect();
            return Err(RequestError::NoSuchParameter { path, parameter, known });
        };
        if !fits.fits(value) {
            return Err(RequestError::BadParameter {
                path,
                parameter,
                value: value.to_owned(),
                known: fits.choices(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Problem;

    #[tokio::test]
    async fn an_error_is_answered_as_a_problem() {
        let answer = failed(Refusal::no_instance("x"));
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!((body.code.as_str(), &body.fields["name"]), ("no-instance", &"x".into()));
    }

    #[test]
    fn a_parameter_that_a_route_has_not_is_refused_with_those_that_it_has() {
        let check = |query: &str| check_query(Route::Wait, "/p", query).map_err(|e| e.to_string());
        assert_eq!(check("for=gone&ms=5"), Ok(()));
        assert_eq!(check(""), Ok(()));
        let said = |query: &str| check(query).expect_err(query);
        assert_eq!(
            said("until=gone"),
            "/p: there is no parameter \"until\"; its parameters are: for, ms"
        );
        assert_eq!(
            said("for=ever"),
            "/p: the parameter for cannot be \"ever\": write one of settled, stopped, gone"
        );
        assert_eq!(
            said("ms=x"),
            "/p: the parameter ms cannot be \"x\": write a number from 0 to 300000"
        );
    }
}
