//! The access predicates of one field, found by the field's value in an image.

use schemas::avro::located::Located;

use super::ranges::Ranges;
use crate::denial::Denial;
use crate::predicate::access::{AccessPredicate, Bound};
use crate::predicate::{Field, Key};
use crate::sharded_map::ShardedMap;

/// All access predicates of one field.
#[derive(Debug, Clone)]
pub(super) struct Column {
    field: Field,
    texts: ShardedMap<Box<str>>,
    numbers: ShardedMap<i128>,
    prefixes: ShardedMap<Box<str>>,
    /// Each length of a prefix in bytes, and how many prefixes have it.
    lengths: Vec<(usize, usize)>,
    text_ranges: Ranges<Box<str>>,
    number_ranges: Ranges<i128>,
}

impl Column {
    pub(super) fn of(field: Field) -> Self {
        Self {
            field,
            texts: ShardedMap::default(),
            numbers: ShardedMap::default(),
            prefixes: ShardedMap::default(),
            lengths: Vec::new(),
            text_ranges: Ranges::default(),
            number_ranges: Ranges::default(),
        }
    }

    pub(super) fn is_of(&self, field: &Field) -> bool {
        self.field == *field
    }

    pub(super) fn add(&mut self, access: &AccessPredicate, id: u32) {
        match access {
            AccessPredicate::Point { key: Key::Text(text), .. } => self.texts.add(text.as_str().into(), id),
            AccessPredicate::Point { key: Key::Number(number), .. } => self.numbers.add(*number, id),
            AccessPredicate::Prefix { prefix, .. } => {
                self.prefixes.add(prefix.as_str().into(), id);
                match self.lengths.iter_mut().find(|(length, _)| *length == prefix.len()) {
                    Some((_, count)) => *count += 1,
                    None => self.lengths.push((prefix.len(), 1)),
                }
            }
            AccessPredicate::Range { lower, upper, .. } => {
                self.text_ranges.add(text_bound(lower).as_ref(), text_bound(upper).as_ref(), id);
                self.number_ranges.add(number_bound(lower).as_ref(), number_bound(upper).as_ref(), id);
            }
        }
    }

    pub(super) fn remove(&mut self, access: &AccessPredicate, id: u32) {
        match access {
            AccessPredicate::Point { key: Key::Text(text), .. } => self.texts.remove(text.as_str(), id),
            AccessPredicate::Point { key: Key::Number(number), .. } => self.numbers.remove(number, id),
            AccessPredicate::Prefix { prefix, .. } => {
                self.prefixes.remove(prefix.as_str(), id);
                for (length, count) in &mut self.lengths {
                    *count -= usize::from(*length == prefix.len());
                }
                self.lengths.retain(|(_, count)| *count > 0);
            }
            AccessPredicate::Range { .. } => {
                self.text_ranges.remove(id);
                self.number_ranges.remove(id);
            }
        }
    }

    /// Appends the groups that an image hits; a group may appear more than once.
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

fn text_bound(bound: &Option<Bound<Key>>) -> Option<Bound<Box<str>>> {
    match bound {
        Some(Bound { at: Key::Text(text), is_in }) => Some(Bound { at: text.as_str().into(), is_in: *is_in }),
        _ => None,
    }
}

fn number_bound(bound: &Option<Bound<Key>>) -> Option<Bound<i128>> {
    match bound {
        Some(Bound { at: Key::Number(number), is_in }) => Some(Bound { at: *number, is_in: *is_in }),
        _ => None,
    }
}
