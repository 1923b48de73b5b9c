//! Seconds to compute all features of a project at one as-of and at eight, a month apart.
//!
//! usage: cargo bench --bench features -- PROJECT_FOLDER

use std::path::PathBuf;
use std::time::Instant as Clock;

use c360_ml::config::{Overrides, Project};
use c360_ml::features::embedded::EmbeddedEngine;
use c360_ml::features::engine::Engine;
use c360_ml::features::plan::{AsOf, FeaturePlan};
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
    let engine = EmbeddedEngine::new(project.memory, std::env::temp_dir());
    let latest = project.as_of()?;
    let entities = project.profile.entities()?;
    for count in [1, 8, 1, 8] {
        let as_ofs: Vec<AsOf> =
            (0..count).map(|i| AsOf::at(latest.minus(Duration::days(30 * i)))).collect();
        let columns = project.catalog.features.iter().map(|feature| feature.column());
        let plan = FeaturePlan::of_catalog(&project.catalog, columns, as_ofs);
        let begun = Clock::now();
        let mut rows = 0;
        let report = engine.build(&project.events, &entities, &[plan], &mut |part| {
            rows += part.rows.num_rows();
            Ok(())
        })?;
        println!(
            "{count} as-ofs: {:.2} s, {} events, {rows} rows",
            begun.elapsed().as_secs_f64(),
            report.events
        );
    }
    Ok(())
}
