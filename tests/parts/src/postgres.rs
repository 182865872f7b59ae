//! PostgreSQL 15 or later: one server, a database for each test.
//!
//! Owns the server's folder and life. Where we are root, it runs as the user `postgres`, as PostgreSQL requires.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::hosts::{Host, NETWORK, RunsOn};
use crate::ports;
use crate::process::Server;
use crate::store::{self, Workplace};

const PACKAGE: &str = "PostgreSQL 15 (Debian: postgresql)";

pub struct Postgres {
    bin: PathBuf,
    runs_on: RunsOn,
    has_tls: bool,
    port: u16,
    starts: usize,
    server: Option<Server>,
    dir: Workplace,
}

impl Postgres {
    /// Makes and starts one.
    pub fn start() -> Result<Self> {
        let mut postgres = Self::make(RunsOn::Loopback)?;
        postgres.run()?;
        Ok(postgres)
    }

    /// Makes and starts one on a test host, with the certificate and the key that these files hold.
    pub fn start_on(host: &Host, certificate: &Path, key: &Path) -> Result<Self> {
        let mut postgres = Self::make(RunsOn::Host(host.clone()))?;
        let hba = postgres.data().join("pg_hba.conf");
        fs::write(&hba, format!("{}\nhost all all {NETWORK} trust\n", fs::read_to_string(&hba)?))?;
        for (file, name) in [(certificate, "server.crt"), (key, "server.key")] {
            // The server wants a key that nobody else may read, and its user may not read ours.
            let lent = postgres.dir.path().join(name);
            fs::copy(file, &lent)?;
            fs::set_permissions(&lent, fs::Permissions::from_mode(0o644))?;
            let mut take = postgres.command("install");
            store::run(take.args(["-m", "600"]).arg(&lent).arg(postgres.data().join(name)), "coreutils")?;
            fs::remove_file(lent)?;
        }
        postgres.has_tls = true;
        postgres.run()?;
        Ok(postgres)
    }

    fn make(runs_on: RunsOn) -> Result<Self> {
        let dir = Workplace::new()?;
        // The server's user must be able to pass through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
        let port = *ports::free(1)?.first().context("a port")?;
        let postgres = Self { bin: bin()?, runs_on, has_tls: false, port, starts: 0, server: None, dir };
        let arguments = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "-D"];
        let mut make = postgres.command(postgres.bin.join("initdb"));
        store::run(make.args(arguments).arg(postgres.data()), PACKAGE)?;
        Ok(postgres)
    }

    fn address(&self) -> String {
        match &self.runs_on {
            // The name `localhost` may lead to another address first.
            RunsOn::Loopback => "127.0.0.1".to_owned(),
            host => host.address(),
        }
    }

    /// A new database on a server that all tests of this process share: the URL of its superuser.
    pub fn shared() -> Result<String> {
        static SHARED: Mutex<Option<Postgres>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.is_none() {
            *shared = Some(Self::start()?);
        }
        shared.as_ref().context("it was started")?.database()
    }

    /// A new database: the URL of its superuser.
    pub fn database(&self) -> Result<String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-q", "-U", "postgres", "-h", &self.address(), "-p", &self.port.to_string(), "-c"]);
        store::run(psql.arg(format!("CREATE DATABASE {name}")), PACKAGE)?;
        Ok(format!("postgresql://postgres@{}:{}/{name}", self.address(), self.port))
    }

    /// Starts it again after [`Postgres::kill`].
    pub fn run(&mut self) -> Result<()> {
        self.starts += 1;
        let log = self.dir.path().join(format!("{}.log", self.starts));
        let command = self.command(self.bin.join("postgres"));
        let settings = [
            format!("port={}", self.port),
            format!("listen_addresses={}", self.address()),
            format!("ssl={}", if self.has_tls { "on" } else { "off" }),
            format!("unix_socket_directories={}", self.dir.path().display()),
            "wal_level=logical".to_owned(),
            "max_connections=300".to_owned(),
        ];
        let mut arguments: Vec<OsString> = self.runs_on.prefix();
        arguments.push(command.get_program().into());
        arguments.extend(command.get_args().map(ToOwned::to_owned));
        arguments.extend(["-D".into(), self.data().into_os_string()]);
        arguments.extend(settings.iter().flat_map(|setting| ["-c".into(), setting.into()]));
        let mut server = Server::start(arguments, &log)?;
        server.wait_until(|log| log.contains("ready to accept connections")).context("PostgreSQL")?;
        self.server = Some(server);
        Ok(())
    }

    /// Ends it at once, connections and transactions with it.
    pub fn kill(&mut self) -> Result<()> {
        let RunsOn::Host(host) = &self.runs_on else {
            // Immediate shutdown: as after a power failure, but its processes and memory are gone for sure.
            return self.end("-QUIT");
        };
        host.signal("-KILL")?;
        self.server.take().context("it does not run")?.wait_gone()
    }

    /// Asks it to end: connections are broken, transactions rolled back, its files are in order.
    pub fn stop(&mut self) -> Result<()> {
        self.end("-INT")
    }

    fn end(&mut self, signal: &str) -> Result<()> {
        let server = self.server.take().context("it does not run")?;
        server.signal(signal)?;
        server.wait_gone()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let is_root =
            fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        if !is_root {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command.current_dir("/");
        command
    }
}

/// The folder of its programs.
pub fn bin() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut bins: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    bins.extend(std::env::split_paths(&path));
    let has_all = |bin: &&PathBuf| ["initdb", "postgres", "psql"].iter().all(|name| bin.join(name).is_file());
    bins.iter().find(has_all).cloned().with_context(|| format!("install {PACKAGE}"))
}
