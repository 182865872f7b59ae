//! `dit producer init`: a provider's first files, proposed from a file of its register.
//!
//! Owns the files and the words about them. It writes over no existing file.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, bail};
use platform::identity::{Identity, IdentityFiles, Peer};
use producer_agent::source::file::propose::{Proposal, Said, propose};
use schemas::ids::ChannelName;
use serde_json::json;

use super::{OwnFiles, table};
use crate::demo::register::parse_delimiter;

/// Partitions that are proposed: enough that a router's work is spread, and few enough to be no burden.
const PARTITIONS: u32 = 4;

/// `dit producer init`.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// A file of the register, whole, as it will be dropped: delimited text.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The channel's name.
    #[arg(long)]
    channel: ChannelName,
    /// The router, as `https://host:port`.
    #[arg(long)]
    router: String,
    #[command(flatten)]
    identity: OwnFiles,
    /// The columns that identify a row; guessed without them.
    #[arg(long, value_name = "COLS", value_delimiter = ',')]
    key_columns: Vec<String>,
    /// The character between cells; guessed without it.
    #[arg(long)]
    delimiter: Option<String>,
    /// The file's encoding; guessed without it.
    #[arg(long)]
    encoding: Option<String>,
    /// The columns' names, for a file without a header line.
    #[arg(long, value_name = "COLS", value_delimiter = ',')]
    header: Option<Vec<String>>,
    /// The folder to write into.
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

/// Proposes and writes.
pub fn init(args: &InitArgs) -> anyhow::Result<()> {
    let said = Said {
        delimiter: args.delimiter.as_deref().map(parse_delimiter).transpose()?,
        encoding: args.encoding.clone(),
        header: args.header.clone(),
        key: args.key_columns.clone(),
    };
    let proposal = propose(&args.from, &said)?;
    let identity = args.identity.files()?;
    let (domain, owner) = named(&identity)?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let name = args.channel.to_string();
    let schema = proposal.schema(&format!("register.{}", record_name(&name)));
    let declaration = json!({"name": name, "kind": "distribution", "owner": owner, "partitions": PARTITIONS,
        "key": {"fields": proposal.key_fields()}, "schema": schema});
    let files = [
        (format!("{name}.avsc"), serde_json::to_string_pretty(&schema)?),
        (format!("{name}.channel.json"), serde_json::to_string_pretty(&declaration)?),
        ("producer.toml".to_owned(), configuration(args, &proposal, &domain, &identity)?),
    ];
    if let Some(there) = files.iter().map(|(name, _)| args.out.join(name)).find(|path| path.exists()) {
        bail!("{} is there already; nothing was written. Say --out with another folder", there.display());
    }
    for (name, text) in &files {
        let path = args.out.join(name);
        platform::closed::write(&path, format!("{}\n", text.trim_end()))
            .with_context(|| path.display().to_string())?;
    }
    tell(args, &proposal, &files);
    Ok(())
}

/// The trust domain and the participant that a certificate names.
fn named(files: &IdentityFiles) -> anyhow::Result<(String, String)> {
    let identity = Identity::load(files)?;
    let domain = identity.own_domain();
    let name = domain.as_deref().and_then(|domain| identity.own_name(domain).ok());
    match (domain, name) {
        (Some(domain), Some(Peer::Agent(agent))) => Ok((domain, agent.participant.to_string())),
        _ => bail!(
            "{}: the certificate does not name an agent of a participant; give the agent's own certificate",
            files.certificate.display()
        ),
    }
}

/// The last part of a schema's name may hold letters, digits and `_`.
fn record_name(channel: &str) -> String {
    channel.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn configuration(
    args: &InitArgs,
    proposal: &Proposal,
    domain: &str,
    identity: &IdentityFiles,
) -> anyhow::Result<String> {
    let mut text = format!(
        "# The producer agent of channel {}, proposed from {:?}.\n",
        args.channel,
        args.from.display().to_string()
    );
    writeln!(text, "router = {:?}\ndomain = {domain:?}\nchannel = \"{}\"", args.router, args.channel)?;
    writeln!(
        text,
        "# The types of the columns: check them. A cell of another type is refused, with its line and character."
    )?;
    writeln!(text, "schema = \"{}.avsc\"", args.channel)?;
    writeln!(
        text,
        "# The agent's own folder, and the one that whole files are dropped into.\ndata_dir = \"data\"\ndrop_dir = \"drop\"\n"
    )?;
    writeln!(text, "{}", table(identity)?)?;
    writeln!(text, "[format]\ndelimiter = {}", toml_text(&proposal.delimiter.to_string()))?;
    writeln!(text, "encoding = \"{}\"", proposal.encoding)?;
    if let Some(header) = &args.header {
        let names: Vec<String> = header.iter().map(|name| toml_text(name)).collect();
        writeln!(text, "header = [{}]", names.join(", "))?;
    }
    if let Some(format) = &proposal.date_format {
        writeln!(text, "date_format = \"{format}\"")?;
    }
    if let Some(separator) = proposal.decimal_separator {
        writeln!(text, "decimal_separator = \"{separator}\"")?;
    }
    Ok(text)
}

/// A text as TOML has it: JSON's escapes are TOML's, too.
fn toml_text(text: &str) -> String {
    platform::shown::json(&serde_json::Value::from(text).to_string())
}

fn tell(args: &InitArgs, proposal: &Proposal, files: &[(String, String)]) {
    let (read, bad) = proposal.rows;
    platform::say!("{}: {read} row(s) read, {bad} not", args.from.display());
    platform::say!("  separated by {:?}, in {}", proposal.delimiter, proposal.encoding);
    let key: Vec<String> = proposal.key.iter().map(|name| format!("{name:?}")).collect();
    platform::say!("  the key is {}", key.join(" with "));
    for column in &proposal.columns {
        platform::say!("  {:?}: {}", column.name, in_words(&column.kind));
    }
    for remark in &proposal.remarks {
        platform::say!("  {remark}");
    }
    for (name, _) in files {
        platform::say!("wrote {}", args.out.join(name).display());
    }
    platform::say!(
        "These are guesses: look at the schema, then dit check {}",
        args.out.join("producer.toml").display()
    );
    platform::say!("The router's operator declares {}.channel.json in declared/channels", args.channel);
}

/// A type, as people say it.
fn in_words(kind: &serde_json::Value) -> String {
    if let Some(kinds) = kind.as_array() {
        return format!("{}, or nothing", kinds.last().map(in_words).unwrap_or_default());
    }
    let of = |name: &str| kind.get(name).and_then(serde_json::Value::as_u64).unwrap_or_default();
    match kind.get("logicalType").and_then(serde_json::Value::as_str) {
        Some("decimal") => {
            format!("a decimal of {} digits, {} behind the point", of("precision"), of("scale"))
        }
        Some("date") => "a date".to_owned(),
        Some("timestamp-millis") => "a time".to_owned(),
        Some(other) => other.to_owned(),
        None => match kind.as_str() {
            Some("string") => "text".to_owned(),
            Some("long") => "a whole number".to_owned(),
            Some("boolean") => "true or false".to_owned(),
            other => other.unwrap_or("nested").to_owned(),
        },
    }
}
