//! A scenario's file.
//!
//! Owns its keys; their doc comments are the reference. A key that is not here is refused, and the error names it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::pace::Pace;

/// What is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Its name, and its reports'.
    pub(crate) name: String,
    /// What it is, for the report's reader.
    pub(crate) about: String,
    /// Addresses of a broker; one is started for the run without them.
    pub(crate) brokers: Option<String>,
    /// Partitions of the channel and of the raw topic.
    #[serde(default = "default_partitions")]
    pub(crate) partitions: u32,
    /// How often everything is measured, raw and ours by turns.
    #[serde(default = "default_rounds")]
    pub(crate) rounds: usize,
    /// Where consumer agents put their rows.
    #[serde(default)]
    pub(crate) sink: SinkKind,
    /// How events come.
    pub(crate) load: Load,
    /// What is measured against it; raw Kafka unless said otherwise.
    #[serde(default)]
    pub(crate) against: Against,
    /// Who watches our parts.
    #[serde(default)]
    pub(crate) watched: Watched,
    /// Who else has a stream open.
    #[serde(default)]
    pub(crate) beside: Beside,
    /// What happens elsewhere in the network while an even load is measured.
    pub(crate) disturbance: Option<Disturbance>,
    /// Where our router's log is.
    #[serde(default)]
    pub(crate) log: LogKind,
}

/// How events come, and who takes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Load {
    /// One file of so many rows, as fast as it goes.
    File {
        /// Rows.
        events: u64,
        /// Consumers, each with the rows of a municipality of its own; one with all rows without it.
        municipalities: Option<u32>,
    },
    /// A full outbox of so many events: the agent has taken their file while its line to the router was closed, and the
    /// measurement begins when the line is open.
    Outbox {
        /// Events.
        events: u64,
    },
    /// One file of so many rows, until all of it is in the outbox; nothing is sent meanwhile.
    Intake {
        /// Rows.
        events: u64,
    },
    /// A late joiner: so many events are in the log and in the state when its agent starts.
    Replay {
        /// Events.
        events: u64,
        /// From where it receives them.
        #[serde(default)]
        from: ReplayFrom,
    },
    /// Single changes over the agent's local endpoint, evenly.
    Paced {
        /// Changes a second.
        rate: u64,
        /// How long.
        seconds: u64,
        /// Changes that go to the agent, or to Kafka, together.
        together: u64,
        /// Seconds at the beginning that are not measured, of ours and of raw Kafka: connections, first segments.
        #[serde(default)]
        warm_up: u64,
    },
}

/// From where a late joiner receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReplayFrom {
    /// The present images, as every agent that begins.
    #[default]
    State,
    /// The log's first event, as an agent whose cursor stands there.
    Earliest,
}

/// Where consumer agents put their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SinkKind {
    /// The agent's own files.
    #[default]
    File,
    /// Nowhere: they are counted.
    None,
}

/// What ours is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Against {
    /// librdkafka on the same broker.
    #[default]
    Raw,
    /// NATS JetStream, with a subject for each municipality.
    Nats,
    /// Ours with nobody watching: what watching costs.
    Unwatched,
    /// Ours with nobody beside: what others' streams cost.
    Alone,
    /// Ours with its log on Kafka: what the embedded log costs or saves.
    Kafka,
    /// Ours while nothing happens elsewhere: what a disturbance costs those whom it does not concern.
    Quiet,
}

/// Where the router's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogKind {
    #[default]
    Kafka,
    /// In the router's own folder.
    Embedded,
}

/// Agreements beside those that are measured, and what their consumers do. The other side of `against = "alone"` is without
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Beside {
    /// Nothing is for them.
    pub(crate) idle: u32,
    /// Everything is for them; they hold the connection and do not read.
    pub(crate) stalled: u32,
    /// Everything is for them; they read a byte a second.
    pub(crate) trickling: u32,
    /// Everything is for them, each by terms of its own; they read as fast as it comes.
    pub(crate) matching: u32,
    /// Nothing is for them; their agreements are in force, and their streams are not at this router.
    pub(crate) absent: u32,
}

impl Beside {
    /// The count of all.
    pub(crate) const fn count(self) -> u32 {
        self.idle + self.stalled + self.trickling + self.matching + self.absent
    }
}

/// What happens elsewhere in the network. Changes are measured from its beginning to its end alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Disturbance {
    /// Another channel gets so many events at once, from a full outbox. It ends when its consumer has them all.
    Burst {
        /// Events.
        events: u64,
    },
    /// Another router ends, and its streams begin at ours at once. It ends when all are open again.
    Storm {
        /// Streams; no row is for them.
        streams: u32,
    },
}

impl Disturbance {
    /// How many agreements it has.
    pub(crate) const fn agreements(self) -> u32 {
        match self {
            Self::Burst { .. } => 1,
            Self::Storm { streams } => streams,
        }
    }
}

/// Who watches our parts.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Watched {
    /// Metrics are asked for once a second, of router and producer agent.
    pub(crate) scraped: bool,
    /// So many events of all are followed by traces, which go to a collector that is started for the run.
    pub(crate) traced: Option<f64>,
}

impl Watched {
    pub(crate) fn words(&self) -> String {
        let scraped = if self.scraped { "scraped each second" } else { "not scraped" };
        self.traced.map_or_else(|| scraped.to_owned(), |ratio| format!("{scraped}, {ratio} of all traced"))
    }
}

const fn default_partitions() -> u32 {
    4
}

const fn default_rounds() -> usize {
    3
}

impl Scenario {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let scenario: Self = platform::config::load(path)?;
        let wrong = |what: &str| anyhow::bail!("{}: {what}", path.display());
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
        if scenario.name.is_empty() || !scenario.name.chars().all(is_name) {
            return wrong("name: letters, digits, - and _ only: it names the report's files");
        }
        if scenario.rounds == 0 || scenario.partitions == 0 {
            return wrong("rounds and partitions are at least 1");
        }
        if scenario.against == Against::Alone && scenario.beside.count() == 0 {
            return wrong("against = \"alone\" compares with nobody beside: say who is in [beside]");
        }
        if scenario.watched.traced.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return wrong("watched.traced is a share of all events, between 0 and 1");
        }
        if (scenario.against == Against::Kafka) != (scenario.log == LogKind::Embedded) {
            return wrong(
                "log = \"embedded\" and against = \"kafka\" go together: the same network on Kafka is the other side",
            );
        }
        if (scenario.against == Against::Quiet) != scenario.disturbance.is_some() {
            return wrong(
                "[disturbance] and against = \"quiet\" go together: the same without the disturbance is the other side",
            );
        }
        if scenario.disturbance.is_some() && scenario.pace().is_none() {
            return wrong("[disturbance] needs an even load beside it: load.kind = \"paced\"");
        }
        if let Some(Disturbance::Burst { events: 0 } | Disturbance::Storm { streams: 0 }) =
            scenario.disturbance
        {
            return wrong("disturbance.events or disturbance.streams is at least 1");
        }
        if scenario.against == Against::Nats && !scenario.is_divided() {
            return wrong(
                "against = \"nats\" compares a fan-out: load.kind = \"file\" with load.municipalities",
            );
        }
        match scenario.load {
            Load::File { events: 0, .. }
            | Load::Outbox { events: 0 }
            | Load::Intake { events: 0 }
            | Load::Replay { events: 0, .. } => wrong("load.events is at least 1"),
            Load::Intake { .. } if scenario.against != Against::Raw => {
                wrong("load.kind = \"intake\" is compared with plain reading alone: leave against out")
            }
            Load::File { events, municipalities: Some(many) } if many == 0 || u64::from(many) > events => {
                wrong("load.municipalities is between 1 and load.events")
            }
            Load::Paced { seconds, warm_up, .. } if warm_up >= seconds => {
                wrong("load.warm_up is shorter than load.seconds, which is at least 1")
            }
            Load::Paced { rate, together, .. }
                if rate == 0 || together == 0 || !rate.is_multiple_of(together) =>
            {
                wrong("load.rate and load.together are at least 1, and load.together divides load.rate")
            }
            Load::File { .. }
            | Load::Outbox { .. }
            | Load::Intake { .. }
            | Load::Replay { .. }
            | Load::Paced { .. } => Ok(scenario),
        }
    }

    /// How many events one measurement has.
    pub(crate) const fn events(&self) -> u64 {
        match self.load {
            Load::File { events, .. }
            | Load::Outbox { events }
            | Load::Intake { events }
            | Load::Replay { events, .. } => events,
            Load::Paced { rate, seconds, .. } => rate * seconds,
        }
    }

    /// How events are spread over time; none where all are due at once.
    pub(crate) const fn pace(&self) -> Option<Pace> {
        match self.load {
            Load::File { .. } | Load::Outbox { .. } | Load::Intake { .. } | Load::Replay { .. } => None,
            Load::Paced { rate, together, warm_up, .. } => Some(Pace { rate, together, warm_up }),
        }
    }

    /// How many consumers there are.
    pub(crate) fn consumers(&self) -> u32 {
        match self.load {
            Load::File { municipalities, .. } => municipalities.unwrap_or(1),
            Load::Outbox { .. } | Load::Intake { .. } | Load::Replay { .. } | Load::Paced { .. } => 1,
        }
    }

    /// Whether the agent takes a file while its line to the router is closed.
    pub(crate) const fn has_gate(&self) -> bool {
        matches!(self.load, Load::Outbox { .. } | Load::Intake { .. } | Load::Replay { .. })
    }

    /// Where the router's log is. Nothing is sent while a file is taken: a broker beside it would only take the cores.
    pub(crate) const fn log(&self) -> LogKind {
        if self.needs_kafka() { self.log } else { LogKind::Embedded }
    }

    /// Whether a side needs a broker.
    pub(crate) const fn needs_kafka(&self) -> bool {
        !matches!(self.load, Load::Intake { .. })
    }

    /// Whether what is measured is a consumer that starts when all is there.
    pub(crate) const fn is_replay(&self) -> bool {
        matches!(self.load, Load::Replay { .. })
    }

    /// Whether the late joiner receives the whole log.
    pub(crate) const fn is_from_earliest(&self) -> bool {
        matches!(self.load, Load::Replay { from: ReplayFrom::Earliest, .. })
    }

    /// The same load with nobody beside it.
    pub(crate) fn alone(&self) -> Self {
        Self { beside: Beside::default(), ..self.clone() }
    }

    /// How many agreements there are.
    pub(crate) fn agreements(&self) -> u32 {
        let disturbing = self.disturbance.map_or(0, Disturbance::agreements);
        self.consumers() + self.beside.count() + u32::from(self.is_replay()) + disturbing
    }

    /// Whether each consumer has a municipality of its own.
    pub(crate) const fn is_divided(&self) -> bool {
        matches!(self.load, Load::File { municipalities: Some(_), .. })
    }
}
