//! The thin binary: command line, run, exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    platform::identity::install_crypto();
    let cli = dit::cli::Cli::parse();
    match cli.run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            platform::complain!("dit: {error:#}");
            ExitCode::from(2)
        }
    }
}
