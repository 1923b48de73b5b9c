//! Reports as single HTML files.

pub mod chart;
pub mod model;
pub mod page;
