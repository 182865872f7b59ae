//! The reasons why an event gives no decision: one for each kind of malformed event.

use schemas::avro::binary::DatumError;

/// Why an event could not be judged. The event is parked and counted with this reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// An image cannot be decoded.
    #[error("an image cannot be decoded: {0}")]
    Undecodable(#[from] DatumError),
    /// An image of an older schema cannot be resolved to the agreement's.
    #[error("an image of an older schema cannot be resolved to the agreement's schema")]
    Unresolvable,
    /// The permitted image cannot be encoded in the derived schema.
    #[error("the permitted image does not fit the derived schema")]
    Unprojectable,
}

impl Denial {
    /// The reason in a word, for metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Undecodable(_) => "undecodable",
            Self::Unresolvable => "unresolvable",
            Self::Unprojectable => "unprojectable",
        }
    }
}
