//! `berth screen`: a link to a live screen, or a picture of it.

use std::path::Path;

use anyhow::{Context, Result};

use super::{client::Supervisor, print, verbs::segment};
use crate::{
    api::{Route, ScreenLink, ScreenRequest},
    output,
};

pub(super) async fn run(
    supervisor: &Supervisor,
    json: bool,
    id: &str,
    png: Option<&Path>,
    view_only: bool,
    path: bool,
) -> Result<()> {
    let id = &segment(id)?;
    if let Some(file) = png {
        let picture = supervisor.bytes(&Route::Screenshot.of(id)).await?;
        if file == Path::new("-") {
            return output::file(&picture).context("cannot write the picture");
        }
        std::fs::write(file, &picture).with_context(|| format!("cannot write {}", file.display()))?;
        if json {
            print::json(&serde_json::json!({ "file": file, "bytes": picture.len() }))?;
        }
        return Ok(());
    }
    let link: ScreenLink = supervisor
        .post(&Route::ScreenLink.of(id), &ScreenRequest { view_only })
        .await?;
    if json {
        return print::json(&link);
    }
    let url = if path { &link.path_url } else { &link.url };
    print::out(&format!("{}\n", url.expose()))?;
    output::error_line(&format!(
        "It opens the screen once, until {}.",
        print::short(link.expires_at)
    ));
    Ok(())
}
