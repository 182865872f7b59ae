//! Done when 5 of nothing lost: a replica whose rows were altered by hand is found and repaired, and little more than
//! the wrong rows is moved.
//!
//! Real processes, a table in a real PostgreSQL and files; changes flow while the replica is compared.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use parts::postgres::Postgres;
use support::site::{Process, Site, eventually};
use support::watcher::get;
use tokio_postgres::NoTls;

mod daily_site;

const ROWS: u64 = 12_000;

/// The register's schema: types whose values a table spells in several ways.
const SCHEMA: &str = r#"{"type":"record","name":"test.Row","fields":[
    {"name":"k","type":"string"},{"name":"t","type":"string"},{"name":"v","type":"string"},
    {"name":"n","type":["null","long"],"default":null},{"name":"x","type":"double"},
    {"name":"day","type":{"type":"int","logicalType":"date"}}]}"#;

fn site(dir: &std::path::Path, postgres: &str) -> Site {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let channel = serde_json::json!({"name": "register", "kind": "distribution", "owner": "4000", "partitions": 3,
        "key": {"fields": ["k"]}, "schema": schema});
    let fields = serde_json::json!({"k": "keep", "v": "keep", "n": "keep", "x": "keep", "day": "keep"});
    let agreement = serde_json::json!({"number": "A-1", "version": 1, "provider": "4000", "consumer": "9000",
        "channel": "register", "purpose": "test", "legal_basis": "test", "valid_from": "2020-01-01T00:00:00Z",
        "history": "full", "schema_version": 1, "rows": "t == \"R\"", "fields": fields});
    let declared = [("channels/register.json", channel), ("agreements/a-1.json", agreement)];
    let site = Site::new(dir, env!("CARGO_BIN_EXE_dit"), &declared).unwrap();
    site.participants(&["4000", "9000"]).unwrap();
    let guard = "[guard]\nmax_delete_percent = 100\nmax_change_percent = 100\n";
    site.producer("4000/main", "register", SCHEMA, guard).unwrap();
    site.consumer("9000/main", "A-1", "register").unwrap();
    compare_often(&site, &format!("\n[agreement.postgres]\nurl = \"{postgres}\"\nschema = \"public\"\n"));
    site
}

fn compare_often(site: &Site, more: &str) {
    let path = site.path("consumer.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, format!("reconcile_every = \"2s\"\n{text}{more}")).unwrap();
}

/// The register on a day: its file, and the part that the agreement gives, by key.
fn register(day: u64) -> (String, BTreeMap<String, String>) {
    let mut text = "k,t,v,n,x,day\n".to_owned();
    let mut part = BTreeMap::new();
    for row in 0..ROWS {
        let territory = if row % 3 == 0 { "J" } else { "R" };
        let value = format!("row {row} as it was on day {}", if row % 97 == 0 { day } else { 0 });
        let n = if row % 5 == 0 { String::new() } else { (row * 7).to_string() };
        writeln!(text, "{row},{territory},{value},{n},{}.5,2026-01-{:02}", row % 10, row % 28 + 1).unwrap();
        if territory == "R" {
            part.insert(row.to_string(), value);
        }
    }
    (text, part)
}

fn metric(site: &Site, name: &str) -> f64 {
    let url = format!("http://{}/metrics", site.observed("consumer").unwrap());
    let text = get(&url, &[]).map(|(_, text)| text).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).unwrap_or_default();
    line.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}

struct Table(tokio_postgres::Client, tokio::runtime::Runtime);

impl Table {
    fn connect(url: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls)).unwrap();
        runtime.spawn(connection);
        Self(client, runtime)
    }

    fn rows(&self) -> BTreeMap<String, String> {
        let rows = self.1.block_on(self.0.query("SELECT k, v FROM register WHERE x IS NOT NULL", &[]));
        // The table may not exist yet.
        rows.unwrap_or_default().iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    fn alter(&self, statement: &str) -> u64 {
        self.1.block_on(self.0.execute(statement, &[])).unwrap()
    }
}

/// A network whose replica in a table has a day's register.
fn whole(dir: &std::path::Path) -> (Site, Vec<Process>, Table, BTreeMap<String, String>) {
    let url = Postgres::shared().unwrap();
    let site = site(dir, &url);
    let parts = ["router", "producer", "consumer"];
    let running = parts.iter().map(|part| daily_site::start(&site, part)).collect();
    let (text, part) = register(0);
    site.drop_file("0.csv", &text).unwrap();
    let table = Table::connect(&url);
    eventually("the replica is whole", || Ok(table.rows() == part))
        .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", site.log("router"), site.log("consumer")));
    (site, running, table, part)
}

#[test]
fn a_table_with_one_row_in_a_hundred_altered_is_repaired_without_a_full_download() {
    let dir = tempfile::tempdir().unwrap();
    let (site, _running, table, _) = whole(dir.path());
    let logs = || format!("{}\n{}", site.log("router"), site.log("consumer"));
    let equal = || Ok(metric(&site, "dit_consumer_replica_equal") >= 1.0);
    eventually("it was compared and found equal", equal).unwrap_or_else(|e| panic!("{e:#}\n{}", logs()));
    assert!(metric(&site, "dit_consumer_repaired_rows_total") < 0.5, "nothing was wrong\n{}", logs());

    // Changes flow meanwhile.
    let (text, part) = register(1);
    site.drop_file("1.csv", &text).unwrap();
    let before = metric(&site, "dit_consumer_reconcile_bytes_total");
    let altered = table.alter("UPDATE register SET v = v || ' ' WHERE k::int % 300 = 1")
        + table.alter("UPDATE register SET x = x + 0.25 WHERE k::int % 300 = 31")
        + table.alter("DELETE FROM register WHERE k::int % 600 = 61")
        + table.alter("INSERT INTO register SELECT k || '-stray', dit_generation, k, v, n, x, day FROM register WHERE k::int % 600 = 91");
    assert!(altered * 100 >= u64::try_from(part.len()).unwrap() && altered < 200, "{altered}");
    let repaired = || Ok(table.rows() == part && metric(&site, "dit_consumer_repaired_rows_total") > 0.5);
    eventually("the replica is repaired", repaired).unwrap_or_else(|e| panic!("{e:#}\n{}", logs()));
    let doubled = "SELECT FROM register WHERE x::numeric % 1 <> 0.5 OR dit_key <> k";
    assert_eq!(table.1.block_on(table.0.query(doubled, &[])).unwrap().len(), 0);
    let snapshots = site.log("consumer").matches("received anew").count();
    assert_eq!(snapshots, 0, "it was no snapshot\n{}", logs());
    let wrong = metric(&site, "dit_consumer_repaired_rows_total");
    let bytes = metric(&site, "dit_consumer_reconcile_bytes_total") - before;
    // Less than a snapshot moves: only a row's values, without frames.
    let whole: usize = part.iter().map(|(key, value)| 2 * key.len() + value.len() + 20).sum();
    let share = bytes / f64::from(u32::try_from(whole).unwrap());
    println!(
        "{} rows, {altered} altered: {wrong} repaired, {bytes} bytes moved of {whole}: {share:.3}",
        part.len()
    );
    assert!(share < 0.2, "{share}");
}

#[test]
fn a_file_that_was_altered_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let site = daily_site::site(dir.path());
    compare_often(&site, "");
    let (site, _running) = daily_site::settled(site);
    let file = site.path("consumer/A-1/register.ndjson");
    let right = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, right.replacen(r#""v":""#, r#""v":"9"#, 1)).unwrap();
    let repaired = || Ok(std::fs::read_to_string(&file)? == right);
    eventually("the file is what it was", repaired)
        .unwrap_or_else(|e| panic!("{e:#}\n{}", site.log("consumer")));
    daily_site::take_day(&site, 1);
}

#[test]
fn a_replica_that_cannot_be_repaired_breaks_its_promise_and_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let (site, _running, table, part) = whole(dir.path());
    let logs = || format!("{}\n{}", site.log("router"), site.log("consumer"));
    let ready = || get(&format!("http://{}/readyz", site.observed("consumer").unwrap()), &[]).unwrap();
    assert_eq!(ready().0, 200);

    // A trigger of the site's own alters whatever is written to these rows.
    let spoil = "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.k::int % 600 = 1 THEN NEW.v := NEW.v || '!'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER spoil BEFORE INSERT OR UPDATE ON register FOR EACH ROW EXECUTE FUNCTION spoil();
        UPDATE register SET v = v WHERE k::int % 600 = 1";
    table.1.block_on(table.0.batch_execute(spoil)).unwrap();
    let broken = "dit_promises_broken_total{promise=\"replica-equation\"}";
    let told = || Ok(site.log("consumer").contains("also after it was repaired") && ready().0 == 503);
    eventually("it says that it cannot be repaired", told).unwrap_or_else(|e| panic!("{e:#}\n{}", logs()));
    assert!(ready().1.contains("replica-equation"), "{}", ready().1);
    let metrics = get(&format!("http://{}/metrics", site.observed("consumer").unwrap()), &[]).unwrap().1;
    let count = metrics.lines().find_map(|line| line.strip_prefix(broken)).unwrap().trim().to_owned();
    assert_ne!(count, "0");
    assert!(metric(&site, "dit_consumer_replica_equal") < 0.5);

    table.1.block_on(table.0.batch_execute("DROP TRIGGER spoil ON register")).unwrap();
    let repaired = || Ok(table.rows() == part && metric(&site, "dit_consumer_replica_equal") > 0.5);
    eventually("it is repaired", repaired).unwrap_or_else(|e| panic!("{e:#}\n{}", logs()));
}

#[test]
fn a_person_asks_for_a_comparison_and_a_running_agent_takes_up_a_new_agreement() {
    let dir = tempfile::tempdir().unwrap();
    let site = daily_site::site(dir.path());
    let dit = |words: &[&str]| support::site::typed(env!("CARGO_BIN_EXE_dit"), dir.path(), words).unwrap();
    let compare = || dit(&["consumer", "reconcile", "--config", "consumer.toml"]);
    let (code, said) = compare();
    assert!(code == Some(2) && said.contains("is the agent running?"), "{said}");
    let (site, mut running) = daily_site::settled(site);
    let rows = daily_site::replica(&site).len();
    assert_eq!(compare(), (Some(0), format!("A-1: equal to its part of the register ({rows} rows)\n")));
    let (code, said) = dit(&["consumer", "reconcile", "--config", "consumer.toml", "--agreement", "A-9"]);
    assert!(code == Some(2) && said.contains("has no such agreement"), "{said}");

    // A second agreement is made, and its lines are added to the file of the agent that runs.
    let second = serde_json::json!({"number": "A-2", "version": 1, "provider": "4000", "consumer": "9000",
        "channel": "register", "purpose": "test", "legal_basis": "test", "valid_from": "2020-01-01T00:00:00Z",
        "history": "full", "schema_version": 1, "rows": "t == \"J\"", "fields": {"k": "keep", "v": "keep"}});
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let put = site.operator().unwrap().put("/v1/agreements").json(&second);
    runtime.block_on(platform::client::send(put)).unwrap();
    let router = site.agents();
    let (code, said) = dit(&[
        "consumer",
        "init",
        "--router",
        &router,
        "--identity",
        "pki/9000-main.pem",
        "--out",
        "consumer.toml",
    ]);
    assert!(code == Some(0) && said.contains("added 1 agreement(s); it had 1 before"), "{said}");
    let second = site.path("consumer/A-2/register.ndjson");
    eventually("it is received", || Ok(!daily_site::rows_of(&second).is_empty()))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", site.log("consumer")));
    assert!(site.log("consumer").contains("begins to receive it"), "{}", site.log("consumer"));
    // An agreement that cannot be compared does not keep the others from it.
    let three = std::fs::read_to_string(site.path("consumer.toml")).unwrap();
    let three = format!("{three}\n[[agreement]]\nnumber = \"A-0\"\nchannel = \"register\"\n");
    std::fs::write(site.path("three.toml"), three).unwrap();
    let (code, said) = dit(&["consumer", "reconcile", "--config", "three.toml"]);
    assert_eq!((code, said.matches("equal to its part of the register").count()), (Some(1), 2), "{said}");
    assert!(said.contains("A-0: consumer/A-0.status.json: no status yet; is the agent running?"), "{said}");
    // A file that cannot be read changes nothing.
    std::fs::write(site.path("consumer.toml"), "router = ").unwrap();
    eventually("it is told", || Ok(site.log("consumer").contains("the agent goes on as before"))).unwrap();
    daily_site::take_day(&site, 1);
    assert!(running.get_mut("consumer").unwrap().is_running());
}
