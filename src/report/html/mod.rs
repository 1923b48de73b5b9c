//! Reports as single HTML files.

pub mod chart;
pub mod index;
pub mod model;
pub mod page;
pub mod run;
