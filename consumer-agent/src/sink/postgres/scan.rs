//! A replica table's rows, read back as text.
//!
//! Owns which row counts for a key: the table's row, or for a parked key the row that waits.

use futures_util::TryStreamExt;
use schemas::avro::schema::AvroSchema;
use schemas::ids::AgreementNumber;
use schemas::reconcile::{Texts, spelt};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::columns::{Column, KEY, quoted};
use super::statements::Table;
use super::{Known, PostgresError, parked};
use crate::sink::See;

/// The replica that is read.
pub(super) struct Replica<'r> {
    pub(super) table: &'r Table,
    pub(super) agreement: &'r AgreementNumber,
    pub(super) derived: &'r AvroSchema,
    /// The columns of the schema's fields.
    pub(super) wanted: &'r [Column],
}

impl Replica<'_> {
    /// Shows every row; returns how many the table has.
    pub(super) async fn scan(
        &self,
        client: &Client,
        known: &Known,
        see: &mut See<'_>,
    ) -> Result<usize, PostgresError> {
        let failed = PostgresError::during("reading the rows");
        let columns = self.wanted.iter().map(|column| format!(", {}::text", quoted(&column.name)));
        let select =
            format!("SELECT {}{} FROM {}", quoted(KEY), columns.collect::<String>(), self.table.sql());
        let none: [&(dyn ToSql + Sync); 0] = [];
        let rows = client.query_raw(&select, none).await.map_err(&failed)?;
        let mut rows = std::pin::pin!(rows);
        let mut count = 0;
        while let Some(row) = rows.try_next().await.map_err(&failed)? {
            count += 1;
            let key: String = row.get(0);
            if !known.parked.contains(&key) {
                let values = (1..=self.wanted.len()).map(|index| row.get(index)).collect();
                see(&key, self.spelt(values)?);
            }
        }
        let generation = known.stored.generation;
        for (key, row) in parked::waiting(client, &self.table.parking(), self.agreement, generation).await? {
            let values = self.wanted.iter().map(|column| row.get(&column.name).cloned().flatten()).collect();
            see(&key, self.spelt(values)?);
        }
        Ok(count)
    }

    fn spelt(&self, values: Texts) -> Result<Texts, PostgresError> {
        let unusable = |error| PostgresError::Target { problem: format!("the stream's schema: {error}") };
        spelt(self.derived, values).map_err(unusable)
    }
}
