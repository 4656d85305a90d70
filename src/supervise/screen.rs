//! Screens, put together: what the edge asks of reconciler and ledger, links, and screenshots.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::backend::Parts;
use crate::{
    api::{ScreenLink, ScreenRequest},
    edge::{Look, Screens},
    ledger,
    link::Link,
    model::{Action, AuditKind, Endpoint, InstanceView, Principal, Refusal, Secret},
    policy::{Target, Verb},
    reconcile,
    screen::shot::{Picture, Shot},
    session::TICKET_LIFE,
};

/// How long a screenshot may take.
const LIMIT: Duration = Duration::from_secs(20);

/// What the edge needs for its screens.
pub(super) fn screens(reconcile: &reconcile::Handle, ledger: &ledger::Handle) -> Screens {
    let (views, actions) = (reconcile.clone(), ledger.clone());
    Screens {
        look: Box::new(move |id| {
            let views = views.views();
            let view = views.get(id).filter(|v| v.endpoints.screen.is_some())?;
            Some(Look {
                name: view.name.to_string(),
                state: view.state,
                reason: view.reason.clone(),
            })
        }),
        changed: reconcile.changed(),
        recreate: Box::new(move |id, by| {
            let actions = actions.clone();
            Box::pin(async move {
                let signed = actions.sign(by, Action::Recreate { id })?;
                actions.submit(signed).await.map(drop)
            })
        }),
    }
}

fn screen_of(view: &InstanceView) -> Result<&Endpoint, Refusal> {
    view.endpoints.screen.as_ref().ok_or_else(|| Refusal::NoScreen {
        type_name: view.type_name.to_string(),
    })
}

impl Parts {
    /// A link that opens the instance's screen for whoever asks.
    pub(super) fn link_to_screen(
        &self,
        view: &InstanceView,
        request: ScreenRequest,
        by: &Principal,
    ) -> Result<ScreenLink, Refusal> {
        let screen = screen_of(view)?;
        let by_link = by.clone().on_screen(view.id.clone(), !request.view_only);
        let ticket = self.sessions.ticket(by_link);
        let ticket = ticket.map_err(Refusal::fault)?;
        let expires_at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(TICKET_LIFE.cast_signed());
        log::info!(instance = view.id.as_str(), by:display = by, view_only = request.view_only; "a link to a screen was made");
        let what = match request.view_only {
            true => Verb::ViewScreen,
            false => Verb::ControlScreen,
        };
        self.told(
            AuditKind::Act,
            by,
            (what, Target::Instance(&view.id)),
            "a link was made".to_owned(),
        );
        Ok(ScreenLink {
            url: Secret::new(format!("{}open?ticket={ticket}", screen.url)),
            path_url: Secret::new(format!("{}open?ticket={ticket}", screen.path_url)),
            expires_at,
        })
    }

    /// The instance's screen as it is now, as PNG.
    pub(super) async fn picture_of_screen(&self, view: &InstanceView, by: &Principal) -> Result<Vec<u8>, Refusal> {
        screen_of(view)?;
        let id = || view.id.clone();
        let failed = |reason: String| Refusal::NoPicture { id: id(), reason };
        let link = self.links.get(view.id.as_str());
        let link = link.ok_or_else(|| Refusal::NotReady {
            id: id(),
            state: view.state,
        })?;
        let picture = timeout(LIMIT, shoot(&link)).await;
        let picture = picture
            .unwrap_or_else(|_| Err("the display did not answer in time".to_owned()))
            .map_err(failed)?;
        log::info!(instance = view.id.as_str(), by:display = by; "a screenshot was taken");
        let what = (Verb::ViewScreen, Target::Instance(&view.id));
        self.told(AuditKind::Screen, by, what, "a picture was taken".to_owned());
        png(&picture).map_err(|e| Refusal::fault(format_args!("the screen of {} cannot be had: {e}", view.id)))
    }
}

async fn shoot(link: &Arc<Link>) -> Result<Picture, String> {
    let display = link.screen(LIMIT).await.map_err(|e| e.to_string())?;
    let (mut shot, mut out, mut buf) = (Shot::default(), Vec::new(), vec![0; 64 * 1024]);
    let mut stream = display.stream;
    let mut came = display.early.to_vec();
    loop {
        if let Some(picture) = shot.feed(&came, &mut out).map_err(|e| e.to_string())? {
            return Ok(picture);
        }
        stream.write_all(&out).await.map_err(|e| e.to_string())?;
        out.clear();
        let n = stream.read(&mut buf).await.map_err(|e| e.to_string())?;
        if n == 0 {
            return Err("the display went away".to_owned());
        }
        came = buf[..n].to_vec();
    }
}

fn png(picture: &Picture) -> Result<Vec<u8>, png::EncodingError> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header()?.write_image_data(&picture.rgb)?;
    Ok(out)
}
