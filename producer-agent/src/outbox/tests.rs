//! The outbox against crashes, rolls and restored folders.

use platform::segments::memory_disk::MemoryDisk;
use schemas::avro::schema::AvroSchema;
use schemas::block::OpenBlock;
use schemas::trace::TraceContext;

use super::*;

const P1: Partition = Partition::new(1);

fn codec(name: &str) -> ChangeCodec {
    let text = format!(r#"{{"type":"record","name":"{name}","fields":[{{"name":"a","type":"string"}}]}}"#);
    ChangeCodec::new(&AvroSchema::parse(&text).unwrap()).unwrap()
}

fn open(disk: &MemoryDisk, epoch: u8) -> Outbox {
    let epoch = Epoch::new([epoch; 16]);
    Outbox::open(Arc::new(disk.clone()), Path::new("/o"), epoch, &codec("R"), 2).unwrap()
}

/// A block of two changes, the second of which is traced.
fn block(number: u8) -> (Partition, Content) {
    let mut changes = OpenBlock::default();
    changes.push(&[number]);
    changes.push(&[number]);
    let traces = TraceContext::new([number; 16], [1; 8]).map(|trace| (1, trace));
    (P1, Content::Block(Block::new(changes, traces.into_iter().collect())))
}

fn after(before: Digest, number: u8) -> Digest {
    digest::next(before, block(number).1.datum())
}

#[test]
fn a_crash_keeps_what_was_appended_and_the_chain_goes_on() {
    let disk = MemoryDisk::new();
    let mut outbox = open(&disk, 1);
    outbox.append(&codec("R"), &[block(1), block(2)]).unwrap();
    let before = outbox.places.clone();
    drop(outbox);
    disk.crash(|_| 0);
    let mut outbox = open(&disk, 9);
    assert_eq!(outbox.epoch(), Epoch::new([1; 16]), "an existing outbox keeps its epoch");
    assert_eq!(outbox.places, before);
    outbox.append(&codec("R"), &[block(3)]).unwrap();
    let window = outbox.read(0, 1 << 20).unwrap();
    let contents: Vec<_> = window.entries.iter().map(|placed| placed.entry.content.clone()).collect();
    assert_eq!(contents, [1, 2, 3].map(|number| block(number).1), "each block as it was, with its trace");
    let sequences: Vec<_> = window.entries.iter().map(|placed| placed.entry.sequence.get()).collect();
    assert_eq!(sequences, [0, 2, 4]);
}

#[test]
fn a_window_has_one_schema() {
    let disk = MemoryDisk::new();
    let mut outbox = open(&disk, 1);
    outbox.append(&codec("R"), &[block(1)]).unwrap();
    outbox.append(&codec("S"), &[block(2)]).unwrap();
    let first = outbox.read(0, 1 << 20).unwrap();
    let second = outbox.read(1, 1 << 20).unwrap();
    assert_eq!((first.entries.len(), second.entries.len()), (1, 1));
    assert_ne!(first.batch_schema, second.batch_schema);
    assert_eq!(second.entries[0].entry.sequence, Sequence::new(2), "the chain does not mind the schema");
}

#[test]
fn the_routers_word_is_found_or_the_folder_is_another() {
    let disk = MemoryDisk::new();
    let mut outbox = open(&disk, 1);
    outbox.append(&codec("R"), &[block(1), block(2)]).unwrap();
    let chain = after(digest::first(outbox.epoch()), 1);
    assert_eq!(outbox.find(P1, Sequence::new(2), chain).unwrap(), Some(1));
    assert_eq!(outbox.find(P1, Sequence::new(1), chain).unwrap(), None, "no chain is ever within a block");
    assert_eq!(outbox.find(P1, Sequence::new(0), digest::first(outbox.epoch())).unwrap(), Some(0));
    let other = after(chain, 99);
    assert_eq!(outbox.find(P1, Sequence::new(4), other).unwrap(), None);
}

#[test]
fn a_full_outbox_refuses_before_the_disk_does() {
    let disk = MemoryDisk::new();
    let mut outbox = open(&disk, 1);
    outbox.set_watermark(10);
    assert!(matches!(outbox.append(&codec("R"), &[block(1)]), Err(OutboxError::Full { .. })));
}

#[test]
fn a_new_epoch_starts_every_chain_anew() {
    let disk = MemoryDisk::new();
    let mut outbox = open(&disk, 1);
    outbox.append(&codec("R"), &[block(1)]).unwrap();
    outbox.begin_epoch(Epoch::new([2; 16])).unwrap();
    outbox.append(&codec("R"), &[block(2)]).unwrap();
    drop(outbox);
    let outbox = open(&disk, 3);
    assert_eq!(outbox.epoch(), Epoch::new([2; 16]));
    let window = outbox.read(1, 1 << 20).unwrap();
    assert_eq!((window.epoch, window.entries[0].entry.sequence), (Epoch::new([2; 16]), Sequence::new(0)));
}
