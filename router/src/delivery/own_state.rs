//! An owner's reading of its own channel's state: every present image, in the newest schema, as a container file.
//!
//! Owns the one path out that needs no agreement: the data are the reader's own, and the route has checked that. The
//! file ends with an empty block, so that a broken connection is not taken for a small register.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use platform::shutdown::Tasks;
use schemas::avro::container::{Header, Sync, put_block};
use schemas::avro::resolution::resolve_datum;
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::ids::ChannelName;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::coop::consume_budget;
use tokio_stream::wrappers::ReceiverStream;

use super::error::OwnStateError;
use crate::channels::Running;
use crate::control::view::ControlView;
use crate::state::bootstrap::{Bootstrap, BootstrapError, Present, PresentImages};

/// Blocks that wait for the connection.
const QUEUE: usize = 2;
/// A reader that takes no block for this long is given up: it holds the router's memory.
const BLOCK_LIMIT: Duration = Duration::from_mins(1);

/// The file in blocks. An error ends it early: its reader sees that the end mark is missing.
pub type StateBlocks = ReceiverStream<Result<Bytes, BootstrapError>>;

/// A reading that has begun.
pub struct OwnState {
    channel: ChannelName,
    snapshots: Vec<Bootstrap>,
    schema: AvroSchema,
    sync: Sync,
    _turn: OwnedSemaphorePermit,
}

impl OwnState {
    /// Fixes each partition's checkpoint.
    pub async fn begin(view: &ControlView, running: &Running) -> Result<Self, OwnStateError> {
        let channel = &running.entry.channel;
        let turn = Arc::clone(&running.readings).try_acquire_owned();
        let turn = turn.map_err(|_| OwnStateError::TooMany(channel.name.clone()))?;
        let newest = view.versions(&channel.registry_subject()).pop().ok_or(OwnStateError::NoSchema)?;
        let codec = ChangeCodec::from_block_schema(newest.schema.text())?;
        let mut snapshots = Vec::with_capacity(running.feeds.len());
        for (feed, state) in running.partitions() {
            snapshots.push(Bootstrap::begin(Arc::clone(feed), state).await?);
        }
        let sync = platform::random::id()?;
        let schema = codec.subject().clone();
        Ok(Self { channel: channel.name.clone(), snapshots, schema, sync, _turn: turn })
    }

    /// The file, read as the connection takes it.
    pub fn into_blocks(self, tasks: &Tasks) -> StateBlocks {
        let (out, blocks) = mpsc::channel::<Result<Bytes, BootstrapError>>(QUEUE);
        let stopping = tasks.stopping();
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping => {}
                () = self.send_all(out) => {}
            }
        });
        ReceiverStream::new(blocks)
    }

    async fn send_all(self, out: mpsc::Sender<Result<Bytes, BootstrapError>>) {
        let Self { channel, snapshots, schema, sync, _turn } = self;
        let header = Header { metadata: BTreeMap::new(), schema: schema.text().to_owned(), sync };
        let mut end = Vec::new();
        put_block(&mut end, 0, &[], &sync);
        let send = async {
            out.send_timeout(Ok(header.encode().into()), BLOCK_LIMIT).await?;
            for mut snapshot in snapshots {
                loop {
                    match snapshot.next().await {
                        Ok(Some(images)) => {
                            let block = block(&channel, &schema, images, &sync).await;
                            out.send_timeout(Ok(block), BLOCK_LIMIT).await?;
                        }
                        Ok(None) => break,
                        // The error ends the body early, without the end mark.
                        Err(error) => return out.send_timeout(Err(error), BLOCK_LIMIT).await,
                    }
                }
            }
            out.send_timeout(Ok(end.into()), BLOCK_LIMIT).await
        };
        // The reader may have disconnected.
        if let Err(SendTimeoutError::Timeout(_)) = send.await {
            tracing::warn!(limit = ?BLOCK_LIMIT, "an owner stopped reading its channel's state; the router ended the reading");
        }
    }
}

async fn block(channel: &ChannelName, schema: &AvroSchema, images: Vec<PresentImages>, sync: &Sync) -> Bytes {
    let mut datums = Vec::new();
    let mut count = 0;
    for present in images.iter().flat_map(PresentImages::iter) {
        consume_budget().await;
        match in_schema(schema, &present) {
            Ok(bytes) => {
                datums.extend_from_slice(&bytes);
                count += 1;
            }
            Err(reason) => {
                tracing::error!(%channel, %reason, "parked an image that cannot be given to its owner");
            }
        }
    }
    let mut out = Vec::new();
    if count > 0 {
        put_block(&mut out, count, &datums, sync);
    }
    out.into()
}

/// An image's datum in this schema.
fn in_schema(schema: &AvroSchema, present: &Present<'_>) -> Result<Vec<u8>, String> {
    let own = present.codec().subject();
    let image = present.image.bytes();
    if own == schema {
        return Ok(image.to_vec());
    }
    resolve_datum(own, schema, image).map_err(|e| e.to_string())
}
