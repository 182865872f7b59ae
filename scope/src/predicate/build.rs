//! From syntax to a typed predicate: every name, type and construct is judged here, once.
//!
//! Owns the subset: any other construct is refused, with its position in the text and the remedy.

use std::collections::BTreeSet;

use apache_avro::Schema;
use cel::Program;
use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};
use schemas::avro::schema::AvroSchema;
use schemas::limits;

use super::PredicateError;
use super::expression::{Comparison, Expression, FieldPath, Literal, Operand, TotalFloat};

const SUBSET: &str = "the subset has ==, !=, <, <=, >, >=, in, &&, ||, !, startsWith, has, null, strings, numbers, \
                      booleans, date(\"…\") and timestamp(\"…\")";

/// The type of a field or literal, as far as comparison goes.
#[derive(Debug, Clone, PartialEq)]
enum Type {
    Bool,
    Integer,
    Float,
    Text,
    Enum(Vec<String>),
    Date,
    Instant,
    Other(&'static str),
}

impl Type {
    fn name(&self) -> &'static str {
        match self {
            Self::Bool => "a boolean",
            Self::Integer => "a whole number",
            Self::Float => "a float",
            Self::Text => "a string",
            Self::Enum(_) => "an enum",
            Self::Date => "a date",
            Self::Instant => "a timestamp",
            Self::Other(name) => name,
        }
    }
}

enum Term {
    Field(FieldPath, Type),
    Literal(Literal, Type),
    Null,
}

/// Builds the typed predicate of a parsed text.
pub(super) fn build(
    program: &Program,
    text: &str,
    schema: &AvroSchema,
) -> Result<Expression, PredicateError> {
    let builder = Builder { program, text, schema };
    builder.boolean(program.expression(), 0)
}

struct Builder<'a> {
    program: &'a Program,
    text: &'a str,
    schema: &'a AvroSchema,
}

impl Builder<'_> {
    fn at(&self, node: &IdedExpr) -> usize {
        let offset = self.program.source_info().offset_for(node.id).map_or(0, |(start, _)| start);
        // The parser counts bytes, people count characters.
        let before = usize::try_from(offset).ok().and_then(|offset| self.text.get(..offset));
        before.map_or(0, |before| before.chars().count()) + 1
    }

    fn refuse<T>(
        &self,
        node: &IdedExpr,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Result<T, PredicateError> {
        Err(PredicateError::new(self.at(node), problem, remedy))
    }

    fn boolean(&self, node: &IdedExpr, depth: usize) -> Result<Expression, PredicateError> {
        if depth > limits::MAX_PREDICATE_DEPTH {
            return self.refuse(node, "nested too deep", "simplify the predicate");
        }
        match &node.expr {
            Expr::Call(call) => self.call(node, call, depth),
            Expr::Literal(LiteralValue::Boolean(value)) => Ok(Expression::Constant(*value.inner())),
            Expr::Select(select) if select.test => {
                let (path, _) = self.select_path(node, &select.operand, &select.field)?;
                Ok(Expression::Not(Box::new(Expression::IsNull(path))))
            }
            Expr::Ident(_) | Expr::Select(_) => match self.term(node)? {
                Term::Field(path, Type::Bool) => Ok(Expression::Field(path)),
                Term::Field(_, other) => self.refuse(
                    node,
                    format!("this is {}, not a boolean", other.name()),
                    "compare it with something",
                ),
                _ => self.refuse(node, "this is no condition", SUBSET),
            },
            _ => self.refuse(node, "this is no condition", SUBSET),
        }
    }

    fn call(&self, node: &IdedExpr, call: &CallExpr, depth: usize) -> Result<Expression, PredicateError> {
        let comparison = match call.func_name.as_str() {
            operators::EQUALS => Comparison::Equal,
            operators::NOT_EQUALS => Comparison::NotEqual,
            operators::LESS => Comparison::Less,
            operators::LESS_EQUALS => Comparison::LessOrEqual,
            operators::GREATER => Comparison::Greater,
            operators::GREATER_EQUALS => Comparison::GreaterOrEqual,
            operators::LOGICAL_AND => {
                return self.flat(node, operators::LOGICAL_AND, depth).map(Expression::And);
            }
            operators::LOGICAL_OR => {
                return self.flat(node, operators::LOGICAL_OR, depth).map(Expression::Or);
            }
            operators::LOGICAL_NOT => {
                let [inner] = call.args.as_slice() else {
                    return self.refuse(node, "! takes one condition", SUBSET);
                };
                return Ok(Expression::Not(Box::new(self.boolean(inner, depth + 1)?)));
            }
            operators::IN => return self.membership(node, call),
            "startsWith" => return self.starts_with(node, call),
            other => {
                return self.refuse(node, format!("{other:?} is not part of row predicates"), SUBSET);
            }
        };
        let [left, right] = call.args.as_slice() else {
            return self.refuse(node, "a comparison has two sides", SUBSET);
        };
        self.comparison(node, comparison, left, right)
    }

    /// The operands of a chain of one operator, without recursion along the chain.
    fn flat(&self, node: &IdedExpr, operator: &str, depth: usize) -> Result<Vec<Expression>, PredicateError> {
        let mut operands = Vec::new();
        let mut waiting = vec![node];
        while let Some(next) = waiting.pop() {
            match &next.expr {
                Expr::Call(call) if call.func_name == operator => waiting.extend(call.args.iter().rev()),
                _ => operands.push(self.boolean(next, depth + 1)?),
            }
        }
        Ok(operands)
    }

    fn comparison(
        &self,
        node: &IdedExpr,
        comparison: Comparison,
        left: &IdedExpr,
        right: &IdedExpr,
    ) -> Result<Expression, PredicateError> {
        match (self.term(left)?, self.term(right)?) {
            (Term::Field(path, _), Term::Null) | (Term::Null, Term::Field(path, _)) => match comparison {
                Comparison::Equal => Ok(Expression::IsNull(path)),
                Comparison::NotEqual => Ok(Expression::Not(Box::new(Expression::IsNull(path)))),
                _ => self.refuse(node, "null has no order", "test with == null or != null"),
            },
            (Term::Field(path, kind), Term::Literal(literal, other)) => {
                let right = Operand::Literal(self.fit(right, &kind, literal, &other)?);
                Ok(Expression::Compare { left: path, comparison, right })
            }
            (Term::Literal(literal, other), Term::Field(path, kind)) => {
                let right = Operand::Literal(self.fit(left, &kind, literal, &other)?);
                Ok(Expression::Compare { left: path, comparison: mirrored(comparison), right })
            }
            (Term::Field(path, kind), Term::Field(second, other)) => {
                if kind != other || matches!(kind, Type::Other(_) | Type::Enum(_)) {
                    let problem = format!("{} cannot be compared with {}", kind.name(), other.name());
                    return self.refuse(node, problem, "compare fields of one simple type");
                }
                Ok(Expression::Compare { left: path, comparison, right: Operand::Field(second) })
            }
            _ => self.refuse(node, "this compares no field", "compare a field with something"),
        }
    }

    fn membership(&self, node: &IdedExpr, call: &CallExpr) -> Result<Expression, PredicateError> {
        let [element, list] = call.args.as_slice() else {
            return self.refuse(node, "`in` has two sides", "write field in [\"a\", \"b\"]");
        };
        let (Term::Field(field, kind), Expr::List(list)) = (self.term(element)?, &list.expr) else {
            return self.refuse(node, "`in` takes a field and a list", "write field in [\"a\", \"b\"]");
        };
        let mut set = BTreeSet::new();
        let mut has_null = false;
        for item in &list.elements {
            match self.term(item)? {
                Term::Literal(literal, other) => {
                    set.insert(self.fit(item, &kind, literal, &other)?);
                }
                Term::Null => has_null = true,
                Term::Field(..) => {
                    return self.refuse(item, "a list has literals only", "compare fields with ==");
                }
            }
        }
        Ok(Expression::In { field, set, has_null })
    }

    fn starts_with(&self, node: &IdedExpr, call: &CallExpr) -> Result<Expression, PredicateError> {
        let remedy = "write field.startsWith(\"prefix\") on a string field";
        let (Some(target), [argument]) = (&call.target, call.args.as_slice()) else {
            return self.refuse(node, "startsWith takes one string", remedy);
        };
        match (self.term(target)?, self.term(argument)?) {
            (Term::Field(field, Type::Text), Term::Literal(Literal::Text(prefix), _)) => {
                Ok(Expression::StartsWith { field, prefix })
            }
            _ => self.refuse(node, "startsWith takes a string field and a string", remedy),
        }
    }

    fn term(&self, node: &IdedExpr) -> Result<Term, PredicateError> {
        match &node.expr {
            Expr::Ident(name) => {
                let (path, kind) = self.top_field(node, name)?;
                Ok(Term::Field(path, kind))
            }
            Expr::Select(select) if !select.test => {
                let (path, kind) = self.select_path(node, &select.operand, &select.field)?;
                Ok(Term::Field(path, kind))
            }
            Expr::Literal(literal) => self.literal(node, literal),
            Expr::Call(call) => self.constructor(node, call),
            _ => self.refuse(node, "this is neither a field nor a literal", SUBSET),
        }
    }

    fn literal(&self, node: &IdedExpr, literal: &LiteralValue) -> Result<Term, PredicateError> {
        Ok(match literal {
            LiteralValue::Null => Term::Null,
            LiteralValue::Boolean(value) => Term::Literal(Literal::Bool(*value.inner()), Type::Bool),
            LiteralValue::Int(value) => Term::Literal(Literal::Integer(*value.inner()), Type::Integer),
            LiteralValue::Double(value) => {
                Term::Literal(Literal::Float(TotalFloat(*value.inner())), Type::Float)
            }
            LiteralValue::String(value) => Term::Literal(Literal::Text(value.inner().to_owned()), Type::Text),
            LiteralValue::UInt(_) | LiteralValue::Bytes(_) => {
                return self.refuse(
                    node,
                    "unsigned numbers and bytes are not part of row predicates",
                    SUBSET,
                );
            }
        })
    }

    /// `-1`, `date("2026-01-01")`, `timestamp("2026-01-01T00:00:00Z")`.
    fn constructor(&self, node: &IdedExpr, call: &CallExpr) -> Result<Term, PredicateError> {
        let [argument] = call.args.as_slice() else {
            return self.refuse(node, format!("{:?} is not part of row predicates", call.func_name), SUBSET);
        };
        let Expr::Literal(literal) = &argument.expr else {
            return self.refuse(node, "only literals can stand here", SUBSET);
        };
        match (call.func_name.as_str(), literal) {
            (operators::NEGATE, LiteralValue::Int(value)) => {
                let value = value.inner().checked_neg().map(Literal::Integer);
                value.map_or_else(
                    || self.refuse(node, "the number is too large", "use a number of 64 bits"),
                    |value| Ok(Term::Literal(value, Type::Integer)),
                )
            }
            (operators::NEGATE, LiteralValue::Double(value)) => {
                Ok(Term::Literal(Literal::Float(TotalFloat(-*value.inner())), Type::Float))
            }
            ("date", LiteralValue::String(text)) => {
                let days = text.inner().parse::<jiff::civil::Date>().ok().and_then(days_since_epoch);
                days.map_or_else(
                    || self.refuse(argument, "this is no date", "write date(\"2026-01-31\")"),
                    |days| Ok(Term::Literal(Literal::Date(days), Type::Date)),
                )
            }
            ("timestamp", LiteralValue::String(text)) => text.inner().parse::<jiff::Timestamp>().map_or_else(
                |_| {
                    self.refuse(
                        argument,
                        "this is no timestamp",
                        "write timestamp(\"2026-01-31T00:00:00+02:00\")",
                    )
                },
                |at| Ok(Term::Literal(Literal::Instant(at.as_nanosecond()), Type::Instant)),
            ),
            (other, _) => self.refuse(node, format!("{other:?} is not part of row predicates"), SUBSET),
        }
    }

    fn top_field(&self, node: &IdedExpr, name: &str) -> Result<(FieldPath, Type), PredicateError> {
        self.field_in(node, self.schema.parsed(), name).map(|(index, schema)| {
            let kind = type_of(schema);
            (FieldPath { indexes: vec![index], name: name.to_owned() }, kind)
        })
    }

    fn select_path(
        &self,
        node: &IdedExpr,
        operand: &IdedExpr,
        field: &str,
    ) -> Result<(FieldPath, Type), PredicateError> {
        let mut names = vec![field];
        let mut inner = operand;
        let root = loop {
            match &inner.expr {
                Expr::Ident(name) => break name,
                Expr::Select(select) if !select.test => {
                    names.push(&select.field);
                    inner = &select.operand;
                }
                _ => return self.refuse(node, "only fields of fields can be selected", SUBSET),
            }
        };
        let (first, mut schema) = self.field_in(node, self.schema.parsed(), root)?;
        let mut path = FieldPath { indexes: vec![first], name: root.to_owned() };
        for name in names.into_iter().rev() {
            let (index, next) = self.field_in(node, non_null(schema), name)?;
            path.indexes.push(index);
            path.name = format!("{}.{name}", path.name);
            schema = next;
        }
        Ok((path, type_of(schema)))
    }

    fn field_in<'s>(
        &self,
        node: &IdedExpr,
        schema: &'s Schema,
        name: &str,
    ) -> Result<(usize, &'s Schema), PredicateError> {
        let Schema::Record(record) = schema else {
            return self.refuse(
                node,
                format!("{name:?} is looked for in something that is no record"),
                SUBSET,
            );
        };
        let by_name = record.fields.iter().position(|f| f.name == name);
        let index =
            by_name.or_else(|| record.fields.iter().position(|f| f.aliases.iter().any(|a| a == name)));
        match index.and_then(|i| record.fields.get(i).map(|f| (i, &f.schema))) {
            Some(found) => Ok(found),
            None => {
                let names: Vec<_> = record.fields.iter().map(|f| f.name.as_str()).take(40).collect();
                self.refuse(
                    node,
                    format!("there is no field {name:?}"),
                    format!("the fields are {}", names.join(", ")),
                )
            }
        }
    }

    /// The literal as a value of the field's type, or a refusal: nothing is guessed.
    fn fit(
        &self,
        node: &IdedExpr,
        kind: &Type,
        literal: Literal,
        literal_kind: &Type,
    ) -> Result<Literal, PredicateError> {
        match (kind, &literal) {
            (Type::Enum(symbols), Literal::Text(text)) if symbols.contains(text) => Ok(literal),
            (Type::Enum(symbols), Literal::Text(text)) => self.refuse(
                node,
                format!("the enum has no symbol {text:?}"),
                format!("it has {}", symbols.join(", ")),
            ),
            (Type::Other(name), _) => {
                self.refuse(node, format!("the field is {name}"), "use a field of a simple type")
            }
            _ if kind == literal_kind => Ok(literal),
            _ => {
                let problem = format!("the field is {}, this is {}", kind.name(), literal_kind.name());
                let remedy = match (kind, literal_kind) {
                    (Type::Date, Type::Text) => "write date(\"…\")",
                    (Type::Instant, Type::Text) => "write timestamp(\"…\")",
                    (Type::Float, Type::Integer) => "write the number with a decimal point",
                    _ => "compare with a value of the field's own type",
                };
                self.refuse(node, problem, remedy)
            }
        }
    }
}

const fn mirrored(comparison: Comparison) -> Comparison {
    match comparison {
        Comparison::Less => Comparison::Greater,
        Comparison::LessOrEqual => Comparison::GreaterOrEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterOrEqual => Comparison::LessOrEqual,
        same => same,
    }
}

fn days_since_epoch(date: jiff::civil::Date) -> Option<i32> {
    let span = date.since((jiff::Unit::Day, jiff::civil::date(1970, 1, 1))).ok()?;
    Some(span.get_days())
}

/// The only branch other than null of a nullable union; any other schema as it is.
fn non_null(schema: &Schema) -> &Schema {
    if let Schema::Union(union) = schema {
        let mut others = union.variants().iter().filter(|v| !matches!(v, Schema::Null));
        if let (Some(only), None) = (others.next(), others.next()) {
            return only;
        }
    }
    schema
}

fn type_of(schema: &Schema) -> Type {
    match non_null(schema) {
        Schema::Boolean => Type::Bool,
        Schema::Int | Schema::Long => Type::Integer,
        Schema::Float | Schema::Double => Type::Float,
        Schema::String | Schema::Uuid(apache_avro::schema::UuidSchema::String) => Type::Text,
        Schema::Enum(symbols) => Type::Enum(symbols.symbols.clone()),
        Schema::Date => Type::Date,
        Schema::TimestampMillis | Schema::TimestampMicros | Schema::TimestampNanos => Type::Instant,
        Schema::Union(_) => Type::Other("a union of several types"),
        Schema::Record(_) => Type::Other("a record"),
        Schema::Array(_) | Schema::Map(_) => Type::Other("a collection"),
        Schema::Ref { .. } => Type::Other("a reference to a type defined elsewhere"),
        _ => Type::Other("of a type that row predicates do not compare"),
    }
}
