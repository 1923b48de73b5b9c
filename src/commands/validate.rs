//! The command `validate`: checks the contract of both sources on footers and data.

use std::path::Path;

use serde_json::json;

use super::{as_of, reading, scattering, shards};
use crate::config::Project;
use crate::engine;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::features::events::Events;
use crate::features::plan::{AsOf, FeaturePlan};
use crate::features::scanned::ScannedEvents;
use crate::report::{Output, Progress, Table, thousands};
use crate::sources::contract::{
    Checks, EventFacts, ProfileFacts, Status, check_events, check_profile, events_from,
};
use crate::sources::profile::{Entities, ProfileShards};
use crate::sources::{Orphans, SourcePlan};
use crate::time::Instant;

/// Checks the contract of both sources. The exit status says whether it is kept.
pub fn validate(project: &Project, progress: &mut Progress) -> Result<(Output, Exit)> {
    let now = project.settings.project.as_of.map(|_| as_of(project)).transpose()?;
    progress.stage("reading the profile");
    let mut profile = Checks::new("profile");
    let scratch = tempfile::tempdir().map_err(Error::io("write", std::env::temp_dir()))?;
    let shards = shards(project, &mut project.store()?.root()?);
    let scattering = scattering(project, shards, scratch.path(), &[]);
    let customers = project.profile.scatter(scattering, &|_| true)?;
    let of_shard = |shard| {
        let (rows, faults) = customers.inspect(shard)?;
        Ok(ProfileFacts::of(&rows, &faults))
    };
    let mut facts = ProfileFacts::default();
    engine::run(shards, of_shard, |_, more| {
        facts.add(more);
        Ok(())
    })?;
    check_profile(&project.profile, &customers, &facts, &mut profile);

    progress.stage("reading the events");
    let mut events = Checks::new("events");
    let mut facts = EventFacts::default();
    EventFacts::of_files(&project.events)?.iter().for_each(|file| facts.add(file));
    let future = now.map(|as_of| events_from(&project.events, as_of.at)).transpose()?;
    check_events(&project.events, &facts, future, &mut events);
    check_keys(project, &customers, scratch.path(), &mut events)?;
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
    Ok((
        Output { text, json: json!({ "kept": kept, "checks": list }) },
        Exit::Contract.unless(kept),
    ))
}

/// Counts duplicates, orphans and unusable rows as a run would.
fn check_keys(
    project: &Project,
    profile: &ProfileShards,
    scratch: &Path,
    checks: &mut Checks,
) -> Result<()> {
    let plans = [FeaturePlan::new("rows", vec![AsOf::at(Instant(i64::MAX))])];
    let tolerant = SourcePlan {
        orphans: if project.events.orphans == Orphans::Fail {
            Orphans::Skip
        } else {
            project.events.orphans
        },
        max_rejected_share: 1.0,
        ..project.events.clone()
    };
    let reading = reading(project, profile.shards(), scratch);
    let events = ScannedEvents::read(&tolerant, &plans, reading)?;
    let mut report = events.report.clone();
    let of_shard = |shard| {
        let (rows, _) = profile.inspect(shard)?;
        events.shard(shard, &Entities::of(&rows)?)
    };
    engine::run(profile.shards(), of_shard, |_, rows| {
        report.add(rows.left_out());
        Ok(())
    })?;
    report.check(&project.events, checks);
    Ok(())
}
