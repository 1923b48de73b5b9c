//! The artifact of the engagement score.

use serde::{Deserialize, Serialize};

use crate::features::catalog::Aggregation;
use crate::models::engagement::Ecdf;
use crate::spec::EngagementSpec;

/// A trained engagement score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngagementArtifact {
    /// The spec that the score was trained with.
    pub spec: EngagementSpec,
    /// The aggregations for decayed activity, active days and channels.
    pub aggregations: Vec<Aggregation>,
    /// The distribution of the activity of customers who have any.
    pub ecdf: Ecdf,
}
