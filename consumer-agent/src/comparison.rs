//! `dit consumer compare`: a comparison of replicas with the register, now.
//!
//! Owns the asking and the waiting. The running agent compares, as it does once a day by itself.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use schemas::ids::AgreementNumber;

use crate::config::ConsumerConfig;
use crate::process::status_path;
use crate::running::compare_mark;
use crate::status::Status;

/// An agent that runs looks at marks every second.
const TAKEN_LIMIT: Duration = Duration::from_secs(15);
/// The router reads the whole state for it, and waits its turn.
const DONE_LIMIT: Duration = Duration::from_mins(10);
/// How often the answer is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// `dit consumer compare`.
#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// The agent's configuration file.
    #[arg(long)]
    config: PathBuf,
    /// This agreement alone; all of them without it.
    #[arg(long)]
    agreement: Option<AgreementNumber>,
}

/// Asks the running agent, and waits; whether every replica was equal as it stood.
pub async fn compare(args: &CompareArgs) -> anyhow::Result<bool> {
    let config = ConsumerConfig::read(&args.config)?;
    let is_asked = |number: &&AgreementNumber| args.agreement.as_ref().is_none_or(|asked| asked == *number);
    let numbers = config.agreement.iter().map(|agreement| &agreement.number).filter(is_asked);
    let numbers: Vec<&AgreementNumber> = numbers.collect();
    if numbers.is_empty() {
        bail!("{} has no such agreement", args.config.display());
    }
    let read = |number: &AgreementNumber| -> anyhow::Result<Status> {
        let path = status_path(&config.data_dir, number);
        let named = || format!("{}: no status yet; is the agent running?", path.display());
        Ok(serde_json::from_slice(&std::fs::read(&path).with_context(named)?)?)
    };
    let mut before = Vec::new();
    for number in numbers {
        before.push((number, read(number)?.checked));
        let mark = compare_mark(&config.data_dir, number);
        platform::closed::write(&mark, "").with_context(|| mark.display().to_string())?;
    }
    let begun = Instant::now();
    let mut were_equal = true;
    for (number, before) in before {
        let mark = compare_mark(&config.data_dir, number);
        let checked = loop {
            let status = read(number)?;
            if let Some(checked) = status.checked.filter(|checked| Some(*checked) != before) {
                break checked;
            }
            if mark.exists() && begun.elapsed() > TAKEN_LIMIT {
                drop(std::fs::remove_file(&mark));
                bail!("{number}: nobody takes the wish up; is the agent running?");
            }
            if begun.elapsed() > DONE_LIMIT {
                let why = status.last_error.unwrap_or_else(|| status.phase.as_str().to_owned());
                bail!("{number}: not compared within {} min: {why}", DONE_LIMIT.as_secs() / 60);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        were_equal &= checked.equal && checked.mended == 0;
        let found = match (checked.equal, checked.mended) {
            (true, 0) => "equal to its part of the register".to_owned(),
            (true, mended) => format!("{mended} row(s) were wrong and are mended"),
            (false, _) => {
                "other than its part of the register, and could not be mended: dit status".to_owned()
            }
        };
        platform::say!("{number}: {found} ({} rows)", checked.rows);
    }
    Ok(were_equal)
}
