//! The processes that a run starts of itself, beside router and producer agent, which it takes as they are.
//!
//! Owns consumers whose sinks measure, and what Kafka is without us: a producer and consumers on librdkafka alone.

pub(crate) mod attackers;
pub(crate) mod consumers;
mod line;
pub(crate) mod raw_consumers;
pub(crate) mod raw_producer;
