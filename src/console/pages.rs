//! The pages: what each shows, for the templates in `pages/`, which are checked when this is built. Everything that is not
//! markup here is escaped there.

use askama::Template;
use http::{HeaderValue, StatusCode, header};

use super::{
    answers::{Answer, page, plain},
    asked::{Asked, Backend, Facts},
    assets::{self, VERSION},
};
use crate::{
    model::{Health, InstanceView, MemberName, Secret, SignInLink, State},
    record::SignInRecord,
    sign_in::recovery,
};

/// What stands around every page of somebody who is signed in.
pub(super) struct Shell {
    member: String,
    /// The box, as the browser knows it.
    host: String,
    here: &'static str,
}

/// A room of the console: its word, its path, its icon.
struct Room(&'static str, &'static str, &'static str, &'static str);

const ROOMS: [Room; 3] = [
    Room("overview", "Overview", "/", "layout-dashboard"),
    Room("people", "People", "/people", "users"),
    Room("account", "Account", "/account", "circle-user"),
];

impl Shell {
    pub(super) fn of<B: Backend>(asked: &Asked<'_, B>, member: &MemberName, here: &'static str) -> Shell {
        Shell {
            member: member.to_string(),
            host: asked.asker.authority.chars().take(64).collect(),
            here,
        }
    }

    fn rooms(&self) -> impl Iterator<Item = (&'static Room, bool)> {
        ROOMS.iter().map(|room| (room, room.0 == self.here))
    }

    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

/// Where style and script are.
fn asset(name: &str) -> String {
    format!("/assets/{}/{name}", *VERSION)
}

fn icon(name: &str) -> &'static str {
    assets::icon(name)
}

/// How a state is coloured; its word stands beside it always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Ok,
    Warn,
    Bad,
    Quiet,
}

impl std::fmt::Display for Tone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Tone::Ok => "ok",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
            Tone::Quiet => "quiet",
        })
    }
}

/// The word and the colour of an instance's state.
pub(super) fn state_tone(v: &InstanceView) -> (&'static str, Tone) {
    match (v.state, v.health) {
        (State::Running, Health::Healthy) => ("Healthy", Tone::Ok),
        (State::Running, Health::Unhealthy) => ("Unhealthy", Tone::Bad),
        (State::Running, Health::Unknown) => ("Running", Tone::Ok),
        (State::Pending, _) => ("Pending", Tone::Warn),
        (State::Preparing, _) => ("Preparing", Tone::Warn),
        (State::Starting, _) => ("Starting", Tone::Warn),
        (State::Stopped, _) => ("Stopped", Tone::Quiet),
        (State::Failed, _) => ("Failed", Tone::Bad),
        (State::Removing, _) => ("Removing", Tone::Quiet),
    }
}

/// A size for people, in powers of 1024.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let (mut whole, mut rest) = (n, 0);
    while whole >= 1024 && unit + 1 < UNITS.len() {
        rest = whole % 1024;
        whole /= 1024;
        unit += 1;
    }
    match whole < 10 && unit > 0 {
        true => format!("{whole}.{} {}", rest * 10 / 1024, UNITS[unit]),
        false => format!("{whole} {}", UNITS[unit]),
    }
}

#[derive(Template)]
#[template(path = "sign-in.html")]
pub(super) struct SignInPage<'a> {
    member: &'a str,
    next: &'static str,
    wrong: Option<&'a str>,
}

impl SignInPage<'_> {
    pub(super) fn answer(status: StatusCode, member: &str, next: &'static str, wrong: Option<&str>) -> Answer {
        page(status, &SignInPage { member, next, wrong })
    }
}

#[derive(Template)]
#[template(path = "code.html")]
pub(super) struct CodePage<'a> {
    ticket: &'a str,
    next: &'static str,
    wrong: Option<&'a str>,
}

impl CodePage<'_> {
    pub(super) fn answer(status: StatusCode, ticket: &str, next: &'static str, wrong: Option<&str>) -> Answer {
        page(status, &CodePage { ticket, next, wrong })
    }
}

/// A field that is wrong, and why.
type Wrong<'a> = Option<(&'a str, String)>;

/// What is said at a field.
fn at<'a>(wrong: &'a Wrong<'_>, field: &str) -> Option<&'a str> {
    wrong.as_ref().filter(|(f, _)| *f == field).map(|(_, why)| why.as_str())
}

#[derive(Template)]
#[template(path = "claim.html")]
pub(super) struct ClaimPage<'a> {
    facts: Facts,
    /// In lines that fit a phone.
    fingerprint: Vec<String>,
    authority: &'a str,
    member: &'a str,
    wrong: Wrong<'a>,
}

impl ClaimPage<'_> {
    pub(super) fn answer(status: StatusCode, facts: Facts, authority: &str, member: &str, wrong: Wrong<'_>) -> Answer {
        let pairs: Vec<&str> = facts.fingerprint.split(':').collect();
        let fingerprint = pairs.chunks(4).map(|c| c.join(":")).collect();
        page(
            status,
            &ClaimPage {
                facts,
                fingerprint,
                authority,
                member,
                wrong,
            },
        )
    }
}

#[derive(Template)]
#[template(path = "set-passphrase.html")]
pub(super) struct SetPage<'a> {
    member: &'a str,
    link: &'a str,
    wrong: Wrong<'a>,
}

impl SetPage<'_> {
    pub(super) fn answer(status: StatusCode, member: &str, link: &str, wrong: Wrong<'_>) -> Answer {
        page(status, &SetPage { member, link, wrong })
    }
}

/// What the page tells beside what it shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) done: Option<String>,
    pub(super) wrong: Option<String>,
}

impl Told {
    pub(super) fn done(what: &str) -> Told {
        Told {
            done: Some(what.to_owned()),
            wrong: None,
        }
    }
}

/// A place where somebody is signed in.
pub(super) struct SessionRow {
    pub(super) this: bool,
    pub(super) number: u64,
    pub(super) agent: String,
    pub(super) from: String,
    pub(super) began: jiff::Timestamp,
    pub(super) seen: jiff::Timestamp,
}

#[derive(Template)]
#[template(path = "account.html")]
pub(super) struct AccountPage {
    shell: Shell,
    totp: bool,
    codes: usize,
    sessions: Vec<SessionRow>,
    told: Told,
}

impl AccountPage {
    pub(super) fn answer(
        status: StatusCode,
        shell: Shell,
        record: &SignInRecord,
        sessions: Vec<SessionRow>,
        told: Told,
    ) -> Answer {
        let template = AccountPage {
            shell,
            totp: record.totp.is_some(),
            codes: record.recovery.len(),
            sessions,
            told,
        };
        page(status, &template)
    }

    fn all(&self) -> usize {
        recovery::CODES
    }
}

#[derive(Template)]
#[template(path = "second-step.html")]
pub(super) struct SecondPage<'a> {
    shell: Shell,
    /// In groups of four.
    secret: Vec<String>,
    qr: Option<String>,
    fresh: bool,
    wrong: Option<&'a str>,
}

impl SecondPage<'_> {
    pub(super) fn answer(
        status: StatusCode,
        shell: Shell,
        (secret, qr): (&Secret, Option<String>),
        fresh: bool,
        wrong: Option<&str>,
    ) -> Answer {
        let letters: Vec<char> = secret.expose().chars().collect();
        let template = SecondPage {
            shell,
            secret: letters.chunks(4).map(|c| c.iter().collect()).collect(),
            qr,
            fresh,
            wrong,
        };
        page(status, &template)
    }
}

#[derive(Template)]
#[template(path = "codes.html")]
pub(super) struct CodesPage {
    shell: Shell,
    codes: Vec<Secret>,
}

impl CodesPage {
    pub(super) fn answer(shell: Shell, codes: Vec<Secret>) -> Answer {
        page(StatusCode::OK, &CodesPage { shell, codes })
    }
}

/// A number in a card.
pub(super) struct Stat {
    pub(super) label: &'static str,
    pub(super) value: String,
    pub(super) of: String,
    pub(super) note: String,
}

/// Something that somebody has to look at.
pub(super) struct Attention {
    tone: Tone,
    what: String,
    why: String,
    pub(super) link: Option<(&'static str, &'static str)>,
}

impl Attention {
    pub(super) fn new(tone: Tone, what: &str, why: String) -> Attention {
        Attention {
            tone,
            what: what.to_owned(),
            why,
            link: None,
        }
    }
}

pub(super) struct InstanceRow {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) workspace: String,
    pub(super) state: &'static str,
    pub(super) tone: Tone,
    pub(super) reason: String,
}

#[derive(Template)]
#[template(path = "overview.html")]
pub(super) struct OverviewPage {
    pub(super) shell: Shell,
    pub(super) stats: Vec<Stat>,
    pub(super) attention: Vec<Attention>,
    pub(super) total: usize,
    pub(super) states: Vec<(String, usize, Tone)>,
    pub(super) instances: Vec<InstanceRow>,
}

pub(super) struct MemberRow {
    pub(super) name: String,
    pub(super) you: bool,
    pub(super) role: &'static str,
    pub(super) workspaces: String,
    pub(super) disabled: bool,
    pub(super) sign_in: &'static str,
    pub(super) invite: bool,
    pub(super) reset: bool,
}

#[derive(Template)]
#[template(path = "people.html")]
pub(super) struct PeoplePage {
    pub(super) shell: Shell,
    pub(super) rows: Vec<MemberRow>,
    pub(super) link: Option<SignInLink>,
    pub(super) wrong: Option<String>,
}

#[derive(Template)]
#[template(path = "wrong.html")]
struct WrongPage<'a> {
    why: &'a str,
}

/// A page that says what is wrong, for somebody who came here by a path or a form of their own.
pub(super) fn wrong(status: StatusCode, why: &str) -> Answer {
    page(status, &WrongPage { why })
}

/// The box has no random bytes, or cannot seal.
pub(super) fn fault() -> Answer {
    wrong(
        StatusCode::INTERNAL_SERVER_ERROR,
        "The box could not do this. Try again; its log says more.",
    )
}

/// A page that asks for the same once more, as a page of our own.
pub(super) fn again(to: &'static str) -> Answer {
    let text = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Berth</title><a href=\"{to}\">Continue</a>"
    );
    let mut answer = plain(StatusCode::OK, "text/html; charset=utf-8", text);
    if let Ok(value) = HeaderValue::from_str(&format!("0; url={to}")) {
        answer.headers_mut().insert(header::REFRESH, value);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_say_them() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (10 << 20, "10 MiB"),
            ((2 << 30) + (110 << 20), "2.1 GiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn what_people_type_is_never_markup() {
        let hostile = "\"><script>alert(1)</script>";
        for text in [
            SignInPage {
                member: hostile,
                next: "/",
                wrong: Some(hostile),
            }
            .render()
            .unwrap(),
            SetPage {
                member: hostile,
                link: hostile,
                wrong: Some(("link", hostile.to_owned())),
            }
            .render()
            .unwrap(),
            CodePage {
                ticket: hostile,
                next: "/",
                wrong: Some(hostile),
            }
            .render()
            .unwrap(),
            WrongPage { why: hostile }.render().unwrap(),
        ] {
            assert!(
                !text.contains("<script>alert") && !text.contains("\"><script"),
                "{text}"
            );
            assert!(
                !text.contains(" style=") && !text.contains(" onclick"),
                "the policy allows neither"
            );
        }
    }
}
