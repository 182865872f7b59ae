//! What a stream does to a replica: the one language between receiving and sinks.

/// A change of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The row of a key is this image.
    Upsert {
        key: String,
        /// A datum of the stream's derived schema.
        image: Vec<u8>,
    },
    /// The key has no row.
    Remove { key: String },
    /// A snapshot begins: what follows is a replica of its own until the end mark.
    BeginSnapshot,
    /// The snapshot has ended: its rows are the replica.
    EndSnapshot,
}
