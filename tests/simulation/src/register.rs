//! A small register: rows that move between territories, and the changes that a provider hands over.
//!
//! Owns the subject's schema and the truth that everything else is compared with. Every change has a number of its own,
//! so that a repeat, a loss or a wrong order shows in the row itself.

use std::collections::BTreeMap;

use anyhow::Context;
use platform::simulation::random::Random;
use producer_agent::source::http::items::{Item, Operation};
use schemas::avro::binary::{Cursor, DatumError};
use serde_json::{Value as Json, json};

/// The subject: its key, its territory, the number of the change, and a field that no agreement names.
pub const SCHEMA: &str = r#"{"type":"record","name":"sim.Row","fields":[
    {"name":"k","type":"string"},{"name":"t","type":"string"},{"name":"n","type":"long"},
    {"name":"secret","type":"string"}]}"#;

/// Where rows may be.
pub const TERRITORIES: [&str; 4] = ["LV-RIX", "LV-JUR", "LV-DGV", "LV-LPX"];
/// Rows of one register: few, so that each changes often.
const KEYS: u64 = 40;

/// A row without its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Its territory, by number.
    pub territory: usize,
    /// The number of the change that made it so.
    pub number: i64,
}

/// A key and its row afterwards.
pub type Change = (String, Option<Row>);

pub type Rows = BTreeMap<String, Row>;

/// The rows of the register, and all changes of each key.
#[derive(Debug, Default)]
pub struct Register {
    pub rows: Rows,
    /// All changes of each key, in order.
    pub story: BTreeMap<String, Vec<Option<Row>>>,
    pub changes: i64,
}

impl Register {
    pub fn change(&mut self, random: &mut Random) -> Change {
        let key = format!("k{:02}", random.below(KEYS));
        self.changes += 1;
        let before = self.rows.get(&key).copied();
        let after = match before {
            Some(_) if random.below(100) < 15 => None,
            Some(row) if random.below(100) < 60 => Some(Row { number: self.changes, ..row }),
            _ => Some(Row { territory: territory(random), number: self.changes }),
        };
        match after {
            Some(row) => self.rows.insert(key.clone(), row),
            None => self.rows.remove(&key),
        };
        self.story.entry(key.clone()).or_default().push(after);
        (key, after)
    }

    /// The whole register as a file.
    pub fn as_file(&self) -> String {
        let mut text = "k,t,n,secret\n".to_owned();
        for (key, row) in &self.rows {
            let Row { territory, number } = row;
            let name = TERRITORIES.get(*territory).unwrap_or(&"");
            text.push_str(&format!("{key},{name},{number},secret{number}\n"));
        }
        text
    }
}

fn territory(random: &mut Random) -> usize {
    let count = u64::try_from(TERRITORIES.len()).unwrap_or(1);
    usize::try_from(random.below(count)).unwrap_or(0)
}

/// A change as a provider's own system hands it over.
pub fn item((key, after): &Change) -> Item {
    let fields: Json = match after {
        None => json!({"k": key}),
        Some(Row { territory, number }) => {
            let name = TERRITORIES.get(*territory).copied().unwrap_or_default();
            json!({"k": key, "t": name, "n": number, "secret": format!("secret{number}")})
        }
    };
    let op = if after.is_some() { Operation::Put } else { Operation::Delete };
    let row = fields.as_object().cloned().unwrap_or_default();
    Item::made(op, &row)
}

/// A row from an image of the log.
pub fn read(image: &[u8]) -> anyhow::Result<(String, Row)> {
    let mut datum = Cursor::new(image);
    let mut text = || -> Result<String, DatumError> { Ok(datum.string()?.to_owned()) };
    let key = text()?;
    let name = text()?;
    let number = datum.long()?;
    Ok((key, Row { territory: territory_of(&name)?, number }))
}

/// The number of a territory's name.
pub fn territory_of(name: &str) -> anyhow::Result<usize> {
    TERRITORIES.iter().position(|known| *known == name).with_context(|| format!("no territory {name:?}"))
}
