//! Scopes compared with PostgreSQL's publications with row filters: the same predicates over the same history give the
//! same transitions, nulls and all.
//!
//! Each predicate is drawn in two spellings, CEL and SQL, by one generator; neither is made from the other. DIT_SEED
//! repeats a run.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::collections::BTreeMap;

use parts::postgres::Postgres;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use schemas::agreement::Agreement;
use schemas::avro::binary::{put_long, put_string};
use schemas::avro::located::Ends;
use schemas::avro::schema::AvroSchema;
use schemas::change::{Images, Op};
use schemas::key::KeySpec;
use scope::compile::{Age, Terms};
use scope::scope::Scope;
use scope::secret::NetworkSecret;
use serde_json::json;
use tokio_postgres::{Client, NoTls};

const PREDICATES: usize = 150;
const EVENTS: usize = 400;
const KEYS: usize = 6;
const TEXTS: [&str; 7] = ["", "a", "ab", "b", "LV-RIX", "ā", "it's"];
const SCHEMA: &str = r#"{"type": "record", "name": "R", "fields": [
    {"name": "k", "type": "string"}, {"name": "t", "type": "string"}, {"name": "o", "type": ["null", "string"]},
    {"name": "n", "type": ["null", "long"]}, {"name": "m", "type": "int"}, {"name": "b", "type": ["null", "boolean"]},
    {"name": "x", "type": ["null", "double"]}, {"name": "d", "type": ["null", {"type": "int", "logicalType": "date"}]},
    {"name": "s", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]}]}"#;
const TABLE: &str = r#"CREATE TABLE r (k text PRIMARY KEY, t text COLLATE "C" NOT NULL, o text COLLATE "C", n bigint,
    m integer NOT NULL, b boolean, x double precision, d date, s timestamptz); ALTER TABLE r REPLICA IDENTITY FULL"#;
const MICROS_A_DAY: i64 = 86_400_000_000;

#[derive(Debug, Clone)]
struct Row {
    t: &'static str,
    o: Option<&'static str>,
    n: Option<i64>,
    m: i32,
    b: Option<bool>,
    x: Option<f64>,
    d: Option<i32>,
    /// In hours since 1970.
    s: Option<i64>,
}

fn maybe<T: std::fmt::Debug + Clone>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.7, value)
}

fn row() -> impl Strategy<Value = Row> {
    let text = || prop::sample::select(&TEXTS[..]);
    let whole = prop_oneof![4 => -2_i64..4, 1 => prop::sample::select(vec![i64::MIN, i64::MAX])];
    let float =
        prop::sample::select(vec![-1.0, -0.0, 0.0, 1.0, 1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
    let times = (maybe(any::<bool>()), maybe(float), maybe(-2..4_i32), maybe(-30..60_i64));
    (text(), maybe(text()), maybe(whole), -2..4_i32, times).prop_map(|(t, o, n, m, (b, x, d, s))| Row {
        t,
        o,
        n,
        m,
        b,
        x,
        d,
        s,
    })
}

impl Row {
    fn datum(&self, key: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, key);
        put_string(&mut out, self.t);
        let nullable = |value: Option<Vec<u8>>, out: &mut Vec<u8>| {
            put_long(out, i64::from(value.is_some()));
            out.extend(value.unwrap_or_default());
        };
        let of = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            out
        };
        nullable(self.o.map(|o| of(&|out| put_string(out, o))), &mut out);
        nullable(self.n.map(|n| of(&|out| put_long(out, n))), &mut out);
        put_long(&mut out, i64::from(self.m));
        nullable(self.b.map(|b| vec![u8::from(b)]), &mut out);
        nullable(self.x.map(|x| x.to_le_bytes().to_vec()), &mut out);
        nullable(self.d.map(|d| of(&|out| put_long(out, i64::from(d)))), &mut out);
        nullable(self.s.map(|s| of(&|out| put_long(out, s * MICROS_A_DAY / 24))), &mut out);
        out
    }

    fn sql(&self) -> String {
        let or_null = |value: Option<String>| value.unwrap_or_else(|| "NULL".to_owned());
        let columns = [
            quoted(self.t),
            or_null(self.o.map(quoted)),
            or_null(self.n.map(|n| format!("'{n}'"))),
            format!("'{}'", self.m),
            or_null(self.b.map(|b| b.to_string())),
            or_null(self.x.map(|x| format!("'{x}'"))),
            or_null(self.d.map(|d| format!("date '1970-01-01' + {d}"))),
            or_null(self.s.map(|s| format!("timestamptz '1970-01-01 00:00:00+00' + interval '{s} hours'"))),
        ];
        columns.join(", ")
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A predicate in CEL, and in SQL.
type Pair = (String, String);

/// A comparison in both spellings.
fn compared(name: &'static str, value: impl Strategy<Value = Pair> + 'static) -> BoxedStrategy<Pair> {
    let how = prop::sample::select(vec![
        ("==", "="),
        ("!=", "<>"),
        ("<", "<"),
        ("<=", "<="),
        (">", ">"),
        (">=", ">="),
    ]);
    (how, value)
        .prop_map(move |((cel, sql), (value, same))| {
            (format!("{name} {cel} {value}"), format!("{name} {sql} {same}"))
        })
        .boxed()
}

fn text() -> impl Strategy<Value = Pair> {
    prop::sample::select(&TEXTS[..]).prop_map(|text| (format!("{text:?}"), quoted(text)))
}

fn predicate() -> BoxedStrategy<Pair> {
    let same = |value: String| (value.clone(), value);
    let whole = || (-2..4_i64).prop_map(move |n| same(n.to_string()));
    let mut atoms: Vec<BoxedStrategy<Pair>> = vec![
        compared("t", text()),
        compared("o", text()),
        compared("n", whole()),
        compared("m", whole()),
        compared(
            "x",
            prop::sample::select(vec!["-1.0", "0.0", "1.0", "1.5"]).prop_map(move |x| same(x.to_owned())),
        ),
        compared(
            "d",
            (-2..4_i64).prop_map(|days| {
                let day = jiff::civil::date(1970, 1, 1) + jiff::Span::new().days(days);
                (format!("date(\"{day}\")"), format!("DATE '{day}'"))
            }),
        ),
        compared(
            "s",
            (-2..4_i64).prop_map(|days| {
                let day = jiff::civil::date(1970, 1, 1) + jiff::Span::new().days(days);
                (format!("timestamp(\"{day}T00:00:00Z\")"), format!("TIMESTAMPTZ '{day} 00:00:00+00'"))
            }),
        ),
        compared("t", Just(same("o".to_owned()))),
        compared("n", Just(same("m".to_owned()))),
        Just(same("b".to_owned())).boxed(),
        Just(same("true".to_owned())).boxed(),
        Just(same("false".to_owned())).boxed(),
    ];
    for name in ["o", "n", "b", "x", "d", "s"] {
        atoms.push(Just((format!("{name} == null"), format!("{name} IS NULL"))).boxed());
        atoms.push(Just((format!("{name} != null"), format!("{name} IS NOT NULL"))).boxed());
    }
    for name in ["t", "o"] {
        atoms.push(
            text()
                .prop_map(move |(cel, sql)| (format!("{name}.startsWith({cel})"), format!("{name} ^@ {sql}")))
                .boxed(),
        );
        let list = (text(), text(), any::<bool>());
        atoms.push(
            list.prop_map(move |(one, two, has_null)| {
                let null = if has_null { ", null" } else { "" };
                (
                    format!("{name} in [{}, {}{null}]", one.0, two.0),
                    format!("{name} IN ({}, {}{null})", one.1, two.1),
                )
            })
            .boxed(),
        );
    }
    let either = |cel: &'static str, sql: &'static str| {
        move |(one, two): (Pair, Pair)| {
            (format!("({} {cel} {})", one.0, two.0), format!("({} {sql} {})", one.1, two.1))
        }
    };
    proptest::strategy::Union::new(atoms)
        .prop_recursive(3, 10, 2, move |inner| {
            prop_oneof![
                (inner.clone(), inner.clone()).prop_map(either("&&", "AND")),
                (inner.clone(), inner.clone()).prop_map(either("||", "OR")),
                inner.prop_map(|one| (format!("!({})", one.0), format!("(NOT ({}))", one.1))),
            ]
        })
        .boxed()
}

fn drawn<T: std::fmt::Debug>(runner: &mut TestRunner, from: &impl Strategy<Value = T>) -> T {
    from.new_tree(runner).unwrap().current()
}

/// An event: the datums before and after it.
type Event = (Option<Vec<u8>>, Option<Vec<u8>>);

/// A scope's results: the letter of PostgreSQL's message, by the event's number.
fn by_scope(rows: &str, events: &[Event]) -> BTreeMap<usize, char> {
    let agreement: Agreement = serde_json::from_value(json!({
        "number": "A-1", "version": 1, "provider": "1", "consumer": "2", "channel": "c", "purpose": "p",
        "legal_basis": "l", "valid_from": "2026-01-01T00:00:00Z", "history": "full", "schema_version": 1,
        "rows": rows, "fields": {"k": "keep"},
    }))
    .unwrap();
    let schema = AvroSchema::parse(SCHEMA).unwrap();
    let secret = NetworkSecret::new(vec![1; 32]).unwrap();
    let key = KeySpec { fields: vec!["k".to_owned()], normalise: vec![] };
    let terms = Terms { agreed: &schema, writer: &schema, age: Age::Same, key: &key, secret: &secret };
    let scope = Scope::compile(&agreement, &terms).unwrap_or_else(|e| panic!("{rows}: {e}"));
    let mut given = BTreeMap::new();
    for (number, (before, after)) in events.iter().enumerate() {
        let mut first = Ends::default();
        let mut second = Ends::default();
        let images = Images {
            before: before.as_ref().map(|image| first.locate(schema.layout(), image).unwrap()),
            after: after.as_ref().map(|image| second.locate(schema.layout(), image).unwrap()),
        };
        let op = match (before, after) {
            (None, _) => Op::Create,
            (_, None) => Op::Delete,
            _ => Op::Update,
        };
        if let Some(permitted) = scope.judge(op, "k", &images).unwrap() {
            let letter = match permitted.get().op() {
                Op::Create | Op::Read => 'I',
                Op::Update => 'U',
                Op::Delete => 'D',
            };
            given.insert(number, letter);
        }
    }
    given
}

/// A publication's results, by the number of the event of each transaction.
async fn by_publication(
    client: &Client,
    number: usize,
    of: &BTreeMap<String, usize>,
) -> BTreeMap<usize, char> {
    let peek = format!(
        "SELECT xid::text, get_byte(data, 0) FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL,
         'proto_version', '1', 'publication_names', 'p{number}')"
    );
    let messages = client.query(&peek, &[]).await.unwrap();
    let of_rows = messages.iter().filter_map(|message| {
        let letter = char::from(u8::try_from(message.get::<_, i32>(1)).unwrap());
        ['I', 'U', 'D'].contains(&letter).then(|| (of[message.get::<_, &str>(0)], letter))
    });
    of_rows.collect()
}

#[tokio::test]
async fn scopes_give_what_publications_with_row_filters_give() {
    let seed: u64 = match std::env::var("DIT_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => u64::from_le_bytes(platform::random::id().unwrap()[..8].try_into().unwrap()),
    };
    println!("seed {seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);

    let (client, connection) = tokio_postgres::connect(&Postgres::shared().unwrap(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(TABLE).await.unwrap();
    let predicates: Vec<Pair> = (0..PREDICATES).map(|_| drawn(&mut runner, &predicate())).collect();
    for (number, (cel, sql)) in predicates.iter().enumerate() {
        let publication = format!("CREATE PUBLICATION p{number} FOR TABLE r WHERE ({sql})");
        client.batch_execute(&publication).await.unwrap_or_else(|e| panic!("{cel} as {sql}: {e:?}"));
    }
    client.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')", &[]).await.unwrap();

    let mut register: BTreeMap<String, Row> = BTreeMap::new();
    let mut events = Vec::new();
    let mut transactions = BTreeMap::new();
    while events.len() < EVENTS {
        let key = format!("k{}", drawn(&mut runner, &(0..KEYS)));
        let after = drawn(&mut runner, &prop::option::weighted(0.85, row()));
        let before = register.remove(&key);
        let statement = match (&before, &after) {
            (None, None) => continue,
            (None, Some(row)) => format!("INSERT INTO r VALUES ('{key}', {})", row.sql()),
            (Some(_), Some(row)) => {
                format!("UPDATE r SET (t, o, n, m, b, x, d, s) = ROW ({}) WHERE k = '{key}'", row.sql())
            }
            (Some(_), None) => format!("DELETE FROM r WHERE k = '{key}'"),
        };
        let both = format!("BEGIN; {statement}; SELECT pg_current_xact_id()::xid::text; COMMIT");
        let answers = client.simple_query(&both).await.unwrap();
        let xid = answers.iter().find_map(|answer| match answer {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
            _ => None,
        });
        transactions.insert(xid.unwrap(), events.len());
        let datum = |row: &Option<Row>| row.as_ref().map(|row| row.datum(&key));
        events.push((datum(&before), datum(&after)));
        register.extend(after.map(|row| (key, row)));
    }

    let mut given = 0;
    for (number, (cel, sql)) in predicates.iter().enumerate() {
        let theirs = by_publication(&client, number, &transactions).await;
        given += theirs.len();
        assert_eq!(by_scope(cel, &events), theirs, "seed {seed}: {cel} as {sql}");
    }
    println!("{PREDICATES} predicates over {EVENTS} events: {given} transitions, all equal");
    assert!(given > PREDICATES, "hardly anything was given");
    client.batch_execute("SELECT pg_drop_replication_slot('s')").await.unwrap();
}
