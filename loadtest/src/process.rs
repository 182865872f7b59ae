//! A process of a run: its output, its use of the machine, and its end.
//!
//! Owns the child process, which is killed when it is dropped. CPU seconds and memory are the kernel's own figures.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::live::Line;

/// A part without a new line for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long an end may take.
const END: Duration = Duration::from_secs(30);
/// Bytes of a log's end that an error shows.
const LAST_WORDS: usize = 2_000;

/// A process's use of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// CPU seconds, user and system.
    pub(crate) cpu_seconds: f64,
    /// The most memory that it ever held.
    pub(crate) max_rss_bytes: u64,
}

/// The kernel's figures of a process; zeros when it has ended.
pub(crate) fn taken(pid: u32) -> Taken {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    // The name in brackets may hold spaces; user and system time are fields 14 and 15.
    let stat = read("stat");
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let status = read("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    #[allow(clippy::cast_precision_loss, reason = "ticks since a run began are far below 2^52")]
    let cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Taken { cpu_seconds, max_rss_bytes: peak.unwrap_or_default() * 1_024 }
}

/// A running part.
pub(crate) struct Part {
    name: &'static str,
    log: PathBuf,
    child: Child,
    said: watch::Receiver<Line>,
    reading: JoinHandle<()>,
}

impl Part {
    /// Starts one of our own parts in a folder; its log is `<name>.log` there.
    pub(crate) fn start(
        name: &'static str,
        dir: &Path,
        arguments: &[impl AsRef<OsStr>],
        environment: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let logged = std::fs::File::create(&log)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("part")
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(logged)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} could not be started"))?;
        let out = child.stdout.take().context("no standard output")?;
        let (tell, said) = watch::channel(Line::default());
        let reading = tokio::spawn(async move {
            let mut lines = BufReader::new(out).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // A router and an agent print in words that they listen.
                let line = serde_json::from_str(&line).unwrap_or(Line { ready: true, ..Line::default() });
                tell.send_replace(line);
            }
        });
        Ok(Self { name, log, child, said, reading })
    }

    /// The last line that it printed.
    pub(crate) fn line(&self) -> Line {
        self.said.borrow().clone()
    }

    /// Waits until its line meets a condition; an end or a standstill is an error with the end of its log.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        condition: impl Fn(&Line) -> bool,
    ) -> anyhow::Result<Line> {
        let mut last = self.line();
        loop {
            if condition(&last) {
                return Ok(last);
            }
            let next = tokio::time::timeout(PATIENCE, self.said.wait_for(|line| *line != last)).await;
            let next = next.map(|said| said.map(|line| line.clone()));
            last = match next {
                Ok(Ok(line)) => line,
                Ok(Err(_)) => {
                    let status = tokio::time::timeout(END, self.child.wait()).await;
                    let status = status.with_context(|| format!("{} closed its output", self.name))??;
                    bail!("{} ended with {status}, before {what}:\n{}", self.name, self.last_words())
                }
                Err(_) => bail!(
                    "{} said nothing new for {} s, before {what}:\n{}",
                    self.name,
                    PATIENCE.as_secs(),
                    self.last_words()
                ),
            };
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let last = log.get(log.len().saturating_sub(LAST_WORDS)..).unwrap_or_default();
        String::from_utf8_lossy(last).into_owned()
    }

    /// Its use of the machine so far.
    pub(crate) fn taken(&self) -> Taken {
        self.child.id().map(taken).unwrap_or_default()
    }

    /// Kills it, and waits.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("{} could not be killed", self.name))
    }

    /// Ends it, and waits.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            let asked = std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status()?;
            anyhow::ensure!(asked.success(), "{} could not be asked to stop", self.name);
        }
        let ended = tokio::time::timeout(END, self.child.wait()).await;
        let status = ended.with_context(|| format!("{} did not end", self.name))??;
        anyhow::ensure!(status.success(), "{} ended with {status}", self.name);
        self.reading.await.context("its output")
    }
}
