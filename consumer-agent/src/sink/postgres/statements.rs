//! The SQL of a replica table and of its line in `dit_replica`.
//!
//! Owns the statements that make, read and move; `writes` has those for rows. Names are quoted, values are parameters.

use schemas::cursor::Cursor;
use schemas::ids::AgreementNumber;
use schemas::time::Millis;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Transaction};

use super::PostgresError;
use super::columns::{Column, GENERATION, KEY, aside, is_field, quoted};
use super::parked::Parking;
use crate::sink::Batch;

/// The comment on a column that the agreement no longer gives and that cannot be dropped.
const EMPTIED: &str =
    "Not received any more: the column is empty, and the next snapshot drops it once no view uses it";

/// The format version of the line.
const FORMAT: i32 = 1;
/// The version during a snapshot: older agents do not know `dit_kept`, and would drop the kept rows at its end.
const FORMAT_IN_SNAPSHOT: i32 = 2;

/// The contents of a table's line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Stored {
    /// Where to continue, perhaps in a snapshot.
    pub(super) cursor: Option<Cursor>,
    /// Counts snapshots.
    pub(super) generation: i64,
    /// The time up to which the provider has checked its source.
    pub(super) freshness: Option<Millis>,
    /// The table's columns as the agent left them; empty before the table is made.
    pub(super) columns: Vec<Column>,
}

impl Stored {
    /// Whether a snapshot is under way, or must begin.
    pub(super) fn is_in_snapshot(&self) -> bool {
        self.cursor.as_ref().is_none_or(|cursor| cursor.snapshot.is_some())
    }

    /// Takes the position after a batch, where it is known.
    pub(super) fn follow(&mut self, batch: &Batch) {
        if let Some(cursor) = &batch.cursor {
            self.cursor = Some(cursor.clone());
            self.freshness = batch.freshness;
        }
    }
}

/// What moves a line: its values before and after.
pub(super) struct Move<'a> {
    agreement: &'a str,
    cursor: Option<String>,
    generation: i64,
    freshness: Option<i64>,
    columns: String,
    before: Option<String>,
    generation_before: i64,
    format: i32,
}

impl<'a> Move<'a> {
    pub(super) fn new(agreement: &'a AgreementNumber, from: &Stored, to: &Stored) -> Self {
        let text = |cursor: &Option<Cursor>| cursor.as_ref().map(ToString::to_string);
        Self {
            agreement: agreement.as_str(),
            cursor: text(&to.cursor),
            generation: to.generation,
            freshness: to.freshness.map(Millis::get),
            columns: serde_json::to_string(&to.columns).unwrap_or_default(),
            before: text(&from.cursor),
            generation_before: from.generation,
            format: if to.is_in_snapshot() { FORMAT_IN_SNAPSHOT } else { FORMAT },
        }
    }

    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 8] {
        [
            &self.agreement,
            &self.cursor,
            &self.generation,
            &self.freshness,
            &self.columns,
            &self.before,
            &self.generation_before,
            &self.format,
        ]
    }
}

/// A table by its names.
#[derive(Debug, Clone)]
pub(super) struct Table {
    schema: String,
    name: String,
    words: String,
    sql: String,
}

impl Table {
    pub(super) fn new(schema: &str, name: &str) -> Self {
        let words = format!("{schema}.{name}");
        let sql = format!("{}.{}", quoted(schema), quoted(name));
        Self { schema: schema.to_owned(), name: name.to_owned(), words, sql }
    }

    /// Its name for people.
    pub(super) fn words(&self) -> &str {
        &self.words
    }

    /// The table in SQL.
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    fn lines(&self) -> String {
        format!("{}.dit_replica", quoted(&self.schema))
    }

    /// The table of keys whose rows a snapshot found unchanged.
    pub(super) fn kept(&self) -> String {
        format!("{}.dit_kept", quoted(&self.schema))
    }

    /// The table of its refused rows.
    pub(super) fn parking(&self) -> Parking {
        Parking::of(&self.schema)
    }

    /// Reads the line; makes it if there is none yet.
    pub(super) async fn read(
        &self,
        transaction: &Transaction<'_>,
        agreement: &AgreementNumber,
    ) -> Result<Stored, PostgresError> {
        let failed = PostgresError::during("reading dit_replica");
        let may_write = "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $1";
        let found = transaction.query_opt(may_write, &[&self.schema]).await.map_err(&failed)?;
        if !found.is_some_and(|row| row.get(0)) {
            return Err(PostgresError::NoSchema { schema: self.schema.clone() });
        }
        let lines = self.lines();
        // Agents of several agreements may begin at once.
        let make = format!(
            "SELECT pg_advisory_xact_lock(hashtext('dit_replica'));
             CREATE TABLE IF NOT EXISTS {lines} (agreement text PRIMARY KEY, table_name text NOT NULL UNIQUE,
               format integer NOT NULL, cursor text, generation bigint NOT NULL,
               freshness timestamptz, columns text NOT NULL);
             CREATE TABLE IF NOT EXISTS {kept} (agreement text, key text, PRIMARY KEY (agreement, key));",
            kept = self.kept()
        );
        transaction.batch_execute(&make).await.map_err(&failed)?;
        let insert =
            format!("INSERT INTO {lines} VALUES ($1, $2, $3, NULL, 0, NULL, '[]') ON CONFLICT DO NOTHING");
        let number = agreement.as_str();
        let made = transaction.execute(&insert, &[&number, &self.name, &FORMAT]).await.map_err(&failed)?;
        self.parking().make(transaction, agreement, made == 1).await?;
        let select = format!(
            "SELECT table_name, format, cursor, generation,
               (extract(epoch FROM freshness) * 1000)::bigint, columns FROM {lines} WHERE agreement = $1"
        );
        let row = transaction.query_opt(&select, &[&number]).await.map_err(&failed)?;
        let table = self.words.clone();
        // Another agreement's line has the table's name.
        let Some(row) = row else { return Err(PostgresError::Foreign { table }) };
        let line = |problem: String| PostgresError::Line { table: table.clone(), problem };
        let (name, format): (String, i32) = (row.get(0), row.get(1));
        if name != self.name {
            return Err(PostgresError::OtherTable { table, there: name });
        }
        if format > FORMAT_IN_SNAPSHOT {
            return Err(PostgresError::Newer { table, format, known: FORMAT_IN_SNAPSHOT });
        }
        let cursor: Option<String> = row.get(2);
        let columns: String = row.get(5);
        Ok(Stored {
            cursor: cursor.map(|text| text.parse()).transpose().map_err(|e| line(format!("cursor: {e}")))?,
            generation: row.get(3),
            freshness: row.get::<_, Option<i64>>(4).map(Millis::new),
            columns: serde_json::from_str(&columns).map_err(|e| line(format!("columns: {e}")))?,
        })
    }

    /// Changes the line from the values that were read to the new ones, or fails.
    pub(super) async fn move_line(
        &self,
        transaction: &Transaction<'_>,
        agreement: &AgreementNumber,
        from: &Stored,
        to: &Stored,
    ) -> Result<(), PostgresError> {
        let line = Move::new(agreement, from, to);
        let moved = transaction.execute(&self.move_statement(), &line.parameters()).await;
        match moved.map_err(PostgresError::during("moving the cursor"))? {
            1 => Ok(()),
            _ => Err(self.moved()),
        }
    }

    /// The line is not as it was read.
    pub(super) fn moved(&self) -> PostgresError {
        PostgresError::Moved { table: self.words.clone() }
    }

    /// Takes the parameters of [`Move`].
    pub(super) fn move_statement(&self) -> String {
        format!(
            "UPDATE {} SET cursor = $2, generation = $3,
               freshness = to_timestamp($4::bigint / 1000.0), columns = $5, format = $8
             WHERE agreement = $1 AND cursor IS NOT DISTINCT FROM $6 AND generation = $7",
            self.lines()
        )
    }

    /// Deletes the rows of the keys `$1`.
    pub(super) fn delete_statement(&self) -> String {
        format!("DELETE FROM {} WHERE {} = ANY($1)", self.sql, quoted(KEY))
    }

    /// Forgets that a snapshot found the rows of the keys `$2` unchanged.
    pub(super) fn forget_statement(&self) -> String {
        format!("DELETE FROM {} WHERE agreement = $1 AND key = ANY($2)", self.kept())
    }

    pub(super) async fn count(&self, client: &Client) -> Result<usize, PostgresError> {
        let counted = client.query_one(&format!("SELECT count(*) FROM {}", self.sql), &[]).await;
        let row = counted.map_err(|error| match error.code() {
            Some(&SqlState::UNDEFINED_TABLE) => {
                let differences = vec!["it is gone".to_owned()];
                PostgresError::Altered { table: self.words.clone(), differences }
            }
            _ => PostgresError::during("counting")(error),
        })?;
        Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    /// The columns that the table has now; none when there is no table.
    pub(super) async fn columns(&self, transaction: &Transaction<'_>) -> Result<Vec<Column>, PostgresError> {
        let select = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
        let rows = transaction.query(select, &[&self.schema, &self.name]).await;
        let rows = rows.map_err(PostgresError::during("looking at the table"))?;
        let column = |row: &tokio_postgres::Row| Column {
            name: row.get(0),
            kind: row.get(1),
            not_null: row.get(2),
            comment: None,
            stands_for: None,
        };
        Ok(rows.iter().map(column).collect())
    }

    pub(super) async fn create(
        &self,
        transaction: &Transaction<'_>,
        columns: &[Column],
    ) -> Result<(), PostgresError> {
        let definitions: Vec<_> = columns.iter().map(|column| column.definition(column.not_null)).collect();
        let create =
            format!("CREATE TABLE {} ({}, PRIMARY KEY ({}))", self.sql, definitions.join(", "), quoted(KEY));
        self.alter(transaction, &create).await?;
        self.comment(transaction, columns).await
    }

    async fn alter(&self, transaction: &Transaction<'_>, statement: &str) -> Result<(), PostgresError> {
        transaction
            .batch_execute(statement)
            .await
            .map_err(PostgresError::during("making the table's columns"))
    }

    async fn comment(&self, transaction: &Transaction<'_>, columns: &[Column]) -> Result<(), PostgresError> {
        for column in columns {
            let text = column.words().replace('\'', "''");
            // A backslash is a plain character: the session sets `standard_conforming_strings`.
            let set = format!("COMMENT ON COLUMN {}.{} IS '{text}'", self.sql, quoted(&column.name));
            self.alter(transaction, &set).await?;
        }
        Ok(())
    }

    /// Adds a stream's columns. A column that the stream no longer has stays until the end of a snapshot; in new rows
    /// it is null.
    pub(super) async fn widen(
        &self,
        transaction: &Transaction<'_>,
        left: &mut Vec<Column>,
        wanted: &[Column],
    ) -> Result<(), PostgresError> {
        for column in wanted {
            let known = left.iter().position(|known| known.name == column.name);
            if let Some(index) = known
                && left.get(index).is_some_and(|known| known.kind != column.kind)
            {
                // A type changes only with the agreement's version, whose snapshot brings every value anew.
                self.clear_the_way(transaction, left, index).await?;
            }
            match left.iter_mut().find(|known| known.name == column.name) {
                Some(known) => {
                    if known.not_null && !column.not_null {
                        self.set_nullable(transaction, known).await?;
                    }
                    if known.comment != column.comment {
                        self.comment(transaction, std::slice::from_ref(column)).await?;
                        known.comment.clone_from(&column.comment);
                    }
                }
                None => {
                    let add = format!("ALTER TABLE {} ADD COLUMN {}", self.sql, column.definition(false));
                    self.alter(transaction, &add).await?;
                    self.comment(transaction, std::slice::from_ref(column)).await?;
                    left.push(Column { not_null: false, ..column.clone() });
                }
            }
        }
        for known in left.iter_mut().filter(|known| known.not_null && is_field(known)) {
            if !wanted.iter().any(|column| column.name == known.name) {
                self.set_nullable(transaction, known).await?;
            }
        }
        Ok(())
    }

    async fn set_nullable(
        &self,
        transaction: &Transaction<'_>,
        column: &mut Column,
    ) -> Result<(), PostgresError> {
        let name = quoted(&column.name);
        self.alter(transaction, &format!("ALTER TABLE {} ALTER COLUMN {name} DROP NOT NULL", self.sql))
            .await?;
        column.not_null = false;
        Ok(())
    }

    /// Drops a column whose name is needed for another type; renames it if a view uses it.
    async fn clear_the_way(
        &self,
        transaction: &Transaction<'_>,
        left: &mut Vec<Column>,
        index: usize,
    ) -> Result<(), PostgresError> {
        let mut column = left.remove(index);
        if self.drop_column(transaction, &column).await? {
            return Ok(());
        }
        if column.not_null {
            self.set_nullable(transaction, &mut column).await?;
        }
        let aside = aside(left);
        let from = quoted(&column.name);
        let to = quoted(&aside);
        let rename = format!("ALTER TABLE {} RENAME COLUMN {from} TO {to}", self.sql);
        self.alter(transaction, &rename).await?;
        left.push(Column { name: aside, ..column });
        Ok(())
    }

    /// Drops a column, unless another object, such as a view, uses it; returns whether it was dropped.
    async fn drop_column(
        &self,
        transaction: &Transaction<'_>,
        column: &Column,
    ) -> Result<bool, PostgresError> {
        let sql = &self.sql;
        let name = quoted(&column.name);
        let drop = format!("SAVEPOINT dit_column; ALTER TABLE {sql} DROP COLUMN {name}; RELEASE dit_column");
        match transaction.batch_execute(&drop).await {
            Ok(()) => Ok(true),
            Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
                self.alter(transaction, "ROLLBACK TO dit_column; RELEASE dit_column").await?;
                Ok(false)
            }
            Err(error) => Err(PostgresError::during("dropping a column")(error)),
        }
    }

    /// Empties a column that cannot be dropped: the agreement no longer gives its values.
    async fn empty(&self, transaction: &Transaction<'_>, column: &mut Column) -> Result<(), PostgresError> {
        let sql = &self.sql;
        let name = quoted(&column.name);
        self.alter(transaction, &format!("UPDATE {sql} SET {name} = NULL WHERE {name} IS NOT NULL")).await?;
        if column.comment.as_deref() != Some(EMPTIED) {
            column.comment = Some(EMPTIED.to_owned());
            self.comment(transaction, std::slice::from_ref(column)).await?;
        }
        let on_it = self.stands_on(transaction, column).await?;
        tracing::warn!(table = %self.words, column = %column.name, "the stream no longer has this column. The column stays, empty, because something uses it: {on_it}. Recreate that without the column; the next snapshot then drops the column");
        Ok(())
    }

    /// The views that use a column, in words.
    async fn stands_on(
        &self,
        transaction: &Transaction<'_>,
        column: &Column,
    ) -> Result<String, PostgresError> {
        let select = "SELECT DISTINCT r.ev_class::regclass::text
             FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
             JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = $3 ORDER BY 1";
        let found = transaction.query(select, &[&self.schema, &self.name, &column.name]).await;
        let found = found.map_err(PostgresError::during("looking for views"))?;
        let views: Vec<String> = found.iter().map(|row| row.get(0)).collect();
        Ok(if views.is_empty() { "an object that is no view".to_owned() } else { views.join(", ") })
    }

    /// At the end of a snapshot: drops the columns that the stream does not have, with their values.
    pub(super) async fn narrow(
        &self,
        transaction: &Transaction<'_>,
        left: &mut Vec<Column>,
        wanted: &[Column],
    ) -> Result<(), PostgresError> {
        let of = |name: &str| wanted.iter().find(|column| column.name == name);
        let mut gone = Vec::new();
        for column in left.iter_mut().filter(|column| is_field(column)) {
            match of(&column.name) {
                None if self.drop_column(transaction, column).await? => gone.push(column.name.clone()),
                None => self.empty(transaction, column).await?,
                Some(wanted) if wanted.not_null && !column.not_null => {
                    let name = quoted(&column.name);
                    let set = format!("ALTER TABLE {} ALTER COLUMN {name} SET NOT NULL", self.sql);
                    self.alter(transaction, &set).await?;
                    column.not_null = true;
                }
                Some(_) => {}
            }
        }
        left.retain(|column| !gone.contains(&column.name));
        Ok(())
    }

    /// Forgets the rows that an earlier snapshot found unchanged.
    pub(super) async fn forget_kept(
        &self,
        transaction: &Transaction<'_>,
        agreement: &AgreementNumber,
    ) -> Result<(), PostgresError> {
        let forget = format!("DELETE FROM {} WHERE agreement = $1", self.kept());
        let forgotten = transaction.execute(&forget, &[&agreement.as_str()]).await;
        forgotten.map(drop).map_err(PostgresError::during("looking at a snapshot's rows"))
    }

    /// Drops the rows that a snapshot did not bring; returns how many.
    pub(super) async fn drop_others(
        &self,
        transaction: &Transaction<'_>,
        agreement: &AgreementNumber,
        generation: i64,
    ) -> Result<usize, PostgresError> {
        let table = &self.sql;
        let kept = self.kept();
        let key = quoted(KEY);
        let delete = format!(
            "DELETE FROM {table} t WHERE {} <> $1
               AND NOT EXISTS (SELECT FROM {kept} WHERE agreement = $2 AND key = t.{key})",
            quoted(GENERATION)
        );
        let gone = transaction.execute(&delete, &[&generation, &agreement.as_str()]).await;
        let gone = gone.map_err(PostgresError::during("ending a snapshot"))?;
        self.forget_kept(transaction, agreement).await?;
        Ok(usize::try_from(gone).unwrap_or(usize::MAX))
    }
}
