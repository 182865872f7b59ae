//! The result of every change: in the logs, in the writes to the tables, in the replicas.
//!
//! Owns the counts of changes that were lost, repeated, out of order or outside a scope, by code of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Context, ensure};
use event_log::kafka::KafkaLog;
use event_log::kafka_options::KafkaOptions;
use event_log::{Cleanup, Log, TopicSpec};
use router::channels::start::DEFAULT_RETENTION;
use schemas::avro::binary::Cursor;
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::ids::{Offset, Partition};
use support::counting::{Counter, Counts};

use crate::network::{Consumer, PREFIX};
use crate::register::{COLUMNS, Register, Row, Side};
use crate::replicas::{Replica, Replicas, Written};

/// Bytes of a log that are read at a time.
const READ_AT_ONCE: usize = 1 << 20;
/// The most examples of errors that are kept.
const KEPT: usize = 10;

/// The errors, and how many there are.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Changes in the logs.
    pub(crate) counted: usize,
    /// Rows written into tables.
    pub(crate) written: usize,
    pub(crate) lost: usize,
    pub(crate) repeated: usize,
    pub(crate) out_of_order: usize,
    pub(crate) outside: usize,
    /// Replicas that differ from their part of the register.
    pub(crate) unequal: usize,
    /// Some of the errors, in words.
    pub(crate) examples: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counted, written, lost, repeated, out_of_order, outside, unequal, examples } = self;
        writeln!(f, "{counted} changes in the logs, {written} rows written into tables")?;
        writeln!(
            f,
            "lost {lost}, repeated {repeated}, out of order by key {out_of_order}, outside scope {outside}"
        )?;
        write!(f, "replicas that differ: {unequal}")?;
        examples.iter().try_for_each(|example| write!(f, "\n  {example}"))
    }
}

impl Verdict {
    /// Whether nothing is wrong.
    pub(crate) const fn is_good(&self) -> bool {
        self.lost + self.repeated + self.out_of_order + self.outside + self.unequal == 0
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.examples.len() < KEPT {
            self.examples.push(what());
        }
    }

    /// Compares the changes of a key that a log counts with those that were made.
    fn log(&mut self, key: &str, made: &[Option<u64>], counted: &[Option<u64>]) {
        self.counted += counted.len();
        if made == counted {
            return;
        }
        let wanted = tally(made);
        let found = tally(counted);
        let more = |this: &BTreeMap<Option<u64>, usize>, that: &BTreeMap<Option<u64>, usize>| -> usize {
            this.iter()
                .map(|(number, count)| count.saturating_sub(that.get(number).copied().unwrap_or(0)))
                .sum()
        };
        let lost = more(&wanted, &found);
        let repeated = more(&found, &wanted);
        self.lost += lost;
        self.repeated += repeated;
        self.out_of_order += usize::from(lost + repeated == 0);
        self.say(|| format!("the log has of {key}: {counted:?}, made was {made:?}"));
    }

    /// Compares the writes of a key with those due to its consumer: the last change of each batch, in order.
    fn table(&mut self, consumer: &Consumer, key: &str, due: &[Option<u64>], written: &[Written]) {
        self.written += written.len();
        for (number, state, kind) in written.iter().flatten() {
            if !consumer.may_have(state, kind) {
                self.outside += 1;
                self.say(|| {
                    format!("{} was given change {number} of {key}, a row of {state}", consumer.name)
                });
            }
        }
        let mut left = due.iter();
        for number in written.iter().map(|written| written.as_ref().map(|(number, ..)| *number)) {
            if left.any(|due| *due == number) {
                continue;
            }
            let is_due = due.contains(&number);
            let seen = written.iter().flatten().filter(|(seen, ..)| Some(*seen) == number).count();
            match (is_due, seen) {
                (false, _) => self.outside += 1,
                (true, 0 | 1) => self.out_of_order += 1,
                (true, _) => self.repeated += 1,
            }
            return self
                .say(|| format!("{}: of {key} {written:?} was written, due was {due:?}", consumer.name));
        }
    }
}

fn tally(numbers: &[Option<u64>]) -> BTreeMap<Option<u64>, usize> {
    let mut tally = BTreeMap::new();
    numbers.iter().for_each(|number| *tally.entry(*number).or_default() += 1);
    tally
}

fn numbers(story: &[Option<std::sync::Arc<Row>>]) -> Vec<Option<u64>> {
    story.iter().map(|row| row.as_ref().map(|row| row.number)).collect()
}

pub(crate) async fn judge(
    brokers: &str,
    registers: &BTreeMap<Side, Register>,
    replicas: &Replicas,
    database: &str,
) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::default();
    for (side, register) in registers {
        let counted = log_of(brokers, *side).await?;
        for key in register.story.keys().chain(counted.keys()).collect::<BTreeSet<_>>() {
            let made = register.story.get(key).map(|story| numbers(story)).unwrap_or_default();
            verdict.log(key, &made, counted.get(key).map(Vec::as_slice).unwrap_or_default());
        }
    }
    let history = replicas.history().await?;
    for replica in &replicas.each {
        let register = registers.get(&replica.side).context("a register")?;
        if replica.consumer.has_table() {
            let written = history.get(&replica.name()).context("a table with nothing written")?;
            for (key, written) in written {
                let story = register.story.get(key).map(Vec::as_slice).unwrap_or_default();
                verdict.table(&replica.consumer, key, &due(&replica.consumer, story), written);
            }
        }
        let found = replica.rows(database).await?;
        let expected = expected(replica, register);
        ensure!(!expected.is_empty(), "{} is to have no row", replica.name());
        if found != expected {
            verdict.unequal += 1;
            let wrong = expected.iter().find(|(key, row)| found.get(*key) != Some(row));
            verdict.say(|| {
                format!("{}: {} rows of {}, such as {wrong:?}", replica.name(), found.len(), expected.len())
            });
        }
    }
    Ok(verdict)
}

/// The changes of a key that are due to a consumer: numbers of rows, and `None` where the row goes or leaves its part.
fn due(consumer: &Consumer, story: &[Option<std::sync::Arc<Row>>]) -> Vec<Option<u64>> {
    let mut due = Vec::new();
    let mut was_in = false;
    for row in story {
        let inside = row.as_ref().filter(|row| consumer.may_have(&row.cells[4], &row.cells[1]));
        if inside.is_some() || was_in {
            due.push(inside.map(|row| row.number));
        }
        was_in = inside.is_some();
    }
    due
}

fn expected(replica: &Replica, register: &Register) -> BTreeMap<String, serde_json::Value> {
    let consumer = &replica.consumer;
    let rows = register.rows.iter().filter(|(_, row)| consumer.may_have(&row.cells[4], &row.cells[1]));
    let as_json = |row: &Row| {
        let cells =
            COLUMNS.iter().zip(&row.cells).map(|(name, cell)| ((*name).to_owned(), cell.as_str().into()));
        let all = cells.chain([("n".to_owned(), row.number.into())]);
        serde_json::Value::Object(all.filter(|(name, _)| consumer.fields.contains(&name.as_str())).collect())
    };
    rows.map(|(key, row)| (key.clone(), as_json(row))).collect()
}

/// All changes that count in a channel's log, by key in order: the change's number, or `None` for a delete.
async fn log_of(brokers: &str, side: Side) -> anyhow::Result<BTreeMap<String, Vec<Option<u64>>>> {
    let brokers = brokers.to_owned();
    let prefix = PREFIX.to_owned();
    let log = KafkaLog::connect(&KafkaOptions { brokers, prefix, replication: 3, security: None })?;
    let topic = format!("dit.{}.log", side.name());
    let cleanup = Cleanup::Retention(DEFAULT_RETENTION);
    let is_new =
        log.ensure_topic(&TopicSpec { name: topic.clone(), partitions: side.partitions(), cleanup }).await?;
    ensure!(!is_new, "{topic} was gone");
    let fields: Vec<_> =
        COLUMNS.iter().map(|name| serde_json::json!({"name": name, "type": "string"})).collect();
    let fields = [fields.as_slice(), &[serde_json::json!({"name": "n", "type": "long"})]].concat();
    let subject = serde_json::json!({"type": "record", "name": "gov.Domain", "fields": fields});
    let codec = ChangeCodec::new(&AvroSchema::from_json(subject)?)?;
    let mut story: BTreeMap<String, Vec<Option<u64>>> = BTreeMap::new();
    for partition in (0..side.partitions()).map(Partition::new) {
        let end = log.bounds(&topic, partition).await?.next;
        let mut counter = Counter::default();
        let mut next = Offset::new(0);
        while next < end {
            let batch = log.read(&topic, partition, next, READ_AT_ONCE, Duration::from_secs(10)).await?;
            ensure!(batch.next > next, "{topic}/{partition} cannot be read at {next}");
            next = batch.next;
            for stored in &batch.records {
                match counter.pass(&stored.record) {
                    None => {}
                    Some(Counts::Resync) => {
                        anyhow::bail!("{topic}/{partition}: everybody is told to start over")
                    }
                    Some(Counts::Changes { count, datums }) => {
                        let mut datums = Cursor::new(datums);
                        for _ in 0..count {
                            let change = codec.decode(&mut datums)?;
                            let number = change.after.map(number_of).transpose()?;
                            story.entry(change.key.to_owned()).or_default().push(number);
                        }
                        datums.end()?;
                    }
                }
            }
        }
    }
    Ok(story)
}

fn number_of(image: &[u8]) -> anyhow::Result<u64> {
    let mut datum = Cursor::new(image);
    for _ in COLUMNS {
        datum.string()?;
    }
    Ok(u64::try_from(datum.long()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::CONSUMERS;

    const MADE: [Option<u64>; 4] = [Some(1), Some(4), None, Some(9)];

    fn log(counted: &[Option<u64>]) -> [usize; 3] {
        let mut verdict = Verdict::default();
        verdict.log("k", &MADE, counted);
        [verdict.lost, verdict.repeated, verdict.out_of_order]
    }

    #[test]
    fn what_is_wrong_in_a_log_has_its_name() {
        assert_eq!(log(&MADE), [0, 0, 0]);
        assert_eq!(log(&[Some(1), None, Some(9)]), [1, 0, 0]);
        assert_eq!(log(&[Some(1), Some(4), Some(4), None, Some(9)]), [0, 1, 0]);
        assert_eq!(log(&[Some(4), Some(1), None, Some(9)]), [0, 0, 1]);
    }

    fn table(written: &[(Option<u64>, &str)]) -> [usize; 3] {
        let mut verdict = Verdict::default();
        let written: Vec<Written> = written
            .iter()
            .map(|(number, state)| number.map(|number| (number, (*state).to_owned(), "City".to_owned())))
            .collect();
        verdict.table(&CONSUMERS[0], "k", &MADE, &written);
        [verdict.repeated, verdict.out_of_order, verdict.outside]
    }

    #[test]
    fn what_is_wrong_in_a_table_has_its_name() {
        // Changes of one batch are written once, as the last of them left the row.
        assert_eq!(table(&[(Some(1), "CA"), (None, ""), (Some(9), "CA")]), [0, 0, 0]);
        assert_eq!(table(&[(Some(9), "CA"), (Some(9), "CA")]), [1, 0, 0]);
        assert_eq!(table(&[(Some(4), "CA"), (Some(1), "CA")]), [0, 1, 0]);
        assert_eq!(table(&[(Some(1), "NY")]), [0, 0, 1]);
        assert_eq!(table(&[(Some(7), "CA")]), [0, 0, 1]);
    }
}
