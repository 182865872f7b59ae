//! Subscriptions at a tail that moves: who matches what, and who is notified.

use super::matches::Match;
use event_log::Stored;
use futures_util::FutureExt;
use reading::fold::Fold;
use reading::located::LocatedBlock;
use schemas::avro::binary::{Cursor, put_string};
use schemas::avro::schema::AvroSchema;
use schemas::block;
use schemas::change::{Change, ChangeCodec, Op, Source};
use schemas::channel::ChannelKind;
use schemas::delivery::{Delivery, DeliveryCodec};
use schemas::epoch_table::EpochTable;
use schemas::ids::LogId;
use schemas::key::KeySpec;
use schemas::marks::Checkpoint;
use schemas::record::Record;
use schemas::time::Millis;
use scope::compile::{Age, Terms};
use scope::permit::{Deliveries, Permitted};
use scope::secret::NetworkSecret;
use serde_json::json;

use super::observer::{Chunk, concerned};
use super::*;

const SCHEMA: SchemaId = SchemaId::new(7);
const P0: Partition = Partition::new(0);

fn subject() -> AvroSchema {
    let fields = json!([{"name": "k", "type": "string"}, {"name": "t", "type": "string"}]);
    AvroSchema::from_json(json!({"type": "record", "name": "R", "fields": fields})).unwrap()
}

fn scope(rows: &str) -> Arc<Scope> {
    let agreement = json!({"number": "A-1", "version": 1, "provider": "1", "consumer": "2", "channel": "c",
        "purpose": "p", "legal_basis": "l", "valid_from": "2026-01-01T00:00:00Z", "history": "full",
        "schema_version": 1, "rows": rows, "fields": {"k": "keep", "t": "keep"}});
    let subject = subject();
    let secret = NetworkSecret::new(vec![1; 32]).unwrap();
    let key = KeySpec { fields: vec!["k".to_owned()], normalise: Vec::new() };
    let terms = Terms { agreed: &subject, writer: &subject, age: Age::Same, key: &key, secret: &secret };
    Arc::new(Scope::compile(&serde_json::from_value(agreement).unwrap(), &terms).unwrap())
}

fn created(offset: u64, territory: &str) -> Item {
    let mut image = Vec::new();
    let mut datum = Vec::new();
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
    let value = Some(block::of_one(&datum));
    let record = Record { key: None, value, headers: Vec::new() };
    let stored = Stored { offset: Offset::new(offset), logged_at: at, record };
    let codec = Arc::new(ChangeCodec::new(&subject()).unwrap());
    Item::Block(LocatedBlock::locate(stored, SCHEMA, codec, 0).unwrap())
}

/// The keys that a subscription matches, and how many changes give it nothing.
fn keys(subscription: &Subscription, matches: Option<&ChunkMatches>) -> Option<(Vec<String>, usize)> {
    let Matched { matches, denied } = subscription.matched(matches?)?;
    let codec = DeliveryCodec::new(scope("true").derived()).unwrap();
    let key = |(found, deliveries): (&Match, &Permitted<Deliveries>)| {
        let permitted = deliveries.delivery(*found.decision.as_ref().unwrap()).unwrap();
        let mut datum = Cursor::new(permitted.get().bytes);
        let Delivery::Event(event) = codec.decode(&mut datum).unwrap() else { panic!("it is no event") };
        assert_eq!(event.position.index, found.index);
        event.key.to_owned()
    };
    Some((matches.into_iter().map(key).collect(), denied))
}

fn matching(keys: &[&str], denied: usize) -> Option<(Vec<String>, usize)> {
    Some((keys.iter().map(|key| (*key).to_owned()).collect(), denied))
}

#[test]
fn each_subscription_matches_what_its_scope_admits_from_when_it_is_added() {
    let fan_out = Arc::new(FanOut::default());
    let items: Vec<Item> = [(1, "R"), (2, "J"), (3, "R"), (4, "D")].map(|(at, t)| created(at, t)).into();
    assert!(fan_out.match_items(P0, &items).is_none(), "nobody has a scope");
    let mut first = fan_out.subscribe();
    let mut second = fan_out.subscribe();
    let mut nobody = fan_out.subscribe();
    first.add(SCHEMA, &scope("t == \"R\""));
    second.add(SCHEMA, &scope("t != \"R\""));
    let early = fan_out.match_items(P0, &items);
    nobody.add(SCHEMA, &scope("t == \"X\""));
    let late = fan_out.match_items(P0, &items);
    for matches in [early.as_ref(), late.as_ref()] {
        assert_eq!(keys(&first, matches), matching(&["1", "3"], 2));
        assert_eq!(keys(&second, matches), matching(&["2", "4"], 2));
    }
    assert_eq!(keys(&nobody, early.as_ref()), None, "it came later");
    assert_eq!(keys(&nobody, late.as_ref()), matching(&[], 4));
    drop((first, second, nobody));
    assert!(fan_out.match_items(P0, &items).is_none(), "all have gone");
}

#[test]
fn a_scope_that_matches_too_much_judges_by_itself_and_costs_the_others_nothing() {
    let fan_out = Arc::new(FanOut::default());
    let mut little = fan_out.subscribe();
    little.add(SCHEMA, &scope("t == \"R\""));
    let long = "x".repeat(KEPT_BYTES / 4);
    let items: Vec<Item> = (1..7).map(|at| created(at, if at == 6 { "R" } else { &long })).collect();
    // However many they are, their dropped matches do not count against the others.
    let much = ["true", "t != \"a\"", "t != \"b\"", "t != \"c\"", "t != \"d\"", "t != \"e\""].map(|rows| {
        let mut subscription = fan_out.subscribe();
        subscription.add(SCHEMA, &scope(rows));
        subscription
    });
    let matches = fan_out.match_items(P0, &items);
    assert!(much.iter().all(|subscription| keys(subscription, matches.as_ref()).is_none()));
    assert_eq!(keys(&little, matches.as_ref()), matching(&["6"], 5));
}

#[test]
fn where_everybody_starts_over_nothing_is_matched() {
    let fan_out = Arc::new(FanOut::default());
    let mut subscription = fan_out.subscribe();
    subscription.add(SCHEMA, &scope("true"));
    let resync = Item::Resync { offset: Offset::new(2), reason: "a test".to_owned() };
    assert!(fan_out.match_items(P0, &[created(1, "R"), resync]).is_none());
}

const PARTITION: Partition = Partition::new(0);

fn tail(next: u64, changes: u64) -> Arc<Tail> {
    let checkpoint = Checkpoint {
        log_id: LogId::new([1; 16]),
        as_of: Offset::new(0),
        table: EpochTable::default(),
        freshness: None,
    };
    let fold = Fold::begin(ChannelKind::Distribution, Offset::new(0), checkpoint);
    Arc::new(Tail { next: Offset::new(next), fold, changes, fault: None })
}

/// A channel with one partition, whose tail moves by a chunk of one change.
struct Moving {
    fan_out: Arc<FanOut>,
    tail: Arc<Tail>,
}

impl Moving {
    fn by(&mut self, territory: &str) {
        let from = Arc::clone(&self.tail);
        let items = vec![created(from.next.get(), territory)];
        let matches = self.fan_out.match_items(P0, &items);
        let first = from.next;
        let next = from.next.next();
        let fold = from.fold.clone();
        let chunk = Chunk { first, next, items, skipped: 0, fold, note: matches };
        let to = tail(next.get(), from.changes + 1);
        self.fan_out.move_tail(PARTITION, concerned(&chunk), || std::mem::replace(&mut self.tail, to));
    }

    /// Whether it was notified, where it may continue, and how many changes came before.
    fn poll(&self, subscription: &Subscription) -> (bool, u64, u64) {
        let (is_notified, tail) = match subscription.poll(PARTITION, || Arc::clone(&self.tail)) {
            Polled::Notified { from } => (true, from),
            Polled::Nothing { until } => (false, until),
        };
        (is_notified, tail.next.get(), tail.changes)
    }

    fn wait_at(&self, subscription: &Subscription, at: u64) -> Option<u64> {
        subscription.wait_at(PARTITION, Offset::new(at), || Arc::clone(&self.tail)).map(|tail| tail.changes)
    }
}

#[test]
fn who_matches_is_notified_from_where_that_begins_and_the_others_wait_on() {
    let mut moving = Moving { fan_out: Arc::default(), tail: tail(1, 0) };
    let mut riga = moving.fan_out.subscribe();
    let mut jelgava = moving.fan_out.subscribe();
    riga.add(SCHEMA, &scope("t == \"R\""));
    jelgava.add(SCHEMA, &scope("t == \"J\""));
    assert_eq!(moving.wait_at(&riga, 1), Some(0));
    for territory in ["D", "R", "J", "R"] {
        moving.by(territory);
    }
    assert_eq!(moving.poll(&riga), (true, 2, 1));
    assert_eq!(moving.poll(&jelgava), (true, 3, 2));
    assert!(riga.notified().now_or_never().is_some());
    assert!(riga.notified().now_or_never().is_none(), "notified twice, woken once");
    assert_eq!(moving.wait_at(&riga, 4), None, "the tail is further");
    assert_eq!(moving.wait_at(&riga, 5), Some(4));
    moving.by("J");
    assert_eq!(moving.poll(&riga), (false, 6, 5));
    assert!(riga.notified().now_or_never().is_none());
}

#[test]
fn who_was_not_matched_for_is_notified_of_everything_but_what_is_no_change() {
    let mut moving = Moving { fan_out: Arc::default(), tail: tail(1, 0) };
    let silent = moving.fan_out.subscribe();
    moving.by("R");
    assert_eq!(moving.poll(&silent), (true, 1, 0), "nobody has a scope yet");
    moving.wait_at(&silent, 2);
    moving.fan_out.subscribe().add(SCHEMA, &scope("true"));
    let mut listening = moving.fan_out.subscribe();
    listening.add(SCHEMA, &scope("false"));
    moving.by("R");
    assert_eq!(moving.poll(&silent), (true, 2, 1), "it has no scope");
    assert_eq!(moving.poll(&listening), (false, 3, 2));
    moving.wait_at(&silent, 3);
    moving
        .fan_out
        .move_tail(PARTITION, Concerned::Nobody, || std::mem::replace(&mut moving.tail, tail(9, 2)));
    assert_eq!(moving.poll(&silent), (false, 9, 2));
    moving.fan_out.move_tail(PARTITION, Concerned::All, || std::mem::replace(&mut moving.tail, tail(20, 2)));
    assert_eq!(moving.poll(&listening), (true, 9, 2), "retention may have passed it");
}
