//! The `c360-ml` binary. All functionality is in the library.

// Batches of events are allocated and freed on all threads. The allocator of the system returns their pages
// to the system and requests them again. mimalloc does the same after a few milliseconds by default, and a
// fifth of a feature build would be spent on clearing pages. A delay of one second lets the next batch reuse
// the pages of the last one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The option `mi_option_purge_delay` of mimalloc, in milliseconds. The crate has no name for it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> std::process::ExitCode {
    // SAFETY: the call stores a number in a table of options, which mimalloc allows at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 1000) };
    c360_ml::cli::main().code().into()
}
