//! Seconds to compute all features of a project at one as-of and at eight, a month apart.
//!
//! usage: cargo bench --bench features -- PROJECT_FOLDER

use std::path::PathBuf;
use std::time::Instant as Clock;

use c360_ml::config::{Overrides, Project};
use c360_ml::engine;
use c360_ml::features::events::Events;
use c360_ml::features::plan::{AsOf, FeaturePlan};
use c360_ml::features::scanned::{Reading, ScannedEvents};
use c360_ml::shard::Shards;
use c360_ml::sources::profile::{CREATED, Entities, KEY, Scattering};
use c360_ml::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // cargo adds --bench to the arguments of every bench.
    let Some(folder) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        println!("usage: cargo bench --bench features -- PROJECT_FOLDER");
        return Ok(());
    };
    let project = Project::load(&PathBuf::from(folder), &Overrides::default())?;
    let latest = project.as_of()?;
    let scratch = std::env::temp_dir();
    let shards = Shards::for_rows(project.events.table.rows, project.profile.table.rows);
    let memory = project.memory;
    let scattering = Scattering { shards, memory, folder: &scratch, instants: &[] };
    let profile = project.profile.scatter(scattering, &|name| [KEY, CREATED].contains(&name))?;
    for count in [1, 8, 1, 8] {
        let as_ofs: Vec<AsOf> =
            (0..count).map(|i| AsOf::at(latest.minus(Duration::days(30 * i)))).collect();
        let columns = project.catalog.features.iter().map(|feature| feature.column());
        let plans = [FeaturePlan::of_catalog("all", &project.catalog, columns, as_ofs)];
        let begun = Clock::now();
        let reading = Reading { shards, memory, folder: &scratch };
        let events = ScannedEvents::read(&project.events, &plans, reading)?;
        let mut rows = 0;
        let stage = |shard| {
            let computed = events.shard(shard, &Entities::of(&profile.rows(shard)?)?)?;
            Ok(computed.of("all")?.iter().map(|rows| rows.num_rows()).sum::<usize>())
        };
        engine::run(shards, stage, |_, more| {
            rows += more;
            Ok(())
        })?;
        println!(
            "{count} as-ofs: {:.2} s, {} events, {rows} rows",
            begun.elapsed().as_secs_f64(),
            events.report.events
        );
    }
    Ok(())
}
