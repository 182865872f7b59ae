//! Planted faults: a wrapper around a consumer's stream of effects, to show that the verification finds them.
//!
//! Owns what each fault does. Neither router nor agents know of it.

use async_trait::async_trait;
use consumer_agent::sink::effect::Effect;
use consumer_agent::sink::error::SinkError;
use consumer_agent::sink::{Batch, See, Sink, StreamHead};
use schemas::cursor::Cursor;

/// A fault to plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// One row is lost on its way.
    Drop,
    /// The router has a wider agreement than the verifier knows.
    Leak,
    /// A row that left its territory stays in the replica.
    MissedLeave,
    /// One row is delivered a second time as if it were another.
    Repeat,
}

/// False where a requested fault left all equal: without an occasion, it must not look like a success.
pub fn check_planted(fault: Option<Fault>, equal: bool) -> bool {
    match fault {
        Some(fault) if equal => {
            platform::complain!(
                "the fault {fault:?} could not be planted: the register gave no occasion for it"
            );
            false
        }
        _ => true,
    }
}

/// A sink behind a faulty stream.
pub struct FaultySink {
    inner: Box<dyn Sink>,
    fault: Fault,
    planted: bool,
    /// The key of the lost row. It stays lost: a later change of it would bring it back.
    lost: Option<String>,
}

impl FaultySink {
    /// Puts a fault in front of a sink.
    pub fn new(inner: Box<dyn Sink>, fault: Fault) -> Self {
        Self { inner, fault, planted: false, lost: None }
    }

    fn plant(&mut self, effects: &mut Vec<Effect>) {
        if let Some(lost) = &self.lost {
            effects.retain(|effect| !matches!(effect, Effect::Upsert { key, .. } if key == lost));
            if effects.iter().any(|effect| matches!(effect, Effect::Remove { key } if key == lost)) {
                // The register itself has removed it: another row is lost instead.
                (self.planted, self.lost) = (false, None);
            }
        }
        let is_victim = |effect: &Effect| match self.fault {
            Fault::Drop | Fault::Repeat => matches!(effect, Effect::Upsert { .. }),
            Fault::MissedLeave => matches!(effect, Effect::Remove { .. }),
            Fault::Leak => false,
        };
        let Some(index) = effects.iter().position(is_victim).filter(|_| !self.planted) else { return };
        self.planted = true;
        let victim = effects.remove(index);
        if let (Fault::Drop, Effect::Upsert { key, .. }) = (self.fault, &victim) {
            let lost = key.clone();
            effects.retain(|effect| !matches!(effect, Effect::Upsert { key, .. } if *key == lost));
            self.lost = Some(lost);
        }
        if let (Fault::Repeat, Effect::Upsert { key, image }) = (self.fault, victim) {
            let again = Effect::Upsert { key: format!("{key} again"), image: image.clone() };
            effects.insert(index, Effect::Upsert { key, image });
            effects.insert(index, again);
        }
    }
}

#[async_trait]
impl Sink for FaultySink {
    fn system(&self) -> &'static str {
        self.inner.system()
    }

    async fn ready(&mut self) -> Result<(), SinkError> {
        self.inner.ready().await
    }

    fn cursor(&self) -> Option<Cursor> {
        self.inner.cursor()
    }

    async fn begin(&mut self, head: &StreamHead) -> Result<(), SinkError> {
        self.inner.begin(head).await
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let mut batch = batch.clone();
        // One victim at a time: where a change repairs it, the demo says that the fault could not be planted.
        self.plant(&mut batch.effects);
        self.inner.apply(&batch).await
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.inner.settle().await
    }

    async fn scan(&mut self, see: &mut See<'_>) -> Result<(), SinkError> {
        self.inner.scan(see).await
    }

    fn row_count(&self) -> usize {
        self.inner.row_count()
    }
}
