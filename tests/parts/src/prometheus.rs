//! Prometheus: scrapes what a test runs, and answers its questions.
//!
//! Owns its configuration and its life. Needs Debian's `prometheus`.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::ports;
use crate::process::Server;
use crate::store::Workplace;

pub struct Prometheus {
    port: u16,
    _server: Server,
    _dir: Workplace,
}

impl Prometheus {
    /// Starts one that scrapes each job's process twice a second, and evaluates these rules as often.
    pub fn start(jobs: &[(&str, SocketAddr)], rules: Option<&str>) -> Result<Self> {
        let dir = Workplace::new()?;
        let port = *ports::free(1)?.first().context("a port")?;
        let mut text = "global: {scrape_interval: 500ms, evaluation_interval: 500ms}\n".to_owned();
        if let Some(rules) = rules {
            fs::write(dir.path().join("rules.yaml"), rules)?;
            text.push_str("rule_files: [rules.yaml]\n");
        }
        text.push_str("scrape_configs:\n");
        for (job, address) in jobs {
            writeln!(text, "  - {{job_name: {job}, static_configs: [{{targets: ['{address}']}}]}}")?;
        }
        let config = dir.path().join("prometheus.yml");
        fs::write(&config, text)?;
        let command = [
            "prometheus".to_owned(),
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", dir.path().join("data").display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ];
        let mut server = Server::start(command, &dir.path().join("log"))?;
        server
            .wait_until(|log| log.contains("Server is ready to receive web requests"))
            .context("Prometheus (Debian: prometheus)")?;
        Ok(Self { port, _server: server, _dir: dir })
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}
