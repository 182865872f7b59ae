//! The names of the network's promises: each has a counter that must stay 0 in production.
//!
//! Owns the names only. The check for a breach is where the promise is kept; `docs/operating.md` lists these checks.

/// What the network promises to everybody who uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Promise {
    /// A replica equals its part of the register.
    ReplicaEquation,
    /// Both images are judged.
    Transition,
    /// A field that the agreement does not name never leaves.
    DefaultDeny,
    /// An acknowledged event counts exactly once.
    AcceptedOnce,
    /// A sink with transactions applies an event exactly once.
    AppliedOnce,
    /// Events of one key arrive in the log's order.
    KeyOrder,
    /// No byte leaves after an acknowledged revocation.
    Revocation,
    /// What is delivered follows from log, agreement and cursor alone.
    PureDelivery,
    /// Every queue has a bound.
    Bounded,
    /// A record that cannot be judged blocks nothing else.
    IsolationOfPoison,
    /// A consumer can distinguish a stream with nothing for it from a stalled one.
    HonestProgress,
}

impl Promise {
    /// All of them, in the design's order.
    pub const ALL: [Self; 11] = [
        Self::ReplicaEquation,
        Self::Transition,
        Self::DefaultDeny,
        Self::AcceptedOnce,
        Self::AppliedOnce,
        Self::KeyOrder,
        Self::Revocation,
        Self::PureDelivery,
        Self::Bounded,
        Self::IsolationOfPoison,
        Self::HonestProgress,
    ];

    /// The name in metrics and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReplicaEquation => "replica-equation",
            Self::Transition => "transition",
            Self::DefaultDeny => "default-deny",
            Self::AcceptedOnce => "accepted-once",
            Self::AppliedOnce => "applied-once",
            Self::KeyOrder => "key-order",
            Self::Revocation => "revocation",
            Self::PureDelivery => "pure-delivery",
            Self::Bounded => "bounded",
            Self::IsolationOfPoison => "isolation-of-poison",
            Self::HonestProgress => "honest-progress",
        }
    }
}
