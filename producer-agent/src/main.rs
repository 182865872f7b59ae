//! The thin binary: configuration file, run, exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Runs a producer agent: sends the changes of a register to a router.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
}

fn run(args: &Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(producer_agent::process::run(&args.config))
}

fn main() -> ExitCode {
    platform::identity::install_crypto();
    platform::shown::ended("dit-producer", run(&Args::parse()).map(|()| true))
}
