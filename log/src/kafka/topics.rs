//! Makes topics as they must be, or checks those that exist.
//!
//! Owns the settings that safety needs, and the words for a topic that disagrees.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use platform::retry::Retry;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminOptions, ConfigEntry, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset as KafkaOffset;
use rdkafka::types::RDKafkaErrorCode;
use schemas::ids::Offset;

use super::client::{Admin, REQUEST_LIMIT, ReadClient};
use super::partition_readers::TopicPartition;
use crate::{Cleanup, TopicError, TopicSpec};

/// How long a new topic may take until every partition has its leader.
const LEADER_LIMIT: Duration = Duration::from_secs(30);

/// A setting of a topic, and whether a larger value is as good as the wanted one.
struct Setting {
    name: &'static str,
    wanted: String,
    more_is_fine: bool,
}

/// The cluster that topics are made on, and this network's demands on them.
pub(super) struct Cluster<'c> {
    pub(super) admin: &'c Admin,
    /// For the metadata: a reader's question does not make a topic that is missing.
    pub(super) reader: ReadClient,
    pub(super) replication: u16,
    pub(super) min_insync: u16,
}

impl Cluster<'_> {
    /// Makes the topic, or checks the one that is there. `true` when it was made.
    pub(super) async fn ensure(&self, name: &str, spec: &TopicSpec) -> Result<bool, TopicError> {
        let wanted = settings(spec.cleanup, self.min_insync);
        if let Some(found) = self.look_at(name).await? {
            self.check(name, spec, found, &wanted).await?;
            return Ok(false);
        }
        let cannot = |why: String| TopicError::Unavailable(format!("topic {name} cannot be made: {why}"));
        let count = i32::try_from(spec.partitions);
        let count = count.map_err(|_| cannot(format!("Kafka has no {} partitions", spec.partitions)))?;
        let mut topic = NewTopic::new(name, count, TopicReplication::Fixed(i32::from(self.replication)));
        for setting in &wanted {
            topic = topic.set(setting.name, &setting.wanted);
        }
        let made = self.admin.create_topics([&topic], &options()).await.map_err(|e| cannot(e.to_string()))?;
        let made = match made.into_iter().next() {
            // Another router was first.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => false,
            Some(Err((_, code))) => return Err(cannot(code.to_string())),
            Some(Ok(_)) | None => true,
        };
        let found = self.until_led(name, spec.partitions).await?;
        if !made {
            self.check(name, spec, found, &wanted).await?;
        }
        Ok(made)
    }

    async fn look_at(&self, name: &str) -> Result<Option<Found>, TopicError> {
        let reader = Arc::clone(&self.reader);
        let asked = name.to_owned();
        let ask = move || reader.fetch_metadata(Some(&asked), REQUEST_LIMIT);
        let metadata = tokio::task::spawn_blocking(ask).await.unwrap_or(Err(KafkaError::Canceled));
        let metadata = metadata
            .map_err(|error| TopicError::Unavailable(format!("the cluster does not answer: {error}")))?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
            return Ok(None);
        };
        let partitions = topic.partitions();
        if topic.error().is_some() || partitions.is_empty() {
            return Ok(None);
        }
        let too_many = |_| TopicError::Unavailable(format!("topic {name} has too many partitions"));
        Ok(Some(Found {
            partitions: u32::try_from(partitions.len()).map_err(too_many)?,
            replicas: partitions.iter().map(|p| p.replicas().len()).min().unwrap_or(0),
            led: partitions.iter().all(|p| p.leader() >= 0 && p.error().is_none()),
        }))
    }

    async fn until_led(&self, name: &str, count: u32) -> Result<Found, TopicError> {
        let mut retry = Retry::new(Duration::from_millis(20), Duration::from_secs(1));
        let deadline = tokio::time::Instant::now() + LEADER_LIMIT;
        loop {
            if let Some(found) = self.look_at(name).await?
                && found.led
                && found.partitions >= count
            {
                return Ok(found);
            }
            if tokio::time::Instant::now() > deadline {
                let why = format!("topic {name} has partitions without a leader; look at the brokers");
                return Err(TopicError::Unavailable(why));
            }
            tokio::time::sleep(retry.next_wait()).await;
        }
    }

    /// The topic's settings. A broker that does not know a new topic yet gives none of them: it is asked again.
    async fn values(&self, name: &str, settings: &[Setting]) -> Result<HashMap<String, String>, TopicError> {
        let cannot = |why: String| {
            TopicError::Unavailable(format!("the settings of topic {name} cannot be read: {why}"))
        };
        let mut retry = Retry::new(Duration::from_millis(20), Duration::from_secs(1));
        let deadline = tokio::time::Instant::now() + LEADER_LIMIT;
        loop {
            let asked = self.admin.describe_configs(&[ResourceSpecifier::Topic(name)], &options()).await;
            let config = match asked.map_err(|e| cannot(e.to_string()))?.into_iter().next() {
                Some(Ok(config)) => config,
                Some(Err(code)) => return Err(cannot(code.to_string())),
                None => return Err(cannot("the broker said nothing".to_owned())),
            };
            let pair = |entry: ConfigEntry| Some((entry.name, entry.value?));
            let values: HashMap<String, String> = config.entries.into_iter().filter_map(pair).collect();
            if settings.iter().any(|setting| values.contains_key(setting.name)) {
                return Ok(values);
            }
            if tokio::time::Instant::now() > deadline {
                return Err(cannot("the broker does not know the topic yet".to_owned()));
            }
            tokio::time::sleep(retry.next_wait()).await;
        }
    }

    async fn check(
        &self,
        name: &str,
        spec: &TopicSpec,
        found: Found,
        settings: &[Setting],
    ) -> Result<(), TopicError> {
        let values = self.values(name, settings).await?;
        let mut differing = Vec::new();
        if found.partitions != spec.partitions {
            let in_words = |count: String| format!("{count} partitions");
            differing.push((in_words(found.partitions.to_string()), in_words(spec.partitions.to_string())));
        }
        if found.replicas < usize::from(self.replication) {
            differing
                .push((format!("{} replicas", found.replicas), format!("{} replicas", self.replication)));
        }
        for Setting { name, wanted, .. } in settings.iter().filter(|setting| !setting.suits(&values)) {
            let value = values.get(*name).map_or("", String::as_str);
            differing.push((format!("{name}={value}"), format!("{name}={wanted}")));
        }
        if differing.is_empty() {
            return Ok(());
        }
        let (found, wanted): (Vec<_>, Vec<_>) = differing.into_iter().unzip();
        Err(TopicError::Disagrees {
            topic: name.to_owned(),
            found: found.join(", "),
            wanted: wanted.join(", "),
        })
    }
}

/// Gives up a partition's records before an offset. A router without the right to do so is told which one it needs.
pub(super) async fn delete_records(
    admin: &Admin,
    partition: &TopicPartition,
    before: Offset,
) -> Result<(), TopicError> {
    let cannot = |error: KafkaError| {
        let remedy = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                "; give the router Kafka's right Delete on the topic"
            }
            _ => "",
        };
        let TopicPartition { topic, id, .. } = partition;
        TopicError::Unavailable(format!(
            "the records of topic {topic}, partition {id}, before {before} cannot be deleted: {error}{remedy}"
        ))
    };
    let mut wanted = TopicPartitionList::new();
    let offset = KafkaOffset::Offset(i64::try_from(before.get()).unwrap_or(i64::MAX));
    wanted.add_partition_offset(&partition.topic, partition.number, offset).map_err(cannot)?;
    let deleted = admin.delete_records(&wanted, &options()).await.map_err(cannot)?;
    let outcome = deleted.find_partition(&partition.topic, partition.number);
    outcome.map_or(Ok(()), |element| element.error()).map_err(cannot)
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_LIMIT)).operation_timeout(Some(REQUEST_LIMIT))
}

fn settings(cleanup: Cleanup, min_insync: u16) -> Vec<Setting> {
    let exactly = |name, wanted: &str| Setting { name, wanted: wanted.to_owned(), more_is_fine: false };
    let at_least = |name, wanted: String| Setting { name, wanted, more_is_fine: true };
    let mut wanted = vec![
        // With the producer's time, events that an agent sends after weeks offline would be deleted at once.
        exactly("message.timestamp.type", "LogAppendTime"),
        exactly("unclean.leader.election.enable", "false"),
        at_least("min.insync.replicas", min_insync.to_string()),
        at_least("max.message.bytes", "1048588".to_owned()),
    ];
    match cleanup {
        Cleanup::Retention(time) => wanted.extend([
            exactly("cleanup.policy", "delete"),
            at_least("retention.ms", time.as_millis().to_string()),
            exactly("retention.bytes", "-1"),
        ]),
        Cleanup::KeepAll => wanted.extend([
            exactly("cleanup.policy", "delete"),
            exactly("retention.ms", "-1"),
            exactly("retention.bytes", "-1"),
        ]),
    }
    wanted
}

/// A topic's partitions according to the metadata.
#[derive(Debug, Clone, Copy)]
struct Found {
    partitions: u32,
    /// The fewest replicas of any partition.
    replicas: usize,
    led: bool,
}

impl Setting {
    fn suits(&self, values: &HashMap<String, String>) -> bool {
        let value = values.get(self.name).map_or("", String::as_str);
        let is_more = || match (value.parse::<i64>(), self.wanted.parse::<i64>()) {
            // Unlimited.
            (Ok(-1), Ok(_)) => true,
            (Ok(value), Ok(wanted)) => value >= wanted,
            _ => false,
        };
        value == self.wanted || (self.more_is_fine && is_more())
    }
}
