//! Files as strangers have them: each is read as what it is, or refused with the reason.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod provider;
mod situations;
mod spellings;
mod torture;
