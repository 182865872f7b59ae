//! Predicates that share tests: a test that many of them have is evaluated once on an image.
//!
//! Owns the single tests of a set of predicates, each once, and the predicates as formulas over them.

use std::sync::Arc;

use schemas::avro::binary::DatumError;
use schemas::avro::located::Located;

use super::evaluate::Truth;
use super::filter::{Filter, Test, fold};
use crate::sharded_map::ShardedMap;

/// The single tests of some predicates. A copy shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Atoms {
    each: Vec<Arc<Test>>,
    by_words: ShardedMap<String>,
}

/// A predicate over tests by their number.
#[derive(Debug, Clone)]
pub(crate) enum Formula {
    Constant(bool),
    Atom(usize),
    Not(Box<Formula>),
    All(Vec<Formula>),
    Any(Vec<Formula>),
}

/// The truths of tests on one image, as far as they are known.
pub(crate) struct Truths<'t> {
    atoms: &'t Atoms,
    image: Located<'t>,
    known: Vec<Option<Truth>>,
}

impl Atoms {
    /// A predicate as a formula; tests that are not among these yet are added.
    pub(crate) fn formula(&mut self, filter: &Filter) -> Formula {
        self.of(&filter.root)
    }

    fn of(&mut self, test: &Test) -> Formula {
        match test {
            Test::Constant(constant) => Formula::Constant(*constant),
            Test::Not(inner) => Formula::Not(Box::new(self.of(inner))),
            Test::All(tests) => Formula::All(tests.iter().map(|test| self.of(test)).collect()),
            Test::Any(tests) => Formula::Any(tests.iter().map(|test| self.of(test)).collect()),
            single => self.atom(single),
        }
    }

    fn atom(&mut self, test: &Test) -> Formula {
        // Equal tests have equal debug texts; different tests have different ones.
        let words = format!("{test:?}");
        if let Some(known) = self.by_words.get(words.as_str()).first() {
            return Formula::Atom(usize::try_from(*known).unwrap_or(usize::MAX));
        }
        let number = self.each.len();
        self.each.push(Arc::new(test.clone()));
        self.by_words.add(words, u32::try_from(number).unwrap_or(u32::MAX));
        Formula::Atom(number)
    }

    /// The truths on an image: none is known yet.
    pub(crate) fn on<'t>(&'t self, image: Located<'t>) -> Truths<'t> {
        Truths { atoms: self, image, known: vec![None; self.each.len()] }
    }

    pub(crate) const fn len(&self) -> usize {
        self.each.len()
    }
}

impl Formula {
    /// How many tests it names, repetitions included.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Constant(_) => 0,
            Self::Atom(_) => 1,
            Self::Not(inner) => inner.size(),
            Self::All(inner) | Self::Any(inner) => inner.iter().map(Self::size).sum(),
        }
    }
}

impl Truths<'_> {
    /// A predicate's truth on the image.
    pub(crate) fn of(&mut self, formula: &Formula) -> Result<Truth, DatumError> {
        match formula {
            Formula::Constant(constant) => Ok(Truth::of(*constant)),
            Formula::Not(inner) => Ok(self.of(inner)?.not()),
            Formula::All(all) => fold(all, |one| self.of(one), Truth::False, Truth::True),
            Formula::Any(all) => fold(all, |one| self.of(one), Truth::True, Truth::False),
            Formula::Atom(number) => {
                let (Some(test), Some(known)) = (self.atoms.each.get(*number), self.known.get_mut(*number))
                else {
                    return Ok(Truth::Unknown);
                };
                match known {
                    Some(truth) => Ok(*truth),
                    None => Ok(*known.insert(test.truth(self.image)?)),
                }
            }
        }
    }
}
