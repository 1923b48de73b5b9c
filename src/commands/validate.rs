//! `validate`: the contract of both sources, checked on footers and data.

use serde_json::json;

use super::as_of;
use crate::config::Project;
use crate::error::Result;
use crate::features::embedded::EmbeddedEngine;
use crate::features::engine::Engine;
use crate::features::plan::{AsOf, FeaturePlan};
use crate::report::{Output, Progress, Table, thousands};
use crate::sources::contract::{
    Checks, EventFacts, Status, check_events, check_profile, events_from,
};
use crate::sources::profile::{Entities, ProfilePlan};
use crate::sources::{Orphans, SourcePlan};
use crate::time::Instant;

/// The report, and whether the contract is kept.
pub fn validate(project: &Project, progress: &mut Progress) -> Result<(Output, bool)> {
    let now = as_of(project).ok();
    progress.stage("reading the profile");
    let mut profile = Checks::new("profile");
    let (rows, faults) = project.profile.inspect()?;
    check_profile(&project.profile, &rows, &faults, &mut profile);

    progress.stage("reading the events");
    let mut events = Checks::new("events");
    let mut facts = EventFacts::default();
    EventFacts::of_files(&project.events)?.iter().for_each(|file| facts.add(file));
    let future = now.map(|as_of| events_from(&project.events, as_of.at)).transpose()?;
    check_events(&project.events, &facts, future, &mut events);
    let entities = ProfilePlan::entities_of(&rows);
    check_keys(project, &entities, &mut events)?;
    progress.finish();

    let list: Vec<_> = profile.list.into_iter().chain(events.list).collect();
    let kept = list.iter().all(|check| check.status != Status::Violation);
    let mut table = Table::new(&["source", "check", "found", "status", "hint"]);
    for check in &list {
        let status = format!("{:?}", check.status).to_lowercase();
        let found = check.found.parse().map_or_else(|_| check.found.clone(), thousands);
        table.row([&check.source, &check.check, &found, &status, &check.hint]);
    }
    let verdict = if kept { "the contract is kept" } else { "the contract is violated" };
    let text = format!("{}\n{verdict}\n", table.render());
    Ok((Output { text, json: json!({ "kept": kept, "checks": list }) }, kept))
}

/// Duplicates, orphans and unusable rows, as a run would find them.
fn check_keys(project: &Project, entities: &Entities, checks: &mut Checks) -> Result<()> {
    let end = Instant(i64::MAX);
    let plan = FeaturePlan { as_ofs: vec![AsOf::at(end)], ..FeaturePlan::default() };
    let engine = EmbeddedEngine::new(project.memory, std::env::temp_dir());
    let tolerant = SourcePlan {
        orphans: if project.events.orphans == Orphans::Fail {
            Orphans::Skip
        } else {
            project.events.orphans
        },
        max_rejected_share: 1.0,
        ..project.events.clone()
    };
    let report = engine.build(&tolerant, entities, &[plan], &mut |_| Ok(()))?;
    report.check(&project.events, checks);
    Ok(())
}
