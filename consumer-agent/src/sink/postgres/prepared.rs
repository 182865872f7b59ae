//! Statements that are prepared once for a connection.
//!
//! Owns which those are. It knows no table.

use std::collections::HashMap;

use tokio_postgres::{Client, Error, Statement};

/// Statements that the server knows on a connection, by their text.
#[derive(Default)]
pub(super) struct Prepared(HashMap<String, Statement>);

impl Prepared {
    /// Forgets all statements: those of another stream have other columns.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// A statement, prepared now or before.
    pub(super) async fn get(&mut self, client: &Client, text: String) -> Result<Statement, Error> {
        if let Some(statement) = self.0.get(&text) {
            return Ok(statement.clone());
        }
        let statement = client.prepare(&text).await?;
        self.0.insert(text, statement.clone());
        Ok(statement)
    }
}
