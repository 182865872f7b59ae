//! The snapshot at the beginning of a stream: every present row that the agreement gives, between two marks.
//!
//! Owns its order: begin, rows with progress, end with the places where the log continues.

use std::sync::Arc;

use schemas::cursor::Snapshot;
use schemas::delivery::Delivery;
use schemas::ids::Partition;
use schemas::per_partition::PerPartition;
use scope::permit::RecordMetadata;
use tokio::task::coop::consume_budget;

use super::super::stop::Stop;
use super::Session;
use crate::fanout::observer::Follower;
use crate::state::bootstrap::{Bootstrap, Present, PresentImages};

impl Session {
    pub(super) async fn bootstrap(
        &mut self,
        mut announced: Snapshot,
        mut snapshots: PerPartition<Bootstrap>,
    ) -> Result<PerPartition<Follower>, Stop> {
        let id = announced.id;
        self.snapshot = Some(announced.clone());
        self.encoder.mark(&Delivery::SnapshotBegin { bootstrap: id })?;
        self.flush().await?;
        for partition in snapshots.iter().map(|(partition, _)| partition).collect::<Vec<_>>() {
            while let Some(snapshot) = snapshots.get_mut(partition)
                && let Some(images) = snapshot.next().await?
            {
                for present in images.iter().flat_map(PresentImages::iter) {
                    // Lets other tasks of this thread run.
                    consume_budget().await;
                    self.give_present(partition, &present)?;
                    self.flush_if_full().await?;
                }
                // Even if a narrow scope gives nothing: silence would be taken for a stall.
                announced.places = snapshots.values().map(Bootstrap::place).collect();
                self.snapshot = Some(announced.clone());
                self.encoder.mark(&Delivery::SnapshotProgress(announced.clone()))?;
                self.flush().await?;
            }
        }
        self.deliveries.clear();
        let followers: PerPartition<_> = snapshots.into_values().map(Bootstrap::into_follower).collect();
        self.places = followers.values().map(Follower::place).collect();
        self.given = self.places.values().map(|place| place.offset).collect();
        self.snapshot = None;
        self.encoder.mark(&Delivery::SnapshotEnd { bootstrap: id, places: self.places.clone() })?;
        self.flush().await?;
        Ok(followers)
    }

    /// Judges a present image, and puts what is permitted of it into the frame.
    fn give_present(&mut self, partition: Partition, present: &Present<'_>) -> Result<(), Stop> {
        let Present { key, image, position, event_at, logged_at, .. } = *present;
        let view = Arc::clone(&self.view.borrow());
        let scope = self.grant.scope(&view, present.schema, present.codec())?;
        let metadata = RecordMetadata { partition, position, event_at, logged_at, trace: None };
        self.deliveries.clear();
        let found = scope.judge_present_into(key, image, metadata, &mut self.deliveries);
        match found.map(|_| self.deliveries.delivery(0)) {
            Ok(Some(permitted)) => match self.encoder.delivery(&permitted) {
                Ok(()) => self.meter.delivered(permitted.get().reason, !scope.pending().is_empty()),
                Err(error) => self.park(partition, position, &error.into()),
            },
            Ok(None) => self.meter.denied(1),
            Err(denial) => self.park(partition, position, &denial.into()),
        }
        Ok(())
    }
}
