//! Attackers of a router: of each kind as many at once as its attack needs, until the process is killed.
//!
//! Owns the attacks and their pace. It counts attempts; what honest agents feel is measured elsewhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use platform::pki::Issued;
use support::attacker::{Attacker, drip, endless_hello};
use tokio::task::JoinSet;

/// Silent sockets that are open at once.
const SILENT: usize = 9_000;
/// Slow attackers at once, of each kind.
const SLOW: usize = 400;
/// Attackers that do something as fast as they can.
const QUICK: usize = 4;
/// Between two printed counts.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// The kind of an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Connections that send nothing.
    SilentSockets,
    /// TLS hellos that never end.
    SlowHellos,
    /// Whole TLS hellos whose answers are never read.
    UnansweredHellos,
    /// Handshakes without a certificate, one after the other.
    Handshakes,
    /// Headers that never end, with a certificate.
    SlowHeaders,
    /// Bodies that never end, with a certificate.
    SlowBodies,
    /// Streams whose windows stay closed, with a certificate.
    ClosedWindows,
    /// Requests that are reset at once, with a certificate.
    RapidResets,
    /// More requests than are allowed, with a certificate.
    Requests,
}

/// The attack and its target.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    kind: Kind,
    /// The router's listener.
    #[arg(long)]
    router: std::net::SocketAddr,
    /// A folder with `ca.pem` and the certificate of the participant that attacks.
    #[arg(long)]
    pki: PathBuf,
    /// The stem of that certificate.
    #[arg(long)]
    stem: String,
}

/// Attacks until it is killed; prints the count of attempts to standard output.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let read = |name: String| std::fs::read_to_string(args.pki.join(&name)).with_context(|| name);
    let certificate_pem = read(format!("{}.pem", args.stem))?;
    let issued = Issued { certificate_pem, key_pem: read(format!("{}-key.pem", args.stem))? };
    let authority = read("ca.pem".to_owned())?;
    let is_named = !matches!(
        args.kind,
        Kind::SilentSockets | Kind::SlowHellos | Kind::UnansweredHellos | Kind::Handshakes
    );
    let attacker = Attacker::new(args.router, &authority, is_named.then_some(&issued))?;
    let attempts = Arc::new(AtomicU64::new(0));
    let mut attacking = JoinSet::new();
    let at_once = match args.kind {
        Kind::SlowHellos | Kind::SlowHeaders | Kind::SlowBodies | Kind::ClosedWindows => SLOW,
        Kind::SilentSockets
        | Kind::UnansweredHellos
        | Kind::Handshakes
        | Kind::RapidResets
        | Kind::Requests => QUICK,
    };
    for _ in 0..at_once {
        attacking.spawn(attack(args.kind, attacker.clone(), Arc::clone(&attempts)));
    }
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        println!("{}", attempts.load(Ordering::Relaxed));
    }
}

async fn attack(kind: Kind, attacker: Attacker, attempts: Arc<AtomicU64>) {
    let mut open = std::collections::VecDeque::new();
    loop {
        attempts.fetch_add(1, Ordering::Relaxed);
        // Whatever becomes of one attempt, the next one follows.
        if open.len() >= SILENT / QUICK {
            open.pop_front();
        }
        let outcome = match kind {
            Kind::SilentSockets => {
                attacker.socket().await.map(|socket| open.push_back(socket)).map_err(Into::into)
            }
            Kind::UnansweredHellos => attacker.hello().await.map(|socket| open.push_back(socket)),
            _ => attempt(kind, &attacker, &attempts).await,
        };
        if outcome.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn attempt(kind: Kind, attacker: &Attacker, attempts: &AtomicU64) -> anyhow::Result<()> {
    let endless = || std::iter::repeat(b'x');
    match kind {
        // `attack` keeps these open while others follow.
        Kind::SilentSockets | Kind::UnansweredHellos => {}
        Kind::SlowHellos => {
            drip(attacker.socket().await?, "", endless_hello()).await;
        }
        Kind::Handshakes => drop(attacker.tls("h2").await?),
        Kind::SlowHeaders => {
            drip(attacker.tls("http/1.1").await?, "GET /v1/me HTTP/1.1\r\nx: ", endless()).await;
        }
        Kind::SlowBodies => {
            let path = "/v1/channels/register/partitions/0/batches";
            let head = format!("POST {path} HTTP/1.1\r\nhost: r\r\ncontent-length: 4000000\r\n\r\n");
            drip(attacker.tls("http/1.1").await?, &head, endless()).await;
        }
        Kind::ClosedWindows => {
            let mut requests = attacker.http2(0).await?;
            let path = "/v1/agreements/A-2/stream?from=state";
            let (answer, _) = requests.send_request(attacker.request(path)?, true)?;
            let held = answer.await?;
            // Fails if the router has broken the connection.
            std::future::poll_fn(|context| requests.poll_ready(context)).await?;
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(held);
        }
        Kind::RapidResets => {
            let mut requests = attacker.http2(65_535).await?;
            loop {
                requests = requests.ready().await?;
                let (_, mut stream) = requests.send_request(attacker.request("/v1/me")?, false)?;
                stream.send_reset(h2::Reason::CANCEL);
                attempts.fetch_add(1, Ordering::Relaxed);
                // Other tasks of this process get their turns, too.
                tokio::task::yield_now().await;
            }
        }
        Kind::Requests => {
            let mut requests = attacker.http2(65_535).await?;
            loop {
                requests = requests.ready().await?;
                let (answer, _) = requests.send_request(attacker.request("/v1/me")?, true)?;
                let mut body = answer.await?.into_body();
                while body.data().await.is_some() {}
                attempts.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}
