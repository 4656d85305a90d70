//! Images on the box: which there are, and loading more from an archive.

use std::path::Path;

use anyhow::{Context, Result};

use super::{args::ImageVerb, client::Supervisor, print};
use crate::api::{ImageView, Route};

/// `berth image`.
pub(super) async fn run(supervisor: &Supervisor, what: ImageVerb, json: bool) -> Result<()> {
    match what {
        ImageVerb::List => {
            let images: Vec<ImageView> = supervisor.list(Route::Images.path()).await?;
            if json {
                return print::json(&images);
            }
            let row = |i: &ImageView| {
                let size = i.size / 1_000_000;
                vec![i.name.clone(), format!("{size} MB"), i.types.join(", ")]
            };
            let rows: Vec<_> = images.iter().map(row).collect();
            print::table(&["IMAGE", "SIZE", "TYPES"], &rows)
        }
        ImageVerb::Load { file } => {
            let file = if file == Path::new("-") {
                "/dev/stdin".into()
            } else {
                file
            };
            let open = tokio::fs::File::open(&file).await;
            let open = open.with_context(|| format!("{} cannot be read", file.display()))?;
            let names: Vec<String> = supervisor.upload(Route::LoadImages.path(), open).await?;
            if json {
                return print::json(&names);
            }
            print::out(&names.iter().map(|n| format!("{n}\n")).collect::<String>())
        }
    }
}
