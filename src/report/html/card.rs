//! The parts of a model card that every kind of model has.

use maud::{Markup, html};

use crate::spec::CardSpec;

/// The owner and the intended use, which is `usual` if the spec does not say it.
pub fn head(card: &CardSpec, usual: &str) -> [(&'static str, String); 2] {
    let or = |text: &str, usual: &str| if text.is_empty() { usual } else { text }.to_owned();
    [
        ("owner", or(&card.owner, "not named; set card.owner in the spec")),
        ("intended use", or(&card.intended_use, usual)),
    ]
}

/// Renders the limits: those of the spec, and then the usual ones.
pub fn limits(card: &CardSpec, usual: &[&str]) -> Markup {
    html! {
        h3 { "Limits" }
        ul {
            @for limit in card.limits.iter().map(String::as_str).chain(usual.iter().copied()) { li { (limit) } }
        }
    }
}
