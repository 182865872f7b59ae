//! The thin binary: configuration file, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use router::process::RunArgs;

/// Runs a router.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

fn run(args: Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(router::process::run(args.run))
}

fn main() -> ExitCode {
    platform::identity::install_crypto();
    platform::shown::ended("dit-router", run(Args::parse()).map(|()| true))
}
