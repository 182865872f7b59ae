//! The key of a subject: derived from its datum, by one function, at the agent and at the router.
//!
//! Owns derivation and normalisation. Normalisation changes only the key; the fields keep their values.

use std::borrow::Cow;

use apache_avro::Schema;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::avro::binary::{Cursor, DatumError};
use crate::avro::located::{Ends, Located};
use crate::avro::schema::AvroSchema;
use crate::limits;

/// What identifies a subject of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySpec {
    /// The fields, in order.
    pub fields: Vec<String>,
    /// Applied in order to each field's text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub normalise: Vec<Normalise>,
}

/// A step that makes spellings of one key equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// Unicode lower case.
    Lowercase,
    /// White space off both ends.
    Trim,
    /// Unicode's composed form (NFC): a letter and its mark are one character, however they were typed.
    Nfc,
}

impl Normalise {
    fn apply(self, text: &str) -> String {
        match self {
            Self::Lowercase => text.to_lowercase(),
            Self::Trim => text.trim().to_owned(),
            Self::Nfc => text.nfc().collect(),
        }
    }
}

/// A key: text, not empty, of bounded length. Most keys lie in their datum.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key<'d>(Cow<'d, str>);

impl<'d> Key<'d> {
    /// Checks a text that should be a key.
    pub fn parse(text: impl Into<Cow<'d, str>>) -> Result<Self, KeyError> {
        let text = text.into();
        if text.is_empty() {
            Err(KeyError::Empty)
        } else if text.len() > limits::MAX_KEY_BYTES {
            Err(KeyError::TooLong(text.len()))
        } else {
            Ok(Self(text))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_string(self) -> String {
        self.0.into_owned()
    }

    /// The same key with a text of its own.
    pub fn into_owned(self) -> Key<'static> {
        Key(Cow::Owned(self.into_string()))
    }
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A key names no field, or too many.
    #[error("a key has 1 to {max} fields, not {0}", max = limits::MAX_KEY_FIELDS)]
    FieldCount(usize),
    /// The schema has no such field.
    #[error("the schema has no field {0:?}")]
    NoSuchField(String),
    /// A field's type cannot be part of a key.
    #[error("field {0:?} is not a string, whole number, date or enum and cannot be part of a key")]
    UnsupportedType(String),
    /// All parts of the key are empty.
    #[error("the key is empty")]
    Empty,
    /// A part of the key is null.
    #[error("the key's field {0:?} is null")]
    Null(String),
    /// Longer than a key may be.
    #[error("the key has {0} bytes; at most {max} are taken", max = limits::MAX_KEY_BYTES)]
    TooLong(usize),
    /// The datum cannot be read.
    #[error(transparent)]
    Datum(#[from] DatumError),
}

#[derive(Debug, Clone)]
enum Part {
    Text,
    Number,
    Enum(Vec<String>),
    Nullable { null_branch: i64, inner: Box<Part> },
}

/// Derives keys from datums of one schema.
#[derive(Debug, Clone)]
pub struct KeyDeriver {
    schema: AvroSchema,
    parts: Vec<(String, usize, Part)>,
    normalise: Vec<Normalise>,
}

impl KeyDeriver {
    /// Prepares derivation; the fields must exist and have types that can be keys. A field renamed in a newer
    /// schema is found by its alias.
    pub fn new(spec: &KeySpec, schema: &AvroSchema) -> Result<Self, KeyError> {
        if spec.fields.is_empty() || spec.fields.len() > limits::MAX_KEY_FIELDS {
            return Err(KeyError::FieldCount(spec.fields.len()));
        }
        let no_such = |name: &String| KeyError::NoSuchField(name.clone());
        let mut parts = Vec::new();
        for name in &spec.fields {
            let record = schema.record().map_err(|_| no_such(name))?.record;
            let by_name = record.fields.iter().position(|f| f.name == *name);
            let position = by_name.or_else(|| record.fields.iter().position(|f| f.aliases.contains(name)));
            let index = position.ok_or_else(|| no_such(name))?;
            let field = record.fields.get(index).ok_or_else(|| no_such(name))?;
            let part = part(&field.schema).ok_or_else(|| KeyError::UnsupportedType(name.clone()))?;
            parts.push((name.clone(), index, part));
        }
        Ok(Self { schema: schema.clone(), parts, normalise: spec.normalise.clone() })
    }

    /// The indexes of the key's fields in the schema.
    pub fn field_indexes(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().map(|(_, index, _)| *index)
    }

    /// The key of a datum: the only field's text, or a canonical JSON array of the fields' texts. `ends` is memory that is
    /// used again.
    pub fn derive<'d>(&self, datum: &'d [u8], ends: &'d mut Ends) -> Result<Key<'d>, KeyError> {
        let located = ends.locate(self.schema.layout(), datum)?;
        let text = |(name, index, part): &(String, usize, Part)| {
            let mut cursor = Cursor::new(located.field(*index).unwrap_or_default());
            let text = read(part, &mut cursor)?.ok_or_else(|| KeyError::Null(name.clone()))?;
            Ok(self.normalise.iter().fold(text, |text, step| step.apply(&text).into()))
        };
        match self.parts.as_slice() {
            [only] => Key::parse(text(only)?),
            parts => join(parts.iter().map(text).collect::<Result<_, KeyError>>()?),
        }
    }

    /// Whether a datum gives this key. Most keys are one text as it is, and are compared where they lie.
    pub fn gives(&self, datum: Located<'_>, key: &str) -> Result<bool, KeyError> {
        if let ([(_, index, Part::Text)], []) = (self.parts.as_slice(), self.normalise.as_slice()) {
            let text = Cursor::new(datum.field(*index).unwrap_or_default()).string()?;
            if (1..=limits::MAX_KEY_BYTES).contains(&text.len()) {
                return Ok(text == key);
            }
        }
        Ok(self.derive(datum.bytes(), &mut Ends::default())?.as_str() == key)
    }
}

/// Joins several texts to a key: a JSON array (RFC 8785).
fn join(texts: Vec<Cow<'_, str>>) -> Result<Key<'static>, KeyError> {
    match texts.iter().all(|text| text.is_empty()) {
        true => Err(KeyError::Empty),
        false => Key::parse(serde_json::Value::from(texts).to_string()),
    }
}

fn part(schema: &Schema) -> Option<Part> {
    Some(match schema {
        Schema::String | Schema::Uuid(apache_avro::schema::UuidSchema::String) => Part::Text,
        Schema::Int | Schema::Long | Schema::Date => Part::Number,
        Schema::Enum(symbols) => Part::Enum(symbols.symbols.clone()),
        Schema::Union(union) => {
            let [a, b] = union.variants() else { return None };
            let (null_branch, inner) = match (a, b) {
                (Schema::Null, other) => (0, other),
                (other, Schema::Null) => (1, other),
                _ => return None,
            };
            Part::Nullable { null_branch, inner: Box::new(part(inner)?) }
        }
        _ => return None,
    })
}

fn read<'d>(part: &Part, cursor: &mut Cursor<'d>) -> Result<Option<Cow<'d, str>>, DatumError> {
    Ok(match part {
        Part::Text => Some(cursor.string()?.into()),
        Part::Number => Some(cursor.long()?.to_string().into()),
        Part::Enum(symbols) => {
            let at = cursor.at();
            let symbol = usize::try_from(cursor.long()?).ok().and_then(|index| symbols.get(index));
            let unknown = DatumError::Invalid { at, what: "an enum has no such symbol" };
            Some(symbol.ok_or(unknown)?.clone().into())
        }
        Part::Nullable { null_branch, inner } => {
            if cursor.long()? == *null_branch {
                None
            } else {
                read(inner, cursor)?
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::binary::{put_long, put_string};

    fn deriver(fields: &[&str], normalise: Vec<Normalise>) -> Result<KeyDeriver, KeyError> {
        let schema = AvroSchema::parse(
            r#"{"type":"record","name":"R","fields":[{"name":"code","type":"string"},
            {"name":"no","type":["null","long"]},{"name":"x","type":"double"}]}"#,
        );
        let fields = fields.iter().map(|f| (*f).to_owned()).collect();
        KeyDeriver::new(&KeySpec { fields, normalise }, &schema.unwrap_or_else(|e| panic!("{e}")))
    }

    fn datum(code: &str, no: Option<i64>) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, code);
        match no {
            None => out.push(0),
            Some(no) => {
                put_long(&mut out, 1);
                put_long(&mut out, no);
            }
        }
        out.extend_from_slice(&1.5_f64.to_le_bytes());
        out
    }

    #[test]
    fn one_field_is_its_text_and_more_are_a_json_array() {
        let key = |fields: &[&str], normalise, datum: &[u8]| {
            deriver(fields, normalise)?.derive(datum, &mut Ends::default()).map(Key::into_string)
        };
        let steps = vec![Normalise::Trim, Normalise::Lowercase];
        assert_eq!(key(&["code"], steps, &datum(" ĀBC ", None)), Ok("ābc".to_owned()));
        let composed = key(&["code"], vec![Normalise::Nfc], &datum("A\u{304}", None));
        assert_eq!(composed, Ok("\u{100}".to_owned()));
        assert_eq!(key(&["code", "no"], vec![], &datum("a\"b", Some(7))), Ok(r#"["a\"b","7"]"#.to_owned()));
        assert_eq!(key(&["no"], vec![], &datum("a", None)), Err(KeyError::Null("no".to_owned())));
        assert_eq!(key(&["code"], vec![Normalise::Trim], &datum("  ", None)), Err(KeyError::Empty));
        assert_eq!(key(&["code"], vec![], &datum(&"x".repeat(2000), None)), Err(KeyError::TooLong(2000)));
    }

    #[test]
    fn a_key_that_cannot_be_is_refused_before_any_event() {
        assert!(matches!(deriver(&["x"], vec![]), Err(KeyError::UnsupportedType(_))));
        assert!(matches!(deriver(&["y"], vec![]), Err(KeyError::NoSuchField(_))));
        assert!(matches!(deriver(&[], vec![]), Err(KeyError::FieldCount(0))));
    }

    #[test]
    fn a_datum_gives_the_key_that_is_derived_from_it_and_no_other() {
        let longest = "a".repeat(limits::MAX_KEY_BYTES);
        let codes = ["", "a", " A ", &longest, &format!("{longest}b")];
        for (fields, normalise) in [
            (&["code"][..], vec![]),
            (&["code"], vec![Normalise::Trim, Normalise::Lowercase]),
            (&["no"], vec![]),
            (&["code", "no"], vec![]),
        ] {
            let deriver = deriver(fields, normalise).unwrap_or_else(|e| panic!("{e}"));
            for (code, no) in codes.iter().flat_map(|code| [(code, None), (code, Some(7))]) {
                let datum = datum(code, no);
                let mut ends = Ends::default();
                let located = ends.locate(deriver.schema.layout(), &datum).unwrap_or_else(|e| panic!("{e}"));
                match deriver.derive(&datum, &mut Ends::default()) {
                    Err(error) => assert_eq!(deriver.gives(located, code), Err(error)),
                    Ok(key) => {
                        assert_eq!(deriver.gives(located, key.as_str()), Ok(true));
                        assert_eq!(deriver.gives(located, "other"), Ok(false));
                    }
                }
            }
        }
    }
}
