//! The embedded log compared with its disk: the same bytes, written and synced by hand, in the same run.
//!
//! `cargo bench -p event-log --bench embedded_log`. Compare figures only within one run; the machine is shared.

#![allow(clippy::unwrap_used, reason = "a benchmark says what it expects by failing")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use event_log::embedded::{EmbeddedLog, EmbeddedOptions};
use event_log::{Cleanup, Log, TopicSpec};
use schemas::ids::{Offset, Partition};
use schemas::record::Record;

const TOPIC: &str = "bench";
const P0: Partition = Partition::new(0);
const RECORD_BYTES: usize = 1024;
const RECORDS: usize = 200_000;
/// Appenders at once: as many as a few agents make.
const APPENDERS: usize = 4;

fn record() -> Record {
    Record { key: Some(b"40003000001".to_vec()), value: Some(vec![7; RECORD_BYTES]), headers: vec![] }
}

fn a_second(count: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap()) / took.as_secs_f64()
}

/// Records a second, written and synced by hand, a batch at a time.
fn by_hand(dir: &Path, batch: usize) -> f64 {
    let mut file = File::create(dir.join("raw")).unwrap();
    let bytes = vec![7_u8; batch * RECORD_BYTES];
    let begin = Instant::now();
    for _ in 0..RECORDS / batch {
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
    }
    a_second(RECORDS, begin.elapsed())
}

/// Records a second through the log.
async fn through_the_log(dir: &Path, batch: usize) -> f64 {
    let log = EmbeddedLog::open(dir, EmbeddedOptions::default()).unwrap();
    let spec = TopicSpec { name: TOPIC.to_owned(), partitions: 1, cleanup: Cleanup::KeepAll };
    log.ensure_topic(&spec).await.unwrap();
    let begin = Instant::now();
    let appenders: Vec<_> = (0..APPENDERS)
        .map(|_| {
            let log = log.clone();
            tokio::spawn(async move {
                for _ in 0..RECORDS / batch / APPENDERS {
                    log.append(TOPIC, P0, vec![record(); batch]).await.unwrap();
                }
            })
        })
        .collect();
    for appender in appenders {
        appender.await.unwrap();
    }
    a_second(RECORDS, begin.elapsed())
}

/// Time to open the log again, and records a second read from its beginning.
async fn again(dir: &Path) -> (Duration, u64, f64) {
    let begin = Instant::now();
    let log = EmbeddedLog::open(dir, EmbeddedOptions::default()).unwrap();
    let opened = begin.elapsed();
    let end = log.bounds(TOPIC, P0).await.unwrap().next;
    let begin = Instant::now();
    let mut next = Offset::new(0);
    let mut count = 0;
    while next < end {
        let batch = log.read(TOPIC, P0, next, 512 * 1024, Duration::ZERO).await.unwrap();
        count += batch.records.len();
        next = batch.next;
    }
    (opened, end.get(), a_second(count, begin.elapsed()))
}

/// The process's largest memory so far, as Linux tells it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "not known here".to_owned(), |text| text.trim().to_owned())
}

#[tokio::main]
async fn main() {
    // In the build's folder: the system's temporary folder may be in memory.
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log_dir = root.path().join("log");
    println!("{RECORD_BYTES} bytes a record, {RECORDS} records, {APPENDERS} appenders at once");
    println!("batch    by hand/s    the log/s    ratio");
    for batch in [100, 1_000] {
        let hand = by_hand(root.path(), batch);
        let ours = through_the_log(&log_dir, batch).await;
        println!("{batch:>5} {hand:>12.0} {ours:>12.0} {:>8.2}", ours / hand);
    }
    let memory = peak_memory();
    let (opened, records, read) = again(&log_dir).await;
    println!(
        "opened {records} records again in {:.1} ms, read {read:.0} a second",
        opened.as_secs_f64() * 1e3
    );
    println!("peak memory while writing: {memory}");
}
