//! Why one event is left out of one stream.
//!
//! Owns the reasons and their words. The event stays in the log, for streams that can give it.

use scope::denial::Denial;

use super::encode::Unwritable;

/// An event that is neither delivered nor withheld by its agreement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Parked {
    /// The agreement cannot judge it.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// It has no text for people.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
}

impl Parked {
    /// The reason in a word, for metrics.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.as_str(),
            Self::Unwritable(_) => "unwritable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::PARKED;
    use schemas::avro::binary::DatumError;

    #[test]
    fn every_reason_has_its_series() {
        let datum = || DatumError::Invalid { at: 0, what: "x" };
        let reasons = [
            Parked::Denied(Denial::Undecodable(datum())),
            Parked::Denied(Denial::Unresolvable),
            Parked::Denied(Denial::Unprojectable),
            Parked::Unwritable(datum().into()),
        ];
        assert_eq!(reasons.map(|reason| reason.as_str()), PARKED);
    }
}
