//! Real parts for tests and developers: Apache Kafka, a schema registry, PostgreSQL, Prometheus, a collector of traces.
//!
//! Owns fetching them once, starting them on free ports of the loopback, the check that each is ready, and that
//! nothing outlives the process that started it. It knows nothing of `dit`.

pub mod chart;
pub mod collector;
pub mod hosts;
pub mod kafka;
pub mod machine;
pub mod nats;
pub mod ports;
pub mod postgres;
mod process;
pub mod prometheus;
pub mod registry;
mod store;
