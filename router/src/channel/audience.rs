//! The scopes of all who listen at a channel's tail, and what each chunk of it gives them: judged once, for everybody.
//!
//! Owns who listens. What it gives equals what each scope gives by itself: who is not in what a chunk was judged
//! for, or would take too much memory, judges by itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::ids::SchemaId;
use scope::denial::Denial;
use scope::index::{GroupId, Index, Lookup};
use scope::permit::{Outcome, Permitted};
use scope::scope::Scope;

use super::reader::{CHUNK_BYTES, Item};

/// What one chunk may keep for all listeners together, in bytes: who listens to much is given it once more by itself.
const KEPT_BYTES: usize = 4 * CHUNK_BYTES;

/// What a listener is given of one event, or why it cannot be judged.
pub type Gain = Result<Arc<Permitted<Outcome>>, Denial>;
/// The items of a chunk that give something, by their place, in order.
type Gains = Vec<(usize, Gain)>;

/// All who listen at the tail of one channel.
#[derive(Debug, Default)]
pub struct Audience(Mutex<Listeners>);

#[derive(Debug, Default, Clone)]
struct Listeners {
    by_schema: HashMap<SchemaId, Arc<Index>>,
    /// Counts who comes.
    comings: u64,
}

/// A listener's place; it is given up when dropped.
#[derive(Debug)]
pub struct Seat {
    audience: Arc<Audience>,
    /// By schema: its group, and how many had come when it came.
    groups: HashMap<SchemaId, (GroupId, u64)>,
}

/// What a chunk gives to whom.
#[derive(Debug)]
pub struct Judged {
    /// How many had come.
    comings: u64,
    /// By schema and group; nothing of those for whom it was too much.
    gains: HashMap<(SchemaId, GroupId), Option<Gains>>,
    /// The schemas of the chunk's changes.
    schemas: Vec<SchemaId>,
    /// How many changes it has.
    changes: usize,
}

impl Audience {
    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place; nothing is listened for yet.
    pub fn sit(self: &Arc<Self>) -> Seat {
        Seat { audience: Arc::clone(self), groups: HashMap::new() }
    }

    /// Judges a chunk's items for all who listen; none where nobody does, where an image cannot be judged at all, or where
    /// everybody starts over.
    pub fn judge(&self, items: &[Item]) -> Option<Judged> {
        let Listeners { by_schema, comings } = self.lock().clone();
        if by_schema.is_empty() {
            return None;
        }
        let (mut gains, mut kept): (HashMap<_, Option<Gains>>, usize) = (HashMap::new(), 0);
        let (mut schemas, mut changes, mut lookup) = (Vec::new(), 0, Lookup::default());
        for (at, item) in items.iter().enumerate() {
            let event = match item {
                Item::Change(event) => event,
                Item::Resync { .. } => return None,
                Item::Poison { .. } => continue,
            };
            changes += 1;
            if !schemas.contains(&event.schema) {
                schemas.push(event.schema);
            }
            let Some(index) = by_schema.get(&event.schema) else { continue };
            let tell = |group, outcome: Result<Permitted<Outcome>, Denial>| {
                let known = gains.entry((event.schema, group)).or_insert_with(|| Some(Vec::new()));
                let Some(of_group) = known else { return };
                let gain = outcome.map(Arc::new);
                if kept + size(&gain) <= KEPT_BYTES {
                    kept += size(&gain);
                    of_group.push((at, gain));
                } else {
                    kept -= of_group.iter().map(|(_, gain)| size(gain)).sum::<usize>();
                    *known = None;
                }
            };
            index.judge((event.op, &event.key), &event.images(), &mut lookup, tell).ok()?;
        }
        Some(Judged { comings, gains, schemas, changes })
    }
}

/// What a gain takes in memory, about: many small ones take more than their bytes.
fn size(gain: &Gain) -> usize {
    let bytes = gain.as_ref().map_or(0, |permitted| {
        size_of::<Outcome>() + permitted.get().key().len() + permitted.get().after().map_or(0, <[u8]>::len)
    });
    size_of::<(usize, Gain)>() + bytes
}

impl Seat {
    /// Listens with a scope for events of a schema, if it does not yet.
    pub fn listen(&mut self, schema: SchemaId, scope: &Arc<Scope>) {
        if self.groups.contains_key(&schema) {
            return;
        }
        let mut listeners = self.audience.lock();
        let mut index =
            listeners.by_schema.get(&schema).map_or_else(Index::default, |index| Index::clone(index));
        let group = index.add(Arc::clone(scope));
        listeners.by_schema.insert(schema, Arc::new(index));
        listeners.comings += 1;
        self.groups.insert(schema, (group, listeners.comings));
    }

    /// What a chunk gives, in order, and how many of its changes give nothing; none where it was not judged for this seat.
    pub fn gains<'j>(&self, judged: &'j Judged) -> Option<(Vec<&'j (usize, Gain)>, usize)> {
        let mut all = Vec::new();
        for schema in &judged.schemas {
            let (group, came) = self.groups.get(schema)?;
            if *came > judged.comings {
                return None;
            }
            match judged.gains.get(&(*schema, *group)) {
                None => {}
                Some(None) => return None,
                Some(Some(gains)) => all.extend(gains),
            }
        }
        all.sort_by_key(|(at, _)| *at);
        let nothing = judged.changes - all.len();
        Some((all, nothing))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut listeners = self.audience.lock();
        for (schema, (group, _)) in self.groups.drain() {
            let Some(index) = listeners.by_schema.get(&schema) else { continue };
            let mut index = Index::clone(index);
            index.remove(group);
            if index.is_empty() {
                listeners.by_schema.remove(&schema);
            } else {
                listeners.by_schema.insert(schema, Arc::new(index));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::avro::binary::put_string;
    use schemas::avro::schema::AvroSchema;
    use schemas::change::{Change, ChangeCodec, Op, Source};
    use schemas::ids::Offset;
    use schemas::key::KeySpec;
    use schemas::record::Record;
    use schemas::time::Millis;
    use scope::compile::{Age, Terms};
    use scope::secret::NetworkSecret;
    use serde_json::json;

    use super::*;
    use crate::channel::reader::Judgeable;
    use crate::log::Stored;

    const SCHEMA: SchemaId = SchemaId::new(7);

    fn subject() -> AvroSchema {
        let fields = json!([{"name": "k", "type": "string"}, {"name": "t", "type": "string"}]);
        AvroSchema::from_json(json!({"type": "record", "name": "R", "fields": fields})).unwrap()
    }

    fn scope(rows: &str) -> Arc<Scope> {
        let agreement = json!({"number": "A-1", "version": 1, "provider": "1", "consumer": "2", "channel": "c",
            "purpose": "p", "legal_basis": "l", "valid_from": "2026-01-01T00:00:00Z", "history": "full",
            "schema_version": 1, "rows": rows, "fields": {"k": "keep", "t": "keep"}});
        let (subject, secret) = (subject(), NetworkSecret::new(vec![1; 32]).unwrap());
        let key = KeySpec { fields: vec!["k".to_owned()], normalise: Vec::new() };
        let terms = Terms { agreed: &subject, writer: &subject, age: Age::Same, key: &key, secret: &secret };
        Arc::new(Scope::compile(&serde_json::from_value(agreement).unwrap(), &terms).unwrap())
    }

    fn created(offset: u64, territory: &str) -> Item {
        let (mut image, mut datum) = (Vec::new(), Vec::new());
        put_string(&mut image, &offset.to_string());
        put_string(&mut image, territory);
        let at = Millis::new(1);
        let key = offset.to_string();
        let change = Change {
            op: Op::Create,
            key: &key,
            before: None,
            after: Some(&image),
            source: Source::default(),
            event_at: at,
            captured_at: at,
        };
        ChangeCodec::encode(&change, &mut datum);
        let record = Record { key: None, value: None, headers: Vec::new() };
        let stored = Stored { offset: Offset::new(offset), logged_at: at, record };
        let codec = Arc::new(ChangeCodec::new(&subject()).unwrap());
        Item::Change(Arc::new(Judgeable::new(&stored, SCHEMA, codec, datum).unwrap()))
    }

    /// The keys that a seat gains, and how many changes give it nothing.
    fn keys(seat: &Seat, judged: Option<&Judged>) -> Option<(Vec<String>, usize)> {
        let (gains, nothing) = seat.gains(judged?)?;
        let key = |(_, gain): &(usize, Gain)| gain.as_ref().unwrap().get().key().to_owned();
        Some((gains.into_iter().map(key).collect(), nothing))
    }

    fn gained(keys: &[&str], nothing: usize) -> Option<(Vec<String>, usize)> {
        Some((keys.iter().map(|key| (*key).to_owned()).collect(), nothing))
    }

    #[test]
    fn each_seat_gains_what_its_scope_admits_from_when_it_listens() {
        let audience = Arc::new(Audience::default());
        let items: Vec<Item> = [(1, "R"), (2, "J"), (3, "R"), (4, "D")].map(|(at, t)| created(at, t)).into();
        assert!(audience.judge(&items).is_none(), "nobody listens");
        let (mut first, mut second, mut nobody) = (audience.sit(), audience.sit(), audience.sit());
        first.listen(SCHEMA, &scope("t == \"R\""));
        second.listen(SCHEMA, &scope("t != \"R\""));
        let early = audience.judge(&items);
        nobody.listen(SCHEMA, &scope("t == \"X\""));
        let late = audience.judge(&items);
        for judged in [early.as_ref(), late.as_ref()] {
            assert_eq!(keys(&first, judged), gained(&["1", "3"], 2));
            assert_eq!(keys(&second, judged), gained(&["2", "4"], 2));
        }
        assert_eq!(keys(&nobody, early.as_ref()), None, "it came later");
        assert_eq!(keys(&nobody, late.as_ref()), gained(&[], 4));
        drop((first, second, nobody));
        assert!(audience.judge(&items).is_none(), "all have gone");
    }

    #[test]
    fn who_gains_too_much_judges_by_itself_and_costs_the_others_nothing() {
        let audience = Arc::new(Audience::default());
        let mut little = audience.sit();
        little.listen(SCHEMA, &scope("t == \"R\""));
        let long = "x".repeat(KEPT_BYTES / 4);
        let items: Vec<Item> = (1..7).map(|at| created(at, if at == 6 { "R" } else { &long })).collect();
        // However many they are, none of what they were refused counts against the others.
        let much =
            ["true", "t != \"a\"", "t != \"b\"", "t != \"c\"", "t != \"d\"", "t != \"e\""].map(|rows| {
                let mut seat = audience.sit();
                seat.listen(SCHEMA, &scope(rows));
                seat
            });
        let judged = audience.judge(&items);
        assert!(much.iter().all(|seat| keys(seat, judged.as_ref()).is_none()));
        assert_eq!(keys(&little, judged.as_ref()), gained(&["6"], 5));
    }

    #[test]
    fn where_everybody_starts_over_nobody_is_judged_for() {
        let audience = Arc::new(Audience::default());
        let mut seat = audience.sit();
        seat.listen(SCHEMA, &scope("true"));
        let resync = Item::Resync { offset: Offset::new(2), reason: "a test".to_owned() };
        assert!(audience.judge(&[created(1, "R"), resync]).is_none());
    }
}
