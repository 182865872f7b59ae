//! Starts one part for a developer, says where it listens, and stops it at Enter or when its terminal closes.

use std::io::stdin;

use anyhow::{Result, bail};
use parts::kafka::Kafka;
use parts::nats::Nats;
use parts::postgres::Postgres;
use parts::registry::Registry;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["kafka"] => hold(&Kafka::start(1)?.bootstrap()),
        ["kafka", "3"] => hold(&Kafka::start(3)?.bootstrap()),
        ["nats"] => hold(&Nats::start()?.url()),
        ["postgres"] => hold(&Postgres::start()?.database()?),
        ["registry"] => hold(&Registry::start()?.url()),
        _ => bail!("say which: kafka, kafka 3, nats, postgres, or registry"),
    }
}

fn hold(address: &str) -> Result<()> {
    println!("{address}\nPress Enter to stop it.");
    stdin().read_line(&mut String::new())?;
    Ok(())
}
