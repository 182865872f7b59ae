//! Container file framing (Avro specification, Object Container Files) over bytes that already are datums.
//!
//! Owns header, blocks and sync marker, for writing and reading; reading is incremental and bounded. It neither
//! builds nor reads values. On the wire the codec is always `null`: the connection may compress.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};

use super::binary::{self, Cursor, DatumError};
use crate::limits;

const MAGIC: &[u8; 4] = b"Obj\x01";
const SCHEMA_KEY: &str = "avro.schema";
const CODEC_KEY: &str = "avro.codec";

/// The 16 bytes after each block.
pub type Sync = [u8; 16];

/// Why a container file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// Not a container file at all.
    #[error("this is not an Avro container file")]
    NotAContainer,
    /// The header is damaged.
    #[error("the container's header is damaged: {0}")]
    Header(DatumError),
    /// The header lacks the schema.
    #[error("the container's header carries no schema")]
    NoSchema,
    /// A codec other than null.
    #[error("the container's codec is {0:?}; send it uncompressed (codec null)")]
    Codec(String),
    /// Header or block past its limit.
    #[error("the container's {part} is larger than {limit} bytes")]
    TooLarge {
        /// `header` or `block`.
        part: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// A block's count, size or sync marker is wrong.
    #[error("block {block} of the container is damaged: {what}")]
    Block {
        /// Counted from 0.
        block: usize,
        what: &'static str,
    },
    /// The file ends inside a header or block.
    #[error("the container ends in the middle of {0}")]
    Truncated(&'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Metadata without the schema and the codec.
    pub metadata: BTreeMap<String, Vec<u8>>,
    pub schema: String,
    /// The file's sync marker.
    pub sync: Sync,
}

impl Header {
    /// A text from the metadata.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        binary::put_length(&mut out, self.metadata.len() + 2);
        binary::put_string(&mut out, SCHEMA_KEY);
        binary::put_string(&mut out, &self.schema);
        binary::put_string(&mut out, CODEC_KEY);
        binary::put_string(&mut out, "null");
        for (key, value) in &self.metadata {
            binary::put_string(&mut out, key);
            binary::put_bytes(&mut out, value);
        }
        out.push(0);
        out.extend_from_slice(&self.sync);
        out
    }
}

/// Appends a block of `count` datums.
pub fn put_block(out: &mut Vec<u8>, count: usize, datums: &[u8], sync: &Sync) {
    binary::put_length(out, count);
    binary::put_bytes(out, datums);
    out.extend_from_slice(sync);
}

/// One block as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// How many datums it holds.
    pub count: usize,
    /// The datums, one after another, in the memory in which they came.
    pub datums: Bytes,
}

/// Reads a container from bytes that arrive in pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    header: Option<Header>,
    blocks: usize,
}

impl Decoder {
    /// Before the first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of a container that is there as a whole.
    pub fn of(container: Bytes) -> Self {
        Self { buffer: container.into(), ..Self::default() }
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The header, once it has arrived.
    pub fn header(&mut self) -> Result<Option<&Header>, ContainerError> {
        if self.header.is_none() {
            match parse_header(&self.buffer)? {
                Some((header, length)) => {
                    self.buffer.advance(length);
                    self.header = Some(header);
                }
                None if self.buffer.len() > limits::MAX_CONTAINER_HEADER_BYTES => {
                    return Err(ContainerError::TooLarge {
                        part: "header",
                        limit: limits::MAX_CONTAINER_HEADER_BYTES,
                    });
                }
                None => return Ok(None),
            }
        }
        Ok(self.header.as_ref())
    }

    /// The next whole block, once it has arrived.
    pub fn block(&mut self) -> Result<Option<Block>, ContainerError> {
        let Some(sync) = self.header()?.map(|h| h.sync) else { return Ok(None) };
        let parsed = parse_block(&self.buffer, &sync, self.blocks)?;
        Ok(parsed.map(|BlockAt { count, datums, end }| {
            self.blocks += 1;
            let datums = self.buffer.split_to(end).freeze().slice(datums);
            Block { count, datums }
        }))
    }

    /// To be called at the end of the bytes. Fails if the header or a block is incomplete.
    pub fn finish(&self) -> Result<(), ContainerError> {
        match (&self.header, self.buffer.is_empty()) {
            (None, _) => Err(ContainerError::Truncated("its header")),
            (Some(_), false) => Err(ContainerError::Truncated("a block")),
            (Some(_), true) => Ok(()),
        }
    }
}

fn parse_header(bytes: &[u8]) -> Result<Option<(Header, usize)>, ContainerError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes.get(..known) != MAGIC.get(..known) {
        return Err(ContainerError::NotAContainer);
    }
    match parse_header_inner(bytes) {
        Ok(found) => Ok(Some(found)),
        Err(HeaderFault::Datum(DatumError::Truncated { .. })) => Ok(None),
        Err(HeaderFault::Datum(error)) => Err(ContainerError::Header(error)),
        Err(HeaderFault::Container(error)) => Err(error),
    }
}

enum HeaderFault {
    Datum(DatumError),
    Container(ContainerError),
}

impl From<DatumError> for HeaderFault {
    fn from(error: DatumError) -> Self {
        Self::Datum(error)
    }
}

fn parse_header_inner(bytes: &[u8]) -> Result<(Header, usize), HeaderFault> {
    let mut cursor = Cursor::new(bytes);
    cursor.take(MAGIC.len(), "magic")?;
    let mut metadata = BTreeMap::new();
    loop {
        let count = cursor.long()?;
        if count == 0 {
            break;
        }
        if count < 0 {
            cursor.length()?;
        }
        for _ in 0..count.unsigned_abs() {
            let key = cursor.string()?.to_owned();
            let value = cursor.bytes()?.to_vec();
            metadata.insert(key, value);
        }
    }
    let mut sync = [0; 16];
    sync.copy_from_slice(cursor.take(16, "sync marker")?);
    let schema = metadata
        .remove(SCHEMA_KEY)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or(HeaderFault::Container(ContainerError::NoSchema))?;
    if let Some(codec) = metadata.remove(CODEC_KEY)
        && codec != b"null"
    {
        let codec = String::from_utf8_lossy(&codec).into_owned();
        return Err(HeaderFault::Container(ContainerError::Codec(codec)));
    }
    Ok((Header { metadata, schema, sync }, cursor.at()))
}

/// A block at the beginning of some bytes: where its datums lie, and where it ends.
struct BlockAt {
    count: usize,
    datums: Range<usize>,
    end: usize,
}

fn parse_block(bytes: &[u8], sync: &Sync, block: usize) -> Result<Option<BlockAt>, ContainerError> {
    let mut cursor = Cursor::new(bytes);
    let numbers = cursor.long().and_then(|count| Ok((count, cursor.long()?)));
    let (count, size) = match numbers {
        Ok(numbers) => numbers,
        Err(DatumError::Truncated { .. }) => return Ok(None),
        Err(_) => return Err(ContainerError::Block { block, what: "its count or size is no number" }),
    };
    let (Ok(count), Ok(size)) = (usize::try_from(count), usize::try_from(size)) else {
        return Err(ContainerError::Block { block, what: "its count or size is negative" });
    };
    if size > limits::MAX_CONTAINER_BLOCK_BYTES {
        return Err(ContainerError::TooLarge { part: "block", limit: limits::MAX_CONTAINER_BLOCK_BYTES });
    }
    if cursor.left() < size + sync.len() {
        return Ok(None);
    }
    let truncated = |_| ContainerError::Truncated("a block");
    let datums = cursor.at()..cursor.at() + size;
    cursor.take(size, "block").map_err(truncated)?;
    if cursor.take(sync.len(), "sync marker").map_err(truncated)? != sync {
        return Err(ContainerError::Block { block, what: "its sync marker is not the file's" });
    }
    Ok(Some(BlockAt { count, datums, end: cursor.at() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let header = Header {
            metadata: BTreeMap::from([("dit.agreement".to_owned(), b"A-1".to_vec())]),
            schema: "\"string\"".to_owned(),
            sync: [9; 16],
        };
        let mut out = header.encode();
        put_block(&mut out, 2, &[2, b'a', 2, b'b'], &[9; 16]);
        out
    }

    #[test]
    fn pieces_of_any_size_give_the_same_blocks() {
        for size in 1..=sample().len() {
            let mut decoder = Decoder::new();
            let mut blocks = Vec::new();
            for piece in sample().chunks(size) {
                decoder.push(piece);
                while let Ok(Some(block)) = decoder.block() {
                    blocks.push(block);
                }
            }
            assert_eq!(blocks, [Block { count: 2, datums: vec![2, b'a', 2, b'b'].into() }]);
            assert_eq!(decoder.finish(), Ok(()));
        }
    }

    #[test]
    fn every_truncation_is_named_and_none_gives_a_block() {
        let whole = sample();
        for end in 0..whole.len() - 1 {
            let mut decoder = Decoder::new();
            decoder.push(&whole[..end]);
            assert_eq!(decoder.block(), Ok(None), "{end}");
            let header_end = whole.len() - 22;
            assert!(decoder.finish().is_err() || end == header_end, "{end}");
        }
    }

    #[test]
    fn our_files_are_read_by_the_library() {
        let bytes = sample();
        let reader = apache_avro::Reader::new(&bytes[..]).unwrap_or_else(|e| panic!("{e}"));
        let values: Vec<_> = reader.map(|v| v.unwrap_or_else(|e| panic!("{e}"))).collect();
        assert_eq!(values, ["a", "b"].map(|s| apache_avro::types::Value::String(s.to_owned())));
    }

    #[test]
    fn a_foreign_codec_and_a_wrong_marker_are_named() {
        let mut out = MAGIC.to_vec();
        binary::put_length(&mut out, 2);
        for (key, value) in [(SCHEMA_KEY, "\"int\""), (CODEC_KEY, "snappy")] {
            binary::put_string(&mut out, key);
            binary::put_string(&mut out, value);
        }
        out.push(0);
        out.extend_from_slice(&[1; 16]);
        let mut decoder = Decoder::new();
        decoder.push(&out);
        assert_eq!(decoder.header().cloned_err(), Some(ContainerError::Codec("snappy".to_owned())));

        let mut wrong = sample();
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        let mut decoder = Decoder::new();
        decoder.push(&wrong);
        assert!(matches!(decoder.block(), Err(ContainerError::Block { block: 0, .. })));
    }

    trait ClonedErr {
        fn cloned_err(self) -> Option<ContainerError>;
    }

    impl ClonedErr for Result<Option<&Header>, ContainerError> {
        fn cloned_err(self) -> Option<ContainerError> {
            self.err()
        }
    }
}
