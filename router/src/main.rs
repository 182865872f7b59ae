//! The thin binary: configuration file, run, exit code.

use clap::Parser;
use router::process::RunArgs;

/// Runs a router.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> anyhow::Result<()> {
    platform::identity::install_crypto();
    let args = Args::parse();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(router::process::run(args.run))
}
