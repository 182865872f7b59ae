//! The thin binary: command line, run, exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    platform::identity::install_crypto();
    platform::shown::ended("dit", dit::cli::Cli::parse().run())
}
