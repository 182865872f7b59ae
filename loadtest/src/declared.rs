//! What a run declares: participants, channels, agreements, and the certificates of all agents.
//!
//! Owns who is who in a run. A consumer's number gives its agreement and its certificate.

use std::ops::Range;
use std::path::{Path, PathBuf};

use platform::pki::{Authority, Subject};
use schemas::ids::AgreementNumber;
use serde_json::{Value, json};

use crate::rows::{PERMITTED, SCHEMA, municipality};
use crate::scenario::{Disturbance, Scenario};

pub(crate) const DOMAIN: &str = "load.dit";
/// The channel under load.
pub(crate) const CHANNEL: &str = "addresses";
/// The channel that gets a burst.
pub(crate) const BURSTING: &str = "bursting";
/// The router that ends in a storm: its name, and the stem of its certificate.
pub(crate) const SECOND_ROUTER: &str = "second-router";
/// The stem of the certificate of the agent that sends a burst.
pub(crate) const SECOND_PROVIDER: &str = "second-provider";
const CHANNELS: [Owned; 2] = [
    Owned { channel: CHANNEL, owner: "4000", stem: "provider" },
    Owned { channel: BURSTING, owner: "4001", stem: SECOND_PROVIDER },
];
/// The predicate of a stream of a storm: no row matches.
const NOTHING: &str = "municipality == \"nobody\"";

/// A channel, its owner, and the stem of its agent's certificate.
#[derive(Clone, Copy)]
struct Owned {
    channel: &'static str,
    owner: &'static str,
    stem: &'static str,
}

/// The agreement of a consumer.
pub(crate) fn agreement_number(index: u32) -> anyhow::Result<AgreementNumber> {
    Ok(format!("A-{index:03}").parse()?)
}

/// The stem of a consumer's certificate.
pub(crate) fn consumer_stem(index: u32) -> String {
    format!("9{index:03}-main")
}

/// The numbers of the consumers that a disturbance has.
pub(crate) fn disturbing(scenario: &Scenario) -> Range<u32> {
    let end = scenario.agreements();
    end - scenario.disturbance.map_or(0, Disturbance::agreements)..end
}

pub(crate) fn certificates(dir: &Path, consumers: u32) -> anyhow::Result<()> {
    let pki = dir.join("pki");
    let authority = Authority::open_or_create(&pki, DOMAIN)?;
    for name in ["router", SECOND_ROUTER] {
        let subject = Subject::Router { name: name.to_owned(), hosts: vec!["127.0.0.1".to_owned()] };
        authority.issue_to(&pki, name, &subject)?;
    }
    for Owned { owner, stem, .. } in CHANNELS {
        authority.issue_to(&pki, stem, &Subject::Agent(format!("{owner}/main").parse()?))?;
    }
    for index in 0..consumers {
        let agent = consumer_stem(index).replace('-', "/");
        authority.issue_to(&pki, &consumer_stem(index), &Subject::Agent(agent.parse()?))?;
    }
    Ok(())
}

pub(crate) fn declarations(dir: &Path, scenario: &Scenario) -> anyhow::Result<()> {
    let declared = dir.join("declared");
    for folder in ["channels", "agreements"] {
        std::fs::create_dir_all(declared.join(folder))?;
    }
    let write = |path: PathBuf, json: &Value| std::fs::write(path, json.to_string());
    let mut participants = String::new();
    let mut participant = |id: &str| {
        participants.push_str(&format!("[[participant]]\nid = \"{id}\"\nname = \"{id}\"\n"));
    };
    let schema: Value = serde_json::from_str(SCHEMA)?;
    let bursts = matches!(scenario.disturbance, Some(Disturbance::Burst { .. }));
    // A channel costs a router something, also where nothing comes.
    for Owned { channel, owner, .. } in CHANNELS.into_iter().take(1 + usize::from(bursts)) {
        let json = json!({"name": channel, "kind": "distribution", "owner": owner,
            "partitions": scenario.partitions, "key": {"fields": ["code"]}, "schema": schema});
        write(declared.join(format!("channels/{channel}.json")), &json)?;
        participant(owner);
    }
    let fields: Value = PERMITTED.iter().map(|field| ((*field).to_owned(), json!("keep"))).collect();
    for index in 0..scenario.agreements() {
        let number = agreement_number(index)?;
        let consumer = format!("9{index:03}");
        participant(&consumer);
        let (Owned { channel, owner, .. }, rows) = scope(scenario, index);
        let agreement = json!({"number": number, "version": 1, "provider": owner, "consumer": consumer,
            "channel": channel, "purpose": "load", "legal_basis": "load", "valid_from": "2020-01-01T00:00:00Z",
            "history": "full", "schema_version": 1, "rows": rows, "fields": fields});
        write(declared.join(format!("agreements/{number}.json")), &agreement)?;
    }
    Ok(std::fs::write(declared.join("participants.toml"), participants)?)
}

/// The channel of a consumer, and its rows there.
fn scope(scenario: &Scenario, index: u32) -> (Owned, String) {
    let [loaded, bursting] = CHANNELS;
    let counting = scenario.consumers();
    let beside = scenario.beside;
    let idle = counting..counting + beside.idle;
    let absent = counting + beside.count() - beside.absent..counting + beside.count();
    let matching = absent.start - beside.matching..absent.start;
    match scenario.disturbance {
        Some(Disturbance::Burst { .. }) if disturbing(scenario).contains(&index) => {
            (bursting, "true".to_owned())
        }
        Some(Disturbance::Storm { .. }) if disturbing(scenario).contains(&index) => {
            (loaded, NOTHING.to_owned())
        }
        _ if idle.contains(&index) || absent.contains(&index) => {
            (loaded, format!("municipality == \"nobody-{index}\""))
        }
        _ if matching.contains(&index) => (loaded, format!("municipality != \"nobody-{index}\"")),
        _ if scenario.is_divided() && index < counting => {
            (loaded, format!("municipality == \"{}\"", municipality(index.into())))
        }
        _ => (loaded, "true".to_owned()),
    }
}
