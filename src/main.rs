//! The `c360-ml` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    c360_ml::cli::main().into()
}
