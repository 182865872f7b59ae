//! The file sink: rows and cursor in the sink's own segments, and files of exactly the present rows.
//!
//! Owns the folder: `segments/`, `<channel>.ndjson`, `<channel>.avro`, `manifest.json`. Each file is synced, then
//! renamed over the old one as a whole; the manifest comes last and gives each file's hash.

pub mod error;
mod rows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use platform::segments::checked_file::{self, Replacement};
use platform::segments::disk::Disk;
use platform::segments::{Options, SegmentStore};
use schemas::avro::container::{Header, put_block};
use schemas::avro::json;
use schemas::avro::names::column_name;
use schemas::avro::schema::AvroSchema;
use schemas::cursor::Cursor;
use schemas::digest::hash128;
use schemas::reconcile::texts;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::error::FileSinkError;
use self::rows::Rows;
use super::effect::Effect;
use super::error::SinkError;
use super::{Batch, See, Sink, StreamHead};

const KIND: [u8; 4] = *b"sink";
/// A replica's own records are as they were.
const OLDEST_FORMAT: u16 = 1;
/// Bytes of segments from which on they are rewritten with the present rows alone.
const COMPACT_ABOVE: u64 = 16 * 1024 * 1024;
/// Rows in one block of a written Avro file.
const BLOCK_ROWS: usize = 1_000;
/// Bytes of one write to a file, and of one record in a rewritten segment.
const WRITE_BYTES: usize = 256 * 1024;

/// What a manifest says: which files belong together, and how far they go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this form.
    pub format: u32,
    /// File name → its SHA-256.
    pub files: BTreeMap<String, String>,
    /// Present rows.
    pub rows: usize,
    /// Everything permitted up to here is in the files.
    pub cursor: Cursor,
}

#[derive(Debug, Serialize, Deserialize)]
struct SegmentHeader {
    derived: Option<serde_json::Value>,
}

/// A replica in files.
pub struct FileSink {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    stem: String,
    store: SegmentStore,
    /// The schema of the stream that is received.
    stream_schema: Option<AvroSchema>,
    /// The schema of the present rows: a new stream's schema only after the end of its snapshot.
    row_schema: Option<AvroSchema>,
    rows: Rows,
    changed: bool,
    /// The files as they were last written: name → hash.
    files: BTreeMap<String, String>,
    settled: Option<Cursor>,
}

impl FileSink {
    /// Opens the folder's replica, or begins one there. `stem` names its files.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, stem: &str) -> Result<Self, FileSinkError> {
        let options = Options { kind: KIND, oldest: OLDEST_FORMAT, segment_bytes: u64::MAX };
        let empty = encode_header(None);
        let (store, recovery) =
            SegmentStore::open(Arc::clone(&disk), &dir.join("segments"), options, &empty)?;
        if recovery.torn_bytes > 0 {
            tracing::info!(bytes = recovery.torn_bytes, "cut a torn write off the sink's segments");
        }
        let mut sink = Self {
            disk,
            dir: dir.to_owned(),
            stem: stem.to_owned(),
            store,
            stream_schema: None,
            row_schema: None,
            rows: Rows::default(),
            changed: false,
            files: BTreeMap::new(),
            settled: None,
        };
        sink.replay()?;
        Ok(sink)
    }

    /// Opens the folder's replica; damaged segments are renamed and kept, and the agent resyncs. Files of a newer
    /// version are refused.
    pub fn open_or_set_aside(disk: Arc<dyn Disk>, dir: &Path, stem: &str) -> Result<Self, FileSinkError> {
        match Self::open(Arc::clone(&disk), dir, stem) {
            Err(error) if error.is_damage() => {
                let aside = format!("segments.damaged-{}", platform::clock::now().get());
                tracing::error!(%error, dir = %dir.display(), %aside, "the segments of the replica are damaged; the agent does the repair: they are set aside and received anew");
                let from = dir.join("segments");
                disk.rename(&from, &dir.join(&aside))
                    .map_err(|error| FileSinkError::Io { path: from.display().to_string(), error })?;
                Self::open(disk, dir, stem)
            }
            opened => opened,
        }
    }

    /// Folds the segments; each was written under one stream's schema.
    fn replay(&mut self) -> Result<(), FileSinkError> {
        let segments: Vec<_> = self.store.segments().collect();
        for segment in segments {
            self.stream_schema = decode_header(&segment.header);
            let mut batches = Vec::new();
            let mut wrong = None;
            self.store.read(segment.first, |position, bytes| {
                if position >= segment.end {
                    return false;
                }
                match rows::decode(&bytes) {
                    Ok(batch) => batches.push(batch),
                    Err(error) => {
                        wrong = Some(FileSinkError::Record { position, problem: error.to_string() })
                    }
                }
                wrong.is_none()
            })?;
            if let Some(error) = wrong {
                return Err(error);
            }
            batches.iter().for_each(|batch| self.fold(batch));
        }
        if self.rows.cursor().is_none_or(|cursor| cursor.snapshot.is_none()) {
            // The cursor knows no progress of the snapshot: it begins anew.
            self.rows.forget_snapshot();
        }
        self.changed = self.rows.cursor.is_some();
        Ok(())
    }

    fn fold(&mut self, batch: &Batch) {
        if self.rows.apply(batch) {
            self.changed = true;
            self.row_schema.clone_from(&self.stream_schema);
        }
        if batch.cursor.is_some() && self.row_schema.is_none() {
            self.row_schema.clone_from(&self.stream_schema);
        }
    }

    /// The cursor that the files on disk reflect.
    pub const fn settled(&self) -> Option<&Cursor> {
        self.settled.as_ref()
    }

    fn write_ndjson(&self, derived: &AvroSchema, out: &mut HashedFile<'_>) -> Result<(), FileSinkError> {
        let name = |field: &str| column_name(field).unwrap_or_else(|| field.to_owned());
        let lines = json::JsonRows::of(derived, &name)?;
        let mut bytes = Vec::with_capacity(WRITE_BYTES);
        for image in self.rows.present.values() {
            lines.put(image, &mut bytes)?;
            if bytes.len() >= WRITE_BYTES {
                out.put(&bytes)?;
                bytes.clear();
            }
        }
        out.put(&bytes)
    }

    fn write_avro(&self, derived: &AvroSchema, out: &mut HashedFile<'_>) -> Result<(), FileSinkError> {
        let sync = hash128(derived.text().as_bytes()).to_be_bytes();
        let schema = derived.text().to_owned();
        out.put(&Header { metadata: BTreeMap::new(), schema, sync }.encode())?;
        let mut images = self.rows.present.values().peekable();
        while images.peek().is_some() {
            let block: Vec<&[u8]> = images.by_ref().take(BLOCK_ROWS).map(AsRef::as_ref).collect();
            let mut bytes = Vec::new();
            put_block(&mut bytes, block.len(), &block.concat(), &sync);
            out.put(&bytes)?;
        }
        Ok(())
    }

    /// Finds files that were altered or removed: they are written again when the sink settles.
    fn look_at_files(&mut self) -> Result<(), FileSinkError> {
        for (name, hash) in &self.files {
            let path = self.dir.join(name);
            let io = |error| FileSinkError::Io { path: path.display().to_string(), error };
            let is_whole =
                self.disk.exists(&path) && hash_of(self.disk.as_ref(), &path).map_err(io)? == *hash;
            if !is_whole {
                tracing::error!(file = %path.display(), "a file of the replica was altered or removed by another program; the agent writes it again");
                self.changed = true;
            }
        }
        Ok(())
    }

    fn write_files(&mut self) -> Result<(), FileSinkError> {
        let (Some(derived), Some(cursor)) = (self.row_schema.clone(), self.rows.cursor.clone()) else {
            return Ok(());
        };
        let mut files = BTreeMap::new();
        for extension in ["ndjson", "avro"] {
            let name = format!("{}.{extension}", self.stem);
            let mut out = HashedFile::begin(self.disk.as_ref(), &self.dir.join(&name))?;
            match extension {
                "ndjson" => self.write_ndjson(&derived, &mut out)?,
                _ => self.write_avro(&derived, &mut out)?,
            }
            files.insert(name, out.commit()?);
        }
        self.write_manifest(files, cursor)
    }

    fn write_manifest(
        &mut self,
        files: BTreeMap<String, String>,
        cursor: Cursor,
    ) -> Result<(), FileSinkError> {
        let manifest = Manifest { format: 1, files, rows: self.rows.present.len(), cursor };
        let path = self.dir.join("manifest.json");
        let io =
            |error: serde_json::Error| FileSinkError::Io { path: "manifest".to_owned(), error: error.into() };
        let text = serde_json::to_vec_pretty(&manifest).map_err(io)?;
        checked_file::replace(self.disk.as_ref(), &path, &text)?;
        self.files = manifest.files;
        self.settled = Some(manifest.cursor);
        Ok(())
    }

    /// Writes the present rows to a fresh segment, then drops the older segments.
    fn compact(&mut self) -> Result<(), FileSinkError> {
        let is_whole = self.rows.cursor.is_some() && !self.rows.is_in_snapshot();
        let steady = is_whole && self.row_schema == self.stream_schema;
        if self.store.bytes() < COMPACT_ABOVE || !steady {
            return Ok(());
        }
        let live: usize = self.rows.present.iter().map(|(key, image)| key.len() + image.len()).sum();
        if self.store.bytes() < 3 * u64::try_from(live).unwrap_or(u64::MAX) {
            return Ok(());
        }
        self.store.roll(&encode_header(self.row_schema.as_ref()))?;
        let begin = self.store.next();
        let freshness = self.rows.freshness;
        let mut effects = vec![Effect::BeginSnapshot];
        let mut bytes = 0;
        for (key, image) in &self.rows.present {
            bytes += key.len() + image.len();
            effects.push(Effect::Upsert { key: key.clone(), image: image.to_vec() });
            if bytes >= WRITE_BYTES {
                bytes = 0;
                let batch = Batch { effects: std::mem::take(&mut effects), cursor: None, freshness };
                self.store.append([rows::encode(&batch).as_slice()])?;
            }
        }
        effects.push(Effect::EndSnapshot);
        let batch = Batch { effects, cursor: self.rows.cursor.clone(), freshness };
        self.store.append([rows::encode(&batch).as_slice()])?;
        self.store.sync()?;
        Ok(self.store.drop_before(begin)?)
    }
}

#[async_trait]
impl Sink for FileSink {
    fn system(&self) -> &'static str {
        "file"
    }

    fn cursor(&self) -> Option<Cursor> {
        self.rows.cursor().cloned()
    }

    async fn begin(&mut self, head: &StreamHead) -> Result<(), SinkError> {
        if self.stream_schema.as_ref() != Some(&head.derived) {
            self.store.roll(&encode_header(Some(&head.derived)))?;
            self.stream_schema = Some(head.derived.clone());
        }
        Ok(())
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.store.append([rows::encode(batch).as_slice()])?;
        self.fold(batch);
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.store.sync()?;
        if self.changed {
            self.write_files()?;
            self.changed = false;
            return Ok(self.compact()?);
        }
        // Only the position moved: the files are still valid.
        match (&self.settled, &self.rows.cursor) {
            (Some(settled), Some(cursor)) if settled != cursor => {
                Ok(self.write_manifest(self.files.clone(), cursor.clone())?)
            }
            _ => Ok(()),
        }
    }

    async fn scan(&mut self, see: &mut See<'_>) -> Result<(), SinkError> {
        self.look_at_files()?;
        let Some(derived) = &self.row_schema else { return Ok(()) };
        for (key, image) in &self.rows.present {
            see(key, texts(derived, image)?);
        }
        Ok(())
    }

    fn row_count(&self) -> usize {
        self.rows.present.len()
    }
}

fn encode_header(derived: Option<&AvroSchema>) -> Vec<u8> {
    let header = SegmentHeader { derived: derived.map(|schema| schema.json().clone()) };
    serde_json::to_vec(&header).unwrap_or_default()
}

fn decode_header(bytes: &[u8]) -> Option<AvroSchema> {
    let header: SegmentHeader = serde_json::from_slice(bytes).ok()?;
    AvroSchema::from_json(header.derived?).ok()
}

/// A file's SHA-256.
fn hash_of(disk: &dyn Disk, path: &Path) -> std::io::Result<String> {
    let file = disk.open(path)?;
    let mut hash = Sha256::new();
    let mut at = 0;
    let mut buffer = vec![0; WRITE_BYTES];
    loop {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(buffer.get(..read).unwrap_or_default());
        at += u64::try_from(read).unwrap_or(u64::MAX);
    }
}

/// A replacement of a file, with its hash.
struct HashedFile<'d> {
    file: Replacement<'d>,
    hash: Sha256,
    buffer: Vec<u8>,
}

impl<'d> HashedFile<'d> {
    fn begin(disk: &'d dyn Disk, path: &Path) -> Result<Self, FileSinkError> {
        Ok(Self { file: Replacement::begin(disk, path)?, hash: Sha256::new(), buffer: Vec::new() })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), FileSinkError> {
        self.hash.update(bytes);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES {
            self.file.append(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Puts the file in place; returns its SHA-256.
    fn commit(mut self) -> Result<String, FileSinkError> {
        self.file.append(&self.buffer)?;
        drop(self.file.commit()?);
        Ok(hex::encode(self.hash.finalize()))
    }
}
