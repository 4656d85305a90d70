//! Table `allowlists`: what may be run in a workspace, by its name; none where all may that the configuration allows. A table of
//! its own: an older berth writes the rows of `workspaces` anew without what it does not know, and a list that it lost would
//! allow everything. It lets nobody in but owners, who may change the list.

use serde::{Deserialize, Serialize};

use super::{
    table::{Broken, Table},
    words::text,
};
use crate::model::{Allowlist, WorkspaceName};

#[derive(Serialize, Deserialize)]
pub(super) struct Lists {
    types: Option<Vec<String>>,
    packages: Option<Vec<String>>,
    images: Option<Vec<String>>,
    remotes: Option<Vec<String>>,
}

pub(super) struct Allowlists;

impl Table for Allowlists {
    const NAME: &'static str = "allowlists";
    const MAX_ROW: usize = 1 << 20;
    type Key = WorkspaceName;
    type Record = (WorkspaceName, Allowlist);
    type Row = Lists;

    fn key((name, _): &(WorkspaceName, Allowlist)) -> &WorkspaceName {
        name
    }

    fn key_text(name: &WorkspaceName) -> std::borrow::Cow<'_, str> {
        name.as_str().into()
    }

    fn encode((_, lists): &(WorkspaceName, Allowlist)) -> Lists {
        Lists {
            types: lists.types.clone(),
            packages: lists.packages.clone(),
            images: lists.images.clone(),
            remotes: lists.remotes.clone(),
        }
    }

    fn decode(name: &str, row: Lists) -> Result<(WorkspaceName, Allowlist), Broken> {
        let lists = Allowlist {
            types: row.types,
            packages: row.packages,
            images: row.images,
            remotes: row.remotes,
        };
        Ok((WorkspaceName::parse(name).map_err(text)?, lists))
    }
}
