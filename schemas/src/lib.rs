//! The contract of `dit`: Avro schemas and their Rust types, ids, limits and error codes.
//!
//! Owns every shape that crosses a process or outlives one. It is pure: it must never depend on tokio,
//! rdkafka or axum, read a clock, or touch a disk.

pub mod agreement;
pub mod avro;
pub mod block;
pub mod change;
pub mod channel;
pub mod cursor;
pub mod delivery;
pub mod digest;
pub mod epoch_table;
pub mod error_code;
pub mod framing;
pub mod ids;
pub mod key;
pub mod limits;
pub mod marks;
pub mod partition;
pub mod per_partition;
pub mod position;
pub mod promise;
pub mod publish;
pub mod reconcile;
pub mod record;
pub mod time;
pub mod trace;
