//! `dit scope`: what agreements permit, looked at before anybody receives by them.
//!
//! Owns the words of lint and diff. It decides nothing, and changes nothing.

mod ground;

use std::path::PathBuf;

use anyhow::Context;
use platform::config;
use schemas::agreement::{Agreement, Transform};
use schemas::avro::schema::AvroSchema;
use schemas::ids::ChannelName;
use scope::foresee::{Change, Foreseen, Proposal, foresee};
use scope::lint::lint;
use serde::Serialize;

pub use ground::{Ground, GroundArgs};

/// `dit scope`.
#[derive(Debug, clap::Args)]
pub struct ScopeArgs {
    #[command(subcommand)]
    command: ScopeCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ScopeCommand {
    /// Finds what an agreement says that its writer can hardly mean: rows that can never match, or always do, clauses
    /// that change nothing, fields that are not there, keys that leave as hashes.
    Lint(LintArgs),
    /// Shows, before a schema is registered, which agreements it would suspend, and what each consumer would see.
    Diff(DiffArgs),
}

#[derive(Debug, clap::Args)]
struct LintArgs {
    #[command(flatten)]
    ground: GroundArgs,
    /// Agreements that are not declared yet, as JSON; without any, all that are there.
    drafts: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct DiffArgs {
    #[command(flatten)]
    ground: GroundArgs,
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

/// Runs one of them; whether nothing was found that a person should look at.
pub async fn run(args: ScopeArgs) -> anyhow::Result<bool> {
    match args.command {
        ScopeCommand::Lint(args) => run_lint(args).await,
        ScopeCommand::Diff(args) => run_diff(args).await,
    }
}

async fn run_lint(args: LintArgs) -> anyhow::Result<bool> {
    let drafts: Vec<Agreement> =
        args.drafts.iter().map(|path| config::load_json(path)).collect::<Result<_, _>>()?;
    let channels = drafts.iter().map(|draft| draft.channel.clone()).collect::<Vec<_>>();
    let grounds = args.ground.read(&channels).await?;
    let (mut looked, mut found) = (0, 0);
    for ground in &grounds {
        let chosen = if drafts.is_empty() { &ground.agreements } else { &drafts };
        for agreement in chosen.iter().filter(|agreement| agreement.channel == ground.channel.name) {
            looked += 1;
            let words = match ground.with_terms(agreement, |terms| lint(agreement, terms))? {
                Ok(findings) => findings.iter().map(ToString::to_string).collect(),
                Err(refused) => vec![format!("refused: {refused}")],
            };
            found += words.len();
            words.iter().for_each(|words| println!("{}: {words}", agreement.number));
        }
    }
    anyhow::ensure!(
        drafts.is_empty() || looked == drafts.len(),
        "{} of {} drafts are for channels that are there",
        looked,
        drafts.len()
    );
    println!("{looked} agreement(s), {found} finding(s)");
    Ok(found == 0)
}

#[derive(Serialize)]
struct DiffLine<'a> {
    agreement: &'a str,
    consumer: &'a str,
    #[serde(flatten)]
    foreseen: Foreseen,
}

async fn run_diff(args: DiffArgs) -> anyhow::Result<bool> {
    let proposed =
        AvroSchema::parse(&config::read(&args.schema)?).with_context(|| args.schema.display().to_string())?;
    let grounds = args.ground.read(std::slice::from_ref(&args.channel)).await?;
    let ground = grounds.into_iter().find(|ground| ground.channel.name == args.channel);
    let ground = ground.with_context(|| format!("there is no channel {}", args.channel))?;
    let mut suspended = 0;
    for agreement in &ground.agreements {
        let proposal = Proposal {
            agreed: ground.schema(agreement)?,
            newest: ground.newest()?,
            proposed: &proposed,
            key: &ground.channel.key,
        };
        let foreseen = foresee(agreement, &proposal, &ground::any_secret()?);
        suspended += usize::from(matches!(foreseen.change, Change::Suspended { .. }));
        let (number, consumer) = (agreement.number.as_str(), agreement.consumer.as_str());
        match args.json {
            true => {
                println!("{}", serde_json::to_string(&DiffLine { agreement: number, consumer, foreseen })?)
            }
            false => println!("{number} for {consumer}: {}", in_words(&foreseen)),
        }
    }
    if !args.json {
        println!("{} agreement(s), {suspended} would be suspended", ground.agreements.len());
    }
    Ok(suspended == 0)
}

fn in_words(foreseen: &Foreseen) -> String {
    let sees: Vec<String> = foreseen.sees.iter().map(|(field, how)| named(field, how)).collect();
    let sees = format!("sees {}", sees.join(", "));
    match &foreseen.change {
        Change::Same => format!("as before; {sees}"),
        Change::Pending { fields } => format!("as before, and does not see {}; {sees}", fields.join(", ")),
        Change::Suspended { reason } => format!("SUSPENDED: {reason}"),
        Change::StaysSuspended { reason } => format!("stays suspended: {reason}"),
        Change::Resumed => format!("resumed; {sees}"),
    }
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
