//! `dit consumer reconcile`: replicas are reconciled with the register, now.
//!
//! Owns the request and the wait. The running agent compares, as it does by itself once a day.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use schemas::ids::AgreementNumber;

use crate::config::ConsumerConfig;
use crate::phase::Phase;
use crate::receive::reconciler::Reconciled;
use crate::status::{Status, reconcile_mark, status_path};

/// How long a request may wait: a running agent checks for marks every second.
const TAKEN_LIMIT: Duration = Duration::from_secs(15);
/// The wait for the result: the router reads the whole state, and may first wait for its turn.
const DONE_LIMIT: Duration = Duration::from_mins(10);
/// How often the status file is read.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// `dit consumer reconcile`.
#[derive(Debug, clap::Args)]
pub struct ReconcileArgs {
    /// The agent's configuration file.
    #[arg(long)]
    config: PathBuf,
    /// This agreement alone; all of them without it.
    #[arg(long)]
    agreement: Option<AgreementNumber>,
}

/// A requested comparison; drop withdraws a request that no agent has taken.
struct Asked {
    status: PathBuf,
    mark: PathBuf,
    before: Option<Reconciled>,
    begun: Instant,
}

impl Asked {
    fn query(config: &ConsumerConfig, number: &AgreementNumber) -> anyhow::Result<Self> {
        let status = status_path(&config.data_dir, number);
        let mark = reconcile_mark(&config.data_dir, number);
        let before = read(&status)?.reconciled;
        platform::closed::write(&mark, "").with_context(|| mark.display().to_string())?;
        Ok(Self { status, mark, before, begun: Instant::now() })
    }

    async fn answer(&self) -> anyhow::Result<Reconciled> {
        loop {
            let status = read(&self.status)?;
            if let Some(reconciled) = status.reconciled.filter(|reconciled| Some(*reconciled) != self.before)
            {
                return Ok(reconciled);
            }
            if self.mark.exists() && self.begun.elapsed() > TAKEN_LIMIT {
                bail!("no agent takes the request; is the agent running?");
            }
            if status.phase == Phase::Ended {
                bail!("the agreement has ended: there is nothing to compare with");
            }
            if self.begun.elapsed() > DONE_LIMIT {
                let why = status.last_error.unwrap_or_else(|| status.phase.as_str().to_owned());
                bail!("not compared within {} min: {why}", DONE_LIMIT.as_secs() / 60);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Usually the agent has removed it already.
        drop(std::fs::remove_file(&self.mark));
    }
}

fn read(path: &Path) -> anyhow::Result<Status> {
    let named = || format!("{}: no status yet; is the agent running?", path.display());
    let bytes = std::fs::read(path).with_context(named)?;
    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
}

/// Asks the running agent and waits; returns whether every replica was equal without a repair. Failures are reported,
/// and the other replicas are still compared.
pub async fn reconcile(args: &ReconcileArgs) -> anyhow::Result<bool> {
    let config = ConsumerConfig::read(&args.config)?;
    let is_asked = |number: &&AgreementNumber| args.agreement.as_ref().is_none_or(|asked| asked == *number);
    let numbers = config.agreement.iter().map(|agreement| &agreement.number).filter(is_asked);
    let asked: Vec<_> = numbers.map(|number| (number, Asked::query(&config, number))).collect();
    if asked.is_empty() {
        bail!(
            "{} has no such agreement: name one of its [[agreement]] tables, or add it there",
            args.config.display()
        );
    }
    let mut were_equal = true;
    let mut compared = 0;
    for (number, asked) in asked {
        let outcome = match asked {
            Ok(asked) => asked.answer().await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(reconciled) => {
                compared += 1;
                were_equal &= reconciled.equal && reconciled.repaired == 0;
                platform::say!("{number}: {} ({} rows)", found(reconciled), reconciled.rows);
            }
            Err(error) => {
                were_equal = false;
                platform::complain!("{number}: {error:#}");
            }
        }
    }
    if compared == 0 {
        bail!("no replica was compared");
    }
    Ok(were_equal)
}

fn found(reconciled: Reconciled) -> String {
    match (reconciled.equal, reconciled.repaired) {
        (true, 0) => "equal to its part of the register".to_owned(),
        (true, repaired) => format!("{repaired} row(s) were wrong and are repaired"),
        (false, _) => {
            "not equal to its part of the register, and the repair failed; see dit status".to_owned()
        }
    }
}
