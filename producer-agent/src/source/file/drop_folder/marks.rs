//! Marks next to a file, which say that it is whole.
//!
//! Owns their names and contents. A mark belongs to another file, and is never read as data.

use std::path::Path;

use serde::Deserialize;

use super::beside;

/// How a file says that it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Marker {
    /// It stood still, or was renamed.
    #[default]
    None,
    /// By an empty file of its name and `.done` beside it.
    Done,
    /// By its digest in a file of its name and `.sha256` beside it, as `sha256sum` writes it.
    Sha256,
}

impl Marker {
    pub(super) const fn ending(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Done => Some(".done"),
            Self::Sha256 => Some(".sha256"),
        }
    }

    /// The ending of the mark that a file still waits for; `None` if it needs no more.
    pub(super) fn missing(self, path: &Path) -> Option<&'static str> {
        let ending = self.ending()?;
        let mark = beside(path, ending);
        let is_there = match self {
            Self::Sha256 => stated_digest(&mark).is_some(),
            _ => mark.is_file(),
        };
        (!is_there).then_some(ending)
    }
}

/// The endings of all marks.
pub(super) fn endings() -> impl Iterator<Item = &'static str> {
    [Marker::Done, Marker::Sha256].into_iter().filter_map(Marker::ending)
}

pub(super) fn is_mark(name: &str) -> bool {
    endings().any(|ending| name.ends_with(ending))
}

/// Whether a file that was read has the digest in its mark.
pub(super) fn check_digest(path: &Path, digest: Option<&str>) -> Result<(), String> {
    let stated = stated_digest(&beside(path, ".sha256")).ok_or("its .sha256 has no digest")?;
    match digest {
        Some(digest) if digest == stated => Ok(()),
        digest => Err(format!(
            "its digest is {}, but its .sha256 has another; the file is not whole: drop it again",
            digest.unwrap_or("not known")
        )),
    }
}

/// The digest in a mark, as `sha256sum` writes it; none while it is being written.
fn stated_digest(mark: &Path) -> Option<String> {
    let text = std::fs::read_to_string(mark).ok()?;
    let digits = text.trim_start_matches('\u{feff}').trim_start_matches('\\');
    let stated = digits.split_whitespace().next()?.to_lowercase();
    (stated.len() == 64 && stated.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(stated)
}
