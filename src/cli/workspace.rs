//! The verb `workspace`: the tenants of the box, and what each may use.

use anyhow::{Result, anyhow, bail};

use super::{
    args::workspace::{AllowArgs, QuotaArgs, WorkspaceVerb},
    client::Supervisor,
    print, words,
};
use crate::{
    api::Route,
    config::{Bytes, Cpus},
    model::{Action, Allowlist, CallLimit, Outcome, Refusal, WorkspaceLimits, WorkspaceName, WorkspaceView},
};

/// What gives a limit back to the box.
const DEFAULT: &str = "default";
/// What gives a list back to the configuration.
const ANY: &str = "any";
/// A list that allows nothing.
const NONE: &str = "none";

pub(super) async fn run(supervisor: &Supervisor, what: WorkspaceVerb, json: bool) -> Result<()> {
    match what {
        WorkspaceVerb::Add { name, quota, allow } => {
            let quota = changed(WorkspaceLimits::default(), &quota)?;
            let allow = allowed(Allowlist::default(), &allow);
            let made = act(supervisor, &Action::AddWorkspace { name, quota, allow }).await?;
            shown(&made, json)
        }
        WorkspaceVerb::Set { name, quota, allow } => {
            let before = one(supervisor, &name).await?;
            if quota.is_empty() && allow.is_empty() {
                bail!(
                    "say what to change: --instances, --cpus, --memory, --processes, --disk, --calls-per-second, --calls-at-once, \
                     or an --allow- option"
                );
            }
            let mut set = before.clone();
            if !quota.is_empty() {
                // The configuration's limits stay the configuration's.
                let quota = changed(before.quota.unwrap_or_default(), &quota)?;
                let workspace = name.clone();
                set = act(supervisor, &Action::SetQuota { workspace, quota }).await?;
            }
            if !allow.is_empty() {
                let allow = allowed(before.allow, &allow);
                set = act(supervisor, &Action::SetAllowlist { workspace: name, allow }).await?;
            }
            shown(&set, json)
        }
        WorkspaceVerb::Show { name } => shown(&one(supervisor, &name).await?, json),
        WorkspaceVerb::List => {
            let all = all(supervisor).await?;
            if json {
                return print::json(&all);
            }
            let row = |w: &WorkspaceView| {
                vec![
                    w.name.to_string(),
                    w.instances.to_string(),
                    running(w),
                    cpus(&w.limits).unwrap_or_else(|| "all".to_owned()),
                    memory(&w.limits).unwrap_or_else(|| DEFAULT.to_owned()),
                    processes(&w.limits).unwrap_or_else(|| DEFAULT.to_owned()),
                    calls(w.limits.calls().per_second),
                    calls(w.limits.calls().at_once),
                ]
            };
            let head = [
                "WORKSPACE",
                "INSTANCES",
                "RUNNING",
                "CPUS",
                "MEMORY",
                "PROCESSES",
                "CALLS/S",
                "AT ONCE",
            ];
            print::table(&head, &all.iter().map(row).collect::<Vec<_>>())
        }
        WorkspaceVerb::Rm { name } => {
            supervisor.act(&Action::RemoveWorkspace { name: name.clone() }).await?;
            print::removed(name.as_str(), json)
        }
    }
}

async fn all(supervisor: &Supervisor) -> Result<Vec<WorkspaceView>> {
    supervisor.list(Route::Workspaces.path()).await
}

async fn one(supervisor: &Supervisor, name: &WorkspaceName) -> Result<WorkspaceView> {
    let all = all(supervisor).await?;
    let known: Vec<_> = all.iter().map(|w| w.name.to_string()).collect();
    let found = all.into_iter().find(|w| w.name == *name);
    let none = || Refusal::NoWorkspace {
        name: name.to_string(),
        known,
    };
    found.ok_or_else(|| anyhow!(words::of_refusal(&none())))
}

async fn act(supervisor: &Supervisor, action: &Action) -> Result<WorkspaceView> {
    match supervisor.act(action).await? {
        Outcome::Workspace(view) => Ok(view),
        other => Err(anyhow!("the supervisor answered something else: {other:?}")),
    }
}

/// A quota with the given limits in the place of its own; none where nothing is left of it.
fn changed(mut quota: WorkspaceLimits, given: &QuotaArgs) -> Result<Option<WorkspaceLimits>> {
    if let Some(text) = &given.cpus {
        let what = "--cpus takes a number of CPUs such as 1.5, from 0.1 to 1024";
        quota.nano_cpus = limit(text, |t| t.parse().ok().map(|Cpus(n)| n), what)?;
    }
    if let Some(text) = &given.memory {
        let what = "--memory takes a number with its unit such as 4GiB (MiB, GiB or TiB), from 64MiB to 64TiB";
        quota.memory = limit(text, |t| t.parse().ok().map(|Bytes(n)| n), what)?;
    }
    if let Some(text) = &given.processes {
        let what = "--processes takes a number from 64 to 4000000";
        let known = |t: &str| t.parse().ok().filter(|n| WorkspaceLimits::PIDS.contains(n));
        quota.pids = limit(text, known, what)?;
    }
    if let Some(text) = &given.disk {
        let what = "--disk takes a number with its unit such as 50GiB (MiB, GiB or TiB), from 64MiB to 64TiB";
        quota.disk = limit(text, |t| t.parse().ok().map(|Bytes(n)| n), what)?;
    }
    if let Some(text) = &given.instances {
        quota.instances = limit(text, |t| t.parse().ok(), "--instances takes a number, such as 3 or 20")?;
    }
    for (place, given, option) in [
        (
            &mut quota.calls_per_second,
            &given.calls_per_second,
            "--calls-per-second",
        ),
        (&mut quota.calls_at_once, &given.calls_at_once, "--calls-at-once"),
    ] {
        if let Some(text) = given {
            let known = |t: &str| t.parse().ok().filter(|n| *n <= CallLimit::MOST);
            let what = format!(
                "{option} takes a number from 1 to {}, or 0 for no limit",
                CallLimit::MOST
            );
            *place = limit(text, known, &what)?;
        }
    }
    Ok(Some(quota).filter(|q| *q != WorkspaceLimits::default()))
}

/// An allowlist with the given lists in the place of its own.
fn allowed(mut allow: Allowlist, given: &AllowArgs) -> Allowlist {
    let list = |text: &str| match text {
        ANY => None,
        NONE => Some(Vec::new()),
        text => {
            let patterns = text.split(',').map(str::trim).filter(|p| !p.is_empty());
            Some(patterns.map(str::to_owned).collect())
        }
    };
    for (place, given) in [
        (&mut allow.types, &given.allow_types),
        (&mut allow.packages, &given.allow_packages),
        (&mut allow.images, &given.allow_images),
        (&mut allow.remotes, &given.allow_remotes),
    ] {
        if let Some(text) = given {
            *place = list(text);
        }
    }
    allow
}

fn limit<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>, what: &str) -> Result<Option<T>> {
    if text == DEFAULT {
        return Ok(None);
    }
    let parsed = parse(text).ok_or_else(|| anyhow!("{what}, or {DEFAULT}; not {text:?}"))?;
    Ok(Some(parsed))
}

fn shown(w: &WorkspaceView, json: bool) -> Result<()> {
    if json {
        return print::json(w);
    }
    let by_box = |limit: Option<String>, what: &str| limit.unwrap_or_else(|| format!("{what}   (the box's default)"));
    let by_default = CallLimit::OF_A_WORKSPACE;
    print::fields(&[
        ("workspace", w.name.to_string()),
        ("created", print::short(w.created_at)),
        ("instances", w.instances.to_string()),
        ("running", running(w)),
        ("cpus", by_box(cpus(&w.limits), "all")),
        ("memory", by_box(memory(&w.limits), "nine tenths")),
        ("processes", by_box(processes(&w.limits), "8192")),
        ("disk", disk(w)),
        (
            "calls a second",
            by_box(w.limits.calls_per_second.map(calls), &by_default.per_second.to_string()),
        ),
        (
            "calls at once",
            by_box(w.limits.calls_at_once.map(calls), &by_default.at_once.to_string()),
        ),
        (
            "quota",
            match w.quota {
                Some(_) => "its own".to_owned(),
                None => "[workspace] of berth.toml".to_owned(),
            },
        ),
        ("members", w.members.to_string()),
        ("types", patterns(w.allow.types.as_ref())),
        ("packages", patterns(w.allow.packages.as_ref())),
        ("images", patterns(w.allow.images.as_ref())),
        ("remotes", patterns(w.allow.remotes.as_ref())),
    ])
}

fn patterns(list: Option<&Vec<String>>) -> String {
    match list {
        None => "as [allow] of berth.toml".to_owned(),
        Some(none) if none.is_empty() => NONE.to_owned(),
        Some(patterns) => patterns.join(", "),
    }
}

fn running(w: &WorkspaceView) -> String {
    let most = w.limits.instances.map_or(String::new(), |n| format!(" of {n}"));
    format!("{}{most}", w.running)
}

fn cpus(limits: &WorkspaceLimits) -> Option<String> {
    limits.nano_cpus.map(WorkspaceLimits::cpus)
}

fn memory(limits: &WorkspaceLimits) -> Option<String> {
    limits.memory.map(size)
}

/// What is promised, of what may be.
fn disk(w: &WorkspaceView) -> String {
    let promised = size(i64::try_from(w.promised_bytes).unwrap_or(i64::MAX));
    match w.limits.disk {
        Some(most) => format!("{promised} of {}", size(most)),
        None => format!("{promised}   (no limit but the box's)"),
    }
}

fn size(bytes: i64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20)];
    let even = units.iter().find(|(_, bits)| bytes % (1 << bits) == 0);
    even.map_or_else(
        || format!("{bytes} bytes"),
        |(unit, bits)| format!("{}{unit}", bytes >> bits),
    )
}

fn calls(most: u32) -> String {
    match most {
        0 => "no limit".to_owned(),
        n => n.to_string(),
    }
}

fn processes(limits: &WorkspaceLimits) -> Option<String> {
    limits.pids.map(|n| n.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(cpus: &str, memory: &str, processes: &str, instances: &str) -> QuotaArgs {
        let some = |t: &str| (!t.is_empty()).then(|| t.to_owned());
        QuotaArgs {
            cpus: some(cpus),
            memory: some(memory),
            processes: some(processes),
            disk: some(memory),
            instances: some(instances),
            calls_per_second: None,
            calls_at_once: None,
        }
    }

    #[test]
    fn a_list_that_is_not_given_stays() {
        let args = |types: &str, packages: &str| AllowArgs {
            allow_types: (!types.is_empty()).then(|| types.to_owned()),
            allow_packages: (!packages.is_empty()).then(|| packages.to_owned()),
            allow_images: None,
            allow_remotes: None,
        };
        let list = |all: &[&str]| Some(all.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        let first = allowed(Allowlist::default(), &args("memory, time", "none"));
        assert_eq!(
            (&first.types, &first.packages),
            (&list(&["memory", "time"]), &list(&[]))
        );
        let second = allowed(first, &args("any", ""));
        assert_eq!(
            (&second.types, &second.packages, &second.images),
            (&None, &list(&[]), &None)
        );
    }

    #[test]
    fn what_is_not_given_stays_and_default_gives_it_back() {
        let quota = changed(WorkspaceLimits::default(), &given("1.5", "4GiB", "", "3"))
            .unwrap()
            .unwrap();
        assert_eq!((quota.nano_cpus, quota.memory), (Some(1_500_000_000), Some(4 << 30)));
        assert_eq!(quota.disk, Some(4 << 30));
        assert_eq!((quota.pids, quota.instances), (None, Some(3)));
        assert_eq!(
            (cpus(&quota).unwrap(), memory(&quota).unwrap()),
            ("1.5".into(), "4GiB".into())
        );
        let less = changed(quota, &given("", "default", "100", "")).unwrap().unwrap();
        assert_eq!(
            (less.nano_cpus, less.memory, less.pids),
            (Some(1_500_000_000), None, Some(100))
        );
        let none = changed(less, &given("default", "", "default", "default")).unwrap();
        assert_eq!(none, None, "nothing of its own is left");
        let at_once = |text: &str| QuotaArgs {
            calls_at_once: Some(text.to_owned()),
            ..given("", "", "", "")
        };
        let unbounded = changed(quota, &at_once("0")).unwrap().unwrap();
        assert_eq!((unbounded.calls_at_once, unbounded.calls_per_second), (Some(0), None));
        assert_eq!(changed(unbounded, &at_once("default")).unwrap(), Some(quota));
        for (bad, said) in [
            (given("0", "", "", ""), "from 0.1 to 1024"),
            (given("", "4GB", "", ""), "MiB, GiB or TiB"),
            (given("", "", "1", ""), "from 64"),
            (given("", "", "", "-1"), "such as 3 or 20"),
            (at_once("many"), "or 0 for no limit"),
            (at_once("1000001"), "from 1 to 1000000"),
        ] {
            let words = changed(quota, &bad).unwrap_err().to_string();
            assert!(words.contains(said) && words.contains("default"), "{words}");
        }
    }
}
