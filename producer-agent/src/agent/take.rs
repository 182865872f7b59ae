//! Takes a source into the outbox: looks at its changes, asks the guard, then emits them.
//!
//! Owns the order: a register, or a file of changes, is read as a whole before any of its changes goes out. Single
//! changes are taken one by one, and each gets an answer.

use std::sync::Arc;

use super::emit::{Emitter, Origin, looked_at_now};
use super::writer::Writer;
use super::{Agent, AgentError};
use crate::image::ImageChange;
use crate::source::file::drop_folder::DropError;
use crate::source::http::items::ItemResult;
use crate::source::port::{Content, Notes, Source, SourceError, SourceRow};
use crate::take::changes::Changes;
use crate::take::guard::Guard;
use crate::take::report::FileReport;
use crate::take::spool::Spool;
use crate::take::survey::Survey;

/// The conditions under which a source passes.
#[derive(Debug, Clone, Copy)]
struct Pass {
    guard: Guard,
    /// A person's decision that overrides the guard.
    accepted: bool,
}

fn unreliable(source: &dyn Source, problem: String) -> SourceError {
    SourceError::Unreliable { name: source.name().to_owned(), problem }
}

/// The report of a source, without the results for its rows.
fn report(source: &dyn Source, notes: Notes) -> FileReport {
    let Notes { rows, remarks, ignored_columns } = notes;
    let file = source.name().to_owned();
    let is_full = source.content() == Content::Register;
    FileReport { file, is_full, rows, remarks, ignored_columns, ..FileReport::default() }
}

impl Agent {
    /// Takes a source: a whole register is compared with the images; in a source of changes each row is one, in order.
    /// The guard is asked before anything goes into the outbox; `accepted` is a person's decision that overrides it.
    pub fn take(&self, source: &dyn Source, guard: Guard, accepted: bool) -> Result<FileReport, AgentError> {
        let pass = Pass { guard, accepted };
        self.alone(|| match source.content() {
            Content::Register => self.take_register(source, pass),
            Content::Changes => self.take_changes(source, pass),
        })
    }

    fn take_register(&self, source: &dyn Source, pass: Pass) -> Result<FileReport, AgentError> {
        let mut spool = Spool::new(Arc::clone(&self.disk), &self.dir);
        let (survey, mut notes) = {
            let mut rows = source.rows(self.schema(), &self.channel.key)?;
            let survey = Survey::of(rows.as_mut(), self.images.as_ref(), &mut spool)?;
            (survey, rows.notes())
        };
        if let Some(problem) = survey.refused {
            return Err(unreliable(source, problem).into());
        }
        let guard = pass.guard.holds(&survey.counts, survey.known);
        let taken = guard.is_none() || pass.accepted;
        if taken {
            self.emit_register(source, &survey, &spool)?;
        }
        if let Some((count, line)) = survey.identical {
            notes.remarks.push(format!(
                "{count} row(s) repeat an earlier row with the same values; the first of them is at line {line}"
            ));
        }
        let Survey { counts, deletes_held, parked, .. } = survey;
        Ok(FileReport { counts, guard, taken, deletes_held, parked, ..report(source, notes) })
    }

    fn take_changes(&self, source: &dyn Source, pass: Pass) -> Result<FileReport, AgentError> {
        let (changes, notes) = {
            let mut rows = source.rows(self.schema(), &self.channel.key)?;
            let changes = Changes::read(rows.as_mut(), self.images.as_ref())?;
            (changes, rows.notes())
        };
        let Changes { rows, counts, parked, refused } = changes;
        if let Some(problem) = refused {
            return Err(unreliable(source, problem).into());
        }
        let guard = pass.guard.holds(&counts, self.images.count()?);
        let taken = guard.is_none() || pass.accepted;
        if taken {
            let mut emitter = Emitter::new(self, Origin::of(source));
            for change in rows {
                let wanted = ImageChange { key: &change.key, after: change.after.as_deref() };
                emitter.put(wanted, change.line)?;
            }
            emitter.finish(Some(looked_at_now()))?;
        }
        Ok(FileReport { counts, guard, taken, parked, ..report(source, notes) })
    }

    fn emit_register(&self, source: &dyn Source, survey: &Survey, spool: &Spool) -> Result<(), AgentError> {
        std::thread::scope(|scope| {
            let writer = Writer::behind(self, scope);
            let mut emitter = Emitter::with_writer(self, Origin::of(source), writer);
            match self.emit_rows(survey, spool, &mut emitter) {
                // A register that is taken only in part gets no freshness.
                Ok(()) => emitter.finish(survey.deletes_held.is_none().then(looked_at_now)),
                Err(error) => Err(match emitter.give_up() {
                    // That the images are lost must be known, whatever else went wrong.
                    Err(lost @ AgentError::Image(_)) => lost,
                    Err(behind) => {
                        tracing::error!(error = %behind, "events that were made before the taking failed are not in the outbox");
                        error
                    }
                    Ok(()) => error,
                }),
            }
        })
    }

    fn emit_rows(&self, survey: &Survey, spool: &Spool, emitter: &mut Emitter<'_>) -> Result<(), AgentError> {
        spool.for_each(&mut |row| match survey.is_repeated(row.byte) {
            true => Ok(()),
            false => emitter.put_row(row),
        })?;
        if survey.counts.delete > 0 {
            for key in self.absent(survey)? {
                emitter.put(ImageChange { key: &key, after: None }, 0)?;
            }
        }
        Ok(())
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

    /// Takes single changes in order; returns a result for each, after all that were taken are in the outbox.
    /// `about_to_take` is called before the first change that is not refused.
    pub fn take_singles(
        &self,
        source: &dyn Source,
        about_to_take: impl FnOnce() -> Result<(), DropError>,
    ) -> Result<Vec<ItemResult>, AgentError> {
        self.alone(|| self.take_each(source, about_to_take))
    }

    fn take_each(
        &self,
        source: &dyn Source,
        about_to_take: impl FnOnce() -> Result<(), DropError>,
    ) -> Result<Vec<ItemResult>, AgentError> {
        let mut emitter = Emitter::new(self, Origin::of(source));
        // The key of each change that is not refused.
        let mut keys: Vec<Result<String, ItemResult>> = Vec::new();
        let mut about_to_take = Some(about_to_take);
        let mut rows = source.rows(self.schema(), &self.channel.key)?;
        while let Some(row) = rows.next_row() {
            let (key, after) = match row {
                SourceRow::Present { key, datum, .. } => (key, Some(datum)),
                SourceRow::Deleted { key, .. } => (key, None),
                SourceRow::Parked { parked, .. } => {
                    keys.push(Err(ItemResult::Refused { reason: parked.in_words() }));
                    continue;
                }
            };
            about_to_take.take().map_or(Ok(()), |about_to_take| about_to_take())?;
            emitter.put(ImageChange { key: key.as_str(), after }, 0)?;
            keys.push(Ok(key.into_string()));
        }
        let mut became_event = emitter.finish_items()?.into_iter();
        let result = |key| match key {
            Err(refused) => refused,
            Ok(key) if became_event.next() == Some(true) => ItemResult::Taken { key },
            Ok(key) => ItemResult::Unchanged { key },
        };
        Ok(keys.into_iter().map(result).collect())
    }

    /// Takes the source's report that nothing else has changed up to now.
    pub fn take_freshness(&self) -> Result<(), AgentError> {
        self.alone(|| {
            // An empty register gets no freshness: in a new log, its rows may just not be there yet (ADR 0020).
            if self.images.count()? == 0 {
                return Ok(());
            }
            Emitter::new(self, Origin::WORD).finish(Some(looked_at_now()))
        })
    }
}
