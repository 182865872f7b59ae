//! Participants, channels and agreements from declarative files.
//!
//! Owns the files' shapes and their loading into control: what is new is added, what is there and equal is left,
//! what differs is amended where that can be. Until agreements are signed, such a file counts as both signatures.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use platform::config::{self, ConfigError};
use schemas::agreement::Agreement;
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::channel::Channel;
use schemas::ids::{AgreementVersion, SchemaVersion};
use scope::secret::NetworkSecret;
use serde::Deserialize;

use super::change::{Body, Change, Participant};
use super::service::ControlError;
use super::view::ControlView;
use crate::delivery::scopes::{ScopeError, Scopes};
use crate::registry::{RegisterError, Registry};

/// Who declarative changes are by.
const BY: &str = "declared";

/// A declaration that is passed over, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its file, or its own name.
    pub what: String,
    /// Why.
    pub problem: String,
}

/// What came of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Changes of control that it took.
    pub changes: usize,
    /// What was passed over: the others stand.
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
    /// Whether it is a folder's: then it is all that should be, and what else there is has drifted.
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
    /// A file.
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
    Agreement {
        /// Its number.
        number: String,
        /// Why.
        error: ScopeError,
    },
    /// No randomness for a log id.
    #[error(transparent)]
    Random(#[from] platform::random::NoRandomness),
}

impl DeclaredError {
    /// Whether this declaration alone is wrong, not what it is brought to.
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
    /// Says in the router's log what was done, passed over, and found beside.
    pub fn tell(&self) {
        if self.changes > 0 {
            tracing::info!(changes = self.changes, "applied the declarative files");
        }
        for Skipped { what, problem } in &self.skipped {
            tracing::error!(%what, %problem, "a declaration is passed over; the others stand");
        }
        for what in &self.drifted {
            tracing::warn!(%what, "it is in force and not declared any more: a file that is removed ends nothing; revoke it, or declare it");
        }
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
    /// Reads a folder, which must be there. A file that cannot be read is passed over by name.
    pub fn read_each(dir: &Path) -> Result<Self, ConfigError> {
        is_there(dir)?;
        let mut skipped = Vec::new();
        let participants = dir.join("participants.toml");
        let participants =
            match participants.exists().then(|| config::load::<ParticipantsFile>(&participants)) {
                Some(Ok(file)) => file.participant,
                Some(Err(error)) => {
                    skipped
                        .push(Skipped { what: "participants.toml".to_owned(), problem: error.to_string() });
                    Vec::new()
                }
                None => Vec::new(),
            };
        let channels = each_file(&dir.join("channels"), &mut skipped)?;
        let agreements = each_file(&dir.join("agreements"), &mut skipped)?;
        Ok(Self { participants, channels, agreements, skipped, is_folder: true })
    }

    /// Reads a folder, which must be there, with all its files; missing parts are empty.
    pub fn read(dir: &Path) -> Result<Self, ConfigError> {
        is_there(dir)?;
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
        Ok(Self { participants, channels, agreements, skipped: Vec::new(), is_folder: true })
    }

    /// Brings control to what is declared. A declaration that is wrong is passed over by name: the others stand.
    pub async fn apply(&self, registry: &Registry, secret: &NetworkSecret) -> Result<Applied, DeclaredError> {
        let secret = Arc::new(secret.clone());
        let mut applied = Applied { skipped: self.skipped.clone(), ..Applied::default() };
        for participant in &self.participants {
            let outcome = bring_participant(registry, participant).await;
            applied.count(format!("participant {}", participant.id), outcome)?;
        }
        for channel in &self.channels {
            let outcome = bring_channel(registry, channel).await;
            applied.count(format!("channel {}", channel.name), outcome)?;
        }
        for agreement in &self.agreements {
            let outcome = bring_agreement(registry, agreement, &secret).await;
            applied.count(format!("agreement {}", agreement.number), outcome)?;
        }
        if self.is_folder {
            applied.drifted = self.drifted(&registry.control().view());
        }
        Ok(applied)
    }

    /// What control has and the folder has not: a file that was removed ends nothing.
    pub fn drifted(&self, view: &ControlView) -> Vec<String> {
        let participants =
            view.participants.keys().filter(|id| !self.participants.iter().any(|p| p.id == **id));
        let channels = view.channels.keys().filter(|name| !self.channels.iter().any(|c| c.name == **name));
        let agreements = view.agreements.iter().filter(|(number, entry)| {
            entry.stands_at(platform::clock::now()) && !self.agreements.iter().any(|a| a.number == **number)
        });
        let mut found: Vec<String> = participants.map(|id| format!("participant {id}")).collect();
        found.extend(channels.map(|name| format!("channel {name}")));
        found.extend(agreements.map(|(number, _)| format!("agreement {number}")));
        found
    }
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
    // A crash between declaring it and registering its schema.
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
    // What cannot be compiled must not get into control; one without its channel is refused there.
    if let Some(entry) = view.channels.get(&agreement.channel) {
        let (entry, agreed) = (Arc::clone(entry), Arc::new(agreement.clone()));
        Scopes::new(&view, entry, agreed, Arc::clone(secret))
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

fn each_file<T: serde::de::DeserializeOwned>(
    dir: &Path,
    skipped: &mut Vec<Skipped>,
) -> Result<Vec<T>, ConfigError> {
    let mut found = Vec::new();
    for path in json_files(dir)? {
        match config::load_json(&path) {
            Ok(declared) => found.push(declared),
            Err(error) => {
                skipped.push(Skipped { what: path.display().to_string(), problem: error.to_string() });
            }
        }
    }
    Ok(found)
}

/// What a folder holds whose files fit each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Participants.
    pub participants: usize,
    /// Channels.
    pub channels: usize,
    /// Agreements.
    pub agreements: usize,
    /// Of these, written against a schema that only a router can know: their rows and fields were not checked.
    pub unseen: usize,
}

/// Checks the files of a folder one after another against each other, as a new router would take them: what there
/// is, or the first that cannot be.
pub fn check(dir: &Path, secret: &NetworkSecret) -> Result<Checked, ConfigError> {
    let mut view = ControlView::default();
    let declared = Declared::read(dir)?;
    for participant in &declared.participants {
        fold(&mut view, &dir.join("participants.toml"), Body::Participant(participant.clone()))?;
    }
    let invalid = |path: &Path, problem: String| {
        let (path, key) = (path.to_owned(), "it cannot be declared".to_owned());
        ConfigError::Invalid { path, key, problem }
    };
    for (path, channel) in json_files(&dir.join("channels"))?.iter().zip(&declared.channels) {
        let log_id = schemas::ids::LogId::new([0; 16]);
        fold(&mut view, path, Body::Channel { channel: channel.clone(), log_id })?;
        let envelope = AvroSchema::from_json(channel.schema.clone()).and_then(|s| ChangeCodec::new(&s));
        let schema = envelope.map_err(|e| invalid(path, e.to_string()))?.envelope().json().clone();
        fold(&mut view, path, Body::Schema { subject: channel.registry_subject(), schema, id: None })?;
    }
    let secret = Arc::new(secret.clone());
    let Declared { participants, channels, agreements, .. } = &declared;
    let (participants, channels, agreements) = (participants.len(), channels.len(), agreements.len());
    let mut checked = Checked { participants, channels, agreements, unseen: 0 };
    for (path, agreement) in json_files(&dir.join("agreements"))?.iter().zip(&declared.agreements) {
        agreement.validate().map_err(|error| invalid(path, error.to_string()))?;
        // Earlier versions are the router's to know.
        let first = Agreement { version: AgreementVersion::new(1), ..agreement.clone() };
        fold(&mut view, path, Body::Agreement(Box::new(first)))?;
        let is_newer = agreement.schema_version > SchemaVersion::new(1);
        checked.unseen += usize::from(is_newer);
        if let Some(entry) = view.channels.get(&agreement.channel).filter(|_| !is_newer) {
            let (entry, agreement) = (Arc::clone(entry), Arc::new(agreement.clone()));
            let scopes = Scopes::new(&view, entry, agreement, Arc::clone(&secret));
            scopes.map_err(|error| invalid(path, error.to_string()))?;
        }
    }
    Ok(checked)
}

fn fold(view: &mut ControlView, path: &Path, body: Body) -> Result<(), ConfigError> {
    let (format, replaces) = (body.format(), view.revision(&body.entity()));
    let change = Change { format, replaces, by: BY.to_owned(), body };
    view.apply(&change, platform::clock::now()).map_err(|refusal| ConfigError::Invalid {
        path: path.to_owned(),
        key: "it cannot be declared".to_owned(),
        problem: refusal.to_string(),
    })
}

/// Declares a channel and registers its first schema; what was done before a failure is not done again.
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
    use super::*;

    fn folder(agreement: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["channels", "agreements"] {
            std::fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "participants.toml",
            "[[participant]]\nid = \"1\"\nname = \"a\"\n[[participant]]\nid = \"2\"\nname = \"b\"\n",
        );
        write(
            "channels/c.json",
            r#"{"name": "c", "kind": "distribution", "owner": "1", "partitions": 1, "key": {"fields": ["k"]},
                "schema": {"type": "record", "name": "R", "fields": [{"name": "k", "type": "string"}]}}"#,
        );
        write("agreements/A.json", agreement);
        dir
    }

    fn problem(changes: &[(&str, &str)]) -> String {
        let good = r#"{"number": "A", "version": 3, "provider": "1", "consumer": "2", "channel": "c",
            "purpose": "p", "legal_basis": "l", "valid_from": "2026-01-01T00:00:00Z", "history": "full",
            "schema_version": 1, "rows": "k == \"x\"", "fields": {"k": "keep"}}"#;
        let text = changes.iter().fold(good.to_owned(), |text, (from, to)| text.replace(from, to));
        let dir = folder(&text);
        let secret = NetworkSecret::new(vec![0; 32]).unwrap();
        check(dir.path(), &secret).map_or_else(|error| error.to_string(), |checked| format!("{checked:?}"))
    }

    #[test]
    fn files_are_checked_against_each_other_and_the_wrong_one_is_named() {
        let good = Checked { participants: 2, channels: 1, agreements: 1, unseen: 0 };
        assert_eq!(problem(&[]), format!("{good:?}"));
        let later = ("\"schema_version\": 1", "\"schema_version\": 2");
        assert_eq!(problem(&[later, ("k ==", "nope ==")]), format!("{:?}", Checked { unseen: 1, ..good }));
        for (from, to, says) in [
            ("\"channel\": \"c\"", "\"channel\": \"d\"", "there is no channel d"),
            ("\"consumer\": \"2\"", "\"consumer\": \"3\"", "its consumer 3 is not registered"),
            ("\"provider\": \"1\"", "\"provider\": \"2\"", "channel c is not 2's"),
            ("k ==", "nope ==", "nope"),
            ("\"version\": 3", "\"version\": 0", "version"),
            ("\"schema_version\": 1", "\"schema_version\": 0", "schema"),
            ("{\"k\": \"keep\"}", "{\"z\": \"keep\"}", "z"),
        ] {
            let problem = problem(&[(from, to)]);
            assert!(problem.contains("agreements/A.json") && problem.contains(says), "{problem}");
        }
    }
}
