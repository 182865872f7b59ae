//! The PostgreSQL sink: rows of a table and their cursor change in one transaction.
//!
//! Owns the table and its line in `dit_replica`, in a schema that the agent's role may write, and nothing else. The
//! cursor moves only from the value that was read: a second agent on the same table changes nothing. A table that a
//! person has altered is refused, with advice.

mod batch;
mod columns;
mod connection;
mod parked;
mod prepared;
mod quick;
mod scan;
mod statements;
mod writes;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use schemas::avro::schema::AvroSchema;
use schemas::cursor::Cursor;
use schemas::ids::AgreementNumber;
use tokio_postgres::Transaction;

use self::columns::{Column, MOST_COLUMNS, StreamColumns, differences, field_columns, own_columns};
use self::connection::{Connection, connect};
use self::statements::{Stored, Table};
use super::error::SinkError;
use super::{Batch, See, Sink, StreamHead};

pub use columns::MOST_FIELDS;
pub use connection::PostgresTarget;
pub use parked::{Decision, ParkedRow, decide, parked};

/// Classes of errors that another try does not change: features, values, constraints, rights, dependants, names.
const LASTING: [&str; 8] = ["0A", "22", "23", "28", "2B", "3D", "3F", "42"];
/// After this a transaction is given up; the server's own limits end single statements earlier.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(600);

/// Why the PostgreSQL sink failed.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error("[agreement.postgres]: {problem}")]
    Target {
        /// What is wrong, and what to write.
        problem: String,
    },
    #[error("PostgreSQL, {doing}: {}", in_words(.error))]
    Server {
        /// What was being done.
        doing: &'static str,
        error: tokio_postgres::Error,
    },
    /// The server does not answer.
    #[error("PostgreSQL, {doing}: no answer within {seconds} s")]
    Late {
        /// What was being done.
        doing: &'static str,
        seconds: u64,
    },
    #[error(
        "schema {schema} does not exist, or the role may not create tables in it; as the database's owner: CREATE SCHEMA {schema} AUTHORIZATION <role>, or GRANT USAGE, CREATE ON SCHEMA … TO <role>"
    )]
    NoSchema { schema: String },
    #[error(
        "table {table} belongs to another agreement, or was not made by dit; give another table, and rename this one only if no other agreement uses it"
    )]
    Foreign { table: String },
    /// A person has altered the table.
    #[error(
        "table {table} was altered: {}; undo that, or drop the table and its line in dit_replica, and all is received anew",
        .differences.join("; ")
    )]
    Altered { table: String, differences: Vec<String> },
    /// More columns than a table can have.
    #[error(
        "table {table} would have {count} columns, PostgreSQL takes at most {MOST_COLUMNS}: receive into files, or name fewer fields in the agreement"
    )]
    ManyColumns { table: String, count: usize },
    /// Another agent has moved the cursor.
    #[error(
        "another agent writes table {table}: the cursor is not where this agent left it; stop one of them"
    )]
    Moved { table: String },
    /// The table refuses too many rows.
    #[error(
        "table {table} refuses more than {} keys, the last: {reason}; see what constrains the table, and `dit parked list`",
        parked::LIMIT
    )]
    ManyParked {
        table: String,
        /// The server's last error.
        reason: String,
    },
    /// The replica's line in `dit_replica` cannot be read.
    #[error("the line of {table} in dit_replica cannot be read: {problem}; drop the table and the line")]
    Line { table: String, problem: String },
    #[error(
        "dit_replica says that the agreement's rows are in table {there}, and the configuration names {table}: name {there}, or drop it and the agreement's line in dit_replica"
    )]
    OtherTable { table: String, there: String },
    #[error(
        "the line of {table} in dit_replica has format {format}, this binary knows up to {known}: use a newer dit"
    )]
    Newer { table: String, format: i32, known: i32 },
    /// A batch came before the sink was ready for its stream.
    #[error("table {0} was not looked at before it was written: the stream is begun again")]
    NotReady(String),
}

impl PostgresError {
    fn during(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> Self {
        move |error| Self::Server { doing, error }
    }

    /// Whether another try is useless until a person has acted.
    fn needs_a_person(&self) -> bool {
        match self {
            Self::Server { error, .. } => {
                error.code().is_some_and(|code| LASTING.iter().any(|class| code.code().starts_with(class)))
            }
            Self::Late { .. } | Self::NotReady(_) => false,
            _ => true,
        }
    }
}

impl From<PostgresError> for SinkError {
    fn from(error: PostgresError) -> Self {
        if error.needs_a_person() { Self::for_a_person(error) } else { Self::transient(error) }
    }
}

fn in_words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// What the sink has read of its table.
#[derive(Clone)]
struct Known {
    stored: Stored,
    rows: usize,
    /// Keys with a refused row; later rows of such a key wait behind it.
    parked: BTreeSet<String>,
}

/// A replica in a table.
pub struct PostgresSink {
    target: PostgresTarget,
    agreement: AgreementNumber,
    table: Table,
    connection: Option<Connection>,
    known: Option<Known>,
    /// The last known cursor.
    cursor: Option<Cursor>,
    /// The stream's schema and its columns.
    stream: Option<(AvroSchema, Vec<Column>)>,
}

impl PostgresSink {
    /// A sink for an agreement; it connects when it is first needed. `name` is the table's unless the target says so.
    pub fn new(target: PostgresTarget, agreement: AgreementNumber, name: &str) -> Self {
        let table = Table::new(&target.schema, target.table.as_deref().unwrap_or(name));
        Self { target, agreement, table, connection: None, known: None, cursor: None, stream: None }
    }

    async fn make_ready(&mut self) -> Result<(), PostgresError> {
        if self.connection.as_ref().is_some_and(|connection| !connection.client.is_closed())
            && self.known.is_some()
        {
            return Ok(());
        }
        (self.connection, self.known) = (None, None);
        let mut connection = connect(&self.target).await?;
        let transaction =
            connection.client.transaction().await.map_err(PostgresError::during("beginning"))?;
        let stored = self.table.read(&transaction, &self.agreement).await?;
        let parking = self.table.parking();
        let parked = parking.keys(&transaction, &self.agreement, stored.generation).await?;
        transaction.commit().await.map_err(PostgresError::during("committing"))?;
        let is_made = !stored.columns.is_empty();
        let rows = if is_made { self.table.count(&connection.client).await? } else { 0 };
        self.cursor.clone_from(&stored.cursor);
        (self.connection, self.known) = (Some(connection), Some(Known { stored, rows, parked }));
        Ok(())
    }

    /// Applies a batch of rows alone; returns whether that was possible.
    async fn apply_quickly(&mut self, batch: &Batch, stream: &StreamColumns<'_>) -> Result<bool, SinkError> {
        let (mut connection, known) = self.take_known()?;
        let whole = quick::apply(batch, &self.agreement, &self.table, stream, &mut connection, &known);
        let applied = in_time(whole).await?;
        let was_applied = applied.is_some();
        self.know(connection, applied.unwrap_or(known));
        Ok(was_applied)
    }

    /// After an error these are gone: the sink must read them again.
    fn take_known(&mut self) -> Result<(Connection, Known), PostgresError> {
        match (self.connection.take(), self.known.take()) {
            (Some(connection), Some(known)) => Ok((connection, known)),
            _ => Err(PostgresError::NotReady(self.table.words().to_owned())),
        }
    }

    fn know(&mut self, connection: Connection, known: Known) {
        self.cursor.clone_from(&known.stored.cursor);
        (self.connection, self.known) = (Some(connection), Some(known));
    }

    /// Does `work` in a transaction that also moves the line from the value that was read. Afterwards the sink knows
    /// the new line, or that it must read it again.
    async fn transact(
        &mut self,
        work: impl AsyncFnOnce(&Table, &Transaction<'_>, &mut Known) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let (mut connection, mut next) = self.take_known()?;
        let stored = next.stored.clone();
        let whole = async {
            let transaction =
                connection.client.transaction().await.map_err(PostgresError::during("beginning"))?;
            work(&self.table, &transaction, &mut next).await?;
            self.table.move_line(&transaction, &self.agreement, &stored, &next.stored).await?;
            // If the answer is lost, the next read finds out whether the commit was made.
            transaction.commit().await.map_err(PostgresError::during("committing"))?;
            Ok::<(), SinkError>(())
        };
        in_time(whole).await?;
        self.know(connection, next);
        Ok(())
    }
}

/// Gives a transaction up that lasts too long.
async fn in_time<T>(transaction: impl Future<Output = Result<T, SinkError>>) -> Result<T, SinkError> {
    match tokio::time::timeout(TRANSACTION_LIMIT, transaction).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let seconds = TRANSACTION_LIMIT.as_secs();
            Err(PostgresError::Late { doing: "writing", seconds }.into())
        }
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn system(&self) -> &'static str {
        "postgresql"
    }

    async fn ready(&mut self) -> Result<(), SinkError> {
        Ok(self.make_ready().await?)
    }

    fn cursor(&self) -> Option<Cursor> {
        self.cursor.clone()
    }

    async fn begin(&mut self, head: &StreamHead) -> Result<(), SinkError> {
        self.make_ready().await?;
        let derived = head.derived.clone();
        let wanted = field_columns(&derived)
            .map_err(|e| PostgresError::Target { problem: format!("the stream's schema: {e}") })?;
        let count = wanted.len() + own_columns().len();
        if count > MOST_COLUMNS {
            return Err(PostgresError::ManyColumns { table: self.table.words().to_owned(), count }.into());
        }
        for column in &wanted {
            if let Some(field) = &column.stands_for {
                tracing::info!(table = %self.table.words(), "field {field:?} is in column {:?}: PostgreSQL does not allow the name of the field for a column", column.name);
            }
        }
        let columns = wanted.clone();
        self.transact(async move |table: &Table, transaction: &Transaction<'_>, known: &mut Known| {
            let left = &mut known.stored.columns;
            let found = table.columns(transaction).await?;
            match (left.is_empty(), found.is_empty()) {
                (true, true) => {
                    *left = own_columns().into_iter().chain(columns).collect();
                    return Ok(table.create(transaction, left).await?);
                }
                (true, false) => {
                    return Err(PostgresError::Foreign { table: table.words().to_owned() }.into());
                }
                (false, _) => {}
            }
            let differences = differences(left, &found);
            if !differences.is_empty() {
                return Err(PostgresError::Altered { table: table.words().to_owned(), differences }.into());
            }
            Ok(table.widen(transaction, left, &columns).await?)
        })
        .await?;
        self.connection.iter_mut().for_each(|connection| connection.prepared.clear());
        self.stream = Some((derived, wanted));
        Ok(())
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let Some((derived, wanted)) = self.stream.clone() else { return Ok(()) };
        if self.apply_quickly(batch, &StreamColumns { derived: &derived, wanted: &wanted }).await? {
            return Ok(());
        }
        let agreement = self.agreement.clone();
        self.transact(async move |table: &Table, transaction: &Transaction<'_>, known: &mut Known| {
            let stream = StreamColumns { derived: &derived, wanted: &wanted };
            batch::apply(batch, &agreement, table, &stream, transaction, known).await
        })
        .await
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        // The transaction of each batch has made it durable and visible.
        Ok(())
    }

    async fn scan(&mut self, see: &mut See<'_>) -> Result<(), SinkError> {
        self.make_ready().await?;
        let (Some(connection), Some(known), Some((derived, wanted))) =
            (&self.connection, &mut self.known, &self.stream)
        else {
            return Ok(());
        };
        let replica = scan::Replica { table: &self.table, agreement: &self.agreement, derived, wanted };
        known.rows = replica.scan(&connection.client, known, see).await?;
        Ok(())
    }

    fn row_count(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.rows)
    }

    fn parked_count(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.parked.len())
    }
}
