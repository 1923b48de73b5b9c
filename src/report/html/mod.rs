//! Reports as single HTML files.

pub mod affinity;
pub mod chart;
pub mod index;
pub mod lifetime_value;
pub mod model;
pub mod page;
pub mod run;
