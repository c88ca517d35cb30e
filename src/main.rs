//! Parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Fails only if a provider is installed already: nobody did that before main.
    let _ = rustls::crypto::ring::default_provider().install_default();
    piccolo::cli::main(std::env::args_os(), std::env::vars_os()).into()
}
