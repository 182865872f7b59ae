//! A batch of rows alone, in two round trips: all its statements at once, and the commit.
//!
//! Owns which batches may go this way: those that change rows and nothing else, while no row is parked. Whatever the server
//! refuses in it is undone; the careful way then finds the row that is to blame, or says what is wrong.

use futures_util::future::join5;
use schemas::ids::AgreementNumber;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::columns::StreamColumns;
use super::connection::Connection;
use super::prepared::Prepared;
use super::statements::{Move, Table};
use super::writes::{ROWS_AT_ONCE, Values, Writes};
use super::{Known, PostgresError};
use crate::sink::Batch;
use crate::sink::effect::Effect;
use crate::sink::error::SinkError;

/// Begins the transaction, and notes that for its other statements: they are on their way before the answer.
const BEGIN: &str = "BEGIN; SET LOCAL dit.batch = 'begun'";
/// Holds only within that transaction: the cursor never moves without its rows.
const IS_BEGUN: &str = "current_setting('dit.batch', true) = 'begun'";

/// Applies a batch; `None` where it must be applied with care, and nothing of it was.
pub(super) async fn apply(
    batch: &Batch,
    agreement: &AgreementNumber,
    table: &Table,
    stream: &StreamColumns<'_>,
    connection: &mut Connection,
    known: &Known,
) -> Result<Option<Known>, SinkError> {
    if !known.parked.is_empty() {
        return Ok(None);
    }
    let mut writes = Writes::new(agreement, table, stream, &known.stored.columns);
    for effect in &batch.effects {
        match effect {
            Effect::Upsert { key, image } => writes.upsert(key, image)?,
            Effect::Remove { key } => writes.remove(key),
            Effect::BeginSnapshot | Effect::EndSnapshot => return Ok(None),
        }
    }
    let mut next = known.clone();
    next.stored.follow(batch);
    let Some(written) = write(&mut writes, agreement, table, connection, known, &next).await? else {
        return Ok(None);
    };
    next.rows = next.rows.saturating_add(written.inserted).saturating_sub(written.deleted);
    Ok(Some(next))
}

struct Written {
    inserted: usize,
    deleted: usize,
}

/// Writes the gathered rows and moves the line; `None` where the server refuses that.
async fn write(
    writes: &mut Writes<'_>,
    agreement: &AgreementNumber,
    table: &Table,
    connection: &mut Connection,
    known: &Known,
    next: &Known,
) -> Result<Option<Written>, PostgresError> {
    let (gone, present) = writes.take_rows();
    if present.len() > ROWS_AT_ONCE {
        return Ok(None);
    }
    let Connection { client, prepared, .. } = connection;
    let upsert = writes.upsert_statement(table, known.stored.is_in_snapshot());
    let move_line = format!("{} AND {IS_BEGUN}", table.move_statement());
    let texts = [table.delete_statement(), table.forget_statement(), upsert, move_line];
    let mut statements = Vec::with_capacity(texts.len());
    for text in texts {
        match prepared.get(client, text).await {
            Ok(statement) => statements.push(statement),
            Err(error) => return refused(client, prepared, &error).await,
        }
    }
    let [delete, forget, upsert, move_line] = statements.as_slice() else { return Ok(None) };
    let number = agreement.as_str();
    let values = Values::of(&present, writes.width());
    let line = Move::new(agreement, &known.stored, &next.stored);
    // Each is sent before the answer to the one before it. The deletions come first, as in the careful way.
    let (begun, deleted, forgotten, inserted, moved) = join5(
        client.batch_execute(BEGIN),
        async { if gone.is_empty() { Ok(0) } else { client.execute(delete, &[&gone]).await } },
        async { if gone.is_empty() { Ok(0) } else { client.execute(forget, &[&number, &gone]).await } },
        async {
            match present.is_empty() {
                true => Ok(0),
                false => values.upsert(client, upsert, known.stored.generation, number).await,
            }
        },
        client.execute(move_line, &line.parameters()),
    )
    .await;
    // Rows may be written without their transaction, but the line does not move: they are written again.
    begun.map_err(PostgresError::during("beginning"))?;
    let done = async { Ok((deleted?, forgotten?, inserted?, moved?)) }.await;
    let (deleted, inserted, moved) = match done {
        Ok((deleted, _, inserted, moved)) => (deleted, inserted, moved),
        Err(error) => return refused(client, prepared, &error).await,
    };
    if moved != 1 {
        return Err(table.moved());
    }
    // If the answer is lost, the next read finds out whether the commit was made.
    match client.batch_execute("COMMIT").await {
        Ok(()) => Ok(Some(Written { inserted, deleted: usize::try_from(deleted).unwrap_or(usize::MAX) })),
        Err(error) => refused(client, prepared, &error).await,
    }
}

/// Undoes what the server refuses. Without a server there is nothing to undo.
async fn refused(
    client: &Client,
    prepared: &mut Prepared,
    error: &Error,
) -> Result<Option<Written>, PostgresError> {
    let during = PostgresError::during("undoing a batch");
    // Its message may hold values.
    let code = error.code().map_or("none", SqlState::code);
    tracing::debug!(code, "a batch is written with care");
    if error.code() == Some(&SqlState::INVALID_SQL_STATEMENT_NAME) {
        // Somebody between here and the server gave the connection another session.
        prepared.clear();
    }
    client.batch_execute("ROLLBACK").await.map_err(during)?;
    Ok(None)
}
