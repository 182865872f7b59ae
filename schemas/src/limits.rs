//! All limits of the contract, each with its reason. A limit that two processes must agree on belongs here.

/// A name travels in certificates, topic names and file names.
pub const MAX_NAME_BYTES: usize = 64;

/// A record of the log has at most 1 MB with its headers (Kafka's default); this leaves room for framing.
pub const MAX_DATUM_BYTES: usize = 900_000;

/// One image: an update carries two of them, a key and its source, and must fit [`MAX_DATUM_BYTES`].
pub const MAX_IMAGE_BYTES: usize = 440_000;

/// A key names a subject; sled and Kafka both keep keys in memory.
pub const MAX_KEY_BYTES: usize = 1_024;

/// One published batch: several blocks, but little enough to hold for each connection.
pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Events in one published batch; bounds the work between two looks at the agreements.
pub const MAX_BATCH_EVENTS: usize = 10_000;

/// Changes in one block: a reader holds all of a block before it applies any of it.
pub const MAX_BLOCK_CHANGES: u32 = 2_000;

/// Bytes of a block's changes, unless one change alone has more: far above what a record costs by itself, and little
/// enough to hold for each partition.
pub const MAX_BLOCK_BYTES: usize = 128 * 1024;

/// Bytes handed to a connection between two looks at the agreements (docs/protocol.md, 6).
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

/// Nesting of an Avro datum: recursive records must not recurse through our stack.
pub const MAX_DATUM_DEPTH: usize = 64;

/// Items of arrays and maps that take no bytes, in one datum: a block count must not cause endless work.
pub const MAX_EMPTY_ITEMS: u64 = 100_000;

/// A schema's text; this bounds its nodes after parsing, too.
pub const MAX_SCHEMA_BYTES: usize = 512 * 1024;

/// Nesting of a schema: the parser recurses.
pub const MAX_SCHEMA_DEPTH: usize = 64;

/// A row predicate's text; longer text aborts the parser by stack overflow.
pub const MAX_PREDICATE_BYTES: usize = 4 * 1024;

/// Nesting of a row predicate.
pub const MAX_PREDICATE_DEPTH: usize = 32;

/// Partitions of a channel; each costs a reader in each router.
pub const MAX_PARTITIONS: u32 = 64;

/// Fields of a composite key.
pub const MAX_KEY_FIELDS: usize = 8;

/// A container file's header: schema and a few names.
pub const MAX_CONTAINER_HEADER_BYTES: usize = 1024 * 1024;

/// One block of a container file on the wire.
pub const MAX_CONTAINER_BLOCK_BYTES: usize = 8 * 1024 * 1024;

/// Changes between two checkpoints in the log: a reader that begins at one passes at most so many that it knows.
pub const CHECKPOINT_EVERY_CHANGES: u64 = 10_000;

/// Agents that a checkpoint can name: its record, with the ends of their earlier epochs, must fit the log.
pub const MAX_TABLE_ENTRIES: usize = 2_500;

/// Ranges that a consumer may ask about at once: they travel in the request's line.
pub const MAX_RECONCILED_RANGES: usize = 1_024;

/// Digests in one announcement: 8 bytes each, together half a frame.
pub const MAX_RANGE_DIGESTS: usize = 4_096;

/// Bits of a range's number: in a replica of 100 million rows, a range then has some three rows.
pub const MAX_RANGE_BITS: u8 = 25;

/// Bytes of rows that one request for ranges may return: for more rows, a snapshot is shorter.
/// They wait in the router's memory until the stream takes them.
pub const MAX_RANGE_ROWS_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of one range's rows: they are applied together and travel in one block.
pub const MAX_RANGE_BYTES: usize = 2 * 1024 * 1024;

/// Earlier epochs whose ends the table keeps: an interrupted reopen begins again under a new epoch, and must find where
/// the epoch before it ended.
pub const MAX_ENDED_EPOCHS: usize = 4;
