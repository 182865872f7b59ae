//! The chart: what it renders for three sets of values, judged strictly, and what it refuses.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use consumer_agent::config::ConsumerConfig;
use parts::chart::Judges;
use producer_agent::config::ProducerConfig;
use router::config::RouterConfig;
use router::declarations::Declared;
use serde_json::Value;

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/dit")
}

/// The output of the judges, or their reason to refuse.
fn judge(mode: &str, arguments: &[&Path]) -> Result<Value, String> {
    let program = chart().join("tests/judge.py");
    let mut all = vec![mode];
    all.extend(arguments.iter().map(|path| path.to_str().unwrap()));
    let said = Judges::ready().unwrap().run(&program, &all).unwrap();
    match said.status.success() {
        true => Ok(serde_json::from_slice(&said.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&said.stderr).into_owned()),
    }
}

fn rendered(values: &str) -> Value {
    let values = chart().join(format!("tests/values/{values}.yaml"));
    judge("render", &[&chart(), &values]).unwrap_or_else(|refused| panic!("{}: {refused}", values.display()))
}

fn documents(values: &str) -> Vec<Value> {
    rendered(values)["documents"].as_array().unwrap().clone()
}

/// The texts of all config maps by their key.
fn texts(values: &str) -> BTreeMap<String, String> {
    let maps = documents(values).into_iter().filter(|document| document["kind"] == "ConfigMap");
    let text = |(key, value): (String, Value)| (key, value.as_str().unwrap().to_owned());
    maps.flat_map(|map| map["data"].as_object().unwrap().clone()).map(text).collect()
}

/// `DIT_WRITE_LISTS=1` writes the renderings anew.
#[test]
fn three_sets_of_values_render_as_they_did_and_pass_the_strict_judges() {
    for name in ["minimal", "production", "agents"] {
        let found = rendered(name)["text"].as_str().unwrap().to_owned();
        let golden = chart().join(format!("tests/golden/{name}.yaml"));
        if std::env::var_os("DIT_WRITE_LISTS").is_some() {
            std::fs::write(&golden, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert!(found == expected, "{}: look at it, and write it with DIT_WRITE_LISTS=1", golden.display());
    }
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    let mut count = 0;
    for entry in std::fs::read_dir(chart().join("tests/wrong")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let words = text.lines().next().unwrap().strip_prefix("# refused: ").unwrap();
        let refused = judge("render", &[&chart(), &path]).unwrap_err();
        assert!(refused.starts_with("refused: ") && refused.contains(words), "{}: {refused}", path.display());
        count += 1;
    }
    assert!(count >= 10);
}

/// A judge that accepts everything would prove nothing.
#[test]
fn the_judges_see_what_a_typing_error_does() {
    let dir = tempfile::tempdir().unwrap();
    let text = rendered("production")["text"].as_str().unwrap().to_owned();
    let manifests = dir.path().join("m.yaml");
    let planted = [
        ("  replicas: 3", "  replicas: \"three\"", "replicas"),
        ("readOnlyRootFilesystem: true", "readonlyRootFilesystem: true", "readonlyRootFilesystem"),
        ("port: observe\n      interval", "prt: observe\n      interval", "prt"),
        ("  maxUnavailable: 1", "  maxUnavailble: 1", "maxUnavailble"),
        ("for: 10m", "fur: 10m", "fur"),
    ];
    for (right, wrong, place) in planted {
        assert!(text.contains(right), "{right}");
        std::fs::write(&manifests, text.replacen(right, wrong, 1)).unwrap();
        let refused = judge("check", &[&manifests]).unwrap_err();
        assert!(refused.contains(place), "{wrong}: {refused}");
    }
    std::fs::write(&manifests, text).unwrap();
    assert!(judge("check", &[&manifests]).is_ok());
}

#[test]
fn the_dashboards_are_what_grafana_takes() {
    let dir = tempfile::tempdir().unwrap();
    let planted = [
        ("\"h\": 4", "\"h\": \"4\"", "gridPos/h"),
        ("\"schemaVersion\"", "\"schemaVersoin\"", "schemaVersion"),
        ("\"description\"", "\"desciption\"", "desciption"),
        ("\"type\": \"datasource\"", "\"type\": \"data\"", "templating/list/0/type"),
    ];
    for name in ["network-overview", "agreement-participant"] {
        let path = chart().join(format!("dashboards/{name}.json"));
        judge("dashboard", &[&path]).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        let text = std::fs::read_to_string(&path).unwrap();
        for (right, wrong, place) in planted {
            assert!(text.contains(right), "{name}: {right}");
            let path = dir.path().join("planted.json");
            std::fs::write(&path, text.replacen(right, wrong, 1)).unwrap();
            let refused = judge("dashboard", &[&path]).expect_err(wrong);
            assert!(refused.contains(place), "{wrong}: {refused}");
        }
    }
}

#[test]
fn the_programs_take_their_configuration() {
    let dir = tempfile::tempdir().unwrap();
    for values in ["minimal", "production", "agents"] {
        for (name, text) in texts(values) {
            let path = dir.path().join(&name);
            std::fs::write(&path, text).unwrap();
            match name.as_str() {
                "router.toml" => drop(RouterConfig::read(&path).unwrap().log(&path).unwrap()),
                "producer.toml" => ProducerConfig::read(&path).unwrap().format.check().unwrap(),
                "consumer.toml" => drop(ConsumerConfig::read(&path).unwrap()),
                _ => {}
            }
        }
    }
    let production = RouterConfig::read(&{
        let path = dir.path().join("router.toml");
        std::fs::write(&path, &texts("production")["router.toml"]).unwrap();
        path
    });
    let kafka = production.unwrap().kafka.unwrap();
    let security = kafka.security.unwrap();
    assert_eq!((kafka.prefix.as_str(), kafka.replication), ("prod.", 3));
    assert_eq!(security.sasl.unwrap().password_file, Path::new("/etc/dit/kafka-sasl/password"));
    assert!(security.certificate.is_some());
}

/// The keys of a table of `producer.toml`, and the words that a key may have where these are few.
fn documented(table: &str) -> BTreeMap<String, BTreeSet<String>> {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md")).unwrap();
    let producer = page.split("\n## ").find(|part| part.starts_with("producer.toml")).unwrap().to_owned();
    let heading = format!("`[{table}]`");
    let part = producer.split("\n### ").find(|part| part.starts_with(&heading)).unwrap();
    let rows = part.lines().filter(|line| line.starts_with("| `"));
    let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    rows.map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let key = cells[0].trim_matches(['|', ' ', '`']).to_owned();
        let is_choice = cells[1].starts_with('`') && !cells[1].contains("true");
        (key, if is_choice { words(cells[1]) } else { BTreeSet::new() })
    })
    .collect()
}

#[test]
fn the_values_have_every_key_of_a_producers_tables() {
    let schema = std::fs::read_to_string(chart().join("values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    for table in ["drop", "format", "guard"] {
        let keys = &schema["properties"]["producers"]["items"]["properties"][table]["properties"];
        let choice = |key: &Value| {
            let words = key["enum"].as_array().map(Vec::as_slice).unwrap_or_default();
            words.iter().map(|word| word.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
        };
        let keys = keys.as_object().unwrap().iter().map(|(name, key)| (name.clone(), choice(key)));
        assert_eq!(keys.collect::<BTreeMap<_, _>>(), documented(table), "[{table}]");
    }
}

/// kubelet fills the folder of a config map with links; the router reads it all the same.
#[test]
fn declared_files_are_found_in_a_folder_as_kubelet_makes_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("..2026");
    let mounted = dir.path();
    std::fs::create_dir_all(data.join("channels")).unwrap();
    let map = documents("production")
        .into_iter()
        .find(|document| document["metadata"]["name"] == "demo-dit-declared");
    let texts = map.unwrap()["data"].as_object().unwrap().clone();
    let set = documents("production").into_iter().find(|document| document["kind"] == "StatefulSet").unwrap();
    let volumes = set["spec"]["template"]["spec"]["volumes"].as_array().unwrap().clone();
    let volume = volumes.iter().find(|volume| volume["name"] == "declared").unwrap();
    for item in volume["configMap"]["items"].as_array().unwrap() {
        let text = texts[item["key"].as_str().unwrap()].as_str().unwrap();
        // The golden values declare a channel by its name only; the test checks only that its file is found.
        std::fs::write(data.join(item["path"].as_str().unwrap()), text).unwrap();
    }
    std::os::unix::fs::symlink("..2026", mounted.join("..data")).unwrap();
    for name in ["participants.toml", "channels"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), mounted.join(name)).unwrap();
    }
    let refused = Declared::read(mounted).unwrap_err().to_string();
    assert!(refused.contains("channels/places.json"), "{refused}");
    std::fs::remove_file(data.join("channels/places.json")).unwrap();
    let participants = Declared::read(mounted).unwrap().participants;
    assert_eq!(participants[0].name, "Land registry \"main\"");
}

/// No manifest holds a secret; every pod is held to the restricted profile; all have probes and a limit.
#[test]
fn every_pod_is_restricted_and_watched() {
    for values in ["minimal", "production", "agents"] {
        let all = documents(values);
        assert!(all.iter().all(|document| document["kind"] != "Secret"));
        let sets: Vec<_> = all.iter().filter(|document| document["kind"] == "StatefulSet").collect();
        assert!(!sets.is_empty());
        for set in sets {
            let pod = &set["spec"]["template"]["spec"];
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            assert_eq!(pod["automountServiceAccountToken"], false);
            let container = &pod["containers"][0];
            assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
            assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                assert_eq!(container[probe]["httpGet"]["port"], "observe", "{probe}");
            }
            assert!(container["resources"]["limits"]["memory"].is_string());
        }
    }
}
