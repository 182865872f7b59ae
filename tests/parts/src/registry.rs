//! A schema registry with Confluent's interface: Apicurio 2.6, in memory.
//!
//! Owns its life; it may be stopped and started, but its contents are then lost: it keeps nothing. Needs Java 17, and
//! Maven for the first start.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::ports;
use crate::process::Server;
use crate::store::{self, Workplace};

const VERSION: &str = "2.6.13.Final";

pub struct Registry {
    app: PathBuf,
    port: u16,
    starts: u32,
    server: Option<Server>,
    dir: Workplace,
}

impl Registry {
    pub fn start() -> Result<Self> {
        let app = store::part(&format!("apicurio-{VERSION}"), fetch)?;
        let port = *ports::free(1)?.first().context("a port")?;
        let mut registry = Self { app, port, starts: 0, server: None, dir: Workplace::new()? };
        registry.run()?;
        Ok(registry)
    }

    /// The base URL of its Confluent interface.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    /// Starts it again after [`Registry::stop`].
    pub fn run(&mut self) -> Result<()> {
        self.starts += 1;
        let log = self.dir.path().join(format!("{}.log", self.starts));
        let jar = self.app.join(format!("apicurio-registry-app-{VERSION}-runner.jar"));
        let command = [
            "java".into(),
            "-Xmx384m".into(),
            "-XX:TieredStopAtLevel=1".into(),
            "-Dquarkus.http.host=127.0.0.1".into(),
            format!("-Dquarkus.http.port={}", self.port).into(),
            "-jar".into(),
            jar.into_os_string(),
        ];
        let mut server = Server::start(command, &log)?;
        server.wait_until(|log| log.contains("Listening on:")).context("the schema registry")?;
        self.server = Some(server);
        Ok(())
    }

    pub fn stop(&mut self) -> Result<()> {
        let server = self.server.take().context("it does not run")?;
        server.signal("-KILL")?;
        server.wait_gone()
    }
}

fn fetch(into: &Path) -> Result<()> {
    let artifact = format!("-Dartifact=io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all");
    let copy = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy";
    let mut maven = Command::new("mvn");
    maven.current_dir(into).args(["-q", "-B", copy, &artifact, "-DoutputDirectory=."]);
    store::run(&mut maven, "Maven (Debian: maven)")?;
    let archive = format!("apicurio-registry-app-{VERSION}-all.tar.gz");
    let mut unpack = Command::new("tar");
    store::run(unpack.current_dir(into).args(["-xzf", &archive]), "tar")?;
    Ok(std::fs::remove_file(into.join(archive))?)
}
