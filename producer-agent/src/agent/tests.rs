//! The agent on a disk in memory: files become events once, and images follow the outbox.

use platform::segments::memory_disk::MemoryDisk;

use std::collections::BTreeMap;

use schemas::change::Change;
use schemas::epoch_table::EpochEnd;
use schemas::ids::{Digest, Partition, Sequence};

use super::*;
use crate::image::memory::MemoryImages;
use crate::outbox::{StoredEntry, lock};
use crate::source::file::source::FileSource;
use crate::source::format::TableFormat;
use crate::source::http::RequestSource;
use crate::source::http::items::{Item, Operation};
use crate::take::counts::Counts;
use crate::take::guard::Guard;
use crate::take::report::FileReport;

const SCHEMA: &str = r#"{"type":"record","name":"R","fields":[
    {"name":"k","type":"string"},{"name":"v","type":"string"}]}"#;

struct Site {
    files: tempfile::TempDir,
    disk: MemoryDisk,
    agent: Agent,
}

fn channel() -> Channel {
    serde_json::from_value(
        serde_json::json!({"name": "c", "kind": "distribution", "owner": "1", "partitions": 2,
        "key": {"fields": ["k"]}, "schema": serde_json::from_str::<serde_json::Value>(SCHEMA).unwrap()}),
    )
    .unwrap()
}

fn open(disk: &MemoryDisk, images: Box<dyn ImageStore>) -> Result<Agent, AgentError> {
    Agent::open(Opening {
        dir: PathBuf::from("/agent"),
        disk: Arc::new(disk.clone()),
        images,
        channel: channel(),
        log_id: LogId::new([7; 16]),
        schema: AvroSchema::parse(SCHEMA).unwrap(),
    })
}

fn plain(path: &std::path::Path) -> FileSource {
    FileSource::open(path, &TableFormat::default()).unwrap()
}

fn site() -> Site {
    let disk = MemoryDisk::new();
    let agent = open(&disk, Box::new(MemoryImages::default())).unwrap();
    Site { files: tempfile::tempdir().unwrap(), disk, agent }
}

impl Site {
    fn take(&self, text: &str, accepted: bool) -> FileReport {
        let path = self.files.path().join("register.csv");
        std::fs::write(&path, text).unwrap();
        self.agent.take(&plain(&path), Guard::default(), accepted).unwrap()
    }

    /// Calls `each` for every change in the outbox, in order.
    fn each_change(&self, each: &mut dyn FnMut(&Change<'_>)) {
        lock(&self.agent.outbox)
            .for_each(0, &mut |StoredEntry { entry, .. }| {
                if let Content::Block(block) = &entry.content {
                    let changes = self.agent.codec.decode_block(block.datum()).unwrap();
                    changes.iter().for_each(|found| each(&found.change));
                }
                true
            })
            .unwrap();
    }

    fn events(&self) -> Vec<(String, &'static str)> {
        let mut found = Vec::new();
        self.each_change(&mut |change| found.push((change.key.to_owned(), change.op.letter())));
        found.sort();
        found
    }

    /// The source block of each event of a key, in order: its kind, its name, and whether a whole register was compared.
    fn sources(&self, of: &str) -> Vec<(String, String, bool)> {
        let mut found = Vec::new();
        self.each_change(&mut |Change { key, source, .. }| {
            if *key == of {
                found.push((source.kind.to_owned(), source.name.to_owned(), source.snapshot));
            }
        });
        found
    }
}

#[test]
fn versions_of_a_file_become_creates_updates_and_deletes_once() {
    let site = site();
    let first = (0..20).fold("k,v\n".to_owned(), |text, n| format!("{text}{n},x\n"));
    assert_eq!(site.take(&first, false).counts.create, 20);
    let reordered = (0..20).rev().fold("k,v\n".to_owned(), |text, n| format!("{text}{n},x\n"));
    assert_eq!(site.take(&reordered, false).counts, Counts { same: 20, ..Counts::default() });
    let changed = first.replace("\n5,x\n", "\n5,y\n").replace("\n7,x\n", "\n");
    let report = site.take(&changed, false);
    assert_eq!((report.counts.update, report.counts.delete), (1, 1));
    assert_eq!(site.events().len(), 22);
}

#[test]
fn the_guard_holds_what_would_empty_the_register_until_somebody_accepts() {
    let site = site();
    let full = (0..20).fold("k,v\n".to_owned(), |text, n| format!("{text}{n},x\n"));
    assert!(site.take(&full, false).taken, "creates never hold");
    let report = site.take("k,v\n", false);
    assert!(!report.taken && report.guard.is_some_and(|why| why.contains("delete 20 of 20")));
    assert_eq!(site.agent.register_size().unwrap(), 20);
    assert!(site.take("k,v\n", true).taken);
    assert_eq!(site.agent.register_size().unwrap(), 0);
}

#[test]
fn a_change_file_is_taken_row_by_row() {
    let site = site();
    site.take("k,v\na,1\nb,2\nc,3\n", false);
    let path = site.files.path().join("changes.csv");
    std::fs::write(&path, "op,k,v\nu,a,9\nd,b,2\nc,b,5\nd,zz,0\nx,c,3\nu,a,8\n").unwrap();
    let format = TableFormat { operation_column: Some("op".to_owned()), ..TableFormat::default() };
    let report = site.agent.take(&FileSource::open(&path, &format).unwrap(), Guard::default(), true).unwrap();
    assert_eq!(report.counts, Counts { create: 1, update: 2, delete: 1, same: 0, parked: 2 });
    assert_eq!(report.parked.iter().map(|parked| parked.location.line).collect::<Vec<_>>(), [5, 6]);
    let changes: Vec<_> = site.events().into_iter().filter(|(key, _)| key != "c").collect();
    let expected = [("a", "c"), ("a", "u"), ("a", "u"), ("b", "c"), ("b", "c"), ("b", "d")];
    assert_eq!(changes, expected.map(|(key, op)| (key.to_owned(), op)));
    assert_eq!(site.agent.register_size().unwrap(), 3);
    let row = serde_json::json!({"k": "a"}).as_object().unwrap().clone();
    let item = Item::made(Operation::Delete, &row);
    site.agent.take_singles(&RequestSource::new(vec![Ok(item)]), || Ok(())).unwrap();
    let of = |kind: &str, name: &str, is_compared| (kind.to_owned(), name.to_owned(), is_compared);
    let changed = of("change_file", "changes.csv", false);
    assert_eq!(
        site.sources("a"),
        [of("file", "register.csv", true), changed.clone(), changed, of("http", "", false)],
        "a file of changes is no snapshot"
    );
}

#[test]
fn images_that_are_behind_catch_up_from_the_outbox() {
    let site = site();
    site.take("k,v\na,1\nb,2\n", false);
    let reopened = open(&site.disk, Box::new(MemoryImages::default())).unwrap();
    assert_eq!(reopened.register_size().unwrap(), 2, "from an outbox that still holds everything");
    let path = site.files.path().join("register.csv");
    let report = reopened.take(&plain(&path), Guard::default(), false).unwrap();
    assert_eq!(report.counts, Counts { same: 2, ..Counts::default() }, "a file taken twice is taken once");
}

#[test]
fn images_ahead_of_the_outbox_are_doubtful() {
    let site = site();
    let images = MemoryImages::default();
    images.apply(&[], 99).unwrap();
    assert!(matches!(
        open(&site.disk, Box::new(images)),
        Err(AgentError::Folder(FolderError::Doubtful { .. }))
    ));
}

#[test]
fn a_folder_belongs_to_one_channel_and_one_log() {
    let site = site();
    let opened = Agent::open(Opening {
        dir: PathBuf::from("/agent"),
        disk: Arc::new(site.disk),
        images: Box::new(MemoryImages::default()),
        channel: channel(),
        log_id: LogId::new([8; 16]),
        schema: AvroSchema::parse(SCHEMA).unwrap(),
    });
    assert!(matches!(opened, Err(AgentError::Folder(FolderError::OtherChannel { .. }))));
}

#[test]
fn a_new_header_is_compared_in_the_new_schema() {
    let mut site = site();
    site.take("k,v\na,1\nb,2\n", false);
    let newer = r#"{"type":"record","name":"R","fields":[{"name":"K","aliases":["k"],"type":"string"},
        {"name":"v","type":"string"},{"name":"w","type":"string","default":""}]}"#;
    site.agent.use_schema(&AvroSchema::parse(newer).unwrap()).unwrap();
    let report = site.take("K,v,w\na,1,\nb,2,new\n", true);
    assert_eq!(report.counts, Counts { same: 1, update: 1, ..Counts::default() });
}

#[test]
fn a_full_disk_refuses_the_file_and_it_is_taken_once_there_is_room() {
    let site = site();
    site.take("k,v\n1,a\n", false);
    let path = site.files.path().join("register.csv");
    let rows = (1..40_000).fold("k,v\n".to_owned(), |text, n| format!("{text}{n},b\n"));
    std::fs::write(&path, rows).unwrap();
    let take = || site.agent.take(&plain(&path), Guard::default(), true);
    // Some groups of the file fit, the next one does not.
    site.disk.set_room(Some(2_000_000));
    let error = take().unwrap_err();
    assert!(error.is_passing(), "{error}");
    site.disk.set_room(None);
    let report = take().unwrap();
    assert!(report.counts.same > 0, "what was taken before is not taken again");
    let events = site.events();
    assert_eq!(events.len(), 1 + 39_999, "each change once");
    assert_eq!(events.iter().filter(|(_, op)| *op == "u").count(), 1);
}

#[test]
fn freshness_stands_behind_the_changes_that_it_speaks_of() {
    let site = site();
    site.take("k,v\n1,a\n2,b\n3,c\n", false);
    let mut is_last = BTreeMap::new();
    let each = &mut |StoredEntry { entry, .. }: StoredEntry| {
        is_last.insert(entry.partition, matches!(entry.content, Content::Freshness(_)));
        true
    };
    lock(&site.agent.outbox).for_each(0, each).unwrap();
    assert!(!site.events().is_empty() && is_last.values().all(|is_freshness| *is_freshness), "{is_last:?}");
}

#[test]
fn changes_that_are_all_refused_leave_no_mark() {
    let site = site();
    let marks = std::cell::Cell::new(0);
    let take = |items| {
        let mark = || {
            marks.set(marks.get() + 1);
            Ok(())
        };
        site.agent.take_singles(&RequestSource::new(items), mark).unwrap().len()
    };
    let put = |key: &str| {
        let row = serde_json::json!({"k": key, "v": "1"}).as_object().cloned().unwrap();
        Ok(Item::made(Operation::Put, &row))
    };
    let keyless = Ok(Item::made(Operation::Put, &serde_json::Map::new()));
    assert_eq!((take(vec![Err("it is no object".to_owned()), keyless]), marks.get()), (2, 0));
    assert_eq!((take(vec![Err("it is no object".to_owned()), put("a"), put("b")]), marks.get()), (3, 1));
}

/// An agent that has taken three changes of one key, and the end of its chain after each.
fn with_three_changes() -> (Site, Partition, Vec<EpochEnd>) {
    let site = site();
    for value in ["1", "2", "3"] {
        let row = serde_json::json!({"k": "a", "v": value}).as_object().cloned().unwrap();
        let request = RequestSource::new(vec![Ok(Item::made(Operation::Put, &row))]);
        site.agent.take_singles(&request, || Ok(())).unwrap();
    }
    let mut stood = Vec::new();
    let mut partition = Partition::new(0);
    let epoch = lock(&site.agent.outbox).epoch();
    lock(&site.agent.outbox)
        .for_each(0, &mut |StoredEntry { entry, .. }| {
            if let Content::Block(_) = entry.content {
                partition = entry.partition;
                stood.push(EpochEnd { epoch, next: entry.next(), digest: entry.digest });
            }
            true
        })
        .unwrap();
    (site, partition, stood)
}

/// The agent's image of the key "a" has this value.
fn has_image(site: &Site, value: &str) {
    let mut image = Vec::new();
    ["a", value].iter().for_each(|text| schemas::avro::binary::put_string(&mut image, text));
    site.agent.images.apply(&[ImageChange { key: "a", after: Some(&image) }], 0).unwrap();
}

#[test]
fn a_reopen_makes_again_what_did_not_count_when_the_log_took_its_openings() {
    let (mut site, partition, stood) = with_three_changes();
    // Nothing was acknowledged when the reopen began; two of three changes counted before its opening.
    let marker = site.agent.begin_reopen(0, false).unwrap();
    has_image(&site, "2");
    let ends = BTreeMap::from([(partition, vec![stood[1]])]);
    site.agent.end_reopen(marker, Epoch::new([9; 16]), &ends).unwrap();
    assert_eq!(site.events(), [("a".to_owned(), "u")], "the third alone");
}

#[test]
fn what_may_have_counted_is_left_to_a_person() {
    let other = |next: u64| EpochEnd {
        epoch: Epoch::new([8; 16]),
        next: Sequence::new(next),
        digest: Digest::new([1; 16]),
    };
    type Word = fn(EpochEnd, EpochEnd) -> Vec<EpochEnd>;
    let words: [Word; 3] = [
        |_, _| vec![],
        |_, unknown| vec![unknown],
        // The original of this folder has made its events again.
        |ours, later| vec![ours, later],
    ];
    for word in words {
        let (mut site, partition, stood) = with_three_changes();
        let marker = site.agent.begin_reopen(0, false).unwrap();
        let ends = BTreeMap::from([(partition, word(stood[1], other(1)))]);
        site.agent.end_reopen(marker, Epoch::new([9; 16]), &ends).unwrap();
        assert_eq!(site.events(), []);
        let names = site.disk.list(&PathBuf::from("/agent")).unwrap();
        let parked = names.iter().find(|name| name.starts_with("parked-")).unwrap();
        let file = site.disk.open(&PathBuf::from("/agent").join(parked)).unwrap();
        let mut bytes = vec![0; file.length().unwrap().try_into().unwrap()];
        file.read_at(&mut bytes, 0).unwrap();
        let parked = String::from_utf8(bytes).unwrap();
        assert!(parked.ends_with("{\"key\":\"a\",\"row\":{\"k\":\"a\",\"v\":\"3\"}}\n"), "{parked}");
    }
}

#[test]
fn a_reopen_that_was_broken_off_before_anything_counted_leaves_nothing_open() {
    let (mut site, partition, stood) = with_three_changes();
    let marker = site.agent.begin_reopen(0, false).unwrap();
    has_image(&site, "2");
    let broken_off =
        EpochEnd { epoch: Epoch::new([8; 16]), next: Sequence::new(0), digest: Digest::new([1; 16]) };
    let ends = BTreeMap::from([(partition, vec![stood[1], broken_off])]);
    site.agent.end_reopen(marker, Epoch::new([9; 16]), &ends).unwrap();
    assert_eq!(site.events(), [("a".to_owned(), "u")]);
}

#[test]
fn images_from_the_state_cannot_be_made_again_from_an_outbox_that_began_empty() {
    let mut site = site();
    let marker = site.agent.begin_reopen(0, false).unwrap();
    has_image(&site, "2");
    site.agent.end_reopen(marker, Epoch::new([9; 16]), &BTreeMap::new()).unwrap();
    let lost = open(&site.disk, Box::new(MemoryImages::default()));
    assert!(matches!(lost, Err(AgentError::Folder(FolderError::Doubtful { .. }))));
}
