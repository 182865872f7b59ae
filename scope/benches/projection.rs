//! Five of fifteen fields of a record of some 280 bytes: the plan compared with its alternatives, in one run.
//!
//! Owns the record. Before anything is measured, all functions must give equal values.

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

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use criterion::{Criterion, Throughput, criterion_group};
use schemas::avro::located::Ends;
use schemas::avro::schema::AvroSchema;
use schemas::key::KeySpec;
use scope::compile::{Age, Terms};
use scope::projection::Projection;
use scope::secret::NetworkSecret;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Counted from 0: the second, fifth, eighth, eleventh and fifteenth.
const PICKED: [usize; 5] = [1, 4, 7, 10, 14];

fn schema() -> serde_json::Value {
    json!({"type": "record", "name": "Company", "fields": [
        {"name": "regcode", "type": "string"},
        {"name": "name", "type": "string"},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["SIA", "AS", "IK", "BDR"]}},
        {"name": "registered", "type": {"type": "int", "logicalType": "date"}},
        {"name": "territory", "type": "string"},
        {"name": "former", "type": ["null", "string"]},
        {"name": "changed", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "address", "type": "string"},
        {"name": "capital", "type": "double"},
        {"name": "employees", "type": ["null", "long"]},
        {"name": "activity", "type": "string"},
        {"name": "is_active", "type": "boolean"},
        {"name": "email", "type": "string"},
        {"name": "phone", "type": ["null", "string"]},
        {"name": "atvk", "type": "string"},
    ]})
}

fn picked_schema() -> serde_json::Value {
    let all = schema();
    let fields: Vec<_> = PICKED.iter().map(|index| all["fields"][index].clone()).collect();
    json!({"type": "record", "name": "Company", "fields": fields})
}

#[derive(Serialize, Deserialize)]
struct Company<S> {
    regcode: S,
    name: S,
    kind: Kind,
    registered: i32,
    territory: S,
    former: Option<S>,
    changed: i64,
    address: S,
    capital: f64,
    employees: Option<i64>,
    activity: S,
    is_active: bool,
    email: S,
    phone: Option<S>,
    atvk: S,
}

#[derive(Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "SIA")]
    Limited,
    #[serde(rename = "AS")]
    Joint,
    #[serde(rename = "IK")]
    Trader,
    #[serde(rename = "BDR")]
    Society,
}

#[derive(Serialize)]
#[serde(rename = "Company")]
struct Picked<'a> {
    name: &'a str,
    territory: &'a str,
    address: &'a str,
    activity: &'a str,
    atvk: &'a str,
}

impl<'a> Picked<'a> {
    fn of<S: AsRef<str>>(company: &'a Company<S>) -> Self {
        let Company { name, territory, address, activity, atvk, .. } = company;
        let [name, territory, address, activity, atvk] =
            [name, territory, address, activity, atvk].map(AsRef::as_ref);
        Self { name, territory, address, activity, atvk }
    }
}

fn value() -> Value {
    let text = |text: &str| Value::String(text.to_owned());
    let fields = [
        ("regcode", text("40003000001")),
        ("name", text("SIA \"Baltijas datu apmaiņa un partneri\"")),
        ("kind", Value::Enum(0, "SIA".to_owned())),
        ("registered", Value::Date(18_765)),
        ("territory", text("LV-RIX")),
        ("former", Value::Union(1, Box::new(text("SIA Datu apmaina")))),
        ("changed", Value::TimestampMillis(1_767_571_200_123)),
        ("address", text("Brīvības gatve 214 - 12, Rīga, LV-1039")),
        ("capital", Value::Double(2_845.74)),
        ("employees", Value::Union(1, Box::new(Value::Long(99)))),
        ("activity", text("62.01 Computer programming activities")),
        ("is_active", Value::Boolean(true)),
        ("email", text("info@baltijasdati.example")),
        ("phone", Value::Union(1, Box::new(text("+371 20000001")))),
        ("atvk", text("0001000 Rīga, Vidzemes priekšpilsēta")),
    ];
    Value::Record(fields.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

type Library<'s> = (GenericDatumReader<'s>, GenericDatumWriter<'s>);

struct Sides {
    whole: AvroSchema,
    picked: AvroSchema,
    fast_whole: serde_avro_fast::Schema,
    fast_picked: serde_avro_fast::Schema,
    plan: Projection,
    datum: Vec<u8>,
}

impl Sides {
    fn new() -> Self {
        let whole = AvroSchema::from_json(schema()).unwrap();
        let picked = AvroSchema::from_json(picked_schema()).unwrap();
        let fields = picked.record().unwrap().record.fields.iter();
        let fields: serde_json::Map<_, _> = fields.map(|field| (field.name.clone(), json!("keep"))).collect();
        let agreement = serde_json::from_value(json!({"number": "A-1", "version": 1, "provider": "1",
            "consumer": "2", "channel": "c", "purpose": "p", "legal_basis": "l",
            "valid_from": "2026-01-01T00:00:00Z", "history": "full", "schema_version": 1, "rows": "true",
            "fields": fields}))
        .unwrap();
        let secret = NetworkSecret::new(vec![1; 32]).unwrap();
        let key = KeySpec { fields: vec!["regcode".to_owned()], normalise: vec![] };
        let terms = Terms { agreed: &whole, writer: &whole, age: Age::Same, key: &key, secret: &secret };
        let plan = Projection::compile(&agreement, &terms).unwrap();
        let writer = GenericDatumWriter::builder(whole.parsed()).build().unwrap();
        let datum = writer.write_value_to_vec(value()).unwrap();
        let fast = |schema: &AvroSchema| schema.text().parse().unwrap();
        Self { fast_whole: fast(&whole), fast_picked: fast(&picked), whole, picked, plan, datum }
    }

    fn plan(&self, ends: &mut Ends, out: &mut Vec<u8>) {
        out.clear();
        let located = ends.locate(self.whole.layout(), black_box(&self.datum)).unwrap();
        self.plan.write(located, out).unwrap();
    }

    /// Like `plan`, for a record that was located before: the cost of each further scope.
    fn plan_of_located(&self, ends: &Ends, out: &mut Vec<u8>) {
        out.clear();
        self.plan.write(ends.of(black_box(&self.datum)), out).unwrap();
    }

    fn apache_avro_value(&self, (reader, writer): &Library<'_>) -> Vec<u8> {
        let Value::Record(fields) = reader.read_value(&mut black_box(self.datum.as_slice())).unwrap() else {
            return Vec::new();
        };
        let mut fields: Vec<_> = fields.into_iter().map(Some).collect();
        let picked = PICKED.iter().filter_map(|index| fields.get_mut(*index)?.take()).collect();
        writer.write_value_to_vec(Value::Record(picked)).unwrap()
    }

    fn apache_avro_serde(&self, (reader, writer): &Library<'_>) -> Vec<u8> {
        let company: Company<String> = reader.read_deser(&mut black_box(self.datum.as_slice())).unwrap();
        writer.write_ser_to_vec(&Picked::of(&company)).unwrap()
    }

    fn serde_avro_fast(
        &self,
        config: &mut serde_avro_fast::ser::SerializerConfig<'_>,
        out: Vec<u8>,
    ) -> Vec<u8> {
        let company: Company<&str> =
            serde_avro_fast::from_datum_slice(black_box(&self.datum), &self.fast_whole).unwrap();
        serde_avro_fast::to_datum(&Picked::of(&company), out, config).unwrap()
    }

    /// The library's reader and writer, which are built once.
    fn library(&self) -> Library<'_> {
        let reader = GenericDatumReader::builder(self.whole.parsed()).build().unwrap();
        (reader, GenericDatumWriter::builder(self.picked.parsed()).build().unwrap())
    }

    fn check(&self) {
        let library = self.library();
        let mut ends = Ends::default();
        let mut out = Vec::new();
        self.plan(&mut ends, &mut out);
        let mut again = Vec::new();
        self.plan_of_located(&ends, &mut again);
        let mut config = serde_avro_fast::ser::SerializerConfig::new(&self.fast_picked);
        for other in [
            again,
            self.apache_avro_value(&library),
            self.apache_avro_serde(&library),
            self.serde_avro_fast(&mut config, Vec::new()),
        ] {
            assert_eq!(out, other);
        }
    }
}

fn projection(criterion: &mut Criterion) {
    let sides = Sides::new();
    sides.check();
    println!("a record of {} bytes", sides.datum.len());
    let library = sides.library();
    let mut ends = Ends::default();
    let mut out = Vec::with_capacity(1_024);
    let mut group = criterion.benchmark_group("projection");
    group.throughput(Throughput::Bytes(u64::try_from(sides.datum.len()).unwrap()));
    group.bench_function("plan", |bencher| bencher.iter(|| sides.plan(&mut ends, &mut out)));
    group.bench_function("plan_of_located", |bencher| {
        bencher.iter(|| sides.plan_of_located(&ends, &mut out));
    });
    group.bench_function("apache_avro_value", |bencher| bencher.iter(|| sides.apache_avro_value(&library)));
    group.bench_function("apache_avro_serde", |bencher| bencher.iter(|| sides.apache_avro_serde(&library)));
    let mut config = serde_avro_fast::ser::SerializerConfig::new(&sides.fast_picked);
    let mut reused = Vec::with_capacity(1_024);
    group.bench_function("serde_avro_fast", |bencher| {
        bencher.iter(|| {
            let mut buffer = std::mem::take(&mut reused);
            buffer.clear();
            reused = sides.serde_avro_fast(&mut config, buffer);
        });
    });
    group.bench_function("memcpy", |bencher| {
        bencher.iter(|| {
            out.clear();
            out.extend_from_slice(black_box(&sides.datum));
            black_box(&out);
        });
    });
    group.finish();
}

criterion_group!(benches, projection);

fn work_of(name: &str, times: usize) {
    let sides = Sides::new();
    let mut ends = Ends::default();
    let mut out = Vec::with_capacity(1_024);
    sides.plan(&mut ends, &mut out);
    match name {
        "plan" => once::counted_work(times, || sides.plan(&mut ends, &mut out)),
        "plan_of_located" => once::counted_work(times, || sides.plan_of_located(&ends, &mut out)),
        other => once::unknown(other),
    }
}

fn main() {
    once::main(work_of, benches);
}
