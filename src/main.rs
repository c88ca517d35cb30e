//! The binary `piccolo`.

use std::process::ExitCode;

fn main() -> ExitCode {
    piccolo::cli::main(std::env::args_os(), std::env::vars_os()).into()
}
