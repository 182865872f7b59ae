//! Replicas of a demo in PostgreSQL: a schema for each consumer, in a database that the user gives.
//!
//! Owns making them and reading them back.

use anyhow::Context;
use consumer_agent::sink::postgres::{PostgresPlace, PostgresSink};
use schemas::ids::AgreementNumber;
use tokio_postgres::{Client, NoTls};

/// A consumer's table.
#[derive(Debug, Clone)]
pub struct ReplicaTable {
    place: PostgresPlace,
    name: String,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

async fn connect(url: &str) -> anyhow::Result<(Client, tokio::task::JoinHandle<()>)> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("PostgreSQL")?;
    // It ends with the client.
    Ok((client, tokio::spawn(async move { drop(connection.await) })))
}

impl ReplicaTable {
    /// Makes a schema for a participant; the table comes with the first stream.
    pub async fn make(url: &str, participant: &str, name: &str) -> anyhow::Result<Self> {
        let (client, driver) = connect(url).await?;
        client.batch_execute(&format!("CREATE SCHEMA {}", quoted(participant))).await.with_context(|| {
            format!("schema {participant} cannot be made; give an empty database of your own")
        })?;
        drop(client);
        driver.await?;
        let (url, schema) = (url.to_owned(), participant.to_owned());
        let place = PostgresPlace { url, password_file: None, ca: None, schema, table: None };
        Ok(Self { place, name: name.to_owned() })
    }

    /// The sink that writes it.
    pub fn sink(&self, number: &AgreementNumber) -> PostgresSink {
        PostgresSink::new(self.place.clone(), number.clone(), &self.name)
    }

    /// Its rows as JSON objects, without what the agent keeps beside them.
    pub async fn rows(&self) -> anyhow::Result<Vec<String>> {
        let (client, driver) = connect(&self.place.url).await?;
        let select = format!(
            "SELECT (to_jsonb(t) - 'dit_key' - 'dit_generation')::text FROM {}.{} t",
            quoted(&self.place.schema),
            quoted(&self.name)
        );
        let rows = client.query(&select, &[]).await?.iter().map(|row| row.get(0)).collect();
        drop(client);
        driver.await?;
        Ok(rows)
    }
}
