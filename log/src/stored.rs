//! A stored record as bytes of the embedded log.
//!
//! Owns the frame's contents: flags, append time, key, value, headers, in Avro's primitives.

use schemas::avro::binary::{self, Cursor, DatumError};
use schemas::record::Record;
use schemas::time::Millis;

const ENDS_BATCH: u8 = 1;

/// A record with its flags and time, as a frame stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// Whether an atomic batch ends with it; a tail without it is cut at open.
    pub(super) ends_batch: bool,
    pub(super) logged_at: Millis,
    pub(super) record: Record,
}

/// Appends a frame's contents to a buffer.
pub(super) fn encode(ends_batch: bool, logged_at: Millis, record: &Record, out: &mut Vec<u8>) {
    out.push(if ends_batch { ENDS_BATCH } else { 0 });
    binary::put_long(out, logged_at.get());
    for part in [&record.key, &record.value] {
        match part {
            None => binary::put_long(out, -1),
            Some(bytes) => binary::put_bytes(out, bytes),
        }
    }
    binary::put_length(out, record.headers.len());
    for (name, value) in &record.headers {
        binary::put_string(out, name);
        binary::put_bytes(out, value);
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Frame, DatumError> {
    let mut cursor = Cursor::new(bytes);
    let ends_batch = cursor.byte("flags")? & ENDS_BATCH != 0;
    let logged_at = Millis::new(cursor.long()?);
    let key = optional(&mut cursor)?;
    let value = optional(&mut cursor)?;
    let count = cursor.length()?;
    let mut headers = Vec::new();
    for _ in 0..count {
        headers.push((cursor.string()?.to_owned().into(), cursor.bytes()?.to_vec().into()));
    }
    cursor.end()?;
    Ok(Frame { ends_batch, logged_at, record: Record { key, value, headers } })
}

fn optional(cursor: &mut Cursor<'_>) -> Result<Option<Vec<u8>>, DatumError> {
    let at = cursor.at();
    match cursor.long()? {
        -1 => Ok(None),
        length => {
            let length =
                usize::try_from(length).map_err(|_| DatumError::Invalid { at, what: "a negative length" })?;
            cursor.take(length, "bytes").map(|bytes| Some(bytes.to_vec()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_with_absent_and_empty_parts_apart() {
        for (key, value) in [(None, Some(vec![])), (Some(vec![]), None), (Some(vec![1]), Some(vec![2, 3]))] {
            let record = Record { key, value, headers: vec![("h".into(), vec![9].into())] };
            for ends_batch in [true, false] {
                let mut bytes = Vec::new();
                encode(ends_batch, Millis::new(-5), &record, &mut bytes);
                let frame = Frame { ends_batch, logged_at: Millis::new(-5), record: record.clone() };
                assert_eq!(decode(&bytes), Ok(frame));
            }
        }
    }
}
