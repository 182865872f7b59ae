//! The Avro project's own vectors: schemas, reader/writer pairs, canonical encodings, container files.
//!
//! apache-avro's deviations are listed here; a fix upstream makes its entry fail.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::path::{Path, PathBuf};

use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use schemas::avro::binary::{Cursor, put_long};
use schemas::avro::compatibility::can_read;
use schemas::avro::schema::{AvroSchema, SchemaError};
use support::real_data;

fn vectors(test: &str) -> Option<PathBuf> {
    real_data::folder(test, "avro-interop")
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Valid by the specification, refused by apache-avro: `error` records belong to protocols, which dit has none of.
fn is_error_record(schema: &serde_json::Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "error")
}

#[test]
fn schemas_are_valid_or_not_as_the_specification_says() {
    let Some(dir) = vectors("schema examples") else { return };
    let examples = lines(&dir.join("schema-examples.jsonl"));
    assert_eq!(examples.len(), 96);
    let mut deviations = Vec::new();
    for example in &examples {
        let valid = AvroSchema::from_json(example["schema"].clone()).is_ok();
        if valid != (example["valid"] == true) {
            assert!(is_error_record(&example["schema"]), "{example}");
            deviations.push(example["name"].clone());
        }
    }
    assert_eq!(deviations.len(), 1, "apache-avro's only deviation here: {deviations:?}");
}

#[test]
fn the_c_librarys_schemas_pass_and_fail() {
    let Some(dir) = vectors("C schema tests") else { return };
    for file in real_data::files_in(&dir.join("lang/c/tests/schema_tests/pass")).unwrap() {
        let parsed = AvroSchema::parse(&std::fs::read_to_string(&file).unwrap());
        assert!(parsed.is_ok(), "{}: {parsed:?}", file.display());
    }
    for file in real_data::files_in(&dir.join("lang/c/tests/schema_tests/fail")).unwrap() {
        let parsed = AvroSchema::parse(&std::fs::read_to_string(&file).unwrap());
        assert!(parsed.is_err(), "{}", file.display());
    }
}

#[test]
fn a_named_type_may_not_have_a_primitives_name_though_the_library_takes_it() {
    let text = r#"{"type":"enum","name":"int","symbols":["A","B"]}"#;
    assert!(apache_avro::Schema::parse_str(text).is_ok(), "fixed upstream: our own check can go");
    assert!(matches!(AvroSchema::parse(text), Err(SchemaError::PrimitiveName(_))));
}

#[test]
fn an_error_record_is_refused_though_the_specification_has_it() {
    let text = r#"{"type":"error","name":"E","fields":[]}"#;
    assert!(apache_avro::Schema::parse_str(text).is_err(), "fixed upstream: the list above gets shorter");
}

#[test]
fn a_records_alias_is_not_followed_by_the_library() {
    let schema = |text: &str| apache_avro::Schema::parse_str(text).unwrap();
    let writer = schema(r#"{"type":"record","name":"Old","fields":[{"name":"a","type":"int"}]}"#);
    let reader =
        schema(r#"{"type":"record","name":"New","aliases":["Old"],"fields":[{"name":"a","type":"int"}]}"#);
    let answer = SchemaCompatibility::can_read(&writer, &reader);
    assert!(!matches!(answer, Ok(Compatibility::Full)), "fixed upstream: {answer:?}");
}

#[test]
fn the_library_calls_incompatible_pairs_partly_compatible() {
    let Some(dir) = vectors("partial answers") else { return };
    let is_partial = |pair: &&serde_json::Value| {
        let schema = |name: &str| AvroSchema::from_json(pair[name].clone()).unwrap();
        let answer = SchemaCompatibility::can_read(schema("writer").parsed(), schema("reader").parsed());
        pair["compatible"] == false && matches!(answer, Ok(Compatibility::Partial))
    };
    let count = lines(&dir.join("compat-pairs.jsonl")).iter().filter(is_partial).count();
    assert_eq!(count, 20, "this is why only Full counts; fixed upstream when it is 0");
}

#[test]
fn reader_writer_pairs_are_compatible_or_not() {
    let Some(dir) = vectors("reader/writer pairs") else { return };
    let pairs = lines(&dir.join("compat-pairs.jsonl"));
    assert_eq!(pairs.len(), 131);
    let mut deviations = Vec::new();
    for pair in &pairs {
        let reader = AvroSchema::from_json(pair["reader"].clone());
        let writer = AvroSchema::from_json(pair["writer"].clone());
        let (Ok(reader), Ok(writer)) = (reader, writer) else { panic!("{pair}") };
        if can_read(&writer, &reader).is_ok() != (pair["compatible"] == true) {
            deviations.push(pair.to_string());
        }
    }
    assert_eq!(deviations.len(), 1, "{deviations:#?}");
    assert!(deviations[0].contains("\"aliases\""), "only a record's alias is not followed");
}

#[test]
fn longs_are_encoded_as_everywhere() {
    let Some(dir) = vectors("binary encodings") else { return };
    let text = std::fs::read_to_string(dir.join("io-examples.json")).unwrap();
    let examples: serde_json::Value = serde_json::from_str(&text).unwrap();
    for example in examples["BINARY_ENCODINGS"].as_array().unwrap() {
        let value = example[0].as_i64().unwrap();
        let expected = example[1].as_str().unwrap().replace(' ', "");
        let mut out = Vec::new();
        put_long(&mut out, value);
        assert_eq!(hex::encode(&out), expected);
        assert_eq!(Cursor::new(&out).long(), Ok(value));
    }
}

/// How many records a container file gives before its end or its first error.
fn read(path: &Path) -> (usize, Option<String>) {
    let file = std::fs::File::open(path).unwrap();
    let reader = match apache_avro::Reader::new(std::io::BufReader::new(file)) {
        Ok(reader) => reader,
        Err(error) => return (0, Some(error.to_string())),
    };
    let mut count = 0;
    for value in reader {
        match value {
            Ok(_) => count += 1,
            Err(error) => return (count, Some(error.to_string())),
        }
    }
    (count, None)
}

#[test]
fn container_files_are_read_and_damaged_ones_fail_cleanly() {
    let Some(dir) = vectors("container files") else { return };
    for (file, records) in [
        ("share/test/data/weather.avro", 5),
        ("share/test/data/weather-deflate.avro", 5),
        ("share/test/data/weather-snappy.avro", 5),
        ("share/test/data/weather-zstd.avro", 5),
        ("lang/c/tests/avro-1237-good.avro", 1),
        ("lang/c/tests/avro-1238-good.avro", 1),
    ] {
        let found = read(&dir.join(file));
        assert!(found.1.is_none() && found.0 >= records, "{file}: {found:?}");
    }
    for file in
        ["lang/c/tests/avro-1237-bad-union-discriminant.avro", "lang/c/tests/avro-1238-truncated.avro"]
    {
        let found = read(&dir.join(file));
        assert!(found.1.is_some(), "{file}: {found:?}");
    }
}

#[test]
fn our_decoder_names_what_is_wrong_with_a_damaged_file() {
    use schemas::avro::container::{ContainerError, Decoder};
    let Some(dir) = vectors("damaged files") else { return };
    let mut decoder = Decoder::new();
    decoder.push(&std::fs::read(dir.join("lang/c/tests/avro-1238-truncated.avro")).unwrap());
    while let Ok(Some(_)) = decoder.block() {}
    assert!(matches!(decoder.finish(), Err(ContainerError::Truncated(_))));

    let bytes = std::fs::read(dir.join("lang/c/tests/avro-1237-bad-union-discriminant.avro")).unwrap();
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    let schema = AvroSchema::parse(&decoder.header().unwrap().unwrap().schema).unwrap();
    let block = decoder.block().unwrap().unwrap();
    let mut cursor = Cursor::new(&block.datums);
    let outcome = (0..block.count).try_for_each(|_| schema.layout().skip(&mut cursor));
    assert!(outcome.is_err(), "a union without such a branch");
}
