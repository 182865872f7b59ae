//! Parses a text safely. The parser recurses, so length and nesting are bounded before it sees the text, and it runs
//! on a thread with a stack of its own.

use cel::Program;
use schemas::limits;

use super::PredicateError;

/// Enough for the deepest tree that the length limit admits, in a debug build.
const PARSER_STACK_BYTES: usize = 64 * 1024 * 1024;

const EXAMPLE: &str = "write an expression of the CEL subset, for example territory == \"LV-RIX\"";

/// Parses `text` and gives its syntax to `then`, on the parser's own stack.
pub(super) fn with_syntax<T: Send>(
    text: &str,
    then: impl FnOnce(&Program) -> Result<T, PredicateError> + Send,
) -> Result<T, PredicateError> {
    if text.trim().is_empty() {
        return Err(PredicateError::new(1, "the text is empty", "write true if all rows are meant"));
    }
    check_limits(text)?;
    let work = || {
        let program = Program::compile(text).map_err(|errors| refused(text, &errors.to_string()))?;
        then(&program)
    };
    let broken = |what: &str| PredicateError::new(1, format!("the parser {what}"), "simplify the predicate");
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("predicate-parser".to_owned())
            .stack_size(PARSER_STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|e| broken(&format!("could not be started ({e})")))?;
        thread.join().map_err(|_| broken("gave up"))?
    })
}

/// The parser's first error (`ERROR: <input>:LINE:COLUMN: words`) in our words.
fn refused(text: &str, report: &str) -> PredicateError {
    let first = report.lines().next().unwrap_or_default();
    let parts: Vec<&str> = first.splitn(5, ':').collect();
    let (line, column, words) = match parts.as_slice() {
        // The parser reports 0 for an error without a position.
        [_, _, line, column, words] => {
            (line.parse().unwrap_or(1).max(1), column.parse().unwrap_or(1).max(1), *words)
        }
        _ => (1, 1, first),
    };
    let lines_before = text.split('\n').take(line - 1);
    let before: usize = lines_before.map(|line| line.chars().count() + 1).sum();
    let words = words.trim().trim_start_matches("Syntax error: ");
    let (problem, remedy) = in_words(words);
    PredicateError::new(before + column, problem, remedy)
}

/// What is wrong, and what to write instead.
fn in_words(words: &str) -> (String, &'static str) {
    let after = |prefix: &str| words.strip_prefix(prefix).map(|rest| rest.trim_start_matches('\''));
    if let Some(token) = after("token recognition error at: ") {
        let remedy = match token.chars().next() {
            Some('=') => "compare with ==",
            Some('&') => "write && for and",
            Some('|') => "write || for or",
            Some('"' | '\'') => "end the text with the quote that it begins with",
            _ => "names have ASCII letters, digits and _",
        };
        let token = token.strip_suffix('\'').unwrap_or(token).trim_end();
        return (format!("{token} is not understood"), remedy);
    }
    if let Some(word) = after("reserved identifier: ") {
        return (
            format!("{word} is a word of the language"),
            "no predicate can ask for a field of this name",
        );
    }
    if words.starts_with("mismatched input '<EOF>'") || words.ends_with("at '<EOF>'") {
        return ("the text ends in the middle".to_owned(), "end the comparison, and close what is open");
    }
    if let Some(rest) = after("extraneous input ").or_else(|| after("mismatched input ")) {
        let token = rest.split("' expecting").next().unwrap_or(rest);
        let remedy = match token.to_ascii_lowercase().as_str() {
            "and" => "write && for and",
            "or" => "write || for or",
            _ => EXAMPLE,
        };
        return (format!("{token} is not expected here"), remedy);
    }
    let remedy = match words {
        "invalid int literal" | "invalid uint literal" => "whole numbers have 64 bits",
        "invalid argument to has() macro" => {
            "has takes a field of a record, as in has(a.b); of another field ask o != null"
        }
        _ => EXAMPLE,
    };
    (words.to_owned(), remedy)
}

fn check_limits(text: &str) -> Result<(), PredicateError> {
    if text.len() > limits::MAX_PREDICATE_BYTES {
        return Err(PredicateError::new(
            1,
            format!("the text has {} bytes", text.len()),
            format!(
                "at most {} are taken; use `in [..]` instead of many comparisons",
                limits::MAX_PREDICATE_BYTES
            ),
        ));
    }
    let mut depth = 0_usize;
    let mut unary = 0_usize;
    // The parser does not nest within plain texts.
    let mut rest = text.char_indices().enumerate();
    while let Some((index, (at, c))) = rest.next() {
        if let Some(length) = text.get(at..).and_then(plain_text) {
            unary = 0;
            let _ = rest.nth(length - 2);
            continue;
        }
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        unary = match c {
            '!' | '-' | '.' | '?' => unary + 1,
            c if c.is_whitespace() => unary,
            _ => 0,
        };
        if depth > limits::MAX_PREDICATE_DEPTH || unary > limits::MAX_PREDICATE_DEPTH {
            return Err(PredicateError::new(
                index + 1,
                format!("nested deeper than {} levels", limits::MAX_PREDICATE_DEPTH),
                "simplify the predicate",
            ));
        }
    }
    Ok(())
}

/// The length, in characters and with its quotes, of the plain text that `rest` begins with. A plain text ends on its
/// line and has no escapes: it is not certain where any other text ends for the parser.
fn plain_text(rest: &str) -> Option<usize> {
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inner = rest.get(1..)?;
    let (text, behind) = inner.split_once(quote)?;
    let is_tripled = text.is_empty() && behind.starts_with(quote);
    let is_plain = !is_tripled && !text.contains(['\\', '\n', '\r']);
    is_plain.then(|| text.chars().count() + 2)
}
