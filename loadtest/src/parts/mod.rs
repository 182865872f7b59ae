//! The processes that a run starts from this program, besides the unchanged router and producer agent.
//!
//! Owns consumers whose sinks measure, and others without dit: a producer and
//! consumers on librdkafka alone, and on NATS JetStream.

pub(crate) mod attackers;
pub(crate) mod consumers;
mod line;
pub(crate) mod nats_consumers;
pub(crate) mod nats_producer;
pub(crate) mod raw_consumers;
pub(crate) mod raw_producer;
pub(crate) mod raw_reader;
