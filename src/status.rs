//! `dit status`: the progress of each replica of a consumer agent, and what is about to end.
//!
//! Owns the words around the agent's own status. It asks the router for the agreements, and says when it has no answer.

use std::time::Duration;

use anyhow::{Context, bail};
use consumer_agent::config::ConsumerConfig;
use consumer_agent::status::status_path;
use platform::client::{Client, send_json};
use platform::clock;
use platform::identity::Identity;
use schemas::agreement;
use schemas::ids::AgreementNumber;
use schemas::publish::{AgreementStatus, Me};
use schemas::time::Millis;

use crate::tools::ConfigArgs;

/// How long the router may take to answer: a status is wanted now.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const DAY: u64 = 24 * 60 * 60 * 1_000;
/// An end within so many days is pointed at.
const SOON_DAYS: u64 = 30;

/// Shows each replica of a consumer agent; whether all are well.
pub async fn run(args: &ConfigArgs) -> anyhow::Result<bool> {
    let config = ConsumerConfig::read(&args.config)?;
    if config.agreement.is_empty() {
        bail!("{}: there is no [[agreement]], so there is no status to show", args.config.display());
    }
    // The replicas' progress is known here, even where the certificate has expired.
    let identity = Identity::load(&config.identity).map_err(|error| error.to_string());
    let agreements = match &identity {
        Ok(identity) => agreements(&config, identity).await,
        Err(problem) => Err(problem.clone()),
    };
    let mut is_well = true;
    for agreement in &config.agreement {
        let path = status_path(&config.data_dir, &agreement.number);
        let text = std::fs::read(&path)
            .with_context(|| format!("{}: no status yet; is the agent running?", path.display()))?;
        let status: consumer_agent::status::Status = serde_json::from_slice(&text)
            .with_context(|| format!("{}: it cannot be read; another version of dit may have written it: use that version, or restart the agent with this one", path.display()))?;
        is_well &= status.is_well();
        platform::say_lines!("{}", status.in_words(&agreement.channel, clock::now()));
        match &agreements {
            Ok(known) => {
                let (line, stands) = agreement_line(known, &agreement.number, clock::now());
                is_well &= stands;
                platform::say!("  {line}");
            }
            Err(problem) => {
                platform::say!(
                    "  whether the agreement stands is not known: {}",
                    platform::shown::value(problem)
                )
            }
        }
    }
    if let Some(until) = identity.ok().and_then(|identity| identity.good_until()) {
        platform::say!(
            "certificate {}: {}",
            config.identity.certificate.display(),
            ends(Millis::new(until * 1_000), clock::now())
        );
    }
    Ok(is_well && agreements.is_ok())
}

async fn agreements(config: &ConsumerConfig, identity: &Identity) -> Result<Vec<AgreementStatus>, String> {
    let client = Client::new(&config.router, identity).map_err(|error| error.to_string())?;
    match tokio::time::timeout(ANSWER_LIMIT, send_json::<Me>(client.get("/v1/me"))).await {
        Ok(Ok(me)) => Ok(me.agreements),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{} does not answer", config.router)),
    }
}

/// An agreement's status in words, and whether it gives anything now.
fn agreement_line(known: &[AgreementStatus], number: &AgreementNumber, now: Millis) -> (String, bool) {
    let Some(found) = known.iter().find(|status| status.agreement.number == *number) else {
        return ("the router knows no such agreement of ours".to_owned(), false);
    };
    let agreement = &found.agreement;
    let begins = Millis::from(agreement.valid_from);
    if found.status == agreement::Status::Active && now < begins {
        return (format!("the agreement is not in force yet: it begins at {begins}"), false);
    }
    let end = match agreement.valid_to {
        Some(to) => format!("it {}", ends(Millis::from(to), now)),
        None => "it has no last day".to_owned(),
    };
    match found.status {
        agreement::Status::Active if !agreement.is_valid_at(now) => {
            (format!("the agreement is not in force any more: {end}"), false)
        }
        agreement::Status::Active => {
            (format!("the agreement is active, version {}; {end}", agreement.version), true)
        }
        other => (format!("the agreement is {other}: {}", platform::shown::value(&found.reason)), false),
    }
}

fn ends(at: Millis, now: Millis) -> String {
    match at.since(now) / DAY {
        0 if at <= now => format!("has ended at {at}"),
        days if days <= SOON_DAYS => format!("ENDS SOON, in {days} day(s), at {at}"),
        days => format!("ends in {days} days, at {at}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_is_told_with_its_days() {
        let day = |n: u64| Millis::new(i64::try_from(n * DAY).unwrap());
        assert!(ends(day(40), day(3)).starts_with("ends in 37 days"));
        assert!(ends(day(40), day(33)).starts_with("ENDS SOON, in 7 day(s)"));
        assert!(ends(day(40), day(40)).starts_with("has ended"));
    }

    #[test]
    fn an_agreement_that_gives_nothing_is_not_well() {
        let agreement = |to: &str| {
            serde_json::json!({"number": "A", "version": 1, "provider": "1", "consumer": "2", "channel": "c", "purpose": "p",
                "legal_basis": "l", "valid_from": "2026-01-01T00:00:00Z", "valid_to": to, "history": "full",
                "schema_version": 1, "rows": "true", "fields": {"k": "keep"}})
        };
        let told = |status: &str, to: &str| {
            let told =
                serde_json::json!({"agreement": agreement(to), "status": status, "reason": "line\nbreak"});
            let now = "2026-06-01".parse().unwrap();
            agreement_line(&[serde_json::from_value(told).unwrap()], &"A".parse().unwrap(), now)
        };
        assert!(told("active", "2026-12-31T00:00:00Z").1);
        assert_eq!(
            told("suspended", "2026-12-31T00:00:00Z"),
            ("the agreement is suspended: line\\nbreak".to_owned(), false)
        );
        let (line, is_well) = told("active", "2026-05-31T00:00:00Z");
        assert!(
            !is_well && line.starts_with("the agreement is not in force any more: it has ended"),
            "{line}"
        );
        let early = agreement("2026-12-31T00:00:00Z");
        let early = serde_json::json!({"agreement": early, "status": "active", "reason": ""});
        let known = [serde_json::from_value(early).unwrap()];
        let line = agreement_line(&known, &"A".parse().unwrap(), "2025-12-31".parse().unwrap());
        assert_eq!(
            line,
            ("the agreement is not in force yet: it begins at 2026-01-01T00:00:00.000Z".to_owned(), false)
        );
        assert!(!agreement_line(&[], &"A".parse().unwrap(), Millis::new(0)).1);
    }
}
