//! The verb `token`: tokens of instances and members.

use anyhow::{Result, anyhow, bail};

use super::{args::TokenVerb, print, verbs::Verbs};
use crate::{
    api::Route,
    model::{Action, Outcome, Subject, TokenCreated, TokenId, TokenView},
};

impl Verbs {
    pub(super) async fn token(&self, what: TokenVerb) -> Result<()> {
        match what {
            TokenVerb::Create {
                instance,
                member,
                name,
                expires,
            } => {
                let expires = expires.map_or(Ok(Expiry::Default), |e| expiry(&e))?;
                let subject = match (instance, member) {
                    (_, Some(member)) => Subject::Member(member),
                    (Some(instance), None) => Subject::Instance(self.view(&instance).await?.id),
                    (None, None) => bail!("say what it is for: --instance ID or --member NAME"),
                };
                let created = self.create_token(subject, name, expires).await?;
                if self.json {
                    return print::json(&created);
                }
                shown(created)
            }
            TokenVerb::Rotate { id, overlap } => {
                let id = TokenId::parse(&id)?;
                let overlap_s = match overlap.as_str() {
                    "0" => Some(0),
                    text => seconds(text).and_then(|s| u64::try_from(s).ok()),
                };
                let bad =
                    || anyhow!("--overlap {overlap:?}: write a number with its unit, such as 7d, 12h or 45m, or 0");
                let overlap_s = Some(overlap_s.ok_or_else(bad)?);
                let old = id.clone();
                let created = self.made(&Action::RotateToken { id, overlap_s }).await?;
                if self.json {
                    return print::json(&created);
                }
                shown(created)?;
                print::out(&match overlap_s {
                    Some(0) => format!("the token {old} is revoked\n"),
                    _ => format!("the token {old} works for {overlap} more, unless it ends before\n"),
                })
            }
            TokenVerb::List => {
                let tokens: Vec<TokenView> = self.supervisor.get(Route::Tokens.path()).await?;
                if self.json {
                    return print::json(&tokens);
                }
                let time = |t: Option<jiff::Timestamp>| t.map_or("never".into(), print::short);
                let rows: Vec<_> = tokens
                    .into_iter()
                    .map(|t| {
                        let created = print::short(t.created_at);
                        vec![
                            t.id.to_string(),
                            t.subject.to_string(),
                            t.name,
                            created,
                            time(t.last_used_at),
                            time(t.expires_at),
                        ]
                    })
                    .collect();
                print::table(&["ID", "OPENS", "NAME", "CREATED", "LAST USED", "EXPIRES"], &rows)
            }
            TokenVerb::Revoke { id } => {
                let id = TokenId::parse(&id)?;
                self.supervisor.act(&Action::RevokeToken { id: id.clone() }).await?;
                if self.json {
                    print::json(&serde_json::json!({ "revoked": id }))
                } else {
                    print::out(&format!("{id} revoked\n"))
                }
            }
        }
    }

    pub(super) async fn create_token(
        &self,
        subject: Subject,
        name: Option<String>,
        expires: Expiry,
    ) -> Result<TokenCreated> {
        let (expires_at, never) = match expires {
            Expiry::Default => (None, false),
            Expiry::At(at) => (Some(at), false),
            Expiry::Never => (None, true),
        };
        self.made(&Action::CreateToken {
            subject,
            name,
            expires_at,
            never,
        })
        .await
    }

    /// The token that an action makes.
    async fn made(&self, action: &Action) -> Result<TokenCreated> {
        match self.supervisor.act(action).await? {
            Outcome::Token(created) => Ok(created),
            _ => bail!("the answer of the supervisor was not understood; does it have another version?"),
        }
    }
}

/// A token, the one time that it is shown.
fn shown(created: TokenCreated) -> Result<()> {
    let of = if created.view.subject.is_member() {
        "member"
    } else {
        "instance"
    };
    print::fields(&[
        ("id", created.view.id.to_string()),
        (of, created.view.subject.to_string()),
        ("name", created.view.name),
        ("expires", created.view.expires_at.map_or("never".into(), print::short)),
        ("token", format!("{}   (shown only once)", created.token.expose())),
    ])
}

/// When a token ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    /// As the supervisor has it.
    Default,
    At(jiff::Timestamp),
    Never,
}

/// So many seconds, as `30d`, `12h` or `45m`; ten years at most.
fn seconds(text: &str) -> Option<i64> {
    let (n, seconds) = [("m", 60), ("h", 3600), ("d", 86_400)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))?;
    let n: i64 = n.parse().ok().filter(|n| *n > 0)?;
    n.checked_mul(seconds).filter(|s| *s <= 3_650 * 86_400)
}

fn expiry(text: &str) -> Result<Expiry> {
    if text == "never" {
        return Ok(Expiry::Never);
    }
    let span = seconds(text).ok_or_else(|| {
        anyhow!("--expires {text:?}: write a number with its unit, such as 30d, 12h or 45m, or never")
    })?;
    Ok(Expiry::At(
        jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(span))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries() {
        assert!(matches!(expiry("30d"), Ok(Expiry::At(_))));
        assert!(matches!(expiry("never"), Ok(Expiry::Never)));
        for bad in ["", "d", "0d", "-1d", "5", "5w", "99999999999d", "é"] {
            assert!(expiry(bad).is_err(), "{bad}");
        }
    }
}
