//! A provider's agent over a disk in memory: takes real files, and gives the rows that its events make.
//!
//! Owns the folding of events into rows, by code of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use platform::segments::memory_disk::MemoryDisk;
use producer_agent::agent::{Agent, AgentError, Opening};
use producer_agent::image::memory::MemoryImages;
use producer_agent::outbox::{Content, lock};
use producer_agent::source::file::source::FileSource;
use producer_agent::source::format::TableFormat;
use producer_agent::take::guard::Guard;
use producer_agent::take::report::FileReport;
use schemas::avro::json;
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::ids::LogId;
use serde_json::{Value as Json, json};

/// Rows by key, as people see them.
pub(crate) type Rows = BTreeMap<String, Json>;

pub(crate) struct Provider {
    pub(crate) files: tempfile::TempDir,
    pub(crate) agent: Agent,
    schema: AvroSchema,
    format: TableFormat,
    rows: Rows,
    /// The position in the outbox up to which the rows are folded.
    folded: u64,
}

/// Holds nothing: the tests look at what is read.
const OPEN: Guard = Guard { max_delete_percent: 100, max_change_percent: 100, max_parked_percent: None };

/// A subject's schema from fields such as `id:string amount:{…}`, as JSON of name and type.
pub(crate) fn schema(fields: &Json) -> Json {
    let fields = fields.as_object().unwrap().iter().map(|(name, kind)| json!({"name": name, "type": kind}));
    json!({"type": "record", "name": "test.Row", "fields": fields.collect::<Vec<_>>()})
}

impl Provider {
    pub(crate) fn new(schema: &Json, key: &[&str], format: &str) -> Self {
        let channel = json!({"name": "c", "kind": "distribution", "owner": "1", "partitions": 2,
            "key": {"fields": key}, "schema": schema});
        let schema = AvroSchema::from_json(schema.clone()).unwrap();
        let agent = Agent::open(Opening {
            dir: PathBuf::from("/agent"),
            disk: Arc::new(MemoryDisk::new()),
            images: Box::new(MemoryImages::default()),
            channel: serde_json::from_value(channel).unwrap(),
            log_id: LogId::new([7; 16]),
            schema: schema.clone(),
        });
        let format: TableFormat = platform::config::parse(Path::new("format"), format).unwrap();
        format.check().unwrap();
        let agent = agent.unwrap();
        let files = tempfile::tempdir().unwrap();
        Self { files, agent, schema, format, rows: Rows::new(), folded: 0 }
    }

    /// Sets the format of later files.
    pub(crate) fn reads(&mut self, format: &str) {
        self.format = platform::config::parse(Path::new("format"), format).unwrap();
    }

    /// Takes bytes under a name.
    pub(crate) fn take(&mut self, name: &str, bytes: &[u8]) -> Result<FileReport, AgentError> {
        let path = self.files.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        self.take_path(&path)
    }

    pub(crate) fn take_path(&mut self, path: &Path) -> Result<FileReport, AgentError> {
        let source = FileSource::open(path, &self.format).map_err(AgentError::from);
        let report = source.and_then(|source| self.agent.take(&source, OPEN, true));
        self.fold();
        report
    }

    /// The rows that all events make.
    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    fn fold(&mut self) {
        let codec = ChangeCodec::new(&self.schema).unwrap();
        let outbox = self.agent.outbox();
        lock(&outbox)
            .for_each(self.folded, &mut |placed| {
                self.folded = placed.position + 1;
                let block = match &placed.entry.content {
                    Content::Block(block) => codec.decode_block(block.datum()).unwrap(),
                    Content::Freshness(_) => Vec::new(),
                };
                for change in block.into_iter().map(|found| found.change) {
                    let key = change.key.to_owned();
                    match change.after {
                        Some(image) => {
                            let value = json::decode(&self.schema, image).unwrap();
                            let row = json::render(self.schema.parsed(), &value, &str::to_owned);
                            self.rows.insert(key, row);
                        }
                        None => drop(self.rows.remove(&key)),
                    }
                }
                true
            })
            .unwrap();
    }
}
