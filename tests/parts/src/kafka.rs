//! Apache Kafka: one node or three, in KRaft mode.
//!
//! Owns the cluster's files and the nodes' lives. Needs Java 17 and, for the first start, Maven.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::hosts::{Host, RunsOn};
use crate::ports;
use crate::process::Server;
use crate::store::{self, Workplace};

const VERSION: &str = "4.3.0";
const SERDE_VERSION: &str = "2.6.13.Final";
/// Any will do: the cluster is ours alone.
const CLUSTER_ID: &str = "ZGl0LXRlc3QtY2x1c3Rlcg";

pub struct Kafka {
    nodes: Vec<Node>,
    libs: PathBuf,
    dir: Workplace,
}

struct Node {
    runs_on: RunsOn,
    port: u16,
    starts: u32,
    server: Option<Server>,
}

impl Kafka {
    /// Starts a cluster of so many nodes; topics of three and more nodes can have three replicas.
    pub fn start(nodes: usize) -> Result<Self> {
        Self::start_with(nodes, "PLAINTEXT", "")
    }

    /// Starts a cluster whose clients speak `protocol` (`PLAINTEXT`, `SSL`, `SASL_SSL`), with more properties.
    pub fn start_with(nodes: usize, protocol: &str, properties: &str) -> Result<Self> {
        Self::start_at(vec![RunsOn::Loopback; nodes], protocol, properties)
    }

    /// Starts a cluster of a node on each of these hosts.
    pub fn start_on(hosts: &[Host]) -> Result<Self> {
        Self::start_at(hosts.iter().cloned().map(RunsOn::Host).collect(), "PLAINTEXT", "")
    }

    /// Fetches it, for a start where nothing can be fetched.
    pub fn fetch() -> Result<()> {
        libs().map(drop)
    }

    fn start_at(runs_on: Vec<RunsOn>, protocol: &str, properties: &str) -> Result<Self> {
        let libs = libs()?;
        let dir = Workplace::new()?;
        let ports = ports::free(runs_on.len() * 2)?;
        let (clients, controllers) = ports.split_at(runs_on.len());
        let at = |ports: &[u16]| -> Vec<String> {
            runs_on.iter().zip(ports).map(|(runs_on, port)| format!("{}:{port}", runs_on.address())).collect()
        };
        let at_clients = at(clients);
        let at_controllers = at(controllers);
        let mut cluster = Self { nodes: Vec::new(), libs, dir };
        for (index, (runs_on, port)) in runs_on.into_iter().zip(clients).enumerate() {
            let text = node_properties(cluster.dir.path(), index, &at_clients, &at_controllers, protocol);
            fs::write(cluster.properties(index), text + properties)?;
            cluster.format(index, &at_controllers)?;
            cluster.nodes.push(Node { runs_on, port: *port, starts: 0, server: None });
        }
        let nodes = cluster.nodes.len();
        (0..nodes).try_for_each(|index| cluster.spawn(index))?;
        (0..nodes).try_for_each(|index| cluster.wait_ready(index))?;
        Ok(cluster)
    }

    /// A cluster of so many nodes for all tests of this process, started at the first call; its addresses.
    pub fn shared(nodes: usize) -> Result<String> {
        static SHARED: Mutex<BTreeMap<usize, Kafka>> = Mutex::new(BTreeMap::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.entry(nodes) {
            Entry::Occupied(cluster) => Ok(cluster.get().bootstrap()),
            Entry::Vacant(runs_on) => Ok(runs_on.insert(Self::start(nodes)?).bootstrap()),
        }
    }

    /// The processes of the nodes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.server.as_ref()?.pid()).collect()
    }

    /// The addresses for clients.
    pub fn bootstrap(&self) -> String {
        let address = |node: &Node| format!("{}:{}", node.runs_on.address(), node.port);
        let addresses: Vec<_> = self.nodes.iter().map(address).collect();
        addresses.join(",")
    }

    /// Ends a node; with `kill -9` if `kill` is set.
    pub fn stop_node(&mut self, index: usize, kill: bool) -> Result<()> {
        let node = self.nodes.get_mut(index).context("there is no such node")?;
        let server = node.server.take().context("the node does not run")?;
        server.signal(if kill { "-KILL" } else { "-TERM" })?;
        server.wait_gone()
    }

    /// A node's disk takes no more bytes, as when it is full; the node ends itself when it notices.
    pub fn fill_disk(&mut self, index: usize) -> Result<()> {
        let server = self.nodes.get(index).and_then(|node| node.server.as_ref());
        server.context("the node does not run")?.forbid_writing()
    }

    /// Waits until a node has ended itself.
    pub fn until_ended(&mut self, index: usize) -> Result<()> {
        let server = self.nodes.get_mut(index).and_then(|node| node.server.take());
        server.context("the node does not run")?.wait_gone()
    }

    /// Starts a node that was ended, and waits until it is ready.
    pub fn start_node(&mut self, index: usize) -> Result<()> {
        self.spawn(index)?;
        self.wait_ready(index)
    }

    /// The output of Kafka's own console consumer, in Java, for a topic: headers, keys, and values as Apicurio's Avro
    /// deserialiser reads them by a schema registry. It skips records that it cannot read, as a user would have it.
    pub fn console_consumer(&self, topic: &str, registry: &str, messages: usize) -> Result<String> {
        let serde = store::part(&format!("apicurio-serde-{SERDE_VERSION}"), fetch_serde)?;
        let class_path = format!("{}:{}", self.libs.join("*").display(), serde.join("*").display());
        let registry = registry.replace("/apis/ccompat/v7", "/apis/registry/v2");
        let mut consumer = Command::new("java");
        consumer.args(["-cp", &class_path, "org.apache.kafka.tools.consumer.ConsoleConsumer"]);
        consumer.args(["--bootstrap-server", &self.bootstrap(), "--topic", topic, "--from-beginning"]);
        consumer.args(["--isolation-level", "read_committed", "--skip-message-on-error"]);
        consumer.args(["--max-messages", &messages.to_string(), "--timeout-ms", "20000"]);
        for property in ["print.key=true", "print.headers=true"] {
            consumer.args(["--formatter-property", property]);
        }
        let deserializer = "io.apicurio.registry.serde.avro.AvroKafkaDeserializer";
        consumer.args(["--value-deserializer", deserializer]);
        for property in [
            &format!("apicurio.registry.url={registry}"),
            "apicurio.registry.as-confluent=true",
            "apicurio.registry.use-id=contentId",
            "apicurio.registry.headers.enabled=false",
        ] {
            consumer.args(["--formatter-property", &format!("value.deserializer.{property}")]);
        }
        let output = consumer.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(said + &String::from_utf8_lossy(&output.stderr))
    }

    /// Runs one of Kafka's own tools, such as `org.apache.kafka.tools.TopicCommand`; its output.
    pub fn tool(&self, class: &str, args: &[&str]) -> Result<String> {
        let output = java(&self.libs).arg(class).args(args).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{class}: {said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    }

    fn properties(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("{index}.properties"))
    }

    fn format(&self, index: usize, controllers: &[String]) -> Result<()> {
        let mut tool = java(&self.libs);
        tool.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]).arg(self.properties(index));
        if controllers.len() == 1 {
            tool.arg("--standalone");
        } else {
            let voters = controllers
                .iter()
                .enumerate()
                .map(|(voter, address)| format!("{}@{address}:ZGl0LXRlc3QtZGlyZWN0{voter}A", voter + 1));
            tool.args(["--initial-controllers", &voters.collect::<Vec<_>>().join(",")]);
        }
        store::run(&mut tool, "a Java 17 runtime (Debian: default-jre-headless)")
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let command = java(&self.libs);
        let properties = self.properties(index);
        let node = self.nodes.get_mut(index).context("there is no such node")?;
        node.starts += 1;
        let log = self.dir.path().join(format!("{index}.{}.log", node.starts));
        let heap =
            ["-Dlog4j2.level=INFO", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "kafka.Kafka"]
                .map(Into::into);
        let program = std::iter::once(command.get_program().to_owned());
        let args = program.chain(command.get_args().map(ToOwned::to_owned)).chain(heap);
        let args = node.runs_on.prefix().into_iter().chain(args);
        node.server = Some(Server::start(args.chain([properties.into_os_string()]), &log)?);
        Ok(())
    }

    fn wait_ready(&mut self, index: usize) -> Result<()> {
        let server = self.nodes.get_mut(index).and_then(|node| node.server.as_mut());
        let server = server.context("the node does not run")?;
        // An open port is not readiness: the broker may still be fenced.
        server
            .wait_until(|log| log.contains("Kafka Server started"))
            .with_context(|| format!("Kafka's node {}", index + 1))
    }
}

fn java(libs: &Path) -> Command {
    let mut command = Command::new("java");
    command.arg("-cp").arg(libs.join("*"));
    command
}

fn libs() -> Result<PathBuf> {
    store::part(&format!("kafka-{VERSION}"), fetch)
}

fn fetch(into: &Path) -> Result<()> {
    copy_jars(
        into,
        &[
            ("org.apache.kafka", "kafka_2.13", VERSION),
            ("org.apache.kafka", "kafka-tools", VERSION),
            ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3"),
        ],
    )
}

fn fetch_serde(into: &Path) -> Result<()> {
    copy_jars(into, &[("io.apicurio", "apicurio-registry-serdes-avro-serde", SERDE_VERSION)])
}

/// Copies jars and their dependencies.
fn copy_jars(into: &Path, wanted: &[(&str, &str, &str)]) -> Result<()> {
    let pom = into.join("pom.xml");
    let wanted: Vec<String> = wanted.iter().map(|(group, artifact, version)| {
        format!("<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>")
    }).collect();
    let project = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>dit</groupId><artifactId>parts</artifactId><version>1</version><packaging>pom</packaging>\
         <dependencies>{}</dependencies></project>",
        wanted.concat()
    );
    fs::write(&pom, project)?;
    let copy = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";
    let mut maven = Command::new("mvn");
    maven.current_dir(into).args(["-q", "-B", copy, "-DoutputDirectory=."]);
    store::run(&mut maven, "Maven (Debian: maven)")
}

fn node_properties(
    dir: &Path,
    index: usize,
    clients: &[String],
    controllers: &[String],
    protocol: &str,
) -> String {
    let at = |addresses: &[String]| addresses.get(index).cloned().unwrap_or_default();
    let client = at(clients);
    let controller = at(controllers);
    let (replicas, minimum) = if clients.len() >= 3 { (3, 2) } else { (1, 1) };
    let data = dir.join(format!("data-{index}"));
    format!(
        "process.roles=broker,controller\nnode.id={}\n\
         controller.quorum.bootstrap.servers={}\ncontroller.listener.names=CONTROLLER\n\
         listeners={protocol}://{client},CONTROLLER://{controller}\n\
         advertised.listeners={protocol}://{client},CONTROLLER://{controller}\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocol}:{protocol}\n\
         inter.broker.listener.name={protocol}\nlog.dirs={}\n\
         default.replication.factor={replicas}\nmin.insync.replicas={minimum}\n\
         offsets.topic.replication.factor={replicas}\noffsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor={replicas}\ntransaction.state.log.min.isr={minimum}\n\
         transaction.state.log.num.partitions=4\n\
         log.cleaner.dedupe.buffer.size=8388608\nlog.cleaner.backoff.ms=200\n\
         log.retention.check.interval.ms=500\nlog.segment.delete.delay.ms=100\n",
        index + 1,
        controllers.join(","),
        data.display(),
    )
}
