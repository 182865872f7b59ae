//! `dit-loadtest`: a whole network under load, compared with raw Kafka on the same broker in the same run.
//!
//! Owns scenarios, the processes that it measures, and the report. It asserts that every event arrived; it only reports
//! speeds. It must know no more of the parts than a user can know: it starts and feeds them as a user does.

mod attacked;
pub mod cli;
mod compare;
mod declared;
mod disturbance;
mod gate;
mod intake;
mod jetstream;
mod live;
mod measure;
mod network;
mod outcome;
mod pace;
mod parts;
mod process;
mod raw;
mod report;
mod rows;
mod run;
mod scenario;
mod waits;
