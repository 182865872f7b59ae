//! One event against many scopes, in one run. Its cost grows with the scopes that get it, not with all scopes.
//!
//! Owns the register, its territories and the mix of rules. Every event is an update of one row. Both images are
//! judged, from their bytes to the permitted outcome.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark of its own data"
)]
#![allow(missing_docs)]

mod once;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use schemas::avro::binary::{put_long, put_string};
use schemas::avro::located::Ends;
use schemas::avro::schema::AvroSchema;
use schemas::change::{Images, Op};
use schemas::ids::{Offset, Partition};
use schemas::key::KeySpec;
use schemas::position::EventPosition;
use schemas::time::Millis;
use scope::compile::{Age, Terms};
use scope::denial::Denial;
use scope::index::{Index, Lookup};
use scope::permit::{Deliveries, Permitted, RecordMetadata};
use scope::scope::{Decision, Scope};
use scope::secret::NetworkSecret;
use serde_json::json;

const METADATA: RecordMetadata = RecordMetadata {
    partition: Partition::new(0),
    position: EventPosition { offset: Offset::new(7), index: 1 },
    event_at: Millis::new(1_700_000_000_000),
    logged_at: Millis::new(1_700_000_000_001),
    trace: None,
};
/// The most territories that events are drawn from.
const DRAWN: usize = 1_024;

fn schema() -> AvroSchema {
    AvroSchema::from_json(json!({"type": "record", "name": "Company", "fields": [
        {"name": "regcode", "type": "string"}, {"name": "name", "type": "string"},
        {"name": "territory", "type": "string"}, {"name": "size", "type": "long"},
        {"name": "activity", "type": "string"}, {"name": "owner", "type": ["null", "string"]},
        {"name": "address", "type": "string"}, {"name": "phone", "type": ["null", "string"]}]}))
    .unwrap()
}

fn territory(number: usize) -> String {
    format!("LV-{number:05}")
}

fn row(territory: &str, size: i64, phone: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, "40003000001");
    put_string(&mut out, "SIA Baltijas datu apmaina");
    put_string(&mut out, territory);
    put_long(&mut out, size);
    put_string(&mut out, "62.01");
    put_long(&mut out, 1);
    put_string(&mut out, "AS Datu nams");
    put_string(&mut out, "Brivibas gatve 214, Riga, LV-1039");
    put_long(&mut out, 1);
    put_string(&mut out, phone);
    out
}

struct Compiler {
    schema: AvroSchema,
    secret: NetworkSecret,
    key: KeySpec,
}

impl Compiler {
    fn new() -> Self {
        let key = KeySpec { fields: vec!["regcode".to_owned()], normalise: vec![] };
        Self { schema: schema(), secret: NetworkSecret::new(vec![1; 32]).unwrap(), key }
    }

    fn scope(&self, rows: &str) -> Arc<Scope> {
        let agreement = serde_json::from_value(json!({"number": "A-1", "version": 1, "provider": "1",
            "consumer": "2", "channel": "c", "purpose": "p", "legal_basis": "l",
            "valid_from": "2026-01-01T00:00:00Z", "history": "full", "schema_version": 1, "rows": rows,
            "fields": {"regcode": "keep", "name": "keep", "territory": "keep", "address": "keep"}}))
        .unwrap();
        let agreed = &self.schema;
        let writer = &self.schema;
        let terms = Terms { agreed, writer, age: Age::Same, key: &self.key, secret: &self.secret };
        Arc::new(Scope::compile(&agreement, &terms).unwrap())
    }

    fn index(&self, rules: impl IntoIterator<Item = String>) -> Index {
        let mut index = Index::default();
        for rule in rules {
            index.add(self.scope(&rule));
        }
        index
    }
}

/// Events, and the buffers for judging them.
struct Events {
    schema: AvroSchema,
    each: Vec<(Vec<u8>, Vec<u8>)>,
    next: usize,
    ends: [Ends; 2],
    lookup: Lookup,
    deliveries: Permitted<Deliveries>,
}

impl Events {
    /// In a random order, by a simple generator.
    fn of(schema: AvroSchema, territories: usize) -> Self {
        let mut state = 1_usize;
        let mut draw = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let event = |_| {
            let territory = territory(draw(territories));
            let size = i64::try_from(draw(1_000_000)).unwrap();
            (row(&territory, size, "+371 20000001"), row(&territory, size, "+371 20000002"))
        };
        let each = (0..4 * DRAWN).map(event).collect();
        Self {
            schema,
            each,
            next: 0,
            ends: Default::default(),
            lookup: Lookup::default(),
            deliveries: Permitted::none(),
        }
    }

    /// Judges the next event. Returns how many groups get something.
    fn judge(&mut self, index: &Index) -> usize {
        let (before, after) = &self.each[self.next];
        self.next = (self.next + 1) % self.each.len();
        let [first, second] = &mut self.ends;
        let images = Images {
            before: Some(first.locate(self.schema.layout(), before).unwrap()),
            after: Some(second.locate(self.schema.layout(), after).unwrap()),
        };
        let mut told = 0;
        let deliveries = &mut self.deliveries;
        deliveries.clear();
        let tell = |_, found: Result<&Decision<'_>, Denial>| {
            black_box(found.unwrap().deliver(METADATA, deliveries)).unwrap();
            told += 1;
        };
        index.judge(Op::Update, "40003000001", &images, &mut self.lookup, tell).unwrap();
        told
    }
}

fn judge(criterion: &mut Criterion) {
    let compiler = Compiler::new();
    let mut group = criterion.benchmark_group("judge");
    for count in [1, 43, 1_121, 10_000] {
        let index =
            compiler.index((0..count).map(|number| format!("territory == \"{}\"", territory(number))));
        let mut events = Events::of(schema(), count.min(DRAWN));
        for _ in 0..events.each.len() {
            assert_eq!(events.judge(&index), 1, "each event has one match");
        }
        group.bench_function(format!("scopes_{count}"), |bencher| bencher.iter(|| events.judge(&index)));
    }
    group.finish();
}

/// Of a hundred scopes, `rest` have no access predicate, 15 ask for a range of sizes, and the others for a territory.
fn rule(number: usize, rest: usize) -> String {
    match number % 100 {
        kind if kind < rest => format!("name != owner && activity != \"62.01\" && address != \"{number}\""),
        kind if kind < rest + 15 => {
            let from = number * 97 % 1_000_000;
            format!("size >= {from} && size < {}", from + 500)
        }
        _ => format!("territory == \"{}\"", territory(number)),
    }
}

fn mixed(criterion: &mut Criterion) {
    let compiler = Compiler::new();
    let mut group = criterion.benchmark_group("mixed");
    for rest in [0, 1, 5] {
        let index = compiler.index((0..10_000).map(|number| rule(number, rest)));
        let mut events = Events::of(schema(), DRAWN);
        group.bench_function(format!("residual_{rest}_percent_of_10000"), |bencher| {
            bencher.iter(|| events.judge(&index));
        });
    }
    group.finish();
}

fn install(criterion: &mut Criterion) {
    let compiler = Compiler::new();
    let index = compiler.index((0..10_000).map(|number| rule(number, 5)));
    let mut group = criterion.benchmark_group("install");
    let mut number = 10_000;
    group.bench_function("compile", |bencher| {
        bencher.iter(|| {
            number += 1;
            compiler.scope(&rule(number, 5))
        });
    });
    group.bench_function("compile_and_install_into_10000", |bencher| {
        bencher.iter(|| {
            number += 1;
            let mut next = index.clone();
            next.add(compiler.scope(&rule(number, 5)));
            next
        });
    });
    group.finish();
    delays(&compiler, index);
}

/// The time that this thread had a core, without its waits for one.
fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// How long events take while scopes are added all the time, compared with no additions.
fn delays(compiler: &Compiler, index: Index) {
    let current = Mutex::new(Arc::new(index));
    let take = || Arc::clone(&current.lock().unwrap());
    let measure = || {
        let mut events = Events::of(schema(), DRAWN);
        let mut worked = Duration::ZERO;
        let mut took = Vec::with_capacity(1 << 20);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            let own = own_time();
            let from = Instant::now();
            black_box(events.judge(&take()));
            let now = from.elapsed();
            let own_now = own_time();
            worked = worked.max(own_now.saturating_sub(own));
            took.push(now);
        }
        took.sort_unstable();
        let at = |share: usize| took[(took.len() - 1) * share / 10_000];
        println!(
            "  {} events: p50 {:?}, p99.9 {:?}, longest {:?}; of the thread's own time {worked:?}",
            took.len(),
            at(5_000),
            at(9_990),
            at(10_000),
        );
    };
    println!("events judged, nothing installed:");
    measure();
    let numbers = AtomicUsize::new(20_000);
    // A hundred a second is more than a country signs in a day; no pause shows what the machine can do.
    for pause in [Duration::from_millis(10), Duration::ZERO] {
        let is_over = AtomicBool::new(false);
        let installed = AtomicUsize::new(0);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    let mut next = Index::clone(&take());
                    next.add(compiler.scope(&rule(number, 5)));
                    *current.lock().unwrap() = Arc::new(next);
                    installed.fetch_add(1, Ordering::Relaxed);
                    let until = Instant::now() + pause;
                    // The compiler's own thread may wake this one early.
                    while let Some(left) = until.checked_duration_since(Instant::now()) {
                        std::thread::park_timeout(left);
                    }
                }
            });
            println!("events judged while scopes are compiled and installed, {pause:?} between two:");
            measure();
            is_over.store(true, Ordering::Relaxed);
        });
        println!("  {} scopes were installed", installed.into_inner());
    }
}

criterion_group!(benches, judge, mixed, install);

fn work_of(name: &str, times: usize) {
    let compiler = Compiler::new();
    let by_territory =
        |count| compiler.index((0..count).map(|number| format!("territory == \"{}\"", territory(number))));
    let by_rules = |rest| compiler.index((0..10_000).map(|number| rule(number, rest)));
    let judged = |index: &Index, territories| {
        let mut events = Events::of(schema(), territories);
        once::counted_work(times, || {
            black_box(events.judge(index));
        });
    };
    match name {
        "compile" => once::counted_work(times, || {
            black_box(compiler.scope(&rule(7, 5)));
        }),
        "scopes_1" => judged(&by_territory(1), 1),
        "scopes_43" => judged(&by_territory(43), 43),
        "scopes_1121" => judged(&by_territory(1_121), DRAWN),
        "scopes_10000" => judged(&by_territory(10_000), DRAWN),
        "residual_0" => judged(&by_rules(0), DRAWN),
        "residual_1" => judged(&by_rules(1), DRAWN),
        "residual_5" => judged(&by_rules(5), DRAWN),
        other => once::unknown(other),
    }
}

fn main() {
    once::main(work_of, benches);
}
