//! One rule: as its file says it, and checked.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::SegmentProblem;
use crate::error::{Error, Result};
use crate::expression::check::check_as;
use crate::expression::{Columns, Expression, Type};
use crate::features::catalog::fingerprint;
use crate::sources::consent::Consent;
use crate::sources::profile::ProfilePlan;
use crate::time::Duration;

/// One `[[segment]]` table.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// The name of the segment.
    pub name: String,
    /// A description for the reader.
    #[serde(default)]
    pub description: String,
    /// The condition of entry, a predicate over features, scores, percentiles and thresholds.
    pub enter: String,
    /// A further condition by which members stay, in addition to `enter`.
    #[serde(default)]
    pub stay: Option<String>,
    /// The minimum length of a membership, unless the customer makes a purchase.
    #[serde(default)]
    pub min_dwell: Option<Duration>,
    /// The maximum length of a membership. A customer whose membership has expired enters again only after
    /// `enter` has stopped holding at least once.
    #[serde(default)]
    pub expires: Option<Duration>,
    /// The group of the rule. A customer is only in the first segment of a group whose rule holds.
    #[serde(default)]
    pub group: Option<String>,
    /// The scopes that a member must have consented to.
    #[serde(default)]
    pub requires_consent: Vec<String>,
    /// Whether it can be the primary segment, which is the first one in the file whose rule holds.
    #[serde(default)]
    pub primary: bool,
}

/// A checked rule.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rule {
    /// The table of the file.
    pub spec: RuleSpec,
    /// The condition of entry.
    pub enter: Expression,
    /// The condition by which members stay.
    pub stay: Expression,
    /// A hash of the checked rule. Memberships by another version start again from `enter`.
    pub version: String,
}

impl Rule {
    /// Whether the rule names this segment or column.
    pub fn names(&self, name: &str) -> bool {
        self.enter.columns().contains(name) || self.stay.columns().contains(name)
    }

    pub(super) fn check(
        file: &str,
        spec: &RuleSpec,
        columns: &Columns,
        before: &[Rule],
    ) -> Result<Self> {
        let place = |key: &str| format!("{file}: segment \"{}\" {key}", spec.name);
        let enter = check_as(&spec.enter, Type::Boolean, columns, &place("enter"))?;
        let stay = match &spec.stay {
            Some(stay) => check_as(stay, Type::Boolean, columns, &place("stay"))?,
            None => enter.clone(),
        };
        let mut rule = Self { spec: spec.clone(), enter, stay, version: String::new() };
        // A rule that names another segment has a new version whenever that segment has one.
        let named = before.iter().filter(|other| rule.names(&other.spec.name));
        let versions: Vec<String> = named.map(|other| other.version.clone()).collect();
        let definition = (&rule.enter, &rule.stay, spec.min_dwell, spec.expires);
        rule.version = fingerprint(&definition, &versions);
        Ok(rule)
    }
}

/// Checks the part of a rule that does not depend on columns.
pub(super) fn check_spec(file: &str, rule: &RuleSpec, profile: &ProfilePlan) -> Result<()> {
    let place = format!("{file}: segment \"{}\"", rule.name);
    if let (Some(expires), Some(dwell)) = (rule.expires, rule.min_dwell)
        && expires < dwell
    {
        let problem = SegmentProblem::ExpiresBeforeDwell { place, expires, min_dwell: dwell };
        return Err(problem.into());
    }
    if let Some(expires) = rule.expires.filter(|expires| expires.0 == 0) {
        let example = "expires = \"30d\"";
        return Err(Error::setting(place, "expires", expires, "longer than 0", example));
    }
    let known = Consent::COLUMNS.iter().any(|name| profile.type_of(name).is_some());
    if !rule.requires_consent.is_empty() && !known {
        return Err(SegmentProblem::NoConsent { place, columns: Consent::COLUMNS.into() }.into());
    }
    let scopes: BTreeSet<&String> = rule.requires_consent.iter().collect();
    if scopes.len() < rule.requires_consent.len() || scopes.iter().any(|scope| scope.is_empty()) {
        let value = format!("{:?}", rule.requires_consent);
        let required = "a list of different names";
        let example = "requires_consent = [\"email\"]";
        return Err(Error::setting(place, "requires_consent", value, required, example));
    }
    Ok(())
}
