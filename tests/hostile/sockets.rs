//! Connections that are silent, slow, reset or too many.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use platform::client::send;
use platform::pki::Subject;
use schemas::change::Op;
use support::attacker::{Attacker, Dripped, drip, endless_hello};
use support::network::Network;
use support::site::Site;
use tokio::net::TcpStream;

/// Silent sockets that are open at once.
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
    let stop = Arc::new(AtomicBool::new(false));
    let opened = Arc::new(AtomicUsize::new(0));
    let address = network.router.address();
    let flood = tokio::spawn({
        let stop = Arc::clone(&stop);
        let opened = Arc::clone(&opened);
        async move {
            // New sockets replace the oldest at once.
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
    // Without places of their own, honest handshakes waited ten seconds for the silent ones.
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}

/// An attacker with a certificate of this agent, or with none.
pub(crate) fn attacker(network: &Network, agent: Option<&str>) -> Attacker {
    let issue = |agent: &str| network.authority.issue(&Subject::Agent(agent.parse().unwrap())).unwrap();
    let certificate = agent.map(issue);
    let authority = network.authority.certificate_pem();
    Attacker::new(network.router.address(), authority, certificate.as_ref()).unwrap()
}

fn endless() -> impl Iterator<Item = u8> {
    std::iter::repeat(b'x')
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_slow_is_ended() {
    let network = Network::opened().await.unwrap();
    let known = attacker(&network, Some("9001/main"));
    let asked = async {
        let client = network.client("9000/main").unwrap();
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let begun = Instant::now();
            send(client.get("/v1/me")).await.unwrap();
            longest = longest.max(begun.elapsed());
        }
        longest
    };
    let path = "/v1/channels/register/partitions/0/batches";
    let body = format!("POST {path} HTTP/1.1\r\nhost: r\r\ncontent-length: 100000\r\n\r\n");
    let (hello, silent, silent_h2, headers, body, longest) = tokio::join!(
        async { drip(attacker(&network, None).socket().await.unwrap(), "", endless_hello()).await },
        async { drip(known.tls("http/1.1").await.unwrap(), "", std::iter::empty()).await },
        async { drip(known.tls("h2").await.unwrap(), "PRI * HTTP/2.0\r\n", std::iter::empty()).await },
        async { drip(known.tls("http/1.1").await.unwrap(), "GET /v1/me HTTP/1.1\r\nx: ", endless()).await },
        async { drip(known.tls("http/1.1").await.unwrap(), &body, endless()).await },
        asked,
    );
    let within = |dripped: &Dripped, limit| {
        assert!(dripped.lasted < Duration::from_secs(limit), "{dripped:?}");
    };
    [&hello, &silent, &silent_h2, &headers].into_iter().for_each(|dripped| within(dripped, 20));
    within(&body, 50);
    assert!(body.answer.contains("request_slow"), "{body:?}");
    assert!(longest < Duration::from_secs(5), "others waited for {longest:?}");
}

/// Opens requests and resets each at once, until the router ends the connection.
async fn reset_rapidly(attacker: &Attacker) -> (usize, String) {
    let mut requests = attacker.http2(65_535).await.unwrap();
    for count in 0..200_000 {
        requests = match requests.ready().await {
            Ok(requests) => requests,
            Err(error) => return (count, error.to_string()),
        };
        match requests.send_request(attacker.request("/v1/me").unwrap(), false) {
            Ok((_, mut stream)) => stream.send_reset(h2::Reason::CANCEL),
            Err(error) => return (count, error.to_string()),
        }
    }
    panic!("200,000 requests were taken back, and the router took it");
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_end_their_own_connection_and_no_others() {
    let network = Network::opened().await.unwrap();
    let known = attacker(&network, Some("9001/main"));
    let client = network.client("9000/main").unwrap();
    for _ in 0..5 {
        let (count, why) = reset_rapidly(&known).await;
        println!("a connection ended after {count} resets: {why}");
        send(client.get("/v1/me")).await.unwrap();
    }
}

/// Sends a request; its status, and its body as far as the window lets it come.
async fn ask(
    requests: &mut h2::client::SendRequest<Bytes>,
    request: http::Request<()>,
) -> (StatusCode, h2::RecvStream) {
    let (answer, _) = requests.send_request(request, true).unwrap();
    let (head, body) = answer.await.unwrap().into_parts();
    (head.status, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_windows_hold_a_few_answers_and_no_more() {
    let mut network = Network::opened().await.unwrap();
    // More than the router holds for a connection that takes nothing.
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let row = support::network::row(key, &"J".repeat(400_000));
        network.publish(Op::Create, key, None, Some(&row)).await.unwrap();
    }
    network.materialised().await.unwrap();
    for (agent, path, most) in [
        ("9000/main", "/v1/agreements/A-1/stream?from=state", 8),
        ("4000/main", "/v1/channels/register/state", 2),
    ] {
        let known = attacker(&network, Some(agent));
        // No byte of any body may come.
        let mut requests = known.http2(0).await.unwrap();
        let mut held = Vec::new();
        for _ in 0..most {
            let (status, body) = ask(&mut requests, known.request(path).unwrap()).await;
            assert_eq!(status, StatusCode::OK, "{path}");
            held.push(body);
        }
        let (status, _) = ask(&mut requests, known.request(path).unwrap()).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{path}");
        drop(requests);
    }
    // Their places are free when the connection has ended.
    let stream = async || network.stream("9000/main", "state").await;
    let begun = Instant::now();
    let mut free = stream().await;
    while free.is_err() && begun.elapsed() < Duration::from_secs(60) {
        tokio::task::yield_now().await;
        free = stream().await;
    }
    free.unwrap().until(|word| word == "end").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let network = Network::opened().await.unwrap();
    let known = attacker(&network, Some("9001/main"));
    let mut requests = known.http2(65_535).await.unwrap();
    let mut refused = None;
    // Many at once: one after the other may be slower than what is allowed.
    for _ in 0..2_000 {
        requests = requests.ready().await.unwrap();
        let mut ask = |_| requests.send_request(known.request("/v1/me").unwrap(), true).unwrap().0;
        let answers: Vec<_> = (0..64).map(&mut ask).collect();
        for answer in answers {
            let (head, mut body) = answer.await.unwrap().into_parts();
            let body = body.data().await.unwrap().unwrap();
            if head.status != StatusCode::OK {
                refused = Some((head, body));
            }
        }
        if refused.is_some() {
            break;
        }
    }
    let (head, body) = refused.expect("128,000 requests are too many");
    assert_eq!(
        (head.status, &head.headers["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
    );
    assert!(String::from_utf8_lossy(&body).contains("participant 9001 has too many requests"), "{body:?}");
    send(network.client("9000/main").unwrap().get("/v1/me")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_asking_is_not_read() {
    const CONNECTIONS: usize = 4;
    const AT_ONCE: usize = 64;
    let network = Network::opened().await.unwrap();
    let known = attacker(&network, Some("9001/main"));
    // Many requests at once over each connection: their participant may ask 5,000 times a second.
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let known = known.clone();
        asking.spawn(async move {
            let mut requests = known.http2(65_535).await.unwrap();
            let mut refused = Vec::new();
            let mut last = Instant::now();
            while refused.len() < 3 && last.elapsed() < Duration::from_secs(60) {
                requests = requests.ready().await.unwrap();
                let mut ask = |_| requests.send_request(known.request("/v1/me").unwrap(), true).unwrap().0;
                let answers: Vec<_> = (0..AT_ONCE).map(&mut ask).collect();
                let mut is_refused = false;
                for answer in answers {
                    let (head, mut body) = answer.await.unwrap().into_parts();
                    while body.data().await.is_some() {}
                    is_refused |= head.status == StatusCode::TOO_MANY_REQUESTS;
                }
                if is_refused {
                    refused.push(last.elapsed());
                    last = Instant::now();
                }
            }
            refused
        });
    }
    let refused = asking.join_all().await;
    assert!(refused.iter().all(|of_one| of_one.len() == 3), "{refused:?}");
    // A connection is not read for a second after a refusal, most of which is from one answer to the next.
    let mut between = refused.iter().flat_map(|of_one| &of_one[1..]);
    assert!(between.all(|between| *between >= Duration::from_millis(500)), "{refused:?}");
    send(network.client("9000/main").unwrap().get("/v1/me")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_whose_handshakes_fail_waits_and_no_other_does() {
    let network = Network::opened().await.unwrap();
    let unknown = attacker(&network, None);
    let stop = Arc::new(AtomicBool::new(false));
    let failed = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let unknown = unknown.clone();
        let stop = Arc::clone(&stop);
        let failed = Arc::clone(&failed);
        // A handshake without a certificate is over for the client before the router has refused it.
        flood.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let mut stream = unknown.tls("h2").await.unwrap();
                let refused = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await;
                assert!(refused.is_err(), "a connection without a certificate was taken");
                failed.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while failed.load(Ordering::Relaxed) < 200 {
        tokio::task::yield_now().await;
    }
    let (others, longest) = answered(&network).await;
    stop.store(true, Ordering::Relaxed);
    let failed = failed.load(Ordering::Relaxed);
    let took = begun.elapsed();
    flood.join_all().await;
    println!(
        "{failed} failures in {took:?}; another address was answered within {others:?}, at most {longest:?}"
    );
    // Five milliseconds each, one after the other; the last twenty may still be under way.
    let owed = Duration::from_millis(5) * u32::try_from(failed).unwrap();
    assert!(took + Duration::from_millis(100) >= owed, "{failed} failures in {took:?}");
    assert!(others < Duration::from_millis(100), "{others:?}");
}

/// By default, a shell lets a process open 1,024 files.
#[test]
fn a_router_opens_as_many_sockets_as_it_may_need() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(dir.path(), env!("CARGO_BIN_EXE_dit"), &[]).unwrap();
    std::fs::create_dir_all(site.path("declared")).unwrap();
    for (limit, allowed, is_told) in [("1024:20000", "15360", false), ("1024:2048", "2048", true)] {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limit}")).args([env!("CARGO_BIN_EXE_dit"), "router"]);
        command.args(["--config", "router.toml"]).env("RUST_LOG", "info").current_dir(dir.path());
        let log = dir.path().join("router.log");
        let router = support::site::spawn(&mut command, "router", &log, true).unwrap();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", router.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(line.split_ascii_whitespace().nth(3), Some(allowed), "{line}");
        assert_eq!(site.log("router").contains("raise LimitNOFILE"), is_told, "{}", site.log("router"));
        assert!(router.stop().unwrap());
    }
}
