//! A consumer's site: the consumer agent on its file sink, and a sink around it that checks every batch.
//!
//! Owns the checks of what arrives: fields, rows, order, repeats, and the replica after each batch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use consumer_agent::agent::Agent;
use consumer_agent::phase::Phase;
use consumer_agent::sink::effect::Effect;
use consumer_agent::sink::error::SinkError;
use consumer_agent::sink::file::FileSink;
use consumer_agent::sink::{Batch, See, Sink, StreamHead};
use platform::identity::Identity;
use platform::segments::memory_disk::MemoryDisk;
use schemas::avro::schema::AvroSchema;
use schemas::cursor::{Cursor, Place, in_words};
use schemas::ids::AgreementNumber;
use schemas::per_partition::PerPartition;
use schemas::promise::Promise;
use schemas::reconcile::texts;
use schemas::time::Millis;

use crate::oracle::Oracle;
use crate::register::{Row, Rows, territory_of};

/// The fields that an agreement names, in the schema's order.
const FIELDS: [&str; 3] = ["k", "t", "n"];
/// How often a replica is compared with its part of the register.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// How often snapshots may end at the same places: no fault here breaks so many of them while nothing moves.
const PASSES_IN_PLACE: u32 = 10;

/// The progress of a site.
#[derive(Debug, Clone, Default)]
pub struct Reached {
    /// The cursor of its replica.
    pub cursor: Option<Cursor>,
    /// Its first cursor in the log under the agreement's present version.
    pub first: Option<Cursor>,
    /// The time up to which the provider has checked its source.
    pub freshness: Option<Millis>,
    pub rows: Rows,
    pub has_ended: bool,
    /// Comparisons that found it equal.
    pub compared: u64,
}

pub struct Consumer {
    pub number: AgreementNumber,
    /// The topic of its channel's log.
    pub topic: String,
    pub disk: MemoryDisk,
    identity: Identity,
    oracle: Arc<Oracle>,
    reached: Mutex<Reached>,
}

impl Consumer {
    /// A site with an empty disk.
    pub fn new(number: AgreementNumber, topic: String, identity: Identity, oracle: Arc<Oracle>) -> Self {
        let disk = MemoryDisk::new();
        let reached = Mutex::default();
        Self { number, topic, disk, identity, oracle, reached }
    }

    /// Its progress.
    pub fn reached(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The site at work, until its machine stops or its agreement ends.
    pub async fn live(self: Arc<Self>) {
        let Reached { compared, first, .. } = self.reached().clone();
        *self.reached() = Reached { compared, first, ..Reached::default() };
        let disk = Arc::new(self.disk.clone());
        let sink = match FileSink::open_or_set_aside(disk, Path::new("/replica"), "rows") {
            Ok(sink) => sink,
            Err(error) => {
                return self.oracle.broken(Promise::AppliedOnce, format!("{}: {error}", self.number));
            }
        };
        let mut sink = Checked {
            site: Arc::clone(&self),
            inner: sink,
            derived: None,
            last: BTreeMap::new(),
            snapshot: None,
            ended: Ended::default(),
        };
        if let Err(error) = sink.look().await {
            self.oracle.broken(Promise::AppliedOnce, format!("{}: {error}", self.number));
        }
        let agent =
            Agent::new("https://dit".to_owned(), self.identity.clone(), self.number.clone(), Box::new(sink));
        let agent = agent.with_reconciliation(Some(CHECK_EVERY));
        let mut status = agent.status();
        let mut reconciled = None;
        let watching = async {
            while status.changed().await.is_ok() {
                let now = status.borrow_and_update().reconciled;
                if now != reconciled
                    && let Some(found) = now
                {
                    self.reached().compared += u64::from(found.equal);
                    if !found.equal || found.repaired > 0 {
                        let what = format!("{}: {found:?}", self.number);
                        self.oracle.broken(Promise::ReplicaEquation, what);
                    }
                }
                reconciled = now;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            ended = agent.run() => {
                if ended.phase == Phase::Ended && self.oracle.is_revocation_asked(&self.number) {
                    self.reached().has_ended = true;
                } else if !self.disk.has_stopped() {
                    let what = format!("{}: the agent gave up: {:?}", self.number, ended.last_error);
                    self.oracle.broken(Promise::HonestProgress, what);
                }
            }
            () = watching => {}
        }
    }
}

struct Checked {
    site: Arc<Consumer>,
    inner: FileSink,
    derived: Option<AvroSchema>,
    /// The number of each key's last change, as far as this stream or its snapshot has delivered it.
    last: BTreeMap<String, i64>,
    /// Keys of the snapshot that is under way.
    snapshot: Option<BTreeSet<String>>,
    /// Where the last snapshot ended, and how many have ended there.
    ended: Ended,
}

/// Where a snapshot ended.
#[derive(Default)]
struct Ended {
    places: PerPartition<Place>,
    times: u32,
}

impl Checked {
    fn broken(&self, promise: Promise, what: &str) {
        self.site.oracle.broken(promise, format!("{}: {what}", self.site.number));
    }

    /// A snapshot has come to its end at these places.
    fn pass_ends(&mut self, places: PerPartition<Place>) {
        let times = if self.ended.places == places { self.ended.times + 1 } else { 1 };
        self.ended = Ended { places, times };
        if times > PASSES_IN_PLACE {
            self.broken(Promise::HonestProgress, &format!("{times} snapshots came to one end"));
        }
    }

    /// The rows as the sink's readers find them.
    async fn look(&mut self) -> Result<Rows, SinkError> {
        let mut rows = Rows::new();
        let mut wrong = None;
        let mut see = |key: &str, values: Vec<Option<String>>| match row(&values) {
            Ok(row) => drop(rows.insert(key.to_owned(), row)),
            Err(error) => wrong = Some(error),
        };
        self.inner.scan(&mut see).await?;
        if let Some(error) = wrong {
            self.broken(Promise::DefaultDeny, &format!("{error:#}"));
        }
        Ok(rows)
    }

    fn upsert(&mut self, key: &str, image: &[u8]) {
        let values = self.derived.as_ref().map(|derived| texts(derived, image));
        let row = match values {
            Some(Ok(values)) => row(&values),
            other => Err(anyhow::anyhow!("{other:?}")),
        };
        let row = match row {
            Ok(row) => row,
            Err(error) => return self.broken(Promise::DefaultDeny, &format!("{key}: {error:#}")),
        };
        if !self.site.oracle.permits(self.site.number.as_str(), row) {
            self.broken(Promise::Transition, &format!("{key} is {row:?}, which it may not have"));
        }
        if let Some(snapshot) = &mut self.snapshot {
            if !snapshot.insert(key.to_owned()) {
                self.broken(Promise::AppliedOnce, &format!("{key} comes twice in one snapshot"));
            }
        } else if let Some(last) = self.last.get(key) {
            match row.number.cmp(last) {
                std::cmp::Ordering::Greater => {}
                std::cmp::Ordering::Equal => {
                    self.broken(Promise::AppliedOnce, &format!("{key}: change {last} comes again"));
                }
                std::cmp::Ordering::Less => {
                    self.broken(Promise::KeyOrder, &format!("{key}: {} comes after {last}", row.number));
                }
            }
        }
        self.last.insert(key.to_owned(), row.number);
    }
}

fn row(values: &[Option<String>]) -> anyhow::Result<Row> {
    let [Some(_), Some(territory), Some(number)] = values else { anyhow::bail!("{values:?} is no row") };
    Ok(Row { territory: territory_of(territory)?, number: number.parse()? })
}

#[async_trait]
impl Sink for Checked {
    fn system(&self) -> &'static str {
        self.inner.system()
    }

    async fn ready(&mut self) -> Result<(), SinkError> {
        self.inner.ready().await
    }

    fn cursor(&self) -> Option<Cursor> {
        self.inner.cursor()
    }

    async fn begin(&mut self, head: &StreamHead) -> Result<(), SinkError> {
        let names: Vec<_> = match head.derived.record() {
            Ok(record) => record.record.fields.iter().map(|field| field.name.clone()).collect(),
            Err(error) => vec![error.to_string()],
        };
        if names != FIELDS {
            self.broken(Promise::DefaultDeny, &format!("the stream has the fields {names:?}"));
        }
        self.derived = Some(head.derived.clone());
        if self.inner.cursor().is_none_or(|cursor| cursor.snapshot.is_none()) {
            self.snapshot = None;
        }
        self.inner.begin(head).await
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let before = (self.last.clone(), self.snapshot.clone());
        for effect in &batch.effects {
            match effect {
                Effect::BeginSnapshot => {
                    self.snapshot = Some(BTreeSet::new());
                    self.last.clear();
                }
                Effect::EndSnapshot => {
                    self.snapshot = None;
                    self.pass_ends(
                        batch.cursor.as_ref().map(|cursor| cursor.places.clone()).unwrap_or_default(),
                    );
                }
                Effect::Upsert { key, image } => self.upsert(key, image),
                Effect::Remove { .. } => {}
            }
        }
        if let Err(error) = self.inner.apply(batch).await {
            // The batch is not applied: it may come again.
            (self.last, self.snapshot) = before;
            return Err(error);
        }
        let rows = self.look().await?;
        let Some(cursor) = &batch.cursor else { return Ok(()) };
        let Consumer { number, topic, oracle, .. } = self.site.as_ref();
        oracle.note(|| {
            let rows = rows.len();
            let snapshot = cursor.snapshot.as_ref().map(|snapshot| snapshot.id);
            format!("{number} {rows} rows at {} snapshot {snapshot:?}", in_words(&cursor.places))
        });
        if cursor.snapshot.is_some() || self.snapshot.is_some() {
            return Ok(());
        }
        let expected = oracle.replica(number.as_str(), topic, cursor);
        if expected.as_ref() != Some(&rows) {
            let places = in_words(&cursor.places);
            let what = format!("at {places} it is {rows:?}, not {expected:?}");
            self.broken(Promise::ReplicaEquation, &what);
        }
        let mut reached = self.site.reached();
        if reached.first.as_ref().is_none_or(|first| first.version != cursor.version) {
            reached.first = Some(cursor.clone());
        }
        (reached.cursor, reached.freshness) = (Some(cursor.clone()), batch.freshness);
        reached.rows = rows;
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.inner.settle().await
    }

    async fn scan(&mut self, see: &mut See<'_>) -> Result<(), SinkError> {
        self.inner.scan(see).await
    }

    fn row_count(&self) -> usize {
        self.inner.row_count()
    }
}
