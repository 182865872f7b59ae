//! Attacks on the wire, with certificates, with requests, and with text that people see. Honest agents do not feel
//! them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod certificates;
#[path = "../daily_site/mod.rs"]
mod daily_site;
mod files;
mod requests;
mod shown;
mod sockets;
