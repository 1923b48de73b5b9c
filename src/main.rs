//! The `c360-ml` binary: everything is in the library.

// Batches of events come and go on all threads. The system's allocator gives their pages back and
// takes them anew, and so does this one after some milliseconds unless told otherwise: a fifth of a
// feature build would go into clearing pages. A second is enough to bridge from batch to batch.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's `mi_option_purge_delay`, which the crate does not name; in milliseconds.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> std::process::ExitCode {
    // SAFETY: it stores a number in a table of options, which mimalloc allows at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 1000) };
    c360_ml::cli::main().code().into()
}
