//! The network between sites and routers, behind one balancer: requests are carried to the routers' own routes.
//!
//! Owns what a line may do to a request: cut, delay, duplicate, deliver late, lose the answer. Shows the oracle what a
//! router hands over, in the moment that it leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use platform::connection_reset::ConnectionReset;
use platform::host::Answer;
use platform::identity::Peer;
use platform::simulation::node::{Network, Node};
use platform::simulation::random::Random;
use platform::unreachable::Unreachable;
use router::http::server::{PeerName, for_peer};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tower::ServiceExt;

use crate::fault::{Fault, Sky};
use crate::oracle::{Oracle, Tap};

/// The longest wait of a sender that cannot reach a router.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The longest that a request or its copy is under way after its sender gave it up, in milliseconds.
const LATE: u64 = 20_000;

#[derive(Clone)]
pub struct Door {
    pub node: Node,
    pub agents: axum::Router,
    pub admin: axum::Router,
}

struct State {
    doors: Vec<Option<Door>>,
    random: Random,
    /// The node that carries late letters and copies.
    node: Option<Node>,
}

struct Inner {
    peers: BTreeMap<String, Peer>,
    state: Mutex<State>,
    /// Site and router that cannot reach each other.
    cuts: watch::Sender<BTreeSet<(String, usize)>>,
    sky: Arc<Sky>,
    oracle: Arc<Oracle>,
}

/// The network; clones share it.
#[derive(Clone)]
pub struct Lines(Arc<Inner>);

/// A request that can be sent again.
#[derive(Clone)]
struct Letter {
    from: String,
    method: http::Method,
    uri: String,
    headers: http::HeaderMap,
    body: Bytes,
}

enum Part {
    Data(Bytes),
    End,
}

type Head = (http::response::Parts, mpsc::Receiver<Part>);

impl Lines {
    /// A network of so many routers, none of them running yet.
    pub fn new(
        routers: usize,
        peers: BTreeMap<String, Peer>,
        sky: Arc<Sky>,
        oracle: Arc<Oracle>,
        seed: u64,
    ) -> Self {
        let state =
            State { doors: (0..routers).map(|_| None).collect(), random: Random::new(seed), node: None };
        let state = Mutex::new(state);
        let cuts = watch::Sender::default();
        Self(Arc::new(Inner { peers, state, cuts, sky, oracle }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network's own machine.
    pub fn set_node(&self, node: Node) {
        self.lock().node = Some(node);
    }

    /// Carries nothing from now on.
    pub fn close(&self) {
        let mut state = self.lock();
        let doors = std::mem::take(&mut state.doors);
        let node = state.node.take();
        drop(state);
        drop((doors, node));
    }

    /// A router runs, or has stopped.
    pub fn set_door(&self, router: usize, door: Option<Door>) {
        if let Some(place) = self.lock().doors.get_mut(router) {
            *place = door;
        }
    }

    /// Cuts or repairs the line between a site and a router.
    pub fn set_line(&self, site: &str, router: usize, is_up: bool) {
        self.0.cuts.send_modify(|cuts| {
            match is_up {
                true => cuts.remove(&(site.to_owned(), router)),
                false => cuts.insert((site.to_owned(), router)),
            };
        });
    }

    fn below(&self, bound: u64) -> u64 {
        self.lock().random.below(bound)
    }

    fn chance(&self, thousandths: u64) -> bool {
        self.below(1_000) < thousandths
    }

    fn delay(&self) -> Duration {
        let delay = self.0.sky.weather().delay;
        if delay > 1_000 {
            self.0.sky.fired(Fault::Delay);
        }
        Duration::from_millis(self.below(delay + 1))
    }

    /// Any router, running or not: a balancer notices late. If the site names a router by number, that one.
    fn choose(&self, from: &str) -> (usize, Option<Door>) {
        let mut state = self.lock();
        let count = state.doors.len().max(1);
        let pinned = from.split_once('@').and_then(|(_, router)| router.parse().ok());
        let drawn = usize::try_from(state.random.next_number() % 1_024).unwrap_or(0) % count;
        let router = pinned.unwrap_or(drawn);
        (router, state.doors.get(router).cloned().flatten())
    }

    async fn carry(&self, letter: Letter) -> Result<Head, &'static str> {
        let weather = self.0.sky.weather();
        let (router, door) = self.choose(&letter.from);
        sleep(self.delay()).await;
        if self.is_cut(&letter.from, router) {
            // A cut line says nothing; an unreachable host may be reported at once.
            sleep(if self.chance(500) { CONNECT_LIMIT } else { Duration::ZERO }).await;
            return Err("no route to host");
        }
        let Some(door) = door else { return Err("connection refused") };
        let is_post = letter.method == http::Method::POST;
        if is_post && self.chance(weather.late) {
            self.later(letter, Fault::Reorder);
            return Err("connection reset");
        }
        if is_post && self.chance(weather.duplicate) {
            self.later(letter.clone(), Fault::Duplicate);
        }
        let answer = self.deliver(letter, router, &door);
        let head = answer.await.map_err(|_| "connection reset")?;
        sleep(self.delay()).await;
        if self.chance(weather.lost_answer) {
            self.0.sky.fired(Fault::LostAnswer);
            return Err("connection reset");
        }
        Ok(head)
    }

    /// A copy arrives some time later, at any router; nobody waits for its answer.
    fn later(&self, letter: Letter, fault: Fault) {
        let lines = self.clone();
        let wait = Duration::from_millis(self.below(LATE));
        let Some(node) = self.lock().node.clone() else { return };
        node.spawn(async move {
            sleep(wait).await;
            let (router, door) = lines.choose(&letter.from);
            let Some(door) = door.filter(|_| !lines.is_cut(&letter.from, router)) else { return };
            lines.0.sky.fired(fault);
            drop(lines.deliver(letter, router, &door).await);
        });
    }

    fn is_cut(&self, site: &str, router: usize) -> bool {
        self.0.cuts.borrow().contains(&(site.to_owned(), router))
    }

    /// Hands a request to a router's routes, on the router's machine; the answer comes in parts.
    fn deliver(&self, letter: Letter, router: usize, door: &Door) -> oneshot::Receiver<Head> {
        let (tell, told) = oneshot::channel();
        let lines = self.clone();
        let app = if letter.from.starts_with("operator") { door.admin.clone() } else { door.agents.clone() };
        door.node.spawn(async move { lines.serve(letter, router, app, tell).await });
        told
    }

    async fn serve(&self, letter: Letter, router: usize, app: axum::Router, tell: oneshot::Sender<Head>) {
        let reset = ConnectionReset::default();
        let site = letter.from.split('@').next().unwrap_or_default();
        let Some(peer) = self.0.peers.get(site) else { return };
        let app = for_peer(app, PeerName(Ok(peer.clone())), reset.clone());
        let mut request = http::Request::new(Body::from(letter.body));
        *request.method_mut() = letter.method;
        *request.headers_mut() = letter.headers;
        *request.version_mut() = http::Version::HTTP_2;
        let Ok(uri) = letter.uri.parse() else { return };
        *request.uri_mut() = uri;
        let tap = self.0.oracle.tap(&letter.uri);
        let Ok(response): Result<_, Infallible> = app.oneshot(request).await;
        let (head, body) = response.into_parts();
        // As much as one stream's window holds.
        let (out, parts) = mpsc::channel(4);
        if tell.send((head, parts)).is_err() {
            return;
        }
        tokio::select! {
            biased;
            () = reset.requested() => {}
            () = self.pump(body, &out, &letter.from, router, tap) => {}
        }
    }

    async fn pump(
        &self,
        mut body: Body,
        out: &mpsc::Sender<Part>,
        site: &str,
        router: usize,
        mut tap: Option<Tap>,
    ) {
        let mut cuts = self.0.cuts.subscribe();
        let line = (site.to_owned(), router);
        loop {
            if self.is_cut(site, router) {
                // Half of the lines break at once, the others are silent until they are repaired.
                if self.chance(500) {
                    return;
                }
                drop(cuts.wait_for(|cuts| !cuts.contains(&line)).await);
            }
            let room = tokio::select! {
                biased;
                _ = cuts.wait_for(|cuts| cuts.contains(&line)) => continue,
                room = out.reserve() => room,
            };
            let Ok(room) = room else { return };
            let frame = tokio::select! {
                biased;
                () = out.closed() => return,
                _ = cuts.wait_for(|cuts| cuts.contains(&line)) => continue,
                frame = body.frame() => frame,
            };
            match frame {
                None => return room.send(Part::End),
                Some(Err(_)) => return,
                Some(Ok(frame)) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    if let Some(tap) = &mut tap {
                        self.0.oracle.handed_over(tap, &bytes);
                    }
                    room.send(Part::Data(bytes));
                }
            }
        }
    }
}

impl Network for Lines {
    fn send(&self, from: &Node, request: reqwest::Request) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        let lines = self.clone();
        let url = request.url().to_string();
        let path = request.url().path().to_owned();
        let uri = request.url().query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        let body = request.body().and_then(reqwest::Body::as_bytes).map(Bytes::copy_from_slice);
        let letter = Letter {
            from: from.name().to_owned(),
            method: request.method().clone(),
            uri,
            headers: request.headers().clone(),
            body: body.unwrap_or_default(),
        };
        let limit = request.timeout().copied();
        Box::pin(async move {
            let unreachable = |problem: &str| Unreachable { url, problem: problem.to_owned() };
            let carried = lines.carry(letter);
            let carried = match limit {
                Some(limit) => tokio::time::timeout(limit, carried).await,
                None => Ok(carried.await),
            };
            let (head, parts) = match carried {
                Ok(Ok(carried)) => carried,
                Ok(Err(problem)) => return Err(unreachable(problem)),
                Err(_) => return Err(unreachable("timed out")),
            };
            let body = reqwest::Body::wrap(Parts(parts));
            Ok(reqwest::Response::from(http::Response::from_parts(head, body)))
        })
    }
}

/// A line that broke before the end.
#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection broke")
    }
}

impl std::error::Error for Broken {}

struct Parts(mpsc::Receiver<Part>);

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.poll_recv(context).map(|part| match part {
            Some(Part::Data(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Part::End) => None,
            None => Some(Err(Broken)),
        })
    }
}
