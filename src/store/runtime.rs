//! What requests need: threads that wait for them, and the cryptography of their connections.
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

/// Chooses the cryptography of all connections of the process. Two of them are linked, because crates ask for different
/// ones, and so none is the default.
pub fn choose_cryptography() {
    // A second call finds the choice of the first one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
