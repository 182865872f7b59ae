//! The fold of all control changes: what is in force at an offset of the control topic.
//!
//! Owns the rules of each entity's life. Pure: (view, change) → view or refusal. Every router that has folded
//! the same offset holds the same view.

use std::sync::Arc;

use imbl::OrdMap;
use schemas::agreement::{Agreement, Status};
use schemas::avro::compatibility::Level;
use schemas::avro::schema::AvroSchema;
use schemas::channel::Channel;
use schemas::delivery::CloseReason;
use schemas::ids::{
    AgreementNumber, AgreementVersion, ChannelName, LogId, Offset, ParticipantId, Revision, SchemaId,
    SchemaVersion,
};
use schemas::publish::AgreementStatus;
use schemas::time::Millis;
use sha2::{Digest as _, Sha256};

use super::change::{AuditHead, Body, Change, FORMAT, Participant};

/// A channel in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelEntry {
    pub channel: Channel,
    /// The id of its log.
    pub log_id: LogId,
}

/// An agreement in force or past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgreementEntry {
    /// The newest version.
    pub agreement: Agreement,
    pub status: Status,
    /// Why, for people.
    pub reason: String,
    /// Who made the change.
    pub by: String,
}

impl AgreementEntry {
    /// The SHA-256 of the newest version's text, in hexadecimal digits.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(serde_json::to_vec(&self.agreement).unwrap_or_default()))
    }

    /// As its parties see it.
    pub fn as_told(&self) -> AgreementStatus {
        AgreementStatus {
            agreement: self.agreement.clone(),
            status: self.status,
            reason: self.reason.clone(),
        }
    }

    /// Whether it is in force at a time.
    pub fn stands_at(&self, at: Millis) -> bool {
        self.status == Status::Active && self.agreement.is_valid_at(at)
    }

    /// Why a stream under `version` must close; `None` while it may continue.
    pub fn verdict(&self, version: AgreementVersion) -> Option<CloseReason> {
        match self.status {
            Status::Revoked => Some(CloseReason::Revoked),
            Status::Expired => Some(CloseReason::Expired),
            Status::Suspended => Some(CloseReason::Suspended),
            Status::Active => (self.agreement.version != version).then_some(CloseReason::Amended),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub id: SchemaId,
    /// The subject that registered it first.
    pub subject: String,
    pub schema: AvroSchema,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// Ids by version; the first is version 1.
    pub versions: Vec<SchemaId>,
}

/// Why a change does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another change came first.
    #[error(
        "{entity} is at revision {current} now, but the change was made for revision {replaces}; read it again, then repeat the change"
    )]
    Conflict {
        entity: String,
        current: Revision,
        /// What the change names.
        replaces: Revision,
    },
    /// The change breaks a rule.
    #[error("{0}")]
    Rule(String),
}

/// What is in force. Views share what is equal in them: a copy costs next to nothing, whatever the network holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ControlView {
    /// The first control offset that is not folded yet.
    pub applied: Offset,
    pub participants: OrdMap<ParticipantId, Arc<Participant>>,
    pub channels: OrdMap<ChannelName, Arc<ChannelEntry>>,
    pub agreements: OrdMap<AgreementNumber, Arc<AgreementEntry>>,
    pub schemas: OrdMap<SchemaId, Arc<Registered>>,
    pub subjects: OrdMap<String, Arc<Subject>>,
    pub audit_heads: OrdMap<String, AuditHead>,
    levels: OrdMap<String, Level>,
    revisions: OrdMap<String, Revision>,
}

impl ControlView {
    /// An entity's revision; 0 when it does not exist.
    pub fn revision(&self, entity: &str) -> Revision {
        self.revisions.get(entity).copied().unwrap_or_default()
    }

    /// A subject's compatibility level.
    pub fn level(&self, subject: &str) -> Level {
        self.levels.get(subject).or_else(|| self.levels.get("")).copied().unwrap_or_default()
    }

    /// A subject's schemas, oldest first.
    pub fn versions(&self, subject: &str) -> Vec<Arc<Registered>> {
        let ids = self.subjects.get(subject).map(|s| s.versions.as_slice()).unwrap_or_default();
        ids.iter().filter_map(|id| self.schemas.get(id)).map(Arc::clone).collect()
    }

    /// The version of a schema id in a subject.
    pub fn version_of(&self, subject: &str, id: SchemaId) -> Option<SchemaVersion> {
        let versions = &self.subjects.get(subject)?.versions;
        let index = versions.iter().position(|known| *known == id)?;
        u32::try_from(index + 1).ok().map(SchemaVersion::new)
    }

    /// The id of a schema, if the subject has it already.
    pub fn find_schema(&self, subject: &str, schema: &AvroSchema) -> Option<SchemaId> {
        self.versions(subject).into_iter().find(|r| r.schema == *schema).map(|r| r.id)
    }

    /// Folds a change that was logged at `at`.
    pub fn apply(&mut self, change: &Change, at: Millis) -> Result<(), Refusal> {
        if change.format > FORMAT {
            let format = change.format;
            return Err(Refusal::Rule(format!("the change has format {format}; use a newer dit")));
        }
        let entity = change.body.entity();
        let current = self.revision(&entity);
        if current != change.replaces {
            return Err(Refusal::Conflict { entity, current, replaces: change.replaces });
        }
        match &change.body {
            Body::Participant(participant) => {
                self.participants.insert(participant.id.clone(), Arc::new(participant.clone()));
            }
            Body::Channel { channel, log_id } => self.apply_channel(channel, *log_id)?,
            Body::Agreement(agreement) => self.apply_agreement(agreement, &change.by)?,
            Body::AgreementStatus { number, status, reason } => {
                self.apply_status(number, *status, reason, &change.by, at)?;
            }
            Body::Schema { subject, schema, id } => self.apply_schema(subject, schema, *id)?,
            Body::Compatibility { subject, level } => {
                self.levels.insert(subject.clone(), *level);
            }
            Body::AuditHead(head) => {
                self.audit_heads.insert(head.router.clone(), head.clone());
            }
        }
        self.revisions.insert(entity, current.next());
        Ok(())
    }

    fn apply_channel(&mut self, channel: &Channel, log_id: LogId) -> Result<(), Refusal> {
        channel.validate().map_err(|e| Refusal::Rule(format!("channel {}: {e}", channel.name)))?;
        if !self.participants.contains_key(&channel.owner) {
            return Err(Refusal::Rule(format!(
                "channel {}: its owner {} is not registered",
                channel.name, channel.owner
            )));
        }
        if self.channels.contains_key(&channel.name) {
            return Err(Refusal::Rule(format!(
                "channel {} is declared already; partitions and key never change, schemas go to the registry",
                channel.name
            )));
        }
        let entry = ChannelEntry { channel: channel.clone(), log_id };
        self.channels.insert(channel.name.clone(), Arc::new(entry));
        Ok(())
    }

    fn apply_agreement(&mut self, agreement: &Agreement, by: &str) -> Result<(), Refusal> {
        let rule = |text: String| Err(Refusal::Rule(format!("agreement {}: {text}", agreement.number)));
        agreement.validate().map_err(|e| Refusal::Rule(e.to_string()))?;
        let Some(entry) = self.channels.get(&agreement.channel) else {
            return rule(format!("there is no channel {}", agreement.channel));
        };
        if entry.channel.owner != agreement.provider {
            return rule(format!("channel {} is not {}'s", agreement.channel, agreement.provider));
        }
        if !self.participants.contains_key(&agreement.consumer) {
            return rule(format!("its consumer {} is not registered", agreement.consumer));
        }
        let expected = match self.agreements.get(&agreement.number) {
            None => AgreementVersion::new(1),
            Some(existing) => {
                let before = &existing.agreement;
                if matches!(existing.status, Status::Revoked | Status::Expired) {
                    return rule("it has ended; make a new agreement".to_owned());
                }
                if (&before.consumer, &before.channel) != (&agreement.consumer, &agreement.channel) {
                    return rule("consumer and channel never change; make a new agreement".to_owned());
                }
                before.version.next()
            }
        };
        if agreement.version != expected {
            return rule(format!("its version must be {expected}, not {}", agreement.version));
        }
        let agreement = agreement.clone();
        let reason = String::new();
        let by = by.to_owned();
        let entry = AgreementEntry { agreement, status: Status::Active, reason, by };
        self.agreements.insert(entry.agreement.number.clone(), Arc::new(entry));
        Ok(())
    }

    fn apply_status(
        &mut self,
        number: &AgreementNumber,
        status: Status,
        reason: &str,
        by: &str,
        at: Millis,
    ) -> Result<(), Refusal> {
        let rule = |text: &str| Err(Refusal::Rule(format!("agreement {number}: {text}")));
        let Some(existing) = self.agreements.get(number) else { return rule("does not exist") };
        if matches!(existing.status, Status::Revoked | Status::Expired) {
            return rule("it has ended, and its status cannot change; make a new agreement");
        }
        // The log's own time judges: no router's clock can end an agreement early.
        if status == Status::Expired && existing.agreement.valid_to.is_none_or(|to| at < Millis::from(to)) {
            return rule("it has not reached its last day");
        }
        let agreement = existing.agreement.clone();
        let reason = reason.to_owned();
        let by = by.to_owned();
        let entry = AgreementEntry { agreement, status, reason, by };
        self.agreements.insert(number.clone(), Arc::new(entry));
        Ok(())
    }

    fn apply_schema(
        &mut self,
        subject: &str,
        schema: &serde_json::Value,
        given: Option<SchemaId>,
    ) -> Result<(), Refusal> {
        let schema = AvroSchema::from_json(schema.clone()).map_err(|e| Refusal::Rule(e.to_string()))?;
        if self.find_schema(subject, &schema).is_some() {
            return Err(Refusal::Rule(format!("subject {subject} has this schema already")));
        }
        // The same schema has the same id in every subject, as in Confluent's registry.
        let known = self.schemas.values().find(|r| r.schema == schema).map(|r| r.id);
        if let Some(id) = given
            && self.schemas.get(&id).is_some_and(|registered| registered.schema != schema)
        {
            return Err(Refusal::Rule(format!(
                "schema id {id} belongs to another schema of this network; the registry is not the one that this network began with: name that one in [registry]"
            )));
        }
        let id = given.or(known).unwrap_or_else(|| {
            SchemaId::new(self.schemas.get_max().map_or(1, |(last, _)| last.get().saturating_add(1)))
        });
        self.schemas
            .entry(id)
            .or_insert_with(|| Arc::new(Registered { id, subject: subject.to_owned(), schema }));
        let mut entry = self.subjects.get(subject).map(|s| s.as_ref().clone()).unwrap_or_default();
        entry.versions.push(id);
        self.subjects.insert(subject.to_owned(), Arc::new(entry));
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn change(view: &ControlView, body: Body) -> Change {
        let replaces = view.revision(&body.entity());
        Change { format: FORMAT, replaces, by: "test".to_owned(), body }
    }

    fn apply(view: &mut ControlView, body: Body) -> Result<(), Refusal> {
        let change = change(view, body);
        view.apply(&change, Millis::new(0))
    }

    fn participant(id: &str) -> Body {
        Body::Participant(Participant { id: id.parse().unwrap(), name: id.to_owned() })
    }

    fn channel() -> Body {
        let json = serde_json::json!({"name": "c", "kind": "distribution", "owner": "1", "partitions": 2,
            "key": {"fields": ["a"]},
            "schema": {"type": "record", "name": "R", "fields": [{"name": "a", "type": "string"}]}});
        Body::Channel { channel: serde_json::from_value(json).unwrap(), log_id: LogId::new([1; 16]) }
    }

    /// Agreement A on channel c, from 1 to another participant.
    pub(crate) fn agreement(version: u32, consumer: &str) -> Body {
        let json = serde_json::json!({"number": "A", "version": version, "provider": "1", "consumer": consumer,
            "channel": "c", "purpose": "p", "legal_basis": "l", "valid_from": "1970-01-01T00:00:00Z",
            "valid_to": "1970-01-02T00:00:00Z", "history": "full", "schema_version": 1, "rows": "true",
            "fields": {"a": "keep"}});
        Body::Agreement(Box::new(serde_json::from_value(json).unwrap()))
    }

    /// A status of agreement A.
    pub(crate) fn status(status: Status) -> Body {
        Body::AgreementStatus { number: "A".parse().unwrap(), status, reason: "r".to_owned() }
    }

    /// The changes that make a network with agreement A in version 1.
    pub(crate) fn bodies() -> [Body; 4] {
        [participant("1"), participant("2"), channel(), agreement(1, "2")]
    }

    fn ready() -> ControlView {
        let mut view = ControlView::default();
        for body in bodies() {
            apply(&mut view, body).unwrap();
        }
        view
    }

    #[test]
    fn a_change_counts_only_if_it_names_what_it_replaces() {
        let mut view = ready();
        let amended = change(&view, agreement(2, "2"));
        assert_eq!(view.apply(&amended, Millis::new(0)), Ok(()));
        assert!(matches!(view.apply(&amended, Millis::new(0)), Err(Refusal::Conflict { .. })));
    }

    #[test]
    fn an_agreement_is_amended_by_ones_and_ends_for_good() {
        let mut view = ready();
        assert!(apply(&mut view, agreement(3, "2")).is_err());
        assert!(apply(&mut view, agreement(2, "1")).is_err(), "another consumer");
        assert_eq!(apply(&mut view, status(Status::Suspended)), Ok(()));
        assert_eq!(apply(&mut view, status(Status::Active)), Ok(()));
        assert_eq!(apply(&mut view, status(Status::Revoked)), Ok(()));
        assert!(apply(&mut view, status(Status::Active)).is_err());
        assert!(apply(&mut view, agreement(2, "2")).is_err());
        let entry = view.agreements.values().next().unwrap();
        assert_eq!(entry.verdict(AgreementVersion::new(1)), Some(CloseReason::Revoked));
    }

    #[test]
    fn an_expiry_is_judged_by_the_logs_time() {
        let mut view = ready();
        let early = change(&view, status(Status::Expired));
        assert!(view.apply(&early, Millis::new(86_399_999)).is_err());
        assert_eq!(view.apply(&early, Millis::new(86_400_000)), Ok(()));
    }

    #[test]
    fn a_schema_has_one_id_everywhere() {
        let mut view = ControlView::default();
        let schema = |subject: &str, kind: &str| Body::Schema {
            subject: subject.into(),
            schema: kind.into(),
            id: None,
        };
        for (subject, kind) in [("a", "int"), ("a", "long"), ("b", "int")] {
            apply(&mut view, schema(subject, kind)).unwrap();
        }
        assert!(apply(&mut view, schema("a", "int")).is_err());
        assert_eq!(view.subjects["a"].versions, [SchemaId::new(1), SchemaId::new(2)]);
        assert_eq!(view.subjects["b"].versions, [SchemaId::new(1)]);
        assert_eq!(view.version_of("a", SchemaId::new(2)), Some(SchemaVersion::new(2)));
    }
}
