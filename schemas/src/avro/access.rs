//! The path to one value inside a datum: a field, or a field of a field, through unions with null.
//!
//! Owns the search in bytes. It reads only what is before the value, and never interprets the value.

use super::binary::{Cursor, DatumError};
use super::layout::{Layout, Node, NodeId, Walk};
use super::located::Located;
use super::schema::AvroSchema;

/// The path to a value in datums of one schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    schema: AvroSchema,
    top: usize,
    entry: Entry,
    hops: Vec<Hop>,
}

/// How a field's value is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// Directly.
    Plain,
    /// There is never a value.
    Null,
    /// After a branch's index; `null` is the index of null, if it is a branch.
    Union { null: Option<usize> },
}

/// From a record to one of its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hop {
    /// The fields before it.
    before: Vec<NodeId>,
    entry: Entry,
}

impl Access {
    /// The path by the indexes of fields, outermost first. `None` where the schema has no such fields, or where the
    /// path leads through a union of more than null and one record.
    pub fn new(schema: &AvroSchema, path: &[usize]) -> Option<Self> {
        let layout = schema.layout();
        let (top, rest) = path.split_first()?;
        let Node::Record(fields) = layout.node(layout.root()) else { return None };
        let mut id = *fields.get(*top)?;
        let entry = Entry::of(layout, id);
        let mut hops = Vec::with_capacity(rest.len());
        for index in rest {
            let Node::Record(fields) = layout.node(inside(layout, id)?) else { return None };
            let before = fields.get(..*index)?.to_vec();
            id = *fields.get(*index)?;
            hops.push(Hop { before, entry: Entry::of(layout, id) });
        }
        Some(Self { schema: schema.clone(), top: *top, entry, hops })
    }

    /// The index of the top-level field that it begins in.
    pub const fn top(&self) -> usize {
        self.top
    }

    /// A cursor at the value in a datum of the schema, after its union's index. `None` where it, or a record around it,
    /// is null.
    pub fn find<'a>(&self, located: Located<'a>) -> Result<Option<Cursor<'a>>, DatumError> {
        let field =
            located.field(self.top).ok_or(DatumError::Invalid { at: 0, what: "a field is missing" })?;
        let mut cursor = Cursor::new(field);
        if !self.entry.enter(&mut cursor)? {
            return Ok(None);
        }
        for hop in &self.hops {
            let mut walk = Walk::of(self.schema.layout());
            for node in &hop.before {
                walk.skip(&mut cursor, *node, 1)?;
            }
            if !hop.entry.enter(&mut cursor)? {
                return Ok(None);
            }
        }
        Ok(Some(cursor))
    }
}

impl Entry {
    fn of(layout: &Layout, id: NodeId) -> Self {
        match layout.node(id) {
            Node::Union(branches) => {
                let null = branches.iter().position(|branch| *layout.node(*branch) == Node::Null);
                Self::Union { null }
            }
            Node::Null => Self::Null,
            _ => Self::Plain,
        }
    }

    /// Moves to the value; `false` where there is none.
    fn enter(self, cursor: &mut Cursor<'_>) -> Result<bool, DatumError> {
        match self {
            Self::Plain => Ok(true),
            Self::Null => Ok(false),
            Self::Union { null } => {
                let branch = usize::try_from(cursor.long()?).ok();
                Ok(branch.is_none() || branch != null)
            }
        }
    }
}

/// The node itself, or the only branch other than null.
fn inside(layout: &Layout, id: NodeId) -> Option<NodeId> {
    let Node::Union(branches) = layout.node(id) else { return Some(id) };
    let mut others = branches.iter().filter(|branch| *layout.node(**branch) != Node::Null);
    let only = *others.next()?;
    others.next().is_none().then_some(only)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::located::Ends;

    #[test]
    fn a_value_is_found_through_records_and_nulls() {
        let schema = AvroSchema::parse(
            r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"},
                {"name":"b","type":["null",{"type":"record","name":"B","fields":[
                    {"name":"c","type":"string"},{"name":"d","type":["long","null"]}]}]}]}"#,
        )
        .unwrap();
        let access = |path: &[usize]| Access::new(&schema, path);
        let find = |path: &[usize], bytes: &[u8]| {
            let mut ends = Ends::default();
            let located = ends.locate(schema.layout(), bytes).unwrap();
            access(path).unwrap().find(located).unwrap().map(|mut cursor| cursor.long().unwrap())
        };
        assert_eq!(find(&[1, 1], &[2, b'x', 2, 2, b'y', 0, 14]), Some(7));
        assert_eq!(find(&[1, 1], &[2, b'x', 2, 2, b'y', 2]), None);
        assert_eq!(find(&[1, 1], &[2, b'x', 0]), None);
        for nowhere in [&[2][..], &[0, 0], &[1, 2], &[]] {
            assert_eq!(access(nowhere), None, "{nowhere:?}");
        }
    }
}
