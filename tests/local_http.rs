//! The producer agent's local endpoint: single changes, each answered when it is in the outbox.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::time::Duration;

use serde_json::{Value, json};
use support::site::{Process, Site, eventually, free_address};

const SCHEMA: &str = r#"{"type":"record","name":"test.Row","fields":[
    {"name":"k","type":"string"},{"name":"t","type":"string"},{"name":"n","type":["null","int"]}]}"#;

struct Play {
    site: Site,
    url: String,
    client: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl Play {
    fn new() -> Self {
        platform::identity::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let channel = json!({"name": "register", "kind": "distribution", "owner": "4000", "partitions": 3,
            "key": {"fields": ["k"]}, "schema": schema});
        let agreement = json!({"number": "A-1", "version": 1, "provider": "4000", "consumer": "9000",
            "channel": "register", "purpose": "test", "legal_basis": "test",
            "valid_from": "2020-01-01T00:00:00Z", "history": "full", "schema_version": 1,
            "rows": "t == \"R\"", "fields": {"k": "keep", "n": "keep"}});
        let declared = [("channels/register.json", channel), ("agreements/a-1.json", agreement)];
        let site = Site::new(dir.path(), env!("CARGO_BIN_EXE_dit"), &declared).unwrap();
        site.participants(&["4000", "9000"]).unwrap();
        let listen = free_address().unwrap();
        let http = format!("[http]\nlisten = \"{listen}\"\n");
        site.producer("4000/main", "register", SCHEMA, &http).unwrap();
        site.consumer("9000/main", "A-1", "register").unwrap();
        Self { site, url: format!("http://{listen}/v1"), client: reqwest::Client::new(), _dir: dir }
    }

    fn run(&self, part: &str) -> Process {
        let arguments: &[&str] = match part {
            "router" => &["router", "--config", "router.toml"],
            "producer" => &["producer", "run", "--config", "producer.toml"],
            _ => &["consumer", "run", "--config", "consumer.toml"],
        };
        self.site.start(part, arguments).unwrap()
    }

    /// Posts as soon as the agent listens.
    async fn post(&self, media: &str, body: &Value) -> (u16, Value) {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let request = self.client.post(format!("{}/changes", self.url)).header("content-type", media);
            match request.body(body.to_string()).send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    return (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap());
                }
                Err(error) if error.is_connect() && std::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}: {}", self.site.log("producer")),
            }
        }
    }

    fn rows(&self) -> Vec<String> {
        let path = self.site.path("consumer/A-1/register.ndjson");
        std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn until(&self, expected: &[&str]) {
        eventually("the replica follows", || Ok(self.rows() == expected))
            .unwrap_or_else(|e| panic!("{e:#}: {:?}\n{}", self.rows(), self.site.log("producer")));
    }
}

fn results(answer: &Value) -> Vec<&str> {
    answer["results"].as_array().unwrap().iter().map(|r| r["result"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn single_changes_are_answered_one_by_one_and_survive_a_kill() {
    let play = Play::new();
    let _router = play.run("router");
    let producer = play.run("producer");
    let _consumer = play.run("consumer");
    let row = |k: &str, t: &str, n: Value| json!({"k": k, "t": t, "n": n});
    let items = json!([
        {"op": "c", "row": row("a", "R", json!(1))},
        {"op": "c", "row": row("b", "R", json!("many"))},
        {"op": "u", "row": row("c", "R", Value::Null)},
        {"op": "d", "row": {"k": "zz"}},
        {"op": "c", "row": {"k": "e", "t": "R", "n": 1, "what": 2}},
        {"op": "c", "row": row("a", "R", json!(2))}
    ]);
    let (status, answer) = play.post("application/json", &items).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(results(&answer), ["taken", "refused", "taken", "unchanged", "refused", "taken"], "{answer}");
    assert!(answer["results"][1]["reason"].as_str().unwrap().starts_with("n: "), "{answer}");
    assert!(answer["results"][4]["reason"].as_str().unwrap().contains("no field \"what\""), "{answer}");

    // Answered changes are kept, whatever happens next.
    producer.kill().unwrap();
    let _producer = play.run("producer");
    play.until(&[r#"{"k":"a","n":2}"#, r#"{"k":"c","n":null}"#]);

    let event =
        |data: Value| json!({"specversion": "1.0", "id": "1", "source": "/x", "type": "t", "data": data});
    let moved = event(json!({"op": "u", "row": row("a", "J", json!(2))}));
    let (_, answer) = play.post("application/cloudevents+json", &moved).await;
    assert_eq!(results(&answer), ["taken"]);
    let batch = json!([event(json!({"op": "d", "row": {"k": "c"}})), event(json!({"op": "c", "row": row("f", "R", json!(3))})), {"id": "x"}]);
    let (_, answer) = play.post("application/cloudevents-batch+json", &batch).await;
    assert_eq!(results(&answer), ["taken", "taken", "refused"], "{answer}");
    play.until(&[r#"{"k":"f","n":3}"#]);
    assert_eq!(play.post("text/plain", &json!({})).await.0, 415);
    let fresh = play.client.post(format!("{}/freshness", play.url)).send().await.unwrap();
    assert_eq!(fresh.status(), 204);

    // A page in a browser would send its origin, or address its own host.
    let delete = json!({"op": "d", "row": {"k": "f"}}).to_string();
    for (name, value, expected) in
        [("origin", "https://evil.example", 403), ("origin", "null", 403), ("host", "evil.example", 421)]
    {
        let request =
            play.client.post(format!("{}/changes", play.url)).header("content-type", "application/json");
        let answer = request.header(name, value).body(delete.clone()).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{name}: {value}");
    }
    assert_eq!(play.rows(), [r#"{"k":"f","n":3}"#], "nobody could delete it");
    let body = play.client.post(format!("{}/changes", play.url)).header("content-type", "application/json");
    assert_eq!(body.body("{").send().await.unwrap().status(), 400);
    let nowhere = play.client.get(format!("{}/nothing", play.url)).send().await.unwrap();
    assert_eq!(
        (nowhere.status().as_u16(), nowhere.headers()["content-type"].to_str().unwrap()),
        (404, "application/problem+json")
    );
}

#[test]
fn an_endpoint_that_others_could_reach_is_refused() {
    let play = Play::new();
    let path = play.site.path("producer.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, _) = text.split_once("[http]").unwrap();
    std::fs::write(&path, format!("{before}[http]\nlisten = \"0.0.0.0:9445\"\n")).unwrap();
    let checked =
        std::process::Command::new(env!("CARGO_BIN_EXE_dit")).arg("check").arg(&path).output().unwrap();
    assert!(!checked.status.success());
    assert!(String::from_utf8_lossy(&checked.stderr).contains("is not on the loopback"), "{checked:?}");
    let _router = play.run("router");
    let mut producer = play.run("producer");
    eventually("the agent ends", || Ok(!producer.is_running())).unwrap();
    assert!(play.site.log("producer").contains("is not on the loopback"), "{}", play.site.log("producer"));
}

/// A reopen compares with the last dropped register, but not with one that single changes have made out of date.
#[tokio::test(flavor = "multi_thread")]
async fn a_reopen_turns_no_single_change_back() {
    let play = Play::new();
    let _router = play.run("router");
    let producer = play.run("producer");
    let _consumer = play.run("consumer");
    play.site.drop_file("1.csv", "k,t,n\na,R,1\nb,R,2\n").unwrap();
    play.until(&[r#"{"k":"a","n":1}"#, r#"{"k":"b","n":2}"#]);
    let change = json!({"op": "u", "row": {"k": "a", "t": "R", "n": 9}});
    let (_, answer) = play.post("application/json", &change).await;
    assert_eq!(results(&answer), ["taken"]);
    let single = [r#"{"k":"a","n":9}"#, r#"{"k":"b","n":2}"#];
    play.until(&single);
    producer.kill().unwrap();
    std::fs::remove_dir_all(play.site.path("producer")).unwrap();
    let _producer = play.run("producer");
    eventually("it has reopened", || {
        Ok(play.site.log("producer").contains("no whole register to compare with"))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", play.site.log("producer")));
    // A later change would show a row that was turned back.
    let (_, answer) =
        play.post("application/json", &json!({"op": "c", "row": {"k": "c", "t": "R", "n": 3}})).await;
    assert_eq!(results(&answer), ["taken"]);
    play.until(&[single[0], single[1], r#"{"k":"c","n":3}"#]);
    play.site.drop_file("2.csv", "k,t,n\na,R,9\nb,R,2\nc,R,4\n").unwrap();
    play.until(&[single[0], single[1], r#"{"k":"c","n":4}"#]);
}
