//! Participants, channels and agreements from declarative files.
//!
//! Owns the files' shapes and their loading into control: what is new is added, what is equal is left, what differs
//! is amended if possible. Until agreements are signed, a file counts as both signatures.

pub mod check;

use std::collections::HashSet;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use platform::config::{self, ConfigError};
use schemas::agreement::Agreement;
use schemas::channel::Channel;
use scope::secret::NetworkSecret;
use serde::Deserialize;

use crate::control::change::{Body, Participant};
use crate::control::service::ControlError;
use crate::control::view::{AgreementEntry, ControlView};
use crate::grants::{Grant, GrantError};
use crate::registry::{RegisterError, Registry};

/// Changes of control that are under way at once: each waits for the log, and all of them for one fold.
const AT_ONCE: usize = 64;
/// The author of declarative changes.
const BY: &str = "declared";

/// A declaration that is passed over, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its file, or its own name.
    pub what: String,
    pub problem: String,
}

/// The result for a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Changes of control that were made.
    pub changes: usize,
    /// Passed over; the others apply.
    pub skipped: Vec<Skipped>,
    /// What control has and the folder has no more.
    pub drifted: Vec<String>,
}

/// The contents of a declarative folder: `participants.toml`, `channels/*.json`, `agreements/*.json`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Declared {
    /// From `participants.toml`.
    pub participants: Vec<Participant>,
    /// From `channels/`.
    pub channels: Vec<Channel>,
    /// From `agreements/`.
    pub agreements: Vec<Agreement>,
    /// Files that cannot be read.
    pub skipped: Vec<Skipped>,
    /// Whether it comes from a folder: then everything else in control has drifted.
    pub is_folder: bool,
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
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A change was refused.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A channel's schema was refused.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// An agreement cannot be compiled.
    #[error("agreement {number}: {error}")]
    Agreement { number: String, error: GrantError },
    /// No randomness for a log id.
    #[error(transparent)]
    Random(#[from] platform::random::NoRandomness),
}

impl DeclaredError {
    /// Whether this declaration itself is wrong, not the log or the registry.
    const fn is_its_own(&self) -> bool {
        use crate::registry::external::ExternalError;
        match self {
            Self::Config(_) | Self::Agreement { .. } | Self::Control(ControlError::Refused(_)) => true,
            Self::Register(error) => matches!(
                error,
                RegisterError::Schema(_)
                    | RegisterError::Incompatible(_)
                    | RegisterError::Known(_)
                    | RegisterError::External(ExternalError::Refused(_))
                    | RegisterError::Control(ControlError::Refused(_))
            ),
            Self::Control(_) | Self::Random(_) => false,
        }
    }
}

impl Applied {
    /// Logs what was applied, passed over, and found to have drifted.
    pub fn tell(&self) {
        if self.changes > 0 {
            tracing::info!(changes = self.changes, "applied the declarative files");
        }
        for Skipped { what, problem } in &self.skipped {
            tracing::error!(%what, %problem, "a declaration is passed over because it is wrong; the others were applied. Correct it, then restart the router");
        }
        for what in &self.drifted {
            tracing::warn!(%what, "the network has this, but no readable file of the folder declares it: a missing file ends nothing. Restore or correct its file; revoke it only if it is an agreement that shall end");
        }
    }

    /// Brings declarations, so many at once, and counts them in their order.
    async fn count_each<F>(
        &mut self,
        names: impl Iterator<Item = String>,
        brought: Vec<F>,
        at_once: usize,
    ) -> Result<(), DeclaredError>
    where
        F: Future<Output = Result<usize, DeclaredError>>,
    {
        let mut outcomes = stream::iter(brought).buffered(at_once);
        for what in names {
            let Some(outcome) = outcomes.next().await else { break };
            self.count(what, outcome)?;
        }
        Ok(())
    }

    fn count(&mut self, what: String, outcome: Result<usize, DeclaredError>) -> Result<(), DeclaredError> {
        match outcome {
            Ok(changes) => self.changes += changes,
            Err(error) if error.is_its_own() => {
                self.skipped.push(Skipped { what, problem: error.to_string() });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Declared {
    /// Reads a folder, which must be there. A file that cannot be read is left out and reported.
    pub fn read_each(dir: &Path) -> Result<Self, ConfigError> {
        let (declared, problems) = Self::read_with_problems(dir)?;
        let skipped = |(path, error): (PathBuf, ConfigError)| Skipped {
            what: path.display().to_string(),
            problem: error.to_string(),
        };
        Ok(Self { skipped: problems.into_iter().map(skipped).collect(), ..declared })
    }

    /// Reads a folder, which must be there; an unreadable file is an error, a missing part empty.
    pub fn read(dir: &Path) -> Result<Self, ConfigError> {
        let (declared, problems) = Self::read_with_problems(dir)?;
        match problems.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(declared),
        }
    }

    fn read_with_problems(dir: &Path) -> Result<(Self, Vec<(PathBuf, ConfigError)>), ConfigError> {
        is_there(dir)?;
        let mut problems = Vec::new();
        let (path, participants) = load_participants(dir);
        let participants = participants.unwrap_or_else(|error| {
            problems.push((path, error));
            Vec::new()
        });
        let channels = load_each(&dir.join("channels"), &mut problems)?;
        let channels = channels.into_iter().map(|(_, channel)| channel).collect();
        let agreements = load_each(&dir.join("agreements"), &mut problems)?;
        let agreements = agreements.into_iter().map(|(_, agreement)| agreement).collect();
        let declared = Self { participants, channels, agreements, skipped: Vec::new(), is_folder: true };
        Ok((declared, problems))
    }

    /// Applies the declarations to control. A wrong one is left out and reported; the others are applied.
    pub async fn apply(&self, registry: &Registry, secret: &NetworkSecret) -> Result<Applied, DeclaredError> {
        let secret = Arc::new(secret.clone());
        let mut applied = Applied { skipped: self.skipped.clone(), ..Applied::default() };
        let bring = |participant| bring_participant(registry, participant);
        let names = self.participants.iter().map(|participant| format!("participant {}", participant.id));
        let keys = self.participants.iter().map(|participant| &participant.id);
        applied.count_each(names, self.participants.iter().map(bring).collect(), at_once(keys)).await?;
        // A channel's declaration and its schema are two changes: one channel comes after the other.
        for channel in &self.channels {
            let outcome = bring_channel(registry, channel).await;
            applied.count(format!("channel {}", channel.name), outcome)?;
        }
        let bring = |agreement| bring_agreement(registry, agreement, &secret);
        let names = self.agreements.iter().map(|agreement| format!("agreement {}", agreement.number));
        let keys = self.agreements.iter().map(|agreement| &agreement.number);
        applied.count_each(names, self.agreements.iter().map(bring).collect(), at_once(keys)).await?;
        if self.is_folder {
            applied.drifted = self.drifted(&registry.control().view());
        }
        Ok(applied)
    }

    /// What control has and the folder does not declare: removing a file ends nothing.
    pub fn drifted(&self, view: &ControlView) -> Vec<String> {
        let declared: HashSet<_> = self.participants.iter().map(|participant| &participant.id).collect();
        let participants = view.participants.keys().filter(|id| !declared.contains(id));
        let declared: HashSet<_> = self.channels.iter().map(|channel| &channel.name).collect();
        let channels = view.channels.keys().filter(|name| !declared.contains(name));
        let declared: HashSet<_> = self.agreements.iter().map(|agreement| &agreement.number).collect();
        let now = platform::clock::now();
        let has_drifted =
            |(number, entry): &(_, &Arc<AgreementEntry>)| entry.stands_at(now) && !declared.contains(number);
        let agreements = view.agreements.iter().filter(has_drifted);
        let mut found: Vec<String> = participants.map(|id| format!("participant {id}")).collect();
        found.extend(channels.map(|name| format!("channel {name}")));
        found.extend(agreements.map(|(number, _)| format!("agreement {number}")));
        found
    }
}

/// How many declarations are brought at once: of those with the same key, one waits for the other.
fn at_once<K: Eq + Hash>(mut keys: impl Iterator<Item = K>) -> usize {
    let mut known = HashSet::new();
    if keys.all(|key| known.insert(key)) { AT_ONCE } else { 1 }
}

async fn bring_participant(registry: &Registry, participant: &Participant) -> Result<usize, DeclaredError> {
    let control = registry.control();
    if control.view().participants.get(&participant.id).map(AsRef::as_ref) == Some(participant) {
        return Ok(0);
    }
    control.change(BY, Body::Participant(participant.clone())).await?;
    Ok(1)
}

async fn bring_channel(registry: &Registry, channel: &Channel) -> Result<usize, DeclaredError> {
    let view = registry.control().view();
    if view.channels.get(&channel.name).is_none_or(|entry| entry.channel != *channel) {
        declare_channel(registry, BY, channel).await?;
        return Ok(1);
    }
    if !view.versions(&channel.registry_subject()).is_empty() {
        return Ok(0);
    }
    // A crash came between declaring it and registering its schema.
    registry.register_subject(BY, channel, &channel.schema).await?;
    Ok(1)
}

async fn bring_agreement(
    registry: &Registry,
    agreement: &Agreement,
    secret: &Arc<NetworkSecret>,
) -> Result<usize, DeclaredError> {
    let control = registry.control();
    let view = control.view();
    let known = view.agreements.get(&agreement.number);
    if known.is_some_and(|entry| entry.agreement.version > agreement.version) {
        tracing::info!(number = %agreement.number, "the file is older than the agreement in force");
        return Ok(0);
    }
    if known.is_some_and(|entry| entry.agreement == *agreement) {
        return Ok(0);
    }
    // Control must hold no agreement that does not compile, and itself refuses one without its channel.
    if let Some(entry) = view.channels.get(&agreement.channel) {
        let entry = Arc::clone(entry);
        let agreed = Arc::new(agreement.clone());
        Grant::new(&view, entry, agreed, Arc::clone(secret))
            .map_err(|error| DeclaredError::Agreement { number: agreement.number.to_string(), error })?;
    }
    control.change(BY, Body::Agreement(Box::new(agreement.clone()))).await?;
    Ok(1)
}

fn is_there(dir: &Path) -> Result<(), ConfigError> {
    if dir.is_dir() {
        return Ok(());
    }
    let error = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such folder");
    Err(ConfigError::Unreadable { path: dir.to_owned(), error })
}

/// The files of a part of the folder, each with its path; those that cannot be read become problems.
fn load_each<T: serde::de::DeserializeOwned>(
    dir: &Path,
    problems: &mut Vec<(PathBuf, ConfigError)>,
) -> Result<Vec<(PathBuf, T)>, ConfigError> {
    let mut found = Vec::new();
    for path in json_files(dir)? {
        match config::load_json(&path) {
            Ok(declared) => found.push((path, declared)),
            Err(error) => problems.push((path, error)),
        }
    }
    Ok(found)
}

fn load_participants(dir: &Path) -> (PathBuf, Result<Vec<Participant>, ConfigError>) {
    let path = dir.join("participants.toml");
    let read = path.exists().then(|| config::load::<ParticipantsFile>(&path).map(|file| file.participant));
    (path, read.unwrap_or_else(|| Ok(Vec::new())))
}

/// Declares a channel and registers its first schema; a repeat after a failure does only the rest.
pub async fn declare_channel(registry: &Registry, by: &str, channel: &Channel) -> Result<(), DeclaredError> {
    let control = registry.control();
    if control.view().channels.get(&channel.name).is_none_or(|entry| entry.channel != *channel) {
        let log_id = schemas::ids::LogId::new(platform::random::id()?);
        control.change(by, Body::Channel { channel: channel.clone(), log_id }).await?;
    }
    registry.register_subject(by, channel, &channel.schema).await?;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use event_log::Log;
    use event_log::memory::MemoryLog;
    use platform::shutdown::Tasks;
    use serde_json::json;

    use super::*;
    use crate::control::service::Control;

    fn agreement(number: &str, version: u32) -> Agreement {
        serde_json::from_value(json!({"number": number, "version": version, "provider": "1", "consumer": "2",
            "channel": "c", "purpose": format!("purpose {version}"), "legal_basis": "l",
            "valid_from": "2020-01-01T00:00:00Z", "history": "full", "schema_version": 1, "rows": "true",
            "fields": {"k": "keep"}}))
        .unwrap()
    }

    /// A folder's contents with one channel; its second participant is declared twice.
    fn declared(agreements: Vec<Agreement>) -> Declared {
        let participant = |id| serde_json::from_value(json!({"id": id, "name": id})).unwrap();
        let channel = json!({"name": "c", "kind": "distribution", "owner": "1", "partitions": 1, "key": {"fields": ["k"]},
            "schema": {"type": "record", "name": "R", "fields": [{"name": "k", "type": "string"}]}});
        Declared {
            participants: ["1", "2", "2"].map(participant).to_vec(),
            channels: vec![serde_json::from_value(channel).unwrap()],
            agreements,
            is_folder: true,
            ..Declared::default()
        }
    }

    /// What a folder's contents give where nothing is declared yet, and given once more.
    async fn applied_twice(declared: &Declared) -> [Applied; 2] {
        let tasks = Tasks::new();
        let control = Control::start(Arc::new(MemoryLog::default()) as Arc<dyn Log>, &tasks).await.unwrap();
        let registry = Registry::new(control, None);
        let secret = NetworkSecret::new(vec![1; 32]).unwrap();
        let first = declared.apply(&registry, &secret).await.unwrap();
        let second = declared.apply(&registry, &secret).await.unwrap();
        assert!(tasks.stop_and_join(Duration::from_secs(5)).await);
        [first, second]
    }

    #[tokio::test]
    async fn declarations_with_one_key_are_brought_one_after_the_other() {
        let agreements = vec![agreement("A", 1), agreement("A", 1), agreement("A", 2), agreement("B", 1)];
        let [first, second] = applied_twice(&declared(agreements)).await;
        let all = Applied { changes: 2 + 1 + 3, ..Applied::default() };
        assert_eq!((first, second), (all, Applied::default()));
    }

    #[tokio::test]
    async fn of_many_declarations_the_wrong_one_is_named_and_the_others_apply() {
        let mut agreements: Vec<_> = (0..200).map(|number| agreement(&format!("A-{number}"), 1)).collect();
        agreements[70] = agreement("A-70", 3);
        let [first, second] = applied_twice(&declared(agreements)).await;
        for (applied, changes) in [(first, 2 + 1 + 199), (second, 0)] {
            assert_eq!((applied.changes, applied.skipped.len()), (changes, 1));
            assert_eq!(applied.skipped[0].what, "agreement A-70");
            assert!(
                applied.skipped[0].problem.contains("its version must be 1, not 3"),
                "{:?}",
                applied.skipped
            );
        }
    }
}
