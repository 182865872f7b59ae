//! A schema as a flat table of nodes, to walk a datum's bytes without building values.
//!
//! Owns validation of a datum and the extent of its parts. Never allocates by a size that a datum claims.

use std::collections::HashMap;
use std::ops::Range;

use apache_avro::schema::Name;
use apache_avro::{Schema, Uuid};

use super::binary::{Cursor, DatumError};
use crate::limits;

/// A node's index in its layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(pub(super) usize);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Raw(usize),
    Bytes,
    String,
    /// Text that is a UUID.
    UuidText,
    /// Sixteen bytes, after their length.
    UuidBytes,
    /// A number as bytes, at least one.
    Decimal,
    /// A number and its scale, in bytes.
    BigDecimal,
    Enum(usize),
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record(Vec<NodeId>),
}

/// A field's type, as far as the quick walk knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quick {
    Text,
    Bytes,
    Int,
    Long,
    Boolean,
    Raw(usize),
    Enum(u64),
    /// A union of null and text, with the index of null.
    OptionalText(u8),
    /// A union of null and a long, with the index of null.
    OptionalLong(u8),
    OptionalInt(u8),
    Other(NodeId),
}

/// How the bytes of one schema's datums are laid out.
#[derive(Debug, Clone)]
pub struct Layout {
    nodes: Vec<Node>,
    root: NodeId,
    quick: Vec<Quick>,
}

impl Layout {
    /// The layout of a parsed schema. `None` when it refers to a name that it does not define.
    pub fn of(schema: &Schema) -> Option<Self> {
        let mut builder = Builder { nodes: Vec::new(), named: HashMap::new() };
        let root = builder.add(schema)?;
        let nodes = builder.nodes;
        let quick = parts(&nodes, &root).iter().map(|field| Quick::of(&nodes, *field)).collect();
        Some(Self { nodes, root, quick })
    }

    /// Checks that `bytes` are exactly one datum.
    pub fn validate(&self, bytes: &[u8]) -> Result<(), DatumError> {
        let mut cursor = Cursor::new(bytes);
        self.skip(&mut cursor)?;
        cursor.end()
    }

    /// Moves past one datum, checking it.
    pub fn skip(&self, cursor: &mut Cursor<'_>) -> Result<(), DatumError> {
        Walk::of(self).skip(cursor, self.root, 0)
    }

    /// The range of each top-level field of a record's datum. The datum of another schema is one range.
    pub fn fields(&self, bytes: &[u8]) -> Result<Vec<Range<usize>>, DatumError> {
        let ends = self.ends(bytes)?;
        let starts = std::iter::once(0).chain(ends.iter().copied());
        Ok(starts.zip(&ends).map(|(start, end)| start..*end).collect())
    }

    /// Where each range of [`Layout::fields`] ends; it begins where the one before ends.
    pub fn ends(&self, bytes: &[u8]) -> Result<Vec<usize>, DatumError> {
        let mut cursor = Cursor::new(bytes);
        let ends = self.pass(&mut cursor)?;
        cursor.end()?;
        Ok(ends)
    }

    /// Moves past a datum; the offsets where its parts end.
    pub(super) fn pass(&self, cursor: &mut Cursor<'_>) -> Result<Vec<usize>, DatumError> {
        let mut walk = Walk::of(self);
        let parts = parts(&self.nodes, &self.root).iter();
        parts.map(|node| walk.skip(cursor, *node, 1).map(|()| cursor.at())).collect()
    }

    /// The parts of [`Layout::fields`] for the quick walk.
    pub(super) fn quick(&self) -> &[Quick] {
        &self.quick
    }

    pub(super) const fn root(&self) -> NodeId {
        self.root
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(id.0).unwrap_or(&Node::Null)
    }
}

/// A record's fields; anything else is one part.
fn parts<'n>(nodes: &'n [Node], root: &'n NodeId) -> &'n [NodeId] {
    match nodes.get(root.0) {
        Some(Node::Record(fields)) => fields,
        _ => std::slice::from_ref(root),
    }
}

impl Quick {
    fn of(nodes: &[Node], id: NodeId) -> Self {
        let node = |id: NodeId| nodes.get(id.0);
        match node(id) {
            Some(Node::String) => Self::Text,
            Some(Node::Bytes) => Self::Bytes,
            Some(Node::Int) => Self::Int,
            Some(Node::Long) => Self::Long,
            Some(Node::Boolean) => Self::Boolean,
            Some(Node::Raw(size)) => Self::Raw(*size),
            Some(Node::Enum(symbols)) => Self::Enum(u64::try_from(*symbols).unwrap_or(0)),
            Some(Node::Union(branches)) => {
                let (null, other) = match branches.as_slice() {
                    [null, other] if node(*null) == Some(&Node::Null) => (0, *other),
                    [other, null] if node(*null) == Some(&Node::Null) => (1, *other),
                    _ => return Self::Other(id),
                };
                match node(other) {
                    Some(Node::String) => Self::OptionalText(null),
                    Some(Node::Long) => Self::OptionalLong(null),
                    Some(Node::Int) => Self::OptionalInt(null),
                    _ => Self::Other(id),
                }
            }
            _ => Self::Other(id),
        }
    }
}

struct Builder {
    nodes: Vec<Node>,
    named: HashMap<Name, NodeId>,
}

impl Builder {
    fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() - 1)
    }

    fn named(&mut self, name: &Name, node: Node) -> NodeId {
        let id = self.push(node);
        self.named.insert(name.clone(), id);
        id
    }

    fn add(&mut self, schema: &Schema) -> Option<NodeId> {
        Some(match schema {
            Schema::Null => self.push(Node::Null),
            Schema::Boolean => self.push(Node::Boolean),
            Schema::Int | Schema::Date | Schema::TimeMillis => self.push(Node::Int),
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => self.push(Node::Long),
            Schema::Float => self.push(Node::Raw(4)),
            Schema::Double => self.push(Node::Raw(8)),
            Schema::Bytes => self.push(Node::Bytes),
            Schema::BigDecimal => self.push(Node::BigDecimal),
            Schema::String => self.push(Node::String),
            Schema::Fixed(fixed) | Schema::Duration(fixed) => self.named(&fixed.name, Node::Raw(fixed.size)),
            Schema::Decimal(decimal) => match &decimal.inner {
                apache_avro::schema::InnerDecimalSchema::Bytes => self.push(Node::Decimal),
                apache_avro::schema::InnerDecimalSchema::Fixed(fixed) => {
                    self.named(&fixed.name, Node::Raw(fixed.size))
                }
            },
            Schema::Uuid(uuid) => match uuid {
                apache_avro::schema::UuidSchema::Bytes => self.push(Node::UuidBytes),
                apache_avro::schema::UuidSchema::String => self.push(Node::UuidText),
                apache_avro::schema::UuidSchema::Fixed(fixed) => {
                    self.named(&fixed.name, Node::Raw(fixed.size))
                }
            },
            Schema::Enum(symbols) => self.named(&symbols.name, Node::Enum(symbols.symbols.len())),
            Schema::Array(array) => {
                let items = self.add(&array.items)?;
                self.push(Node::Array(items))
            }
            Schema::Map(map) => {
                let values = self.add(&map.types)?;
                self.push(Node::Map(values))
            }
            Schema::Union(union) => {
                let branches = union.variants().iter().map(|s| self.add(s)).collect::<Option<_>>()?;
                self.push(Node::Union(branches))
            }
            Schema::Record(record) => {
                // The id must exist before the fields: a record may contain itself.
                let id = self.named(&record.name, Node::Null);
                let fields = record.fields.iter().map(|f| self.add(&f.schema)).collect::<Option<_>>()?;
                *self.nodes.get_mut(id.0)? = Node::Record(fields);
                id
            }
            Schema::Ref { name } => *self.named.get(name)?,
        })
    }
}

/// A walk over one datum.
pub(super) struct Walk<'l> {
    layout: &'l Layout,
    empty_items: u64,
}

impl<'l> Walk<'l> {
    pub(super) const fn of(layout: &'l Layout) -> Self {
        Self { layout, empty_items: 0 }
    }

    pub(super) fn skip(
        &mut self,
        cursor: &mut Cursor<'_>,
        node: NodeId,
        depth: usize,
    ) -> Result<(), DatumError> {
        let at = cursor.at();
        if depth > limits::MAX_DATUM_DEPTH {
            return Err(DatumError::Invalid { at, what: "the datum is nested too deep" });
        }
        let layout = self.layout;
        match layout.node(node) {
            Node::Null => Ok(()),
            Node::Boolean => match cursor.byte("boolean")? {
                0 | 1 => Ok(()),
                _ => Err(DatumError::Invalid { at, what: "a boolean is neither 0 nor 1" }),
            },
            Node::Int => cursor.int().map(drop),
            Node::Long => cursor.long().map(drop),
            Node::Raw(size) => cursor.take(*size, "value of fixed size").map(drop),
            Node::Bytes => cursor.bytes().map(drop),
            Node::String => cursor.string().map(drop),
            Node::UuidText => match Uuid::parse_str(cursor.string()?) {
                Ok(_) => Ok(()),
                Err(_) => Err(DatumError::Invalid { at, what: "a text is no UUID" }),
            },
            Node::UuidBytes => match cursor.bytes()?.len() {
                16 => Ok(()),
                _ => Err(DatumError::Invalid { at, what: "a UUID has not 16 bytes" }),
            },
            Node::Decimal => match cursor.bytes()? {
                [] => Err(DatumError::Invalid { at, what: "a decimal has no digits" }),
                _ => Ok(()),
            },
            Node::BigDecimal => {
                let mut inner = Cursor::new(cursor.bytes()?);
                let digits = inner.bytes().map(<[u8]>::is_empty);
                match digits.and_then(|is_none| inner.long().and_then(|_| inner.end()).map(|()| is_none)) {
                    Ok(false) => Ok(()),
                    _ => Err(DatumError::Invalid { at, what: "a decimal is no number and scale" }),
                }
            }
            Node::Enum(symbols) => match usize::try_from(cursor.long()?) {
                Ok(index) if index < *symbols => Ok(()),
                _ => Err(DatumError::Invalid { at, what: "an enum has no such symbol" }),
            },
            Node::Array(items) => self.skip_blocks(cursor, false, *items, depth),
            Node::Map(values) => self.skip_blocks(cursor, true, *values, depth),
            Node::Union(branches) => {
                let index = usize::try_from(cursor.long()?).ok();
                let branch = index.and_then(|i| branches.get(i));
                let branch = branch.ok_or(DatumError::Invalid { at, what: "a union has no such branch" })?;
                self.skip(cursor, *branch, depth + 1)
            }
            Node::Record(fields) => {
                for field in fields {
                    self.skip(cursor, *field, depth + 1)?;
                }
                Ok(())
            }
        }
    }

    fn skip_blocks(
        &mut self,
        cursor: &mut Cursor<'_>,
        keyed: bool,
        item: NodeId,
        depth: usize,
    ) -> Result<(), DatumError> {
        loop {
            let at = cursor.at();
            let count = cursor.long()?;
            if count == 0 {
                return Ok(());
            }
            let sized = if count < 0 { Some(cursor.length()?) } else { None };
            let start = cursor.at();
            for _ in 0..count.unsigned_abs() {
                let before = cursor.at();
                if keyed {
                    cursor.string()?;
                }
                self.skip(cursor, item, depth + 1)?;
                if cursor.at() == before {
                    self.empty_items += 1;
                    if self.empty_items > limits::MAX_EMPTY_ITEMS {
                        return Err(DatumError::Invalid { at, what: "too many items without bytes" });
                    }
                }
            }
            if sized.is_some_and(|size| size != cursor.at() - start) {
                return Err(DatumError::Invalid { at, what: "a block's size is not the size of its items" });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(text: &str) -> Layout {
        let schema = Schema::parse_str(text).unwrap_or_else(|e| panic!("{e}"));
        Layout::of(&schema).unwrap_or_else(|| panic!("no layout"))
    }

    #[test]
    fn a_recursive_record_is_walked_and_its_depth_is_bounded() {
        let list = layout(r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#);
        assert_eq!(list.validate(&[2, 2, 0]), Ok(()));
        let deep = vec![2; 100_000];
        assert!(matches!(list.validate(&deep), Err(DatumError::Invalid { .. })));
    }

    #[test]
    fn a_count_without_bytes_buys_no_work() {
        let nulls = layout(r#"{"type":"array","items":"null"}"#);
        let mut bytes = Vec::new();
        super::super::binary::put_long(&mut bytes, i64::MAX);
        bytes.push(0);
        assert!(matches!(nulls.validate(&bytes), Err(DatumError::Invalid { .. })));
    }

    #[test]
    fn a_decimal_has_digits() {
        let decimal = layout(r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#);
        assert_eq!(decimal.validate(&[2, 5]), Ok(()));
        assert!(matches!(decimal.validate(&[0]), Err(DatumError::Invalid { .. })));
    }

    #[test]
    fn sized_blocks_must_tell_the_truth() {
        let ints = layout(r#"{"type":"array","items":"int"}"#);
        assert_eq!(ints.validate(&[3, 4, 2, 4, 0]), Ok(()));
        assert!(matches!(ints.validate(&[3, 6, 2, 4, 0]), Err(DatumError::Invalid { .. })));
    }

    #[test]
    fn fields_are_found_and_trailing_bytes_refused() {
        let record = layout(
            r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"},{"name":"b","type":"long"}]}"#,
        );
        assert_eq!(record.fields(&[4, b'h', b'i', 2]), Ok(vec![0..3, 3..4]));
        assert!(matches!(record.fields(&[4, b'h', b'i', 2, 0]), Err(DatumError::Trailing { .. })));
    }
}
