//! The main job, end to end, by the command that a user types.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::real_data;

fn dit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dit")).args(arguments).output().unwrap()
}

fn result(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last)
        .unwrap_or_else(|e| panic!("{e}: {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

fn counts(result: &serde_json::Value) -> Vec<[u64; 4]> {
    let number = |version: &serde_json::Value, name: &str| version[name].as_u64().unwrap();
    let versions = result["versions"].as_array().unwrap();
    versions.iter().map(|v| ["create", "update", "delete", "parked"].map(|name| number(v, name))).collect()
}

fn delivered(result: &serde_json::Value, reason: &str) -> u64 {
    let replicas = result["replicas"].as_array().unwrap();
    replicas.iter().map(|replica| replica["delivered"][reason].as_u64().unwrap()).sum()
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_demo_ends_verified() {
    let output = dit(&["demo", "--output", "json"]);
    let result = result(&output);
    assert!(output.status.success() && result["equal"] == true);
    assert!(delivered(&result, "left") > 100, "the merger moves companies");
    assert_eq!(result["revoked"]["holds"], true);
    assert!(result["revoked"]["withheld"].as_u64().unwrap() > 0, "the log went on after the revocation");
    assert_eq!(result["latency"]["samples"], 25);
    assert!(result["seconds"].as_f64().unwrap() < 60.0, "{result}");
    let replicas = result["replicas"].as_array().unwrap();
    let of = |who: &str| replicas.iter().find(|replica| replica["participant"] == who).unwrap();
    assert_eq!(of("tax-office")["trimmed"], serde_json::json!(["address", "phone"]));
    assert_eq!(of("ikskile")["rows"], 0, "the municipality that was merged holds nothing");
    assert!(of("riga")["delivered"]["present"].as_u64().unwrap() > 1_000, "the late joiner got the state");
    assert_eq!(of("consumer-rights")["channel"], "trading-places");
}

#[test]
fn each_planted_fault_is_caught() {
    for fault in ["drop", "leak", "missed-leave", "repeat"] {
        let output = dit(&["demo", "--fault", fault, "--output", "json"]);
        assert_eq!(output.status.code(), Some(1), "{fault}");
        let result = result(&output);
        assert_eq!(result["equal"], false, "{fault}");
        let wrong = result["replicas"].as_array().unwrap().iter().filter(|r| r["equal"] == false).count();
        assert_eq!(wrong, 1, "{fault} strikes one replica");
    }
}

#[test]
fn any_script_any_column_and_awkward_cells_survive() {
    let dir = tempfile::tempdir().unwrap();
    let first = write(
        dir.path(),
        "a.csv",
        "№,имя,территория,\"a, b\",_u20_\n1,Ян,Рига,\"x\"\"y\",\n2,Ия,Рига,\"l1\nl2\",z\n3,Че,,q,\n",
    );
    let second =
        write(dir.path(), "b.csv", "№,имя,территория,\"a, b\",_u20_\n1,Ян,,\"x\"\"y\",\n3,Че,Рига,q,\n");
    let keep = dir.path().join("keep");
    let output = dit(&[
        "demo",
        "--register",
        &first,
        "--then",
        &second,
        "--key",
        "№",
        "--territory",
        "территория",
        "--keep",
        keep.to_str().unwrap(),
        "--output",
        "json",
    ]);
    let result = result(&output);
    assert_eq!(result["equal"], true);
    let late = std::fs::read_to_string(keep.join("replica/late-joiner/register.ndjson")).unwrap();
    let rows: Vec<serde_json::Value> = late.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0]["a, b"], "x\"y");
    assert_eq!(rows.len(), 2);
}

#[test]
fn a_header_that_changes_amends_the_agreements() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        write(dir.path(), "a.csv", "Code,Name,Town\n1,a,R\n2,b,J\n3,c,R\n"),
        write(dir.path(), "b.csv", "code,Town,Name,Size\n1,R,a,\n2,R,b,9\n3,R,c,\n"),
        write(dir.path(), "c.csv", "code,Town,Size\n1,J,\n2,R,9\n3,R,\n"),
    ];
    let output = dit(&[
        "demo",
        "--register",
        &files[0],
        "--then",
        &files[1],
        &files[2],
        "--key",
        "Code",
        "--territory",
        "Town",
        "--output",
        "json",
    ]);
    let result = result(&output);
    assert_eq!(result["equal"], true, "{result}");
    assert_eq!(counts(&result)[1], [0, 1, 0, 0], "a respelt column changes no row, an empty new one neither");
}

#[test]
fn rows_that_cannot_be_taken_are_parked_and_never_count_as_absent() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        write(dir.path(), "a.csv", "k,t\n1,R\n2,R\n3,R\n"),
        write(dir.path(), "b.csv", "k,t\n1,R\n2,J\n2,K\n3,J\n"),
        write(dir.path(), "c.csv", "k,t\n1,R\n,J\n"),
    ];
    let output = dit(&[
        "demo",
        "--register",
        &files[0],
        "--then",
        &files[1],
        &files[2],
        "--key",
        "k",
        "--territory",
        "t",
        "--output",
        "json",
    ]);
    let result = result(&output);
    assert_eq!(result["equal"], true, "{result}");
    assert_eq!(counts(&result), [[3, 0, 0, 0], [0, 1, 0, 2], [0, 0, 0, 1]]);
}

#[test]
fn encoding_delimiter_guard_and_faults_work_on_ones_own_register() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    // "Rīga" and "Cēsis" in windows-1257.
    let rows = |count: u8| {
        let mut bytes = b"k;t\n".to_vec();
        for number in 0..count {
            bytes.extend_from_slice(format!("{number};").as_bytes());
            bytes.extend_from_slice(if number % 2 == 0 { b"R\xeega\n" } else { b"C\xe7sis\n" });
        }
        bytes
    };
    std::fs::write(path("a.csv"), rows(40)).unwrap();
    std::fs::write(path("b.csv"), rows(20)).unwrap();
    let first = path("a.csv");
    let second = path("b.csv");
    let mut arguments =
        vec!["demo", "--register", &first, "--then", &second, "--key", "k", "--territory", "t"];
    arguments.extend(["--delimiter", ";", "--encoding", "windows-1257", "--guard", "--output", "json"]);
    let held = result(&dit(&arguments));
    assert_eq!((&held["equal"], &held["versions"][1]["taken"]), (&true.into(), &false.into()), "{held}");
    assert_eq!(held["replicas"][0]["territory"], "Cēsis");
    assert_eq!(held["replicas"][2]["rows"], 40, "half of the register is not deleted by accident");
    arguments.retain(|argument| *argument != "--guard");
    arguments.extend(["--fault", "leak"]);
    let leaking = dit(&arguments);
    assert_eq!((leaking.status.code(), &result(&leaking)["equal"]), (Some(1), &false.into()));
}

#[test]
fn a_file_is_enough_and_what_is_guessed_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let rows = |of_one: &str| -> String {
        let other =
            (0..40).map(|n| format!("4000{n};Uzņēmums {n};{}\n", if n % 2 == 0 { "Ogre" } else { "Rīga" }));
        format!("Reģ. nr.;Nosaukums;Novads\n{}39;Čiekurs;{of_one}\n", other.collect::<String>())
    };
    let files = [("a.csv", rows("Ogre")), ("b.csv", rows("Rīga"))].map(|(name, text)| {
        let (bytes, ..) = encoding_rs::WINDOWS_1257.encode(&text);
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let output = dit(&["demo", &files[0], &files[1]]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    for words in [
        "separated by ';' (--delimiter)",
        "in windows-1257 (--encoding)",
        "\"Reģ. nr.\" tells rows apart (--key)",
        "column \"Novads\" is the territory of a row, 2 in all (--territory)",
        "39 left Ogre for Rīga: Ogre got a delete, which does not say where the row went; Rīga got the whole row.",
        "20 rows; 0 from the state, 0 entered, 1 left",
        "VERIFIED",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    // Options that are given are not guessed, and the command asks for those that it cannot guess.
    let output = dit(&["demo", &files[0], "--key", "Nosaukums", "--territories", "Ogre"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("VERIFIED") && !told.contains("--key"), "{told}");
    let output = dit(&["demo", &write(dir.path(), "c.csv", "id,note\n1,a\n2,b\n3,c\n")]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("give --territory with one of \"id\", \"note\""), "{told}");
}

#[test]
fn a_providers_first_files_are_proposed_from_one_of_its_registers() {
    let dir = tempfile::tempdir().unwrap();
    let register = write(dir.path(), "r.csv", "code;opened;amount\n0012;14.05.2019;1 234,56\n0013;;7,5\n");
    let typed = |words: &[&str]| support::site::typed(env!("CARGO_BIN_EXE_dit"), dir.path(), words).unwrap();
    typed(&["pki", "--agent", "4000/main", "--operator", "anna", "--domain", "gov.test"]);
    let proposed = |identity: &str| {
        let asked =
            ["producer", "init", "--from", &register, "--channel", "fees", "--router", "https://r:9443"];
        typed(&[&asked[..], &["--identity", identity, "--out", "first"]].concat())
    };
    let (code, said) = proposed("pki/operator-anna.pem");
    assert!(code == Some(2) && said.contains("does not name an agent of a participant"), "{said}");
    let (code, said) = proposed("pki/4000-main.pem");
    assert_eq!(code, Some(0), "{said}");
    for words in [
        "\"opened\": a date, or nothing",
        "\"amount\": a decimal of 18 digits, 2 behind the point",
        "\"code\": text",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let configuration = std::fs::read_to_string(dir.path().join("first/producer.toml")).unwrap();
    for words in [
        "domain = \"gov.test\"",
        "delimiter = \";\"",
        "date_format = \"%d.%m.%Y\"",
        "decimal_separator = \",\"",
    ] {
        assert!(configuration.contains(words), "{words}: {configuration}");
    }
    let (code, said) = typed(&["check", "first/producer.toml", "first/fees.avsc", "first/fees.channel.json"]);
    assert_eq!(code, Some(0), "{said}");
    let declared: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("first/fees.channel.json")).unwrap()).unwrap();
    assert_eq!((&declared["owner"], &declared["key"]["fields"][0]), (&"4000".into(), &"code".into()));
    let (code, said) = proposed("pki/4000-main.pem");
    assert!(code == Some(2) && said.contains("is there already; nothing was written"), "{said}");
}

#[test]
fn wrong_options_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "a.csv", "k,t\n1,R\n");
    let says = |arguments: &[&str], words: &str| {
        let output = dit(arguments);
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(words), "{text}");
    };
    says(
        &["demo", "--register", &file, "--key", "x", "--territory", "t"],
        "there is no column \"x\"; it has \"k\", \"t\"",
    );
    says(
        &["demo", "--register", &file, "--key", "k", "--territory", "T "],
        "\"t\" differs in capital letters",
    );
    says(
        &["demo", "--register", &file, "--key", "k", "--territory", "t", "--territories", "R,Q"],
        "no version has a row of territory \"Q\"; there are \"R\"",
    );
    let semicolons = write(dir.path(), "b.csv", "k;t\n1;R\n");
    says(&["demo", "--register", &semicolons, "--key", "k", "--territory", "t"], "try --delimiter ';'");
    says(&["demo", "--register", &file], "--key");
    says(&["demo", "--register", "/nowhere.csv", "--key", "k", "--territory", "t"], "/nowhere.csv");
    says(
        &["demo", "--register", &file, "--key", "k", "--territory", "t", "--delimiter", "ab"],
        "one ASCII character",
    );
}

/// Done when, 2: the Latvian territorial reform of 2021 as it was.
#[test]
fn the_territorial_reform_moves_every_place_to_its_new_municipality() {
    let Some(dir) = real_data::folder("the territorial reform", "lv-places") else { return };
    let files: Vec<PathBuf> = ["2019-09-17", "2020-10-23", "2021-06-24", "2024-04-12"]
        .iter()
        .map(|day| dir.join(format!("LV.{day}.tsv")))
        .collect();
    let codes = real_data::territories(&files);
    assert_eq!(codes.len(), 121);
    let names: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let codes = codes.join(",");
    let output = dit(&[
        "demo",
        "--register",
        names[0],
        "--then",
        names[1],
        names[2],
        names[3],
        "--header",
        real_data::LV_HEADER,
        "--key",
        "postal_code,place,parish",
        "--territory",
        "admin1_code",
        "--territories",
        &codes,
        "--output",
        "json",
    ]);
    let result = result(&output);
    assert_eq!(result["equal"], true);
    assert_eq!(counts(&result), [[5973, 0, 0, 4], [124, 2269, 0, 4], [0, 0, 0, 4], [0, 2847, 0, 4]]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("parked line ").count(), 16, "each of the four rows is named, each time");
    assert_eq!((delivered(&result, "left"), delivered(&result, "entered")), (2847, 2847));
    let replicas = result["replicas"].as_array().unwrap();
    assert_eq!(replicas.iter().filter(|r| r["rows"] == 0).count(), 78);
    assert_eq!(replicas.last().unwrap()["rows"], 6097);
}

/// Part of done when, 3: every dump of the .gov register, through both of its headers' changes.
#[test]
fn five_years_of_a_domain_register_end_equal() {
    let Some(dir) = real_data::folder("five years of a domain register", "us-dotgov") else { return };
    let unpacked = tempfile::tempdir().unwrap();
    real_data::unpack(&dir.join("snapshots.tar.zst"), unpacked.path()).unwrap();
    let files = real_data::files_in(&unpacked.path().join("snapshots")).unwrap();
    assert_eq!(files.len(), 111);
    let names: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let mut arguments = vec!["demo", "--register", names[0], "--then"];
    arguments.extend(&names[1..]);
    arguments.extend(["--key", "Domain Name", "--key-normalise", "lowercase", "--territory", "State"]);
    arguments.extend(["--territories", "CA,TX,NY", "--output", "json"]);
    let result = result(&dit(&arguments));
    assert_eq!(result["equal"], true);
    assert_eq!(result["replicas"].as_array().unwrap().len(), 4);
}
