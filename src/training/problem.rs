//! The reasons for which a model cannot be trained on the data that there are.

use crate::error::Problem;
use crate::exit::Exit;
use crate::time::{Duration, Instant};

/// Too little data for a model, or data that it cannot be fitted to.
#[derive(Debug, thiserror::Error)]
pub enum TrainingProblem {
    #[error("there are no events before {at}{}", begin(first))]
    NoEvents { at: Instant, first: Option<Instant> },
    #[error(
        "the events end at {last}, {quiet:.1} days before {until}: outcomes of the model {model} up to then cannot be known"
    )]
    Stale { model: String, last: Instant, quiet: f64, until: Instant },
    #[error("the model {model} needs {:.0} days of events before {as_of}, but they begin at {first}, {:.0} days before", needed.as_days(), as_of.days_since(first.0).max(0.0))]
    ShortHistory { model: String, needed: Duration, as_of: Instant, first: Instant },
    /// `rows` is the use of the snapshots: training, calibration or test.
    #[error(
        "the model {model} has {positives} rows with y = 1 ({positive_class}) and {negatives} with y = 0 for {rows} (of {customers} customers), and needs {required} of each"
    )]
    FewOfAClass {
        model: String,
        file: String,
        positive_class: String,
        rows: &'static str,
        positives: usize,
        negatives: usize,
        customers: usize,
        required: usize,
    },
    #[error(
        "the model {model} has {positives} rows with y = 1 among the {rows} training rows that fit.max_rows leaves, and needs {required} of each class"
    )]
    FewSampled { model: String, file: String, positives: usize, rows: usize, required: usize },
    #[error("the model {model} has no interactions to learn from")]
    NoInteractions { model: String },
    #[error("the factors of the model {model} do not stay finite")]
    InfiniteFactors { model: String },
}

fn begin(first: &Option<Instant>) -> String {
    first.map(|first| format!("; they begin at {first}")).unwrap_or_default()
}

impl Problem for TrainingProblem {
    fn exit(&self) -> Exit {
        Exit::NotMet
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoEvents { first: Some(_), .. } => {
                "choose an as-of after the first event; a model needs months of them".to_owned()
            }
            Self::NoEvents { first: None, .. } => "check sources.events.path".to_owned(),
            Self::Stale { last, .. } => {
                let last = last.to_string();
                let day = last.split('T').next().unwrap_or_default();
                format!("load the missing events, or train at an as-of up to {day}")
            }
            Self::ShortHistory { .. } => {
                "train at a later as-of, or set a shorter snapshots.lookback or label.horizon"
                    .to_owned()
            }
            Self::FewOfAClass { file, .. } => format!(
                "train at a later as-of, widen `eligible`, or lower fit.minimum_class in {file}"
            ),
            Self::FewSampled { file, .. } => {
                format!("raise fit.max_rows, or lower fit.minimum_class, in {file}")
            }
            Self::NoInteractions { .. } => "check its item, weights and window".to_owned(),
            Self::InfiniteFactors { .. } => {
                "lower its alpha or weights, or raise its regularization".to_owned()
            }
        })
    }
}
