//! The people of the box: who they are, how they sign in, and the links by which they set a passphrase.

use http::StatusCode;
use serde_json::json;

use super::{
    answers::{Answer, page as answer_page},
    asked::{Asked, Backend},
    form::Form,
    pages::{MemberRow, PeoplePage, Shell},
};
use crate::{
    api::{Problem, Route, Whoami},
    model::{MemberName, MemberView, Outcome, SignIn, SignInLink},
    session::Session,
};

/// What came of a link that was asked for.
pub(super) type Asking = Result<SignInLink, String>;

pub(super) async fn page<B: Backend>(
    asked: &Asked<'_, B>,
    (member, _): (MemberName, Session),
    came: Option<Asking>,
) -> Answer {
    let whoami: Option<Whoami> = asked.read(Route::Whoami.path()).await;
    let owner = whoami.is_some_and(|w| w.owner);
    let members: Vec<MemberView> = asked.read(Route::Members.path()).await.unwrap_or_default();
    let row = |m: &MemberView| MemberRow {
        name: m.name.to_string(),
        you: m.name == member,
        role: m.role.as_str(),
        workspaces: m
            .workspaces
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
        disabled: m.disabled_at.is_some(),
        sign_in: match m.sign_in {
            SignIn::None => "Not invited",
            SignIn::Invited => "Invited",
            SignIn::Passphrase => "Passphrase",
            SignIn::TwoSteps => "Two steps",
        },
        // What somebody may not, the API says when they ask; an owner may all of it.
        invite: owner && m.disabled_at.is_none() && matches!(m.sign_in, SignIn::None | SignIn::Invited),
        reset: owner && m.disabled_at.is_none() && m.name != member && m.sign_in >= SignIn::Passphrase,
    };
    let (link, wrong) = match came {
        Some(Ok(link)) => (Some(link), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let status = match wrong {
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
        None => StatusCode::OK,
    };
    let template = PeoplePage {
        shell: Shell::of(asked, &member, "people"),
        rows: members.iter().map(row).collect(),
        link,
        wrong,
    };
    answer_page(status, &template)
}

/// Has a link made, and shows it: this once.
pub(super) async fn link<B: Backend>(
    asked: &Asked<'_, B>,
    who: (MemberName, Session),
    path: &str,
    form: &Form,
) -> Answer {
    let action = match path {
        "/people/invite" => "invite_member",
        _ => "reset_sign_in",
    };
    let action = json!({ "action": action, "name": form.get("member") });
    let (status, body) = asked.backend.api(asked.request(Route::Act.path(), Some(action))).await;
    let came = match (status, serde_json::from_slice(&body)) {
        (StatusCode::OK, Ok(Outcome::SignInLink(link))) => Ok(link),
        _ => Err(serde_json::from_slice::<Problem>(&body).map_or_else(
            |_| "It could not be done.".to_owned(),
            |p| format!("It was not done: {}.", p.detail),
        )),
    };
    page(asked, who, Some(came)).await
}
