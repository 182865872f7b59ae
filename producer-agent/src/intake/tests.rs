//! The intake over its drop folder: one bad file never stops the rest.

use std::sync::atomic::AtomicU64;

use platform::pki::{Authority, Subject};
use platform::segments::memory_disk::MemoryDisk;
use schemas::avro::schema::AvroSchema;
use schemas::ids::LogId;

use super::*;
use crate::agent::Opening;
use crate::image::memory::MemoryImages;
use crate::image::{ImageChange, ImageError, ImageStore};
use crate::metrics::Metrics;
use crate::outbox::lock;

const SCHEMA: &str = r#"{"type":"record","name":"R","fields":[
    {"name":"k","type":"string"},{"name":"v","type":"string"}]}"#;

/// Images that panic, or report a full disk, when a planted key is changed.
struct Breaks(MemoryImages);

impl ImageStore for Breaks {
    fn get(&self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, ImageError> {
        self.0.get(keys)
    }

    fn apply(&self, changes: &[ImageChange<'_>], position: u64) -> Result<(), ImageError> {
        let has = |key: &str| changes.iter().any(|change| change.key == key);
        assert!(!has("boom"), "planted");
        if has("full") {
            return Err(ImageError::Full { path: "images".to_owned() });
        }
        self.0.apply(changes, position)
    }

    fn for_each(&self, visit: &mut dyn FnMut(&str, &[u8]) -> bool) -> Result<(), ImageError> {
        self.0.for_each(visit)
    }

    fn position(&self) -> Result<u64, ImageError> {
        self.0.position()
    }

    fn count(&self) -> Result<u64, ImageError> {
        self.0.count()
    }

    fn clear(&self) -> Result<(), ImageError> {
        self.0.clear()
    }

    fn sync(&self) -> Result<(), ImageError> {
        self.0.sync()
    }

    fn sync_behind(&self) -> Result<(), ImageError> {
        self.0.sync_behind()
    }

    fn synced(&self) -> Arc<AtomicU64> {
        self.0.synced()
    }
}

struct Site {
    dir: tempfile::TempDir,
    /// The agent's.
    disk: MemoryDisk,
    config: ProducerConfig,
    watch: Arc<Watch>,
    agent: Arc<Agent>,
    folder: DropFolder,
}

impl Site {
    fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "router = \"https://localhost:1\"\ndomain = \"d\"\nchannel = \"c\"\nschema = \"s\"\ndata_dir = \"data\"\n\
             drop_dir = {:?}\n[identity]\ncertificate = \"c\"\nkey = \"k\"\nauthorities = \"a\"\n\
             [drop]\nstill_for = \"0s\"\n{more}",
            dir.path().join("drop")
        );
        let config: ProducerConfig =
            platform::config::parse(std::path::Path::new("producer.toml"), &text).unwrap();
        let subject = Subject::Agent("1/main".parse().unwrap());
        let identity = Authority::new("d").unwrap().identity(&subject).unwrap();
        let watch = Watch::new(Metrics::new(&identity, Vec::new()).unwrap(), &config.drop_dir);
        let folder = DropFolder::open(&config.drop_dir, config.drop.clone()).unwrap();
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let channel = serde_json::json!({"name": "c", "kind": "distribution", "owner": "1", "partitions": 2,
            "key": {"fields": ["k"]}, "schema": schema});
        let disk = MemoryDisk::new();
        let agent = Agent::open(Opening {
            dir: "/agent".into(),
            disk: Arc::new(disk.clone()),
            images: Box::new(Breaks(MemoryImages::default())),
            channel: serde_json::from_value(channel).unwrap(),
            log_id: LogId::new([7; 16]),
            schema: AvroSchema::parse(SCHEMA).unwrap(),
        });
        let watch = Arc::new(watch);
        Self { dir, disk, config, watch, agent: Arc::new(agent.unwrap()), folder }
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.config.drop_dir.join(name), bytes).unwrap();
    }

    /// Takes the files that are ready; returns whether the agent must begin anew.
    async fn look(&mut self) -> bool {
        let intake = Intake { config: &self.config, watch: &self.watch, agent: Arc::clone(&self.agent) };
        self.folder.ready().unwrap();
        for file in self.folder.ready().unwrap() {
            match intake.dropped(&mut self.folder, &file).await {
                Ok(_) => {}
                Err(NotSettled::Ended(IntakeEnded::BeginAnew)) => return true,
                Err(NotSettled::Ended(IntakeEnded::Failed(error))) => panic!("{error:#}"),
                Err(NotSettled::Folder(error)) => panic!("{error}"),
            }
        }
        false
    }

    fn report(&self, fate: &str, name: &str) -> String {
        let path = self.dir.path().join("drop").join(fate).join(format!("{name}.report.json"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

#[tokio::test]
async fn a_panic_refuses_its_file_and_the_agent_begins_anew() {
    let mut site = Site::new("");
    site.put("a.csv", "k,v\n1,x\nboom,y\n");
    assert!(site.look().await, "what is in memory is not relied on");
    assert!(site.report("refused", "a.csv").contains("a defect"));
    site.put("b.csv", "k,v\n1,x\n");
    assert!(!site.look().await);
    assert!(site.report("taken", "b.csv").contains("\"taken\": true"));
}

#[tokio::test]
async fn a_full_disk_of_the_images_leaves_the_file_and_the_agent_begins_anew() {
    let mut site = Site::new("");
    site.put("a.csv", "k,v\n1,x\nfull,y\n");
    assert!(!site.look().await);
    assert!(site.agent.has_lost_its_images(), "the next look begins the agent anew");
    let refused = site.agent.take_freshness();
    assert!(
        matches!(refused, Err(crate::agent::AgentError::LostImages)),
        "nothing is taken before: {refused:?}"
    );
    assert!(site.config.drop_dir.join("a.csv").exists(), "it is taken later");
}

#[tokio::test]
async fn images_that_are_lost_are_known_where_the_outbox_is_full_too() {
    // Two groups of a register: the second one does not fit into the outbox, the first one's images fail.
    let rows = |first: &str| {
        let others = (1..20_000).map(|number| format!("k{number:05},some value\n"));
        format!("k,v\n{first},x\n{}", others.collect::<String>())
    };
    let mut whole = Site::new("");
    whole.put("a.csv", rows("a"));
    assert!(!whole.look().await);
    let needed = usize::try_from(lock(&whole.agent.outbox()).bytes()).unwrap();
    let mut site = Site::new("");
    site.put("a.csv", rows("full"));
    site.disk.set_room(Some(needed * 9 / 10));
    assert!(!site.look().await);
    assert!(lock(&site.agent.outbox()).next_position() > 0, "the first group is in the outbox");
    assert!(site.agent.has_lost_its_images());
}

#[tokio::test]
async fn each_file_is_settled_by_itself() {
    let mut site = Site::new("[format]\noperation_column = \"op\"\n");
    site.put("1.csv", "k,v\n1,a\n2,b");
    site.put("2.csv", "\x1f\u{8b}");
    site.put("3.xlsx", b"PK\x03\x04xl/");
    site.put("4.csv", "k,w\n1,a\n");
    site.put("5.csv", "op,k,v\nu,1,\"c\nu,2,d\n");
    site.put("6.csv", "");
    site.put("7.csv", "op,k,v\nu,1,c\n");
    assert!(!site.look().await);
    assert!(site.report("taken", "1.csv").contains("\"create\": 2"));
    for (name, words) in [
        ("3.xlsx", "save it as CSV"),
        ("4.csv", "no column for field"),
        ("5.csv", "nothing of it was taken"),
        ("6.csv", "the file is empty"),
    ] {
        assert!(site.report("refused", name).contains(words), "{name}");
    }
    assert!(site.report("taken", "7.csv").contains("\"update\": 1"));
    assert!(site.watch.metrics().render(&crate::metrics::Look::default()).contains("fate=\"refused\"} 5"));
}

#[tokio::test]
async fn change_files_that_lack_one_before_them_wait() {
    let mut site = Site::new("[format]\noperation_column = \"op\"\n[guard]\nmax_change_percent = 100\n");
    site.put("full.csv", "k,v\n1,0\n");
    site.put("c-8.csv", "op,k,v\nu,1,8\n");
    site.put("c-10.csv", "op,k,v\nu,1,10\n");
    assert!(!site.look().await);
    site.put("c-9.csv", "op,k,v\nu,1,9\n");
    for _ in 0..3 {
        assert!(!site.look().await);
    }
    assert!(site.report("taken", "c-10.csv").contains("\"update\": 1"));
    site.put("c-9.csv", "op,k,v\nu,1,again\n");
    assert!(!site.look().await);
    assert!(site.report("held", "c-9.csv").contains("c-10.csv was taken already"));
}
