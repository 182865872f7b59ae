//! An agent's folder: its channel and log, and the outbox position from which its images are complete.
//!
//! Owns the identity file. It leaves another channel's folder unchanged; a folder in doubt needs a reopen.

use std::path::{Path, PathBuf};

use platform::segments::SegmentError;
use platform::segments::checked_file;
use platform::segments::disk::Disk;
use schemas::channel::Channel;
use schemas::ids::LogId;
use serde::{Deserialize, Serialize};

const IDENTITY_KIND: &[u8; 4] = b"iden";

/// Why a folder cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// It has another channel or log.
    #[error(
        "{path} belongs to channel {found}, log {log}; this agent is for {wanted}. Give each channel its own folder; if only the log differs, the router has a new log: set the folder aside"
    )]
    OtherChannel {
        path: PathBuf,
        /// The folder's channel.
        found: String,
        log: LogId,
        /// The agent's channel and log.
        wanted: String,
    },
    /// Its files do not fit together, or a reopen did not end.
    #[error("{path}: {problem}; the agent has to reopen the channel, which it does by itself")]
    Doubtful { path: PathBuf, problem: String },
}

impl FolderError {
    pub(crate) fn doubtful(dir: &Path, problem: String) -> Self {
        Self::Doubtful { path: dir.to_owned(), problem }
    }
}

/// The contents of the identity file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct IdentityFile {
    channel: String,
    log_id: LogId,
    /// Images that reflect less are useless: the last reopen took them from the channel's state, and the outbox alone
    /// cannot make them again.
    #[serde(default)]
    images_from: u64,
}

/// Records that the folder is this channel's, and the outbox position from which its images are complete.
pub(crate) fn claim(
    disk: &dyn Disk,
    dir: &Path,
    channel: &Channel,
    log_id: LogId,
    images_from: u64,
) -> Result<(), FolderError> {
    let identity = IdentityFile { channel: channel.name.to_string(), log_id, images_from };
    let bytes =
        serde_json::to_vec(&identity).map_err(|error| FolderError::doubtful(dir, error.to_string()))?;
    Ok(checked_file::write(disk, &dir.join("identity"), IDENTITY_KIND, &bytes)?)
}

/// The outbox position from which the folder's images are complete; `None` for a new folder, which is claimed now.
pub(crate) fn enter(
    disk: &dyn Disk,
    dir: &Path,
    channel: &Channel,
    log_id: LogId,
) -> Result<Option<u64>, FolderError> {
    let Some(bytes) = checked_file::read(disk, &dir.join("identity"), IDENTITY_KIND)? else {
        return claim(disk, dir, channel, log_id, 0).map(|()| None);
    };
    let found: IdentityFile =
        serde_json::from_slice(&bytes).map_err(|error| FolderError::doubtful(dir, error.to_string()))?;
    if found.channel == channel.name.as_str() && found.log_id == log_id {
        return Ok(Some(found.images_from));
    }
    Err(FolderError::OtherChannel {
        path: dir.to_owned(),
        found: found.channel,
        log: found.log_id,
        wanted: format!("{}, log {log_id}", channel.name),
    })
}

#[cfg(test)]
mod tests {
    use platform::segments::memory_disk::MemoryDisk;

    use super::*;

    fn channel(name: &str) -> Channel {
        let schema =
            serde_json::json!({"type": "record", "name": "R", "fields": [{"name": "k", "type": "string"}]});
        let channel = serde_json::json!({"name": name, "kind": "distribution", "owner": "1", "partitions": 1,
            "key": {"fields": ["k"]}, "schema": schema});
        serde_json::from_value(channel).unwrap()
    }

    #[test]
    fn a_folder_is_one_channels_of_one_log() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/agent");
        let log = LogId::new([7; 16]);
        assert_eq!(enter(&disk, dir, &channel("a"), log).unwrap(), None);
        assert_eq!(enter(&disk, dir, &channel("a"), log).unwrap(), Some(0));
        claim(&disk, dir, &channel("a"), log, 12).unwrap();
        assert_eq!(enter(&disk, dir, &channel("a"), log).unwrap(), Some(12));
        for (name, log) in [("b", log), ("a", LogId::new([8; 16]))] {
            let error = enter(&disk, dir, &channel(name), log).unwrap_err();
            assert!(error.to_string().contains("Give each channel its own folder"), "{error}");
        }
        assert_eq!(enter(&disk, dir, &channel("a"), log).unwrap(), Some(12), "and it was left as it is");
    }

    #[test]
    fn an_identity_that_cannot_be_read_is_never_a_new_folder() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/agent");
        enter(&disk, dir, &channel("a"), LogId::new([7; 16])).unwrap();
        disk.damage(&dir.join("identity"), 20);
        assert!(enter(&disk, dir, &channel("a"), LogId::new([7; 16])).is_err());
    }
}
