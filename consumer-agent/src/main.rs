//! The thin binary: configuration file, run, exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Runs a consumer agent: keeps the replicas of its agreements.
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
        .block_on(consumer_agent::process::run(&args.config))
}

fn main() -> ExitCode {
    platform::identity::install_crypto();
    platform::shown::ended("dit-consumer", run(&Args::parse()).map(|()| true))
}
