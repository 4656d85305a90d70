//! What stands behind the admin API: the handles of the running parts, put together.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use futures_util::StreamExt;
use jiff::civil::Date;
use tokio::sync::{mpsc, watch};

use super::{
    addresses,
    doctor::Doctor,
    doors::{Claims, Kind},
    exposition,
    space::Space,
    tools,
};
use crate::{
    admin::{Addresses, Archive, Backend, LogQuery},
    api::{
        BoxStatus, Claiming, DiskView, Doctored, Hello, ImageView, ScreenLink, ScreenRequest, Status, TypeView, Whoami,
    },
    audit::{self, Audit},
    authz::{SessionTable, TokenTable},
    catalog::{Catalog, Egress, InstanceType, Transport},
    config::Allow,
    console::Console,
    deploy_log::Deploys,
    docker::{Docker, EngineError},
    door::Router,
    edge::EdgeHandle,
    events::Events,
    firewall::Firewall,
    forward::Forwards,
    ledger,
    link::Registry,
    machine,
    model::{
        Action, AuditKind, AuditOutcome, AuditVerified, CredentialView, GrantView, IdempotencyKey, InstanceId,
        InstanceView, Outcome, Principal, Record, RecordId, Refusal, Secret, State, TeamView, TypeName, UsageBy,
        UsageRow, Who, WorkspaceView,
    },
    plan::{image, sourced},
    policy::{Access, Target, Verb},
    reconcile,
    secret::BoxKey,
    tls::{self, Certificates},
    usage::{self, Usage},
    writes::{Begun, Kept, Keyed, Write},
};

/// A note in the audit has so many bytes at most.
const NOTE: usize = 1024;
/// Pieces of a log that wait for a slow reader.
const LOG_QUEUE: usize = 32;

/// The handles of everything that runs.
pub(super) struct Parts {
    pub(super) ledger: ledger::Handle,
    pub(super) reconcile: reconcile::Handle,
    pub(super) catalog: Arc<ArcSwap<Catalog>>,
    /// Why the type files as they are now are not in use.
    pub(super) catalog_trouble: ArcSwapOption<String>,
    pub(super) allow: Allow,
    pub(super) docker: Docker,
    /// Patterns of images that may be pulled or run here.
    pub(super) images: Vec<String>,
    pub(super) deploys: Deploys,
    pub(super) links: Registry,
    pub(super) edge: EdgeHandle,
    pub(super) sessions: SessionTable,
    pub(super) console: Arc<Console>,
    pub(super) tokens: TokenTable,
    pub(super) audit: Audit,
    pub(super) forwards: Forwards,
    pub(super) usage: Usage,
    pub(super) events: Events,
    pub(super) router: Arc<Router>,
    pub(super) certificates: Certificates,
    pub(super) claims: Arc<Claims>,
    pub(super) doctor: Doctor,
    pub(super) started_at: jiff::Timestamp,
    /// The key that seals and signs.
    pub(super) key: Arc<BoxKey>,
    pub(super) space: Space,
    /// Keeps containers from this machine and its networks.
    pub(super) firewall: Arc<Firewall>,
}

impl Parts {
    /// Whether the images of a type are here, before anything is made of it.
    async fn check_images(&self, type_name: &TypeName) -> Result<(), Refusal> {
        let catalog = self.catalog.load_full();
        let Some(t) = catalog.types.get(type_name) else {
            return Ok(());
        };
        // What must not be run is told by the ledger.
        let allowed = sourced::check_type(&self.allow, &t.name, t.kind).is_ok();
        if !allowed || needed(t).any(|name| image::permitted(name, &self.images).is_err()) {
            return Ok(());
        }
        let mut images = Vec::new();
        // The instance waits for what is being loaded.
        let coming = machine::images::coming();
        for name in needed(t).filter(|name| !coming.contains(*name)) {
            // An engine that does not answer is said elsewhere.
            if matches!(self.docker.image(name).await, Ok(None)) {
                images.push(name.clone());
            }
        }
        if images.is_empty() {
            return Ok(());
        }
        let type_name = type_name.to_string();
        Err(Refusal::NoImage { type_name, images })
    }

    /// Tells the audit of what was done that is no action of the ledger's.
    pub(super) fn told(&self, kind: AuditKind, by: &Principal, what: (Verb, Target<'_>), note: String) {
        let mut row = ledger::row((kind, AuditOutcome::Ok), by, what, &self.ledger.access());
        let end = note.floor_char_boundary(NOTE);
        row.note = (end > 0).then(|| note[..end].to_owned().into());
        self.audit.append(&row);
    }

    /// What does not hold on this box although it should, in words.
    fn notes(&self, disks: &[DiskView]) -> Vec<String> {
        let mut notes = self.reconcile.snapshot().notes.clone();
        if let Some(why) = &*self.catalog_trouble.load() {
            notes.push(format!("the changed type files are not in use: {why}"));
        }
        notes.extend(self.firewall.standing().note());
        notes.extend(disks.iter().filter_map(super::space::note));
        let audit = self.audit.status();
        notes.extend(audit.trouble);
        if audit.lost > 0 {
            notes.push(format!(
                "{} rows of the audit were lost while the disk took none",
                audit.lost
            ));
        }
        for f in self.forwards.status() {
            if let Some(why) = f.trouble {
                notes.push(format!("rows of the audit are not forwarded to {}: {why}", f.to));
            }
            if f.lost > 0 {
                notes.push(format!("{} rows of the audit were never forwarded to {}", f.lost, f.to));
            }
        }
        notes.extend(machine::memory::note());
        notes
    }
}

impl Backend for Parts {
    async fn submit(&self, write: Write) -> Result<Outcome, Refusal> {
        let kind = Kind::of(write.action.what());
        if let Action::Run(request) = write.action.what() {
            self.check_images(&request.type_name).await?;
        }
        // What follows from it follows whether somebody waits for the answer or not.
        let (ledger, claims) = (self.ledger.clone(), Arc::clone(&self.claims));
        let (reconcile, leavers) = (self.reconcile.clone(), self.leavers());
        let done = tokio::spawn(async move {
            let (outcome, cut) = ledger.submit_and_tell(write).await?;
            if let Outcome::Offboarded(done) = outcome {
                return Ok(Outcome::Offboarded(Box::new(leavers.report(*done).await?)));
            }
            leavers.end_sessions(cut);
            if kind != Kind::Other {
                // Whoever has an answer finds it in the snapshot.
                claims.after(kind, reconcile.snapshot().claimed)?;
            }
            Ok(outcome)
        });
        done.await.unwrap_or(Err(Refusal::Stopping))
    }

    fn begin(&self, by: &Principal, key: &IdempotencyKey) -> Result<Begun, Refusal> {
        self.ledger.begin(by, key)
    }

    async fn outcome(&self, kept: &Kept) -> Result<Outcome, Refusal> {
        match self.ledger.outcome(kept).await? {
            Outcome::Offboarded(done) => Ok(Outcome::Offboarded(Box::new(self.leavers().report(*done).await?))),
            other => Ok(other),
        }
    }

    async fn keep(&self, keyed: Keyed, answer: Secret) {
        if let Err(e) = self.ledger.keep(keyed, answer).await {
            log::warn!("an answer was not kept; it is made anew if it is asked for again: {e}");
        }
    }

    fn answered_again(&self, by: &Principal, verb: Verb, target: Target<'_>) {
        log::info!(by:display = by; "answered again, for an idempotency key: {}", verb.as_str());
        let note = "answered again: the request has the idempotency key of an earlier one".to_owned();
        self.told(AuditKind::Act, by, (verb, target), note);
    }

    fn workspaces(&self) -> Vec<WorkspaceView> {
        self.ledger.workspaces()
    }

    fn views(&self) -> Arc<BTreeMap<InstanceId, InstanceView>> {
        self.reconcile.views()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.reconcile.changed()
    }

    fn whoami(&self, by: &Principal) -> Whoami {
        let member = match by.who() {
            Who::Member(name) => Some(name.clone()),
            _ => None,
        };
        let access = self.ledger.access();
        Whoami {
            name: by.name(),
            owner: member
                .as_ref()
                .is_none_or(|m| access.member(m).is_some_and(|m| m.owner)),
            member,
            token: by.token().cloned(),
            version: env!("CARGO_PKG_VERSION").into(),
            box_id: self.reconcile.box_id().to_string(),
            ca_file: self.certificates.ca_file().map(|p| p.display().to_string()),
            signing_key: BASE64.encode(self.key.public_key()),
        }
    }

    fn uses(&self, by: &Principal, id: &InstanceId) {
        if let (Some(token), true) = (by.token(), self.ledger.access().instances.contains_key(id)) {
            self.tokens.note(token, id, jiff::Timestamp::now().as_second());
        }
    }

    fn access(&self) -> Arc<Access> {
        self.ledger.access()
    }

    fn record(&self, id: &RecordId) -> Option<Record> {
        Some(match id {
            RecordId::Instance(id) => Record::Instance(self.views().get(id)?.clone()),
            RecordId::Workspace(name) => Record::Workspace(self.ledger.workspace(name)?),
            RecordId::Member(name) => Record::Member(self.ledger.member(name).ok()?),
            RecordId::Team(id) => Record::Team(self.ledger.team(id).ok()?),
            RecordId::Grant(to, id) => Record::Grant(self.ledger.grant(&(to.clone(), id.clone())).ok()?),
            RecordId::Token(id) => Record::Token(self.ledger.token(id)?),
        })
    }

    fn teams(&self) -> Vec<TeamView> {
        self.ledger.teams()
    }

    fn grants(&self) -> Vec<GrantView> {
        self.ledger.grants()
    }

    fn credentials(&self, id: &InstanceId) -> Result<Vec<CredentialView>, Refusal> {
        self.ledger.credentials(id)
    }

    async fn logs(
        &self,
        id: InstanceId,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<Result<Bytes, EngineError>>, Refusal> {
        let mut lines = self.reconcile.logs(&id, query.follow, query.tail)?;
        let (tx, rx) = mpsc::channel(LOG_QUEUE);
        // Ends with the log, or with its reader.
        tokio::spawn(async move {
            loop {
                let line = tokio::select! {
                    line = lines.next() => line,
                    () = tx.closed() => return,
                };
                let Some(line) = line else { return };
                if tx.send(line).await.is_err() {
                    return;
                }
            }
        });
        Ok(rx)
    }

    fn screen_link(&self, view: &InstanceView, request: ScreenRequest, by: &Principal) -> Result<ScreenLink, Refusal> {
        self.link_to_screen(view, request, by)
    }

    async fn screenshot(&self, view: &InstanceView, by: &Principal) -> Result<Vec<u8>, Refusal> {
        self.picture_of_screen(view, by).await
    }

    fn deploy_log(&self, id: &InstanceId, follow: bool) -> mpsc::Receiver<Bytes> {
        let mut pieces = self.deploys.read(id, follow);
        let (tx, rx) = mpsc::channel(LOG_QUEUE);
        // Ends with the deploy, or with its reader.
        tokio::spawn(async move {
            loop {
                let piece = tokio::select! {
                    piece = pieces.next() => piece,
                    () = tx.closed() => return,
                };
                let Some(piece) = piece else { return };
                if tx.send(piece).await.is_err() {
                    return;
                }
            }
        });
        rx
    }

    async fn tools(&self, id: InstanceId) -> Result<serde_json::Value, Refusal> {
        match self.links.get(id.as_str()).filter(|l| l.state() == State::Running) {
            Some(link) => tools::list(&link).await.map_err(|reason| Refusal::NoTools { reason }),
            None => Err(Refusal::NotRunning { id }),
        }
    }

    async fn types(&self) -> Vec<TypeView> {
        let refused = |t: &InstanceType| sourced::check_type(&self.allow, &t.name, t.kind).err();
        // An engine that does not answer is said elsewhere.
        let here = self.docker.image_names().await.ok();
        let catalog = self.catalog.load_full();
        let types = catalog.types.values();
        let coming = machine::images::coming();
        let view = |t: &Arc<InstanceType>| {
            let absent = needed(t).filter(|name| here.as_ref().is_some_and(|here| !here.contains_key(*name)));
            let (loading, absent) = absent.cloned().partition(|name| coming.contains(name));
            TypeView {
                absent,
                loading,
                ..type_view(t, refused(t).map(|r| r.to_string()))
            }
        };
        types.map(view).collect()
    }

    async fn images(&self) -> Result<Vec<ImageView>, Refusal> {
        let here = self.docker.image_names().await;
        let here = here.map_err(Refusal::unavailable)?;
        let catalog = self.catalog.load_full();
        let users = |name: &String| {
            let all = catalog
                .types
                .values()
                .filter(|t| t.image.reference == *name || t.builder.as_ref() == Some(name));
            all.map(|t| t.name.to_string()).collect()
        };
        let view = |(name, size)| ImageView {
            types: users(&name),
            name,
            size,
        };
        Ok(here.into_iter().map(view).collect())
    }

    async fn load_images(&self, archive: Archive, by: &Principal) -> Result<Vec<String>, Refusal> {
        let loaded = self.docker.load(archive).await;
        let loaded = loaded.map_err(|e| match e.is_away() {
            true => Refusal::unavailable(e),
            false => Refusal::BadArchive { reason: e.to_string() },
        })?;
        if loaded.is_empty() {
            return Err(Refusal::EmptyArchive);
        }
        log::info!(by:display = by; "images were loaded: {}", loaded.join(", "));
        self.told(AuditKind::Act, by, (Verb::LoadImages, Target::Box), loaded.join(", "));
        Ok(loaded)
    }

    fn addresses(&self, at: Option<&str>) -> Option<Addresses> {
        let (router, host) = (Arc::clone(&self.router), self.host(at));
        let none = router.domain().is_none();
        none.then(|| Box::new(move |id: &InstanceId| router.endpoints(id, &host)) as Addresses)
    }

    fn host(&self, at: Option<&str>) -> String {
        match (self.router.domain(), at.filter(|a| self.router.knows(a))) {
            (None, Some(at)) => at.to_ascii_lowercase(),
            _ => addresses::host(&self.router),
        }
    }

    fn events(&self) -> &Events {
        &self.events
    }

    async fn status(&self, at: Option<&str>) -> Status {
        let (snapshot, audit) = (self.reconcile.snapshot(), self.audit.status());
        let mut instances: BTreeMap<String, usize> = BTreeMap::new();
        for view in snapshot.views.values() {
            *instances.entry(view.state.to_string()).or_default() += 1;
        }
        let disks = self.space.disks().await;
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            box_id: self.reconcile.box_id().to_string(),
            domain: self.router.domain().map(str::to_owned),
            https: format!("https://{}/", self.host(at)),
            started_at: self.started_at,
            engine: snapshot.engine.clone().unwrap_or_else(|| "ok".into()),
            instances,
            certificate_sha256: self.certificates.fingerprint(),
            ca_file: self.certificates.ca_file().map(|p| p.display().to_string()),
            notes: self.notes(&disks),
            disks,
            room: snapshot.room,
            sealing: self.key.kept().to_owned(),
            own: BoxStatus {
                version: env!("CARGO_PKG_VERSION").into(),
                claimed: snapshot.claimed,
                claim_required: self.claims.config.required,
                claim_code: self.claims.code().filter(|_| !snapshot.claimed),
                ca_fingerprint: tls::colons(&self.certificates.anchor()),
                addresses: addresses::of_this_box(),
                sealed_by: self.key.kept().to_owned(),
                signing_key: BASE64.encode(self.key.public_key()),
                audit_head: Some(audit.head.clone()),
            },
            audit: Some(audit),
            forwards: self.forwards.status(),
            disk: self.doctor.disk().await,
        }
    }

    fn live_access(&self) -> Arc<ArcSwap<Access>> {
        self.ledger.live_access()
    }

    fn audit(&self, query: audit::Query, sees: audit::Sees, by: &Principal) -> audit::Reading {
        let named = query.columns.iter().map(|(name, value)| format!("{name}={value}"));
        let named = named.collect::<Vec<_>>().join(" ");
        self.told(AuditKind::Act, by, (Verb::ReadAudit, Target::Box), named);
        self.audit.read(query, sees)
    }

    async fn usage(
        &self,
        days: (Option<Date>, Option<Date>),
        by: UsageBy,
        sees: usage::Sees<'_>,
    ) -> Result<Vec<UsageRow>, Refusal> {
        self.usage.rows(days, by, sees).await.map_err(Refusal::fault)
    }

    async fn verify_audit(&self) -> Result<AuditVerified, Refusal> {
        let verified = self.audit.verify().await.map_err(Refusal::fault)?;
        if let Some(fault) = &verified.fault {
            log::error!("audit: {fault}");
        }
        Ok(verified)
    }

    fn denied(&self, by: &Principal, verb: Verb, target: Target<'_>) {
        let refused = (AuditKind::Refusal, AuditOutcome::Refused);
        let mut row = ledger::row(refused, by, (verb, target), &self.ledger.access());
        row.code = Some(Refusal::NotPermitted.code().into());
        self.audit.append(&row);
    }

    fn ca_pem(&self) -> Option<String> {
        self.certificates.ca_pem().map(str::to_owned)
    }

    async fn metrics(&self) -> String {
        exposition::text(self).await
    }

    async fn doctor(&self, json: bool, hardening: bool) -> Result<Doctored, Refusal> {
        self.doctor.look(json, hardening).await
    }

    fn hello(&self) -> Result<Hello, Refusal> {
        self.claims.hello(self)
    }

    async fn claim(&self, claiming: Claiming, by: Principal) -> Result<Outcome, Refusal> {
        let mut row = ledger::row(
            (AuditKind::Refusal, AuditOutcome::Refused),
            &by,
            (Verb::Claim, Target::Box),
            &self.ledger.access(),
        );
        let claimed = self.claims.claim(self, by, claiming).await;
        // What is refused later the ledger tells of.
        if let Err(why @ (Refusal::WrongCode | Refusal::WrongKey | Refusal::NoKey | Refusal::Claimed)) = &claimed {
            row.code = Some(why.code().into());
            self.audit.append_refusal(row, false);
        }
        claimed
    }
}

/// The images that a type needs and that nobody would fetch.
fn needed(t: &InstanceType) -> impl Iterator<Item = &String> {
    let own = Some(&t.image).filter(|i| !i.reference.is_empty() && i.digest.is_none());
    let all = own.map(|i| &i.reference).into_iter().chain(&t.builder);
    all.filter(|name| !image::of_a_type_can_be_fetched(name))
}

fn type_view(t: &InstanceType, refused: Option<String>) -> TypeView {
    let (transport, processes) = match &t.mcp.transport {
        Transport::Stdio { processes, .. } => ("stdio", Some(format!("{processes:?}").to_lowercase())),
        Transport::Http { .. } | Transport::Remote { .. } => ("http", None),
    };
    TypeView {
        name: t.name.to_string(),
        title: t.title.clone(),
        description: t.description.clone(),
        homepage: t.homepage.clone(),
        kind: t.kind.as_str().to_owned(),
        refused,
        absent: Vec::new(),
        loading: Vec::new(),
        image: t.image.reference.clone(),
        transport: transport.into(),
        processes,
        size: t.size.to_string(),
        network: match t.egress {
            Egress::None => "none".into(),
            Egress::Internet => "internet".into(),
        },
        volume: t.volume.clone(),
        screen: t.screen.is_some(),
        import: (!t.import.packages.is_empty()).then(|| t.import.clone()),
        credentials: t.credentials.clone(),
    }
}
