//! A replay: the deliveries that one router gives again from a cursor.
//!
//! Owns the reading of a stream without a replica. Deliveries are a function of log, agreement and cursor, so that two
//! routers must give the same (promise 8).

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use consumer_agent::receive::machine::ReceiveMachine;
use platform::client::{Client, ClientError, send};
use platform::identity::Identity;
use platform::retry::Retry;
use schemas::avro::binary::Cursor as Datums;
use schemas::avro::container::Decoder;
use schemas::cursor::Cursor;
use schemas::delivery::{Delivery, DeliveryCodec};
use schemas::ids::{AgreementNumber, Partition};
use tokio::time::sleep;

use crate::oracle::Oracle;

/// Deliveries by partition, in order.
pub type Replayed = BTreeMap<Partition, Vec<String>>;

/// Reads from a cursor up to the end of what counts; a refusal is the same answer everywhere, too.
pub async fn replay(
    identity: Identity,
    number: AgreementNumber,
    topic: String,
    cursor: Cursor,
    oracle: Arc<Oracle>,
) -> anyhow::Result<Replayed> {
    let client = Client::new("https://dit", &identity)?;
    let path = format!("/v1/agreements/{number}/stream");
    let mut retry = Retry::default();
    let mut response = loop {
        match send(client.get(&path).query(&[("from", cursor.to_string())])).await {
            Ok(response) => break response,
            // Everything has settled through the other router; this one may still begin or read.
            Err(error) if error.is_retryable() => sleep(retry.next_wait()).await,
            Err(ClientError::Refused(_, problem)) => {
                return Ok(Replayed::from([(Partition::new(0), vec![problem.code.as_str().to_owned()])]));
            }
            Err(error) => return Err(error.into()),
        }
    };
    let mut decoder = Decoder::new();
    let mut codec = None;
    let mut machine = ReceiveMachine::new(cursor.log_id, cursor.version, Some(&cursor));
    let mut replayed = Replayed::new();
    loop {
        let bytes = response.chunk().await?.context("the stream ended early")?;
        decoder.push(&bytes);
        if codec.is_none()
            && let Some(header) = decoder.header()?
        {
            codec = Some(DeliveryCodec::from_union_schema(&header.schema)?);
        }
        let Some(codec) = &codec else { continue };
        while let Some(block) = decoder.block()? {
            let mut datums = Datums::new(&block.datums);
            for _ in 0..block.count {
                let delivery = codec.decode(&mut datums)?;
                let effect = machine.on_delivery(&delivery)?;
                if let Delivery::Event(event) = &delivery {
                    replayed.entry(event.partition).or_default().push(format!("{effect:?}"));
                }
            }
        }
        if machine.cursor().is_some_and(|cursor| oracle.is_at_end(&topic, &cursor)) {
            return Ok(replayed);
        }
    }
}
