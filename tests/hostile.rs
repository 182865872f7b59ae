//! An attacker's doing: silent sockets, other hosts' names, unknown paths, open folders. Honest agents do not feel it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

mod daily_site;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use platform::client::send;
use schemas::error_code::ErrorCode;
use support::network::{Network, refusal};
use tokio::net::TcpStream;

/// Sockets without a word that stand open at once.
const SILENT: usize = 3_000;
/// Requests that are measured, each over a connection of its own.
const ASKED: usize = 60;

/// How long a new connection takes to its first answer: the median and the longest.
async fn answered(network: &Network) -> (Duration, Duration) {
    let mut times = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let client = network.client("9000/main").unwrap();
        let begun = Instant::now();
        send(client.get("/v1/me")).await.unwrap();
        times.push(begun.elapsed());
    }
    times.sort();
    (times[ASKED / 2], times[ASKED - 1])
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_sockets_lock_nobody_out() {
    let network = Network::opened().await.unwrap();
    let (quiet, _) = answered(&network).await;
    let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let address = network.router.address();
    let flood = tokio::spawn({
        let (stop, opened) = (Arc::clone(&stop), Arc::clone(&opened));
        async move {
            // Those that are turned away are replaced at once.
            let mut silent = std::collections::VecDeque::new();
            while !stop.load(Ordering::Relaxed) {
                if silent.len() >= SILENT {
                    silent.pop_front();
                }
                if let Ok(socket) = TcpStream::connect(address).await {
                    silent.push_back(socket);
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    while opened.load(Ordering::Relaxed) < SILENT {
        tokio::task::yield_now().await;
    }
    let (flooded, longest) = answered(&network).await;
    let all = opened.load(Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    flood.await.unwrap();
    println!(
        "a new connection is answered in {quiet:?}; beside {all} silent sockets in {flooded:?}, at most {longest:?}"
    );
    // Without places of their own, honest handshakes waited for the ten seconds of the silent ones.
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_none_is_answered_in_our_words() {
    let network = Network::opened().await.unwrap();
    let client = network.client("9000/main").unwrap();
    for path in ["/", "/v1/nothing", "/v1/../me", "/registry"] {
        assert_eq!(refusal(send(client.get(path)).await).unwrap(), ErrorCode::RouteUnknown, "{path}");
    }
    assert_eq!(refusal(send(client.post("/v1/me")).await).unwrap(), ErrorCode::RouteUnknown);
    assert_eq!(refusal(send(network.operator.get("/v1/nothing")).await).unwrap(), ErrorCode::RouteUnknown);
}

/// Everything below a folder that others than its owner could read.
fn open_to_others(dir: &Path, found: &mut Vec<String>) {
    let mode = std::fs::symlink_metadata(dir).unwrap().permissions().mode();
    if mode & 0o077 != 0 {
        found.push(format!("{} {:o}", dir.display(), mode & 0o777));
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => open_to_others(&entry.path(), found),
            Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 && metadata.is_file() => {
                found.push(format!("{} {:o}", entry.path().display(), metadata.permissions().mode() & 0o777));
            }
            _ => {}
        }
    }
}

#[test]
fn registers_and_replicas_lie_closed() {
    let dir = tempfile::tempdir().unwrap();
    let site = daily_site::site(dir.path());
    // An older version left them open.
    for folder in ["log", "producer", "consumer"] {
        std::fs::create_dir(site.path(folder)).unwrap();
        std::fs::write(site.path(folder).join("left"), "row").unwrap();
        std::fs::set_permissions(site.path(folder), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(site.path(folder).join("left"), std::fs::Permissions::from_mode(0o644))
            .unwrap();
    }
    let (site, _running) = daily_site::settled(site);
    let mut found = Vec::new();
    for folder in ["log", "producer", "consumer", "drop/taken"] {
        open_to_others(&site.path(folder), &mut found);
    }
    // What was dropped keeps its own rights; its folder is closed.
    found.retain(|path| !path.contains("/drop/taken/"));
    assert!(found.is_empty(), "{found:#?}");
    assert!(site.log("consumer").contains("they are closed now"), "{}", site.log("consumer"));
}

#[test]
fn a_key_that_others_can_read_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let site = daily_site::site(dir.path());
    let keys: Vec<_> =
        std::fs::read_dir(site.path("pki")).unwrap().flatten().map(|entry| entry.path()).collect();
    let keys = keys.iter().filter(|path| path.to_string_lossy().ends_with("-key.pem"));
    keys.for_each(|key| std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o644)).unwrap());
    std::fs::set_permissions(site.path("pki"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let refused = site.start("router", daily_site::arguments("router")).map(drop).unwrap_err().to_string();
    assert!(refused.contains("can be read by others") && refused.contains("chmod 600"), "{refused}");
}
