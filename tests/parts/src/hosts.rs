//! Test hosts: network namespaces on one bridge, each with an address of its own, that can be cut off or made deaf.
//!
//! Owns a network for this process alone. It is not seen outside, and ends with the process. Needs root, and Linux with
//! iproute2 and util-linux.

use std::ffi::{OsStr, OsString};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The process's own address, for the hosts; of the block that is set aside for documentation (RFC 5737).
pub const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The network, in the words of PostgreSQL's `pg_hba.conf`.
pub const NETWORK: &str = "192.0.2.0/24";
/// A machine address that no host has: packets to it are lost silently.
const NOBODY: &str = "02:00:00:00:00:ff";

/// A network, a mount table and processes of its own; the first process waits for the others' ends.
const ALONE: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip link set lo up
ip link add dit type bridge
ip address add 192.0.2.1/24 dev dit
ip link set dit up
"$@"
"#;

/// Whether hosts can be made here; if not, why, in a line.
pub fn cannot_be_made() -> Option<&'static str> {
    let is_root =
        std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let has = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    match () {
        () if !is_root => Some("network namespaces need root"),
        () if !has("ip") => Some("ip is missing (Debian: iproute2)"),
        () if !has("unshare") || !has("nsenter") => Some("unshare is missing (Debian: util-linux)"),
        () => None,
    }
}

/// A program that is alone in a network, where it can make hosts. All that it starts ends with it.
pub fn alone(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", ALONE, "alone"]).arg(program);
    command
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
}

fn ip<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<String> {
    let mut command = Command::new("ip");
    let output = command.args(arguments).output().context("ip (Debian: iproute2)")?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Host {
    /// Makes one; `number` is the last part of its address.
    pub fn make(name: &str, number: u8) -> Result<Self> {
        let [first, second, third, _] = OWN_ADDRESS.octets();
        let host = Self { name: name.to_owned(), address: Ipv4Addr::new(first, second, third, number) };
        ip(["netns", "add", name])?;
        ip(["link", "add", &host.port(), "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(["link", "set", &host.port(), "master", "dit", "up"])?;
        ip(["-n", name, "link", "set", "lo", "up"])?;
        ip(["-n", name, "address", "add", &format!("{}/24", host.address), "dev", "eth0"])?;
        ip(["-n", name, "link", "set", "eth0", "up"])?;
        Ok(host)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the others reach it.
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its end of the line at the bridge.
    fn port(&self) -> String {
        format!("p-{}", self.name)
    }

    /// The words before a program's name that run it there; the program replaces their process.
    pub(crate) fn prefix(&self) -> Vec<OsString> {
        vec!["nsenter".into(), format!("--net=/run/netns/{}", self.name).into()]
    }

    /// A program that runs there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut words = self.prefix().into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg(program);
        command
    }

    /// Sends all its processes a signal by its option for `kill`, such as `-STOP`.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let processes = ip(["netns", "pids", &self.name])?;
        let status = Command::new("kill").arg(signal).args(processes.split_whitespace()).status()?;
        ensure!(status.success(), "kill {signal} on {}", self.name);
        Ok(())
    }

    /// Pulls its plug: it reaches no host, no host reaches it, and none is notified.
    pub fn cut_off(&self) -> Result<()> {
        ip(["link", "set", &self.port(), "down"]).map(drop)
    }

    /// Puts the plug back.
    pub fn join(&self) -> Result<()> {
        ip(["link", "set", &self.port(), "up"]).map(drop)
    }

    /// Packets to the other are lost; packets from there arrive.
    pub fn lose(&self, other: &Self) -> Result<()> {
        let address = other.address.to_string();
        let entry = ["to", &address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent"];
        ip(["-n", &self.name, "neighbour", "replace"].into_iter().chain(entry)).map(drop)
    }

    /// Packets to the other arrive again.
    pub fn find(&self, other: &Self) -> Result<()> {
        let address = other.address.to_string();
        ip(["-n", &self.name, "neighbour", "del", "to", &address, "dev", "eth0"]).map(drop)
    }
}

/// Where a part runs.
#[derive(Debug, Clone)]
pub(crate) enum RunsOn {
    /// On this machine's loopback.
    Loopback,
    /// On a test host.
    Host(Host),
}

impl RunsOn {
    /// Where clients reach it.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Loopback => "localhost".to_owned(),
            Self::Host(host) => host.address.to_string(),
        }
    }

    /// The words before its program's name.
    pub(crate) fn prefix(&self) -> Vec<OsString> {
        match self {
            Self::Loopback => Vec::new(),
            Self::Host(host) => host.prefix(),
        }
    }
}
