//! Participants, channels and agreements from declarative files.
//!
//! Owns the files' shapes and their loading into control: what is new is added, what is there and equal is left,
//! what differs is amended where that can be. Until agreements are signed, such a file counts as both signatures.

use std::path::{Path, PathBuf};

use platform::config::{self, ConfigError};
use schemas::agreement::Agreement;
use schemas::channel::Channel;
use serde::Deserialize;

use super::change::{Body, Participant};
use super::service::{Control, ControlError};
use crate::registry::{self, RegisterError};

/// Who declarative changes are by.
const BY: &str = "declared";

/// The contents of a declarative folder: `participants.toml`, `channels/*.json`, `agreements/*.json`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Declared {
    /// From `participants.toml`.
    pub participants: Vec<Participant>,
    /// From `channels/`.
    pub channels: Vec<Channel>,
    /// From `agreements/`.
    pub agreements: Vec<Agreement>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParticipantsFile {
    #[serde(default)]
    participant: Vec<Participant>,
}

/// Why declarations could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DeclaredError {
    /// A file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A change was refused.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A channel's schema was refused.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// No randomness for a log id.
    #[error(transparent)]
    Random(#[from] platform::random::NoRandomness),
}

impl Declared {
    /// Reads a folder; missing parts are empty.
    pub fn read(dir: &Path) -> Result<Self, ConfigError> {
        let participants = dir.join("participants.toml");
        let participants = if participants.exists() {
            config::load::<ParticipantsFile>(&participants)?.participant
        } else {
            Vec::new()
        };
        let each = |sub: &str| -> Result<Vec<PathBuf>, ConfigError> { json_files(&dir.join(sub)) };
        let channels =
            each("channels")?.iter().map(|path| config::load_json(path)).collect::<Result<_, _>>()?;
        let agreements =
            each("agreements")?.iter().map(|path| config::load_json(path)).collect::<Result<_, _>>()?;
        Ok(Self { participants, channels, agreements })
    }

    /// Brings control to what is declared; how many changes that took.
    pub async fn apply(&self, control: &Control) -> Result<usize, DeclaredError> {
        let mut changes = 0;
        for participant in &self.participants {
            if control.view().participants.get(&participant.id).map(AsRef::as_ref) != Some(participant) {
                control.change(BY, Body::Participant(participant.clone())).await?;
                changes += 1;
            }
        }
        for channel in &self.channels {
            let view = control.view();
            if view.channels.get(&channel.name).is_none_or(|entry| entry.channel != *channel) {
                declare_channel(control, BY, channel).await?;
                changes += 1;
            } else if view.versions(&channel.registry_subject()).is_empty() {
                // A crash between declaring it and registering its schema.
                registry::register_subject(control, BY, channel, &channel.schema).await?;
                changes += 1;
            }
        }
        for agreement in &self.agreements {
            let view = control.view();
            let known = view.agreements.get(&agreement.number);
            if known.is_some_and(|entry| entry.agreement.version > agreement.version) {
                tracing::info!(number = %agreement.number, "the file is older than the agreement in force");
            } else if known.is_none_or(|entry| entry.agreement != *agreement) {
                control.change(BY, Body::Agreement(Box::new(agreement.clone()))).await?;
                changes += 1;
            }
        }
        Ok(changes)
    }
}

/// Declares a channel and registers its first schema.
pub async fn declare_channel(control: &Control, by: &str, channel: &Channel) -> Result<(), DeclaredError> {
    let log_id = schemas::ids::LogId::new(platform::random::id()?);
    control.change(by, Body::Channel { channel: channel.clone(), log_id }).await?;
    registry::register_subject(control, by, channel, &channel.schema).await?;
    Ok(())
}

fn json_files(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let unreadable = |error| ConfigError::Unreadable { path: dir.to_owned(), error };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
