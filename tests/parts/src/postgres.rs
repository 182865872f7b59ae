//! PostgreSQL 15 or later: one server, a database for each test.
//!
//! Owns the server's folder and life. Where we are root, it runs as the user `postgres`, as it wants to.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::process::{Server, free_ports};
use crate::store::{self, Workplace};

const PACKAGE: &str = "PostgreSQL 15 (Debian: postgresql)";

/// A server.
pub struct Postgres {
    bin: PathBuf,
    port: u16,
    starts: usize,
    server: Option<Server>,
    dir: Workplace,
}

impl Postgres {
    /// Makes and starts one.
    pub fn start() -> Result<Self> {
        let dir = Workplace::new()?;
        // Its user must come through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
        let port = *free_ports(1)?.first().context("a port")?;
        let mut postgres = Self { bin: bin()?, port, starts: 0, server: None, dir };
        let data = postgres.data();
        let arguments = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "-D"];
        let mut make = postgres.command("initdb");
        store::run(make.args(arguments).arg(&data), PACKAGE)?;
        postgres.run()?;
        Ok(postgres)
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
        psql.args(["-q", "-U", "postgres", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-c"]);
        store::run(psql.arg(format!("CREATE DATABASE {name}")), PACKAGE)?;
        Ok(format!("postgresql://postgres@127.0.0.1:{}/{name}", self.port))
    }

    /// Starts it again after [`Postgres::kill`].
    pub fn run(&mut self) -> Result<()> {
        self.starts += 1;
        let log = self.dir.path().join(format!("{}.log", self.starts));
        let command = self.command("postgres");
        let settings = [
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", self.dir.path().display()),
            "wal_level=logical".to_owned(),
            "max_connections=300".to_owned(),
        ];
        let mut arguments: Vec<OsString> = vec![command.get_program().into()];
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
        let server = self.server.take().context("it does not run")?;
        // Immediate shutdown: as after a power failure, but its processes and memory are gone for sure.
        server.signal("-QUIT")?;
        server.wait_gone()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
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
