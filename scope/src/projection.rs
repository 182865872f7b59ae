//! The projection: which bytes of an image leave, and how they are changed.
//!
//! Owns the plan of copies and transforms that an agreement is compiled to. Adjacent fields are copied at once.

use apache_avro::Schema;
use apache_avro::schema::UuidSchema;
use schemas::agreement::{Agreement, Transform};
use schemas::avro::binary::{Cursor, put_bytes, put_long};
use schemas::avro::located::Located;
use schemas::avro::schema::AvroSchema;

use crate::compile::{CompileError, Compiled, Terms};
use crate::denial::Denial;
use crate::secret::AgreementKey;
use crate::transform::{FieldRule, MICROS_A_DAY, MILLIS_A_DAY, first_of_year, instant_of_year, mask};

/// A plan for the images of one schema. Its output is no permit: only the decision makes permits.
#[derive(Debug, Clone)]
pub struct Projection {
    actions: Vec<Action>,
    key: AgreementKey,
}

#[derive(Debug, Clone)]
enum Action {
    /// The fields from the first to the last, as they are.
    Copy {
        first: usize,
        last: usize,
    },
    /// Null, by its branch.
    Null {
        branch: u32,
    },
    Change(Changed),
}

#[derive(Debug, Clone)]
struct Changed {
    field: usize,
    /// Null's branch, where the field has one.
    null: Option<i64>,
    change: Change,
}

#[derive(Debug, Clone)]
enum Change {
    Hash { name: String, spelling: Spelling },
    Mask { keep: u32 },
    YearOfDate,
    YearOfMillis,
    YearOfMicros,
}

/// How a value is spelt before it is hashed.
#[derive(Debug, Clone)]
enum Spelling {
    Text,
    Whole,
    Symbol(Vec<String>),
    UuidText,
    UuidBytes,
    UuidRaw,
}

impl Projection {
    /// The plan of an agreement, without its row predicate, for records of the schema that is judged.
    pub fn compile(agreement: &Agreement, terms: &Terms<'_>) -> Result<Self, CompileError> {
        let Compiled { rules, effective, key, .. } = Compiled::new(agreement, terms)?;
        Ok(Self::new(&rules, &effective, key))
    }

    /// The plan of rules that were found to fit the schema.
    pub(crate) fn new(rules: &[(usize, FieldRule)], schema: &AvroSchema, key: AgreementKey) -> Self {
        let mut actions: Vec<Action> = Vec::with_capacity(rules.len());
        for (index, rule) in rules {
            let action = match &rule.transform {
                Transform::Keep => match actions.last_mut() {
                    Some(Action::Copy { last, .. }) if *last + 1 == *index => {
                        *last = *index;
                        continue;
                    }
                    _ => Action::Copy { first: *index, last: *index },
                },
                Transform::Null => Action::Null { branch: rule.null_branch },
                Transform::Hash | Transform::Mask { .. } | Transform::Year => {
                    let (null, inner) = field(schema, *index);
                    Action::Change(Changed { field: *index, null, change: Change::of(rule, inner) })
                }
            };
            actions.push(action);
        }
        Self { actions, key }
    }

    /// Appends the projection of an image.
    pub fn write(&self, image: Located<'_>, out: &mut Vec<u8>) -> Result<(), Denial> {
        for action in &self.actions {
            match action {
                Action::Copy { first, last } => {
                    out.extend_from_slice(image.fields(*first, *last).ok_or(Denial::Unprojectable)?);
                }
                Action::Null { branch } => put_long(out, i64::from(*branch)),
                Action::Change(changed) => changed.write(image, &self.key, out)?,
            }
        }
        Ok(())
    }
}

impl Changed {
    // Inlined into the loop over all actions, it would take registers that copying needs.
    #[inline(never)]
    fn write(&self, image: Located<'_>, key: &AgreementKey, out: &mut Vec<u8>) -> Result<(), Denial> {
        let mut value = Cursor::new(image.field(self.field).ok_or(Denial::Unprojectable)?);
        if let Some(null) = self.null {
            let branch = value.long()?;
            put_long(out, branch);
            if branch == null {
                return Ok(());
            }
        }
        self.change.write(&mut value, key, out)
    }
}

/// The index of null in a field's union, and the union's other type; without a union, the field's own type.
fn field(schema: &AvroSchema, index: usize) -> (Option<i64>, Option<&Schema>) {
    let Schema::Record(record) = schema.parsed() else { return (None, None) };
    match record.fields.get(index).map(|field| &field.schema) {
        Some(Schema::Union(union)) => {
            let null = union.variants().iter().position(|branch| *branch == Schema::Null);
            let other = union.variants().iter().find(|branch| **branch != Schema::Null);
            (null.and_then(|index| i64::try_from(index).ok()), other)
        }
        plain => (None, plain),
    }
}

impl Change {
    fn of(rule: &FieldRule, inner: Option<&Schema>) -> Self {
        match &rule.transform {
            Transform::Mask { keep } => Self::Mask { keep: *keep },
            Transform::Year => match inner {
                Some(Schema::TimestampMillis) => Self::YearOfMillis,
                Some(Schema::TimestampMicros) => Self::YearOfMicros,
                _ => Self::YearOfDate,
            },
            _ => Self::Hash { name: rule.name.clone(), spelling: Spelling::of(inner) },
        }
    }

    fn write(&self, value: &mut Cursor<'_>, key: &AgreementKey, out: &mut Vec<u8>) -> Result<(), Denial> {
        match self {
            Self::Hash { name, spelling } => {
                put_bytes(out, key.hash(name, spelling.read(value)?.as_bytes()).as_bytes());
            }
            Self::Mask { keep } => put_bytes(out, mask(value.string()?, *keep).as_bytes()),
            Self::YearOfDate => put_long(out, i64::from(first_of_year(value.int()?))),
            Self::YearOfMillis => {
                put_long(out, instant_of_year(value.long()?.div_euclid(MILLIS_A_DAY)) * MILLIS_A_DAY);
            }
            Self::YearOfMicros => {
                put_long(out, instant_of_year(value.long()?.div_euclid(MICROS_A_DAY)) * MICROS_A_DAY);
            }
        }
        Ok(())
    }
}

impl Spelling {
    fn of(inner: Option<&Schema>) -> Self {
        match inner {
            Some(Schema::Enum(symbols)) => Self::Symbol(symbols.symbols.clone()),
            Some(Schema::Int | Schema::Long | Schema::Date) => Self::Whole,
            Some(Schema::Uuid(UuidSchema::String)) => Self::UuidText,
            Some(Schema::Uuid(UuidSchema::Bytes)) => Self::UuidBytes,
            Some(Schema::Uuid(UuidSchema::Fixed(_))) => Self::UuidRaw,
            _ => Self::Text,
        }
    }

    fn read(&self, value: &mut Cursor<'_>) -> Result<String, Denial> {
        let uuid = |bytes: &[u8]| apache_avro::Uuid::from_slice(bytes).map_err(|_| Denial::Unprojectable);
        Ok(match self {
            Self::Text => value.string()?.to_owned(),
            Self::Whole => value.long()?.to_string(),
            Self::Symbol(symbols) => {
                let index = usize::try_from(value.long()?).ok();
                index.and_then(|index| symbols.get(index)).ok_or(Denial::Unprojectable)?.clone()
            }
            Self::UuidText => {
                let text = value.string()?;
                apache_avro::Uuid::parse_str(text).map_err(|_| Denial::Unprojectable)?.to_string()
            }
            Self::UuidBytes => uuid(value.bytes()?)?.to_string(),
            Self::UuidRaw => uuid(value.take(16, "UUID")?)?.to_string(),
        })
    }
}
