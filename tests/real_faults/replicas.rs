//! The consumers' replicas as any user sees them: tables by SQL, files by reading them.
//!
//! Owns the reading, and for tables a history of every write, which their own server keeps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio_postgres::{Client, NoTls};

use crate::network::{CONSUMERS, Consumer, agreement};
use crate::register::{MARK, Side};

/// Written by the server for each row that the agents write, in order.
const HISTORY: &str = "
    CREATE TABLE history (at bigserial PRIMARY KEY, place text, key text, n bigint, state text, type text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'DELETE' THEN
            INSERT INTO public.history (place, key) VALUES (TG_ARGV[0], OLD.dit_key);
        ELSE
            INSERT INTO public.history (place, key, n, state, type)
            VALUES (TG_ARGV[0], NEW.dit_key, NEW.n, NEW.state, NEW.type);
        END IF;
        RETURN NULL;
    END $$;";

/// One write of a key: the number of the change, and the row's state and type; nothing for a removal.
pub(crate) type Written = Option<(u64, String, String)>;

#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) consumer: Consumer,
    pub(crate) side: Side,
    file: PathBuf,
}

pub(crate) struct Replicas {
    pub(crate) each: Vec<Replica>,
    database: String,
}

async fn connect(database: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(database, NoTls).await?;
    // It ends with the client.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

impl Replica {
    fn table(&self) -> String {
        format!("\"{}\".\"{}\"", self.consumer.name, self.side.name())
    }

    /// Its name in the history.
    pub(crate) fn name(&self) -> String {
        agreement(&self.consumer, self.side)
    }

    /// Its rows, by key.
    pub(crate) async fn rows(&self, database: &str) -> anyhow::Result<BTreeMap<String, serde_json::Value>> {
        let lines = if self.consumer.has_table() {
            let select =
                format!("SELECT (to_jsonb(t) - 'dit_key' - 'dit_generation')::text FROM {} t", self.table());
            let rows = connect(database).await?.query(&select, &[]).await?;
            rows.iter().map(|row| row.get(0)).collect()
        } else {
            let text = std::fs::read_to_string(&self.file).unwrap_or_default();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let mut rows = BTreeMap::new();
        for line in lines {
            let row: serde_json::Value = serde_json::from_str(&line)?;
            let key = row["domain"].as_str().context("a domain")?.to_lowercase();
            anyhow::ensure!(rows.insert(key.clone(), row).is_none(), "{key} stands twice in {}", self.name());
        }
        Ok(rows)
    }

    /// The number of the last change that the marks of all partitions show.
    async fn reached(&self, client: &Client) -> anyhow::Result<u64> {
        if self.consumer.has_table() {
            let select =
                format!("SELECT coalesce(min(n), 0), count(*) FROM {} WHERE type = $1", self.table());
            let row = client.query_one(&select, &[&MARK]).await?;
            let (least, marks): (i64, i64) = (row.get(0), row.get(1));
            return Ok(if marks == i64::from(self.side.partitions()) { u64::try_from(least)? } else { 0 });
        }
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let marks = text.lines().filter(|line| line.contains(MARK));
        let numbers = marks.map(|line| Ok(serde_json::from_str::<serde_json::Value>(line)?["n"].as_u64()));
        let numbers: Vec<u64> = numbers.collect::<anyhow::Result<Option<_>>>()?.context("a number")?;
        let are_all = numbers.len() == usize::try_from(self.side.partitions())?;
        Ok(numbers.into_iter().min().filter(|_| are_all).unwrap_or(0))
    }
}

impl Replicas {
    /// The replicas of all consumers; makes their schemas.
    pub(crate) async fn make(dir: &Path, database: &str) -> anyhow::Result<Self> {
        let client = connect(database).await?;
        client.batch_execute(HISTORY).await?;
        for consumer in CONSUMERS.iter().filter(|consumer| consumer.has_table()) {
            client.batch_execute(&format!("CREATE SCHEMA \"{}\"", consumer.name)).await?;
        }
        let file = |consumer: &Consumer, side: Side| {
            dir.join(consumer.name).join(agreement(consumer, side)).join(format!("{}.ndjson", side.name()))
        };
        let both = |consumer: Consumer| {
            Side::BOTH.map(|side| Replica { consumer, side, file: file(&consumer, side) })
        };
        Ok(Self { each: CONSUMERS.into_iter().flat_map(both).collect(), database: database.to_owned() })
    }

    /// From now on the server records every write; `false` while a table does not exist.
    pub(crate) async fn write_down(&self) -> anyhow::Result<bool> {
        let client = connect(&self.database).await?;
        let tables: Vec<_> = self.each.iter().filter(|replica| replica.consumer.has_table()).collect();
        for replica in &tables {
            let exists = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&replica.table()]).await?;
            if !exists.get::<_, bool>(0) {
                return Ok(false);
            }
        }
        for replica in tables {
            let trigger = format!(
                "CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW EXECUTE FUNCTION public.note('{}')",
                replica.table(),
                replica.name()
            );
            client.batch_execute(&trigger).await?;
        }
        Ok(true)
    }

    /// Whether every replica shows a change after these.
    pub(crate) async fn are_past(&self, changes: &BTreeMap<Side, u64>) -> anyhow::Result<bool> {
        let client = connect(&self.database).await?;
        for replica in &self.each {
            if replica.reached(&client).await? <= changes.get(&replica.side).copied().unwrap_or(0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// All that was ever written into the tables, by replica and key, in order.
    pub(crate) async fn history(&self) -> anyhow::Result<BTreeMap<String, BTreeMap<String, Vec<Written>>>> {
        let client = connect(&self.database).await?;
        let mut history: BTreeMap<String, BTreeMap<String, Vec<Written>>> = BTreeMap::new();
        for row in client.query("SELECT place, key, n, state, type FROM history ORDER BY at", &[]).await? {
            let (place, key): (String, String) = (row.get(0), row.get(1));
            let number = row.get::<_, Option<i64>>(2).map(u64::try_from).transpose()?;
            let written = number.map(|number| (number, row.get(3), row.get(4)));
            history.entry(place).or_default().entry(key).or_default().push(written);
        }
        Ok(history)
    }
}
