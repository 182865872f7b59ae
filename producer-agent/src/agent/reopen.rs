//! Reopen: the one remedy for lost or doubtful images, a voided epoch, a restored folder (protocols, 2).
//!
//! Owns the agent's half: images := the channel's own state, then every unacknowledged event made again on top of
//! them under a new epoch. A marker on disk says from where, so that a crash in the middle begins it anew.

use std::path::Path;

use platform::segments::checked_file;
use platform::segments::disk::Disk;
use schemas::avro::container::{Block, Decoder};
use schemas::avro::resolution::resolve_datum;
use schemas::avro::schema::AvroSchema;
use schemas::ids::Epoch;
use schemas::key::KeyDeriver;
use serde::{Deserialize, Serialize};

use super::emit::Emitter;
use super::{Agent, AgentError, GROUP};
use crate::image::Fold;
use crate::outbox::{Content, lock};

const MARKER_KIND: &[u8; 4] = b"reop";

/// Which entries of the outbox a reopen makes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The first that is not acknowledged.
    pub from: u64,
    /// The position after the last one of the old epoch.
    pub until: u64,
}

fn marker_path(dir: &Path) -> std::path::PathBuf {
    dir.join("reopening")
}

/// The marker of a reopen that did not come to its end.
pub(super) fn marker(disk: &dyn Disk, dir: &Path) -> Result<Option<Marker>, AgentError> {
    let bytes = checked_file::read(disk, &marker_path(dir), MARKER_KIND)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// The channel's state as its owner reads it: images of one schema, ended by an empty block.
#[derive(Debug)]
pub struct OwnState {
    decoder: Decoder,
    schema: Option<AvroSchema>,
    ended: bool,
}

/// Why a channel's state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Its container.
    #[error("the channel's state: {0}")]
    Container(#[from] schemas::avro::container::ContainerError),
    /// Its schema.
    #[error("the channel's state: {0}")]
    Schema(#[from] schemas::avro::schema::SchemaError),
    /// It ended early.
    #[error("the channel's state ended without its end mark")]
    Cut,
    /// The agent.
    #[error(transparent)]
    Agent(#[from] Box<AgentError>),
}

impl From<AgentError> for StateError {
    fn from(error: AgentError) -> Self {
        Self::Agent(Box::new(error))
    }
}

impl OwnState {
    /// Before the first byte.
    pub fn new() -> Self {
        Self { decoder: Decoder::new(), schema: None, ended: false }
    }

    /// Takes bytes as they come, and puts whole blocks into the agent's images.
    pub fn push(&mut self, bytes: &[u8], agent: &Agent) -> Result<(), StateError> {
        self.decoder.push(bytes);
        if self.schema.is_none()
            && let Some(header) = self.decoder.header()?
        {
            self.schema = Some(AvroSchema::parse(&header.schema)?);
        }
        let Some(schema) = &self.schema else { return Ok(()) };
        while let Some(block) = self.decoder.block()? {
            self.ended = block.count == 0;
            agent.take_state(schema, &block)?;
        }
        Ok(())
    }

    /// All bytes have come.
    pub fn finish(&self) -> Result<(), StateError> {
        self.decoder.finish()?;
        if self.ended { Ok(()) } else { Err(StateError::Cut) }
    }
}

impl Default for OwnState {
    fn default() -> Self {
        Self::new()
    }
}

impl Agent {
    /// Begins a reopen: writes down what will be made again, and forgets the images.
    pub fn begin_reopen(&self, acknowledged: u64) -> Result<Marker, AgentError> {
        let marker = match marker(self.disk.as_ref(), &self.dir)? {
            Some(earlier) => earlier,
            None => Marker { from: acknowledged, until: lock(&self.outbox).next_position() },
        };
        let bytes = serde_json::to_vec(&marker).unwrap_or_default();
        checked_file::write(self.disk.as_ref(), &marker_path(&self.dir), MARKER_KIND, &bytes)?;
        self.images.clear()?;
        Ok(marker)
    }

    fn take_state(&self, schema: &AvroSchema, block: &Block) -> Result<(), AgentError> {
        let fit = |error| AgentError::Fit { file: "the channel's state".to_owned(), error };
        let keys = KeyDeriver::new(&self.channel.key, self.schema()).map_err(|e| fit(e.into()))?;
        let mut folds = Vec::with_capacity(block.count);
        let mut cursor = schemas::avro::binary::Cursor::new(&block.datums);
        for _ in 0..block.count {
            let start = cursor.at();
            schema.layout().skip(&mut cursor)?;
            let image = match schema == self.schema() {
                true => cursor.since(start).to_vec(),
                false => resolve_datum(schema, self.schema(), cursor.since(start))?,
            };
            let key = keys.derive(&image).map_err(|e| fit(e.into()))?;
            folds.push(Fold { key: key.as_str().to_owned(), after: Some(image) });
        }
        for group in folds.chunks(GROUP) {
            self.images.apply(group, 0)?;
        }
        Ok(())
    }

    /// Ends a reopen: a new epoch in the outbox, and every unacknowledged event again, on top of the images. With
    /// `park` they are left to a person instead: the folder was restored, and they may be old.
    pub fn end_reopen(&mut self, marker: Marker, epoch: Epoch, park: bool) -> Result<u64, AgentError> {
        let mut events = Vec::new();
        lock(&self.outbox).for_each(marker.from, &mut |placed| {
            let wanted = placed.position < marker.until;
            if let (true, Content::Change { key, datum }) = (wanted, placed.entry.content) {
                events.push((key, datum));
            }
            wanted
        })?;
        let start = {
            let mut outbox = lock(&self.outbox);
            outbox.begin_epoch(epoch)?;
            outbox.next_position()
        };
        self.images.apply(&[], start)?;
        if park {
            self.park_events(&events)?;
        } else {
            let mut emitter = Emitter::new(self, "reopen");
            for (key, datum) in events {
                let change = self.codec.decode_all(&datum)?;
                emitter.put(&key, change.after.map(<[u8]>::to_vec), 0)?;
            }
            emitter.finish()?;
        }
        let position = self.images.position()?;
        self.sync_images(position)?;
        self.appended.send_replace(lock(&self.outbox).next_position());
        lock(&self.outbox).drop_before(start)?;
        let path = marker_path(&self.dir);
        self.disk.remove(&path).map_err(|error| platform::segments::SegmentError::Io { path, error })?;
        Ok(start)
    }

    /// Events of a restored folder, one JSON object a line, for a person to look at.
    fn park_events(&self, events: &[(String, Vec<u8>)]) -> Result<(), AgentError> {
        if events.is_empty() {
            return Ok(());
        }
        let name = format!("parked-{}.ndjson", platform::clock::now().get());
        let lines: Vec<String> = events
            .iter()
            .map(|(key, datum)| serde_json::json!({"key": key, "event": hex::encode(datum)}).to_string())
            .collect();
        tracing::error!(count = events.len(), file = %name, "parked the unacknowledged events of a restored folder");
        Ok(checked_file::replace(self.disk.as_ref(), &self.dir.join(name), lines.join("\n").as_bytes())?)
    }
}
