//! Rows of every type are read back as they were written, as for a reconciliation.

use std::collections::BTreeMap;

use consumer_agent::sink::Sink;
use consumer_agent::sink::effect::Effect;
use parts::postgres::Postgres;
use schemas::avro::binary::{put_bytes, put_long, put_string};
use schemas::reconcile::texts;

use crate::parking::constrained;
use crate::{NAME, SIZE, batch, begun, database, row, schema, upsert};

/// Every type that has a column of its own, and some that share one.
const TYPES: &str = r#"{"name":"a","type":"boolean"},{"name":"b","type":"int"},{"name":"c","type":["null","long"]},
    {"name":"d","type":"float"},{"name":"e","type":"double"},{"name":"f","type":"bytes"},
    {"name":"g","type":{"type":"enum","name":"E","symbols":["x","y"]}},
    {"name":"h","type":{"type":"string","logicalType":"uuid"}},
    {"name":"i","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":3}},
    {"name":"j","type":{"type":"int","logicalType":"date"}},
    {"name":"l","type":{"type":"int","logicalType":"time-millis"}},
    {"name":"m","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"n","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"o","type":{"type":"long","logicalType":"timestamp-nanos"}},
    {"name":"p","type":{"type":"long","logicalType":"local-timestamp-nanos"}},
    {"name":"q","type":{"type":"map","values":"double"}},
    {"name":"r","type":{"type":"array","items":["null","string","long"]}},
    {"name":"s","type":["null","string","int"]}"#;

fn typed(seed: i64) -> Vec<u8> {
    let mut image = Vec::new();
    image.push(u8::from(seed % 2 == 0));
    put_long(&mut image, seed * 7 % 2_000_000_000);
    put_long(&mut image, i64::from(seed % 3 != 0));
    if seed % 3 != 0 {
        put_long(&mut image, seed.wrapping_mul(0x1234_5678_9abc));
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "any number will do")]
    let single = seed as f32 / 3.0 * 1e12;
    let double = (seed as f64 / 7.0).powi(9);
    image.extend_from_slice(&single.to_le_bytes());
    image.extend_from_slice(&double.to_le_bytes());
    put_bytes(&mut image, &seed.to_be_bytes());
    put_long(&mut image, seed % 2);
    put_string(&mut image, &format!("6F9619FF-8B86-D011-B42D-{seed:012X}"));
    put_bytes(&mut image, &i32::try_from(seed * 1_000 - 77).unwrap().to_be_bytes());
    for number in [seed * 11, seed * 3_601_007 % 86_400_000, seed * 777_777_777, seed * 777_777_777_777] {
        put_long(&mut image, number);
    }
    // Halves of a microsecond are rounded both ways.
    put_long(&mut image, seed * 1_000_500);
    put_long(&mut image, seed * 1_000_000_001_500);
    put_long(&mut image, 3);
    for (key, value) in [("bb", 1.0), ("a", 1e21), ("\u{101}", 0.1)] {
        put_string(&mut image, key);
        image.extend_from_slice(&f64::to_le_bytes(value));
    }
    image.push(0);
    put_long(&mut image, 2);
    put_long(&mut image, 1);
    put_string(&mut image, "ķ\"\\\n");
    put_long(&mut image, 2);
    put_long(&mut image, i64::MAX);
    image.push(0);
    put_long(&mut image, 1);
    put_string(&mut image, "1e3");
    image
}

#[tokio::test]
async fn rows_are_read_back_as_they_were_written_whatever_their_types() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    // The server's own defaults do not count.
    let odd = "ALTER ROLE agent SET timezone = 'Europe/Riga'; ALTER ROLE agent SET datestyle = 'German, DMY';
        ALTER ROLE agent SET bytea_output = 'escape'; ALTER ROLE agent SET extra_float_digits = -3";
    let head = schema(TYPES);
    admin.batch_execute(odd).await.unwrap();
    let mut sink = begun(&place, &head).await;
    admin.batch_execute("ALTER ROLE agent RESET ALL").await.unwrap();
    let images: BTreeMap<String, Vec<u8>> = (0..40).map(|n| (n.to_string(), typed(n * 1_237))).collect();
    let mut effects = vec![Effect::BeginSnapshot];
    effects.extend(images.iter().map(|(key, image)| upsert(key, image.clone())));
    effects.push(Effect::EndSnapshot);
    sink.apply(&batch(effects, 5)).await.unwrap();
    assert_eq!((sink.row_count(), sink.parked_count()), (40, 0));
    let mut found = BTreeMap::new();
    sink.scan(&mut |key, texts| drop(found.insert(key.to_owned(), texts))).await.unwrap();
    for (key, image) in &images {
        assert_eq!(found.get(key), Some(&texts(&head.derived, image).unwrap()), "{key}");
    }
    admin.batch_execute("DELETE FROM dit.register WHERE dit_key = '7'").await.unwrap();
    let mut count = 0;
    sink.scan(&mut |_, _| count += 1).await.unwrap();
    assert_eq!((count, sink.row_count()), (39, 39));
}

#[tokio::test]
async fn a_parked_row_counts_as_the_row_of_its_key() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let mut sink = constrained(&place, &admin).await;
    let image = row("a\0b", None);
    sink.apply(&batch(vec![upsert("p", image.clone())], 90)).await.unwrap();
    assert_eq!(sink.parked_count(), 1);
    let mut found = BTreeMap::new();
    sink.scan(&mut |key, texts| drop(found.insert(key.to_owned(), texts))).await.unwrap();
    let head = schema(&format!("{NAME},{SIZE}"));
    assert_eq!(found.get("p"), Some(&texts(&head.derived, &image).unwrap()));
}
