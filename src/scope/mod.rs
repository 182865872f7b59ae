//! `dit scope`: shows what agreements permit before anybody receives by them.
//!
//! Owns the words of lint and diff. It decides nothing, and changes nothing.

mod channel_context;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context;
use platform::client::{Client, send_json};
use platform::config;
use platform::identity::{Identity, IdentityFiles};
use schemas::agreement::{Agreement, Transform};
use schemas::avro::schema::AvroSchema;
use schemas::cursor::in_words as in_offsets;
use schemas::ids::ChannelName;
use schemas::publish::ShadowCounts;
use scope::lint::lint;
use scope::preview::{Change, Previewed, Proposal, preview};
use serde::Serialize;

pub use channel_context::{ChannelContext, ChannelContextArgs};

/// `dit scope`.
#[derive(Debug, clap::Args)]
pub struct ScopeArgs {
    #[command(subcommand)]
    command: ScopeCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ScopeCommand {
    /// Finds terms of an agreement that its writer can hardly mean: rows that can never match, or always do, clauses
    /// that change nothing, fields that do not exist, keys that leave as hashes.
    Lint(LintArgs),
    /// Shows, before a schema is registered, which agreements it would suspend, and what each consumer would see.
    Diff(DiffArgs),
    /// Runs a proposed agreement over what a channel's log holds, or over new events, and shows counts alone.
    Shadow(ShadowArgs),
}

#[derive(Debug, clap::Args)]
struct LintArgs {
    #[command(flatten)]
    context: ChannelContextArgs,
    /// Agreements that are not declared yet, as JSON; without any, all existing ones.
    drafts: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct DiffArgs {
    #[command(flatten)]
    context: ChannelContextArgs,
    /// The channel.
    #[arg(long)]
    channel: ChannelName,
    /// The schema that is proposed: an Avro record as JSON.
    #[arg(long, value_name = "FILE")]
    schema: PathBuf,
    /// One JSON object for each agreement, a line each.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ShadowArgs {
    /// A router's admin listener, as `https://host:port`.
    #[arg(long, value_name = "URL")]
    admin: String,
    /// An operator's certificate; the key is expected beside it as `<stem>-key.pem`, the authority as `ca.pem`.
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// The proposed agreement, as JSON; it is compared with the existing one of its number, if there is one.
    agreement: PathBuf,
    /// From where: earliest, a time with its offset as 2026-11-01T00:00:00+02:00, or latest for new events.
    #[arg(long, default_value = "earliest")]
    from: String,
    /// How many seconds it may take; more than 60 count as 60.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The counts as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs one of them; whether nothing was found that a person should look at.
pub async fn run(args: ScopeArgs) -> anyhow::Result<bool> {
    match args.command {
        ScopeCommand::Lint(args) => run_lint(args).await,
        ScopeCommand::Diff(args) => run_diff(args).await,
        ScopeCommand::Shadow(args) => run_shadow(args).await,
    }
}

async fn run_lint(args: LintArgs) -> anyhow::Result<bool> {
    let drafts: Vec<Agreement> =
        args.drafts.iter().map(|path| config::load_json(path)).collect::<Result<_, _>>()?;
    let channels: BTreeSet<_> = drafts.iter().map(|draft| draft.channel.clone()).collect();
    let contexts = args.context.read(&channels.into_iter().collect::<Vec<_>>()).await?;
    let mut looked = 0;
    let mut found = 0;
    for context in &contexts {
        let chosen = if drafts.is_empty() { &context.agreements } else { &drafts };
        for agreement in chosen.iter().filter(|agreement| agreement.channel == context.channel.name) {
            looked += 1;
            let words = match context.with_terms(agreement, |terms| lint(agreement, terms))? {
                Ok(findings) => findings.iter().map(ToString::to_string).collect(),
                Err(refused) => vec![format!("refused: {refused}")],
            };
            found += words.len();
            words.iter().for_each(|words| platform::say!("{}: {words}", agreement.number));
        }
    }
    if let Some(draft) =
        drafts.iter().find(|draft| !contexts.iter().any(|context| context.channel.name == draft.channel))
    {
        anyhow::bail!("agreement {}: there is no channel {}", draft.number, draft.channel);
    }
    anyhow::ensure!(
        looked > 0,
        "there is no agreement to look at: agreements are agreements/*.json of the folder"
    );
    platform::say!("{looked} agreement(s), {found} finding(s)");
    Ok(found == 0)
}

#[derive(Serialize)]
struct DiffLine<'a> {
    agreement: &'a str,
    consumer: &'a str,
    #[serde(flatten)]
    previewed: Previewed,
}

async fn run_diff(args: DiffArgs) -> anyhow::Result<bool> {
    let proposed =
        AvroSchema::parse(&config::read(&args.schema)?).with_context(|| args.schema.display().to_string())?;
    let contexts = args.context.read(std::slice::from_ref(&args.channel)).await?;
    let context = contexts.into_iter().find(|context| context.channel.name == args.channel);
    let context = context.with_context(|| format!("there is no channel {}", args.channel))?;
    let refused = context.refuses(&proposed).with_context(|| args.schema.display().to_string())?;
    let mut suspended = 0;
    for agreement in &context.agreements {
        let proposal = Proposal {
            agreed: context.schema(agreement)?,
            newest: context.newest()?,
            proposed: &proposed,
            key: &context.channel.key,
        };
        let previewed = preview(agreement, &proposal, &channel_context::any_secret()?);
        suspended += usize::from(matches!(previewed.change, Change::Suspended { .. }));
        let number = agreement.number.as_str();
        let consumer = agreement.consumer.as_str();
        match args.json {
            true => {
                platform::say!(
                    "{}",
                    platform::shown::json(&serde_json::to_string(&DiffLine {
                        agreement: number,
                        consumer,
                        previewed
                    })?)
                )
            }
            false => {
                platform::say!(
                    "{number} for {consumer}{}: {}",
                    context.idle_in_brackets(agreement),
                    in_words(&previewed)
                );
            }
        }
    }
    if !args.json {
        platform::say!("{} agreement(s), {suspended} would be suspended", context.agreements.len());
        if let Some(why) = &refused {
            platform::say!(
                "NOT TO BE REGISTERED: a router refuses it at the compatibility level BACKWARD, its default: {why}"
            );
        }
    }
    Ok(suspended == 0 && refused.is_none())
}

fn in_words(previewed: &Previewed) -> String {
    let sees: Vec<String> = previewed.sees.iter().map(|(field, how)| named(field, how)).collect();
    let sees = format!("sees {}", sees.join(", "));
    match &previewed.change {
        Change::Same => format!("as before; {sees}"),
        Change::Pending { fields } => format!("as before, and does not see {}; {sees}", fields.join(", ")),
        Change::Suspended { reason } => format!("SUSPENDED: {reason}"),
        Change::StaysSuspended { reason } => format!("stays suspended: {reason}"),
        Change::Resumed => format!("resumed; {sees}"),
    }
}

async fn run_shadow(args: ShadowArgs) -> anyhow::Result<bool> {
    let agreement: Agreement = config::load_json(&args.agreement)?;
    let identity = Identity::load(&IdentityFiles::beside(&args.identity))?;
    let client = Client::new(&args.admin, &identity)?;
    let asked = [("from", args.from), ("seconds", args.seconds.to_string())];
    let request = client.post("/v1/shadow").query(&asked).json(&agreement);
    let counts: ShadowCounts = send_json(request).await?;
    match args.json {
        true => platform::say!("{}", platform::shown::json(&serde_json::to_string(&counts)?)),
        false => platform::say!("{}", counted(&counts)),
    }
    Ok(counts.is_whole && counts.suspended.is_none())
}

fn counted(counts: &ShadowCounts) -> String {
    let ShadowCounts { events, nothing, change, enter, leave, parked, gained, lost, .. } = counts;
    let mut lines = vec![
        format!("{events} event(s), to {}", in_offsets(&counts.places)),
        format!(
            "  gives {change} change(s), {enter} row(s) that enter, {leave} that leave; gives nothing for {nothing} event(s)"
        ),
        match counts.beside {
            Some(version) => {
                format!(
                    "  compared with version {version}, which is in force: {gained} event(s) more, {lost} fewer"
                )
            }
            None => "  no agreement with this number is in force: everything that it gives is new".to_owned(),
        },
    ];
    if *parked > 0 {
        lines.push(format!("  {parked} event(s) cannot be judged"));
    }
    if !counts.pending.is_empty() {
        let pending: Vec<&str> = counts.pending.iter().map(String::as_str).collect();
        lines.push(format!(
            "  fields that the agreement does not name, so they do not leave: {}",
            pending.join(", ")
        ));
    }
    lines.extend(counts.suspended.as_ref().map(|reason| format!("  SUSPENDED there: {reason}")));
    if !counts.is_whole && counts.suspended.is_none() {
        lines.push("  the end was not reached: give more --seconds (60 at most), or a later --from; a partition that cannot be read also causes this".to_owned());
    }
    lines.join("\n")
}

/// A field as it leaves.
pub fn named(field: &str, how: &Transform) -> String {
    match how {
        Transform::Keep => field.to_owned(),
        Transform::Null => format!("{field} (always null)"),
        Transform::Hash => format!("{field} (as a keyed hash)"),
        Transform::Mask { keep } => format!("{field} (its first {keep} characters)"),
        Transform::Year => format!("{field} (its year)"),
    }
}
