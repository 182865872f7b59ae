//! Writes a batch to a replica table's rows.
//!
//! Owns the last value of each key in a batch, and the treatment of refused rows: the rows of a statement are halved
//! until the refused row is found, which is parked, so that all others are written.

use std::collections::HashMap;

use schemas::avro::schema::AvroSchema;
use schemas::avro::text;
use schemas::ids::AgreementNumber;
use schemas::reconcile::Texts;
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, ToStatement, Transaction};

use super::columns::{Column, GENERATION, KEY, StreamColumns, is_field, quoted};
use super::parked::{Parking, Row};
use super::statements::Table;
use super::{Known, PostgresError};
use crate::sink::error::SinkError;

/// Rows of one statement: enough to make its own cost negligible, few enough to be no burden.
pub(super) const ROWS_AT_ONCE: usize = 5_000;
/// Classes of errors that are a row's own fault: its values, and the constraints on them.
const ROWS_OWN: [&str; 2] = ["22", "23"];

/// The rows to write, with the last value of each key.
pub(super) struct Writes<'w> {
    derived: &'w AvroSchema,
    wanted: &'w [Column],
    /// Columns of the table that the stream does not have.
    others: Vec<String>,
    rows: HashMap<String, Option<Texts>>,
    agreement: &'w AgreementNumber,
    parking: Parking,
}

impl<'w> Writes<'w> {
    pub(super) fn new(
        agreement: &'w AgreementNumber,
        table: &Table,
        stream: &StreamColumns<'w>,
        there: &[Column],
    ) -> Self {
        let StreamColumns { derived, wanted } = *stream;
        let is_other = |column: &&Column| is_field(column) && !wanted.iter().any(|w| w.name == column.name);
        let others = there.iter().filter(is_other).map(|column| column.name.clone()).collect();
        Self { derived, wanted, others, rows: HashMap::new(), agreement, parking: table.parking() }
    }

    pub(super) fn upsert(&mut self, key: &str, image: &[u8]) -> Result<(), SinkError> {
        let values = text::texts(self.derived, image)?;
        self.rows.insert(key.to_owned(), Some(values));
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.rows.insert(key.to_owned(), None);
    }

    /// Applies a person's decisions about parked rows; a later row of the same key in the batch takes precedence.
    pub(super) async fn take_up(
        &mut self,
        transaction: &Transaction<'_>,
        known: &mut Known,
    ) -> Result<(), PostgresError> {
        if known.parked.is_empty() {
            return Ok(());
        }
        for (key, row) in self.parking.take_up(transaction, self.agreement, known.stored.generation).await? {
            known.parked.remove(&key);
            if let Some(row) = row {
                let values = self.wanted.iter().map(|column| row.get(&column.name).cloned().flatten());
                self.rows.insert(key, Some(values.collect()));
            }
        }
        Ok(())
    }

    /// Writes the gathered rows, and updates the count of rows.
    pub(super) async fn flush(
        &mut self,
        table: &Table,
        transaction: &Transaction<'_>,
        known: &mut Known,
    ) -> Result<(), PostgresError> {
        let mut gone = Vec::new();
        let mut present = Vec::new();
        for (key, values) in std::mem::take(&mut self.rows) {
            match values {
                None => gone.push(key),
                Some(values) if known.parked.contains(&key) => {
                    let row = self.named(&values);
                    let generation = known.stored.generation;
                    self.parking.wait(transaction, self.agreement, &key, &row, generation).await?;
                }
                Some(values) => present.push((key, values)),
            }
        }
        self.remove_rows(table, transaction, known, gone).await?;
        while !present.is_empty() {
            let rest = present.split_off(present.len().min(ROWS_AT_ONCE));
            self.write_or_park(table, transaction, known, std::mem::replace(&mut present, rest)).await?;
        }
        Ok(())
    }

    /// Deletes the rows of these keys, also parked ones: they have left the register or the scope.
    async fn remove_rows(
        &self,
        table: &Table,
        transaction: &Transaction<'_>,
        known: &mut Known,
        mut gone: Vec<String>,
    ) -> Result<(), PostgresError> {
        for key in gone.iter().filter(|key| known.parked.remove(*key)) {
            self.parking.forget(transaction, self.agreement, key).await?;
        }
        gone.retain(|key| may_be_there(key));
        if gone.is_empty() {
            return Ok(());
        }
        let during = PostgresError::during("deleting rows");
        let deleted = transaction.execute(&table.delete_statement(), &[&gone]).await.map_err(&during)?;
        let forget = table.forget_statement();
        transaction.execute(&forget, &[&self.agreement.as_str(), &gone]).await.map_err(&during)?;
        known.rows = known.rows.saturating_sub(usize::try_from(deleted).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Writes rows together. A row that is refused alone is tried again after the others, which it may depend on, and
    /// is parked if that does not help.
    async fn write_or_park(
        &self,
        table: &Table,
        transaction: &Transaction<'_>,
        known: &mut Known,
        rows: Vec<(String, Texts)>,
    ) -> Result<(), PostgresError> {
        let upsert = self.upsert_statement(table, known.stored.is_in_snapshot());
        let mut left = vec![rows];
        let mut alone = Vec::new();
        while let Some(mut rows) = left.pop() {
            let Some(refused) = self.try_write(&upsert, transaction, known, &rows).await? else { continue };
            if rows.len() > 1 {
                left.push(rows.split_off(rows.len() / 2));
                left.push(rows);
            } else if known.parked.len() + alone.len() >= super::parked::LIMIT {
                let reason = super::in_words(&refused);
                return Err(PostgresError::ManyParked { table: table.words().to_owned(), reason });
            } else {
                alone.extend(rows.pop().map(|row| (row, refused)));
            }
        }
        let mut is_moving = true;
        while std::mem::take(&mut is_moving) && !alone.is_empty() {
            for (row, _) in std::mem::take(&mut alone) {
                let row = [row];
                match self.try_write(&upsert, transaction, known, &row).await? {
                    None => is_moving = true,
                    Some(refused) => alone.extend(row.into_iter().next().map(|row| (row, refused))),
                }
            }
        }
        for ((key, values), refused) in alone {
            self.park(table, transaction, known, key, &values, &refused).await?;
        }
        Ok(())
    }

    /// Writes all rows or none; returns the error where it is a row's own fault.
    async fn try_write(
        &self,
        upsert: &str,
        transaction: &Transaction<'_>,
        known: &mut Known,
        rows: &[(String, Texts)],
    ) -> Result<Option<tokio_postgres::Error>, PostgresError> {
        let during = PostgresError::during("writing rows");
        transaction.batch_execute("SAVEPOINT rows").await.map_err(&during)?;
        let values = Values::of(rows, self.wanted.len());
        let generation = known.stored.generation;
        let written = values.upsert(transaction, upsert, generation, self.agreement.as_str()).await;
        let refused = match written {
            Ok(inserted) => {
                known.rows += inserted;
                return Ok(None);
            }
            Err(refused) if is_rows_own(&refused) => refused,
            Err(error) => return Err(during(error)),
        };
        transaction.batch_execute("ROLLBACK TO SAVEPOINT rows").await.map_err(&during)?;
        Ok(Some(refused))
    }

    async fn park(
        &self,
        table: &Table,
        transaction: &Transaction<'_>,
        known: &mut Known,
        key: String,
        values: &[Option<String>],
        refused: &tokio_postgres::Error,
    ) -> Result<(), PostgresError> {
        let reason = super::in_words(refused);
        let generation = known.stored.generation;
        // The reason contains values, which only the replica's own people may see.
        let code = refused.code().map_or("", |code| code.code());
        tracing::error!(agreement = %self.agreement, table = table.words(), code, "parked a row that PostgreSQL refuses: `dit parked list` names it");
        let row = self.named(values);
        self.parking.park(transaction, self.agreement, &key, &row, generation, &reason).await?;
        known.parked.insert(key);
        Ok(())
    }

    fn named(&self, values: &[Option<String>]) -> Row {
        self.wanted.iter().map(|column| column.name.clone()).zip(values.iter().cloned()).collect()
    }

    /// Takes out the keys without a row that may be in the table, and the rows.
    pub(super) fn take_rows(&mut self) -> (Vec<String>, Vec<(String, Texts)>) {
        let mut gone = Vec::new();
        let mut present = Vec::new();
        for (key, values) in std::mem::take(&mut self.rows) {
            match values {
                Some(values) => present.push((key, values)),
                None if may_be_there(&key) => gone.push(key),
                None => {}
            }
        }
        (gone, present)
    }

    /// How many columns the stream has.
    pub(super) const fn width(&self) -> usize {
        self.wanted.len()
    }

    /// The statement leaves unchanged rows untouched, so that no trigger fires for them. During a snapshot it notes
    /// their keys, so that the end of the snapshot keeps them.
    pub(super) fn upsert_statement(&self, table: &Table, is_in_snapshot: bool) -> String {
        let names: Vec<String> = self.wanted.iter().map(|column| quoted(&column.name)).collect();
        let numbers = 0..self.wanted.len();
        let arrays: String = numbers.clone().map(|n| format!(", ${}::text[]", n + 4)).collect();
        let inner: String = numbers.map(|n| format!(", v{n}")).collect();
        let cast: String = self
            .wanted
            .iter()
            .enumerate()
            .map(|(n, column)| format!(", v{n}::{} AS v{n}", column.kind))
            .collect();
        let same = self.wanted.iter().zip(&names).enumerate().map(|(n, (column, name))| {
            match column.has_one_spelling() {
                // The database's collation may ignore case.
                true if column.kind == "text" => {
                    format!(" AND t.{name} COLLATE \"C\" IS NOT DISTINCT FROM r.v{n} COLLATE \"C\"")
                }
                true => format!(" AND t.{name} IS NOT DISTINCT FROM r.v{n}"),
                false => format!(" AND t.{name}::text IS NOT DISTINCT FROM r.v{n}::text"),
            }
        });
        let empty = self.others.iter().map(|name| format!(" AND t.{} IS NULL", quoted(name)));
        let same: String = same.chain(empty).collect();
        let sets = names.iter().map(|name| format!(", {name} = EXCLUDED.{name}"));
        // A written row does not keep values that the stream does not have.
        let nulls = self.others.iter().map(|name| format!(", {} = NULL", quoted(name)));
        let sets: String = sets.chain(nulls).collect();
        let listed: String = names.iter().map(|name| format!(", {name}")).collect();
        let key = quoted(KEY);
        let generation = quoted(GENERATION);
        let kept = table.kept();
        format!(
            "WITH r AS MATERIALIZED (SELECT k{cast} FROM unnest($2::text[]{arrays}) AS given(k{inner})),
             same AS MATERIALIZED (SELECT r.k FROM r JOIN {table} t ON t.{key} = r.k{same}),
             noted AS (INSERT INTO {kept} SELECT $3, k FROM same WHERE {is_in_snapshot} ON CONFLICT DO NOTHING),
             written AS (INSERT INTO {table} ({key}, {generation}{listed})
               SELECT k, $1::bigint{inner} FROM r WHERE NOT EXISTS (SELECT FROM same WHERE same.k = r.k)
               ON CONFLICT ({key}) DO UPDATE SET {generation} = EXCLUDED.{generation}{sets}
               RETURNING (xmax = 0) AS is_new)
             SELECT count(*) FILTER (WHERE is_new) FROM written",
            table = table.sql(),
        )
    }
}

/// Whether a table may have a row of this key: PostgreSQL's `text` holds no zero byte.
fn may_be_there(key: &str) -> bool {
    !key.contains('\0')
}

/// Rows, column by column.
pub(super) struct Values<'v> {
    keys: Vec<&'v str>,
    columns: Vec<Vec<Option<&'v str>>>,
}

impl<'v> Values<'v> {
    pub(super) fn of(rows: &'v [(String, Texts)], width: usize) -> Self {
        let keys = rows.iter().map(|(key, _)| key.as_str()).collect();
        let mut columns: Vec<Vec<Option<&str>>> = vec![Vec::with_capacity(rows.len()); width];
        for (_, values) in rows {
            columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value.as_deref()));
        }
        Self { keys, columns }
    }

    /// Writes the rows; returns how many were not there before.
    pub(super) async fn upsert(
        &self,
        client: &impl GenericClient,
        statement: &(impl ToStatement + ?Sized + Sync + Send),
        generation: i64,
        agreement: &str,
    ) -> Result<usize, tokio_postgres::Error> {
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&generation, &self.keys, &agreement];
        parameters.extend(self.columns.iter().map(|column| column as &(dyn ToSql + Sync)));
        let inserted: i64 = client.query_one(statement, &parameters).await?.get(0);
        Ok(usize::try_from(inserted).unwrap_or(0))
    }
}

/// Whether a refusal is a row's own fault.
pub(super) fn is_rows_own(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| ROWS_OWN.iter().any(|class| code.code().starts_with(class)))
}
