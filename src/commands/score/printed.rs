//! What `score` prints.

use serde_json::json;

use super::stages::{TABLES, folder};
use crate::commands::timelines;
use crate::config::Project;
use crate::features::plan::AsOf;
use crate::features::timelines::Refresh;
use crate::report::{Output, Table, thousands};
use crate::scoring::summary::{self, RunMetrics};
use crate::sources::Orphans;

/// Prints the number of customers, the distributions of the scores, the sizes of the segments and the paths
/// of the written files.
pub fn printed(
    project: &Project,
    as_of: AsOf,
    run: &str,
    metrics: &RunMetrics,
    refresh: &Refresh,
    moves: bool,
) -> Output {
    let mut scores =
        Table::new(&["score", "model", "lapsed", "none", "p10", "median", "p90", "mean"]);
    let fields = project.models.fields();
    for model in &metrics.models {
        let field = fields.iter().find(|(name, _)| *name == model.model);
        let [of_model, lapsed, none] = model.basis.map(|count| thousands(count as u64));
        let number = |of: fn(&summary::ScoreDistribution) -> f64| {
            format!("{:.4}", model.scores.as_ref().map_or(f64::NAN, of))
        };
        scores.row([
            field.map_or(model.model.as_str(), |(_, field)| field).to_owned(),
            of_model,
            lapsed,
            none,
            number(|scores| scores.p10),
            number(|scores| scores.p50),
            number(|scores| scores.p90),
            number(|scores| scores.mean),
        ]);
    }
    let mut segments = Table::new(&["segment", "customers", "share", "as primary"]);
    let customers = metrics.customers;
    for size in &metrics.segments {
        let share = format!("{:.1} %", size.members as f64 / customers as f64 * 100.0);
        let (members, primary) = (thousands(size.members as u64), thousands(size.primary as u64));
        segments.row([size.segment.clone(), members, share, primary]);
    }
    let date = as_of.at.folder();
    let store = project.store_shown();
    let count = thousands(metrics.events.orphans);
    let orphans = match (&project.settings.sources.profile, project.events.orphans) {
        // Without a profile, the customers are those of the events.
        (None, _) => String::new(),
        (_, Orphans::Create) => format!(", {count} events of unknown customers taken in"),
        _ => format!(", {count} events of unknown customers left out"),
    };
    let mut text = format!(
        "{} customers scored as of {} from {} events ({} duplicates left out{orphans})\n{}\n{}\n{}\n",
        thousands(customers as u64),
        as_of.at,
        thousands(metrics.events.events),
        thousands(metrics.events.duplicates),
        timelines::sentences(refresh),
        scores.render(),
        segments.render(),
    );
    let mut written = Table::new(&["written", "in"]);
    for name in
        TABLES.into_iter().filter(|t| *t != "recommendations" || project.models.affinity.is_some())
    {
        written.row([name.to_owned(), format!("{store}/{}/", folder(name, as_of))]);
    }
    written.row(["features".to_owned(), format!("{store}/features/<view>/as_of={date}/")]);
    written.row(["manifest".to_owned(), format!("{store}/runs/{run}/manifest.json")]);
    written.row(["report".to_owned(), format!("{store}/runs/{run}/report.html")]);
    let segments = format!("{store}/runs/{run}/segments.html");
    written.row(["segments page".to_owned(), segments]);
    text += &written.render();
    if !moves {
        text += "\nthe current profile has a later as-of and was not replaced\n";
    }
    let sizes = metrics.segments.iter();
    let sizes = sizes.filter(|size| size.members > 0).map(|size| {
        json!({ "segment": size.segment, "customers": size.members, "primary": size.primary })
    });
    let json = json!({
        "as_of": as_of.at,
        "run": run,
        "customers": customers,
        "events": metrics.events,
        "refresh": refresh,
        "segments": sizes.collect::<Vec<_>>(),
        "profile_moved": moves,
    });
    Output { text, json }
}
