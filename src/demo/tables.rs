//! Replicas of a demo in PostgreSQL: a schema for each consumer, in a database that the user gives.
//!
//! Owns making them and reading them back.

use std::collections::BTreeMap;

use anyhow::Context;
use consumer_agent::sink::postgres::{PostgresSink, PostgresTarget};
use schemas::ids::AgreementNumber;
use tokio_postgres::{Client, NoTls};

#[derive(Debug, Clone)]
pub struct ReplicaTable {
    target: PostgresTarget,
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

/// Column → its name in the register, for names that PostgreSQL does not take.
fn renamed(columns: &str) -> anyhow::Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Told {
        name: String,
        stands_for: Option<String>,
    }
    let told: Vec<Told> = serde_json::from_str(columns).context("columns of dit_replica")?;
    Ok(told.into_iter().filter_map(|column| Some((column.name, column.stands_for?))).collect())
}

fn under_own_names(row: &str, renamed: &BTreeMap<String, String>) -> anyhow::Result<String> {
    let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(row)?;
    let name = |name: String| renamed.get(&name).cloned().unwrap_or(name);
    let own: serde_json::Map<_, _> = row.into_iter().map(|(column, value)| (name(column), value)).collect();
    Ok(serde_json::to_string(&own)?)
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
        let url = url.to_owned();
        let schema = participant.to_owned();
        let target = PostgresTarget { url, password_file: None, ca: None, schema, table: None };
        Ok(Self { target, name: name.to_owned() })
    }

    /// The sink that writes it.
    pub fn sink(&self, number: &AgreementNumber) -> PostgresSink {
        PostgresSink::new(self.target.clone(), number.clone(), &self.name)
    }

    /// Its rows as JSON objects, with the register's names of columns and without the agent's own columns.
    pub async fn rows(&self) -> anyhow::Result<Vec<String>> {
        let (client, driver) = connect(&self.target.url).await?;
        let select = format!(
            "SELECT (to_jsonb(dit_row_) - 'dit_key' - 'dit_generation')::text FROM {}.{} dit_row_",
            quoted(&self.target.schema),
            quoted(&self.name)
        );
        let rows: Vec<String> = client.query(&select, &[]).await?.iter().map(|row| row.get(0)).collect();
        let line =
            format!("SELECT columns FROM {}.dit_replica WHERE table_name = $1", quoted(&self.target.schema));
        let columns: String = client.query_one(&line, &[&self.name]).await?.get(0);
        drop(client);
        driver.await?;
        let renamed = renamed(&columns)?;
        if renamed.is_empty() {
            Ok(rows)
        } else {
            rows.iter().map(|row| under_own_names(row, &renamed)).collect()
        }
    }
}
