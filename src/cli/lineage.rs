//! Tells a lineage backend when a run begins and ends, and what it has read and written.

use super::arguments::Global;
use crate::commands::datasets::{Datasets, datasets, inputs};
use crate::config::Project;
use crate::error::Result;
use crate::exit::Exit;
use crate::export::openlineage::{Moment, Parent, Run, Target, event};
use crate::report::Output;
use crate::report::identity::Identity;
use crate::time::Instant;

/// The namespace of jobs if the environment names none.
const NAMESPACE: &str = "c360-ml";

/// A run that a backend is told of.
pub(super) struct Told {
    target: Target,
    command: String,
    run: Run,
}

impl Told {
    /// Says that a run begins, if the command line asks for that. The namespace of its job, the key of the backend and
    /// the run that started this one come from the variables of OpenLineage.
    pub(super) fn begin(global: &Global, command: &str, identity: &Identity) -> Option<Self> {
        let target = global.openlineage.as_ref()?;
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let is_url = ["http://", "https://"].iter().any(|start| target.starts_with(start));
        let target = match is_url {
            true => Target::Url(target.clone(), variable("OPENLINEAGE_API_KEY")),
            false => Target::File(target.into()),
        };
        // A project that cannot be read fails with its own error.
        let known = Project::name(&global.project, &global.overrides()).ok();
        let (name, as_of) = known.unwrap_or_else(|| (NAMESPACE.to_owned(), global.as_of));
        let run = Run {
            id: identity.id.clone(),
            namespace: variable("OPENLINEAGE_NAMESPACE").unwrap_or_else(|| NAMESPACE.to_owned()),
            job: format!("{name}.{}", command.replace(' ', "-")),
            parent: variable("OPENLINEAGE_PARENT_ID").as_deref().and_then(Parent::parse),
            as_of,
        };
        let told = Self { target, command: command.to_owned(), run };
        told.send(&Moment::Start, Datasets::default());
        Some(told)
    }

    /// Says how the run has ended.
    pub(super) fn end(&self, global: &Global, outcome: &Result<(Output, Exit)>) {
        // What fails here has failed in the run too, or is there no longer: nothing is known of it then.
        let project = Project::load(&global.project, &global.overrides());
        let known = project.map(|project| match (outcome, self.run.as_of) {
            (Ok(_), Some(as_of)) => datasets(&project, &self.command, as_of).unwrap_or_default(),
            // A run that failed has published nothing.
            _ => Datasets { inputs: inputs(&project), outputs: Vec::new() },
        });
        let datasets = known.unwrap_or_default();
        match outcome {
            Ok((_, Exit::Ok)) => self.send(&Moment::Complete, datasets),
            Ok((_, exit)) => {
                let message = format!("the command has ended with exit code {}", exit.code());
                self.send(&Moment::Fail(&message), datasets);
            }
            Err(error) => self.send(&Moment::Fail(&error.to_string()), datasets),
        }
    }

    /// Sends an event. The command ends as it would without a backend.
    fn send(&self, moment: &Moment<'_>, Datasets { inputs, outputs }: Datasets) {
        let at = Instant(chrono::Utc::now().timestamp_micros());
        if let Err(error) = self.target.send(&event(&self.run, moment, at, inputs, outputs)) {
            tracing::warn!("{error}");
        }
    }
}
