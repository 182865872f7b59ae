//! Ports of the loopback for servers that are yet to start.
//!
//! Owns the choice: below the range that the system gives to clients, so that no client is given one of these ports by
//! chance between its choice and its use.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

/// The first port of the range.
const FIRST: u16 = 10_000;
/// How many ports it has: up to 30,000; the system's range begins at 32,768 on Linux.
const COUNT: u16 = 20_000;

/// Ports that are free, all different, and different from those that this process was given before.
pub fn free(count: usize) -> Result<Vec<u16>> {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Each process begins at a port of its own.
    let begin = u16::try_from(std::process::id() * 97 % u32::from(COUNT)).unwrap_or(0);
    let mut ports = Vec::with_capacity(count);
    for _ in 0..COUNT {
        if ports.len() == count {
            return Ok(ports);
        }
        let step = GIVEN.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (begin + step) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            ports.push(port);
        }
    }
    bail!("no {count} ports are free between {FIRST} and {}", FIRST + COUNT)
}

/// The address of a free port.
pub fn address() -> Result<SocketAddr> {
    let port = free(1)?.into_iter().next().unwrap_or(0);
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}
