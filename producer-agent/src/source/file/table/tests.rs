//! Files as people have them: each row with its location, or why there is none.

use super::*;

fn open(name: &str, bytes: &[u8], format: &TableFormat) -> Result<(Vec<String>, Vec<Row>), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let mut table = Table::open(&path, format).map_err(|error| error.to_string())?;
    let header = table.header().to_vec();
    Ok((header, std::iter::from_fn(|| table.next_row().cloned()).collect()))
}

fn rows(name: &str, bytes: &[u8], format: &TableFormat) -> (Vec<String>, Vec<Row>) {
    open(name, bytes, format).unwrap()
}

fn texts(row: &Row) -> Vec<String> {
    let text = |cell: Cell<&str>| match cell {
        Cell::Plain(text) | Cell::Text(text) | Cell::Number(text) => text.to_owned(),
        other => format!("{other:?}"),
    };
    let cells = row.content().unwrap();
    let texts = cells.iter().map(text);
    match cells.names() {
        None => texts.collect(),
        Some(names) => names.zip(texts).map(|(name, text)| format!("{name}={text}")).collect(),
    }
}

fn cells(rows: &[Row]) -> Vec<Vec<String>> {
    rows.iter().map(texts).collect()
}

fn bad(row: &Row) -> (u64, u64, u64, Extent, &str) {
    let bad = row.content().unwrap_err();
    (bad.location.line, bad.location.character, bad.location.byte, bad.extent, &bad.reason)
}

fn plain() -> TableFormat {
    TableFormat::default()
}

#[test]
fn quotes_marks_and_tabs_are_read() {
    let text = "\u{feff}a,b\n\"x, \"\"y\"\"\",\"1\n2\"\nz,3\n";
    let (header, found) = rows("a.csv", text.as_bytes(), &plain());
    assert_eq!(header, ["a", "b"], "the byte order mark is no part of a name");
    assert_eq!(cells(&found), [["x, \"y\"", "1\n2"], ["z", "3"]]);
    assert_eq!(found.iter().map(|row| row.location.line).collect::<Vec<_>>(), [2, 4]);
    assert_eq!((found[1].location.byte, found[1].location_of(1).byte), (24, 26));
    for name in ["a.tsv", "A.TSV", "a.tab"] {
        let (header, found) = rows(name, b"a\tb\n1\t\n", &plain());
        assert_eq!(
            (header, cells(&found)),
            (vec!["a".into(), "b".into()], vec![vec!["1".into(), String::new()]])
        );
    }
}

#[test]
fn lines_and_places_are_the_same_whatever_ends_them() {
    for end in ["\n", "\r\n", "\r"] {
        for last in [end, ""] {
            let text = ["a,b", "1,2", "", "3", "\"x", "y\",zž", "5,6"].join(end) + last;
            let (_, found) = rows("a.csv", text.as_bytes(), &plain());
            assert_eq!(
                found.iter().map(|row| row.location.line).collect::<Vec<_>>(),
                [2, 4, 5, 7],
                "{end:?} {last:?}"
            );
            assert_eq!(bad(&found[1]).0, 4);
            let location = found[2].location_of(1);
            assert_eq!((location.line, location.character), (6, 4));
            assert_eq!(usize::try_from(location.byte).unwrap(), text.find('z').unwrap());
            assert_eq!(texts(&found[3]), ["5", "6"]);
        }
    }
}

#[test]
fn every_encoding_gives_the_same_text_and_its_own_bytes() {
    let text = "vārds,€\nŽīgurs,ņ\n";
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked: Vec<u8> = [vec![0xff, 0xfe], utf16.clone()].concat();
    let (baltic, _, _) = encoding_rs::WINDOWS_1257.encode(text);
    let named = |encoding: &str| TableFormat { encoding: encoding.to_owned(), ..plain() };
    for (bytes, encoding, byte) in [
        (text.as_bytes(), "utf-8", 20),
        (&utf16, "utf-16le", 30),
        (&marked, "utf-8", 32),
        (&baltic, "windows-1257", 15),
    ] {
        let (header, found) = rows("a.csv", bytes, &named(encoding));
        assert_eq!(
            (header, cells(&found)),
            (vec!["vārds".into(), "€".into()], vec![vec!["Žīgurs".into(), "ņ".into()]])
        );
        assert_eq!(found[0].location_of(1).byte, byte, "{encoding}");
    }
}

#[test]
fn a_replacement_character_of_the_source_is_its_own() {
    let (_, found) = rows("a.csv", b"k,v\n1,Sk\xef\xbf\xbdne\n3,Sk\xe2ne\n", &plain());
    assert_eq!(texts(&found[0]), ["1", "Sk\u{fffd}ne"]);
    assert_eq!(texts(&found[1])[1], "Undecodable(Some(\"windows-1257\"))");
    let said = open("a.csv", b"k,v\xe2rds\n1,2\n", &plain()).unwrap_err();
    assert!(said.contains("looks like windows-1257"), "{said}");
}

#[test]
fn a_record_of_the_wrong_width_is_given_with_its_line() {
    let (_, found) = rows("a.csv", b"a,b\n1,2\n3\n4,5\n", &plain());
    assert_eq!(bad(&found[1]), (3, 1, 8, Extent::Row, "it has 1 cells, the header has 2"));
    assert_eq!(found.len(), 3);
}

#[test]
fn a_broken_quote_in_one_line_leaves_the_others() {
    let text =
        "k,n,o\n1,\"SIA \"Ozols\"\",a\n3,\"ok \"\"fine\"\"\",c\n4,SIA \"Mid\" x,d\n5,\"Liepa\" SIA,e\n";
    let (_, found) = rows("a.csv", text.as_bytes(), &plain());
    assert_eq!((bad(&found[0]).0, bad(&found[0]).1, bad(&found[0]).3), (2, 9, Extent::Quotes));
    assert_eq!(texts(&found[1])[1], "ok \"fine\"");
    assert_eq!(texts(&found[2])[1], "SIA \"Mid\" x");
    assert_eq!((bad(&found[3]).0, bad(&found[3]).3), (5, Extent::Quotes));
}

#[test]
fn an_open_quote_ends_what_can_be_trusted() {
    for text in [
        "k,n\n1,a\n2,\"new\n3,c\n4,\"quoted\"\n5,e\n",
        "k,n\n1,a\n2,\"new\n3,c\n",
        "k,n\n1,a\n2,\"a\"b\"\n3,c\n",
        "k,n,o\n1,a,b\n2,\"a\"b\",\"c\n3,c,d\n",
    ] {
        let (_, found) = rows("a.csv", text.as_bytes(), &plain());
        assert_eq!(found.len(), 2, "{text}");
        assert_eq!(bad(&found[1]).3, Extent::Rest);
    }
    let (_, found) = rows("a.csv", b"k,n\n2,\"new\n3,c\n", &plain());
    assert_eq!((bad(&found[0]).0, bad(&found[0]).1), (2, 3), "where it was opened");
    let endless = format!("k,n\n2,\"{}", "x\n".repeat(MAX_RECORD_BYTES));
    let (_, found) = rows("a.csv", endless.as_bytes(), &plain());
    assert_eq!((found.len(), bad(&found[0]).3), (1, Extent::Rest));
}

#[test]
fn what_quotes_mean_can_be_told() {
    let quoting = |quoting| TableFormat { quoting, ..plain() };
    let text = b"k,n\n1,\"SIA \"Ozols\"\"\n2,\"open\n3,\"two\nlines\"\n";
    let (_, found) = rows("a.csv", text, &quoting(Quoting::Lenient));
    assert_eq!(cells(&found[..2]), [["1", "SIA \"Ozols\""], ["2", "\"open"]]);
    let (_, found) = rows("a.csv", b"k,n\n1,\"a\nb\"\n2,x\n", &quoting(Quoting::Lenient));
    assert_eq!(cells(&found), [["1", "a\nb"], ["2", "x"]]);
    let (_, found) = rows("a.csv", b"k,n\n1,\"no \\\"x\\\"\"\n2,\\N\n", &quoting(Quoting::Backslash));
    assert_eq!(cells(&found), [["1", "no \"x\""], ["2", "\\N"]]);
    let (_, found) = rows("a.csv", b"k,n\n1,\"a\n", &quoting(Quoting::None));
    assert_eq!(cells(&found), [["1", "\"a"]]);
}

#[test]
fn a_quote_that_takes_rows_for_text_is_refused_or_told() {
    let text = b"k,n\n1,\"open\n2,b\n3,closed\"\n4,\"two\nlines\"\n";
    let (_, found) = rows("a.csv", text, &TableFormat { quoting: Quoting::Lenient, ..plain() });
    let refused = bad(&found[0]);
    assert_eq!((refused.0, refused.1, refused.3), (2, 3, Extent::Quotes));
    assert_eq!(cells(&found[1..]), [["4", "two\nlines"]]);
    // By RFC 4180 these lines are a cell.
    let (_, found) = rows("a.csv", text, &plain());
    assert_eq!(cells(&found), [["1", "open\n2,b\n3,closed"], ["4", "two\nlines"]]);
    let noted = |text: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.csv"), text).unwrap();
        let mut table = Table::open(&dir.path().join("a.csv"), &plain()).unwrap();
        while table.next_row().is_some() {}
        table.rows_in_quotes().map(|(count, location)| (count, location.line, location.character))
    };
    assert_eq!(noted(text), Some((1, 2, 3)));
    assert_eq!(noted(b"n,k\n\"a\nb\",1\n\"a\nb, c\",2\n"), None, "the first lines are no rows");
    let one_column = b"k,a,b\n1,\"Alfa,5\n2,Pipe 5\",6\n";
    assert_eq!(noted(one_column), Some((1, 2, 3)), "a row of three became a cell and a half");
    let (_, found) = rows("a.csv", one_column, &TableFormat { quoting: Quoting::Lenient, ..plain() });
    assert_eq!(bad(&found[0]).3, Extent::Quotes);
    assert_eq!(noted(b"k,n\n1,\"x\n2,y\n3,z\",w\n"), None, "it has a cell too many, and is parked");
}

#[test]
fn objects_a_line_are_rows_too() {
    let text = "\n{\"b\":1.0,\"a\":\"x\"}\n{\"a\":null}\n \n{\"a\":[],\"b\":2}\nno\n{\"a\":1,\"a\":2}\n";
    for name in ["a.ndjson", "a.jsonl", "A.JSON"] {
        let (header, found) = rows(name, text.as_bytes(), &plain());
        assert_eq!(header, ["b", "a"]);
        assert_eq!(texts(&found[0]), ["b=1.0", "a=x"]);
        assert_eq!(texts(&found[1]), ["a=Null"]);
        assert_eq!(texts(&found[2])[0], "a=Nested");
        assert!(bad(&found[3]).4.contains("no JSON object") && bad(&found[4]).4.contains("twice"));
        assert_eq!(found.iter().map(|row| row.location.line).collect::<Vec<_>>(), [2, 3, 5, 6, 7]);
        assert_eq!((found[0].location_of(1).line, found[0].location_of(1).character), (2, 14));
    }
    let said = |text: &str| open("a.json", text.as_bytes(), &plain()).unwrap_err();
    assert!(said("[{\"a\":1}]").contains("a JSON array; drop NDJSON"));
    assert!(said("{\n \"a\": 1}").contains("no whole JSON object"));
}

#[test]
fn a_trailer_shows_that_a_file_is_whole() {
    let format = TableFormat { trailer: Some("({rows} rows affected)".to_owned()), ..plain() };
    let (_, found) = rows("a.csv", b"k\n1\n2\n\n(2 rows affected)\n\n", &format);
    assert_eq!(cells(&found), [["1"], ["2"]]);
    for (text, words) in
        [("k\n1\n2\n", "without its trailer"), ("k\n1\n(2 rows affected)", "counts 2 rows, it has 1")]
    {
        let (_, found) = rows("a.csv", text.as_bytes(), &format);
        let (.., extent, reason) = bad(found.last().unwrap());
        assert!(extent == Extent::File && reason.contains(words), "{reason}");
    }
}

#[test]
fn what_cannot_be_a_table_is_named() {
    let said = |name: &str, bytes: &[u8]| open(name, bytes, &plain()).unwrap_err();
    assert!(said("a.csv", b"").contains("the file is empty"));
    assert!(said("a.ndjson", b"\n\n").contains("the file is empty"));
    assert!(said("a.xlsx", b"PK\x03\x04xl/").contains("save it as CSV"));
    assert!(said("a.csv", b"\"a,b\n1,2\n").contains("nowhere closed"));
    let dir = tempfile::tempdir().unwrap();
    assert!(Table::open(dir.path(), &plain()).map(drop).unwrap_err().to_string().contains("a folder"));
}
