//! The scope: one agreement version compiled against one schema version, and the decision it makes over bytes.
//!
//! Owns the transition rule over both images. It builds no values: the predicate reads the fields that it needs, and
//! the permitted fields are copied. Its decisions equal those of `model`.

use std::borrow::Cow;

use schemas::agreement::{Agreement, Transform};
use schemas::avro::located::{Ends, Located};
use schemas::avro::resolution::resolve_datum;
use schemas::avro::resolver::Resolver;
use schemas::avro::schema::AvroSchema;
use schemas::change::{Images, Op};
use schemas::delivery::{Event, Reason};
use sha2::{Digest as _, Sha256};

use crate::compile::{CompileError, Compiled, Terms};
use crate::denial::Denial;
use crate::permit::{Deliveries, Outcome, Permitted, RecordMetadata};
use crate::predicate::access::AccessPredicates;
use crate::predicate::{Filter, Predicate, Truth};
use crate::projection::Projection;
use crate::secret::AgreementKey;
use crate::transform::FieldRule;

/// The rows that a consumer has of an event's subject.
#[derive(Debug)]
pub struct Rows {
    pub before: Option<Permitted<Outcome>>,
    pub after: Option<Permitted<Outcome>>,
}

/// A hash over all that a scope's decisions and images depend on: equal for equal scopes of different agreements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(
        agreement: &Agreement,
        terms: &Terms<'_>,
        predicate: &Predicate,
        rules: &[(usize, FieldRule)],
        derived: &AvroSchema,
        keeps_key: bool,
    ) -> Self {
        let is_keyed = !keeps_key || rules.iter().any(|(_, rule)| rule.transform == Transform::Hash);
        // Each agreement hashes with a key of its own.
        let own = is_keyed.then_some(&agreement.number);
        let schemas = (terms.agreed.fingerprint(), terms.writer.fingerprint(), terms.age);
        let words = format!("{schemas:?} {predicate:?} {rules:?} {} {keeps_key} {own:?}", derived.text());
        Self(Sha256::digest(words.as_bytes()).into())
    }
}

/// The images of an event from which an index leads to a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hits {
    pub(crate) before: bool,
    pub(crate) after: bool,
}

/// Without an index, both images are looked at.
const BOTH: Hits = Hits { before: true, after: true };

/// One agreement version compiled against one schema version.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Resolves records of an older schema; `None` where records are judged as they come.
    older: Option<Older>,
    effective: AvroSchema,
    filter: Filter,
    projection: Projection,
    derived: AvroSchema,
    keeps_key: bool,
    key: AgreementKey,
    pending: Vec<String>,
    fingerprint: Fingerprint,
}

impl Scope {
    /// Compiles an agreement against the records of one schema.
    pub fn compile(agreement: &Agreement, terms: &Terms<'_>) -> Result<Self, CompileError> {
        let Compiled { effective, is_resolved, predicate, rules, derived, keeps_key, key, pending } =
            Compiled::new(agreement, terms)?;
        let fingerprint = Fingerprint::of(agreement, terms, &predicate, &rules, &derived, keeps_key);
        Ok(Self {
            fingerprint,
            older: is_resolved.then(|| Older::new(terms.writer, &effective)),
            filter: Filter::new(&predicate, &effective),
            projection: Projection::new(&rules, &effective, key.clone()),
            effective,
            derived,
            keeps_key,
            key,
            pending,
        })
    }

    /// The schema of the images that leave.
    pub const fn derived(&self) -> &AvroSchema {
        &self.derived
    }

    /// Fields of the records' schema that the agreement does not name: denied until a version names them.
    pub fn pending(&self) -> &[String] {
        &self.pending
    }

    /// Equal for scopes that decide and project alike.
    pub(crate) const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The access predicates by which an index finds it; `None` where the index must scan it.
    pub(crate) fn access_predicates(&self) -> Option<AccessPredicates> {
        self.filter()?.access_predicates()
    }

    /// Its predicate over records as they come; `None` where records are resolved first.
    pub(crate) fn filter(&self) -> Option<&Filter> {
        if self.older.is_some() { None } else { Some(&self.filter) }
    }

    /// Decides over both images of an event. `None` when its consumer gets nothing.
    pub fn judge(
        &self,
        op: Op,
        key: &str,
        images: &Images<'_>,
    ) -> Result<Option<Permitted<Outcome>>, Denial> {
        self.decide(op, key, images, BOTH, false, |found| found.outcome())?.transpose()
    }

    /// Like `judge`, but adds a delivery to others; returns why the consumer gets it.
    pub fn judge_into(
        &self,
        op: Op,
        key: &str,
        images: &Images<'_>,
        metadata: RecordMetadata,
        deliveries: &mut Permitted<Deliveries>,
    ) -> Result<Option<Reason>, Denial> {
        let deliver = |found: &Decision<'_>| found.deliver(metadata, deliveries).map(|()| found.reason);
        self.decide(op, key, images, BOTH, false, deliver)?.transpose()
    }

    /// Like `judge`, after a look-up in an index. The predicate does not hold on an image that is no hit. Where the
    /// access predicates are exact, it holds on every hit.
    pub(crate) fn decide<T>(
        &self,
        op: Op,
        key: &str,
        images: &Images<'_>,
        hits: Hits,
        are_exact: bool,
        then: impl FnOnce(&Decision<'_>) -> T,
    ) -> Result<Option<T>, Denial> {
        let mut before = Resolved::default();
        let mut after = Resolved::default();
        let before = self.effective(images.before, &mut before)?;
        let after = self.effective(images.after, &mut after)?;
        let admits = |image: Option<Located<'_>>, is_hit: bool| match image {
            Some(_) if is_hit && are_exact => Ok(true),
            image if is_hit => self.admits(image),
            _ => Ok(false),
        };
        let (op, reason) = match (admits(before, hits.before)?, admits(after, hits.after)?) {
            (true, true) => (Op::Update, Reason::Change),
            (true, false) if after.is_some() => (Op::Delete, Reason::Leave),
            (true, false) => (Op::Delete, Reason::Change),
            (false, true) if before.is_some() => (Op::Create, Reason::Enter),
            (false, true) => (if op == Op::Read { Op::Read } else { Op::Create }, Reason::Change),
            (false, false) => return Ok(None),
        };
        let image = after.filter(|_| op != Op::Delete);
        Ok(Some(then(&Decision { scope: self, op, reason, key, image })))
    }

    /// Decides over a present image, as the state holds it.
    pub fn judge_present(&self, key: &str, image: Located<'_>) -> Result<Option<Permitted<Outcome>>, Denial> {
        self.decide_present(key, image, |found| found.outcome())?.transpose()
    }

    /// Like `judge_present`, but adds a delivery to others; returns whether the consumer gets it.
    pub fn judge_present_into(
        &self,
        key: &str,
        image: Located<'_>,
        metadata: RecordMetadata,
        deliveries: &mut Permitted<Deliveries>,
    ) -> Result<bool, Denial> {
        let found = self.decide_present(key, image, |found| found.deliver(metadata, deliveries))?;
        found.transpose().map(|found| found.is_some())
    }

    fn decide_present<T>(
        &self,
        key: &str,
        image: Located<'_>,
        then: impl FnOnce(&Decision<'_>) -> T,
    ) -> Result<Option<T>, Denial> {
        let mut resolved = Resolved::default();
        let image = self.effective(Some(image), &mut resolved)?;
        if !self.admits(image)? {
            return Ok(None);
        }
        Ok(Some(then(&Decision { scope: self, op: Op::Read, reason: Reason::State, key, image })))
    }

    /// Decides which rows the consumer has before and after an event.
    pub fn judge_rows(&self, key: &str, images: &Images<'_>) -> Result<Rows, Denial> {
        let present = |image: Option<Located<'_>>| match image {
            None => Ok(None),
            Some(image) => self.judge_present(key, image),
        };
        Ok(Rows { before: present(images.before)?, after: present(images.after)? })
    }

    fn admits(&self, image: Option<Located<'_>>) -> Result<bool, Denial> {
        match image {
            None => Ok(false),
            Some(image) => Ok(self.filter.truth(image)? == Truth::True),
        }
    }

    /// The image in the schema that is judged. An image of an older schema is resolved into `to`.
    fn effective<'i>(
        &self,
        image: Option<Located<'i>>,
        to: &'i mut Resolved,
    ) -> Result<Option<Located<'i>>, Denial> {
        let (Some(image), Some(older)) = (image, &self.older) else { return Ok(image) };
        older.resolve(image, &self.effective, &mut to.bytes)?;
        Ok(Some(to.ends.locate(self.effective.layout(), &to.bytes)?))
    }
}

/// What a consumer gets, before it is written. It is a permit as long as nobody but this room can make one.
pub struct Decision<'j> {
    scope: &'j Scope,
    op: Op,
    reason: Reason,
    key: &'j str,
    /// In the schema that is judged; `None` exactly where the consumer's row goes.
    image: Option<Located<'j>>,
}

impl Decision<'_> {
    /// The outcome by itself.
    pub fn outcome(&self) -> Result<Permitted<Outcome>, Denial> {
        let Self { scope, op, reason, image, .. } = *self;
        let project = |image: Located<'_>| {
            let mut out = Vec::with_capacity(image.bytes().len());
            scope.projection.write(image, &mut out).map(|()| out)
        };
        let after = image.map(project).transpose()?;
        Ok(Permitted::new(Outcome { op, key: self.key().into_owned(), after, reason }))
    }

    /// Adds its delivery to others; adds nothing where the image cannot be projected.
    pub fn deliver(
        &self,
        metadata: RecordMetadata,
        deliveries: &mut Permitted<Deliveries>,
    ) -> Result<(), Denial> {
        let RecordMetadata { partition, position, event_at, logged_at, trace } = metadata;
        let Self { scope, op, reason, image, .. } = *self;
        let key = self.key();
        let key = key.as_ref();
        let event = Event { op, key, after: None, reason, partition, position, event_at, logged_at, trace };
        let put = |out: &mut Vec<u8>| image.map_or(Ok(()), |image| scope.projection.write(image, out));
        deliveries.add(&event, put)
    }

    /// The key as the consumer sees it.
    fn key(&self) -> Cow<'_, str> {
        match self.scope.keeps_key {
            true => Cow::Borrowed(self.key),
            false => Cow::Owned(self.scope.key.hash("key", self.key.as_bytes())),
        }
    }
}

/// Resolves records of an older schema.
#[derive(Debug, Clone)]
struct Older {
    schema: AvroSchema,
    /// `None` where only decoded values can be resolved.
    plan: Option<Resolver>,
}

impl Older {
    fn new(writer: &AvroSchema, effective: &AvroSchema) -> Self {
        Self { plan: Resolver::new(writer, effective), schema: writer.clone() }
    }

    fn resolve(&self, image: Located<'_>, to: &AvroSchema, out: &mut Vec<u8>) -> Result<(), Denial> {
        match &self.plan {
            Some(plan) => plan.resolve(image, out)?,
            None => {
                let resolved = resolve_datum(&self.schema, to, image.bytes());
                *out = resolved.map_err(|_| Denial::Unresolvable)?;
            }
        }
        Ok(())
    }
}

/// An image that was resolved from an older schema, and the ends of its fields.
#[derive(Default)]
struct Resolved {
    bytes: Vec<u8>,
    ends: Ends,
}

#[cfg(test)]
pub(crate) mod generated;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
