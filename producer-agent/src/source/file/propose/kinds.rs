//! The types that a column's cells fit, tried by the agent's own encoder: it can read what is proposed.
//!
//! Owns the caution: what looks like a code stays text. So do numbers with leading zeros, and whole numbers that all
//! have the same count of digits.

use schemas::avro::schema::AvroSchema;
use serde_json::{Value as Json, json};

use super::Column;
use crate::source::cells::{Cells, Columns, RowEncoder};
use crate::source::format::TableFormat;
use crate::source::values::calendar::DateFormat;

/// Spellings of dates other than 2026-01-31.
const DATE_FORMATS: [&str; 3] = ["%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y"];
/// Digits of a proposed decimal: more than the amounts of a state need.
const PRECISION: usize = 18;
/// The precision of decimals that are tried.
const MOST_DIGITS: usize = 28;
/// The scale of decimals that are tried.
const MOST_SCALE: usize = 9;

/// One way to read a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Boolean,
    Whole,
    Decimal(char),
    Date(Option<&'static str>),
    Instant,
}

struct Tried {
    way: Way,
    encoder: RowEncoder,
}

/// What was seen in one column.
struct Tally {
    ways: Vec<Tried>,
    empty: u64,
    full: u64,
    /// The fewest and the most digits of a cell.
    digits: Option<(usize, usize)>,
    /// The most digits after the separator.
    scale: usize,
    has_leading_zero: bool,
}

/// What was seen in all columns.
pub(super) struct Kinds(Vec<Tally>);

pub(super) struct Found {
    pub(super) columns: Vec<Column>,
    pub(super) date_format: Option<String>,
    pub(super) decimal_separator: Option<char>,
}

fn kind_of(way: Way, precision: usize, scale: usize) -> Json {
    match way {
        Way::Boolean => json!("boolean"),
        Way::Whole => json!("long"),
        Way::Decimal(_) => {
            json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
        }
        Way::Date(_) => json!({"type": "int", "logicalType": "date"}),
        Way::Instant => json!({"type": "long", "logicalType": "timestamp-millis"}),
    }
}

impl Tried {
    fn new(way: Way) -> Option<Self> {
        let kind = kind_of(way, MOST_DIGITS, MOST_SCALE);
        let schema = json!({"type": "record", "name": "R", "fields": [{"name": "c", "type": kind}]});
        let mut format = TableFormat::default();
        match way {
            Way::Decimal(separator) => format.decimal_separator = separator,
            Way::Date(Some(written)) => format.date_format = DateFormat::try_from(written.to_owned()).ok(),
            _ => {}
        }
        let header = ["c".to_owned()];
        let schema = AvroSchema::from_json(schema).ok()?;
        let encoder = RowEncoder::new(&schema, Columns::Named(&header), &format).ok()?;
        Some(Self { way, encoder })
    }

    fn fits(&self, cell: &Cells, text: &str) -> bool {
        // `1` and `0` make no column boolean.
        let is_word = self.way != Way::Boolean
            || text.eq_ignore_ascii_case("true")
            || text.eq_ignore_ascii_case("false");
        is_word && self.encoder.encode(cell, &mut Vec::new()).is_ok()
    }
}

impl Tally {
    fn new() -> Self {
        let written = DATE_FORMATS.iter().map(|format| Way::Date(Some(format)));
        let ways =
            [Way::Boolean, Way::Whole, Way::Decimal('.'), Way::Decimal(','), Way::Date(None), Way::Instant];
        let ways = ways.into_iter().chain(written).filter_map(Tried::new).collect();
        Self { ways, empty: 0, full: 0, digits: None, scale: 0, has_leading_zero: false }
    }

    fn see(&mut self, text: &str) {
        if text.is_empty() {
            self.empty += 1;
            return;
        }
        self.full += 1;
        if self.ways.is_empty() {
            return;
        }
        let cell = Cells::ordered(&[text]);
        self.ways.retain(|tried| tried.fits(&cell, text));
        let count = text.chars().filter(char::is_ascii_digit).count();
        let (fewest, most) = self.digits.unwrap_or((count, count));
        self.digits = Some((fewest.min(count), most.max(count)));
        let plain = text.trim_start_matches(['+', '-']);
        self.has_leading_zero |=
            plain.starts_with('0') && plain.chars().nth(1).is_some_and(|c| c.is_ascii_digit());
        let fraction = text.rsplit_once(['.', ',']).map_or(0, |(_, fraction)| fraction.len());
        self.scale = self.scale.max(fraction);
    }

    fn has(&self, way: Way) -> bool {
        self.full > 0 && self.ways.iter().any(|tried| tried.way == way)
    }

    /// Whether the column's numbers are codes.
    fn is_code(&self) -> bool {
        let is_number = [Way::Whole, Way::Decimal('.'), Way::Decimal(',')].iter().any(|way| self.has(*way));
        let is_of_one_length = self.digits.is_none_or(|(fewest, most)| fewest == most);
        is_number && (self.has_leading_zero || (self.has(Way::Whole) && is_of_one_length))
    }
}

impl Kinds {
    pub(super) fn of(header: &[String]) -> Self {
        Self(header.iter().map(|_| Tally::new()).collect())
    }

    pub(super) fn see(&mut self, cells: &[&str]) {
        self.0.iter_mut().zip(cells).for_each(|(column, cell)| column.see(cell));
    }

    /// Chooses one type for each column, and one spelling of dates and of fractions for the file.
    pub(super) fn settle(&self, header: &[String], key: &[String], remarks: &mut Vec<String>) -> Found {
        let open: Vec<(&Tally, &String)> = self
            .0
            .iter()
            .zip(header)
            .filter(|(tally, name)| !key.contains(name) && !tally.is_code())
            .collect();
        let date_format = date_format(&open, remarks);
        let with_comma =
            open.iter().any(|(tally, _)| tally.has(Way::Decimal(',')) && !tally.has(Way::Decimal('.')));
        let separator = if with_comma { ',' } else { '.' };
        let ways = [Way::Boolean, Way::Whole, Way::Decimal(separator), Way::Instant];
        // Where dates have another spelling, none is read as 2026-01-31.
        let ways: Vec<Way> = ways.into_iter().chain([Way::Date(date_format)]).collect();
        let column = |(tally, name): (&Tally, &String)| {
            let is_open = !key.contains(name) && !tally.is_code();
            let way = ways.iter().find(|way| is_open && tally.has(**way));
            let most = tally.digits.map_or(0, |(_, most)| most);
            let kind = way.map(|way| kind_of(*way, PRECISION.max(most + 2), tally.scale));
            let (kind, default) = match (kind, tally.empty) {
                (None, _) => (json!("string"), Some(json!(""))),
                (Some(kind), 0) => (kind, None),
                (Some(kind), _) => (json!(["null", kind]), Some(Json::Null)),
            };
            Column { name: name.clone(), kind, default }
        };
        let columns = self.0.iter().zip(header).map(column).collect();
        Found {
            columns,
            date_format: date_format.map(str::to_owned),
            decimal_separator: with_comma.then_some(','),
        }
    }
}

/// The spelling of dates that fits the most columns, other than 2026-01-31; `None` where a day may be a month.
fn date_format(open: &[(&Tally, &String)], remarks: &mut Vec<String>) -> Option<&'static str> {
    let count =
        |format: &'static str| open.iter().filter(|(tally, _)| tally.has(Way::Date(Some(format)))).count();
    let (most, format) =
        DATE_FORMATS.map(|format| (count(format), format)).into_iter().max_by_key(|(most, _)| *most)?;
    let rivals = DATE_FORMATS.map(|other| other != format && count(other) == most);
    match (most, rivals.contains(&true)) {
        (0, _) => None,
        (_, false) => Some(format),
        (_, true) => {
            let is_date = |(tally, _): &&(&Tally, &String)| tally.has(Way::Date(Some(format)));
            let names: Vec<String> =
                open.iter().filter(is_date).map(|(_, name)| format!("{name:?}")).collect();
            remarks.push(format!(
                "in {} the first number may be the day or the month: such a column stays text until you set date_format",
                names.join(", ")
            ));
            None
        }
    }
}
