//! Row predicates: a total, side-effect-free subset of CEL, typed against a schema, with SQL's null.
//!
//! Owns the language. The `cel` crate parses; typing, compilation and evaluation are ours, because its
//! interpreter holds `null != "a"` to be true and compares numbers through floats.

pub(crate) mod access;
mod atoms;
mod build;
mod clauses;
mod compile;
mod evaluate;
mod expression;
mod filter;
mod parse;
mod satisfy;
mod value;
mod words;

pub(crate) use atoms::{Atoms, Formula, Truths};
pub use clauses::Clause;
pub use evaluate::Truth;
pub use expression::Predicate;
pub use filter::Filter;
pub use satisfy::{Superfluous, Why};
pub(crate) use value::{Field, Key};

/// Why a predicate is refused, with the position in its text and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row predicate, character {at}: {problem}; {remedy}")]
pub struct PredicateError {
    /// Counted from 1, in characters of the text.
    pub at: usize,
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

impl PredicateError {
    fn new(at: usize, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { at, problem: problem.into(), remedy: remedy.into() }
    }
}

#[cfg(test)]
mod tests;
