//! The `c360-ml` binary: everything is in the library.

// Batches of events come and go on all threads; the system's allocator spends a fifth of a feature
// build on giving their pages back and taking them anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    c360_ml::cli::main().into()
}
