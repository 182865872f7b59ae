//! The thin binary: configuration file, run, exit code.

use std::path::PathBuf;

use clap::Parser;

/// Runs one part of a dit network.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
}

fn main() -> anyhow::Result<()> {
    platform::identity::install_crypto();
    let args = Args::parse();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(router::process::run(&args.config))
}
