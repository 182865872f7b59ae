//! A check of a folder of declarations before a router takes it: do its files fit each other?
//!
//! Owns the check, which changes nothing and names every wrong file. It rehearses what a router does with the folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use platform::config::ConfigError;
use schemas::agreement::Agreement;
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::channel::Channel;
use schemas::ids::{AgreementVersion, LogId, SchemaVersion};
use scope::secret::NetworkSecret;

use super::{BY, is_there, load_each, load_participants};
use crate::control::change::{Body, Change};
use crate::control::view::ControlView;
use crate::grants::Grant;

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Checked {
    pub participants: usize,
    pub channels: usize,
    pub agreements: usize,
    /// Agreements against a schema that only a router can know: their rows and fields were not checked.
    pub unseen: usize,
    /// What is wrong, each with its file; empty where all fits.
    pub problems: Vec<ConfigError>,
    /// Entries that no router reads, by their name or folder: perhaps they were meant as declarations.
    pub passed_over: Vec<PathBuf>,
}

/// Checks the files of a folder against each other, in the order in which a new router takes them.
pub fn check(dir: &Path, secret: &NetworkSecret) -> Result<Checked, ConfigError> {
    is_there(dir)?;
    let mut unread = Vec::new();
    let mut checking = Checking { view: ControlView::default(), secret: Arc::new(secret.clone()) };
    let mut checked = Checked::default();
    let (path, participants) = load_participants(dir);
    match participants {
        Ok(participants) => {
            checked.participants = participants.len();
            for participant in participants {
                checked.problems.extend(checking.fold(&path, Body::Participant(participant)).err());
            }
        }
        Err(error) => unread.push((path, error)),
    }
    let channels = load_each(&dir.join("channels"), &mut unread)?;
    checked.channels = channels.len();
    for (path, channel) in channels {
        checked.problems.extend(checking.channel(&path, &channel).err());
    }
    let agreements: Vec<(PathBuf, Agreement)> = load_each(&dir.join("agreements"), &mut unread)?;
    checked.agreements = agreements.len();
    for (path, agreement) in agreements {
        checked.unseen += usize::from(is_newer(&agreement));
        checked.problems.extend(checking.agreement(&path, &agreement).err());
    }
    checked.passed_over = passed_over(dir)?;
    // Files that cannot be read come first: others may be wrong only because these are missing.
    checked.problems.splice(0..0, unread.into_iter().map(|(_, error)| error));
    Ok(checked)
}

/// Entries that no router reads.
fn passed_over(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = |dir: &Path| -> Result<Vec<PathBuf>, ConfigError> {
        let unreadable = |error| ConfigError::Unreadable { path: dir.to_owned(), error };
        let read = std::fs::read_dir(dir).map_err(unreadable)?;
        read.map(|entry| entry.map(|entry| entry.path()).map_err(unreadable)).collect()
    };
    let mut found = Vec::new();
    for path in entries(dir)? {
        match path.file_name().and_then(std::ffi::OsStr::to_str) {
            Some("participants.toml") => {}
            Some("channels" | "agreements") if path.is_dir() => {
                let is_other = |path: &PathBuf| path.extension().is_none_or(|ending| ending != "json");
                found.extend(entries(&path)?.into_iter().filter(is_other));
            }
            _ => found.push(path),
        }
    }
    found.sort();
    Ok(found)
}

/// Whether its schema version is later than the only one in the channel's declaration.
fn is_newer(agreement: &Agreement) -> bool {
    agreement.schema_version > SchemaVersion::new(1)
}

fn invalid(path: &Path, problem: &impl ToString) -> ConfigError {
    let path = path.to_owned();
    let key = "it cannot be declared".to_owned();
    ConfigError::Invalid { path, key, problem: problem.to_string() }
}

/// What a new router would know so far.
struct Checking {
    view: ControlView,
    secret: Arc<NetworkSecret>,
}

impl Checking {
    fn fold(&mut self, path: &Path, body: Body) -> Result<(), ConfigError> {
        let format = body.format();
        let replaces = self.view.revision(&body.entity());
        let change = Change { format, replaces, by: BY.to_owned(), body };
        self.view.apply(&change, platform::clock::now()).map_err(|refusal| invalid(path, &refusal))
    }

    fn channel(&mut self, path: &Path, channel: &Channel) -> Result<(), ConfigError> {
        self.fold(path, Body::Channel { channel: channel.clone(), log_id: LogId::new([0; 16]) })?;
        let codec =
            AvroSchema::from_json(channel.schema.clone()).and_then(|schema| ChangeCodec::new(&schema));
        let schema = codec.map_err(|error| invalid(path, &error))?.block_schema().json().clone();
        self.fold(path, Body::Schema { subject: channel.registry_subject(), schema, id: None })
    }

    fn agreement(&mut self, path: &Path, agreement: &Agreement) -> Result<(), ConfigError> {
        agreement.validate().map_err(|error| invalid(path, &error))?;
        // Only a router knows earlier versions.
        let first = Agreement { version: AgreementVersion::new(1), ..agreement.clone() };
        self.fold(path, Body::Agreement(Box::new(first)))?;
        if let Some(entry) = self.view.channels.get(&agreement.channel).filter(|_| !is_newer(agreement)) {
            let entry = Arc::clone(entry);
            let agreement = Arc::new(agreement.clone());
            let scopes = Grant::new(&self.view, entry, agreement, Arc::clone(&self.secret));
            scopes.map_err(|error| invalid(path, &error))?;
        }
        Ok(())
    }
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
        format!("{:?}", check(dir.path(), &secret).unwrap())
    }

    #[test]
    fn files_are_checked_against_each_other_and_the_wrong_one_is_named() {
        let problems = Vec::new();
        let passed_over = Vec::new();
        let good = Checked { participants: 2, channels: 1, agreements: 1, unseen: 0, problems, passed_over };
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

    #[test]
    fn every_file_that_is_wrong_is_named_at_once() {
        let dir = folder("{\"number\": }");
        std::fs::write(dir.path().join("agreements/B.json"), "[]").unwrap();
        std::fs::write(dir.path().join("channels/d.json"), "{\"name\": \"d\"}").unwrap();
        std::fs::write(dir.path().join("participants.toml"), "[[participant]]\nid = 1\n").unwrap();
        let checked = check(dir.path(), &NetworkSecret::new(vec![0; 32]).unwrap()).unwrap();
        let problems: Vec<String> = checked.problems.iter().map(ToString::to_string).collect();
        for (name, problem) in
            ["participants.toml", "d.json", "A.json", "B.json", "c.json"].iter().zip(&problems)
        {
            assert!(problem.contains(name), "{problems:#?}");
        }
        assert_eq!(problems.len(), 5, "{problems:#?}");
        assert!(problems[4].contains("its owner"), "the channel's owner stands in no file: {problems:#?}");
        std::fs::write(dir.path().join("agreements/C.JSN"), "{}").unwrap();
        std::fs::create_dir(dir.path().join("agrements")).unwrap();
        let checked = check(dir.path(), &NetworkSecret::new(vec![0; 32]).unwrap()).unwrap();
        assert_eq!(checked.passed_over, [dir.path().join("agreements/C.JSN"), dir.path().join("agrements")]);
    }
}
