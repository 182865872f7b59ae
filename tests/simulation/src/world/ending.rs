//! The end of a run: everything is made whole, all work must finish, and the result is checked.
//!
//! Owns what must be true then. It makes no fault.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use schemas::promise::Promise;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{SETTLE_LIMIT, World};
use crate::fault::Weather;
use crate::parties::{name_of, sites};
use crate::plan::{self, Machine};
use crate::replay::replay;

impl World {
    pub(super) fn make_whole(&mut self) {
        self.sky.set_weather(Weather::FAIR);
        let routers: Vec<_> = (0..plan::ROUTERS).filter_map(|number| usize::try_from(number).ok()).collect();
        for router in &routers {
            self.broker.set_line(*router, true);
            self.broker.set_unheard(*router, None);
            sites().for_each(|site| self.lines.set_line(&name_of(site), *router, true));
        }
        for machine in routers.into_iter().map(Machine::Router).chain(sites()).collect::<Vec<_>>() {
            self.start(machine);
            if let Some(node) = self.nodes.get(&machine) {
                node.set_skew(0);
                node.resume();
            }
        }
    }

    /// Returns when all was sent, all was received, and the operator was answered; or when a promise was broken.
    pub(super) async fn settled(&self) {
        while self.oracle.verdict().is_empty() {
            let waits = self.waits_for();
            if waits.is_none() {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// The first thing that is not at its end yet.
    pub(super) fn waits_for(&self) -> Option<String> {
        for provider in &self.providers {
            if !provider.account().is_drained {
                return Some(format!("{} has not sent everything", provider.id));
            }
        }
        for (consumer, agreement) in self.consumers.iter().zip(&self.agreements) {
            let number = &consumer.number;
            let reached = consumer.reached().clone();
            if self.oracle.is_revocation_asked(number) {
                if !self.oracle.is_revoked(number.as_str()) || !reached.has_ended {
                    return Some(format!("the revocation of {number}, ended {}", reached.has_ended));
                }
                continue;
            }
            let Some(cursor) = &reached.cursor else { return Some(format!("{number} has no position")) };
            if cursor.version != agreement.version || !self.oracle.is_at_end(&consumer.topic, cursor) {
                return Some(format!("{number} stands at {}", schemas::cursor::in_words(&cursor.places)));
            }
            let owner = self.providers.iter().find(|provider| provider.channel == agreement.channel);
            let told = owner.and_then(|provider| provider.account().freshness);
            if reached.freshness < told {
                return Some(format!("{number} heard of {:?}, not of {told:?}", reached.freshness));
            }
        }
        None
    }

    pub(super) fn progress(&self) -> String {
        self.waits_for().unwrap_or_else(|| "nothing".to_owned())
    }

    /// Every consumer's first cursor must give the same deliveries again, through each router.
    pub(super) async fn replay(&self) -> anyhow::Result<()> {
        for (index, consumer) in self.consumers.iter().enumerate() {
            let first = consumer.reached().first.clone();
            let Some(cursor) = first.filter(|_| self.oracle.verdict().is_empty()) else { continue };
            if self.oracle.is_revocation_asked(&consumer.number) {
                continue;
            }
            let mut seen = Vec::new();
            for router in 0..plan::ROUTERS {
                let node = self.node(&format!("{}@{router}", name_of(Machine::Consumer(index))));
                let identity = self.routers.identity.clone();
                let oracle = Arc::clone(&self.oracle);
                let number = consumer.number.clone();
                let topic = consumer.topic.clone();
                let cursor = cursor.clone();
                let (tell, told) = oneshot::channel();
                node.spawn(async move {
                    drop(tell.send(replay(identity, number, topic, cursor, oracle).await));
                });
                let replayed = tokio::time::timeout(SETTLE_LIMIT, told).await;
                seen.push(replayed.context("a replay stalled")?.context("a replay was dropped")??);
            }
            self.oracle.note(|| format!("{} replayed: {seen:?}", consumer.number));
            if let [one, other] = seen.as_slice()
                && one != other
            {
                let what = format!("{}: one router gives {one:?}, the other {other:?}", consumer.number);
                self.oracle.broken(Promise::PureDelivery, what);
            }
        }
        Ok(())
    }

    /// Checks what must be true when nothing is left to do.
    pub(super) fn look_at_end(&self) {
        if !self.oracle.verdict().is_empty() {
            return;
        }
        for provider in &self.providers {
            let topic = format!("dit.{}.log", provider.channel);
            let account = provider.account();
            let rows = self.oracle.rows(&topic);
            if rows != account.register.rows {
                let what = format!("{topic} comes to {rows:?}, the register is {:?}", account.register.rows);
                self.oracle.broken(Promise::AcceptedOnce, what);
            }
            let counted = self.oracle.story(&topic);
            for key in account.register.story.keys() {
                let counted = counted.get(key).map(Vec::as_slice).unwrap_or_default();
                if let Some(what) = account.differs(key, counted) {
                    self.oracle.broken(Promise::AcceptedOnce, format!("{topic} {what}"));
                }
            }
        }
    }
}
