//! Guesses what a person did not specify of a register's files from the first one, and shows it before the play.
//!
//! Owns the words. The guesses are the producer agent's proposals; what the person specified is not changed.

use std::path::Path;

use anyhow::Context;
use producer_agent::source::file::propose::{Proposal, Said, propose};

use super::register::RegisterOptions;

/// Fills the missing options. `encoding` is the person's own, if any.
pub fn fill(options: &mut RegisterOptions, first: &Path, encoding: Option<&str>) -> anyhow::Result<()> {
    let said = Said {
        delimiter: options.delimiter,
        encoding: encoding.map(str::to_owned),
        header: options.header.clone(),
        key: options.key.clone(),
    };
    let proposal = propose(first, &said)?;
    let mut guessed = Vec::new();
    if options.delimiter.is_none() {
        guessed.push(format!("separated by {:?} (--delimiter)", proposal.delimiter));
        options.delimiter = Some(proposal.delimiter);
    }
    if encoding.is_none() {
        guessed.push(format!("in {} (--encoding)", proposal.encoding));
        options.encoding.clone_from(&proposal.encoding);
    }
    if options.key.is_empty() {
        guessed.push(format!("{} tells rows apart (--key)", quoted(&proposal.key)));
        options.key.clone_from(&proposal.key);
    }
    if options.territory.is_empty() {
        let (territory, count) = territory(&proposal, first)?;
        guessed.push(format!("column {territory:?} is the territory of a row, {count} in all (--territory)"));
        options.territory = territory;
    }
    let rows = proposal.rows.0;
    for remark in &proposal.remarks {
        guessed.push(remark.clone());
    }
    platform::say!("{}, {rows} rows, looks like this: {}.", first.display(), guessed.join("; "));
    Ok(())
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" with ")
}

fn territory(proposal: &Proposal, first: &Path) -> anyhow::Result<(String, usize)> {
    proposal.territory.clone().with_context(|| {
        let names: Vec<String> = proposal.columns.iter().map(|column| format!("{:?}", column.name)).collect();
        format!(
            "{}: no column looks like the territory of a row; give --territory with one of {}",
            first.display(),
            names.join(", ")
        )
    })
}
