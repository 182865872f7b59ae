//! Control: participants, channels, agreements and schemas, as a fold of one topic that is kept whole.
//!
//! Owns *append, then decide* for control: a change counts only if it names the revision that it replaces. The
//! data path sees the result through a `watch`, so that a change takes effect mid-stream.

pub mod change;
pub mod service;
pub mod view;
