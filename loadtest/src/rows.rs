//! The made-up register: addresses, as a registry has them.
//!
//! Owns the rows, their schema, and the position of the sending time in them: first, so that it can be read without the
//! rest.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use schemas::avro::binary::{Cursor, put_long, put_string};

/// The subject's schema. Consumers get the first four fields.
pub(crate) const SCHEMA: &str = r#"{"type":"record","name":"lv.load.Address","fields":[
    {"name":"sent_at","type":"long"},{"name":"code","type":"string"},{"name":"municipality","type":"string"},
    {"name":"name","type":"string"},{"name":"street","type":"string"},{"name":"house","type":"string"},
    {"name":"post_code","type":"string"},{"name":"note","type":"string"}]}"#;
/// The fields that agreements name.
pub(crate) const PERMITTED: [&str; 4] = ["sent_at", "code", "municipality", "name"];

pub(crate) struct Row {
    number: u64,
    municipality: u64,
    sent_at: i64,
}

/// Microseconds since 1970, the same clock for all processes of a machine.
pub(crate) fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn municipality(number: u64) -> String {
    format!("M{number:03}")
}

impl Row {
    /// The row of a number, in one of so many municipalities.
    pub(crate) fn new(number: u64, municipalities: u32, sent_at: i64) -> Self {
        Self { number, municipality: number % u64::from(municipalities), sent_at }
    }

    pub(crate) fn key(&self) -> String {
        format!("{:09}", 100_000_000 + self.number)
    }

    fn texts(&self) -> [String; 7] {
        let number = self.number;
        [
            self.key(),
            municipality(self.municipality),
            format!("Ēka Nr. {number}, Dārza iela"),
            format!("Brīvības gatve {}", number % 977),
            format!("{}", number % 211),
            format!("LV-{:04}", 1_000 + number % 4_500),
            format!(
                "ieraksts {number} no adrešu reģistra; pārbaudīts, aktuāls, bez apgrūtinājumiem ({})",
                number % 13
            ),
        ]
    }

    /// A line of a file, in the order of [`Row::header`].
    pub(crate) fn line(&self, out: &mut String) {
        // Writing to a string does not fail.
        let _ = write!(out, "{}", self.sent_at);
        for text in self.texts() {
            out.push('\t');
            out.push_str(&text);
        }
        out.push('\n');
    }

    /// A file's first line.
    pub(crate) const fn header() -> &'static str {
        "sent_at\tcode\tmunicipality\tname\tstreet\thouse\tpost_code\tnote\n"
    }

    /// The change as the agent's local endpoint takes it.
    pub(crate) fn change(&self) -> serde_json::Value {
        let [code, municipality, name, street, house, post_code, note] = self.texts();
        serde_json::json!({"op": "c", "row": {"sent_at": self.sent_at, "code": code, "municipality": municipality,
            "name": name, "street": street, "house": house, "post_code": post_code, "note": note}})
    }

    /// A datum of the schema.
    pub(crate) fn datum(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        put_long(&mut out, self.sent_at);
        self.texts().iter().for_each(|text| put_string(&mut out, text));
        out
    }
}

/// When a row was due to be sent, from a datum that begins as the schema does.
pub(crate) fn sent_at(image: &[u8]) -> Option<i64> {
    Cursor::new(image).long().ok()
}

/// The municipality of a row, from a datum of the whole schema.
pub(crate) fn municipality_of(image: &[u8]) -> Option<&str> {
    let mut cursor = Cursor::new(image);
    cursor.long().ok()?;
    cursor.string().ok()?;
    cursor.string().ok()
}
