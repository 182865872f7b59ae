//! The deliveries from one chunk.
//!
//! Owns the choice between the fan-out's matches and judging the chunk for this stream alone, and the parking of events
//! that cannot be delivered.

use std::sync::Arc;

use platform::traces::{Stage, StageSpan};
use reading::chunk::Item;
use reading::located::LocatedChange;
use schemas::delivery::CloseReason;
use schemas::ids::{Offset, Partition};
use schemas::position::EventPosition;
use scope::permit::{Permitted, RecordMetadata, WrittenDelivery};
use scope::scope::Scope;
use tokio::task::coop::consume_budget;

use super::super::parked::Parked;
use super::super::stop::{Stop, close};
use super::Session;
use crate::fanout::matches::{Match, Matched};
use crate::fanout::observer::Chunk;

impl Session {
    /// Delivers the chunk's events for the consumer; `true` if there were any.
    pub(super) async fn deliver(
        &mut self,
        partition: Partition,
        chunk: &Chunk,
        wanted: Offset,
    ) -> Result<bool, Stop> {
        let matches = chunk.note.as_ref().filter(|_| wanted <= chunk.first);
        match matches.and_then(|matches| self.subscription.matched(matches)) {
            Some(matched) => self.deliver_matched(partition, chunk, matched).await,
            None => self.judge(partition, chunk, wanted).await,
        }
    }

    /// Delivers the matches that the fan-out found.
    pub(super) async fn deliver_matched(
        &mut self,
        partition: Partition,
        chunk: &Chunk,
        matched: Matched<'_>,
    ) -> Result<bool, Stop> {
        self.meter.denied(u64::try_from(matched.denied).unwrap_or(u64::MAX));
        let view = Arc::clone(&self.view.borrow());
        let mut gave = false;
        for (Match { item, index, decision }, deliveries) in matched.matches {
            consume_budget().await;
            let Some(Item::Block(block)) = chunk.items.get(*item) else { continue };
            let Some(event) = block.change(*index) else { continue };
            match decision {
                Ok(number) => {
                    gave = true;
                    let scope = self.grant.scope(&view, event.schema, event.codec())?;
                    let Some(permitted) = deliveries.delivery(*number) else { continue };
                    self.give(partition, &event, &permitted, &scope).await?;
                }
                Err(denial) => self.park_event(partition, &event, &denial.clone().into()),
            }
        }
        Ok(gave)
    }

    /// Judges a chunk for this stream alone, and subscribes with its scopes for the next ones.
    pub(super) async fn judge(
        &mut self,
        partition: Partition,
        chunk: &Chunk,
        wanted: Offset,
    ) -> Result<bool, Stop> {
        let view = Arc::clone(&self.view.borrow());
        let mut gave = false;
        for item in &chunk.items {
            match item {
                Item::Block(block) if block.offset >= wanted => {
                    let scope = self.grant.scope(&view, block.schema, block.codec())?;
                    self.subscription.add(block.schema, &scope);
                    // Only its memory is used again.
                    let mut deliveries = std::mem::replace(&mut self.deliveries, Permitted::none());
                    for event in block.changes() {
                        consume_budget().await;
                        deliveries.clear();
                        let LocatedChange { change, position, logged_at, trace, .. } = event;
                        let event_at = change.event_at;
                        let metadata = RecordMetadata { partition, position, event_at, logged_at, trace };
                        let found = scope.judge_into(
                            change.op,
                            change.key,
                            &change.images,
                            metadata,
                            &mut deliveries,
                        );
                        match found.map(|_| deliveries.delivery(0)) {
                            Ok(Some(permitted)) => {
                                gave = true;
                                self.give(partition, &event, &permitted, &scope).await?;
                            }
                            Ok(None) => self.meter.denied(1),
                            Err(denial) => self.park_event(partition, &event, &denial.into()),
                        }
                    }
                    deliveries.clear();
                    self.deliveries = deliveries;
                }
                Item::Resync { offset, reason } if *offset >= wanted => {
                    return Err(close(CloseReason::Resync, reason.clone()));
                }
                Item::Block(_) | Item::Resync { .. } | Item::Poison { .. } => {}
            }
        }
        Ok(gave)
    }

    pub(super) async fn give(
        &mut self,
        partition: Partition,
        event: &LocatedChange<'_>,
        permitted: &Permitted<WrittenDelivery<'_>>,
        scope: &Scope,
    ) -> Result<(), Stop> {
        if let Err(error) = self.encoder.delivery(permitted) {
            self.park_event(partition, event, &error.into());
            return Ok(());
        }
        self.meter.delivered(permitted.get().reason, !scope.pending().is_empty());
        self.followed.extend(self.follow(partition, event));
        self.stand_before(partition, event.position.offset);
        self.flush_if_full().await
    }

    pub(super) fn park_event(&self, partition: Partition, event: &LocatedChange<'_>, why: &Parked) {
        match self.follow(partition, event) {
            None => self.park(partition, event.position, why),
            Some(stage) => {
                stage.failed("parked");
                stage.in_scope(|| self.park(partition, event.position, why));
            }
        }
    }

    /// An event that cannot be judged or written neither blocks its channel nor leaks.
    pub(super) fn park(&self, partition: Partition, position: EventPosition, why: &Parked) {
        self.meter.parked(why.as_str());
        let channel = self.grant.channel();
        let agreement = self.gate.number();
        tracing::error!(%channel, %agreement, %partition, %position, reason = %why, "parked an event that cannot be delivered");
    }

    /// A delivered event moves the place to its block, even before the end of its chunk: all blocks before it are
    /// delivered. The place is never within a block, or behind one that is delivered in part.
    pub(super) fn stand_before(&mut self, partition: Partition, block: Offset) {
        if let Some(known) = self.places.get_mut(partition) {
            known.offset = known.offset.max(block);
        }
        if let Some(given) = self.given.get_mut(partition) {
            *given = block.next();
        }
    }

    /// The delivery's span, if the event is traced.
    pub(super) fn follow(&self, partition: Partition, event: &LocatedChange<'_>) -> Option<StageSpan> {
        let stage =
            StageSpan::on(Stage::Deliver, event.trace.as_ref(), self.grant.channel().as_str(), partition)?;
        let stage = stage.with("dit.agreement", self.gate.number().to_string());
        Some(
            stage.with(
                "messaging.kafka.offset",
                i64::try_from(event.position.offset.get()).unwrap_or(i64::MAX),
            ),
        )
    }
}
