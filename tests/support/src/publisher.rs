//! A provider's agent reduced to its requests: openings and batches, just as the test wants them.
//!
//! Owns the position in its epoch, and keeps to the protocol only as far as the test does.

use anyhow::Context;
use platform::client::{Client, ClientError, send_json};
use schemas::avro::binary::put_long;
use schemas::avro::container::{Header, put_block};
use schemas::avro::schema::AvroSchema;
use schemas::change::{Change, ChangeCodec, Op, Source};
use schemas::digest;
use schemas::ids::{Digest, Epoch, Sequence};
use schemas::publish::{Counted, OpenRequest, Position, batch_metadata};
use schemas::time::Millis;

/// The subject: a key, a territory, and a field that no agreement gives.
pub const SCHEMA: &str = r#"{"type":"record","name":"test.Row","fields":[
    {"name":"k","type":"string"},{"name":"t","type":"string"},{"name":"secret","type":"string"}]}"#;

const SYNC: [u8; 16] = [5; 16];

/// The datum of a change.
pub fn datum(op: Op, key: &str, before: Option<&[u8]>, after: Option<&[u8]>) -> Vec<u8> {
    let at = Millis::new(1);
    let change = Change { op, key, before, after, source: Source::default(), event_at: at, captured_at: at };
    let mut datum = Vec::new();
    ChangeCodec::encode(&change, &mut datum);
    datum
}

/// A batch's body: datums that begin at a position of an epoch, each a block of its own.
pub fn body(epoch: Epoch, next: Sequence, digest: Digest, datums: &[Vec<u8>]) -> anyhow::Result<Vec<u8>> {
    body_of(SCHEMA, epoch, next, digest, &blocks_of_one(datums))
}

/// A batch's body with one block of these datums.
pub fn body_of_block(
    epoch: Epoch,
    next: Sequence,
    digest: Digest,
    datums: &[Vec<u8>],
) -> anyhow::Result<Vec<u8>> {
    body_of(SCHEMA, epoch, next, digest, &[block_of(datums)])
}

/// One block of these datums, whether it may have so many or not.
pub fn block_of(datums: &[Vec<u8>]) -> Vec<u8> {
    let mut block = Vec::new();
    put_long(&mut block, i64::try_from(datums.len()).unwrap_or(i64::MAX));
    datums.iter().for_each(|datum| block.extend_from_slice(datum));
    block.push(0);
    block
}

fn blocks_of_one(datums: &[Vec<u8>]) -> Vec<Vec<u8>> {
    datums.iter().map(|datum| block_of(std::slice::from_ref(datum))).collect()
}

fn body_of(
    schema: &str,
    epoch: Epoch,
    next: Sequence,
    digest: Digest,
    blocks: &[Vec<u8>],
) -> anyhow::Result<Vec<u8>> {
    let codec = ChangeCodec::new(&AvroSchema::parse(schema)?)?;
    let metadata = batch_metadata(epoch, next, digest);
    let schema = codec.batch_schema().text().to_owned();
    let mut body = Header { metadata, schema, sync: SYNC }.encode();
    let mut items = Vec::new();
    for block in blocks {
        put_long(&mut items, 0);
        items.extend_from_slice(block);
    }
    put_block(&mut body, blocks.len(), &items, &SYNC);
    Ok(body)
}

/// One epoch of one agent on partition 0 of the channel `register`.
#[derive(Clone)]
pub struct Publisher {
    client: Client,
    schema: String,
    epoch: Epoch,
    pub next: Sequence,
    /// The digest before `next`.
    pub digest: Digest,
}

impl Publisher {
    pub fn new(client: Client, epoch: Epoch) -> Self {
        let schema = SCHEMA.to_owned();
        Self { client, schema, epoch, next: Sequence::new(0), digest: digest::first(epoch) }
    }

    /// The publisher of another subject.
    #[must_use]
    pub fn of(self, schema: &str) -> Self {
        Self { schema: schema.to_owned(), ..self }
    }

    /// The same agent, through another router.
    #[must_use]
    pub fn through(&self, client: Client) -> Self {
        Self { client, ..self.clone() }
    }

    pub async fn open(&self, replaces: Option<Epoch>) -> Result<Position, ClientError> {
        let request = OpenRequest { epoch: self.epoch, replaces };
        send_json(self.client.post("/v1/channels/register/partitions/0/openings").json(&request)).await
    }

    /// The next batch's body; the position stays.
    pub fn body(&self, datums: &[Vec<u8>]) -> anyhow::Result<Vec<u8>> {
        body_of(&self.schema, self.epoch, self.next, self.digest, &blocks_of_one(datums))
    }

    /// The publisher after these datums.
    #[must_use]
    pub fn after(&self, datums: &[Vec<u8>]) -> Self {
        let mut after = self.clone();
        for datum in datums {
            after.next = after.next.next();
            after.digest = digest::next(after.digest, &block_of(std::slice::from_ref(datum)));
        }
        after
    }

    /// A body with one block of these datums; the position stays.
    pub fn body_of_block(&self, datums: &[Vec<u8>]) -> anyhow::Result<Vec<u8>> {
        body_of(&self.schema, self.epoch, self.next, self.digest, &[block_of(datums)])
    }

    /// Sends a body as it is.
    pub async fn send(&self, body: Vec<u8>) -> Result<Position, ClientError> {
        send_json(self.client.post("/v1/channels/register/partitions/0/batches").body(body)).await
    }

    /// Sends datums and moves on to the table's answer.
    pub async fn publish(&mut self, datums: &[Vec<u8>]) -> anyhow::Result<Counted> {
        let position = self.send(self.body(datums)?).await?;
        let counted = position.counted.context("nobody has opened")?;
        (self.next, self.digest) = (counted.next, counted.digest);
        Ok(counted)
    }
}
