//! Images in sled: small values, a small cache, and nothing that cannot be rebuilt.
//!
//! Owns sled's traps: `flush` does not sync its file, so the file is synced here; a damaged file may cause a panic in
//! `open`, which is caught and reported.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use sled::Tree;

use super::{ImageChange, ImageError, ImageStore};

/// The version of the store's contents.
const FORMAT: u32 = 1;
const FORMAT_KEY: &[u8] = b"format";
const POSITION_KEY: &[u8] = b"position";
/// An agent must be light: a site's smallest machine has 512 MB.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Written to disk at least so often; keeps the cache from filling.
const FLUSH_EVERY_MS: u64 = 500;

/// Images in a sled folder.
pub struct SledImages {
    path: PathBuf,
    db: sled::Db,
    images: Tree,
    meta: Tree,
}

impl SledImages {
    /// Opens the folder, or begins one there.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let store = |problem: String| ImageError::Store { path: path.display().to_string(), problem };
        let wrong = |error: sled::Error| failed(path, &error);
        let config =
            sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(Some(FLUSH_EVERY_MS));
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let db = config.open()?;
            let images = db.open_tree("images")?;
            let meta = db.open_tree("meta")?;
            Ok::<_, sled::Error>((db, images, meta))
        }));
        platform::closed::seal(path);
        let (db, images, meta) = match opened {
            Ok(Ok(parts)) => parts,
            Ok(Err(error)) => return Err(wrong(error)),
            Err(_) => return Err(store("sled panicked while opening it; its file is damaged".to_owned())),
        };
        let found = meta.get(FORMAT_KEY).map_err(wrong)?;
        match found.as_deref().and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes) {
            Some(found) if found > FORMAT => {
                return Err(ImageError::NewerFormat { path: path.display().to_string(), found });
            }
            Some(_) => {}
            None => {
                meta.insert(FORMAT_KEY, &FORMAT.to_le_bytes()).map_err(wrong)?;
            }
        }
        Ok(Self { path: path.to_owned(), db, images, meta })
    }

    /// Opens the folder. One that cannot be opened is renamed and kept, and a new one begins; returns whether that
    /// happened.
    pub fn open_or_set_aside(path: &Path) -> Result<(Self, bool), ImageError> {
        let problem = match Self::open(path) {
            Ok(images) => return Ok((images, false)),
            Err(error @ (ImageError::NewerFormat { .. } | ImageError::Full { .. })) => return Err(error),
            Err(ImageError::Store { problem, .. }) => problem,
        };
        let name = format!("images.set-aside-{}", platform::clock::now().get());
        let aside = path.with_file_name(name);
        tracing::error!(path = %path.display(), aside = %aside.display(), %problem, "the image store is set aside and rebuilt");
        std::fs::rename(path, &aside).map_err(|error| ImageError::Store {
            path: path.display().to_string(),
            problem: format!("{problem}; and it cannot be set aside: {error}"),
        })?;
        Self::open(path).map(|images| (images, true))
    }

    fn wrong(&self) -> impl Fn(sled::Error) -> ImageError {
        |error| failed(&self.path, &error)
    }
}

fn failed(path: &Path, error: &sled::Error) -> ImageError {
    let path = path.display().to_string();
    match error {
        sled::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            ImageError::Full { path }
        }
        error => ImageError::Store { path, problem: error.to_string() },
    }
}

impl ImageStore for SledImages {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, ImageError> {
        Ok(self.images.get(key).map_err(self.wrong())?.map(|value| value.to_vec()))
    }

    fn apply(&self, changes: &[ImageChange], position: u64) -> Result<(), ImageError> {
        // Two trees, one after the other: the changes first. Applying them again after a crash changes nothing.
        let mut batch = sled::Batch::default();
        for change in changes {
            match &change.after {
                Some(after) => batch.insert(change.key.as_bytes(), after.as_slice()),
                None => batch.remove(change.key.as_bytes()),
            }
        }
        self.images.apply_batch(batch).map_err(self.wrong())?;
        self.meta.insert(POSITION_KEY, &position.to_le_bytes()).map_err(self.wrong())?;
        Ok(())
    }

    fn position(&self) -> Result<u64, ImageError> {
        let found = self.meta.get(POSITION_KEY).map_err(self.wrong())?;
        Ok(found.as_deref().and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes))
    }

    fn count(&self) -> Result<u64, ImageError> {
        Ok(u64::try_from(self.images.len()).unwrap_or(u64::MAX))
    }

    fn for_each(&self, each: &mut dyn FnMut(&str, &[u8]) -> bool) -> Result<(), ImageError> {
        for entry in self.images.iter() {
            let (key, image) = entry.map_err(self.wrong())?;
            let key = std::str::from_utf8(&key).map_err(|e| ImageError::Store {
                path: self.path.display().to_string(),
                problem: format!("a key is not text: {e}"),
            })?;
            if !each(key, &image) {
                break;
            }
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), ImageError> {
        self.images.clear().map_err(self.wrong())?;
        self.meta.remove(POSITION_KEY).map_err(self.wrong())?;
        Ok(())
    }

    fn sync(&self) -> Result<(), ImageError> {
        self.db.flush().map_err(self.wrong())?;
        let file = self.path.join("db");
        let synced = File::open(&file).and_then(|file| file.sync_data());
        synced.map_err(|error| failed(&file, &sled::Error::Io(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryImages;
    use super::*;
    use proptest::prelude::*;

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
        images.apply(&[ImageChange { key: "a".to_owned(), after: Some(vec![1]) }], 1).unwrap();
        images.sync().unwrap();
        drop(images);
        std::fs::write(path.join("conf"), b"not what sled wrote").unwrap();
        let (images, aside) = SledImages::open_or_set_aside(&path).unwrap();
        assert!(aside && images.count().unwrap() == 0);
        let names =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        assert!(
            names.iter().any(|name| name.to_string_lossy().starts_with("images.set-aside-")),
            "{names:?}"
        );
    }

    #[test]
    fn a_full_disk_is_told_from_a_store_that_is_damaged() {
        let io = |kind: std::io::ErrorKind| failed(Path::new("images"), &sled::Error::Io(kind.into()));
        assert!(matches!(io(std::io::ErrorKind::StorageFull), ImageError::Full { .. }));
        assert!(matches!(io(std::io::ErrorKind::InvalidData), ImageError::Store { .. }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn the_store_equals_its_twin(
            steps in proptest::collection::vec(("[a-d]{1,2}", proptest::option::of(0..9_u8)), 1..40),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let sled = SledImages::open(dir.path()).unwrap();
            let memory = MemoryImages::default();
            for (position, (key, after)) in steps.into_iter().enumerate() {
                let changes = [ImageChange { key: key.clone(), after: after.map(|byte| vec![byte]) }];
                let position = u64::try_from(position).unwrap() + 1;
                for store in [&sled as &dyn ImageStore, &memory] {
                    store.apply(&changes, position).unwrap();
                }
                prop_assert_eq!(sled.get(&key).unwrap(), memory.get(&key).unwrap());
            }
            prop_assert_eq!(all(&sled), all(&memory));
            prop_assert_eq!(sled.position().unwrap(), memory.position().unwrap());
            prop_assert_eq!(sled.count().unwrap(), memory.count().unwrap());
            sled.sync().unwrap();
        }
    }
}
