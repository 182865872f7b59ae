//! How a file is written: its encoding and its delimiter.
//!
//! Owns both guesses, each from the beginning of the file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use encoding_rs::{Encoding, WINDOWS_1252, WINDOWS_1257};

use super::ProposeError;
use crate::source::cells::Columns;
use crate::source::file::table::Table;
use crate::source::format::TableFormat;

/// Bytes that are looked at for the encoding.
const HEAD: u64 = 4 * 1024 * 1024;
/// Rows that are looked at for the delimiter.
const ROWS: usize = 1_000;
/// Delimiters that are tried, the commonest first.
const DELIMITERS: [char; 4] = [',', ';', '\t', '|'];
/// The delimiter of a file of one column.
const ANY: char = ',';
/// Letters of the languages that windows-1257 is for.
const BALTIC: &str = "āčēģīķļņšūžĀČĒĢĪĶĻŅŠŪŽąęėįųĄĘĖĮŲõäöüÕÄÖÜ";
/// Letters of the languages that windows-1252 is for.
const WESTERN: &str = "àâäåæçéèêëíìîïñóòôöøõúùûüßÀÂÄÅÆÇÉÈÊËÍÎÏÑÓÔÖØÕÚÛÜ";

/// The beginning of a file.
pub(super) fn head(file: &Path) -> Result<Vec<u8>, ProposeError> {
    let unreadable = |error| ProposeError::Unreadable { path: file.to_owned(), error };
    let mut head = Vec::new();
    File::open(file).map_err(unreadable)?.take(HEAD).read_to_end(&mut head).map_err(unreadable)?;
    Ok(head)
}

/// The encoding that a beginning looks like.
pub(super) fn encoding(head: &[u8]) -> &'static str {
    let marked = Encoding::for_bom(head).map(|(encoding, _)| encoding.name());
    let zeros =
        |from: usize| head.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count() * 8 > head.len();
    let is_cut = |error: std::str::Utf8Error| error.error_len().is_none();
    match (marked, zeros(0), zeros(1)) {
        (Some("UTF-16LE"), ..) | (None, false, true) => "utf-16le",
        (Some("UTF-16BE"), ..) | (None, true, false) => "utf-16be",
        (Some(_), ..) => "utf-8",
        _ if std::str::from_utf8(head).map_or_else(is_cut, |_| true) => "utf-8",
        _ => legacy(head),
    }
}

/// One of the encodings with one byte a letter.
fn legacy(head: &[u8]) -> &'static str {
    let is_high = |byte: &u8| *byte >= 0xC0;
    let (high, beside) = head.windows(2).fold((0_usize, 0_usize), |(high, beside), pair| match pair {
        [a, b] if is_high(a) => (high + 1, beside + usize::from(is_high(b))),
        _ => (high, beside),
    });
    // Words of Latin letters have few such bytes; words of Cyrillic letters have no others.
    if beside * 2 > high {
        return "windows-1251";
    }
    let letters = |encoding: &'static Encoding, known: &str| {
        let (text, _) = encoding.decode_without_bom_handling(head);
        text.chars().filter(|c| !c.is_ascii() && known.contains(*c)).count()
    };
    if letters(WINDOWS_1257, BALTIC) >= letters(WINDOWS_1252, WESTERN) {
        "windows-1257"
    } else {
        "windows-1252"
    }
}

/// The delimiter with which the most rows have as many cells as the header, and more than one.
pub(super) fn delimiter(file: &Path, format: &TableFormat) -> Result<char, ProposeError> {
    let mut best: Option<((usize, usize), char)> = None;
    let mut refused = None;
    for delimiter in DELIMITERS {
        let tried = TableFormat { delimiter: Some(delimiter), ..format.clone() };
        let mut table = match Table::open(file, &tried) {
            Ok(table) => table,
            Err(error) => {
                refused.get_or_insert(error);
                continue;
            }
        };
        if matches!(table.columns(), Columns::Open) {
            return Ok(ANY);
        }
        let width = table.header().len();
        let is_good = || table.next_row().map(|row| row.content().is_ok());
        let rows: Vec<bool> = std::iter::from_fn(is_good).take(ROWS).collect();
        let good = rows.iter().filter(|is_good| **is_good).count() * 1_000 / rows.len().max(1);
        if width > 1 && best.is_none_or(|(score, _)| (good, width) > score) {
            best = Some(((good, width), delimiter));
        }
    }
    match (best, refused) {
        (Some((_, delimiter)), _) => Ok(delimiter),
        // No delimiter gives several columns, and one fails.
        (None, Some(error)) => Err(error.into()),
        (None, None) => Ok(ANY),
    }
}
