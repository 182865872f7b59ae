//! Every type from text and from JSON: one value, or refused with a reason.

use super::*;
use crate::source::values::numeral::Rounding;
use schemas::avro::json;
use serde_json::json;

const SCHEMA: &str = r#"{"type":"record","name":"R","fields":[
    {"name":"code","type":"string","aliases":["old_u20_code"]},
    {"name":"n","type":["null","int"]},
    {"name":"d","type":{"type":"int","logicalType":"date"}},
    {"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
    {"name":"added","type":"string","default":""}]}"#;

fn encoder(header: &[&str]) -> Result<RowEncoder, HeaderError> {
    let schema = AvroSchema::parse(SCHEMA).unwrap();
    let header: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    RowEncoder::new(&schema, Columns::Named(&header), &TableFormat::default())
}

fn row(cells: &[&str]) -> Cells {
    Cells::ordered(cells)
}

fn encoded(encoder: &RowEncoder, cells: &Cells) -> Result<Vec<u8>, CellError> {
    let mut datum = b"of the row before".to_vec();
    encoder.encode(cells, &mut datum).map(|()| datum)
}

/// One field of a type, read from one cell: the value as shown to people, or the problem.
fn read(kind: &str, cell: Cell<&str>, format: &TableFormat) -> Result<serde_json::Value, String> {
    let schema = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"x","type":{kind}}}]}}"#);
    let schema = AvroSchema::parse(&schema).unwrap();
    let encoder = RowEncoder::new(&schema, Columns::Open, format).unwrap();
    let datum = encoded(&encoder, &Cells::named([("x", cell)])).map_err(|e| e.problem)?;
    let value = json::decode(&schema, &datum).unwrap();
    Ok(json::render(schema.parsed(), &value, &str::to_owned)["x"].clone())
}

fn plain(kind: &str, text: &str) -> Result<serde_json::Value, String> {
    read(kind, Cell::Plain(text), &TableFormat::default())
}

const DECIMAL: &str = r#"{"type":"bytes","logicalType":"decimal","precision":20,"scale":2}"#;
const MILLIS: &str = r#"{"type":"long","logicalType":"timestamp-millis"}"#;
const DATE: &str = r#"{"type":"int","logicalType":"date"}"#;

#[test]
fn what_no_value_of_the_type_can_hold_is_refused() {
    for (kind, text, words) in [
        ("\"float\"", "1e300", "beyond"),
        ("\"double\"", "-1e999", "beyond"),
        ("\"double\"", "1e-400", "beyond"),
        ("\"double\"", "NaN", "not a number"),
        ("\"float\"", "inf", "not a number"),
        ("\"double\"", "9007199254740993", "more digits"),
        ("\"float\"", "16777217", "more digits"),
        ("\"int\"", "2147483648", "32 bits"),
        ("\"int\"", "5.0", "32 bits"),
        ("\"long\"", "9223372036854775808", "64 bits"),
        ("\"long\"", "1e3", "64 bits"),
        ("\"boolean\"", "yes", "neither true"),
        ("\"int\"", "", "empty"),
        (DECIMAL, "", "empty"),
        (DECIMAL, "-", "null_marker"),
        (DECIMAL, "1,5", "decimal_separator"),
        (DECIMAL, "1e3", "not a decimal"),
        (DECIMAL, "1.005", "more than 2 digits after"),
        (DECIMAL, "1234567890123456789.00", "more than 20 digits"),
        (MILLIS, "9999-12-31T23:59:59Z", "use null for no end"),
        (MILLIS, "9999-12-31", "not a time with its offset"),
        (MILLIS, "2026-01-31T10:00:00.1234Z", "finer than a millisecond"),
        (DATE, "2026-01-31T10:00:00", "a date with a time"),
        (r#"{"type":"string","logicalType":"uuid"}"#, "12345678", "not a UUID"),
        (r#"{"type":"enum","name":"E","symbols":["a"]}"#, "A", "none of a"),
    ] {
        let problem = plain(kind, text).unwrap_err();
        assert!(problem.contains(words), "{kind} {text}: {problem}");
    }
}

#[test]
fn what_is_a_value_is_that_value() {
    for (kind, text, value) in [
        ("\"string\"", " a ", json!(" a ")),
        ("\"string\"", "", json!("")),
        ("\"long\"", " -9223372036854775808 ", json!(i64::MIN)),
        ("\"int\"", "007", json!(7)),
        ("\"double\"", "24.105186700000001", json!(24.1051867)),
        ("\"double\"", "-0.250", json!(-0.25)),
        ("\"float\"", "0.1", json!(f64::from(0.1_f32))),
        ("\"boolean\"", "1", json!(true)),
        (DECIMAL, "99999999999999.990", json!("99999999999999.99")),
        (DECIMAL, ".5", json!("0.50")),
        (MILLIS, "2026-01-31T10:00:00.1200000Z", json!("2026-01-31T10:00:00.12Z")),
        (MILLIS, "2026-01-31 12:00:00+02:00", json!("2026-01-31T10:00:00Z")),
        (DATE, "0001-01-01", json!("0001-01-01")),
    ] {
        assert_eq!(plain(kind, text), Ok(value), "{kind} {text}");
    }
}

#[test]
fn absent_null_empty_and_a_default_are_four_things() {
    let of = |field: &str| {
        let schema = format!(r#"{{"type":"record","name":"R","fields":[{{"name":"x",{field}}}]}}"#);
        let schema = AvroSchema::parse(&schema).unwrap();
        move |cell: Option<Cell<&str>>| {
            let encoder = RowEncoder::new(&schema, Columns::Open, &TableFormat::default()).unwrap();
            let datum = encoded(&encoder, &Cells::named(cell.map(|cell| ("x", cell)))).ok()?;
            let value = json::decode(&schema, &datum).unwrap();
            Some(json::render(schema.parsed(), &value, &str::to_owned)["x"].clone())
        }
    };
    let null = || Some(Cell::Null);
    let empty = || Some(Cell::Text(""));
    let text = of(r#""type":"string""#);
    assert_eq!((text(None), text(null()), text(empty())), (None, None, Some(json!(""))));
    let nullable = of(r#""type":["null","string"]"#);
    assert_eq!(
        (nullable(None), nullable(null()), nullable(empty())),
        (Some(json!(null)), Some(json!(null)), Some(json!("")))
    );
    let filled = of(r#""type":["string","null"],"default":"d""#);
    assert_eq!(
        (filled(None), filled(null()), filled(empty())),
        (Some(json!("d")), Some(json!(null)), Some(json!("")))
    );
    let number = of(r#""type":["null","int"]"#);
    assert_eq!((number(None), number(empty())), (Some(json!(null)), None), "an empty text is no number");
    assert_eq!(number(Some(Cell::Plain(""))), Some(json!(null)), "an empty cell is null");
}

#[test]
fn numbers_of_json_come_digit_by_digit() {
    let number = |kind: &str, text: &str| read(kind, Cell::Number(text), &TableFormat::default());
    assert_eq!(number("\"string\"", "12345678901234567890123"), Ok(json!("12345678901234567890123")));
    assert_eq!(number("\"string\"", "0.10"), Ok(json!("0.10")));
    assert_eq!(number(DECIMAL, "70368744177664.37"), Ok(json!("70368744177664.37")));
    assert_eq!(number(DECIMAL, "1e3"), Ok(json!("1000.00")));
    assert_eq!(number("\"int\"", "5.0"), Ok(json!(5)));
    for (kind, text) in
        [("\"int\"", "5.5"), ("\"double\"", "1e-400"), (DECIMAL, "1e400"), (DATE, "20260131"), (MILLIS, "0")]
    {
        assert!(number(kind, text).is_err(), "{kind} {text}");
    }
    let bad = [Cell::Nested, Cell::BadEscape, Cell::Undecodable(Some("windows-1257"))];
    for (cell, words) in bad.into_iter().zip(["nested", "escape", "encoding = \"windows-1257\""]) {
        assert!(read("\"string\"", cell, &TableFormat::default()).unwrap_err().contains(words));
    }
}

#[test]
fn what_a_file_writes_otherwise_is_told() {
    let format = TableFormat {
        null_marker: vec!["-".to_owned(), "\\N".to_owned()],
        date_format: Some("dd.mm.yyyy".to_owned().try_into().unwrap()),
        decimal_separator: ',',
        ..TableFormat::default()
    };
    let read = |kind: &str, text: &str| read(kind, Cell::Plain(text), &format);
    assert_eq!(read(DECIMAL, "1 234,56"), Ok(json!("1234.56")));
    assert_eq!(read("\"long\"", "1\u{a0}234"), Ok(json!(1234)));
    assert_eq!(read("\"double\"", "1 234,5"), Ok(json!(1234.5)));
    assert_eq!(read(DATE, "14.05.2019"), Ok(json!("2019-05-14")));
    assert_eq!(read(&format!("[\"null\",{DECIMAL}]"), "-"), Ok(json!(null)));
    assert_eq!(read("[\"null\",\"string\"]", "\\N"), Ok(json!(null)));
    assert!(read(DECIMAL, "-").unwrap_err().contains("may not be null"));
    assert!(read(DECIMAL, "1.5").is_err() && read(DATE, "2019-05-14").is_err());
    let rounded = TableFormat { rounding: Rounding::HalfUp, ..TableFormat::default() };
    assert_eq!(super::tests::read(DECIMAL, Cell::Plain("1.005"), &rounded), Ok(json!("1.01")));
}

#[test]
fn defaults_of_every_type_fill_in() {
    for (kind, default, shown) in [
        (DATE, "18809", json!("2021-07-01")),
        (MILLIS, "0", json!("1970-01-01T00:00:00Z")),
        (DECIMAL, r#""\u0097""#, json!("-1.05")),
        (r#"{"type":"enum","name":"E","symbols":["a","b"]}"#, r#""b""#, json!("b")),
        ("\"double\"", "0.5", json!(0.5)),
        ("\"float\"", "0.5", json!(0.5)),
        ("\"boolean\"", "true", json!(true)),
        (r#"["null","int"]"#, "null", json!(null)),
        (r#"["int","null"]"#, "3", json!(3)),
        (r#"{"type":"int","logicalType":"time-millis"}"#, "5", json!(5)),
        (r#"{"type":"long","logicalType":"local-timestamp-micros"}"#, "7", json!(7)),
    ] {
        let schema = format!(
            r#"{{"type":"record","name":"R","fields":[{{"name":"k","type":"string"}},{{"name":"x","type":{kind},"default":{default}}}]}}"#
        );
        let schema = AvroSchema::parse(&schema).unwrap();
        let header = ["k".to_owned()];
        let encoder = RowEncoder::new(&schema, Columns::Named(&header), &TableFormat::default()).unwrap();
        let datum = encoded(&encoder, &row(&["a"])).unwrap();
        let value = json::decode(&schema, &datum).unwrap();
        assert_eq!(json::render(schema.parsed(), &value, &str::to_owned)["x"], shown, "{kind}");
    }
}

#[test]
fn columns_are_found_by_name_and_alias_and_defaults_fill_in() {
    let encoder = encoder(&["amount", "old code", "junk", "n", "d"]).unwrap();
    assert_eq!(encoder.ignored(), ["junk"]);
    let datum = encoded(&encoder, &row(&["-12.5", "a", "x", "", "2021-07-01"])).unwrap();
    let schema = AvroSchema::parse(SCHEMA).unwrap();
    let value = json::decode(&schema, &datum).unwrap();
    let json = json::render(schema.parsed(), &value, &str::to_owned);
    assert_eq!(json, json!({"code": "a", "n": null, "d": "2021-07-01", "amount": "-12.50", "added": ""}));
}

#[test]
fn a_header_that_does_not_fit_is_named() {
    assert!(matches!(encoder(&["n", "d", "amount"]), Err(HeaderError::Missing { .. })));
    assert!(matches!(encoder(&["code", "old code", "n", "d", "amount"]), Err(HeaderError::Twice { .. })));
}

#[test]
fn members_of_a_field_stand_there_once() {
    let schema = AvroSchema::parse(SCHEMA).unwrap();
    let encoder = RowEncoder::new(&schema, Columns::Open, &TableFormat::default()).unwrap();
    let twice = Cells::named([("code", Cell::Text("a")), ("old code", Cell::Text("b"))]);
    assert!(encoded(&encoder, &twice).unwrap_err().problem.contains("same field"));
    let unknown = Cells::named([("code", Cell::Text("a")), ("kode", Cell::Text("b"))]);
    assert_eq!(encoder.unknown(&unknown), Some("kode"));
}

#[test]
fn a_cell_that_does_not_fit_names_its_column_and_not_its_value() {
    let encoder = encoder(&["code", "n", "d", "amount"]).unwrap();
    for (cells, column, index) in [
        (["a", "1x", "2021-07-01", "1"], "n", 1),
        (["a", "1", "01.07.2021", "1"], "d", 2),
        (["a", "1", "2021-07-01", "1.005"], "amount", 3),
    ] {
        let error = encoded(&encoder, &row(&cells)).unwrap_err();
        assert_eq!((error.column.as_str(), error.index), (column, Some(index)));
        assert!(!error.to_string().contains("01.07.2021"));
    }
}
