//! An owner's reading of its own channel's state: every present image, in the newest schema, as a container file.
//!
//! Owns the one way out that asks no agreement: the data are the reader's own, and the route has checked that. The
//! file ends with an empty block, so that a broken connection is not taken for a small register.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use schemas::avro::container::{Header, Sync, put_block};
use schemas::avro::resolution::resolve_datum;
use schemas::avro::schema::AvroSchema;
use schemas::change::ChangeCodec;
use schemas::error_code::ErrorCode;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::Core;
use crate::channels::Running;
use crate::http::problem::Refused;
use crate::state::bootstrap::{Bootstrap, BootstrapError, Present, Unreadable};

/// Blocks that wait for the connection.
const QUEUE: usize = 2;

/// A reading that has begun.
pub struct OwnState {
    passes: Vec<Bootstrap>,
    schema: AvroSchema,
    sync: Sync,
}

impl OwnState {
    /// Fixes each partition's checkpoint.
    pub async fn begin(core: &Core, running: &Running) -> Result<Self, Refused> {
        let channel = &running.entry.channel;
        let newest = core.control.view().versions(&channel.registry_subject()).pop();
        let internal = |text: String| Refused::new(ErrorCode::Internal, text);
        let newest = newest.ok_or_else(|| internal("the channel has no schema".to_owned()))?;
        let codec =
            ChangeCodec::from_envelope_schema(newest.schema.text()).map_err(|e| internal(e.to_string()))?;
        let mut passes = Vec::with_capacity(running.feeds.len());
        for feed in &running.feeds {
            let pass = Bootstrap::begin(Arc::clone(feed), channel.state_topic()).await;
            passes.push(pass.map_err(|e| Refused::new(ErrorCode::Unavailable, e.to_string()))?);
        }
        Ok(Self { passes, schema: codec.subject().clone(), sync: platform::random::id()? })
    }

    /// The file, read as the connection takes it.
    pub fn into_body(self, core: &Core) -> Body {
        let (out, blocks) = mpsc::channel::<Result<Bytes, BootstrapError>>(QUEUE);
        let stopping = core.tasks.stopping();
        core.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopping => {}
                () = self.send_all(out) => {}
            }
        });
        Body::from_stream(ReceiverStream::new(blocks))
    }

    async fn send_all(self, out: mpsc::Sender<Result<Bytes, BootstrapError>>) {
        let Self { passes, schema, sync } = self;
        let header = Header { metadata: BTreeMap::new(), schema: schema.text().to_owned(), sync };
        let mut end = Vec::new();
        put_block(&mut end, 0, &[], &sync);
        let send = async {
            out.send(Ok(header.encode().into())).await?;
            for mut pass in passes {
                loop {
                    match pass.next().await {
                        Ok(Some(images)) => out.send(Ok(block(&schema, images, &sync))).await?,
                        Ok(None) => break,
                        // The error ends the body early: the reader sees that there is no end mark.
                        Err(error) => return out.send(Err(error)).await,
                    }
                }
            }
            out.send(Ok(end.into())).await
        };
        // The reader may be gone.
        drop(send.await);
    }
}

fn block(schema: &AvroSchema, images: Vec<Result<Present, Unreadable>>, sync: &Sync) -> Bytes {
    let mut datums = Vec::new();
    let mut count = 0;
    for image in images {
        let encoded = image.map_err(|e| e.reason).and_then(|present| in_schema(schema, &present));
        match encoded {
            Ok(bytes) => {
                datums.extend_from_slice(&bytes);
                count += 1;
            }
            Err(reason) => tracing::error!(%reason, "parked an image that its owner cannot be given"),
        }
    }
    let mut out = Vec::new();
    if count > 0 {
        put_block(&mut out, count, &datums, sync);
    }
    out.into()
}

/// An image as the owner asked for it.
fn in_schema(schema: &AvroSchema, present: &Present) -> Result<Vec<u8>, String> {
    let (own, image) = (present.codec().subject(), present.image().bytes());
    if own == schema {
        return Ok(image.to_vec());
    }
    resolve_datum(own, schema, image).map_err(|e| e.to_string())
}
