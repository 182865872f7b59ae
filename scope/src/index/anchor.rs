//! What an index finds a scope by: a value that one of its fields must have for the predicate to hold.
//!
//! Owns columns: the anchors of one field. An anchor that is not hit by an image means that the predicate does not hold on it.

use schemas::avro::located::Located;

use super::points::Shards;
use super::ranges::{End, Ranges};
use crate::denial::Denial;
use crate::predicate::{Field, Key};

/// Of a predicate: it holds only where one of these is hit.
#[derive(Debug, Clone)]
pub(crate) struct Anchors {
    pub(crate) all: Vec<Anchor>,
    /// It holds wherever one is hit.
    pub(crate) are_exact: bool,
}

/// A value, or some values, of one field.
#[derive(Debug, Clone)]
pub(crate) enum Anchor {
    /// This one.
    Point { field: Field, key: Key },
    /// Texts that begin so.
    Prefix { field: Field, prefix: String },
    /// What lies between.
    Range { field: Field, lower: Option<End<Key>>, upper: Option<End<Key>> },
}

impl Anchor {
    pub(crate) const fn field(&self) -> &Field {
        match self {
            Self::Point { field, .. } | Self::Prefix { field, .. } | Self::Range { field, .. } => field,
        }
    }

    /// How many events it will be hit by, as far as its form tells: the less the better.
    pub(crate) const fn breadth(&self) -> u8 {
        match self {
            Self::Point { .. } => 0,
            Self::Prefix { .. } => 1,
            Self::Range { lower: Some(_), upper: Some(_), .. } => 2,
            Self::Range { .. } => 3,
        }
    }
}

/// All anchors of one field.
#[derive(Debug, Clone)]
pub(super) struct Column {
    field: Field,
    texts: Shards<Box<str>>,
    numbers: Shards<i128>,
    prefixes: Shards<Box<str>>,
    /// How many prefixes there are of each length in bytes.
    lengths: Vec<(usize, usize)>,
    text_ranges: Ranges<Box<str>>,
    number_ranges: Ranges<i128>,
}

impl Column {
    pub(super) fn of(field: Field) -> Self {
        Self {
            field,
            texts: Shards::default(),
            numbers: Shards::default(),
            prefixes: Shards::default(),
            lengths: Vec::new(),
            text_ranges: Ranges::default(),
            number_ranges: Ranges::default(),
        }
    }

    pub(super) fn is_of(&self, field: &Field) -> bool {
        self.field == *field
    }

    pub(super) fn add(&mut self, anchor: &Anchor, id: u32) {
        match anchor {
            Anchor::Point { key: Key::Text(text), .. } => self.texts.add(text.as_str().into(), id),
            Anchor::Point { key: Key::Number(number), .. } => self.numbers.add(*number, id),
            Anchor::Prefix { prefix, .. } => {
                self.prefixes.add(prefix.as_str().into(), id);
                match self.lengths.iter_mut().find(|(length, _)| *length == prefix.len()) {
                    Some((_, count)) => *count += 1,
                    None => self.lengths.push((prefix.len(), 1)),
                }
            }
            Anchor::Range { lower, upper, .. } => {
                self.text_ranges.add(text_end(lower).as_ref(), text_end(upper).as_ref(), id);
                self.number_ranges.add(number_end(lower).as_ref(), number_end(upper).as_ref(), id);
            }
        }
    }

    pub(super) fn remove(&mut self, anchor: &Anchor, id: u32) {
        match anchor {
            Anchor::Point { key: Key::Text(text), .. } => self.texts.remove(text.as_str(), id),
            Anchor::Point { key: Key::Number(number), .. } => self.numbers.remove(number, id),
            Anchor::Prefix { prefix, .. } => {
                self.prefixes.remove(prefix.as_str(), id);
                for (length, count) in &mut self.lengths {
                    *count -= usize::from(*length == prefix.len());
                }
                self.lengths.retain(|(_, count)| *count > 0);
            }
            Anchor::Range { .. } => {
                self.text_ranges.remove(id);
                self.number_ranges.remove(id);
            }
        }
    }

    /// Who is hit by an image, perhaps more than once.
    pub(super) fn hits(&self, image: Located<'_>, found: &mut Vec<u32>) -> Result<(), Denial> {
        let Some(value) = self.field.read(image)? else { return Ok(()) };
        if let Some(text) = value.text() {
            found.extend(self.texts.get(text));
            for (length, _) in &self.lengths {
                found.extend(text.get(..*length).map_or(&[][..], |start| self.prefixes.get(start)));
            }
            self.text_ranges.hits(text, found);
        } else if let Some(number) = value.number() {
            found.extend(self.numbers.get(&number));
            self.number_ranges.hits(&number, found);
        }
        Ok(())
    }
}

fn text_end(end: &Option<End<Key>>) -> Option<End<Box<str>>> {
    match end {
        Some(End { at: Key::Text(text), is_in }) => Some(End { at: text.as_str().into(), is_in: *is_in }),
        _ => None,
    }
}

fn number_end(end: &Option<End<Key>>) -> Option<End<i128>> {
    match end {
        Some(End { at: Key::Number(number), is_in }) => Some(End { at: *number, is_in: *is_in }),
        _ => None,
    }
}
