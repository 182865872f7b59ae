//! The scopes of all who listen at a channel's tail: what each chunk of it gives them is judged once, for everybody, and only
//! those are called for whom there is something in it.
//!
//! Owns who listens and who is called. What it gives equals what each scope gives by itself: who is not in what a chunk was
//! judged for, or would take too much memory, is called and judges by itself. Its lock orders the tails and the calls: who
//! finds neither a call nor a place of the tail behind its own has missed nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::ids::{Offset, Partition, SchemaId};
use scope::denial::Denial;
use scope::index::{Index, Lookup};
use scope::permit::{Outcome, Permitted};
use scope::scope::Scope;
use tokio::sync::Notify;

use super::judged::{Gain, Gains, Groups, Judged};
use super::reader::{CHUNK_BYTES, Chunk, Item};
use super::tail::Tail;

/// What one chunk may keep for all listeners together, in bytes: who listens to much is given it once more by itself.
const KEPT_BYTES: usize = 4 * CHUNK_BYTES;

/// All who listen at the tail of one channel.
#[derive(Debug, Default)]
pub struct Audience(Mutex<Listeners>);

#[derive(Debug, Default)]
struct Listeners {
    by_schema: HashMap<SchemaId, Arc<Index>>,
    /// Counts who comes.
    comings: u64,
    seats: HashMap<SeatId, Taken>,
    /// The next seat.
    next: SeatId,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
struct SeatId(u64);

/// A seat that somebody has.
#[derive(Debug, Default)]
struct Taken {
    groups: Groups,
    /// Where the first chunk begins that it was called for, by partition.
    calls: HashMap<Partition, Arc<Tail>>,
    bell: Arc<Notify>,
}

/// A listener's place; it is given up when dropped.
#[derive(Debug)]
pub struct Seat {
    audience: Arc<Audience>,
    id: SeatId,
    bell: Arc<Notify>,
    /// The audience's knowledge of it, to be read without its lock.
    groups: Groups,
}

/// For whom there is something at the tail.
#[derive(Debug, Clone, Copy)]
pub enum Called<'c> {
    /// Everybody.
    All,
    /// Nobody.
    Nobody,
    /// Who gains by it, and for whom it was not judged.
    Of(&'c Judged),
}

/// What a seat hears of a tail.
#[derive(Debug)]
pub enum Heard {
    /// There was nothing for it up to here.
    Nothing {
        /// The tail.
        until: Arc<Tail>,
    },
    /// There is something for it.
    Called {
        /// Not before here.
        from: Arc<Tail>,
    },
}

impl<'c> Called<'c> {
    /// For whom there is something in a chunk.
    pub fn by(chunk: &'c Chunk) -> Self {
        match &chunk.judged {
            Some(judged) => Self::Of(judged),
            None if chunk.items.is_empty() => Self::Nobody,
            None => Self::All,
        }
    }

    fn is(self, groups: &Groups) -> bool {
        match self {
            Self::All => true,
            Self::Nobody => false,
            Self::Of(judged) => !judged.gives_nothing(groups),
        }
    }
}

impl Audience {
    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place; nothing is listened for yet.
    pub fn sit(self: &Arc<Self>) -> Seat {
        let mut listeners = self.lock();
        let id = listeners.next;
        listeners.next = SeatId(id.0 + 1);
        let bell = Arc::clone(&listeners.seats.entry(id).or_default().bell);
        Seat { audience: Arc::clone(self), id, bell, groups: Groups::new() }
    }

    /// Moves a partition's tail, and calls those for whom there is something from where it was. `moves` says where that is.
    pub fn tell(&self, partition: Partition, called: Called<'_>, moves: impl FnOnce() -> Arc<Tail>) {
        let mut listeners = self.lock();
        let from = moves();
        for seat in listeners.seats.values_mut().filter(|seat| called.is(&seat.groups)) {
            seat.calls.entry(partition).or_insert_with(|| Arc::clone(&from));
            seat.bell.notify_one();
        }
    }

    /// Judges a chunk's items for all who listen; none where nobody does, where an image cannot be judged at all, or where
    /// everybody starts over.
    pub fn judge(&self, items: &[Item]) -> Option<Judged> {
        let (by_schema, comings) = {
            let listeners = self.lock();
            (listeners.by_schema.clone(), listeners.comings)
        };
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
        let Listeners { by_schema, comings, seats, .. } = &mut *listeners;
        let mut index = by_schema.get(&schema).map_or_else(Index::default, |index| Index::clone(index));
        let group = index.add(Arc::clone(scope));
        by_schema.insert(schema, Arc::new(index));
        *comings += 1;
        self.groups.insert(schema, (group, *comings));
        if let Some(taken) = seats.get_mut(&self.id) {
            taken.groups.clone_from(&self.groups);
        }
    }

    /// What a chunk gives, in order, and how many of its changes give nothing; none where it was not judged for this seat.
    pub fn gains<'j>(&self, judged: &'j Judged) -> Option<(Vec<&'j (usize, Gain)>, usize)> {
        judged.gains(&self.groups)
    }

    /// Falls asleep at a place of a partition, unless the tail is further; the tail there. What it was called for until now
    /// lies before.
    pub fn sleep(
        &self,
        partition: Partition,
        at: Offset,
        tail: impl FnOnce() -> Arc<Tail>,
    ) -> Option<Arc<Tail>> {
        let mut listeners = self.audience.lock();
        let tail = tail();
        if at < tail.next {
            return None;
        }
        listeners.seats.get_mut(&self.id)?.calls.remove(&partition);
        Some(tail)
    }

    /// What there was for it since it fell asleep.
    pub fn hear(&self, partition: Partition, tail: impl FnOnce() -> Arc<Tail>) -> Heard {
        let listeners = self.audience.lock();
        let calls = listeners.seats.get(&self.id).map(|taken| &taken.calls);
        match calls.and_then(|calls| calls.get(&partition)) {
            Some(from) => Heard::Called { from: Arc::clone(from) },
            None => Heard::Nothing { until: tail() },
        }
    }

    /// Until it is called, or was since this was asked last.
    pub async fn called(&self) {
        self.bell.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut listeners = self.audience.lock();
        let Listeners { by_schema, seats, .. } = &mut *listeners;
        seats.remove(&self.id);
        for (schema, (group, _)) in self.groups.drain() {
            let Some(index) = by_schema.get(&schema) else { continue };
            let mut index = Index::clone(index);
            index.remove(group);
            if index.is_empty() {
                by_schema.remove(&schema);
            } else {
                by_schema.insert(schema, Arc::new(index));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use schemas::avro::binary::put_string;
    use schemas::avro::schema::AvroSchema;
    use schemas::change::{Change, ChangeCodec, Op, Source};
    use schemas::channel::ChannelKind;
    use schemas::ids::LogId;
    use schemas::key::KeySpec;
    use schemas::marks::Checkpoint;
    use schemas::record::Record;
    use schemas::table::Table;
    use schemas::time::Millis;
    use scope::compile::{Age, Terms};
    use scope::secret::NetworkSecret;
    use serde_json::json;

    use super::*;
    use crate::channel::fold::Fold;
    use crate::channel::reader::Judgeable;
    use event_log::Stored;

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

    const PARTITION: Partition = Partition::new(0);

    fn tail(next: u64, changes: u64) -> Arc<Tail> {
        let checkpoint = Checkpoint {
            log_id: LogId::new([1; 16]),
            as_of: Offset::new(0),
            table: Table::default(),
            freshness: None,
        };
        let fold = Fold::begin(ChannelKind::Distribution, Offset::new(0), checkpoint);
        Arc::new(Tail { next: Offset::new(next), fold, changes, fault: None })
    }

    /// A channel with one partition, whose tail moves by a chunk of one change.
    struct Moving {
        audience: Arc<Audience>,
        tail: Arc<Tail>,
    }

    impl Moving {
        fn by(&mut self, territory: &str) {
            let from = Arc::clone(&self.tail);
            let items = vec![created(from.next.get(), territory)];
            let judged = self.audience.judge(&items);
            let (first, next, fold) = (from.next, from.next.next(), from.fold.clone());
            let chunk = Chunk { first, next, items, skipped: 0, fold, judged };
            let to = tail(next.get(), from.changes + 1);
            self.audience.tell(PARTITION, Called::by(&chunk), || std::mem::replace(&mut self.tail, to));
        }

        /// Whether it was called, where it may go on, and how many changes came before.
        fn hear(&self, seat: &Seat) -> (bool, u64, u64) {
            let (is_called, tail) = match seat.hear(PARTITION, || Arc::clone(&self.tail)) {
                Heard::Called { from } => (true, from),
                Heard::Nothing { until } => (false, until),
            };
            (is_called, tail.next.get(), tail.changes)
        }

        fn sleep(&self, seat: &Seat, at: u64) -> Option<u64> {
            seat.sleep(PARTITION, Offset::new(at), || Arc::clone(&self.tail)).map(|tail| tail.changes)
        }
    }

    #[test]
    fn who_gains_is_called_from_where_that_begins_and_the_others_sleep_on() {
        let mut moving = Moving { audience: Arc::default(), tail: tail(1, 0) };
        let (mut riga, mut jelgava) = (moving.audience.sit(), moving.audience.sit());
        riga.listen(SCHEMA, &scope("t == \"R\""));
        jelgava.listen(SCHEMA, &scope("t == \"J\""));
        assert_eq!(moving.sleep(&riga, 1), Some(0));
        for territory in ["D", "R", "J", "R"] {
            moving.by(territory);
        }
        assert_eq!(moving.hear(&riga), (true, 2, 1));
        assert_eq!(moving.hear(&jelgava), (true, 3, 2));
        assert!(riga.called().now_or_never().is_some());
        assert!(riga.called().now_or_never().is_none(), "called twice, woken once");
        assert_eq!(moving.sleep(&riga, 4), None, "the tail is further");
        assert_eq!(moving.sleep(&riga, 5), Some(4));
        moving.by("J");
        assert_eq!(moving.hear(&riga), (false, 6, 5));
        assert!(riga.called().now_or_never().is_none());
    }

    #[test]
    fn who_was_not_judged_for_is_called_for_everything_but_what_is_no_change() {
        let mut moving = Moving { audience: Arc::default(), tail: tail(1, 0) };
        let silent = moving.audience.sit();
        moving.by("R");
        assert_eq!(moving.hear(&silent), (true, 1, 0), "nobody listens yet");
        moving.sleep(&silent, 2);
        moving.audience.sit().listen(SCHEMA, &scope("true"));
        let mut listening = moving.audience.sit();
        listening.listen(SCHEMA, &scope("false"));
        moving.by("R");
        assert_eq!(moving.hear(&silent), (true, 2, 1), "it listens to nothing");
        assert_eq!(moving.hear(&listening), (false, 3, 2));
        moving.sleep(&silent, 3);
        moving.audience.tell(PARTITION, Called::Nobody, || std::mem::replace(&mut moving.tail, tail(9, 2)));
        assert_eq!(moving.hear(&silent), (false, 9, 2));
        moving.audience.tell(PARTITION, Called::All, || std::mem::replace(&mut moving.tail, tail(20, 2)));
        assert_eq!(moving.hear(&listening), (true, 9, 2), "retention may have passed it");
    }
}
