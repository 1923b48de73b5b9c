//! The catalog: all checked features of a project with their types, versions and dependencies.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::FeatureProblem;
use super::expectation::{self, Expectation, ViewColumn};
use super::spec::{FeatureSpec, Op, ViewSpec};
use crate::error::{Error, Result};
use crate::expression::check::{check, check_as};
use crate::expression::{Columns, Expression, Type};
use crate::money::Scale;
use crate::schema::{Origin, profile_field};
use crate::sources::SourcePlan;
use crate::time::{Duration, Window, Zone};

/// A checked aggregation, which computes one column over one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aggregation {
    /// The name of the column that it computes.
    pub column: String,
    /// The operation that it computes.
    pub op: Op,
    /// The expression over the event columns that is aggregated. None counts events.
    pub input: Option<Expression>,
    /// The condition that selects the events. None selects all events.
    pub condition: Option<Expression>,
    /// The window over which events are aggregated.
    pub window: Window,
    /// The half-life of the weights of [`Op::DecayedSum`].
    pub half_life: Option<Duration>,
    /// The type of the column.
    #[serde(rename = "type")]
    pub ty: Type,
}

/// A checked derived feature, which is an expression over other feature columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Derived {
    /// The name of the column that it computes.
    pub column: String,
    /// The expression over aggregations and earlier derived features.
    pub expression: Expression,
}

/// The definition of a feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Definition {
    /// An aggregation over events.
    Aggregation(Aggregation),
    /// An expression over other features.
    Derived(Derived),
}

impl Definition {
    /// The name of the column that the definition computes.
    pub fn column(&self) -> &str {
        match self {
            Self::Aggregation(aggregation) => &aggregation.column,
            Self::Derived(derived) => &derived.column,
        }
    }
}

/// A feature, which is one column of a view.
#[derive(Debug, Clone)]
pub struct Feature {
    /// The view that declares it.
    pub view: String,
    /// The definition by which it is computed.
    pub definition: Definition,
    /// The name in the spec, without the window. Features of the same group are combined in explanations.
    pub group: String,
    /// The profile field that it fills.
    pub writes: Option<String>,
    /// The description for readers, from the spec.
    pub description: String,
    /// The expressions of the spec by their settings, such as `where`.
    pub expressions: Vec<(&'static str, String)>,
    /// The version: a hash of the checked definition and of everything it depends on.
    pub version: String,
}

impl Feature {
    /// The name of the column.
    pub fn column(&self) -> &str {
        self.definition.column()
    }

    /// The type of the column.
    pub fn ty(&self) -> Type {
        match &self.definition {
            Definition::Aggregation(aggregation) => aggregation.ty,
            Definition::Derived(derived) => derived.expression.ty,
        }
    }
}

/// The name and metadata of a view.
#[derive(Debug, Clone)]
pub struct View {
    /// The name of the view.
    pub name: String,
    /// The person or team responsible for the view.
    pub owner: String,
    /// The description of the view.
    pub description: String,
    /// The expectations that must hold for its snapshots.
    pub expectations: Vec<Expectation>,
}

/// All features of a project.
///
/// Aggregations come first, in the order of the files. Derived features follow, each after the features that
/// it uses.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// The views in the order of their files.
    pub views: Vec<View>,
    /// The features in the order in which they can be computed.
    pub features: Vec<Feature>,
}

impl Catalog {
    /// Checks the views of a project against the columns of its event source. Each spec comes with the name
    /// of its file.
    ///
    /// # Errors
    /// A configuration error for a duplicate name, an unknown column, a wrong type, a cycle, or two features
    /// that write the same profile field.
    pub fn check(specs: &[(String, ViewSpec)], events: &Columns) -> Result<Self> {
        let mut catalog = Self::default();
        for (file, spec) in specs {
            catalog.add_view(file, spec)?;
            for feature in &spec.features {
                catalog.add_aggregations(file, &spec.name, feature, events)?;
            }
        }
        catalog.add_derived(specs, events)?;
        catalog.check_writes()?;
        for (at, (file, spec)) in specs.iter().enumerate() {
            let columns = catalog.of_view(&spec.name).map(|feature| ViewColumn {
                name: feature.column(),
                group: &feature.group,
                ty: feature.ty(),
            });
            let expectations = expectation::check(file, spec, &columns.collect::<Vec<_>>())?;
            catalog.views[at].expectations = expectations;
        }
        Ok(catalog)
    }

    /// Computes the versions of all features over a source.
    ///
    /// If a canonical column is not a column of the files under its own name, the expression that it is
    /// mapped to becomes part of the version of every feature that uses it. The same holds for a time zone
    /// and a scale of money other than the defaults.
    pub fn over(mut self, source: &SourcePlan) -> Self {
        let context = &source.context;
        let is_default = context.zone == Zone::default() && context.scale == Scale::default();
        let place = format!("{} {}", context.zone.name(), context.scale.places());
        let mapped = |name: &str| {
            let to = source.mapping.get(name)?;
            (*to != Expression::column(name, to.ty)).then(|| fingerprint(to, &[name.to_owned()]))
        };
        for index in 0..self.features.len() {
            let definition = &self.features[index].definition;
            let mut versions: Vec<String> = match definition {
                Definition::Aggregation(aggregation) => {
                    let own = aggregation.input.iter().chain(&aggregation.condition);
                    let mut names: BTreeSet<&str> = own.flat_map(|x| x.columns()).collect();
                    names.extend(["customer360_id", "event_id", "event_ts", "ingested_at"]);
                    names.into_iter().filter_map(mapped).collect()
                }
                Definition::Derived(derived) => {
                    let from = derived.expression.columns();
                    from.iter().filter_map(|name| Some(self.get(name)?.version.clone())).collect()
                }
            };
            if matches!(definition, Definition::Aggregation(_)) && !is_default {
                versions.push(place.clone());
            }
            self.features[index].version = fingerprint(definition, &versions);
        }
        self
    }

    /// The feature whose column is `name`.
    pub fn get(&self, name: &str) -> Option<&Feature> {
        self.features.iter().find(|feature| feature.column() == name)
    }

    /// All columns with their types.
    pub fn columns(&self, scale: crate::money::Scale) -> Columns {
        Columns::new(scale, self.features.iter().map(|f| (f.column().to_owned(), f.ty())))
    }

    /// The features of one view.
    pub fn of_view<'a>(&'a self, view: &'a str) -> impl Iterator<Item = &'a Feature> {
        self.features.iter().filter(move |feature| feature.view == view)
    }

    /// The features in `wanted` and all features that they depend on, in the order in which they can be
    /// computed.
    pub fn closure<'a>(&'a self, wanted: &BTreeSet<&str>) -> Vec<&'a Feature> {
        let mut needed: BTreeSet<&str> = wanted.clone();
        let mut features: Vec<&Feature> = Vec::new();
        for feature in self.features.iter().rev() {
            if needed.contains(feature.column()) {
                if let Definition::Derived(derived) = &feature.definition {
                    needed.extend(derived.expression.columns());
                }
                features.push(feature);
            }
        }
        features.reverse();
        features
    }

    fn add_view(&mut self, file: &str, spec: &ViewSpec) -> Result<()> {
        if spec.source != "events" {
            let place = format!("{file}: source");
            return Err(Error::unknown(place, "source", &spec.source, ["events"]));
        }
        check_name(file, &spec.name)?;
        if self.views.iter().any(|view| view.name == spec.name) {
            return Err(Error::duplicate(file, "view", &spec.name));
        }
        self.views.push(View {
            name: spec.name.clone(),
            owner: spec.owner.clone(),
            description: spec.description.clone(),
            expectations: Vec::new(),
        });
        Ok(())
    }

    fn push(&mut self, file: &str, feature: Feature) -> Result<()> {
        if let Some(other) = self.get(feature.column()) {
            let problem = FeatureProblem::ColumnOfTwoViews {
                file: file.to_owned(),
                column: feature.column().to_owned(),
                view: other.view.clone(),
            };
            return Err(problem.into());
        }
        self.features.push(feature);
        Ok(())
    }

    fn add_aggregations(
        &mut self,
        file: &str,
        view: &str,
        spec: &FeatureSpec,
        events: &Columns,
    ) -> Result<()> {
        for aggregation in aggregations(file, spec, events)? {
            let definition = Definition::Aggregation(aggregation);
            let version = fingerprint(&definition, &[]);
            let feature = Feature {
                view: view.to_owned(),
                definition,
                group: spec.name.clone(),
                writes: spec.writes.clone(),
                description: spec.description.clone(),
                expressions: [("input", &spec.input), ("where", &spec.condition)]
                    .into_iter()
                    .filter_map(|(setting, sql)| Some((setting, sql.clone()?)))
                    .collect(),
                version,
            };
            self.push(file, feature)?;
        }
        Ok(())
    }

    /// Checks the derived features and adds each of them after the features that it uses.
    fn add_derived(&mut self, specs: &[(String, ViewSpec)], events: &Columns) -> Result<()> {
        let mut open: Vec<_> = specs
            .iter()
            .flat_map(|(file, view)| view.derived.iter().map(move |derived| (file, view, derived)))
            .collect();
        while !open.is_empty() {
            let known = self.columns(events.scale);
            let mut left = Vec::new();
            let mut failure = None;
            let before = open.len();
            for (file, view, spec) in open {
                let place = format!("{file}: derived.{}", spec.name);
                check_name(file, &spec.name)?;
                match check(&spec.expr, &known, &place) {
                    Ok(expression) => {
                        let versions: Vec<String> = expression
                            .columns()
                            .iter()
                            .filter_map(|name| Some(self.get(name)?.version.clone()))
                            .collect();
                        let derived = Derived { column: spec.name.clone(), expression };
                        let definition = Definition::Derived(derived);
                        let feature = Feature {
                            view: view.name.clone(),
                            version: fingerprint(&definition, &versions),
                            definition,
                            group: spec.name.clone(),
                            writes: spec.writes.clone(),
                            description: spec.description.clone(),
                            expressions: vec![("expr", spec.expr.clone())],
                        };
                        self.push(file, feature)?;
                    }
                    Err(error) => {
                        let waits = matches!(&error, Error::UnknownName { noun: "column", name, .. }
                            if specs.iter().any(|(_, v)| v.derived.iter().any(|d| d.name == *name)));
                        if !waits {
                            return Err(error);
                        }
                        failure.get_or_insert_with(|| place.clone());
                        left.push((file, view, spec));
                    }
                }
            }
            if left.len() == before {
                let place = failure.unwrap_or_default();
                let features = left.iter().map(|(_, _, spec)| spec.name.clone()).collect();
                return Err(FeatureProblem::Cycle { place, features }.into());
            }
            open = left;
        }
        Ok(())
    }

    fn check_writes(&self) -> Result<()> {
        let mut writers: BTreeMap<&str, &str> = BTreeMap::new();
        for feature in &self.features {
            let Some(field) = feature.writes.as_deref() else { continue };
            let place = format!("features: {} writes", feature.column());
            let derived = crate::schema::PROFILE.iter().filter(|f| f.origin == Origin::Derived);
            match profile_field(field) {
                Some(known) if known.origin == Origin::Derived => {
                    use arrow_schema::DataType as Arrow;
                    let fits = matches!(
                        (feature.ty(), known.arrow_type()),
                        (Type::Integer, Some(Arrow::Int64))
                            | (Type::Money, Some(Arrow::Decimal128(..)))
                            | (Type::Timestamp, Some(Arrow::Timestamp(..)))
                            | (Type::Text, Some(Arrow::Utf8))
                    );
                    if !fits {
                        let problem = FeatureProblem::FieldType {
                            feature: feature.column().to_owned(),
                            field: field.to_owned(),
                            field_type: known.type_name(false).to_string(),
                            ty: feature.ty(),
                        };
                        return Err(problem.into());
                    }
                }
                _ => return Err(Error::unknown(place, "field", field, derived.map(|f| f.name))),
            }
            if let Some(other) = writers.insert(field, feature.column()) {
                let problem = FeatureProblem::FieldOfTwoFeatures {
                    field: field.to_owned(),
                    first: other.to_owned(),
                    second: feature.column().to_owned(),
                };
                return Err(problem.into());
            }
        }
        Ok(())
    }
}

/// The checked aggregations of one `[[feature]]` table, one per window.
pub fn aggregations(file: &str, spec: &FeatureSpec, events: &Columns) -> Result<Vec<Aggregation>> {
    check_name(file, &spec.name)?;
    let place = format!("{file}: feature.{}", spec.name);
    let input = spec.input.as_deref().map(|sql| check(sql, events, &format!("{place} input")));
    let input = input.transpose()?;
    let condition = spec
        .condition
        .as_deref()
        .map(|sql| check_as(sql, Type::Boolean, events, &format!("{place} where")))
        .transpose()?;
    let ty = result_type(spec, input.as_ref(), &place)?;
    let windows = match spec.windows.as_slice() {
        [] => vec![(spec.name.clone(), Window::Lifetime)],
        windows => windows.iter().map(|w| (format!("{}_{w}", spec.name), *w)).collect(),
    };
    let make = |(column, window)| Aggregation {
        column,
        op: spec.op,
        input: input.clone(),
        condition: condition.clone(),
        window,
        half_life: spec.half_life,
        ty,
    };
    Ok(windows.into_iter().map(make).collect())
}

fn result_type(spec: &FeatureSpec, input: Option<&Expression>, place: &str) -> Result<Type> {
    if (spec.op == Op::DecayedSum) != spec.half_life.is_some() {
        return Err(FeatureProblem::HalfLife { place: place.to_owned() }.into());
    }
    if let Some(length) = spec.half_life.filter(|length| length.0 == 0) {
        let example = "half_life = \"14d\"";
        return Err(Error::setting(place, "half_life", length, "longer than 0", example));
    }
    let input = input.map(|x| x.ty);
    let numeric = input.is_some_and(Type::is_numeric);
    match (spec.op, input) {
        (Op::Count, _) => Ok(Type::Integer),
        (Op::CountDistinct, Some(_)) => Ok(Type::Integer),
        (Op::Sum | Op::FirstDaySum, Some(ty)) if numeric => Ok(ty),
        (Op::Mean | Op::Std, Some(_)) if numeric => Ok(Type::Double),
        (Op::Min | Op::Max, Some(ty)) if numeric || matches!(ty, Type::Timestamp | Type::Date) => {
            Ok(ty)
        }
        (Op::First | Op::Last, Some(ty)) => Ok(ty),
        (Op::DaysSinceFirst | Op::DaysSinceLast, None) => Ok(Type::Double),
        (Op::ActiveDays, None) => Ok(Type::Integer),
        (Op::MeanGapDays | Op::MedianGapDays, None) => Ok(Type::Double),
        (Op::MaxGapDays | Op::StdGapDays, None) => Ok(Type::Double),
        (Op::DecayedSum, None) => Ok(Type::Double),
        (Op::DecayedSum, Some(_)) if numeric => Ok(Type::Double),
        (_, None) => Err(FeatureProblem::NoInput { place: place.to_owned() }.into()),
        (_, Some(ty)) => Err(FeatureProblem::InputType { place: place.to_owned(), ty }.into()),
    }
}

fn check_name(file: &str, name: &str) -> Result<()> {
    let mut characters = name.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_lowercase());
    let reserved = ["customer360_id", "event_timestamp", "created_timestamp"].contains(&name);
    let (file, name) = (file.to_owned(), name.to_owned());
    if reserved || name.contains("__") {
        return Err(FeatureProblem::ReservedName { file, name }.into());
    }
    if first && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        return Ok(());
    }
    Err(FeatureProblem::NotAName { file, name }.into())
}

/// A hash of a checked definition and of the versions that it depends on.
pub fn fingerprint(definition: &impl Serialize, versions: &[String]) -> String {
    let mut text = serde_json::to_string(definition).unwrap_or_default();
    for version in versions {
        text.push_str(version);
    }
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}
