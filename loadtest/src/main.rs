//! The thin binary: command line, run, exit code.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    platform::identity::install_crypto();
    loadtest::cli::Cli::parse().run()
}
