//! A drop folder under a writer that pauses, truncates, replaces, renames, links and dies at random.
//!
//! Owns the writer. Whatever it does, the register is always that of one whole file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use producer_agent::source::file::drop_folder::{DropFolder, DropSettings, Fate, Marker};
use serde_json::json;

use crate::provider::{Provider, Rows, schema};

const ROUNDS: u64 = 1_000;
/// Rows of a file: its writing takes several steps.
const MOST_ROWS: u64 = 400;
const NAMES: u64 = 4;

/// A small generator (xorshift64*): the same seed, the same writer.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }
}

/// The registers of all whole files so far.
type Said = Arc<Mutex<BTreeSet<String>>>;

struct Writer {
    dir: PathBuf,
    random: Random,
    /// Whole files only; a cut or half one has no trailer that counts it.
    said: Said,
    round: u64,
    steps: Receiver<()>,
}

/// How a register is compared: as one text.
fn as_text(rows: &Rows) -> String {
    serde_json::to_string(rows).unwrap()
}

impl Writer {
    /// A new whole register: each row says which one it is of.
    fn register(&mut self) -> Vec<u8> {
        self.round += 1;
        let round = self.round;
        let count = 1 + self.random.below(MOST_ROWS);
        let mut text = "id,v\n".to_owned();
        let mut rows = Rows::new();
        for row in 0..count {
            let value = format!("{round}-{row}-{}", "x".repeat(usize::try_from(row % 40 * 60).unwrap()));
            text.push_str(&format!("{row},{value}\n"));
            rows.insert(row.to_string(), json!({"id": row.to_string(), "v": value}));
        }
        text.push_str(&format!("END {count}\n"));
        self.said.lock().unwrap().insert(as_text(&rows));
        text.into_bytes()
    }

    /// Writes in pieces, with a pause before each; `false` if the writer dies on the way.
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> bool {
        let pieces = 1 + self.random.below(4);
        let dies = self.random.below(4) == 0;
        let length = bytes.len() / usize::try_from(pieces).unwrap() + 1;
        for (index, piece) in bytes.chunks(length).enumerate() {
            let _pause = self.steps.recv();
            if dies && index > 0 {
                let part =
                    usize::try_from(self.random.below(1 + u64::try_from(piece.len()).unwrap())).unwrap();
                file.write_all(&piece[..part]).unwrap();
                return false;
            }
            file.write_all(piece).unwrap();
        }
        true
    }

    fn work(&mut self) {
        let name = format!("f{}.csv", self.random.below(NAMES));
        let path = self.dir.join(&name);
        let bytes = self.register();
        match self.random.below(8) {
            // In place, over a file that may exist.
            0..=3 => {
                let file = File::create(&path);
                file.map(|mut file| self.write(&mut file, &bytes)).ok();
            }
            // In another file, then renamed.
            4 | 5 => {
                let part = self.dir.join(format!("{name}.part"));
                let mut file = File::create(&part).unwrap();
                if self.write(&mut file, &bytes) {
                    std::fs::rename(&part, &path).unwrap();
                }
            }
            // A file of another folder, by a symbolic and by a hard link.
            6 => {
                let other = self.dir.parent().unwrap().join("other");
                std::fs::write(&other, &bytes).unwrap();
                let _taken = std::os::unix::fs::symlink(&other, &path);
                let _there = std::fs::hard_link(&other, self.dir.join("linked.csv"));
            }
            // Cut, renamed, removed.
            _ => {
                let cut = self.random.below(3_000);
                if let Ok(file) = File::options().write(true).open(&path) {
                    file.set_len(cut).unwrap();
                }
                let _pause = self.steps.recv();
                let _gone =
                    std::fs::rename(&path, self.dir.join(format!("f{}.csv", self.random.below(NAMES))));
                let _gone = std::fs::remove_file(self.dir.join("linked.csv"));
            }
        }
    }
}

/// Takes what is ready, as the agent's loop does.
struct Taker {
    provider: Provider,
    folder: DropFolder,
    said: Said,
    taken: u64,
    refused: u64,
    changed: u64,
}

impl Taker {
    fn look(&mut self) {
        for file in self.folder.ready().unwrap() {
            let Some(taking) = self.folder.reading(&file)().unwrap() else {
                self.changed += 1;
                continue;
            };
            let report = self.provider.take_path(taking.path());
            let fate = match &report {
                Ok(report) if report.parked.is_empty() => {
                    self.taken += 1;
                    Fate::Taken
                }
                Ok(report) => panic!("{}: rows of no file: {:?}", file.path.display(), report.parked),
                Err(error) => {
                    assert!(error.is_of_the_file(), "{error}");
                    self.refused += 1;
                    Fate::Refused
                }
            };
            let text = as_text(self.provider.rows());
            let is_said = text == "{}" || self.said.lock().unwrap().contains(&text);
            assert!(is_said, "a register that no whole file had: {}", &text[..text.len().min(2_000)]);
            self.folder.settle(taking, fate, &json!({})).unwrap();
        }
    }
}

fn start(dir: &Path, seed: u64, steps: Receiver<()>) -> (Writer, Said) {
    let said = Said::default();
    let random = Random(seed | 1);
    (Writer { dir: dir.to_owned(), random, said: Arc::clone(&said), round: 0, steps }, said)
}

#[test]
fn whatever_a_writer_does_the_register_is_that_of_one_whole_file() {
    let drawn = u64::from_be_bytes(platform::random::bytes().unwrap());
    let seed = std::env::var("DIT_SEED").map_or(drawn, |text| text.parse().unwrap());
    println!("seed {seed}: DIT_SEED={seed} repeats the writer");
    let dir = tempfile::tempdir().unwrap();
    let drop_dir = dir.path().join("drop");
    let settings = DropSettings { still_for: jiff::SignedDuration::ZERO, marker: Marker::None };
    let folder = DropFolder::open(&drop_dir, settings).unwrap();
    let fields = schema(&json!({"id": "string", "v": "string"}));
    let provider = Provider::new(&fields, &["id"], "trailer = \"END {rows}\"\n");
    let (step, steps): (SyncSender<()>, _) = sync_channel(1);
    let (mut writer, said) = start(&drop_dir, seed, steps);
    let mut taker = Taker { provider, folder, said, taken: 0, refused: 0, changed: 0 };
    std::thread::scope(|scope| {
        let written = scope.spawn(move || {
            for _ in 0..ROUNDS {
                writer.work();
            }
        });
        while !written.is_finished() {
            // The writer goes one step on while the folder is looked at.
            let _busy = step.try_send(());
            taker.look();
        }
        drop(step);
    });
    let Taker { taken, refused, changed, .. } = taker;
    println!("{ROUNDS} rounds: {taken} files taken, {refused} refused, {changed} changed under reading");
    assert!(taken > 50 && refused > 20, "the writer gave no occasion: {taken} {refused}");
}
