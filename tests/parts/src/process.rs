//! A server that was started for a test, and ends with the process that started it, however that ends.
//!
//! Owns the leash: a shell waits on a pipe from us, and kills the server when the pipe closes.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a part may take until it is ready: many times what it takes on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How often to look whether a part is ready.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The pid comes first, so that signals reach the server; `cat` returns when the process at the other end has ended.
const LEASH: &str = r#"
log="$1"; shift
exec 3<&0
"$@" </dev/null >"$log" 2>&1 &
pid=$!
echo $pid
cat <&3 >/dev/null
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
"#;

pub(crate) struct Server {
    leash: Child,
    pid: String,
    log: PathBuf,
}

impl Server {
    /// Starts a program; its output goes to the log file.
    pub(crate) fn start<A: AsRef<OsStr>>(command: impl IntoIterator<Item = A>, log: &Path) -> Result<Self> {
        let mut leash = Command::new("sh")
            .args(["-c", LEASH, "leash"])
            .arg(log)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = leash.stdout.take().context("the leash has no output")?;
        let mut pid = String::new();
        BufReader::new(stdout).read_line(&mut pid)?;
        let pid = pid.trim().to_owned();
        ensure!(!pid.is_empty(), "the server was not started");
        Ok(Self { leash, pid, log: log.to_owned() })
    }

    /// Waits until `is_ready`; fails with the end of the log when the server ends or takes too long.
    pub(crate) fn wait_until(&mut self, is_ready: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if is_ready(&log) {
                return Ok(());
            }
            if !self.is_running() || Instant::now() > deadline {
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                bail!("not ready; its last words, newest first:\n{}", tail.join("\n"));
            }
            until_next_look();
        }
    }

    /// The program's process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid.parse().ok()
    }

    /// Whether the program runs.
    pub(crate) fn is_running(&self) -> bool {
        self.signal("-0").is_ok()
    }

    /// Sends a signal by its option for `kill`, such as `-TERM`.
    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill").args([signal, &self.pid]).stderr(Stdio::null()).status()?;
        ensure!(status.success(), "there is no process {}", self.pid);
        Ok(())
    }

    /// No file of the program may grow from now on.
    pub(crate) fn forbid_writing(&self) -> Result<()> {
        let status = Command::new("prlimit").args(["--fsize=1", "--pid", &self.pid]).status();
        ensure!(status.context("prlimit (Debian: util-linux)")?.success(), "no limit for {}", self.pid);
        Ok(())
    }

    /// Waits until the program has ended after a signal.
    pub(crate) fn wait_gone(&self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        while self.is_running() {
            ensure!(Instant::now() < deadline, "process {} does not end", self.pid);
            until_next_look();
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        // The leash ends when the server has ended.
        drop(self.leash.wait());
    }
}

#[allow(clippy::disallowed_methods, reason = "between two looks at a condition of another process")]
fn until_next_look() {
    std::thread::sleep(LOOK_EVERY);
}
