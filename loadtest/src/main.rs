//! The thin binary: command line, run, exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    platform::identity::install_crypto();
    match loadtest::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            platform::complain!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
