//! A batch in its transaction, with care: its effects in order, then the check of deferred constraints.
//!
//! Owns the second try. It commits nothing, and changes the replica's line only in `known`.

use schemas::ids::AgreementNumber;
use tokio_postgres::Transaction;

use super::columns::StreamColumns;
use super::statements::Table;
use super::writes::{Writes, is_rows_own};
use super::{Known, PostgresError};
use crate::sink::Batch;
use crate::sink::effect::Effect;
use crate::sink::error::SinkError;

/// Checks the deferred constraints now, and defers none from here on.
const CHECK: &str = "SET CONSTRAINTS ALL IMMEDIATE";

/// Applies a batch. If a deferred constraint refuses it, it is applied again with each statement checked at once, so
/// that the refused row can be found.
pub(super) async fn apply(
    batch: &Batch,
    agreement: &AgreementNumber,
    table: &Table,
    stream: &StreamColumns<'_>,
    transaction: &Transaction<'_>,
    known: &mut Known,
) -> Result<(), SinkError> {
    let during = PostgresError::during("checking deferred constraints");
    let before = known.clone();
    transaction.batch_execute("SAVEPOINT batch").await.map_err(&during)?;
    write(batch, agreement, table, stream, transaction, known).await?;
    match transaction.batch_execute(CHECK).await {
        Ok(()) => return Ok(()),
        Err(refused) if is_rows_own(&refused) => {}
        Err(error) => return Err(during(error).into()),
    }
    transaction.batch_execute("ROLLBACK TO SAVEPOINT batch").await.map_err(&during)?;
    *known = before;
    transaction.batch_execute(CHECK).await.map_err(&during)?;
    write(batch, agreement, table, stream, transaction, known).await
}

async fn write(
    batch: &Batch,
    agreement: &AgreementNumber,
    table: &Table,
    stream: &StreamColumns<'_>,
    transaction: &Transaction<'_>,
    known: &mut Known,
) -> Result<(), SinkError> {
    let gather = |known: &Known| Writes::new(agreement, table, stream, &known.stored.columns);
    let mut writes = gather(known);
    writes.take_up(transaction, known).await?;
    for effect in &batch.effects {
        match effect {
            Effect::BeginSnapshot => {
                writes.flush(table, transaction, known).await?;
                known.stored.generation += 1;
                table.forget_kept(transaction, agreement).await?;
                // From here on only the snapshot can complete the replica; it tries every row anew.
                known.stored.cursor = None;
                known.parked.clear();
            }
            Effect::EndSnapshot => {
                writes.flush(table, transaction, known).await?;
                let generation = known.stored.generation;
                let gone = table.drop_others(transaction, agreement, generation).await?;
                table.parking().forget_others(transaction, agreement, generation).await?;
                known.rows = known.rows.saturating_sub(gone);
                table.narrow(transaction, &mut known.stored.columns, stream.wanted).await?;
                writes = gather(known);
            }
            Effect::Upsert { key, image } => writes.upsert(key, image)?,
            Effect::Remove { key } => writes.remove(key),
        }
    }
    writes.flush(table, transaction, known).await?;
    known.stored.follow(batch);
    Ok(())
}
