//! Reports, each a single HTML file.

pub mod affinity;
pub mod audience;
mod card;
pub mod chart;
pub mod index;
pub mod lifetime_value;
pub mod model;
pub mod page;
pub mod run;
