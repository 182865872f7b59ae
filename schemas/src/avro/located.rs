//! Where the fields of a record's datum lie: found once for each image, and used by every scope that judges it.
//!
//! Owns the quick walk over the types of fields that most registers have. It leaves other types, and every error, to
//! the layout's own walk, which says where and why. It checks all that the layout's walk checks.

use super::binary::{Cursor, DatumError};
use super::layout::{Layout, Quick, Walk};
use super::texts::Texts;

/// The end of each top-level field of one datum, in its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ends(Vec<u32>);

/// A datum that was checked, and where its fields lie.
#[derive(Debug, Clone, Copy)]
pub struct Located<'a> {
    bytes: &'a [u8],
    ends: &'a [u32],
}

impl Ends {
    /// Finds the fields of a datum and checks all of it. Replaces what was found before.
    #[inline]
    pub fn locate<'a>(&'a mut self, layout: &Layout, bytes: &'a [u8]) -> Result<Located<'a>, DatumError> {
        let mut cursor = Cursor::new(bytes);
        self.pass(layout, &mut cursor)?;
        cursor.end()?;
        Ok(Located { bytes, ends: &self.0 })
    }

    /// Like `locate`, for a datum that others may follow: moves past it.
    #[inline]
    pub fn pass(&mut self, layout: &Layout, cursor: &mut Cursor<'_>) -> Result<(), DatumError> {
        self.0.clear();
        pass(layout, cursor, &mut self.0)
    }

    /// The datum again. `bytes` must be those that were located: in other bytes the fields lie elsewhere.
    #[inline]
    pub fn of<'a>(&'a self, bytes: &'a [u8]) -> Located<'a> {
        Located { bytes, ends: &self.0 }
    }
}

/// Moves past a datum and adds its fields' ends, counted from its beginning, to those of others.
#[inline]
pub(crate) fn pass(layout: &Layout, cursor: &mut Cursor<'_>, ends: &mut Vec<u32>) -> Result<(), DatumError> {
    let start = cursor.at();
    let first = ends.len();
    ends.resize(first + layout.quick().len(), 0);
    if let Some(length) = quick(layout, cursor.rest(), ends.get_mut(first..).unwrap_or_default()) {
        return cursor.take(length, "datum").map(drop);
    }
    ends.truncate(first);
    for end in layout.pass(cursor)? {
        let end = u32::try_from(end - start);
        let too_long = |_| DatumError::Invalid { at: start, what: "a datum is longer than 4 GiB" };
        ends.push(end.map_err(too_long)?);
    }
    Ok(())
}

impl<'a> Located<'a> {
    /// Of bytes and the ends that were found in them.
    #[inline]
    pub(crate) const fn of(bytes: &'a [u8], ends: &'a [u32]) -> Self {
        Self { bytes, ends }
    }

    /// A field's bytes; none where there is no such field.
    pub fn field(self, index: usize) -> Option<&'a [u8]> {
        self.fields(index, index)
    }

    /// The bytes of adjacent fields, the last one included.
    #[inline]
    pub fn fields(self, first: usize, last: usize) -> Option<&'a [u8]> {
        let start = match first.checked_sub(1) {
            None => 0,
            Some(before) => *self.ends.get(before)?,
        };
        let end = *self.ends.get(last)?;
        self.bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    pub const fn bytes(self) -> &'a [u8] {
        self.bytes
    }
}

/// The datum's length, where it is valid and all its fields were found.
fn quick(layout: &Layout, bytes: &[u8], ends: &mut [u32]) -> Option<usize> {
    let mut walk = Walk::of(layout);
    let mut at = 0;
    let mut texts = Texts::new(bytes);
    for (field, found) in layout.quick().iter().zip(ends.iter_mut()) {
        let end = match *field {
            Quick::Text => text(&mut texts, bytes, at, 1),
            Quick::Bytes => counted(bytes, at).map(|(_, end)| end),
            Quick::Int => int(bytes, at),
            Quick::Long => long(bytes, at),
            Quick::Boolean => bytes.get(at).filter(|byte| **byte < 2).map(|_| at + 1),
            Quick::Raw(size) => at.checked_add(size).filter(|end| *end <= bytes.len()),
            Quick::Enum(symbols) => {
                varint(bytes, at).filter(|(raw, _)| raw & 1 == 0 && raw >> 1 < symbols).map(|(_, end)| end)
            }
            Quick::OptionalText(null) => {
                optional(bytes, at, null, |bytes, at| text(&mut texts, bytes, at, 2))
            }
            Quick::OptionalLong(null) => optional(bytes, at, null, long),
            Quick::OptionalInt(null) => optional(bytes, at, null, int),
            Quick::Other(node) => {
                let mut cursor = Cursor::starting_at(bytes, at);
                walk.skip(&mut cursor, node, 1).is_ok().then(|| cursor.at())
            }
        };
        at = end?;
        *found = u32::try_from(at).ok()?;
    }
    texts.are_right().then_some(at)
}

#[inline]
fn optional(
    bytes: &[u8],
    at: usize,
    null: u8,
    value: impl FnOnce(&[u8], usize) -> Option<usize>,
) -> Option<usize> {
    // A branch's index is a zig-zag number: 0 is 0, 1 is 2.
    match *bytes.get(at)? {
        branch if branch == null * 2 => Some(at + 1),
        0 | 2 => value(bytes, at + 1),
        _ => None,
    }
}

/// A number as it is written, and where it ends.
#[inline]
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 { Some((u64::from(first), at + 1)) } else { long_varint(bytes, at) }
}

fn long_varint(bytes: &[u8], mut at: usize) -> Option<(u64, usize)> {
    let mut raw = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(at)?;
        at += 1;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        raw |= bits << shift;
        if byte < 0x80 {
            return Some((raw, at));
        }
    }
    None
}

#[inline]
fn long(bytes: &[u8], at: usize) -> Option<usize> {
    varint(bytes, at).map(|(_, end)| end)
}

#[inline]
fn int(bytes: &[u8], at: usize) -> Option<usize> {
    varint(bytes, at).filter(|(raw, _)| *raw <= u64::from(u32::MAX)).map(|(_, end)| end)
}

/// Where length-prefixed bytes begin and end.
#[inline]
fn counted(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let (raw, start) = varint(bytes, at)?;
    if raw & 1 == 1 {
        return None;
    }
    let end = start.checked_add(usize::try_from(raw >> 1).ok()?)?;
    (end <= bytes.len()).then_some((start, end))
}

/// `between`: the number of bytes between this text and a text in the field before, if lengths take one byte.
#[inline]
fn text(texts: &mut Texts<'_>, bytes: &[u8], at: usize, between: usize) -> Option<usize> {
    let (start, end) = counted(bytes, at)?;
    texts.add(start, end, between).then_some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::avro::binary::{put_long, put_string};
    use crate::avro::schema::AvroSchema;

    const SCHEMA: &str = r#"{"type":"record","name":"R","fields":[
        {"name":"a","type":"string"},{"name":"b","type":["null","string"]},{"name":"c","type":"int"},
        {"name":"d","type":"long"},{"name":"e","type":"boolean"},{"name":"f","type":"double"},
        {"name":"g","type":{"type":"enum","name":"E","symbols":["X","Y"]}},{"name":"h","type":["long","null"]},
        {"name":"i","type":"bytes"},{"name":"j","type":{"type":"array","items":"string"}},
        {"name":"k","type":["null","int"]},{"name":"l","type":["null","string","long"]}]}"#;

    fn datum(text: &str, number: i64, is_there: bool) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, text);
        put_long(&mut out, i64::from(is_there));
        if is_there {
            put_string(&mut out, text);
        }
        put_long(&mut out, number >> 32);
        put_long(&mut out, number);
        out.push(u8::from(is_there));
        out.extend(1.5_f64.to_le_bytes());
        put_long(&mut out, i64::from(is_there));
        put_long(&mut out, i64::from(!is_there));
        if is_there {
            put_long(&mut out, number);
        }
        put_long(&mut out, 2);
        out.extend([0xff, 0xfe]);
        put_long(&mut out, 1);
        put_string(&mut out, text);
        put_long(&mut out, 0);
        put_long(&mut out, i64::from(is_there));
        if is_there {
            put_long(&mut out, number >> 32);
        }
        put_long(&mut out, 2);
        put_long(&mut out, number);
        out
    }

    proptest! {
        #[test]
        fn it_finds_what_the_layouts_own_walk_finds(
            text in ".{0,20}", number: i64, is_there: bool, flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..3),
            cut in any::<prop::sample::Index>(), is_cut: bool,
        ) {
            let schema = AvroSchema::parse(SCHEMA).unwrap();
            let mut bytes = datum(&text, number, is_there);
            for (index, flip) in flips {
                *index.get_mut(&mut bytes) ^= flip;
            }
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let mut ends = Ends::default();
            let found = ends.locate(schema.layout(), &bytes);
            match schema.layout().fields(&bytes) {
                Err(error) => prop_assert_eq!(found.map(|located| located.bytes().to_vec()), Err(error)),
                Ok(fields) => {
                    let located = found.unwrap();
                    for (index, field) in fields.iter().enumerate() {
                        prop_assert_eq!(located.field(index), bytes.get(field.clone()));
                    }
                    prop_assert_eq!(located.fields(0, fields.len() - 1), Some(bytes.as_slice()));
                    prop_assert_eq!(located.field(fields.len()), None);
                    // The quick walk found them.
                    prop_assert_eq!(quick(schema.layout(), &bytes, &mut [0; 16]), Some(bytes.len()));
                }
            }
        }
    }
}
