//! The command `simulate`: generates customers with a known truth.

use std::path::Path;

use serde_json::json;

use crate::error::Result;
use crate::report::{Output, Progress, thousands};
use crate::simulate::{Options, simulate as generate};

/// Writes the simulated tables to the folder `out`.
pub fn simulate(options: &Options, out: &Path, progress: &mut Progress) -> Result<Output> {
    progress.stage("simulating");
    let simulated = generate(options, out)?;
    progress.finish();
    let text = format!(
        "{} profiles and {} events in {}\nthe truth, which no command reads, in {}\n",
        thousands(simulated.profiles),
        thousands(simulated.events),
        out.display(),
        out.join("truth").display()
    );
    Ok(Output { text, json: json!(simulated) })
}
