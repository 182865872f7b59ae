//! Recognises a file that is no table, by its first bytes.
//!
//! Owns the advice for the person who dropped it. It never reads the contents of what it recognises.

/// Bytes that are looked at.
pub(super) const HEAD: usize = 4 * 1024;

/// What the file is and what to drop instead; `None` where it may be a table. `is_wide`: its encoding uses zero bytes
/// itself.
pub(super) fn no_table(head: &[u8], is_wide: bool) -> Option<&'static str> {
    let starts = |magic: &[u8]| head.starts_with(magic);
    let holds = |part: &[u8]| head.windows(part.len()).any(|window| window == part);
    if starts(b"PK\x03\x04") {
        return Some(match holds(b"xl/") || holds(b"[Content_Types].xml") {
            true => "it is an Excel workbook: save it as CSV UTF-8",
            false => "it is a zip archive: unpack it",
        });
    }
    let known: [(&[u8], &str); 10] = [
        (b"\xd0\xcf\x11\xe0", "it is an Excel workbook of the old kind: save it as CSV UTF-8"),
        (b"\x1f\x8b", "it is compressed with gzip: unpack it"),
        (b"\x28\xb5\x2f\xfd", "it is compressed with zstd: unpack it"),
        (b"\xfd7zXZ", "it is compressed with xz: unpack it"),
        (b"BZh", "it is compressed with bzip2: unpack it"),
        (b"7z\xbc\xaf", "it is a 7-Zip archive: unpack it"),
        (b"%PDF", "it is a PDF"),
        (b"PAR1", "it is a Parquet file: export it as CSV or NDJSON"),
        (b"Obj\x01", "it is an Avro file: export it as CSV or NDJSON"),
        (b"SQLite format 3", "it is an SQLite database: export a table as CSV"),
    ];
    if let Some((_, words)) = known.iter().find(|(magic, _)| starts(magic)) {
        return Some(words);
    }
    let text: Vec<u8> = head.iter().filter(|byte| !byte.is_ascii_whitespace()).take(64).copied().collect();
    let begins = |word: &[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if begins(b"<!doctypehtml") || begins(b"<html") {
        return Some("it is a web page: was the download an error, or a login?");
    }
    if begins(b"<?xml") {
        return Some("it is XML: export it as CSV or NDJSON");
    }
    let has_mark = encoding_rs::Encoding::for_bom(head).is_some();
    if head.contains(&0) && !is_wide && !has_mark {
        let zeros = |from: usize| head.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
        return Some(match (zeros(0) * 8 > head.len(), zeros(1) * 8 > head.len()) {
            (false, true) => "it looks like utf-16le: say encoding = \"utf-16le\", or save it as UTF-8",
            (true, false) => "it looks like utf-16be: say encoding = \"utf-16be\", or save it as UTF-8",
            _ => "it holds zero bytes: it is no text",
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_drop_by_mistake_is_named() {
        for (head, words) in [
            (&b"PK\x03\x04....xl/workbook.xml"[..], "an Excel workbook"),
            (b"PK\x03\x04....data.csv", "a zip archive"),
            (b"\x1f\x8b\x08\0", "gzip"),
            (b"  <!DOCTYPE html><html>", "a web page"),
            (b"<?xml version='1.0'?>", "XML"),
            (b"i\0d\0,\0v\0\n\0", "utf-16le"),
            (b"\0i\0d\0,\0v\0\n", "utf-16be"),
            (b"id,v\n1,\0\n", "no text"),
        ] {
            assert!(no_table(head, false).is_some_and(|said| said.contains(words)), "{words}");
        }
        for head in [&b"id,v\n1,a\n"[..], b"{\"id\":1}\n", b"", b"\xff\xfei\0d\0"] {
            assert_eq!(no_table(head, false), None);
        }
        assert_eq!(no_table(b"i\0d\0", true), None);
    }
}
