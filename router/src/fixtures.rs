//! What tests of several rooms need: a router's identity, and a provider whose rows are in towns.
//!
//! Owns the shape of these rows and the chain of their events. It is compiled for tests alone.

use platform::identity::Identity;
use platform::pki::{Authority, Subject};
use schemas::avro::binary::put_string;
use schemas::avro::schema::AvroSchema;
use schemas::block;
use schemas::change::{Change, ChangeCodec, Op, Source};
use schemas::digest;
use schemas::ids::{Digest, Epoch, Sequence};
use schemas::time::Millis;

use crate::metrics::Metrics;

/// The identity of a router named `r`, by its own authority.
pub(crate) fn identity() -> Identity {
    platform::identity::install_crypto();
    let subject = Subject::Router { name: "r".to_owned(), hosts: vec!["127.0.0.1".to_owned()] };
    Authority::new("test.dit").unwrap().identity(&subject).unwrap()
}

pub(crate) fn metrics() -> Metrics {
    Metrics::new(&identity(), Vec::new()).unwrap()
}

/// The schema of the rows: a key `k`, and the town that the row is in.
pub(crate) fn subject() -> AvroSchema {
    let fields = r#"{"name":"k","type":"string"},{"name":"town","type":"string"}"#;
    AvroSchema::parse(&format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)).unwrap()
}

/// A row's towns before and after a change.
#[derive(Clone, Copy)]
pub(crate) struct Moved<'a> {
    pub(crate) key: &'a str,
    pub(crate) from: Option<&'a str>,
    pub(crate) to: Option<&'a str>,
}

impl<'a> Moved<'a> {
    /// A new row.
    pub(crate) const fn into(key: &'a str, town: &'a str) -> Self {
        Self { key, from: None, to: Some(town) }
    }

    /// The datum of its event.
    pub(crate) fn datum(self) -> Vec<u8> {
        let image = |town: &str| {
            let mut image = Vec::new();
            put_string(&mut image, self.key);
            put_string(&mut image, town);
            image
        };
        let before = self.from.map(image);
        let after = self.to.map(image);
        let op = match (&before, &after) {
            (None, _) => Op::Create,
            (Some(_), Some(_)) => Op::Update,
            (Some(_), None) => Op::Delete,
        };
        let at = Millis::new(1);
        let change = Change {
            op,
            key: self.key,
            before: before.as_deref(),
            after: after.as_deref(),
            source: Source::default(),
            event_at: at,
            captured_at: at,
        };
        let mut datum = Vec::new();
        ChangeCodec::encode(&change, &mut datum);
        datum
    }
}

/// A provider's epoch, and the end of its chain.
#[derive(Clone, Copy)]
pub(crate) struct Chain {
    pub(crate) epoch: Epoch,
    pub(crate) next: Sequence,
    /// The digest before `next`.
    pub(crate) digest: Digest,
}

impl Chain {
    /// Before the first event.
    pub(crate) fn begin(epoch: Epoch) -> Self {
        Self { epoch, next: Sequence::new(0), digest: digest::first(epoch) }
    }

    /// Adds one event, in a block of its own.
    pub(crate) fn add(&mut self, datum: &[u8]) {
        self.digest = digest::next(self.digest, &block::of_one(datum));
        self.next = self.next.next();
    }
}
