//! The content of `c360.toml`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::money::Scale;
use crate::profile::Writeback;
use crate::shard::Shards;
use crate::sources::consent::ConsentPolicy;
use crate::sources::{EventsSpec, ProfileSpec};
use crate::time::{Instant, Zone};

/// The `[project]` table.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectSpec {
    /// The name of the project in reports.
    pub name: String,
    /// The time zone of calendar days, and of timestamps that have no zone.
    #[serde(default)]
    pub timezone: Zone,
    /// The currency of all amounts as an ISO 4217 code.
    pub currency: String,
    /// The number of decimal places of money.
    #[serde(default)]
    pub money_scale: Scale,
    /// The as-of that applies if the command line names none.
    #[serde(default)]
    pub as_of: Option<Instant>,
    /// The folder of the store, relative to the project, or the URL of a folder in a bucket.
    #[serde(default = "default_store")]
    pub store: String,
    /// The number of shards that customers are split into, a power of two. By default it follows the number
    /// of rows.
    #[serde(default)]
    pub shards: Option<Shards>,
    /// Who may read the files that commands write on a disk.
    #[serde(default)]
    pub access: Access,
}

/// Who may read the files that commands write on a disk. What is there already keeps its permissions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Only the owner of the process: files have the mode 0600, and folders 0700.
    #[default]
    Owner,
    /// The group of the process too: files have the mode 0640, and folders 0750.
    Group,
    /// Whoever the umask of the process allows to.
    Umask,
}

fn default_store() -> String {
    "store".into()
}

/// The `[sources]` table.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourcesSpec {
    /// The unified profile. Without one, the customers are those of the events.
    #[serde(default)]
    pub profile: Option<ProfileSpec>,
    /// The event log.
    pub events: EventsSpec,
}

/// The `[engine]` table.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineSpec {
    /// The memory of a run before events and profile rows spill to disk, such as `2GB` or `500MB`.
    #[serde(default = "default_memory")]
    pub memory: String,
}

fn default_memory() -> String {
    "2GB".into()
}

impl Default for EngineSpec {
    fn default() -> Self {
        Self { memory: default_memory() }
    }
}

/// The content of `c360.toml`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The name, time zone, money and store of the project.
    pub project: ProjectSpec,
    /// The sources of the data.
    pub sources: SourcesSpec,
    /// Which consent scoring needs.
    #[serde(default)]
    pub consent: ConsentPolicy,
    /// The settings for writing the profile.
    #[serde(default)]
    pub writeback: Writeback,
    /// The memory settings.
    #[serde(default)]
    pub engine: EngineSpec,
}
