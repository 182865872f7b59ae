//! One file into the outbox: what it would do, whether the guard lets it, and then its changes.
//!
//! Owns the order: a file is surveyed as a whole before anything of it goes out.

use std::path::Path;
use std::sync::PoisonError;

use super::emit::{Emitter, Origin, looked_at_now};
use super::{Agent, AgentError};
use crate::source::cells::Columns;
use crate::source::file::table::Table;
use crate::source::format::TableFormat;
use crate::source::reader::{Read, RowReader};
use crate::take::changes::{Changes, OperationAt};
use crate::take::guard::Guard;
use crate::take::report::FileReport;
use crate::take::survey::Survey;

/// How a file is to be taken.
struct Taking<'t> {
    /// Its name.
    file: String,
    format: &'t TableFormat,
    guard: Guard,
    /// A person's word that overrides the guard.
    accepted: bool,
}

impl Agent {
    /// Whether a file has changes only: its header, or its first object, says an operation.
    pub fn is_change_file(path: &Path, format: &TableFormat) -> Result<bool, AgentError> {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let operation = operation_of(&Table::open(path, format)?, format);
        operation.map(|found| found.is_some()).map_err(|problem| AgentError::Unreliable { file, problem })
    }

    /// Takes a file that changes no more: a whole register is compared with the images; of a change file each row is one
    /// change, in order. The guard is asked before anything goes into the outbox; `accepted` is a person's word that
    /// overrides it.
    pub fn take_file(
        &self,
        path: &Path,
        format: &TableFormat,
        guard: Guard,
        accepted: bool,
    ) -> Result<FileReport, AgentError> {
        let _alone = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut table = Table::open(path, format)?;
        let fit = |error| AgentError::Fit { file: file.clone(), error };
        let operation = operation_of(&table, format)
            .map_err(|problem| AgentError::Unreliable { file: file.clone(), problem })?;
        let reader =
            RowReader::new(self.schema(), &self.channel.key, table.columns(), format).map_err(fit)?;
        let unreliable = |problem: String| AgentError::Unreliable { file: file.clone(), problem };
        if let Some(operation) = operation {
            return self.take_changes(table, &reader, &operation, &Taking { file, format, guard, accepted });
        }
        let survey = Survey::of(&mut table, &reader, self.images.as_ref())?;
        let operation = format.operation_column.as_ref();
        if let Some(name) = operation.filter(|name| survey.unknown.contains(*name)) {
            return Err(unreliable(format!("some of its objects have {name:?}, the first has not")));
        }
        if let Some(problem) = survey.refused {
            return Err(unreliable(problem));
        }
        let held = guard.holds(&survey.counts, survey.known);
        let taken = held.is_none() || accepted;
        if taken {
            self.emit_register(path, format, &reader, &survey, &file)?;
        }
        let remarks = remarks(&table, survey.identical);
        let ignored_columns = reader.ignored().iter().cloned().chain(survey.unknown).collect();
        Ok(FileReport {
            file,
            is_full: true,
            counts: survey.counts,
            guard: held,
            taken,
            deletes_held: survey.deletes_held,
            rows: survey.rows,
            remarks,
            ignored_columns,
            parked: survey.parked,
        })
    }

    fn take_changes(
        &self,
        mut table: Table,
        reader: &RowReader,
        operation: &OperationAt,
        taking: &Taking<'_>,
    ) -> Result<FileReport, AgentError> {
        let Taking { format, guard, accepted, .. } = *taking;
        let file = taking.file.clone();
        let changes = Changes::read(&mut table, reader, operation, self.images.as_ref())?;
        if let Some(problem) = changes.refused {
            return Err(AgentError::Unreliable { file, problem });
        }
        let held = guard.holds(&changes.counts, self.images.count()?);
        let taken = held.is_none() || accepted;
        if taken {
            let mut emitter = Emitter::new(self, Origin::Changes(&file));
            for (line, key, after) in changes.rows {
                emitter.put(&key, after, line)?;
            }
            emitter.finish(Some(looked_at_now()))?;
        }
        let is_operation = |column: &&String| Some(*column) == format.operation_column.as_ref();
        Ok(FileReport {
            file,
            is_full: false,
            counts: changes.counts,
            guard: held,
            taken,
            deletes_held: None,
            rows: table.rows(),
            remarks: remarks(&table, None),
            ignored_columns: reader
                .ignored()
                .iter()
                .filter(|column| !is_operation(column))
                .cloned()
                .collect(),
            parked: changes.parked,
        })
    }

    fn emit_register(
        &self,
        path: &Path,
        format: &TableFormat,
        reader: &RowReader,
        survey: &Survey,
        file: &str,
    ) -> Result<(), AgentError> {
        let mut emitter = Emitter::new(self, Origin::Register(file));
        for row in Table::open(path, format)? {
            if let Read::Good { key, datum } = reader.read(&row)
                && survey.changes(key.as_str())
            {
                emitter.put(key.as_str(), Some(datum), row.place.line)?;
            }
        }
        if survey.counts.delete > 0 {
            for key in self.absent(survey)? {
                emitter.put(&key, None, 0)?;
            }
        }
        // Of a file that is held in part nobody is told that the register was looked at.
        emitter.finish(survey.deletes_held.is_none().then(looked_at_now))
    }

    fn absent(&self, survey: &Survey) -> Result<Vec<String>, AgentError> {
        let mut keys = Vec::new();
        self.images.for_each(&mut |key, _| {
            if survey.is_absent(key) {
                keys.push(key.to_owned());
            }
            true
        })?;
        Ok(keys)
    }
}

/// Where a change file's operations stand; none in a whole register.
fn operation_of(table: &Table, format: &TableFormat) -> Result<Option<OperationAt>, String> {
    let Some(name) = format.operation_column.as_ref() else { return Ok(None) };
    let bare = |column: &str| column.trim().to_lowercase();
    let mut alike = table.header().iter().enumerate().filter(|(_, column)| bare(column) == bare(name));
    match (alike.next(), alike.next()) {
        (None, _) => Ok(None),
        (Some((place, column)), None) if column == name => Ok(Some(match table.columns() {
            Columns::Named(_) => OperationAt::Column(place),
            Columns::Open => OperationAt::Member(name.clone()),
        })),
        // Read as a register, a change file would delete all that it does not name.
        (Some((_, column)), None) => {
            Err(format!("it has a column {column:?}, operation_column is {name:?}: write them alike"))
        }
        (Some(_), Some(_)) => Err(format!("the operation column {name:?} stands there twice")),
    }
}

/// What a person should know of a file that was taken.
fn remarks(table: &Table, identical: Option<(u64, u64)>) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some((count, place)) = table.loose() {
        remarks.push(format!(
            "{count} row(s) have a quote within a cell that is not quoted, taken as it stands; the first at line {}, character {}",
            place.line, place.character
        ));
    }
    if let Some((count, place)) = table.rows_in_quotes() {
        remarks.push(format!(
            "{count} row(s) have quotes around lines that look like rows, taken as text; the first at line {}, character {}: look whether a quote is missing there",
            place.line, place.character
        ));
    }
    if let Some((count, line)) = identical {
        remarks.push(format!(
            "{count} row(s) stand there again, cell for cell the same; the first is that of line {line}"
        ));
    }
    remarks
}
