//! The verb `token`: tokens of instances and members.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, bail};

use super::{args::TokenVerb, print, time, verbs::Verbs};
use crate::{
    api::Route,
    model::{Action, InstanceId, Outcome, Subject, TokenCreated, TokenId, TokenScope, TokenView},
};

impl Verbs {
    pub(super) async fn token(&self, what: TokenVerb) -> Result<()> {
        match what {
            TokenVerb::Create {
                instance,
                member,
                name,
                expires,
                scope,
            } => {
                let expires = expires.map_or(Ok(Expiry::Default), |e| expiry(&e))?;
                let subject = match (instance, member) {
                    (_, Some(member)) => Subject::Member(member),
                    (Some(instance), None) => Subject::Instance(self.view(&instance).await?.id),
                    (None, None) => bail!("say what it is for: --instance ID or --member NAME"),
                };
                let scope = match scope {
                    Some(text) => self.scope(&text).await?,
                    None => TokenScope::All,
                };
                let created = self.create_token(subject, name, expires, scope).await?;
                if self.json {
                    return print::json(&created);
                }
                shown(created)
            }
            TokenVerb::Rotate { id, overlap } => {
                let id = TokenId::parse(&id)?;
                let overlap_s = match overlap.as_str() {
                    "0" => Some(0),
                    text => time::seconds(text).and_then(|s| u64::try_from(s).ok()),
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
                let tokens: Vec<TokenView> = self.supervisor.list(Route::Tokens.path()).await?;
                if self.json {
                    return print::json(&tokens);
                }
                table(tokens)
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
        scope: TokenScope,
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
            scope,
        })
        .await
    }

    async fn scope(&self, text: &str) -> Result<TokenScope> {
        if text == "api" {
            return Ok(TokenScope::Api);
        }
        let mut ids = BTreeSet::new();
        let all = || text.split(',').map(str::trim).filter(|o| !o.is_empty());
        if all().any(|one| one == "api") {
            bail!("--scope takes api alone, or instances: a token that opens both needs no scope");
        }
        for one in all() {
            ids.insert(self.view(one).await?.id);
        }
        match ids.is_empty() {
            true => bail!("--scope takes api, or instances separated by commas"),
            false => Ok(TokenScope::Instances(ids.into())),
        }
    }

    /// The token that an action makes.
    async fn made(&self, action: &Action) -> Result<TokenCreated> {
        match self.supervisor.act(action).await? {
            Outcome::Token(created) => Ok(created),
            _ => bail!("the answer of the supervisor was not understood; does it have another version?"),
        }
    }
}

/// Tokens, without their secrets.
pub(super) fn table(tokens: Vec<TokenView>) -> Result<()> {
    let time = |t: Option<jiff::Timestamp>| t.map_or("never".into(), print::short);
    let row = |t: TokenView| {
        let opens = match &t.scope {
            TokenScope::All => t.subject.to_string(),
            TokenScope::Api => format!("{} (api)", t.subject),
            TokenScope::Instances(ids) => {
                let ids: Vec<&str> = ids.iter().map(InstanceId::as_str).collect();
                format!("{} ({})", t.subject, ids.join(","))
            }
        };
        vec![
            t.id.to_string(),
            opens,
            t.name,
            print::short(t.created_at),
            time(t.last_used_at),
            t.last_used_from.map_or(String::new(), |from| from.to_string()),
            time(t.expires_at),
        ]
    };
    let head = ["ID", "OPENS", "NAME", "CREATED", "LAST USED", "FROM", "EXPIRES"];
    print::table(&head, &tokens.into_iter().map(row).collect::<Vec<_>>())
}

/// A token, the one time that it is shown.
fn shown(created: TokenCreated) -> Result<()> {
    let of = if created.view.subject.member().is_some() {
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

fn expiry(text: &str) -> Result<Expiry> {
    if text == "never" {
        return Ok(Expiry::Never);
    }
    time::moment_of("--expires", text).map(Expiry::At)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries() {
        assert!(matches!(expiry("30d"), Ok(Expiry::At(_))));
        assert!(matches!(expiry("never"), Ok(Expiry::Never)));
        let words = expiry("5w").unwrap_err().to_string();
        assert!(words.contains("--expires") && words.contains("30d"), "{words}");
    }
}
