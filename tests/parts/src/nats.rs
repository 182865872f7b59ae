//! NATS with JetStream: a peer to measure beside.
//!
//! Owns fetching its server with Go, and its life. Needs Go the first time.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::ports;
use crate::process::Server;
use crate::store::{self, Workplace};

/// The release, as Go names it.
const VERSION: &str = "v2.15.2";

/// A server that keeps its streams in files.
pub struct Nats {
    port: u16,
    server: Server,
    _dir: Workplace,
}

impl Nats {
    /// Starts one on a free port.
    pub fn start() -> Result<Self> {
        let bin = store::part(&format!("nats-server-{VERSION}"), fetch)?;
        let dir = Workplace::new()?;
        let port = *ports::free(1)?.first().context("a port")?;
        let command = [
            bin.join("nats-server").display().to_string(),
            "--addr=127.0.0.1".to_owned(),
            format!("--port={port}"),
            "--jetstream".to_owned(),
            format!("--store_dir={}", dir.path().join("data").display()),
        ];
        let mut server = Server::start(command, &dir.path().join("log"))?;
        server.wait_until(|log| log.contains("Server is ready")).context("nats-server")?;
        Ok(Self { port, server, _dir: dir })
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The server's process.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }
}

fn fetch(into: &Path) -> Result<()> {
    let module = format!("github.com/nats-io/nats-server/v2@{VERSION}");
    let made = Command::new("go").args(["install", &module]).env("GOBIN", into).output();
    let made = made.context("go cannot be run: install Go 1.21 or later")?;
    let said = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "go install {module} failed; it needs Go 1.21 or later: {}", said.trim());
    Ok(())
}
