//! Text for people: text from other sources moves no cursor, begins no line and reverses none.
//!
//! Owns which characters are written as their numbers. All output to a terminal or a log goes through it.

use std::fmt::{self, Write as _};
use std::io;
use std::process::ExitCode;

/// Control characters, other kinds of line ends, and characters that change the direction of text.
fn is_strange(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escaped(text: &str, is_kept: impl Fn(char) -> bool, write: impl Fn(&mut String, char)) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_strange(c) && !is_kept(c) {
            true => write(&mut out, c),
            false => out.push(c),
        }
    }
    out
}

fn as_number(out: &mut String, c: char) {
    out.extend(c.escape_default());
}

/// A value within a line: a line end is written as `\n`.
pub fn value(text: &str) -> String {
    escaped(text, |_| false, as_number)
}

/// Whole lines: their ends are kept.
pub fn lines(text: &str) -> String {
    escaped(text, |c| c == '\n', as_number)
}

/// JSON in one line: strange characters occur only in its strings, and are escaped as in JSON.
pub fn json(text: &str) -> String {
    let write = |out: &mut String, c: char| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing into a string cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    };
    escaped(text, |_| false, write)
}

/// Prints one line to standard output.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { println!("{}", $crate::shown::value(&format!($($words)*))) };
}

/// Prints lines to standard output; their ends are kept.
#[macro_export]
macro_rules! say_lines {
    ($($words:tt)*) => { println!("{}", $crate::shown::lines(&format!($($words)*))) };
}

/// Prints one line to standard error.
#[macro_export]
macro_rules! complain {
    ($($words:tt)*) => { eprintln!("{}", $crate::shown::value(&format!($($words)*))) };
}

/// Prints a process's error in one line, and gives its exit code. 0: done, all is well; 1: done, not all is well; 2:
/// not done.
pub fn ended(program: &str, outcome: Result<bool, impl fmt::Display>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain!("{program}: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// How a log's lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// To a file or a pipe.
    Plain,
    /// To a terminal: the subscriber's colours stay. It writes foreign escapes as numbers itself.
    Coloured,
    Json,
}

/// Standard error, to which each write is one line of the log.
#[derive(Debug)]
pub(crate) struct LogLine(pub(crate) Lines);

impl io::Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let (line, end) = text.strip_suffix('\n').map_or((text.as_ref(), ""), |line| (line, "\n"));
        let line = match self.0 {
            Lines::Plain => value(line),
            Lines::Coloured => escaped(line, |c| c == '\u{1b}', as_number),
            Lines::Json => json(line),
        };
        io::stderr().write_all((line + end).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_signs_are_numbers_and_all_others_stay() {
        let text = "Rīga \"x\" \\ \u{1b}[2J\u{9b}\u{202e}\r\n\tend";
        assert_eq!(value(text), "Rīga \"x\" \\ \\u{1b}[2J\\u{9b}\\u{202e}\\r\\n\\tend");
        assert_eq!(lines("a\u{7}\nb"), "a\\u{7}\nb");
        let shown = json(&serde_json::json!({"k": text}).to_string());
        assert!(!shown.chars().any(is_strange));
        let read: serde_json::Value = serde_json::from_str(&shown).unwrap_or_default();
        assert_eq!(read["k"], text);
    }
}
