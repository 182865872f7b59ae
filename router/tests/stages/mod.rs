//! The stages of a block's way through a router, each by itself: a batch is judged, its record is counted, its changes are
//! located, matched, and framed.
//!
//! Owns the block that all stages take, and what each stage is given ready. A stage runs without a log and without a
//! network.

use std::sync::Arc;

use bytes::Bytes;
use event_log::Stored;
use reading::chunk::Item;
use reading::fold::{Fold, Meaning};
use reading::located::LocatedBlock;
use router::delivery::encode::{Encoder, Format};
use router::fanout::matches::ChunkMatches;
use router::fanout::{FanOut, Subscription};
use router::ingest::batch::Envelope;
use router::ingest::codecs::BatchCodecs;
use schemas::avro::binary::{put_long, put_string};
use schemas::avro::container::{Header, put_block};
use schemas::avro::schema::AvroSchema;
use schemas::block::OpenBlock;
use schemas::change::{Change, ChangeCodec, Op, Source};
use schemas::channel::{Channel, ChannelKind};
use schemas::delivery::DeliveryCodec;
use schemas::digest;
use schemas::epoch_table::{EpochTable, Opening};
use schemas::ids::{AgentId, Epoch, LogId, Offset, Partition, SchemaId, Sequence};
use schemas::key::KeySpec;
use schemas::marks::{self, Checkpoint};
use schemas::publish::batch_metadata;
use schemas::record::{Kind, Record};
use schemas::time::Millis;
use scope::compile::{Age, Terms};
use scope::scope::Scope;
use scope::secret::NetworkSecret;
use serde_json::json;

const P0: Partition = Partition::new(0);
const ID: SchemaId = SchemaId::new(7);
const EPOCH: Epoch = Epoch::new([1; 16]);
const SYNC: [u8; 16] = [2; 16];

/// One block, in the form in which each stage takes it.
pub(crate) struct Block {
    pub(crate) events: usize,
    codec: Arc<ChangeCodec>,
    codecs: BatchCodecs,
    channel: Channel,
    agent: AgentId,
    body: Bytes,
    record: Record,
    fold: Fold,
    fan_out: Arc<FanOut>,
    subscription: Subscription,
    items: Vec<Item>,
    matches: ChunkMatches,
    encoder: Encoder,
}

fn subject() -> AvroSchema {
    let field = |name: &str| json!({"name": name, "type": "string"});
    let fields: Vec<_> =
        ["code", "municipality", "name", "street", "house", "post_code", "note"].map(field).to_vec();
    AvroSchema::from_json(json!({"type": "record", "name": "lv.Address", "fields": fields})).unwrap()
}

/// The image of a row of some 200 bytes, with Latvian letters.
fn image(number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, &format!("{:09}", 100_000_000 + number));
    put_string(&mut out, "M001");
    put_string(&mut out, &format!("Ēka Nr. {number}, Dārza iela"));
    put_string(&mut out, &format!("Brīvības gatve {number}"));
    put_string(&mut out, "12");
    put_string(&mut out, "LV-1010");
    put_string(&mut out, "ieraksts no adrešu reģistra; pārbaudīts, aktuāls, bez apgrūtinājumiem");
    out
}

/// The block's datum.
fn datum(events: usize) -> Vec<u8> {
    let mut block = OpenBlock::default();
    let mut change = Vec::new();
    for number in 0..events {
        let key = format!("{:09}", 100_000_000 + number);
        let after = image(number);
        let source = Source { kind: "file", name: "addresses.tsv", position: "", snapshot: true };
        let at = Millis::new(1_700_000_000_000);
        change.clear();
        ChangeCodec::encode(
            &Change {
                op: Op::Create,
                key: &key,
                before: None,
                after: Some(&after),
                source,
                event_at: at,
                captured_at: at,
            },
            &mut change,
        );
        block.push(&change);
    }
    block.finish()
}

fn scope() -> Arc<Scope> {
    let agreement = json!({"number": "A-1", "version": 1, "provider": "4000", "consumer": "9000", "channel": "addresses",
        "purpose": "p", "legal_basis": "l", "valid_from": "2026-01-01T00:00:00Z", "history": "full",
        "schema_version": 1, "rows": "municipality == \"M001\"",
        "fields": {"code": "keep", "municipality": "keep", "name": "keep"}});
    let subject = subject();
    let key = KeySpec { fields: vec!["code".to_owned()], normalise: Vec::new() };
    let secret = NetworkSecret::new(vec![1; 32]).unwrap();
    let terms = Terms { agreed: &subject, writer: &subject, age: Age::Same, key: &key, secret: &secret };
    Arc::new(Scope::compile(&serde_json::from_value(agreement).unwrap(), &terms).unwrap())
}

impl Block {
    /// A block of so many events.
    pub(crate) fn of(events: usize) -> Self {
        let codec = Arc::new(ChangeCodec::new(&subject()).unwrap());
        let codecs = BatchCodecs::default();
        let agent: AgentId = "4000/main".parse().unwrap();
        let schema: serde_json::Value = serde_json::from_str(subject().text()).unwrap();
        let channel: Channel = serde_json::from_value(json!({"name": "addresses", "kind": "distribution",
            "owner": "4000", "partitions": 1, "key": {"fields": ["code"]}, "schema": schema}))
        .unwrap();
        let metadata = batch_metadata(EPOCH, Sequence::new(0), digest::first(EPOCH));
        let mut body =
            Header { metadata, schema: codec.batch_schema().text().to_owned(), sync: SYNC }.encode();
        let mut datums = Vec::new();
        put_long(&mut datums, 0);
        datums.extend_from_slice(&datum(events));
        put_block(&mut body, 1, &datums, &SYNC);
        let body = Bytes::from(body);
        let envelope = Envelope::parse(body.clone(), &codecs).unwrap();
        let mut judged = envelope.judge(&agent, &channel, P0, ID).unwrap();
        let record = judged.records.pop().unwrap();
        let checkpoint = Checkpoint {
            log_id: LogId::new([3; 16]),
            as_of: Offset::new(0),
            freshness: None,
            table: EpochTable::default(),
        };
        let mut fold = Fold::begin(ChannelKind::Distribution, Offset::new(0), checkpoint);
        let opening = Opening { agent: agent.clone(), epoch: EPOCH, replaces: None };
        let opening = marks::record(Kind::Opening, &opening.encode());
        let at = Millis::new(1);
        assert_eq!(
            fold.step(&Stored { offset: Offset::new(1), logged_at: at, record: opening }),
            Meaning::Opening
        );
        let fan_out = Arc::new(FanOut::default());
        let mut subscription = fan_out.subscribe();
        let scope = scope();
        subscription.add(ID, &scope);
        let encoder = Encoder::new(Format::Avro, &DeliveryCodec::new(scope.derived()).unwrap(), SYNC);
        let stored = Stored { offset: Offset::new(2), logged_at: at, record: record.clone() };
        let items = vec![Item::Block(LocatedBlock::locate(stored, ID, Arc::clone(&codec), 5).unwrap())];
        let matches = fan_out.match_items(P0, &items).unwrap();
        Self {
            events,
            codec,
            codecs,
            channel,
            agent,
            body,
            record,
            fold,
            fan_out,
            subscription,
            items,
            matches,
            encoder,
        }
    }

    /// A record as the log gives it.
    pub(crate) fn stored(&self) -> Stored {
        Stored { offset: Offset::new(2), logged_at: Millis::new(1), record: self.record.clone() }
    }

    /// A request's body becomes the log's record: every event is judged.
    pub(crate) fn judge_batch(&self) -> usize {
        let envelope = Envelope::parse(self.body.clone(), &self.codecs).unwrap();
        envelope.judge(&self.agent, &self.channel, P0, ID).unwrap().records.len()
    }

    /// The record counts, as the fold says.
    pub(crate) fn count(&self, mut fold: Fold, stored: &Stored) {
        assert!(matches!(fold.step(stored), Meaning::Block { .. }));
    }

    /// The fold before the block.
    pub(crate) fn fold(&self) -> Fold {
        self.fold.clone()
    }

    /// The block's changes are found.
    pub(crate) fn locate(&self, stored: Stored) -> usize {
        LocatedBlock::locate(stored, ID, Arc::clone(&self.codec), 5).unwrap().count()
    }

    /// The changes are matched for all subscriptions, and each permitted delivery is written.
    pub(crate) fn match_items(&self) -> usize {
        let matches = self.fan_out.match_items(P0, &self.items).unwrap();
        matches.changes
    }

    /// A stream's frames are filled with its matches.
    pub(crate) fn frame(&mut self) -> usize {
        let mut bytes = 0;
        let matched = self.subscription.matched(&self.matches).unwrap();
        assert_eq!((matched.matches.len(), matched.denied), (self.events, 0));
        for (found, deliveries) in matched.matches {
            let permitted = deliveries.delivery(*found.decision.as_ref().unwrap()).unwrap();
            self.encoder.delivery(&permitted).unwrap();
            if self.encoder.is_full() {
                bytes += self.encoder.take().map_or(0, |frame| frame.len());
            }
        }
        bytes + self.encoder.take().map_or(0, |frame| frame.len())
    }
}
