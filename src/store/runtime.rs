//! The threads that wait for requests to a disk or a bucket.
//!
//! Calls of this module block, and can be made from any other thread.

use std::sync::LazyLock;

use tokio::runtime::Runtime;

/// The threads that wait for requests.
pub(super) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("objects")
        .enable_all()
        .build()
        .unwrap_or_else(|error| unreachable!("threads can be started: {error}"))
});
