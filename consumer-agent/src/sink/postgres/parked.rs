//! Rows that PostgreSQL refuses, parked by key in `dit_parked`, in the schema of the replica.
//!
//! Owns that table: one line for each key, with the key's latest row, so that it does not grow with the events. Only
//! the agent writes rows; a person's decision is a mark on the line, which the agent applies with its next batch.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::AgreementNumber;
use schemas::time::Millis;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Transaction};

use super::PostgresError;
use super::columns::quoted;
use super::connection::{PostgresTarget, connect};

/// Keys that may be parked: with more, the fault is the table's, not the rows', and a person must look first.
pub(super) const LIMIT: usize = 100;

/// A row's texts by column.
pub(super) type Row = BTreeMap<String, Option<String>>;

/// A parked row, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedRow {
    /// Its key, as the replica has it.
    pub key: String,
    /// The server's error; it may contain values.
    pub reason: String,
    pub since: Millis,
    /// How many later events of the key wait behind it.
    pub waiting: i64,
    /// A person's decision that the agent has not applied yet.
    pub asked: Option<String>,
}

/// A person's decision about a parked row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The latest row of the key is tried again.
    Retry,
    /// The refused row is given up. A later row that waits is tried; without one the replica's row stays as it was.
    Drop,
}

impl Decision {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Drop => "drop",
        }
    }
}

pub(super) struct Parking {
    sql: String,
}

impl Parking {
    pub(super) fn of(schema: &str) -> Self {
        Self { sql: format!("{}.dit_parked", quoted(schema)) }
    }

    /// Makes the table if there is none; a new replica has nothing parked.
    pub(super) async fn make(
        &self,
        transaction: &Transaction<'_>,
        agreement: &AgreementNumber,
        is_new: bool,
    ) -> Result<(), PostgresError> {
        // Keys and rows are bytes: PostgreSQL's `text` cannot hold every value that it refuses.
        let make = format!(
            "CREATE TABLE IF NOT EXISTS {} (agreement text NOT NULL, key bytea NOT NULL, latest bytea NOT NULL,
               reason text NOT NULL, since timestamptz NOT NULL DEFAULT now(), waiting bigint NOT NULL DEFAULT 0,
               generation bigint NOT NULL, asked text CHECK (asked IN ('retry', 'drop')), PRIMARY KEY (agreement, key))",
            self.sql
        );
        transaction.batch_execute(&make).await.map_err(PostgresError::during("making dit_parked"))?;
        if is_new {
            self.execute(transaction, "DELETE FROM {} WHERE agreement = $1", &[&agreement.as_str()]).await?;
        }
        Ok(())
    }

    async fn execute(
        &self,
        transaction: &Transaction<'_>,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, PostgresError> {
        let statement = statement.replace("{}", &self.sql);
        let done = transaction.execute(&statement, parameters).await;
        done.map_err(PostgresError::during("writing dit_parked"))
    }

    /// The parked keys of a generation.
    pub(super) async fn keys(
        &self,
        transaction: &Transaction<'_>,
        agreement: &AgreementNumber,
        generation: i64,
    ) -> Result<BTreeSet<String>, PostgresError> {
        let select = format!("SELECT key FROM {} WHERE agreement = $1 AND generation = $2", self.sql);
        let rows = transaction.query(&select, &[&agreement.as_str(), &generation]).await;
        let rows = rows.map_err(PostgresError::during("reading dit_parked"))?;
        Ok(rows.iter().map(|row| text(row.get(0))).collect())
    }

    /// Parks a refused row.
    pub(super) async fn park(
        &self,
        transaction: &Transaction<'_>,
        agreement: &AgreementNumber,
        key: &str,
        row: &Row,
        generation: i64,
        reason: &str,
    ) -> Result<(), PostgresError> {
        let insert = "INSERT INTO {} (agreement, key, latest, reason, generation) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (agreement, key) DO UPDATE SET latest = EXCLUDED.latest, reason = EXCLUDED.reason,
               since = EXCLUDED.since, generation = EXCLUDED.generation, waiting = 0, asked = NULL";
        let number = agreement.as_str();
        let key = key.as_bytes();
        let row = bytes(row);
        // The error may quote a character that PostgreSQL's `text` cannot hold.
        let reason = reason.replace('\0', "\u{fffd}");
        self.execute(transaction, insert, &[&number, &key, &row, &reason, &generation]).await.map(drop)
    }

    /// Replaces a parked key's waiting row with a later one.
    pub(super) async fn wait(
        &self,
        transaction: &Transaction<'_>,
        agreement: &AgreementNumber,
        key: &str,
        row: &Row,
        generation: i64,
    ) -> Result<(), PostgresError> {
        let update = "UPDATE {} SET latest = $3, waiting = waiting + 1, generation = $4
             WHERE agreement = $1 AND key = $2";
        let number = agreement.as_str();
        let key = key.as_bytes();
        let row = bytes(row);
        self.execute(transaction, update, &[&number, &key, &row, &generation]).await.map(drop)
    }

    /// Removes a key whose row was deleted.
    pub(super) async fn forget(
        &self,
        transaction: &Transaction<'_>,
        agreement: &AgreementNumber,
        key: &str,
    ) -> Result<(), PostgresError> {
        let delete = "DELETE FROM {} WHERE agreement = $1 AND key = $2";
        self.execute(transaction, delete, &[&agreement.as_str(), &key.as_bytes()]).await.map(drop)
    }

    /// At the end of a snapshot: removes the parked rows that it did not bring.
    pub(super) async fn forget_others(
        &self,
        transaction: &Transaction<'_>,
        agreement: &AgreementNumber,
        generation: i64,
    ) -> Result<(), PostgresError> {
        let delete = "DELETE FROM {} WHERE agreement = $1 AND generation <> $2";
        self.execute(transaction, delete, &[&agreement.as_str(), &generation]).await.map(drop)
    }

    /// Takes out the keys that a person has decided about, with the row to try.
    pub(super) async fn take_up(
        &self,
        transaction: &Transaction<'_>,
        agreement: &AgreementNumber,
        generation: i64,
    ) -> Result<Vec<(String, Option<Row>)>, PostgresError> {
        let delete = format!(
            "DELETE FROM {} WHERE agreement = $1 AND generation = $2 AND asked IS NOT NULL
             RETURNING key, CASE WHEN asked = 'retry' OR waiting > 0 THEN latest END",
            self.sql
        );
        let rows = transaction.query(&delete, &[&agreement.as_str(), &generation]).await;
        let rows = rows.map_err(PostgresError::during("taking up what was parked"))?;
        let row = |row: &tokio_postgres::Row| {
            let latest: Option<&[u8]> = row.get(1);
            (text(row.get(0)), latest.and_then(|bytes| serde_json::from_slice(bytes).ok()))
        };
        Ok(rows.iter().map(row).collect())
    }
}

/// The latest row of each parked key.
pub(super) async fn waiting(
    client: &Client,
    parking: &Parking,
    agreement: &AgreementNumber,
    generation: i64,
) -> Result<Vec<(String, Row)>, PostgresError> {
    let select = format!("SELECT key, latest FROM {} WHERE agreement = $1 AND generation = $2", parking.sql);
    let rows = client.query(&select, &[&agreement.as_str(), &generation]).await;
    let rows = rows.map_err(PostgresError::during("reading dit_parked"))?;
    let row = |row: &tokio_postgres::Row| {
        let latest: &[u8] = row.get(1);
        Some((text(row.get(0)), serde_json::from_slice(latest).ok()?))
    };
    Ok(rows.iter().filter_map(row).collect())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn bytes(row: &Row) -> Vec<u8> {
    serde_json::to_vec(row).unwrap_or_default()
}

/// The parked rows of an agreement's replica, the oldest first.
pub async fn parked(
    target: &PostgresTarget,
    agreement: &AgreementNumber,
) -> Result<Vec<ParkedRow>, PostgresError> {
    let connection = connect(target).await?;
    let select = format!(
        "SELECT key, reason, (extract(epoch FROM since) * 1000)::bigint, waiting, asked
         FROM {} WHERE agreement = $1 ORDER BY since, key",
        Parking::of(&target.schema).sql
    );
    let rows = connection.client.query(&select, &[&agreement.as_str()]).await;
    let rows = rows.map_err(PostgresError::during("reading dit_parked"))?;
    let row = |row: &tokio_postgres::Row| ParkedRow {
        key: text(row.get(0)),
        reason: row.get(1),
        since: Millis::new(row.get(2)),
        waiting: row.get(3),
        asked: row.get(4),
    };
    Ok(rows.iter().map(row).collect())
}

/// Writes a person's decision on parked rows, on all of them if `keys` is `None`; returns how many.
pub async fn decide(
    target: &PostgresTarget,
    agreement: &AgreementNumber,
    decision: Decision,
    keys: Option<&[String]>,
) -> Result<u64, PostgresError> {
    let connection = connect(target).await?;
    let update = format!(
        "UPDATE {} SET asked = $2 WHERE agreement = $1 AND ($3::bytea[] IS NULL OR key = ANY($3))",
        Parking::of(&target.schema).sql
    );
    let keys: Option<Vec<&[u8]>> = keys.map(|keys| keys.iter().map(String::as_bytes).collect());
    let done = connection.client.execute(&update, &[&agreement.as_str(), &decision.as_str(), &keys]).await;
    done.map_err(PostgresError::during("writing dit_parked"))
}
