//! The cost of a batch in PostgreSQL: the sink beside a plain statement that writes the same rows and commits.
//!
//! `cargo bench -p loadtest --bench postgres`. Its lines are the table in docs/performance.md. Every batch has other
//! values, so that each row is written.

#![allow(clippy::unwrap_used, reason = "a benchmark ends at the first thing that is wrong")]

use std::time::{Duration, Instant};

use consumer_agent::sink::effect::Effect;
use consumer_agent::sink::postgres::{PostgresSink, PostgresTarget};
use consumer_agent::sink::{Batch, Sink, StreamHead};
use parts::postgres::Postgres;
use schemas::avro::binary::put_string;
use schemas::avro::schema::AvroSchema;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};

const FIELDS: usize = 8;
/// Rows of a batch, and how many batches are measured.
const SIZES: [(usize, u32); 4] = [(1, 400), (10, 400), (100, 200), (2_000, 30)];
/// Rounds: the median of each figure counts.
const ROUNDS: usize = 3;

fn head() -> StreamHead {
    let fields: Vec<String> = (0..FIELDS).map(|n| format!(r#"{{"name":"f{n}","type":"string"}}"#)).collect();
    let text = format!(r#"{{"type":"record","name":"lv.bench.Row","fields":[{}]}}"#, fields.join(","));
    StreamHead { derived: AvroSchema::parse(&text).unwrap() }
}

/// The key and the values of a row in a batch.
fn row(number: usize, batch: u32) -> (String, Vec<String>) {
    let values = (0..FIELDS).map(|n| format!("value {n} of row {number}, as written by batch {batch}"));
    (format!("{number:09}"), values.collect())
}

fn batch(rows: usize, number: u32) -> Batch {
    let effect = |index| {
        let (key, values) = row(index, number);
        let mut image = Vec::new();
        values.iter().for_each(|value| put_string(&mut image, value));
        Effect::Upsert { key, image }
    };
    Batch { effects: (0..rows).map(effect).collect(), cursor: None, freshness: None }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn sink(url: &str) -> PostgresSink {
    let target = PostgresTarget {
        url: url.to_owned(),
        password_file: None,
        ca: None,
        schema: "dit".to_owned(),
        table: None,
    };
    let mut sink = PostgresSink::new(target, "A-1".parse().unwrap(), "register");
    sink.ready().await.unwrap();
    sink.begin(&head()).await.unwrap();
    sink
}

/// The time of a batch, by the sink.
async fn ours(sink: &mut PostgresSink, rows: usize, batches: u32, from: u32) -> Duration {
    let made: Vec<Batch> = (from..from + batches).map(|number| batch(rows, number)).collect();
    let begun = Instant::now();
    for batch in &made {
        sink.apply(batch).await.unwrap();
    }
    begun.elapsed() / batches
}

/// The time of a batch, by one prepared statement that commits.
async fn plain(client: &Client, rows: usize, batches: u32, from: u32) -> Duration {
    let columns: Vec<String> = (0..FIELDS).map(|n| format!("f{n}")).collect();
    let arrays: Vec<String> = (0..FIELDS).map(|n| format!("${}::text[]", n + 2)).collect();
    let sets: Vec<String> = columns.iter().map(|name| format!("{name} = EXCLUDED.{name}")).collect();
    let statement = format!(
        "INSERT INTO plain (key, {columns}) SELECT * FROM unnest($1::text[], {arrays})
         ON CONFLICT (key) DO UPDATE SET {sets}",
        columns = columns.join(", "),
        arrays = arrays.join(", "),
        sets = sets.join(", ")
    );
    let statement = client.prepare(&statement).await.unwrap();
    let rows_of = |number| (0..rows).map(move |index| row(index, number)).collect::<Vec<_>>();
    let made: Vec<_> = (from..from + batches).map(rows_of).collect();
    let begun = Instant::now();
    for batch in &made {
        let keys: Vec<&str> = batch.iter().map(|(key, _)| key.as_str()).collect();
        let column = |n: usize| batch.iter().filter_map(|(_, values)| values.get(n)).collect::<Vec<_>>();
        let columns: Vec<_> = (0..FIELDS).map(column).collect();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&keys];
        parameters.extend(columns.iter().map(|column| column as &(dyn ToSql + Sync)));
        client.execute(&statement, &parameters).await.unwrap();
    }
    begun.elapsed() / batches
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times.get(times.len() / 2).unwrap().as_secs_f64() * 1e3
}

#[tokio::main]
async fn main() {
    let url = Postgres::shared().unwrap();
    let client = connect(&url).await;
    let columns: Vec<String> = (0..FIELDS).map(|n| format!("f{n} text")).collect();
    let make =
        format!("CREATE SCHEMA dit; CREATE TABLE plain (key text PRIMARY KEY, {})", columns.join(", "));
    client.batch_execute(&make).await.unwrap();
    let mut sink = sink(&url).await;
    println!("| rows of a batch | plain statement, ms | sink, ms | sink ÷ plain |\n|---|---|---|---|");
    let mut from = 0;
    for (rows, batches) in SIZES {
        let (mut theirs, mut own) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            theirs.push(plain(&client, rows, batches, from).await);
            own.push(ours(&mut sink, rows, batches, from).await);
            from += batches;
        }
        let (theirs, own) = (median(theirs), median(own));
        println!("| {rows} | {theirs:.2} | {own:.2} | {:.2} |", own / theirs);
    }
}
