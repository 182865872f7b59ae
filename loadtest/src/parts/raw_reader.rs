//! A reader of the file with the `csv` crate alone: it compares each row's hash with the key's last one.
//!
//! Owns the raw side of taking a file: what is least to be done to find out what has changed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use platform::shutdown::terminate;

use crate::live::Counter;

/// Rows that are counted together.
const COUNT_EVERY: usize = 1_000;
/// The place of the key among the columns.
const KEY: usize = 1;

/// The file.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    file: PathBuf,
    /// Begins when this file exists.
    #[arg(long)]
    start: PathBuf,
}

/// Reads the file, then waits until it is asked to stop.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let counter = Counter::new()?;
    let telling = counter.clone();
    let reading = tokio::spawn(async move {
        counter.ready();
        let mut look = tokio::time::interval(Duration::from_millis(2));
        while !args.start.exists() {
            look.tick().await;
        }
        tokio::task::spawn_blocking(move || read(&args.file, &counter)).await?
    });
    telling.tell_until(terminate()).await?;
    reading.await?
}

fn read(file: &std::path::Path, counter: &Counter) -> anyhow::Result<()> {
    let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').from_path(file)?;
    let mut last: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut row = csv::ByteRecord::new();
    let mut new = Vec::with_capacity(COUNT_EVERY);
    while reader.read_byte_record(&mut row)? {
        let mut hasher = DefaultHasher::new();
        row.iter().for_each(|cell| cell.hash(&mut hasher));
        let hash = hasher.finish();
        let key = row.get(KEY).context("a row without a key")?;
        if last.get(key) != Some(&hash) {
            last.insert(key.to_vec(), hash);
            new.push((0, row.as_slice().len()));
        }
        if new.len() == COUNT_EVERY {
            counter.applied(new.drain(..));
        }
    }
    counter.applied(new);
    ensure!(reader.is_done(), "the file was not read to its end");
    Ok(())
}
