//! Reported situations of moving registers: their own runner plays them as a user would, on a real PostgreSQL.
//!
//! They are stored next to the real registers; where these are absent, the test says that it was left out.
//! `strange_files` has situations of the same kinds with data of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by failing")]

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use parts::postgres::Postgres;
use support::real_data;

/// Cases that are played at once: they wait more than they work.
const AT_ONCE: usize = 4;
/// Seconds that one may take on a slow machine: its own waits take half a minute.
const LIMIT: &str = "240";

/// The first of three free ports in a row.
fn three_ports() -> u16 {
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    loop {
        let first = parts::ports::free(1).unwrap().pop().unwrap();
        if (first..first + 3).all(is_free) {
            return first;
        }
    }
}

/// The runner's output for a case that failed.
fn play(cases: &Path, name: &str, database: &str) -> Option<String> {
    let played = Command::new("timeout")
        .args([LIMIT, "python3"])
        .arg(cases.join("run.py"))
        .args(["-v", name])
        .env("DIT", env!("CARGO_BIN_EXE_dit"))
        .env("DIT_POSTGRES", database)
        .env("DIT_CASE_PORT", three_ports().to_string())
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&played.stdout).into_owned() + &String::from_utf8_lossy(&played.stderr);
    let is_ok = played.status.success() && said.lines().any(|line| line == format!("ok  {name}"));
    (!is_ok).then(|| format!("{name}:\n{said}"))
}

/// How many times as long the last wait of a case with a large register is, for an unoptimised build.
const PATIENCE: f64 = 2.0;

/// A copy of a case with a large register, with a longer last wait; `None` for any other case. The steps before that
/// wait, and the expected end, are the case's own.
fn patient(cases: &Path, name: &str) -> Option<tempfile::TempDir> {
    let text = std::fs::read_to_string(cases.join(name).join("case.json")).unwrap();
    let mut case: serde_json::Value = serde_json::from_str(&text).unwrap();
    let steps = case.get_mut("steps")?.as_array_mut().unwrap();
    if !steps.iter().any(|step| step.get("generate").is_some()) {
        return None;
    }
    if cfg!(debug_assertions)
        && let Some(sleep) = steps.last_mut().and_then(|step| step.get_mut("sleep"))
    {
        *sleep = serde_json::json!(sleep.as_f64().unwrap() * PATIENCE);
    }
    let copy = tempfile::tempdir().unwrap();
    let folder = copy.path().join(name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(cases.join("run.py"), copy.path().join("run.py")).unwrap();
    for file in real_data::files_in(&cases.join(name)).unwrap() {
        std::fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    std::fs::write(folder.join("case.json"), case.to_string()).unwrap();
    Some(copy)
}

#[test]
fn each_reported_case_is_as_it_should_be() {
    let Some(cases) = real_data::folder("the reported cases", "../cases").filter(|dir| dir.is_dir()) else {
        return;
    };
    let folders = real_data::folders_in(&cases).unwrap().into_iter();
    let name = |folder: PathBuf| folder.file_name().unwrap().to_string_lossy().into_owned();
    let names: Vec<String> = folders.filter(|folder| folder.join("case.json").exists()).map(name).collect();
    assert!(names.len() >= 21, "{names:?}");
    let mut server = Postgres::start().unwrap();
    let databases: Vec<String> = (0..AT_ONCE).map(|_| server.database().unwrap()).collect();
    let wrong = Mutex::new(Vec::new());
    let mut left = Vec::new();
    for name in names.into_iter().rev() {
        match patient(&cases, &name) {
            // A large register has the machine for itself.
            Some(copy) => wrong.lock().unwrap().extend(play(copy.path(), &name, &databases[0])),
            None => left.push(name),
        }
    }
    let left = Mutex::new(left);
    std::thread::scope(|scope| {
        for database in &databases {
            scope.spawn(|| {
                loop {
                    let Some(name) = left.lock().unwrap().pop() else { break };
                    wrong.lock().unwrap().extend(play(&cases, &name, database));
                }
            });
        }
    });
    server.stop().unwrap();
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
