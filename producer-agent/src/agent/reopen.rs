//! Reopen: the one remedy for lost or doubtful images, a voided epoch, a restored folder (docs/protocol.md, 2).
//!
//! Owns the agent's half: it takes the images from the channel's own state, then makes every unacknowledged event again
//! on top of them, under a new epoch. A marker on disk names these events, for a new beginning after a crash.

use std::collections::BTreeMap;
use std::path::Path;

use platform::segments::checked_file;
use platform::segments::disk::Disk;
use schemas::avro::container::{Block, Decoder};
use schemas::avro::json::JsonRows;
use schemas::avro::names::column_name;
use schemas::avro::resolution::resolve_datum;
use schemas::avro::schema::AvroSchema;
use schemas::change::{BlockChange, ChangeCodec};
use schemas::epoch_table::EpochEnd;
use schemas::ids::{Epoch, Partition, Sequence};
use schemas::key::KeyDeriver;
use serde::{Deserialize, Serialize};

use super::emit::{Emitter, Origin, looked_at_now};
use super::{Agent, AgentError};
use crate::folder;
use crate::image::ImageChange;
use crate::outbox::{Content, lock};

const MARKER_KIND: &[u8; 4] = b"reop";
/// Bytes of the outbox read at once.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// A key, and its image after in our schema.
type Remade = (String, Option<Vec<u8>>);

/// The ends in the log of the epochs before a reopen's, by partition, the newest last.
pub type Ends = BTreeMap<Partition, Vec<EpochEnd>>;

/// Which entries of the outbox a reopen makes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The first unacknowledged entry.
    pub from: u64,
    /// The position after the last entry of the old epoch.
    pub until: u64,
    /// Whether they are parked for a person instead: the folder was restored, and they may be old.
    pub park: bool,
}

/// The end of one of our epochs in a partition.
#[derive(Debug, Clone, Copy)]
struct EndOf {
    /// Every entry below this counted.
    at: Option<Sequence>,
    /// Whether the other entries may have counted too, or may be older than entries that did.
    is_open: bool,
}

fn marker_path(dir: &Path) -> std::path::PathBuf {
    dir.join("reopening")
}

/// The marker of an unfinished reopen.
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
    #[error("the channel's state: {0}")]
    Container(#[from] schemas::avro::container::ContainerError),
    #[error("the channel's state: {0}")]
    Schema(#[from] schemas::avro::schema::SchemaError),
    #[error("the channel's state ended without its end mark")]
    Cut,
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

    /// Checks for the state's end mark.
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
    /// Begins a reopen: writes down which events will be made again, and clears the images. An unfinished earlier
    /// reopen is continued as it was begun.
    pub fn begin_reopen(&self, acknowledged: u64, park: bool) -> Result<Marker, AgentError> {
        let marker = match marker(self.disk.as_ref(), &self.dir)? {
            Some(earlier) => earlier,
            None => Marker { from: acknowledged, until: lock(&self.outbox).next_position(), park },
        };
        self.write_marker(marker)?;
        self.images.clear()?;
        Ok(marker)
    }

    fn write_marker(&self, marker: Marker) -> Result<(), AgentError> {
        let bytes = serde_json::to_vec(&marker).unwrap_or_default();
        Ok(checked_file::write(self.disk.as_ref(), &marker_path(&self.dir), MARKER_KIND, &bytes)?)
    }

    fn take_state(&self, schema: &AvroSchema, block: &Block) -> Result<(), AgentError> {
        let keys = KeyDeriver::new(&self.channel.key, self.schema())?;
        let mut images = Vec::with_capacity(block.count);
        let mut located = schemas::avro::located::Ends::default();
        let mut cursor = schemas::avro::binary::Cursor::new(&block.datums);
        for _ in 0..block.count {
            let start = cursor.at();
            schema.layout().skip(&mut cursor)?;
            let image = match schema == self.schema() {
                true => cursor.since(start).to_vec(),
                false => resolve_datum(schema, self.schema(), cursor.since(start))?,
            };
            let key = keys.derive(&image, &mut located)?.into_string();
            images.push((key, image));
        }
        let changes = images.iter().map(|(key, image)| ImageChange { key, after: Some(image) });
        Ok(self.images.apply(&changes.collect::<Vec<_>>(), 0)?)
    }

    /// The events that a reopen makes again, and whether the log leaves it open which of them count.
    fn events_to_remake(&self, marker: Marker, ends: &Ends) -> Result<(Vec<Remade>, bool), AgentError> {
        let mut events = Vec::new();
        let mut known: BTreeMap<(Epoch, Partition), EndOf> = BTreeMap::new();
        let mut at = marker.from.max(lock(&self.outbox).first_position());
        while at < marker.until {
            let window = lock(&self.outbox).read(at, WINDOW_BYTES)?;
            let codec = ChangeCodec::from_batch_schema(&window.batch_schema)?;
            let Some(last) = window.entries.last().map(|stored| stored.position) else { break };
            for stored in window.entries.into_iter().filter(|stored| stored.position < marker.until) {
                let partition = stored.entry.partition;
                let chain = (window.epoch, partition);
                let end = match known.get(&chain) {
                    Some(end) => *end,
                    None => *known.entry(chain).or_insert(self.end_of(window.epoch, partition, ends)?),
                };
                if end.at.is_some_and(|end| stored.entry.sequence < end) {
                    continue;
                }
                let Content::Block(block) = &stored.entry.content else { continue };
                for BlockChange { change, .. } in codec.decode_block(block.datum())? {
                    let resolve = |image| resolve_datum(codec.subject(), self.schema(), image);
                    events.push((change.key.to_owned(), change.after.map(resolve).transpose()?));
                }
            }
            at = last + 1;
        }
        Ok((events, known.values().any(|end| end.is_open)))
    }

    /// Finds where one of our epochs ended in a partition, by the log.
    fn end_of(&self, epoch: Epoch, partition: Partition, ends: &Ends) -> Result<EndOf, AgentError> {
        let mut since = ends.get(&partition).into_iter().flatten().skip_while(|ended| ended.epoch != epoch);
        let Some(ended) = since.next() else { return Ok(EndOf { at: None, is_open: true }) };
        let is_known = lock(&self.outbox).stood_at(partition, ended)?;
        // Events that counted in a later epoch may be these very events, made again by the folder that this one is a
        // copy of, and younger ones of their keys.
        let is_last = since.all(|later| later.next == Sequence::new(0));
        Ok(EndOf { at: is_known.then_some(ended.next), is_open: !is_known || !is_last })
    }

    /// Ends a reopen: begins the new epoch in the outbox, and makes again, on top of the images, every event that had
    /// not counted when the log took the openings. If more may have counted, all are parked: made again, they could be
    /// older than the log's events.
    pub fn end_reopen(&mut self, marker: Marker, epoch: Epoch, ends: &Ends) -> Result<u64, AgentError> {
        let (events, is_open) = self.events_to_remake(marker, ends)?;
        let start = {
            let mut outbox = lock(&self.outbox);
            outbox.begin_epoch(epoch)?;
            outbox.next_position()
        };
        self.images.apply(&[], start)?;
        let mut emitter = Emitter::new(self, Origin::REOPEN);
        if marker.park || is_open {
            self.park_events(&events)?;
        } else {
            for (key, after) in &events {
                emitter.put(ImageChange { key, after: after.as_deref() }, 0)?;
            }
        }
        // An empty register gets no freshness: in a new log, its rows may just not be there yet.
        let is_there = emitter.flush()? || self.images.count()? > 0;
        emitter.finish(is_there.then(looked_at_now))?;
        let position = self.images.position()?;
        self.images.sync()?;
        self.appended.send_replace(lock(&self.outbox).next_position());
        folder::claim(self.disk.as_ref(), &self.dir, &self.channel, self.log_id, position)?;
        // From here on a crash must repeat the new events: the old ones are dropped.
        let until = lock(&self.outbox).next_position();
        self.write_marker(Marker { from: start, until, park: false })?;
        lock(&self.outbox).drop_before(start)?;
        let path = marker_path(&self.dir);
        let io = |error| platform::segments::SegmentError::Io { path: path.clone(), error };
        self.disk.remove(&path).and_then(|()| self.disk.sync_dir(&self.dir)).map_err(io)?;
        Ok(start)
    }

    /// Parks events in a file, one JSON object a line, for a person to check: the key, and the row that it should have, or
    /// null where the row was deleted.
    fn park_events(&self, events: &[Remade]) -> Result<(), AgentError> {
        if events.is_empty() {
            return Ok(());
        }
        let name = |field: &str| column_name(field).unwrap_or_else(|| field.to_owned());
        let rows = JsonRows::of(self.schema(), &name)?;
        let mut lines = Vec::new();
        for (key, after) in events {
            lines.extend_from_slice(
                format!("{{\"key\":{},\"row\":", serde_json::Value::from(key.as_str())).as_bytes(),
            );
            match after {
                Some(after) => {
                    rows.put(after, &mut lines)?;
                    lines.truncate(lines.trim_ascii_end().len());
                }
                None => lines.extend_from_slice(b"null"),
            }
            lines.extend_from_slice(b"}\n");
        }
        let file = self.dir.join(format!("parked-{}.ndjson", platform::clock::now().get()));
        checked_file::replace(self.disk.as_ref(), &file, &lines)?;
        tracing::error!(count = events.len(), file = %file.display(), "these events may be in the log already, or be older than what is there: they are not sent, but parked in this file; compare the rows of its keys with the register");
        Ok(())
    }
}
