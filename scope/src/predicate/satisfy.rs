//! Whether any image can make a predicate true: for a lint, which must never give a false alarm.
//!
//! Owns the cases of a predicate, and the conditions of each case on each field. It says "cannot" only where that is
//! proven; whatever it cannot analyse counts as possible.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use apache_avro::Schema;
use schemas::avro::schema::AvroSchema;

use super::expression::{Comparison, Expression, FieldPath, Literal, Operand, Predicate};
use super::value::{beside_null, leaf};

mod domain;

use domain::{Ask, Domain};

/// A predicate with more cases is not analysed.
const MOST_CASES: usize = 4_096;
/// The most cases that are made for one question. With this bound, 200 alternatives over 12 fields that may be null
/// take a third of a second to lint; without it, 40 of them took more than 40 s.
const MOST_WORK: usize = 65_536;

/// A clause without which the predicate permits the same rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superfluous {
    pub clause: String,
    pub why: Why,
}

/// Why a clause changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// One of clauses that must all hold: it holds on every row.
    Always,
    /// An alternative: no row can match it.
    Never,
    /// One of clauses that must all hold: where the others hold, it holds.
    AskedForAlready,
    /// An alternative: the others match all its rows.
    HadAlready,
}

impl Predicate {
    /// Whether it is proven that no row of this schema matches.
    pub fn is_never(&self, schema: &AvroSchema) -> bool {
        Ground::new(schema).is_impossible(&[(&self.root, Want::True)])
    }

    /// Whether it is proven that every row of this schema matches.
    pub fn is_always(&self, schema: &AvroSchema) -> bool {
        Ground::new(schema).is_impossible(&[(&self.root, Want::NotTrue)])
    }

    /// Whether it is only `true` or `false`: it names no field.
    pub const fn is_constant(&self) -> bool {
        matches!(self.root, Expression::Constant(_))
    }

    /// Its clauses that change nothing.
    pub fn superfluous(&self, schema: &AvroSchema) -> Vec<Superfluous> {
        let mut found = Vec::new();
        Ground::new(schema).superfluous(&self.root, &mut found);
        found
    }
}

/// The truth that is wanted of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    True,
    NotTrue,
    False,
    NotFalse,
}

impl Want {
    /// The truth that the inner expression needs, so that its negation has this one.
    const fn negated(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::NotTrue => Self::NotFalse,
            Self::NotFalse => Self::NotTrue,
        }
    }
}

/// All conditions on each field, by the field's name.
type Case = BTreeMap<String, Domain>;

/// The schema of one question, with a bound on the work.
struct Ground<'s> {
    schema: &'s AvroSchema,
    /// How many cases may still be made.
    work: Cell<usize>,
}

impl<'s> Ground<'s> {
    const fn new(schema: &'s AvroSchema) -> Self {
        Self { schema, work: Cell::new(MOST_WORK) }
    }

    /// Whether no image gives every expression the truth that is wanted of it.
    fn is_impossible(&self, wanted: &[(&Expression, Want)]) -> bool {
        let mut cases = vec![Case::new()];
        for (expression, want) in wanted {
            match self.narrowed(cases, expression, *want) {
                Some(left) => cases = left,
                None => return false,
            }
        }
        cases.is_empty()
    }

    fn superfluous(&self, expression: &Expression, found: &mut Vec<Superfluous>) {
        let (operands, is_alternative) = match expression {
            Expression::And(operands) => (operands, false),
            Expression::Or(operands) => (operands, true),
            _ => return,
        };
        let mut left: Vec<&Expression> = operands.iter().collect();
        // Of two equal clauses, the later one is superfluous.
        for operand in operands.iter().rev() {
            let others = || left.iter().copied().filter(|other| !std::ptr::eq(*other, operand));
            let (of_others, of_it, by_itself, by_others) = match is_alternative {
                true => (Want::NotTrue, Want::True, Why::Never, Why::HadAlready),
                false => (Want::True, Want::NotTrue, Why::Always, Why::AskedForAlready),
            };
            let mut wanted = vec![(operand, of_it)];
            let is_so_by_itself = self.is_impossible(&wanted);
            wanted.extend(others().map(|other| (other, of_others)));
            if left.len() > 1 && (is_so_by_itself || self.is_impossible(&wanted)) {
                let why = if is_so_by_itself { by_itself } else { by_others };
                found.push(Superfluous { clause: operand.to_string(), why });
                left.retain(|other| !std::ptr::eq(*other, operand));
            } else {
                self.superfluous(operand, found);
            }
        }
    }

    /// The cases that remain when an expression must have this truth, too; `None` when they are too many.
    fn narrowed(&self, cases: Vec<Case>, expression: &Expression, want: Want) -> Option<Vec<Case>> {
        match (expression, want) {
            (Expression::Not(inner), want) => self.narrowed(cases, inner, want.negated()),
            (Expression::And(operands), Want::True | Want::NotFalse)
            | (Expression::Or(operands), Want::False | Want::NotTrue) => {
                operands.iter().try_fold(cases, |cases, operand| self.narrowed(cases, operand, want))
            }
            (Expression::And(operands) | Expression::Or(operands), want) => {
                let mut any = Vec::new();
                for operand in operands {
                    any.extend(self.narrowed(cases.clone(), operand, want)?);
                    if any.len() > MOST_CASES {
                        return None;
                    }
                }
                Some(any)
            }
            (single, want) => {
                let ways = self.ways(single, want);
                let left = self.work.get().checked_sub(cases.len() * ways.len())?;
                self.work.set(left);
                let each = cases.iter().flat_map(|case| ways.iter().filter_map(|way| joined(case, way)));
                let left: Vec<Case> = each.take(MOST_CASES + 1).collect();
                (left.len() <= MOST_CASES).then_some(left)
            }
        }
    }

    /// The ways in which a single test has the wanted truth: each is a condition on one field, or no condition.
    fn ways(&self, single: &Expression, want: Want) -> Vec<Option<(String, Domain)>> {
        let (field, holds) = match single {
            Expression::Constant(constant) => {
                let is_so = *constant == matches!(want, Want::True | Want::NotFalse);
                return if is_so { vec![None] } else { Vec::new() };
            }
            Expression::IsNull(field) => {
                let is_null = matches!(want, Want::True | Want::NotFalse);
                return vec![Some(self.asking(field, Ask::Null(is_null)))];
            }
            Expression::Compare { right: Operand::Field(_), .. } => {
                // Two fields at once: all that is known is that one test cannot have two truths.
                let (is_true, is_false, is_unknown) = match want {
                    Want::True => (true, false, false),
                    Want::NotTrue => (false, true, true),
                    Want::False => (false, true, false),
                    Want::NotFalse => (true, false, true),
                };
                let domain = Domain::of_test(is_true, is_false, is_unknown);
                return vec![Some((single.to_string(), domain))];
            }
            Expression::Compare { left, comparison, right: Operand::Literal(right) } => {
                (left, Ask::Stands(*comparison, right.clone()))
            }
            Expression::Field(field) => (field, Ask::In(BTreeSet::from([Literal::Bool(true)]), true)),
            Expression::In { field, set, .. } => (field, Ask::In(set.clone(), true)),
            Expression::StartsWith { field, prefix } => (field, Ask::Prefix(prefix.clone(), true)),
            Expression::And(_) | Expression::Or(_) | Expression::Not(_) => return vec![None],
        };
        let null = || Some(self.asking(field, Ask::Null(true)));
        let value = |ask: Ask| Some(self.asking(field, ask));
        let is_never_false = matches!(single, Expression::In { has_null: true, .. });
        match want {
            Want::True => vec![value(holds)],
            Want::False if is_never_false => Vec::new(),
            Want::False => vec![value(holds.opposite())],
            Want::NotTrue => vec![null(), value(holds.opposite())],
            Want::NotFalse if is_never_false => vec![None],
            Want::NotFalse => vec![null(), value(holds)],
        }
    }

    fn asking(&self, field: &FieldPath, ask: Ask) -> (String, Domain) {
        let universe = match leaf(self.schema, field) {
            Some(Schema::Boolean) => Some([true, false].map(Literal::Bool).into()),
            Some(Schema::Enum(symbols)) => {
                Some(symbols.symbols.iter().map(|symbol| Literal::Text(symbol.clone())).collect())
            }
            _ => None,
        };
        (field.name.clone(), Domain::of_field(self.may_be_null(field), universe, ask))
    }

    /// Whether the field, or a record around it, may be null.
    fn may_be_null(&self, field: &FieldPath) -> bool {
        let mut schema = Some(self.schema.parsed());
        for index in &field.indexes {
            let Some(Schema::Record(record)) = schema.map(beside_null) else { return true };
            schema = record.fields.get(*index).map(|field| &field.schema);
            let is_union = |schema: &Schema| matches!(schema, Schema::Union(_) | Schema::Null);
            if schema.is_none_or(is_union) {
                return true;
            }
        }
        false
    }
}

/// The case with one more condition; `None` where no image can meet it.
fn joined(case: &Case, way: &Option<(String, Domain)>) -> Option<Case> {
    let mut case = case.clone();
    let Some((field, domain)) = way else { return Some(case) };
    let whole = match case.remove(field) {
        Some(known) => known.and(domain.clone()),
        None => domain.clone(),
    };
    if !whole.is_possible() {
        return None;
    }
    case.insert(field.clone(), whole);
    Some(case)
}

impl Comparison {
    /// The comparison that holds of two values where this one does not.
    const fn opposite(self) -> Self {
        match self {
            Self::Equal => Self::NotEqual,
            Self::NotEqual => Self::Equal,
            Self::Less => Self::GreaterOrEqual,
            Self::LessOrEqual => Self::Greater,
            Self::Greater => Self::LessOrEqual,
            Self::GreaterOrEqual => Self::Less,
        }
    }
}

#[cfg(test)]
mod tests;
