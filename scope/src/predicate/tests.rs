//! The predicate language against its rules, and against the `cel` interpreter on data without nulls.

use apache_avro::types::Value;
use proptest::prelude::*;
use schemas::avro::schema::AvroSchema;

use super::{Predicate, Truth};

fn schema() -> AvroSchema {
    AvroSchema::parse(
        r#"{"type":"record","name":"R","fields":[
        {"name":"territory","type":["null","string"],"aliases":["old_territory"]},
        {"name":"size","type":["null","long"]},
        {"name":"share","type":"double"},
        {"name":"open","type":["null","boolean"]},
        {"name":"kind","type":{"type":"enum","name":"K","symbols":["SIA","AS"]}},
        {"name":"since","type":{"type":"int","logicalType":"date"}},
        {"name":"address","type":["null",{"type":"record","name":"A","fields":[{"name":"city","type":"string"}]}]}
        ]}"#,
    )
    .unwrap_or_else(|e| panic!("{e}"))
}

fn optional(value: Option<Value>) -> Value {
    value.map_or(Value::Union(0, Box::new(Value::Null)), |v| Value::Union(1, Box::new(v)))
}

fn row(territory: Option<&str>, size: Option<i64>, open: Option<bool>, city: Option<&str>) -> Value {
    let text = |s: &str| Value::String(s.to_owned());
    let address = city.map(|city| Value::Record(vec![("city".to_owned(), text(city))]));
    Value::Record(
        [
            ("territory", optional(territory.map(text))),
            ("size", optional(size.map(Value::Long))),
            ("share", Value::Double(0.5)),
            ("open", optional(open.map(Value::Boolean))),
            ("kind", Value::Enum(0, "SIA".to_owned())),
            ("since", Value::Date(18_809)),
            ("address", optional(address)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
    )
}

fn truth(text: &str, row: &Value) -> Truth {
    Predicate::compile(text, &schema()).unwrap_or_else(|e| panic!("{text}: {e}")).evaluate(row)
}

#[test]
fn null_is_unknown_as_in_sql() {
    let nothing = row(None, None, None, None);
    for unknown in [
        "territory == \"R\"",
        "territory != \"R\"",
        "!(territory == \"R\")",
        "territory in [\"R\"]",
        "territory.startsWith(\"R\")",
        "size < 3",
        "open",
        "!open",
        "size < 3 && true",
        "size < 3 || false",
        "address.city == \"Ogre\"",
    ] {
        assert_eq!(truth(unknown, &nothing), Truth::Unknown, "{unknown}");
    }
    for holds in [
        "territory == null",
        "size < 3 || true",
        "!(size < 3 && false)",
        "address == null",
        "!has(address.city)",
    ] {
        assert_eq!(truth(holds, &nothing), Truth::True, "{holds}");
    }
    let some = row(Some("R"), Some(2), Some(true), Some("Ogre"));
    assert_eq!(truth("territory in [\"X\", null]", &some), Truth::Unknown);
    assert_eq!(truth("territory in [\"R\", null]", &some), Truth::True);
}

#[test]
fn every_construct_of_the_subset_works() {
    let some = row(Some("LV-RIX"), Some(2), Some(true), Some("Ogre"));
    for holds in [
        "true",
        "territory in [\"LV-RIX\", \"LV-OGR\"] && open",
        "old_territory == \"LV-RIX\"",
        "territory.startsWith(\"LV-\")",
        "3 > size && size >= -2",
        "share < 0.75",
        "kind == \"SIA\" && kind != \"AS\"",
        "since == date(\"2021-07-01\") && since > date(\"2021-06-30\")",
        "address.city == \"Ogre\" && has(address.city)",
        "open == true",
        "territory != null",
    ] {
        assert_eq!(truth(holds, &some), Truth::True, "{holds}");
    }
}

#[test]
fn what_is_not_part_of_the_subset_is_refused_with_its_place_and_remedy() {
    for (text, at, hint) in [
        ("teritory == \"R\"", 1, "the fields are territory"),
        ("true && size == 1.0", 17, "a whole number"),
        ("share == 1", 10, "decimal point"),
        ("size + 1 == 2", 6, "not part"),
        ("kind == \"XX\"", 9, "SIA, AS"),
        ("since == \"2021-07-01\"", 10, "write date"),
        ("territory", 1, "compare it"),
        ("size < null", 6, "== null"),
        ("territory.matches(\"x\")", 18, "not part"),
        ("address == \"x\"", 12, "a record"),
        ("territory ==", 13, "the text ends in the middle"),
        ("territory = \"R\"", 11, "compare with =="),
        ("size == 1 &&\n size = 3", 20, "compare with =="),
        ("open and open", 6, "write && for and"),
        ("open & open", 6, "write && for and"),
        ("territory == \"R", 14, "end the text"),
        ("vārds == 1", 2, "ASCII letters"),
        ("package == 1", 1, "is a word of the language"),
        (" ", 1, "write true"),
        ("size == 9223372036854775808", 9, "64 bits"),
        ("has(size)", 5, "!= null"),
        ("[1].all(x, x > 0)", 8, "subset"),
    ] {
        match Predicate::compile(text, &schema()) {
            Ok(_) => panic!("{text} was taken"),
            Err(error) => {
                assert!(error.to_string().contains(hint), "{text}: {error}");
                assert_eq!(error.at, at, "{text}: {error}");
            }
        }
    }
}

#[test]
fn what_stands_in_a_text_is_no_nesting() {
    for text in ["-".repeat(60), "(".repeat(60), ".".repeat(60), "!(".repeat(40)] {
        assert!(Predicate::compile(&format!("territory == \"{text}\""), &schema()).is_ok(), "{text}");
        assert!(
            Predicate::compile(&format!("(territory in ['{text}', \"b\"])"), &schema()).is_ok(),
            "{text}"
        );
    }
}

#[test]
fn hostile_text_is_refused_and_does_not_abort() {
    let nested = format!("{}true{}", "(".repeat(1000), ")".repeat(1000));
    let unary = format!("{}open", "!".repeat(1000));
    let spaced = format!("{}open", "! ".repeat(1000));
    let long = format!("territory in [{}]", "\"x\",".repeat(5000));
    for text in [nested, unary, spaced, long] {
        assert!(Predicate::compile(&text, &schema()).is_err());
    }
    assert!(Predicate::compile("has(has(&r.q)0r.q)", &schema()).is_err(), "an error without a place");
    // The lexer makes the quote part of a token that it does not understand: the parser does not see a text after it.
    for open in ["(", "[", "{", "!", "-", "(!", "[("] {
        let most = schemas::limits::MAX_PREDICATE_BYTES - 8;
        let swallowed = format!("t =\"{}\"", open.repeat(most / open.len()));
        assert!(Predicate::compile(&swallowed, &schema()).is_err());
    }
    let chained = vec!["size==1"; 400].join("||");
    assert!(Predicate::compile(&chained, &schema()).is_ok(), "a long chain is no nesting");
}

fn oracle(text: &str, territory: &str, size: i64, open: bool) -> bool {
    let program = cel::Program::compile(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let mut context = cel::Context::default();
    context.add_variable_from_value("territory", territory);
    context.add_variable_from_value("size", size);
    context.add_variable_from_value("open", open);
    program.execute(&context) == Ok(cel::Value::Bool(true))
}

fn predicate_text() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        "[ab]{0,2}".prop_map(|s| format!("territory == \"{s}\"")),
        "[ab]{0,2}".prop_map(|s| format!("territory != \"{s}\"")),
        "[ab]{0,2}".prop_map(|s| format!("territory.startsWith(\"{s}\")")),
        "[ab]{0,2}".prop_map(|s| format!("territory in [\"{s}\", \"b\"]")),
        (-2_i64..3).prop_map(|n| format!("size < {n}")),
        (-2_i64..3).prop_map(|n| format!("{n} >= size")),
        Just("open".to_owned()),
    ];
    atom.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            inner.prop_map(|a| format!("!({a})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn without_nulls_it_equals_the_cel_interpreter(
        text in predicate_text(), territory in "[ab]{0,2}", size in -3_i64..4, open: bool,
    ) {
        let ours = truth(&text, &row(Some(&territory), Some(size), Some(open), None));
        prop_assert_eq!(ours == Truth::True, oracle(&text, &territory, size, open), "{}", text);
        prop_assert_ne!(ours, Truth::Unknown);
    }
}
