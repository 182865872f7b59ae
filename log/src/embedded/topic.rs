//! The description of an embedded log's topic, as its folder stores it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::{Cleanup, TopicSpec};

/// The description beside a topic's partitions.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct TopicFile {
    pub(super) name: String,
    pub(super) partitions: u32,
    cleanup: String,
}

impl TopicFile {
    pub(super) fn of(spec: &TopicSpec) -> Self {
        let cleanup = match spec.cleanup {
            Cleanup::Retention(time) => format!("retention {} s", time.as_secs()),
            Cleanup::KeepAll => "keep all".to_owned(),
        };
        Self { name: spec.name.clone(), partitions: spec.partitions, cleanup }
    }

    /// Which records may be removed, and when; a text that cannot be read keeps all.
    pub(super) fn cleanup(&self) -> Cleanup {
        let seconds = self.cleanup.strip_prefix("retention ").and_then(|text| text.strip_suffix(" s"));
        let seconds = seconds.and_then(|seconds| seconds.parse().ok());
        seconds.map_or(Cleanup::KeepAll, |seconds| Cleanup::Retention(Duration::from_secs(seconds)))
    }

    pub(super) fn words(&self) -> String {
        format!("{} partitions, {}", self.partitions, self.cleanup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_go_survives_the_file() {
        let seconds = Duration::from_secs(90);
        for cleanup in [Cleanup::KeepAll, Cleanup::Retention(seconds)] {
            let spec = TopicSpec { name: "t".to_owned(), partitions: 1, cleanup };
            assert_eq!(TopicFile::of(&spec).cleanup(), cleanup);
        }
    }
}
