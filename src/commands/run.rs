//! The command `run`: trains if a model has no version that may score the as-of, and then scores.

use serde_json::json;

use super::CommandProblem;
use super::{champions, score, train};
use crate::config::Project;
use crate::error::Result;
use crate::exit::Exit;
use crate::report::{Output, Progress};

/// Trains if needed and scores. Returns the output of both and the exit status of the scoring.
pub fn run(project: &Project, force: bool, progress: &mut Progress) -> Result<(Output, Exit)> {
    let mut output = Output { text: String::new(), json: json!({}) };
    if !champions::has_champions(project, &project.store()?)? {
        let (trained, exit) = train::train(project, progress)?;
        output.text = trained.text;
        output.json["train"] = trained.json;
        if exit != Exit::Ok && !champions::has_champions(project, &project.store()?)? {
            return Err(CommandProblem::GateNotMet { report: output.text }.into());
        }
    }
    let (scored, exit) = score::score(project, force, progress)?;
    output.text += &scored.text;
    output.json["score"] = scored.json;
    Ok((output, exit))
}
