//! The sled store beside its twin, after closings, crashes and losses.

use super::*;
use crate::image::memory::MemoryImages;
use proptest::prelude::*;

/// Opens a store that was just closed.
fn open_unlocked(path: &Path) -> SledImages {
    loop {
        match SledImages::open(path) {
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
    let (images, aside) = SledImages::open_or_set_aside(&path).unwrap();
    assert!(!aside);
    images.apply(vec![ImageChange { key: "a".to_owned(), after: Some(vec![1]) }], 1).unwrap();
    images.sync().unwrap();
    drop(images);
    std::fs::write(path.join("conf"), b"not what sled wrote").unwrap();
    let (images, aside) = SledImages::open_or_set_aside(&path).unwrap();
    assert!(aside && images.count().unwrap() == 0);
    let names = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert!(names.iter().any(|name| name.to_string_lossy().starts_with("images.set-aside-")), "{names:?}");
}

#[test]
fn a_full_disk_is_told_from_a_store_that_is_damaged() {
    let io = |kind: std::io::ErrorKind| failed(Path::new("images"), &sled::Error::Io(kind.into()));
    assert!(matches!(io(std::io::ErrorKind::StorageFull), ImageError::Full { .. }));
    assert!(matches!(io(std::io::ErrorKind::InvalidData), ImageError::Store { .. }));
}

/// Steps that reach the store: changes of some keys, a fold, a crash.
#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<(String, Option<usize>)>),
    Sync,
    OpenAgain,
}

fn step() -> impl Strategy<Value = Step> {
    let change = ("[a-d]{1,2}", proptest::option::of(prop_oneof![0..9_usize, 1_000..9_000_usize]));
    prop_oneof![
        6 => proptest::collection::vec(change, 1..20).prop_map(Step::Apply),
        2 => Just(Step::Sync),
        1 => Just(Step::OpenAgain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_store_equals_its_twin(steps in proptest::collection::vec(step(), 1..30)) {
        let dir = tempfile::tempdir().unwrap();
        let mut sled = SledImages::open(dir.path()).unwrap();
        let memory = MemoryImages::default();
        for (position, step) in steps.into_iter().enumerate() {
            match step {
                Step::Apply(changes) => {
                    let changes: Vec<ImageChange> = changes
                        .into_iter()
                        .map(|(key, size)| ImageChange { key, after: size.map(|size| vec![7; size]) })
                        .collect();
                    let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
                    let position = u64::try_from(position).unwrap() + 1;
                    for store in [&sled as &dyn ImageStore, &memory] {
                        store.apply(changes.clone(), position).unwrap();
                    }
                    prop_assert_eq!(sled.get(&keys).unwrap(), memory.get(&keys).unwrap());
                }
                Step::Sync => sled.sync().unwrap(),
                Step::OpenAgain => {
                    sled.sync().unwrap();
                    drop(sled);
                    sled = open_unlocked(dir.path());
                }
            }
            prop_assert_eq!(sled.count().unwrap(), memory.count().unwrap());
        }
        let keys: Vec<String> = all(&memory).into_iter().map(|(key, _)| key).chain(["".to_owned(), "zz".to_owned()]).collect();
        let keys: Vec<&str> = keys.iter().flat_map(|key| [key.as_str(), key.as_str()]).rev().collect();
        prop_assert_eq!(sled.get(&keys).unwrap(), memory.get(&keys).unwrap());
        prop_assert_eq!(all(&sled), all(&memory));
        prop_assert_eq!(sled.position().unwrap(), memory.position().unwrap());
    }
}

#[test]
fn what_was_not_folded_is_lost_with_its_position() {
    let dir = tempfile::tempdir().unwrap();
    let images = SledImages::open(dir.path()).unwrap();
    let change = |key: &str| ImageChange { key: key.to_owned(), after: Some(vec![1]) };
    images.apply(vec![change("a")], 3).unwrap();
    images.sync().unwrap();
    images.apply(vec![change("b")], 5).unwrap();
    assert_eq!((images.position().unwrap(), images.get(&["a", "b"]).unwrap().len()), (5, 2));
    drop(images);
    let images = open_unlocked(dir.path());
    assert_eq!(images.position().unwrap(), 3);
    assert_eq!(images.get(&["a", "b"]).unwrap(), [Some(vec![1]), None]);
}

fn blobs(path: &Path) -> usize {
    std::fs::read_dir(path.join("blobs")).map_or(0, Iterator::count)
}

#[test]
fn pages_of_common_rows_are_never_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let images = SledImages::open(dir.path()).unwrap();
    for round in 0..6_u8 {
        let change = |number: u32| {
            let after = Some(vec![round; 250]);
            ImageChange { key: format!("{:06}", number * 7_919 % 100_003), after }
        };
        images.apply((0..20_000).map(change).collect(), u64::from(round)).unwrap();
        images.sync().unwrap();
    }
    assert_eq!((images.count().unwrap(), blobs(dir.path())), (20_000, 0));
}

#[test]
fn a_large_value_that_is_lost_is_an_error_or_an_older_one_with_an_older_position() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images");
    let images = SledImages::open(&path).unwrap();
    let change = |byte: u8| ImageChange { key: "a".to_owned(), after: Some(vec![byte; 400_000]) };
    images.apply(vec![change(1)], 1).unwrap();
    images.sync().unwrap();
    assert!(blobs(&path) > 0, "else the test shows nothing");
    images.apply(vec![change(2)], 2).unwrap();
    images.sync().unwrap();
    drop(images);
    drop(open_unlocked(&path));
    for blob in std::fs::read_dir(path.join("blobs")).unwrap() {
        std::fs::remove_file(blob.unwrap().path()).unwrap();
    }
    let (images, is_set_aside) = loop {
        match SledImages::open_or_set_aside(&path) {
            Err(ImageError::Locked { .. }) => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    assert!(is_set_aside, "the store is read when it is opened");
    assert_eq!(images.count().unwrap(), 0);
}

#[test]
fn a_store_of_an_older_format_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images");
    let images = SledImages::open(&path).unwrap();
    images.meta.insert(FORMAT_KEY, &1_u32.to_le_bytes()).unwrap();
    images.sync().unwrap();
    drop(images);
    let opened = || loop {
        match SledImages::open_or_set_aside(&path) {
            Err(ImageError::Locked { .. }) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    };
    assert!(opened().1, "it is set aside");
    assert!(!opened().1, "and one of this format is there");
}
