//! The verbs `member`, `team` and `grant`.

use std::io::Read;

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::json;

use super::{
    args::people::{GrantVerb, MemberVerb, TeamVerb},
    print, time,
    verbs::Verbs,
    words,
};
use crate::{
    api::{Route, Whoami},
    model::{
        Action, EndedSessions, EndedToken, EndedWay, GrantView, Grantee, InstanceId, KnownCredential, KnownToken,
        Level, MemberName, MemberView, Offboarded, OffboardingReport, Outcome, Refusal, Role, TeamId, TeamView,
        TokenView, WorkspaceName,
    },
};

/// A report has so many bytes at most.
const MAX_REPORT: u64 = 64 << 20;

impl Verbs {
    pub(super) async fn member(&self, what: MemberVerb) -> Result<()> {
        match what {
            MemberVerb::Add { name, role } => {
                let (role, workspace) = (Role::from(role.role), role.workspace);
                let made = self.act_on_member(&Action::AddMember { name, role, workspace }).await?;
                self.shown_member(&made)
            }
            MemberVerb::Set { name, role, workspace } => {
                let (member, role) = (name, Role::from(role));
                let set = Action::SetRole {
                    member,
                    role,
                    workspace,
                };
                self.shown_member(&self.act_on_member(&set).await?)
            }
            MemberVerb::Leave { name, workspace } => {
                let left = Action::LeaveWorkspace {
                    member: name,
                    workspace,
                };
                self.shown_member(&self.act_on_member(&left).await?)
            }
            MemberVerb::List => {
                let all = self.members().await?;
                if self.json {
                    return print::json(&all);
                }
                let row = |m: &MemberView| {
                    vec![
                        m.name.to_string(),
                        state(m),
                        workspaces(m),
                        m.tokens.to_string(),
                        print::short(m.created_at),
                        m.last_used_at.map_or("never".into(), print::short),
                    ]
                };
                let head = ["MEMBER", "ROLE", "WORKSPACES", "TOKENS", "CREATED", "LAST USED"];
                print::table(&head, &all.iter().map(row).collect::<Vec<_>>())
            }
            MemberVerb::Show { name } => {
                let found = self.members().await?.into_iter().find(|m| m.name == name);
                let none = || words::of_refusal(&Refusal::NoMember { member: name.clone() });
                self.shown_member(&found.ok_or_else(|| anyhow!(none()))?)
            }
            MemberVerb::Disable { name } => match self.supervisor.act(&Action::DisableMember { name }).await? {
                Outcome::Offboarded(done) if self.json => print::json(&done),
                Outcome::Offboarded(done) => reported(&done.report),
                other => Err(unexpected(&other)),
            },
            MemberVerb::Verify { file } => self.verify(&file).await,
            MemberVerb::Enable { name } => {
                self.shown_member(&self.act_on_member(&Action::EnableMember { name }).await?)
            }
            MemberVerb::Invite { name } => self.link(&Action::InviteMember { name }).await,
            MemberVerb::ResetSignIn { name } => self.link(&Action::ResetSignIn { name }).await,
            MemberVerb::Rm { name } => {
                self.supervisor
                    .act(&Action::RemoveMember { name: name.clone() })
                    .await?;
                print::removed(name.as_str(), self.json)
            }
        }
    }

    pub(super) async fn team(&self, what: TeamVerb) -> Result<()> {
        match what {
            TeamVerb::Add { team } => {
                let TeamId { workspace, name } = team;
                self.shown_team(&self.act_on_team(&Action::AddTeam { workspace, name }).await?)
            }
            TeamVerb::List => {
                let all = self.teams().await?;
                if self.json {
                    return print::json(&all);
                }
                let row = |t: &TeamView| vec![format!("{}/{}", t.workspace, t.name), names(t)];
                print::table(&["TEAM", "MEMBERS"], &all.iter().map(row).collect::<Vec<_>>())
            }
            TeamVerb::Show { team } => {
                let mut all = self.teams().await?.into_iter();
                let found = all.find(|t| t.workspace == team.workspace && t.name == team.name);
                let none = || words::of_refusal(&Refusal::NoTeam { team: team.clone() });
                self.shown_team(&found.ok_or_else(|| anyhow!(none()))?)
            }
            TeamVerb::Join { team, members } => {
                let join = |TeamId { workspace, name }, member| Action::JoinTeam {
                    workspace,
                    name,
                    member,
                };
                self.each_member(&team, members, join).await
            }
            TeamVerb::Leave { team, members } => {
                let leave = |TeamId { workspace, name }, member| Action::LeaveTeam {
                    workspace,
                    name,
                    member,
                };
                self.each_member(&team, members, leave).await
            }
            TeamVerb::Rm { team } => {
                let TeamId { workspace, name } = team.clone();
                self.supervisor.act(&Action::RemoveTeam { workspace, name }).await?;
                print::removed(&team.to_string(), self.json)
            }
        }
    }

    pub(super) async fn grant(&self, what: GrantVerb) -> Result<()> {
        match what {
            GrantVerb::Add {
                to,
                instance,
                manage,
                until,
            } => {
                let until = until.map(|text| time::moment_of("--until", &text)).transpose()?;
                let instance = self.view(&instance).await?.id;
                let add = Action::AddGrant {
                    to,
                    instance,
                    manage,
                    until,
                };
                match self.supervisor.act(&add).await? {
                    Outcome::Grant(grant) => self.shown_grant(&grant),
                    other => Err(unexpected(&other)),
                }
            }
            GrantVerb::List { unused: None } => {
                let all = self.grants().await?;
                match self.json {
                    true => print::json(&all),
                    false => table_of_grants(&all),
                }
            }
            GrantVerb::List { unused: Some(time) } => self.unused(&time).await,
            GrantVerb::Rm { to, instance } => {
                let id = self.granted(&to, &instance).await?;
                self.supervisor
                    .act(&Action::RemoveGrant {
                        to: to.clone(),
                        instance: id.clone(),
                    })
                    .await?;
                match self.json {
                    true => print::json(&json!({ "removed": { "to": to.to_string(), "instance": id } })),
                    false => print::out(&format!("{to}: no longer granted {id}\n")),
                }
            }
        }
    }

    /// Whether a report is as this box signed it.
    async fn verify(&self, file: &str) -> Result<()> {
        let text = match file {
            "-" => std::io::read_to_string(std::io::stdin().lock().take(MAX_REPORT)),
            path => std::fs::File::open(path).and_then(|f| std::io::read_to_string(f.take(MAX_REPORT))),
        };
        let text = text.with_context(|| format!("cannot read {file}"))?;
        let given: Offboarded = serde_json::from_str(&text)
            .with_context(|| format!("{file} holds no report: save what `berth member disable NAME --json` prints"))?;
        let known: Whoami = self.supervisor.get(Route::Whoami.path()).await?;
        check(&given, &known.signing_key)?;
        if self.json {
            return print::json(&given.report);
        }
        print::out("the box signed this report, and it is unchanged\n")?;
        reported(&given.report)
    }

    /// What nobody used for so long, and is older than that.
    async fn unused(&self, time: &str) -> Result<()> {
        let bad = || anyhow!("--unused {time:?}: write a number with its unit, such as 30d, 12h or 45m");
        let ago = time::seconds(time).ok_or_else(bad)?;
        let since = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(ago))?;
        let old = |created: jiff::Timestamp, used: Option<jiff::Timestamp>| created < since && used < Some(since);
        let mut grants = self.grants().await?;
        grants.retain(|g| old(g.created_at, g.last_used_at));
        let mut tokens: Vec<TokenView> = self.supervisor.list(Route::Tokens.path()).await?;
        tokens.retain(|t| old(t.created_at, t.last_used_at));
        if self.json {
            return print::json(&json!({ "grants": grants, "tokens": tokens }));
        }
        table_of_grants(&grants)?;
        print::out("\n")?;
        super::token::table(tokens)
    }

    async fn members(&self) -> Result<Vec<MemberView>> {
        self.supervisor.list(Route::Members.path()).await
    }

    async fn teams(&self) -> Result<Vec<TeamView>> {
        self.supervisor.list(Route::Teams.path()).await
    }

    async fn grants(&self) -> Result<Vec<GrantView>> {
        self.supervisor.list(Route::Grants.path()).await
    }

    /// The instance of a grant: by the grants, since it may be about to go.
    async fn granted(&self, to: &Grantee, instance: &str) -> Result<InstanceId> {
        let all = self.grants().await?;
        let mut theirs = all.into_iter().filter(|g| g.to == *to);
        let by_id = |g: &GrantView| g.instance.as_str() == instance;
        if let Some(grant) = theirs.find(by_id) {
            return Ok(grant.instance);
        }
        Ok(self.view(instance).await?.id)
    }

    async fn act_on_member(&self, action: &Action) -> Result<MemberView> {
        match self.supervisor.act(action).await? {
            Outcome::Member(view) => Ok(view),
            other => Err(unexpected(&other)),
        }
    }

    async fn act_on_team(&self, action: &Action) -> Result<TeamView> {
        match self.supervisor.act(action).await? {
            Outcome::Team(view) => Ok(view),
            other => Err(unexpected(&other)),
        }
    }

    /// One after the other; the first that is refused ends it, and what was done before stays.
    async fn each_member(
        &self,
        team: &TeamId,
        members: Vec<MemberName>,
        action: impl Fn(TeamId, MemberName) -> Action,
    ) -> Result<()> {
        let mut last = None;
        for member in members {
            last = Some(self.act_on_team(&action(team.clone(), member)).await?);
        }
        match last {
            Some(team) => self.shown_team(&team),
            None => bail!("name a member"),
        }
    }

    /// Shows a link that sets a passphrase.
    async fn link(&self, action: &Action) -> Result<()> {
        let link = match self.supervisor.act(action).await? {
            Outcome::SignInLink(link) => link,
            other => return Err(unexpected(&other)),
        };
        if self.json {
            return print::json(&link);
        }
        print::out(&format!(
            "{}\n\nGive this link to {}. It is shown only now, works once, and ends {}.\n",
            link.url.expose(),
            link.member,
            print::short(link.expires_at)
        ))
    }

    fn shown_member(&self, m: &MemberView) -> Result<()> {
        if self.json {
            return print::json(m);
        }
        let teams: Vec<String> = m.teams.iter().map(ToString::to_string).collect();
        print::fields(&[
            ("member", m.name.to_string()),
            ("role", state(m)),
            ("workspaces", workspaces(m)),
            ("teams", listed(&teams)),
            ("sign-in", m.sign_in.as_str().to_owned()),
            ("tokens", m.tokens.to_string()),
            ("created", print::short(m.created_at)),
            ("last used", m.last_used_at.map_or("never".into(), print::short)),
        ])
    }

    fn shown_team(&self, t: &TeamView) -> Result<()> {
        if self.json {
            return print::json(t);
        }
        print::fields(&[
            ("team", format!("{}/{}", t.workspace, t.name)),
            ("members", names(t)),
            ("created", print::short(t.created_at)),
        ])
    }

    fn shown_grant(&self, g: &GrantView) -> Result<()> {
        if self.json {
            return print::json(g);
        }
        print::fields(&[
            ("who", g.to.to_string()),
            (
                "instance",
                format!("{} ({}/{})", g.instance, g.workspace, g.instance_name),
            ),
            ("level", level(g.level).to_owned()),
            ("until", g.until.map_or("it is removed".into(), print::short)),
            ("by", g.by.clone()),
        ])
    }
}

/// Checks the signature of a report by a box's public key, and that what is shown of it is what was signed.
fn check(given: &Offboarded, key: &str) -> Result<()> {
    let decoded = |what: &str, text: &str| BASE64.decode(text).map_err(|_| anyhow!("its {what} is no base64"));
    if given.signing_key != key {
        bail!(
            "another box signed this report: its key is {}, this box has {key}",
            given.signing_key
        );
    }
    let public = UnparsedPublicKey::new(&ED25519, decoded("signing_key", key)?);
    let signature = decoded("signature", &given.signature)?;
    let genuine = public.verify(given.signed.as_bytes(), &signature).is_ok();
    let same = serde_json::from_str::<OffboardingReport>(&given.signed).is_ok_and(|r| r == given.report);
    match genuine && same {
        true => Ok(()),
        false => bail!("this report was changed after the box had signed it"),
    }
}

/// A report, for people.
fn reported(r: &OffboardingReport) -> Result<()> {
    let lines = |all: Vec<String>| match all.is_empty() {
        true => "none".to_owned(),
        false => all.join("\n"),
    };
    let token = |t: &EndedToken| format!("{} {}", t.id, t.name);
    let made = |t: &KnownToken| format!("{} of {} {}: goes on, rotate or revoke it", t.id, t.instance, t.name);
    let way = |w: &EndedWay| {
        format!(
            "{} at {}",
            w.open,
            w.instance.as_ref().map_or("the API", InstanceId::as_str)
        )
    };
    let sessions = |s: &EndedSessions| match s.ended {
        Some(n) => format!("{n} in {}", s.instance),
        None => format!(
            "unknown in {}, which did not answer; they end by themselves",
            s.instance
        ),
    };
    let credential = |c: &KnownCredential| format!("{} of {} ({}/{})", c.key, c.instance, c.workspace, c.instance_name);
    print::fields(&[
        ("disabled", r.member.to_string()),
        ("by", r.by.clone()),
        ("at", print::short(r.at)),
        ("tokens revoked", lines(r.tokens.iter().map(token).collect())),
        ("tokens made", lines(r.instance_tokens.iter().map(made).collect())),
        ("requests cut", lines(r.cut.iter().map(way).collect())),
        ("MCP sessions", lines(r.mcp_sessions.iter().map(sessions).collect())),
        ("screens", r.screen_sessions.to_string()),
        ("to be changed", lines(r.credentials.iter().map(credential).collect())),
    ])
}

fn table_of_grants(all: &[GrantView]) -> Result<()> {
    let default = WorkspaceName::default();
    let row = |g: &GrantView| {
        let name = match g.workspace == default {
            true => g.instance_name.to_string(),
            false => format!("{}/{}", g.workspace, g.instance_name),
        };
        vec![
            g.to.to_string(),
            g.instance.to_string(),
            name,
            level(g.level).to_owned(),
            g.until.map_or("-".into(), print::short),
            print::short(g.created_at),
            g.by.clone(),
            g.last_used_at.map_or("never".into(), print::short),
        ]
    };
    let head = [
        "WHO",
        "INSTANCE",
        "NAME",
        "LEVEL",
        "UNTIL",
        "CREATED",
        "BY",
        "LAST USED",
    ];
    print::table(&head, &all.iter().map(row).collect::<Vec<_>>())
}

fn unexpected(outcome: &Outcome) -> anyhow::Error {
    anyhow!("the supervisor answered something else: {outcome:?}")
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Use => "use",
        Level::Manage => "manage",
    }
}

fn state(m: &MemberView) -> String {
    match m.disabled_at {
        Some(at) => format!("{}, disabled since {}", m.role, print::short(at)),
        None => m.role.to_string(),
    }
}

fn workspaces(m: &MemberView) -> String {
    if m.role == Role::Owner {
        return "all".to_owned();
    }
    let one = |(name, role): (&WorkspaceName, &_)| match Role::from(*role) {
        Role::Member => name.to_string(),
        role => format!("{name} ({role})"),
    };
    listed(&m.workspaces.iter().map(one).collect::<Vec<_>>())
}

fn names(t: &TeamView) -> String {
    listed(&t.members.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn listed(all: &[String]) -> String {
    match all.is_empty() {
        true => "none".to_owned(),
        false => all.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;
    use crate::model::BoxId;

    #[test]
    fn a_report_that_was_changed_or_is_anothers_is_refused() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let report = OffboardingReport {
            box_id: BoxId::from_random([1; 8]),
            member: MemberName::parse("ada").unwrap(),
            at: jiff::Timestamp::UNIX_EPOCH,
            by: "admin".to_owned(),
            tokens: Vec::new(),
            instance_tokens: Vec::new(),
            cut: Vec::new(),
            mcp_sessions: Vec::new(),
            screen_sessions: 1,
            credentials: Vec::new(),
        };
        let signed = serde_json::to_string(&report).unwrap();
        let given = Offboarded {
            member: MemberView {
                name: report.member.clone(),
                role: Role::Member,
                workspaces: [].into(),
                teams: [].into(),
                created_at: report.at,
                etag: crate::model::Etag::default(),
                disabled_at: Some(report.at),
                sign_in: crate::model::SignIn::None,
                tokens: 0,
                last_used_at: None,
            },
            signature: BASE64.encode(pair.sign(signed.as_bytes())),
            signing_key: BASE64.encode(pair.public_key()),
            signed,
            report,
        };
        let key = given.signing_key.clone();
        check(&given, &key).unwrap();
        let written: Offboarded = serde_json::from_str(&serde_json::to_string(&given).unwrap()).unwrap();
        check(&written, &key).unwrap();
        let refused = |change: &dyn Fn(&mut Offboarded)| {
            let mut other = given.clone();
            change(&mut other);
            check(&other, &key).unwrap_err().to_string()
        };
        assert!(refused(&|r| r.report.screen_sessions = 0).contains("was changed"));
        assert!(refused(&|r| r.signed = r.signed.replace("ada", "bob")).contains("was changed"));
        assert!(refused(&|r| r.signature = BASE64.encode([0; 64])).contains("was changed"));
        assert!(refused(&|r| r.signing_key = BASE64.encode([0; 32])).contains("another box"));
    }
}
