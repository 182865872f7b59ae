//! Starts one part for a developer, says where it listens, and stops it at Enter or when its terminal closes.

use std::io::stdin;

use anyhow::{Result, bail};
use parts::kafka::Kafka;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["kafka"] => hold(&Kafka::start(1)?.bootstrap()),
        ["kafka", "3"] => hold(&Kafka::start(3)?.bootstrap()),
        _ => bail!("say which: kafka, or kafka 3"),
    }
}

fn hold(address: &str) -> Result<()> {
    println!("{address}\nPress Enter to stop it.");
    stdin().read_line(&mut String::new())?;
    Ok(())
}
