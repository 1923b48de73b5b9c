//! What a reader of a model's report must know who did not train it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `[card]` table of a model, for its report (Mitchell et al., Model Cards for Model Reporting, 2019).
#[derive(Debug, Clone, Default, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CardSpec {
    /// The person or team that answers for the model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// What the scores are meant for, instead of the usual text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub intended_use: String,
    /// What the scores are not meant for, and where they are weak, before the usual limits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
}

/// All cards are equal: a spec whose card was edited is still the one that a version was trained with.
impl PartialEq for CardSpec {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl CardSpec {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.owner.is_empty() && self.intended_use.is_empty() && self.limits.is_empty()
    }
}
