//! What happens elsewhere in the network while an even load is measured.
//!
//! Owns the parts that disturb, and when the disturbance begins and ends. It knows nothing of what is measured meanwhile.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use parts::ports;
use tokio::sync::watch;

use crate::declared::{BURSTING, SECOND_PROVIDER, SECOND_ROUTER, disturbing};
use crate::gate::Gate;
use crate::intake::fill;
use crate::network::{Network, Sending, answers, consumer_arguments, producer_text, router_text};
use crate::process::Part;
use crate::rows::now_micros;
use crate::scenario::{Disturbance, Scenario, SinkKind};

/// What is ready to disturb.
pub(crate) enum Disturber {
    /// A provider whose outbox is full, and the consumer of its channel.
    Burst { events: u64, gate: Gate, provider: Option<Part>, consumer: Part },
    /// A router, and the agents that will find another one when it ends.
    Storm { streams: u32, router: Part, agents: Part },
}

/// The arguments of the agent that sends the burst.
const SENDING: [&str; 3] = ["producer", "--config", "second-producer.toml"];

impl Disturber {
    /// Starts what is to disturb a network; nothing happens yet.
    pub(crate) async fn prepare(
        disturbance: Disturbance,
        scenario: &Scenario,
        network: &Network,
    ) -> anyhow::Result<Self> {
        let numbers = disturbing(scenario);
        match disturbance {
            Disturbance::Burst { events } => Self::burst(events, numbers, network).await,
            Disturbance::Storm { streams } => Self::storm(streams, numbers, network).await,
        }
    }

    async fn burst(events: u64, numbers: Range<u32>, network: &Network) -> anyhow::Result<Self> {
        let dir = network.path("");
        let gate = Gate::before(vec![network.listens()], network.tasks()).await?;
        let endpoint = ports::address()?;
        let text = producer_text(&Sending {
            channel: BURSTING,
            stem: SECOND_PROVIDER,
            router: gate.address(),
            endpoint,
            folders: [SECOND_PROVIDER, "second-drop"],
        });
        std::fs::write(network.path("second-producer.toml"), text)?;
        let drop = network.path("second-drop");
        std::fs::create_dir_all(&drop)?;
        let filling = Part::start("filling-producer", &dir, &SENDING, &[])?;
        answers(endpoint).await?;
        fill(&gate, &drop, events, 1).await?;
        filling.stop().await?;
        let arguments = consumer_arguments(network.listens(), numbers, SinkKind::None, None);
        let mut consumer = Part::start("consumer-of-the-burst", &dir, &arguments, &[])?;
        consumer.until("its stream was open", |line| line.ready).await?;
        Ok(Self::Burst { events, gate, provider: None, consumer })
    }

    async fn storm(streams: u32, numbers: Range<u32>, network: &Network) -> anyhow::Result<Self> {
        let dir = network.path("");
        let listens = ports::address()?;
        let text = router_text(SECOND_ROUTER, [listens, ports::address()?], "");
        let log = std::fs::read_to_string(network.path("log.toml"))?;
        std::fs::write(network.path("second-router.toml"), text + &log)?;
        let arguments = ["router", "--config", "second-router.toml"];
        let mut router = Part::start("second-router", &dir, &arguments, &[])?;
        router.until("it listened", |line| line.ready).await?;
        let gate = Gate::before(vec![listens, network.listens()], network.tasks()).await?;
        let arguments = consumer_arguments(gate.address(), numbers, SinkKind::None, None);
        let mut agents = Part::start("storming-agents", &dir, &arguments, &[])?;
        agents.until("their streams were open", |line| line.ready).await?;
        Ok(Self::Storm { streams, router, agents })
    }

    /// Disturbs; `during` is true meanwhile. Returns how long it took.
    pub(crate) async fn disturb(
        &mut self,
        network: &Path,
        during: &watch::Sender<bool>,
    ) -> anyhow::Result<Duration> {
        let begun = match self {
            Self::Burst { gate, provider, .. } => {
                *provider = Some(Part::start("bursting-producer", network, &SENDING, &[])?);
                gate.open().await?
            }
            Self::Storm { router, .. } => {
                let begun = now_micros();
                router.kill().await?;
                begun
            }
        };
        during.send_replace(true);
        let ended = match self {
            Self::Burst { events, consumer, .. } => {
                let all = *events;
                let last = consumer.until("all its events had arrived", |line| line.events >= all).await?;
                ensure!(last.events == all, "{} events arrived of {all}: some came twice", last.events);
                last.last_at
            }
            Self::Storm { streams, agents, .. } => {
                let all = *streams;
                agents.until("its streams ended", |line| line.streaming < all).await?;
                agents.until("all streams were open again", |line| line.streaming == all).await?;
                now_micros()
            }
        };
        during.send_replace(false);
        Ok(Duration::from_micros(u64::try_from(ended - begun).unwrap_or_default()))
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Burst { provider, consumer, .. } => {
                if let Some(provider) = provider {
                    provider.stop().await?;
                }
                consumer.stop().await
            }
            Self::Storm { agents, .. } => agents.stop().await,
        }
    }
}
