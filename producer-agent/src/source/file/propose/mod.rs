//! What a delimited file of a register looks like: a proposal from all of its rows, for a person to check.
//!
//! Owns guesses, and reports each. No agent reads by them: they first become a configuration or arguments, and what
//! contradicts those is refused with its location.

mod keys;
mod kinds;
mod shape;

use std::path::{Path, PathBuf};

use schemas::avro::names::field_name;
use serde_json::{Value as Json, json};

use super::table::{Table, TableError};
use crate::source::cells::{Cell, Columns, hint, in_quotes};
use crate::source::format::TableFormat;

use keys::Keys;
use kinds::Kinds;

/// What a person has stated: it is not guessed.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub delimiter: Option<char>,
    pub encoding: Option<String>,
    /// The columns of a file without a header line.
    pub header: Option<Vec<String>>,
    pub key: Vec<String>,
}

/// Why nothing can be proposed.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("{path}: {error}")]
    Unreadable {
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// Objects name their own columns.
    #[error(
        "{0}: it is NDJSON, and dit does not guess its schema; write the schema, and an agent takes the file"
    )]
    Objects(PathBuf),
    /// A column of the key that is not there.
    #[error("{path}: there is no column {column:?}; it has {has}{hint}")]
    NoColumn {
        path: PathBuf,
        /// The name that was given.
        column: String,
        /// The file's columns.
        has: String,
        /// What may be meant.
        hint: String,
    },
    #[error("{path}: none of its {rows} row(s) can be read{first}")]
    NoRow {
        path: PathBuf,
        /// How many there are.
        rows: u64,
        /// Why the first cannot be read.
        first: String,
    },
    /// No column, nor several together, tell rows apart.
    #[error(
        "{path}: no set of up to three columns identifies each of its {rows} rows; name the key with --key"
    )]
    NoKey {
        path: PathBuf,
        /// How many there are.
        rows: u64,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its name, as in the file.
    pub name: String,
    /// Its type, as Avro has it.
    pub kind: Json,
    /// Its value where it is left out; `None` where it is always there.
    pub default: Option<Json>,
}

/// What a file looks like.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    pub encoding: String,
    pub delimiter: char,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// The columns that identify a row.
    pub key: Vec<String>,
    /// The column with a row's territory, and how many territories there are; `None` where no column looks like it.
    pub territory: Option<(String, usize)>,
    /// How dates are written, if not as in 2026-01-31.
    pub date_format: Option<String>,
    /// The character before the fraction of a number, if it is no point.
    pub decimal_separator: Option<char>,
    /// Rows that were read, and those that could not be.
    pub rows: (u64, u64),
    /// What could be read in two ways, and what is parked or cannot be read.
    pub remarks: Vec<String>,
}

impl Proposal {
    /// The schema of a subject with these columns.
    pub fn schema(&self, name: &str) -> Json {
        let field = |column: &Column| {
            let mut field =
                json!({"name": field_name(&column.name), "type": column.kind, "doc": column.name});
            // A key field has no default: a row without a key is no row.
            let default = column.default.clone().filter(|_| !self.key.contains(&column.name));
            if let (Some(default), Some(members)) = (default, field.as_object_mut()) {
                members.insert("default".to_owned(), default);
            }
            field
        };
        let fields: Vec<Json> = self.columns.iter().map(field).collect();
        json!({"type": "record", "name": name, "fields": fields})
    }

    pub fn key_fields(&self) -> Vec<String> {
        self.key.iter().map(|name| field_name(name)).collect()
    }
}

/// Looks at all rows of a file.
pub fn propose(file: &Path, said: &Said) -> Result<Proposal, ProposeError> {
    let head = shape::head(file)?;
    let encoding = said.encoding.clone().unwrap_or_else(|| shape::encoding(&head).to_owned());
    let mut format = TableFormat { encoding, header: said.header.clone(), ..TableFormat::default() };
    let delimiter = match said.delimiter {
        Some(delimiter) => delimiter,
        None => shape::delimiter(file, &format)?,
    };
    format.delimiter = Some(delimiter);
    let table = Table::open(file, &format)?;
    if matches!(table.columns(), Columns::Open) {
        return Err(ProposeError::Objects(file.to_owned()));
    }
    let header = table.header().to_vec();
    if let Some(column) = said.key.iter().find(|column| !header.contains(column)) {
        let path = file.to_owned();
        let column = column.clone();
        let has = in_quotes(&header);
        let hint = hint(&header, &column).unwrap_or_default();
        return Err(ProposeError::NoColumn { path, column, has, hint });
    }
    let mut kinds = Kinds::of(&header);
    let mut keys = Keys::of(&header);
    let Seen { read, bad, first_bad } = see_rows(table, &mut keys, &mut kinds);
    let path = || file.to_owned();
    if read == 0 {
        return Err(ProposeError::NoRow { path: path(), rows: bad, first: first_bad.unwrap_or_default() });
    }
    let (key, alike) = match said.key.as_slice() {
        [] => keys.key(file, &format)?.ok_or_else(|| ProposeError::NoKey { path: path(), rows: read })?,
        said => (said.to_vec(), 0),
    };
    let mut remarks = Vec::new();
    if alike > 0 {
        remarks.push(format!("{alike} row(s) have the key of another row: these and the others are parked"));
    }
    if let Some(first) = first_bad {
        remarks.push(format!("{bad} row(s) cannot be read{first}"));
    }
    let found = kinds.settle(&header, &key, &mut remarks);
    Ok(Proposal {
        encoding: format.encoding,
        delimiter,
        territory: keys.territory(&key),
        columns: found.columns,
        key,
        date_format: found.date_format,
        decimal_separator: found.decimal_separator,
        rows: (read, bad),
        remarks,
    })
}

#[derive(Default)]
struct Seen {
    read: u64,
    bad: u64,
    /// Where the first unreadable row is, and why it cannot be read.
    first_bad: Option<String>,
}

fn see_rows(mut table: Table, keys: &mut Keys, kinds: &mut Kinds) -> Seen {
    let mut seen = Seen::default();
    while let Some(row) = table.next_row() {
        match row.content() {
            Ok(cells) => {
                let texts: Vec<&str> = cells.iter().map(text).collect();
                // The same row again tells nothing new.
                if keys.see(&texts) {
                    kinds.see(&texts);
                }
                seen.read += 1;
            }
            Err(problem) => {
                seen.bad += 1;
                let at = || format!("; the first at line {}: {}", problem.location.line, problem.reason);
                seen.first_bad.get_or_insert_with(at);
            }
        }
    }
    seen
}

/// A cell's text; a cell without text counts as empty here.
const fn text(cell: Cell<&str>) -> &str {
    if let Cell::Plain(text) = cell { text } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposed(name: &str, bytes: &[u8]) -> Result<Proposal, ProposeError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        propose(&file, &Said::default())
    }

    fn kinds(proposal: &Proposal) -> Vec<String> {
        proposal.columns.iter().map(|column| column.kind.to_string().replace('"', "")).collect()
    }

    const COMPANIES: &str = "Nosaukums;Reģ. Nr.;Novads;Dibināts;Kapitāls;Darbinieki;Kods\n\
        SIA Ābele;40001;Ogre;14.05.2019;1 234,56;7;0012\n\
        SIA Bērzs;40002;Rīga;01.12.2020;12,00;1200;0013\n\
        SIA Ceriņš;40003;Ogre;;0,5;;0014\n";

    #[test]
    fn a_latvian_file_is_seen_as_it_is_whatever_its_encoding() {
        let (legacy, ..) = encoding_rs::WINDOWS_1257.encode(COMPANIES);
        for (bytes, encoding) in [(COMPANIES.as_bytes(), "utf-8"), (&legacy, "windows-1257")] {
            let proposal = proposed("x.csv", bytes).unwrap();
            assert_eq!((proposal.encoding.as_str(), proposal.delimiter), (encoding, ';'));
            assert_eq!(proposal.key, ["Reģ. Nr."]);
            assert_eq!(proposal.territory, Some(("Novads".to_owned(), 2)));
            assert_eq!(proposal.date_format.as_deref(), Some("%d.%m.%Y"));
            assert_eq!(proposal.decimal_separator, Some(','));
            assert_eq!(
                kinds(&proposal),
                [
                    "string",
                    "string",
                    "string",
                    "[null,{logicalType:date,type:int}]",
                    "{logicalType:decimal,precision:18,scale:2,type:bytes}",
                    "[null,long]",
                    "string"
                ]
            );
            assert_eq!(proposal.rows, (3, 0));
            let schema = proposal.schema("lv.Company");
            schemas::avro::schema::AvroSchema::from_json(schema.clone()).unwrap();
            assert_eq!(schema["fields"][1].get("default"), None, "the key has none");
        }
    }

    #[test]
    fn a_column_that_is_said_is_there_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.csv");
        std::fs::write(&file, "Id,name\n1,a\n2,b\n").unwrap();
        let said = |key: &str| propose(&file, &Said { key: vec![key.to_owned()], ..Said::default() });
        assert_eq!(said("name").unwrap().key, ["name"]);
        let refused = said("id").unwrap_err().to_string();
        assert!(refused.contains("there is no column \"id\"; it has \"Id\", \"name\""), "{refused}");
        assert!(refused.contains("differs in capital letters"), "{refused}");
    }

    #[test]
    fn what_tells_rows_apart_may_be_two_columns_and_what_does_not_is_said() {
        let two = proposed("x.csv", b"country,code,place\nLV,1,a\nEE,1,b\nLV,2,b\nLV,2,b\n").unwrap();
        assert_eq!(two.key, ["country", "code"]);
        let partly = proposed("x.csv", b"a,b\n1,1\n1,1\n1,2\n,2\n,3\n").map(|proposal| proposal.key);
        assert_eq!(partly.unwrap(), ["a", "b"]);
        // A few rows that no set of columns tells apart are reported; many are refused.
        let rows = |alike: u32| -> String {
            let row = |n: u32| format!("{},{},,,,,,,{}\n", n.max(alike) / 2, n.max(alike) % 2, n % 500);
            "a,b,c,d,e,f,g,h,i\n".to_owned() + &(0..1_000).map(row).collect::<String>()
        };
        let few = proposed("x.csv", rows(2).as_bytes()).unwrap();
        assert_eq!(few.key, ["a", "b"]);
        assert!(
            few.remarks.iter().any(|remark| remark.starts_with("2 row(s) have the key")),
            "{:?}",
            few.remarks
        );
        let many = proposed("x.csv", rows(400).as_bytes());
        assert!(matches!(many, Err(ProposeError::NoKey { .. })), "{many:?}");
        let none = proposed("x.csv", "a,b,c,d,e\n".to_owned().as_bytes());
        assert!(matches!(none, Err(ProposeError::NoRow { rows: 0, .. })), "{none:?}");
        assert!(matches!(
            proposed("x.ndjson", b"{\"a\":1}\n"),
            Err(ProposeError::Objects(_) | ProposeError::Table(_))
        ));
    }

    #[test]
    fn a_day_that_may_be_a_month_stays_text() {
        let both = proposed("x.csv", b"id,day\n1,01/02/2020\n2,03/04/2020\n").unwrap();
        assert_eq!((kinds(&both), both.date_format), (vec!["string".to_owned(); 2], None));
        assert!(both.remarks[0].contains("day or the month"), "{:?}", both.remarks);
        let one = proposed("x.csv", b"id,day\n1,01/02/2020\n2,13/04/2020\n").unwrap();
        assert_eq!(one.date_format.as_deref(), Some("%d/%m/%Y"));
    }

    #[test]
    fn every_delimiter_and_wide_encoding_is_found() {
        for delimiter in [',', ';', '\t', '|'] {
            let text = "id,name\n1,\"a; b\"\n2,c\n".replace(',', &delimiter.to_string());
            let text = if delimiter == ';' { text.replace("a; b", "a, b") } else { text };
            assert_eq!(proposed("x.csv", text.as_bytes()).unwrap().delimiter, delimiter);
        }
        let wide: Vec<u8> = COMPANIES.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(proposed("x.csv", &wide).unwrap().encoding, "utf-16le");
        let (russian, ..) = encoding_rs::WINDOWS_1251.encode("код,имя\n1,Рига\n2,Огре\n");
        assert_eq!(proposed("x.csv", &russian).unwrap().encoding, "windows-1251");
    }
}
