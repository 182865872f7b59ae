//! From text to syntax, safely: the parser recurses, so length and nesting are bounded before it sees the text,
//! and it runs on a thread with a stack of its own.

use cel::Program;
use schemas::limits;

use super::PredicateError;

/// Enough for the deepest tree that the length limit admits, in a debug build.
const PARSER_STACK_BYTES: usize = 64 * 1024 * 1024;

/// Parses `text` and gives its syntax to `then`, on the parser's own stack.
pub(super) fn with_syntax<T: Send>(
    text: &str,
    then: impl FnOnce(&Program) -> Result<T, PredicateError> + Send,
) -> Result<T, PredicateError> {
    check_limits(text)?;
    let work = || {
        let program = Program::compile(text).map_err(|errors| {
            let first = errors.to_string().lines().next().unwrap_or_default().to_owned();
            let at = first.split(':').nth(3).and_then(|column| column.trim().parse().ok()).unwrap_or(1);
            let problem = first.rsplit(": ").next().unwrap_or(&first).to_owned();
            PredicateError::new(
                at,
                problem,
                "write an expression of the CEL subset, for example territory == \"LV-RIX\"",
            )
        })?;
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
    for (index, c) in text.chars().enumerate() {
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
