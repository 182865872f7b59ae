//! The targets: they read any bytes as a provider's files and requests, and check what must always hold.
//!
//! Owns the checks. A target panics only where a check fails: what is read is what another parser reads, or is refused.

use std::io::Write as _;
use std::sync::LazyLock;

use producer_agent::image::memory::MemoryImages;
use producer_agent::source::cells::{Cell, Cells, Columns, RowEncoder};
use producer_agent::source::file::source::FileSource;
use producer_agent::source::file::table::Table;
use producer_agent::source::format::{Quoting, TableFormat};
use producer_agent::source::http::{items, read_row};
use producer_agent::source::port::{Content, Source};
use producer_agent::source::row::Row;
use producer_agent::take::changes::{Change, Changes};
use schemas::avro::json;
use schemas::avro::schema::AvroSchema;
use schemas::key::KeySpec;

const QUOTING: [Quoting; 4] = [Quoting::Rfc4180, Quoting::Lenient, Quoting::Backslash, Quoting::None];

/// Types that a cell may be read into.
const KINDS: [&str; 17] = [
    r#""string""#,
    r#""int""#,
    r#""long""#,
    r#""float""#,
    r#""double""#,
    r#""boolean""#,
    r#"{"type":"enum","name":"E","symbols":["A","B"]}"#,
    r#"{"type":"int","logicalType":"date"}"#,
    r#"{"type":"long","logicalType":"timestamp-millis"}"#,
    r#"{"type":"long","logicalType":"timestamp-micros"}"#,
    r#"{"type":"long","logicalType":"timestamp-nanos"}"#,
    r#"{"type":"long","logicalType":"local-timestamp-millis"}"#,
    r#"{"type":"int","logicalType":"time-millis"}"#,
    r#"{"type":"long","logicalType":"time-micros"}"#,
    r#"{"type":"string","logicalType":"uuid"}"#,
    r#"{"type":"bytes","logicalType":"decimal","precision":12,"scale":3}"#,
    r#"["null",{"type":"bytes","logicalType":"decimal","precision":38,"scale":0}]"#,
];

fn schema_of(kind: &str) -> AvroSchema {
    let fields = format!(r#"{{"name":"k","type":"string"}},{{"name":"x","type":{kind}}}"#);
    AvroSchema::parse(&format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)).expect("a schema")
}

static SCHEMAS: LazyLock<Vec<AvroSchema>> =
    LazyLock::new(|| KINDS.iter().map(|kind| schema_of(kind)).collect());

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".csv").tempfile().expect("a file");
    file.write_all(bytes).expect("a disk");
    file
}

/// A file's rows, with their header.
fn table(bytes: &[u8], format: &TableFormat) -> Option<Table> {
    Table::open(file(bytes).path(), format).ok()
}

/// Bytes as delimited text: the rows are those that the `csv` crate reads, up to the first that is refused.
pub fn delimited(bytes: &[u8]) {
    let Some((first, text)) = bytes.split_first() else { return };
    let quoting = QUOTING[usize::from(*first) % QUOTING.len()];
    let format = TableFormat { quoting, ..TableFormat::default() };
    let Some(mut read) = table(text, &format) else { return };
    let width = read.header().len();
    let rows: Vec<Row> = std::iter::from_fn(|| read.next_row().cloned()).collect();
    for row in &rows {
        let end = u64::try_from(text.len()).expect("a length");
        let location =
            row.content().map_or_else(|bad| bad.location, |_| row.location_of(width.saturating_sub(1)));
        assert!(
            location.byte <= end && location.line >= 1 && location.character >= 1,
            "{location:?} of {end}"
        );
    }
    let is_plain = matches!(quoting, Quoting::Rfc4180 | Quoting::None) && std::str::from_utf8(text).is_ok();
    if !is_plain || text.starts_with(b"\xef\xbb\xbf") {
        return;
    }
    let mut another = csv::ReaderBuilder::new();
    let another =
        another.has_headers(true).flexible(true).quoting(quoting == Quoting::Rfc4180).from_reader(text);
    let mut others = another.into_records();
    for row in rows {
        let Some(other) = others.next() else { panic!("a row that another parser has not: {row:?}") };
        let other: Vec<String> = other.expect("text").iter().map(str::to_owned).collect();
        match row.content() {
            Ok(cells) => {
                let plain = |cell: Cell<&str>| {
                    if let Cell::Plain(text) = cell { text.to_owned() } else { panic!("{cell:?}") }
                };
                assert_eq!(cells.iter().map(plain).collect::<Vec<_>>(), other);
            }
            Err(bad) if bad.reason.contains("cells, the header has") => assert_ne!(other.len(), width),
            // Parsers differ about a record that follows no rule.
            Err(_) => return,
        }
    }
    assert!(others.next().is_none(), "another parser has one row more");
}

/// One byte chooses the type, one the kind of cell: a value that is taken is shown, and read again as the same datum.
pub fn cells(bytes: &[u8]) {
    let [kind, form, text @ ..] = bytes else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let schema = &SCHEMAS[usize::from(*kind) % SCHEMAS.len()];
    let encoder = RowEncoder::new(schema, Columns::Open, &TableFormat::default()).expect("an encoder");
    let put = |cell: Cell<&str>| {
        let mut datum = Vec::new();
        encoder.encode(&Cells::named([("k", Cell::Text("a")), ("x", cell)]), &mut datum).map(|()| datum)
    };
    let cell = match form % 3 {
        0 => Cell::Plain(text),
        1 => Cell::Text(text),
        _ => Cell::Number(text),
    };
    let Ok(datum) = put(cell) else { return };
    let value = json::decode(schema, &datum).expect("a datum that its own schema reads");
    let shown = json::render(schema.parsed(), &value, &str::to_owned)["x"].clone();
    let number = shown.to_string();
    let again = match &shown {
        serde_json::Value::String(text) => Cell::Plain(text.as_str()),
        serde_json::Value::Number(_) => Cell::Number(number.as_str()),
        serde_json::Value::Bool(value) => Cell::Boolean(*value),
        serde_json::Value::Null => Cell::Null,
        nested => panic!("{nested}"),
    };
    // Times without an offset are shown as plain numbers, and a float with the digits of a double.
    let is_shown_otherwise = matches!(KINDS[usize::from(*kind) % KINDS.len()], kind if kind.contains("local-") || kind.contains("\"time-") || kind.contains("float"));
    if !is_shown_otherwise {
        assert_eq!(put(again).as_ref(), Ok(&datum), "{text:?} is shown as something else");
    }
}

/// Bytes as a change file: each change has a key, or its row is parked.
pub fn changes(bytes: &[u8]) {
    let Some((kind, rows)) = bytes.split_first() else { return };
    let schema = &SCHEMAS[usize::from(*kind) % SCHEMAS.len()];
    let format = TableFormat { operation_column: Some("op".to_owned()), ..TableFormat::default() };
    let text = [b"op,k,x\n", rows].concat();
    let file = file(&text);
    let Ok(source) = FileSource::open(file.path(), &format) else { return };
    assert_eq!(source.content(), Content::Changes);
    let spec = KeySpec { fields: vec!["k".to_owned()], normalise: vec![] };
    let mut rows = source.rows(schema, &spec).expect("a reader");
    let changes = Changes::read(rows.as_mut(), &MemoryImages::default()).expect("images");
    for Change { line, key, after } in changes.rows {
        assert!(line > 1 && !key.is_empty());
        if let Some(datum) = after {
            json::decode(schema, &datum).expect("a datum that its own schema reads");
        }
    }
}

/// Bytes as a request's body: JSON has items, each read or refused by itself.
pub fn items(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let schema = &SCHEMAS[usize::from(*kind) % SCHEMAS.len()];
    for is_cloud_events in [false, true] {
        let is_json = serde_json::from_slice::<serde_json::Value>(body);
        let found = items::parse(body, is_cloud_events);
        match (is_json, found) {
            (Ok(value), Ok(found)) => {
                let count = value.as_array().map_or(1, Vec::len);
                assert_eq!(found.len(), count);
            }
            (Ok(value), Err(problem)) => panic!("{value} is no JSON: {problem}"),
            (Err(_), _) => {}
        }
    }
    if let Ok(row) = serde_json::from_slice(body) {
        let spec = KeySpec { fields: vec!["k".to_owned()], normalise: vec![] };
        if let Ok((key, datum)) = read_row(schema, &spec, row) {
            assert!(!key.is_empty());
            json::decode(schema, &datum).expect("a datum that its own schema reads");
        }
    }
}
