//! What a consumer receives: deliveries, marks, progress and closing, as branches of one Avro union.
//!
//! Owns the union's schema around a scope's derived schema, and its encoding both ways. The decoder refuses a leave or
//! a delete with an image.

mod closing;
mod reading;
mod union;

use std::convert::Infallible;

use serde::{Deserialize, Serialize};

pub use self::closing::{CloseReason, Next};
use self::reading::{
    all, announced, bootstrap, close_reason, partition, pick, place, places, position, snapshot_places, trace,
};
use self::union::union_schema;
use crate::avro::binary::{self, Cursor, DatumError};
use crate::avro::schema::{AvroSchema, SchemaError};
use crate::change::Op;
use crate::cursor::{Place, Snapshot};
use crate::ids::{BootstrapId, Offset, Partition};
use crate::marks::{offset, optional_millis, put_offset, put_optional_millis};
use crate::per_partition::PerPartition;
use crate::position::EventPosition;
use crate::reconcile::AnnouncedDigests;
use crate::time::Millis;
use crate::trace::TraceContext;

/// Metadata key of the agreement's number in a stream's container header.
pub const AGREEMENT_KEY: &str = "dit.agreement";
/// Metadata key of the agreement's version.
pub const VERSION_KEY: &str = "dit.version";
/// Metadata key of the channel's name.
pub const CHANNEL_KEY: &str = "dit.channel";
/// Metadata key of the channel's log id.
pub const LOG_ID_KEY: &str = "dit.log_id";
/// Metadata key of the derived schema's fingerprint.
pub const FINGERPRINT_KEY: &str = "dit.fingerprint";

/// Why a consumer gets an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It happened within the scope.
    Change,
    /// The subject moved into the scope.
    Enter,
    /// The subject moved out of the scope; the delivery does not say where it is now.
    Leave,
    /// Its present image, read from the state.
    State,
}

impl Reason {
    const ALL: [Self; 4] = [Self::Change, Self::Enter, Self::Leave, Self::State];

    const fn index(self) -> i64 {
        match self {
            Self::Change => 0,
            Self::Enter => 1,
            Self::Leave => 2,
            Self::State => 3,
        }
    }
}

/// One event for one consumer; the image is a datum of the derived schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// `c`, `u`, `d`, or `r` from the state.
    pub op: Op,
    /// The key, or its hash where the agreement does not keep the key's fields.
    pub key: &'a str,
    /// The permitted image; `None` exactly for `d`.
    pub after: Option<&'a [u8]>,
    pub reason: Reason,
    pub partition: Partition,
    /// Events of one block have one offset: a cursor stands before all of them, or behind.
    pub position: EventPosition,
    pub event_at: Millis,
    /// When the log took it; of a row that is read from the state, when the state took it or wrote it again.
    pub logged_at: Millis,
    /// The trace that it belongs to, if it is sampled; never for a row that is read from the state.
    pub trace: Option<TraceContext>,
}

/// How far a stream has got in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub partition: Partition,
    /// The consumer's position in it.
    pub place: Place,
    /// The time up to which the provider has checked its source.
    pub freshness: Option<Millis>,
    /// Where the partition ends, as far as the router has read it.
    pub end: Offset,
    /// When the log took the newest record that was passed; `None` before the first.
    pub passed_at: Option<Millis>,
}

/// What a stream carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery<'a> {
    Event(Event<'a>),
    /// A snapshot begins: stamp every row with this id.
    SnapshotBegin {
        bootstrap: BootstrapId,
    },
    /// How far a snapshot has got: it can be continued from here.
    SnapshotProgress(Snapshot),
    /// The snapshot has ended: drop every row without its id; the cursor continues at these places.
    SnapshotEnd {
        bootstrap: BootstrapId,
        /// The place in each partition.
        places: PerPartition<Place>,
    },
    /// Everything permitted up to here has been delivered.
    Progress(Progress),
    /// The digests of the rows at this position of the stream, for a consumer that has asked.
    Digests {
        /// The place in each partition.
        places: PerPartition<Place>,
        /// Of the ranges that were asked for.
        announced: AnnouncedDigests,
    },
    /// All rows of a range at this position of the stream, for a consumer that has asked.
    Range {
        number: u32,
        /// Key and image of each.
        rows: Vec<(&'a str, &'a [u8])>,
    },
    /// The last record of a stream.
    Closing {
        /// What the consumer does next.
        next: Next,
        reason: CloseReason,
        /// For people.
        detail: String,
        /// The last place delivered in each partition; empty when the stream gave none.
        places: PerPartition<Place>,
    },
}

/// Encodes and decodes the deliveries of one derived schema.
#[derive(Debug, Clone)]
pub struct DeliveryCodec {
    derived: AvroSchema,
    union: AvroSchema,
}

impl DeliveryCodec {
    /// The codec around a scope's derived schema.
    pub fn new(derived: &AvroSchema) -> Result<Self, SchemaError> {
        Ok(Self { derived: derived.clone(), union: union_schema(derived)? })
    }

    /// The codec for the schema that a stream's header carries.
    pub fn from_union_schema(text: &str) -> Result<Self, SchemaError> {
        let union = AvroSchema::parse(text)?;
        let not_ours = || SchemaError::NotAvro("it is not the schema of a delivery stream".to_owned());
        let derived = union.json().pointer("/0/fields/2/type/1").ok_or_else(not_ours)?;
        let codec = Self::new(&AvroSchema::from_json(derived.clone())?)?;
        if codec.union == union { Ok(codec) } else { Err(not_ours()) }
    }

    /// The derived schema, which images follow.
    pub const fn derived(&self) -> &AvroSchema {
        &self.derived
    }

    /// The schema of the stream's items.
    pub const fn union(&self) -> &AvroSchema {
        &self.union
    }

    /// Appends a delivery's datum.
    pub fn encode(delivery: &Delivery<'_>, out: &mut Vec<u8>) {
        match delivery {
            Delivery::Event(event) => {
                let put_image = |out: &mut Vec<u8>| {
                    out.extend_from_slice(event.after.unwrap_or_default());
                    Ok::<(), Infallible>(())
                };
                let Ok(()) = Self::encode_event(event, put_image, out);
            }
            Delivery::SnapshotBegin { bootstrap } => {
                binary::put_long(out, 1);
                out.extend_from_slice(bootstrap.as_bytes());
            }
            Delivery::SnapshotEnd { bootstrap, places } => {
                binary::put_long(out, 2);
                out.extend_from_slice(bootstrap.as_bytes());
                put_places(out, places);
            }
            Delivery::Progress(progress) => {
                binary::put_long(out, 3);
                binary::put_long(out, i64::from(progress.partition.get()));
                put_place(out, progress.place);
                put_optional_millis(out, progress.freshness);
                put_offset(out, progress.end.get());
                put_optional_millis(out, progress.passed_at);
            }
            Delivery::SnapshotProgress(snapshot) => {
                binary::put_long(out, 5);
                out.extend_from_slice(snapshot.id.as_bytes());
                binary::put_long(out, snapshot.begun_at.get());
                binary::put_string(out, &snapshot.seal);
                put_all(out, snapshot.places.values(), |out, place| {
                    put_offset(out, place.next.get());
                    put_offset(out, place.end.get());
                });
            }
            Delivery::Digests { places, announced } => {
                binary::put_long(out, 6);
                put_places(out, places);
                binary::put_long(out, i64::try_from(announced.rows).unwrap_or(i64::MAX));
                out.extend_from_slice(&announced.total.to_be_bytes());
                put_all(out, announced.digests.iter(), |out, digest| {
                    out.extend_from_slice(&digest.to_be_bytes())
                });
            }
            Delivery::Range { number, rows } => {
                binary::put_long(out, 7);
                binary::put_long(out, i64::from(*number));
                put_all(out, rows.iter(), |out, (key, image)| {
                    binary::put_string(out, key);
                    out.extend_from_slice(image);
                });
            }
            Delivery::Closing { next, reason, detail, places } => {
                binary::put_long(out, 4);
                binary::put_long(out, next.index());
                binary::put_string(out, reason.as_str());
                binary::put_string(out, detail);
                put_places(out, places);
            }
        }
    }

    /// Appends an event's datum, whose image `put_image` appends unless the event is a delete. Nothing is appended where
    /// that fails.
    pub fn encode_event<E>(
        event: &Event<'_>,
        put_image: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
        out: &mut Vec<u8>,
    ) -> Result<(), E> {
        let before = out.len();
        out.push(0);
        put_event(event, put_image, out).inspect_err(|_| out.truncate(before))
    }

    /// Reads one delivery and moves past it.
    pub fn decode<'a>(&self, cursor: &mut Cursor<'a>) -> Result<Delivery<'a>, DatumError> {
        let at = cursor.at();
        match cursor.long()? {
            0 => self.decode_event(cursor).map(Delivery::Event),
            1 => Ok(Delivery::SnapshotBegin { bootstrap: bootstrap(cursor)? }),
            2 => Ok(Delivery::SnapshotEnd { bootstrap: bootstrap(cursor)?, places: places(cursor)? }),
            3 => Ok(Delivery::Progress(Progress {
                partition: partition(cursor)?,
                place: place(cursor)?,
                freshness: optional_millis(cursor)?,
                end: Offset::new(offset(cursor)?),
                passed_at: optional_millis(cursor)?,
            })),
            4 => Ok(Delivery::Closing {
                next: pick(cursor, &Next::ALL)?,
                reason: close_reason(cursor)?,
                detail: cursor.string()?.to_owned(),
                places: places(cursor)?,
            }),
            5 => Ok(Delivery::SnapshotProgress(Snapshot {
                id: bootstrap(cursor)?,
                begun_at: Millis::new(cursor.long()?),
                seal: cursor.string()?.to_owned(),
                places: snapshot_places(cursor)?,
            })),
            6 => Ok(Delivery::Digests { places: places(cursor)?, announced: announced(cursor)? }),
            7 => Ok(Delivery::Range {
                number: u32::try_from(offset(cursor)?)
                    .map_err(|_| DatumError::Invalid { at, what: "no such range" })?,
                rows: all(cursor, usize::MAX, |cursor| self.decode_row(cursor))?,
            }),
            _ => Err(DatumError::Invalid { at, what: "a union has no such branch" }),
        }
    }

    fn decode_row<'a>(&self, cursor: &mut Cursor<'a>) -> Result<(&'a str, &'a [u8]), DatumError> {
        let key = cursor.string()?;
        let start = cursor.at();
        self.derived.layout().skip(cursor)?;
        Ok((key, cursor.since(start)))
    }

    fn decode_event<'a>(&self, cursor: &mut Cursor<'a>) -> Result<Event<'a>, DatumError> {
        let op = Op::decode(cursor)?;
        let key = cursor.string()?;
        let at = cursor.at();
        let after = match cursor.long()? {
            0 => None,
            1 => {
                let start = cursor.at();
                self.derived.layout().skip(cursor)?;
                Some(cursor.since(start))
            }
            _ => return Err(DatumError::Invalid { at, what: "a union has no such branch" }),
        };
        if after.is_none() != (op == Op::Delete) {
            return Err(DatumError::Invalid {
                at,
                what: "a delivery has an image exactly when it is no delete",
            });
        }
        Ok(Event {
            op,
            key,
            after,
            reason: pick(cursor, &Reason::ALL)?,
            partition: partition(cursor)?,
            position: position(cursor)?,
            event_at: Millis::new(cursor.long()?),
            logged_at: Millis::new(cursor.long()?),
            trace: trace(cursor)?,
        })
    }
}

fn put_event<E>(
    event: &Event<'_>,
    put_image: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    out: &mut Vec<u8>,
) -> Result<(), E> {
    binary::put_long(out, event.op.index());
    binary::put_string(out, event.key);
    if event.op == Op::Delete {
        out.push(0);
    } else {
        binary::put_long(out, 1);
        put_image(out)?;
    }
    binary::put_long(out, event.reason.index());
    binary::put_long(out, i64::from(event.partition.get()));
    put_offset(out, event.position.offset.get());
    binary::put_long(out, i64::from(event.position.index));
    binary::put_long(out, event.event_at.get());
    binary::put_long(out, event.logged_at.get());
    match event.trace {
        None => out.push(0),
        Some(trace) => {
            binary::put_long(out, 1);
            binary::put_string(out, &trace.to_string());
        }
    }
    Ok(())
}

fn put_place(out: &mut Vec<u8>, place: Place) {
    put_offset(out, place.offset.get());
    put_offset(out, place.checkpoint.get());
}

fn put_places(out: &mut Vec<u8>, places: &PerPartition<Place>) {
    put_all(out, places.values(), |out, place| put_place(out, *place));
}

fn put_all<T>(out: &mut Vec<u8>, all: impl ExactSizeIterator<Item = T>, put: impl Fn(&mut Vec<u8>, T)) {
    if all.len() > 0 {
        binary::put_length(out, all.len());
        all.for_each(|one| put(out, one));
    }
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::SnapshotPlace;

    fn codec() -> DeliveryCodec {
        let derived = r#"{"type":"record","name":"lv.C","fields":[{"name":"a","type":"string"}]}"#;
        let derived = AvroSchema::parse(derived).unwrap_or_else(|e| panic!("{e}"));
        DeliveryCodec::new(&derived).unwrap_or_else(|e| panic!("{e}"))
    }

    fn event<'a>(op: Op, after: Option<&'a [u8]>, reason: Reason) -> Delivery<'a> {
        Delivery::Event(Event {
            op,
            key: "k",
            after,
            reason,
            partition: Partition::new(3),
            position: EventPosition { offset: Offset::new(1_000), index: 3 },
            event_at: Millis::new(5),
            logged_at: Millis::new(-6),
            trace: after.and_then(|_| TraceContext::new([1; 16], [2; 8])),
        })
    }

    #[test]
    fn every_branch_is_what_the_union_says_and_comes_back() {
        let codec = codec();
        let place = Place { offset: Offset::new(7), checkpoint: Offset::new(2) };
        let progress = |at| {
            let partition = Partition::new(1);
            let end = Offset::new(9);
            Delivery::Progress(Progress { partition, place, freshness: at, end, passed_at: at })
        };
        let closing = |reason: CloseReason| Delivery::Closing {
            next: reason.next(),
            reason,
            detail: "d".into(),
            places: PerPartition::filled(1, place),
        };
        let mut all = vec![
            event(Op::Create, Some(&[2, b'x']), Reason::Enter),
            event(Op::Delete, None, Reason::Leave),
            Delivery::SnapshotBegin { bootstrap: BootstrapId::new([1; 16]) },
            Delivery::SnapshotProgress(Snapshot {
                id: BootstrapId::new([1; 16]),
                begun_at: Millis::new(77),
                seal: "seal".to_owned(),
                places: PerPartition::filled(
                    2,
                    SnapshotPlace { next: Offset::new(1), end: Offset::new(700) },
                ),
            }),
            Delivery::SnapshotEnd {
                bootstrap: BootstrapId::new([1; 16]),
                places: PerPartition::filled(3, place),
            },
            Delivery::SnapshotEnd { bootstrap: BootstrapId::new([1; 16]), places: PerPartition::none() },
            Delivery::Digests {
                places: PerPartition::filled(1, place),
                announced: AnnouncedDigests { rows: 7, total: 1 << 127, digests: vec![0, u64::MAX, 5] },
            },
            Delivery::Range { number: 9, rows: vec![("k", &[2, b'x']), ("l", &[0])] },
            Delivery::Range { number: 0, rows: vec![] },
            progress(None),
            progress(Some(Millis::new(4))),
        ];
        all.extend(CloseReason::ALL.map(closing));
        for delivery in all {
            let mut datum = Vec::new();
            DeliveryCodec::encode(&delivery, &mut datum);
            assert_eq!(codec.union().layout().validate(&datum), Ok(()), "{delivery:?}");
            let mut cursor = Cursor::new(&datum);
            assert_eq!(codec.decode(&mut cursor), Ok(delivery));
            assert_eq!(cursor.end(), Ok(()));
        }
    }

    #[test]
    fn a_delete_with_an_image_cannot_be_read() {
        let mut datum = Vec::new();
        DeliveryCodec::encode(&event(Op::Delete, None, Reason::Leave), &mut datum);
        assert!(codec().decode(&mut Cursor::new(&datum)).is_ok());
        // Behind the branch, the op, and the key of one letter.
        datum.splice(4..5, [2, 2, b'x']);
        assert!(codec().decode(&mut Cursor::new(&datum)).is_err());
    }

    #[test]
    fn the_codec_is_found_again_from_a_streams_header() {
        let codec = codec();
        let found = DeliveryCodec::from_union_schema(codec.union().text());
        assert_eq!(found.map(|c| c.derived().clone()), Ok(codec.derived().clone()));
        assert!(DeliveryCodec::from_union_schema(r#"["null","string"]"#).is_err());
    }
}
