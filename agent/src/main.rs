//! The program `boxmeter`: see `boxmeter --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    boxmeter::cli::main()
}
