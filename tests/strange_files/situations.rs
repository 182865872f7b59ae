//! Situations of the reported kinds, with data of our own: the contents of files, and the rows that come of them.
//!
//! Owns the table. A situation is some files in order, their format, and the rows and locations that must come of them.

use serde_json::{Value as Json, json};

use crate::provider::{Provider, schema};

struct Situation {
    name: &'static str,
    fields: Json,
    format: &'static str,
    files: Vec<(&'static str, Vec<u8>)>,
    /// The rows in the end, by key.
    rows: Json,
    /// Lines of the last file that are parked, each with a word of its reason.
    parked: Vec<(u64, &'static str)>,
    /// Words of why the last file deletes nothing, or is refused.
    held: Option<&'static str>,
    refused: Option<&'static str>,
}

fn situation(name: &'static str, files: &[(&'static str, &str)], rows: Json) -> Situation {
    let files = files.iter().map(|(name, text)| (*name, text.as_bytes().to_vec())).collect();
    let fields = json!({"id": "string", "v": "string"});
    Situation { name, fields, format: "", files, rows, parked: vec![], held: None, refused: None }
}

impl Situation {
    fn fields(mut self, fields: Json) -> Self {
        self.fields = fields;
        self
    }

    fn format(mut self, format: &'static str) -> Self {
        self.format = format;
        self
    }

    fn bytes(mut self, name: &'static str, bytes: &[u8]) -> Self {
        self.files.push((name, bytes.to_vec()));
        self
    }

    fn parks(mut self, parked: &[(u64, &'static str)]) -> Self {
        self.parked = parked.to_vec();
        self
    }

    fn holds(mut self, words: &'static str) -> Self {
        self.held = Some(words);
        self
    }

    fn refuses(mut self, words: &'static str) -> Self {
        self.refused = Some(words);
        self
    }

    fn play(&self) {
        let name = self.name;
        let mut provider = Provider::new(&schema(&self.fields), &["id"], self.format);
        let mut last = None;
        for (file, bytes) in &self.files {
            last = Some(provider.take(file, bytes));
        }
        match (last.unwrap(), self.refused) {
            (Err(error), Some(words)) => {
                assert!(error.is_of_the_file() && error.to_string().contains(words), "{name}: {error}");
            }
            (Err(error), None) => panic!("{name}: {error}"),
            (Ok(report), Some(_)) => panic!("{name}: it was not refused: {report:?}"),
            (Ok(report), None) => {
                let found: Vec<(u64, &str)> =
                    report.parked.iter().map(|row| (row.location.line, row.reason.as_str())).collect();
                let fits = found.len() == self.parked.len()
                    && found.iter().zip(&self.parked).all(|(a, b)| a.0 == b.0 && a.1.contains(b.1));
                assert!(fits, "{name}: parked are {found:?}");
                let held = report.deletes_held.unwrap_or_default();
                assert_eq!(held.is_empty(), self.held.is_none(), "{name}: {held}");
                assert!(held.contains(self.held.unwrap_or_default()), "{name}: {held}");
            }
        }
        let rows: Json = provider.rows().values().cloned().collect();
        assert_eq!(rows, self.rows, "{name}");
    }
}

fn decimal() -> Json {
    json!({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2})
}

fn amount() -> Json {
    json!({"id": "string", "v": decimal()})
}

fn logical(base: &str, logical: &str) -> Json {
    json!({"id": "string", "v": {"type": base, "logicalType": logical}})
}

/// The reported cases, with other data.
fn as_reported() -> Vec<Situation> {
    let two = || json!([{"id": "1", "v": "a"}, {"id": "2", "v": "b"}]);
    let monday = ("1.csv", "id,v\n1,a\n2,b\n");
    vec![
        situation(
            "a trailing word of a tool",
            &[monday, ("2.csv", "id,v\n1,a\n\n(1 row affected)\n")],
            two(),
        )
        .parks(&[(4, "1 cells")])
        .holds("line 4"),
        situation("an old end of file", &[monday, ("2.csv", "id,v\n1,a\n\u{1a}")], two())
            .parks(&[(3, "1 cells")])
            .holds("line 3"),
        situation(
            "more digits than the precision",
            &[("1.csv", "id,v\n1,-9999999.99\n2,10000000\n")],
            json!([{"id": "1", "v": "-9999999.99"}]),
        )
        .fields(amount())
        .parks(&[(3, "more than 9 digits")]),
        situation(
            "a dash, a point and nothing for a decimal",
            &[("1.csv", "id,v\n1,0.5\n2,-\n3,.\n4,\n")],
            json!([{"id": "1", "v": "0.50"}]),
        )
        .fields(amount())
        .parks(&[(3, "not a decimal"), (4, "not a decimal"), (5, "empty")]),
        situation(
            "a delete by its key alone",
            &[monday, ("2.csv", "op,id,v\nd,1,\n"), ("3.ndjson", "{\"op\":\"d\",\"id\":\"2\"}")],
            json!([]),
        )
        .format("operation_column = \"op\"")
        .fields(json!({"id": "string", "v": {"type": "enum", "name": "E", "symbols": ["a", "b"]}})),
        situation("a blank before a name", &[("1.csv", "id, v\n1,a\n")], json!([]))
            .refuses("\" v\" has a blank"),
        situation(
            "long numbers of JSON",
            &[(
                "1.ndjson",
                "{\"id\":20000000000000000000001,\"v\":1.10}\n{\"id\":20000000000000000000002,\"v\":1e2}\n",
            )],
            json!([{"id": "20000000000000000000001", "v": "1.10"}, {"id": "20000000000000000000002", "v": "1e2"}]),
        ),
        situation(
            "a short line of Windows",
            &[("1.csv", "id,v\r\n1,a\r\n2\r\n")],
            json!([{"id": "1", "v": "a"}]),
        )
        .parks(&[(3, "1 cells")])
        .holds("line 3"),
        situation(
            "a short line of an old Mac",
            &[("1.csv", "id,v\r1,a\r2\r3,c")],
            json!([{"id": "1", "v": "a"}, {"id": "3", "v": "c"}]),
        )
        .parks(&[(3, "1 cells")])
        .holds("line 3"),
        situation(
            "names in capitals",
            &[("1.TSV", "id\tv\n1\ta\n"), ("2.JSONL", "{\"id\":\"1\",\"v\":\"a2\"}")],
            json!([{"id": "1", "v": "a2"}]),
        ),
        situation("an array of JSON", &[("1.json", "[{\"id\":\"1\"}]")], json!([]))
            .refuses("an object a line"),
    ]
}

/// The other reported cases.
fn as_reported_too() -> Vec<Situation> {
    let two = || json!([{"id": "1", "v": "a"}, {"id": "2", "v": "b"}]);
    let monday = ("1.csv", "id,v\n1,a\n2,b\n");
    vec![
        situation(
            "members that are left out, and a blank line",
            &[("1.ndjson", "{\"id\":\"1\",\"v\":\"a\"}\n \n{\"id\":\"2\"}\n")],
            json!([{"id": "1", "v": "a"}, {"id": "2", "v": null}]),
        )
        .fields(json!({"id": "string", "v": ["null", "string"]})),
        situation(
            "no end of the last line",
            &[monday, ("2.csv", "id,v\n1,a\n2,c")],
            json!([{"id": "1", "v": "a"}, {"id": "2", "v": "c"}]),
        ),
        situation(
            "names of columns that look like the system's",
            &[("1.csv", "id,v,ctid\n1,a,z\n")],
            json!([{"ctid": "z", "id": "1", "v": "a"}]),
        )
        .fields(json!({"id": "string", "v": "string", "ctid": "string"})),
        situation(
            "quotes within quotes",
            &[("1.csv", "id,v\n1,\"SIA \"A\"\"\n2,b\n3,x \"y\" z\n")],
            json!([{"id": "2", "v": "b"}, {"id": "3", "v": "x \"y\" z"}]),
        )
        .parks(&[(2, "follows a closing quote")])
        .holds("line 2"),
        situation("a replacement character of the source", &[], json!([{"id": "1", "v": "\u{fffd}"}]))
            .bytes("1.csv", b"id,v\n1,\xef\xbf\xbd\n2,\xff\n")
            .parks(&[(3, "not of the file's encoding")]),
        situation(
            "the same row twice, and two of one key",
            &[("1.csv", "id,v\n1,a\n2,b\n1,a\n3,c\n3,d\n")],
            two(),
        )
        .parks(&[(5, "line 6 has the same key"), (6, "line 5 has the same key")]),
        situation(
            "a time finer than its type",
            &[("1.csv", "id,v\n1,1970-01-01T00:00:00.1230Z\n2,1969-12-31T23:59:59.9999Z\n")],
            json!([{"id": "1", "v": "1970-01-01T00:00:00.123Z"}]),
        )
        .fields(logical("long", "timestamp-millis"))
        .parks(&[(3, "finer than a millisecond")]),
        situation(
            "a quote that nothing closes",
            &[("1.csv", "id,v\n1,a\n2,b\n3,c\n"), ("2.csv", "id,v\n1,x\n2,\"new\n3,y\n")],
            json!([{"id": "1", "v": "x"}, {"id": "2", "v": "b"}, {"id": "3", "v": "c"}]),
        )
        .parks(&[(3, "nowhere closed")])
        .holds("nowhere closed"),
    ]
}

/// More of the first kind: reading.
fn of_reading() -> Vec<Situation> {
    let one = || json!([{"id": "1", "v": "a"}]);
    vec![
        situation("a delimiter at the end of each line", &[("1.csv", "id,v,\n1,a,\n")], one()),
        situation("a cell too many", &[("1.csv", "id,v\n1,a\n2,b,c\n")], one())
            .parks(&[(3, "3 cells")])
            .holds("line 3"),
        situation(
            "a line end within quotes, of another kind",
            &[("1.csv", "id,v\n1,\"a\r\nb\"\n")],
            json!([{"id": "1", "v": "a\r\nb"}]),
        ),
        situation("a quote at the very end", &[("1.csv", "id,v\n1,a\n2,\"")], one())
            .parks(&[(3, "nowhere closed")])
            .holds("nowhere closed"),
        situation("blanks around quotes", &[("1.csv", "id,v\n1,a\n2, \"b\"\n3,\"c\" \n")], one())
            .parks(&[(3, "a blank stands before a quote"), (4, "follows a closing quote")])
            .holds("line 3"),
        situation("a backslash before a quote", &[("1.csv", "id,v\n1,a\n2,\"b \\\"c\\\"\"\n")], one())
            .parks(&[(3, "backslash")])
            .holds("line 3"),
        situation(
            "backslashes that are told",
            &[("1.csv", "id,v\n1,\"b \\\"c\\\" \\\\ d\"\n2,\\N\n")],
            json!([{"id": "1", "v": "b \"c\" \\ d"}, {"id": "2", "v": null}]),
        )
        .format("quoting = \"backslash\"\nnull_marker = '\\N'")
        .fields(json!({"id": "string", "v": ["null", "string"]})),
        situation(
            "quotes that mean nothing",
            &[("1.csv", "id,v\n1,\"a\n2,b\"\n")],
            json!([{"id": "1", "v": "\"a"}, {"id": "2", "v": "b\""}]),
        )
        .format("quoting = \"none\""),
        situation("UTF-16 that nobody told", &[], json!([]))
            .bytes("1.csv", b"i\0d\0,\0v\0\n\0")
            .refuses("utf-16le"),
        situation("a workbook", &[], json!([]))
            .bytes("1.csv", b"PK\x03\x04xl/workbook.xml")
            .refuses("save it as CSV"),
        situation("a web page of an error", &[("1.csv", "<!DOCTYPE html>\n<html>")], json!([]))
            .refuses("a web page"),
        situation("another delimiter", &[("1.csv", "id;v\n1;a\n")], json!([])).refuses("separated by ';'"),
        situation("two marks of the byte order", &[("1.csv", "\u{feff}\u{feff}id,v\n1,a\n")], json!([]))
            .refuses("invisible"),
        situation("a name twice", &[("1.csv", "id,v,v\n1,a,b\n")], json!([])).refuses("both match field"),
        situation("a header alone", &[("1.csv", "id,v\n1,a\n"), ("2.csv", "id,v\n")], json!([])),
        situation("nothing at all", &[("1.csv", "id,v\n1,a\n"), ("2.csv", "")], one())
            .refuses("the file is empty"),
        situation(
            "a trailer that counts",
            &[("1.csv", "id,v\n1,a\n(1 rows)\n"), ("2.csv", "id,v\n1,b\n2,c\n(3 rows)\n")],
            one(),
        )
        .format("trailer = \"({rows} rows)\"")
        .refuses("counts 3 rows, it has 2"),
    ]
}

/// One cell that is refused, in line 2.
fn text(name: &'static str, file: &'static str, kind: Json, words: &'static str) -> Situation {
    situation(name, &[("1.csv", file)], json!([])).fields(kind).parks(&[(2, words)])
}

/// More of the second kind: values.
fn of_values() -> Vec<Situation> {
    vec![
        text(
            "a date with a time",
            "id,v\n1,2026-01-31T00:00:00\n",
            logical("int", "date"),
            "a date with a time",
        ),
        text("a day that is none", "id,v\n1,2026-02-30\n", logical("int", "date"), "not a date"),
        text(
            "a leap second",
            "id,v\n1,2016-12-31T23:59:60Z\n",
            logical("long", "timestamp-millis"),
            "leap second",
        ),
        text("not a number", "id,v\n1,NaN\n", json!({"id": "string", "v": "double"}), "not a number"),
        text(
            "a number that becomes nothing",
            "id,v\n1,1e-400\n",
            json!({"id": "string", "v": "double"}),
            "beyond",
        ),
        text(
            "a whole number with a fraction",
            "id,v\n1,5.0\n",
            json!({"id": "string", "v": "int"}),
            "whole number",
        ),
        situation(
            "how things are written here",
            &[("1.csv", "id;v\n1;1 234,56\n2;-\n")],
            json!([{"id": "1", "v": "1234.56"}, {"id": "2", "v": null}]),
        )
        .format("delimiter = \";\"\ndecimal_separator = \",\"\nnull_marker = [\"-\", \"NULL\"]")
        .fields(json!({"id": "string", "v": ["null", decimal()]})),
    ]
}

/// More of values in JSON, and of reports.
fn of_more_values() -> Vec<Situation> {
    let none = || json!([]);
    vec![
        situation(
            "dates as they are written here",
            &[("1.csv", "id,v\n1,14.05.2019\n2,2019-05-14\n")],
            json!([{"id": "1", "v": "2019-05-14"}]),
        )
        .format("date_format = \"dd.mm.yyyy\"")
        .fields(logical("int", "date"))
        .parks(&[(3, "such as 31.01.2026")]),
        situation(
            "a member twice",
            &[("1.ndjson", "{\"id\":\"1\",\"v\":\"a\",\"v\":\"b\"}\n{\"id\":\"2\",\"v\":\"c\"}\n")],
            json!([{"id": "2", "v": "c"}]),
        )
        .parks(&[(1, "stands there twice")])
        .holds("line 1"),
        situation("half a surrogate pair", &[("1.ndjson", "{\"id\":\"1\",\"v\":\"\\ud83d\"}\n")], none())
            .parks(&[(1, "escape")]),
        situation("null where none may be", &[("1.ndjson", "{\"id\":\"1\",\"v\":null}\n")], none())
            .parks(&[(1, "may not be null")]),
        situation(
            "an empty text is no null",
            &[("1.ndjson", "{\"id\":\"1\",\"v\":\"\"}\n")],
            json!([{"id": "1", "v": ""}]),
        )
        .fields(json!({"id": "string", "v": ["null", "string"]})),
        text(
            "a leap second without colons",
            "id,v\n1,20161231T235960Z\n",
            logical("long", "timestamp-millis"),
            "not a time",
        ),
        text(
            "a time of day with an offset",
            "id,v\n1,10:00:00+02:00\n",
            logical("int", "time-millis"),
            "not a time of day",
        ),
        situation("a nested value", &[("1.ndjson", "{\"id\":\"1\",\"v\":{\"a\":1}}\n")], none())
            .parks(&[(1, "nested")]),
        situation(
            "more digits than a double holds",
            &[("1.ndjson", "{\"id\":\"1\",\"v\":9007199254740993}\n")],
            none(),
        )
        .fields(json!({"id": "string", "v": "double"}))
        .parks(&[(1, "more digits")]),
        situation(
            "rounding that is told",
            &[("1.csv", "id,v\n1,0.125\n2,-0.125\n")],
            json!([{"id": "1", "v": "0.12"}, {"id": "2", "v": "-0.12"}]),
        )
        .format("rounding = \"half_even\"")
        .fields(amount()),
    ]
}

/// More of change files.
fn of_changes() -> Vec<Situation> {
    let full = ("0.csv", "id,v\n1,a\n2,b\n");
    let kept = || json!([{"id": "1", "v": "a"}, {"id": "2", "v": "b"}]);
    let changes = |name, text: &'static str, rows| {
        situation(name, &[full, ("1.csv", text)], rows).format("operation_column = \"op\"")
    };
    vec![
        changes("an operation that is none", "op,id,v\nU,1,x\nx,2,y\n", kept())
            .parks(&[(2, "none of c, u, d"), (3, "none of c, u, d")]),
        changes("a delete of what is not there", "op,id,v\nd,3,\n", kept()).parks(&[(2, "not there")]),
        changes("a delete without a key", "op,id,v\nd,,x\n", kept())
            .parks(&[(2, "the key of what it deletes")]),
        changes(
            "a key that comes, goes and comes",
            "op,id,v\nc,3,x\nd,3,\nc,3,y\n",
            json!([{"id": "1", "v": "a"}, {"id": "2", "v": "b"}, {"id": "3", "v": "y"}]),
        ),
        changes("a broken quote among changes", "op,id,v\nu,1,x\nu,2,\"y\" z\nu,1,w\n", kept())
            .refuses("line 3"),
        changes(
            "a create of what is there",
            "op,id,v\nc,1,x\n",
            json!([{"id": "1", "v": "x"}, {"id": "2", "v": "b"}]),
        ),
    ]
}

/// Attacks that a hostile reader of this code tried.
fn of_attacks() -> Vec<Situation> {
    let none = || json!([]);
    let one = || json!([{"id": "1", "v": "a"}]);
    let full = ("0.csv", "id,v\n1,a\n");
    let double = || json!({"id": "string", "v": "double"});
    let many_digits = format!("{{\"id\":\"1\",\"v\":1.{}1}}\n", "0".repeat(70_000));
    let endless = format!("id,v\n1,{}9,ghost\n", "A".repeat(4_198_391));
    let changes = |name, text: &'static str| {
        situation(name, &[full, ("1.csv", text)], one()).format("operation_column = \"op\"")
    };
    vec![
        changes("another spelling of the operation", "OP,id,v\nd,1,\n").refuses("write them alike"),
        changes("the operation twice", "op,op,id,v\nd,u,1,z\n").refuses("twice"),
        situation(
            "objects of which the first has no operation",
            &[full, ("1.ndjson", "{\"id\":\"1\",\"v\":\"a\"}\n{\"op\":\"d\",\"id\":\"1\",\"v\":\"b\"}\n")],
            one(),
        )
        .format("operation_column = \"op\"")
        .refuses("but the first row does not"),
        situation("a zero byte", &[("1.ndjson", "{\"id\":\"1\",\"v\":\"\\u0000\"}\n")], none())
            .parks(&[(1, "zero byte")]),
        situation("a number of very many digits", &[], none())
            .bytes("1.ndjson", many_digits.as_bytes())
            .fields(double())
            .parks(&[(1, "more digits")]),
        situation("a line without an end", &[], none())
            .bytes("1.csv", endless.as_bytes())
            .parks(&[(2, "nothing from here on is read")])
            .holds("nothing from here on"),
        situation(
            "a trailer that was not reached",
            &[("1.csv", "id,v\n1,a\n(1 rows)\n"), ("2.csv", "id,v\n1,b\n2,\"c")],
            one(),
        )
        .format("trailer = \"({rows} rows)\"")
        .refuses("nor the trailer"),
        situation(
            "values that are told nobody",
            &[("1.ndjson", "{\"id\":\"1\",\"v\":\"a\"}\n\"010190-12345\"\n")],
            one(),
        )
        .parks(&[(2, "it is no object")])
        .holds("line 2"),
        situation("groups that begin with nothing", &[("1.csv", "id;v\n1;0.123\n")], none())
            .format("delimiter = \";\"\ndecimal_separator = \",\"\ngroup_separator = \".\"")
            .fields(amount())
            .parks(&[(2, "not a decimal")]),
        situation("an empty file whose header was told", &[("1.csv", "1,a\n"), ("2.csv", "")], one())
            .format("header = [\"id\", \"v\"]")
            .refuses("the file is empty"),
    ]
}

#[test]
fn each_situation_gives_what_the_file_says_or_a_named_refusal() {
    let all: Vec<Situation> = [
        as_reported(),
        as_reported_too(),
        of_reading(),
        of_values(),
        of_more_values(),
        of_changes(),
        of_attacks(),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(all.len() > 50);
    // Each situation shows its own error.
    let fails =
        |one: &&Situation| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one.play())).is_err();
    let wrong: Vec<&str> = all.iter().filter(fails).map(|one| one.name).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
