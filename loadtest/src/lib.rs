//! `dit-loadtest`: a whole network under load, beside raw Kafka on the same broker in the same run.
//!
//! Owns scenarios, the processes that it measures, and the report. It asserts that every event arrived; of speed it
//! only tells. It must not know anything of the parts that a user could not know: it starts and feeds them as a user does.

mod attacked;
pub mod cli;
mod compare;
mod live;
mod network;
mod outcome;
mod pace;
mod parts;
mod process;
mod report;
mod rows;
mod run;
mod scenario;
