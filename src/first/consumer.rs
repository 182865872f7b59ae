//! `dit consumer init`: a consumer's first configuration from the router's answer; later, the agreements that it lacks.
//!
//! Owns what is written. An existing file is extended, never written over.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context;
use consumer_agent::config::ConsumerConfig;
use platform::client::{Client, send_json};
use platform::closed;
use platform::identity::{Identity, IdentityFiles};
use schemas::publish::{AgreementStatus, Me};

use super::{OwnFiles, table};

/// `dit consumer init`.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// The router, as `https://host:port`.
    #[arg(long)]
    router: String,
    #[command(flatten)]
    identity: OwnFiles,
    /// The file to write; an existing one gets the agreements that it lacks.
    #[arg(long, default_value = "consumer.toml")]
    out: PathBuf,
}

/// Asks what this participant may have, and writes a commented configuration, or adds to the existing one.
pub async fn init(args: &InitArgs) -> anyhow::Result<()> {
    let files = args.identity.files()?;
    let client = Client::new(&args.router, &Identity::load(&files)?)?;
    let me: Me = send_json(client.get("/v1/me")).await?;
    let out = args.out.display();
    if args.out.exists() {
        let known = ConsumerConfig::read(&args.out)?;
        let is_new =
            |status: &&AgreementStatus| !known.agreement.iter().any(|a| a.number == status.agreement.number);
        let new: Vec<&AgreementStatus> = me.agreements.iter().filter(is_new).collect();
        let mut text = std::fs::read_to_string(&args.out).with_context(|| out.to_string())?;
        for status in &new {
            describe(&mut text, status)?;
        }
        if !new.is_empty() {
            closed::write(&args.out, text).with_context(|| out.to_string())?;
        }
        let word =
            if new.is_empty() { "nothing to add" } else { "an agent that runs begins to receive them" };
        platform::say!(
            "{out}: added {} agreement(s); it had {} before; {word}",
            new.len(),
            known.agreement.len()
        );
        return Ok(());
    }
    closed::write(&args.out, configuration(&args.router, &files, &me)?).with_context(|| out.to_string())?;
    platform::say!("{out}: {} agreement(s) of {}", me.agreements.len(), me.agent.participant);
    Ok(())
}

/// An agreement as a configuration has it, with what it gives.
fn describe(text: &mut String, status: &AgreementStatus) -> anyhow::Result<()> {
    let agreement = &status.agreement;
    // Text that others wrote stays within its comment.
    let plain = |words: &str| platform::shown::value(words);
    writeln!(text, "\n# {} ({})", plain(&agreement.purpose), status.status)?;
    writeln!(text, "# rows: {}", plain(&agreement.rows))?;
    let fields: Vec<_> = agreement.fields.keys().map(String::as_str).collect();
    writeln!(text, "# fields: {}", fields.join(", "))?;
    writeln!(text, "[[agreement]]\nnumber = \"{}\"\nchannel = \"{}\"", agreement.number, agreement.channel)?;
    Ok(())
}

fn configuration(router: &str, files: &IdentityFiles, me: &Me) -> anyhow::Result<String> {
    let mut text = String::new();
    writeln!(text, "# The consumer agent of {}, as {}.", me.agent.participant, me.agent.agent)?;
    writeln!(text, "router = {router:?}")?;
    writeln!(text, "# Replicas and status go here.\ndata_dir = \"data\"")?;
    writeln!(text, "# How often each replica is compared with the register and repaired; 0s means never.")?;
    writeln!(text, "reconcile_every = \"24h\"\n")?;
    text.push_str(&table(files)?);
    for status in &me.agreements {
        describe(&mut text, status)?;
    }
    Ok(text)
}
