//! How a value is written in text: dates and times, numbers.
//!
//! Owns the readers of single values and the styles that a provider states. It knows no field and no file.

pub mod calendar;
pub(super) mod digits;
pub mod numeral;
