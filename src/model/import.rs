//! What a type says of the packages that it stands in for.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a type says of the packages that it stands in for: `[import]` in its file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ImportRules {
    /// `npm:NAME`, `pypi:NAME`, `oci:NAME`.
    pub packages: Vec<String>,
    /// What their command lines say and the type takes as variables, by position.
    pub arguments: Vec<String>,
    /// The type has no use for further arguments (paths of the laptop, say).
    pub ignore_arguments: bool,
    /// A package's variable -> the type's.
    pub variables: BTreeMap<String, String>,
}
