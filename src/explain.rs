//! `dit explain`: each agreement's decision about an event, with its reasons.
//!
//! Owns the words. The event is the caller's own: nothing is read from a log.

use std::path::PathBuf;

use anyhow::Context;
use platform::{config, shown};
use producer_agent::source::http::read_row;
use schemas::agreement::Agreement;
use schemas::change::Op;
use schemas::delivery::Reason;
use schemas::ids::{AgreementNumber, AgreementVersion, ChannelName, ParticipantId};
use scope::compile::Age;
use scope::explain::{ExplainedEvent, Explanation, Fate, Verdict, explain};
use scope::predicate::Truth;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::scope::{ChannelContext, ChannelContextArgs, named};

/// `dit explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    context: ChannelContextArgs,
    /// The event's channel.
    #[arg(long)]
    channel: ChannelName,
    /// The event: `{"before": {column: value} or null, "after": the same}`.
    #[arg(long, value_name = "FILE")]
    event: PathBuf,
    /// Only this consumer's agreements; without it, everybody's.
    #[arg(long)]
    participant: Option<ParticipantId>,
    /// Only this agreement.
    #[arg(long)]
    agreement: Option<AgreementNumber>,
    /// One JSON object for each agreement, a line each.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventFile {
    before: Option<Box<RawValue>>,
    after: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    agreement: &'a AgreementNumber,
    version: AgreementVersion,
    consumer: &'a ParticipantId,
    /// Why it gives nothing now.
    idle: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<Explanation>,
    /// Why there is no decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Explains; whether an agreement was found, and each has decided.
pub async fn run(args: ExplainArgs) -> anyhow::Result<bool> {
    let event: EventFile = config::load_json(&args.event)?;
    let contexts = args.context.read(std::slice::from_ref(&args.channel)).await?;
    let context = contexts.into_iter().find(|context| context.channel.name == args.channel);
    let context = context.with_context(|| format!("there is no channel {}", args.channel))?;
    let event = Event::read(event, &context).with_context(|| args.event.display().to_string())?;
    let mut found = false;
    let mut is_decided = true;
    for agreement in &context.agreements {
        let is_asked = args.participant.as_ref().is_none_or(|asked| *asked == agreement.consumer)
            && args.agreement.as_ref().is_none_or(|asked| *asked == agreement.number);
        if !is_asked {
            continue;
        }
        found = true;
        let newest = context.newest()?;
        let age = if newest == context.schema(agreement)? { Age::Same } else { Age::Newer };
        let asked = ExplainedEvent {
            op: event.op,
            key: &event.key,
            before: event.before.as_deref(),
            after: event.after.as_deref(),
        };
        let explained =
            context.with_writer(agreement, newest, age, |terms| explain(agreement, terms, &asked))?;
        let Agreement { number, version, consumer, .. } = agreement;
        let whose =
            format!("{number} version {version} for {consumer}{}", context.idle_in_brackets(agreement));
        is_decided &= explained.is_ok();
        if args.json {
            let (explanation, error) = match explained {
                Ok(explanation) => (Some(explanation), None),
                Err(error) => (None, Some(error.to_string())),
            };
            let line = Line {
                agreement: number,
                version: *version,
                consumer,
                idle: context.idle(agreement),
                explanation,
                error,
            };
            platform::say!("{}", shown::json(&serde_json::to_string(&line)?));
        } else {
            match explained {
                Ok(explained) => platform::say_lines!("{whose}: {}", in_words(&explained)),
                Err(error) => platform::say!("{whose}: no decision: {error}"),
            }
        }
    }
    if !found {
        platform::say!(
            "no agreement on channel {} fits these options; agreements that have ended are left out",
            args.channel
        );
    }
    Ok(found && is_decided)
}

struct Event {
    op: Op,
    key: String,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
}

impl Event {
    fn read(file: EventFile, context: &ChannelContext) -> anyhow::Result<Self> {
        let schema = context.newest()?;
        let image = |row: Option<Box<RawValue>>, which: &str| {
            let read = row.map(|row| read_row(schema, &context.channel.key, &row)).transpose();
            read.map_err(|problem| anyhow::anyhow!("{which}: {problem}"))
        };
        let before = image(file.before, "before")?;
        let after = image(file.after, "after")?;
        let (op, key) = match (&before, &after) {
            (Some((key, _)), Some((other, _))) => {
                anyhow::ensure!(
                    key == other,
                    "before has key {key}, after has {other}: these are two events"
                );
                (Op::Update, key.clone())
            }
            (Some((key, _)), None) => (Op::Delete, key.clone()),
            (None, Some((key, _))) => (Op::Create, key.clone()),
            (None, None) => anyhow::bail!("an event has before, after, or both"),
        };
        let datum = |image: Option<(String, Vec<u8>)>| image.map(|(_, datum)| datum);
        Ok(Self { op, key, before: datum(before), after: datum(after) })
    }
}

fn in_words(explained: &Explanation) -> String {
    let outcome = match explained.outcome {
        None => "gets nothing: neither image is among its rows",
        Some((_, Reason::Leave)) => "gets a delete: the row has left its scope",
        Some((_, Reason::Enter)) => "gets the whole row: it has entered its scope",
        Some((Op::Delete, _)) => "gets the delete",
        Some((Op::Update, _)) => "gets the update",
        Some(_) => "gets the new row",
    };
    let mut lines = vec![outcome.to_owned()];
    for (which, verdict) in [("before", &explained.before), ("after", &explained.after)] {
        lines.extend(verdict.as_ref().map(|verdict| format!("  {which}: {}", judged(verdict))));
    }
    let fates = |is_named: bool| {
        let each = explained.fields.iter().filter_map(move |(field, fate)| match fate {
            Fate::Named(how) if is_named => Some(named(field, how)),
            Fate::Denied if !is_named => Some(field.clone()),
            _ => None,
        });
        each.collect::<Vec<_>>().join(", ")
    };
    match explained.outcome {
        None => return lines.join("\n"),
        Some((Op::Delete, _)) => lines.push("  of the row nothing leaves but its key".to_owned()),
        Some(_) => {
            lines.push(format!("  fields that leave: {}", fates(true)));
            lines.push(format!(
                "  fields that the agreement does not name, so they do not leave: {}",
                fates(false)
            ));
        }
    }
    if !explained.keeps_key {
        lines
            .push("  the key leaves as a keyed hash, as it does not keep all of the key's fields".to_owned());
    }
    lines.join("\n")
}

fn judged(verdict: &Verdict) -> String {
    let head = match verdict.truth {
        Truth::True => "admitted",
        Truth::False => "denied",
        Truth::Unknown => "denied (a null leaves the condition undecided)",
    };
    let clause = |clause: &scope::predicate::Clause| {
        let found: Vec<String> =
            clause.found.iter().map(|(field, held)| format!("{field} is {held}")).collect();
        match found.is_empty() {
            true => clause.text.clone(),
            false => format!("{} ({})", clause.text, found.join(", ")),
        }
    };
    let clauses: Vec<String> = verdict.clauses.iter().map(clause).collect();
    format!("{head} by {}", clauses.join("; "))
}
