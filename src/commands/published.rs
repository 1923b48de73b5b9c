//! Reads what a scoring run has published: the rows of one customer, and the columns that the segment rules
//! saw for all customers.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};

use super::CommandProblem;
use super::previous;
use crate::config::Project;
use crate::error::{Error, Result};
use crate::export::online::Source;
use crate::features::catalog::View;
use crate::schema::{Origin, PROFILE as PROFILE_FIELDS};
use crate::scoring::finish::last_purchases;
use crate::scoring::frame::{ScoreColumns, frame};
use crate::scoring::tables::pairs;
use crate::scoring::{engagement, rfm};
use crate::segments::{CustomerState, PreviousState, RuleResults, Segments, States, assign};
use crate::shard::{self, Shard, Shards};
use crate::sources::consent::Consent;
use crate::sources::profile::keys;
use crate::store::parquet::{concat, sort_by_key, take};
use crate::store::{Root, Store};
use crate::time::Instant;

/// The columns that are read from the profile.
const PROFILE: [&str; 3] = ["customer360_id", Consent::COLUMNS[0], Consent::COLUMNS[1]];

/// A scored as-of, ready to be read shard by shard.
pub struct ScoredAsOf<'a> {
    project: &'a Project,
    store: Store,
    root: Root,
    /// The scored as-of.
    pub as_of: Instant,
}

/// Some customers of a scored as-of, in the order of their keys.
pub struct Published {
    /// The columns that the segment rules saw.
    pub frame: RecordBatch,
    /// The published segments of each customer.
    pub segments: Vec<Option<PreviousState>>,
    consent: Consent,
    previous: Vec<Option<PreviousState>>,
    last_purchase: Vec<Option<Instant>>,
}

impl<'a> ScoredAsOf<'a> {
    /// Opens the as-of of the current profile, or another scored as-of.
    ///
    /// # Errors
    /// Returns [`CommandProblem::NotScored`] if the as-of was not scored.
    pub fn open(project: &'a Project, at: Option<Instant>) -> Result<Self> {
        let store = project.store()?;
        let root = store.root()?;
        let as_of = scored_at(&root, at)?;
        Ok(Self { project, store, root, as_of })
    }

    /// The shards that the store is written in.
    pub fn shards(&self) -> Shards {
        self.root.shards.unwrap_or(Shards::ONE)
    }

    /// Reads the published segments of the customers of a shard, in the order of their keys.
    pub fn segments(&self, shard: Shard) -> Result<Vec<Option<PreviousState>>> {
        match self.tables(shard, None).find("profile", Some(&PROFILE[..1]))? {
            Some(profile) => self.states(shard, Some(self.as_of), keys(&profile)?),
            None => Ok(Vec::new()),
        }
    }

    /// Reads columns of a table of this as-of, in the order of the keys. Returns None if the shard has no rows.
    pub fn table(&self, name: &str, columns: &[&str], shard: Shard) -> Result<Option<RecordBatch>> {
        self.tables(shard, None).find(name, Some(columns))
    }

    /// Reads the features, scores and segments of a shard's customers. Returns None if the shard has no
    /// customers.
    ///
    /// # Errors
    /// Returns a contract violation if the tables do not belong to one run, or if they were computed before a
    /// feature or a model was declared.
    pub fn shard(&self, shard: Shard) -> Result<Option<Published>> {
        let tables = self.tables(shard, None);
        let profile = tables.find("profile", Some(&PROFILE))?;
        profile.map(|profile| self.published(&tables, &profile)).transpose()
    }

    /// Reads the features, scores and segments of one customer.
    ///
    /// # Errors
    /// Returns the errors of [`ScoredAsOf::shard`], and a configuration error if there is no such customer.
    pub fn customer(&self, id: &str) -> Result<Published> {
        let shards = self.shards();
        let shard = shards.shard(shards.index(shard::hash(id)));
        let tables = self.tables(shard, Some(id));
        self.published(&tables, &tables.read("profile", Some(&PROFILE))?)
    }

    fn tables<'b>(&'b self, shard: Shard, id: Option<&'b str>) -> Tables<'b> {
        let Self { project, store, root, as_of } = self;
        Tables { project, store, root, as_of: *as_of, shard, id }
    }

    fn published(&self, tables: &Tables<'_>, profile: &RecordBatch) -> Result<Published> {
        let customers = keys(profile)?.clone();
        let features = tables.features(&customers, &[])?;
        let scores = tables.find("scores", None)?;
        let models = tables.scores(scores.as_ref(), customers.len())?;
        let rfm = tables.rfm(scores.as_ref(), customers.len())?;
        let frame = frame(&features, &models, rfm.as_ref(), self.project.context().scale)?;
        let before = previous::segments(&self.root, self.as_of);
        let mut writers = self.project.catalog.features.iter();
        let writer = writers.find(|feature| feature.writes.as_deref() == Some("last_purchase_at"));
        Ok(Published {
            frame,
            segments: self.states(tables.shard, Some(self.as_of), &customers)?,
            consent: Consent::of(profile),
            previous: self.states(tables.shard, before, &customers)?,
            last_purchase: last_purchases(writer.map(|feature| feature.column()), &features),
        })
    }

    fn states(
        &self,
        shard: Shard,
        at: Option<Instant>,
        customers: &StringArray,
    ) -> Result<Vec<Option<PreviousState>>> {
        let folder = at.map(|at| format!("segments/as_of={}", at.folder()));
        let read = |folder: String| self.store.read_shard(&self.root, &folder, shard, None);
        let rows = folder.map(read).transpose()?;
        Ok(States::of(&rows.unwrap_or_default(), customers)?.customers)
    }
}

impl Published {
    /// Evaluates the segment rules for these customers.
    pub fn assign(&self, scored: &ScoredAsOf<'_>, segments: &Segments) -> Result<RuleResults> {
        let state = CustomerState {
            previous: &self.previous,
            last_purchase: &self.last_purchase,
            consent: &self.consent,
            policy: &scored.project.settings.consent,
        };
        let scale = scored.project.context().scale;
        assign(segments, &self.frame, scale, scored.as_of, state)
    }
}

/// The features and the modeled fields of the current profile, which an online store serves. There are no raw
/// fields, and so no names or addresses, except whether a customer has opted out.
pub struct ServedProfile<'a> {
    scored: ScoredAsOf<'a>,
    views: &'a [String],
}

impl<'a> ServedProfile<'a> {
    /// Opens the current profile with the features of some views; of all views if none is named.
    ///
    /// # Errors
    /// Returns a contract violation if a view was built by another run than the profile.
    pub fn open(project: &'a Project, views: &'a [String]) -> Result<Self> {
        let scored = ScoredAsOf::open(project, None)?;
        scored.tables(Shard::ALL, None).of_run(views)?;
        Ok(Self { scored, views })
    }

    /// The as-of of the profile.
    pub fn as_of(&self) -> Instant {
        self.scored.as_of
    }

    fn row_columns(
        &self,
        tables: &Tables<'_>,
        profile: &RecordBatch,
        modeled: &[&str],
    ) -> Result<Vec<(String, ArrayRef)>> {
        let features = tables.features(keys(profile)?, self.views)?;
        let schema = features.schema();
        let given = schema.fields().iter().zip(features.columns());
        let mut columns: Vec<(String, ArrayRef)> =
            given.map(|(field, column)| (field.name().clone(), column.clone())).collect();
        for name in modeled {
            let column = profile.column_by_name(name);
            let column =
                column.ok_or_else(|| tables.moved_on(&format!("the profile has no {name}")))?;
            columns.push(((*name).to_owned(), column.clone()));
        }
        let consent = Consent::of(profile);
        let opted_out: BooleanArray =
            (0..profile.num_rows()).map(|row| Some(consent.opted_out(row))).collect();
        columns.push(("opted_out".into(), Arc::new(opted_out)));
        Ok(columns)
    }
}

impl Source for ServedProfile<'_> {
    fn shards(&self) -> Shards {
        self.scored.shards()
    }

    fn rows(&self, shard: Shard) -> Result<Option<RecordBatch>> {
        let tables = self.scored.tables(shard, None);
        let modeled = PROFILE_FIELDS.iter().filter(|field| field.origin == Origin::Modeled);
        let modeled: Vec<&str> = modeled.map(|field| field.name).collect();
        let names = [&PROFILE[..], &modeled].concat();
        let Some(profile) = tables.find("profile", Some(&names))? else { return Ok(None) };
        let columns = self.row_columns(&tables, &profile, &modeled)?;
        let taken = |name: &str| columns.iter().filter(|(own, _)| own == name).count() > 1;
        if let Some((name, _)) = columns.iter().find(|(name, _)| taken(name)) {
            return Err(CommandProblem::SameName { name: name.clone() }.into());
        }
        let columns = columns.into_iter().map(|(name, column)| {
            let is_key = name == "customer360_id";
            (name, column, !is_key)
        });
        let rows = RecordBatch::try_from_iter_with_nullable(columns);
        rows.map(Some).map_err(Error::engine("reading what is served"))
    }
}

/// The tables of one as-of, restricted to a shard or to one customer.
struct Tables<'a> {
    project: &'a Project,
    store: &'a Store,
    root: &'a Root,
    as_of: Instant,
    shard: Shard,
    id: Option<&'a str>,
}

impl Tables<'_> {
    /// Reads a table sorted by customer, with these columns or with all. Returns None if it has no rows.
    fn find(&self, name: &str, columns: Option<&[&str]>) -> Result<Option<RecordBatch>> {
        let folder = format!("{name}/as_of={}", self.as_of.folder());
        let rows = match self.id {
            Some(id) => rows_of(self.store, self.root, &folder, id)?,
            None => concat(&self.store.read_shard(self.root, &folder, self.shard, columns)?)?,
        };
        rows.map(|rows| sort_by_key(&rows, "customer360_id")).transpose()
    }

    fn read(&self, name: &str, columns: Option<&[&str]>) -> Result<RecordBatch> {
        self.find(name, columns)?.ok_or_else(|| match self.id {
            Some(id) => unknown_customer(self.as_of, id),
            None => self.moved_on(&format!("its table {name} is gone")),
        })
    }

    fn moved_on(&self, difference: &str) -> Error {
        CommandProblem::OldScores { as_of: self.as_of, difference: difference.to_owned() }.into()
    }

    /// Reads the features of some views side by side; of all views if none is named.
    fn features(&self, customers: &StringArray, views: &[String]) -> Result<RecordBatch> {
        let key: ArrayRef = Arc::new(customers.clone());
        let mut fields = vec![Field::new("customer360_id", key.data_type().clone(), false)];
        let mut columns = vec![key];
        for view in self.wanted(views) {
            let rows = self.read(&format!("features/{}", view.name), None)?;
            if keys(&rows)? != customers {
                let what = format!("the view {} was built anew, for other customers", view.name);
                return Err(self.moved_on(&what));
            }
            for feature in self.project.catalog.of_view(&view.name) {
                let name = feature.column();
                let column = rows.column_by_name(name).ok_or_else(|| {
                    self.moved_on(&format!("the view {} has no {name} yet", view.name))
                })?;
                fields.push(Field::new(name, column.data_type().clone(), true));
                columns.push(column.clone());
            }
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(Error::engine("collecting features"))
    }

    /// Refuses features of some views that another run wrote than the run of the current profile, because the
    /// scores of the profile were computed from other features.
    fn of_run(&self, views: &[String]) -> Result<()> {
        let run = self.root.profile.as_ref().map_or("", |profile| profile.run.as_str());
        let generation: u64 = run.split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let suffix = format!("-{generation}.parquet");
        for view in self.wanted(views) {
            let folder = format!("features/{}/as_of={}", view.name, self.as_of.folder());
            if self.store.below(self.root, &folder)?.iter().any(|file| !file.ends_with(&suffix)) {
                let what = format!("the view {} was built anew since", view.name);
                return Err(self.moved_on(&what));
            }
        }
        Ok(())
    }

    /// The named views, or all views if none is named.
    fn wanted<'b>(&'b self, views: &'b [String]) -> impl Iterator<Item = &'b View> {
        let views = move |view: &&View| views.is_empty() || views.contains(&view.name);
        self.project.catalog.views.iter().filter(views)
    }

    /// Selects the rows of one model from `scores/`, one per customer.
    fn of_model(
        &self,
        scores: Option<&RecordBatch>,
        name: &str,
        customers: usize,
    ) -> Result<RecordBatch> {
        let none = || self.moved_on(&format!("it has no scores of {name}"));
        let scores = scores.ok_or_else(none)?;
        let model = scores.column_by_name("model").and_then(|c| c.as_string_opt::<i32>());
        let model = model.ok_or_else(|| self.moved_on("the scores are not a table of scores"))?;
        let own: Vec<u32> =
            (0..model.len() as u32).filter(|row| model.value(*row as usize) == name).collect();
        if own.len() != customers {
            return Err(none());
        }
        take(scores, &own.into())
    }

    /// Reads the scores of the project's models as the columns that segment rules see.
    fn scores(&self, scores: Option<&RecordBatch>, customers: usize) -> Result<Vec<ScoreColumns>> {
        let of_field = |(name, field): (&str, &str)| {
            let rows = self.of_model(scores, name, customers)?;
            let number = |name: &str| {
                rows.column_by_name(name).and_then(|c| c.as_primitive_opt::<Float64Type>()).cloned()
            };
            let basis = rows.column_by_name("basis").and_then(|c| c.as_string_opt::<i32>());
            let (Some(basis), Some(score), Some(percentile)) =
                (basis, number("score"), number("percentile"))
            else {
                return Err(self.moved_on("the scores are not a table of scores"));
            };
            let mut own = ScoreColumns { field: field.to_owned(), ..ScoreColumns::default() };
            for (row, (score, percentile)) in score.iter().zip(&percentile).enumerate() {
                own.push(score, basis.value(row), percentile);
                let mut parts = pairs(&rows, "parts", row).into_iter();
                own.trend.push(
                    parts.find(|(part, _)| *part == engagement::TREND_PART).map(|part| part.1),
                );
            }
            Ok(own)
        };
        self.project.models.fields().into_iter().map(of_field).collect()
    }

    /// Reads the RFM scores, if the project has an RFM model.
    fn rfm(
        &self,
        scores: Option<&RecordBatch>,
        customers: usize,
    ) -> Result<Option<[Int64Array; 3]>> {
        let Some(model) = &self.project.models.rfm else { return Ok(None) };
        let rows = self.of_model(scores, &model.spec.name, customers)?;
        let reasons = (0..rows.num_rows()).map(|row| pairs(&rows, "reasons", row));
        let reasons: Vec<Vec<(String, f64)>> = reasons.collect();
        let part = |name: &str| {
            let of = |pairs: &Vec<(String, f64)>| {
                Some(pairs.iter().find(|(n, _)| n == name).map_or(0, |p| p.1 as i64))
            };
            reasons.iter().map(of).collect()
        };
        Ok(Some(rfm::PARTS.map(part)))
    }
}

/// The error for a customer that the profile does not have.
pub fn unknown_customer(as_of: Instant, id: &str) -> Error {
    CommandProblem::UnknownCustomer { as_of, customer: id.to_owned() }.into()
}

/// Returns `at` if it was scored. Without `at`, returns the as-of of the current profile.
pub fn scored_at(root: &Root, at: Option<Instant>) -> Result<Instant> {
    let scored = root.as_ofs("profile");
    match (at, &root.profile) {
        (Some(at), _) if scored.contains(at.folder().as_str()) => Ok(at),
        (Some(at), _) => {
            let scored = scored.into_iter().map(str::to_owned).collect();
            Err(CommandProblem::NotScored { at, scored }.into())
        }
        (None, Some(profile)) => Ok(profile.as_of),
        (None, None) => Err(CommandProblem::NoProfile.into()),
    }
}

/// Reads the rows of one customer from a table of the store. Returns None if there are none.
pub fn rows_of(store: &Store, root: &Root, folder: &str, id: &str) -> Result<Option<RecordBatch>> {
    let mut found = Vec::new();
    for file in store.below(root, folder)?.iter().filter(|file| Shard::of_file(file).has(id)) {
        for batch in crate::store::parquet::batches(&store.file(root, file)?, None, None)? {
            let batch = batch?;
            let own = keys(&batch)?.iter().enumerate().filter(|(_, key)| *key == Some(id));
            let own: Vec<u32> = own.map(|(row, _)| row as u32).collect();
            if !own.is_empty() {
                found.push(take(&batch, &own.into())?);
            }
        }
    }
    concat(&found)
}
