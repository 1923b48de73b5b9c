//! A trained engagement score.

use serde::{Deserialize, Serialize};

use crate::features::catalog::Aggregation;
use crate::models::engagement::Ecdf;
use crate::spec::EngagementSpec;

/// A trained engagement score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngagementArtifact {
    /// The spec it was trained with.
    pub spec: EngagementSpec,
    /// Decayed activity, active days, channels.
    pub aggregations: Vec<Aggregation>,
    /// Of the activity of customers who have any.
    pub ecdf: Ecdf,
}
