//! The store beside its twin, after closings, crashes and losses.

use platform::segments::memory_disk::MemoryDisk;
use proptest::prelude::*;

use super::*;
use crate::image::memory::MemoryImages;

/// Opens a store that was just closed.
fn open_unlocked(path: &Path) -> DiskImages {
    loop {
        match DiskImages::open(path) {
            Err(ImageError::Locked { .. }) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

fn all(store: &dyn ImageStore) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    store
        .for_each(&mut |key, image| {
            found.push((key.to_owned(), image.to_vec()));
            true
        })
        .unwrap();
    found
}

#[test]
fn a_store_that_cannot_be_opened_is_set_aside_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images");
    let (images, aside) = DiskImages::open_or_set_aside(&path).unwrap();
    assert!(!aside);
    put(&images, &["a"], 1, 1, 1);
    images.sync().unwrap();
    drop(images);
    std::fs::write(path.join("conf"), b"not what sled wrote").unwrap();
    let (images, aside) = DiskImages::open_or_set_aside(&path).unwrap();
    assert!(aside && images.count().unwrap() == 0);
    let names = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert!(names.iter().any(|name| name.to_string_lossy().starts_with("images.set-aside-")), "{names:?}");
}

/// Steps that reach the store: changes of some keys, a fold, closing, a crash.
#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<(String, Option<usize>)>),
    Fold,
    FoldBehind,
    SyncBehind,
    Sync,
    OpenAgain,
    /// Of the bytes that are not synced, a file keeps so many hundredths.
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let change = ("[a-d]{1,2}", proptest::option::of(prop_oneof![0..9_usize, 1_000..9_000_usize]));
    prop_oneof![
        6 => proptest::collection::vec(change, 1..20).prop_map(Step::Apply),
        2 => Just(Step::Fold),
        2 => Just(Step::FoldBehind),
        2 => Just(Step::SyncBehind),
        2 => Just(Step::Sync),
        1 => Just(Step::OpenAgain),
        1 => (0..=100_usize).prop_map(Step::Crash),
    ]
}

/// A file of a few pages, so that files fill and are cleaned.
const SMALL: u64 = 20_000;

/// A store whose pages are on a disk that can crash.
fn open_on(disk: &MemoryDisk, path: &Path) -> DiskImages {
    loop {
        match DiskImages::open_on(Arc::new(disk.clone()), path, SMALL) {
            Err(ImageError::Locked { .. }) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// Keys with their images, or without one, and the outbox position behind them.
type Applied = (Vec<(String, Option<Vec<u8>>)>, u64);

fn apply(store: &dyn ImageStore, (changes, position): &Applied) {
    let changes: Vec<_> =
        changes.iter().map(|(key, after)| ImageChange { key, after: after.as_deref() }).collect();
    store.apply(&changes, *position).unwrap();
}

/// Applies what a crash took from the store again, as the outbox would.
fn catch_up(store: &DiskImages, all: &[Applied]) {
    let from = store.position().unwrap();
    all.iter().filter(|(_, position)| *position > from).for_each(|applied| apply(store, applied));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_store_equals_its_twin(steps in proptest::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let disk = MemoryDisk::new();
        let mut store = open_on(&disk, dir.path());
        let memory = MemoryImages::default();
        let mut all_applied: Vec<Applied> = Vec::new();
        for (position, step) in (1..).zip(steps) {
            match step {
                Step::Apply(changes) => {
                    let changes = changes.into_iter().map(|(key, size)| (key, size.map(|size| vec![7; size])));
                    let applied = (changes.collect(), position);
                    apply(&store, &applied);
                    apply(&memory, &applied);
                    let keys: Vec<&str> = applied.0.iter().map(|(key, _)| key.as_str()).collect();
                    prop_assert_eq!(store.get(&keys).unwrap(), memory.get(&keys).unwrap());
                    all_applied.push(applied);
                }
                Step::Fold => store.lock().fold().unwrap(),
                Step::FoldBehind => store.lock().fold_behind().unwrap(),
                Step::SyncBehind => store.sync_behind().unwrap(),
                Step::Sync => store.sync().unwrap(),
                Step::OpenAgain => {
                    store.sync().unwrap();
                    drop(store);
                    store = open_on(&disk, dir.path());
                }
                Step::Crash(kept) => {
                    let committed = store.synced();
                    drop(store);
                    disk.crash(|unsynced| unsynced * kept / 100);
                    store = open_on(&disk, dir.path());
                    prop_assert_eq!(store.position().unwrap(), committed.load(Ordering::Acquire));
                    catch_up(&store, &all_applied);
                }
            }
            prop_assert_eq!(store.count().unwrap(), memory.count().unwrap());
        }
        let keys: Vec<String> = all(&memory).into_iter().map(|(key, _)| key).chain(["".to_owned(), "zz".to_owned()]).collect();
        let keys: Vec<&str> = keys.iter().flat_map(|key| [key.as_str(), key.as_str()]).rev().collect();
        prop_assert_eq!(store.get(&keys).unwrap(), memory.get(&keys).unwrap());
        prop_assert_eq!(all(&store), all(&memory));
        prop_assert_eq!(store.position().unwrap(), memory.position().unwrap());
    }
}

/// Gives all keys an image of so many equal bytes.
fn put(store: &DiskImages, keys: &[&str], byte: u8, size: usize, position: u64) {
    let image = vec![byte; size];
    let changes: Vec<_> = keys.iter().map(|key| ImageChange { key, after: Some(&image) }).collect();
    store.apply(&changes, position).unwrap();
}

/// Changes these rows of a register whose keys have no order.
fn change_rows(store: &DiskImages, rows: impl Iterator<Item = u64>, round: u8) {
    let keys: Vec<String> = rows.map(|number| format!("{:06}", number * 7_919 % 100_003)).collect();
    put(store, &keys.iter().map(String::as_str).collect::<Vec<_>>(), round, 250, u64::from(round));
    store.sync().unwrap();
}

/// A register in which each row has changed some times.
fn often_changed(store: &DiskImages, rows: u64, rounds: u8) {
    for round in 1..=rounds {
        change_rows(store, 0..rows, round);
    }
}

fn page_bytes(path: &Path) -> u64 {
    let files = std::fs::read_dir(path.join("pages")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn files_that_are_hardly_used_are_cleaned_and_all_images_stay() {
    let dir = tempfile::tempdir().unwrap();
    let images = DiskImages::open(dir.path()).unwrap();
    often_changed(&images, 40_000, 8);
    let used = 40_000 * 260;
    assert!(page_bytes(dir.path()) > used, "the first is {used}");
    assert!(page_bytes(dir.path()) < 6 * used, "{} bytes for {used}", page_bytes(dir.path()));
    // A tenth changes each time, so that every file keeps some pages.
    for round in 9..40 {
        change_rows(&images, (0..40_000).filter(|number| number % 10 == u64::from(round) % 10), round);
    }
    assert!(page_bytes(dir.path()) < 6 * used, "{} bytes for {used}", page_bytes(dir.path()));
    drop(images);
    let images = open_unlocked(dir.path());
    assert_eq!((images.count().unwrap(), images.position().unwrap()), (40_000, 39));
    // sled would not sync them.
    let blobs = std::fs::read_dir(dir.path().join("blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0, "no value of sled's is a file of its own");
    assert!(all(&images).iter().all(|(_, image)| image.len() == 250 && image[0] >= 30));
}

#[test]
fn a_page_that_is_damaged_is_found_when_the_store_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images");
    let images = DiskImages::open(&path).unwrap();
    often_changed(&images, 100, 1);
    drop(images);
    let file = path.join("pages").join("0000000000000000");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert!(open_or_set_aside(&path).1, "it is set aside");
    let images = open_unlocked(&path);
    often_changed(&images, 100, 1);
    drop(images);
    std::fs::remove_file(file).unwrap();
    assert!(open_or_set_aside(&path).1, "a file that is gone is found, too");
}

#[test]
fn an_index_that_has_lost_an_entry_is_found_when_the_store_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images");
    let images = DiskImages::open(&path).unwrap();
    often_changed(&images, 100, 1);
    images.lock().pages().index().lose_an_entry();
    drop(images);
    assert!(open_or_set_aside(&path).1, "it is set aside");
}

#[test]
fn a_full_disk_is_told_from_damage_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::new();
    let images = open_on(&disk, dir.path());
    put(&images, &["a"], 1, 5_000, 1);
    images.sync().unwrap();
    disk.set_room(Some(2_000));
    put(&images, &["a", "b"], 2, 5_000, 2);
    assert!(matches!(images.sync(), Err(ImageError::Full { .. })));
    disk.set_room(None);
    images.sync().unwrap();
    drop(images);
    let images = open_on(&disk, dir.path());
    assert_eq!(images.position().unwrap(), 2);
    assert_eq!(images.get(&["a", "b"]).unwrap(), [Some(vec![2; 5_000]), Some(vec![2; 5_000])]);
}

#[test]
fn what_a_full_disk_left_is_given_back_when_the_store_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::new();
    let pages = dir.path().join("pages");
    let mut left = Vec::new();
    for _ in 0..5 {
        let images = open_on(&disk, dir.path());
        disk.set_room(Some(60_000));
        let keys: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        put(&images, &keys.iter().map(String::as_str).collect::<Vec<_>>(), 1, 4_000, 1);
        assert!(matches!(images.sync(), Err(ImageError::Full { .. })));
        left.push(disk.list(&pages).unwrap().len());
    }
    assert!(left[0] > 0 && left.iter().all(|files| *files == left[0]), "{left:?}");
}

#[test]
fn what_was_not_committed_is_lost_with_its_position() {
    let dir = tempfile::tempdir().unwrap();
    let images = DiskImages::open(dir.path()).unwrap();
    put(&images, &["a"], 1, 1, 3);
    images.sync().unwrap();
    put(&images, &["b"], 1, 1, 5);
    assert_eq!((images.count().unwrap(), images.position().unwrap()), (2, 5));
    drop(images);
    let images = open_unlocked(dir.path());
    assert_eq!(images.position().unwrap(), 3);
    assert_eq!(images.get(&["a", "b"]).unwrap(), [Some(vec![1]), None]);
}

#[test]
fn a_cleared_store_is_empty_and_takes_images_again() {
    let dir = tempfile::tempdir().unwrap();
    let images = DiskImages::open(dir.path()).unwrap();
    often_changed(&images, 100, 2);
    images.clear().unwrap();
    assert_eq!((images.count().unwrap(), images.position().unwrap()), (0, 0));
    drop(images);
    let images = open_unlocked(dir.path());
    assert_eq!((images.count().unwrap(), images.position().unwrap()), (0, 0));
    often_changed(&images, 100, 1);
    assert_eq!(images.count().unwrap(), 100);
}

fn open_or_set_aside(path: &Path) -> (DiskImages, bool) {
    loop {
        match DiskImages::open_or_set_aside(path) {
            Err(ImageError::Locked { .. }) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

#[test]
fn a_store_of_an_older_format_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images");
    let images = DiskImages::open(&path).unwrap();
    images.lock().pages().index().set_format(2);
    drop(images);
    assert!(open_or_set_aside(&path).1, "it is set aside");
    assert!(!open_or_set_aside(&path).1, "and one of this format is there");
    open_unlocked(&path).lock().pages().index().set_format(4);
    let newer = loop {
        match DiskImages::open_or_set_aside(&path) {
            Err(ImageError::Locked { .. }) => std::thread::yield_now(),
            opened => break opened.err(),
        }
    };
    assert!(matches!(newer, Some(ImageError::NewerFormat { found: 4, .. })), "{newer:?}");
}
