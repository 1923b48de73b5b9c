//! The integration tests in one binary, because each further binary would link Polars again.

mod bucket;
mod bucket_server;
mod cli;
mod corpus;
mod corruption;
mod delta;
mod exports;
mod expressions;
mod imports;
mod init;
mod input;
mod join;
mod models;
mod oracle;
mod parts;
mod quality;
mod readme;
mod reference;
mod registry;
mod segments;
mod shards;
mod sources;
mod store;
mod support;
mod timelines;
mod written;
