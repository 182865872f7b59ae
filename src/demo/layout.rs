//! The layout of a register's files, version by version: columns, schema, territories.
//!
//! Owns the schema that the demo makes from a header (all fields are strings) and the search for columns whose spelling
//! changed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use producer_agent::source::cells::{Cell, Columns as RowColumns, hint, in_quotes};
use producer_agent::source::file::table::Table;
use producer_agent::source::format::TableFormat;
use schemas::avro::names::field_name;
use schemas::avro::schema::AvroSchema;
use serde_json::json;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// As in the file.
    pub header: Vec<String>,
    /// The positions of the key's columns.
    pub key: Vec<usize>,
    /// The position of the territory's column.
    pub territory: usize,
}

/// The position of a column by its name, or else by its only other spelling.
fn find(header: &[String], name: &str) -> Option<usize> {
    if let Some(exact) = header.iter().position(|column| column == name) {
        return Some(exact);
    }
    let same = |column: &String| column.to_lowercase() == name.to_lowercase();
    let mut found = header.iter().enumerate().filter(|(_, column)| same(column));
    match (found.next(), found.next()) {
        (Some((index, _)), None) => Some(index),
        _ => None,
    }
}

impl Columns {
    /// Reads a file's header and finds the columns that matter.
    pub fn read(file: &Path, format: &TableFormat, key: &[String], territory: &str) -> anyhow::Result<Self> {
        let table = Table::open(file, format)?;
        if matches!(table.columns(), RowColumns::Open) {
            bail!("{}: the demo plays delimited text; a producer agent takes NDJSON too", file.display());
        }
        let header = table.header().to_vec();
        let mut sorted = header.clone();
        sorted.sort();
        if let Some([name, _]) = sorted.windows(2).find(|pair| matches!(pair, [a, b] if a == b)) {
            bail!("{}: column {name:?} stands there twice", file.display());
        }
        let index = |name: &String| {
            find(&header, name).with_context(|| {
                let hint = hint(&header, name).unwrap_or_default();
                format!(
                    "{}: there is no column {name:?}; it has {}{hint}",
                    file.display(),
                    in_quotes(&header)
                )
            })
        };
        let key = key.iter().map(index).collect::<anyhow::Result<Vec<_>>>()?;
        let territory = index(&territory.to_owned())?;
        Ok(Self { header, key, territory })
    }

    /// The field names of the key.
    pub fn key_fields(&self) -> Vec<String> {
        self.key.iter().filter_map(|index| self.header.get(*index)).map(|name| field_name(name)).collect()
    }

    /// The field name of the territory.
    pub fn territory_field(&self) -> String {
        self.header.get(self.territory).map(|name| field_name(name)).unwrap_or_default()
    }

    /// The schema of these columns. A column that only changed its spelling keeps its values: the field carries
    /// all its earlier names as aliases.
    pub fn schema(&self, before: Option<(&Self, &AvroSchema)>) -> anyhow::Result<AvroSchema> {
        let mut fields = Vec::with_capacity(self.header.len());
        for column in &self.header {
            let mut aliases = Vec::new();
            if let Some((columns, schema)) = before
                && let Some(old) = columns.same_column(column, &self.header)
            {
                let old = field_name(old);
                let record = schema.record()?.record;
                let earlier = record.fields.iter().find(|field| field.name == old);
                aliases.extend(earlier.map(|field| field.aliases.clone()).unwrap_or_default());
                if old != field_name(column) {
                    aliases.push(old);
                }
            }
            let name = field_name(column);
            fields.push(
                json!({"name": name, "type": "string", "default": "", "doc": column, "aliases": aliases}),
            );
        }
        let schema = json!({"type": "record", "name": "demo.Row", "fields": fields});
        Ok(AvroSchema::from_json(schema)?)
    }

    /// The column with this name here, or with another spelling that the later header no longer has.
    fn same_column(&self, column: &str, later: &[String]) -> Option<&String> {
        let found = find(&self.header, column).and_then(|index| self.header.get(index))?;
        (found == column || !later.contains(found)).then_some(found)
    }
}

/// The territories of all versions with their rows, largest first; equal ones by name.
pub fn territories(files: &[(PathBuf, Columns)], format: &TableFormat) -> anyhow::Result<Vec<(String, u64)>> {
    let mut counts: HashMap<String, u64> = HashMap::new();
    for (file, columns) in files {
        let mut table = Table::open(file, format)?;
        while let Some(row) = table.next_row() {
            let cell = row.content().ok().and_then(|cells| cells.get(columns.territory));
            if let Some(Cell::Plain(territory)) = cell {
                *counts.entry(territory.to_owned()).or_default() += 1;
            }
        }
    }
    let mut found: Vec<_> = counts.into_iter().collect();
    found.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_respelt_column_is_found_and_keeps_its_values() {
        let header = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let old = Columns { header: header(&["Domain Name", "State"]), key: vec![0], territory: 1 };
        let new = Columns { header: header(&["Domain name", "State", "City"]), key: vec![0], territory: 1 };
        assert_eq!(find(&new.header, "Domain Name"), Some(0));
        let schema = new.schema(Some((&old, &old.schema(None).unwrap()))).unwrap();
        let record = schema.record().unwrap().record;
        assert_eq!(record.fields[0].aliases, ["Domain_u20_Name"]);
        assert!(record.fields[1].aliases.is_empty() && record.fields[2].aliases.is_empty());
        let third = new.schema(Some((&new, &schema))).unwrap();
        assert_eq!(
            third.record().unwrap().record.fields[0].aliases,
            ["Domain_u20_Name"],
            "aliases are carried on"
        );
    }

    #[test]
    fn two_spellings_of_one_name_are_not_guessed() {
        let header = vec!["a".to_owned(), "A".to_owned()];
        assert_eq!(find(&header, "a"), Some(0));
        assert_eq!(find(&["B".to_owned(), "b ".to_owned(), "B".to_lowercase()], "B"), Some(0));
        assert_eq!(find(&["Ba".to_owned(), "bA".to_owned()], "BA"), None);
    }
}
