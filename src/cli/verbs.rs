//! What each verb does: ask the admin API, wait where waiting is wanted, print.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Result, anyhow, bail};

use super::{
    appliance,
    args::{CredentialVerb, Place, TypesVerb, Verb, Wait},
    client::Supervisor,
    context, credential, doctor, environment, login, print, run, screen, status,
    token::Expiry,
};
use crate::{
    api::{Doctored, Route, Status, TypeView, Whoami},
    clients::{self, Client},
    load,
    model::{Action, InstanceId, InstanceView, Outcome, RunRequest, Secret, State, Subject, TokenScope, TypeName},
    output,
};

pub(super) struct Verbs {
    pub(super) supervisor: Supervisor,
    pub(super) json: bool,
}

pub(super) fn run(place: Place, json: bool, verb: Verb) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            print::problem(&e);
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match verb {
            // These come before there is a supervisor to speak to, or without one.
            Verb::Login(args) => login::run(args, json).await.map(|()| ExitCode::SUCCESS),
            Verb::Context { what } => context::run(what, &place, json).map(|()| ExitCode::SUCCESS),
            Verb::Box { what } => appliance::run(what).await,
            Verb::Install { disk, erase } => appliance::install(&disk, erase).map(|()| ExitCode::SUCCESS),
            verb => {
                let supervisor = context::supervisor(&place)?;
                Verbs { supervisor, json }.one(verb).await
            }
        }
    });
    match done {
        Ok(code) => code,
        Err(e) => {
            print::problem(&format_args!("{e:#}"));
            ExitCode::FAILURE
        }
    }
}

impl Verbs {
    async fn one(&self, verb: Verb) -> Result<ExitCode> {
        match verb {
            Verb::Status => status::run(&self.supervisor, self.json).await?,
            Verb::Types { what } => return self.types(what).await,
            Verb::Run {
                type_name,
                name,
                workspace,
                size,
                env,
                env_file,
                file,
                what,
                wait,
            } => {
                let type_name = TypeName::parse(&type_name)?;
                credential::wipe_arguments(&env);
                let mut env = environment::read(&env, env_file.as_deref())?;
                let files = environment::files(&file, &mut env)?;
                credential::ask_missing(&self.supervisor, &type_name, &mut env).await?;
                let mut request = RunRequest {
                    name,
                    workspace,
                    size,
                    env,
                    files,
                    ..RunRequest::of(type_name)
                };
                run::take(&self.supervisor, *what, &mut request).await?;
                return self.start_one(request, &wait).await;
            }
            Verb::List => {
                let views: Vec<InstanceView> = self.supervisor.list(Route::Instances.path()).await?;
                if self.json {
                    print::json(&views)?
                } else {
                    print::instances(&views)?
                }
            }
            Verb::Show { id } => {
                let view = self.view(&id).await?;
                if self.json {
                    print::json(&view)?
                } else {
                    print::instance(&view)?
                }
            }
            Verb::Logs {
                id,
                follow,
                tail,
                deploy,
                raw,
            } => self.logs(&id, follow, tail, deploy, raw).await?,
            Verb::Stop { id, wait } => return self.change(&id, &wait, "stopped", |id| Action::Stop { id }).await,
            Verb::Start { id, wait } => return self.change(&id, &wait, "settled", |id| Action::Start { id }).await,
            Verb::Recreate { id, wait } => {
                return self.change(&id, &wait, "settled", |id| Action::Recreate { id }).await;
            }
            Verb::Rm { id, wait } => return self.change(&id, &wait, "gone", |id| Action::Remove { id }).await,
            Verb::Connect {
                id,
                client,
                token,
                path,
            } => self.connect(&id, client, token, path).await?,
            Verb::Screen {
                id,
                png,
                view_only,
                path,
            } => screen::run(&self.supervisor, self.json, &id, png.as_deref(), view_only, path).await?,
            Verb::Import(what) => return self.import(*what).await,
            Verb::Image { what } => super::image::run(&self.supervisor, what, self.json).await?,
            Verb::Audit(args) => return self.audit(*args).await,
            Verb::Events(args) => return self.events(args).await,
            Verb::Usage(args) => self.usage(args).await?,
            Verb::Token { what } => self.token(what).await?,
            Verb::Member { what } => self.member(what).await?,
            Verb::Team { what } => self.team(what).await?,
            Verb::Grant { what } => self.grant(what).await?,
            Verb::Workspace { what } => super::workspace::run(&self.supervisor, what, self.json).await?,
            Verb::Credential { what } => return self.credential(what).await,
            Verb::Ca => print::out(&self.supervisor.text(Route::Ca.path()).await?)?,
            Verb::Doctor { config, hardening } => return self.doctor(config.as_deref(), hardening).await,
            Verb::ResetAdmin => self.reset_admin().await?,
            Verb::Serve { .. }
            | Verb::Agent
            | Verb::Shell
            | Verb::Box { .. }
            | Verb::Install { .. }
            | Verb::Login(_)
            | Verb::Context { .. } => {
                bail!("not a verb of the command line's own")
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    pub(super) async fn view(&self, id: &str) -> Result<InstanceView> {
        self.supervisor.get(&Route::Instance.of(&segment(id)?)).await
    }

    async fn types(&self, what: Option<TypesVerb>) -> Result<ExitCode> {
        match &what {
            Some(TypesVerb::Check { file }) => return self.check_type(file),
            Some(TypesVerb::Pin { id, off }) => return self.pin(id, !off).await,
            Some(TypesVerb::Upgrade { id, to, yes, timeout }) => {
                return self.upgrade(id, to.clone(), *yes, *timeout).await;
            }
            _ => {}
        }
        let types: Vec<TypeView> = self.supervisor.list(Route::Types.path()).await?;
        let Some(TypesVerb::Show { name }) = what else {
            if self.json {
                print::json(&types)?;
            } else {
                let rows: Vec<_> = types
                    .iter()
                    .map(|t| {
                        let image = match (t.absent.is_empty(), t.loading.is_empty()) {
                            (false, _) => "(its image is not on this box) ",
                            (true, false) => "(its image is being loaded) ",
                            (true, true) => "",
                        };
                        let what = format!("{image}{}", t.description);
                        vec![t.name.clone(), t.size.clone(), t.network.clone(), what]
                    })
                    .collect();
                print::table(&["TYPE", "SIZE", "NETWORK", "WHAT IT DOES"], &rows)?;
            }
            return Ok(ExitCode::SUCCESS);
        };
        let Some(t) = types.iter().find(|t| t.name == name) else {
            let known: Vec<&str> = types.iter().map(|t| t.name.as_str()).collect();
            bail!("there is no type {name:?}; known types: {}", known.join(", "));
        };
        if self.json {
            print::json(t)?;
        } else {
            print::fields(&[
                ("name", t.name.clone()),
                ("title", t.title.clone()),
                ("what", t.description.clone()),
                ("homepage", t.homepage.clone().unwrap_or_default()),
                ("kind", t.kind.clone()),
                ("image", t.image.clone()),
                ("not here", t.absent.join(", ")),
                ("loading", t.loading.join(", ")),
                ("transport", t.transport.clone()),
                ("processes", t.processes.clone().unwrap_or_default()),
                ("size", t.size.clone()),
                ("network", t.network.clone()),
                ("volume", t.volume.clone().unwrap_or_else(|| "none".into())),
                ("screen", if t.screen { "yes" } else { "no" }.into()),
                ("allowed", t.refused.clone().unwrap_or_else(|| "yes".into())),
                ("credentials", credential::describe(&t.credentials)),
            ])?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn check_type(&self, file: &Path) -> Result<ExitCode> {
        match load::type_file(file) {
            Ok(t) => {
                if self.json {
                    print::json(&serde_json::json!({ "name": t.name, "problems": [] }))?;
                } else {
                    print::out(&format!("{}: type {} is valid\n", file.display(), t.name))?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Err(problems) => {
                if self.json {
                    let list: Vec<_> = problems
                        .0
                        .iter()
                        .map(|p| serde_json::json!({ "file": p.file, "line": p.line, "problem": p.text }))
                        .collect();
                    print::json(&serde_json::json!({ "problems": list }))?;
                } else {
                    output::error_line(&problems.to_string());
                }
                Ok(ExitCode::FAILURE)
            }
        }
    }

    async fn start_one(&self, request: RunRequest, wait: &Wait) -> Result<ExitCode> {
        let Outcome::Instance(mut view) = self.supervisor.act(&Action::Run(Box::new(request))).await? else {
            bail!("the answer of the supervisor was not understood; does it have another version?");
        };
        if !wait.no_wait {
            let token = view.token.take();
            // The token is shown even when the wait fails: it is valid, and there is no second time.
            match self.wait_watching(&view.id, wait).await {
                Ok(Some(settled)) => *view = settled,
                Ok(None) => bail!("instance {} was removed in the meantime", view.id),
                Err(e) => print::problem(&format_args!("{e:#}")),
            }
            view.token = token;
        }
        if self.json {
            print::json(&view)?;
        } else {
            // What was installed is long, and `berth show` has it.
            if let Some(package) = &mut view.package {
                package.tree = std::sync::Arc::default();
            }
            print::instance(&view)?;
        }
        if wait.no_wait || view.state == State::Running {
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(reason) = &view.reason {
            print::problem(&format_args!("{} is {}: {reason}", view.id, view.state));
        }
        Ok(ExitCode::FAILURE)
    }

    pub(super) async fn wait(&self, id: &InstanceId, until: &str, wait: &Wait) -> Result<Option<InstanceView>> {
        let path = format!("{}?for={until}&ms=", Route::Wait.of(id.as_str()));
        self.supervisor.wait(&path, Duration::from_secs(wait.timeout)).await
    }

    async fn credential(&self, what: CredentialVerb) -> Result<ExitCode> {
        let (CredentialVerb::Set { id, .. } | CredentialVerb::List { id } | CredentialVerb::Unset { id, .. }) = &what;
        let view = self.view(id).await?;
        let (action, wait) = match what {
            CredentialVerb::List { .. } => {
                credential::list(&self.supervisor, &view, self.json).await?;
                return Ok(ExitCode::SUCCESS);
            }
            CredentialVerb::Set { key, wait, .. } => (credential::set(&self.supervisor, &view, key).await?, wait),
            CredentialVerb::Unset { key, wait, .. } => (
                Action::UnsetCredential {
                    id: view.id.clone(),
                    key,
                },
                wait,
            ),
        };
        // A stopped instance stays so; the others are started anew with what they have now.
        let until = if view.state == State::Stopped {
            "stopped"
        } else {
            "settled"
        };
        self.change(&[view.id.to_string()], &wait, until, |_| action.clone())
            .await
    }

    /// The same for each of several instances; all are asked before any is waited for, and one failure does not
    /// keep the others from being done.
    async fn change(
        &self,
        ids: &[String],
        wait: &Wait,
        until: &str,
        action: impl Fn(InstanceId) -> Action,
    ) -> Result<ExitCode> {
        let (mut failed, mut asked, mut shown) = (false, Vec::new(), Vec::new());
        for id in ids {
            let done = async {
                let view = self.view(id).await?;
                self.supervisor.act(&action(view.id.clone())).await?;
                Ok::<_, anyhow::Error>(view)
            };
            match done.await {
                Ok(view) => asked.push(view),
                Err(e) => {
                    print::problem(&format_args!("{e:#}"));
                    failed = true;
                }
            }
        }
        for view in asked {
            let now = if wait.no_wait {
                self.now(&view).await
            } else {
                self.wait(&view.id, until, wait).await
            };
            match now {
                Ok(None) => self.say(&view.id, "removed")?,
                Ok(Some(now)) => {
                    if now.state == State::Failed && until == "settled" {
                        let reason = now.reason.as_deref().unwrap_or("no reason is known");
                        print::problem(&format_args!("{} failed: {reason}", now.id));
                        failed = true;
                    } else {
                        self.say(&now.id, &now.state.to_string())?;
                    }
                    shown.push(now);
                }
                Err(e) => {
                    print::problem(&format_args!("{e:#}"));
                    failed = true;
                }
            }
        }
        if self.json {
            print::json(&shown)?;
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    async fn now(&self, view: &InstanceView) -> Result<Option<InstanceView>> {
        let views: Vec<InstanceView> = self.supervisor.list(Route::Instances.path()).await?;
        Ok(views.into_iter().find(|v| v.id == view.id))
    }

    fn say(&self, id: &InstanceId, what: &str) -> Result<()> {
        if self.json {
            Ok(())
        } else {
            print::out(&format!("{id} {what}\n"))
        }
    }

    async fn connect(&self, id: &str, client: Client, token: Option<String>, by_path: bool) -> Result<()> {
        let view = self.view(id).await?;
        let token = match token {
            Some(t) => Secret::new(t),
            None => {
                let me: Whoami = self.supervisor.get(Route::Whoami.path()).await?;
                // A member's own, for this instance alone, so that it is theirs and ends with them.
                let (subject, scope) = match me.member.filter(|_| !me.owner) {
                    Some(member) => (
                        Subject::Member(member),
                        TokenScope::Instances(std::sync::Arc::new([view.id.clone()].into())),
                    ),
                    None => (Subject::Instance(view.id.clone()), TokenScope::All),
                };
                let name = Some(format!("connect {}", client.word()));
                self.create_token(subject, name, Expiry::Default, scope).await?.token
            }
        };
        let ca_file = self.ca_file().await?;
        let endpoint = &view.endpoints.mcp;
        let target = clients::Target {
            name: view.name.as_str(),
            url: if by_path { &endpoint.path_url } else { &endpoint.url },
            token: token.expose(),
            ca_file: ca_file.as_deref(),
        };
        if self.json {
            print::json(&clients::value(client, &target))?;
        } else {
            print::out(&clients::configuration(client, &target))?;
            output::error(&clients::advice(client, &target));
        }
        Ok(())
    }

    /// The CA's file on this machine, where clients must be told to trust it.
    pub(super) async fn ca_file(&self) -> Result<Option<String>> {
        let known: Whoami = self.supervisor.get(Route::Whoami.path()).await?;
        // The box names a path of its own; with a context, the CA lies on this machine.
        Ok(match self.supervisor.context() {
            Some(name) if known.ca_file.is_some() => context::ca_file(name).map(|f| f.display().to_string()),
            _ => known.ca_file,
        })
    }

    /// Here, or on the box that a context means: doctor looks at the machine that it runs on.
    async fn doctor(&self, config: Option<&Path>, hardening: bool) -> Result<ExitCode> {
        if self.supervisor.context().is_none() {
            return doctor::run(config, hardening, self.json).await;
        }
        if config.is_some() {
            bail!("a box elsewhere reads its own configuration: omit --config, or add `--context local`");
        }
        let path = format!(
            "{}?json={}&hardening={}",
            Route::Doctor.path(),
            u8::from(self.json),
            u8::from(hardening)
        );
        let report: Doctored = self.supervisor.get(&path).await?;
        if self.json {
            print::json(&serde_json::from_str::<serde_json::Value>(&report.output)?)?;
        } else {
            print::out(&report.output)?;
        }
        Ok(ExitCode::from(report.status))
    }

    async fn reset_admin(&self) -> Result<()> {
        self.supervisor.act(&Action::ResetAdmin).await?;
        let status: Status = self.supervisor.get(Route::Status.path()).await?;
        if self.json {
            return print::json(&status.own);
        }
        print::out("The owners and their tokens are gone. The box can be claimed again.\n")?;
        print::fields(&[(
            "claim code",
            status.own.claim_code.map(|c| c.expose().to_owned()).unwrap_or_default(),
        )])
    }
}

/// An id, a name, or a workspace and a name as a path segment: but for the slash they are made of characters that need no
/// escaping.
pub(super) fn segment(id: &str) -> Result<String> {
    let plain = |part: &str| {
        !part.is_empty() && part.len() <= 64 && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if id.split('/').count() <= 2 && id.split('/').all(plain) {
        Ok(id.replace('/', "%2F"))
    } else {
        Err(anyhow!(
            "{id:?} is not the id or name of an instance; `berth list` shows both. Write WORKSPACE/NAME for one that is \
             not in the workspace default"
        ))
    }
}
