//! The parties of a network: names, identities, channels and agreements.
//!
//! Owns the declarations that every router begins with, and their report to the oracle.

use std::collections::{BTreeMap, BTreeSet};

use platform::identity::{Identity, Peer};
use platform::pki::{Authority, Subject};
use platform::simulation::random::Random;
use router::declarations::Declared;
use schemas::agreement::Agreement;
use schemas::ids::AgentId;
use serde_json::json;

use crate::oracle::{Oracle, Permits};
use crate::plan::{self, Machine};
use crate::register;

const DOMAIN: &str = "sim.dit";

/// The identities of all runs: only their names matter.
pub struct Identities {
    pub agent: Identity,
    pub router: Identity,
}

impl Identities {
    pub fn issue() -> anyhow::Result<Self> {
        platform::identity::install_crypto();
        let authority = Authority::new(DOMAIN)?;
        let router = Subject::Router { name: "r".to_owned(), hosts: vec!["localhost".to_owned()] };
        let agent = Subject::Agent("4000/agent".parse()?);
        Ok(Self { agent: authority.identity(&agent)?, router: authority.identity(&router)? })
    }
}

pub fn agent_of(machine: Machine) -> anyhow::Result<AgentId> {
    Ok(match machine {
        Machine::Provider(number) => format!("{}/agent", 4_000 + number).parse()?,
        Machine::Consumer(number) => format!("{}/agent", 9_000 + number).parse()?,
        Machine::Router(_) => anyhow::bail!("a router is no agent"),
    })
}

/// A machine's name on the network.
pub fn name_of(machine: Machine) -> String {
    match machine {
        Machine::Router(number) => format!("router-{number}"),
        Machine::Provider(number) => format!("provider-{number}"),
        Machine::Consumer(number) => format!("consumer-{number}"),
    }
}

pub fn sites() -> impl Iterator<Item = Machine> {
    let providers = (0..plan::PROVIDERS).filter_map(|number| usize::try_from(number).ok());
    let consumers = (0..plan::CONSUMERS).filter_map(|number| usize::try_from(number).ok());
    providers.map(Machine::Provider).chain(consumers.map(Machine::Consumer))
}

/// The rule of a set of territories.
pub fn rule(territories: &BTreeSet<usize>) -> String {
    let names: Vec<_> = territories
        .iter()
        .filter_map(|number| register::TERRITORIES.get(*number))
        .map(|name| format!("{name:?}"))
        .collect();
    format!("t in [{}]", names.join(", "))
}

/// All peers that may send a router requests, by name.
pub fn peers() -> anyhow::Result<BTreeMap<String, Peer>> {
    let mut peers = BTreeMap::from([("operator".to_owned(), Peer::Operator("simulation".to_owned()))]);
    for site in sites() {
        peers.insert(name_of(site), Peer::Agent(agent_of(site)?));
    }
    Ok(peers)
}

/// Draws the territories that an agreement permits.
pub fn draw_territories(random: &mut Random) -> BTreeSet<usize> {
    let first = usize::try_from(random.below(4)).unwrap_or(0);
    let second = usize::try_from(random.below(4)).unwrap_or(0);
    BTreeSet::from([first, second])
}

/// The network's declarations: a channel of each provider, an agreement of each consumer.
pub fn declare(random: &mut Random, oracle: &Oracle) -> anyhow::Result<(Declared, Vec<Agreement>)> {
    let mut declared = Declared::default();
    let participant = |id: String| serde_json::from_value(json!({"id": id, "name": id}));
    for number in 0..plan::PROVIDERS {
        let id = (4_000 + number).to_string();
        let name = format!("register-{number}");
        declared.participants.push(participant(id.clone())?);
        let schema: serde_json::Value = serde_json::from_str(register::SCHEMA)?;
        declared.channels.push(serde_json::from_value(json!({
            "name": name, "kind": "distribution", "owner": id, "partitions": plan::PARTITIONS,
            "key": {"fields": ["k"]}, "schema": schema}))?);
        oracle.watch_log(&format!("dit.{name}.log"), plan::PARTITIONS);
    }
    for number in 0..plan::CONSUMERS {
        let id = (9_000 + number).to_string();
        let channel = number % plan::PROVIDERS;
        declared.participants.push(participant(id.clone())?);
        let territories = draw_territories(random);
        let name = format!("A-{number}");
        declared.agreements.push(serde_json::from_value(json!({
            "number": name, "version": 1, "provider": (4_000 + channel).to_string(), "consumer": id,
            "channel": format!("register-{channel}"), "purpose": "test", "legal_basis": "test",
            "valid_from": "2020-01-01T00:00:00Z", "history": "full", "schema_version": 1,
            "rows": rule(&territories), "fields": {"k": "keep", "t": "keep", "n": "keep"}}))?);
        let versions = vec![territories];
        oracle.permit(&name, Permits { versions, is_asked: false, is_revoked: false });
    }
    let agreements = declared.agreements.clone();
    Ok((declared, agreements))
}
