//! `dit audit`: reads every router's chain and says whether it is whole.
//!
//! Owns the verification of each chain by itself and against the head that control holds; and which entries are shown.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use platform::client::{Client, send_json};
use platform::identity::{Identity, IdentityFiles};
use router::audit::chain::{Broken, Chain, Entry, Event};
use router::audit::service::AuditPage;
use router::control::change::AuditHead;
use schemas::agreement::Agreement;
use schemas::cursor::in_words;
use schemas::ids::{AgreementNumber, Offset, ParticipantId};
use schemas::publish::AgreementStatus;
use schemas::time::Millis;

/// `dit audit`.
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    /// A router's admin listener, as `https://host:port`.
    #[arg(long)]
    admin: String,
    /// An operator's certificate; the key is expected beside it as `<stem>-key.pem`, the authority as `ca.pem`.
    #[arg(long)]
    identity: PathBuf,
    /// Say only whether the chains are whole.
    #[arg(long)]
    quiet: bool,
    /// Show what concerns this agreement.
    #[arg(long)]
    agreement: Option<AgreementNumber>,
    /// Show what concerns this participant: its agents, and the agreements that it is a party of.
    #[arg(long)]
    participant: Option<ParticipantId>,
    /// Show what happened from then on: a day, or a time with its offset.
    #[arg(long, value_name = "TIME")]
    since: Option<Millis>,
    /// Show what this operator, the `declared` folder or the `expiry` of agreements did.
    #[arg(long)]
    by: Option<String>,
    /// Each entry as its JSON, a line each, and at the end whether the chains are whole.
    #[arg(long)]
    json: bool,
}

/// Which entries are shown. All are verified.
struct Filter<'a> {
    args: &'a AuditArgs,
    /// Agreements of the participant that is asked for.
    numbers: BTreeSet<AgreementNumber>,
}

impl Filter<'_> {
    fn shows(&self, entry: &Entry) -> bool {
        let event = &entry.event;
        let is_agreement = self.args.agreement.as_ref().is_none_or(|asked| event.agreement() == Some(asked));
        let is_participant = self.args.participant.as_ref().is_none_or(|asked| {
            event.agent().is_some_and(|agent| agent.participant == *asked)
                || event.agreement().is_some_and(|number| self.numbers.contains(number))
        });
        let is_since = self.args.since.is_none_or(|since| entry.at >= since);
        let is_by = self.args.by.as_deref().is_none_or(|asked| event.by() == Some(asked));
        !self.args.quiet && is_agreement && is_participant && is_since && is_by
    }
}

/// The chains of all routers while they are read.
#[derive(Default)]
struct Reading {
    chains: BTreeMap<String, Chain>,
    /// (router, number of the next entry) → head there.
    heads: HashMap<(String, u64), String>,
    problems: Vec<String>,
}

impl Reading {
    /// Takes an entry; returns it if it continues its chain.
    fn take(&mut self, text: &str) -> Option<Entry> {
        let router = match serde_json::from_str::<Entry>(text) {
            Ok(entry) => entry.router,
            Err(error) => {
                self.problems
                    .push(format!("a record of the audit topic cannot be read as an audit entry ({error}); if a router is newer than this dit, repeat this with its version"));
                return None;
            }
        };
        let chain = self.chains.entry(router.clone()).or_insert_with(|| Chain::new(&router));
        match chain.take(text.as_bytes()) {
            Ok(entry) => {
                self.heads.insert((router, chain.next), chain.head.clone());
                Some(entry)
            }
            Err(Broken::Repeat(_)) => None,
            Err(broken) => {
                self.problems.push(format!("{router}: {broken}"));
                None
            }
        }
    }

    /// Compares with the heads that control holds: this finds entries that were cut off at the end.
    fn compare(&mut self, heads: &[AuditHead]) {
        for head in heads.iter().filter(|head| head.next > 0) {
            let found = self.heads.get(&(head.router.clone(), head.next));
            if found != Some(&head.head) {
                let router = &head.router;
                let next = head.next;
                self.problems
                    .push(format!("{router}: the hash of its first {next} entries is not the one in the control topic; entries were changed or are missing"));
            }
        }
    }
}

/// Prints the audit; whether every chain is whole.
pub async fn audit(args: &AuditArgs) -> anyhow::Result<bool> {
    let identity = Identity::load(&IdentityFiles::beside(&args.identity))?;
    let client = Client::new(&args.admin, &identity)?;
    let mut reading = Reading::default();
    let filter = Filter { args, numbers: numbers_of(&client, args.participant.as_ref()).await? };
    let mut from = Offset::new(0);
    let mut shown = 0_u64;
    let heads = loop {
        let page: AuditPage = send_json(client.get("/v1/audit").query(&[("from", from.get())])).await?;
        for text in &page.entries {
            let entry = reading.take(text).filter(|entry| filter.shows(entry));
            shown += u64::from(entry.is_some());
            match entry {
                Some(_) if args.json => platform::say!("{}", platform::shown::json(text)),
                Some(entry) => {
                    let line = in_sentence(&entry.event);
                    platform::say!("{} {} {}: {}", entry.at, entry.router, entry.number, line);
                }
                None => {}
            }
        }
        if page.next == from {
            break page.heads;
        }
        from = page.next;
    };
    reading.compare(&heads);
    // Every router that has served has an entry: where there is none, entries were removed.
    let is_whole = reading.problems.is_empty() && !reading.chains.is_empty();
    if args.json {
        let heads: BTreeMap<&String, &String> =
            reading.chains.iter().map(|(router, chain)| (router, &chain.head)).collect();
        let whole = serde_json::json!({"whole": is_whole, "problems": reading.problems, "heads": heads});
        platform::say!("{}", platform::shown::json(&whole.to_string()));
        return Ok(is_whole);
    }
    for problem in &reading.problems {
        platform::say!("BROKEN: {problem}");
    }
    for (router, chain) in &reading.chains {
        platform::say!("{router}: {} entries, head {}", chain.next, chain.head);
    }
    if reading.chains.is_empty() {
        platform::say!("BROKEN: there is no entry of any router");
    } else if shown == 0 && !args.quiet {
        platform::say!("no entry fits these options");
    }
    Ok(is_whole)
}

async fn numbers_of(
    client: &Client,
    participant: Option<&ParticipantId>,
) -> anyhow::Result<BTreeSet<AgreementNumber>> {
    let Some(participant) = participant else { return Ok(BTreeSet::new()) };
    let known: Vec<AgreementStatus> = send_json(client.get("/v1/agreements")).await?;
    let is_party = |agreement: &Agreement| [&agreement.provider, &agreement.consumer].contains(&participant);
    let own = known.into_iter().map(|status| status.agreement).filter(is_party);
    Ok(own.map(|agreement| agreement.number).collect())
}

fn in_sentence(event: &Event) -> String {
    match event {
        Event::Started => "the router began to serve".to_owned(),
        Event::Admitted { agreement, version, agent, channel, from, .. } => {
            let from: String = from.chars().take(12).collect();
            format!("{agent} was admitted to {channel} under {agreement} version {version}, from {from}")
        }
        Event::Ended { agreement, agent, reason, snapshot: Some(snapshot), .. } => {
            let ends: Vec<String> = snapshot.places.values().map(|place| place.end.to_string()).collect();
            let ends = ends.join(" ");
            format!("the stream of {agent} under {agreement} has ended ({reason}) in a snapshot at [{ends}]")
        }
        Event::Ended { agreement, agent, reason, places, snapshot: None, .. } => {
            let places = in_words(places);
            format!("the stream of {agent} under {agreement} has ended ({reason}), at most up to [{places}]")
        }
        Event::Shadowed { operator, channel, rows } => {
            format!("{operator} ran a shadow with the rows {rows} over {channel}")
        }
        Event::Version { agreement, version, by, digest, .. } => {
            format!("{agreement} is in force in version {version}, by {by} (SHA-256 {digest})")
        }
        Event::Status { agreement, status, reason, by, .. } => {
            format!("{agreement} is now {status}, by {by}: {reason}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::time::Millis;

    fn texts(count: usize) -> (Vec<String>, AuditHead) {
        let mut chain = Chain::new("r");
        let texts = (0..count)
            .map(|_| String::from_utf8(chain.push(Millis::new(0), Event::Started).unwrap()).unwrap())
            .collect();
        let head = AuditHead {
            router: "r".to_owned(),
            next: chain.next,
            head: chain.head,
            offset: Offset::new(0),
            applied: Offset::new(0),
        };
        (texts, head)
    }

    fn problems(texts: &[String], head: &AuditHead) -> usize {
        let mut reading = Reading::default();
        texts.iter().for_each(|text| drop(reading.take(text)));
        reading.compare(std::slice::from_ref(head));
        reading.problems.len()
    }

    #[test]
    fn a_whole_chain_is_whole_and_any_cut_shows() {
        let (whole, head) = texts(4);
        assert_eq!(problems(&whole, &head), 0);
        assert_eq!(
            problems(&[whole[0].clone(), whole[0].clone(), whole[1].clone()], &texts(2).1),
            0,
            "a repeat"
        );
        assert!(problems(&whole[..3], &head) > 0, "the end is cut off");
        assert!(problems(&whole[1..], &head) > 0, "the beginning is cut off");
        assert!(problems(&[whole[0].clone(), whole[2].clone()], &head) > 0, "one is left out");
    }
}
